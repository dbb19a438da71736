"""The engine of the CPU: OpenVINO and its cache, with a network of a few numbers."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.waiting import wait_for
from torch import Tensor, nn

import vadprep.backbones.engine as engine
from vadprep.backbones import GRAPHS, Backbone, Weights, build, engine_cache, load_weights
from vadprep.backbones.backbone import AdaptiveBatch
from vadprep.backbones.graphs import SCALINGS, Graph, with_weights
from vadprep.core.child import child_environment
from vadprep.core.errors import SpecError

SIZE = 8


class Tiny(nn.Module):
    """Features [batch, 5] of clips [batch, channel, 16, 8, 8]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(5)

    def forward(self, clips: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(clips))).mean(dim=(2, 3, 4))


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small networks, and an empty cache."""
    pytest.importorskip("openvino")
    for name, channels in (("tiny", 3), ("tiny_flow", 2)):
        graph = Graph(5, partial(Tiny, channels), size=SIZE, channels=channels)
        monkeypatch.setitem(GRAPHS, name, graph)
    monkeypatch.setenv("VADPREP_CACHE", str(tmp_path / "cache"))


def weights_of(graph: str = "tiny", seed: int = 0) -> Weights:
    return load_weights(f"random:{seed}", graph)


def views_of(batch: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 16, SIZE, SIZE, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "openvino").glob("*"))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def forbid_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def converted(*arguments: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(engine, "converted", converted)


def test_a_network_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Backbone(weights_of(), "cpu", "fp32")(views_of())
    assert len(entries(tmp_path)) == 1
    forbid_conversion(monkeypatch)
    assert torch.equal(Backbone(weights_of(), "cpu", "fp32")(views_of()), first)
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize(
    "other",
    [
        (weights_of, {"seed": 1}, "fp32", "[-1,1]", 1, 2),
        (weights_of, {}, "fp32", "imagenet", 1, 2),
        (weights_of, {}, "fp32", "[-1,1]", 2, 2),
        (weights_of, {}, "fp32", "[-1,1]", 1, 3),
    ],
)
def test_other_weights_scaling_threads_and_batch_are_another_entry(
    tmp_path: Path, other: tuple
) -> None:
    Backbone(weights_of(), "cpu", "fp32")(views_of())
    make, options, precision, scaling, threads, batch = other
    weights, views = make(**options), views_of(batch)
    found = Backbone(weights, "cpu", precision, scaling, threads)(views)
    assert len(entries(tmp_path)) == 2
    plain = with_weights(build("tiny"), weights.state)
    with torch.inference_mode():
        assert error(found, plain(SCALINGS[scaling](views))) < 1e-5


def test_larger_views_are_taken_where_the_network_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    views = torch.cat([views_of(), views_of().flip(2)], dim=2)
    views = torch.cat([views, views.flip(3)], dim=3)
    with pytest.raises(ValueError, match="16, 16, 3"):
        Backbone(weights_of(), "cpu", "fp32")(views)
    monkeypatch.setitem(GRAPHS, "tiny", replace(GRAPHS["tiny"], least_size=SIZE))
    plain = with_weights(build("tiny"), weights_of().state)
    with torch.inference_mode():
        expected = plain(SCALINGS["[-1,1]"](views))
    assert error(Backbone(weights_of(), "cpu", "fp32")(views), expected) < 1e-5


def test_another_epsilon_of_batch_norm_is_another_entry(tmp_path: Path) -> None:
    Backbone(weights_of(), "cpu", "fp32")(views_of())
    found = Backbone(weights_of(), "cpu", "fp32", batch_norm_eps="0.5")(views_of())
    assert len(entries(tmp_path)) == 2
    plain = with_weights(build("tiny", "0.5"), weights_of().state)
    own = with_weights(build("tiny"), weights_of().state)
    with torch.inference_mode():
        scaled = SCALINGS["[-1,1]"](views_of())
        assert error(found, plain(scaled)) < 1e-5 < 0.01 < error(found, own(scaled))


@pytest.mark.parametrize("engine_name", ["openvino", "torch"])
def test_views_may_have_fractions_of_grey_levels(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine_name == "torch":
        monkeypatch.setattr(engine, "installed_version", lambda name: "")
    views = views_of() * 0.7 + 0.3
    found = Backbone(weights_of(), "cpu", "fp32", "imagenet")(views)
    plain = with_weights(build("tiny"), weights_of().state)
    with torch.inference_mode():
        assert error(found, plain(SCALINGS["imagenet"](views))) < 1e-5


def test_another_version_of_what_defines_networks_is_another_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Backbone(weights_of(), "cpu", "fp32")(views_of())
    there, known = engine.installed_version, {"pytorchvideo": "9.9"}
    monkeypatch.setattr(engine, "installed_version", lambda name: known.get(name) or there(name))
    Backbone(weights_of(), "cpu", "fp32")(views_of())
    assert len(entries(tmp_path)) == 2


def test_a_fifo_in_place_of_an_entry_does_not_block(tmp_path: Path) -> None:
    first = Backbone(weights_of(), "cpu", "fp32")(views_of())
    (entry,) = entries(tmp_path)
    entry.unlink()
    os.mkfifo(entry)
    assert torch.equal(Backbone(weights_of(), "cpu", "fp32")(views_of()), first)
    assert entry.is_file()


def test_weights_without_a_hash_are_told_apart_by_their_tensors() -> None:
    made = [Weights("test", "", "tiny", weights_of(seed=seed).state, "") for seed in (0, 1)]
    first, second = (Backbone(each, "cpu", "fp32")(views_of()) for each in made)
    assert error(second, first) > 0.01


@pytest.mark.parametrize("harm", ["empty", "short", "bit", "foreign", "folder"])
def test_a_damaged_entry_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    first = Backbone(weights_of(), "cpu", "fp32")(views_of())
    (entry,) = entries(tmp_path)
    content = entry.read_bytes()
    broken = {
        "empty": b"",
        "short": content[: len(content) // 2],
        "bit": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "foreign": engine_cache.digested(b"<?xml version='1.0'?><net/>"),
        "folder": b"",
    }[harm]
    if harm == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        entry.write_bytes(broken)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(Backbone(weights_of(), "cpu", "fp32")(views_of()), first)
    assert len(caplog.records) == 1
    if harm != "folder":
        assert engine_cache.read_entry(entry) is not None


def test_two_workers_may_compile_at_once(tmp_path: Path) -> None:
    start, found = threading.Barrier(4), list[Tensor]()

    def work() -> None:
        backbone = Backbone(weights_of(), "cpu", "fp32")
        start.wait()
        found.append(backbone(views_of()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(each, found[0]) for each in found)
    assert len(entries(tmp_path)) == 1


PROGRAM = """
import sys
import time
import torch
from vadprep.backbones import Backbone, engine, load_weights
converted = engine.converted

