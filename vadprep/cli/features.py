"""Commands on features: extract, status, verify, datasets, presets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vadprep.cli import text as tables
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    Videos,
    arguments,
    chosen_videos,
    parsed_fields,
    video_options,
    warn,
)
from vadprep.core.presets import PRESETS
from vadprep.data.datasets import check as check_files
from vadprep.data.datasets import dataset_names, load_dataset, named_manifest, summary
from vadprep.extraction.timing import DECODING, STAGES, StageSeconds, stage_seconds
from vadprep.features.folder import StreamFolder, required_folders
from vadprep.features.journal import read_events, read_rows
from vadprep.features.shard import DONE
from vadprep.features.status import Status, array_of, last_world_size, stream_status
from vadprep.features.status import missing_ranks as missing_ranks_in
from vadprep.features.verify import verify as verify_features
from vadprep.features.writer import Share
from vadprep.video import MAX_DAMAGE

if TYPE_CHECKING:
    from vadprep.extraction import Estimate

TELLING_SECONDS = 10.0
RANK_HELP = "Of this task. [$SLURM_ARRAY_TASK_ID, else 0]"


@click.command()
@video_options
@click.option("--out", type=FOLDER, help="Feature folder. [features/NAME]")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="By name. [of the data set]")
@click.option("--streams", help="rgb, flow or rgb,flow. [of the preset]")
@click.option("--weights", help="File, name of weights list, or random:SEED. [what get has got]")
@click.option("--flow-weights", help="Those of stream flow. [--weights if random, else as there]")
@click.option("--crops", type=click.Choice(["1", "5", "10"]), help="Views of a clip.")
@click.option("--fps", help="native, or the rate to resample to.")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp16"]))
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Any spec field.")
@click.option("--save-flow", type=FOLDER, help="Keep the quantised flow there; see --dry-run.")
@click.option("--flow-format", type=click.Choice(["hdf5", "jpeg"]), help="Of --save-flow. [hdf5]")
@click.option("--flow-from", type=FOLDER, help="Read flow that --save-flow has kept there.")
@click.option("--gpus", type=click.IntRange(1), help="GPUs, a worker each. [all, if any]")
@click.option("--workers", type=click.IntRange(1), help="Workers on the CPU. [one a core]")
@click.option("--address", default="local", show_default=True, help="Ray cluster to join.")
@click.option(
    "--stall-seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="A decoder that gives nothing for so long is ended, and the other one tried.",
)
@click.option(
    "--rank", type=click.IntRange(0), default=0, envvar="SLURM_ARRAY_TASK_ID", help=RANK_HELP
)
@click.option(
    "--world-size", type=click.IntRange(1), default=1, help="Ranks that share the folder."
)
@click.option("--shard-size", type=click.IntRange(1), help="Videos a shard, when it is new.")
@click.option(
    "--max-damage", type=float, metavar="SHARE", default=MAX_DAMAGE, show_default=True,
    help="Frames of a video, 0 to 1, that may be repaired or missing.",
)  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Do the videos that failed once more.")
@click.option("--dry-run", is_flag=True, help="Print plan, size and time, and extract nothing.")
def extract(out: Path | None, dry_run: bool, retry_failed: bool, **options: Any) -> None:
    """Videos -> I3D features in HDF5 shards. Run it again to go on after any stop."""
    from vadprep.cli.progress import shown_progress
    from vadprep.extraction import extract as extract_videos

    videos = chosen_videos(options)
    warn(videos.manifest)
    with arguments():
        settings = parsed_settings(options)
    options["preset"] = options["preset"] or videos.preset
    target = out or Path("features") / videos.name
    if options["rank"] >= options["world_size"]:
        raise click.UsageError(
            f"--rank {options['rank']} of --world-size {options['world_size']}: ranks count from 0"
        )
    if dry_run:
        show_estimate(videos, target, settings, retry_failed, options)
        return
    with (
        shown_progress() as progress,
        extract_videos(
            videos.manifest,
            target,
            root=videos.root,
            settings=settings,
            retry_failed=retry_failed,
            on_report=progress,
            **options,
        ) as features,
    ):
        folders = [StreamFolder.open(target / name) for name in features.streams]
    if options["save_flow"]:
        show_unsaved(folders[-1], options["save_flow"], options["flow_format"] or "hdf5")
    finish(folders, Share(options["rank"], options["world_size"]))


def parsed_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The spec fields that options set; takes those options out of ``options``."""
    crops = options.pop("crops")
    named = {"crops": crops and int(crops), "fps": options.pop("fps")}
    named["precision"] = options.pop("precision")
    settings = {name: value for name, value in named.items() if value is not None}
    return settings | parsed_fields(options.pop("fields"))


