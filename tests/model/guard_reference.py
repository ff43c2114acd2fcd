"""What a contract lets a body do, as slow and as plain as can be: the judge of the guard.

The state is a dict of dicts, lists and sets, all of it builtins. A body is a list of steps
`(path, action, *arguments)`: the container at the path is fetched key by key, then the action
is done to it. `Judge.do` does the step to its own copy of the state, or raises `Refused`.
"""

from __future__ import annotations

import copy
from typing import Any

Path = tuple[Any, ...]
ABSENT: Any = object()


class Refused(Exception):
    """The contract does not let this be read."""

    write = False


class WriteRefused(Refused):
    write = True


def rests(pattern: Path, path: Path) -> list[Path]:
    """What is left of the pattern after the path, in every way in which it fits. `()`: covered."""
    if not pattern:
        return [()]
    if pattern[0] == "**" and not path:
        return [pattern, *(rests(pattern[1:], path) if len(pattern) > 1 else [])]
    if not path:
        return [pattern]
    key, text = path[0], pattern[0]
    if text == "**":
        stay = [()] if len(pattern) == 1 else rests(pattern, path[1:])
        return stay + (rests(pattern[1:], path) if len(pattern) > 1 else [])
    glob = text == "a*" and isinstance(key, str) and key.startswith("a")
    return rests(pattern[1:], path[1:]) if glob or text in ("*", key) else []


class Rights:
    """Patterns, asked about places."""

    def __init__(self, patterns: list[Path]) -> None:
        self.patterns = patterns

    def left(self, path: Path) -> list[Path]:
        return [rest for pattern in self.patterns for rest in rests(pattern, path)]

    def cover(self, path: Path) -> bool:
        return () in self.left(path)

    def reach(self, path: Path) -> bool:
        return bool(self.left(path))

    def show_keys(self, path: Path) -> bool:
        return any(not rest or rest[0] in ("*", "**") for rest in self.left(path))

    def show_all(self, path: Path) -> bool:
        return any(rest in ((), ("*",), ("**",)) for rest in self.left(path))


class Both:
    """What two of them allow: a process that the body of another one runs."""

    def __init__(self, one: Any, other: Any) -> None:
        self.one, self.other = one, other

    def __getattr__(self, question: str) -> Any:
        return lambda path: (
            getattr(self.one, question)(path) and getattr(self.other, question)(path)
        )


class Judge:
    def __init__(self, state: Any, inputs: list[Path], outputs: list[Path], pure: bool) -> None:
        self.pinned, self.pure = state, pure
        self.state = copy.deepcopy(state)
        self.reads: Any = Rights(inputs if pure else inputs + outputs)
        self.writes: Any = Rights([] if pure else outputs)

    def within(self, outer: Judge) -> Judge:
        """Judges from now on what is done in a body of `outer`."""
        self.pure = self.pure or outer.pure
        self.reads = Both(self.reads, outer.reads)
        self.writes = Both(self.writes, outer.writes)
        return self

    def do(self, path: Path, action: str, *arguments: Any) -> Any:
        """The result as builtins. Raises Refused, or what the builtin container raises."""
        container: Any = self.state
        for depth, key in enumerate(path):
            container = self.child(container, path[:depth], key)
        return getattr(self, action)(container, path, *arguments)

    def child(self, container: Any, path: Path, key: Any) -> Any:
        self.ask((*path, key))
        return self.shown(container[key], (*path, key))

    def ask(self, path: Path) -> None:
        """May it be known whether something is there?"""
        if not self.reads.reach(path):
            raise Refused

    def shown(self, value: Any, path: Path) -> Any:
        """A value that is given out."""
        is_container = isinstance(value, (dict, list, set))
        if not (self.reads.reach(path) if is_container else self.reads.cover(path)):
            raise Refused
        return value

    # ---- reading

    get = child

    def contains(self, container: Any, path: Path, key: Any) -> bool:
        self.ask((*path, key))
        if key not in container:
            return False
        self.shown(key if isinstance(container, set) else container[key], (*path, key))
        return True

    def length(self, container: Any, path: Path) -> int:
        if not self.reads.show_keys(path):
            raise Refused
        return len(container)

    def keys(self, container: Any, path: Path) -> list[Any]:
        self.length(container, path)
        return list(container)

    def values(self, container: Any, path: Path) -> list[Any]:
        self.length(container, path)
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        return [self.shown(value, (*path, key)) for key, value in pairs]

    def whole(self, container: Any, path: Path) -> Any:
        if not self.reads.show_all(path):
            raise Refused
        return container

    # ---- writing

    def permit(self, path: Path, value: Any = ABSENT) -> None:
        if not (self.writes.cover(path) or self.is_way(path, value)):
            raise WriteRefused

    def is_way(self, path: Path, value: Any) -> bool:
        stood: Any = self.pinned
        for key in path:
            if stood is not ABSENT:
                stood = stood.get(key, ABSENT) if isinstance(stood, dict) else None
        return stood is ABSENT and isinstance(value, dict) and self.holds(path, value)

    def holds(self, path: Path, value: Any) -> bool:
        if self.writes.cover(path):
            return True
        return (
            isinstance(value, dict)
            and self.writes.reach(path)
            and all(self.holds((*path, key), part) for key, part in value.items())
        )

    def put(self, container: Any, path: Path, key: Any, value: Any) -> None:
        if self.pure:
            raise WriteRefused
        if isinstance(container, list):
            self.ask((*path, key))
            container[key]  # or IndexError
        self.permit((*path, key), value)
        container[key] = copy.deepcopy(value)

    def remove(self, container: Any, path: Path, key: Any) -> None:
        self.permit((*path, key))
        container.remove(key) if isinstance(container, set) else container.__delitem__(key)

    def add(self, container: Any, path: Path, element: Any) -> None:
        self.permit((*path, element))
        container.add(element)

    def append(self, container: Any, path: Path, value: Any) -> None:
        self.permit(path)
        container.append(copy.deepcopy(value))

    def clear(self, container: Any, path: Path) -> None:
        self.permit(path)
        container.clear()
