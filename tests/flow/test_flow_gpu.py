"""TV-L1 by Triton: its kernels interpreted on the CPU, compiled for an H100, and run on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.interpreted_flow import compiled_for_an_h100, interpret, interpreted_flow
from support.naive_flow import naive_flow
from support.opencv_flow import check_agreement, opencv_flow

from vadprep.cli.bench.flow import grey_frames
from vadprep.core.errors import VadprepError
from vadprep.flow import TVL1, tvl1

pytest.importorskip("triton")
from vadprep.flow import (
    gpu,
    gpu_kernels as kernels,  # noqa: E402
)

FIXED = TVL1(scales=1, warps=1, inner_iterations=10, outer_iterations=1, epsilon=0)
STOPPING = TVL1(scales=2, warps=2, inner_iterations=4, outer_iterations=2, epsilon=0.17)
Frames = NDArray[np.uint8]
Flow = Callable[..., tuple[NDArray[np.float32], NDArray[np.int32]]]


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    """``interpreted_flow``, in another process."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=interpret) as process:
        yield lambda *values, **options: process.submit(
            interpreted_flow, *values, **options
        ).result()


def moving(num_frames: int, height: int, width: int) -> Frames:
    """A smooth pattern that moves, faster from frame to frame."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    frames = []
    for t in range(num_frames):
        dx, dy = 0.7 * t * t, -0.4 * t
        waves = np.sin((x - dx) / 2.3) + np.cos((y - dy) / 3.1) + np.sin((x + y - dx - dy) / 5)
        frames.append(127 + 40 * waves)
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize(
    "changes",
    [{}, {"median": 3}, {"median": 1}, {"scales": 2, "warps": 2, "inner_iterations": 3}],
    ids=lambda changes: "-".join(changes) or "fixed",
)
def test_a_fixed_number_of_iterations_agrees_with_opencv(
    flow: Flow, changes: dict[str, int]
) -> None:
    frames, settings = moving(2, 24, 40), dataclasses.replace(FIXED, **changes)
    expected = opencv_flow(*frames, settings)
    assert np.abs(expected).max() > 0.5
    assert np.abs(flow(frames, settings)[0][0] - expected).max() < 1e-4


@pytest.fixture(scope="module")
def stopped(flow: Flow) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    return flow(moving(3, 24, 40), STOPPING)


def test_each_pair_stops_by_itself_as_the_naive_one_does(
    stopped: tuple[NDArray[np.float32], NDArray[np.int32]],
) -> None:
    frames, (found, counts) = moving(3, 24, 40), stopped
    assert len(set(counts[:, 0])) > 1
    for pair in range(2):
        expected, count = naive_flow(frames[pair], frames[pair + 1], STOPPING)
        assert counts[pair].tolist() == count
        assert np.abs(found[pair] - expected).max() < 1e-4


def test_a_pair_alone_has_the_same_bits(
    flow: Flow, stopped: tuple[NDArray[np.float32], NDArray[np.int32]]
) -> None:
    found, counts = flow(moving(3, 24, 40)[1:], STOPPING)
    assert found[0].tobytes() == stopped[0][1].tobytes()
    assert counts[0].tolist() == stopped[1][1].tolist()


def test_repetition_changes_no_bit(flow: Flow) -> None:
    frames = moving(3, 24, 40)
    settings = dataclasses.replace(FIXED, inner_iterations=2, median=3)
    assert flow(frames, settings)[0].tobytes() == flow(frames, settings)[0].tobytes()


def test_the_last_batch_may_overlap(flow: Flow) -> None:
    frames = moving(4, 24, 40)
    settings = dataclasses.replace(FIXED, inner_iterations=1, median=1)
    two_pairs = 2 * gpu.PLANES_OF_A_PAIR * 4 * 24 * 40
    found = flow(frames, settings, budget_bytes=two_pairs)[0]
    assert np.array_equal(found, flow(frames, settings)[0])


def test_tiles_leave_no_seams(flow: Flow) -> None:
    frames, settings = moving(2, 24, 40), dataclasses.replace(FIXED, inner_iterations=2)
    assert np.array_equal(flow(frames, settings)[0], flow(frames, settings, (16, 32), 8)[0])


def test_still_and_flat_pairs_have_no_flow_and_end_at_once(flow: Flow) -> None:
    still = moving(1, 16, 16)[[0, 0]]
    frames = np.concatenate([still, np.full((2, 16, 16), 90, np.uint8)])
    found, counts = flow(frames, TVL1(warps=1))
    assert not found[[0, 2]].any()
    assert counts[[0, 2]].tolist() == [[1], [1]]


def test_noise_gives_finite_flow(flow: Flow) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 17, 16), np.uint8)
    assert np.isfinite(
        flow(frames, dataclasses.replace(FIXED, warps=2, inner_iterations=3))[0]
    ).all()


def test_one_frame_has_no_pair(flow: Flow) -> None:
    found, counts = flow(moving(1, 24, 40), TVL1())
    assert found.shape == (0, 24, 40, 2)
    assert counts.shape == (0, 2)


def test_an_old_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.__version__", "3.3.1")
    with pytest.raises(VadprepError, match=r"Triton 3\.3\.1 .* 3\.4 can"):
        gpu.tvl1_cuda(torch.from_numpy(moving(2, 16, 16)), TVL1())


@pytest.mark.parametrize("count", [9, 25])
def test_exchanges_leave_the_median_in_the_middle(count: int) -> None:
    values = np.random.default_rng(0).integers(0, 50, (1000, count))
    columns = list(values.T)
    for i, j in kernels.exchanges(count):
        low, high = np.minimum(columns[i], columns[j]), np.maximum(columns[i], columns[j])
        columns[i], columns[j] = low, high
    assert np.array_equal(columns[count // 2], np.median(values, axis=1))


@pytest.mark.parametrize("median", [3, 5])
@pytest.mark.slow
def test_kernels_compile_for_an_h100_once_for_all_sizes(median: int) -> None:
    sizes = [(256, 340), (205, 272), (17, 21)]
    settings = TVL1(median=median, warps=1, inner_iterations=4, outer_iterations=1)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        found = process.submit(compiled_for_an_h100, sizes, settings).result()
    # Adding up is compiled for each power of two that the number of tiles may reach.
    assert found == {"prepare": 1, "iterate": 1, "advance": 3}


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(VadprepError, match="no CUDA device is seen here"):
        tvl1(moving(2, 16, 16), device="cuda")


def on_gpu(frames: Frames, settings: TVL1, **options: int) -> NDArray[np.float32]:
    return gpu.tvl1_cuda(torch.from_numpy(frames).cuda(), settings, **options)[0].cpu().numpy()


@pytest.mark.gpu
@pytest.mark.parametrize("median", [1, 3, 5])
def test_on_a_gpu_a_fixed_number_of_iterations_agrees_with_opencv(median: int) -> None:
    frames, settings = moving(2, 256, 340), dataclasses.replace(FIXED, median=median)
    assert np.abs(on_gpu(frames, settings)[0] - opencv_flow(*frames, settings)).max() < 1e-4


@pytest.mark.gpu
def test_on_a_gpu_pairs_stop_as_the_naive_one_does() -> None:
    frames = moving(4, 48, 40)
    found, counts = gpu.tvl1_cuda(torch.from_numpy(frames).cuda(), STOPPING)
    for pair in range(3):
        expected, count = naive_flow(frames[pair], frames[pair + 1], STOPPING)
        assert counts[pair].tolist() == count
        assert np.abs(found[pair].cpu().numpy() - expected).max() < 1e-4


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_on_a_gpu_real_clips_agree_with_opencv_as_it_does_with_itself(real_clips: Path) -> None:
    names = check_agreement(sorted(real_clips.glob("*.mp4")), pairs=20)
    assert torch.cuda.get_device_name() in names


@pytest.mark.gpu
def test_on_a_gpu_neither_batches_nor_repetition_change_a_bit(real_clips: Path) -> None:
    clips = sorted(real_clips.glob("*.mp4"))
    frames = np.concatenate([grey_frames(clip, (256, 340), 5) for clip in clips])
    together = on_gpu(frames, TVL1())
    assert np.array_equal(on_gpu(frames, TVL1()), together)
    four_at_a_time = 4 * gpu.PLANES_OF_A_PAIR * 4 * 256 * 340
    assert np.array_equal(on_gpu(frames, TVL1(), budget_bytes=four_at_a_time), together)
    assert np.array_equal(on_gpu(frames[3:5], TVL1())[0], together[3])


@pytest.mark.gpu
def test_on_a_gpu_threads_do_not_disturb_each_other() -> None:
    batches = [moving(8, 64 + each, 80) for each in range(4)]
    expected = [on_gpu(frames, TVL1()) for frames in batches]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            found = list(threads.map(on_gpu, batches, [TVL1()] * 4))
            assert all(map(np.array_equal, found, expected))


@pytest.mark.gpu
def test_on_a_gpu_memory_stays_within_the_budget() -> None:
    frames = torch.from_numpy(moving(60, 256, 340)).cuda()
    budget, result_bytes = 1 << 27, 59 * 256 * 340 * 2 * 4
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    flow = gpu.tvl1_cuda(frames, dataclasses.replace(FIXED, scales=5), budget)[0]
    assert torch.cuda.max_memory_allocated() - before < budget + result_bytes
    del flow
    assert torch.cuda.memory_allocated() == before
