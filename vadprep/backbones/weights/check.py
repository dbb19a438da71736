"""Checks weights on clips: the classes of Kinetics-400 that a network names.

This is the plainest proof that weights, graph and preprocessing fit each other: a cricket shot is
called "playing cricket" only when all three do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vadprep.backbones.graphs import build, graph_of, with_weights
from vadprep.backbones.scaling import scaling_of
from vadprep.backbones.weights.catalog import SAMPLES
from vadprep.backbones.weights.load import Weights
from vadprep.core.errors import SettingError, WeightsError
from vadprep.core.presets import PRESETS

TOP = 5


@dataclass(frozen=True)
class Prediction:
    """A class of Kinetics-400, its mean logit, and its softmax probability."""

    label: str
    logit: float
    probability: float


def kinetics_classes() -> list[str]:
    """The 400 classes in order of their index, which is alphabetical in every release."""
    from torchvision.models.video import R3D_18_Weights

    names: list[str] = R3D_18_Weights.KINETICS400_V1.meta["categories"]
    return names


def top_classes(logits: Tensor) -> list[Prediction]:
    """The five best classes of logits [400], the best first."""
    classes, shares = kinetics_classes(), logits.softmax(dim=0)
    order = logits.argsort(descending=True)[:TOP].tolist()
    return [Prediction(classes[i], logits[i].item(), shares[i].item()) for i in order]


def preset_of_graph(graph: str) -> str:
    """The first preset whose network is ``graph``; ValueError when there is none."""
    for name, preset in PRESETS.items():
        if preset.graph[0] == graph:
            return name
    raise SettingError(f"{graph = }: no preset makes views for it from a video's frames")


def classifier(weights: Weights) -> Callable[[Tensor], Tensor]:
    """Function from scaled clips [batch, channel, T, H, W] to logits [batch, 400]."""
    network = with_weights(build(weights.graph), weights.state)
    return cast(Callable[[Tensor], Tensor], network.logits)


@torch.inference_mode()
def top5(weights: Weights, clips: Tensor) -> list[Prediction]:
    """The five best classes by the mean logits of one view of several clips.

    ``clips`` are uint8 [clip, T, size, size, channel], made as ``preset_of_graph`` says.
    """
    preset = PRESETS[preset_of_graph(weights.graph)]
    logits_of, scale = classifier(weights), scaling_of(preset.scaling[0])
    logits = [logits_of(scale(clip[None]))[0] for clip in clips]
    return top_classes(torch.stack(logits).mean(dim=0))


# ---------------------------------------------------------------- the published sample


@dataclass(frozen=True)
class Published:
    """What DeepMind's network says of its sample clip: out/imagenet_*.txt of kinetics-i3d."""

    norm: float
    """Euclidean, of all 400 logits."""
    logits: dict[str, float]


PUBLISHED = {
    "inception_i3d": Published(
        87.108871,
        {
            "playing cricket": 25.856646,
            "playing kickball": 12.330335,
            "catching or throwing baseball": 11.254371,
            "shooting goal (soccer)": 10.883866,
            "catching or throwing softball": 10.393131,
        },
    ),
    "inception_i3d_flow": Published(
        63.252754,
        {
            "playing cricket": 15.957031,
            "hurling (sport)": 12.808723,
            "playing tennis": 10.527044,
            "playing squash or racquetball": 10.0088,
            "hitting baseball": 9.425033,
        },
    ),
}
"""By graph; of the networks that were pre-trained on ImageNet."""

SAMPLE_OF = {"inception_i3d": "sample-rgb", "inception_i3d_flow": "sample-flow"}
"""The sample clip of a graph, by its name in ``catalog.SAMPLES``."""

SAMPLE_TOLERANCE = 1e-3
"""Relative to the largest logit: float32 sums in another order move logits by some 1e-5."""


@dataclass(frozen=True)
class SampleCheck:
    """Our logits of the sample clip beside the published ones."""

    norm: float
    published_norm: float
    logits: dict[str, tuple[float, float]]
    """Class -> ours, published."""

    @property
    def is_equal(self) -> bool:
        """True when every value is the published one within the tolerance."""
        pairs = [(self.norm, self.published_norm), *self.logits.values()]
        largest = max(theirs for _, theirs in self.logits.values())
        return all(abs(ours - theirs) <= SAMPLE_TOLERANCE * largest for ours, theirs in pairs)


@torch.inference_mode()
def check_sample(weights: Weights, sample: Path) -> SampleCheck:
    """Logits of the sample clip by ``weights`` (of Inception-I3D) beside the published ones.

    ``sample`` is the ``.npy`` of ``catalog.SAMPLES``: float32 [1, 79, 224, 224, channel] in
    [-1, 1]. Raises WeightsError for another file.
    """
    published = PUBLISHED[weights.graph]
    try:
        clip = np.load(sample, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(f"{sample}: not a readable .npy ({error}): copy it again") from error
    channels = graph_of(weights.graph).channels
    if clip.ndim != 5 or clip.shape[-1] != channels:
        raise WeightsError(
            f"{sample}: shape {list(clip.shape)}, expected [1, 79, 224, 224, {channels}]: "
            f"the file is {SAMPLES[SAMPLE_OF[weights.graph]].file_name}"
        )
    frames = torch.from_numpy(clip).float().permute(0, 4, 1, 2, 3)
    logits = classifier(weights)(frames)[0]
    classes = kinetics_classes()
    pairs = {
        label: (logits[classes.index(label)].item(), theirs)
        for label, theirs in published.logits.items()
    }
    return SampleCheck(logits.norm().item(), published.norm, pairs)
