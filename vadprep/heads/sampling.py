"""Which snippets of a video a head is shown in training: the samplers of the papers, by name.

    segments-32         means of 32 equal parts (RTFM, DeepMIL and most others)
    segments-32-matlab  the same with the rounding of Sultani's MATLAB script
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

from vadprep.core.clips import matlab_edges, segment_edges
from vadprep.core.errors import SettingError

Rows = NDArray[np.int64]
"""Row numbers of snippets, int64 [t], in order."""

MOST_IN_BLOCKS = 2
"""Videos of up to so many blocks are shown whole by ``blocks``: one row would be too few."""


@dataclass(frozen=True)
class Sampler:
    """How a video becomes a bag."""

    take: Callable[[torch.Tensor, int, np.random.Generator], torch.Tensor]
    """Bag [t, ...] of the snippets [T, ...] of a video with a label of 0 or 1."""
    edges: Callable[[int], Rows] | None = None
    """Where bags are means of parts: the edges of the parts of a video of T snippets."""
    is_random: bool = False
    """Whether the bag depends on the generator, and so has to be taken anew each time."""
    num_views: int = 1
    """Bags that stand for a video at once."""
    most: int | None = None
    """Snippets of the longest bag; None where it grows with the video."""


def sampler(name: str) -> Sampler:
    """The sampler called ``name``; raises SettingError that lists the rules."""
    found = re.fullmatch(r"(segments|uniform|jitter|blocks)-([1-9]\d{0,5})(-matlab)?", name)
    if not found or (found[3] and found[1] != "segments"):
        raise SettingError(
            f"sampling = {name!r}: allowed are segments-32, segments-32-matlab, uniform-200, "
            f"jitter-300 and blocks-3, also with other numbers"
        )
    count = int(found[2])
    if found[1] == "segments":
        edges = partial(matlab_edges if found[3] else segment_edges, segments=count)
        return Sampler(
            lambda snippets, *_: segment_means(snippets, edges(len(snippets))), edges, most=count
        )
    if found[1] == "uniform":
        return Sampler(
            lambda snippets, *_: snippets[uniform_rows(len(snippets), count)], most=count
        )
    if found[1] == "jitter":
        return Sampler(partial(_take_jittered, most=count), is_random=True, most=count)
    return Sampler(partial(_take_blocks, length=count), is_random=True, num_views=2)


def uniform_rows(num_snippets: int, most: int) -> Rows:
    """Which rows stand for a video: all, or ``most`` evenly spread ones when there are more.

    The rule ``uniform_extract`` of XDVioDet: linspace(0, T - 1, most) truncated to integers,
    int64 [min(T, most)]. Shorter videos are padded later, per batch, and keep their length.
    """
    if num_snippets <= most:
        return np.arange(num_snippets)
    return np.linspace(0, num_snippets - 1, most).astype(np.int64)


def segment_means(snippets: torch.Tensor, edges: Rows) -> torch.Tensor:
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


def jitter_rows(num_snippets: int, most: int, label: int, random: np.random.Generator) -> Rows:
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


def block_rows(num_snippets: int, length: int, random: np.random.Generator) -> Rows:
    """A random row of each whole block of ``length``: int64 [T // length].

    All rows of a video of two blocks or less.
    """
    if num_snippets <= MOST_IN_BLOCKS * length:
        return np.arange(num_snippets)
    starts = np.arange(num_snippets // length) * length
    return starts + random.integers(length, size=len(starts))


def _take_jittered(
    snippets: torch.Tensor, label: int, random: np.random.Generator, most: int
) -> torch.Tensor:
    return _rows_of(snippets, jitter_rows(len(snippets), most, label, random))


def _take_blocks(
    snippets: torch.Tensor, label: int, random: np.random.Generator, length: int
) -> torch.Tensor:
    return _rows_of(snippets, block_rows(len(snippets), length, random))


def _rows_of(snippets: torch.Tensor, rows: Rows) -> torch.Tensor:
    return snippets.index_select(0, torch.from_numpy(rows))  # copies rows whole: far faster
