"""A device, read by the program ffmpeg: the FFmpeg in PyAV's wheels has no V4L2."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from vadprep.core.child import how_it_ended
from vadprep.core.errors import DecodeError, printable
from vadprep.video import die_with_parent

END_SECONDS = 1.0
"""That ffmpeg may take to end, once it has closed the pipe."""


@contextmanager
def opened_by_ffmpeg(device_format: str, device: str) -> Iterator[Any]:
    """A container of the packets and time stamps of a device, as they come through a pipe.

    ffmpeg is killed when this process ends, however that happens. Raises FFmpegError, and
    DecodeError where there is no ffmpeg and with its last words when it fails.
    """
    import av

    if (program := shutil.which("ffmpeg")) is None:
        raise DecodeError(
            f"the FFmpeg of this PyAV reads no devices ({device_format}): install the program "
            "ffmpeg (apt install ffmpeg), or serve the camera over RTSP or HTTP",
            "no-device",
        )
    lifeline, _ = os.pipe()  # its other end is closed when this process ends
    process = subprocess.Popen(
        [
            *(program, "-nostdin", "-loglevel", "error", "-f", device_format, "-i", device),
            *("-map", "0:v:0", "-c", "copy", "-flush_packets", "1", "-f", "nut", "pipe:1"),
        ],
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[lifeline],
        preexec_fn=lambda: die_with_parent(lifeline),
    )
    assert process.stdout and process.stderr
    last = deque[bytes](maxlen=1)
    listener = Thread(target=last.extend, args=(process.stderr,), daemon=True)
    listener.start()
    try:
        with av.open(process.stdout, format="nut") as file:
            yield file
    finally:
        with suppress(subprocess.TimeoutExpired):  # it goes on when it was not to blame
            code = process.wait(END_SECONDS)
            listener.join(END_SECONDS)
            words = printable(b"".join(last).decode(errors="replace").strip())
            if code or words:
                how = words if code >= 0 and words else how_it_ended(code)
                raise DecodeError(f"ffmpeg: {how}", "broken")
