"""Training and scoring on a device beside the CPU, which a machine without a GPU stands in for.

Every tensor has to be moved where it is used: what is forgotten raises RuntimeError here.
"""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.other_device import other_device
from support.small_heads import SMALL, heads
from support.tiny_features import tiny_set
from support.training import train

from vadprep.training import evaluate_online, online, run, score_features


@pytest.fixture(autouse=True)
def any_device(monkeypatch):
    for module in (online, run):
        monkeypatch.setattr(module, "check_device", lambda name: None)


def test_tensors_of_two_devices_do_not_mix():
    with other_device() as device:
        here, there = torch.ones(3), torch.ones(3).to(device)
        assert there.device == device and (2 * there).tolist() == [2, 2, 2]
        assert (there * torch.tensor(3.0)).sum().item() == 9 and there[here.bool()].tolist()
        assert torch.tensor([1, 2], device=device).tolist() == [1, 2]
        for mixed in (torch.add, torch.maximum, torch.dot):
            with pytest.raises(RuntimeError, match="tensors of two devices"):
                mixed(here, there)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


def losses(folder):
    rows = csv.DictReader((folder / "log.csv").read_text().splitlines())
    return [float(row["total"]) for row in rows]


@heads
def test_a_head_is_trained_and_scored_there_as_here(name, tmp_path):
    features, manifest = tiny_set()
    config = replace(SMALL[name], epochs=2, steps_per_epoch=2, batches="drawn", batch_size=4)
    options = dict(head=name, settings=config, seeds=(0,), snapshots=2)
    here = train(features, manifest, options | dict(device="cpu"), tmp_path / "here")
    with other_device() as device:
        there = train(features, manifest, options | dict(device=str(device)), tmp_path / "there")
        scores = score_features(there, features, device=str(device))
        found = evaluate_online(there, features, manifest=manifest, device=str(device))
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "here"), rel=1e-5)
    assert there.mean() == pytest.approx(here.mean(), abs=1e-6)
    for video_id, video in score_features(here, features, device="cpu").items():
        np.testing.assert_allclose(scores[video_id].snippets, video.snippets, atol=1e-5)
    expected = evaluate_online(here, features, manifest=manifest, device="cpu")
    for one, other in zip(found.metrics.values(), expected.metrics.values(), strict=True):
        assert one["online"].values == pytest.approx(other["online"].values, abs=1e-6)


FEW = dict(epochs=1, steps_per_epoch=2, batches="drawn", batch_size=4)
CASES = {
    "standardized": dict(head="rtfm", settings=replace(SMALL["rtfm"], standardize=True, **FEW)),
    "glances": dict(head="urdmu", settings=replace(SMALL["urdmu"], glance=True, **FEW)),
    "prompts": dict(head="vadclip", settings=replace(SMALL["vadclip"], **FEW)),
    "MIL and prompts": dict(head="pel4vad", settings=replace(SMALL["pel4vad"], **FEW)),
    "small schedule": dict(head="ddl", schedule="small", settings={"epochs": 1, "width": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_head_takes_besides_is_moved_too(case, tmp_path):
    features, manifest = tiny_set(num_train=12)
    clicked = (
        replace(video, category="fire" if video.label else "", glances=(20,) * video.label)
        for video in manifest.videos
    )
    manifest = replace(manifest, videos=tuple(clicked))
    options = dict(CASES[case], seeds=(0,), snapshots=0)
    if "prompts" in case:
        width = options["settings"].hidden
        arrays = {each: np.arange(1.0, width + 1) for each in ("normal", "fire")}
        np.savez(tmp_path / "p.npz", **arrays)
        options["prompts"] = tmp_path / "p.npz"
    here = train(features, manifest, options | dict(device="cpu"), tmp_path / "here")
    with other_device() as device:
        there = train(features, manifest, options | dict(device=str(device)), tmp_path / "there")
    assert there.settings == here.settings
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "here"), rel=1e-5)
    assert there.mean() == pytest.approx(here.mean(), abs=1e-6)
