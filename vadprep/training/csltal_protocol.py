"""CSL-TAL's own protocol, ``csl_tal_subsampled``: its numbers compare with nobody else's.

Every crop is a video of its own, only every third snippet is fed in, and only their frames are
scored. Frame scores are a cubic spline through the snippet scores, small ones set to zero; the
proposals are the runs above a threshold, each with its mean score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, frame_labels, frames_in_spans, runs
from vadprep.evaluation.metrics import Truth, abnormal_frames, average_precision, one_class, roc_auc
from vadprep.features import Features, VideoFeatures, read_snippets
from vadprep.heads import Head
from vadprep.heads.csltal import CSLTALConfig
from vadprep.training.scoring import scoring_mode

NAME = "csl_tal_subsampled"
STEP = 3
"""Snippets from one that is fed in to the next."""
FLOOR = 0.05
"""Frame scores below it are set to 0."""
PROPOSAL = 0.35
"""Frame score that a proposal lies above."""
LEVELS = ("frame", "proposal", "segment", "video")


def subsampled_rows(num_snippets: int) -> NDArray[np.int64]:
    """Rows that are fed in: 0, 3, 6, ... of whole blocks of three, int64.

    Of 6 or fewer all but the last, as the code has it; the only one where there is one.
    """
    if num_snippets <= 2 * STEP:
        return np.arange(max(num_snippets - 1, 1))
    return STEP * np.arange(num_snippets // STEP)


def spline(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cubic spline through ``values`` [n] at 16 n points, as in the code: float64 [16 n].

    The first and the last point lie at the first and the last value, and beyond them the values
    are mirrored.
    """
    from scipy.ndimage import zoom

    return zoom(values.astype(np.float64), CLIP_LENGTH, order=3)


def frame_curve(snippets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores of the 16 frames of each snippet: float64 [16 n] in {0} and [0.05, 1]."""
    curve = spline(snippets)
    return np.where(curve < FLOOR, 0.0, np.minimum(curve, 1.0))


def proposals(curve: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Runs of frames above 0.35, half-open [start, stop)."""
    return runs(curve > PROPOSAL)


def proposal_scores(
    curve: NDArray[np.float64], form: Literal["runs", "largest"] = "runs"
) -> NDArray[np.float64]:
    """The score of its run for each frame of a proposal, 0 for the others: float64 [n].

    ``runs``: all runs count, each with its mean, as in the code. ``largest``: the longest alone,
    the first of equal ones, with its sum over end - start - 1 of its first and last frame, as in
    eq. 7; where that is below 1, a run of one or two frames, over 1.
    """
    scores, found, fewer = np.zeros_like(curve), proposals(curve), 0
    if form == "largest" and found:
        found, fewer = [max(found, key=lambda run: run[1] - run[0])], 2
    for start, stop in found:
        scores[start:stop] = curve[start:stop].sum() / max(stop - start - fewer, 1)
    return scores


def evaluate_subsampled(
    head: Head, features: Features, truth: Mapping[str, Truth], streams: Sequence[str]
) -> dict[str, float | None]:
    """Metrics under the protocol of the videos in ``truth``, by name.

    ``frame`` is the spline, ``proposal`` the runs (``CSLTALConfig.proposals``), ``segment`` the
    snippets, of which one with a single abnormal frame is abnormal, as in the published labels
    (``segment_labels.txt``), and ``video`` the head's own score (else the highest snippet), each
    as AUC and step-wise AP. None where a class or the intervals of a video are missing.
    """
    metrics = {"auc": roc_auc, "ap": average_precision}
    found = dict.fromkeys(f"{level}_{kind}" for level in LEVELS for kind in metrics)
    if any(each.intervals is None for each in truth.values()):
        return found
    with scoring_mode(head):
        crops = [
            crop
            for video_id, each in truth.items()
            for crop in _crops(head, features[video_id], each, streams)
        ]
    for level in LEVELS if crops else ():
        labels, scores = (np.concatenate([crop[level][i] for crop in crops]) for i in (0, 1))
        if not one_class(labels):
            found |= {f"{level}_{kind}": metric(labels, scores) for kind, metric in metrics.items()}
    return found


Pair = tuple[NDArray[np.bool_], NDArray[np.floating]]


def _crops(
    head: Head, video: VideoFeatures, truth: Truth, streams: Sequence[str]
) -> list[dict[str, Pair]]:
    """Labels and scores by level of each crop; none for a video without a snippet."""
    snippets = torch.from_numpy(read_snippets(video, streams))
    if not len(snippets):
        return []
    rows = subsampled_rows(len(snippets))
    labels = frame_labels(truth.intervals or (), video.num_frames)
    spans = video.spans[rows]
    # 16 frames of each span: all of them where it has 16.
    frames = frames_in_spans(spans)
    device = next(head.parameters()).device
    form = head.config.proposals if isinstance(head.config, CSLTALConfig) else "runs"
    found = []
    for crop in snippets[rows].to(device).float().transpose(0, 1):
        scores, overall = head.score(crop[None])
        values = scores.cpu().numpy()
        curve, inside = frame_curve(values), labels[frames.ravel()]
        of_video = np.array([values.max() if overall is None else overall])
        found.append(
            {
                "frame": (inside, curve),
                "proposal": (inside, proposal_scores(curve, form)),
                "segment": (abnormal_frames(labels, spans) > 0, values),
                "video": (np.array([truth.label == 1]), of_video),
            }
        )
    return found
