"""What the command line prints: rows of text, aligned. Records in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vadprep.core.presets import FLOW, PRESETS
from vadprep.core.spec import Spec
from vadprep.data.datasets import DatasetCheck, DatasetSummary, WrongLength
from vadprep.features.compare.compare import Comparison
from vadprep.features.journal import Row
from vadprep.features.lease import STALE_SECONDS, Run
from vadprep.features.status import Status

MOST_LISTED = 20
"""Videos listed before a list is cut with a count of the rest."""
MOST_IN_FLIGHT = 4
"""Videos in the works named for a run."""

Cells = Sequence[object]


def show(rows: Iterable[Cells]) -> None:
    """Print rows of cells in aligned columns, those of numbers to the right."""
    table = [[_cell(cell) for cell in row] for row in rows]
    columns = [_aligned(column) for column in zip(*table, strict=True)]
    for cells in zip(*columns, strict=True):
        click.echo("  ".join(cells).rstrip())


def _aligned(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    is_numeric = all(map(_is_number, column[1:])) and len(column) > 1
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in column]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else printable(str(value))


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit() or cell in ("", "-")


def printable(text: str) -> str:
    """``text`` on one line that any terminal can show: odd characters are escaped."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return shown.encode("utf-8", "backslashreplace").decode()


def size(num_bytes: float) -> str:
    """Bytes for people, in units of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 05 s``, ``7 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


STATUS_COLUMNS = (
    "stream", "videos", "done", "running", "failed", "missing", "clips", "frames", "repaired",
    "damaged", "shards", "weights",
)  # fmt: skip


def status_rows(results: Sequence[Status]) -> list[Cells]:
    """One line of headings and one of counts for each stream."""
    return [STATUS_COLUMNS, *map(_status_row, results)]


def _status_row(status: Status) -> Cells:
    weights = (
        f"{status.spec.weights} (NOT TRAINED)" if status.spec.is_random else (status.spec.weights)
    )
    return (
        status.spec.stream,
        status.planned,
        status.done,
        len(status.pace.running),
        len(status.failed),
        len(status.missing),
        status.num_clips,
        status.num_frames,
        status.repaired_frames,
        len(status.repaired),
        f"{status.shards_final} of {status.shards_planned}",
        weights,
    )


def pace_line(status: Status) -> str | None:
    """How fast a stream goes and when it will be there; None when nothing runs."""
    pace = status.pace
    if not pace.running:
        return None
    left = "time left unknown"
    if pace.seconds_left is not None:
        left = f"about {duration(pace.seconds_left)} left of what runs"
    return (
        f"{status.spec.stream}: {pace.videos_per_second * 60:.3g} videos/min, "
        f"{pace.clips_per_second:.3g} clips/s over the last minutes, {left}"
    )


def status_json(status: Status) -> dict[str, Any]:
    """The same for programs, with every id."""
    pace = status.pace
    return {
        "stream": status.spec.stream,
        "preset": status.spec.preset,
        "weights": status.spec.weights,
        "spec_hash": status.spec.hash,
        "planned": status.planned,
        "done": status.done,
        "running": {
            each.video_id: {"rank": each.rank, "since": each.since} for each in pace.running
        },
        "failed": {row.video_id: row.reason for row in status.failed},
        "missing": list(status.missing),
        "num_clips": status.num_clips,
        "num_frames": status.num_frames,
        "repaired_frames": status.repaired_frames,
        "repaired_videos": len(status.repaired),
        "length_notes": {row.video_id: row.reason for row in status.noted},
        "shards_planned": status.shards_planned,
        "shards_final": status.shards_final,
        "videos_per_second": pace.videos_per_second,
        "clips_per_second": pace.clips_per_second,
        "seconds_left": pace.seconds_left,
        "runs": [asdict(run) for run in status.runs],
    }


def show_untrained(specs: Iterable[Spec]) -> None:
    """Say what features of random weights must not be taken for."""
    for weights in dict.fromkeys(spec.weights for spec in specs if spec.is_random):
        click.echo(f"weights {weights}: NOT TRAINED, features are for trying things out", err=True)


def show_caution(run: Path, caution: str) -> None:
    """Say what figures and scores of a run must not be taken for (``checkpoint.Origin``)."""
    if caution:
        click.echo(f"{run}: {caution}")


def show_running(status: Status) -> None:
    """A line for each run that is at work on a stream."""
    for run in status.runs:
        click.echo(f"running, {status.spec.stream}: {_running(run)}")


def _running(run: Run) -> str:
    if not run.holds:
        return f"{run}: about to begin"
    shown = [printable(each) for each in run.in_flight[:MOST_IN_FLIGHT]]
    more = ["..."] if len(run.in_flight) > MOST_IN_FLIGHT else []
    works = f" ({', '.join(shown + more)})" if shown else ""
    silence = duration(run.silent_seconds)
    sign = f"last sign of life {silence} ago"
    if run.silent_seconds > STALE_SECONDS:
        sign = f"NO SIGN OF LIFE for {silence}: it or its host is dead or held up"
    return f"{run}: {run.videos} videos done, {len(run.in_flight)} in the works{works}, {sign}"


def show_failures(status: Status) -> None:
    """List what failed and why, what is missing, and what is done but odd: damaged in part, or of
    another length than was said. Each list is cut when it is long."""
    more = "vadprep status --json has all"
    listed("failed", [_reason(row) for row in status.failed], more)
    listed("missing", status.missing, more)
    repaired = [
        f"{row.video_id}: {row.repaired_frames:,} of {row.num_frames:,} frames"
        for row in status.repaired
    ]
    listed("repaired", repaired, more)
    listed("length", [_reason(row) for row in status.noted], more)


def _reason(row: Row) -> str:
    return reason_of(row.video_id, row.reason or "no reason was recorded")


def reason_of(video_id: str, reason: str) -> str:
    """Why something is odd about a video, with its id, which the reason may begin with: a path."""
    return reason if reason.startswith(f"{video_id}: ") else f"{video_id}: {reason}"


def listed(
    heading: str, lines: Sequence[str], more: str = "not shown", count: int | None = None
) -> None:
    """Print ``lines``, each after ``heading``, the first 20 and a count of the rest.

    ``count`` is that of all, where ``lines`` are not.
    """
    for line in lines[:MOST_LISTED]:
        click.echo(f"{heading}: {printable(line)}", err=True)
    left = (len(lines) if count is None else count) - MOST_LISTED
    if left > 0:
        click.echo(f"{heading}: and {left:,} more ({more})", err=True)


def dataset_rows(summaries: Iterable[tuple[str, DatasetSummary]]) -> list[Cells]:
    """Counts of data sets, a line for each split.

    Blank are frames where the length of a video is not public, and scored frames where there is
    no public ground truth; the anomalous frames are among the scored ones.
    """
    head = ("data set", "split", "videos", "normal", "abnormal", "frames", "scored", "anomalous")
    rows: list[Cells] = [head]
    for name, each in summaries:
        for split in each.splits:
            rows.append(
                (
                    name,
                    split.split,
                    split.videos,
                    split.normal,
                    split.abnormal,
                    None if split.videos_without_frames else split.frames,
                    split.scored_frames,
                    split.positive_frames,
                )
            )
    return rows


def show_check(result: DatasetCheck) -> None:
    """What ``datasets check`` found, list by list."""
    _show_list("missing", result.missing)
    _show_list("ambiguous", list(result.ambiguous.values()))
    _show_list("unreadable", [reason_of(*each) for each in result.unreadable.items()])
    _show_list("wrong length", [_length(each) for each in result.wrong_length])
    _show_list("extra", result.extra)


def _show_list(heading: str, lines: Sequence[str]) -> None:
    click.echo(f"{heading}: {len(lines):,}")
    listed(f"  {heading}", lines)


def _length(wrong: WrongLength) -> str:
    low, high = wrong.at_least, wrong.at_most
    expected = f"{low} to {high}" if low != high else f"{low}"
    if low is None or high is None:
        expected = f"at least {low}" if high is None else f"at most {high}"
    return f"{wrong.video_id}: {wrong.found} frames, expected {expected}"


PRESET_COLUMNS = {
    "graph": "graph", "fps": "fps", "resize": "resize", "filter": "filter", "crops": "crops",
    "crop_order": "order", "crop_size": "size", "scaling": "scaling", "clip_length": "clip",
    "tail": "tail",
}  # fmt: skip
"""Fields of a preset that the overview shows, and their headings."""


def presets_rows() -> list[Cells]:
    """A line for each preset."""
    return [
        ("preset", "streams", *PRESET_COLUMNS.values(), "source"),
        *(
            (
                name,
                ",".join(preset.streams),
                *(getattr(preset, field)[0] for field in PRESET_COLUMNS),
                preset.origin,
            )
            for name, preset in PRESETS.items()
        ),
    ]


def preset_rows(name: str) -> list[Cells]:
    """A line for each field of one preset, with its source; then what nobody knows."""
    preset = PRESETS[name]
    settings = preset.settings
    if preset.has_flow:
        settings = {**settings, **FLOW, "flow": ("tvl1", FLOW["flow"][1])}
    return [
        ("field", name, "source"),
        ("streams", ",".join(preset.streams), ""),
        *((field, value, source) for field, (value, source) in settings.items()),
        *(("unknown", "", each) for each in preset.open_questions),
    ]


def compared_sets(found: Comparison) -> list[Cells]:
    """What the two sets are, a column each."""
    counts = found.evidence.counts
    return [
        ("", "A", "B"),
        ("videos", found.num_a, found.num_b),
        ("crops", *found.evidence.crops),
        ("dimension", *found.evidence.dims),
        ("tail rules that fit", *(", ".join(rules) or "-" for rules in counts.rules)),
    ]


def compared_figures(found: Comparison) -> list[Cells]:
    """What was measured over the videos that were read; - where there was too little."""
    seen, spread = found.evidence, found.evidence.spread
    rows: list[Cells] = [
        ("figure", "value"),
        ("cosine, mean", _figure(seen.cosine_mean)),
        ("cosine, least", _figure(seen.cosine_least)),
        ("largest difference / largest value", _figure(seen.largest_difference, ".1e")),
        ("features that find themselves (chance: 0.00)", _figure(seen.same_features, ".2f")),
        ("correlation of the features' means", _figure(seen.same_profile, ".2f")),
        ("correlation of the course in time", _figure(seen.same_course, ".2f")),
        ("share of other videos with such a course", _figure(seen.course_by_chance, ".2f")),
        ("share of other videos with such a scene", _figure(seen.scene_by_chance, ".2f")),
    ]
    if spread:
        rows += [
            ("correlation without the means", _figure(spread.correlation)),
            ("scale of B", _figure(spread.scale)),
            ("shift of B / mean of A", _figure(spread.shift, "+.4f")),
        ]
    return rows


def _figure(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def compared_rows(found: Comparison) -> list[Cells]:
    """A line for each video that was read."""
    return [
        ("video", "clips A", "clips B", "compared", "cosine", "least"),
        *(
            (
                row.video_id,
                row.clips_a,
                row.clips_b,
                row.num_compared,
                _figure(row.cosine_mean),
                _figure(row.cosine_least),
            )
            for row in found.videos
        ),
    ]


def compared_words(found: Comparison) -> list[str]:
    """The verdict, how much was looked at, the guesses, and what the specs say, a line each."""
    read = f"{len(found.videos):,} of {found.num_common:,} common videos read"
    counts = found.evidence.counts
    lines = [
        f"{found.verdict}: {read}, {found.evidence.num_clips:,} clips compared; "
        f"{counts.num_equal:,} of {counts.num_videos:,} have as many clips"
    ]
    lines += [f"{guess.sure}: {guess.text}" for guess in found.guesses]
    sure = "" if found.evidence.by_specs is None else "certain, "
    lines += [f"{sure}by the specs (A / B): {line}" for line in found.declared]
    return lines
