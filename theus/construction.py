"""What an engine begins with: roots from a context, namespaces, and settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING, Any

from theus._theus import State, thaw
from theus.errors import _shown
from theus.scope import ROOT_ALIASES

if TYPE_CHECKING:
    from theus.locks import LockManager
    from theus.zones import Rules

__all__ = [
    "context_of",
    "context_type",
    "lock_contexts",
    "namespaced",
    "roots_of",
    "write_timeout",
]

DEFAULT_WRITE_TIMEOUT_MS = 300_000

_ATOMS = frozenset((int, float, str, bytes, bool, type(None)))


def roots_of(context: object) -> dict[str, Any]:
    """The roots that a context names, under their proper names. Nothing is left out."""
    if context is None:
        return {}
    own = getattr(context, "engine_roots", None)
    given: Mapping[Any, Any] | None = own() if callable(own) else _fields_of(context)
    if given is None:
        given = context if isinstance(context, Mapping) else _told_by(context)
    if given is None:
        raise TypeError(
            "the initial state is a dict of roots, such as {'domain': {...}}, a dataclass or "
            "Pydantic instance with a field for each, an object with to_dict(), model_dump() or "
            "dict(), or one whose attributes are the roots, not a "
            f"{type(context).__name__}: {_shown(context)}"
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


def _told_by(context: object) -> Mapping[Any, Any] | None:
    """The roots that an object gives in one of its own ways, else its public attributes; None if it
    has neither."""
    for way in ("to_dict", "model_dump", "dict"):
        dump = getattr(context, way, None)
        if callable(dump) and not isinstance(context, type):
            given = dump()
            if not isinstance(given, Mapping):
                raise TypeError(f"the context's {way}() gave {given!r}, which is not a mapping")
            return given
    return _attributes_of(context, ()) if _is_plain_object(context) else None


def _is_plain_object(value: object) -> bool:
    """Whether it is nothing but its attributes: an instance of a class that somebody has written
    for them, and no function, module or the like."""
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (type, BaseException, ModuleType, Enum))
        and not callable(value)
        and not hasattr(kind, "__dataclass_fields__")
        and not hasattr(kind, "__pydantic_fields__")
        and not any(
            base.__module__.partition(".")[0] in ("builtins", "theus") for base in kind.__mro__[:-1]
        )
    )


def _attributes_of(value: object, around: tuple[object, ...]) -> dict[str, Any]:
    """The public attributes of a plain object, those that are plain objects likewise, at any depth.

    A dict or list stays what it is: an object that lies in one is refused by the state.
    """
    if any(value is outer for outer in around):
        raise ValueError(f"the context contains itself, by way of {_shown(value)}")
    return {
        name: _attributes_of(inner, (*around, value)) if _is_plain_object(inner) else inner
        for name, inner in vars(value).items()
        if not name.startswith("_")
    }


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


def namespaced(
    roots: dict[str, Any],
    context: object,
    namespaces: Iterable[Any] | None,
    zones: Mapping[Any, Any] | None,
) -> Rules | None:
    """Adds the namespaces to the roots, and gives what rules there are about their fields."""
    plain = namespaces is None and zones is None and (context is None or type(context) is dict)
    if plain and all(type(value) in (dict, list) for value in roots.values()):
        if "theus.zones" not in sys.modules:  # most programs do without
            return None
    from theus.namespaces import namespaces_of, parse_namespaces
    from theus.zones import rules_of

    policies: dict[str, int] = {}
    for name, policy, data in (*namespaces_of(context), *parse_namespaces(namespaces)):
        if name in roots:
            raise ValueError(f"namespaces: the state has a root {name!r} already")
        roots[name] = data
        if policy is not None:
            policies[name] = policy.to_caps()
    return rules_of(roots, policies, zones)


def context_type(context: object) -> type | None:
    """The class that a context is given back as; None: as a dict of its roots."""
    kind = type(context)
    typed = hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__pydantic_fields__")
    return kind if typed else None


def context_of(kind: type | None, state: State) -> Any:
    """The roots of a state as an instance of `kind`, or as a dict."""
    if not isinstance(state, State):
        raise TypeError(
            f"to_object() takes a State, such as engine.state.at(3), not {_shown(state)}"
        )
    roots = thaw(state.data)
    if kind is None:
        return roots
    names = {ROOT_ALIASES.get(name, name): name for name in _declared(kind)}
    values = {names.get(root, root): value for root, value in roots.items()}
    if hasattr(kind, "__pydantic_fields__"):
        return kind.model_construct(**values)  # type: ignore[attr-defined]
    instance: Any = object.__new__(kind)
    for name, value in values.items():
        try:
            object.__setattr__(instance, name, value)
        except AttributeError:
            raise TypeError(
                f"the state has a root {name!r}, and instances of {kind.__qualname__} have no room "
                "for it: declare it there, or take state.to_dict()"
            ) from None
    return instance


def _declared(kind: type) -> Iterable[str]:
    found: Iterable[str] | None = getattr(kind, "__dataclass_fields__", None)
    return kind.__pydantic_fields__ if found is None else found  # type: ignore[attr-defined]


def lock_contexts(context: object, roots: Mapping[str, Any], strict: bool) -> LockManager | None:
    """Locks the typed contexts that were copied in, also those inside them. The lock, or None if
    there are none."""
    typed = list(_lockable((context, *roots.values())))
    if not typed:
        return None
    from theus.locks import LockManager

    manager = LockManager(strict)
    for one in typed:
        one.set_lock_manager(manager)
    return manager


def _lockable(given: Iterable[object]) -> Iterator[Any]:
    """What can be locked among objects and all that is in them, each once."""
    seen: set[int] = set()
    rest = list(given)
    while rest:
        one = rest.pop()
        if id(one) in seen or type(one) in _ATOMS:
            continue
        seen.add(id(one))
        if hasattr(type(one), "set_lock_manager"):
            yield one
        if isinstance(one, Mapping):
            rest.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            rest.extend(one)
        else:
            rest.extend(getattr(one, "__dict__", {}).values())
            rest.extend(
                getattr(one, name, None) for name in getattr(type(one), "__dataclass_fields__", ())
            )


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
        raise ValueError(f"{what} is a number of milliseconds above 0, not {_shown(given)}")
    return value
