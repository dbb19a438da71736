"""One video through the real decoder and writer: which frames make which snippet, and failures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.fake_decoder import fake_stream
from support.standin import StandIn, numbers_of, standin_branch, standin_extractor, standin_spec
from support.videos import damage, truncate, write_audio, write_images, write_video

from vadprep.core.clips import CLIP_LENGTH, Resampling
from vadprep.core.errors import OutOfMemory, OutputError, counted
from vadprep.core.records import Report, Task, Video
from vadprep.core.spec import Spec
from vadprep.extraction import extractor as extract, timing as stopwatch
from vadprep.extraction.extractor import Extractor
from vadprep.extraction.timing import Stopwatch
from vadprep.features.shard import DONE, FAILED, StoredVideo, read_video

SMALL = {"resize": "32x32", "crop_size": 32}
"""The whole frame is the view, so that its number can be read from a feature."""


def small(**overrides: object) -> Spec:
    return standin_spec(**SMALL | overrides)


def extracted(
    source: Path, spec: Spec, fps: float | None = None, network: object = None
) -> tuple[Report, StoredVideo]:
    """The report, and the video as it stands on the disk."""
    target = source.with_name(f"{source.name}-{spec.hash[:8]}.h5")
    video = Video("a", source.name, "train", 1, "fire", fps=fps)
    report = Extractor([standin_branch(spec, network)])(Task(video, {"rgb": target}, source))
    return report, read_video(target)


def features(stored: StoredVideo) -> np.ndarray:
    """float32 [num_clips, num_crops, 256]."""
    return np.concatenate(list(stored.blocks())).astype(np.float32)


def shown(stored: StoredVideo, crop: int = 0) -> list[list[int]]:
    """Numbers of the frames behind each snippet."""
    return [numbers_of(snippet) for snippet in features(stored)[:, crop]]


# ---------------------------------------------------------------- which frames make which snippet


def by_hand(num_frames: int, step: Fraction, tail: str) -> list[list[int]]:
    """Source frames of each clip, written out one frame after the other."""
    resampled, i = [], 0
    while int(i * step) < num_frames:
        resampled.append(int(i * step))
        i += 1
    if tail == "xd":
        resampled = resampled[:-1]
    clips = [resampled[k : k + CLIP_LENGTH] for k in range(0, len(resampled), CLIP_LENGTH)]
    if len(clips[-1]) < CLIP_LENGTH:
        last = clips.pop()
        if tail == "repeat-last":
            clips.append(last + [last[-1]] * (CLIP_LENGTH - len(last)))
    return clips


RATES = {
    "native": (Fraction(25), "native", Fraction(1)),
    "30 to 25": (Fraction(30), "25", Fraction(6, 5)),
    "15 to 25": (Fraction(15), "25", Fraction(3, 5)),
    "24 to 25": (Fraction(24), "25", Fraction(24, 25)),
    "29.97 to 25": (Fraction(30000, 1001), "25", Fraction(1200, 1001)),
}


@pytest.mark.parametrize("decoder", ["decord", "pyav", "images"])
@pytest.mark.parametrize("rate", RATES)
def test_each_clip_shows_the_frames_it_should(tmp_path, rate, decoder):
    source_fps, fps, step = RATES[rate]
    if decoder == "images":
        source = write_images(tmp_path / "a", 133)
    else:
        source = write_video(tmp_path / "a.mp4", 133, fps=source_fps)
    for tail in ("drop", "xd", "repeat-last"):
        spec = small(fps=fps, tail=tail, decoder=decoder if decoder != "images" else "decord")
        report, stored = extracted(source, spec, fps=float(source_fps))
        assert (report.status, report.decoder, report.num_frames) == (DONE, decoder, 133)
        assert shown(stored) == by_hand(133, step, tail), tail
        resampling = Resampling(source_fps, spec.fps_used())
        np.testing.assert_array_equal(stored.spans, resampling.spans(133, tail))


@pytest.mark.parametrize(
    ("num_frames", "tail", "clips"),
    [(16, "drop", 1), (17, "xd", 1), (32, "xd", 1), (33, "xd", 2), (1, "repeat-last", 1)],
)
def test_the_tail_rules_at_their_edges(tmp_path, num_frames, tail, clips):
    report, stored = extracted(write_video(tmp_path / "a.mp4", num_frames), small(tail=tail))
    assert (report.num_clips, stored.shape) == (clips, (clips, 1, 256))
    assert shown(stored) == by_hand(num_frames, Fraction(1), tail)


def test_a_video_of_the_network_s_own_size_keeps_its_frames(tmp_path):
    # Frames that need no resizing must not be views of memory that is used again.
    source = write_video(tmp_path / "a.mp4", 400, size=(340, 256))
    _, stored = extracted(source, standin_spec(crop_size=256))
    np.testing.assert_array_equal(features(stored)[:, 0], direct(source, 340, 256, 256))


def direct(source: Path, width: int, height: int, side: int) -> np.ndarray:
    """Stand-in features of centre crops, from all frames at once."""
    from vadprep.video import open_frames

    with open_frames(source, decoder="pyav") as stream:
        frames = np.concatenate([block.copy() for block in stream])
    top, left = round((height - side) / 2), round((width - side) / 2)
    crop = torch.from_numpy(frames[:, top : top + side, left : left + side])
    clips = crop[: len(crop) // 16 * 16].unflatten(0, (-1, 16))
    return StandIn()(clips).numpy().astype(np.float16).astype(np.float32)


def test_ten_crops_stand_in_their_order(tmp_path):
    # The frame's left half is black and right half white; below the top quarter all is grey.
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[:, 64:] = 255
    frame[32:] //= 2
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(32):
        Image.fromarray(frame).save(folder / f"{number}.png")
    spec = standin_spec(resize="64x128", crop_size=32, crops=10, crop_order="xd")
    _, stored = extracted(folder, spec)
    means = features(stored)[1].mean(axis=1)
    # xd: centre, TL, TR, BL, BR of the frame; then the same of the mirrored frame.
    mixed = (255 + 127) / 4
    five = [mixed, 0, 255, 0, 127]
    mirrored = [mixed, 255, 0, 127, 0]
    np.testing.assert_allclose(means, five + mirrored, atol=1)


@pytest.mark.parametrize("crops", [1, 10])
def test_the_batch_changes_nothing_and_its_padding_never_leaks(tmp_path, crops):
    source = write_video(tmp_path / "a.mp4", 150, size=(128, 96))
    sizes = []

    class Watched(StandIn):
        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            sizes.append(len(views))
            return super().__call__(views)

    stored = {}
    for batch in (1, 4, 32):
        sizes.clear()
        spec = standin_spec(batch=batch, crops=crops, resize="64x64", crop_size=48)
        report, stored[batch] = extracted(source, spec, network=Watched())
        assert set(sizes) == {batch} and len(sizes) == -(-9 * crops // batch)
        assert stored[batch].shape == (9, crops, 256)
    for batch in (4, 32):
        np.testing.assert_array_equal(features(stored[batch]), features(stored[1]))


@pytest.mark.parametrize(
    ("name", "frames", "clips"), [("Deadpool", 530, 33), ("bikes", 250, 15), ("v_GGSY", 355, 22)]
)
def test_real_clips_at_their_own_rate(tmp_path, real_clips, name, frames, clips):
    source = next(real_clips.glob(f"{name}*"))
    for tail in ("drop", "xd"):
        target = tmp_path / f"{tail}.h5"
        spec = small(tail=tail)
        task = Task(Video("a", source.name), {"rgb": target}, source)
        report = standin_extractor(spec)(task)
        assert (report.num_frames, report.num_clips) == (frames, clips)
        assert read_video(target).spans[-1, 1] == 16 * clips
    if name == "Deadpool":
        assert 16 * clips == 528


def test_what_is_stored_says_where_it_came_from(tmp_path):
    source = write_video(tmp_path / "a.mp4", 40, fps=30)
    _, stored = extracted(source, small(fps="25"))
    known = dict(stored.attributes)
    assert len(str(known.pop("source_sha256"))) == 64
    assert known.pop("source_bytes") == source.stat().st_size
    del known["features_crc32"], known["spans_crc32"]
    assert known == {
        "video_id": "a", "path": "a.mp4", "split": "train", "label": 1, "category": "fire",
        "status": DONE, "num_frames": 40, "num_frames_header": 40, "repaired_frames": 0,
        "fps_source": 30.0, "fps_used": 25.0, "decoder": "decord",
        "max_damage": 0.1,
    }  # fmt: skip


# ---------------------------------------------------------------- damage


def test_what_decord_gives_up_pyav_repairs_and_it_is_counted(tmp_path):
    source = damage(write_video(tmp_path / "a.mp4", 400), 0.4, 0.42)
    report, stored = extracted(source, small())
    assert (report.status, report.decoder, report.num_frames) == (DONE, "pyav", 400)
    assert 0 < report.repaired_frames <= 40
    assert stored.attributes["repaired_frames"] == report.repaired_frames
    assert [reason.partition(":")[0] for reason in report.retries] == ["decord"]
    numbers = [number for clip in shown(stored) for number in clip]
    assert numbers[320:] == list(range(320, 400))  # every frame in its own place again


def test_a_video_with_too_much_repaired_fails_as_damaged(tmp_path):
    source = damage(write_video(tmp_path / "a.mp4", 90), 0.4, 0.6)
    report, stored = extracted(source, small())
    assert (report.status, report.kind, stored.is_done) == (FAILED, "damaged", False)
    assert "90 frames decoded" in report.reason and "more than 10% are lost" in report.reason
    assert len(report.retries) == 2
    assert stored.attributes["reason"] == report.reason


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
def test_a_file_cut_off_in_the_middle_is_damaged_and_both_counts_are_told(tmp_path, suffix):
    source = truncate(write_video(tmp_path / f"a{suffix}", 150), 0.6)
    report, _ = extracted(source, small())
    assert (report.status, report.kind) == (FAILED, "damaged")
    decoded, claimed = [int(word) for word in report.reason.split() if word.isdecimal()][:2]
    assert decoded < 100 and 145 <= claimed <= 155


def test_a_file_that_lacks_its_last_frames_is_good(tmp_path):
    source = truncate(write_video(tmp_path / "a.webm", 150), 0.93)
    report, _ = extracted(source, small())
    assert report.status == DONE and 135 <= report.num_frames < 150


def test_a_container_with_longer_sound_is_whole(tmp_path):
    source = write_video(tmp_path / "a.mp4", 50, audio=True)
    report, _ = extracted(source, small())
    assert (report.status, report.num_frames) == (DONE, 50)


def test_a_variable_frame_rate_is_no_damage(tmp_path):
    ticks = [i + i // 3 * 4 for i in range(60)]
    report, _ = extracted(write_video(tmp_path / "a.mkv", 60, ticks=ticks), small())
    assert (report.status, report.num_frames, report.repaired_frames) == (DONE, 60, 0)


# ---------------------------------------------------------------- videos that fail


@pytest.mark.parametrize(("num_frames", "tail"), [(15, "drop"), (16, "xd"), (1, "xd")])
def test_too_short_is_a_clear_failure(tmp_path, num_frames, tail):
    report, stored = extracted(write_video(tmp_path / "a.mp4", num_frames), small(tail=tail))
    need = {"drop": 16, "xd": 17}[tail]
    assert (report.status, report.kind) == (FAILED, "too-short")
    assert f"no clip in {counted(num_frames, 'frame')} by tail rule '{tail}'" in report.reason
    assert f"needs {need}" in report.reason
    assert len(report.retries) == 1  # another decoder would change nothing
    assert stored.attributes["label"] == 1


BROKEN = {
    "no-video": write_audio,
    "empty": Path.touch,
    "unreadable": lambda path: path.write_bytes(b"x" * 999),
    "no-images": Path.mkdir,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_video_fails_by_name(tmp_path, kind):
    BROKEN[kind](tmp_path / "a.mp4")
    report, stored = extracted(tmp_path / "a.mp4", small())
    assert (report.status, report.kind, stored.is_done) == (FAILED, kind, False)


def test_the_share_of_a_video_that_is_done_grows_with_its_clips(tmp_path):
    write_video(tmp_path / "a.mp4", 80, fps=50)
    steps = standin_extractor(small(fps="25")).steps(
        Task(Video("a", "a.mp4"), {"rgb": tmp_path / "a.h5"}, tmp_path / "a.mp4")
    )
    *running, last = [(each.status, each.num_clips, each.num_frames, each.share) for each in steps]
    assert running == [("running", 1, 32, 0.4), ("running", 2, 64, 0.8)]
    assert last == (DONE, 2, 80, 0.0)


def test_a_missing_file_fails_with_what_was_looked_for(tmp_path):
    targets = {"rgb": tmp_path / "a.h5"}
    report = standin_extractor(small())(
        Task(Video("a", "a.mp4"), targets, None, "a.mp4 is nowhere")
    )
    assert (report.status, report.kind, report.reason) == (FAILED, "missing", "a.mp4 is nowhere")


def test_a_folder_without_fps_can_be_extracted_natively_and_not_resampled(tmp_path):
    folder = write_images(tmp_path / "a", 40)
    report, stored = extracted(folder, small())
    assert (report.status, report.num_clips, report.fps) == (DONE, 2, 0)
    assert not {"fps_source", "fps_used"} & set(stored.attributes)
    report, _ = extracted(folder, small(fps="25"))
    assert (report.status, report.kind) == (FAILED, "no-fps")
    assert "fill the manifest's column fps" in report.reason


STALLS, CRASHES = "time.sleep(60)", "os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (CRASHES, None, (DONE, "", "pyav")),
        (STALLS, None, (DONE, "", "pyav")),
        (STALLS, CRASHES, (FAILED, "crashed", "")),
        (CRASHES, STALLS, (FAILED, "stalled", "")),
    ],
)
def test_a_decoder_that_crashes_or_stalls_is_replaced(
    tmp_path, monkeypatch, first, second, outcome
):
    source = write_video(tmp_path / "a.mp4", 40)
    real = extract.open_frames

    def open_frames(path, *, decoder, fps, stall_seconds):
        then = {"decord": first, "pyav": second}[decoder]
        if then is None:
            return real(path, decoder=decoder, fps=fps, stall_seconds=stall_seconds)
        return fake_stream(path, decoder, 40, then, 5.0 if then == CRASHES else 0.3)

    monkeypatch.setattr(extract, "open_frames", open_frames)
    report, _ = extracted(source, small())
    assert (report.status, report.kind, report.decoder) == outcome
    assert report.num_clips == (2 if report.status == DONE else 0)
    if second:
        assert "2 decoders were lost over it" in report.reason
        assert "decord" in report.reason and "pyav" in report.reason
        assert "gave nothing for 0.3 s" in report.reason and "SIGSEGV" in report.reason


def test_the_time_until_a_decoder_counts_as_stalled_is_passed_on(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", 40)
    monkeypatch.setattr(
        extract,
        "open_frames",
        lambda path, *, decoder, fps, stall_seconds: fake_stream(
            path, decoder, 40, STALLS, stall_seconds
        ),
    )
    task = Task(Video("a", source.name), {"rgb": tmp_path / "a.h5"}, source)
    report = Extractor([standin_branch(small())], stall_seconds=0.4)(task)
    assert (report.status, report.kind) == (FAILED, "stalled")
    assert report.reason.count("gave nothing for 0.4 s") == 2


# ---------------------------------------------------------------- what is no fault of the video


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("no memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("no kernel for this"), RuntimeError),
        (KeyError("a bug"), KeyError),
    ],
)
def test_what_goes_wrong_in_the_network_is_raised_and_nothing_recorded(tmp_path, error, raised):
    class Broken(StandIn):
        calls = 0

        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 3:
                raise error
            return super().__call__(views)

    source = write_video(tmp_path / "a.mp4", 100)
    (tmp_path / "out").mkdir()
    task = Task(Video("a", "a.mp4"), {"rgb": tmp_path / "out" / "a.h5"}, source)
    with pytest.raises(raised):  # batches of one view: there is nothing to halve
        Extractor([standin_branch(small(), Broken())])(task)
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_refuses_is_raised(tmp_path):
    source = write_video(tmp_path / "a.mp4", 40)
    task = Task(Video("a", "a.mp4"), {"rgb": tmp_path / "no" / "a.h5"}, source)
    with pytest.raises(OutputError, match="cannot write"):
        standin_extractor(small())(task)


def test_seconds_of_a_stage_are_counted_once(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch.stage("resize"):
        with watch.stage("decode"):
            pass
    assert watch.seconds == {"decode": 3.0, "resize": 7.0}


@pytest.mark.parametrize("fps_used", [Fraction(25), Fraction(7, 2), Fraction(1, 3)])
def test_resampled_blocks_are_the_shown_frames_and_stay_short(fps_used: Fraction) -> None:
    resampling = Resampling(Fraction(2), fps_used)
    source = np.arange(150, dtype=np.uint8).reshape(150, 1, 1, 1)
    blocks = list(extract.resampled(np.split(source, [64, 128]), resampling))
    shown_frames = [resampling.source(i) for i in range(resampling.count(150))]
    assert np.concatenate(blocks).ravel().tolist() == shown_frames
    assert max(map(len, blocks)) <= 64
