"""Command extract: videos -> features."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vadprep.cli.features import show_status
from vadprep.cli.help import advanced, command
from vadprep.cli.options import (
    COUNT,
    FOLDER,
    Videos,
    argument_errors,
    chosen_videos,
    parsed_fields,
    video_options,
    warn,
)
from vadprep.cli.text import Cells, duration, show, show_notes, show_untrained, size
from vadprep.core.presets import PRESETS
from vadprep.core.spec import CROP_COUNTS, PRECISIONS
from vadprep.features.status import Status, status as status_of
from vadprep.features.writer import Share
from vadprep.video import MAX_DAMAGE

if TYPE_CHECKING:
    from vadprep.extraction import Estimate

WEIGHTS_HELP = (
    "File, name in vadprep weights list, or random:SEED. Default: what weights get has fetched."
)
CROPS_HELP = "Number of crops per clip: 1, 5 or 10. Default: that of the preset."
SET_HELP = "A field of the spec, such as tail=drop; see vadprep presets NAME. Repeatable."
STALL_HELP = "If a decoder gives no frame for this time, it is stopped and the other decoder tried."
DAMAGE_HELP = (
    "Share of the frames of a video, 0 to 1, that may be repaired or missing. It only decides "
    "which videos are kept; it does not change feature values."
)
NAMES = click.Choice(list(PRESETS))
CROPS = click.Choice([str(each) for each in CROP_COUNTS])
SECONDS = click.FloatRange(0, min_open=True)


@command("extract", example="vadprep extract --videos clips/ --weights random:0")
@video_options
@click.option("--out", type=FOLDER, help="Feature folder. Default: features/NAME.")
@click.option(
    "--preset", type=NAMES, metavar="NAME", help="Preset name. Default: the preset of the data set."
)
@click.option("--streams", help="rgb, flow or rgb,flow. Default: the streams of the preset.")
@click.option("--weights", help=WEIGHTS_HELP)
@click.option("--crops", type=CROPS, help=CROPS_HELP)
@click.option("--gpus", type=COUNT, help="Number of GPUs, with one worker on each. Default: all.")
@click.option("--workers", type=COUNT, help="Number of CPU workers. Default: one for each core.")
@click.option("--retry-failed", is_flag=True, help="Extract the videos that failed again.")
@click.option("--dry-run", is_flag=True, help="Print plan, size and time; extract nothing.")
@advanced(
    "--flow-weights", help="Weights of stream flow. Default: --weights if random, else fetched."
)
@advanced(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Arithmetic of the network. Default: fp32 on the CPU, tf32 on a GPU.",
)
@advanced("--set", "fields", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@advanced("--save-flow", type=FOLDER, help="Folder in which to keep the optical flow.")
@advanced(
    "--flow-format",
    type=click.Choice(["hdf5", "jpeg"]),
    help="Format of the saved flow. Default: hdf5.",
)
@advanced("--flow-from", type=FOLDER, help="Read the flow that --save-flow has written.")
@advanced("--fps", help="native, or the rate to resample to. Default: that of the preset.")
@advanced("--address", default="local", show_default=True, help="Address of a Ray cluster to join.")
@advanced(
    "--rank",
    type=click.IntRange(0),
    default=0,
    envvar="SLURM_ARRAY_TASK_ID",
    help="Number of this job, from 0. Default: $SLURM_ARRAY_TASK_ID, else 0.",
)
@advanced(
    "--world-size", type=COUNT, default=1, help="Number of jobs that share the feature folder."
)
@advanced("--shard-size", type=COUNT, help="Number of videos in a shard of a new feature folder.")
@advanced("--stall-seconds", type=SECONDS, default=60.0, show_default=True, help=STALL_HELP)
@advanced(
    "--max-damage", type=float, metavar="SHARE", default=MAX_DAMAGE, show_default=True,
    help=DAMAGE_HELP,
)  # fmt: skip
def extract(out: Path | None, dry_run: bool, retry_failed: bool, **options: Any) -> None:
    """Extract features from videos into a feature folder.

    To continue after a stop, run the same command again.
    """
    from vadprep.cli.progress import shown_progress
    from vadprep.extraction import extract as extract_videos

    videos = chosen_videos(options)
    warn(videos.manifest)
    with argument_errors():
        options["settings"] = parsed_settings(options)
    options["preset"] = options["preset"] or videos.preset
    target = out or Path("features") / videos.name
    rank, world_size = options["rank"], options["world_size"]
    if rank >= world_size:
        raise click.UsageError(f"--rank {rank} of --world-size {world_size}: ranks count from 0")
    if dry_run:
        show_estimate(videos, target, retry_failed, options)
        return
    with (
        shown_progress() as progress,
        extract_videos(
            videos.manifest,
            target,
            root=videos.root,
            retry_failed=retry_failed,
            on_report=progress,
            **options,
        ) as features,
    ):
        streams = features.streams
    found = status_of(target)
    results = [found[name] for name in streams]
    if options["save_flow"]:
        show_unsaved(results[-1], options["save_flow"], options["flow_format"] or "hdf5")
    show_status(results)
    complete = all(each.is_complete for each in results)
    if not complete and world_size > 1:  # others may still work on their videos
        complete = all(_has_done(Share(rank, world_size), each) for each in results)
    sys.exit(0 if complete else 1)


def _has_done(share: Share, found: Status) -> bool:
    """True when every video of this share is done."""
    owned = share.owned(found.folder)
    undone = {*found.missing, *(row.video_id for row in found.failed)}
    return not any(found.folder.plan.places[each].shard in owned for each in undone)


def parsed_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The spec fields that options set; takes those options out of ``options``."""
    crops = options.pop("crops")
    named = {"crops": crops and int(crops), "fps": options.pop("fps")}
    named["precision"] = options.pop("precision")
    settings = {name: value for name, value in named.items() if value is not None}
    return settings | parsed_fields(options.pop("fields"))


