"""The commands of `theus`."""

from __future__ import annotations

import click

from theus import __version__
from theus.cli.demo import demo
from theus.cli.gc import gc


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="theus")
@click.pass_context
def commands(context: click.Context) -> None:
    """Transactions over one immutable, versioned state."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


commands.add_command(demo)
commands.add_command(gc)
