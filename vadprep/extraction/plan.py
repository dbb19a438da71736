"""The plan of a run: what was asked for, checked and resolved once, before anything is written.

Code below this module reads no setting from the disk, loads no weights twice and does not ask
which devices there are: it takes them from the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vadprep.backbones import Weights, load_weights, missing_weights_message, scaling_of
from vadprep.backbones.precision import check_precision
from vadprep.backbones.weights.catalog import stored_weights
from vadprep.backbones.weights.load import RANDOM, weights_path
from vadprep.core.crops import crop_boxes, resize_taps, target_size
from vadprep.core.errors import SettingError, SpecError
from vadprep.core.presets import (
    DEFAULT_PRESET,
    PRESETS,
    resolve,
    values_of,
)
from vadprep.core.resources import worker_cores
from vadprep.core.spec import STREAMS, UNKNOWN, Spec, require_equal, require_shared
from vadprep.features.folder import StreamFolder, read_spec
from vadprep.features.status import stream_status
from vadprep.features.writer import Share
from vadprep.flow import KINDS, TVL1, SavedFlow
from vadprep.video import FILE_DECODERS, MAX_DAMAGE

SETTABLE = (
    "fps", "resize", "filter", "crops", "crop_order", "scaling", "tail", "decoder", "precision",
    "dtype", "batch",
)  # fmt: skip
"""Fields of a spec that a run may set; the network fixes the others."""

SETTABLE_FLOW = ("flow", "flow_bound", "quantisation", "flip_rule")
"""Fields that a run with stream ``flow`` may set as well."""

STREAM_SETS = (("rgb",), ("flow",), ("rgb", "flow"))
STALL_SECONDS = 60.0


@dataclass(frozen=True)
class StreamPlan:
    """What one stream is made with."""

    spec: Spec
    source: str
    """Where its weights are: the absolute path of a file, or ``random:SEED``."""
    loaded: Weights | None = field(default=None, repr=False, compare=False)
    """The weights in the process that resolved the plan; None in its workers."""

    def weights(self) -> Weights:
        """The weights, read from ``source`` where they are not loaded.

        Raises SpecError when the file there, say on another node, holds other weights.
        """
        found = self.loaded or load_weights(self.source, self.spec.graph)
        if found.sha256 != self.spec.weights_sha256:
            raise SpecError(
                f"{self.source}: SHA-256 {found.sha256[:12]}... where the spec has "
                f"{self.spec.weights_sha256[:12]}... ({self.spec.weights}): put the same file "
                "under this path on every node"
            )
        return found


@dataclass(frozen=True)
class ExtractionPlan:
    """All that a run needs to know but for its videos."""

    streams: tuple[StreamPlan, ...]
    out: Path | None
    """Absolute path of the feature folder; None when features stay in memory."""
    device: str = "cpu"
    workers: int = 1
    """Processes; with ``cuda`` each holds one GPU."""
    address: str = "local"
    """Of the Ray cluster to join; ``local`` starts one for this run alone."""
    share: Share = Share()
    shard_size: int | None = None
    """Videos a shard; None for what the folder was made with."""
    max_damage: float = MAX_DAMAGE
    """Share of a video's frames that may be repaired or missing. It only decides which videos are
    kept; it does not change feature values, so it is no part of the spec."""
    stall_seconds: float = STALL_SECONDS
    """A decoder that gives no frame for so long is ended."""
    save_flow: SavedFlow | None = None
    flow_from: SavedFlow | None = None
    """Flow is read from here instead of being computed."""

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The spec of each stream."""
        return tuple(stream.spec for stream in self.streams)

    def folder(self, stream: str) -> Path:
        """The folder of a stream; raises ValueError when features stay in memory."""
        if self.out is None:
            raise ValueError("this plan has no feature folder")
        return self.out / stream

    def for_workers(self) -> ExtractionPlan:
        """The plan without the loaded weights: a worker reads and checks the file itself."""
        return replace(self, streams=tuple(replace(each, loaded=None) for each in self.streams))


