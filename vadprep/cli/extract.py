"""Command extract: videos -> features."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vadprep
from vadprep.cli.config import write_run
from vadprep.cli.features import show_status
from vadprep.cli.help import advanced, command
from vadprep.cli.options import (
    COUNT,
    FOLDER,
    POSITIVE,
    SHARE,
    chosen_videos,
    config_option,
    message_options,
    parsed_fields,
    video_options,
)
from vadprep.cli.text import (
    duration,
    show,
    show_list,
    show_untrained,
    shown_bar,
    shown_progress,
    size,
)
from vadprep.core.errors import counted
from vadprep.core.presets import PRESETS
from vadprep.core.spec import CROP_COUNTS, PRECISIONS
from vadprep.features import Share
from vadprep.video import MAX_DAMAGE

if TYPE_CHECKING:
    from vadprep.extraction import Estimate, Progress

PRESET = click.Choice(list(PRESETS))
PRESET_HELP = "Preset. Default: of features in --out, else of the data set, else i3d."
WEIGHTS_HELP = (
    "File, name in vadprep weights list, or random:SEED. Default: what weights get has fetched."
)
FLOW_WEIGHTS_HELP = "Weights of stream flow. Default: --weights if random, else fetched."
CROPS = click.Choice([str(each) for each in CROP_COUNTS])
CROPS_HELP = "Number of crops per clip: 1, 5 or 10. Default: that of the preset."
PRECISION = click.Choice(PRECISIONS)
PRECISION_HELP = "Arithmetic of the network. Default: fp32 on the CPU, tf32 on a GPU."
SET_HELP = "A field that vadprep presets NAME lists for --set, such as tail=drop. Repeatable."
RETRY_HELP = "Extract again the videos that failed, and those whose file was replaced."
FORMAT = click.Choice(["hdf5", "jpeg", "denseflow", "mmaction2"])
FORMAT_HELP = "Format of the saved flow. The last three are JPEG. Default: hdf5."
FLOW_FROM_HELP = "Read flow that --save-flow, denseflow, dense_flow or mmaction2 has written."
ADDRESS_HELP = "Address of a Ray cluster to join."
RANK: dict[str, Any] = {"type": click.IntRange(0), "default": 0, "envvar": "SLURM_ARRAY_TASK_ID"}
RANK_HELP = "Number of this job, from 0. Default: $SLURM_ARRAY_TASK_ID, else 0."
WORLD_HELP = "Number of jobs that share the feature folder."
MISSING_HELP = "Go on even if the files of more than half of the videos are missing."
STALL_HELP = "If a decoder gives no frame for this time, it is stopped and the other decoder tried."
DAMAGE: dict[str, Any] = {"metavar": "SHARE", "default": MAX_DAMAGE, "show_default": True}
DAMAGE_HELP = (
    "Share of the frames of a video, 0 to 1, that may be repaired or missing. It only decides "
    "which videos are kept; it does not change feature values."
)


@command("extract", example="vadprep extract --videos clips/ --weights random:0")
@video_options
@click.option("--out", type=FOLDER, help="Feature folder. Default: features/NAME.")
@click.option("--preset", type=PRESET, metavar="NAME", help=PRESET_HELP)
@click.option("--streams", help="rgb, flow or rgb,flow. Default: the streams of the preset.")
@click.option("--weights", help=WEIGHTS_HELP)
@click.option("--crops", type=CROPS, help=CROPS_HELP)
@click.option("--gpus", type=COUNT, help="Number of GPUs, with one worker on each. Default: all.")
@click.option("--workers", type=COUNT, help="Number of CPU workers. Default: one for each core.")
@click.option("--retry-failed", is_flag=True, help=RETRY_HELP)
@click.option("--dry-run", is_flag=True, help="Print plan, size and time; extract nothing.")
@advanced("--flow-weights", help=FLOW_WEIGHTS_HELP)
@advanced("--precision", type=PRECISION, help=PRECISION_HELP)
@advanced("--set", "fields", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@advanced("--save-flow", type=FOLDER, help="Folder in which to keep the optical flow.")
@advanced("--flow-format", type=FORMAT, help=FORMAT_HELP)
@advanced("--flow-from", type=FOLDER, help=FLOW_FROM_HELP)
@advanced("--fps", help="native, or the rate to resample to. Default: that of the preset.")
@advanced("--address", default="local", show_default=True, help=ADDRESS_HELP)
@advanced("--rank", **RANK, help=RANK_HELP)
@advanced("--world-size", type=COUNT, default=1, help=WORLD_HELP)
@advanced(
    "--shard-size", type=COUNT, help="Videos in a shard of a new feature folder. Default: 64."
)
@advanced("--stall-seconds", type=POSITIVE, default=60.0, show_default=True, help=STALL_HELP)
@config_option
@advanced("--allow-missing", is_flag=True, help=MISSING_HELP)
@advanced("--max-damage", type=SHARE, **DAMAGE, help=DAMAGE_HELP)
@message_options
def extract(out: Path | None, dry_run: bool, retry_failed: bool, **options: Any) -> None:
    """Extract features from videos into a feature folder.

    To continue after a stop, run the same command again.
    """
    from vadprep.extraction import estimate

    sources, ctx = chosen_videos(options, out), click.get_current_context()
    crops = options.pop("crops")
    named = {"crops": crops and int(crops)}
    named |= {field: options.pop(field) for field in ("fps", "precision")}
    settings = {field: value for field, value in named.items() if value is not None}
    options["settings"] = settings | parsed_fields(options.pop("fields"))
    out = out or Path("features") / sources.name
    rank, world_size = options["rank"], options["world_size"]
    if rank >= world_size:
        raise click.UsageError(f"--rank {rank} of --world-size {world_size}: ranks count from 0")
    options |= {"retry_failed": retry_failed}
    if dry_run:
        is_live = sys.stderr.isatty()
        with shown_bar("measuring") if is_live else nullcontext(lambda *_: None) as step:
            estimated = estimate(sources, out, on_step=step, **options)
        show_estimate(estimated)
        return
    with shown_progress() as progress:

        def report(state: Progress) -> None:
            if state.is_start:
                streams = ",".join(each.stream for each in state.specs)
                write_run(ctx, out, preset=state.specs[0].preset, streams=streams)
            progress(state)

        made = vadprep.extract(sources, out, on_report=report, **options)
    with made as features:
        streams = features.streams
    found = vadprep.status(out)
    results = [found[name] for name in streams]
    if path := options["save_flow"]:  # videos that were extracted in an earlier run lack theirs
        from vadprep.flow import SavedFlow

        saved = SavedFlow(path, options["flow_format"] or "hdf5")
        done = [row.video_id for row in results[-1].rows.values() if row.is_done]
        if lacking := [video_id for video_id in done if not saved.holds(video_id)]:
            text = (
                f"flow of {counted(len(lacking), 'video')} is not in {path}: their features were "
                "there, and flow is saved as it is computed; to save it, extract into another --out"
            )
            show_list("note", [text])
    show_status(results)
    complete = all(each.is_complete for each in results)
    if not complete and world_size > 1:  # others may still work on their videos
        complete = True
        for each in results:
            owned = Share(rank, world_size).owned(each.folder)
            undone = {*each.missing, *(row.video_id for row in each.failed)}
            places = each.folder.plan.places
            complete &= not any(places[video_id].shard in owned for video_id in undone)
    sys.exit(0 if complete else 1)


def show_estimate(found: Estimate) -> None:
    """Print plan, size and time of an extraction."""
    show_untrained(each.spec for each in found.streams)
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
    time = "unknown: no file could be read"
    if not found.clips and any(each.frames or not each.videos for each in found.streams):
        time = "nothing to do"
    if found.clips and found.seconds is not None:
        each_clip = f"{found.seconds * found.workers / found.clips:.3f} s a clip"
        time = (
            f"{duration(found.seconds)} ({each_clip}, {found.workers} at once; estimated from a "
            "short measurement on this machine)"
        )
    names = ("stream", "spec", "videos to do", "shards", "source frames", "clips", "features")
    blank = [""] * (len(columns) - 1)
    rows = [*zip(names, *columns, strict=True), ("time", time, *blank)]
    if found.flow_bytes is not None:
        saved = f"{size(found.flow_bytes)} at 2 bytes a pixel, before compression"
        rows.insert(0, ("flow to be saved", saved, *blank))
    show(rows)
