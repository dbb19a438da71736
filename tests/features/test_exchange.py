"""Foreign trees in and out: round trips are exact, and nothing is lost without a word."""

from __future__ import annotations

import os
import pkgutil
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import message, run
from support.trees import IDS, feature_folder, manifest_of, per_crop_files

from vadprep.core.clips import Resampling
from vadprep.core.errors import FeaturesError, ManifestError, SpecError
from vadprep.core.presets import fill_unknown
from vadprep.core.spec import UNKNOWN, WHOLE_CLIPS
from vadprep.data import Manifest, frame_bounds, load_dataset
from vadprep.features.exchange import Exported, export_features, import_features
from vadprep.features.exchange.export import clip_labels, frames_of
from vadprep.features.exchange.import_ import clip_spans
from vadprep.features.exchange.layouts import TARGETS, VADCLIP_CLASSES
from vadprep.features.reader import open_features
from vadprep.features.status import verify_stream

FORMS = [
    (layout, name) for layout, forms in TARGETS.items() for name in forms if layout != "sultani-txt"
]


def imported(tree: Path, manifest: Manifest, out: Path, layout: str = "xdviodet", **known: object):
    spans = str(known.pop("spans", "fit"))
    return import_features(tree, out, layout=layout, manifest=manifest, spans=spans, settings=known)


def exported(folder: Path, out: str, **options: Any) -> Exported:
    return export_features(folder / "ours", folder / out, **options)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("layout, data_set", FORMS)
def test_out_and_in_again_is_exact(layout: str, data_set: str, tmp_path: Path) -> None:
    ids, crops = IDS[data_set], 5 if data_set == "XD-Violence" else 10
    manifest = manifest_of(ids)
    feature_folder(tmp_path / "ours", ids, crops)
    with open_features(tmp_path / "ours") as ours:
        export_features(ours, tmp_path / "out", layout=layout, manifest=manifest)
        result = imported(tmp_path / "out", manifest, tmp_path / "back", layout)
        assert not result.missing and verify_stream(result.folder).problems == ()
        assert result.others == ()  # lists and ground truth are no features
        with open_features(tmp_path / "back") as back:
            assert list(back) == list(ours) == ids
            pooling = UNKNOWN if layout == "vadclip" else WHOLE_CLIPS
            assert back.specs["rgb"].pooling == pooling
            for video_id in ids:
                assert np.array_equal(back[video_id].rgb, ours[video_id].rgb)
                assert np.array_equal(back[video_id].spans, ours[video_id].spans)
                assert back[video_id].num_frames == ours[video_id].num_frames


