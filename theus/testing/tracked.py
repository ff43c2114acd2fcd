"""Lists and sets of a recorded body: builtins whose changes are stored.

A recorded step is an operation by path, and places in a list move. So a list or set, with all
that is nested in it, is read as a whole, and stored as a whole after each change of any part. A
copy that is no longer what stands at its path refuses changes, because it would undo those of
others: `get` it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from theus.errors import TransactionError

__all__ = ["TRACKED", "Home", "track"]


class Home:
    """Where a tracked container stands. `load` gives what is there now, `store` replaces it."""

    __slots__ = ("_load", "_store", "_top", "_where")

    def __init__(self, where: str, load: Callable[[], Any], store: Callable[[Any], None]) -> None:
        self._where = where
        self._load = load
        self._store = store
        self._top: Any = None

    def track(self, value: Any) -> Any:
        """`value`, a list or set in builtins, as what the body gets."""
        self._top = track(value, self)
        return self._top

    def begin(self) -> None:
        if self._load() != self._top:
            raise TransactionError(
                f"what stands at {self._where} has changed since this copy of it was read; "
                "get it again before you change it"
            )

    def end(self) -> None:
        self._store(self._top)


def _changing(kind: type, name: str) -> Callable[..., Any]:
    change = getattr(kind, name)

    def method(self: Any, *args: Any, **named: Any) -> Any:
        home: Home = self._home
        home.begin()
        result = change(self, *args, **named)
        _adopt(self, home)
        home.end()
        return result

    method.__name__ = name
    return method


class TrackedList(list[Any]):
    _home: Home

    for _name in (
        *("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"),
        *("__setitem__", "__delitem__", "__iadd__", "__imul__"),
    ):
        locals()[_name] = _changing(list, _name)
    del _name


class TrackedSet(set[Any]):
    _home: Home

    for _name in (
        *("add", "discard", "remove", "pop", "clear", "update", "difference_update"),
        *("intersection_update", "symmetric_difference_update"),
        *("__ior__", "__iand__", "__isub__", "__ixor__"),
    ):
        locals()[_name] = _changing(set, _name)
    del _name


class TrackedDict(dict[Any, Any]):
    """One below a list; texts that are no method's name also as attributes."""

    _home: Home

    for _name in (
        *("pop", "popitem", "clear", "update", "setdefault"),
        *("__setitem__", "__delitem__", "__ior__"),
    ):
        locals()[_name] = _changing(dict, _name)
    del _name

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"nothing is at {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


_KINDS: dict[type, type] = {list: TrackedList, set: TrackedSet, dict: TrackedDict}


TRACKED = tuple(_KINDS.values())


def track(value: Any, home: Home) -> Any:
    """`value` with its containers replaced by tracked ones; any other value as it is."""
    kind = _KINDS.get(type(value))
    if kind is None:
        return value
    tracked = kind(value)
    object.__setattr__(tracked, "_home", home)
    _adopt(tracked, home)
    return tracked


def _adopt(there: Any, home: Home) -> None:
    """Tracks what was put in; in place, and without another step."""
    if isinstance(there, list):
        for place, part in enumerate(there):
            if type(part) in _KINDS:
                list.__setitem__(there, place, track(part, home))
    elif isinstance(there, dict):
        for key, part in there.items():
            if type(part) in _KINDS:
                dict.__setitem__(there, key, track(part, home))
