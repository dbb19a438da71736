"""The decoder nvdec: all but the card, with a stand-in for torchcodec that has its interface."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import CHEAP, message, run
from support.videos import DISPLAY_MATRICES, read_numbers, rotate, write_video

from vadprep.core.errors import DecodeError, SettingError
from vadprep.core.presets import resolve
from vadprep.extraction.extractor import make_extractor
from vadprep.extraction.plan import ExtractionPlan, StreamPlan
from vadprep.video import open_frames, require_nvdec
from vadprep.video.decoders import nvdec
from vadprep.video.decoders.nvdec import NvdecDecoder

STANDIN = Path(__file__).parents[1] / "support" / "standin_torchcodec"


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The stand-in is torchcodec here and in child processes."""
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))
    return monkeypatch


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize(("height", "notes"), [(48, 1), (720, 0)])
def test_every_frame_comes_once_with_its_time(tmp_path: Path, height: int, notes: int) -> None:
    path = write_video(tmp_path / "a.mp4", 40, size=(64, height))
    with open_frames(path, decoder="nvdec") as stream:
        numbers = [n for block in stream for n in read_numbers(block)]
    with open_frames(path, decoder="pyav") as other:
        assert sum(map(len, other)) == 40
    assert numbers == list(range(40))
    assert stream.times == other.times
    assert stream.report.decoder == "nvdec" and stream.report.repaired_frames == 0
    assert ["nvdec brings nothing below 720" in note for note in stream.report.notes] == (
        [True] * notes
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("fallback", r"the GPU does not decode it \(fallback\)"),
        ("late fallback", r"the GPU does not decode it \(late fallback\)"),
        ("lost", "39 frames where 40 packets announce some"),
        ("broken", "cuvidDecodePicture failed$"),
        ("Could not load libtorchcodec\nmore", "Could not load libtorchcodec$"),
    ],
)
def test_what_the_gpu_does_not_decode_is_left_to_the_next_decoder(
    tmp_path: Path, torchcodec: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    torchcodec.setenv("STANDIN_TORCHCODEC", fault)
    torchcodec.setattr(nvdec, "BLOCK_BYTES", 64 * 48 * 3 * 32)
    path = write_video(tmp_path / "a.mp4", 40)
    with pytest.raises(DecodeError, match=rf"a\.mp4: nvdec: {words}") as error:
        list(NvdecDecoder(path))
    assert error.value.kind == "damaged"  # the kind that another decoder may read


@pytest.mark.usefixtures("torchcodec")
def test_turned_pictures_and_holes_in_the_times_are_refused(tmp_path: Path) -> None:
    turned = rotate(write_video(tmp_path / "a.mp4", 20), DISPLAY_MATRICES[90])
    ticks = [*range(20), *range(40, 60)]
    for path, words in (
        (turned, "does not turn pictures"),
        (write_video(tmp_path / "b.mkv", 40, ticks=ticks), "does not fill the holes"),
        (write_video(tmp_path / "c.h264", 20, codec="libx264"), "raw stream has no time stamps"),
    ):
        with pytest.raises(DecodeError, match=words):
            NvdecDecoder(path)


def test_without_a_gpu_or_torchcodec_one_line_says_what_to_do(
    tmp_path: Path, torchcodec: pytest.MonkeyPatch
) -> None:
    require_nvdec("cuda")
    torchcodec.setenv("STANDIN_TORCHCODEC", "Could not load libtorchcodec\nLikely causes")
    with pytest.raises(SettingError, match="apt install ffmpeg"):
        require_nvdec("cuda")
    torchcodec.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(SettingError, match="pip install torchcodec"):
        require_nvdec("cuda")
    options = ("--out", tmp_path / "out", "--videos", tmp_path, *CHEAP)
    write_video(tmp_path / "a.mp4", 20)
    refused = run("extract", *options, "--set", "decoder=nvdec, pyav")
    assert "nvdec needs an NVIDIA GPU and --device cuda" in message(refused)
    assert not (tmp_path / "out").exists()


def test_a_node_without_torchcodec_refuses_the_run(torchcodec: pytest.MonkeyPatch) -> None:
    spec = resolve("i3d", "cuda", ("random:0", "-"), {"decoder": "nvdec, pyav"}, "rgb")
    plan = ExtractionPlan((StreamPlan(spec, "random:0"),), None, "cuda")
    torchcodec.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(SettingError, match="pip install torchcodec"):
        make_extractor(plan)


def test_it_enters_the_identity_and_no_preset_has_it() -> None:
    ours, theirs = (
        resolve("i3d", "cuda", ("-", "-"), fields, "rgb") for fields in ({}, {"decoder": "nvdec"})
    )
    assert "nvdec" not in ours.decoder and ours.hash != theirs.hash


@pytest.mark.gpu
def test_on_a_gpu_frames_are_those_of_the_cpu_within_some_levels(tmp_path: Path) -> None:
    pytest.importorskip("torchcodec", exc_type=ModuleNotFoundError)  # what is broken is an error
    require_nvdec("cuda")
    path = write_video(tmp_path / "a.mp4", 40, size=(1280, 720))
    with open_frames(path, decoder="nvdec") as stream:
        found = np.concatenate([block.copy() for block in stream])
    with open_frames(path, decoder="pyav") as other:
        expected = np.concatenate([block.copy() for block in other])
    assert read_numbers(found) == list(range(40)) and stream.times == other.times
    assert np.abs(found.astype(int) - expected).mean() < 3
