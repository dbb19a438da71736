"""Import the features of another code base into a feature folder.

The spec takes what the files show and what the caller states; every other field is ``unknown``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder
from vadprep.core.clips import (
    CLIP_LENGTH,
    TAIL_RULES,
    Resampling,
    matlab_edges,
    nearest_rates,
    num_clips,
)
from vadprep.core.errors import FeaturesError, SettingError, SpecError, allowed_are, counted
from vadprep.core.records import Video
from vadprep.core.signals import check_stop, stop_on_signals
from vadprep.core.spec import CROP_COUNTS, STREAMS, UNKNOWN, WHOLE_CLIPS, Spec
from vadprep.core.untrusted import reading
from vadprep.data import FrameBounds, Manifest, choose_manifest, frame_bounds
from vadprep.features.draft import Draft, write_failure
from vadprep.features.exchange.arrays import Form, form_of, read_features, read_tree
from vadprep.features.exchange.layouts import (
    FRAME_LAYOUTS,
    IMPORTED,
    LAYOUTS,
    SEGMENT_LAYOUT,
    SEGMENTS,
)
from vadprep.features.folder import StreamFolder, read_spec
from vadprep.features.lease import leased
from vadprep.features.shard import MOST_NUMBERS
from vadprep.features.writer import StreamWriter

SPANS = ("fit", "stretch")
"""Spans by the tail rule that gives the number of clips, or spread evenly over the frames."""

FROM_FILES = ("preset", "stream", "crops", "dtype", "clip_length", "clip_stride")
"""Fields of the spec that the files show; nobody can state them."""


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    folder: StreamFolder
    missing: tuple[str, ...]
    """Ids of the manifest without files: they are not in the folder's plan."""
    others: tuple[str, ...]
    """Feature files in the tree that belong to no video of the manifest, relative to the tree."""
    notes: tuple[str, ...]
    """What to know of the features, a line each."""


