"""Commands that run or measure the whole line: demo, bench."""

from __future__ import annotations

from pathlib import Path

import click

from vadprep import tables
from vadprep.options import FOLDER


@click.command()
@click.option("--out", type=FOLDER, default=Path("vadprep-demo"), show_default=True)
@click.option("--weights", default="random:0", show_default=True, help="Weights file.")
@click.option("--workers", type=click.IntRange(1), help="Workers. [one a core]")
def demo(out: Path, weights: str, workers: int | None) -> None:
    """Write a small data set of videos and run the whole line on it: videos -> scores."""
    import os

    from vadprep.demo import run_demo

    run_demo(out, weights, workers or len(os.sched_getaffinity(0)), tables.show, click.echo)


@click.group()
def bench() -> None:
    """Measure speed and memory, as ratios on the same input in the same run."""


@bench.command("backbone")
@click.option("--graph", default="inception_i3d", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def bench_backbone(graph: str, device: str, threads: int) -> None:
    """Seconds a clip of the plain network and of ours, and the error of the features."""
    from vadprep.bench import bench_backbone as measure

    tables.show(measure(graph, device=device, threads=threads).rows())
