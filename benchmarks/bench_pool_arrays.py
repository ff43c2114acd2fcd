"""What does it cost to have a worker process look at an array of 64 MiB?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import tasks
import workers
from harness import Bar, Contender, Row, main, peer
from workers import one_by_one, repeated

from theus import TheusEngine

WALL = time.perf_counter_ns
SHAPE = (8, 1024, 1024)
SHARED, EMPTY = "theus, a shared array", "theus, an empty task"
SUM = "its sum here, and an empty task"


@cache
def arrays() -> tuple[TheusEngine, Any, Any, SharedMemory]:
    """The same numbers in memory of the engine, of this process alone, and with a name."""
    engine = TheusEngine()
    shared = engine.heavy.put("frame", np.full(SHAPE, 1.5))
    segment = SharedMemory(create=True, size=shared.nbytes)
    np.ndarray(SHAPE, "f8", segment.buf)[:] = 1.5
    return engine, shared, np.full(SHAPE, 1.5), segment


def peers(work: Callable[[Any], float], by_name: Callable[[str], float]) -> dict[str, Contender]:
    _, _, plain, segment = arrays()
    name = f"{workers.EXECUTOR}, SharedMemory by name"
    found = {name: one_by_one(workers.executor(), by_name, segment.name)}
    found.update(workers.by_joblib(1, work, plain))
    for each, executor in workers.executors().items():
        found[f"{each}, pickled"] = one_by_one(executor, work, plain)
    return found


def row_first() -> Row:
    """One number is read: what it takes until the array is there."""
    _, shared, plain, _ = arrays()
    pool = workers.processes()
    return Row(
        "64 MiB array to a worker",
        {
            SHARED: one_by_one(pool, tasks.first, shared),
            EMPTY: one_by_one(pool, tasks.nothing),
            "theus, an ordinary array": one_by_one(pool, tasks.first, plain),
            **peers(tasks.first, tasks.first_by_name),
        },
        (Bar(1.2, EMPTY),),
        clock=WALL,
        rounds=9,
    )


def row_sum() -> Row:
    """All numbers are read. The sum itself is that of the same memory; of memory in large pages, as
    an array of this process alone has it, it may be faster."""
    _, shared, plain, _ = arrays()
    pool = workers.processes()

    def summing(array: Any) -> Contender:
        def once() -> None:
            tasks.total(array)
            pool.submit(tasks.nothing).result()

        return repeated(once)

    return Row(
        "64 MiB array to a worker, its sum back",
        {
            SHARED: one_by_one(pool, tasks.total, shared),
            SUM: summing(shared),
            "the sum of an ordinary array here, and an empty task": summing(plain),
            "theus, an ordinary array": one_by_one(pool, tasks.total, plain),
            **peers(tasks.total, tasks.total_by_name),
        },
        (Bar(1.05, SUM),),
        clock=WALL,
        rounds=9,
    )


def row_ray(work: Callable[[Any], float], title: str) -> Row:
    _, shared, plain, _ = arrays()
    ours = {SHARED: one_by_one(workers.processes(), work, shared)}
    stored = workers.ray().put(plain)
    return Row(f"beside Ray: {title}", {**ours, **workers.by_ray(work, [(stored,)])}, clock=WALL)


def close() -> None:
    if arrays.cache_info().currsize:
        engine, _, _, segment = arrays()
        engine.close()
        segment.close()
        segment.unlink()


def rows() -> Iterator[Callable[[], Row]]:
    yield row_first
    yield row_sum
    if peer("ray") is not None:
        yield partial(row_ray, tasks.first, "64 MiB array to a worker")
        yield partial(row_ray, tasks.total, "64 MiB array to a worker, its sum back")


if __name__ == "__main__":
    try:
        main(__doc__, rows())
    finally:
        close()
