"""The plan of a run: what was asked for, checked and resolved once, before anything is written.

Code below this module reads no setting from the disk, loads no weights twice and does not ask
which devices there are: it takes them from the plan.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vadprep.backbones import Weights, graph_of, load_weights, missing_weights_message, scaling_of
from vadprep.backbones.backbone import check_precision
from vadprep.backbones.engine import engine_of
from vadprep.backbones.graphs import own_batch_norm_eps
from vadprep.backbones.weights.catalog import stored_weights
from vadprep.backbones.weights.load import RANDOM, weights_path
from vadprep.core.atomic import check_writable
from vadprep.core.crops import crop_boxes, target_size
from vadprep.core.errors import SpecError, allowed_are
from vadprep.core.filters import FLOAT_FILTERS, frame_taps
from vadprep.core.presets import DEFAULT_PRESET, PRESETS, fill_unknown, resolve, values_of
from vadprep.core.resources import worker_cores
from vadprep.core.spec import (
    COMPUTED,
    NO_FLOW,
    OWN_EPS,
    POOLINGS,
    SETTABLE,
    SETTABLE_FLOW,
    SHARED_FIELDS,
    STREAMS,
    UNKNOWN,
    WHOLE_CLIPS,
    Spec,
    require_equal,
    require_shared,
)
from vadprep.extraction.options import (
    STALL_SECONDS,
    PlanOptions,
    check_options,
    checked,
    setting_errors,
)
from vadprep.features.folder import StreamFolder, read_spec
from vadprep.features.status import stream_status
from vadprep.features.writer import Share
from vadprep.flow import TVL1, SavedFlow
from vadprep.video import FILE_DECODERS, MAX_DAMAGE, require_nvdec

if TYPE_CHECKING:
    from typing_extensions import Unpack

KEPT = ("sampling", "precision", "batch")
"""Fields that a folder keeps, when no other value is asked for."""

KEPT_BY_STREAMS = (*SHARED_FIELDS, "scaling", "dtype", "batch_norm_eps")
"""Fields that a stream takes from the other one, when it is added to its folder later."""

OF_THE_MACHINE = ("weights_sha256", "precision", "batch")
"""Fields that no preset holds. Where they are unknown, the weights and this machine decide."""


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
    engine: str = ""
    """Name and version of what runs the networks, on every node; empty for what each has."""
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


@setting_errors()
def resolve_plan(
    out: str | Path | None,
    *,
    default_preset: str | None = None,
    check: Callable[[list[Path]], None] = lambda folders: None,
    **options: Unpack[PlanOptions],
) -> ExtractionPlan:
    """The plan of a run that writes into ``out``, or of one in memory.

    The other arguments are those of ``extract``; ``default_preset`` counts where neither they nor
    features in ``out`` name a preset. Reads the weights and what ``out`` holds; writes nothing.
    What else can be refused is refused before the weights are read; ``check`` is called then, with
    the folders of the streams. Raises SettingError, a ValueError, for a setting that cannot be
    used, WeightsError for a bad weights file, SpecError when ``out`` holds features of another spec
    or another stream of other frames or clips, when ``specs`` cannot be repeated, or when this
    machine does not have the precision, OutputError when ``out`` cannot be written, and
    ModuleNotFoundError for a decoder that is not installed.
    """
    options = checked(options, PlanOptions)
    for name in ("decord", "av"):  # else each video would fail, or be left to the other decoder
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    out = Path(out).resolve() if out else None
    if repeated := options.get("specs"):
        options = _repeating(repeated, options)
    there = {name: found for name in STREAMS if out and (found := read_spec(out / name))}
    preset, streams, shared = _preset_and_streams(options, there, default_preset)
    check_options(options, streams)
    device, workers = _place(options)
    share = Share(options.get("rank", 0), options.get("world_size", 1))
    save_flow, flow_from = options.get("save_flow"), options.get("flow_from")
    flow_format = options.get("flow_format") or "hdf5"
    address = options.get("address", "local")
    specs, sources, reading = dict[str, Spec](), dict[str, str](), None
    for stream in streams:  # what can be refused without reading the weights
        spec = _resolved_spec(stream, preset, device, there.get(stream), shared, options)
        if stream == "flow" and flow_from:
            settings = options.get("settings") or {}
            reading, spec = SavedFlow.find(Path(flow_from).absolute(), spec, settings)
        if address == "local":
            check_precision(spec.precision, torch.device(device))
            if "nvdec" in spec.decoder.split(", "):
                require_nvdec(device)
        specs[stream], sources[stream] = spec, _weights_source(preset, stream, options)
    for folder in filter(None, (out, Path(save_flow).absolute() if save_flow else None)):
        check_writable(folder)
    if out:
        _check_folders(out, specs)
        check([out / stream for stream in streams])
    plans = []
    for stream, source in sources.items():
        loaded = load_weights(source, specs[stream].graph)
        spec = replace(specs[stream], weights=loaded.name, weights_sha256=loaded.sha256)
        plans.append(StreamPlan(spec, source, loaded))
    if out:
        _check_folders(out, {plan.spec.stream: plan.spec for plan in plans})
    return ExtractionPlan(
        streams=tuple(plans),
        out=out,
        device=device,
        engine=engine_of(device),
        workers=workers,
        address=address,
        share=share,
        shard_size=options.get("shard_size"),
        max_damage=options.get("max_damage", MAX_DAMAGE),
        stall_seconds=options.get("stall_seconds", STALL_SECONDS),
        save_flow=SavedFlow(Path(save_flow).absolute(), flow_format) if save_flow else None,
        flow_from=reading,
    )


def _preset_and_streams(
    options: PlanOptions, there: Mapping[str, Spec], default_preset: str | None
) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """Preset and streams, and the fields that a stream which is added has from those ``there``."""
    streams = options.get("streams") or ()
    streams = tuple(streams.split(",") if isinstance(streams, str) else streams)
    preset, beside = options.get("preset"), next(iter(there.values()), None)
    if not set(streams) - set(there) or (beside and preset not in (None, beside.preset)):
        beside = None
    shared = {name: getattr(beside, name) for name in KEPT_BY_STREAMS} if beside else {}
    if beside and beside.preset in PRESETS:
        preset = beside.preset
    preset = preset or default_preset or DEFAULT_PRESET
    values_of(preset)  # raises for an unknown preset
    known = {name: value for name, value in shared.items() if value != UNKNOWN}
    return preset, streams or PRESETS[preset].streams, known


def _resolved_spec(
    stream: str,
    preset: str,
    device: str,
    earlier: Spec | None,
    shared: Mapping[str, Any],
    options: PlanOptions,
) -> Spec:
    """The spec of a stream, with what ``earlier`` features of it have, before the weights are read.

    Raises ValueError for a recipe that cannot be computed.
    """
    kept = {name: getattr(earlier, name) for name in KEPT} if earlier else {}
    named = (earlier.weights, earlier.weights_sha256) if earlier else ("", "")
    settings = {**kept, **shared, **(options.get("settings") or {})}
    spec = resolve(preset, device, named, settings, stream)
    check_recipe(spec)
    if spec.batch_norm_eps == own_batch_norm_eps(spec.graph):  # one name for one network
        spec = replace(spec, batch_norm_eps=OWN_EPS)
    return spec


def _repeating(specs: Mapping[str, Spec], options: PlanOptions) -> PlanOptions:
    """``options`` with the preset, streams and settings that extract with ``specs`` again.

    A preset among ``options`` stands in for unknown fields. Raises SpecError for specs that no
    extraction can repeat, and ValueError when the streams differ in a setting.
    """
    settings: dict[str, Any] = {}
    preset = options.get("preset")
    for stream, spec in specs.items():
        spec = fill_unknown(spec, preset) if preset else spec
        unknown = [name for name, value in spec.identity().items() if value == UNKNOWN]
        unknown = [name for name in unknown if not (preset and name in OF_THE_MACHINE)]
        reasons = []
        if unknown or spec.preset not in PRESETS:
            reasons.append(f"preset {spec.preset}, unknown: {', '.join(unknown) or 'nothing'}")
        if spec.flow_source not in (NO_FLOW, COMPUTED, UNKNOWN):
            reasons.append(f"flow was read from {spec.flow_source}")
        if reasons:
            remedy = "take a preset for what is unknown (--preset NAME), or " if unknown else ""
            raise SpecError(
                f"the features of the run cannot be extracted again ({', '.join(reasons)}): "
                f"{remedy}score a feature folder (--features)"
            )
        fields = SETTABLE + (SETTABLE_FLOW if stream == "flow" else ())
        values = {name: v for name in fields if (v := getattr(spec, name)) != UNKNOWN}
        if odd := [name for name in values if settings.get(name, values[name]) != values[name]]:
            raise ValueError(f"streams that differ in {odd[0]} cannot be extracted together")
        settings |= values
    return {
        **options,
        "preset": spec.preset,
        "streams": [each for each in STREAMS if each in specs],
        "settings": settings | dict(options.get("settings") or {}),
    }


def _place(options: PlanOptions) -> tuple[str, int]:
    """Device and number of workers. By default every GPU of this machine, else every core."""
    device, gpus, workers = options.get("device"), options.get("gpus"), options.get("workers")
    present, address = torch.cuda.device_count(), options.get("address", "local")
    is_local = address == "local"
    if not is_local and gpus is None and workers is None:
        raise ValueError(
            f"--address {address}: say how much of the cluster, --gpus N or --workers N"
        )
    if gpus is not None and workers is not None:
        raise ValueError("--gpus and --workers exclude each other: a worker on a GPU, or on a core")
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device = {device!r}: {allowed_are(device, ('cpu', 'cuda'))}")
    if device == "cpu" and gpus:
        raise ValueError(f"gpus = {gpus} with device cpu: leave one of them out")
    if device == "cuda" and not present and is_local:
        raise ValueError("device = 'cuda': this machine has no GPU")
    if device == "cuda" and gpus is None:
        gpus, workers = workers, None
    if gpus is not None and gpus > present and is_local:
        raise ValueError(f"--gpus {gpus}: this machine has {present}; --workers N runs on the CPU")
    if device != "cpu" and gpus is None and workers is None:
        gpus = present
    return "cuda" if gpus else "cpu", gpus or workers or worker_cores()


def _weights_source(preset: str, stream: str, options: PlanOptions) -> str:
    """Path or ``random:SEED`` of the weights of a stream: those named, those of a repeated spec
    that are random, else what ``vadprep weights get`` has fetched.

    ``random:SEED`` serves stream ``flow`` as well. Raises ValueError when there are none.
    """
    named, option = options.get("weights"), "--weights"
    if stream == "flow":
        is_random = str(named).startswith(RANDOM)
        named = options.get("flow_weights") or (named if is_random else None)
        option = "--flow-weights"
    spec = (options.get("specs") or {}).get(stream)
    if not named and spec and spec.is_random:
        named = spec.weights
    graph, wanted = values_of(preset, stream)["graph"], PRESETS[preset].weights
    named = named or stored_weights(graph, wanted)
    if not named and spec and spec.weights == UNKNOWN:
        raise ValueError(f"the weights of the run's features are unknown: name them by {option}")
    if not named and spec:
        raise ValueError(f"the run's features are of {spec.weights}: name it by {option}")
    if not named:
        raise ValueError(missing_weights_message(graph, wanted))
    return str(named if str(named).startswith(RANDOM) else weights_path(str(named)).absolute())


def check_recipe(spec: Spec) -> None:
    """Raise ValueError for a recipe that cannot be computed."""
    for name in (*SETTABLE, *SETTABLE_FLOW):
        if getattr(spec, name) == UNKNOWN:
            raise ValueError(f"{name} = {UNKNOWN!r}: only imported features may have that")
    for decoder in spec.decoder.split(", "):
        if decoder not in FILE_DECODERS:
            raise ValueError(f"decoder = {spec.decoder!r}: {allowed_are(decoder, FILE_DECODERS)}")
    if not isinstance(spec.batch, int) or spec.batch < 1:
        raise ValueError(f"batch = {spec.batch!r}: expected a whole number above 0")
    graph = graph_of(spec.graph)
    if spec.clip_length not in graph.clip_lengths:
        allowed = ", ".join(map(str, graph.clip_lengths))
        raise ValueError(f"clip_length = {spec.clip_length}: {spec.graph} takes {allowed}")
    if not graph.takes_size(spec.crop_size):
        allowed = f"{graph.least_size} px and more" if graph.least_size else f"{graph.size} px"
        raise ValueError(f"crop_size = {spec.crop_size}: {spec.graph} takes {allowed}")
    if spec.batch_norm_eps != OWN_EPS and not own_batch_norm_eps(spec.graph):
        raise ValueError(f"batch_norm_eps = {spec.batch_norm_eps}: {spec.graph} has no batch norm")
    poolings = POOLINGS[1:] if graph.of_frames else (WHOLE_CLIPS,)
    if spec.pooling not in poolings:
        allowed = allowed_are(spec.pooling, poolings)
        raise ValueError(f"pooling = {spec.pooling!r}: of {spec.graph}, {allowed}")
    size = target_size(spec.resize, 480, 640)
    crop_boxes(spec.crop_order, spec.crops, spec.crop_size, *size, spec.centre_rounding)
    if spec.filter not in FLOAT_FILTERS:
        frame_taps(spec.filter, (480, 640), size)
    elif spec.stream == "flow":
        raise ValueError(f"filter = {spec.filter!r}: TV-L1 takes whole grey levels: another filter")
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
