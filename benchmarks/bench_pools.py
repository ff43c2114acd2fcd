"""What does it cost to have a call run in another process?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import workers
from harness import Bar, Contender, Row, main, peer
from tasks import add, nothing
from workers import at_once, one_by_one, repeated

from theus import TheusEngine, process

WALL = time.perf_counter_ns
THEUS = "theus ProcessPool"
MAPPED = workers.APPLY + ".map"
MANY = 2000


def row_empty() -> Row:
    """The pipe is what is left when nothing is encoded, called or kept: two system calls a side."""
    return Row(
        "an empty task, there and back",
        {
            THEUS: one_by_one(workers.processes(), nothing),
            workers.PIPE: workers.pinging(),
            workers.FUTURES: workers.pinging_with_futures(),
            workers.CONNECTION: workers.exchanging(),
            workers.APPLY: repeated(partial(workers.pool().apply, nothing)),
            **{name: one_by_one(other, nothing) for name, other in workers.executors().items()},
        },
        (Bar(1.4, workers.PIPE), Bar(1.0, workers.APPLY)),
        clock=WALL,
    )


def row_many() -> Row:
    """`Pool.map` knows all tasks when it begins, and gets one Future for all."""
    items = range(MANY)
    return Row(
        f"{MANY:,} small tasks at once, each",
        {
            THEUS: at_once(workers.processes(), add, items),
            MAPPED: repeated(partial(workers.pool().map, add, items, 1)),
            **{name: at_once(other, add, items) for name, other in workers.executors().items()},
        },
        (Bar(10_000), Bar(1.0, MAPPED)),
        per=MANY,
        clock=WALL,
    )


def row_map() -> Row:
    """Each with the size of chunk that it takes by itself; `imap` and executors take one item."""
    items, pool = range(10 * MANY), workers.pool()
    engine = TheusEngine(pool="processes", pool_size=workers.SIZE)
    ours, mapped = "theus map_parallel", MAPPED

    def all_of(results: Callable[[], Any]) -> Contender:
        return repeated(lambda: sum(1 for _ in results()))

    chunked = {
        f"{name}.map, chunks of 256": all_of(partial(other.map, add, items, chunksize=256))
        for name, other in workers.executors().items()
    }
    return Row(
        f"a small function over {len(items):,} items, each",
        {
            ours: all_of(partial(engine.map_parallel, add, items)),
            f"{ours}, ordered=False": all_of(
                partial(engine.map_parallel, add, items, ordered=False)
            ),
            mapped: all_of(partial(pool.map, add, items)),
            f"{workers.APPLY}.imap": all_of(partial(pool.imap, add, items)),
            f"{workers.APPLY}.imap, chunks of 256": all_of(partial(pool.imap, add, items, 256)),
            **chunked,
        },
        per=len(items),
        clock=WALL,
        rounds=7,
    )


@process(parallel="processes")
def empty_process(ctx: Any) -> None:
    pass


# Two rows with a pool each, and not one of four: whether a worker looks for the next task before
# it sleeps depends on how the last ones came.
def row_run() -> Row:
    engine = TheusEngine({"domain": {"n": 1}}, pool_size=workers.SIZE)
    run, alone = "theus run_process", "a task of its pool"
    return Row(
        "an empty parallel process, beside a task of its pool",
        {
            run: repeated(lambda: engine.run_process(empty_process)),
            alone: one_by_one(engine.get_pool("processes"), nothing),
        },
        (Bar(15_000, of=run, beyond=alone),),
        clock=WALL,
    )


def row_execute() -> Row:
    engine = TheusEngine({"domain": {"n": 1}}, pool_size=workers.SIZE)
    pool = engine.get_pool("processes")
    runner = asyncio.Runner()

    def awaited(start: Callable[[], Awaitable[Any]]) -> Contender:
        async def again(times: int) -> None:
            for _ in range(times):
                await start()

        return lambda times: runner.run(again(times))

    executed, task = "theus await execute", "a task of its pool, awaited"
    return Row(
        "an empty parallel process, awaited, beside a task of its pool",
        {
            executed: awaited(lambda: engine.execute(empty_process)),
            task: awaited(lambda: asyncio.wrap_future(pool.submit(nothing))),
        },
        (Bar(15_000, beyond=task),),
        clock=WALL,
    )


def row_start(first: bool) -> Row:
    forkserver = "multiprocessing.get_context('forkserver')"
    made = {
        THEUS: ("theus.pools", "theus.pools.ProcessPool(2)"),
        workers.EXECUTOR: (
            "concurrent.futures.process",
            f"concurrent.futures.ProcessPoolExecutor(2, {forkserver})",
        ),
    }
    if peer("loky") is not None:
        made[workers.LOKY] = ("loky", "loky.ProcessPoolExecutor(2)")
    return Row(
        f"the {'first' if first else 'second'} pool of 2 of a program, to its first result",
        {name: workers.starting(*how, first) for name, how in made.items()},
        (Bar(150),),
        unit="ms",
        rounds=9,
    )


def row_ray_empty() -> Row:
    ours = {THEUS: one_by_one(workers.processes(), nothing)}
    return Row(
        "beside Ray: an empty task, there and back",
        {**ours, **workers.by_ray(nothing, [()])},
        clock=WALL,
    )


def row_ray_many() -> Row:
    items = range(MANY)
    ours = {THEUS: at_once(workers.processes(), add, items)}
    return Row(
        f"beside Ray: {MANY:,} small tasks at once, each",
        {**ours, **workers.by_ray(add, [(n,) for n in items])},
        per=MANY,
        clock=WALL,
        rounds=5,
    )


def rows() -> Iterator[Callable[[], Row]]:
    yield row_empty
    yield row_many
    yield row_map
    yield row_run
    yield row_execute
    yield partial(row_start, True)
    yield partial(row_start, False)
    if peer("ray") is not None:
        yield row_ray_empty
        yield row_ray_many


if __name__ == "__main__":
    main(__doc__, rows())
