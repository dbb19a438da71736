"""The whole line on the drawn street, as the README's first command runs it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from support.commands import run, without_network

from vadprep.cli import demo, demo_scene as scene
from vadprep.cli.main import main
from vadprep.features.status import status


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_demo_finds_its_anomalies_and_its_controls_do_not(tmp_path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "random:0" in result.output and "NEVER TRAINED" in result.output
    report = json.loads((out / "report.json").read_text())
    found = report["ddl"]["last"]["frame_auc"]
    assert found >= 0.80
    assert found > report["control_frame_difference"]["frame_auc"]
    assert 0.4 <= report["control_shuffled_labels"]["last"]["frame_auc"] <= 0.6
    assert report["random_weights"] is True
    assert status(out / "features")["rgb"].is_complete
    assert len(list((out / "plots").glob("*.png"))) == 18


@pytest.mark.slow
def test_the_demo_trains_on_both_streams(tmp_path, monkeypatch) -> None:
    """With stand-ins for the networks and TV-L1, on a few videos."""
    monkeypatch.setattr(scene, "PAIRS", {"train": 2, "test": 1})
    monkeypatch.setattr(scene, "LENGTH_FRAMES", (64, 80))
    monkeypatch.setattr(demo, "SEEDS", (0, 1))
    monkeypatch.setattr(demo, "CONTROL_SEEDS", (0, 1))
    command = ("demo", "--out", tmp_path, "--streams", "rgb,flow", "--workers", "1")
    with without_network():
        result = run(*command)
        again = run(*command)
    assert result.exit_code == 0, result.output
    assert again.exit_code == 0, again.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["specs"]) == {"rgb", "flow"} and report["random_weights"] is True
    config = json.loads((tmp_path / "runs" / "ddl-concat" / "seed-0" / "config.json").read_text())
    assert config["streams"] == "concat"
    assert all(each.is_complete for each in status(tmp_path / "features").values())
