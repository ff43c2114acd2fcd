"""A process that borrows shared arrays, and does with them what it is told."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

# Takes pickled (expression, value) and answers with what the expression, of `it`, gives or raises.
BORROWER = """
import ctypes, gc, mmap, os, pickle, sys
import numpy as np
kept = []
def mapped():
    with open("/proc/self/maps") as maps:
        return sum("theus-data" in line or "/theus_" in line and ".data" in line for line in maps)
def touched():  # KiB of the mapped data files that have pages in this process
    with open("/proc/self/smaps") as maps:
        parts = maps.read().split("VmFlags")
    parts = [it for it in parts if "theus-data" in it or "/theus_" in it and ".data" in it]
    lines = [line for part in parts for line in part.splitlines() if line.startswith("Rss:")]
    return sum(int(line.split()[1]) for line in lines)
def keep(value):
    kept.append(value)
    return value
while True:
    try:
        source, data = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        it = pickle.loads(data)
        answer = (True, eval(source))
    except BaseException as error:
        answer = (False, error)
    it = None
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class Borrower:
    """Another process, which did not descend from this one's arrays."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", BORROWER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(sys.executable).parent,
        )

    def send(self, source: str, value: object = None) -> None:
        assert self.process.stdin is not None
        pickle.dump((source, pickle.dumps(value)), self.process.stdin)
        self.process.stdin.flush()

    def ask(self, source: str, value: object = None) -> Any:
        self.send(source, value)
        assert self.process.stdout is not None
        good, answer = pickle.load(self.process.stdout)
        if not good:
            raise answer
        return answer

    def end(self) -> int:
        """Closes the pipes, and says how it ended. It may have died already."""
        _, complaints = self.process.communicate(timeout=60)
        assert complaints == b"", complaints
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        assert self.end() == -signal.SIGKILL
