"""What several commands print: tables, lists, sizes and durations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from vadprep.core.spec import Spec

MOST_LISTED = 20
"""Lines of a list that are printed; a longer list ends with the number of the others."""

Cells = Sequence[object]


def show(rows: Iterable[Cells]) -> None:
    """Print rows of cells in aligned columns; columns of numbers are aligned to the right."""
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
    """Bytes in units of 1024: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``7 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_list(heading: str, lines: Sequence[str], more: str = "not shown") -> None:
    """Print the first 20 of ``lines``, each after ``heading``, and the number of the others."""
    for line in lines[:MOST_LISTED]:
        click.echo(f"{heading}: {printable(line)}", err=True)
    if (left := len(lines) - MOST_LISTED) > 0:
        click.echo(f"{heading}: and {left:,} more ({more})", err=True)


def show_notes(lines: Iterable[str]) -> None:
    """Print lines that a user should know of."""
    for line in lines:
        click.echo(f"note: {printable(line)}", err=True)


def reason_of(video_id: str, reason: str) -> str:
    """``ID: reason``; a reason may begin with the id already, when that is a path."""
    return reason if reason.startswith(f"{video_id}: ") else f"{video_id}: {reason}"


def show_untrained(specs: Iterable[Spec]) -> None:
    """Warn that features of random weights are useless for anything but trying things out."""
    for weights in dict.fromkeys(spec.weights for spec in specs if spec.is_random):
        click.echo(f"weights {weights}: NOT TRAINED, features are for trying things out", err=True)


def show_caution(run: Path, caution: str) -> None:
    """Warn of what makes the metrics and scores of a run useless (``Origin.caution``)."""
    if caution:
        click.echo(f"{run}: {caution}")
