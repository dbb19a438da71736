"""The table of all commands. Each is imported when it is called; errors become exit codes."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, TextIO

import click
from click.shell_completion import CompletionItem

from vadprep import __version__
from vadprep.cli.help import Group
from vadprep.core.errors import MOST_SHOWN, VadprepError, printable
from vadprep.core.untrusted import reading

SECTIONS = {
    "Prepare": {
        "demo": ("demo", "Run the full pipeline on a small synthetic data set."),
        "datasets": ("datasets", "List data sets, show their counts, check the video files."),
        "presets": ("datasets", "Named settings for features, with the source of each value."),
        "weights": ("weights", "List, download, convert and check weights of networks."),
    },
    "Extract": {
        "extract": ("extract", "Extract features from videos into a feature folder."),
        "merge": ("features", "Join feature folders, or change the number of videos in a shard."),
    },
    "Train and score": {
        "train": ("train", "Train a head on features; write its test scores and metrics."),
        "eval": ("evaluate", "Compute the metrics of a run, on its own or another manifest."),
        "score": ("score", "Score videos or features with a run; list alarms, draw plots."),
        "live": ("live", "Score what cameras and streams show now; list alarms."),
        "benchmark": (
            "benchmark",
            "Train every head under one protocol; write one table.",
        ),
        "report": ("report", "Write pages that show runs or features in a browser."),
        "recipes": ("train", "Published settings and metrics of each head."),
    },
    "Exchange": {
        "import": ("exchange", "Convert features of another code base to a feature folder."),
        "export": ("exchange", "Convert a feature folder to files for another code base."),
        "export-onnx": ("exchange", "Write the head of a run as ONNX, checked against torch."),
        "compare": ("exchange", "Compare two sets of features and say what differs."),
        "gt": ("datasets", "Build or check flat ground truth; write clicked frames."),
    },
    "Inspect": {
        "status": ("features", "Show what is done, running, failed or missing."),
        "verify": ("features", "Read all features and check them for damage."),
        "doctor": ("doctor", "Check this machine: what is missing and what that costs."),
        "bench": ("bench.main", "Measure speed and memory on this machine."),
    },
}
"""Heading -> command -> (module, one line of help). The function has the name of the command."""

NAMES = {"eval": "evaluate", "import": "import_", "export-onnx": "export_onnx"}
"""Functions that cannot have the name of their command, in Python."""

COMMANDS = {name: each for section in SECTIONS.values() for name, each in section.items()}

COMPLETION = """\
\b
Completion, for bash: eval "$(_VADPREP_COMPLETE=bash_source vadprep)"
For zsh and fish: zsh_source, fish_source. Put the line into the shell's start file.
"""


LINES, BAR = re.compile(r"(\n)"), re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)")
"""What a terminal is to obey of the text of a command, and of that of a progress bar."""


class LastingStream:
    """Standard output or error. Text from outside that is printed is no command to the terminal:
    control characters are shown as escapes. When the stream is closed or full, the rest of it is
    dropped: the work of a command goes on, and its exit code says what happened."""

    buffer = None
    """No way around the escapes for click, which else prints to a stream of ASCII by itself."""

    def __init__(self, stream: TextIO, obeyed: re.Pattern[str] = LINES) -> None:
        self._stream, self._obeyed = stream, obeyed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def of_bar(self) -> LastingStream:
        """The same stream for a progress bar, which moves the cursor."""
        return LastingStream(self._stream, BAR)

    def write(self, text: str) -> int:
        parts = self._obeyed.split(text)
        shown = "".join(each if at % 2 else printable(each) for at, each in enumerate(parts))
        coding = self._stream.encoding or "utf-8"
        with self._dropping():
            self._stream.write(shown.encode(coding, "backslashreplace").decode(coding))
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class Main(Group):
    """Commands in sections. Errors become one line and an exit code."""

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        is_completion = settings.get("resilient_parsing", False)  # whose output is for a shell
        for name in ("stdout", "stderr"):
            # A closed one is None; its number must not go to a file that is opened later.
            stream = getattr(sys, name) or open(os.devnull, "w")
            if not is_completion:
                setattr(sys, name, LastingStream(stream))
        return super().make_context(*arguments, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"vadprep.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, NAMES.get(cmd_name, cmd_name))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading, commands in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:{width}}", commands[name][1]) for name in commands])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without importing them; then what click completes for options."""
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        found = [CompletionItem(name, help=COMMANDS[name][1]) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with reading(VadprepError):  # what no border has met
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("vadprep"):
                raise
            text = f"this needs the package {error.name}: pip install 'vadprep[all]'"
            click.echo(f"Error: {text}", err=True)
            ctx.exit(2)
        except click.UsageError as error:  # it may repeat an argument of any length
            text = error.format_message()
            shown = text[:MOST_SHOWN].replace("\n\t", " ")  # between the choices of an option
            if shown == text:  # the help of a group is one, too, which prints itself
                raise
            raise click.UsageError(shown, error.ctx) from None
        except VadprepError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(
    cls=Main,
    example="vadprep extract --videos clips/ --weights random:0",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=COMPLETION,
)
@click.version_option(__version__)
def main() -> None:
    """From surveillance video to features and anomaly scores."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logger = logging.getLogger("vadprep")
    logger.setLevel(logging.INFO)  # -q and -v change it
    click.get_current_context().call_on_close(partial(logger.setLevel, logging.NOTSET))
