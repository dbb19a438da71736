"""``vadprep bench gpu`` on the CPU with tiny sizes: every part, its budget, its table and file."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.commands import message, run, without_network
from torch import nn

from vadprep.backbones import GRAPHS
from vadprep.backbones.graphs import Graph
from vadprep.cli.bench import gpu, gpu_parts
from vadprep.cli.bench.gpu import PARTS, bench_gpu, in_child, measured
from vadprep.cli.bench.gpu_parts import Bench, Row, Sizes, clip_flops

TINY = dataclasses.replace(
    gpu.ON_CPU,
    seconds=0.001,
    side=256,
    copied=1 << 22,
    graphs=("tiny",),
    compiled="eager",
    flow=(48, 64),
    pairs=2,
    frames=48,
    processes=(1,),
    videos=1,
    heads=("sultani",),
    features=8,
)
A_TEST = """
import pytest

@pytest.mark.gpu
def test_passes(): pass

@pytest.mark.gpu
def test_fails(): assert False

def test_of_no_gpu(): assert False
"""


class TinyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, 3, bias=False), nn.BatchNorm3d(4)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(clips)).relu().mean(dim=(2, 3, 4))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sizes:
    """Sizes of a second, a tiny network, and a folder with two tests for a GPU."""
    monkeypatch.setitem(GRAPHS, "tiny", Graph(4, TinyNetwork, size=16))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(A_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    return dataclasses.replace(TINY, tests=tmp_path / "tests")


def test_every_part_is_measured(tiny: Sizes) -> None:
    with without_network():
        found = list(bench_gpu("cpu", tiny, measured))
    assert {part for part, _ in found} == set(PARTS)
    rows = {row.what: row for _, row in found}
    assert not [row for what, row in rows.items() if what.startswith("the rest of")]
    measured_rows = [
        "peak fp32", "memory", "tiny fp32 x 1", "TV-L1 64x48", "TV-L1 64x48, 150 iterations",
        "decoding 340x256, decord", "decoding 1280x720, decord", "extraction rgb, 1 crop",
        "extraction rgb, 10 crops", "extraction rgb,flow, 1 crop", "training sultani",
        "torch.compile, tiny",
    ]  # fmt: skip
    for what in measured_rows:
        assert rows[what].value > 0, what
    assert rows["TV-L1 against the CPU"].value == 0
    assert "of peak" in rows["tiny fp32 x 1"].note
    assert "% of the memory" in rows["TV-L1 64x48, 150 iterations"].note
    assert rows["tests of the GPU"][1:] == (1, "passed", "1 failed")
    assert rows["failed test"].note == "test fails"
    assert rows["decoding by nvdec"].note == "no CUDA device"
    assert max(map(len, rows)) <= 30 and max(len(row.note) for row in rows.values()) <= 28, rows


def test_operations_are_counted_without_computing() -> None:
    """r3d_18 has 40.7 billion multiplications and additions a clip of 16 frames (torchvision)."""
    assert clip_flops("r3d_18") == pytest.approx(2 * 40.697e9, rel=0.01)


def bench(sizes: Sizes, seconds: float) -> Bench:
    return Bench("cpu", sizes, time.monotonic() + seconds, {})


def test_what_does_not_fit_the_time_is_left_out_and_said(
    tiny: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = [row.note for _, row in bench_gpu("cpu", tiny, measured, seconds=1.0)]
    assert notes == ["left out, for lack of time"] * len(PARTS)
    late = bench(tiny, 0.0)
    assert [row.note for row in gpu_parts.networks(late)] == ["1 form left out: no time"]
    assert [row.note for row in gpu_parts.training(late)] == ["left out, for lack of time"]
    left = [row.note for row in gpu_parts.extraction(late)]
    assert left == ["left out, for lack of time"] * 3
    assert [row.value for row in gpu_parts.decoding(late)] == [None]


def a_row_then_silence(bench: Bench) -> Iterator[Row]:
    yield Row("first", 1.0)
    time.sleep(60)


def a_row_then_the_end(bench: Bench) -> Iterator[Row]:
    yield Row("first", 1.0)
    if bench.known:
        raise RuntimeError("CUDA error: an illegal memory access\nstack")
    raise SystemExit(3)


@pytest.mark.slow
def test_a_part_that_hangs_or_dies_costs_its_own_rows_alone(
    tiny: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 0.0)
    start = time.monotonic()
    first, stopped = in_child(a_row_then_silence, bench(tiny, 12.0))
    assert first == Row("first", 1.0) and stopped.note == "stopped: it took too long"
    assert time.monotonic() - start < 50
    _, ended = in_child(a_row_then_the_end, bench(tiny, 60.0))
    assert ended.note == "exit code 3"
    _, raised = measured(a_row_then_the_end, bench(tiny, 1.0)._replace(known={"a": 1.0}))
    assert raised.note == "RuntimeError: CUDA error: an illegal memory access"


def test_the_videos_of_an_extraction_fit_the_time(tiny: Sizes) -> None:
    sizes = dataclasses.replace(tiny, videos=32, frames=1600, batches=(32, 1), flow=(256, 340))
    known = {"inception_i3d tf32 x 32": 1000.0, "inception_i3d tf32 x 1": 10.0}
    known["TV-L1 340x256"] = 800.0

    def count(seconds: float, streams: str, crops: int) -> int:
        return gpu_parts.videos_for(seconds, streams, crops, Bench("cuda", sizes, 0.0, known))

    # 100 clips a video: 0.1 s of the network for a crop, 2 s of TV-L1
    assert count(4.0, "rgb", 1) == 20 and count(4.0, "rgb", 10) == 2
    assert count(44.0, "rgb,flow", 1) == 10 and count(0.1, "rgb,flow", 1) == 1
    assert count(1e6, "rgb", 1) == 32


def test_the_command_prints_a_table_and_writes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("peaks", Row("peak fp32", 81.25, "TFLOP/s")), ("tests", Row("tests", None, note="no"))]
    monkeypatch.setattr(gpu, "bench_gpu", lambda device: iter(rows))
    out = tmp_path / "found.json"
    result = run("bench", "gpu", "--device", "cpu", "--out", out)
    lines = [line.split() for line in result.output.splitlines()]
    assert ["peak", "fp32", "81.25", "TFLOP/s"] in lines and ["written:", str(out)] in lines
    assert all(len(line) <= 80 or "written" in line for line in result.output.splitlines())
    found = json.loads(out.read_text())
    assert {"processor", "torch", "CUDA", "cuDNN", "cores"} <= set(found["card"])
    assert found["rows"][1] == dict(part="tests", what="tests", value=None, unit="", note="no")


def test_without_a_gpu_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "this machine has cpu" in message(run("bench", "gpu"))


def test_sizes_of_a_card_take_every_network_and_head() -> None:
    assert set(gpu.ON_GPU.graphs) == set(GRAPHS) and gpu.ON_GPU.processes[-1] == 16
    assert gpu.BUDGET_SECONDS + gpu.GRACE_SECONDS < 8 * 60
