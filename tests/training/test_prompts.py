"""Files of prompt embeddings: what is refused, and what a run knows of them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from support.stopped import stopped_after
from support.tiny_features import tiny_set
from support.training import train

from vadprep.core import array_files
from vadprep.core.errors import CheckpointError, SettingError
from vadprep.core.signals import Stopped
from vadprep.heads import HEADS
from vadprep.training.checkpoint import load_checkpoint
from vadprep.training.prompts import read_prompts

SETTINGS = {
    **{"epochs": 2, "batch_size": 4, "width": 4, "hidden": 8, "embedding": 4},
    "cosine_epochs": 2,
}
CONFIG = dict(head="pel4vad", settings=SETTINGS, seeds=(0,), snapshots=0)


def categorised():
    """The tiny set whose abnormal videos are of two categories."""
    features, manifest = tiny_set()
    names = {1: "fire", 3: "fight", 5: "fire|fight"}
    videos = [
        replace(video, category=names.get(n % 6, "") if video.label else "")
        for n, video in enumerate(manifest.videos)
    ]
    return features, replace(manifest, videos=tuple(videos))


def save(path, **changes):
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    arrays = dict(zip(("Normal", "fire", "fight"), rows, strict=True)) | changes
    np.savez(path, **{name: row for name, row in arrays.items() if row is not None})
    return path


def test_a_run_with_prompts_has_their_loss_and_hash_and_scores_without_the_file(tmp_path, caplog):
    path = save(tmp_path / "p.npz")
    report = train(*categorised(), CONFIG | dict(prompts=path), tmp_path / "r")
    record = json.loads((tmp_path / "r/config.json").read_text())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["config"]["prompts"] == sha256 and record["classes"] == ["fight", "fire"]
    assert "prompt" in (tmp_path / "r/log.csv").read_text().splitlines()[0].split(",")
    assert report.settings.startswith("xd, with prompts, ")
    path.unlink()
    assert load_checkpoint(tmp_path / "r").config.prompts == sha256
    assert not caplog.messages
    alone = train(*categorised(), CONFIG, tmp_path / "alone")
    assert alone.settings.startswith("xd, MIL part alone, ")
    told = "pel4vad is trained without prompt embeddings (--prompts): MIL part alone"
    assert caplog.messages.count(told) == 1


def test_arrays_that_are_too_large_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MOST_NPZ_BYTES", 5000)
    path = tmp_path / "p.npz"
    np.savez_compressed(path, **{name: np.zeros(256) for name in "abc"})
    assert path.stat().st_size < 1000
    with pytest.raises(SettingError, match="'c' is there twice, or too large"):
        read_prompts(path, 256)


def test_a_run_goes_on_only_with_the_same_prompts(tmp_path):
    path = save(tmp_path / "p.npz")
    whole = train(*categorised(), CONFIG | dict(prompts=path), tmp_path / "r")
    again = CONFIG | dict(prompts=path, resume=True)
    assert train(*categorised(), again, tmp_path / "r").as_json() == whole.as_json()
    save(path, fire=np.ones(8))
    with pytest.raises(CheckpointError, match="config.prompts: "):
        train(*categorised(), again, tmp_path / "r")


NARROW = {"epochs": 2, "batch_size": 4, "hidden": 8, "length": 16, "window": 4}


@pytest.mark.parametrize("head, settings", [("pel4vad", SETTINGS), ("vadclip", NARROW)])
def test_a_run_with_prompts_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, head, settings):
    """Stopped within the second epoch."""
    config = CONFIG | dict(head=head, settings=settings, prompts=save(tmp_path / "p.npz"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(*categorised(), config, whole)
    steps = len((whole / "log.csv").read_text().splitlines()) - 1
    with pytest.raises(Stopped), stopped_after(steps - 1):
        train(*categorised(), config, parts)
    train(*categorised(), config | dict(resume=True), parts)
    for name in ("log.csv", "checkpoint-last.safetensors", "scores-last.h5", "metrics.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_the_small_schedule_has_the_width_of_the_prompts_and_a_narrow_one_without(tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    path = save(tmp_path / "p.npz", **dict(zip(("Normal", "fire", "fight"), rows, strict=True)))
    options = dict(head="vadclip", schedule="small", settings={"epochs": 1}, seeds=(0,))
    found = {}
    for name, prompts in (("with", path), ("without", None)):
        train(*categorised(), {**options, "prompts": prompts, "snapshots": 0}, tmp_path / name)
        found[name] = json.loads((tmp_path / name / "config.json").read_text())["config"]
    assert (found["with"]["hidden"], found["without"]["hidden"]) == (512, 128)
    rates = [found[name]["learning_rate"] for name in ("with", "without")]
    assert rates == [3e-4, 1e-3]
    for config in found.values():
        assert (config["layers"], config["window"], config["graphs"]) == (1, 2, False)
    _, given = HEADS["vadclip"].settings("mine", "small", {"hidden": 512})
    assert (given.hidden, given.learning_rate) == (512, 3e-4)
    differ = {each for each in found["with"] if found["with"][each] != found["without"][each]}
    assert differ == {"hidden", "learning_rate", "prompts"}
    wide = {**options, "schedule": "published", "prompts": None}
    with pytest.raises(SettingError, match="expected 64 .*setting hidden = 64"):
        changes = {"settings": {"hidden": 64}, "prompts": path}
        train(*categorised(), wide | changes, tmp_path / "r")


def test_prompts_are_for_heads_that_take_them_and_for_every_class(tmp_path):
    path = save(tmp_path / "p.npz")
    with pytest.raises(SettingError, match="--prompts .*p.npz: ddl takes none"):
        train(*tiny_set(), dict(prompts=path), tmp_path / "r")
    missing = save(tmp_path / "q.npz", fire=None, fires=np.ones(8))
    with pytest.raises(SettingError, match="q.npz: no array 'fire'; did you mean 'fires'"):
        train(*categorised(), CONFIG | dict(prompts=missing), tmp_path / "r")
    with pytest.raises(SettingError, match="prompts: is the hash of a file"):
        train(*tiny_set(), CONFIG | dict(settings=SETTINGS | {"prompts": "a"}), tmp_path / "r")
    for head in ("pel4vad", "vadclip"):  # tiny_set has no category
        settings = SETTINGS if head == "pel4vad" else {"hidden": 8}
        with pytest.raises(SettingError, match="p.npz: .* fill in the column 'category'"):
            train(*tiny_set(), dict(head=head, settings=settings, prompts=path), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def bomb():
    """An archive whose one array unpacks to 1 GiB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("normal.npy", "w") as member:
            for _ in range(32):
                member.write(bytes(1 << 20))
    return stream.getvalue()