def resolve_plan(
    out: str | Path | None,
    *,
    preset: str | None = None,
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    streams: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    specs: Mapping[str, Spec] | None = None,
    device: str | None = None,
    gpus: int | None = None,
    workers: int | None = None,
    address: str = "local",
    rank: int = 0,
    world_size: int = 1,
    shard_size: int | None = None,
    max_damage: float = MAX_DAMAGE,
    stall_seconds: float = STALL_SECONDS,
    save_flow: str | Path | None = None,
    flow_format: str | None = None,
    flow_from: str | Path | None = None,
) -> ExtractionPlan:
    """The plan of a run that writes into ``out``, or of one in memory.

    The other arguments are those of ``extract``.
    Reads the weights and what ``out`` holds; writes nothing. Raises SettingError, a ValueError,
    for a setting that cannot be had, WeightsError for a bad weights file, and SpecError when
    ``out`` holds features of another spec, when it holds another stream of other frames or clips,
    or when this machine has not got the precision.
    """
    out = Path(out).resolve() if out else None
    with setting_errors():
        if specs:
            preset, streams, repeated = _repeated(specs)
            settings = {**repeated, **(settings or {})}
        preset, settings = preset or DEFAULT_PRESET, settings or {}
        chosen = _chosen_streams(streams, preset)
        settable = SETTABLE + (SETTABLE_FLOW if "flow" in chosen else ())
        if odd := [name for name in settings if name not in settable]:
            raise ValueError(f"setting {odd[0]!r}: allowed are {', '.join(settable)}")
        if stall_seconds <= 0:
            raise ValueError(f"stall_seconds = {stall_seconds}: expected a positive number")
        if not 0 <= max_damage <= 1:
            raise ValueError(f"max_damage = {max_damage}: expected a share from 0 to 1")
        if shard_size is not None and shard_size < 1:
            raise ValueError(f"shard_size = {shard_size}: expected a whole number above 0")
        _check_saved_flow(chosen, settings, save_flow, flow_from, flow_format)
        place = _place(device, gpus, workers, address)
        share = Share(rank, world_size)
        sources = {each: _source(preset, each, weights, flow_weights, specs) for each in chosen}
        for stream, source in sources.items():  # what can be refused without reading the weights
            check_recipe(resolve(preset, place["device"], (source, ""), settings, stream))
        loaded = {
            stream: load_weights(source, values_of(preset, stream)["graph"])
            for stream, source in sources.items()
        }
        made = {}
        for stream, found in loaded.items():
            named = (found.name, found.sha256)
            earlier = read_spec(out / stream) if out else None
            kept = {"precision": earlier.precision, "batch": earlier.batch} if earlier else {}
            made[stream] = resolve(preset, place["device"], named, {**kept, **settings}, stream)
    reading = None
    if flow_from:
        reading = SavedFlow.open(Path(flow_from).absolute(), made["flow"])
        made["flow"] = replace(made["flow"], flow_source=reading.kind)
    if address == "local":
        for spec in made.values():
            check_precision(spec.precision, torch.device(place["device"]))
    if out:
        _check_folders(out, made)
    return ExtractionPlan(
        streams=tuple(StreamPlan(made[each], sources[each], loaded[each]) for each in chosen),
        out=out,
        **place,
        share=share,
        shard_size=shard_size,
        max_damage=max_damage,
        stall_seconds=stall_seconds,
        save_flow=SavedFlow(Path(save_flow).absolute(), KINDS[flow_format or "hdf5"])
        if save_flow
        else None,
        flow_from=reading,
    )


@contextmanager
def setting_errors() -> Iterator[None]:
    """Turn a ValueError about a setting into a SettingError, which a command prints as one line."""
    try:
        yield
    except ValueError as error:
        raise SettingError(str(error)) from error


def _chosen_streams(streams: str | Sequence[str] | None, preset: str) -> tuple[str, ...]:
    values_of(preset)  # raises for an unknown preset
    chosen = tuple(streams.split(",") if isinstance(streams, str) else streams or ())
    chosen = chosen or PRESETS[preset].streams
    if chosen not in STREAM_SETS:
        words = ", ".join(map(",".join, STREAM_SETS))
        raise ValueError(f"streams = {','.join(chosen)!r}: allowed are {words}")
    return chosen


def _check_saved_flow(
    streams: Sequence[str],
    settings: Mapping[str, Any],
    save_flow: object,
    flow_from: object,
    flow_format: str | None,
) -> None:
    if flow_format and not save_flow:
        raise ValueError("--flow-format goes with --save-flow")
    if flow_format not in (None, *KINDS):
        raise ValueError(f"flow_format = {flow_format!r}: allowed are {', '.join(KINDS)}")
    if (save_flow or flow_from) and "flow" not in streams:
        raise ValueError("saved flow goes with stream flow: --streams flow or rgb,flow")
    if save_flow and flow_from:
        raise ValueError("flow is either read (--flow-from) or saved (--save-flow)")
    if save_flow and settings.get("quantisation") == "none":
        raise ValueError("saved flow is 8 bits: quantisation none cannot be saved")


