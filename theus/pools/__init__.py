"""Pools: calls that run on other cores, and how values travel there.

    from theus.pools import ProcessPool

`theus.pools.base` says what every pool promises, `theus.pools.process` and `theus.pools.thread` how
processes and threads keep it, `theus.pools.codec` how values become bytes.
"""

from theus.pools.base import Pool, PoolStats, WorkerTraceback
from theus.pools.process import ProcessPool
from theus.pools.thread import ThreadPool

__all__ = ["Pool", "PoolStats", "ProcessPool", "ThreadPool", "WorkerTraceback"]
