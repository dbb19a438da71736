"""The report's pages: their data, texts as texts, and a clear word where something is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score
from support.attacks import is_plain
from support.scored import TRAINED, data_of, video_scores, write_manifest, write_run
from support.stored import failed_video, small_spec, stored_video, write_folder
from support.videos import write_video

import vadprep
from vadprep.core.errors import CheckpointError, SettingError
from vadprep.evaluation import Origin
from vadprep.evaluation.report.video_data import thinned
from vadprep.features.shard import StoredVideo, crc32

EVIL = '<img src=x onerror="alert(1)">#%41/' + "a&'\"" * 20 + "</script><script>x"


def page_of(folder: Path, video_id: str) -> dict[str, Any]:
    rows = data_of(folder / "index.html")["videos"]
    return data_of(folder / next(row["page"] for row in rows if row["id"] == video_id))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three videos: a fire that is found, one that is missed, and a normal one."""
    rng = np.random.default_rng(0)
    scores = {
        "found": video_scores([0.1, 0.2, 0.9, 0.95, 0.3]),
        "missed": video_scores([0.1, 0.6, 0.2, 0.3, 0.1]),
        "quiet": video_scores(rng.uniform(0, 0.4, 5)),
    }
    for name in scores:
        write_video(tmp_path / f"{name}.mp4", 80)
    rows = {"found": "[[32, 64]]", "missed": "[[40, 50]]", "quiet": "[]"}
    manifest = write_manifest(
        tmp_path / "m.csv", {name: (f"{name}.mp4", truth) for name, truth in rows.items()}
    )
    return write_run(tmp_path / "run", scores, manifest=manifest)


def test_a_row_says_how_a_video_was_judged(run: Path, tmp_path: Path) -> None:
    page = vadprep.report(run, out=tmp_path / "page", previews="none")
    data = data_of(page)
    found, missed, quiet = (row["runs"][0] for row in data["videos"])
    assert (found["label"], found["category"], found["score"]) == (1, "fire", 0.95)
    assert (found["auc"], found["false_alarms"], found["missed"]) == (1.0, 0.0, 0.95)
    assert (missed["missed"], missed["missed_at"]) == (0.3, 1.6)
    assert missed["false_alarms"] == pytest.approx(16 / 70, abs=1e-5)
    assert quiet["auc"] is None and quiet["missed"] is None and quiet["label"] == 0
    assert found["spark"][:16] == [0.1] * 12 + [0.2] * 4
    scores = vadprep.evaluate(run, manifest=tmp_path / "m.csv")
    assert scores.values["frame_auc"] == pytest.approx(
        area(data["runs"][0]["curves"]["roc"]), abs=1e-4
    )


def area(curve: list[list[float]]) -> float:
    x, y = curve
    return float(np.trapezoid(y, x) if hasattr(np, "trapezoid") else np.trapz(y, x))


def test_curves_are_scikit_learns(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = np.round(rng.uniform(size=200), 2)  # with ties
    manifest = write_manifest(tmp_path / "m.csv", {"a": ("a.mp4", "[[160, 1600]]")})
    run = write_run(tmp_path / "run", {"a": video_scores(values)}, manifest=manifest)
    curves = data_of(vadprep.report(run, out=tmp_path / "page"))["runs"][0]["curves"]
    labels, scores = np.zeros(3200, bool), np.repeat(values, 16)
    labels[160:1600] = True
    assert area(curves["roc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    precision, recall, _ = precision_recall_curve(labels, scores)
    for one, other in zip(curves["pr"], (recall[-2::-1], precision[-2::-1]), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    page = vadprep.report(run, out=tmp_path / "page", threshold=0.3)
    alarms, at = scores >= 0.3, data_of(page)["runs"][0]["curves"]["at"]
    assert at["recall"] == pytest.approx((alarms & labels).sum() / labels.sum())
    assert at["precision"] == pytest.approx((alarms & labels).sum() / alarms.sum())
    assert at["false"] == pytest.approx((alarms & ~labels).sum() / (~labels).sum())
    assert sum(curves["normal"]) + sum(curves["abnormal"]) == 3200


@pytest.mark.parametrize("coverage", ["cut", "hold"])
def test_the_pages_judge_the_frames_that_the_training_judged(tmp_path: Path, coverage: str) -> None:
    manifest = write_manifest(tmp_path / "m.csv", {"a": ("a.mp4", "[[20, 69]]")})
    scores = replace(video_scores([0.2, 0.6, 0.4, 0.7]), num_frames=69)
    run = write_run(tmp_path / "run", {"a": scores}, manifest=manifest)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "coverage": coverage}))
    page = vadprep.report(run, out=tmp_path / "page")
    curves, found = data_of(page)["runs"][0]["curves"], vadprep.evaluate(run, manifest=manifest)
    num_frames = {"cut": 64, "hold": 69}[coverage]
    assert sum(curves["normal"]) + sum(curves["abnormal"]) == num_frames == found.num_frames
    assert area(curves["roc"]) == pytest.approx(found.values["frame_auc"], abs=1e-4)
    other = vadprep.evaluate(run / "scores-last.h5", manifest=manifest, coverage=coverage)
    assert other.values == found.values
    (run / "config.json").write_text(json.dumps({**config, "coverage": "all"}))
    with pytest.raises(CheckpointError, match="config.json.*coverage = 'all'"):
        vadprep.evaluate(run, manifest=manifest)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.55, 0.9, 1.0])
