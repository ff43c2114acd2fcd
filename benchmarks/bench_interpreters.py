"""What does it cost to have a call run in another interpreter of the same process?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial

import workers
from harness import Bar, Row, main
from tasks import add, nothing
from workers import at_once, burning, one_by_one, repeated

from theus._compat import HAS_INTERPRETERS

WALL = time.perf_counter_ns
THEUS, PROCESSES, THEIRS = "theus InterpreterPool", "theus ProcessPool", "InterpreterPoolExecutor"
MAPPED = workers.APPLY + ".map"
MANY = 2000


def row_empty() -> Row:
    return Row(
        "an empty task, there and back",
        {
            THEUS: one_by_one(workers.interpreters(), nothing),
            workers.PIPE: workers.pinging(),
            workers.FUTURES: workers.pinging_with_futures(),
            PROCESSES: one_by_one(workers.processes(), nothing),
            workers.APPLY: repeated(partial(workers.pool().apply, nothing)),
            **{name: one_by_one(peer, nothing) for name, peer in peers().items()},
        },
        (Bar(1.15, workers.PIPE), Bar(1.0, THEIRS), Bar(1.0, workers.APPLY)),
        clock=WALL,
    )


def peers() -> dict[str, Executor]:
    """The interpreters of the standard library, if it has any, and its processes."""
    theirs = workers.interpreter_executor()
    return {**({THEIRS: theirs} if theirs else {}), **workers.executors()}


def row_many() -> Row:
    items = range(MANY)
    return Row(
        f"{MANY:,} small tasks at once, each",
        {
            THEUS: at_once(workers.interpreters(), add, items),
            PROCESSES: at_once(workers.processes(), add, items),
            MAPPED: repeated(partial(workers.pool().map, add, items, 1)),
            **{name: at_once(peer, add, items) for name, peer in peers().items()},
        },
        (Bar(5_000), Bar(1.0, THEIRS), Bar(1.0, MAPPED)),
        per=MANY,
        clock=WALL,
    )


def row_pure() -> Row:
    reached, theirs = "two bare interpreters", workers.interpreter_executor()
    bare = workers.burning_interpreters()
    return Row(
        "pure Python, one share of it for each of two interpreters",
        {
            THEUS: burning(workers.interpreters()),
            **({reached: bare} if bare else {}),
            **({THEIRS: burning(theirs)} if theirs else {}),
            "one thread, one after the other": workers.burning_here(),
        },
        (Bar(1 / 0.97, reached),),
        clock=WALL,
        rounds=9,
    )


def row_start(first: bool) -> Row:
    """An InterpreterPoolExecutor starts one worker for one task; ours, both."""
    made = {THEUS: ("theus.pools", "theus.pools.InterpreterPool(2)")}
    if workers.interpreter_executor():
        made[THEIRS] = ("concurrent.futures", f"concurrent.futures.{THEIRS}(2)")
    return Row(
        f"the {'first' if first else 'second'} pool of 2 of a program, to its first result",
        {name: workers.starting(*how, first) for name, how in made.items()},
        (Bar(50),),
        unit="ms",
        rounds=7,
    )


def rows() -> Iterator[Callable[[], Row]]:
    if not HAS_INTERPRETERS:
        print("skipped: interpreters that work beside each other need Python 3.13", file=sys.stderr)
        return
    yield row_empty
    yield row_many
    yield row_pure
    yield partial(row_start, True)
    yield partial(row_start, False)


if __name__ == "__main__":
    main(__doc__, rows())
