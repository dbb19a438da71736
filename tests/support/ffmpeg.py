"""The ffmpeg command: it makes the videos of tests, and says what their pixels are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from vadprep.video.decoders.base import Decoder

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "12")


def ffmpeg(*arguments: object) -> str:
    """Run ffmpeg; what it wrote to stderr. A failure is an error of the test."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y"]
    result = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stderr


def make(
    path: Path,
    *options: object,
    frames: int = 12,
    size: str = "64x48",
    fps: object = 25,
    filters: str = "null",
) -> Path:
    """The path of a new video of a test picture that moves."""  # fmt: skip
    source = f"testsrc2=size={size}:rate={fps}"
    arguments = ["-f", "lavfi", "-i", source, "-frames:v", frames, "-vf", filters]
    ffmpeg(*arguments, *options, path)
    return path


def cli_frames(path: Path, folder: Path | None = None) -> NDArray[np.uint8]:
    """The frames [n, height, width, 3] in RGB that the ffmpeg command gives of a video.

    It writes them into a file in ``folder``, else beside the video.
    """
    raw = (folder or path.parent) / f"{path.name}.rgb"
    options = ("-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo")
    text = ffmpeg("-i", path, *options, raw)
    width, height = map(int, re.findall(r"Video: rawvideo.*?, (\d+)x(\d+)", text)[-1])
    return np.fromfile(raw, np.uint8).reshape(-1, height, width, 3)


def decoded(decoder: Decoder) -> tuple[NDArray[np.uint8], list[float], int]:
    """Frames [n, height, width, 3] with lost ones filled, their times, and how many were lost."""
    frames, times, lost = [], [], 0
    for frame, seconds in decoder:
        lost += frame is None
        frames.append(frames[-1] if frame is None else np.array(frame))
        times.append(seconds)
    return np.stack(frames), times, lost
