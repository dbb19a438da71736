"""``vadprep benchmark``: every head on the same features, under one protocol, in one table."""

from __future__ import annotations

import csv
import io
import os.path
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

import vadprep
from vadprep.cli.help import advanced, command
from vadprep.cli.metrics import show_caution
from vadprep.cli.options import (
    COUNT,
    FEATURES,
    FILE,
    FOLDER,
    PART,
    chosen_manifest,
    manifest_options,
    message_options,
    page_option,
)
from vadprep.cli.text import note, show
from vadprep.cli.train import (
    HEAD_NAMES,
    PROMPTS_HELP,
    SCHEDULE,
    SCHEDULE_HELP,
    dataset_here,
    named_source,
    parsed_seeds,
)
from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.errors import SettingError, Stopped, VadprepError, allowed_are, counted
from vadprep.core.resources import worker_cores
from vadprep.evaluation.run_files import LAST, seed_folders
from vadprep.training.recipes import RECIPES, UNITS

if TYPE_CHECKING:
    from vadprep.training import TrainingRun

PROTOCOL = {
    "last": "last step",
    "best_on_validation": "best on validation",
    "best_on_test": "best on test",
}
"""Which epoch of a training counts: entry of metrics.json -> words of the table."""
AS_PAPERS = "best_on_test"
SHOWN = ("frame_auc", "frame_ap_trapezoid")
"""Metrics that papers of this field report."""
COLUMNS = ("head", "epoch", SHOWN[0], "auc_spread", SHOWN[1], "ap_spread", "published")
EMPTY = "-"
FAILED = "failed"
CONTINUE = "every full epoch is saved, run it again"
HEADS_HELP = "all, or names such as ddl,urdmu."
VALIDATION_HELP = "Share of the training videos by which an epoch is chosen."
WORKERS_HELP = "Heads trained at the same time, by Ray: on so many GPUs with --device cuda."

Outcome: TypeAlias = "TrainingRun | str"
"""A finished training, or why there is none."""