def test_the_steps_of_a_curve_give_the_alarms(tmp_path: Path, threshold: float) -> None:
    values = np.round(np.random.default_rng(2).uniform(size=300), 1)
    scores = video_scores(values, fps=29.97)
    page_of_a = page_data(tmp_path, scores)
    run = page_of_a["runs"][0]
    found: list[list[int]] = []
    for step, value in enumerate(run["values"]):
        if value >= threshold:
            start, stop = run["frames"][step : step + 2]
            if found and found[-1][1] == start:
                found[-1][1] = stop
            else:
                found.append([start, stop])
    expected = scores.alarms(threshold)
    assert found == [[each["start_frame"], each["stop_frame"]] for each in expected]
    assert run["edges"] == [round(frame / 29.97, 4) for frame in run["frames"]]


def page_data(folder: Path, scores: Any) -> dict[str, Any]:
    run = write_run(folder / "run", {"a": scores})
    vadprep.report(run, out=folder / "page")
    return page_of(folder / "page", "a")


def test_a_long_curve_is_thinned_for_the_screen_and_keeps_its_peaks(tmp_path: Path) -> None:
    values = np.random.default_rng(3).uniform(0.2, 0.4, 30_000)
    values[[7, 12_345, 29_999]] = 0.99, 0.01, 0.98
    run = page_data(tmp_path, video_scores(values))["runs"][0]
    drawn = np.array(run["values"])[run["drawn"]]
    assert len(drawn) <= 2000 and {0.99, 0.01, 0.98} <= set(drawn.tolist())
    assert len(run["values"]) == 30_000  # alarms come from all of them
    assert thinned(values, 2000).tolist() == run["drawn"]


def test_several_seeds_show_the_mean_of_their_scores(tmp_path: Path) -> None:
    for seed, score in enumerate((0.2, 0.6)):
        write_run(tmp_path / "run" / f"seed-{seed}", {"a": video_scores([score])})
    vadprep.report(tmp_path / "run", out=tmp_path / "page")
    assert page_of(tmp_path / "page", "a")["runs"][0]["values"] == pytest.approx([0.4])


def test_ids_are_text_whatever_they_hold(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {EVIL: video_scores([0.5])})
    vadprep.report(run, out=tmp_path / "page")
    assert page_of(tmp_path / "page", EVIL)["id"] == EVIL
    names = [path.name for path in (tmp_path / "page" / "videos").iterdir()]
    assert len(names) == 1 and re.fullmatch(r"000000-[A-Za-z0-9_.-]+\.html", names[0])


def test_no_page_holds_a_control_character(tmp_path: Path) -> None:
    name = "a\x1b]0;x\x07\u202e"
    run = write_run(tmp_path / name, {name: video_scores([0.5])})
    vadprep.report(run, out=tmp_path / "page")
    pages = [each.read_text() for each in (tmp_path / "page").rglob("*.html")]
    assert len(pages) == 2 and all(map(is_plain, pages))
    assert r"a\x1b]0;x\x07" in pages[0]


