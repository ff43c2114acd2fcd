"""The `theus` command. `import theus` never comes here, so it loads neither click nor rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""The exit status that shells give to a program ended by Ctrl-C: 128 + SIGINT."""

__all__ = ["INTERRUPTED", "main"]


def main(arguments: Sequence[str] | None = None, prog_name: str = "theus") -> None:
    """Runs a command line (None: the program's own), and ends the program with SystemExit."""
    try:
        from theus.cli.commands import commands  # takes a while, and Ctrl-C may come meanwhile

        commands(arguments, prog_name=prog_name)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
