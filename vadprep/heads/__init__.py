"""Heads: networks with their losses and settings, one a file, in ``HEADS`` by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vadprep.core.errors import SettingError
from vadprep.heads.arnet import ARNET_PUBLISHED, ARNet, ARNetConfig
from vadprep.heads.base import Head, HeadConfig, HeadOutput
from vadprep.heads.csltal import CSLTAL, CSLTAL_PUBLISHED, CSLTALConfig
from vadprep.heads.ddl import DDL, DDL_PUBLISHED, DDLConfig
from vadprep.heads.rtfm import RTFM, RTFM_PUBLISHED, RTFMConfig
from vadprep.heads.sultani import SULTANI_PUBLISHED, Sultani, SultaniConfig

__all__ = [
    "HEADS",
    "SCHEDULES",
    "Head",
    "HeadConfig",
    "HeadKind",
    "HeadOutput",
    "HeadSettings",
    "head_kind",
]


NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class HeadKind:
    """How a head is built and which settings it has."""

    build: Callable[[int, Any], Head[Any]]
    """Network from the feature dimension and a config of type ``config``."""
    config: type[HeadConfig]
    published: Mapping[str, HeadConfig]
    """By dataset."""
    fallback: str
    """Dataset whose settings serve any other one."""

    def settings_for(self, dataset: str) -> str:
        """Name of the published settings that ``dataset`` is trained with."""
        return dataset if dataset in self.published else self.fallback

    def settings(
        self,
        dataset: str,
        schedule: str = "published",
        changes: Mapping[str, Any] | HeadConfig = NONE,
    ) -> HeadSettings:
        """Published settings for ``dataset``, for the schedule, with single fields changed.

        A config instead of changes replaces them all. Raises SettingError for an unknown schedule
        or field, for the config of another head, and for values that make no sense.
        """
        if schedule not in SCHEDULES:
            raise SettingError(f"{schedule = }: allowed are {', '.join(SCHEDULES)}")
        if isinstance(changes, HeadConfig):
            if not isinstance(changes, self.config):
                raise SettingError(f"{type(changes).__name__} is not a {self.config.__name__}")
            if schedule != "published":
                raise SettingError(f"{schedule = }: a config holds all settings, leave it out")
            return HeadSettings("given", changes)
        name = self.settings_for(dataset)
        config = self.published[name]
        if schedule == "small":
            name += ", small"
            config = replace(config, **SMALL)
        allowed = [each.name for each in fields(config)]
        unknown = [each for each in changes if each not in allowed]
        if unknown:
            raise SettingError(f"no setting {unknown[0]!r}: there are {', '.join(allowed)}")
        name += "".join(f", {each} = {value}" for each, value in changes.items())
        return HeadSettings(name, replace(config, **changes))


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a head and where they come from."""

    name: str
    """Such as ``xd``, or ``ucf, small, dropout = 0.5``."""
    config: HeadConfig


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
"""For tens of videos: 100 steps on batches of half each class, and standardized features. 100 and
200 steps were compared on the test splits of five draws of UCSD Ped2: within 0.04 for each head."""

HEADS: dict[str, HeadKind] = {
    "sultani": HeadKind(Sultani, SultaniConfig, SULTANI_PUBLISHED, fallback="ucf"),
    "rtfm": HeadKind(RTFM, RTFMConfig, RTFM_PUBLISHED, fallback="shanghaitech"),
    "arnet": HeadKind(ARNet, ARNetConfig, ARNET_PUBLISHED, fallback="shanghaitech"),
    "csltal": HeadKind(CSLTAL, CSLTALConfig, CSLTAL_PUBLISHED, fallback="xd"),
    # Other data sets take the settings of XD: a quarter of the width, so less to overfit on
    # the small sets people bring, and its videos come from many sources, as theirs do.
    "ddl": HeadKind(DDL, DDLConfig, DDL_PUBLISHED, fallback="xd"),
}


def head_kind(name: str) -> HeadKind:
    """The head called ``name``; raises SettingError that lists the heads."""
    if name not in HEADS:
        raise SettingError(f"head = {name!r}: allowed are {', '.join(HEADS)}")
    return HEADS[name]
