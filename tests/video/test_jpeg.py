"""Frames as JPEG files give them back: to the bit those of OpenCV's imwrite and imread."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.ffmpeg import make
from support.standin import standin_branch, standin_spec

from vadprep.core.records import Task, Video
from vadprep.core.spec import jpeg_quality
from vadprep.extraction import extract_video
from vadprep.extraction.extractor import Extractor
from vadprep.video import FrameTransform, open_frames
from vadprep.video.jpeg import Jpeg

Frame = NDArray[np.uint8]


def noise(height: int, width: int) -> Frame:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def edges(height: int, width: int) -> Frame:
    """Full colours with edges every three pixels: the transform overshoots."""
    tiles = noise(height // 3 + 1, width // 3 + 1) // 128 * 255
    return np.kron(tiles, np.ones((3, 3, 1), np.uint8))[:height, :width]


def smooth(height: int, width: int) -> Frame:
    return np.ascontiguousarray(cv2.GaussianBlur(noise(height, width), (0, 0), 3))


def by_opencv(frame: Frame, quality: int) -> Frame:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    written = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1]
    return cv2.cvtColor(cv2.imdecode(written, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def by_pillow(frame: Frame, quality: int) -> Frame:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as image:
        return np.asarray(image.convert("RGB"))


SIZES = [(240, 320), (17, 33), (16, 16), (31, 4), (7, 100), (50, 2), (3, 5), (2, 3), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("picture", [noise, edges, smooth])
def test_a_frame_is_that_of_opencv_and_of_pillow(picture, size) -> None:
    frame = picture(*size)
    for quality in (1, 20, 50, 75, 95, 100):
        ours = Jpeg(quality)(torch.from_numpy(frame)[None])[0].numpy()
        np.testing.assert_array_equal(ours, by_opencv(frame, quality))
        np.testing.assert_array_equal(ours, by_pillow(frame, quality))


def test_frames_of_a_block_are_each_their_own() -> None:
    block = torch.from_numpy(np.stack([noise(40, 50), edges(40, 50), smooth(40, 50)]))
    kept = block.clone()
    found = Jpeg(95)(block)
    assert torch.equal(block, kept) and found.dtype == torch.uint8
    assert torch.equal(found, torch.cat([Jpeg(95)(frame[None]) for frame in block]))


@pytest.mark.gpu
@pytest.mark.parametrize("quality", [20, 95])
@pytest.mark.parametrize("size", [(240, 320), (17, 33), (2, 3)])
def test_a_gpu_gives_the_same_bytes(size: tuple[int, int], quality: int) -> None:
    """In more than one block of frames, which all differ."""
    pictures = [noise(*size), edges(*size), smooth(*size)]
    block = torch.from_numpy(np.stack([np.roll(each, n) for n in range(6) for each in pictures]))
    found = Jpeg(quality, "cuda")(block)
    assert found.is_cuda and torch.equal(found.cpu(), Jpeg(quality)(block))


@pytest.mark.parametrize("resize", ["256x340", "120x160"])
def test_frames_go_through_jpeg_before_they_are_resized(resize: str) -> None:
    frame = edges(120, 160)
    settings = {"resize": resize, "filter": "pil-lanczos", "crop_size": 64}
    found = FrameTransform(120, 160, "cpu", frames="jpeg95", **settings).resize(frame[None])
    expected = FrameTransform(120, 160, "cpu", **settings).resize(by_opencv(frame, 95)[None])
    assert torch.equal(found, expected)
    assert not torch.equal(found, FrameTransform(120, 160, "cpu", **settings).resize(frame[None]))


def test_an_extraction_gives_the_network_frames_of_jpeg(tmp_path: Path) -> None:
    """And the size, filter and place of the crop that were named."""
    seen: list[torch.Tensor] = []

    class Recorder:
        device, dim = torch.device("cpu"), 1

        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            seen.append(views.clone())
            return torch.zeros(len(views), 1)

    video = make(tmp_path / "a.mp4", frames=16, size="96x70")
    spec = standin_spec(
        frames="jpeg20", resize="128x172", filter="pil-lanczos", crop_size=113,
        centre_rounding="floor",
    )  # fmt: skip
    task = Task(Video("a", "a.mp4"), {"rgb": tmp_path / "a.h5"}, video)
    assert Extractor([standin_branch(spec, Recorder())])(task).status == "done"
    with open_frames(video) as stream:
        frames = [by_opencv(frame, 20) for block in stream for frame in block]
    wide = [Image.fromarray(each).resize((172, 70), Image.Resampling.LANCZOS) for each in frames]
    resized = np.stack([each.resize((172, 128), Image.Resampling.LANCZOS) for each in wide])
    (views,) = seen
    np.testing.assert_array_equal(views[0], resized[:, 7:120, 29:142])


def test_qualities_of_a_spec() -> None:
    assert [jpeg_quality(each) for each in ("decoded", "jpeg1", "jpeg100")] == [None, 1, 100]
    for odd in ("jpeg", "jpeg0", "jpeg101", "jpeg095", "png", ""):
        with pytest.raises(ValueError, match=r"frames = .*allowed are decoded, jpeg1 to jpeg100"):
            jpeg_quality(odd)


@pytest.mark.slow
def test_features_are_those_of_jpeg_files_that_opencv_wrote(real_clips: Path, tmp_path) -> None:
    """The route of UR-DMU's script: OpenCV writes frames, Pillow reads them; ten crops."""
    with open_frames(real_clips / "v_GGSY1Qvo990.mp4") as stream:
        frames = next(np.array(block) for block in stream)[:16]
    assert len(frames) == 16
    for ending in ("jpg", "png"):
        (tmp_path / ending).mkdir()
        for number, frame in enumerate(frames, 1):
            file = tmp_path / ending / f"img_{number:08d}.{ending}"
            cv2.imwrite(str(file), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def features(ending: str, kept: str) -> NDArray[np.float32]:
        settings = {"frames": kept, "dtype": "float32"}
        options = {"preset": "gowtham-r50", "weights": "random:0", "device": "cpu"}
        return extract_video(tmp_path / ending, settings=settings, **options).rgb[0]

    theirs = features("jpg", "decoded")
    np.testing.assert_array_equal(features("png", "jpeg95"), theirs)
    plain = features("png", "decoded")
    lengths = np.linalg.norm(plain, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (plain * theirs).sum(axis=1) / lengths
    assert cosines.max() < 0.9996
