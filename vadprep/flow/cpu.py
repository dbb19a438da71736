"""TV-L1 on the CPU: pyramids, planes and threads around loops that numba compiles.

Planes are flat float32 arrays of rows ``stride`` apart, with one row above the image, one below,
and ``LEFT`` columns before it, so that no loop asks where the border is. Loops run over whole
vectors of ``LANES`` columns, past the last column of the image: what is computed there is
finite, and never read.

Two things decide the speed. Indices are unsigned (``U``), because numba would otherwise look for
negative ones and LLVM would give up on vectors. And a loop names few arrays, since LLVM compares
their addresses before it trusts a vector, and gives up above eight comparisons: so a row passes
through several short loops while it is in the first-level cache.
"""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba import f4
from numpy.typing import NDArray

from vadprep.core.atomic import temporary_folder
from vadprep.core.child import INSTALLED_ONLY, child_environment
from vadprep.core.log import get_logger
from vadprep.core.numba_settings import numba_settings
from vadprep.core.resources import cache_folder
from vadprep.flow.compute import TVL1, bilinear_axis

LANES = 16
LEFT = 16  # columns before the image in each row of a plane: a cache line, as are LANES columns
BORDER = 4  # pixels of zero around an image that is warped: what lies outside counts as black
TILE = 512  # columns of a row worked on at a time, so that scratch stays in the nearest cache
PLANE = f4[::1]  # numba's type of a plane, or of any flat array of float32
TINY = np.float32(1e-30)  # keeps roots off zero and off denormals, which cost a hundred cycles
ZERO = np.float32(0)
ONE = np.float32(1)
U = np.uintp

_FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}

Plane = NDArray[np.float32]

SOURCES = Path(__file__).parent

_LOG = get_logger(__name__)
_COMPILING = threading.Lock()


def loop(*signature: Any, in_order: bool = False) -> Any:
    """Decorator of a compiled loop; nothing in it may be NaN or infinite.

    Sums are taken in any order, unless ``in_order``. With a signature the loop is compiled, or
    read from numba's cache, at once.
    """
    fastmath = _FAST - {"reassoc"} if in_order else _FAST
    options: Any = {"fastmath": fastmath, "error_model": "numpy", "nogil": True, "cache": True}
    return numba.njit(*signature, **options)


@cache
def loops() -> ModuleType:
    """The module ``cpu_loops``, compiled for this machine; its first import takes half a minute.

    Another process compiles, and this one reads the machine code from numba's cache. A process
    that compiled for itself would run other copies of the inner loops than one that reads them,
    which round differently: the flow of the first worker would not be that of the others.
    """
    folder = cache_folder() / f"numba-{cache_key()}"
    with _COMPILING, ExitStack() as resources:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            resources.enter_context(tempfile.TemporaryFile(dir=folder))
        except OSError as error:
            _LOG.warning(
                "%s: %s: each process compiles the flow again (half a minute); set VADPREP_CACHE "
                "to a folder that can be written",
                folder,
                error.strerror,
            )
            folder = resources.enter_context(temporary_folder())
        done = folder / "done"
        if not done.exists():
            program = f"from vadprep.flow.cpu import import_loops; import_loops({str(folder)!r})"
            command = [sys.executable, "-c", INSTALLED_ONLY + program]
            subprocess.run(command, env=child_environment(), check=True)
            done.touch()
        return import_loops(str(folder))


def import_loops(folder: str) -> ModuleType:
    """Import ``cpu_loops``, with numba's cache in ``folder``.

    Processes may compile at the same time: each function has one signature, so that all of them
    write the same files, and numba replaces files atomically.
    """
    with numba_settings(CACHE_DIR=folder):
        with numba_settings(SLP_VECTORIZE=1):  # four channels of a pixel as one vector: 2x faster
            importlib.import_module("vadprep.flow.cpu_warping")
        return importlib.import_module("vadprep.flow.cpu_loops")


