"""``vadprep report``: pages that show runs, their videos, and feature folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep.cli.help import advanced, command
from vadprep.cli.options import FOLDER, SHARE, dataset_option, manifest_option
from vadprep.cli.text import shown_bar

PREVIEWS_HELP = "Which videos get a preview: all, test, worst:N or none."
VIDEOS_HELP = "Folder of the video files. Default: $VADPREP_ROOT, else no previews."


@command("report", example="vadprep report runs/ddl-xd --videos /data/xd --out page")
@click.argument("sources", nargs=-1, required=True, metavar="RUN...|FEATURES")
@click.option("--videos", type=FOLDER, envvar="VADPREP_ROOT", help=VIDEOS_HELP)
@click.option(
    "--out", type=FOLDER, default=Path("report"), show_default=True, help="Folder of the pages."
)
@click.option("--previews", default="worst:50", show_default=True, help=PREVIEWS_HELP)
@click.option("--link", is_flag=True, help="Play the video files themselves where browsers can.")
@dataset_option
@manifest_option
@advanced("--threshold", type=SHARE, default=0.5, show_default=True,
          help="Score from which on a frame is an alarm.")  # fmt: skip
def report(sources: tuple[str, ...], out: Path, **options: Any) -> None:
    """Write pages that show runs or features in a browser.

    RUN is a run folder or a file of scores. Several runs stand side by side. The page of a video
    has a player, the curve of the scores, the ground truth and the alarms. FEATURES is a feature
    folder: its page shows what failed, and which features look unusual. Open index.html: no
    server and no network are needed.
    """
    with shown_bar("previews") as update:
        page = vadprep.report(sources, out=out, on_preview=update, **options)
    click.echo(f"open {page}")
