"""What every decoder offers: a header, the frames in order, and what it noticed about damage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError
from vadprep.data import FRAME_SUFFIXES

MAX_PIXELS = 7680 * 4320
"""The limit of a frame. A header with a larger frame is taken to be wrong."""

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoHeader:
    """What the file says about itself."""

    width: int  # as displayed, after rotation
    height: int
    fps: Fraction  # the average; for a folder the one that the caller gives
    num_frames: int | None  # None where the container does not state it
    rotation: int = 0  # degrees counter-clockwise that were applied
    seconds: float | None = None  # when the video ends; None where no time is stated for it alone


@dataclass(frozen=True)
class DecodeReport:
    """What was decoded."""

    num_frames: int
    repaired_frames: int  # lost and filled with the last good frame, or concealed by the codec
    decoder: str
    seconds: float  # spent on decoding, without waiting for the reader
    end_seconds: float | None = None  # when the last frame ends; None where frames have no time
    skipped_frames: int = 0  # fit into gaps between timestamps: lost silently, or never existed


class Decoder:
    """Decodes one video. It runs in the decoder process, never in the caller's process.

    A subclass sets ``header`` in ``__init__`` and yields the frames in ``__iter__``, which is
    called once. Both raise DecodeError when the video cannot be read. The other attributes are
    about the frames so far.
    """

    header: VideoHeader
    num_concealed = 0  # frames that the codec itself patched up, where it reports that
    end_seconds: float | None = None  # when the last frame ends; None where frames have no time

    def __init__(self, path: Path, fps: Fraction | None) -> None:
        """``fps`` is the frame rate of a folder; a video file states its own."""
        self.path = path
        # Frames missing between two others by the timestamps -> how often; -1 is half a frame.
        self.gaps: Counter[int] = Counter()

    def __iter__(self) -> Iterator[Frame | None]:
        """Frames uint8 [height, width, 3] in RGB, in display order. None is a lost frame."""
        raise NotImplementedError

    def num_skipped(self) -> int:
        """Frames that fit into the gaps between the timestamps.

        0 where some frames are closer than half of the average distance: then the frame rate is
        variable, and a gap does not mean a loss.
        """
        return 0 if min(self.gaps, default=0) < 0 else sum(k * n for k, n in self.gaps.items())


class FolderDecoder(Decoder):
    """Decodes a folder with one file for each frame. A subclass reads one file in ``read``."""

    suffixes: frozenset[str]  # file name endings of the frames, in lower case

    def __init__(self, path: Path, fps: Fraction | None) -> None:
        super().__init__(path, fps)
        if fps is None:
            raise ValueError(f"{path}: a folder of frames needs the frame rate, fps=")
        names = [entry.name for entry in path.iterdir() if is_frame(entry.name, self.suffixes)]
        self._files = [path / name for name in sorted(names, key=natural_key)]
        first = next((frame for frame in map(self.read, self._files) if frame is not None), None)
        if first is None:
            message = f"{path}: none of its {len(self._files)} frames can be read"
            raise DecodeError(message, "damaged")
        self.header = VideoHeader(first.shape[1], first.shape[0], fps, len(self._files))

    def read(self, file: Path) -> Frame | None:
        """The frame uint8 [height, width, 3] in RGB of one file; None where it is unreadable.

        Raises DecodeError for a frame that ``check_size`` refuses.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame | None]:
        height, width = self.header.height, self.header.width
        for file in self._files:
            frame = self.read(file)
            if frame is not None and frame.shape != (height, width, 3):
                raise DecodeError(
                    f"{file}: the frame has {frame.shape[1]}x{frame.shape[0]} pixels, the frames "
                    f"before it have {width}x{height}",
                    "damaged",
                )
            yield frame


class ImageFolder(FolderDecoder):
    """Images, read by Pillow. Grey, palette and 16-bit images become RGB."""

    suffixes = FRAME_SUFFIXES["images"]

    def read(self, file: Path) -> Frame | None:
        """The image uint8 [height, width, 3]; None where it cannot be read."""
        from PIL import Image

        try:
            with Image.open(file) as image:
                check_size(file, *image.size)
                if not image.mode.startswith(("I", "F")):
                    return np.asarray(image.convert("RGB"))
                # 16-bit grey, which Pillow would clip and not scale
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None


def is_frame(name: str, suffixes: frozenset[str]) -> bool:
    """Whether a file of this name is a frame; hidden files are not."""
    return Path(name).suffix.lower() in suffixes and not name.startswith(".")


def natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key that puts frame2 before frame10; the name itself decides between 1 and 01."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name.lower())
    return [(text, int(digits or -1)) for text, digits in parts], name


def check_size(path: Path, width: int, height: int) -> None:
    """Raise DecodeError for frames above MAX_PIXELS, before memory is taken for them."""
    if width * height > MAX_PIXELS:
        raise DecodeError(
            f"{path}: the frames have {width}x{height} pixels; the limit is {MAX_PIXELS} pixels",
            kind="too-large",
        )
