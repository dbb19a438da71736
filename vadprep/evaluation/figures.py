"""Figures of scores against labels: curves through every distinct score, ties counted exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Figure = Callable[[NDArray[np.bool_], NDArray[np.floating]], float]
"""Of labels bool [N] and scores float [N]."""


def roc_auc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Probability that an abnormal frame scores above a normal one, ties counting half.

    The Mann-Whitney statistic in integers, so exact: ``labels`` bool [N], ``scores`` float [N].
    Raises ValueError when only one class is there or a score is not finite.
    """
    hits, misses = _counts_by_score(labels, scores)
    below = misses.sum() - np.cumsum(misses)
    doubled = int(np.sum(hits * (2 * below + misses)))
    return doubled / (2 * int(hits.sum()) * int(misses.sum()))


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Step-wise area under precision-recall, sum of (R_n - R_n-1) P_n: sklearn's estimator.

    Arguments and errors as in ``roc_auc``.
    """
    precision, recall = _precision_recall(labels, scores)
    return float(np.sum(np.diff(recall) * precision[1:]))


def average_precision_trapezoid(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under straight lines between precision-recall points: the "AP" of most papers here.

    XDVioDet and its descendants compute ``auc(recall, precision)``. It interpolates linearly,
    which is optimistic, so it is never the same number as ``average_precision``.
    Arguments and errors as in ``roc_auc``.
    """
    precision, recall = _precision_recall(labels, scores)
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


ALARM = 0.5
"""Score from which on a frame is an alarm, in every paper that gives a false alarm rate."""


def false_alarm_rate(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """FP / (FP + TN) at ``ALARM``: alarms among the frames that are not abnormal.

    Raises ValueError when every frame is abnormal or a score is not finite.
    """
    check_scores(labels, scores)
    if labels.all():
        raise ValueError("every scored frame is abnormal: there is none to be a false alarm")
    return float(np.mean(scores[~labels] >= ALARM))


def one_class(labels: NDArray[np.bool_], of: str = "frame") -> str:
    """Why ROC and precision-recall are not defined for ``labels``, or an empty string."""
    if labels.all():
        return f"every scored {of} is abnormal"
    return "" if labels.any() else f"no scored {of} is abnormal"


def check_scores(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> None:
    """Raise ValueError unless both are [N] and every score is finite."""
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"{labels.shape = }, {scores.shape = }: expected two equal [N]")
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite")


def _counts_by_score(
    labels: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Abnormal and normal frames at each distinct score, highest first: int64 [num_scores]."""
    check_scores(labels, scores)
    reason = one_class(labels)
    if reason:
        raise ValueError(f"{reason}: the figure needs both classes")
    values, group = np.unique(-scores, return_inverse=True)
    total = np.bincount(group, minlength=len(values))
    hits = np.bincount(group[labels], minlength=len(values))
    return hits.astype(np.int64), (total - hits).astype(np.int64)


def _precision_recall(
    labels: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve from (precision 1, recall 0) down through every distinct score."""
    hits, misses = _counts_by_score(labels, scores)
    true, false = np.cumsum(hits), np.cumsum(misses)
    precision = np.concatenate([[1.0], true / (true + false)])
    recall = np.concatenate([[0.0], true / true[-1]])
    return precision, recall