def logged(*arguments):
    with open(sys.argv[1], "a") as file:
        file.write("converted\\n")
    while sys.argv[2:]:
        time.sleep(1)
    return converted(*arguments)

engine.converted = logged
torch.set_num_threads(1)
views = torch.full((1, 16, 112, 112, 3), 7, dtype=torch.uint8)
print(Backbone(load_weights("random:0", "r3d_18"), "cpu", "fp32")(views).numpy().tobytes().hex())
"""


@pytest.mark.slow
def test_of_several_processes_one_compiles_though_the_first_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, log, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment())

    first = start("converting for ever")
    wait_for(lambda: log.exists() and log.read_text())
    workers = [start() for _ in range(3)]
    first.kill()
    first.communicate()
    outputs = {each.communicate()[0] for each in workers}
    assert [each.returncode for each in workers] == [0, 0, 0] and len(outputs) == 1
    assert log.read_text() == "converted\n" * 2 and len(entries(tmp_path)) == 1


def test_flow_that_is_not_quantised_is_scaled_like_its_pixels() -> None:
    pixels, backbone = views_of(channels=2), Backbone(weights_of("tiny_flow"), "cpu", "fp32")
    assert error(backbone(pixels.float() / 127.5 - 1), backbone(pixels)) < 1e-5


def test_nothing_is_sent_to_the_makers_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``openvino.convert_model`` would write an identity into the home folder and send it."""
    calls = []
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: calls.append(arguments))
    Backbone(weights_of(), "cpu", "fp32")(views_of())
    assert len(entries(tmp_path)) == 1
    assert not calls and not (tmp_path / "home").exists()


