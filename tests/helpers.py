"""What several rooms of tests need: barriers, fresh processes, hostile keys, memory in use."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


# ---- threads ------------------------------------------------------------------------


def run_threads(count: int, body: Callable[[int], Any], *, timeout: float = 120) -> list[Any]:
    """Calls body(0) … body(count - 1) in threads that start together; returns their results.

    The threads inherit no context variables, whatever this Python does by default.
    The first exception of a thread is raised here. A thread that does not end in time
    fails the test instead of hanging the run.
    """
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def main(index: int) -> None:
        try:
            barrier.wait(timeout)
            results[index] = contextvars.Context().run(body, index)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=main, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    if errors:
        # A broken barrier is only the echo of somebody else's error.
        real = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
        raise (real or errors)[0]
    stuck = [thread.name for thread in threads if thread.is_alive()]
    assert not stuck, f"still running after {timeout} s: {stuck}"
    return results


# ---- fresh processes ------------------------------------------------------------------


def run_fresh(
    code: str, *args: str, options: tuple[str, ...] = (), timeout: float = 120, **environ: str
) -> str:
    """Runs `code` in a new interpreter that must end well and leave stderr empty.

    Returns what it printed. The interpreter starts outside the source tree, so it imports the
    theus that is installed. Warnings are errors there, too.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=Path(sys.executable).parent,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environ},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "", done.stderr
    return done.stdout


# ---- hostile values --------------------------------------------------------------------


class Collider:
    """A key whose hash the test chooses; equal to another Collider of the same name."""

    def __init__(self, name: object, hash: int = 0) -> None:
        self.name = name
        self.hash = hash

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collider) and self.name == other.name

    def __repr__(self) -> str:
        return f"Collider({self.name!r}, {self.hash})"


class Crash(Exception):
    """What a Crasher raises."""


class Crasher(Collider):
    """A key that fails, or runs the test's code, inside __hash__ or __eq__.

    with Crasher.armed("eq"): ...           every __eq__ raises Crash
    with Crasher.armed("eq", after=2): ...  the third one does
    with Crasher.armed("eq", act=f): ...    f() runs inside each, nothing is raised
    """

    _trap: tuple[str, Callable[[], None]] | None = None

    @classmethod
    def armed(cls, where: str, *, after: int = 0, act: Callable[[], None] | None = None) -> _Armed:
        assert where in ("hash", "eq"), where
        return _Armed(cls, where, after, act)

    @classmethod
    def _spring(cls, where: str) -> None:
        trap = cls._trap
        if trap is not None and trap[0] == where:
            trap[1]()

    def __hash__(self) -> int:
        self._spring("hash")
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        self._spring("eq")
        return super().__eq__(other)


class _Armed:
    def __init__(
        self, kind: type[Crasher], where: str, after: int, act: Callable[[], None] | None
    ) -> None:
        self.kind = kind
        self.where = where
        self.left = after
        self.act = act
        self.sprung = 0  # how often the trap was reached: a test that needs it asserts on it

    def _fire(self) -> None:
        self.sprung += 1
        if self.act is not None:
            self.kind._trap = None  # what act() does is not hostile itself
            try:
                self.act()
            finally:
                self.kind._trap = (self.where, self._fire)
        elif self.left == 0:
            raise Crash(self.where)
        else:
            self.left -= 1

    def __enter__(self) -> _Armed:
        self.kind._trap = (self.where, self._fire)
        return self

    def __exit__(self, *exc: object) -> None:
        self.kind._trap = None


class Bomb:
    """A value that runs the test's code when it dies."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


# ---- memory ------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Memory that this process has in RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
