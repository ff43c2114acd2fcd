"""What a process sees: the `ctx` that is its first argument.

    ctx.domain, ctx.global_     the roots of the state; any other root by its name, too
    ctx["domain"]               the same; also roots that are no names
    ctx.input                   what the caller passed, by parameter name
    ctx.local                   a dict of the process's own, gone when it returns
    ctx.heavy                   the root of shared arrays, with alloc() and put(): `theus.heavy`
    ctx.state                   the snapshot that the run began with
    ctx.data                    all roots as one dict
    ctx.transaction, ctx.tx     the transaction (EFFECT only)
    ctx.outbox, ctx.signal      what is sent with the commit (EFFECT only): `theus.outbox`,
                                `theus.signals`
    ctx.log, ctx.now, ctx.random  `theus.helpers`

A root that has one of these names is reached by item: ctx["log"]. `theus.guards` makes a context by
hand, for a test of one function.

Containers come as drafts that carry the contract with them. Whatever is not declared is
refused where it is asked for: by item, attribute, iteration, `get`, `pop`, `in`, `==`,
`copy`, pickle, by path through the transaction, and so on. What is true of a container as a
whole (its length, its key set) may be read if each of its keys may be asked for: `domain`,
`domain.*`, `domain.*.name`.

EFFECT   reads its inputs and outputs, writes its outputs.
PURE     reads its inputs, and is refused every write, at the line. Each read is logged in the
         transaction, so a PURE run is as serializable as any other, and depends on what it has
         read and no more. What it returns is stored.
GUIDE    reads everything, as PURE does its inputs.

A draft belongs to its transaction: one thread at a time, and no longer than the body. Its
`freeze()` is the value of that moment, a `FrozenDict`, `FrozenList` or `FrozenSet`, free of both:
to hand to threads, to hash, and to go through thousands of nested entries at a fraction of the
price, since it is logged as one read of all of it.

A process that a body runs joins its transaction, and may do what both of them declare: reads
and writes of the one are refused as those of the other, at the line, and the error names the one
that lacks the declaration.

A write that was refused fails the run, also if the body swallows the exception. And
whatever the body did, the commit publishes nothing that is not in the outputs: that is
checked on the list of operations when the body can write no more.

A guard is no prison. A process is Python in your own process: it can reach the engine and
begin a transaction of its own, change this package's modules for later runs, swap the `__code__`
of another process, step into the suspended frames of a coroutine, find with `gc` what others hold,
or write to memory with `ctypes`. What it does through its context, or to the transaction that it
runs in, cannot commit what is not declared.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from theus._theus import Context
from theus.errors import TransactionError
from theus.locks import LockManager
from theus.namespaces import Namespace, NamespacePolicy, NamespaceRegistry, namespaces_of
from theus.zones import (
    PYTHON_PHYSICS_OVERRIDES,
    AppendOnly,
    ContextZone,
    Immutable,
    Mutable,
    resolve_zone,
)

if TYPE_CHECKING:
    from theus.shm import (
        HeavyZoneAllocator,
        HeavyZoneWrapper,
        SafeSharedMemory,
        rebuild_shm_array,
    )
    from theus.shm_array import ShmArray

__all__ = [
    "PYTHON_PHYSICS_OVERRIDES",
    "AppendOnly",
    "BaseDomainContext",
    "BaseGlobalContext",
    "BaseSystemContext",
    "Context",
    "HeavyZoneAllocator",
    "HeavyZoneWrapper",
    "Immutable",
    "LockedContextMixin",
    "Mutable",
    "Namespace",
    "NamespacePolicy",
    "NamespaceRegistry",
    "SafeSharedMemory",
    "ShmArray",
    "TransactionError",
    "rebuild_shm_array",
]

_ARRAYS = ("HeavyZoneAllocator", "HeavyZoneWrapper", "SafeSharedMemory", "rebuild_shm_array")


def __getattr__(name: str) -> Any:
    if name in _ARRAYS or name == "ShmArray":
        from theus import shm  # it loads NumPy

        return getattr(shm, name)
    raise AttributeError(f"module 'theus.context' has no attribute {name!r}", name=name)


_NOT_EXPORTED = (ContextZone.SIGNAL, ContextZone.META, ContextZone.HEAVY, ContextZone.LOG)


def _guarded(self: Any, name: str, *value: Any) -> None:
    manager = self.lock_manager
    if manager is not None:
        manager.validate_write(name, self)
    (object.__setattr__ if value else object.__delattr__)(self, name, *value)


_guarded.only_refuses = True  # type: ignore[attr-defined]  # so that records store a field at once


@dataclass
class LockedContextMixin:
    """Base of typed contexts: dataclasses whose instances an engine copies in, and then locks.

    Writing to an instance that is locked raises LockViolationError (`theus.locks`).
    """

    @functools.cached_property  # and so no part of the state
    def lock_manager(self) -> LockManager | None:
        return None

    def set_lock_manager(self, manager: LockManager | None) -> None:
        """From now on `manager` (None: nobody) is asked before each write."""
        vars(self)["lock_manager"] = manager

    __setattr__ = _guarded
    __delattr__ = _guarded

    def get_zone(self, key: str) -> ContextZone:
        """The zone that the name of a field says."""
        return resolve_zone(key)

    def _entries(self) -> dict[str, Any]:
        declared = {f.name: getattr(self, f.name) for f in fields(self) if hasattr(self, f.name)}
        others = {k: v for k, v in vars(self).items() if k != "lock_manager"}
        return {**declared, **others}

    def to_dict(self, exclude_zones: Iterable[ContextZone] | None = None) -> dict[str, Any]:
        """The fields as a dict, contexts in them too. Fields of the zones SIGNAL, META, HEAVY and
        LOG are left out unless `exclude_zones` says which ones are: `to_dict(())` is everything.
        """
        left_out = tuple(_NOT_EXPORTED if exclude_zones is None else exclude_zones)
        return {
            name: value.to_dict(left_out) if isinstance(value, LockedContextMixin) else value
            for name, value in self._entries().items()
            if resolve_zone(name) not in left_out
        }

    def from_dict(self, data: Mapping[str, Any]) -> None:
        """Takes the values of a dict; those of a context go into the context that is there."""
        for name, value in data.items():
            inner = getattr(self, name, None)
            if isinstance(inner, LockedContextMixin) and isinstance(value, Mapping):
                inner.from_dict(value)
            else:
                setattr(self, name, value)


@dataclass
class BaseGlobalContext(LockedContextMixin):
    """Base of the class of the root `global`."""


@dataclass
class BaseDomainContext(LockedContextMixin):
    """Base of the class of the root `domain`."""


@dataclass
class BaseSystemContext(LockedContextMixin):
    """Base of the whole: its fields are the roots of the state, and so are its namespaces."""

    global_ctx: Any = None
    domain: Any = None

    def engine_roots(self) -> dict[str, Any]:
        """The roots as an engine takes them: the instances, with every field; {} for None."""
        declared = {name for name, _, _ in namespaces_of(self)}
        return {
            name: {} if value is None and name in ("domain", "global_ctx") else value
            for name, value in self._entries().items()
            if name not in declared
        }