def test_untrained_weights_and_controls_have_a_banner(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": video_scores([0.5])}, Origin({"rgb": "random:0"}, True))
    data = data_of(vadprep.report(run, out=tmp_path / "page"))
    assert data["runs"][0]["caution"] == (
        "weights random:0, NEVER TRAINED; CONTROL on shuffled labels, not a detector"
    )
    assert page_of(tmp_path / "page", "a")["runs"][0]["caution"]
    assert not TRAINED.caution()


def test_what_is_missing_has_a_clear_word(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    (tmp_path / "quiet.mp4").unlink()
    vadprep.report(run, out=out, videos=tmp_path, previews="all")
    assert page_of(out, "found")["movie"] == "../media/000000-found.mp4"
    assert (out / "media" / "000000-found.mp4").is_file()
    assert "quiet.mp4" in page_of(out, "quiet")["reason"]
    vadprep.report(run, out=out, videos=tmp_path, previews="worst:1")
    assert page_of(out, "missed")["movie"] and not page_of(out, "found")["movie"]
    assert page_of(out, "found")["reason"] == "No preview of this video was asked for."
    vadprep.report(run, out=out)
    assert "name the folder of the videos" in page_of(out, "found")["reason"]


def test_curves_leave_out_videos_of_split_train(tmp_path: Path) -> None:
    """As ``evaluate`` does."""
    scores = {"a": video_scores([0.2, 0.6, 0.4]), "b": video_scores([0.9, 0.1, 0.8])}
    manifest = write_manifest(
        tmp_path / "m.csv", {"a": ("a", "[[16, 32]]"), "b": ("b", "[[0, 9]]")}
    )
    path = write_run(tmp_path / "run", scores) / "scores-last.h5"

    def curves() -> dict[str, Any]:
        page = vadprep.report(path, out=tmp_path / "page", manifest=manifest)
        found: dict[str, Any] = data_of(page)["runs"][0]["curves"]
        return found

    assert sum(curves()["normal"]) + sum(curves()["abnormal"]) == 96 and curves()["note"] == ""
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:2], lines[2].replace("test", "train")]))
    found = curves()
    assert sum(found["normal"]) + sum(found["abnormal"]) == 48 and "1 video" in found["note"]
    assert area(found["roc"]) == pytest.approx(
        vadprep.evaluate(path, manifest=manifest).values["frame_auc"], abs=1e-4
    )
    manifest.write_text("\n".join(lines).replace("test", "train"))
    assert curves()["reason"].startswith("All 2 videos are of split train")


def test_scores_without_truth_or_without_a_clip_or_of_one_value(tmp_path: Path) -> None:
    scores = {"one": video_scores([0.5]), "none": video_scores([]), "same": video_scores([0.3] * 9)}
    data = data_of(vadprep.report(write_run(tmp_path / "run", scores), out=tmp_path / "page"))
    assert "ground truth is unknown" in data["runs"][0]["curves"]["reason"]
    one, none, same = (row["runs"][0] for row in data["videos"])
    assert one["score"] == 0.5 and none["score"] is None and none["spark"] == []
    assert page_of(tmp_path / "page", "none")["runs"][0]["edges"] == []
    assert page_of(tmp_path / "page", "same")["runs"][0]["values"] == [0.3]
    assert page_of(tmp_path / "page", "one")["intervals"] is None


def test_a_manifest_that_is_gone_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").unlink()
    data = data_of(vadprep.report(run, out=tmp_path / "page"))
    assert "m.csv: the manifest of" in data["runs"][0]["curves"]["reason"]


def test_a_scores_file_and_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {"found": video_scores([0.9] * 5)})
    sources = [run, other / "scores-last.h5"]
    data = data_of(vadprep.report(sources, out=tmp_path / "page", manifest=tmp_path / "m.csv"))
    assert [each["name"] for each in data["runs"]] == ["run", "scores-last"]
    assert [row["runs"][1] is None for row in data["videos"]] == [False, True, True]
    assert [each["name"] for each in page_of(tmp_path / "page", "found")["runs"]] == [
        "run", "scores-last",
    ]  # fmt: skip


def test_wrong_arguments_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="previews = 'worst': .*did you mean 'worst:N'"):
        vadprep.report(run, out=tmp_path / "page", previews="worst")
    with pytest.raises(CheckpointError, match="nowhere"):
        vadprep.report(tmp_path / "nowhere", out=tmp_path / "page")


