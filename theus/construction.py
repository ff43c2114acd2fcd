"""What an engine begins with: roots from a context, namespaces, and settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from theus.errors import _shown
from theus.scope import ROOT_ALIASES

__all__ = ["namespace_of", "roots_of", "write_timeout"]

DEFAULT_WRITE_TIMEOUT_MS = 300_000


def roots_of(context: object) -> dict[str, Any]:
    """The roots that a context names, under their proper names. Nothing is left out."""
    if context is None:
        return {}
    given: object = _fields_of(context)
    if given is None:
        given = context
        for way in () if isinstance(given, Mapping) else ("to_dict", "model_dump"):
            dump = getattr(context, way, None)
            if callable(dump):
                given = dump()
                break
    if not isinstance(given, Mapping):
        if given is not context:
            raise TypeError(f"the context's {way}() gave {given!r}, which is not a mapping")
        raise TypeError(
            "the initial state is a dict of roots, such as {'domain': {...}}, a dataclass or "
            "Pydantic instance with a field for each, or an object with to_dict() or "
            f"model_dump(), not a {type(context).__name__}: {_shown(context)}"
        )
    roots: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise TypeError(f"the roots of a state are named by texts, and {key!r} is none")
        name = ROOT_ALIASES.get(key, key)
        if name in roots and roots[name] != value:
            raise ValueError(f"the context has two different roots {name!r}, one named {key!r}")
        roots[name] = value
    return roots


def _fields_of(context: object) -> dict[str, Any] | None:
    """The fields of a dataclass or Pydantic instance as roots, or None for anything else.

    Their values stay the instances that they are, so that the state holds records of them. A
    field without a value is left out; a `domain` or `global` of None becomes an empty one, so
    that it can be written into.
    """
    kind = type(context)
    names: list[str] = []
    if hasattr(kind, "__dataclass_fields__"):
        fields = sys.modules["dataclasses"].fields  # loaded, where there is an instance
        names += [field.name for field in fields(context)]
    elif hasattr(kind, "__pydantic_fields__"):
        names += [*kind.__pydantic_fields__, *(getattr(context, "__pydantic_extra__", None) or ())]
    else:
        return None
    values = {name: getattr(context, name) for name in names if hasattr(context, name)}
    for name, value in values.items():
        if value is None and ROOT_ALIASES.get(name, name) in ("domain", "global"):
            values[name] = {}
    return values


def namespace_of(entry: object) -> tuple[str, Any]:
    """Name and data of one namespace. Policies are refused: nothing would enforce them."""
    if isinstance(entry, Mapping):
        unknown = set(entry) - {"name", "policy", "data"}
        if unknown:
            raise ValueError(
                f"namespaces: {entry!r} has the unknown key {min(unknown, key=str)!r}; keys are "
                "name, policy and data"
            )
        fields = (entry.get("name"), entry.get("policy"), entry.get("data"))
    elif isinstance(entry, tuple) and 1 <= len(entry) <= 3:
        fields = (*entry, None, None)[:3]
    else:
        raise TypeError(
            "namespaces: each is a dict with a name, or a tuple (name, policy, data), "
            f"not {entry!r}"
        )
    name, policy, data = fields
    if not isinstance(name, str) or not name:
        raise ValueError(f"namespaces: {entry!r} has no name")
    if policy is not None:
        raise NotImplementedError(
            f"namespaces: {name!r} has a policy, and policies are not part of this version; "
            "leave it out: contracts say what a process may do there"
        )
    return name, {} if data is None else data


def write_timeout(given: int | None) -> int:
    what, value = "write_timeout_ms", given
    if given is None:
        what = "THEUS_WRITE_TIMEOUT_MS"
        text = os.environ.get(what)
        if text is None:
            return DEFAULT_WRITE_TIMEOUT_MS
        value = int(text) if text.strip().isdecimal() else None
        given = value if value is not None else text  # type: ignore[assignment]
    if type(value) is not int or value <= 0:
        raise ValueError(f"{what} is a number of milliseconds above 0, not {given!r}")
    return value
