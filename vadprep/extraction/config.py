"""What a run of ``extract`` asks for, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vadprep.backbones import missing_weights_message, scaling_of
from vadprep.backbones.weights.catalog import stored_weights
from vadprep.backbones.weights.load import RANDOM, random_seed, weights_path
from vadprep.core.crops import crop_boxes, resize_taps, target_size
from vadprep.core.presets import resolve, values_of
from vadprep.core.spec import UNKNOWN, Spec
from vadprep.features.writer import Share
from vadprep.flow.quantise import parsed_settings
from vadprep.video.decoder import DECODERS
from vadprep.video.frame_count import MAX_DAMAGE

SETTABLE = (
    "fps", "resize", "filter", "crops", "crop_order", "scaling", "tail", "decoder", "precision",
    "dtype", "batch",
)  # fmt: skip
"""Fields of a spec that an override may name; the network fixes the others."""

SETTABLE_FLOW = ("flow", "flow_bound", "quantisation", "flip_rule")
"""Those of stream ``flow`` besides."""

STREAM_SETS = {"rgb": ("rgb",), "flow": ("flow",), "rgb,flow": ("rgb", "flow")}
"""What may be extracted together, by the words of the command line."""


@dataclass(frozen=True)
class Settings:
    """What a run of ``extract`` asks for."""

    weights: str | None
    """Of stream ``rgb``: file, name, or ``random:SEED``, which serves stream ``flow`` as well;
    None for what is at hand."""
    preset: str = "i3d"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec that replace the preset's."""
    streams: tuple[str, ...] = ("rgb",)
    flow_weights: str | None = None
    """Of stream ``flow``."""
    save_flow: tuple[Path, str] | None = None
    """Folder and format, ``hdf5`` or ``jpeg``, of the flow that is computed."""
    flow_from: Path | None = None
    """Folder of saved flow, which is read instead."""
    device: str = "cpu"
    workers: int = 1
    """Processes; on ``cuda`` each holds one GPU."""
    share: Share = field(default_factory=Share)
    shard_size: int | None = None
    """Videos a shard; None for what the folder was made with."""
    max_damage: float = MAX_DAMAGE
    """Share of a video's frames that may be repaired or missing: which videos are there, not what
    their numbers are, so no part of the spec."""
    address: str = "local"
    """Of the Ray cluster; ``local`` starts one for this run alone."""
    stall_seconds: float = 60.0
    """A decoder that gives nothing for so long is ended."""

    def __post_init__(self) -> None:
        if self.streams not in STREAM_SETS.values():
            words = ", ".join(STREAM_SETS)
            raise ValueError(f"streams = {','.join(self.streams)!r}: allowed are {words}")
        if self.stall_seconds <= 0:
            raise ValueError(f"stall_seconds = {self.stall_seconds}: expected a positive number")
        if not 0 <= self.max_damage <= 1:
            raise ValueError(f"max_damage = {self.max_damage}: expected a share from 0 to 1")
        self._check_saved_flow()
        settable = SETTABLE + (SETTABLE_FLOW if "flow" in self.streams else ())
        for name in self.overrides:
            if name not in settable:
                raise ValueError(f"setting {name!r}: allowed are {', '.join(settable)}")
        for stream in self.streams:
            weights = self.weights_of(stream)
            if weights.startswith(RANDOM):
                random_seed(weights)
            check_recipe(resolve(self.preset, self.device, (weights, ""), self.overrides, stream))

    def _check_saved_flow(self) -> None:
        if (self.save_flow or self.flow_from) and "flow" not in self.streams:
            raise ValueError("saved flow goes with stream flow: --streams flow or rgb,flow")
        if self.save_flow and self.flow_from:
            raise ValueError("flow is either read (--flow-from) or saved (--save-flow)")
        if self.save_flow and self.overrides.get("quantisation") == "none":
            raise ValueError("saved flow is 8 bits: quantisation none cannot be saved")

    def weights_of(self, stream: str) -> str:
        """The weights of a stream: those named, else what ``vadprep weights get`` has fetched.

        Raises ValueError when there are none.
        """
        graph = values_of(self.preset, stream)["graph"]
        weights = self.weights
        if stream == "flow":
            is_random = weights is not None and weights.startswith(RANDOM)
            weights = self.flow_weights or (weights if is_random else None)
        weights = weights or stored_weights(graph)
        if weights is None:
            raise ValueError(missing_weights_message(graph))
        return weights

    def anywhere(self) -> Settings:
        """The same settings for workers that stand in other folders."""
        weights = {stream: _anywhere(self.weights_of(stream)) for stream in self.streams}
        return replace(
            self,
            weights=weights.get("rgb"),
            flow_weights=weights.get("flow"),
            flow_from=self.flow_from and self.flow_from.absolute(),
            save_flow=self.save_flow and (self.save_flow[0].absolute(), self.save_flow[1]),
        )


def _anywhere(weights: str) -> str:
    return weights if weights.startswith(RANDOM) else str(weights_path(weights).resolve())


def check_recipe(spec: Spec) -> None:
    """Raise ValueError for a recipe that cannot be computed, before anything is written."""
    for name in (*SETTABLE, *SETTABLE_FLOW):
        if getattr(spec, name) == UNKNOWN:
            raise ValueError(f"{name} = {UNKNOWN!r}: only imported features may have that")
    for decoder in spec.decoder.split(", "):
        if decoder not in DECODERS:
            raise ValueError(f"decoder = {spec.decoder!r}: allowed are {', '.join(DECODERS)}")
    if not isinstance(spec.batch, int) or spec.batch < 1:
        raise ValueError(f"batch = {spec.batch!r}: expected a whole number above 0")
    size = target_size(spec.resize, 480, 640)
    crop_boxes(spec.crop_order, spec.crops, spec.crop_size, *size)
    resize_taps(spec.filter, 480, size[0])
    scaling_of(spec.scaling)
    if spec.stream == "flow":
        parsed_settings(spec.flow)
