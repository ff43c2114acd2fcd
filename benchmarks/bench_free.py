"""Without a GIL: how much faster are two threads than one, on keys of their own?"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from harness import Bar, Contender, Row, main

from theus import TheusEngine

THREADS = 2
ONE, TWO, APART = "one thread", "two threads", "two threads, an engine each"
FASTER = 1.6


def work(turns: int) -> int:
    """What a body does beside its transaction: some 25 ns a turn."""
    total = 0
    for turn in range(turns):
        total += turn
    return total


def threads(count: int, engines: int, turns: int) -> Contender:
    """So many threads share the transactions; each changes a key of its own."""
    data = {"domain": dict.fromkeys(map(str, range(64)), 0)}
    shared = [TheusEngine(data) for _ in range(engines)]

    def body(key: tuple[str, str]) -> Callable[[Any], None]:
        def change(tx: Any) -> None:
            work(turns)
            tx.set(key, tx.get(key) + 1)

        return change

    def loop(number: int, count: int) -> None:
        run, change = shared[number % engines].run, body(("domain", str(number * 17)))
        for _ in range(count):
            run(change)

    def contender(total: int) -> None:
        each = [threading.Thread(target=loop, args=(n, -(-total // count))) for n in range(count)]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()

    return contender


def row(turns: int, title: str) -> Row:
    contenders = {
        TWO: threads(THREADS, 1, turns),
        ONE: threads(1, 1, turns),
        APART: threads(THREADS, THREADS, turns),
    }
    return Row(
        f"disjoint keys, {title}", contenders, (Bar(1 / FASTER, ONE),), clock=time.perf_counter_ns
    )


ROWS = (
    lambda: row(0, "a body that does nothing else"),
    lambda: row(200, "a body of 5 µs"),
    lambda: row(800, "a body of 20 µs"),
)

if __name__ == "__main__":
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    if not free:
        print("skipped: this Python has a GIL", file=sys.stderr)
    main(__doc__, ROWS if free else ())
