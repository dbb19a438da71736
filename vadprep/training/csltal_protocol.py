"""CSL-TAL's own protocol, ``csl_tal_subsampled``: its numbers compare with nobody else's.

Every crop is a video of its own, only every third snippet is fed in, and only their frames are
scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, frame_labels, frames_in_spans, runs
from vadprep.evaluation.metrics import Truth, abnormal_frames, average_precision, one_class, roc_auc
from vadprep.features import Features, read_snippets
from vadprep.heads import Head
from vadprep.heads.csltal import CSLTALConfig
from vadprep.training.scoring import exact_arithmetic

NAME = "csl_tal_subsampled"
STEP = 3  # snippets from one that is fed in to the next
FLOOR = 0.05  # frame scores below it are set to 0
PROPOSAL = 0.35  # frame score that a proposal lies above
LEVELS = ("frame", "proposal", "segment", "video")


def subsampled_rows(num_snippets: int) -> NDArray[np.int64]:
    """Rows that are fed in: 0, 3, 6, ... of whole blocks of three, int64.

    Of 6 or fewer all but the last, as the code has it; the only one where there is one.
    """
    if num_snippets <= 2 * STEP:
        return np.arange(max(num_snippets - 1, 1))
    return STEP * np.arange(num_snippets // STEP)


def frame_curve(snippets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores of the 16 frames of each snippet: float64 [16 n] in {0} and [0.05, 1].

    A cubic spline at 16 n points, as in the code: the first and the last point lie at the first
    and the last snippet, and beyond them the scores are mirrored.
    """
    from scipy.ndimage import zoom

    curve = zoom(snippets.astype(np.float64), CLIP_LENGTH, order=3)
    return np.where(curve < FLOOR, 0.0, np.minimum(curve, 1.0))


def proposal_scores(
    curve: NDArray[np.float64], form: Literal["runs", "largest"] = "runs"
) -> NDArray[np.float64]:
    """The score of its proposal, a run above 0.35, for each frame of one, else 0: float64 [n].

    ``runs``: all runs count, each with its mean, as in the code. ``largest``: the longest alone,
    the first of equal ones, with its sum over end - start - 1 of its first and last frame, as in
    eq. 7; where that is below 1, a run of one or two frames, over 1.
    """
    scores, found, fewer = np.zeros_like(curve), runs(curve > PROPOSAL), 0
    if form == "largest" and found:
        found, fewer = [max(found, key=lambda run: run[1] - run[0])], 2
    for start, stop in found:
        scores[start:stop] = curve[start:stop].sum() / max(stop - start - fewer, 1)
    return scores


def evaluate_subsampled(
    head: Head, features: Features, truth: Mapping[str, Truth], streams: Sequence[str]
) -> dict[str, float | None]:
    """Metrics under the protocol of the videos in ``truth``, by name.

    Of frames (the spline), proposals, segments (abnormal with a single abnormal frame, as in
    the published ``segment_labels.txt``) and videos, each as AUC and step-wise AP. None where a
    class or the intervals of a video are missing.
    """
    assert isinstance(head.config, CSLTALConfig)
    metrics = {"auc": roc_auc, "ap": average_precision}
    pools: dict[str, tuple[list[Any], list[Any]]] = {level: ([], []) for level in LEVELS}
    found = dict.fromkeys(f"{level}_{kind}" for level in LEVELS for kind in metrics)
    if any(each.intervals is None for each in truth.values()):
        return found
    device = next(head.parameters()).device
    head.eval()
    with torch.inference_mode(), exact_arithmetic():
        for video_id, known in truth.items():
            video = features[video_id]
            snippets = torch.from_numpy(read_snippets(video, streams))
            if not len(snippets):
                continue
            rows = subsampled_rows(len(snippets))
            labels, spans = frame_labels(known.intervals or (), video.num_frames), video.spans[rows]
            inside = labels[frames_in_spans(spans).ravel()]  # 16 frames of each span
            for crop in snippets[rows].to(device).float().transpose(0, 1):
                scores, overall = head.score(crop[None])
                values = scores.cpu().numpy()
                curve = frame_curve(values)
                for level, true, scored in (
                    ("frame", inside, curve),
                    ("proposal", inside, proposal_scores(curve, head.config.proposals)),
                    ("segment", abnormal_frames(labels, spans) > 0, values),
                    ("video", np.array([known.label == 1]), np.array([overall])),
                ):
                    pools[level][0].append(true)
                    pools[level][1].append(scored)
    for level, pool in pools.items():
        if pool[0]:
            labels, pooled = (np.concatenate(each) for each in pool)
            if not one_class(labels):
                found |= {f"{level}_{kind}": of(labels, pooled) for kind, of in metrics.items()}
    return found
