"""The spec: every setting that shapes a feature, with one hash.

A spec is a preset (``presets``) with weights, precision and batch: all settings of one feature
folder. It is stored in every shard, and features of two specs never mix.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any

from vadprep.core.clips import SAMPLINGS, TAIL_RULES, Resampling
from vadprep.core.crops import CENTRE_ROUNDINGS
from vadprep.core.errors import SpecError, allowed_are
from vadprep.core.untrusted import parse_json

UNKNOWN = "unknown"
"""Value of a field that nobody wrote down (imported features). It equals no other value."""

STREAMS = ("rgb", "flow")
NO_FLOW = "-"
"""Value in stream ``rgb`` of the fields that are about flow."""
COMPUTED = "computed"
"""``flow_source`` of flow that was not read from disk."""
FPS = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20}|/[0-9]{1,20})?")
"""A frame rate as a decimal number or a fraction."""
MOST_COUNT = 10**6
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
DTYPES = ("float16", "float32")
CROP_COUNTS = (1, 5, 10)
WHOLE_CLIPS = "-"
"""``pooling`` of networks that see the frames of a clip together."""
POOLINGS = (WHOLE_CLIPS, "mean", "first", "middle")
DECODED = "decoded"
"""``frames`` that go to the network as they were decoded."""
JPEG_FRAMES = re.compile(r"jpeg([1-9][0-9]?|100)")
QUANTISATIONS = ("none", "mediapipe", "denseflow", "mmaction2")
OWN_EPS = "own"
"""``batch_norm_eps`` of a network as it was published."""
FLOW_FIELDS = ("flow", "flow_source", "flow_bound", "quantisation", "flip_rule")
"""Fields of ``Spec`` that are about flow."""
SHARED_FIELDS = (
    "fps", "sampling", "frames", "resize", "filter", "crops", "crop_order", "crop_size",
    "clip_length", "clip_stride", "tail", "decoder", "centre_rounding",
)  # fmt: skip
"""Fields that all streams of a feature folder share: the same frames, views and clips."""
SETTABLE = (
    "fps", "sampling", "frames", "resize", "filter", "crops", "crop_order", "crop_size",
    "centre_rounding", "scaling", "clip_length", "clip_stride", "tail", "pooling",
    "batch_norm_eps", "decoder", "precision", "dtype", "batch",
)  # fmt: skip
"""Fields that an extraction may set; the network and its weights are named otherwise."""
SETTABLE_FLOW = ("flow", "flow_bound", "quantisation", "flip_rule")
"""Fields that an extraction with stream ``flow`` may set as well."""


@dataclass(frozen=True)
class Spec:
    """The resolved settings of one feature folder.

    All fields make its identity, except the two names ``preset`` and ``weights``: the SHA-256
    identifies the weights, whatever the name of the file.
    """

    preset: str
    """Name of the recipe this spec came from; overrides do not change it."""
    stream: str
    graph: str
    """Id of the network; tensor shapes alone do not identify it."""
    weights: str
    """Name of the weights, for example ``rgb_imagenet.pt`` or ``random:0``."""
    weights_sha256: str
    fps: str
    """``native``, or the rate that frames are resampled to, as a fraction."""
    resize: str
    """``short 256`` keeps the aspect; ``256x340`` is height x width."""
    filter: str
    """Resize filter: library and kernel (``filters.FILTERS``)."""
    crops: int
    """Spatial views of a clip: 1, 5 or 10."""
    crop_order: str
    """Named order of the crops: ``centre`` for one crop, else one of ``crops.FIVE_CROPS``."""
    crop_size: int
    """Side of a crop in px."""
    scaling: str
    """What the network sees of a value 0..255 (``backbones.SCALINGS``), for example ``[-1,1]``."""
    clip_length: int
    clip_stride: int
    """Frames, resampled. Clips overlap where the stride is smaller than the length."""
    tail: str
    """Which clips exist at the end of a video (``clips.TAIL_RULES``)."""
    decoder: str
    """Decoders in the order in which they are tried."""
    precision: str
    dtype: str
    """Number type in the shards."""
    batch: int
    """Views in one pass of the network; the last pass is padded to this number."""
    sampling: str = "index"
    """How frames are resampled to ``fps`` (``clips.Resampling``): by ``times``, the frame on screen
    at a time by the time stamps; ``near`` and ``down``, as ffmpeg rounds the time stamps; by
    ``index``, as if all frames lasted equally long (also of features before 0.2)."""
    frames: str = DECODED
    """``decoded``, or ``jpeg95``: before they are resized, frames are what a JPEG file of this
    quality gives back, 1 to 100, written and read by OpenCV (``video.jpeg``)."""
    pooling: str = WHOLE_CLIPS
    """Of a network that sees single frames, what stands for a clip: the ``mean`` of the features of
    its frames, or the feature of its ``first`` or ``middle`` one (of 16 the ninth)."""
    batch_norm_eps: str = OWN_EPS
    """What batch norm adds to a variance (epsilon), as ``eps_text`` writes it: ``own`` is that of
    the network as it was published; other code may run its weights with another one."""
    centre_rounding: str = "even"
    """Where the centre crop begins when half a pixel is left over (``crops.CENTRE_ROUNDINGS``)."""
    flow: str = NO_FLOW
    """Flow algorithm with its settings, on grey resized frames."""
    flow_source: str = NO_FLOW
    """``computed``, or what kind of saved flow was read: ``hdf5``, ``jpeg 95``; of other programs
    ``denseflow``, ``dense_flow`` or ``mmaction2``, whose names the files have."""
    flow_bound: int | str = NO_FLOW
    """Flow beyond so many px a frame is clipped."""
    quantisation: str = NO_FLOW
    """How flow is reduced to 8 bits: ``none``, ``mediapipe``, ``denseflow`` or ``mmaction2``."""
    flip_rule: str = NO_FLOW
    """``negate-u``: a mirrored crop has the flow of the mirrored scene; ``keep-u``: the legacy
    rule (Finspire13), which mirrors the picture of the flow alone."""

    def __post_init__(self) -> None:
        _check("crops", self.crops, CROP_COUNTS)
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type == "int" and value != UNKNOWN:
                if type(value) is not int or not 0 < value < MOST_COUNT:
                    raise ValueError(f"{each.name} = {value!r}: expected a whole number above 0")
            elif each.name == "fps" and type(value) in (int, float):
                pass  # by the API
            elif not isinstance(value, str | int if "int" in str(each.type) else str):
                raise ValueError(f"{each.name} = {value!r}: expected text")
        _check("stream", self.stream, STREAMS)
        _check("tail", self.tail, TAIL_RULES)
        _check("precision", self.precision, PRECISIONS)
        _check("dtype", self.dtype, DTYPES)
        _check("sampling", self.sampling, SAMPLINGS)
        _check("pooling", self.pooling, POOLINGS)
        jpeg_quality(self.frames)
        _check("centre_rounding", self.centre_rounding, CENTRE_ROUNDINGS)
        if self.batch_norm_eps not in (OWN_EPS, UNKNOWN):
            canonical = eps_text(self.batch_norm_eps)
            if canonical != self.batch_norm_eps:
                raise ValueError(
                    f"batch_norm_eps = {self.batch_norm_eps!r}: expected {canonical!r}"
                )
        self.fps_used()
        length, stride = self.clip_length, self.clip_stride
        if UNKNOWN not in (length, stride) and stride > length:
            raise ValueError(
                f"clip_stride = {stride}: expected a stride up to the length, {length}"
            )
        for name in FLOW_FIELDS:
            if (getattr(self, name) == NO_FLOW) != (self.stream == "rgb"):
                raise ValueError(f"{name} = {getattr(self, name)!r} in stream {self.stream}")
        if self.stream == "flow":
            _check("quantisation", self.quantisation, QUANTISATIONS)
            _check("flip_rule", self.flip_rule, ("negate-u", "keep-u"))
            bound = self.flow_bound
            if bound != UNKNOWN and (not isinstance(bound, int) or bound < 1):
                raise ValueError(f"flow_bound = {bound!r}: expected a whole number of px above 0")

    def identity(self) -> dict[str, Any]:
        """The fields that shape numbers, as JSON values: all but the two names."""
        names = ("preset", "weights")
        return {key: value for key, value in asdict(self).items() if key not in names}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the identity in canonical JSON, hexadecimal."""
        text = json.dumps(_written(self.identity()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_random(self) -> bool:
        """True when the network was never trained."""
        return self.weights.startswith("random:")

    def fps_used(self) -> Fraction | None:
        """The rate frames are resampled to, None for the native one."""
        if self.fps in ("native", UNKNOWN):
            return None
        try:  # 1e999999 is a number, too, which takes hours to write down
            rate = Fraction(str(self.fps) if FPS.fullmatch(str(self.fps)) else 0)
        except ZeroDivisionError:
            rate = Fraction(0)
        if not 0 < rate < MOST_COUNT:
            allowed = allowed_are(self.fps, ("native", "a rate as 25 or 24.5"))
            raise ValueError(f"fps = {self.fps!r}: {allowed}")
        return rate

    def resampling(
        self, fps_source: Fraction, times: Sequence[float] | None = None, tolerance: float = 0.0
    ) -> Resampling:
        """The change of frame rate of a video at ``fps_source``, whose frames begin at ``times``.

        ``tolerance`` is the accuracy of the times in seconds.
        """
        tolerance = max(1e-6, tolerance)
        return Resampling(fps_source, self.fps_used(), times, tolerance, self.sampling_used)

    @property
    def sampling_used(self) -> str:
        """``sampling``, or ``index`` where nobody wrote it down."""
        return "index" if self.sampling == UNKNOWN else self.sampling

    def to_json(self) -> str:
        """The spec as one line of JSON."""
        return json.dumps(_written(asdict(self)), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Spec:
        """Read what ``to_json`` wrote; raises SpecError that names ``where``."""
        try:
            return cls(**parse_json(text, where, SpecError))
        except (ValueError, TypeError) as error:
            raise SpecError(f"{where}: not a feature spec of this version: {error}") from error


def _written(values: dict[str, Any]) -> dict[str, Any]:
    """Fields as they are stored: a field that came later is absent where it has the value that all
    specs had before."""
    absent = (
        ("sampling", "index"),
        ("pooling", WHOLE_CLIPS),
        ("frames", DECODED),
        ("batch_norm_eps", OWN_EPS),
        ("centre_rounding", "even"),
    )
    return {k: v for k, v in values.items() if (k, v) not in absent}


def jpeg_quality(frames: str) -> int | None:
    """The quality of ``Spec.frames``, None of ``decoded``; ValueError for another text."""
    if match := JPEG_FRAMES.fullmatch(frames):
        return int(match[1])
    if frames not in (DECODED, UNKNOWN):
        raise ValueError(f"{frames = }: {allowed_are(frames, (DECODED, 'jpeg1 to jpeg100'))}")
    return None


def eps_text(value: str | float) -> str:
    """An epsilon as a spec writes it, such as ``1e-5`` or ``0.001``: one text for each number.

    Raises ValueError for what is no number between 0 and 1.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 1:
        raise ValueError(
            f"batch_norm_eps = {value!r}: allowed are {OWN_EPS} and a number such as 1e-5"
        )
    return f"{number:g}".replace("e-0", "e-")


def _check(name: str, value: object, allowed: Any) -> None:
    if value not in allowed and value != UNKNOWN:
        raise ValueError(f"{name} = {value!r}: {allowed_are(value, allowed)}")


def differences(ours: Spec, theirs: Spec) -> list[str]:
    """Lines ``field: ours / theirs`` for each identity field that does not match.

    ``unknown`` matches nothing, not even itself: it has to be overridden by name.
    """
    a, b = ours.identity(), theirs.identity()
    odd = [name for name in a if a[name] != b[name] or a[name] == UNKNOWN]
    for spec, values in ((ours, a), (theirs, b)):
        values["weights_sha256"] = f"{spec.weights_sha256[:12]} ({spec.weights})"
    return [f"{name}: {a[name]} / {b[name]}" for name in odd]


def require_shared(ours: Spec, theirs: Spec, where: str) -> None:
    """Raise SpecError naming ``where`` unless two streams have frames, views and clips alike."""
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in SHARED_FIELDS]
    lines = [f"{name}: {one} / {other}" for name, one, other in pairs if one != other]
    if lines:
        raise SpecError(
            f"{where} holds features of stream {theirs.stream} that do not fit stream "
            f"{ours.stream} (asked for / found there): {'; '.join(lines)}. Use the same "
            "settings, or another --out"
        )


def require_equal(ours: Spec, theirs: Spec, where: str) -> None:
    """Raise SpecError naming ``where`` and each field in which two specs differ.

    An unknown field equals another only when the whole specs are the same, as in one folder.
    """
    if ours.hash != theirs.hash:
        raise SpecError(
            f"{where} holds features of another spec (asked for / found there): "
            f"{'; '.join(differences(ours, theirs))}. Use the same settings, or another --out"
        )
