"""RGB and flow in one pass: the same clips and spans, each stream resumed for itself."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.interrupted import SPECS, extract_all, make_runner, stream_paths
from support.kill_many import differences, make_videos
from support.standin import StandIn, standin_branch, standin_extractor, standin_flow, standin_spec
from support.stored import features_of, stored_video
from support.videos import write_video
from test_run import Crash, crash_points

from vadprep.core.clips import CLIP_LENGTH, Resampling
from vadprep.core.crops import crop_boxes
from vadprep.core.errors import SpecError
from vadprep.core.records import Report, Task, Video
from vadprep.core.spec import Spec
from vadprep.extraction import extractor as extract
from vadprep.extraction.extractor import Extractor
from vadprep.extraction.run import in_process
from vadprep.extraction.streams import Branch
from vadprep.features.draft import Draft
from vadprep.features.journal import read_events
from vadprep.features.reader import open_features
from vadprep.features.shard import DONE, FAILED, StoredVideo, read_video
from vadprep.flow import QUANTISE, SavedFlow, tvl1_method
from vadprep.video import open_frames

BOTH = ("rgb", "flow")
SMALL = {"resize": "48x64", "crop_size": 32}


def specs(streams: Sequence[str] = BOTH, **overrides: object) -> list[Spec]:
    return [standin_spec(stream, **SMALL | overrides) for stream in streams]


def extracted(
    source: Path, extractor: Extractor, place: str = "out"
) -> tuple[Report, dict[str, StoredVideo]]:
    """The report, and each stream of the video as it stands on the disk."""
    folder = source.with_name(place)
    folder.mkdir(exist_ok=True)
    targets = {name: folder / f"{name}.h5" for name in extractor.branches}
    report = extractor(Task(Video("a", source.name), targets, source))
    return report, {name: read_video(path) for name, path in targets.items()}


def features(stored: StoredVideo) -> np.ndarray:
    return np.concatenate(list(stored.blocks()))


# ---------------------------------------------------------------- what makes a flow snippet


def by_hand(source: Path, spec: Spec) -> np.ndarray:
    """Flow features of frames of the target size, written out: [num_clips, num_crops, 256]."""
    with open_frames(source, decoder="pyav") as stream:
        frames = np.concatenate([block.copy() for block in stream])
        step = stream.header.fps / (spec.fps_used() or stream.header.fps)
    frames = frames[[int(i * step) for i in range(int(np.ceil(len(frames) / step)))]]
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    flow = standin_flow(torch.from_numpy(grey))
    flow = torch.cat([flow, torch.zeros(1, *flow.shape[1:])])  # nothing moves after the last
    if spec.tail == "xd":
        flow = flow[:-1]
    missing = -len(flow) % CLIP_LENGTH
    if spec.tail == "repeat-last":
        flow = torch.cat([flow, torch.zeros(missing, *flow.shape[1:])])
    clips = flow[: len(flow) // CLIP_LENGTH * CLIP_LENGTH].unflatten(0, (-1, CLIP_LENGTH))
    boxes = crop_boxes(spec.crop_order, spec.crops, spec.crop_size, *flow.shape[1:3])
    views = []
    for box in boxes:
        crop = clips[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        if box.mirrored:
            crop = crop.flip(3)
            if spec.flip_rule == "negate-u":
                crop = crop * torch.tensor([-1.0, 1.0])
        views.append(StandIn()(QUANTISE[spec.quantisation](crop, int(spec.flow_bound))))
    return torch.stack(views, dim=1).numpy().astype(np.float16)


RECIPES: list[tuple[int, dict[str, object]]] = [
    (64, {"tail": "drop"}),
    (64, {"tail": "xd"}),
    (70, {"tail": "repeat-last"}),
    (100, {"tail": "drop", "fps": "20"}),
    (70, {"tail": "repeat-last", "fps": "30", "flow_bound": 3}),
    (50, {"crops": 10, "crop_order": "mmaction", "flip_rule": "keep-u"}),
    (48, {"crops": 10, "crop_order": "xd", "quantisation": "none", "batch": 4}),
]


@pytest.mark.parametrize(("num_frames", "recipe"), RECIPES, ids=str)
def test_flow_snippets_are_those_written_out_by_hand(tmp_path, recipe, num_frames):
    source = write_video(tmp_path / "a.mp4", num_frames, size=(64, 48))
    (spec,) = specs(("flow",), **recipe)
    report, stored = extracted(source, standin_extractor(spec))
    np.testing.assert_array_equal(features(stored["flow"]), by_hand(source, spec))
    spans = Resampling(Fraction(25), spec.fps_used()).spans(num_frames, spec.tail)
    np.testing.assert_array_equal(stored["flow"].spans, spans)
    assert report.num_clips == len(spans)


@pytest.mark.parametrize(("num_frames", "tail"), [(16, "drop"), (17, "xd"), (1, "repeat-last")])
def test_the_shortest_video_has_a_snippet_in_both_streams(tmp_path, num_frames, tail):
    source = write_video(tmp_path / "a.mp4", num_frames, size=(64, 48))
    _, stored = extracted(source, standin_extractor(*specs(tail=tail)))
    assert [stored[name].shape[0] for name in BOTH] == [1, 1]
    if num_frames == 1:
        assert (features(stored["flow"]) == 127).all()


def drifting(folder: Path, num_frames: int, step: int) -> Path:
    """A folder of images of a smooth texture that drifts to the right by ``step`` px a frame."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 40), dtype=np.uint8)
    scene = Image.fromarray(coarse).resize((320, 64), Image.Resampling.BICUBIC)
    folder.mkdir()
    for number in range(num_frames):
        left = 200 - step * number
        scene.crop((left, 0, left + 80, 64)).save(folder / f"{number}.png")
    return folder


