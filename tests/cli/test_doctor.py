"""What ``vadprep doctor`` finds, and what it says of what it does not find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run

from vadprep.backbones import engine_of
from vadprep.backbones.weights import catalog
from vadprep.cli import doctor
from vadprep.cli.doctor import Finding, examine
from vadprep.core import resources as machine


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "PROBE_BYTES", 1 << 20)
    monkeypatch.setenv("VADPREP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_decoder", lambda name: Finding(name, "not tried"))


def found(folder: Path) -> dict[str, Finding]:
    return {each.topic: each for each in examine(folder)}


def test_every_piece_is_looked_at_and_nothing_stays_behind(tmp_path: Path) -> None:
    findings = found(tmp_path)
    wanted = {"vadprep", "torch", "ray", "CPU cores", "GPU", "decoder decord", "decoder pyav"}
    wanted |= {"disk speed", "disk space", "bf16 on the CPU", "weights of inception_i3d"}
    assert wanted <= set(findings)
    assert findings["decoder decord"] == Finding("decoder decord", "works")
    assert findings["decoder pyav"] == Finding("decoder pyav", "works")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_decoding")
def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    lines = run("doctor", tmp_path).output.splitlines()
    assert lines[0].split() == ["what", "found", "cost", "what", "to", "do"]
    rows = json.loads(run("doctor", tmp_path, "--json").output)
    assert {"topic", "found", "cost", "remedy"} == set(rows[0]) and len(rows) == len(lines) - 1


@pytest.mark.usefixtures("no_decoding")
def test_a_missing_package_says_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "no tea")
    missing = found(tmp_path)["no-such-package"]
    assert missing == Finding("no-such-package", "missing", "no tea", "pip install 'vadprep[all]'")


def test_the_base_install_is_enough(tmp_path: Path) -> None:
    """Without torch, decoders or anything else that an extra brings."""
    absent = ("torch", "av", "decord", "ray", "PIL", "safetensors", "numba", "torchvision")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "from vadprep.cli.main import main; main(['doctor', sys.argv[1], '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    rows = {row["topic"]: row for row in json.loads(done.stdout)}
    assert rows["GPU"]["found"] == "unknown without torch"
    assert rows["decoder pyav"]["found"].startswith("does not work: ")
    assert rows["decoder pyav"]["cost"] == "only the other decoder reads videos"


def test_an_engine_that_is_installed_and_broken_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    assert doctor._engine() == Finding("networks on the CPU", engine_of("cpu"))
    monkeypatch.setattr("openvino.frontend.FrontEndManager", None)
    finding = doctor._engine()
    assert (finding.found, finding.cost) == ("openvino does not work", "no extraction")
    assert "cannot run a network" in finding.remedy and "install it again" in finding.remedy


@pytest.mark.usefixtures("no_decoding")
def test_weights_that_are_here_are_named(tmp_path: Path) -> None:
    catalog.converted_path("i3d-rgb").parent.mkdir(parents=True)
    catalog.converted_path("i3d-rgb").touch()
    assert found(tmp_path)["weights of inception_i3d"] == Finding(
        "weights of inception_i3d", "i3d-rgb"
    )


@pytest.mark.usefixtures("no_decoding")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    findings = found(tmp_path / "file")
    assert findings["disk"].cost == "features cannot be written there"


@pytest.mark.usefixtures("no_decoding")
def test_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SLOW_DISK", 1e15)
    assert found(tmp_path)["disk speed"].cost == "shards and saved flow wait for the disk"


@pytest.mark.usefixtures("no_decoding")
def test_the_limits_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2 << 30}\n")
    findings = found(tmp_path)
    assert findings["CPU cores"].found.endswith("the container may use 2.5")
    assert findings["CPU cores"].remedy == "--workers 2"
    assert findings["memory"].found == "2.0 GiB" and findings["memory"].cost
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    findings = found(tmp_path)
    assert findings["CPU cores"].cost == ""


@pytest.mark.parametrize(("cudnn_version", "is_named"), [(91002, True), (91501, False)])
def test_conv3d_that_is_slow_or_wrong_on_a_gpu_is_named(
    cudnn_version: int, is_named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.__version__", "2.9.1")
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: cudnn_version)
    assert list(doctor._conv3d()) == []  # without a GPU it does not matter
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert ["9.10.2" in each.found and "pip" in each.remedy for each in doctor._conv3d()] == (
        [True] * is_named
    )