def show_estimate(
    videos: Videos,
    target: Path,
    settings: dict[str, Any],
    retry_failed: bool,
    options: dict[str, Any],
) -> None:
    """Print plan, size and time of an extraction."""
    from vadprep.extraction import estimate, resolve_plan

    plan = resolve_plan(target, settings=settings, **options)
    tables.show_untrained(plan.specs)
    found = estimate(plan, videos.manifest, videos.root, retry_failed)
    columns = [
        (
            each.spec.stream,
            f"{each.spec.preset}, {each.spec.precision}, weights {each.spec.weights}",
            f"{each.videos:,} ({each.done:,} done, {each.failed:,} failed, "
            f"{each.missing:,} not found)",
            f"{each.shards:,}",
            f"{each.frames:,}",
            f"{each.clips:,} of {each.spec.crops} view{'s' if each.spec.crops != 1 else ''}",
            tables.size(each.bytes),
        )
        for each in found.streams
    ]
    names = ("stream", "spec", "videos to do", "shards", "source frames", "clips", "features")
    blank = [""] * (len(columns) - 1)
    rows: list[tables.Cells] = list(zip(names, *columns, strict=True))
    if found.flow_bytes is not None:
        saved = f"{tables.size(found.flow_bytes)} at 2 bytes a pixel, before compression"
        rows.insert(0, ("flow to be saved", saved, *blank))
    tables.show([*rows, ("time", _time(found), *blank)])


def _time(found: Estimate) -> str:
    if not found.clips:
        return "nothing to do"
    if found.seconds is None:
        return "unknown: no file could be read"
    each = f"{found.seconds * found.workers / found.clips:.3f} s a clip"
    return (
        f"{tables.duration(found.seconds)} ({each}, {found.workers} at once; estimated from a "
        "short measurement on this machine)"
    )


def show_unsaved(folder: StreamFolder, path: Path, form: str) -> None:
    """Say of how many videos flow was computed before it was to be saved."""
    from vadprep.flow.saved import KINDS, SavedFlow

    saved = SavedFlow(path, KINDS[form])
    done = [row.video_id for row in read_rows(folder.path).values() if row.status == DONE]
    if lacking := [video_id for video_id in done if not saved.holds(video_id)]:
        click.echo(
            f"note: flow of {len(lacking)} videos is not in {path}: their features were there, and "
            "flow is saved as it is computed; to save it, extract into another --out",
            err=True,
        )


def finish(folders: Sequence[StreamFolder], share: Share) -> None:
    """Print how folders stand; leave with 1 when a video of this rank failed or is missing."""
    results = [stream_status(folder) for folder in folders]
    show_status(results)
    complete = [each.is_complete for each in results]
    if share.world_size > 1 and not all(complete):  # others may be at their shares still
        complete = [_has_done(share, each) for each in results]
    if not all(complete):
        sys.exit(1)


def _has_done(share: Share, found: Status) -> bool:
    owned = share.owned(found.folder)
    undone = {*found.missing, *(row.video_id for row in found.failed)}
    return not any(found.folder.plan.places[each].shard in owned for each in undone)


def show_status(results: Sequence[Status]) -> None:
    """Print a line of counts a stream, its pace, and what failed or is missing."""
    tables.show(tables.status_rows(results))
    for result in results:
        tables.show_running(result)
    for line in filter(None, map(tables.pace_line, results)):
        click.echo(line)
    for result in results:
        tables.show_failures(result)


# ---------------------------------------------------------------- status, verify


@click.command()
@click.argument("features", type=FEATURES)
@click.option("--by-stage", is_flag=True, help="Seconds of each stage.")
@click.option("--missing-ranks", is_flag=True, help="Only what to put behind sbatch --array=.")
@click.option("--world-size", type=click.IntRange(1), help="Of --missing-ranks. [the last run's]")
@click.option("--video", metavar="ID", help="Only what became of this video, and why.")
@click.option("--json", "as_json", is_flag=True, help="For programs, with every id.")
def status(
    features: Path,
    by_stage: bool,
    missing_ranks: bool,
    world_size: int | None,
    video: str | None,
    as_json: bool,
) -> None:
    """How far a feature folder is: done, running, failed, missing."""
    if world_size and not missing_ranks:
        raise click.UsageError("--world-size goes with --missing-ranks")
    if missing_ranks and (as_json or by_stage):
        raise click.UsageError("--missing-ranks prints nothing else: leave --json, --by-stage out")
    folders = list(required_folders(features).values())
    if missing_ranks:
        show_missing_ranks(folders, world_size)
    results = [stream_status(folder) for folder in folders]
    if video is not None:
        show_video(results, video)
    found = [stage_seconds(read_events(each.path)) for each in folders if by_stage]
    if as_json:
        printed = [tables.status_json(each) for each in results]
        for each, spent in zip(printed, found, strict=False):
            each["by_stage"] = spent.as_json()
        click.echo(json.dumps(printed, indent=2))
    else:
        show_status(results)
        for folder, spent in zip(folders, found, strict=False):
            show_stages(folder.spec.stream, spent)
    sys.exit(0 if all(each.is_complete for each in results) else 1)


