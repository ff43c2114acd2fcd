"""InterpreterPool: calls that run in other interpreters of this process, on as many cores.

    with InterpreterPool(4) as pool:
        future = pool.submit(parse, text, strict=True)
        for row in pool.map(parse, texts):
            ...

From Python 3.13 on. Interpreters start faster than processes, and tasks reach them faster; but
modules that were made for one interpreter in a process do not load there: NumPy, and most that is
built on it. Then a task raises InterpreterImportError, and ProcessPool is the way.

theus/pools/residents.py says how tasks and answers go, resident.py what runs in a worker.

A program that ends while tasks run interrupts them, and waits for those in C code; not after an
error or Ctrl-C.

An interpreter cannot be killed: what is in C code that does not come back (time.sleep, too) can be
abandoned, not stopped. A task cannot fork or start daemon threads. A process with living
interpreters cannot fork, so `os.fork` waits for the tasks that run, interrupts those that take
longer than 5 s, and ends the workers; they start again with the next task. The child has no pool,
and can make its own. `subprocess` does not mind, unless with `preexec_fn`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from theus._compat import HAS_INTERPRETERS
from theus._theus import encode
from theus.pools.base import PoolStats, SeparatePool, checked_size, cores
from theus.pools.calls import reference
from theus.pools.codec import extend
from theus.pools.registry import arrange_for_the_end, is_forking
from theus.pools.residents import Residents
from theus.pools.steps import whole

__all__ = ["InterpreterPool"]

POOLS = count(1)

SPIN = 50e-6
"""Seconds for which a side looks for a letter before it sleeps: longer than the other one needs to
take a result and submit the next task, short enough not to be seen in anybody's bill."""


class InterpreterPool(SeparatePool):
    """A pool of worker interpreters, each with a GIL of its own; Python 3.13 or newer.

    size            how many; default: the cores that this process may use
    initializer     called in each worker when it starts, with `initargs`; if it raises, the pool
                    is broken
    timeout         seconds that a task may run; then it is interrupted, as by Ctrl-C, and ends
                    with WorkerTimeoutError. If that has no effect, its worker is abandoned and
                    replaced. Default: no limit

    Workers start with the pool, and have the sys.path of that moment. See theus.pools.base for what
    becomes of tasks. `kill()` interrupts Python code, and waits a second for it; C code goes on
    until it returns, and its worker ends then. Raises NotImplementedError on older Pythons.
    """

    crew: Residents

    def __init__(
        self,
        size: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        timeout: float | None = None,
    ) -> None:
        if not HAS_INTERPRETERS:
            raise NotImplementedError(
                "InterpreterPool needs Python 3.13 or newer, where interpreters can work beside "
                "each other; use ProcessPool"
            )
        self.size = size = checked_size(size, initializer, initargs, timeout)
        # Classes of the script, that a worker has made, are called so there; see MainModule.
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        setup = setup_for(initializer, initargs)
        arrange_for_the_end()
        spin = SPIN if cores() > 1 else 0.0
        name = f"theus-interpreters-{next(POOLS)}"
        make = partial(self._take, partial(Residents, name, size, setup, timeout, spin))
        whole(make, is_forking())

    def stats(self) -> PoolStats:
        crew = self.crew
        figures: tuple[int, ...] = crew.locked(crew.figures)
        return PoolStats("interpreters", self.size, *figures)

    def __repr__(self) -> str:
        figures = self.stats()
        alive, queued = figures.alive, figures.queued
        return f"<InterpreterPool: {alive} of {self.size} workers, {queued} tasks wait>"


def setup_for(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bytes:
    """What theus.pools.resident.start() has to know."""
    first = None if initializer is None else reference(initializer, False)
    level = logging.getLogger().getEffectiveLevel()
    return encode((level, main_source(), first, tuple(initargs)), partial(extend, [], True))


def main_source() -> tuple[str | None, str | None] | None:
    """(file, name of the module) that workers run for what the script defines; None: there is
    none."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return None, spec.name
    file = getattr(main, "__file__", None)
    return (os.path.abspath(file), None) if file is not None and os.path.exists(file) else None
