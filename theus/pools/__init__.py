"""Pools: calls that run on other cores, and how values travel there.

    from theus.pools import InterpreterPool, ProcessPool

`theus.pools.base` says what every pool promises; `process`, `interpreter` and `thread` beside it
how processes, interpreters and threads keep it; `theus.pools.codec` how values become bytes,
`theus.pools.parcels` which of them are not sent again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theus.pools.base import Pool, PoolStats, WorkerTraceback

if TYPE_CHECKING:
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

# Each when it is asked for. Workers import this package when they start, and none of the pools.
_HOMES = {"InterpreterPool": "interpreter", "ProcessPool": "process", "ThreadPool": "thread"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'theus.pools' has no attribute {name!r}", name=name)
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"theus.pools.{home}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
