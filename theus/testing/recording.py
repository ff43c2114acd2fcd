"""What a recorded body gets: a stand-in for its transaction, and maps that work like dicts.

Each step is an operation by path on the engine's own transaction, written down after the engine has
answered: nothing is simulated, and a step that raised did not happen.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from theus._theus import MISSING, FrozenDict, Outbox, State, Transaction, is_record, thaw
from theus.paths import Path, as_path, format_path
from theus.testing.history import Attempt, Step
from theus.testing.instances import RecordingInstance, holds_instances, spread
from theus.testing.tracked import TRACKED, Home

if TYPE_CHECKING:
    from theus.testing.recorder import Recorder

_ATOMS = frozenset({int, str, float, bool, bytes, tuple, frozenset, type(None), type(MISSING)})


class RecordingTransaction:
    """The stand-in for a transaction that a recorded body gets.

    Paths are tuples or written paths, as in Transaction. `tx.domain` and `tx["domain"]` are roots;
    names of methods here come before roots of that name. For one thread or task at a time.
    """

    __slots__ = ("_attempt", "_recorder", "_tx")

    def __init__(self, recorder: Recorder, tx: Transaction, floor: int) -> None:
        self._recorder = recorder
        self._tx = tx
        self._attempt = Attempt(
            who(),
            tx.version,
            isolation=tx.isolation,
            read_only=tx.read_only,
            floor=floor,
        )
        recorder._live[id(tx)] = self

    def _end(self, *, failed: bool = False, retried: bool = False) -> None:
        attempt = self._attempt
        made = None if retried else self._tx.version
        if (
            made is not None and made > attempt.snapshot
        ):  # also if something failed after the commit
            attempt.version, attempt.outcome = made, "committed"
        else:
            attempt.outcome = "aborted" if failed or retried else "unchanged"
        self._recorder._attempts.append(attempt)
        del self._recorder._live[id(self._tx)]

    def _note(self, kind: str, path: Path = (), value: Any = None) -> None:
        self._attempt.steps.append(Step(kind, path, value))

    # ---- questions ------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version that it pinned; after the commit, the one that it made."""
        return self._tx.version

    @property
    def isolation(self) -> str:
        return self._tx.isolation

    def get(self, path: Path | str, default: Any = None) -> Any:
        """What is at a path: an atom, a RecordingMap or RecordingInstance, a list or set whose
        changes are stored (see theus.testing.tracked); else `default`.
        """
        path = as_path(path)
        value = self._tx.get(path, MISSING)
        if is_record(value):
            self._note("kind", path, value.__class__)
            return RecordingInstance(self, path, value.__class__)
        word = _container(value)
        if word is None:
            self._note("get", path, value)
            return default if value is MISSING else value
        self._note("kind", path, word)
        if word == "dict":
            return RecordingMap(self, path)
        home = Home(
            format_path(path),
            lambda: thaw(self._tx.get(path)),
            lambda value: self.set(path, value),
        )
        content = self.all(path)
        if holds_instances(self._attempt.steps[-1].value):
            raise TypeError(
                f"the {word} at {format_path(path)} holds instances, whose changes there cannot be "
                "recorded: keep them in a dict, or read all() and set it anew"
            )
        return home.track(content)

    def has(self, path: Path | str) -> bool:
        """Is anything at that path?"""
        path = as_path(path)
        found = self._tx.get(path, MISSING) is not MISSING
        self._note("has", path, found)
        return found

    def keys(self, path: Path | str) -> list[Any]:
        """The keys of the dict at a path, in its order. Raises KeyError if there is none."""
        path = as_path(path)
        keys = list(self._there(path))
        self._note("keys", path, frozenset(keys))
        return keys

    def length(self, path: Path | str) -> int:
        """How long the container at a path is. Raises KeyError if there is none."""
        path = as_path(path)
        length = len(self._there(path))
        self._note("length", path, length)
        return length

    def all(self, path: Path | str) -> Any:
        """An independent copy, in builtins, of what is at a path. Raises KeyError if nothing is."""
        path = as_path(path)
        value = thaw(self._there(path))
        self._note("all", path, spread(value))  # the caller's own may change
        return value

    def _there(self, path: Path) -> Any:
        value = self._tx.get(path, MISSING)
        if value is MISSING:
            self._note("get", path, MISSING)
            raise KeyError(path)
        return value

    # ---- changes --------------------------------------------------------------------------------

    def set(self, path: Path | str, value: Any) -> None:
        """Sets what is at a path. The dict above it must be there."""
        path, value = as_path(path), _plain(bare(value))
        self._tx.set(path, value)
        self._note("set", path, spread(value))

    def delete(self, path: Path | str) -> None:
        """Removes what is at a path. Raises PathError if nothing is."""
        path = as_path(path)
        self._tx.delete(path)
        self._note("delete", path)

    def add(self, path: Path | str, amount: Any) -> None:
        """Adds to whatever is at a path when the transaction is committed."""
        path = as_path(path)
        self._tx.add(path, amount)
        self._note("add", path, amount)

    def append(self, path: Path | str, value: Any) -> None:
        """Appends to whatever list is at a path when the transaction is committed."""
        path, value = as_path(path), _plain(bare(value))
        self._tx.append(path, value)
        self._note("append", path, spread(value))

    def merge(self, path: Path | str, value: Any, resolver: Callable[[Any, Any], Any]) -> None:
        """Stores `resolver(old, value)` when the transaction is committed; the check calls it, too.

        A history with merges pickles if their resolvers do.
        """
        path, value = as_path(path), _plain(bare(value))
        self._tx.merge(path, value, resolver)
        self._note("merge", path, (spread(value), resolver))

    def update(
        self,
        data: Mapping[Any, Any] | None = None,
        heavy: Mapping[str, Any] | None = None,
        signal: Any = None,
    ) -> None:
        """As `Transaction.update`, all of it or nothing. Signals are sent, and are no steps.

        Raises TypeError for arrays: what they hold is in no version of the state.
        """
        given, steps = as_update(data, heavy)
        with self._tx.savepoint():
            self._tx.update(given, None, signal)
        self._attempt.steps += steps

    def restore(self, state: State) -> None:
        """The whole content becomes that of `state`. Any other commit is a conflict."""
        content = state.data.to_dict()
        known = dict.fromkeys(self._tx.state.data)
        known.update((path[0], None) for _, path in self._tx.operations())
        gone = [root for root in known if root not in content and root in self._tx]
        with self._tx.savepoint():
            self._tx.restore(state)
        for root in gone:
            self._note("delete", (root,))
        for root, value in content.items():
            self._note("set", (root,), spread(value))

    # ---- what is no step ------------------------------------------------------------------------

    @property
    def outbox(self) -> Outbox:
        """`Transaction.outbox`: messages go out with the commit. They are no part of the state."""
        return self._tx.outbox

    def on_commit(self, callback: Callable[[], object]) -> None:
        """`Transaction.on_commit`. What the callback does to the engine should be recorded, too."""
        self._tx.on_commit(callback)

    @property
    def written(self) -> bool:
        return self._tx.written

    def operations(self, recent: bool = False, idle: bool = False, /) -> list[tuple[str, Path]]:
        """`Transaction.operations`: what it has written itself so far."""
        return self._tx.operations(recent, idle)

    @contextmanager
    def savepoint(self) -> Iterator[RecordingTransaction]:
        """What happens inside is undone if it raises."""
        with self._saved(), self._tx.savepoint():
            yield self

    @contextmanager
    def _saved(self) -> Iterator[None]:
        self._note("save")
        try:
            yield
        except BaseException:
            self._note("undo")
            raise
        self._note("keep")

    # ---- as a map of roots ----------------------------------------------------------------------

    def __getitem__(self, root: str) -> Any:
        return RecordingMap(self, ())[root]

    def __setitem__(self, root: str, value: Any) -> None:
        self.set((root,), value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if hasattr(Transaction, name):
            raise AttributeError(
                f"tx.{name} is not recorded: a recorded body reads and writes by path, by the maps "
                "of its roots, and by add, append, merge, update and restore"
            )
        return _attribute(RecordingMap(self, ()), name)


class RecordingMap(MutableMapping[Any, Any]):
    """The dict at one path of a recorded transaction, by that path: it holds nothing itself.

    Works as a dict does; texts that are no method's name also as attributes. Unlike a draft it does
    not follow a dict that is moved to another place.
    """

    __slots__ = ("_path", "_tx")

    def __init__(self, tx: RecordingTransaction, path: Path) -> None:
        object.__setattr__(self, "_tx", tx)
        object.__setattr__(self, "_path", path)

    def __getitem__(self, key: Any) -> Any:
        value = self._tx.get((*self._path, key), MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._tx.set((*self._path, key), value)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._tx.delete((*self._path, key))

    def __contains__(self, key: object) -> bool:
        found: bool = self._tx.has((*self._path, key))
        return found

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tx.keys(self._path))

    def __len__(self) -> int:
        length: int = self._tx.length(self._path)
        return length

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return f"<RecordingMap at {self._path!r}>"

    def to_dict(self) -> dict[Any, Any]:
        """An independent copy in builtins."""
        copy: dict[Any, Any] = self._tx.all(self._path)
        return copy


def _attribute(there: RecordingMap, name: str) -> Any:
    try:
        return there[name]
    except KeyError:
        raise AttributeError(f"nothing is at {(*there._path, name)!r}") from None


def _container(value: Any) -> str | None:
    """ "dict", "list" or "set" for containers of any make, None for all other values."""
    if type(value) in _ATOMS:
        return None
    if isinstance(value, Mapping):
        return "dict"
    if isinstance(value, Set):
        return "set"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, tuple, range)):
        return "list"
    return None


