"""Damaged and hostile files, a function for each, and decoders that misbehave over a video.

A maker gets the path at which its file is to stand, in a folder of its own kind, and a sound
video of ``FRAMES`` frames to spoil: an mp4 whose index stands at its beginning, so that what is
cut off or changed later is not merely unreadable.
"""

from __future__ import annotations

import atexit
import functools
import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from support.fake_decoder import fake_stream
from support.standin import standin_extractor
from support.videos import damage, truncate, write_audio, write_video

from vadprep.core.spec import Spec
from vadprep.extraction import extractor as extract
from vadprep.extraction.extractor import Extractor
from vadprep.video import FrameStream

FRAMES = 48
SECRET = "secret.ts"
"""A sound video beside the playlists, which nothing may open for them."""


def sound_video(path: Path, num_frames: int = FRAMES) -> Path:
    """An mp4 whose index stands at its beginning."""
    write_video(path.with_suffix(".mov.mp4"), num_frames)
    with (
        av.open(str(path.with_suffix(".mov.mp4"))) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.with_suffix(".mov.mp4").unlink()
    return path


# ---------------------------------------------------------------- bytes


def flipped(content: bytes, seed: int, start: float, stop: float, bits: int = 1) -> bytes:
    """``content`` with bits flipped between two fractions of its length."""
    draw = random.Random(seed)
    changed = bytearray(content)
    for _ in range(bits):
        place = int(draw.uniform(start, stop) * len(content))
        changed[min(place, len(content) - 1)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def patched(content: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """``content`` with ``value`` so many bytes after the first ``mark``."""
    start = content.index(mark) + offset
    return content[:start] + value + content[start + len(value) :]


def box(mark: bytes, offset: int, value: int, form: str = ">I") -> Callable[[Path, bytes], None]:
    """Maker of an mp4 with another number in a box."""

    def make(path: Path, sound: bytes) -> None:
        path.write_bytes(patched(sound, mark, offset, struct.pack(form, value)))

    return make


def avi(mark: bytes, offset: int, *values: int) -> Callable[[Path, bytes], None]:
    """Maker of an avi with other little-endian numbers in its header."""

    def make(path: Path, sound: bytes) -> None:
        content = write_video(path, FRAMES).read_bytes()
        path.write_bytes(patched(content, mark, offset, struct.pack(f"<{len(values)}I", *values)))

    return make


def raw_avi(width: int, height: int) -> Callable[[Path, bytes], None]:
    """Maker of an uncompressed avi that claims a size."""

    def make(path: Path, sound: bytes) -> None:
        content = write_video(path, FRAMES, codec="rawvideo").read_bytes()
        path.write_bytes(patched(content, b"strf", 12, struct.pack("<2i", width, height)))

    return make


def vp8_of_absurd_size(path: Path, sound: bytes) -> None:
    """A webm of 64x48 whose second keyframe is one of 16383x16383."""
    content = write_video(path, FRAMES).read_bytes()
    mark = b"\x9d\x01\x2a"
    second = content.index(mark, content.index(mark) + 1)
    path.write_bytes(content[: second + 3] + b"\xff\x3f\xff\x3f" + content[second + 7 :])


def noise(path: Path, sound: bytes) -> None:
    path.write_bytes(random.Random(0).randbytes(9999))


# ---------------------------------------------------------------- streams


def zero_frames(path: Path, sound: bytes) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def without_keyframes(path: Path, sound: bytes) -> None:
    """A transport stream of which nothing can be decoded: packets between keyframes alone."""
    source = write_video(path.with_name("1.ts"), FRAMES, codec="libx264")
    with av.open(str(source)) as container, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None and not packet.is_keyframe:
                packet.stream = stream
                target.mux(packet)
    source.unlink()


def zipped(path: Path, sound: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("video.mp4", sound)


# ---------------------------------------------------------------- what FFmpeg would follow


def playlist(target: str) -> Callable[[Path, bytes], None]:
    """Maker of an HLS playlist with one entry."""
    return text(
        f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n"
    )


def playlist_before_a_video(path: Path, sound: bytes) -> None:
    """A playlist to an older FFmpeg, a transport stream to a newer one."""
    stream = write_video(path.with_suffix(".ts"), FRAMES, codec="libx264")
    playlist(ADDRESS)(path, sound)
    path.write_bytes(path.read_bytes().ljust(188, b"\n") + stream.read_bytes())
    stream.unlink()


def text(content: str) -> Callable[[Path, bytes], None]:
    """Maker of a file of text, in which an address is one that we listen at."""

    def make(path: Path, sound: bytes) -> None:
        port = listener().getsockname()[1]
        path.write_text(content.replace(ADDRESS, f"http://127.0.0.1:{port}/x.ts"))

    return make


ADDRESS = "http://example.invalid/x.ts"


@functools.cache
def listener() -> socket.socket:
    """Where nobody may call."""
    server = socket.create_server(("127.0.0.1", 0))
    atexit.register(server.close)
    return server


def is_called() -> bool:
    listener().settimeout(0)
    try:
        listener().accept()[0].close()
    except BlockingIOError:
        return False
    return True


SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video 39000 RTP/AVP 96
a=rtpmap:96 H264/90000
"""
MPD = f"""<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011">
<BaseURL>{ADDRESS}</BaseURL></MPD>
"""

# ---------------------------------------------------------------- what is no file


def a_socket(path: Path, sound: bytes) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name may have 107 bytes
    try:
        listener.bind(path.name)
    finally:
        os.chdir(here)
        listener.close()


def loop_of_links(path: Path, sound: bytes) -> None:
    path.with_name("other").symlink_to(path)
    path.symlink_to(path.with_name("other"))


def folder_of_an_absurd_image(path: Path, sound: bytes) -> None:
    """A PNG that claims 65535x65535 pixels, in a folder with the name of a video."""
    path.mkdir()
    from PIL import Image

    Image.new("RGB", (64, 48)).save(path / "0.png")
    content = (path / "0.png").read_bytes()
    (path / "0.png").write_bytes(patched(content, b"IHDR", 4, struct.pack(">2I", 65535, 65535)))


def sparse(path: Path, sound: bytes) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


# ---------------------------------------------------------------- the kinds

UNREADABLE = "no video format was recognized"
TEXT = "text, not a video"
LOST = "more than 10% are lost"

BAD: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "empty.mp4": (lambda path, sound: path.touch(), "the file is empty"),
    "noise.mp4": (noise, UNREADABLE),
    "zeros.mp4": (sparse, "it begins with zeros"),
    "zip.mp4": (zipped, "it is an archive: unpack it"),
    "text.mp4": (text("Lorem ipsum dolor sit amet\n" * 99), TEXT),
    "error page.mp4": (text("<!DOCTYPE html><html><body>404 Not Found</body></html>"), TEXT),
    "one letter.mp4": (text("x"), TEXT),
    "playlist of a file.mp4": (playlist(SECRET), TEXT),
    "playlist of a file.ts": (playlist(SECRET), TEXT),
    "playlist of an address.mp4": (playlist(ADDRESS), TEXT),
    "playlist and video.mp4": (playlist_before_a_video, TEXT),
    "concat.mp4": (text(f"ffconcat version 1.0\nfile '{SECRET}'\n"), TEXT),
    "session.mp4": (text(SDP), TEXT),
    "dash.mp4": (text(MPD), TEXT),
    "reference.wmv": (text(f"[Reference]\r\nRef1={ADDRESS}\r\n"), TEXT),
    "sound.mp4": (lambda path, sound: write_audio(path), "no video stream"),
    "no frame.mp4": (zero_frames, "no video stream"),
    "one frame.mp4": (lambda path, sound: write_video(path, 1), "too short: no clip in 1 frame by"),
    "no keyframe.ts": (without_keyframes, "no frame can be decoded"),
    "zeros for frames.mp4": (
        lambda path, sound: path.write_bytes(patched(sound, b"mdat", 4, bytes(2000))),
        "no frame can be decoded",
    ),
    "cut.mp4": (lambda path, sound: truncate_to(path, sound, 0.8), LOST),
    "half.mkv": (lambda path, sound: truncate(write_video(path, FRAMES), 0.5), LOST),
    "noise at the end.mp4": (lambda path, sound: noisy(path, sound), LOST),
    "count 0.mp4": (box(b"stsz", 12, 0), "no frame can be decoded"),
    "count 4294967295.mp4": (box(b"stsz", 12, 2**32 - 1), UNREADABLE),
    "no frame has a time.mp4": (box(b"stts", 12, 0), LOST),
    "frames of no duration.mp4": (box(b"stts", 16, 0), LOST),
    "frames of years.mp4": (box(b"stts", 16, 2**31 - 1), "too short"),
    "0 ticks a second.mp4": (box(b"mdhd", 16, 0), "too short"),
    "1 tick a second.mp4": (box(b"mdhd", 16, 1), "too short"),
    "65535x65535.avi": (raw_avi(65535, 65535), "no frame can be decoded"),
    "9000x9000.avi": (raw_avi(9000, 9000), "the frames have 9000x9000 pixels"),
    "16383x16383 later.webm": (vp8_of_absurd_size, LOST),
    "65535x65535.png.mp4": (folder_of_an_absurd_image, "it has 1 frame, and none can be read"),
    "16000x2.mkv": (
        lambda path, sound: write_video(path, FRAMES, size=(16000, 2), codec="ffv1"),
        "would be resized to 2048000x256",
    ),
    "pipe.mp4": (lambda path, sound: os.mkfifo(path), "neither a file nor a folder"),
    "socket.mp4": (a_socket, "neither a file nor a folder"),
    "device.mp4": (lambda path, sound: path.symlink_to("/dev/zero"), "neither a file nor a folder"),
    "dangling.mp4": (lambda path, sound: path.symlink_to("/none"), "a link to /none"),
    "loop.mp4": (loop_of_links, "a link to"),
}  # fmt: skip
"""Name -> maker, and words of the reason for which it has to fail."""


def truncate_to(path: Path, sound: bytes, fraction: float) -> None:
    path.write_bytes(sound)
    truncate(path, fraction)


def noisy(path: Path, sound: bytes) -> None:
    path.write_bytes(sound)
    damage(path, 0.75, 1)


LYING: dict[str, Callable[[Path, bytes], object]] = {
    "duration 0.mp4": box(b"mvhd", 20, 0),
    "duration of years.mp4": box(b"mvhd", 20, 2**32 - 1),
    "65535x65535.mp4": box(b"avc1", 28, 2**32 - 1),
    "matrix of none.mp4": box(b"tkhd", 44, 0),
    "count 1000000000.avi": avi(b"strh", 36, 10**9),
    "25000000 fps.avi": avi(b"strh", 24, 1, 25_000_000),
    "0 fps.avi": avi(b"strh", 24, 0, 0),
}
"""Headers that lie of what features at the native rate do not need: all frames are there."""

NAMES = [
    "a b  c .mp4", "quotes '\"`.mp4", "#hash=1&x?.mp4", "two\nlines\r.mp4", "tab\t.mp4",
    "日本 Überfall é.mp4", "\udcff\udcfe.mp4", "-o.mp4", "--out=x.mp4", "%03d.mp4",
    "$(exit) ;|.mp4", "back\\slash.mp4", "file:x.mp4", "concat:a|b.mp4", "[red]x[/red].mp4",
    "n" * 246 + ".mp4", "one/same.mp4", "two/same.mp4", "UPPER.MP4",
]  # fmt: skip
"""Names of sound videos."""

# ---------------------------------------------------------------- decoders that misbehave

DEEDS = {
    "sleeps with the GIL": ("ctypes.PyDLL(None).sleep(600)", "gave nothing for"),
    "stops for ever": ("while True: os.kill(os.getpid(), signal.SIGSTOP)", "gave nothing for"),
    "segfaults": ("ctypes.string_at(0)", "killed by SIGSEGV"),
    "aborts": ("os.abort()", "killed by SIGABRT"),
    "eats memory": (
        "hoard = []\nwhile True: hoard.append(np.empty(256 << 20, np.uint8))", "MemoryError"
    ),
    "leaves": ("os._exit(3)", "exit code 3"),
}  # fmt: skip
"""What a decoder does in the midst of a video -> code, and what is said of it."""


def misbehave(patch: pytest.MonkeyPatch) -> None:
    """Over a video named ``DEED, one.mp4`` the first decoder misbehaves, ``DEED, both`` each."""
    real = extract.open_frames

    def open_frames(path: Path, *, decoder: str, **options: object) -> FrameStream:
        deed, _, who = path.stem.partition(", ")
        if deed not in DEEDS or (who == "one" and decoder != "decord"):
            return real(path, decoder=decoder, **options)  # type: ignore[arg-type]
        patience = 0.5 if "gave nothing" in DEEDS[deed][1] else 60.0
        return fake_stream(path, decoder, FRAMES // 2, DEEDS[deed][0], patience)

    patch.setattr(extract, "open_frames", open_frames)


def make_hostile_worker(spec: Spec) -> Extractor:
    """A worker in a process of its own, whose decoders misbehave."""
    misbehave(pytest.MonkeyPatch())
    return standin_extractor(spec)


# ---------------------------------------------------------------- folders of them


def sound_folder(folder: Path) -> Path:
    """The folder, with the sound videos that the files of ``hostile_folder`` are made of."""
    folder.mkdir()
    sound_video(folder / "a.mp4")
    write_video(folder / "a.avi", FRAMES)
    return folder


def hostile_folder(folder: Path) -> Path:
    """The folder, with a file of each kind; see ``expected``."""
    sound = sound_video(folder.with_suffix(".mp4")).read_bytes()
    makers = {name: make for name, (make, _) in BAD.items()} | LYING
    folder.mkdir()
    for name, make in makers.items():
        make(folder / name, sound)
    write_video(folder / SECRET, FRAMES, codec="libx264")
    for name in [*NAMES, *deeds("one"), *deeds("both")]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(sound)
    (folder / "one" / "again").symlink_to(folder)  # a loop of folders
    return folder


def deeds(who: str) -> list[str]:
    """Names of sound videos over which one decoder misbehaves, or both."""
    return [f"{deed}, {who}.mp4" for deed in DEEDS]


def good_names() -> list[str]:
    """Names in ``hostile_folder`` of the videos that have to be done."""
    return [*NAMES, *LYING, *deeds("one"), SECRET]


def reasons() -> dict[str, str]:
    """Names in ``hostile_folder`` of the videos that have to fail -> words of the reason."""
    told = {f"{deed}, both.mp4": words for deed, (_, words) in DEEDS.items()}
    return {name: words for name, (_, words) in BAD.items()} | told
