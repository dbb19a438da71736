"""The form of the help: an example for each command, sections, and commands loaded when called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


class _WithExample(click.Command):
    """A command whose help ends with one example."""

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write(f"{'':{formatter.current_indent}}{self.example}\n")
        super().format_epilog(ctx, formatter)


class Advanced(click.Option):
    """An option that few need: the help lists it in a section of its own."""


class Command(_WithExample):
    """A command with an example, and with its advanced options in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, is_advanced in (("Options", False), ("Advanced options", True)):
            options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
            chosen = [each for each in options if isinstance(each, Advanced) == is_advanced]
            if records := [found for each in chosen if (found := each.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(_WithExample, click.Group):
    """A group of such commands: ``@group.command("name", example="vadprep ...")``."""

    command_class = Command


def command(name: str, *, example: str) -> Callable[[Callable[..., Any]], Command]:
    """Decorator that makes a function a command with an example in its help."""
    return click.command(name, cls=Command, example=example)


def group(name: str, *, example: str) -> Callable[[Callable[..., Any]], Group]:
    """Decorator that makes a function a group with an example in its help."""
    return click.group(name, cls=Group, example=example)


def advanced(*declarations: str, **settings: Any) -> Callable[[Any], Any]:
    """``click.option`` for an option that few need."""
    return click.option(*declarations, cls=Advanced, **settings)


class LazyGroup(_WithExample, click.Group):
    """Commands in sections. The module of a command is imported when that command is called.

    ``sections`` maps a heading to commands: name -> (``module:attribute``, one line of help).
    """

    def __init__(
        self,
        *arguments: Any,
        sections: Mapping[str, Mapping[str, tuple[str, str]]],
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.sections = sections
        self.lazy = {name: each for found in sections.values() for name, each in found.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, attribute = self.lazy[cmd_name][0].split(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.lazy))
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                rows = [(f"{name:{width}}", line) for name, (_, line) in commands.items()]
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands, without importing them; then what click completes for options."""
        names = [name for name in self.lazy if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.lazy[name][1]) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)
