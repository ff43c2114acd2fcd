"""How much longer than `import json` does `import theus` take, in a fresh process?"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import repeat

from harness import Bar, Contender, Row, main


def children_ns() -> int:
    """Processor time of all processes that we started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * 1e9)


def importing(module: str) -> Contender:
    command = [sys.executable, "-P", "-c", f"import {module}"]

    def run(count: int) -> None:
        for _ in repeat(None, count):
            subprocess.run(command, check=True, cwd="/")

    return run


def row() -> Row:
    return Row(
        "a fresh interpreter that imports one module",
        {f"import {module}": importing(module) for module in ("theus", "json", "sys")},
        (Bar(30e6, beyond="import json"),),
        clock=children_ns,
    )


def rows() -> Iterator[Callable[[], Row]]:
    yield row


if __name__ == "__main__":
    main(__doc__, rows())
