"""Where older programs import the state's types from."""

from __future__ import annotations

from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from theus._theus import FrozenDict, FrozenList, FrozenSet, MetaLogEntry, State
from theus._types import StateUpdate
from theus.errors import ContextError

if TYPE_CHECKING:
    from theus.heavy import ManagedAllocator
    from theus.shm_array import ShmArray

__all__ = [
    "ContextError",
    "FrozenDict",
    "FrozenList",
    "FrozenSet",
    "FunctionResult",
    "ManagedAllocator",
    "MetaLogEntry",
    "ShmArray",
    "State",
    "StateUpdate",
    "SupervisorCore",
]


def __getattr__(name: str) -> Any:
    if name == "ManagedAllocator":
        from theus.heavy import ManagedAllocator  # it loads NumPy

        return ManagedAllocator
    if name == "ShmArray":
        from theus.shm_array import ShmArray

        return ShmArray
    raise AttributeError(f"module 'theus.structures' has no attribute {name!r}", name=name)


def FunctionResult(val: Any = None, key: str | None = None) -> StateUpdate:
    """An old spelling of `StateUpdate(key, val)`."""
    return StateUpdate(key, val)


class SupervisorCore:
    """Values by key, each with a count of how often it was overwritten. No part of any engine.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, tuple[int, Any]] = {}  # key -> version, value
        self._lock = allocate_lock()

    def read(self, key: Any) -> Any:
        """The value, None if there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def write(self, key: Any, value: Any) -> None:
        with self._lock:
            version = self.get_version(key)
            before = self._entries.get(key)  # ends after the lock: ending may run anything
            self._entries[key] = (0 if version is None else version + 1, value)
        del before

    def get_version(self, key: Any) -> int | None:
        """0 after the first write, one more with each that follows; None if there is no value."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def contains(self, key: Any) -> bool:
        return key in self._entries

    def keys(self) -> list[Any]:
        return list(self._entries)

    def remove(self, key: Any) -> bool:
        """Whether there was one."""
        with self._lock:
            return self._entries.pop(key, None) is not None
