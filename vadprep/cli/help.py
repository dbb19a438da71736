"""The form of the help: an example for each command, and advanced options in their own section."""

from __future__ import annotations

from functools import partial
from typing import Any

import click


class Advanced(click.Option):
    """An option that few need."""


class Command(click.Command):
    """A command whose help lists advanced options apart and ends with one example."""

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, is_advanced in (("Options", False), ("Advanced options", True)):
            chosen = [p for p in self.get_params(ctx) if isinstance(p, Advanced) == is_advanced]
            if records := [found for each in chosen if (found := each.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write(f"{'':{formatter.current_indent}}{self.example}\n")
        super().format_epilog(ctx, formatter)


class Group(click.Group, Command):
    """A group of such commands: ``@group.command("name", example="vadprep ...")``."""

    command_class = Command


command = partial(click.command, cls=Command)
group = partial(click.group, cls=Group)
"""Decorators that make a function a command, or a group, with an ``example`` in its help."""


advanced = partial(click.option, cls=Advanced)
"""``click.option`` for an option that few need."""
