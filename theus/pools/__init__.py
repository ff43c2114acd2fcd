"""Pools: calls that run on other cores, and how values travel there.

    from theus.pools import InterpreterPool, ProcessPool

`theus.pools.base` says what every pool promises; `process`, `interpreter` and `thread` beside it
how processes, interpreters and threads keep it; `theus.pools.codec` how values become bytes.
"""

from theus.pools.base import Pool, PoolStats, WorkerTraceback
from theus.pools.interpreter import InterpreterPool
from theus.pools.process import ProcessPool
from theus.pools.thread import ThreadPool

__all__ = [
    "InterpreterPool",
    "Pool",
    "PoolStats",
    "ProcessPool",
    "ThreadPool",
    "WorkerTraceback",
]
