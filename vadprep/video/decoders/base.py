"""What every decoder offers: a header, the frames in order, and what it noticed about damage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError, counted
from vadprep.core.untrusted import open_regular
from vadprep.data import FRAME_SUFFIXES

MAX_PIXELS = 7680 * 4320  # a header with a larger frame is taken to be wrong

MIN_FPS, MAX_FPS = 1, 1000  # a header with a frame rate outside is taken to be wrong

IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""What Pillow may open, whatever a file is called: others start programs (EPS), or read fonts."""

Frame = NDArray[np.uint8]
"""uint8 [height, width, 3] in RGB."""

TimedFrame = tuple[Frame | None, float]
"""A frame, None for a lost one, and the seconds from the first frame to it."""

SIGNS_OF_DAMAGE = re.compile(
    r"conceal|error|corrupt|damaged|invalid|illegal|missing|could not find ref|mismatch|bad vlc|"
    r"overdetermined|overflow|overread|block unavailable|MVs not available|slice end not reached|"
    r"marker bit|junk bits|dc<|reference \d+ >= |"
    r"filter context - w: (\d+ h: \d+) .*incoming frame - w: (?!\1 )",
    re.IGNORECASE,
)
"""Words in FFmpeg's messages: the frame is not the one that was encoded."""


@dataclass(frozen=True)
class VideoHeader:
    """What the file says about itself."""

    width: int  # as displayed, after rotation
    height: int
    fps: Fraction  # the average; for a folder the one that the caller gives
    num_frames: int | None  # None where the container does not state it
    rotation: int = 0  # degrees counter-clockwise that were applied, after the mirror
    mirrored: bool = False  # the picture was turned upside down
    seconds: float | None = None  # length; None where none is stated for the video alone
    notes: tuple[str, ...] = ()  # what is unusual, in one phrase each
    tick: float = 0.0  # seconds; time stamps are multiples of it
    num_packets: int = 0  # an estimate of the frames: some packets hold a field, or nothing to show

    @property
    def likely_frames(self) -> int:
        """The number that is stated, else that of the packets; 0 where neither is known."""
        return self.num_frames or self.num_packets


@dataclass(frozen=True)
class DecodeReport:
    """What was decoded."""

    num_frames: int
    repaired_frames: int  # lost and filled with the last good frame, or concealed by the codec
    decoder: str
    seconds: float  # spent on decoding, without waiting for the reader
    end_seconds: float | None = None  # from the begin of the first frame to the end of the last
    notes: tuple[str, ...] = ()  # those of the header, and what was unusual while decoding
    skipped_seconds: float = 0.0  # of the file, before the first frame that can be decoded


class Decoder:
    """Decodes one video. It runs in the decoder process, never in the caller's process.

    A subclass sets ``header`` in ``__init__`` and yields the frames in ``__iter__``, which is
    called once. Both raise DecodeError when the video cannot be read. The other attributes are
    about the frames so far.
    """

    header: VideoHeader
    num_concealed = 0  # frames that the codec itself patched up, where it reports that
    end_seconds: float | None = None  # from the begin of the first frame to the end of the last
    skipped_seconds = 0.0  # of the file, before the first frame that can be decoded
    extra_bytes = 0  # private memory that it may take for large libraries

    def __init__(self, path: Path, fps: Fraction | None) -> None:
        """``fps`` is the frame rate of a folder; a video file states its own."""
        self.path = path
        self.notes: list[str] = []  # what was unusual, besides the notes of the header

    def __iter__(self) -> Iterator[TimedFrame]:
        """The frames in display order, with their times."""
        raise NotImplementedError


class FolderDecoder(Decoder):
    """Decodes a folder with one file for each frame. A subclass reads one file in ``read``."""

    suffixes: frozenset[str]  # file name endings of the frames, in lower case

    def __init__(self, path: Path, fps: Fraction | None) -> None:
        super().__init__(path, fps)
        if fps is None:
            raise ValueError(f"{path}: a folder of frames needs the frame rate, fps=")
        names = [entry.name for entry in path.iterdir() if is_frame(entry.name, self.suffixes)]
        self._files = [path / name for name in sorted(names, key=natural_key)]
        self._check_numbers(names)
        first = next((frame for frame in map(self.read, self._files) if frame is not None), None)
        if first is None:
            message = f"{path}: it has {counted(len(self._files), 'frame')}, and none can be read"
            raise DecodeError(message, "damaged")
        self.header = VideoHeader(first.shape[1], first.shape[0], fps, len(self._files))
        self.end_seconds = float(len(self._files) / fps)

    def _check_numbers(self, names: list[str]) -> None:
        """Raise DecodeError when two frames have one number; note numbers that are missing."""
        stems: dict[tuple[tuple[str, int], ...], str] = {}
        for name in names:
            key = tuple(natural_key(Path(name).stem)[0])
            if key in stems:
                raise _refused(self.path, f"{stems[key]} and {name} are one frame: remove one")
            stems[key] = name
        texts = {tuple(text for text, _ in key) for key in stems}
        if len(texts) == 1 and sum(number >= 0 for _, number in next(iter(stems))) == 1:
            numbers = sorted(max(number for _, number in key) for key in stems)
            if gaps := numbers[-1] - numbers[0] + 1 - len(numbers):
                self.notes.append(
                    f"{counted(gaps, 'frame number')} missing between the first and last"
                )

    def read(self, file: Path) -> Frame | None:
        """The frame uint8 [height, width, 3] in RGB of one file; None where it is unreadable.

        Raises DecodeError for a frame that ``check_size`` refuses.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[TimedFrame]:
        height, width, fps = self.header.height, self.header.width, self.header.fps
        for index, file in enumerate(self._files):
            frame = self.read(file)
            if frame is not None and frame.shape != (height, width, 3):
                raise DecodeError(
                    f"{file}: the frame has {frame.shape[1]}x{frame.shape[0]} pixels, the frames "
                    f"before it have {width}x{height}",
                    "damaged",
                )
            yield frame, float(index / fps)


class ImageFolder(FolderDecoder):
    """Images, read by Pillow and turned as they say. Grey, palette and 16-bit ones become RGB."""

    suffixes = FRAME_SUFFIXES["images"]

    def read(self, file: Path) -> Frame | None:
        """The image uint8 [height, width, 3]; None where it cannot be read.

        Raises DecodeError for an image of more than one page and for one of fractions.
        """
        from PIL import Image, ImageOps

        try:
            with (
                open_regular(file, DecodeError, most_bytes=None) as stream,
                Image.open(stream, formats=IMAGE_FORMATS) as image,
            ):
                check_size(file, *image.size)
                if getattr(image, "n_frames", 1) > 1:
                    why = "it has several pages, or is animated: write each into a file of its own"
                    raise _refused(file, why)
                if image.mode == "F":
                    raise _refused(file, "it holds fractions: convert it to 8 or 16 bits a value")
                turned = ImageOps.exif_transpose(image)
                if not turned.mode.startswith("I"):
                    return np.asarray(turned.convert("RGB"))
                # 16-bit grey, which Pillow would clip and not scale
                grey = (np.asarray(turned).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
        except DecodeError:
            raise
        except Exception:  # of a damaged file Pillow raises anything
            return None


def _refused(file: Path, why: str) -> DecodeError:
    return DecodeError(f"{file}: {why}", "unreadable")


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
