"""Where the values go that a process returns.

A process with outputs returns, for n of them that name one place each:

    None                          nothing changes
    one value          (n = 1)    it is the value, tuples and dicts too
    a tuple or list    (n > 1)    one value for each, in order
    a dict             by name    the keys are outputs, whole ("domain.total") or by their
                                  last segment ("total"); those left out stay. For n = 1
                                  only if that one name is its only key
    a StateUpdate                 says everything itself

    As one of several values, None leaves that output as it is, `DELETE` removes it, and
    `SET(value)` stores value as it is, also None. A dict replaces what was there.

Outputs with wildcards allow writing; they take no returned values. What a process has
written through `ctx` at or below an output stays, and the value returned in that place is
only the caller's result; returned by name, it must be equal to what was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_not
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from theus._theus import DELETE, MISSING, DraftDict, frozen_content
from theus._types import SET, StateUpdate
from theus.errors import ConflictError, ContractViolationError, PathError, ProcessError
from theus.paths import Path, as_path, format_path
from theus.scope import is_literal, parse_pattern

if TYPE_CHECKING:
    from theus._theus import Engine, Scope, Transaction

__all__ = ["Outputs", "put_with_parents", "release"]

Operations = list[tuple[str, Path]]

_AMBIGUOUS = -1


class Outputs:
    """The declared outputs of one process. Does not change; shared by threads."""

    __slots__ = (
        "_index",
        "_process",
        "_scope",
        "declared",
        "paths",
        "single",
    )

    def __init__(self, process: str, declared: tuple[str, ...], scope: Scope) -> None:
        self.declared = declared
        self._process = process
        self._scope = scope  # what may be written
        literal = [text for text in declared if is_literal(parse_pattern(text))]
        self.paths: tuple[Path, ...] = tuple(map(parse_pattern, literal))
        self.single = self.paths[0] if len(self.paths) == 1 else None
        self._index: dict[Any, int] = {}
        for index, path in enumerate(self.paths):
            self._index[path[-1]] = _AMBIGUOUS if path[-1] in self._index else index
        for index, (text, path) in enumerate(zip(literal, self.paths, strict=True)):
            self._index[text] = self._index[path] = self._index[format_path(path)] = index

    # ---- returned values ----------------------------------------------------------

    def store(self, engine: Engine, tx: Transaction, result: Any, written: Operations) -> None:
        """Writes a returned value, which `release` has gone over, to where it belongs.

        `written` are the operations of the body itself. Raises ContractViolationError if
        the value does not fit the outputs; nothing is half done then that the run's
        rollback does not undo.
        """
        if isinstance(result, StateUpdate):
            self._update(engine, tx, result, written)
        elif result is None or not self.paths:
            return
        elif (named := self._by_name(result)) is not None:
            for index, value in named.items():
                if value is not None:
                    self._store_named(tx, self.paths[index], value, written)
        elif not (written and all(_touched(path, written) for path in self.paths)):
            for path, value in zip(self.paths, self._by_position(result), strict=True):
                if value is not None and not _touched(path, written):
                    _put(tx, path, value)

    def _by_position(self, result: Any) -> Iterable[Any]:
        count = len(self.paths)
        if count == 1:
            return (result,)
        if not isinstance(result, (tuple, list)):
            raise self._misfit(
                f"returned one value, a {type(result).__name__}, for {count} outputs; return a "
                f"tuple of {count}, a dict by output name, or write all of them through ctx"
            )
        if len(result) != count:
            raise self._misfit(
                f"returned {len(result)} values for {count} outputs; return one for each, None "
                "where nothing changes"
            )
        return result

    def _by_name(self, result: Any) -> dict[int, Any] | None:
        """Values by the number of their output, or None if this is not a dict by name."""
        if not isinstance(result, dict):
            return None
        if self.single is not None:
            if len(result) != 1 or next(iter(result)) not in self._index:
                return None
        named: dict[int, Any] = {}
        for name, value in result.items():
            index = self._index.get(name)
            if index is None:
                raise self._misfit(
                    f"returned a value for {name!r}, which is none of its outputs; outputs without "
                    "wildcards take returned values"
                )
            if index == _AMBIGUOUS:
                raise self._misfit(
                    f"returned a value for {name!r}, the last segment of several outputs; "
                    "name the whole path"
                )
            if index in named:
                raise self._misfit(f"returned two values for {format_path(self.paths[index])}")
            named[index] = value
        return named

    def _store_named(self, tx: Transaction, path: Path, value: Any, written: Operations) -> None:
        if not _touched(path, written):
            _put(tx, path, value)
            return
        returned = value.value if isinstance(value, SET) else value
        stands = tx.get(path, MISSING)
        if not (stands is MISSING if returned is DELETE else stands == returned):
            raise self._misfit(
                f"wrote {format_path(path)} through ctx and returned another value for it by name; "
                "do one of the two",
                path,
            )

    def _update(
        self, engine: Engine, tx: Transaction, update: StateUpdate, written: Operations
    ) -> None:
        values: dict[Path, Any] = {}
        if update.key is not None and update.val is not None:
            values[as_path(update.key)] = update.val
        for key, value in (update.data or {}).items():
            values[as_path(key)] = SET(None) if value is None else value
        for key, value in (update.heavy or {}).items():
            values["heavy", key] = SET(None) if value is None else value
        for path in values:
            if not self._scope.writes(path):
                raise ContractViolationError.illegal_write(path, self._process, self.declared)
        if update.assert_version is not None:
            touched = [*values, *(path for _, path in written)]
            _assert_unchanged(engine, tx, update.assert_version, touched)
        for path, value in values.items():
            self._store_named(tx, path, value, written)
        if update.signal:
            tx.update(signal=update.signal)

    def _misfit(self, what: str, path: Path | None = None) -> ContractViolationError:
        return ContractViolationError(
            f"process {self._process!r} {what} (outputs: {', '.join(map(repr, self.declared))})",
            path,
            self._process,
            self.declared,
        )


# ---- storing one value --------------------------------------------------------------------


def _touched(path: Path, written: Operations) -> bool:
    return any(done[: len(path)] == path for _, done in written)


def _put(tx: Transaction, path: Path, value: Any) -> None:
    if value is DELETE:
        if tx.get(path, MISSING) is not MISSING:
            tx.delete(path)
        return
    if type(value) is SET:
        value = value.value
    try:
        tx.set(path, value)
    except PathError:
        put_with_parents(tx, path, value)


def put_with_parents(tx: Transaction, path: Path, value: Any) -> None:
    """Stores `value`, making the dicts that are missing on the way to it.

    A list index that is not there stays a PathError.
    """
    for depth in range(1, len(path)):
        if tx.get(path[:depth], MISSING) is MISSING:
            if not all(isinstance(key, str) for key in path[depth - 1 :]):
                break
            for key in reversed(path[depth:]):
                value = {key: value}
            tx.set(path[:depth], value)
            return
    tx.set(path, value)  # raises again, naming the place


def _assert_unchanged(engine: Engine, tx: Transaction, expected: int, touched: list[Path]) -> None:
    """Raises unless every touched path is as it was at version `expected`."""
    if type(expected) is not int:
        raise TypeError(f"assert_version is the number of a version, not {expected!r}")
    snapshot = tx.state
    if expected == snapshot.version:
        older = snapshot
    elif engine.strict_cas:
        raise ConflictError(None, expected, snapshot.version, None, "strict")
    else:
        older = snapshot.at(expected)
    for path in touched:
        release(tx.get(path, MISSING))  # so that the commit depends on it from here on
        was, now = older.get(path, MISSING), snapshot.get(path, MISSING)
        if was is not now and was != now:
            raise ConflictError(path, expected, snapshot.version, snapshot.provenance(path))


# ---- what the caller gets -------------------------------------------------------------------


def release(value: Any, process: str | None = None) -> Any:
    """`value` with every draft in it replaced by its frozen content.

    Looks into tuples, lists, dicts, `SET` and `StateUpdate`; they are rebuilt only if
    something in them was replaced. To be called while the transaction is open.
    """
    if type(value) is CoroutineType:
        value.close()
        raise ProcessError(
            f"{process or 'the body'!r} is no coroutine function and returned a coroutine; declare "
            "it with `async def`, so that it is awaited inside its transaction",
            process,
        )
    return _release(value, [])


_OURS = DraftDict.__module__  # also of those types that are made for a class of records
_HOLDERS = frozenset((tuple, list, dict, SET, StateUpdate))


def _concerns(kind: type) -> bool:
    """Whether a value of this type is, or may hold, a draft."""
    return kind in _HOLDERS or kind.__module__ == _OURS


def _release(value: Any, above: list[Any]) -> Any:
    kind = type(value)
    if kind not in _HOLDERS:
        return frozen_content(value)
    if any(value is outer for outer in above):
        return value  # a list that holds itself
    above.append(value)
    result = value
    if kind is SET:
        inner = _release(value.value, above)
        if inner is not value.value:
            result = SET(inner)
    elif kind is StateUpdate:
        parts = (value.val, value.data, value.heavy, value.signal)
        released = [_release(part, above) for part in parts]
        if any(map(is_not, released, parts)):
            val, data, heavy, signal = released
            result = StateUpdate(value.key, val, data, heavy, signal, value.assert_version)
    else:
        items = value.values() if kind is dict else value
        if any(map(_concerns, set(map(type, items)))):  # a long list of numbers is soon done
            released = [_release(item, above) for item in items]
            if any(map(is_not, released, items)):
                result = dict(zip(value, released, strict=True)) if kind is dict else kind(released)
    above.pop()
    return result
