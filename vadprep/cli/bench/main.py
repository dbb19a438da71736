"""``vadprep bench``: every command measures in one run, on the same input, and prints ratios."""

from __future__ import annotations

import math
from pathlib import Path

import click

from vadprep.cli.options import FOLDER, arguments
from vadprep.cli.text import show


@click.group()
def bench() -> None:
    """Measure speed and memory, as ratios within one run."""


@bench.command("memory")
@click.option("--minutes", default="2,120", show_default=True, help="Lengths of the videos.")
def bench_memory(minutes: str) -> None:
    """Peak memory of a short and of a long video."""
    from vadprep.cli.bench.memory import bench_memory as measure

    with arguments():
        lengths = parsed_minutes(minutes)
    show(measure(lengths).rows())


@bench.command("plan")
@click.option("--videos", type=click.IntRange(1000), default=1_000_000, show_default=True)
def bench_plan(videos: int) -> None:
    """Planning, commits and status of very many videos."""
    from vadprep.cli.bench.plan import bench_plan as measure

    show(measure(videos).rows())


@bench.command("workers")
@click.argument("clips", type=FOLDER)
@click.option("--streams", default="rgb,flow", show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Each video.")
@click.option("--workers", type=click.IntRange(2), default=2, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def bench_workers(clips: Path, streams: str, repeat: int, workers: int, device: str) -> None:
    """Clips per second of one worker and of several."""
    from vadprep.cli.bench.workers import bench_workers as measure
    from vadprep.cli.bench.workers import rows

    show(rows(measure(clips, streams.split(","), repeat, device, workers)))
    if device == "cpu":
        click.echo("measured on this machine's CPU; to know the ratio of GPUs, measure there")


def parsed_minutes(text: str) -> list[float]:
    """``2,120`` as numbers above 0."""
    try:
        lengths = [float(each) for each in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or not all(0 < each < math.inf for each in lengths):
        raise ValueError(f"--minutes {text}: expected numbers above 0, such as 2,120")
    return lengths


@bench.command("backbone")
@click.option("--graph", default="inception_i3d", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def bench_backbone(graph: str, device: str, threads: int) -> None:
    """Seconds a clip, plain network against ours, and the error."""
    from vadprep.backbones import has_cpu_bf16
    from vadprep.backbones.graphs import graph_of
    from vadprep.cli.bench.backbone import bench_backbone as measure
    from vadprep.training.train import check_device

    with arguments():
        graph_of(graph)
        check_device(device)
    precisions = ["fp32", "bf16"] if has_cpu_bf16() or device != "cpu" else ["fp32"]
    show(measure(graph, device, precisions, threads).rows())


@bench.command("flow")
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--pairs", type=click.IntRange(1), default=4, show_default=True, help="Of each video."
)
def bench_flow(videos: tuple[Path, ...], pairs: int) -> None:
    """TV-L1: each back end against OpenCV, speed and agreement."""
    from vadprep.cli.bench.flow import bench_flow as measure

    report = measure(videos, pairs)
    show(report.rows())
    for note in report.notes:
        click.echo(note)


@bench.command("train")
@click.option("--heads", default="sultani,rtfm,arnet,csltal,ddl", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--videos", type=click.IntRange(2), default=400, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True)
def bench_train(heads: str, device: str, videos: int, steps: int) -> None:
    """Seconds an epoch of each head at the size of XD-Violence."""
    from vadprep.cli.bench.train import bench_train as measure
    from vadprep.heads import head_kind
    from vadprep.training.train import check_device

    names = heads.split(",")
    with arguments():
        check_device(device)
        for name in names:
            head_kind(name)
    show(measure(names, device, videos, steps).rows())
