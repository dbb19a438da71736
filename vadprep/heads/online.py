"""Scores without the future: a head sees the last snippets, and the newest one's score counts.

    snippets   0 1 2 3 4 5 6 7 ...
    score of 5     [2 3 4 5]            a window of 4: nothing after snippet 5 is seen
    score of 1 [0 1]                    the first windows are shorter

``Head.causal_context`` says whether these scores equal those of the whole video (see the README).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vadprep.core.errors import SettingError
from vadprep.heads.base import Head, HeadOutput

MOST_ROWS = 1 << 14
"""Snippets, of all windows and crops, that go through a head at once: 64 MiB of 1,024 numbers."""


def score_newest(head: Head, windows: Sequence[Tensor]) -> HeadOutput:
    """Scores of the newest snippet of each of N windows, means over its crops.

    A window is float [C, t, dim] with t > 0, the oldest snippet first; the windows go through the
    head together, padded to the longest. Returns ``scores`` float64 [N] and, from heads with
    classes, ``classes`` float64 [N, K]. Call it in eval mode, inside ``torch.inference_mode``.
    """
    if most := head.most_seen:  # older snippets change no score
        windows = [window[:, -most:] for window in windows]
    crops = [crop for window in windows for crop in window]
    rows = nn.utils.rnn.pad_sequence(crops, batch_first=True)
    ends = torch.tensor([len(crop) for crop in crops], device=rows.device)
    output = head(rows[:, None], torch.arange(rows.shape[1], device=rows.device) < ends[:, None])
    counts, each = [len(window) for window in windows], torch.arange(len(ends))
    scores = output.scores[each, ends - 1].double().split(counts)
    classes = None
    if output.classes is not None:
        newest = output.classes[each, ends - 1].double().split(counts)
        classes = torch.stack([rows.mean(dim=0) for rows in newest])
    return HeadOutput(scores=torch.stack([rows.mean() for rows in scores]), classes=classes)


def online_scores(
    head: Head, snippets: Tensor, window: int | None = None, most_rows: int = MOST_ROWS
) -> HeadOutput:
    """The score that each snippet of a video has when it is the newest, means over its crops.

    ``snippets`` are float [C, T, dim]. The head sees the last ``window`` of them, by default
    ``head.online_window``. Windows go through the head in batches of up to ``most_rows``
    snippets, so memory does not grow with T. Returns ``scores`` float64 [T] and, from heads with
    classes, ``classes`` float64 [T, K]; ``video`` is None. Raises SettingError for a window below
    1. Call it in eval mode, inside ``torch.inference_mode``.
    """
    length = head.online_window if window is None else window
    if length < 1:
        raise SettingError(f"window = {length}: 1 snippet or more")
    length = min(length, head.most_seen or length)
    count = snippets.shape[1]
    step = max(1, most_rows // (len(snippets) * max(1, min(length, count))))
    outputs = [
        score_newest(
            head,
            [
                snippets[:, max(0, newest + 1 - length) : newest + 1]
                for newest in range(start, min(start + step, count))
            ],
        )
        for start in range(0, count, step)
    ]
    if not outputs:
        none = snippets.new_zeros(0, dtype=torch.float64)
        shape = (0, len(head.classes))
        return HeadOutput(scores=none, classes=none.new_zeros(shape) if head.classes else None)
    classes = [each.classes for each in outputs if each.classes is not None]
    return HeadOutput(
        scores=torch.cat([each.scores for each in outputs]),
        classes=torch.cat(classes) if classes else None,
    )
