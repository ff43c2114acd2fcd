"""What else has calls run elsewhere: the peers of the benchmarks of pools, and what is bare.

Each pool has two workers and is made when a row first asks for it, in the main process only. Bare
workers are what no pool can be faster than: they wait for a byte, do one thing, and answer with a
byte.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import tasks
from harness import Contender, peer

from theus.pools import InterpreterPool, ProcessPool

HERE = str(Path(__file__).resolve().parent)
SIZE = 2
TURNS = 1_500_000
"""For `tasks.burn`: some 0.1 s."""
PIPE, CONNECTION = "a pipe ping-pong", "a multiprocessing.Pipe ping-pong"
FUTURES = "a pipe ping-pong, with a Future each"
APPLY, EXECUTOR, LOKY, RAY = "multiprocessing.Pool", "ProcessPoolExecutor", "loky", "Ray"
INTERPRETER_EXECUTOR, JOBLIB = "InterpreterPoolExecutor", "joblib, a memmap"


# ---- pools ------------------------------------------------------------------------------------


@cache
def processes() -> ProcessPool:
    return ProcessPool(SIZE, blas_threads=1)


@cache
def interpreters() -> InterpreterPool:
    return InterpreterPool(SIZE)


@cache
def executor() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(SIZE, multiprocessing.get_context("forkserver"))


@cache
def pool() -> Any:
    return multiprocessing.get_context("forkserver").Pool(SIZE)


@cache
def loky() -> Any:
    """None where it is not installed."""
    module = peer("loky")
    return module and module.ProcessPoolExecutor(SIZE)


@cache
def joblib() -> Any:
    """Calls a list of delayed calls; its workers map large arrays from files. None where it is not
    installed."""
    module = peer("joblib")
    if module is None:
        return None
    parallel = module.Parallel(SIZE).__enter__()
    parallel([(abs, (1,), {})])

    def close() -> None:
        parallel.__exit__(None, None, None)
        module.externals.loky.get_reusable_executor().shutdown()

    # Its files are gone when its workers are; else a tracker complains about them. Now that it has
    # begun and registered what it does at the end, ours comes before that.
    atexit.register(close)
    return parallel


def by_joblib(calls: int, fn: Callable[..., Any], *args: Any) -> dict[str, Contender]:
    """One count: so many calls at once. Nothing where joblib is not installed."""
    parallel = joblib()
    if parallel is None:
        return {}
    batch: list[Any] = [(fn, args, {})] * calls  # what joblib.delayed makes of them
    return {JOBLIB: repeated(lambda: parallel(batch))}


@cache
def interpreter_executor() -> Any:
    """None before Python 3.14. Its workers have no sys.path of the script's."""
    import concurrent.futures as futures

    made = getattr(futures, INTERPRETER_EXECUTOR, None)
    return made and made(SIZE, initializer=sys.path.insert, initargs=(0, HERE))


@cache
def ray() -> Any:
    """The module, started; None where it is not installed. Its processes are never quite idle, so
    it is asked for by the last rows of a benchmark, after those that it would disturb."""
    module = peer("ray")
    if module is not None:
        module.init(
            num_cpus=SIZE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2**29,
        )
    return module


def executors() -> dict[str, Executor]:
    """Peers with `submit` whose workers are processes."""
    made = {EXECUTOR: executor(), LOKY: loky()}
    return {name: peer for name, peer in made.items() if peer is not None}


# ---- contenders -------------------------------------------------------------------------------


def repeated(work: Callable[[], object]) -> Contender:
    def contender(times: int) -> None:
        for _ in repeat(None, times):
            work()

    return contender


def one_by_one(executor: Executor, fn: Callable[..., Any], *args: Any) -> Contender:
    """A task there and back, then the next."""

    def contender(times: int) -> None:
        for _ in repeat(None, times):
            executor.submit(fn, *args).result()

    return contender