@dataclass(frozen=True)
class Training:
    """Arguments of ``vadprep.train`` for one head."""

    head: str
    arguments: Mapping[str, Any]
    threads: int
    """Of torch; 0 leaves them as they are."""

    def __call__(self) -> Outcome:
        """Train, or go on where an earlier call was stopped. Raises Stopped."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            return vadprep.train(self.head, **self.arguments)
        except Stopped:  # of the whole command, not of this head alone
            raise
        except VadprepError as error:
            return str(error)


@command("benchmark", example="vadprep benchmark --dataset xd --heads all --seeds 0,1,2")
@manifest_options
@click.option("--features", type=FEATURES, help="Feature folder. Default: features/NAME.")
@click.option("--out", type=FOLDER, help="Folder of runs and tables. Default: runs/benchmark-NAME.")
@click.option("--heads", default="all", show_default=True, help=HEADS_HELP)
@click.option("--seeds", default="0,1,2", show_default=True, help="One run for each seed.")
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or concat (both).")
@click.option("--workers", type=COUNT, default=1, show_default=True, help=WORKERS_HELP)
@click.option("--device", help="cpu or cuda. Default: cuda if there is a GPU.")
@page_option
@advanced("--schedule", type=SCHEDULE, default="published", show_default=True, help=SCHEDULE_HELP)
@advanced("--validation", type=PART, default=0.2, show_default=True, help=VALIDATION_HELP)
@advanced("--prompts", type=FILE, help=PROMPTS_HELP)
@advanced("--allow-missing", is_flag=True, help="Train without videos that have no features.")
@message_options
def benchmark(
    features: str | None,
    out: Path | None,
    heads: str,
    seeds: str,
    workers: int,
    page: Path | None,
    prompts: Path | None,
    **options: Any,
) -> None:
    """Train every head under one protocol; write one table.

    Each head is trained with its settings for the data set. The table has the metrics of the last
    step, of the epoch that is best on held-out training videos, and of the one that is best on the
    test videos, as papers report it. The same command continues a run that was stopped. Heads
    that were trained before in the same folder with the same options stay in the table.
    """
    from vadprep.core.signals import stop_on_signals
    from vadprep.heads import HEADS

    names = named_heads(heads)
    options["seeds"] = parsed_seeds(seeds)
    if not (options["dataset"] or options["manifest"] or features):
        options["dataset"] = dataset_here()
    options["source"] = named_source(options)
    options["manifest"], name = chosen_manifest(options, with_paths=False)
    out, features = out or Path("runs") / f"benchmark-{name}", features or f"features/{name}"
    place = features if "://" in features else os.path.abspath(features)
    vadprep.open_features(place).close()  # without them no head can be trained
    prompts = prompts and prompts.absolute()  # workers have another folder
    shared = {**options, "dataset": name, "features": place, "resume": True}
    threads = max(1, worker_cores() // workers) if workers > 1 else 0
    kept = [
        head
        for head in HEADS
        if head not in names and is_finished(out.absolute() / head, options["seeds"])
    ]
    work = [
        Training(
            head,
            {
                **shared,
                "out": out.absolute() / head,
                "prompts": prompts if hasattr(HEADS[head].settings(name)[1], "prompts") else None,
            },
            threads,
        )
        for head in [*names, *kept]
    ]
    found = dict[str, Outcome]()
    with stop_on_signals(CONTINUE):
        for head, outcome in outcomes(work, workers, options["device"]):
            found[head] = outcome
            words = outcome if isinstance(outcome, str) else f"done, in {outcome.folder}"
            note(f"{len(found)} of {counted(len(work), 'head')}, {head}: {words}")
    for head in [head for head in kept if isinstance(found[head], str)]:
        note(f"{head} is left out of the table: {found.pop(head)}")
    found = {head: found[head] for head in [*names, *kept] if head in found}
    published = {head: published_for(head, name, options["streams"]) for head in found}
    rows = list(table(found, published))
    show([COLUMNS, *rows])
    note(f"published: {UNITS}")
    runs = [each for each in found.values() if not isinstance(each, str)]
    if runs:
        show_caution(out, runs[0].origin.caution())
        write_tables(out, rows)
        click.echo(f"tables in {out / 'benchmark.md'} and benchmark.csv")
    if runs and str(page) != "none":
        folders, at = [run.folder for run in runs], page or out / "page"
        opened = vadprep.report(folders, out=at, previews="none", published=published)
        click.echo(f"open {opened}")
    failed = {head: each for head, each in found.items() if isinstance(each, str)}
    for head, reason in failed.items():
        click.echo(f"no result of {head}: {reason}", err=True)
    if failed:
        raise SystemExit(1)


def is_finished(run: Path, seeds: Sequence[int]) -> bool:
    """True when the folder ``run`` holds trainings that have ended, of these seeds or of one."""
    folders = seed_folders(run)
    is_complete = not folders or folders.keys() == set(seeds)
    return is_complete and all(
        (each / f"{LAST}.json").exists() for each in folders.values() or [run]
    )


def named_heads(text: str) -> list[str]:
    """The heads that ``--heads`` names; raises SettingError for an unknown one."""
    from vadprep.heads import HEADS

    names = list(HEAD_NAMES) if text == "all" else text.split(",")
    for name in names:
        if name not in HEADS:
            raise SettingError(f"--heads {name}: {allowed_are(name, ('all', *HEADS))}")
    return names


def outcomes(
    work: Sequence[Training], workers: int, device: str | None
) -> Iterator[tuple[str, Outcome]]:
    """Head and outcome of each training, in this process or, for several workers, as they end on
    Ray. A worker that dies gives its reason. Raises ClusterError when Ray does not start."""
    if workers == 1:
        yield from ((each.head, each()) for each in work)
        return
    import ray
    import torch

    from vadprep.core.signals import call_interruptible
    from vadprep.extraction.ray_runner import Pool, ray_session

    with_gpu = device != "cpu" and torch.cuda.is_available()
    with ray_session(Pool(workers, gpus_each=int(with_gpu))):
        remote = ray.remote(num_cpus=1, num_gpus=int(with_gpu), max_retries=0)(_run)
        waiting = {remote.remote(each): each.head for each in work}
        while waiting:
            ready, _ = call_interruptible(lambda: ray.wait([*waiting], timeout=1.0))
            for reference in ready:
                head = waiting.pop(reference)
                try:
                    yield head, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield head, f"its worker ended: {str(error).strip().splitlines()[0]}"


def _run(training: Training) -> Outcome:
    return training()


def table(found: Mapping[str, Outcome], published: Mapping[str, str]) -> Iterator[list[object]]:
    """Rows under ``COLUMNS``: three for each head, one for a head without a result.

    ``published`` by head stands beside the epoch that is chosen as papers choose theirs.
    """
    for head, outcome in found.items():
        if isinstance(outcome, str):
            yield [head, FAILED, *[None] * 4, published[head]]
            continue
        for choice, words in PROTOCOL.items():
            mean, spread = outcome.mean(choice), outcome.spread(choice)
            numbers = [of.get(metric) for metric in SHOWN for of in (mean, spread)]
            yield [head, words, *numbers, published[head] if choice == AS_PAPERS else ""]


def published_for(head: str, dataset: str, streams: str) -> str:
    """What was published for ``head`` on ``dataset``, with its features, from the recipes.

    Figures of other ``streams`` are left out where the recipes name them.
    """
    data = (dataset, f"{dataset} --streams {streams}")
    rows = [row for row in RECIPES if row[0] == head and row[1] in data]
    return "; ".join(f"{value} ({features})" for _, _, features, value, _ in rows)


def write_tables(out: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write ``benchmark.md`` and ``benchmark.csv``; raises OutputError when the disk refuses."""
    lines = [[_text(each) for each in row] for row in (COLUMNS, *rows)]
    marked = [" | ".join(each.replace("|", "\\|") or EMPTY for each in row) for row in lines]
    marked.insert(1, " | ".join(["---"] * len(COLUMNS)))
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    files = {"md": "".join(f"| {line} |\n" for line in marked), "csv": stream.getvalue()}
    make_folder(out)
    for suffix, text in files.items():
        with open_atomic(out / f"benchmark.{suffix}") as file:
            file.write(text.encode())


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.4f}" if isinstance(cell, float) else " ".join(str(cell).split())