def show_estimate(
    videos: Videos, target: Path, retry_failed: bool, options: Mapping[str, Any]
) -> None:
    """Print plan, size and time of an extraction."""
    from vadprep.extraction import estimate, resolve_plan

    plan = resolve_plan(target, **options)
    show_untrained(plan.specs)
    found = estimate(plan, videos.manifest, videos.root, retry_failed)
    columns = [
        (
            each.spec.stream,
            f"{each.spec.preset}, {each.spec.precision}, weights {each.spec.weights}",
            f"{each.videos:,} ({each.done:,} done, {each.failed:,} failed, "
            f"{each.missing:,} not found)",
            f"{each.shards:,}",
            f"{each.frames:,}",
            f"{each.clips:,} of {each.spec.crops} crop{'s' if each.spec.crops != 1 else ''}",
            size(each.bytes),
        )
        for each in found.streams
    ]
    names = ("stream", "spec", "videos to do", "shards", "source frames", "clips", "features")
    blank = [""] * (len(columns) - 1)
    rows: list[Cells] = list(zip(names, *columns, strict=True))
    if found.flow_bytes is not None:
        saved = f"{size(found.flow_bytes)} at 2 bytes a pixel, before compression"
        rows.insert(0, ("flow to be saved", saved, *blank))
    show([*rows, ("time", _time(found), *blank)])


def _time(found: Estimate) -> str:
    if not found.clips:
        return "nothing to do"
    if found.seconds is None:
        return "unknown: no file could be read"
    each = f"{found.seconds * found.workers / found.clips:.3f} s a clip"
    return (
        f"{duration(found.seconds)} ({each}, {found.workers} at once; estimated from a "
        "short measurement on this machine)"
    )


def show_unsaved(found: Status, path: Path, form: str) -> None:
    """Print of how many videos the flow is not saved: those extracted in an earlier run."""
    from vadprep.flow import KINDS, SavedFlow

    saved = SavedFlow(path, KINDS[form])
    done = [row.video_id for row in found.rows.values() if row.is_done]
    if lacking := [video_id for video_id in done if not saved.holds(video_id)]:
        text = (
            f"flow of {len(lacking)} videos is not in {path}: their features were there, and "
            "flow is saved as it is computed; to save it, extract into another --out"
        )
        show_notes([text])
