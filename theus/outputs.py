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

For an output `heavy.key`, an ordinary NumPy array is copied into shared memory once; one that
`ctx.heavy` has allocated is stored as it is.

Outputs below `signal` are topics: what is returned for them is sent, with the commit, and
nothing is stored. Outputs with `merge=` take contributions: see `theus.merging`.

Outputs with wildcards allow writing; they take no returned values. What a process has
written through `ctx` at or below an output stays, and the value returned in that place is
only the caller's result; returned by name, it must be equal to what was written. Writing what
stands there already is writing, too (but not a key that was put in and taken out again). What a run
inside the body has written there counts as the body's own: it is one transaction, and whoever runs
another process for an output of its own either leaves that to it or returns what that gave.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from operator import is_not
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from theus._theus import DELETE, MISSING, DraftDict, frozen_content
from theus._types import SET, StateUpdate
from theus.errors import ConflictError, ContractViolationError, PathError, ProcessError, _shown
from theus.merging import Merge, contribute, put_with_parents
from theus.paths import Path, as_path, format_path
from theus.scope import ROOT_ALIASES, is_literal, parse_pattern

if TYPE_CHECKING:
    from theus._theus import Scope, Transaction
    from theus.engine import TheusEngine

__all__ = ["SIGNAL", "Outputs", "release"]

Operations = list[tuple[str, Path]]

_AMBIGUOUS = -1

SIGNAL = "signal"
"""The root below which outputs are topics."""


class Outputs:
    """The declared outputs of one process. Does not change; shared by threads."""

    __slots__ = (
        "_index",
        "_merge",
        "_outer_first",
        "_process",
        "_scope",
        "declared",
        "direct",
        "paths",
        "single",
    )

    def __init__(
        self,
        process: str,
        declared: tuple[str, ...],
        scope: Scope,
        merge: tuple[tuple[str, Merge], ...] = (),
    ) -> None:
        self.declared = declared
        self._process = process
        self._merge = {parse_pattern(text): rule for text, rule in merge}
        self._scope = scope  # what may be written
        literal = [text for text in declared if is_literal(parse_pattern(text))]
        self.paths: tuple[Path, ...] = tuple(map(parse_pattern, literal))
        self.single = self.paths[0] if len(self.paths) == 1 else None
        # An output within another one is stored after it: neither value is lost.
        self._outer_first = sorted(range(len(self.paths)), key=lambda index: len(self.paths[index]))
        # The single output, if a value that is returned for it needs only be stored there.
        self.direct = None if self._is_special(self.single) else self.single
        self._index: dict[Any, int] = {}
        for index, path in enumerate(self.paths):
            self._index[path[-1]] = _AMBIGUOUS if path[-1] in self._index else index
        for index, (text, path) in enumerate(zip(literal, self.paths, strict=True)):
            self._index[text] = self._index[path] = self._index[format_path(path)] = index

    def _is_special(self, path: Path | None) -> bool:
        return path is not None and (path in self._merge or path[0] == SIGNAL)

    # ---- returned values ----------------------------------------------------------

    def store(self, engine: TheusEngine, tx: Transaction, result: Any, written: Operations) -> None:
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
            for index in self._outer_first:
                if named.get(index) is not None:
                    self._store_named(engine, tx, self.paths[index], named[index], written)
        elif not (written and all(_touched(path, written) for path in self.paths)):
            values = tuple(self._by_position(result))
            for index in self._outer_first:
                path, value = self.paths[index], values[index]
                if value is not None and not _touched(path, written):
                    self._put(engine, tx, path, value)

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

    def _store_named(
        self, engine: TheusEngine, tx: Transaction, path: Path, value: Any, written: Operations
    ) -> None:
        if not _touched(path, written):
            self._put(engine, tx, path, value)
            return
        if path in self._merge:
            raise self._misfit(
                f"wrote {format_path(path)} through ctx and returned a contribution to it by name; "
                "do one of the two",
                path,
            )
        returned = value.value if isinstance(value, SET) else value
        stands = tx.get(path, MISSING)
        if not (stands is MISSING if returned is DELETE else stands == returned):
            raise self._misfit(
                f"wrote {format_path(path)} through ctx and returned another value for it by name; "
                "do one of the two",
                path,
            )

    def _update(
        self, engine: TheusEngine, tx: Transaction, update: StateUpdate, written: Operations
    ) -> None:
        values = self._places(update)
        for path in (*values, *((SIGNAL, topic) for topic in update.signal or {})):
            if not self._scope.writes(path):
                raise ContractViolationError.illegal_write(path, self._process, self.declared)
        if update.assert_version is not None:
            touched = [*values, *(path for _, path in written)]
            _assert_unchanged(engine, tx, update.assert_version, touched)
        for path, value in values.items():
            self._store_named(engine, tx, path, value, written)
        if update.signal:
            tx.update(signal=update.signal)

    def _places(self, update: StateUpdate) -> dict[Path, Any]:
        """What an update stores, and where."""
        given = []
        if update.val is not None:
            key = self.single if update.key is None else update.key
            if key is None:
                raise self._misfit(
                    "returned a StateUpdate with a val and no key, which is clear only to a "
                    "process with one output; say StateUpdate(key, val)"
                )
            given.append((key, update.val))
        for key, value in (update.data or {}).items():
            given.append((key, SET(None) if value is None else value))
        for key, value in (update.heavy or {}).items():
            given.append((("heavy", key), SET(None) if value is None else value))
        values: dict[Path, Any] = {}
        for key, value in given:
            path = as_path(key)
            path = (ROOT_ALIASES.get(path[0], path[0]), *path[1:]) if path else path
            if path in values:
                raise self._misfit(f"returned two values for {format_path(path)}", path)
            values[path] = value
        return values

    def _put(self, engine: TheusEngine, tx: Transaction, path: Path, value: Any) -> None:
        """Does with one value what it says, for an output that the body has not written."""
        if path[0] == SIGNAL:
            self._send(tx, path, value)
        elif value is DELETE:
            if tx.get(path, MISSING) is not MISSING:
                tx.delete(path)
        elif type(value) is SET:
            _set(tx, path, _shared(engine, path, value.value))
        elif path in self._merge:
            contribute(tx, path, value, self._merge[path])
        else:
            _set(tx, path, _shared(engine, path, value))

    def _send(self, tx: Transaction, path: Path, value: Any) -> None:
        payload = value.value if type(value) is SET else value
        if value is DELETE or len(path) != 2:
            raise self._misfit(
                f"returned {_shown(value)} for {format_path(path)}, which is no signal; those are "
                "`signal.topic`, and what is returned for one is sent",
                path,
            )
        tx.update(signal={path[1]: payload})

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


