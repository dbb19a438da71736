"""``vadprep bench``: every command measures in one run, on the same input, and prints ratios."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from pathlib import Path

import click

from vadprep.cli.help import group
from vadprep.cli.options import COUNT, FOLDER
from vadprep.cli.text import Cells, note, show
from vadprep.cli.train import HEAD_NAMES
from vadprep.core.atomic import check_writable, write_json
from vadprep.core.errors import SettingError, counted

option = partial(click.option, show_default=True)
REPEAT_HELP = "How often each side is measured."


@group("bench", example="vadprep bench backbone")
def bench() -> None:
    """Measure speed and memory on this machine."""


@bench.command("memory", example="vadprep bench memory")
@option("--minutes", default="2,120", help="Minutes of each video, by commas.")
def memory(minutes: str) -> None:
    """Peak memory of a short and of a long video."""
    from vadprep.cli.bench.extraction import bench_memory

    try:
        lengths = [float(each) for each in minutes.split(",")]
    except ValueError:
        lengths = [math.nan]
    if not all(0 < each < math.inf for each in lengths):
        raise SettingError(f"--minutes {minutes}: expected numbers above 0, such as 2,120")
    rows: list[Cells] = [("minutes", "crops", "frames", "seconds", "peak MiB above the start")]
    for length, crops, frames, seconds, peak in bench_memory(lengths):
        rows.append((f"{length:g}", crops, frames, f"{seconds:.1f}", f"{peak / 2**20:.0f}"))
    show(rows)


@bench.command("plan", example="vadprep bench plan --videos 10000")
@option("--videos", type=click.IntRange(1000), default=1_000_000, help="Number of videos.")
def plan(videos: int) -> None:
    """Planning, commits, status: many videos against 10,000."""
    from vadprep.cli.bench.plan import bench_plan

    small, large = bench_plan(10_000), bench_plan(videos)
    rows: list[Cells] = [("videos", "10,000", f"{videos:,}", "ratio")]
    for name, few in small.items():
        rows.append((name, f"{few:.2f}", f"{large[name]:.2f}", f"{large[name] / few:.2f}"))
    show(rows)


@bench.command("report", example="vadprep bench report")
@option("--dataset", default="xd", help="Data set with the lengths of the videos.")
def report(dataset: str) -> None:
    """The report of a large data set: size, time to make and open."""
    from vadprep.cli.bench.report import bench_report

    show([("what", "measured"), *bench_report(dataset)])


@bench.command("workers", example="vadprep bench workers clips/")
@click.argument("clips", type=FOLDER)
@option("--streams", default="rgb,flow", help="Streams to extract.")
@option("--repeat", type=COUNT, default=3, help=REPEAT_HELP)
@option("--workers", type=click.IntRange(2), default=2, help="Workers of the second side.")
@option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Device.")
def workers(clips: Path, streams: str, repeat: int, workers: int, device: str) -> None:
    """Clips per second of one worker and of several."""
    from vadprep.cli.bench.extraction import bench_workers

    rows: list[Cells] = [("stream", "workers", "clips", "s", "starting, s", "clips/s", "ratio")]
    one = 0.0
    runs = bench_workers(clips, streams.split(","), repeat, device, workers)
    for stream, count, num_clips, seconds, starting in runs:
        speed = num_clips / seconds
        one = speed if count == 1 else one
        numbers = (seconds, starting, speed, speed / one)
        rows.append((stream, count, num_clips, *(f"{each:.2f}" for each in numbers)))
    show(rows)
    if device == "cpu":
        click.echo("measured on this machine's CPU; to know the ratio of GPUs, measure there")


@bench.command("live", example="vadprep bench live")
@option("--seconds", type=click.IntRange(5), default=60, help="Seconds of the video.")
def live(seconds: int) -> None:
    """Delay of live scores on one core: RGB of a camera with 25 fps."""
    from vadprep.cli.bench.live import bench_live

    found = bench_live(seconds)
    rows: list[Cells] = [("clips", "median delay, s", "longest, s", "dropped clips")]
    show([*rows, (found.clips, f"{found.median:.2f}", f"{found.highest:.2f}", found.dropped_clips)])


@bench.command("extract", example="vadprep bench extract clips/")
@click.argument("clips", type=FOLDER)
@option("--streams", "choices", multiple=True, default=["rgb", "rgb,flow"], help="May be repeated.")
@option("--repeat", type=COUNT, default=2, help=REPEAT_HELP)
@option("--workers", type=COUNT, help="Workers beside a single one. Default: one for each core.")
def extract(clips: Path, choices: tuple[str, ...], repeat: int, workers: int | None) -> None:
    """Extraction against its networks and TV-L1 alone."""
    from vadprep.cli.bench.overheads import bench_overheads, bench_start
    from vadprep.core.resources import worker_cores

    workers = workers or worker_cores()
    rows: list[Cells] = [("before the first video", "s of a processor", "s")]
    for what, used, seconds in bench_start(choices[-1].split(","), workers):
        rows.append((what, f"{used:.2f}", f"{seconds:.2f}"))
    show(rows)
    measured = ("clips", "whole", "networks alone", "TV-L1", "speed", "Ray's own, besides")
    rows = [("s of a processor for a clip", "workers", *measured)]
    for streams in choices:
        for count in dict.fromkeys((1, workers)):
            found = bench_overheads(clips, streams.split(","), repeat, count)
            each = (found.whole, found.network, found.flow, found.ray)
            *parts, ray = (f"{seconds / found.clips:.4f}" for seconds in each)
            rows.append((streams, count, found.clips, *parts, f"{found.share:.3f}", ray))
    show(rows)
    click.echo("speed: of the run, as a share of networks and TV-L1 alone")


@bench.command("backbone", example="vadprep bench backbone --graph s3d")
@option("--graph", default="inception_i3d", help="Network, or all.")
@option("--device", default="cpu", help="cpu or cuda.")
@option("--threads", type=COUNT, default=1, help="Threads, on a CPU.")
def backbone(graph: str, device: str, threads: int) -> None:
    """Networks: plain PyTorch against the engine, speed and error."""
    from vadprep.backbones import has_cpu_bf16
    from vadprep.backbones.graphs import GRAPHS, graph_of
    from vadprep.cli.bench.backbone import bench_backbone
    from vadprep.training.run import check_device

    graphs = list(GRAPHS) if graph == "all" else [graph]
    for name in graphs:
        graph_of(name)
    check_device(device)
    precisions = ["fp32", "bf16"] if has_cpu_bf16() or device != "cpu" else ["fp32"]
    for name in graphs:
        title = f"{name}, {device}, {counted(threads, 'thread')}, batch 1"
        timings = bench_backbone(name, device, precisions, threads)
        show([(title, "s a clip", "speed-up", "feature error"), *timings])


@bench.command("flow", example="vadprep bench flow clip.mp4")
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@option("--pairs", type=COUNT, default=4, help="Pairs of each video.")
def flow(videos: tuple[Path, ...], pairs: int) -> None:
    """TV-L1: each back end against OpenCV, speed and agreement."""
    from vadprep.cli.bench.flow import bench_flow

    num_pairs, timings, notes = bench_flow(videos, pairs)
    title = f"TV-L1, {counted(num_pairs, 'pair')}"
    rows: list[Cells] = [(title, "s a pair", "pairs/s", "speed-up", "mean px off", "99 % px off")]
    for (height, width), backend, seconds, *rest in timings:
        rows.append((f"{width}x{height}  {backend}", seconds, 1 / seconds, *rest))
    show(rows)
    for each in notes:
        click.echo(each)


@bench.command("loader", example="vadprep bench loader --videos 100")
@option("--videos", type=COUNT, default=1000, help="Synthetic videos.")
@option("--shards", type=COUNT, default=2000, help="Shards of the folder that is opened.")
def loader(videos: int, shards: int) -> None:
    """Reading features: a folder against memory-mapped .npy files."""
    from vadprep.cli.bench.loader import bench_loader, bench_opening

    rows: list[Cells] = [
        (counted(videos, "video"), "shards, ms a video", ".npy, ms a video", "speed")
    ]
    for what, ours, theirs in bench_loader(videos):
        each = 1000 * ours / videos, 1000 * theirs / videos
        rows.append((what, *(f"{ms:.3f}" for ms in each), f"{theirs / ours:.2f}"))
    show(rows)
    found, seconds = bench_opening(shards)
    what = f"{counted(shards, 'shard')} of {counted(found, 'video')}"
    click.echo(f"opening {what}: {seconds:.2f} s of a processor")


@bench.command("train", example="vadprep bench train --heads ddl")
@option("--heads", default=",".join(HEAD_NAMES), help="Heads, by commas.")
@option("--device", default="cpu", help="cpu or cuda.")
@option("--videos", type=click.IntRange(2), default=100, help="Synthetic training videos.")
@option("--steps", type=COUNT, default=5, help="Steps to time.")
def train(heads: str, device: str, videos: int, steps: int) -> None:
    """Steps and scoring of each head against a plain loop."""
    import torch

    from vadprep.cli.bench.train import random_slice, time_head
    from vadprep.heads import head_kind
    from vadprep.training.run import check_device

    names = heads.split(",")
    check_device(device)
    for name in names:
        head_kind(name)
    title = f"XD-Violence settings, {device}, {counted(torch.get_num_threads(), 'thread')}"
    measured = ("s a step", "plain", "ratio", "arithmetic", "s to score a video", "plain", "ratio")
    rows: list[Cells] = [(title, *measured, "h in all")]
    features, labels = random_slice(videos)
    with tempfile.TemporaryDirectory(prefix="vadprep-bench-") as folder:
        for name in names:
            note(f"measuring: {name}")
            found = time_head(name, features, labels, Path(folder), device, steps)
            step = (found.step, found.plain_step, f"{found.plain_step / found.step:.2f}")
            one = (found.scoring, found.plain_scoring)
            scored = (*(f"{each:.4f}" for each in one), f"{one[1] / one[0]:.2f}")
            hours = found.step * found.steps * found.epochs / 3600
            rows.append((name, *step, f"{found.arithmetic:.0%}", *scored, hours))
    show(rows)


@bench.command("gpu", example="vadprep bench gpu")
@option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    help="cpu only tries the command.",
)
@option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="bench-gpu.json",
    help="JSON file of the figures.",
)
def gpu(device: str, out: Path) -> None:
    """Everything that a GPU does, in less than 8 minutes."""
    from vadprep.cli.bench.gpu import bench_gpu, card
    from vadprep.training.run import check_device

    check_device(device)
    check_writable(out.absolute().parent)
    about, rows, part = card(device), list[dict[str, object]](), ""
    try:
        for name, row in bench_gpu(device):
            if name != part:
                note(f"measuring: {name}")
            part = name
            rows.append({"part": name, **row._asdict()})
    finally:
        write_json(out, {"card": about, "rows": rows})
    show([(name, about[name]) for name in SHOWN if about.get(name)])
    cells: list[Cells] = [("what", "measured", "unit", "note")]
    for each in rows:
        value = each["value"]
        measured = f"{value:,.4g}" if isinstance(value, float) else value
        cells.append((each["what"], measured, each["unit"], each["note"]))
    show(cells)
    click.echo(f"written: {out}")


SHOWN = ("processor", "cores", "driver", "memory", "torch", "CUDA", "cuDNN", "triton", "vadprep")
"""Of what is known of a machine, what ``bench gpu`` prints above its table."""
