"""The command line: parse, call, print, exit code. Nothing else happens here.

Exit codes: 0 all done; 1 some video failed, and they are listed; 2 wrong use; 75 stopped by a
signal with everything committed. Heavy imports stand inside the commands, so that ``--help`` is
instant and ``status``, ``verify`` and ``datasets`` need no torch.
"""

from __future__ import annotations

import logging
from typing import Any

import click

from vadprep import __version__
from vadprep.cli import exchange as cli_exchange
from vadprep.cli import features as cli_features
from vadprep.cli import protocol as cli_protocol
from vadprep.cli import score as cli_score
from vadprep.cli import shards as cli_shards
from vadprep.cli import tools as cli_tools
from vadprep.cli import train as cli_models
from vadprep.cli import weights as cli_weights
from vadprep.core.errors import VadprepError


class _Group(click.Group):
    """Turns our errors into one line and an exit code, and a missing extra into its name.

    The group ``bench`` is imported when it is asked for.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), "bench"})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "bench" and "bench" not in self.commands:
            from vadprep.cli.bench.main import bench

            self.add_command(bench)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VadprepError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("vadprep"):
                raise
            click.echo(
                f"Error: this needs the package {error.name}: pip install 'vadprep[all]'", err=True
            )
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """From raw surveillance video to features and anomaly scores."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


for command in (
    cli_features.extract,
    cli_features.status,
    cli_features.verify,
    cli_models.train,
    cli_score.score,
    cli_models.evaluate,
    cli_shards.merge,
    cli_exchange.import_,
    cli_exchange.export,
    cli_exchange.compare,
    cli_features.presets,
    cli_features.datasets,
    cli_weights.weights,
    cli_protocol.gt,
    cli_protocol.recipes,
    cli_tools.demo,
    cli_tools.doctor,
):
    main.add_command(command)