def _set(tx: Transaction, path: Path, value: Any) -> None:
    try:
        tx.set(path, value)
    except PathError:
        put_with_parents(tx, path, value)


def _shared(engine: TheusEngine, path: Path, value: Any) -> Any:
    """An ordinary array for `heavy.key` as a shared one, with a copy of it; other values as they
    are."""
    if path[0] != "heavy" or len(path) != 2:
        return value
    numpy = sys.modules.get("numpy")  # loaded, where there is an array
    if numpy is None or type(value) is not numpy.ndarray or not isinstance(path[1], str):
        return value
    return engine.heavy.put(path[1], value)


def _assert_unchanged(
    engine: TheusEngine, tx: Transaction, expected: int, touched: list[Path]
) -> None:
    """Raises unless every touched path is as it was at version `expected`."""
    if type(expected) is not int:
        raise TypeError(f"assert_version is the number of a version, not {_shown(expected)}")
    newest = engine.state  # from there: what a body may see of its snapshot is bounded
    if expected == tx.version:
        snapshot = older = None
    elif engine.strict_cas:
        raise ConflictError(None, expected, tx.version, None, "strict")
    else:
        snapshot, older = newest.at(tx.version), newest.at(expected)
    for path in touched:
        release(tx.get(path, MISSING))  # so that the commit depends on it from here on
        if snapshot is None or older is None:
            continue
        was, now = older.get(path, MISSING), snapshot.get(path, MISSING)
        if was is not now and was != now:
            raise ConflictError(path, expected, snapshot.version, snapshot.provenance(path))


# ---- what the caller gets -------------------------------------------------------------------


def release(value: Any, process: str | None = None) -> Any:
    """`value` with every draft in it replaced by its frozen content.

    Looks into tuples, named ones too, lists, dicts, `SET` and `StateUpdate`; they are rebuilt
    only if something in them was replaced. To be called while the transaction is open.
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
    return kind in _HOLDERS or kind.__module__ == _OURS or _is_named_tuple(kind)


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_make")


def _release(value: Any, above: list[Any]) -> Any:
    kind = type(value)
    if kind not in _HOLDERS and not (_is_named_tuple(kind) or issubclass(kind, StateUpdate)):
        return frozen_content(value)
    if any(value is outer for outer in above):
        return value  # a list that holds itself
    above.append(value)
    result = value
    if kind is SET:
        inner = _release(value.value, above)
        if inner is not value.value:
            result = SET(inner)
    elif issubclass(kind, StateUpdate):
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
                if kind is dict:
                    result = dict(zip(value, released, strict=True))
                else:
                    result = getattr(kind, "_make", kind)(released)
    above.pop()
    return result
