"""The engine in plain Python: what transactions mean, and nothing of how.

A version is a plain dict, kept whole. A session works on a deep copy of the version it began on
and remembers each step with what the step showed. So strict serializability needs no read set:

    a session may commit on version v exactly if its steps, run again on v alone, show the same

which is what `replay` does. Under snapshot isolation no place that it wrote may have changed.

An engine sees identities where this sees values, so it may refuse a session that crossed a
commit (touched a path that the commit wrote) although nothing visible differs, for example when
a dict was replaced by an equal one. `verdicts` allows both answers there, and nowhere else.
"""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import Any

from support import kind, plain

Path = tuple[Any, ...]
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT"})
LOST: Any = type("Lost", (), {"__repr__": lambda self: "LOST"})


def seen(value: Any) -> Any:
    """What fetching shows: a value, or of a container only that one is there."""
    return kind(value) or value


OPERATIONS: dict[str, Any] = {  # the same code runs on builtins here and on drafts in the tests
    "get": lambda c, key: seen(c[key]),
    "in": operator.contains,
    "len": len,
    "iter": lambda c: set(c) if kind(c) == "set" else [seen(part) for part in c],
    "all": plain,
    "set": operator.setitem,
    "del": operator.delitem,
    "pop": lambda c, *args: seen(c.pop(*args)),
    "setdefault": lambda c, key, value: seen(c.setdefault(key, value)),
    "append": lambda c, value: c.append(value),
    "insert": lambda c, index, value: c.insert(index, value),
    "sort": lambda c: c.sort(key=repr_of_plain),
    "add": lambda c, part: c.add(part),
    "discard": lambda c, part: c.discard(part),
    "clear": lambda c: c.clear(),
    "popitem": lambda c: c.popitem()[0],
    "update": lambda c, other: c.update(other),
    "increase": lambda c, key, by: c.__setitem__(key, c.get(key, 0) + by),  # a deferred addition
}


class Increase(int):
    """What a deferred addition writes: not a value, but a step from whatever is there."""


def repr_of_plain(value: Any) -> str:
    return repr(plain(value))


