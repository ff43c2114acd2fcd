"""ProcessPool: calls that run in other processes, on as many cores.

    with ProcessPool(4) as pool:
        future = pool.submit(crunch, array, depth=3)
        for row in pool.map(parse, paths):
            ...

theus/pools/crew.py says how tasks and answers go, dispatch.py to which worker, member.py what one
worker is to its pool, worker.py what runs in it, wire.py what goes between the two.

In a forked child the pool is closed: it owns no worker, its descriptors are closed there, and
waiting for one of its futures raises ClosedError. It can make its own, whose workers are spawned:
the server that forks for others is its parent's. At the end of the program workers of a pool
that nobody has shut down are killed; a pool that nobody refers to any more ends as by
shutdown(wait=False).
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Literal, get_args

from theus.arguments import check_flag
from theus.errors import _shown
from theus.pools import wire
from theus.pools.base import PoolStats, SeparatePool, checked_size, cores
from theus.pools.crew import Crew
from theus.pools.registry import arrange_for_the_end, in_forked_child
from theus.pools.worker import Setup

__all__ = ["ProcessPool"]

StartMethod = Literal["forkserver", "spawn", "fork"]
POOLS = count(1)


class ProcessPool(SeparatePool):
    """A pool of worker processes; Linux.

    size            how many; default: the cores that this process may use
    initializer     called in each worker when it starts, with `initargs`; if it raises, the pool
                    is broken
    start_method    "forkserver" (default), "spawn" or "fork". The first two import the main
                    module anew, so a script keeps what it does below
                    `if __name__ == "__main__":`. "fork" copies this process, and is for
                    programs without threads.
    timeout         seconds that a task may run; then its worker is killed and replaced, and it
                    ends with WorkerTimeoutError. Default: no limit
    retry_dead      try a task once more whose worker died. Only for tasks that may run twice
    blas_threads    for NumPy in each worker; default: cores ÷ size. What the environment says
                    (OMP_NUM_THREADS and its like) counts more

    Workers start with the pool. See theus.pools.base for what becomes of tasks and workers.
    """

    crew: Crew

    def __init__(
        self,
        size: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        start_method: StartMethod = "forkserver",
        timeout: float | None = None,
        retry_dead: bool = False,
        blas_threads: int | None = None,
    ) -> None:
        import multiprocessing.util  # its exit handler has to come after ours, so before it here

        if not hasattr(select, "epoll") or not hasattr(os, "eventfd"):
            raise NotImplementedError("ProcessPool needs epoll and eventfd, which Linux has")
        self.size = size = checked_size(size, initializer, initargs, timeout)
        check_flag("retry_dead", retry_dead)
        method: object = start_method
        if not isinstance(method, str) or method not in get_args(StartMethod):
            raise ValueError(
                f"start_method is 'forkserver', 'spawn' or 'fork', not {_shown(start_method)}"
            )
        if blas_threads is not None and (type(blas_threads) is not int or blas_threads < 1):
            raise ValueError(f"blas_threads is at least 1, or None, not {_shown(blas_threads)}")
        if start_method == "forkserver" and in_forked_child():
            start_method = "spawn"  # the server is a child of our parent; Python cannot share it
        context = multiprocessing.get_context(start_method)
        threads = max(1, cores() // size) if blas_threads is None else blas_threads
        level = logging.getLogger().getEffectiveLevel()
        look = wire.LOOK if cores() > 1 else 0.0
        name = f"theus-pool-{next(POOLS)}"
        setup = Setup(name, threads, level, initializer, tuple(initargs), look)
        arrange_for_the_end()
        self.by_fork = start_method == "fork"
        # In this thread, whatever signals come: what is pickled runs code of anybody, which may
        # want a lock that this thread has.
        self._take(partial(Crew, size, context, setup, timeout, retry_dead))

    def stats(self) -> PoolStats:
        crew = self.crew
        crew.pump.show()  # who asks again will see what has been answered
        figures: tuple[int, ...] = crew.locked(crew.figures)
        return PoolStats("processes", self.size, *figures)

    def __repr__(self) -> str:
        figures = self.stats()
        return f"<ProcessPool: {figures.alive} of {self.size} workers, {figures.queued} tasks wait>"