def _plain(value: Any) -> Any:
    """A deep copy in builtins of a container of any make; any other value as it is."""
    match _container(value):
        case "dict":
            return {key: _plain(value[key]) for key in value}
        case "list":
            return [_plain(part) for part in value]
        case "set":
            return set(value)
    return value


def bare(value: Any) -> Any:
    """A container at a path means nothing outside its transaction: what it holds instead, also
    within a tuple, list or dict.
    """
    if type(value) is RecordingMap:
        return value.to_dict()
    if type(value) is RecordingInstance:
        return value.to_object()
    if isinstance(value, TRACKED):
        return _plain(value)
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([bare(part) for part in value])
    return {key: bare(part) for key, part in value.items()} if kind is dict else value


def as_update(
    data: Mapping[Any, Any] | None, heavy: Mapping[str, Any] | None
) -> tuple[dict[Any, Any] | None, list[Step]]:
    """What an update gives to the engine, and what it is as steps."""
    if heavy:
        raise TypeError(
            f"arrays cannot be recorded: the check replays dicts, lists and sets; let a "
            f"recorded run go without heavy={{{next(iter(heavy))!r}: ...}}"
        )
    if not isinstance(data, Mapping):
        return data, []  # nothing, or what the engine will refuse
    given = {key: bare(value) for key, value in data.items()}
    leaves = (leaf for item in given.items() for leaf in _leaves(*item))
    return given, [Step("update", path, value) for path, value in leaves]


def _leaves(key: Any, value: Any, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """An update as what stands at its ends: DELETE, an empty dict, or a value that is no dict."""
    path = (*above, *key) if not above and type(key) is tuple else (*above, key)
    if type(value) in (dict, FrozenDict) and value:
        for inner, part in value.items():
            yield from _leaves(inner, part, path)
    else:
        yield path, spread(_plain(value))


def who() -> str:
    """The name of the thread, and of the task if there is one."""
    thread = threading.current_thread().name
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio.events._get_running_loop() is None:
        return thread
    task = asyncio.current_task()
    return thread if task is None else f"{thread}, {task.get_name()}"