def _place(
    device: str | None, gpus: int | None, workers: int | None, address: str
) -> dict[str, Any]:
    """Device, workers and address. By default every GPU of this machine, else every core."""
    if address != "local" and gpus is None and workers is None:
        raise ValueError(
            f"--address {address}: say how much of the cluster, --gpus N or --workers N"
        )
    if gpus is not None and workers is not None:
        raise ValueError("--gpus and --workers exclude each other: a worker on a GPU, or on a core")
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device = {device!r}: allowed are cpu, cuda")
    if device == "cpu" and gpus:
        raise ValueError(f"gpus = {gpus} with device cpu: leave one of them out")
    present = torch.cuda.device_count()
    if device == "cuda" and not present and address == "local":
        raise ValueError("device = 'cuda': this machine has no GPU")
    if device == "cuda" and gpus is None:
        gpus, workers = workers, None
    if gpus is not None and gpus > present and address == "local":
        raise ValueError(f"--gpus {gpus}: this machine has {present}; --workers N runs on the CPU")
    if device != "cpu" and gpus is None and workers is None and present:
        gpus = present
    return {
        "device": "cuda" if gpus else "cpu",
        "workers": gpus or workers or worker_cores(),
        "address": address,
    }


def _source(
    preset: str,
    stream: str,
    weights: str | Path | None,
    flow_weights: str | Path | None,
    specs: Mapping[str, Spec] | None,
) -> str:
    """Where the weights of a stream are: those named, those of a repeated spec that are random,
    else what ``vadprep weights get`` has fetched.

    ``random:SEED`` serves stream ``flow`` as well. Raises ValueError when there are none.
    """
    graph = values_of(preset, stream)["graph"]
    named = str(weights) if weights else None
    if stream == "flow":
        is_random = named is not None and named.startswith(RANDOM)
        named = str(flow_weights) if flow_weights else named if is_random else None
    if named is None and specs and specs[stream].is_random:
        named = specs[stream].weights
    named = named or stored_weights(graph)
    if named is None:
        raise ValueError(missing_weights_message(graph))
    return named if named.startswith(RANDOM) else str(weights_path(named).absolute())


def _repeated(specs: Mapping[str, Spec]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Preset, streams and settings that extract with ``specs`` again.

    Fields that are ``unknown`` are left to the preset and this machine. Raises ValueError when
    the streams differ in a setting.
    """
    settings: dict[str, Any] = {}
    for stream, spec in specs.items():
        fields = SETTABLE + (SETTABLE_FLOW if stream == "flow" else ())
        values = {name: v for name in fields if (v := getattr(spec, name)) != UNKNOWN}
        differ = [name for name in values if settings.get(name, values[name]) != values[name]]
        if differ:
            raise ValueError(
                f"the streams differ in {', '.join(differ)}, so that they cannot be extracted "
                "together"
            )
        settings |= values
    streams = tuple(each for each in STREAMS if each in specs)
    return specs[streams[0]].preset, streams, settings


def check_recipe(spec: Spec) -> None:
    """Raise ValueError for a recipe that cannot be computed."""
    for name in (*SETTABLE, *SETTABLE_FLOW):
        if getattr(spec, name) == UNKNOWN:
            raise ValueError(f"{name} = {UNKNOWN!r}: only imported features may have that")
    for decoder in spec.decoder.split(", "):
        if decoder not in FILE_DECODERS:
            raise ValueError(f"decoder = {spec.decoder!r}: allowed are {', '.join(FILE_DECODERS)}")
    if not isinstance(spec.batch, int) or spec.batch < 1:
        raise ValueError(f"batch = {spec.batch!r}: expected a whole number above 0")
    size = target_size(spec.resize, 480, 640)
    crop_boxes(spec.crop_order, spec.crops, spec.crop_size, *size)
    resize_taps(spec.filter, 480, size[0])
    scaling_of(spec.scaling)
    if spec.stream == "flow":
        TVL1.parse(spec.flow)


def _check_folders(out: Path, specs: Mapping[str, Spec]) -> None:
    """Raise SpecError when ``out`` holds features that those of ``specs`` would not fit."""
    for stream in STREAMS:
        found, path = read_spec(out / stream), out / stream
        try:
            if found and stream in specs:
                require_equal(specs[stream], found, str(path))
            elif found:
                require_shared(next(iter(specs.values())), found, str(path))
        except SpecError as error:
            # Such as one of a mistyped command. It is not given another spec by itself: a run may
            # have read the old one and be about to begin.
            state = stream_status(StreamFolder.open(path))
            is_idle = not state.done and not state.runs
            remedy = ", or remove that folder: no video in it is done" if is_idle else ""
            raise SpecError(f"{error}{remedy}") from None
