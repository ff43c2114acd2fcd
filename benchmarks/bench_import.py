"""How much longer than `import json` does `import theus` take, in a fresh process?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat

from harness import Bar, Contender, Row, main


def importing(module: str) -> Contender:
    command = [sys.executable, "-c", f"import {module}"]

    def run(count: int) -> None:
        for _ in repeat(None, count):
            subprocess.run(command, check=True, cwd="/")

    return run


def row() -> Row:
    return Row("a fresh interpreter that imports one module",
               {f"import {module}": importing(module) for module in ("theus", "json", "sys")},
               (Bar(30e6, beyond="import json"),), clock=time.perf_counter_ns)


def rows() -> Iterator[Callable[[], Row]]:
    yield row


if __name__ == "__main__":
    main(__doc__, rows())
