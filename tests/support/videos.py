"""Synthetic videos whose every frame carries its number, readable from the pixels.

A frame is a grid of 4 x 4 blocks, black or white: the 16 bits of its number. Blocks of 8 px
and more survive any lossy codec.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 4

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx"}
"""Suffix of the container -> codec written into it. libx264 writes B-frames."""

_ONE, _W = 1 << 16, 1 << 30
DISPLAY_MATRICES = {
    90: (0, -_ONE, 0, _ONE, 0, 0, 0, 0, _W),
    180: (-_ONE, 0, 0, 0, -_ONE, 0, 0, 0, _W),
    270: (0, _ONE, 0, -_ONE, 0, 0, 0, 0, _W),
}
"""Degrees counter-clockwise to be applied on display -> matrix of the mp4 track header."""


def numbered_frame(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Frame that shows ``number`` < 65536: uint8 [height, width, 3]."""
    bits = np.array([number >> i & 1 for i in range(GRID * GRID)]).reshape(GRID, GRID)
    rows = np.arange(height) * GRID // height
    columns = np.arange(width) * GRID // width
    grey = (16 + 224 * bits[rows][:, columns]).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_number(frame: NDArray[np.uint8]) -> int:
    """Number that a frame [height, width, 3] shows, from the middles of its blocks."""
    height, width = frame.shape[:2]
    rows = (2 * np.arange(GRID) + 1) * height // (2 * GRID)
    columns = (2 * np.arange(GRID) + 1) * width // (2 * GRID)
    bits = frame[rows][:, columns].mean(axis=2).ravel() > 128
    return int(bits @ (1 << np.arange(GRID * GRID)))


def read_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Numbers that frames [n, height, width, 3] show."""
    return [read_number(frame) for frame in frames]


def write_video(
    path: Path,
    num_frames: int,
    *,
    size: tuple[int, int] = (64, 48),
    fps: Fraction | int = 25,
    codec: str | None = None,
    ticks: Sequence[int] | None = None,
    audio: bool = False,
    colorspace: int | None = None,
    color_range: int | None = None,
) -> Path:
    """The path of a new video of numbered frames, ``size`` (width, height).

    ``ticks`` are the times of the frames in frame durations, for a variable frame rate;
    ``audio`` puts a silent stream before the video. The colour tags are FFmpeg's numbers
    (colorspace 1: bt709; color_range 2: full).
    """
    with av.open(str(path), "w") as container:
        if audio:
            sound = container.add_stream("aac", rate=16000, layout="mono")
        stream = container.add_stream(codec or CODECS[path.suffix], rate=Fraction(fps))
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = 12
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        container.start_encoding()  # a header, even without a frame
        if audio:
            _mux_silence(container, sound, num_frames / Fraction(fps))
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            frame.pts = ticks[number] if ticks else number
            frame.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """The path of a new file with sound and no picture."""
    with av.open(str(path), "w") as container:
        _mux_silence(container, container.add_stream("aac", rate=16000, layout="mono"), 1)
    return path


def _mux_silence(
    container: av.container.OutputContainer, stream: av.AudioStream, seconds: Fraction | int
) -> None:
    for start in range(0, int(16000 * seconds), 1024):
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def rotate(path: Path, matrix: Sequence[int]) -> Path:
    """The same mp4 with another display matrix in its first track header, changed in place."""
    content = bytearray(path.read_bytes())
    box = content.index(b"tkhd") + 4
    start = box + (52 if content[box] else 40)
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


def damage(path: Path, start: float, stop: float) -> Path:
    """The same file with the bytes between two fractions of its length replaced by noise."""
    content = bytearray(path.read_bytes())
    first, last = int(start * len(content)), int(stop * len(content))
    content[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(content)
    return path


def truncate(path: Path, fraction: float) -> Path:
    """The same file cut off at a fraction of its length."""
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    return path


def write_images(folder: Path, count: int) -> Path:
    """A folder of numbered frames, without a frame rate."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(numbered_frame(number)).save(folder / f"{number}.png")
    return folder
