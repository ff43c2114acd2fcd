"""Pools: calls that run on other cores, and how values travel there.

    from theus.pools import ProcessPool

`theus.pools.base` says what every pool promises, `theus.pools.process` how processes keep it,
`theus.pools.codec` how values become bytes.
"""

from theus.pools.base import Pool, PoolStats, WorkerTraceback
from theus.pools.process import ProcessPool

__all__ = ["Pool", "PoolStats", "ProcessPool", "WorkerTraceback"]
