"""The record of one preset: each setting beside its source; and the settings of flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vadprep.core.spec import COMPUTED, DECODED, OWN_EPS, SETTABLE, SETTABLE_FLOW, WHOLE_CLIPS

Text = tuple[str, str]
Number = tuple[int, str]
"""A value and its source."""


@dataclass(frozen=True)
class Preset:
    """One recipe. The settings are fields of ``Spec``, which says what each means."""

    origin: str
    """Whose recipe it is: authors and year, paper, repository."""
    graph: Text
    """Id of the network of stream ``rgb``, a key of ``vadprep.backbones.GRAPHS``."""
    fps: Text
    resize: Text
    filter: Text
    crops: Number
    crop_order: Text
    crop_size: Number
    scaling: Text
    clip_length: Number
    clip_stride: Number
    tail: Text
    decoder: Text
    dtype: Text
    sampling: Text
    frames: Text = (DECODED, "no JPEG files are made on the way")
    pooling: Text = (WHOLE_CLIPS, "the network sees all frames of a clip at once")
    batch_norm_eps: Text = (OWN_EPS, "that of the network")
    centre_rounding: Text = ("even", "torchvision: half a pixel goes to the even side")
    open_questions: tuple[str, ...] = ()
    """What the authors did not publish; ``vadprep presets NAME`` prints it."""
    streams: tuple[str, ...] = ("rgb",)
    """Streams that are extracted when the user names none."""
    weights: str = ""
    """Name in ``vadprep weights list`` of the only weights that the recipe is for; empty where all
    published weights of the network serve."""

    @property
    def settings(self) -> dict[str, tuple[Any, str]]:
        """Field of ``Spec`` -> (value, source) of stream ``rgb``, in the order of the record."""
        others = ("origin", "open_questions", "streams", "weights")
        return {name: value for name, value in vars(self).items() if name not in others}

    @property
    def has_flow(self) -> bool:
        """True when the network has a form for stream ``flow``; its settings are ``FLOW``."""
        return self.graph[0] in FLOW_GRAPHS

    @property
    def settable(self) -> tuple[str, ...]:
        """Fields of which ``--set`` takes another value: the network leaves a choice."""
        fields = SETTABLE + (SETTABLE_FLOW if self.has_flow else ())
        fixed = FIXED.get(self.graph[0], ())
        if self.pooling[0] == WHOLE_CLIPS:
            fixed += ("pooling",)
        return tuple(name for name in fields if name not in fixed)


OURS = "ours: no source says it"
"""Source of a value that had to be chosen."""
README = "README of kinetics-i3d"

FLOW_GRAPHS = {"inception_i3d": "inception_i3d_flow"}
"""The network of stream ``flow`` that belongs to one of stream ``rgb``."""

FIXED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("swin3d_t", "swin3d_s", "swin3d_b", "clip_vit_b16"), ("crop_size", "batch_norm_eps")
    ),
    **dict.fromkeys(("mvit_v2_s", "videomae_b"), ("crop_size", "batch_norm_eps", "clip_length")),
}
"""Fields of which a network takes one value only: transformers see views of one size, and have no
batch norm."""

FLOW: Mapping[str, tuple[Any, str]] = {
    "flow": (
        "tvl1 tau=0.25 lambda=0.15 theta=0.3 scales=5 scale_step=0.8 warps=5 epsilon=0.01 "
        "inner_iterations=30 outer_iterations=10 median=5",
        "MediaPipe, tvl1_optical_flow_calculator.cc: the defaults of OpenCV's CPU class",
    ),
    "flow_source": (COMPUTED, ""),
    "flow_bound": (20, README + ": 20 px"),
    "quantisation": ("mediapipe", "MediaPipe, flow_quantizer_model.cc; its JPEG is left out"),
    "flip_rule": ("negate-u", OURS + "; Finspire13's code mirrors the picture alone (keep-u)"),
}
"""Settings of stream ``flow`` in every preset whose network has a form for it: kinetics-i3d's."""
