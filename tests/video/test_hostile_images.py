"""Images that mean harm: other formats under a usual name, absurd sizes, and what is no file."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.attacks import FILES, within

from vadprep.core.errors import DecodeError
from vadprep.video.decoders.base import ImageFolder

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(ran) (w) file closefile showpage
"""


def saved(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, format, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(pixels))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + b"".join(chunks) + data + chunk(b"IEND", b"")
    )


def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF with one directory of (tag, type, count, value), and the place of the next."""
    parts = b"".join(struct.pack("<HHII", *each) for each in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + parts + struct.pack("<I", following)


SIZE = ((256, 4, 1, 8), (257, 4, 1, 8))

CONTENTS: dict[str, bytes] = {
    "EPS": EPS,
    "EPS in DOS form": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + bytes(18) + EPS,
    "PDF": b"%PDF-1.4\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "PSD": b"8BPS\0\1" + bytes(60),
    "GIF": saved("GIF"),
    "ICO": saved("ICO"),
    "PPM": saved("PPM"),
    "TGA": saved("TGA"),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
    "FITS": b"SIMPLE  =                    T" + b" " * 3000,
    "XPM": b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c red", "a"};',
    "empty": b"",
    "text": b"hello\x1b[31m",
    "zeros": bytes(1000),
    "cut PNG": saved("PNG")[:40],
    "cut JPEG": saved("JPEG")[:100],
    "cut WebP": saved("WEBP")[:20],
    "cut TIFF": saved("TIFF")[:30],
    "cut BMP": saved("BMP")[:30],
    "PNG of 2^31": png(2**31 - 1, 2**31 - 1),
    "PNG of 65535": png(65535, 65535, pixels=bytes(1 << 20)),
    "PNG of no size": png(0, 0),
    "PNG with a bomb of text": png(
        8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20)))] * 10),
    "PNG with a bomb of colours": png(
        8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20)))),
    "PNG with wrong checksums": saved("PNG").replace(b"IDAT", b"IDAX"),
    "BMP of 2^31": saved("BMP")[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + saved("BMP")[26:],
    "BMP of a negative size": saved("BMP")[:18] + struct.pack("<ii", -8, -8) + saved("BMP")[26:],
    "JPEG of 65535": saved("JPEG").replace(
        b"\xc0\0\x11\x08\0\x08\0\x08", b"\xc0\0\x11\x08\xff\xff\xff\xff"),
    "TIFF of 2^32": tiff((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1)),
    "TIFF of 2^32 values": tiff(*SIZE, (273, 4, 2**32 - 1, 8)),
    "TIFF that begins anew": tiff(*SIZE, following=8),
    "TIFF beyond its end": tiff(*SIZE, (273, 4, 1, 2**31), following=2**31),
    "TIFF of no directory": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "TIFF of an odd compression": tiff(*SIZE, (259, 3, 1, 65000), (273, 4, 1, 8), (279, 4, 1, 8)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it repairs
@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", ["1.png", "1.TIFF"])
def test_only_sound_images_of_the_listed_formats_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    def none_is_started(*_: object, **__: object) -> None:
        raise AssertionError("a program is started")

    for start in ("Popen", "check_call", "check_output", "run"):
        monkeypatch.setattr(subprocess, start, none_is_started)
    monkeypatch.setattr(os, "system", none_is_started)
    (tmp_path / name).write_bytes(CONTENTS[kind])
    with within(), pytest.raises(DecodeError) as caught:
        ImageFolder(tmp_path, 25)
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).isprintable()


@pytest.mark.parametrize("kind", FILES)
def test_a_frame_that_is_no_file(tmp_path: Path, kind: str) -> None:
    FILES[kind](tmp_path / "1.png")
    with within(), pytest.raises(DecodeError) as caught:
        ImageFolder(tmp_path, 25)
    assert str(caught.value).startswith(str(tmp_path)) and str(caught.value).isprintable()


SOUND: dict[str, Callable[[], bytes]] = {
    name: lambda name=name: saved(name) for name in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
}


@pytest.mark.parametrize("format", SOUND)
def test_the_content_counts_and_not_the_name(tmp_path: Path, format: str) -> None:
    (tmp_path / "1.png").write_bytes(SOUND[format]())
    assert ImageFolder(tmp_path, 25).header.width == 8
