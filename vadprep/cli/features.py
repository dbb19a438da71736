"""Commands status, verify and merge: feature folders."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep.cli.config import RUN_FILE
from vadprep.cli.help import advanced, command
from vadprep.cli.options import COUNT, FEATURES, FOLDER
from vadprep.cli.text import Cells, duration, printable, reason_of, show, show_list, shown_bar, size
from vadprep.core.errors import counted
from vadprep.core.presets import PRESETS
from vadprep.extraction.timing import DECODING, STAGES, StageSeconds, stage_seconds
from vadprep.features.engines import mixture
from vadprep.features.journal import Row
from vadprep.features.lease import STALE_SECONDS, Run
from vadprep.features.shard import MISSING
from vadprep.features.status import Status, array_of, last_world_size, missing_ranks

MOST_IN_FLIGHT = 4
"""Videos in work that are named for a run."""
COUNTS = "planned done num_clips num_frames repaired_frames shards_planned shards_final".split()
"""Of ``Status``, under the same names for programs."""
STAGES_HELP = "Print the seconds that each stage took."
VIDEO_HELP = "Print only what happened to this video, and why."
RANKS_HELP = "Print the ranks that have work left, for sbatch --array; nothing else."
SIZE_HELP = "Videos in a shard. Default: as in the first folder."
SOURCES_HELP = "Folder of the videos. Check that none was replaced since its features were made."
WORLD_HELP = "Number of jobs for --missing-ranks. Default: that of the last run."


@command("status", example="vadprep status features/xd")
@click.argument("features", type=FEATURES)
@click.option("--by-stage", is_flag=True, help=STAGES_HELP)
@click.option("--video", metavar="ID", help=VIDEO_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every video id.")
@advanced("--missing-ranks", "as_ranks", is_flag=True, help=RANKS_HELP)
@advanced("--world-size", type=COUNT, help=WORLD_HELP)
def status(features: str, video: str | None, as_json: bool, as_ranks: bool, **options: Any) -> None:
    """Show what is done, running, failed or missing."""
    by_stage, world_size = options["by_stage"], options["world_size"]
    if world_size and not as_ranks:
        raise click.UsageError("--world-size goes with --missing-ranks")
    if as_ranks and (as_json or by_stage):
        raise click.UsageError("--missing-ranks prints nothing else: leave --json, --by-stage out")
    results = list(vadprep.status(features).values())
    if as_ranks:
        sys.exit(1 if show_missing_ranks(results, world_size) else 0)
    if video is not None:
        for each in results:
            click.echo(f"{each.spec.stream}: {each.why(video)}")
        rows = [each.rows.get(video) for each in results]
        sys.exit(0 if all(row is not None and row.is_done for row in rows) else 1)
    spent = [stage_seconds(each.folder.events()) for each in results if by_stage]
    if as_json:
        printed = [status_json(each) for each in results]
        for record, seconds in zip(printed, spent, strict=False):
            record["by_stage"] = seconds.as_json()
        click.echo(json.dumps(printed, indent=2))
    else:
        show_status(results)
        for each, seconds in zip(results, spent, strict=False):
            show_stages(each.spec.stream, seconds)
    sys.exit(0 if all(each.is_complete for each in results) else 1)


def show_missing_ranks(results: Sequence[Status], world_size: int | None) -> list[int]:
    """Print the ranks that have work left, and return them."""
    folders = [each.folder for each in results]
    ranks_in_all = world_size or last_world_size(folders)
    if ranks_in_all is None:
        raise click.UsageError("--missing-ranks: no run has written here yet: add --world-size N")
    whose = "as given" if world_size else "as in the last run"
    click.echo(f"of {ranks_in_all} ranks, {whose}", err=True)
    if ranks := missing_ranks(folders, ranks_in_all):
        click.echo(array_of(ranks))
    return ranks


def show_stages(stream: str, spent: StageSeconds) -> None:
    """Print the seconds of each stage of a stream, and the slowest videos."""
    if not spent.videos:
        click.echo(f"\n{stream}: no stage was timed: only vadprep extract records its stages")
        return
    click.echo(
        f"\n{stream}: {counted(spent.videos, 'video')}, {counted(spent.clips, 'clip')} timed"
    )
    total, clips = max(sum(spent.seconds.values()), 1e-9), max(spent.clips, 1)
    rows: list[Cells] = [("stage", "seconds", "s a clip", "share", "what it is")]
    for name, seconds in sorted(spent.seconds.items(), key=lambda each: -each[1]):
        cells = f"{seconds:.1f}", f"{seconds / clips:.4f}", f"{seconds / total:.0%}"
        rows.append((name, *cells, STAGES.get(name)))
    if (decoding := spent.decoding_seconds) is not None:
        cells = f"{decoding:.1f}", f"{decoding / clips:.4f}", ""
        rows.append((DECODING, *cells, "the decoders, beside their workers"))
    show(rows)
    for each in spent.slowest:
        took = duration(each.seconds)
        click.echo(f"slow: {printable(each.video_id)}: {took}, {counted(each.num_clips, 'clip')}")


def show_status(results: Sequence[Status]) -> None:
    """Print a line of counts for each stream, its runs and pace, and the videos to look at."""
    heads = "stream videos done running failed missing clips frames repaired damaged shards weights"
    rows: list[Cells] = [heads.split()]
    for each in results:
        spec = each.spec
        counts = (each.planned, each.done, len(each.running), len(each.failed))
        sums = (len(each.missing), each.num_clips, each.num_frames, each.repaired_frames)
        shards = f"{each.shards_final} of {each.shards_planned}"
        weights = f"{spec.weights} (NOT TRAINED)" if spec.is_random else spec.weights
        rows.append((spec.stream, *counts, *sums, len(each.repaired), shards, weights))
    show(rows)
    for result in results:
        for run in result.runs:
            click.echo(f"running, {result.spec.stream}: {_running(run)}")
    for result in results:
        if result.running:
            pace, left = result.pace, "time left unknown"
            if pace.seconds_left is not None:
                left = f"about {duration(pace.seconds_left)} left of what runs"
            click.echo(
                f"{result.spec.stream}: {pace.videos_per_second * 60:.3g} videos/min, "
                f"{pace.clips_per_second:.3g} clips/s over the last minutes, {left}"
            )
    for result in results:
        repaired = [
            f"{row.video_id}: {row.repaired_frames:,} of {row.num_frames:,} frames"
            for row in result.repaired
        ]
        for heading, lines in (
            ("failed", _failures(result.failed)),
            ("retry", _retry(result)),
            ("missing", result.missing),
            ("repaired", repaired),
            ("length", _reasons(result.noted)),
            ("engines", [line] if (line := mixture(result.engines)) else []),
        ):
            show_list(heading, lines, "vadprep status --json has all")


def _failures(rows: Sequence[Row]) -> list[str]:
    """A line for each failure, but one for all files that are missing."""
    gone = [row for row in rows if row.kind == MISSING]
    if len(gone) < 2:
        return _reasons(rows)
    (first,) = _reasons(gone[:1])
    others = [row for row in rows if row.kind != MISSING]
    return [f"{len(gone):,} files are missing, the first: {first}", *_reasons(others)]


def _retry(result: Status) -> list[str]:
    """One line: the command that tries the failed videos of a stream again."""
    command = "import" if result.spec.preset not in PRESETS else "extract"
    path, named = result.folder.path, "as before"
    if command == "extract" and isinstance(path, Path) and (path.parent / RUN_FILE).exists():
        named = f"--config {shlex.quote(str(path.parent / RUN_FILE))}"
    if command == "extract" and any(row.kind != MISSING for row in result.failed):
        named += " --retry-failed"
    return [f"vadprep {command} {named}"] if result.failed else []


def _reasons(rows: Sequence[Row]) -> list[str]:
    return [reason_of(row.video_id, row.reason or "no reason was recorded") for row in rows]


def _running(run: Run) -> str:
    shown = [printable(each) for each in run.in_flight[:MOST_IN_FLIGHT]]
    more = ["..."] if len(run.in_flight) > MOST_IN_FLIGHT else []
    names = f" ({', '.join(shown + more)})" if shown else ""
    silence = duration(run.silent_seconds)
    sign = f"last sign of life {silence} ago"
    if run.silent_seconds > STALE_SECONDS:
        sign = f"NO SIGN OF LIFE for {silence}: it or its host is dead or suspended"
    return (
        f"{run}: {counted(run.videos, 'video')} done, {len(run.in_flight)} in work{names}, {sign}"
    )


def status_json(status: Status) -> dict[str, Any]:
    """The status of a stream for programs, with every id."""
    return {
        **{name: getattr(status.spec, name) for name in ("stream", "preset", "weights")},
        "spec_hash": status.spec.hash,
        **{name: getattr(status, name) for name in COUNTS},
        "running": {video_id: {"rank": rank} for video_id, rank in status.running.items()},
        "failed": {row.video_id: row.reason for row in status.failed},
        "missing": list(status.missing),
        "repaired_videos": len(status.repaired),
        "engines": list(status.engines),
        "length_notes": {row.video_id: row.reason for row in status.noted},
        **status.pace._asdict(),
        "runs": [asdict(run) for run in status.runs],
    }


@command("verify", example="vadprep verify features/xd")
@click.argument("features", type=FEATURES)
@click.option("--sources", type=FOLDER, help=SOURCES_HELP)
def verify(features: str, sources: Path | None) -> None:
    """Read all features and check them for damage.

    Checks checksums, shapes, values and frame spans.
    """
    bad = 0
    for result in vadprep.verify(features, sources).values():
        click.echo(
            f"{result.path}: {counted(result.videos, 'video')}, {counted(result.clips, 'clip')}, "
            f"{size(result.bytes)} read, {counted(len(result.problems), 'problem')}"
        )
        for line in (*result.problems, *map(printable, result.notes)):
            click.echo(f"  {line}", err=True)
        bad += len(result.problems)
    sys.exit(1 if bad else 0)


@command("merge", example="vadprep merge features/a features/b --out features/ab")
@click.argument("features", type=FEATURES, nargs=-1, required=True)
@click.option("--shard-size", type=COUNT, help=SIZE_HELP)
@click.option("--out", type=FOLDER, required=True, help="The new feature folder.")
def merge(features: tuple[str, ...], shard_size: int | None, out: Path) -> None:
    """Join feature folders, or change the number of videos in a shard.

    The folders must have the same spec, and the same features of a video that is in several of
    them. They are only read. To continue after a stop, run the same command again.
    """
    with shown_bar("copying") as progress:
        vadprep.merge(features, out, shard_size=shard_size, progress=progress)
    results = list(vadprep.status(out).values())
    show_status(results)
    sys.exit(0 if all(each.is_complete for each in results) else 1)
