"""Checks weights on clips: the classes of Kinetics-400 that a network names.

This is the plainest proof that weights, graph and preprocessing fit each other: a cricket shot is
called "playing cricket" only when all three do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vadprep.backbones.graphs import build, graph_of, scaling_of, with_weights
from vadprep.backbones.weights.catalog import CATALOG, SAMPLES
from vadprep.backbones.weights.load import Weights
from vadprep.core.array_files import read_npy
from vadprep.core.errors import SettingError, WeightsError
from vadprep.core.presets import PRESETS


def kinetics_classes() -> list[str]:
    """The 400 classes in order of their index, which is alphabetical in every release."""
    from torchvision.models.video import R3D_18_Weights

    return R3D_18_Weights.KINETICS400_V1.meta["categories"]


def top_classes(logits: Tensor) -> list[tuple[str, float, float]]:
    """The five best classes of logits [400], the best first: name, softmax probability, logit."""
    classes, shares = kinetics_classes(), logits.softmax(dim=0)
    order = logits.argsort(descending=True)[:5].tolist()
    return [(classes[i], shares[i].item(), logits[i].item()) for i in order]


def preset_of(weights: Weights) -> str:
    """The preset that is for these weights, else the first one of their network.

    Raises SettingError when there is none.
    """
    graph = weights.graph
    fitting = [name for name, preset in PRESETS.items() if preset.graph[0] == graph]
    if not fitting:
        raise SettingError(f"{graph = }: no preset makes views for it from a video's frames")
    for name in fitting:
        wanted = PRESETS[name].weights
        if wanted and weights.provenance.startswith(CATALOG[wanted].origin):
            return name
    return fitting[0]


def classifier(weights: Weights) -> Callable[[Tensor], Tensor]:
    """Function from scaled clips [batch, channel, T, H, W] to logits [batch, 400].

    Raises SettingError for a network that was not trained on classes.
    """
    network: Any = with_weights(build(weights.graph), weights.state)
    if not hasattr(network, "logits"):
        raise SettingError(f"{weights.name}: {weights.graph} has no classes of Kinetics-400")
    return network.logits


@torch.inference_mode()
def top5(weights: Weights, clips: Tensor) -> list[tuple[str, float, float]]:
    """``top_classes`` of the mean logits of one view of several clips.

    ``clips`` are [clip, T, size, size, channel], made as the preset of ``preset_of`` says.
    """
    preset = PRESETS[preset_of(weights)]
    logits_of, scale = classifier(weights), scaling_of(preset.scaling[0])
    logits = [logits_of(scale(clip[None]))[0] for clip in clips]
    return top_classes(torch.stack(logits).mean(dim=0))


NORM = "norm of all"  # Euclidean, of all 400 logits

PUBLISHED = {
    "inception_i3d": {
        "playing cricket": 25.856646, "playing kickball": 12.330335,
        "catching or throwing baseball": 11.254371, "shooting goal (soccer)": 10.883866,
        "catching or throwing softball": 10.393131, NORM: 87.108871,
    },
    "inception_i3d_flow": {
        "playing cricket": 15.957031, "hurling (sport)": 12.808723, "playing tennis": 10.527044,
        "playing squash or racquetball": 10.0088, "hitting baseball": 9.425033, NORM: 63.252754,
    },
}  # fmt: skip
"""Logits that DeepMind's networks, pre-trained on ImageNet, give its sample clip, by graph: from
out/imagenet_*.txt of kinetics-i3d."""

SAMPLE_OF = {"inception_i3d": "sample-rgb", "inception_i3d_flow": "sample-flow"}
SAMPLE_TOLERANCE = 1e-3  # of the largest logit; sums in another order move logits by some 1e-5


@torch.inference_mode()
def check_sample(weights: Weights, sample: Path) -> dict[str, tuple[float, float]]:
    """Class or NORM -> logit of the sample clip by ``weights``, of Inception-I3D, and published.

    ``sample`` is the ``.npy`` of ``catalog.SAMPLES``: float32 [1, 79, 224, 224, channel] in
    [-1, 1]. Raises WeightsError for another file.
    """
    clip, channels = read_npy(sample, WeightsError), graph_of(weights.graph).channels
    if clip.ndim != 5 or clip.shape[-1] != channels:
        raise WeightsError(
            f"{sample}: shape {list(clip.shape)}, expected [1, 79, 224, 224, {channels}]: "
            f"the file is {SAMPLES[SAMPLE_OF[weights.graph]].file_name}"
        )
    logits = classifier(weights)(torch.from_numpy(clip.astype(np.float32)).permute(0, 4, 1, 2, 3))[
        0
    ]
    ours = dict(zip(kinetics_classes(), logits.tolist(), strict=True))
    ours[NORM] = logits.norm().item()
    return {each: (ours[each], value) for each, value in PUBLISHED[weights.graph].items()}


def is_as_published(pairs: dict[str, tuple[float, float]]) -> bool:
    """True when every value of ``check_sample`` is the published one within the tolerance."""
    largest = max(published for name, (_, published) in pairs.items() if name != NORM)
    return all(abs(a - b) <= SAMPLE_TOLERANCE * largest for a, b in pairs.values())
