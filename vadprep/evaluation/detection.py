"""Temporal detection: events from the class scores of a video, and their average precision.

The protocol is that of VadCLIP (Wu et al., AAAI 2024), whose code takes it from AVVD (Wu et al.,
2022). For each video and class, with s the class scores of its frames:

- Events are runs of at least 2 frames with s > max s - 0.6 (max s - min s). So every video gets
  events of every class, and a curve that is constant gets none.
- The confidence of an event is max s inside it + 0.7 times the mean of the n // 16 highest of the n
  frames of the video. It orders the events of a class over all videos; it is no probability.
- In the order of confidence an event is right when its IoU with a true event of its class and video
  is at least the threshold. It takes the true event of highest IoU, and no later one can.
- AP is the sum of (R_n - R_n-1) P_n over the confidences. Precision is not interpolated.

Disputes, where this differs from the official code, or where papers do:

- UCF-Crime: the code averages over 14 classes. The 14th is Normal, which has no true event and so
  an AP of 0: its figures are 13/14 of the mean over classes that is computed here.
- XD-Violence: the code averages over 7 classes. The 7th is normal, and each normal video is a true
  event of it from begin to end. Here normal is no class.
- The code returns 0 for everything when a class has no event at all. Here its AP alone is 0.
- Events of equal confidence count at once; the code takes them in any order.
- The threshold of 0.6 was chosen on the test set ("0.8 is the best?", a comment there says).
- Intervals in a manifest have no class of their own. In a video of several categories each interval
  is a true event of each of them; the official list of XD-Violence does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import runs
from vadprep.core.records import Interval

IOUS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Least intersection over union of an event that counts as found."""
DEPTH = 0.6
"""An event reaches down from the highest score by this share of the range of the scores."""
MIN_FRAMES = 2
TOP_SHARE = 16
"""The score of a class in a video is the mean of the highest 1 / 16 of its frames."""
VIDEO_WEIGHT = 0.7
"""What the score of a class in a video adds to the confidence of its events."""

Detection = tuple[int, int, float]
"""First frame, frame after the last one, confidence."""


def detections(frames: NDArray[np.float64]) -> list[Detection]:
    """Events in the scores of one class over the frames of a video, float64 [num_frames]."""
    if not len(frames):
        return []
    highest, count = float(frames.max()), max(1, len(frames) // TOP_SHARE)
    level = highest - DEPTH * (highest - float(frames.min()))
    of_video = float(np.partition(frames, len(frames) - count)[-count:].mean())
    return [
        (start, stop, float(frames[start:stop].max()) + VIDEO_WEIGHT * of_video)
        for start, stop in runs(frames > level)
        if stop - start >= MIN_FRAMES
    ]


def overlap(one: Interval, other: Interval) -> float:
    """Intersection over union of two half-open intervals, 0 to 1."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, shared) / (max(one[1], other[1]) - min(one[0], other[0])) if shared > 0 else 0.0


def temporal_ap(
    found: Mapping[str, Sequence[Detection]], events: Mapping[str, Sequence[Interval]], iou: float
) -> float:
    """Average precision of what was ``found`` of one class against its true ``events``.

    Both are by video id; there is at least one true event. Raises ZeroDivisionError otherwise.
    """
    from sklearn.metrics import average_precision_score

    ordered = sorted(
        (-confidence, video_id, (start, stop))
        for video_id, each in found.items()
        for start, stop, confidence in each
    )
    left = {video_id: list(each) for video_id, each in events.items()}
    hits = []
    for _, video_id, interval in ordered:
        best = max(left.get(video_id, ()), key=lambda true: overlap(interval, true), default=None)
        hits.append(best is not None and overlap(interval, best) >= iou)
        if hits[-1]:
            left[video_id].remove(best)  # type: ignore[arg-type]  # it is one of them
    recall = sum(hits) / sum(len(each) for each in events.values())
    confidences = [-negative for negative, *_ in ordered]
    return recall * float(average_precision_score(hits, confidences)) if any(hits) else 0.0
