"""The form of the help: an example for each command, and advanced options in their own section."""

from __future__ import annotations

import re
import shlex
from functools import partial
from typing import Any

import click

from vadprep.core.errors import near_miss


class Advanced(click.Option):
    """An option that few need."""


class Command(click.Command):
    """A command whose help lists advanced options apart and ends with one example."""

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """As click's; of a value that is not among the choices it says which may be meant."""
        try:
            return super().make_context(*arguments, **settings)
        except click.BadParameter as error:
            word = re.match(r"'(.*?)' is not one of", error.message)
            if not word or not error.param or not isinstance(error.param.type, click.Choice):
                raise
            text = error.message.removesuffix(".") + near_miss(word[1], error.param.type.choices)
            raise click.BadParameter(text, error.ctx, error.param, error.param_hint) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read ``args``, and before them those of the file ``--config``, which they replace."""
        if not any(each.name == "config" for each in self.params):
            return super().parse_args(ctx, args)
        from vadprep.cli.config import arguments_of

        of_file = arguments_of(self, ctx, args)
        try:
            return super().parse_args(ctx, [*of_file, *args])
        except click.UsageError as error:
            if not of_file:
                raise
            raise click.UsageError(
                f"{error.format_message()} (--config gives: {shlex.join(of_file)})", ctx
            ) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options alone: arguments, which click adds since 8.5, stand in the usage."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        for title, is_advanced in (("Options", False), ("Advanced options", True)):
            chosen = [each for each in options if isinstance(each, Advanced) == is_advanced]
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

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's; of an unknown command it says which may be meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = near_miss(args[0], self.list_commands(ctx))
            raise click.UsageError(error.message.removesuffix(".") + hint, ctx) from None


command = partial(click.command, cls=Command)
group = partial(click.group, cls=Group)
"""Decorators that make a function a command, or a group, with an ``example`` in its help."""


advanced = partial(click.option, cls=Advanced)
"""``click.option`` for an option that few need."""
