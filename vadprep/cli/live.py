"""``vadprep live``: scores and alarms of cameras and streams, as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep.cli.help import advanced, command
from vadprep.cli.options import FILE, FOLDER, POSITIVE, Number, message_options
from vadprep.cli.score import PRESET, PRESET_HELP
from vadprep.cli.text import note
from vadprep.core.atomic import disk_errors
from vadprep.core.errors import SettingError, Stopped
from vadprep.core.signals import stop_on_signals

THRESHOLD_HELP = "Score at which an alarm begins, or ON,OFF: it ends below OFF."
SPEED_HELP = "Play files at this speed, 1 as if live. Default: as fast as they can be scored."
HOST_HELP = "Address of the page. 0.0.0.0 shows it to the whole network."
WINDOW_HELP = "Snippets that the head sees. Default: its context, or its longest training bag."
LEAST_HELP = "Seconds that an alarm must last to be reported."
PORT_HELP = "Port of a web page; 0 is any free one. Default: no page."
STALL_HELP = "Connect again after so many seconds without a frame."
DEVICE_HELP = "cpu or cuda. Default: cuda if there is a GPU."
AFTERWARDS = "all records are written; run it again to go on"


@command("live", example="vadprep live runs/ddl-xd rtsp://camera/stream --threshold 0.6,0.4")
@click.argument("run", type=FOLDER)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--threshold", default="0.5", show_default=True, help=THRESHOLD_HELP)
@click.option("--least", type=Number(0), default=0.0, show_default=True, help=LEAST_HELP)
@click.option("--speed", type=POSITIVE, help=SPEED_HELP)
@click.option("--out", type=FILE, help="File that the records are added to. Default: stdout.")
@click.option("--webhook", metavar="URL", help="Address that each alarm is posted to, as JSON.")
@click.option("--keep", type=FOLDER, help="Folder for MP4 clips of the alarms. Default: none.")
@click.option("--port", type=click.IntRange(0, 65535), help=PORT_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help=HOST_HELP)
@click.option("--weights", help="Weights of the network, if they are not fetched.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help=DEVICE_HELP)
@advanced("--flow-weights", help="Weights of the network of stream flow.")
@advanced("--preset", type=PRESET, metavar="NAME", help=PRESET_HELP)
@advanced("--window", type=int, help=WINDOW_HELP)
@advanced("--stall-seconds", type=POSITIVE, default=10.0, show_default=True, help=STALL_HELP)
@message_options
def live(run: Path, sources: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Score what cameras and streams show now; list alarms.

    SOURCE is a URL (rtsp, http, rtmp, udp, rtp), a device (/dev/video0, by the program ffmpeg), a
    video file, or a folder that gets video files. Each record is a line of JSON.
    """
    options["threshold"] = parsed_threshold(options.pop("threshold"))
    is_failed = False
    with records_to(out) as write, stop_on_signals(AFTERWARDS):
        session = vadprep.live(run, list(sources), **options)
        try:
            if session.caution:  # not on stdout, where the records are
                click.echo(f"{run}: {session.caution}", err=True)
            if session.page_url:
                note(f"Look at it in a browser: {session.page_url}")
            for record in session:
                write(record)
                is_failed |= getattr(record, "state", "") == "failed"
        except Stopped:
            for record in session.close():
                write(record)
            raise
        finally:
            session.close()
    sys.exit(1 if is_failed else 0)


def parsed_threshold(text: str) -> tuple[float, float]:
    """``ON,OFF`` or one number for both."""
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise SettingError(f"--threshold {text}: expected a number or ON,OFF, such as 0.6,0.4")
    return numbers[0], numbers[-1]


@contextmanager
def records_to(out: Path | None) -> Iterator[Callable[[Any], None]]:
    """A function that writes a record: a line of stdout, or at the end of the file ``out``."""
    from vadprep.online import as_json

    if out is None:
        yield lambda record: click.echo(as_json(record))
        return
    with disk_errors(out):
        file = open(out, "a", encoding="utf-8")

    def write(record: Any) -> None:
        with disk_errors(out):
            file.write(as_json(record) + "\n")
            file.flush()

    try:
        yield write
    finally:
        with disk_errors(out):  # what a full disk has refused is tried once more
            file.close()
