"""Run the command line in this process, with a stand-in for the network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.standin import StandIn, standin_flow

from vadprep import heads as mil
from vadprep.backbones import load_weights
from vadprep.cli.main import main
from vadprep.extraction import extractor, plan

CHEAP = ("--weights", "random:0", "--workers", "1", "--fps", "native")
"""Options of an extraction in this process."""

_cached_weights = functools.cache(load_weights)


@contextmanager
def without_network() -> Iterator[pytest.MonkeyPatch]:
    """Extractions inside the block run for real, but for the networks and TV-L1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "Backbone", lambda *settings: StandIn())
        patch.setattr(plan, "load_weights", _cached_weights)
        patch.setattr(extractor, "tvl1_method", lambda text: standin_flow)
        patch.delenv("VADPREP_ROOT", raising=False)
        patch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
        yield patch


@contextmanager
def cheaply() -> Iterator[None]:
    """Without networks, and heads ``ddl`` are narrow and train for an epoch."""
    with without_network() as patch:
        kind = mil.HEADS["ddl"]
        short = {
            name: dataclasses.replace(config, epochs=1, width=16)
            for name, config in kind.published.items()
        }
        patch.setitem(mil.HEADS, "ddl", dataclasses.replace(kind, published=short))
        yield


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    """What a command printed and its exit code. An exception that is not ours is raised."""
    result = CliRunner().invoke(main, [str(each) for each in arguments], env=env)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def extract(videos: Path, out: Path, *options: object) -> Result:
    """``vadprep extract --videos`` with ``CHEAP``."""
    return run("extract", "--videos", videos, "--out", out, *CHEAP, *options)


def message(result: Result, exit_code: int = 2) -> str:
    """The one line that says why a command was refused."""
    assert result.exit_code == exit_code, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and result.output.endswith(errors[0] + "\n"), result.output
    return errors[0].removeprefix("Error: ")