def show_video(results: Sequence[Status], video_id: str) -> NoReturn:
    """Print what became of one video; leave with 1 unless all streams of it are done."""
    for result in results:
        click.echo(f"{result.spec.stream}: {result.why(video_id)}")
    rows = [result.rows.get(video_id) for result in results]
    sys.exit(0 if all(row is not None and row.is_done for row in rows) else 1)


def show_missing_ranks(folders: Sequence[StreamFolder], world_size: int | None) -> NoReturn:
    """Print the ranks that have work left; leave with 1 when there are any."""
    ranks_in_all = world_size or last_world_size(folders)
    if ranks_in_all is None:
        raise click.UsageError("--missing-ranks: no run has been here yet: add --world-size N")
    whose = "as asked" if world_size else "as the last run had"
    click.echo(f"of {ranks_in_all} ranks, {whose}", err=True)
    ranks = missing_ranks_in(folders, ranks_in_all)
    if ranks:
        click.echo(array_of(ranks))
    sys.exit(1 if ranks else 0)


def show_stages(stream: str, spent: StageSeconds) -> None:
    """Print the seconds of each stage of a stream, and the slowest videos.

    Streams that were extracted together took this time together.
    """
    click.echo(f"\n{stream}: {spent.videos:,} videos, {spent.clips:,} clips timed")
    total, clips = max(sum(spent.seconds.values()), 1e-9), max(spent.clips, 1)
    rows: list[tables.Cells] = [("stage", "seconds", "s a clip", "share", "what it is")]
    for name, seconds in sorted(spent.seconds.items(), key=lambda each: -each[1]):
        cells = f"{seconds:.1f}", f"{seconds / clips:.4f}", f"{seconds / total:.0%}"
        rows.append((name, *cells, STAGES.get(name)))
    if (decoding := spent.decoding_seconds) is not None:
        cells = f"{decoding:.1f}", f"{decoding / clips:.4f}", ""
        rows.append((DECODING, *cells, "the decoders, beside their workers"))
    tables.show(rows)
    for each in spent.slowest:
        name, took = tables.printable(each.video_id), tables.duration(each.seconds)
        click.echo(f"slow: {name}: {took}, {each.num_clips:,} clips")


@click.command()
@click.argument("features", type=FEATURES)
def verify(features: Path) -> None:
    """Read every feature back: checksums, shapes, values, spans."""
    bad = 0
    for result in verify_features(features).values():
        click.echo(
            f"{result.path}: {result.videos} videos, {result.clips} clips, "
            f"{tables.size(result.bytes)} read, {len(result.problems)} problems"
        )
        for line in result.problems:
            click.echo(f"  {line}", err=True)
        bad += len(result.problems)
    sys.exit(1 if bad else 0)


# ---------------------------------------------------------------- data sets, presets


@click.group()
def datasets() -> None:
    """The bundled data sets: list, show, check."""


@datasets.command("list")
def datasets_list() -> None:
    """Names and counts."""
    tables.show(tables.dataset_rows([(n, summary(load_dataset(n))) for n in dataset_names()]))


@datasets.command("show")
@click.argument("name", metavar="NAME|CSV")
def datasets_show(name: str) -> None:
    """Counts of a data set or CSV by split, and what to know of it."""
    with arguments():
        manifest = named_manifest(name)
    tables.show(tables.dataset_rows([(name, summary(manifest))]))
    warn(manifest)


@datasets.command("check")
@click.argument("name", metavar="NAME|CSV")
@click.option("--root", type=FOLDER, envvar="VADPREP_ROOT", default=Path(), help="The videos.")
@click.option("--no-decode", is_flag=True, help="Look for the files only; count no frames.")
def datasets_check(name: str, root: Path, no_decode: bool) -> None:
    """Missing, extra, unreadable files of a data set or CSV."""
    with arguments():
        manifest = named_manifest(name)
    count: Callable[[Path], int] | None = None
    if not no_decode:
        import av  # noqa: F401  what is not installed is no fault of the files

        from vadprep.video import count_frames

        count = telling(count_frames, len(manifest.videos))
    warn(manifest)
    result = check_files(manifest, root, count)
    tables.show_check(result)
    sys.exit(0 if result.complete else 1)


def telling(count: Callable[[Path], int], total: int) -> Callable[[Path], int]:
    """``count``, which now says every ten seconds how many of ``total`` videos it has come to."""
    calls, said = 0, time.monotonic()

    def counted(path: Path) -> int:
        nonlocal calls, said
        calls += 1
        if time.monotonic() - said >= TELLING_SECONDS:
            said = time.monotonic()
            click.echo(f"decoding {calls:,} of {total:,} videos", err=True)
        return count(path)

    return counted


@click.command()
@click.argument("name", type=click.Choice(list(PRESETS)), required=False, metavar="[NAME]")
def presets(name: str | None) -> None:
    """Named settings of features; of one, where each value is from."""
    if name:
        tables.show(tables.preset_rows(name))
        return
    tables.show(tables.presets_rows())
    click.echo("vadprep presets NAME: where each value comes from, and what nobody knows")
