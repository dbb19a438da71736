"""Heads: networks with their losses and settings, one a file, in ``HEADS`` by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vadprep.core.errors import SettingError, allowed_are
from vadprep.heads.arnet import ARNet, ARNetConfig
from vadprep.heads.base import Head, HeadConfig
from vadprep.heads.csltal import CSLTAL, CSLTALConfig
from vadprep.heads.ddl import DDL, DDLConfig
from vadprep.heads.pel4vad import PEL4VAD, PEL4VADConfig
from vadprep.heads.rtfm import RTFM, RTFMConfig
from vadprep.heads.sultani import Sultani, SultaniConfig
from vadprep.heads.urdmu import URDMU, URDMUConfig
from vadprep.heads.vadclip import VadCLIP, VadCLIPConfig

__all__ = ["HEADS", "SCHEDULES", "Changes", "Head", "HeadConfig", "head_kind"]

Changes = Mapping[str, Any] | HeadConfig
"""Single settings by name, or a config with all of them."""


@dataclass(frozen=True)
class HeadKind:
    """How a head is built and which settings it has."""

    build: Callable[..., Head]
    """Network from the feature dimension, a config of type ``config`` and, ``with_classes``, the
    names of classes."""
    config: type[HeadConfig]
    published: Mapping[str, HeadConfig]
    """Settings of the papers by data set; the first serve every other data set."""
    with_classes: bool = False
    """It tells the categories of the abnormal training videos apart."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """What the small schedule changes of this head beside ``SMALL``."""
    small_without_prompts: Mapping[str, Any] = field(default_factory=dict)
    """What it changes, too, unless prompts or ``--set hidden`` give the width."""
    shares_of_dim: Mapping[str, int] = field(default_factory=dict)
    """Widths that are None, for the dimension divided by a number, by default."""
    smaller: Mapping[str, Any] = field(default_factory=dict)
    """What makes it simpler. The small schedule tries this form, too."""
    without_effect: Sequence[str] = ()
    """Settings that the smaller form has no use for."""
    norms_features: bool = False
    """A layer norm, which starts at ``norm_scale``, brings each of the features to the same scale
    before a linear map, after ``attention`` if it has any. The more features there are, the more a
    step of the optimizer changes the output of the map, and the more the first scores differ by
    chance. MIL then takes the wrong snippets of a bag for the abnormal ones, and learns scenes."""
    without_prompts: str = ""
    """What is trained without a file of prompts, of heads that take one."""

    def network(self, dim: int, config: HeadConfig, classes: Sequence[str] = ()) -> Head:
        """A new head; ``classes`` are left out by heads that do not tell any apart."""
        return self.build(dim, config, *([tuple(classes)] if self.with_classes else []))

    def settings(
        self,
        dataset: str,
        schedule: str = "published",
        changes: Changes | None = None,
        has_prompts: bool = False,
    ) -> tuple[str, HeadConfig]:
        """Where settings come from, such as ``ucf, small, dropout = 0.5``, and the settings.

        They are those published for ``dataset`` under the schedule, changed. With ``has_prompts``,
        or ``hidden`` among the changes, ``small_without_prompts`` is left out. Raises SettingError
        for an unknown schedule or field, for the config of another head, and for values that make
        no sense.
        """
        if schedule not in SCHEDULES:
            raise SettingError(f"{schedule = }: {allowed_are(schedule, SCHEDULES)}")
        if isinstance(changes, HeadConfig):
            if not isinstance(changes, self.config):
                raise SettingError(f"{type(changes).__name__} is not a {self.config.__name__}")
            if schedule != "published":
                raise SettingError(f"{schedule = }: a config holds all settings, leave it out")
            return "given", changes
        name = dataset if dataset in self.published else next(iter(self.published))
        config = self.published[name]
        if schedule == "small":
            name += ", small"
            is_free = not has_prompts and "hidden" not in (changes or {})
            free = self.small_without_prompts if is_free else {}
            config = replace(config, **{**SMALL, **self.small, **free})
        changes = changes or {}
        allowed = [each.name for each in fields(config)]
        if unknown := [each for each in changes if each not in allowed]:
            raise SettingError(f"setting {unknown[0]!r}: {allowed_are(unknown[0], allowed)}")
        name += "".join(f", {each} = {value}" for each, value in changes.items())
        return name, replace(config, **changes)


SCHEDULES = ("published", "small")
SMALL: Mapping[str, Any] = {
    "epochs": 10,
    "steps_per_epoch": 10,
    "batches": "balanced",
    "batch_size": 16,
    "cosine_epochs": 10,
    "drop_epoch": None,
    "halving_epochs": None,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "standardize": True,
}
"""For small data sets: 100 steps on batches of half each class, and standardized features. It is
where ``training.schedule`` starts from, which looks at the training videos."""

ONE_SNIPPET = {"kernel": 1}
"""A classifier that sees one snippet at a time, after attention that sees the whole video. One of
several learns the scenes of few videos: with 30, ddl falls from 0.97 to 0.69 (ReLU features). On
UCSD Ped2 ddl has 0.934 with it and 0.941 without, pel4vad 0.919 and 0.903."""

RTFM_PUBLISHED = dict.fromkeys(("shanghaitech", "ucf", "ped2"), RTFMConfig())
RTFM_PUBLISHED["xd"] = RTFMConfig(learning_rate=1e-4)
DDL_UCF = DDLConfig(width=512, sigma=16.0, kernel=10, lambda_dr=1.0, seed=9)
URDMU_PUBLISHED = dict.fromkeys(("ucf", "xd"), URDMUConfig())
URDMU_SMALL = {
    "width": 128,
    "head_width": 32,
    "sampling": "uniform-200",
    "learning_rate": 3e-4,
}
"""A short video is not stretched to 200 segments; a quarter of the width, and a rate near the
published one: with 1e-3 the frame AUC on UCSD Ped2 falls from 0.95 to 0.86."""

PEL4VAD_PUBLISHED = {
    "xd": PEL4VADConfig(),
    "ucf": PEL4VADConfig(gamma=0.6, bias=0.2, norm="time", kernel=9, temperature=0.09, seed=9),
    "shanghaitech": PEL4VADConfig(
        window=5, gamma=0.08, bias=0.1, norm="time", temperature=0.2, lambda_prompt=9.0, seed=0
    ),
}
VADCLIP_PUBLISHED = {
    "ucf": VadCLIPConfig(),
    "xd": VadCLIPConfig(
        batch_size=96,
        batches="shuffled",
        learning_rate=1e-5,
        drops="3,6,10",
        branch="alignment",
        layers=1,
        window=64,
        text_weight=1e-4,
    ),
}
VADCLIP_SMALL = {
    "drops": "",
    "weight_decay": 0.0,
    "layers": 1,
    "window": 2,
    "graphs": False,
    "learning_rate": 3e-4,
}
"""Little context: windows of 8 snippets and both graphs bring the scene of a video into each of its
snippets, by which few videos are known. The head then finds the event within a video, but not the
videos with one: on 30 videos of mixed units its frame AUC is 0.72 to 0.86 with both layers and
graphs, and 0.92 with these settings and a width of 512."""
VADCLIP_NARROW = {"hidden": 128, "learning_rate": 1e-3}
"""A quarter of the width of CLIP's prompts, where there are none. Frame AUC on UCSD Ped2, ten draws
with seed 0: 0.91, and 0.88 with a width of 512 and 3e-4, in eight times the time."""

HEADS = {
    "sultani": HeadKind(Sultani, SultaniConfig, {"ucf": SultaniConfig()}),
    "rtfm": HeadKind(RTFM, RTFMConfig, RTFM_PUBLISHED, shares_of_dim={"branch_width": 4}),
    "arnet": HeadKind(
        ARNet, ARNetConfig, {"shanghaitech": ARNetConfig()}, shares_of_dim={"width": 1}
    ),
    "csltal": HeadKind(CSLTAL, CSLTALConfig, {"xd": CSLTALConfig()}, shares_of_dim={"width": 1}),
    # Other data sets take the settings of XD: a quarter of the width, so less to overfit on the
    # small sets people bring, and its videos come from many sources, as theirs do.
    "ddl": HeadKind(
        DDL,
        DDLConfig,
        {"xd": DDLConfig(), "ucf": DDL_UCF},
        small={**ONE_SNIPPET, "width": 128},
        norms_features=True,
        smaller={"attention": False},
        without_effect=("heads", "width", "sigma", "prior", "scaling"),
    ),
    "urdmu": HeadKind(
        URDMU,
        URDMUConfig,
        URDMU_PUBLISHED,
        small=URDMU_SMALL,
        smaller={"width": 32, "head_width": 8, "layers": 1, "learning_rate": 1.2e-3},
    ),
    # Settings of XD for other data sets, as for ddl, by the same authors.
    "pel4vad": HeadKind(
        PEL4VAD,
        PEL4VADConfig,
        PEL4VAD_PUBLISHED,
        small=ONE_SNIPPET,
        norms_features=True,
        smaller={"attention": False},
        without_effect=("width", "window", "gamma", "bias", "norm"),
        without_prompts="MIL part alone",
    ),
    "vadclip": HeadKind(
        VadCLIP,
        VadCLIPConfig,
        VADCLIP_PUBLISHED,
        with_classes=True,
        small=VADCLIP_SMALL,
        small_without_prompts=VADCLIP_NARROW,
        without_prompts="class embeddings learnt from random numbers",
    ),
}
"""Every head by name, with the settings of its paper in the form of the official code."""


def head_kind(name: str) -> HeadKind:
    """The head called ``name``; raises SettingError that lists the heads."""
    if name not in HEADS:
        raise SettingError(f"head = {name!r}: {allowed_are(name, HEADS)}")
    return HEADS[name]