def walk(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def at(data: Any, path: Path) -> Any:
    """The value at a path; True for a member of a set; ABSENT."""
    try:
        place = walk(data, path[:-1])
        return (path[-1] in place or ABSENT) if kind(place) == "set" else place[path[-1]]
    except (KeyError, IndexError, TypeError):
        return ABSENT


def put(data: Any, path: Path, value: Any) -> None:
    place, key = walk(data, path[:-1]), path[-1]
    if isinstance(value, Increase):
        value = place.get(key, 0) + int(value)
    if kind(place) == "set":
        (place.discard if value is ABSENT else place.add)(key)
    elif value is ABSENT:
        del place[key]
    else:
        place[key] = deepcopy(value)


def perform(data: Any, name: str, path: Path, args: Path) -> tuple[str, Any]:
    """Does one step: ("ok", what it showed) or ("raised", the name of the exception's type)."""
    try:
        return "ok", OPERATIONS[name](walk(data, path), *deepcopy(args))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return "raised", type(error).__name__


def overlap(scope: str, path: Path, written: Path, reshapes: bool) -> bool:
    if path[: len(written)] == written:  # the same place, or one around it
        return True
    inside = written[: len(path)] == path
    return inside and (
        scope == "all" or scope == "keys" and reshapes and len(written) == len(path) + 1
    )


class Session:
    """A transaction: a copy of its version, the steps with what they showed, the writes."""

    def __init__(self, start: int, base: Any, isolation: str) -> None:
        self.start, self.isolation, self.data = start, isolation, deepcopy(base)
        self.steps: list[tuple[str, Path, Path, Any]] = []
        self.touched: list[tuple[str, Path]] = []
        self.writes: list[tuple[Path, bool, Any]] = []  # path, does it change the key set, value
        self.saved: list[tuple[Any, int]] = []

    def do(self, name: str, path: Path, *args: Any) -> tuple[str, Any]:
        place = at(self.data, path) if path else self.data
        before = plain(place)
        index = args[0] if args and name != "update" else None
        if kind(place) == "list":
            inside = name in ("get", "set") and -len(place) <= args[0] < len(place)
            index = args[0] % len(place) if inside else None
        self.touch(name, path, place, index, args)
        shown = perform(self.data, name, path, args)
        self.steps.append((name, path, deepcopy(args), deepcopy(shown)))
        if shown[0] == "ok":
            self.note_writes(name, path, before, place, index, args)
        return shown

    def touch(self, name: str, path: Path, place: Any, index: Any, args: Path) -> None:
        """Notes what the step looks at: a place, a key set (or length), or everything below."""
        counts = name == "len" or name == "iter" and kind(place) != "list"
        scope = "keys" if counts else "leaf" if name in ("get", "in") else "all"
        if index is not None:
            self.touched.append((scope, (*path, index)))
        else:
            self.touched.append((scope if counts else "all", path))
        if kind(place) == "list" and index is not None and args[0] < 0:
            self.touched.append(("keys", path))

    def note_writes(
        self, name: str, path: Path, before: Any, place: Any, index: Any, args: Path
    ) -> None:
        """Notes each place written: what differs now, and what was stored without a difference."""
        if kind(place) == "list" and index is None or name == "clear":
            if plain(place) != before:
                self.writes.append((path, False, plain(place)))
            return
        if name == "update":
            stored = set(args[0])
        else:
            stored = {index} if name in ("set", "increase", "add") else set()
        keys = [index] if kind(place) == "list" else [*before, *place]
        for key in dict.fromkeys(keys):
            was, now = at({0: before}, (0, key)), at({0: place}, (0, key))
            if key in stored or was != now:
                value = Increase(args[1]) if name == "increase" else deepcopy(now)
                self.writes.append(((*path, key), (was is ABSENT) != (now is ABSENT), value))

    def save(self) -> None:
        self.steps.append(("save", (), (), None))
        self.saved.append((deepcopy(self.data), len(self.writes)))

    def restore(self, keep: bool) -> None:
        """Ends the innermost savepoint. Undone steps stay in the log: the body has seen them."""
        self.steps.append(("keep" if keep else "undo", (), (), None))
        data, length = self.saved.pop()
        if not keep:
            self.data = data
            del self.writes[length:]


def replay(session: Session, data: Any) -> Any:
    """The state after the session's steps ran on data, or LOST if a step showed something else."""
    stack: list[Any] = []
    for name, path, args, shown in session.steps:
        if name == "save":
            stack.append(deepcopy(data))
        elif name in ("keep", "undo"):
            data = (data, stack.pop())[name == "undo"]
        elif perform(data, name, path, args) != shown and name != "increase":
            return LOST  # (a deferred addition shows nothing: what it is done to may be gone later)
    return data


class Reference:
    """All versions of a state, and who may make the next one."""

    def __init__(self, data: Any, version: int) -> None:
        self.version = version
        self.versions: dict[int, Any] = {version: deepcopy(data)}
        self.commits: dict[int, list[tuple[Path, bool, Any]]] = {}

    def begin(self, isolation: str, start: int | None = None) -> Session:
        start = self.version if start is None else start
        return Session(start, self.versions[start], isolation)

    def after(self, session: Session) -> Any:
        """The version that a commit would make now, or LOST if the session may not commit."""
        base, now = self.versions[session.start], deepcopy(self.versions[self.version])
        if session.isolation == "serializable":
            return replay(session, now)
        for path, _, value in session.writes:
            if not isinstance(value, Increase) and at(base, path) != at(now, path):
                return LOST
        try:
            for path, _, value in session.writes:
                put(now, path, value)
        except (LookupError, TypeError, AttributeError):
            return LOST
        return now

    def crossed(self, session: Session) -> bool:
        """Has a commit since its start written where it read or wrote (snapshot: only wrote)?"""
        since = range(session.start + 1, self.version + 1)
        footprint = session.touched
        if session.isolation == "snapshot":
            footprint = [("all", path) for path, _, _ in session.writes]
        return any(
            overlap(scope, path, written, reshapes)
            for number in since
            for written, reshapes, _ in self.commits[number]
            for scope, path in footprint
        )

    def verdicts(self, session: Session) -> set[str]:
        """What an engine may answer to a commit: "commit", "unchanged", "conflict"."""
        if not session.writes:
            return {"unchanged"}
        lost = self.after(session) is LOST
        allowed = {"conflict"} if lost or self.crossed(session) else set()
        same = session.data == self.versions[session.start]
        return allowed | (set() if lost else {"commit"}) | ({"unchanged"} if same else set())

    def commit(self, session: Session) -> None:
        """Makes the next version: the engine said "commit", and that was allowed."""
        self.versions[self.version + 1] = self.after(session)
        self.version += 1
        self.commits[self.version] = session.writes

    def swap(self, expected: int, data: Any) -> Session:
        """compare_and_swap(expected, data): a snapshot session that only merges data."""
        session = self.begin("snapshot", expected)

        def merge(path: Path, part: Any) -> None:
            for key, value in part.items():
                if kind(value) == "dict" and kind(at(session.data, (*path, key))) == "dict":
                    merge((*path, key), value)
                else:
                    session.do("set", path, key, value)

        merge((), data)
        return session
