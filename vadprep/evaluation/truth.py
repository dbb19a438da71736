"""Ground truth of videos that have scores or features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vadprep.core.errors import ManifestError, counted
from vadprep.core.log import get_logger
from vadprep.core.records import Interval, Video
from vadprep.data import Manifest, frame_bounds, hint_of_ids, video_intervals
from vadprep.evaluation.metrics import Truth, VideoScores, listed
from vadprep.features import VideoFeatures

_LOG = get_logger(__name__)

Timed = VideoScores | VideoFeatures
"""What holds the number of frames of a video and its rate."""


def truth_of(found: Mapping[str, Timed], manifest: Manifest) -> dict[str, Truth]:
    """What ``manifest`` says of videos, in its order.

    Raises ManifestError that lists ids it lacks, and for an interval past the end of a video.
    """
    videos = {video.video_id: video for video in manifest.videos if video.video_id in found}
    if unknown := found.keys() - videos.keys():
        others = {video.video_id for video in manifest.videos} - videos.keys()
        raise ManifestError(
            f"{manifest.path}: no row for scored videos: {listed(unknown)}: use the manifest of "
            f"the run, or add them{hint_of_ids(unknown, others, 'the manifest')}"
        )
    truth, notes, lengths = dict[str, Truth](), list[str](), list[str]()
    for video_id, video in videos.items():
        count, bounds = found[video_id].num_frames, frame_bounds(video)
        if not bounds.nearly_allow(count):
            lengths.append(f"{video_id!r} has {count}, the manifest says {bounds}")
        intervals = known_intervals(video, found[video_id], manifest.where(video), notes)
        label = video.label
        if label is None and intervals is not None:
            label = int(bool(intervals))
        truth[video_id] = Truth(intervals, label, video.category)
    if notes:
        _LOG.warning("%s past the end of a video: %s", counted(len(notes), "interval"), notes[0])
    if lengths:
        _LOG.warning(
            "%s: %s with another number of frames, such as %s: are they the same videos?",
            *(manifest.path, counted(len(lengths), "video"), lengths[0]),
        )
    return truth


def outside_training(truth: Mapping[str, Truth], rows: Iterable[Video]) -> dict[str, Truth]:
    """``truth`` without the videos that ``rows`` of a manifest have in split train: what was learnt
    from them judges nothing."""
    trained = {video.video_id for video in rows if video.split == "train"}
    return {video_id: each for video_id, each in truth.items() if video_id not in trained}


def known_truth(found: Mapping[str, Timed], manifest: Manifest) -> dict[str, Truth]:
    """``truth_of`` those videos that ``manifest`` has."""
    known = {video.video_id for video in manifest.videos}
    return truth_of({each: video for each, video in found.items() if each in known}, manifest)


def known_intervals(
    video: Video, found: Timed, where: str = "", notes: list[str] | None = None
) -> tuple[Interval, ...] | None:
    """Anomalous decoded frames of a video; none for a normal one, None where unknown.

    ``notes`` as of ``video_intervals``.
    """
    if video.label == 0:
        return ()
    return video_intervals(video, found.num_frames, found.clock, where, notes)