def test_without_openvino_torch_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.engine_of("cpu").startswith("openvino 20")
    expected = Backbone(weights_of(), "cpu", "fp32")(views_of())
    monkeypatch.setattr(engine, "installed_version", lambda name: "")
    assert engine.engine_of("cpu") == f"torch {torch.__version__.partition('+')[0]}"
    found = Backbone(weights_of(), "cpu", "fp32")(views_of())
    assert 0 < error(found, expected) < 1e-4
    assert len(entries(tmp_path)) == 1


def test_an_engine_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine.openvino_core.cache_clear()
    try:
        with pytest.raises(SpecError, match="openvino is installed and cannot be used"):
            Backbone(weights_of(), "cpu", "fp32")(views_of())
    finally:
        engine.openvino_core.cache_clear()


class Broken:
    """An OpenVINO that does not compile, or computes zeros."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def compile_model(self, *arguments: object) -> Callable[[list], list]:
        if self.error:
            raise self.error
        return lambda inputs: [np.zeros((1, 4 * 4 * 8 * 8), np.float32)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AttributeError("no such operation"), "cannot run a network .no such operation."),
        (RuntimeError("Exception from a.cpp:1:\nno plugin"), "cannot run a network .no plugin."),
        (None, "computes a convolution wrongly"),
    ],
)
def test_an_engine_that_does_not_compute_is_said(
    error: Exception | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.try_engine()
    monkeypatch.setattr(engine, "openvino_core", lambda: Broken(error))
    with pytest.raises(SpecError, match=f"openvino {words}.*install it again"):
        engine.try_engine()


def test_a_node_with_another_engine_refuses() -> None:
    engine.check_engine(engine.engine_of("cpu"), "cpu")
    with pytest.raises(SpecError, match="computes with openvino 1.0, and this machine has"):
        engine.check_engine("openvino 1.0", "cpu")


ALLOCATION = """Exception from src/inference/src/cpp/core.cpp:117:
Exception from src/inference/src/dev/plugin.cpp:54:
Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:
Failed to allocate 411041792 bytes of memory
"""
"""As OpenVINO 2026.4 says it under a limit of memory."""


def test_too_little_memory_halves_the_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled, views = engine.OpenVinoForm._compiled, list(views_of(8))

    def limited(self: engine.OpenVinoForm, batch: Tensor) -> object:
        if len(batch) > 2:
            raise RuntimeError(ALLOCATION)
        return compiled(self, batch)

    backbone = Backbone(weights_of(), "cpu", "fp32")
    expected = backbone(torch.stack(views))
    monkeypatch.setattr(engine.OpenVinoForm, "_compiled", limited)
    batches = AdaptiveBatch(Backbone(weights_of(), "cpu", "fp32"), batch=8)
    assert error(batches(views), expected) < 1e-5 and batches.batch == 2
    said = engine.said_by(RuntimeError(ALLOCATION))
    assert said == "Failed to allocate 411041792 bytes of memory"


@pytest.mark.slow
@pytest.mark.parametrize("name", [each for each in GRAPHS if each not in ("swin3d_s", "swin3d_b")])
def test_two_engines_agree_on_every_network(name: str) -> None:
    """On a batch of two, where the conversion sees one."""
    weights, graph = load_weights("random:0", name), GRAPHS[name]
    shape = (2, graph.clip_length, graph.size, graph.size, graph.channels)
    views = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2)).byte()
    with torch.inference_mode():
        expected = engine.torch_form(weights, torch.float32, "[-1,1]")(views)
        assert error(engine.OpenVinoForm(weights, "fp32", "[-1,1]", 1)(views), expected) < 1e-4
