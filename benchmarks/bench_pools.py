"""What does it cost to have a call run in another process, and to make bytes of values?"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import cache, partial
from typing import Any

from harness import Bar, Contender, Row, main

from theus import TheusEngine, process
from theus.pools import ProcessPool
from theus.pools.codec import dumps, loads

WALL = time.perf_counter_ns
THEUS, APPLY, EXECUTOR = "theus ProcessPool", "multiprocessing.Pool", "ProcessPoolExecutor"
PIPE, CONNECTION = "a pipe ping-pong", "a multiprocessing.Pipe ping-pong"
MANY = 2000


def nothing() -> None:
    pass


def add(n: int) -> int:
    return n + 1


def first(array: Any) -> float:
    return float(array.flat[0])


def total(array: Any) -> float:
    return float(array.sum())


# ---- contenders: made once, in the main process only -------------------------------------


@cache
def ours() -> ProcessPool:
    return ProcessPool(2)


@cache
def executor() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("forkserver"))


@cache
def pool() -> Any:
    return multiprocessing.get_context("forkserver").Pool(2)


def one_by_one(make: Callable[[], Executor], fn: Callable[..., Any], *args: Any) -> Contender:
    executor = make()

    def contender(times: int) -> None:
        for _ in range(times):
            executor.submit(fn, *args).result()

    return contender


def at_once(make: Callable[[], Executor]) -> Contender:
    executor = make()

    def contender(times: int) -> None:
        for _ in range(times):
            futures = [executor.submit(add, n) for n in range(MANY)]
            for future in futures:
                future.result()

    return contender


def applying(times: int) -> None:
    apply = pool().apply
    for _ in range(times):
        apply(nothing)


def mapping(times: int) -> None:
    for _ in range(times):
        pool().map(add, range(MANY), 1)


def pinging() -> Contender:
    """A byte there and back, between two processes: what no pool can be faster than."""
    down, task = os.pipe()
    answer, up = os.pipe()
    if os.fork() == 0:
        os.close(task)
        while message := os.read(down, 64):
            os.write(up, message)
        os._exit(0)
    os.close(down)

    def contender(times: int) -> None:
        for _ in range(times):
            os.write(task, b"x")
            os.read(answer, 64)

    return contender


def echo(connection: Any) -> None:
    while True:
        try:
            connection.send(connection.recv())
        except EOFError:
            return


def exchanging() -> Contender:
    near, far = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")
    context.Process(target=echo, args=(far,), daemon=True).start()
    far.close()

    def contender(times: int) -> None:
        for _ in range(times):
            near.send(1)
            near.recv()

    return contender


# ---- rows ----------------------------------------------------------------------------------


def row_empty() -> Row:
    """The pipe is what is left when nothing is encoded, called or kept: two system calls a side."""
    return Row(
        "an empty task, there and back",
        {
            THEUS: one_by_one(ours, nothing),
            PIPE: pinging(),
            CONNECTION: exchanging(),
            APPLY: applying,
            EXECUTOR: one_by_one(executor, nothing),
        },
        (Bar(1.4, PIPE), Bar(1.0, APPLY)),
        clock=WALL,
    )


def row_many() -> Row:
    return Row(
        f"{MANY} small tasks at once, each",
        {THEUS: at_once(ours), APPLY + ".map": mapping, EXECUTOR: at_once(executor)},
        (Bar(10_000), Bar(1.0, APPLY + ".map")),
        per=MANY,
        clock=WALL,
    )


@cache
def arrays() -> tuple[TheusEngine, Any, Any]:
    import numpy

    engine = TheusEngine()
    shared = engine.heavy.alloc("frame", (8, 1024, 1024), "float64")
    shared[:] = 1.5
    return engine, shared, numpy.full((8, 1024, 1024), 1.5)


def row_array() -> Row:
    _, shared, plain = arrays()
    return Row(
        "64 MiB array to a worker",
        {
            "theus, a shared array": one_by_one(ours, first, shared),
            "theus, an empty task": one_by_one(ours, nothing),
            "theus, an ordinary array": one_by_one(ours, first, plain),
            EXECUTOR: one_by_one(executor, first, plain),
        },
        (Bar(1.2, "theus, an empty task"),),
        clock=WALL,
    )


def row_sum() -> Row:
    _, shared, plain = arrays()

    def here(times: int) -> None:
        for _ in range(times):
            plain.sum()

    return Row(
        "64 MiB array to a worker, its sum back",
        {
            "theus, a shared array": one_by_one(ours, total, shared),
            "the sum, here": here,
            EXECUTOR: one_by_one(executor, total, plain),
        },
        (Bar(1.1, "the sum, here"),),
        clock=WALL,
    )


@process(parallel="processes")
def empty_process(ctx: Any) -> None:
    pass


def row_execute() -> Row:
    engine = TheusEngine({"domain": {"n": 1}}, pool_size=2)
    pool = engine.get_pool("processes")

    def running(times: int) -> None:
        for _ in range(times):
            engine.run_process(empty_process)

    def submitting(times: int) -> None:
        for _ in range(times):
            pool.submit(nothing).result()

    ours, alone = "a parallel process", "a task of its pool"
    return Row(
        "a parallel process, beside a task of its pool",
        {ours: running, alone: submitting},
        (Bar(15_000, beyond=alone),),
        clock=WALL,
    )


def row_start() -> Row:
    def starting(make: Callable[[], Any]) -> Contender:
        def contender(times: int) -> None:
            for _ in range(times):
                with make() as made:
                    made.submit(nothing).result()

        return contender

    context = multiprocessing.get_context("forkserver")
    return Row(
        "a pool of 2, from its start to its first result, and its end",
        {
            THEUS: starting(lambda: ProcessPool(2)),
            EXECUTOR: starting(lambda: ProcessPoolExecutor(2, context)),
        },
        (Bar(150_000_000),),
        clock=WALL,
    )


VALUES: dict[str, Any] = {
    "the arguments of a call": (("abc", 5, 2.5), {"mode": "fast", "n": 10}),
    "1 000 rows": [
        {"id": n, "name": f"user{n}", "score": n / 2, "tags": ["a"]} for n in range(1000)
    ],
    "10 000 floats": [n / 2 for n in range(10_000)],
}


def codec(write: bool, name: str) -> Row:
    value = VALUES[name]

    def repeat(work: Callable[[Any], Any], of: Any) -> Contender:
        def contender(times: int) -> None:
            for _ in range(times):
                work(of)

        return contender

    theirs = partial(pickle.dumps, protocol=5) if write else pickle.loads
    given = (value, value) if write else (dumps(value), pickle.dumps(value, 5))
    return Row(
        f"{name} {'to' if write else 'from'} bytes",
        {"theus": repeat(dumps if write else loads, given[0]), "pickle": repeat(theirs, given[1])},
        (Bar(1.0, "pickle"),),
    )


def rows() -> Iterator[Callable[[], Row]]:
    for name in VALUES:
        yield partial(codec, True, name)
        yield partial(codec, False, name)
    yield row_empty
    yield row_many
    yield row_array
    yield row_sum
    yield row_execute
    yield row_start


if __name__ == "__main__":
    main(__doc__, rows())