def test_tvl1_on_real_motion_stands_in_the_snippets(tmp_path):
    source = drifting(tmp_path / "a", 17, step=2)
    (spec,) = specs(("flow",), resize="64x80", crops=10, crop_order="xd", tail="xd")
    branch = Branch(spec, UandV(), tvl1_method(spec.flow))
    _, stored = extracted(source, Extractor([branch]))
    u, v = features(stored["flow"])[0].T
    np.testing.assert_allclose(u[:5], 127 + 2 * 255 / 40, atol=1)  # 2 px to the right
    np.testing.assert_allclose(u[5:], 127 - 2 * 255 / 40, atol=1)  # mirrored: to the left
    np.testing.assert_allclose(v, 127, atol=1)


class UandV:
    """The median of each plane of a clip: what moved, and how."""

    device = torch.device("cpu")
    dim = 2

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        return views.flatten(1, 3).float().median(dim=1).values


# ---------------------------------------------------------------- one pass


def test_one_pass_gives_the_bytes_of_two(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", 150, size=(128, 96))
    opened = []
    real = extract.open_frames
    monkeypatch.setattr(
        extract, "open_frames", lambda path, **options: opened.append(path) or real(path, **options)
    )
    report, both = extracted(source, standin_extractor(*specs(crops=5)))
    assert opened == [source] and report.status == DONE
    assert set(report.seconds) == {
        "decode", "decoding", "resize", "flow", "compute", "write"
    }  # fmt: skip
    for spec in specs(crops=5):
        _, alone = extracted(source, standin_extractor(spec), spec.stream)
        stored = both[spec.stream]
        assert (tmp_path / "out" / f"{spec.stream}.h5").read_bytes() == (
            tmp_path / spec.stream / f"{spec.stream}.h5"
        ).read_bytes()
        assert report.checksums[spec.stream] == stored.attributes["features_crc32"]
        np.testing.assert_array_equal(stored.spans, both["rgb"].spans)
        assert stored.shape == alone[spec.stream].shape == (9, 5, 256)


def test_streams_of_other_batches_share_a_pass(tmp_path):
    source = write_video(tmp_path / "a.mp4", 200, size=(64, 48))
    (rgb,), (flow,) = specs(("rgb",), batch=32), specs(("flow",), batch=3)
    _, stored = extracted(source, standin_extractor(rgb, flow))
    _, alone = extracted(source, standin_extractor(*specs()), "alone")
    for name in BOTH:
        np.testing.assert_array_equal(features(stored[name]), features(alone[name]))


def test_streams_of_other_views_cannot_share_a_pass():
    (rgb,), (flow,) = specs(("rgb",), crops=5), specs(("flow",), crops=10)
    with pytest.raises(SpecError, match="crops: 10 / 5"):
        standin_extractor(rgb, flow)


@pytest.mark.parametrize("stream", BOTH)
def test_only_the_streams_of_a_task_are_computed(tmp_path, stream):
    source = write_video(tmp_path / "a.mp4", 40, size=(64, 48))

    class Never(StandIn):
        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            raise AssertionError("computed for nothing")

    branches = [
        standin_branch(spec, StandIn() if spec.stream == stream else Never()) for spec in specs()
    ]
    task = Task(Video("a", "a.mp4"), {stream: tmp_path / "a.h5"}, source)
    report = Extractor(branches)(task)
    assert (report.status, set(report.checksums)) == (DONE, {stream})


def test_a_video_that_fails_fails_in_all_streams(tmp_path):
    source = write_video(tmp_path / "a.mp4", 15, size=(64, 48))
    report, stored = extracted(source, standin_extractor(*specs()))
    assert (report.status, report.kind, report.checksums) == (FAILED, "too-short", {})
    assert {stored[name].attributes["reason"] for name in BOTH} == {report.reason}


# ---------------------------------------------------------------- folders: resumed, added later


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return make_videos(tmp_path_factory.mktemp("made") / "videos", 2)


@pytest.fixture(scope="module")
def whole(videos) -> Path:
    """The folder of both streams that one undisturbed run makes."""
    folder = videos.parent / "whole"
    extract_all(folder, videos, make_runner("process", streams=BOTH), BOTH)
    return folder


def all_differences(folder: Path, whole: Path) -> list[str]:
    expected = stream_paths(whole, BOTH)
    return [
        line
        for name, path in stream_paths(folder, BOTH).items()
        for line in differences(path, expected[name])
    ]


@pytest.mark.parametrize("first", BOTH)
def test_a_stream_is_added_later_and_nothing_is_done_twice(tmp_path, videos, whole, first):
    folder = tmp_path / "f"
    runner = make_runner("process", streams=(first,))
    extract_all(folder / first, videos, runner, (first,))
    before = {path: path.read_bytes() for path in (folder / first).rglob("*") if path.is_file()}
    tasks: list[Task] = []

    def watched(left, on_start):
        tasks.extend(left)
        return make_runner("process", streams=BOTH)(left, on_start)

    extract_all(folder, videos, watched, BOTH)
    (other,) = set(BOTH) - {first}
    assert [set(task.targets) for task in tasks] == [{other}] * 2
    assert {path: path.read_bytes() for path in before} == before
    assert all_differences(folder, whole) == []
    with open_features(folder) as found:
        video = found["v1"]
        assert video.rgb.shape[:2] == video.flow.shape[:2] == (video.num_clips, 10)


def test_a_kill_between_two_commits_costs_the_missing_stream_alone(tmp_path, videos, whole):
    folder = tmp_path / "f"
    extractor = standin_extractor(*SPECS.values())
    real = extract.Draft.commit
    commits = []

    def commit(draft, *arguments):
        if len(commits) == 1:
            raise Crash
        commits.append(draft.path.parent.parent.parent.name)
        real(draft, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(extract.Draft, "commit", commit)
        extract_all(folder, videos, in_process(lambda: extractor), BOTH)
    assert commits == ["rgb"]
    extract_all(folder, videos, in_process(lambda: extractor), BOTH)
    assert all_differences(folder, whole) == []
    starts = {
        name: [event.video_id for event in read_events(path) if event.event == "start"]
        for name, path in stream_paths(folder, BOTH).items()
    }
    assert starts == {"rgb": ["v1", "v0"], "flow": ["v1", "v1", "v0"]}


def test_a_worker_computes_flow_on_one_thread(monkeypatch):
    """Ray starts a worker a core: more threads would wait for each other."""
    asked = []

    def watched(grey, settings, threads=None):
        asked.append(threads)
        return np.zeros((len(grey) - 1, *grey.shape[1:], 2), np.float32)

    monkeypatch.setattr("vadprep.flow.quantise.tvl1", watched)
    tvl1_method(SPECS["flow"].flow)(torch.zeros((3, 8, 8), dtype=torch.uint8))
    assert asked == [1]


@pytest.mark.slow
def test_real_clips_in_two_streams_are_killed_and_resumed(tmp_path, real_clips):
    """With real TV-L1, of small frames."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for clip in real_clips.glob("*.mp4"):
        (videos / clip.name).symlink_to(clip)
    rgb, flow = SPECS.values()
    branches = [standin_branch(rgb), Branch(flow, StandIn(), tvl1_method(flow.flow))]
    runner = in_process(lambda: Extractor(branches))
    extract_all(tmp_path / "whole", videos, runner, BOTH)
    with open_features(tmp_path / "whole") as found:
        lengths = {name.partition(".")[0]: len(found[name].spans) for name in found}
        assert lengths == {"Deadpool": 33, "bikes": 15, "v_GGSY1Qvo990": 22}
        for name in found:
            video = found[name]
            assert len(video.rgb) == len(video.flow) == len(video.spans)
            assert np.ptp(video.flow[:, 0].astype(float)) > 10  # something moved

    real, appended = extract.Draft.append, []

    def append(draft, features):
        appended.append(draft.path)
        if len(appended) == 100:
            raise Crash
        real(draft, features)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(extract.Draft, "append", append)
        extract_all(tmp_path / "f", videos, runner, BOTH)
    extract_all(tmp_path / "f", videos, runner, BOTH)
    assert all_differences(tmp_path / "f", tmp_path / "whole") == []


def written_worker(task: Task) -> Report:
    """Commits features that depend on the id alone."""
    video = stored_video(task.video.video_id, num_crops=10)
    checksums = {}
    for name, target in task.targets.items():
        with Draft(target, SPECS[name]) as draft:
            draft.append(features_of(video))
            draft.commit({"video_id": video.video_id, "num_frames": 50}, video.spans)
        checksums[name] = draft.checksum
    return Report(video.video_id, DONE, num_clips=3, num_frames=50, checksums=checksums)


def test_a_crash_at_any_step_is_recovered_by_running_again(tmp_path, videos):
    whole, runner = tmp_path / "whole", in_process(lambda: written_worker)
    extract_all(whole, videos, runner, BOTH)
    for at in range(1, 200):
        folder = tmp_path / f"crashed-{at}"
        with pytest.MonkeyPatch.context() as patch:
            steps = crash_points(patch, at, after=at % 2 == 0)
            try:
                extract_all(folder, videos, runner, BOTH)
            except Crash:
                pass
        if len(steps) < at:
            break
        extract_all(folder, videos, runner, BOTH)
        assert all_differences(folder, whole) == [], at
    assert at > 20


# ---------------------------------------------------------------- saved flow


@pytest.mark.parametrize("quantisation", ["mediapipe", "denseflow"])
def test_features_of_flow_saved_as_hdf5_are_those_of_computed_flow(tmp_path, quantisation):
    source = write_video(tmp_path / "a.mp4", 100, size=(128, 96))
    (spec,) = specs(("flow",), quantisation=quantisation, crops=10)
    folder = SavedFlow.prepare(tmp_path / "saved", "hdf5", spec)
    _, saved = extracted(source, Extractor([standin_branch(spec, save_to=folder)]))
    _, computed = extracted(source, standin_extractor(spec), "computed")
    _, read = extracted(source, Extractor([standin_branch(spec, read_from=folder)]), "read")
    for stored in (computed["flow"], read["flow"]):
        np.testing.assert_array_equal(features(stored), features(saved["flow"]))


def test_flow_that_cannot_be_read_fails_the_video_without_another_decoder(tmp_path):
    source = write_video(tmp_path / "a.mp4", 40, size=(64, 48))
    (spec,) = specs(("flow",))
    folder = SavedFlow.prepare(tmp_path / "saved", "hdf5", spec)
    report, _ = extracted(source, Extractor([standin_branch(spec, read_from=folder)]))
    assert (report.status, report.kind, len(report.retries)) == (FAILED, "no-flow", 1)
    assert "a.h5: no such saved flow" in report.reason


def test_a_video_that_fails_saves_no_flow(tmp_path):
    source = write_video(tmp_path / "a.mp4", 15, size=(64, 48))
    (spec,) = specs(("flow",))
    folder = SavedFlow.prepare(tmp_path / "saved", "hdf5", spec)
    report, _ = extracted(source, Extractor([standin_branch(spec, save_to=folder)]))
    assert report.status == FAILED
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["flow.json"]