def cache_key() -> str:
    """Digest of everything that numba's machine code depends on.

    Numba itself compiles a function again when its own file changes (its path, time or size), but
    not when the file of a function that it calls changes. And nodes with different processors may
    share the cache folder.
    """
    processor = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    digest = hashlib.sha256(repr((sys.version, numba.__version__, processor)).encode())
    for source in sorted(SOURCES.glob("*.py")):
        digest.update(f"{source} {source.stat().st_mtime_ns} ".encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def tvl1_cpu(frames: NDArray[np.uint8], settings: TVL1, threads: int) -> NDArray[np.float32]:
    """Forward flow of each pair of neighbours: float32 [N - 1, H, W, 2] in px a frame.

    ``frames`` is uint8 [N, H, W]. The flow of a pair does not depend on which thread has it.
    """
    num_pairs, height, width = len(frames) - 1, *frames.shape[1:]
    flow = np.empty((num_pairs, height, width, 2), np.float32)
    grey = list(frames)
    own = threading.local()

    def solve(pair: int) -> None:
        if not hasattr(own, "solver"):  # an initializer would hide a lack of memory
            own.solver = PyramidSolver(height, width, settings)
        flow[pair] = own.solver.flow(grey[pair], grey[pair + 1])

    with ThreadPoolExecutor(max(1, min(threads, num_pairs))) as pool:
        list(pool.map(solve, range(num_pairs)))
    return flow


@dataclass(frozen=True)
class PlaneLayout:
    """Size of one image of the pyramid, and the layout of its planes in memory."""

    height: int
    width: int

    @property
    def stride(self) -> int:
        """Columns of a plane: the image, whole vectors, and what they may read beside them."""
        return LEFT + -(-self.width // LANES) * LANES + LANES

    def plane(self) -> Plane:
        """A plane of zeros."""
        # Two spare rows: the median reads a vector past the row below the last.
        return np.zeros((self.height + 4) * self.stride, np.float32)

    def image(self, plane: Plane) -> NDArray[np.float32]:
        """The pixels of a plane, as a view [height, width]."""
        rows = plane.reshape(-1, self.stride)
        return rows[1 : self.height + 1, LEFT : LEFT + self.width]


class PyramidSolver:
    """Flow of frames of one size. It reuses its memory from pair to pair: one thread at a time."""

    def __init__(self, height: int, width: int, settings: TVL1) -> None:
        self.settings = settings
        self.scales = [PlaneLayout(*size) for size in settings.sizes(height, width)]
        self.iterations = 0
        """Iterations so far, times the pixels of their scale."""
        self._last: tuple[object, list[Plane]] = None, []
        """The second frame of the last pair and its pyramid: the first of the next pair."""
        self._points = (
            tuple(np.zeros(TILE, np.int32) for _ in range(2)),
            tuple(np.zeros(4 * TILE, np.float32) for _ in range(3)),
        )
        self._column = np.zeros(5 * (TILE + LANES), np.float32)
        self._line = np.zeros(self.scales[0].stride, np.float32)
        self._planes = [tuple(scale.plane() for _ in range(8)) for scale in self.scales]
        self._flow = [[scale.plane() for _ in range(3)] for scale in self.scales]
        self._inside = [(np.arange(s.stride) < s.width).astype(np.float32) for s in self.scales]
        self._gradients = [
            np.zeros(4 * (scale.height + 2 * BORDER) * (scale.width + 2 * BORDER), np.float32)
            for scale in self.scales
        ]

    def flow(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The flow [H, W, 2] from one frame uint8 [H, W] to the next, coarse to fine."""
        before = self._last[1] if first is self._last[0] else self.pyramid(first)
        after = self.pyramid(second)
        self._last, s = (second, after), self.settings
        for plane in self._flow[-1][:2]:
            plane[:] = 0
        for level in reversed(range(len(self.scales))):
            scale, image = self.scales[level], self._gradients[level]
            size = scale.height, scale.width, scale.stride
            loops().with_gradients(after[level], image, *size)
            u, v, spare = self._flow[level]
            scratch = (
                self._planes[level], spare, self._column, self._inside[level], self._line,
                self._points,
            )  # fmt: skip
            stop = s.epsilon**2 * scale.height * scale.width
            single = map(np.float32, (s.lambda_ * s.theta, s.theta, s.tau / s.theta, stop))
            numbers = *single, s.warps, s.inner_iterations, s.outer_iterations, s.median
            *planes, iterations = loops().solve(image, before[level], u, v, scratch, *size, numbers)
            self._flow[level] = planes
            self.iterations += iterations * scale.height * scale.width
            for component in range(2 if level else 0):
                self._resize([flow[component] for flow in self._flow], level, level - 1)
        u, v, _ = map(self.scales[0].image, self._flow[0])
        return np.stack([u, v], axis=2)

    def pyramid(self, frame: NDArray[np.uint8]) -> list[Plane]:
        """The frame as a plane of grey levels, and its smaller copies."""
        planes = [scale.plane() for scale in self.scales]
        self.scales[0].image(planes[0])[:] = frame
        for level in range(1, len(planes)):
            self._resize(planes, level - 1, level)
        return planes

    def _resize(self, planes: list[Plane], source: int, target: int) -> None:
        """A plane of one scale from that of the next. Flow on a finer scale is longer in px."""
        old, new, step = self.scales[source], self.scales[target], 1 / self.settings.scale_step
        steps, factor = (step, step), 1.0
        if target < source:
            steps, factor = (old.height / new.height, old.width / new.width), step
        rows = bilinear_axis(new.height, old.height, steps[0])
        columns = bilinear_axis(new.width, old.width, steps[1])
        strides = old.stride, new.stride, np.float32(factor)
        loops().resize(planes[source], planes[target], self._line, rows, columns, *strides)
