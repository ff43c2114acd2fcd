"""Scopes: the places that a contract names.

A declared path covers its place and everything below. Declaring `domain.users`
covers `domain.users["bob"].age`, and does not cover `domain`. A plain segment may
hold wildcards:

    *           as a whole segment: any key, of any type
    log_*, ?    text keys that match, as file names do
    **          any number of segments; at the end at least one

`["*"]` and `\\*` are that character. `domain_ctx`, `global_` and `global_ctx` are old
names of the roots `domain` and `global`.

A contract is compiled to a `Scope`, which the guard walks from the state downwards, one
key at a time:

    Scope(map(parse_pattern, ("domain.users", "domain.log_*")))
        .step("domain")       -> a scope: declared places lie below
            .step("users")    -> everything from here down may be read
            .step("log_app")  -> the same
            .step("secret")   -> None
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from theus._theus import ROOT_ALIASES, Scope, Wildcard
from theus.paths import split_path

__all__ = [
    "EVERYTHING",
    "ROOT_ALIASES",
    "Pattern",
    "Scope",
    "is_literal",
    "literal_roots",
    "parse_pattern",
]

ANY_KEY = Wildcard("*")
ANY_DEPTH = Wildcard("**")

Pattern = tuple[Any, ...]
"""A path in which wildcards may stand for keys."""

EVERYTHING: Pattern = ()
"""The pattern of the state itself. No contract can declare it."""


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
            keys.append(Wildcard(key))
        else:
            keys.append(key if keys else ROOT_ALIASES.get(key, key))
    # Keys of dicts nearly always are interned: equal ones are then one object, soon compared.
    keys = [sys.intern(key) if type(key) is str else key for key in keys]
    if not keys:
        raise ValueError("an empty path declares nothing; name a root, such as 'domain'")
    return tuple(keys)


def literal_roots(declared: Iterable[str]) -> set[Any]:
    """The roots that declared paths name as they are, not by a wildcard."""
    roots = {parse_pattern(text)[0] for text in declared}
    return {root for root in roots if not isinstance(root, Wildcard)}


def is_literal(pattern: Pattern) -> bool:
    """Whether the pattern names exactly one place."""
    return not any(isinstance(key, Wildcard) for key in pattern)
