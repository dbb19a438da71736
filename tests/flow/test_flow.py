"""TV-L1 on the CPU against OpenCV's, against known motion, and on hostile images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.naive_flow import naive_flow
from support.opencv_flow import check_agreement, opencv_flow

from vadprep.cli.bench.flow import SIZES, grey_frames
from vadprep.flow import TVL1, cpu, tvl1
from vadprep.flow.cpu import PlaneLayout, PyramidSolver
from vadprep.video import open_frames

cv2 = pytest.importorskip("cv2")

FIXED = TVL1(scales=1, warps=1, inner_iterations=10, outer_iterations=1, epsilon=0)
"""Ten iterations, whatever they change: nothing chaotic, so rounding is all that may differ."""


def texture(height: int, width: int, seed: int = 0, sigma: float = 2) -> NDArray[np.float32]:
    """Random grey levels smoothed by ``sigma`` px, periodic in both directions."""
    rng = np.random.default_rng(seed)
    noise = np.tile(rng.uniform(0, 255, (height, width)).astype(np.float32), (3, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)[height : 2 * height, width : 2 * width]
    low, high = smooth.min(), smooth.max()
    return (smooth - low) / (high - low) * 255


def shifted(image: NDArray[np.float32], u: float, v: float) -> NDArray[np.float32]:
    """A periodic image moved by (u, v) px, exactly."""
    height, width = image.shape
    wave = np.exp(-2j * np.pi * (np.fft.fftfreq(width) * u + np.fft.fftfreq(height)[:, None] * v))
    return np.fft.ifft2(np.fft.fft2(image) * wave).real.astype(np.float32)


def as_grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def walk(real_clips: Path) -> NDArray[np.uint8]:
    """Five grey frames [5, 112, 148] of each real clip, joined."""
    frames = []
    for clip in sorted(real_clips.glob("*.mp4")):
        with open_frames(clip) as stream:
            block = np.concatenate([b for b, _ in zip(stream, range(4), strict=False)])[20:25]
        small = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (148, 112)) for f in block]
        frames.append(np.stack(small))
    return np.concatenate(frames)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_fixed_iterations_equal_opencv_to_rounding(real_clips: Path, size: tuple[int, int]) -> None:
    for clip in sorted(real_clips.glob("*.mp4")):
        frames = grey_frames(clip, size, 6)
        for before, after, flow in zip(frames, frames[1:], tvl1(frames, FIXED), strict=False):
            assert np.abs(flow - opencv_flow(before, after, FIXED)).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_clips_agree_with_opencv_as_it_does_with_itself(real_clips: Path) -> None:
    names = check_agreement(sorted(real_clips.glob("*.mp4")), pairs=20)
    assert "CPU, 1 thread" in names


@pytest.mark.parametrize("median", [1, 3, 5])
def test_each_median_equals_opencv_to_rounding(walk: NDArray[np.uint8], median: int) -> None:
    settings = TVL1(
        scales=2, warps=2, inner_iterations=4, outer_iterations=2, epsilon=0, median=median
    )
    flow = tvl1(walk[:2], settings)[0]
    difference = np.abs(flow - opencv_flow(walk[0], walk[1], settings))
    assert np.quantile(difference, 0.99) <= 1e-3


def test_settings_reach_the_iterations(walk: NDArray[np.uint8]) -> None:
    base = TVL1(scales=2, warps=1, inner_iterations=5, outer_iterations=1, epsilon=0)
    for change in ({"tau": 0.1}, {"lambda_": 0.05}, {"theta": 0.5}, {"scale_step": 0.5}):
        settings = TVL1(**{**vars(base), **change})
        theirs = opencv_flow(walk[0], walk[1], settings)
        assert np.quantile(np.abs(tvl1(walk[:2], settings)[0] - theirs), 0.99) <= 1e-3
        assert np.abs(theirs - opencv_flow(walk[0], walk[1], base)).max() > 0.01


@pytest.mark.parametrize(("u", "v"), [(1, 0), (0, -1), (0.5, 0.25), (-2.5, 1.5), (4, 0), (-3, -4)])
def test_shifts_are_found(u: float, v: float) -> None:
    image = texture(120, 160)
    frames = np.stack([as_grey(image), as_grey(shifted(image, u, v))])
    assert error_inside(tvl1(frames)[0], u, v) <= 0.05


def error_inside(flow: NDArray[np.float32], u: float, v: float) -> float:
    """px. The 99th percentile of the distance to the true shift, 16 px from the border on."""
    return float(np.quantile(np.linalg.norm(flow - (u, v), axis=2)[16:-16, 16:-16], 0.99))


def randomly_shifted(seed: int, sigma: float) -> tuple[NDArray[np.uint8], float, float]:
    """A texture before and after a shift of up to 4 px in any direction, and the shift."""
    rng = np.random.default_rng(seed)
    angle, length = rng.uniform(0, 2 * np.pi), 4 * np.sqrt(rng.uniform())
    u, v = length * np.cos(angle), length * np.sin(angle)
    image = texture(120, 160, seed, sigma)
    return np.stack([as_grey(image), as_grey(shifted(image, u, v))]), u, v


@pytest.mark.parametrize("seed", range(10))
def test_any_shift_of_a_fine_texture_is_found(seed: int) -> None:
    frames, u, v = randomly_shifted(seed, sigma=1.2)
    assert error_inside(tvl1(frames)[0], u, v) <= 0.05


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_shifts_of_smooth_textures_are_found_as_well_as_by_opencv(sigma: float) -> None:
    """The method itself errs by up to 0.1 px where there is little to see."""
    for seed in range(10):
        frames, u, v = randomly_shifted(seed, sigma)
        theirs = error_inside(opencv_flow(frames[0], frames[1], TVL1()), u, v)
        assert error_inside(tvl1(frames)[0], u, v) <= min(theirs + 0.005, 0.12)


HOSTILE = {
    "flat": np.full((2, 40, 50), 128, np.uint8),
    "black": np.zeros((2, 40, 50), np.uint8),
    "black to white": np.stack([np.zeros((40, 50), np.uint8), np.full((40, 50), 255, np.uint8)]),
    "noise": np.random.default_rng(0).integers(0, 256, (2, 40, 50), np.uint8),
    "16 px": np.random.default_rng(1).integers(0, 256, (2, 16, 16), np.uint8),
    "3 px": np.random.default_rng(2).integers(0, 256, (2, 3, 3), np.uint8),
    "wide": np.random.default_rng(3).integers(0, 256, (2, 17, 1100), np.uint8),
    "tall": np.random.default_rng(4).integers(0, 256, (2, 600, 18), np.uint8),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_give_finite_flow(name: str) -> None:
    flow = tvl1(HOSTILE[name])
    assert flow.shape == (1, *HOSTILE[name].shape[1:], 2)
    assert np.isfinite(flow).all()


@pytest.mark.parametrize("name", ["noise", "16 px", "3 px", "wide", "tall"])
def test_odd_sizes_equal_opencv_in_fixed_mode(name: str) -> None:
    frames = HOSTILE[name]
    theirs = opencv_flow(frames[0], frames[1], FIXED)
    assert np.abs(tvl1(frames, FIXED)[0] - theirs).max() <= 1e-5


def test_frames_without_change_have_no_flow(walk: NDArray[np.uint8]) -> None:
    assert not tvl1(walk[[0, 0]]).any()


def test_flow_of_a_pair_depends_on_nothing_else(walk: NDArray[np.uint8]) -> None:
    frames = walk[:5]
    alone = np.concatenate([tvl1(frames[i : i + 2], threads=1) for i in range(4)])
    for threads in (1, 2, 3, 8):
        assert np.array_equal(tvl1(frames, threads=threads), alone)


def test_one_frame_has_no_flow(walk: NDArray[np.uint8]) -> None:
    assert tvl1(walk[:1]).shape == (0, 112, 148, 2)


def test_the_stop_rule_ends_early(walk: NDArray[np.uint8]) -> None:
    most = TVL1().warps * TVL1().inner_iterations * TVL1().outer_iterations
    solver = PyramidSolver(112, 148, TVL1())
    solver.flow(walk[0], walk[1])
    pixels = sum(height * width for height, width in TVL1().sizes(112, 148))
    assert 0 < solver.iterations < 0.8 * most * pixels


def test_the_stop_rule_ends_where_it_is_written_to(walk: NDArray[np.uint8]) -> None:
    settings = TVL1(scales=2, warps=2, outer_iterations=2, epsilon=0.1)
    frames = np.ascontiguousarray(walk[:4, 20:68, 30:94])
    sizes = settings.sizes(48, 64)
    seen = set[int]()
    for before, after in zip(frames, frames[1:], strict=False):
        flow, counts = naive_flow(before, after, settings)
        solver = PyramidSolver(48, 64, settings)
        assert np.abs(solver.flow(before, after) - flow).max() <= 1e-3
        assert solver.iterations == sum(n * h * w for n, (h, w) in zip(counts, sizes, strict=True))
        seen.update(counts)
    assert len(seen) > 2 and max(seen) < 2 * 2 * settings.inner_iterations


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((2, 20, 20), np.float32), "float32"),
        (np.zeros((2, 20, 20, 3), np.uint8), "grey uint8"),
        (np.zeros((0, 20, 20), np.uint8), "1 or more"),
        (np.zeros((2, 2, 20), np.uint8), "3 px"),
    ],
)
def test_other_frames_are_refused(frames: NDArray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tvl1(frames)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="tpu.*allowed are cpu, cuda"):
        tvl1(np.zeros((2, 20, 20), np.uint8), device="tpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [("tau", 0), ("scales", 0), ("scale_step", 1.0), ("epsilon", -1), ("median", 4)],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} = {value!r}"):
        TVL1(**{field: value})


def test_sizes_are_opencvs() -> None:
    sizes = TVL1().sizes(256, 340)
    image = np.zeros((256, 340), np.float32)
    for size in sizes:
        assert size == image.shape
        image = cv2.resize(image, None, fx=0.8, fy=0.8)
    assert len(sizes) == 5
    assert TVL1().sizes(20, 300) == [(20, 300), (16, 240)]


def test_the_pyramid_is_opencvs(walk: NDArray[np.uint8]) -> None:
    solver = PyramidSolver(112, 148, TVL1())
    image = walk[0].astype(np.float32)
    for scale, plane in zip(solver.scales, solver.pyramid(walk[0]), strict=True):
        assert np.abs(scale.image(plane) - image).max() <= 1e-3
        image = cv2.resize(image, None, fx=0.8, fy=0.8)


def test_planes_end_on_whole_vectors() -> None:
    for width in (3, 16, 17, 340):
        assert PlaneLayout(4, width).stride % 16 == 0


FLOW = """
import hashlib, numba, numpy as np
from vadprep.flow import tvl1
from vadprep.flow.cpu import loops
before = numba.config.CACHE_DIR, numba.config.SLP_VECTORIZE
frames = np.random.default_rng(0).integers(0, 256, (3, 60, 80), np.uint8)
print(hashlib.sha256(tvl1(frames).tobytes()).hexdigest())
assert (numba.config.CACHE_DIR, numba.config.SLP_VECTORIZE) == before
assert loops().solve.stats.cache_hits and not loops().solve.stats.cache_misses
"""


def start_flow(cache_folder: Path) -> subprocess.Popen[str]:
    """A process that prints a digest of flow, with that folder as the cache."""
    environment = {**os.environ, "VADPREP_CACHE": str(cache_folder)}
    command = [sys.executable, "-c", FLOW]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_first_processes_have_the_same_flow_as_those_that_find_it_compiled(
    tmp_path: Path,
) -> None:
    """Four that compile at once; one that comes later; one that has no folder for its cache.

    Numba writes each file under another name and renames it. It numbers the signatures of a
    function, so that two processes could only harm each other where there are several.
    """
    processes = [start_flow(tmp_path / "cache") for _ in range(4)]
    first = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert "done" in names
    assert all(name.endswith((".1.nbc", ".nbi")) for name in names - {"done"})
    times = {path: path.stat().st_mtime_ns for path in files}
    assert {start_flow(tmp_path / "cache").communicate()[0]} == first
    assert {path: path.stat().st_mtime_ns for path in files} == times
    (tmp_path / "file").write_text("no folder")
    output, warning = start_flow(tmp_path / "file").communicate()
    assert {output} == first and "set VADPREP_CACHE" in warning


def test_threads_that_come_first_together_do_not_mix_up_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen, compiled = cpu.numba.config, set(), []

    def imported(name: str) -> None:
        time.sleep(0.01)
        seen.add((name, config.SLP_VECTORIZE, config.CACHE_DIR))

    before = config.SLP_VECTORIZE, config.CACHE_DIR
    monkeypatch.setenv("VADPREP_CACHE", str(tmp_path))
    monkeypatch.setattr(cpu.importlib, "import_module", imported)
    monkeypatch.setattr(cpu.subprocess, "run", lambda *args, **options: compiled.append(args))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: cpu.loops.__wrapped__(), range(4)))
    folder = str(tmp_path / f"numba-{cpu.cache_key()}")
    assert seen == {("vadprep.flow.cpu_warping", 1, folder), ("vadprep.flow.cpu_loops", 0, folder)}
    assert (config.SLP_VECTORIZE, config.CACHE_DIR) == before
    assert len(compiled) == 1


def test_code_of_other_sources_or_processors_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba itself would go on with what was compiled from the old text of a called function."""
    monkeypatch.setattr(cpu, "SOURCES", shutil.copytree(cpu.SOURCES, tmp_path / "flow"))
    here = cpu.cache_key()
    assert cpu.cache_key() == here
    with open(tmp_path / "flow" / "cpu_warping.py", "a") as file:
        file.write("# other\n")
    changed = cpu.cache_key()
    monkeypatch.setattr(cpu.binding, "get_host_cpu_name", lambda: "z80")
    assert len({here, changed, cpu.cache_key()}) == 3


def test_a_lack_of_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise MemoryError("unable to allocate")

    monkeypatch.setattr(cpu, "PyramidSolver", refuse)
    with pytest.raises(MemoryError, match="unable to allocate"):
        tvl1(np.zeros((3, 32, 32), np.uint8), threads=2)