def test_in_and_out_again_is_exact_to_the_byte(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"]
    for split, names in (("RGB", ids[:2]), ("RGBTest", ids[2:])):
        per_crop_files(tmp_path / "i3d-features" / split, dict.fromkeys(names, 3), crops=5)
    imported(tmp_path / "i3d-features", manifest_of(ids), tmp_path / "ours")
    exported(tmp_path, "out", layout="xdviodet", manifest=manifest_of(ids))
    for path in (tmp_path / "i3d-features").rglob("*.npy"):
        assert (tmp_path / "out" / path.relative_to(tmp_path)).read_bytes() == path.read_bytes()


def test_segments_come_back_as_they_were(tmp_path: Path) -> None:
    ids = IDS["UCF-Crime"]
    manifest = manifest_of(ids, 853)
    feature_folder(tmp_path / "ours", ids, crops=1)
    exported(tmp_path, "out", layout="sultani-txt", manifest=manifest)
    listed = tmp_path / "out" / "Anomaly_Train.txt"
    listed.write_text("Abuse/Abuse001_x264.mp4")
    result = imported(tmp_path / "out", manifest, tmp_path / "back", "sultani-txt")
    listed.unlink()
    folder = result.folder
    assert result.others == ()
    assert folder.spec.clip_stride == UNKNOWN and folder.spec.preset == "imported-sultani-txt"
    with open_features(tmp_path / "back") as back:
        assert back[ids[0]].rgb.shape == (32, 1, 6) and back[ids[0]].spans[-1, 1] == 853
        export_features(back, tmp_path / "again", layout="sultani-txt", manifest=manifest)
    texts = [sorted((tmp_path / each).rglob("*.txt")) for each in ("out", "again")]
    assert [path.parent.name for path in texts[0]] == ["Test", "Test", "Anomaly", "Normal"]
    for first, second in zip(*texts, strict=True):
        assert first.read_text() == second.read_text()


# ---------------------------------------------------------------- import


def test_the_spec_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"]
    counts = dict(zip(ids, (99, 100, 100, 2), strict=True))
    tree = per_crop_files(tmp_path / "RGB", counts)
    manifest = manifest_of(ids, [1600, 1601, 1610, 40])
    result = imported(tree, manifest, tmp_path / "f", weights="rgb_imagenet.pt")
    spec = result.folder.spec
    told = (spec.crops, spec.tail, spec.fps, spec.dtype, spec.clip_stride, spec.weights)
    assert told == (5, "xd", "native", "float32", 16, "rgb_imagenet.pt")
    later = spec.frames, spec.batch_norm_eps, spec.centre_rounding
    assert {spec.scaling, spec.resize, spec.graph, spec.crop_order, spec.batch, *later} == {UNKNOWN}
    assert result.notes[0].startswith("unknown, since the files do not say: graph, ")
    assert result.notes[1].endswith("of 4, whose clips each tail rule gives: drop 3, xd 4")


@pytest.mark.parametrize(
    ("counted", "known", "expected"),
    [
        (True, {}, ("native", "index")),  # no frame is left out or repeated
        (False, {}, (UNKNOWN, UNKNOWN)),
        (True, {"fps": "24"}, ("24", UNKNOWN)),
        (True, {"fps": "24", "sampling": "times"}, ("24", "times")),
    ],
)
def test_how_frames_were_resampled_is_known_where_it_does_not_matter(
    counted, known, expected, tmp_path: Path
) -> None:
    ids = IDS["XD-Violence"]
    tree = per_crop_files(tmp_path / "RGB", dict.fromkeys(ids, 3))
    manifest = manifest_of(ids, [53 if counted else None] * len(ids))
    spec = imported(tree, manifest, tmp_path / "f", **known).folder.spec
    assert (spec.fps, spec.sampling) == expected
    filled = [fill_unknown(spec, preset) for preset in ("xd", "ucf")]
    assert [each.sampling for each in filled] == [
        "index" if each.fps == "native" else "times" for each in filled
    ]


def test_an_import_begun_by_an_earlier_version_goes_on(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"]
    tree = per_crop_files(tmp_path / "RGB", dict.fromkeys(ids, 3))
    manifest = manifest_of(ids, [None] * len(ids))
    before = imported(tree, manifest, tmp_path / "f", sampling="index").folder.spec
    again = imported(tree, manifest, tmp_path / "f").folder.spec
    assert again == before and again.fps == UNKNOWN


def test_videos_that_no_one_rule_fits_leave_the_tail_unknown(tmp_path: Path) -> None:
    """As the published features of UCF-Crime: 279 of 290 by xd, 11 by drop."""
    ids = IDS["XD-Violence"][:2]
    tree = per_crop_files(tmp_path / "RGB", {ids[0]: 99, ids[1]: 100})
    folder = imported(tree, manifest_of(ids, 1600), tmp_path / "f").folder
    assert folder.spec.tail == UNKNOWN
    with open_features(tmp_path / "f") as features:
        assert [features[each].spans[-1].tolist() for each in ids] == [[1568, 1584], [1584, 1600]]


def test_a_count_that_no_rule_gives_is_an_error_that_names_the_ratio(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"][:2]
    tree = per_crop_files(tmp_path / "RGB", {ids[0]: 80, ids[1]: 100})
    manifest = manifest_of(ids, 1600)
    folder = imported(tree, manifest, tmp_path / "f").folder
    reason = str(folder.stored(ids[0]).attributes["reason"])
    assert "80 clips where 1600 frames give 99-100: 0.8 x as many, as 24 is to 30 fps" in reason
    only = manifest_of(ids[:1], 1600)
    with pytest.raises(FeaturesError, match="none of 1 video can be imported: 80 clips"):
        imported(tree, only, tmp_path / "g")
    imported(tree, only, tmp_path / "named", fps="24")
    imported(tree, only, tmp_path / "stretched", spans="stretch")
    for name in ("named", "stretched"):
        with open_features(tmp_path / name) as features:
            assert features[ids[0]].spans[:2].tolist() == [[0, 20], [20, 40]]


def test_without_frames_in_the_manifest_a_clip_is_sixteen(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"][:2]
    tree = per_crop_files(tmp_path / "RGB", dict.fromkeys(ids, 4))
    result = imported(tree, manifest_of(ids, [None, None]), tmp_path / "f")
    assert result.folder.spec.fps == UNKNOWN and "16 frames a clip" in result.notes[-1]
    with open_features(tmp_path / "f") as features:
        assert features[ids[0]].num_frames == 64
        assert features[ids[0]].spans[-1].tolist() == [48, 64]


def test_missing_damaged_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"]
    tree = per_crop_files(tmp_path / "t" / "RGB", dict.fromkeys([*ids[:2], "other"], 3))
    (tree / f"{ids[1]}__2.npy").unlink()
    per_crop_files(tmp_path / "t" / "Flow", dict.fromkeys(ids, 3))
    result = imported(tmp_path / "t", manifest_of(ids), tmp_path / "f")
    assert result.missing == tuple(ids[2:])
    assert result.others == tuple(f"RGB/other__{crop}.npy" for crop in range(5))
    stored = result.folder.stored(ids[1])
    assert "crop 2 of 5 is not there" in str(stored.attributes["reason"])


def test_both_streams_of_a_tree_make_one_feature_set(tmp_path: Path) -> None:
    ids, manifest = IDS["XD-Violence"][:2], manifest_of(IDS["XD-Violence"][:2])
    for seed, name in enumerate(("RGB", "Flow")):
        per_crop_files(tmp_path / "t" / name, dict.fromkeys(ids, 3), seed=seed)
    for stream in ("rgb", "flow"):
        import_features(
            tmp_path / "t", tmp_path / "f", layout="xdviodet", manifest=manifest, stream=stream
        )
    with open_features(tmp_path / "f") as features:
        assert features.specs["flow"].flow == features.specs["flow"].flow_bound == UNKNOWN
        assert features[ids[0]].rgb.shape == features[ids[0]].flow.shape == (3, 5, 6)
        assert not np.array_equal(features[ids[0]].rgb, features[ids[0]].flow)
        export_features(
            features, tmp_path / "out", layout="xdviodet", manifest=manifest, stream="flow"
        )
    for path in (tmp_path / "t" / "Flow").iterdir():
        assert (tmp_path / "out" / "i3d-features" / "Flow" / path.name).read_bytes() == (
            path.read_bytes()
        )
    assert (tmp_path / "out" / "list" / "flow.list").exists()


def test_the_same_import_goes_on_and_tries_failed_videos_again(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"]
    tree = per_crop_files(tmp_path / "RGB", dict.fromkeys(ids[:3], 3))
    whole = (tree / f"{ids[1]}__4.npy").read_bytes()
    (tree / f"{ids[1]}__4.npy").write_bytes(whole[:-1])
    folder = imported(tree, manifest_of(ids), tmp_path / "f").folder
    before = os.stat(folder.shard(0)).st_mtime_ns
    assert not folder.stored(ids[1]).is_done
    (tree / f"{ids[1]}__4.npy").write_bytes(whole)
    per_crop_files(tmp_path / "late", {ids[3]: 3})
    for path in (tmp_path / "late").iterdir():
        path.rename(tree / path.name)
    folder = imported(tree, manifest_of(ids), tmp_path / "f").folder
    assert verify_stream(folder).problems == () and verify_stream(folder).videos == 4
    assert os.stat(folder.shard(0)).st_mtime_ns > before
    assert not list((folder.path / "shards").glob("*.partial"))
    after = os.stat(folder.shard(0)).st_mtime_ns
    imported(tree, manifest_of(ids), tmp_path / "f")
    assert os.stat(folder.shard(0)).st_mtime_ns == after


@pytest.mark.parametrize("step", ["Journal.add", "write_shard", "shutil.rmtree", "Draft.append"])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_crash_at_any_step_costs_nothing_but_that_step(
    step: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = IDS["XD-Violence"]
    tree = per_crop_files(tmp_path / "RGB", dict.fromkeys(ids, 3))
    done: list[object] = []

    def crash(*arguments: object) -> object:
        done.append(arguments)
        if len(done) > calls:
            raise KeyboardInterrupt
        return original(*arguments)

    module = "exchange.import_" if step == "Draft.append" else "writer"
    with monkeypatch.context() as patch:
        owner, _, name = f"vadprep.features.{module}.{step}".rpartition(".")
        original = getattr(pkgutil.resolve_name(owner), name)
        patch.setattr(f"{owner}.{name}", crash)
        with suppress(KeyboardInterrupt):
            imported(tree, manifest_of(ids), tmp_path / "f")
    folder = imported(tree, manifest_of(ids), tmp_path / "f").folder
    assert verify_stream(folder).problems == () and verify_stream(folder).videos == 4
    assert not list((folder.path / "shards").glob("*.partial"))


def test_features_of_two_origins_do_not_mix(tmp_path: Path) -> None:
    ids = IDS["XD-Violence"]
    first = per_crop_files(tmp_path / "a" / "RGB", dict.fromkeys(ids, 3))
    second = per_crop_files(tmp_path / "b" / "RGB", dict.fromkeys(ids, 3), seed=1)
    imported(first, manifest_of(ids), tmp_path / "f")
    with pytest.raises(SpecError, match="holds features imported from .*a/RGB: use another --out"):
        imported(second, manifest_of(ids), tmp_path / "f")
    feature_folder(tmp_path / "ours", ids, 5)
    with pytest.raises(SpecError, match="holds features extracted"):
        imported(first, manifest_of(ids), tmp_path / "ours")


def test_a_folder_of_another_layout_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    tree = per_crop_files(tmp_path / "RGB", {"a": 3})
    with pytest.raises(FeaturesError, match=r"looked for b__0.npy; there is a__0.npy"):
        imported(tree, manifest_of(["b"]), tmp_path / "f")
    twice = per_crop_files(tmp_path / "RGB" / "copy", {"a": 3})
    with pytest.raises(FeaturesError, match="are there twice, a and copy/a"):
        imported(twice.parent, manifest_of(["x/a"]), tmp_path / "f")


# ---------------------------------------------------------------- export


@pytest.mark.parametrize(
    "name, labels, positives", [("ucf", 1_109_680, 84_128), ("xd", 2_330_384, 537_805)]
)
def test_ground_truth_has_the_published_length(name: str, labels: int, positives: int) -> None:
    """Of features with the published numbers of clips, over the whole test split."""

    class Found:
        def __init__(self, video):
            self.bounds = frame_bounds(video)
            clips = video.num_frames_scored // 16
            self.spans = clip_spans(clips, self.bounds, Resampling(Fraction(30)))
            self.num_frames = video.num_frames or 16 * clips
            self.fps = self.clock = None

    truths = [clip_labels(Found(each), each) for each in load_dataset(name).in_split("test")]
    flat = np.concatenate(truths)
    assert (len(flat), flat.sum()) == (labels, positives)


def test_a_clip_that_goes_on_after_the_end_repeats_the_last_frame() -> None:
    frames = frames_of(np.array([[0, 16], [16, 32], [32, 35]]))
    assert frames[1].tolist() == list(range(16, 32))
    assert frames[2].tolist() == [32, 33] + [34] * 14
    resampled = frames_of(np.array([[0, 20], [20, 40]]))
    assert resampled[0].tolist() == [5 * i // 4 for i in range(16)]


def official_scores(root: Path, list_file: Path, crops: int) -> np.ndarray:
    """How the official test loops read a list: mean over crops, every score 16 times."""
    lines = [line.split(" ")[0] for line in list_file.read_text().splitlines()]
    if list_file.suffix == ".csv":
        lines = [line.rpartition(",")[0] for line in lines[1:]]
    scores = []
    for start in range(0, len(lines), crops):
        crop_scores = [np.load(os.path.join(root, line)) for line in lines[start : start + crops]]
        scores.append(np.mean(crop_scores, axis=0).mean(axis=tuple(range(1, crop_scores[0].ndim))))
    return np.repeat(np.concatenate(scores), 16)


@pytest.mark.parametrize("layout, data_set", FORMS)
def test_official_code_reads_the_lists(layout: str, data_set: str, tmp_path: Path) -> None:
    ids, crops = IDS[data_set], 5 if data_set == "XD-Violence" and layout != "vadclip" else 10
    feature_folder(tmp_path / "ours", ids, crops)
    with open_features(tmp_path / "ours") as ours:
        result = export_features(ours, tmp_path / "out", layout=layout, manifest=manifest_of(ids))
        means = [ours[each].rgb.astype(np.float32).mean(axis=(1, 2)) for each in (ids[2], ids[3])]
        crop = 5 if (layout, data_set) == ("vadclip", "UCF-Crime") else 0
        rows = [ours[each].rgb[:, crop].astype(np.float32) for each in (ids[2], ids[3])]
        one_crop = [each.mean(axis=1) for each in rows]
    train, test, truth = result.lists
    listed = {"rtfm": 1, "deepmil": 1}.get(layout, crops)
    scores = official_scores(tmp_path / "out", test, 1 if layout == "vadclip" else listed)
    tested = one_crop if layout in ("deepmil", "vadclip") else means
    expected = np.repeat(np.concatenate(tested), 16)
    assert np.allclose(scores, expected, atol=1e-6)
    labels = np.load(truth)
    assert len(labels) == len(scores) == result.num_labels
    assert labels[:53].nonzero()[0].tolist() == list(range(20, 40)) and not labels[48:].any()
    lines = train.read_text().splitlines()[layout == "vadclip" :]  # without the header
    assert len(lines) == 2 * listed
    assert all(ids[0] in line for line in lines[:listed])
    if data_set == "ShanghaiTech" and layout == "pel4vad":
        assert lines[0] == "train/01_0014_0.npy 1.0" and lines[-1] == "train/01_014_9.npy 0.0"
    if layout == "vadclip":
        header, *tests = test.read_text().splitlines()
        classes = {"UCF-Crime": ["Arson", "Normal"], "XD-Violence": ["B2-0-0", "A"]}[data_set]
        assert header == "path,label" and [each.split(",")[1] for each in tests] == classes
        assert [lines[at].split(",")[1] for at in (0, -1)] == classes
        listed_names = [str(each.relative_to(tmp_path / "out")) for each in result.lists]
        folders = {Path(line.rpartition(",")[0]).parent.name for line in (*lines, *tests)}
        assert (listed_names, sorted(folders)) == VADCLIP_NAMES[data_set]


VADCLIP_NAMES = {
    "UCF-Crime": (
        ["list/ucf_CLIP_rgb.csv", "list/ucf_CLIP_rgbtest.csv", "list/gt_ucf.npy"],
        ["UCFClipFeatures"],
    ),
    "XD-Violence": (
        ["list/xd_CLIP_rgb.csv", "list/xd_CLIP_rgbtest.csv", "list/gt.npy"],
        ["XDTestClipFeatures", "XDTrainClipFeatures"],
    ),
}
"""Files that the options of VadCLIP name, and folders of features in its lists."""


def test_what_vadclips_code_does_not_know_is_said(tmp_path: Path) -> None:
    assert {video.category for video in load_dataset("ucf").videos} == VADCLIP_CLASSES
    ids = IDS["UCF-Crime"]
    videos = [replace(video, category=video.category.lower()) for video in manifest_of(ids).videos]
    feature_folder(tmp_path / "ours", ids, 10)
    manifest = Manifest(Path("m.csv"), tuple(videos))
    notes = exported(tmp_path, "out", layout="vadclip", manifest=manifest).notes
    assert "crops stay in the order xd, the code's own are vadclip" in notes
    assert "features of inception_i3d: the code expects 512 numbers of CLIP ViT-B/16" in notes
    assert any(each.startswith("classes that the code does not know: arson: ") for each in notes)


def test_vadclip_needs_the_class_of_an_abnormal_video(tmp_path: Path) -> None:
    ids = IDS["UCF-Crime"]
    videos = [replace(video, category="") for video in manifest_of(ids).videos]
    feature_folder(tmp_path / "ours", ids, 1)
    with pytest.raises(ManifestError, match="'Abuse001_x264': no category"):
        exported(tmp_path, "o", layout="vadclip", manifest=Manifest(Path("m.csv"), tuple(videos)))


def test_of_one_crop_vadclip_tests_that_one(tmp_path: Path) -> None:
    ids = IDS["UCF-Crime"]
    feature_folder(tmp_path / "ours", ids, 1)
    result = exported(tmp_path, "o", layout="vadclip", manifest=manifest_of(ids))
    rows = result.lists[1].read_text().splitlines()[1:]
    assert [row.rpartition("/")[2] for row in rows] == [
        "Arson011_x264__0.npy,Arson",
        "Normal_Videos_003__0.npy,Normal",
    ]
    assert "the code tests crop 5, the lists here have crop 0" in result.notes


def test_lists_have_abnormal_videos_first(tmp_path: Path) -> None:
    ids = ["Normal_Videos001_x264", "Abuse001_x264", "Normal_Videos002_x264", "Arson001_x264"]
    videos = manifest_of(ids[1::-1] + ids[3:1:-1]).videos
    manifest = Manifest(Path("m.csv"), (videos[1], videos[0], videos[3], videos[2]))
    feature_folder(tmp_path / "ours", ids, 1)
    result = exported(tmp_path, "out", layout="rtfm", manifest=manifest)
    for path, first in zip(result.lists, ("Abuse001_x264", "Arson001_x264"), strict=False):
        assert path.read_text().splitlines()[0].endswith(f"{first}_i3d.npy")


def test_what_the_official_code_would_stumble_over_is_said(tmp_path: Path) -> None:
    ids = ["Abuse001_x264", "plain", "Arson011_x264", "Normal_Videos_003"]
    feature_folder(tmp_path / "ours", ids, 10)
    notes = exported(tmp_path, "out", layout="urdmu", manifest=manifest_of(ids)).notes
    assert "crops stay in the order xd, the code's own are gowtham" in notes[0]
    assert "begins with 10 lines of abnormal videos: the code cuts it after 8100" in notes[1]
    assert "wrong for 1 here, the first 'plain'" in notes[2]


@pytest.mark.parametrize(
    "video_id, layout, reason",
    [
        ("../up", "rtfm", "outside the export"),
        ("/etc/x", "xdviodet", "outside the export"),
        ("two\nlines", "rtfm", "cannot hold a name with blanks or line ends"),
        ("a b", "urdmu", "cannot hold a name with blanks"),
    ],
)
def test_an_id_that_is_no_safe_file_name_is_refused(
    video_id: str, layout: str, reason: str, tmp_path: Path
) -> None:
    feature_folder(tmp_path / "ours", [video_id], 1)
    with pytest.raises(FeaturesError, match=reason):
        exported(tmp_path, "out", layout=layout, manifest=manifest_of([video_id]))
    assert not (tmp_path / "out").exists()


def test_two_videos_never_share_a_file(tmp_path: Path) -> None:
    ids = ["a", "a__1"]
    feature_folder(tmp_path / "ours", ids, 5)
    videos = tuple(v for v in manifest_of(ids).videos)
    with pytest.raises(FeaturesError, match="'a' and 'a__1' are both train/a__1.npy"):
        exported(
            tmp_path,
            "out",
            layout="pel4vad",
            manifest=Manifest(Path("m"), videos),
        )


def test_feature_files_of_an_earlier_export_are_noted(tmp_path: Path) -> None:
    ids = IDS["UCF-Crime"]
    feature_folder(tmp_path / "ours", ids, 5)
    whole = manifest_of(ids)
    for _ in range(2):  # the same again is the same
        assert "not of" not in str(exported(tmp_path, "o", layout="deepmil", manifest=whole).notes)
    less = Manifest(Path("m.csv"), whole.videos[1:])
    note = exported(tmp_path, "o", layout="deepmil", manifest=less).notes[-1]
    assert note.startswith(f"{tmp_path / 'o'}: 5 feature files beside those of this export, ")
    assert "the first train/RGB/Abuse001_x264__0.npy, and in none of its lists" in note


def test_where_no_list_says_what_is_meant_other_feature_files_are_refused(tmp_path: Path) -> None:
    ids = IDS["UCF-Crime"]
    feature_folder(tmp_path / "ours", ids, 1)
    whole = manifest_of(ids)
    exported(tmp_path, "o", layout="sultani-txt", manifest=whole)
    exported(tmp_path, "o", layout="sultani-txt", manifest=whole)
    first = tmp_path / "o" / "Train" / "Anomaly" / "Abuse001_x264_C.txt"
    less = Manifest(Path("m.csv"), whole.videos[1:])
    with pytest.raises(FeaturesError, match="Train/Anomaly/Abuse.*: remove them, or use anoth"):
        exported(tmp_path, "o", layout="sultani-txt", manifest=less)
    first.unlink()
    exported(tmp_path, "o", layout="sultani-txt", manifest=less)


def test_a_video_without_a_label_has_no_place_in_a_list(tmp_path: Path) -> None:
    feature_folder(tmp_path / "ours", ["a"], 1)
    videos = (replace(manifest_of(["a"]).videos[0], label=None),)
    with pytest.raises(ManifestError, match="video 'a': no label"):
        exported(tmp_path, "out", layout="rtfm", manifest=Manifest(Path("m"), videos))


# ---------------------------------------------------------------- command line

CSV = """video_id,path,split,label,num_frames,fps,intervals
Abuse001_x264,a.mp4,train,1,53,30,
Normal_Videos001_x264,b.mp4,train,0,53,30,[]
Arson011_x264,c.mp4,test,1,53,30,"[[20, 40]]"
Normal_Videos_003,d.mp4,test,0,53,30,[]
"""


def test_the_commands_give_the_round_trip(tmp_path: Path) -> None:
    feature_folder(tmp_path / "ours", IDS["UCF-Crime"], 10)
    (tmp_path / "m.csv").write_text(CSV)
    options = ("--layout", "pel4vad", "--manifest", tmp_path / "m.csv", "--out")
    out = run("export", tmp_path / "ours", *options, tmp_path / "tree")
    assert out.exit_code == 0 and "4 videos in" in out.output
    assert "96 labels in the ground truth, 16 a clip" in out.output
    back = run("import", tmp_path / "tree", *options, tmp_path / "back", "--set", "crop_order=xd")
    assert back.exit_code == 0 and "note: unknown, since the files do not say" in back.output
    assert run("verify", tmp_path / "back").exit_code == 0
    (tmp_path / "more.csv").write_text(CSV + "gone,e.mp4,test,0,53,30,[]\n")
    more = (*options[:2], "--manifest", tmp_path / "more.csv", "--out")
    less = run("export", tmp_path / "ours", *more, tmp_path / "tree")
    assert less.exit_code == 1 and "no features of: gone" in less.output
    less = run("import", tmp_path / "tree", *more, tmp_path / "back2")
    assert less.exit_code == 1 and "no files for: gone" in less.output


@pytest.mark.parametrize(
    "options, words",
    [
        (("--set", "colour=red"), "setting 'colour': allowed are graph, weights"),
        (("--set", "tail=odd"), "tail = 'odd': allowed are drop, xd, repeat-last"),
        (("--set", "tail=repeat-last"), "3 clips are not by tail rule repeat-last but by drop, xd"),
    ],
)
def test_what_is_known_wrongly_is_refused(options, words, tmp_path: Path) -> None:
    tree = per_crop_files(tmp_path / "RGB", {"Abuse001_x264": 3})
    (tmp_path / "m.csv").write_text(CSV)
    result = run(
        "import", tree, "--layout", "urdmu", "--manifest", tmp_path / "m.csv",
        "--out", tmp_path / "f", *options,
    )  # fmt: skip
    assert words in message(result)
    assert not (tmp_path / "f").exists()
