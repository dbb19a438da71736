"""What a card does with each part of vadprep: measured once, within a budget of time.

Each part runs in a process of its own, so that a part that hangs, or spoils the GPU for its
process, costs its own rows alone.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import vadprep
from vadprep.backbones import GRAPHS
from vadprep.backbones.engine import engine_of
from vadprep.cli.bench.gpu_parts import (
    Bench,
    Part,
    Row,
    Sizes,
    compiling,
    decoding,
    extraction,
    gpu_tests,
    networks,
    optical_flow,
    peaks,
    training,
)
from vadprep.core.errors import VadprepError
from vadprep.extraction.run import provenance
from vadprep.heads import HEADS

BUDGET_SECONDS = 450.0
"""Of all parts together: with its start and end the command stays below 8 minutes."""
GRACE_SECONDS = 15.0
"""A part that has not ended so long after its share of the budget is killed."""
REST = "the rest"

TESTS = Path(vadprep.__file__).parents[1] / "tests"

ON_GPU = Sizes(
    seconds=0.5, side=8192, copied=1 << 30, graphs=tuple(GRAPHS),
    precisions=("tf32", "bf16", "fp32", "fp16"), batches=(32, 8, 1), compiled="inductor",
    flow=(256, 340), pairs=192, frames=1600, processes=(1, 2, 4, 8, 16), videos=32, crops=(1, 10),
    streams=("rgb", "rgb,flow"), heads=tuple(HEADS), features=100, steps=5, tests=TESTS,
)  # fmt: skip

ON_CPU = Sizes(
    seconds=0.1, side=1024, copied=1 << 26, graphs=("inception_i3d", "r3d_18"),
    precisions=("fp32",), batches=(1,), compiled="", flow=(96, 128), pairs=4, frames=64,
    processes=(1, 2), videos=1, crops=(1, 10), streams=("rgb", "rgb,flow"), heads=tuple(HEADS),
    features=20, steps=1, tests=TESTS,
)  # fmt: skip
"""For a try on a machine without a GPU."""


def card(device: str) -> dict[str, Any]:
    """What the measurements were made with: the card, its driver, versions."""
    found: dict[str, Any] = dict(provenance(device, engine_of(device)))
    found |= {"cores": os.cpu_count(), "CUDA": torch.version.cuda or "none"}
    found["cuDNN"] = torch.backends.cudnn.version()
    smi = shutil.which("nvidia-smi")
    if smi and device == "cuda":
        query = [
            smi,
            "--query-gpu=driver_version,memory.total,power.limit",
            "--format=csv,noheader",
        ]
        told = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        names = ("driver", "memory", "power limit")
        found |= dict(zip(names, (told or [""])[0].split(", "), strict=False))
    return found


PARTS: dict[str, tuple[Part, int]] = {
    "peaks": (peaks, 25), "networks": (networks, 150), "optical flow": (optical_flow, 30),
    "decoding": (decoding, 40), "extraction": (extraction, 110), "training": (training, 40),
    "tests": (gpu_tests, 80), "torch.compile": (compiling, 80),
}  # fmt: skip
"""Part -> what measures it, and its share of the time."""


def in_child(part: Part, bench: Bench) -> Iterator[Row]:
    """The rows of ``part``, run in a process that is killed when it is far behind its deadline."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send_rows, args=(theirs, part, bench))
    child.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, bench.deadline + GRACE_SECONDS - time.monotonic())):
            yield Row(*ours.recv())
        yield Row(REST, None, note="stopped: it took too long")
    except EOFError:
        child.join()
        if child.exitcode:
            yield Row(REST, None, note=f"exit code {child.exitcode}")
    finally:
        child.kill()
        child.join()


def _send_rows(connection: Connection, part: Part, bench: Bench) -> None:
    for row in measured(part, bench):
        connection.send(tuple(row))


def measured(part: Part, bench: Bench) -> Iterator[Row]:
    """The rows of ``part``; an error of a library is the last one, so that other parts go on."""
    try:
        yield from part(bench)
    except (VadprepError, ImportError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        yield Row(REST, None, note=f"{type(error).__name__}: {reason}")


def bench_gpu(
    device: str,
    sizes: Sizes | None = None,
    run: Callable[[Part, Bench], Iterator[Row]] = in_child,
    seconds: float = BUDGET_SECONDS,
) -> Iterator[tuple[str, Row]]:
    """Parts and their rows. What a part leaves of its time goes to those after it."""
    sizes = sizes or (ON_GPU if device == "cuda" else ON_CPU)
    end, known = time.monotonic() + seconds, dict[str, float]()
    shares = {name: share for name, (_, share) in PARTS.items()}
    for name, (part, share) in PARTS.items():
        left = end - time.monotonic() - GRACE_SECONDS
        deadline = time.monotonic() + left * share / sum(shares.values())
        del shares[name]
        if left <= 0:
            yield name, Row("this part", None, note="left out, for lack of time")
            continue
        for row in run(part, Bench(device, sizes, deadline, known)):
            if row.what == REST:
                row = row._replace(what=f"the rest of {name}")
            if row.value is not None:
                known[row.what] = row.value
            yield name, row
