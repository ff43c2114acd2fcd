"""Scopes: the places that a contract names.

A declared path covers its place and everything below. Declaring `domain.users`
covers `domain.users["bob"].age`, and does not cover `domain`. A plain segment may
hold wildcards:

    *           as a whole segment: any key, of any type
    log_*, ?    text keys that match, as file names do
    **          any number of segments; at the end at least one

`["*"]` and `\\*` are that character. `domain_ctx`, `global_` and `global_ctx` are old
names of the roots `domain` and `global`.

A scope is walked from the state downwards, one key at a time, and the walk never
goes back, so checking a path costs one dictionary lookup for each literal segment:

    Scope.of(("domain.users", "domain.log_*"))
        .step("domain")       -> a scope that is not whole: declared places lie below
            .step("users")    -> whole: everything from here down is declared
            .step("log_app")  -> whole
            .step("secret")   -> None
"""

from __future__ import annotations

import fnmatch
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any

from theus.paths import Path, split_path

__all__ = ["ROOT_ALIASES", "Pattern", "Scope", "parse_pattern"]

ROOT_ALIASES = {"domain_ctx": "domain", "global_": "global", "global_ctx": "global"}


class _AnyKey:
    """The segment `*`."""

    def __repr__(self) -> str:
        return "*"


class _AnyDepth:
    """The segment `**`."""

    def __repr__(self) -> str:
        return "**"


class _Glob:
    """A segment with wildcards among other characters."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def matches(self, key: object) -> bool:
        return isinstance(key, str) and fnmatch.fnmatchcase(key, self.text)


ANY_KEY = _AnyKey()
ANY_DEPTH = _AnyDepth()

Pattern = tuple[Any, ...]
"""A path in which ANY_KEY, ANY_DEPTH and _Glob objects may stand for keys."""


@lru_cache(maxsize=1024)
def parse_pattern(text: str) -> Pattern:
    """A declared path, its wildcards told from its keys, its root by its proper name.

    Raises ValueError and TypeError as `theus.paths.parse_path` does, and ValueError
    for the empty path, which would declare everything: name the roots.
    """
    keys: list[Any] = []
    for key, plain in split_path(text):
        if not (plain and isinstance(key, str)):
            keys.append(key)
        elif key == "*":
            keys.append(ANY_KEY)
        elif key == "**":
            keys.append(ANY_DEPTH)
        elif "*" in key or "?" in key:
            keys.append(_Glob(key))
        else:
            keys.append(key if keys else ROOT_ALIASES.get(key, key))
    if not keys:
        raise ValueError("an empty path declares nothing; name a root, such as 'domain'")
    return tuple(keys)


def _is_wild(key: object) -> bool:
    return key is ANY_KEY or key is ANY_DEPTH or type(key) is _Glob


def is_literal(pattern: Pattern) -> bool:
    """Whether the pattern names exactly one place."""
    return not any(map(_is_wild, pattern))


class Scope:
    """What is declared at and below one place.

    `whole`: everything is. `open`: each key may be asked for, so the key set itself is
    no secret. `names` are the literal keys with something declared at or below them.
    Does not change; shared by all processes with the same declaration, and by threads.
    """

    __slots__ = ("_children", "_rests", "_wild", "names", "open", "whole")

    def __init__(self, rests: Iterable[Pattern], *, whole: bool = False) -> None:
        # A rest is what a pattern still asks for after the keys so far.
        self._rests = _with_skips(rests)
        self.whole = whole
        self.open = whole or any(rest[0] in (ANY_KEY, ANY_DEPTH) for rest in self._rests)
        self.names: frozenset[Hashable] = frozenset(
            rest[0] for rest in self._rests if not _is_wild(rest[0])
        )
        self._wild = any(_is_wild(rest[0]) for rest in self._rests)
        # Filled when asked for: below `**` the scopes go round in a circle.
        self._children: dict[Hashable, Scope] = {}

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(declared: tuple[str, ...]) -> Scope:
        """The scope of these declared paths, seen from the state."""
        return Scope(map(parse_pattern, declared))

    def step(self, key: Any) -> Scope | None:
        """The scope below `key`, or None: nothing there is declared."""
        if self.whole:
            return self
        child = self._children.get(key)
        if child is None:
            if self._wild or key in self.names:
                child = self._advance(key)
            if child is not None and key in self.names:
                self._children[key] = child
        return child

    def covers(self, path: Path) -> bool:
        """Whether the place at `path`, and so everything below it, is declared."""
        scope: Scope | None = self
        for key in path:
            if scope is None or scope.whole:
                break
            scope = scope.step(key)
        return scope is not None and scope.whole

    def _advance(self, key: Any) -> Scope | None:
        below: list[Pattern] = []
        for rest in self._rests:
            first = rest[0]
            if first is ANY_DEPTH:
                if len(rest) == 1:
                    return EVERYTHING
                below.append(rest)
            elif first is ANY_KEY or first == key or (type(first) is _Glob and first.matches(key)):
                if len(rest) == 1:
                    return EVERYTHING
                below.append(rest[1:])
        return Scope(below) if below else None


def _with_skips(rests: Iterable[Pattern]) -> tuple[Pattern, ...]:
    """The rests, and for each that begins with `**` also what follows it."""
    found: dict[Pattern, None] = {}
    for rest in rests:
        while rest not in found:
            found[rest] = None
            if rest[0] is ANY_DEPTH and len(rest) > 1:
                rest = rest[1:]
    return tuple(found)


EVERYTHING = Scope((), whole=True)
