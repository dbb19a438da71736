"""Which snippets of a video a head is shown in training: the samplers of the papers, by name.

    segments-32         means of 32 equal parts (RTFM, DeepMIL and most others)
    segments-32-matlab  the same with the rounding of Sultani's MATLAB script
    means-256           means of 256 equal parts of a longer video, else all rows (VadCLIP)
    uniform-200         200 evenly spread rows (XDVioDet, DDL, PEL4VAD)
    jitter-300          AR-Net's two rules: spread at random when abnormal, a window when normal
    blocks-3            a random row of each block of 3, twice: CSL-TAL's two views

Other numbers are allowed too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.core.clips import matlab_edges, segment_edges
from vadprep.core.errors import SettingError, near_miss

Rows = NDArray[np.int64]
"""Row numbers of snippets, int64 [t], in order."""


@dataclass(frozen=True)
class Sampler:
    """How a video becomes a bag: rows of it, or means of its parts."""

    rows: Callable[[int, int, np.random.Generator], Rows] | None = None
    """Rows of a video of T snippets with a label of 0 or 1."""
    edges: Callable[[int], Rows] | None = None
    """Edges of the parts of a video of T snippets."""
    is_random: bool = False
    """Whether the bag depends on the generator, and so has to be taken anew each time."""
    num_views: int = 1
    """Bags that stand for a video at once."""
    most: int | None = None
    """Snippets of the longest bag; None where it grows with the video."""

    def take(self, snippets: Tensor, label: int, random: np.random.Generator) -> Tensor:
        """Bag [t, ...] of the snippets [T, ...] of a video with a label of 0 or 1."""
        if self.edges is not None:
            return segment_means(snippets, self.edges(len(snippets)))
        assert self.rows is not None
        rows = self.rows(len(snippets), label, random)
        return snippets.index_select(0, torch.from_numpy(rows))  # copies rows whole: far faster

    def places(self, num_snippets: int, rows: Rows) -> Rows:
        """Where ``rows`` of a video of T snippets are in its bag: int64, one for each of them.

        The part that holds a row, the middle one where several do (T < parts), or the last row
        taken that is not after it. Raises SettingError for a sampler that is random.
        """
        if self.edges is not None:
            edges = self.edges(num_snippets)
            last = segment_of(num_snippets, edges)[rows]
            first = np.minimum(np.searchsorted(edges[:-1], rows), last)
            return (first + last) // 2
        if self.rows is None or self.is_random:
            raise SettingError(
                "glances need sampling segments-N or uniform-N, which always shows them"
            )
        taken = self.rows(num_snippets, 0, np.random.default_rng(0))
        return np.searchsorted(taken, rows, side="right").astype(np.int64) - 1


RULES = ("segments-32", "segments-32-matlab", "means-256", "uniform-200", "jitter-300", "blocks-3")
"""Names of samplers; each takes other numbers as well."""


def sampler(name: str) -> Sampler:
    """The sampler called ``name``; raises SettingError that lists the rules."""
    found = re.fullmatch(r"(segments|means|uniform|jitter|blocks)-([1-9]\d{0,5})(-matlab)?", name)
    if not found or (found[3] and found[1] != "segments"):
        raise SettingError(
            f"sampling = {name!r}: allowed are {', '.join(RULES)}, also with other numbers"
            f"{near_miss(name, RULES)}"
        )
    n = int(found[2])
    if found[1] == "segments":
        edges = matlab_edges if found[3] else segment_edges
        return Sampler(edges=partial(edges, segments=n), most=n)
    if found[1] == "means":
        return Sampler(edges=lambda length: segment_edges(length, min(length, n)), most=n)
    if found[1] == "uniform":
        return Sampler(lambda length, *_: uniform_rows(length, n), most=n)
    if found[1] == "jitter":
        return Sampler(partial(jitter_rows, n), is_random=True, most=n)
    return Sampler(partial(block_rows, n), is_random=True, num_views=2)


def uniform_rows(num_snippets: int, most: int) -> Rows:
    """All rows, or ``most`` evenly spread ones when there are more: int64 [min(T, most)].

    The rule ``uniform_extract`` of XDVioDet: linspace(0, T - 1, most) truncated to integers.
    """
    if num_snippets <= most:
        return np.arange(num_snippets)
    return np.linspace(0, num_snippets - 1, most).astype(np.int64)


def segment_means(snippets: Tensor, edges: Rows) -> Tensor:
    """Mean snippet of each part: float32 or float64 [segments, ...] from float [T, ...]."""
    wide = snippets.float() if snippets.dtype == torch.float16 else snippets
    parts = [wide[a : max(b, a + 1)] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return torch.stack([part.mean(dim=0) for part in parts])


def segment_of(num_snippets: int, edges: Rows) -> Rows:
    """Which part each snippet belongs to, the way back from parts: int64 [num_snippets].

    The last part that starts at or before it: parts without rows come before that one.
    """
    rows = np.searchsorted(edges[:-1], np.arange(num_snippets), side="right") - 1
    return rows.astype(np.int64)


def jitter_rows(most: int, num_snippets: int, label: int, random: np.random.Generator) -> Rows:
    """AR-Net's rows of a video with more than ``most`` snippets, int64 [min(T, most)].

    Abnormal (1): row i lies anywhere from floor(i T / most) to floor((i + 1) T / most), both
    included, the last row at its lower end. Normal (0): a window of ``most`` neighbours that
    starts in [0, T - most), so that, as in the code, the very last snippet is never in it.
    """
    if num_snippets <= most:
        return np.arange(num_snippets)
    if not label:
        return int(random.integers(num_snippets - most)) + np.arange(most)
    lower = np.arange(most) * num_snippets // most
    upper = np.append(lower[1:], lower[-1])
    return random.integers(lower, upper, endpoint=True)


def block_rows(block: int, num_snippets: int, label: int, random: np.random.Generator) -> Rows:
    """A random row of each whole block: int64 [T // block]; all rows of up to two blocks."""
    if num_snippets <= 2 * block:  # one row would be too few
        return np.arange(num_snippets)
    starts = np.arange(num_snippets // block) * block
    return starts + random.integers(block, size=len(starts))
