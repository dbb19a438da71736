"""Out of memory, batches are halved: no clip is lost or doubled, and it is written down."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.standin import StandIn, numbers_of, standin_branch, standin_spec
from support.videos import write_video

from vadprep.backbones import Backbone, load_weights
from vadprep.backbones.backbone import AdaptiveBatch
from vadprep.core.errors import OutOfMemory
from vadprep.core.records import Task, Video
from vadprep.extraction.extractor import Extractor
from vadprep.features.shard import DONE, read_video

ALLOCATOR = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError(ALLOCATOR),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
]


class Small(StandIn):
    """A network whose memory holds ``room`` views, from call number ``start`` on."""

    def __init__(self, room: int, error: Exception, start: int = 0) -> None:
        self.room, self.error, self.start = room, error, start
        self.sizes: list[int] = []

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(views))
        if len(self.sizes) > self.start and len(views) > self.room:
            raise self.error
        return super().__call__(views)


def random_views(count: int, size: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    shape = (count, 16, size, size, 3)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return list(views.unbind())


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("count", "room", "batch"), [(8, 4, 4), (8, 1, 1), (7, 3, 2), (1, 3, 2)])
def test_the_same_views_are_computed_in_halves(error, count, room, batch):
    network = Small(room, error)
    views = random_views(count)
    network_in_batches = AdaptiveBatch(network, batch=8)
    np.testing.assert_array_equal(network_in_batches(views), StandIn()(torch.stack(views)))
    assert network_in_batches.batch == batch and network.sizes[-1] == batch
    network.sizes.clear()
    network_in_batches(views)
    assert set(network.sizes) == {batch}  # it stays there, and the shape is one


class Beside(StandIn):
    """At its first call another thread has found that batches of 8 do not fit."""

    def __init__(self, fits: bool) -> None:
        self.batches, self.sizes, self.fits = AdaptiveBatch(self, batch=8), list[int](), fits

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(views))
        if len(self.sizes) == 1:
            self.batches.batch = 4
            if not self.fits:
                raise MemoryError
        return super().__call__(views)


@pytest.mark.parametrize(("fits", "sizes"), [(True, [8, 8, 8]), (False, [8, 4, 4, 4, 4, 4])])
def test_another_thread_that_halves_the_batch_takes_no_view_and_no_memory(fits, sizes):
    views = random_views(20)
    network = Beside(fits)
    np.testing.assert_array_equal(network.batches(views), StandIn()(torch.stack(views)))
    assert network.batches.batch == 4 and network.sizes == sizes


def test_many_threads_halve_the_batch_once(caplog):
    """All of them compute with 8 views when memory runs out."""
    together, views = threading.Barrier(4, timeout=20), random_views(8)

    class Together(Small):
        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            if len(views) == 8:
                together.wait()
            return super().__call__(views)

    network = AdaptiveBatch(Together(4, MemoryError()), batch=8)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(network, [views] * 4):
            np.testing.assert_array_equal(found, StandIn()(torch.stack(views)))
    assert network.batch == 4 and len(caplog.messages) == 1


def test_a_view_that_does_not_fit_is_a_clear_error_and_other_errors_pass():
    with pytest.raises(
        OutOfMemory, match=r"a single view .* memory of cpu \(MemoryError\)"
    ) as found:
        AdaptiveBatch(Small(0, MemoryError()), batch=8)(random_views(5))
    assert found.value.exit_code == 1
    with pytest.raises(RuntimeError, match="a bug"):
        AdaptiveBatch(Small(0, RuntimeError("a bug")), batch=8)(random_views(5))


@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("error", SHORTAGES[:3], ids=lambda error: type(error).__name__)
def test_at_the_third_batch_no_clip_is_lost_or_doubled_and_it_is_recorded(tmp_path, crops, error):
    source = write_video(tmp_path / "a.mp4", 16 * 20)
    spec = standin_spec(batch=4, crops=crops, resize="32x32", crop_size=32)
    network = Small(2, error, start=2)
    extractor = Extractor([standin_branch(spec, network)])
    reports = {}
    for name, each in (("whole", Extractor([standin_branch(spec)])), ("halved", extractor)):
        target = tmp_path / f"{name}.h5"
        reports[name] = each(Task(Video("a", "a.mp4"), {"rgb": target}, source))
    assert network.sizes[:5] == [4, 4, 4, 2, 2] and set(network.sizes[3:]) == {2}
    assert {report.status for report in reports.values()} == {DONE}
    assert reports["whole"].batch_used == {} and reports["halved"].batch_used == {"rgb": 2}
    whole, halved = (read_video(tmp_path / f"{name}.h5") for name in reports)
    assert "batch_used" not in whole.attributes and halved.attributes["batch_used"] == 2
    features = np.concatenate(list(halved.blocks()))
    assert features.tobytes() == np.concatenate(list(whole.blocks())).tobytes()
    np.testing.assert_array_equal(halved.spans, whole.spans)
    shown = [numbers_of(each[0]) for each in features]
    assert sum(shown, []) == list(range(16 * 20))
    again = extractor(Task(Video("b", "a.mp4"), {"rgb": tmp_path / "b.h5"}, source))
    assert again.batch_used == {"rgb": 2}  # the worker stays at it


@pytest.mark.gpu
def test_a_full_gpu_halves_the_batch_and_the_features_agree():
    backbone = Backbone(load_weights("random:0", "inception_i3d"), "cuda", "fp32")
    views = random_views(64, size=224)
    expected = AdaptiveBatch(backbone, batch=64)(views)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    used = total - free
    torch.cuda.set_per_process_memory_fraction((used + (3 << 30)) / total)
    try:
        network_in_batches = AdaptiveBatch(backbone, batch=64)
        found = network_in_batches(views)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert network_in_batches.batch < 64
    assert float((found - expected).norm() / expected.norm()) < 1e-4