def at_once(executor: Executor, fn: Callable[..., Any], items: Any) -> Contender:
    """One count: a task for each item, all submitted, then all results."""

    def contender(times: int) -> None:
        for _ in repeat(None, times):
            futures = [executor.submit(fn, item) for item in items]
            for future in futures:
                future.result()

    return contender


def by_ray(fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> dict[str, Contender]:
    """One count: these calls at once. Nothing where Ray is not installed."""
    module = ray()
    if module is None:
        return {}
    remote = module.remote(fn)
    return {RAY: repeated(lambda: module.get([remote.remote(*args) for args in calls]))}


def burning(executor: Executor) -> Contender:
    """One count: `tasks.burn` by each worker."""
    return at_once(executor, tasks.burn, [TURNS] * SIZE)


# ---- what is bare ------------------------------------------------------------------------------


BARE = """
import os, sys
sys.path.append({path!r})
{before}
while os.read(0, 64):
    {work}
    os.write(1, b"x")
"""


class BareProcess:
    """A Python that does `work`, source code, for each byte that it gets. Its pipe ends with this
    process, and so does it."""

    def __init__(self, *options: str, before: str = "pass", work: str = "pass") -> None:
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", BARE.format(path=HERE, before=before, work=work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.task = self.process.stdin.fileno()
        self.answer = self.process.stdout.fileno()


def pinging() -> Contender:
    """A byte there and back, between two processes: what no pool can be faster than."""
    bare = BareProcess("-I", "-S")

    def contender(times: int) -> None:
        for _ in repeat(None, times):
            os.write(bare.task, b"x")
            os.read(bare.answer, 64)

    return contender


def pinging_with_futures() -> Contender:
    """The same, with a Future for each byte: what no pool of `concurrent.futures` can be faster
    than."""
    ping = pinging()

    def once() -> None:
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        ping(1)
        future.set_result(None)
        future.result()

    return repeated(once)


def echo(connection: Any) -> None:
    while True:
        try:
            connection.send(connection.recv())
        except EOFError:
            return


def exchanging() -> Contender:
    """A pickled integer there and back."""
    near, far = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")
    context.Process(target=echo, args=(far,), daemon=True).start()
    far.close()

    def contender(times: int) -> None:
        for _ in repeat(None, times):
            near.send(1)
            near.recv()

    return contender


def burning_processes() -> Contender:
    """One count: `tasks.burn` in two processes at once."""
    source = {"before": "from tasks import burn", "work": f"burn({TURNS})"}
    bare = [BareProcess("-I", "-S", **source) for _ in range(SIZE)]

    def burn() -> None:
        for each in bare:
            os.write(each.task, b"x")
        for each in bare:
            os.read(each.answer, 64)

    return repeated(burn)


def burning_interpreters() -> Contender | None:
    """The same in two interpreters; None before Python 3.14."""
    try:
        from concurrent import interpreters  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        return None
    bare = [interpreters.create() for _ in range(SIZE)]
    for each in bare:
        each.exec(f"import sys\nsys.path.append({HERE!r})\nfrom tasks import burn")

    def burn() -> None:
        threads = [threading.Thread(target=each.exec, args=(f"burn({TURNS})",)) for each in bare]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return repeated(burn)


def burning_here() -> Contender:
    """The same, one after the other."""

    def burn() -> None:
        for _ in range(SIZE):
            tasks.burn(TURNS)

    return repeated(burn)


# ---- starting ----------------------------------------------------------------------------------

START = """
import sys, time
import {module}, multiprocessing
def start():
    began = time.perf_counter_ns()
    pool = {make}
    pool.submit(abs, -1).result()
    took = time.perf_counter_ns() - began
    pool.shutdown()
    return took
if __name__ == "__main__":
    first = start()
    print((first if {first} else start()) / 1e6)
"""


def starting(module: str, make: str, first: bool) -> Contender:
    """A figure: ms from the start of a pool to its first result, in a fresh process that has
    imported what it needs. The first pool of the process, or its second one."""
    program = START.format(module=module, make=make, first=first)

    def contender(_: int) -> float:
        command = [sys.executable, "-P", "-c", program]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)

    return contender