def lying():
    """An array whose header declares far more numbers than there are."""
    stream, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("normal.npy", array.getvalue() + bytes(32))
    return stream.getvalue()


def saved(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


HOSTILE = {
    "no archive": (b"not a zip", "not a .npz file of small arrays"),
    "empty": (saved(), "0 arrays"),
    "pickle": (saved(normal=np.array([{"a": 1}], dtype=object)), "not a .npz file"),
    "bomb": (bomb(), "too large"),
    "lying": (lying(), "not a .npz file"),
    "cut": (saved(normal=np.ones(8))[:-30], "not a .npz file"),
    "other width": (saved(normal=np.ones(7)), r"array 'normal' is float64 \(7,\): expected 8"),
    "two axes": (saved(normal=np.ones((1, 8))), r"\(1, 8\): expected 8 finite"),
    "nan": (saved(normal=np.full(8, np.nan)), "expected 8 finite numbers"),
    "beyond float32": (saved(normal=np.full(8, 1e300)), "finite numbers of float32"),
    "case": (saved(Fire=np.ones(8), fire=np.ones(8)), "Fire, fire: two of them differ in case"),
    "zeros": (saved(normal=np.zeros(8)), "not all 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_no_prompts_are_refused_in_one_line(name, tmp_path):
    content, told = HOSTILE[name]
    path = tmp_path / "p.npz"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=told) as caught:
        read_prompts(path, 8)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(SettingError, match="not there: name a .npz file"):
        read_prompts(tmp_path / "none.npz", 8)
    with pytest.raises(SettingError, match=str(tmp_path)):
        read_prompts(tmp_path, 8)