def given(video_id: str, features: np.ndarray, **attributes: Any) -> StoredVideo:
    """A done video with these features [num_clips, num_crops, dim]."""
    video = stored_video(video_id, *features.shape, features_crc32=crc32(features), **attributes)
    return replace(video, blocks=lambda: iter([features]))


def test_the_page_of_a_feature_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = {f"v{n}": rng.normal(1, 1, (6, 2, 8)).astype(np.float16) for n in range(6)}
    plain["v0"][2, 1, 3], plain["v1"][4], plain["v2"][3] = np.nan, 0.5, plain["v2"][2]
    plain["v3"][:, 1] = plain["v3"][:, 0]
    plain["far"] = (plain["v3"] + 7).astype(np.float16)
    videos = [given(name, each, label=int(name == "far")) for name, each in plain.items()]
    videos += [
        failed_video("bad", "/x/bad.mp4: no frame"),
        failed_video("b2", "/x/b.mp4: no frame"),
    ]
    write_folder(tmp_path / "features" / "rgb", videos, small_spec(crops="unknown"))
    data = data_of(vadprep.report(tmp_path / "features", out=tmp_path / "page"))
    (stream,), rows = data["streams"], {row["id"]: row for row in data["videos"]}
    assert stream["random"] and stream["weights"] == "random:0"
    assert (stream["counts"]["done"], stream["counts"]["failed"]) == (7, 2)
    assert stream["failures"] == [["no frame", 2]]
    kinds = ("not_finite", "constant", "duplicates")
    assert {name: [row[kind] for kind in kinds] for name, row in rows.items()} == {
        **{name: [0, 0, 0] for name in ("v3", "v4", "v5", "far")},
        **{"v0": [1, 0, 0], "v1": [0, 1, 0], "v2": [0, 0, 1]},
    }
    assert rows["v3"]["cosine"] == pytest.approx(1, abs=1e-4) and rows["v4"]["cosine"] < 0.9
    norms = np.linalg.norm(plain["v4"].astype(np.float32), axis=2).mean(axis=0)
    assert rows["v4"]["norms"] == pytest.approx(norms, abs=1e-3)
    assert rows["v4"]["seconds"] == pytest.approx(101 / 25)
    assert [row["id"] for row in data["unusual"]][0] == "far" and len(data["unusual"]) == 5
    clips = np.nan_to_num(np.concatenate([each[:, 0] for each in plain.values()]).astype(float))
    variance = np.linalg.svd(clips - clips.mean(axis=0), compute_uv=False)[:2] ** 2
    points = np.array([data["points"]["x"], data["points"]["y"]])
    assert (points**2).sum(axis=1) == pytest.approx(variance, rel=1e-3)
    assert data["points"]["video"] == [n for n in range(7) for _ in range(6)]


def test_the_page_of_an_empty_feature_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "features" / "rgb", [failed_video("bad", "broken")])
    data = data_of(vadprep.report(tmp_path / "features", out=tmp_path / "page"))
    assert data["videos"] == [] and data["streams"][0]["failures"] == [["broken", 1]]


def test_a_reason_shows_no_credential(tmp_path: Path) -> None:
    reason = "no answer from http://user:hunter2@host/a.mp4?key=hunter2"
    write_folder(tmp_path / "features" / "rgb", [failed_video("bad", reason)])
    page = vadprep.report(tmp_path / "features", out=tmp_path / "page")
    failures = data_of(page)["streams"][0]["failures"]
    assert failures == [["no answer from http://host/a.mp4", 1]]
    assert "hunter2" not in page.read_text()


def test_previews_are_no_videos_to_extract(run: Path, tmp_path: Path) -> None:
    vadprep.report(run, out=tmp_path / "page", videos=tmp_path, previews="all")
    found = [video.path for video in vadprep.find_videos(tmp_path).videos]
    assert found == ["found.mp4", "missed.mp4", "quiet.mp4"]


@pytest.mark.parametrize(
    "metrics",
    [{"last": {"spread": 3}}, {"last": {"per_category": [1]}}, {"last": {"frame_auc": "x"}}, [1]],
)
def test_a_damaged_record_of_a_run_is_named(run: Path, tmp_path: Path, metrics: object) -> None:
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(CheckpointError, match="metrics.json"):
        vadprep.report(run, out=tmp_path / "page")
