"""Clips -> snippets -> scores: the networks of a run, and its head on the last snippets."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.core.errors import SettingError
from vadprep.extraction import Branch, Extractor, Snippets, Stopwatch
from vadprep.features import STREAM_CHOICES
from vadprep.heads.online import score_newest
from vadprep.online.clips import LiveClip
from vadprep.training import Checkpoint


class SnippetMaker:
    """The snippet of a clip, by the branches of an extractor; for one thread."""

    def __init__(self, extractor: Extractor, streams: str) -> None:
        self._branches = [_for_one_clip(extractor.branches[s]) for s in STREAM_CHOICES[streams]]
        self._dtype = np.dtype("float16")  # as a feature folder stores them

    def __call__(self, clip: LiveClip) -> NDArray[np.floating]:
        """float16 [num_crops, dim], the streams side by side, as ``features.read_snippets``."""
        parts = []
        for branch in self._branches:
            with ExitStack() as resources:
                flow = branch.flow_images("", resources)
                snippets = Snippets(branch, flow, clip.boxes, Stopwatch())
                found = [*snippets.add(clip.frames.to(branch.batches.device)), *snippets.flush()]
            parts.append(np.concatenate(found)[0].astype(self._dtype))
        return np.concatenate(parts, axis=1)


def _for_one_clip(branch: Branch) -> Branch:
    """The branch with a spec under which one clip is a whole video."""
    spec = branch.spec
    branch.spec = replace(
        spec,
        tail="drop",
        clip_stride=spec.clip_length,
        batch=min(int(spec.batch), int(spec.crops)),
    )
    branch.batches.batch = min(branch.batches.batch, branch.spec.batch)
    return branch


class WindowScorer:
    """The scores of one source: each head sees the last ``window`` snippets."""

    def __init__(self, checkpoints: Sequence[Checkpoint], window: int) -> None:
        self._heads = [each.head for each in checkpoints]
        self._recent: deque[NDArray[np.floating]] = deque(maxlen=window)

    def restart(self) -> None:
        """Forget the snippets so far: what comes does not follow them."""
        self._recent.clear()

    def add(self, snippet: NDArray[np.floating]) -> float:
        """The score of the newest snippet [num_crops, dim], the mean over the heads."""
        self._recent.append(snippet)
        window = torch.from_numpy(np.stack(self._recent)).float().transpose(0, 1)
        with torch.inference_mode():
            newest = [float(score_newest(head, [window]).scores) for head in self._heads]
        return float(np.mean(newest))


def window_of(checkpoints: Sequence[Checkpoint], window: int | None) -> int:
    """How many snippets the heads see, by default the largest ``online_window``.

    Raises SettingError for less than 1.
    """
    if window is None:
        window = max(each.head.online_window for each in checkpoints)
    if window < 1:
        raise SettingError(f"window = {window}: expected 1 snippet or more")
    return window
