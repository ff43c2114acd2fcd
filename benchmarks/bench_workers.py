"""How much faster are two workers than one, with work of their own?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import workers
from harness import Bar, Contender, Row, main, peer
from tasks import trace_of_product
from workers import burning, repeated

from theus import TheusEngine
from theus.pools import ProcessPool

WALL = time.perf_counter_ns
EFFICIENT = 0.97
ONE = "one thread, one after the other"

PRODUCTS, SIDE = 4, 3000
WARM, COLD = "theus ProcessPool, warm", "theus ProcessPool, with its start"


# ---- pure Python ------------------------------------------------------------------------------


def pure() -> Row:
    reached = "two bare processes"
    return Row(
        "pure Python, one share of it for each of two processes",
        {
            "theus ProcessPool": burning(workers.processes()),
            reached: workers.burning_processes(),
            **{name: burning(peer) for name, peer in workers.executors().items()},
            ONE: workers.burning_here(),
        },
        (Bar(1 / EFFICIENT, reached),),
        clock=WALL,
        rounds=9,
    )


# ---- products of matrices ---------------------------------------------------------------------


def products(ray: bool) -> Row:
    import numpy as np

    engine = TheusEngine()
    plain = [np.random.default_rng(seed).random((SIDE, SIDE)) for seed in range(2)]
    shared = [engine.heavy.put(str(i), matrix) for i, matrix in enumerate(plain)]

    def submitting(executor: Any, pair: list[Any]) -> None:
        futures = [executor.submit(trace_of_product, *pair) for _ in range(PRODUCTS)]
        for future in futures:
            future.result()

    def here() -> None:
        for _ in range(PRODUCTS):
            trace_of_product(*plain)

    def starting() -> None:
        pool = ProcessPool(workers.SIZE)
        submitting(pool, shared)
        pool.shutdown(wait=False)

    contenders: dict[str, Contender] = {
        WARM: repeated(partial(submitting, workers.processes(), shared))
    }
    if ray:
        stored = [workers.ray().put(matrix) for matrix in plain]
        contenders.update(workers.by_ray(trace_of_product, [tuple(stored)] * PRODUCTS))
    else:
        contenders[COLD] = repeated(starting)
        contenders[ONE] = repeated(here)
        contenders.update(workers.by_joblib(PRODUCTS, trace_of_product, *plain))
        for name, executor in workers.executors().items():
            contenders[f"{name}, pickled"] = repeated(partial(submitting, executor, plain))
    title = f"{PRODUCTS} products of {SIDE} x {SIDE} float64 matrices on two processes"
    return Row(
        f"beside Ray: {title}" if ray else title,
        contenders,
        (Bar(1 / 1.95, ONE), Bar(1 / 1.85, ONE, of=COLD)),
        clock=WALL,
        rounds=3,
    )


def rows() -> Iterator[Callable[[], Row]]:
    # Before NumPy is loaded, here and in the workers: one thread each, so that workers are
    # compared, and not BLAS with itself.
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    yield pure
    if peer("numpy") is not None:
        yield partial(products, False)
        if peer("ray") is not None:
            yield partial(products, True)


if __name__ == "__main__":
    main(__doc__, rows())