@reading(FeaturesError)
def import_features(
    tree: str | Path,
    out: str | Path,
    *,
    layout: str,
    manifest: Manifest | str | Path | None = None,
    dataset: str | None = None,
    stream: str = "rgb",
    spans: str = "fit",
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Import the videos of a manifest whose files are under ``tree`` into ``out``/<stream>.

    The same call continues after a stop, and tries failed videos again. A video fails, with its
    reason, if its files are damaged or no tail rule gives its number of clips. Values are stored
    unchanged; numbers of 64 bits are rounded to 32.

    :param tree: folder with the feature files, in any sub-folders
    :param out: feature folder
    :param layout: how the files are named, a key of ``LAYOUTS``
    :param manifest: the videos: a Manifest or the path of its CSV
    :param dataset: name of an included data set, instead of ``manifest``
    :param stream: ``rgb`` or ``flow``
    :param spans: ``fit`` finds the tail rule that gives each number of clips; ``stretch`` spreads
        the clips evenly over the frames of the video
    :param settings: fields of the spec that you know, as ``{"fps": 24, "crop_order": "xd"}``
    :param on_progress: called with the number of finished videos, and of all

    Raises SettingError, a ValueError, for a wrong argument, FeaturesError if no video can be
    imported, SpecError if ``out`` has other features, LeaseError if another run works there, and
    Stopped at a signal.
    """
    request = Request(layout, stream, spans, dict(settings or {}))
    table = choose_manifest(dataset, manifest)
    ids = [video.video_id for video in table.videos]
    found = read_tree(Path(tree), LAYOUTS[layout], stream, ids)
    files = {video_id: crops for video_id in ids if (crops := found.find(video_id))}
    path = Path(out) / stream
    origin = {"layout": layout, "root": str(Path(tree).resolve())}
    if earlier := read_spec(path):  # what it says holds for the videos that come later, too
        before = StreamFolder.open(path).provenance.get("imported")
        if before != origin:  # unknown fields of the spec would hide it
            root = before.get("root") if isinstance(before, dict) else None
            was = f"imported from {root}" if root else "extracted"
            raise SpecError(f"{path}: holds features {was}: use another --out")
        names = ("tail", "fps", "sampling", *LATER_FIELDS)
        known = {name: getattr(earlier, name) for name in names}
        request = replace(request, known={**known, **request.known})
    elif other := read_spec(Path(out) / STREAMS[1 - STREAMS.index(stream)]):
        known = {name: getattr(other, name) for name in LATER_FIELDS}
        request = replace(request, known={**known, **request.known})
    items = [Item(each, files[each.video_id]) for each in table.videos if each.video_id in files]
    examine(items, request)
    spec = _spec(items, request)
    folder = StreamFolder.prepare(path, spec, list(files), provenance={"imported": origin})
    by_id = {item.video.video_id: item for item in items}
    done = 0
    with stop_on_signals() as stop, leased(path, 0, 1, stop) as lease:
        writer = StreamWriter(folder, lease=lease)
        for shard, shard_ids in enumerate(folder.plan.shards):
            lease.check()
            for video_id in shard_ids:
                if video_id in by_id:
                    _import_video(writer, by_id[video_id], request)
                check_stop()
                done += 1
                on_progress(done, len(folder.plan.places))
            writer.finish(shard)
    missing = tuple(video_id for video_id in ids if video_id not in files)
    return Imported(folder, missing, found.unused(files.values()), _notes(items, spec))


LATER_FIELDS = ("frames", "batch_norm_eps", "centre_rounding")
"""Fields that specs did not have at first. A folder that was imported then has their defaults, and
keeps them."""


@dataclass(frozen=True)
class Request:
    """The checked settings of an import. Raises SettingError for a value that is not allowed."""

    layout: str
    stream: str
    spans: str
    known: Mapping[str, Any]
    """Fields of the spec that the caller states; all others are unknown."""

    def __post_init__(self) -> None:
        settable = [each.name for each in fields(Spec) if each.name not in FROM_FILES]
        for name, value, allowed in (
            ("layout", self.layout, LAYOUTS),
            ("stream", self.stream, STREAMS),
            ("spans", self.spans, SPANS),
            *(("setting", name, settable) for name in self.known),
        ):
            if value not in allowed:
                raise SettingError(f"{name} {value!r}: {allowed_are(value, allowed)}")
        try:
            self.spec()
        except ValueError as error:
            raise SettingError(str(error)) from error

    @property
    def by_length(self) -> bool:
        """True if the spans come from the length of the video, not from the number of clips."""
        return self.spans == "stretch" or self.layout == SEGMENT_LAYOUT

    def spec(self, **found: Any) -> Spec:
        """The spec with what was ``found`` and what is known, ``unknown`` elsewhere. Fields with
        a default are about flow: in stream ``rgb`` they keep it. At the videos' own rate no frame
        is left out or repeated, so that there is nothing to ask of ``sampling``."""
        unknown: dict[str, Any] = {
            each.name: UNKNOWN if each.default is MISSING or self.stream == "flow" else each.default
            for each in fields(Spec)
        }
        stated = {"stream": self.stream, **found, **self.known}
        sampling = "index" if stated.get("fps") == "native" else UNKNOWN
        pooling = UNKNOWN if self.layout in FRAME_LAYOUTS else WHOLE_CLIPS
        later = dict.fromkeys(LATER_FIELDS, UNKNOWN)
        return Spec(**unknown | {"sampling": sampling, "pooling": pooling} | later | stated)


@dataclass
class Item:
    """One video: its files, and what they hold or why they cannot be used."""

    video: Video
    crops: Mapping[int, Path]
    form: Form | None = None
    tails: frozenset[str] = frozenset()
    """Tail rules that give its number of clips."""
    problem: str = ""


def examine(items: Sequence[Item], request: Request) -> None:
    """Find tail rules or problem of each video by its files' headers; FeaturesError if all fail."""
    for item in items:
        try:
            form = form_of(item.crops)
            if form.num_crops not in CROP_COUNTS or form.dim > MOST_NUMBERS:
                raise FeaturesError(
                    f"{item.crops[0]}: {counted(form.num_crops, 'crop')} of {form.dim} numbers: "
                    f"features have {', '.join(map(str, CROP_COUNTS))} crops of at most "
                    f"{MOST_NUMBERS}: check --layout"
                )
            item.form = form
        except FeaturesError as error:
            item.problem = str(error)
    views = Counter((item.form.num_crops, item.form.dim) for item in items if item.form)
    crops, dim = views.most_common(1)[0][0] if views else (0, 0)
    for item in items:
        if item.form and (item.form.num_crops, item.form.dim) != (crops, dim):
            item.problem = (
                f"{counted(item.form.num_crops, 'crop')} of dimension {item.form.dim} where most "
                f"videos have {crops} of {dim}"
            )
        elif item.form:
            try:
                item.tails, _ = fitted(item.video, item.form.num_clips, request)
            except FeaturesError as error:
                item.problem = str(error)
    if all(item.problem for item in items):
        raise FeaturesError(
            f"none of {counted(len(items), 'video')} can be imported: {items[0].problem}"
        )


def fitted(video: Video, clips: int, request: Request) -> tuple[frozenset[str], NDArray[np.int64]]:
    """Tail rules that give the number of clips, and the source frames of each: int64 [clips, 2].

    No rules if the spans come from the length. Raises FeaturesError if no rule gives the number.
    """
    bounds = frame_bounds(video)
    if request.by_length:
        if bounds.most is None:
            raise FeaturesError(
                "no num_frames in the manifest, over which the rows could be spread: fill it in"
            )
        if request.layout == SEGMENT_LAYOUT and clips == SEGMENTS:
            return frozenset(), segment_spans(bounds.most)
        return frozenset(), _spans(np.arange(clips + 1) * bounds.most // clips)
    fps, resampling = request.known.get("fps", UNKNOWN), Resampling(Fraction(1))
    if fps not in ("native", UNKNOWN):
        if video.fps is None:
            raise FeaturesError(
                f"{video.video_id!r}: features at {fps} fps have no spans without the frame rate "
                f"of the video: fill the manifest's column fps"
            )
        sampling = request.known.get("sampling", UNKNOWN)
        resampling = Resampling(
            Fraction(video.fps).limit_denominator(1001),
            Fraction(fps),
            sampling="index" if sampling == UNKNOWN else sampling,
        )
    tails = matching_tails(clips, bounds, resampling)
    if not tails:
        raise FeaturesError(mismatch(clips, bounds, resampling, video.fps))
    stated = request.known.get("tail", UNKNOWN)
    if stated not in (UNKNOWN, *tails):
        raise FeaturesError(
            f"{clips} clips are not by tail rule {stated} but by {', '.join(sorted(tails))}: leave "
            f"--set tail out"
        )
    return tails, clip_spans(clips, bounds, resampling)


def matching_tails(clips: int, bounds: FrameBounds, resampling: Resampling) -> frozenset[str]:
    """Tail rules that give ``clips`` for some number of frames that the video may have."""
    least = 0 if bounds.least is None else resampling.count(bounds.least)
    most = (clips + 1) * CLIP_LENGTH if bounds.most is None else resampling.count(bounds.most)
    return frozenset(
        rule for rule in TAIL_RULES if num_clips(least, rule) <= clips <= num_clips(most, rule)
    )


def mismatch(clips: int, bounds: FrameBounds, resampling: Resampling, fps: float | None) -> str:
    """Why no tail rule gives ``clips``: the numbers that rules give, and a ratio of frame rates."""
    assert bounds.least is not None and bounds.most is not None
    ends = [resampling.count(frames) for frames in (bounds.least, bounds.most)]
    counts = [num_clips(frames, rule) for rule in TAIL_RULES for frames in ends]
    frames = f"{bounds.most}" if bounds.least == bounds.most else f"{bounds.least}-{bounds.most}"
    expected = f"{min(counts)}-{max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    ratio = clips / max(1, max(counts))
    rates = (ratio * fps, fps) if fps else nearest_rates(ratio)
    hint = f", as {rates[0]:.3g} is to {rates[1]:.3g} fps" if rates else ""
    return (
        f"{counted(clips, 'clip')} where {frames} frames give {expected}: {ratio:.3g} x as many"
        f"{hint}: name the rate of the features by --set fps=RATE, or spread the clips evenly by "
        "--spans stretch"
    )


def clip_spans(clips: int, bounds: FrameBounds, resampling: Resampling) -> NDArray[np.int64]:
    """Spans of clips that a tail rule gives, int64 [clips, 2]: clip k starts at s(16k), none
    passes the last frame."""
    edges = [resampling.begin(CLIP_LENGTH * k) for k in range(clips + 1)]
    return _spans(np.minimum(edges, edges[-1] if bounds.most is None else bounds.most))


def segment_spans(num_frames: int) -> NDArray[np.int64]:
    """Spans of the 32 segments that Save_C3DFeatures_32Segments.m makes of a video: int64 [32, 2].

    Edges are round(linspace(1, n, 33)) of the n clips (``matlab_edges``). A segment of a short
    video may be empty. The last clip, which that code leaves out, counts to the last segment.
    """
    starts = matlab_edges(max(1, num_frames // CLIP_LENGTH), SEGMENTS) * CLIP_LENGTH
    starts[-1] = num_frames
    return _spans(starts)


def _spans(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([edges[:-1], edges[1:]], axis=1).astype(np.int64)


def _spec(items: Sequence[Item], request: Request) -> Spec:
    """The spec of an import. The tail rule is known if exactly one gives the clips of every video,
    the frame rate is the videos' own if their numbers of frames are known."""
    sound = [item for item in items if not item.problem]
    forms = [item.form for item in sound if item.form]
    found: dict[str, Any] = {
        "preset": IMPORTED.format(request.layout),
        "crops": forms[0].num_crops,
        "dtype": "float16" if all(form.dtype == np.float16 for form in forms) else "float32",
        "clip_length": CLIP_LENGTH,
        "clip_stride": UNKNOWN if request.by_length else CLIP_LENGTH,
    }
    if not request.by_length:
        tails = frozenset(TAIL_RULES).intersection(*(item.tails for item in sound))
        found["tail"] = next(iter(tails)) if len(tails) == 1 else UNKNOWN
        is_counted = any(None not in frame_bounds(item.video) for item in sound)
        found["fps"] = "native" if is_counted else UNKNOWN
    return request.spec(**found)


def _notes(items: Sequence[Item], spec: Spec) -> tuple[str, ...]:
    unknown = [name for name, value in spec.identity().items() if value == UNKNOWN]
    notes = [f"unknown, since the files do not say: {', '.join(unknown)}"] if unknown else []
    sound = [item for item in items if not item.problem]
    if counts := Counter(tail for item in sound for tail in item.tails):
        each = ", ".join(f"{tail} {count}" for tail, count in sorted(counts.items()))
        notes.append(f"number of videos, of {len(sound)}, whose clips each tail rule gives: {each}")
    uncounted = sum(frame_bounds(item.video).most is None for item in sound)
    if uncounted:
        notes.append(
            f"{counted(uncounted, 'video')} without num_frames in the manifest: 16 frames a clip"
        )
    if any(item.form and item.form.dtype == np.float64 for item in sound):
        notes.append("numbers of 64 bits were rounded to 32")
    return tuple(notes)


def _import_video(writer: StreamWriter, item: Item, request: Request) -> None:
    """Write a video, unless it is stored already. A kill may have cost only its journal row."""
    video, folder = item.video, writer.folder
    place = folder.plan.places[video.video_id]
    row, exists = writer.rows.get(video.video_id), folder.location(place)[0].exists()
    if exists and row is not None and row.is_done:
        return
    if not exists or row is not None:
        path = folder.partial_video(place)
        make_folder(path.parent)
        attributes = video.attributes | ({} if video.fps is None else {"fps_source": video.fps})
        try:
            if item.problem:
                raise FeaturesError(item.problem)
            features = read_features(item.crops)
            _, spans = fitted(video, len(features), request)
        except FeaturesError as error:
            write_failure(path, folder.spec, attributes, str(error))
        else:
            attributes["num_frames"] = max(int(spans[-1, 1]), frame_bounds(video).least or 0)
            with Draft(path, folder.spec) as draft:
                draft.append(features)
                draft.commit(attributes, spans)
    writer.record(video.video_id)
