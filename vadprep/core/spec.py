"""Presets, and the spec: every number that shapes a feature, under one name and one hash.

A preset is a named recipe of the field; a spec is a preset with all fields resolved (weights,
precision, batch shape) for one feature set. The spec is stored in every shard, and features of
two different specs never mix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any

from vadprep.core.clips import CLIP_LENGTH, TAIL_RULES
from vadprep.core.errors import SpecError

UNKNOWN = "unknown"
"""Value of a field that nobody wrote down (imported features). It equals nothing silently."""

STREAMS = ("rgb", "flow")
NO_FLOW = "-"
"""Value in stream ``rgb`` of the fields that are about flow."""
COMPUTED = "computed"
"""``flow_source`` of flow that was not read from disk."""
QUANTISATIONS = ("none", "mediapipe", "denseflow")
FLIP_RULES = ("negate-u", "keep-u")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
DTYPES = ("float16", "float32")
CROP_COUNTS = (1, 5, 10)


@dataclass(frozen=True)
class Spec:
    """The resolved settings of one feature set.

    Every field is its identity but ``preset`` and ``weights``, which are names: the weights are
    told by their SHA-256, whatever the file was called.
    """

    preset: str
    """Name of the recipe this spec came from; overrides do not change it."""
    stream: str
    """``rgb`` or ``flow``."""
    graph: str
    """Id of the network, which tensor shapes alone cannot tell."""
    weights: str
    """Name of the weights, for example ``rgb_imagenet.pt`` or ``random:0``."""
    weights_sha256: str
    """SHA-256 of the tensors."""
    fps: str
    """``native``, or the rate that frames are resampled to by index, as a fraction."""
    resize: str
    """``short 256`` keeps the aspect; ``256x340`` is height x width."""
    filter: str
    """Resize filter: library and kernel."""
    crops: int
    """Spatial views of a clip: 1, 5 or 10."""
    crop_order: str
    """Named order of the crops."""
    crop_size: int
    """Side of a crop in px."""
    scaling: str
    """What the network sees of a value 0..255 (``backbones.scaling``), for example ``[-1,1]``."""
    clip_length: int
    clip_stride: int
    """Frames, resampled."""
    tail: str
    """Which clips exist at the end of a video (``clips.TAIL_RULES``)."""
    decoder: str
    """Decoders in the order in which they are tried."""
    precision: str
    """Arithmetic of the network."""
    dtype: str
    """Number type in the shards."""
    batch: int
    """Clip views in one pass of the network; the last pass is padded to it."""
    flow: str = NO_FLOW
    """Flow algorithm with its settings, on grey resized frames (``flow.pictures``)."""
    flow_source: str = NO_FLOW
    """``computed``, or what kind of saved flow was read: ``hdf5``, ``jpeg 95``."""
    flow_bound: int | str = NO_FLOW
    """Flow beyond so many px a frame is clipped."""
    quantisation: str = NO_FLOW
    """How flow became 8 bits: ``none``, ``mediapipe`` or ``denseflow``."""
    flip_rule: str = NO_FLOW
    """``negate-u``: a mirrored crop has the flow of the mirrored scene; ``keep-u``: the legacy
    rule (Finspire13), which mirrors the picture of the flow alone."""

    def __post_init__(self) -> None:
        _check("stream", self.stream, STREAMS)
        _check("crops", self.crops, CROP_COUNTS)
        _check("tail", self.tail, TAIL_RULES)
        _check("precision", self.precision, PRECISIONS)
        _check("dtype", self.dtype, DTYPES)
        self.fps_used()
        if self.clip_length != UNKNOWN and self.clip_length < 1:
            raise ValueError(f"{self.clip_length = }: clips have at least 1 frame")
        self._check_flow()

    def _check_flow(self) -> None:
        for name in FLOW:
            if (getattr(self, name) == NO_FLOW) != (self.stream == "rgb"):
                raise ValueError(f"{name} = {getattr(self, name)!r} in stream {self.stream}")
        if self.stream == "flow":
            _check("quantisation", self.quantisation, QUANTISATIONS)
            _check("flip_rule", self.flip_rule, FLIP_RULES)
            bound = self.flow_bound
            if bound != UNKNOWN and (not isinstance(bound, int) or bound < 1):
                raise ValueError(f"flow_bound = {bound!r}: expected a whole number of px above 0")

    def identity(self) -> dict[str, Any]:
        """The fields that shape numbers, as JSON values: all but the two names."""
        names = ("preset", "weights")
        return {key: value for key, value in asdict(self).items() if key not in names}

    @property
    def hash(self) -> str:
        """SHA-256 of the identity in canonical JSON, hexadecimal."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_random(self) -> bool:
        """True when the network was never trained."""
        return self.weights.startswith("random:")

    def fps_used(self) -> Fraction | None:
        """The rate frames are resampled to, None for the native one."""
        if self.fps in ("native", UNKNOWN):
            return None
        try:
            rate = Fraction(self.fps)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if rate <= 0:
            raise ValueError(f"fps = {self.fps!r}: allowed are native and a rate as 25 or 24.5")
        return rate

    def to_json(self) -> str:
        """The spec as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Spec:
        """Read what ``to_json`` wrote; raises SpecError that names ``where``."""
        try:
            values = json.loads(text)
            known = {field.name for field in fields(cls)}
            if not isinstance(values, dict) or set(values) != known:
                odd = sorted(known ^ set(values))
                raise ValueError(f"missing or unexpected fields: {', '.join(odd)}")
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise SpecError(f"{where}: not a feature spec of this version: {error}") from error


def _check(name: str, value: object, allowed: Any) -> None:
    if value not in allowed and value != UNKNOWN:
        raise ValueError(f"{name} = {value!r}: allowed are {', '.join(map(str, allowed))}")


def differences(ours: Spec, theirs: Spec) -> list[str]:
    """Lines ``field: ours / theirs`` for each identity field that does not match.

    ``unknown`` matches nothing, not even itself: it has to be overridden by name.
    """
    a, b = ours.identity(), theirs.identity()
    odd = [name for name in a if a[name] != b[name] or a[name] == UNKNOWN]
    return [f"{name}: {_shown(ours, name)} / {_shown(theirs, name)}" for name in odd]


def _shown(spec: Spec, name: str) -> str:
    value = str(getattr(spec, name))
    return f"{value[:12]} ({spec.weights})" if name == "weights_sha256" else value


def completed(spec: Spec, preset: str) -> Spec:
    """``spec`` with the values of a preset where it says ``unknown``.

    What no preset holds stays unknown: weights, precision, batch. Raises ValueError for an
    unknown preset, and for one whose network has no form for the stream.
    """
    graph, flow = graph_of_stream(preset, spec.stream), FLOW if spec.stream == "flow" else {}
    recipe = {**PRESETS[preset], "graph": graph, **flow}
    filled = {name: recipe[name] for name in recipe if getattr(spec, name) == UNKNOWN}
    return replace(spec, preset=preset, **filled)


def require_shared(ours: Spec, theirs: Spec, where: str) -> None:
    """Raise SpecError naming ``where`` unless two streams have frames, views and clips alike."""
    lines = [
        f"{name}: {getattr(ours, name)} / {getattr(theirs, name)}"
        for name in SHARED
        if getattr(ours, name) != getattr(theirs, name)
    ]
    if lines:
        raise SpecError(
            f"{where} holds features of stream {theirs.stream} that stream {ours.stream} would not "
            f"fit (asked for / found there): {'; '.join(lines)}. Use the same settings, or "
            "another --out"
        )


def require_equal(ours: Spec, theirs: Spec, where: str) -> None:
    """Raise SpecError naming ``where`` and each field in which the two specs differ."""
    lines = differences(ours, theirs)
    if lines:
        raise SpecError(
            f"{where} holds features of another spec (asked for / found there): "
            f"{'; '.join(lines)}. Use the same settings, or another --out"
        )


def require_own(spec: Spec, found: Spec, where: str) -> None:
    """As ``require_equal``, for what one run has made: there an unknown field equals itself."""
    if spec.hash != found.hash:
        require_equal(spec, found, where)


_INCEPTION: dict[str, Any] = {
    "graph": "inception_i3d",
    "fps": "native",
    "resize": "short 256",
    "filter": "pil-bilinear",
    "crops": 1,
    "crop_order": "centre",
    "crop_size": 224,
    "scaling": "[-1,1]",
    "clip_length": CLIP_LENGTH,
    "clip_stride": CLIP_LENGTH,
    "tail": "drop",
    "decoder": "decord, pyav",
    "dtype": "float16",
}

_RESNET = _INCEPTION | {"graph": "i3d_r50_nonlocal", "scaling": "(x-114.75)/57.375"}
_GOWTHAM = {
    "resize": "256x340",
    "filter": "pil-lanczos",
    "crops": 10,
    "crop_order": "gowtham",
    "scaling": "[-1,1]",
}
_TORCHVISION = _INCEPTION | {
    "fps": "15",
    "filter": "opencv-bilinear",  # torch's, which averages nothing either, to one grey level
    "scaling": "torchvision-kinetics",
}
_RESNET_18 = _TORCHVISION | {"resize": "128x171", "crop_size": 112}
_SWIN = _TORCHVISION | {"scaling": "imagenet"}

# What each value is taken from, and what nobody knows: ``presets.NOTES``.
PRESETS: dict[str, dict[str, Any]] = {
    # Carreira and Zisserman 2017, README of kinetics-i3d: 25 fps, short side 256, centre crop.
    "i3d": _INCEPTION | {"fps": "25"},
    # Wu et al. 2020 (XD-Violence): 24 fps, five crops; corner order assumed, never published.
    "xd": _INCEPTION | {"fps": "24", "crops": 5, "crop_order": "xd", "tail": "xd"},
    # Roc-Ng's UCF-Crime features: native rate, ten crops, (N-1)//16 clips.
    "ucf": _INCEPTION | {"crops": 10, "crop_order": "xd", "tail": "xd"},
    # ResNet-50: RTFM by its author (issue 21), Gowtham's script, and what UR-DMU made of that.
    "rtfm-r50": _RESNET | {"crops": 10, "crop_order": "torchvision"},
    "gowtham-r50": _RESNET | _GOWTHAM,
    "urdmu": _INCEPTION | _GOWTHAM | {"tail": "repeat-last"},
    # 8 frames, every 8th of 30 a second.
    "ptv-r50": _RESNET
    | {"graph": "i3d_r50", "filter": "opencv-bilinear", "crop_size": 256}
    | {"fps": "15/4", "clip_length": 8, "clip_stride": 8},
    # torchvision's classifiers, each with its published transforms.
    "r3d_18": _RESNET_18 | {"graph": "r3d_18"},
    "r2plus1d_18": _RESNET_18 | {"graph": "r2plus1d_18"},
    "s3d": _TORCHVISION | {"graph": "s3d", "resize": "256x256"},
    "swin3d_t": _SWIN | {"graph": "swin3d_t"},
    "swin3d_s": _SWIN | {"graph": "swin3d_s"},
    "swin3d_b": _SWIN | {"graph": "swin3d_b"},
    "mvit_v2_s": _TORCHVISION
    | {"graph": "mvit_v2_s", "fps": "15/2", "scaling": "(x-114.75)/57.375"},
    # Wan et al. 2020 (AR-Net): RGB and flow side by side, at the native rate.
    "arnet": _INCEPTION,
}

PRESET_STREAMS = {"arnet": ("rgb", "flow")}
"""Streams of a preset where they are not ``rgb`` alone."""


def streams_of(preset: str) -> tuple[str, ...]:
    """Streams that a preset asks for."""
    return PRESET_STREAMS.get(preset, ("rgb",))


FLOW: dict[str, Any] = {
    # The settings of OpenCV's CPU class, which MediaPipe and so kinetics-i3d used.
    "flow": "tvl1 tau=0.25 lambda=0.15 theta=0.3 scales=5 scale_step=0.8 warps=5 epsilon=0.01 "
    "inner_iterations=30 outer_iterations=10 median=5",
    "flow_source": COMPUTED,
    "flow_bound": 20,
    "quantisation": "mediapipe",
    "flip_rule": "negate-u",
}
"""What a recipe says of flow: kinetics-i3d, without its JPEG."""

FLOW_GRAPHS = {"inception_i3d": "inception_i3d_flow"}
"""The network of stream ``flow`` that belongs to one of stream ``rgb``."""

SHARED = (
    "fps", "resize", "filter", "crops", "crop_order", "crop_size", "clip_length", "clip_stride",
    "tail", "decoder",
)  # fmt: skip
"""Fields that the streams of one FEATURES have in common: the same frames, views and clips."""

DATASET_PRESETS = {"xd": "xd", "ucf": "ucf", "shanghaitech": "ucf"}
DEFAULT_PRESET = "i3d"
"""Preset of a bundled data set, and of every other video."""

CROP_ORDERS = {1: "centre", 5: "xd", 10: "xd"}
"""Order of the crops when only their number is overridden."""

DEVICE_DEFAULTS = {
    "cpu": {"precision": "fp32", "batch": 1},
    "cuda": {"precision": "tf32", "batch": 32},
}
"""What is settled once, when the folder is made: on a GPU TF32, which every peer runs."""


def graph_of_stream(preset: str, stream: str) -> str:
    """Id of the network of a stream; ValueError for an unknown preset or one without flow."""
    if preset not in PRESETS:
        raise ValueError(f"{preset = }: allowed are {', '.join(PRESETS)}")
    graph: str = PRESETS[preset]["graph"]
    if stream == "rgb":
        return graph
    if graph not in FLOW_GRAPHS:
        raise ValueError(f"{preset = }: its network {graph} has no form for flow")
    return FLOW_GRAPHS[graph]


def resolve(
    preset: str,
    device: str,
    weights: tuple[str, str],
    overrides: Mapping[str, Any],
    stream: str = "rgb",
) -> Spec:
    """The spec of a new feature set.

    ``device`` is ``cpu`` or ``cuda``, ``weights`` is (name, SHA-256), and ``overrides`` replace
    fields of the preset; those about flow are left out of stream ``rgb``. Raises ValueError for
    an unknown preset, field or value, and for a preset without a network for flow.
    """
    if stream == "rgb":
        overrides = {name: value for name, value in overrides.items() if name not in FLOW}
    graph, flow = graph_of_stream(preset, stream), FLOW if stream == "flow" else {}
    values = {**PRESETS[preset], "graph": graph, **flow, **DEVICE_DEFAULTS[device], **overrides}
    if "crops" in overrides and "crop_order" not in overrides:
        values["crop_order"] = CROP_ORDERS.get(overrides["crops"], UNKNOWN)
    unknown = set(values) - {field.name for field in fields(Spec)}
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
    name, sha256 = weights
    return Spec(preset=preset, stream=stream, weights=name, weights_sha256=sha256, **values)


def keep_settled(spec: Spec, found: Spec, overrides: Mapping[str, Any]) -> Spec:
    """``spec`` with the precision and batch that ``found`` settled, unless overridden by name."""
    settled = {
        name: getattr(found, name) for name in DEVICE_DEFAULTS["cpu"] if name not in overrides
    }
    return replace(spec, **settled)
