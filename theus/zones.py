"""Zones: what may become of a field, whoever writes it.

A *field* is an entry of a root: `domain.log_events`, `shop.prices`. Its name says its zone:

    prefix              zone        a process may, and so may everybody else
    const_              CONSTANT    read; the value comes with the initial state
    log_                LOG         read, append
    sig_, cmd_          SIGNAL      read, append
    meta_               META        read, update
    heavy_              HEAVY       read, update
    internal_           PRIVATE     nothing: it reads as None, and iteration leaves it out
    any other           DATA        everything

READ is of whoever is given a `ctx`: processes, with a contract or without, what they run inside,
and the block of `engine.edit`. Transactions that the program begins itself (`engine.run`, `with
engine.transaction()`), `engine.state`, and so pickles and copies of states, are of whoever holds
the engine, and show every field: nothing is lost when a state is kept or moved. APPEND adds an
entry: a key, an element of a set, one at the end of a list. UPDATE puts another value in the place
of one. DELETE removes an entry. That holds at every depth below the field, and for the field
itself; who may update a field may also make it. A root that is made anew may hold what it likes:
those are its initial values. Deeper keys are data, and are never interpreted:
`domain.users["const_ance"]` is a user.

A rule replaces what the name says, for one engine:

    Annotated[list, AppendOnly]                 in the class of a root: also Mutable, Immutable
    TheusEngine(zones={"domain.rows": APPEND_ONLY})
    NamespacePolicy(allow_delete=False)         for all fields of a root: theus.namespaces

What an access of a process would break is refused there, and every commit is looked at once
more, whatever made it: drafts, returned values, `tx.update`, `compare_and_swap`, `restore`.
An admin scope (`theus.admin`) lifts all of it but CONSTANT.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntFlag
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from theus.errors import ContractViolationError, _shown, _where
from theus.paths import Path, parse_path
from theus.scope import ROOT_ALIASES

__all__ = [
    "APPEND_ONLY",
    "IMMUTABLE",
    "MUTABLE",
    "PREFIX_CONSTANT",
    "PREFIX_HEAVY",
    "PREFIX_LOG",
    "PREFIX_META",
    "PREFIX_PRIVATE",
    "PREFIX_SIGNAL",
    "ZONE_RIGHTS",
    "AppendOnly",
    "Capability",
    "ContextZone",
    "Immutable",
    "Mutable",
    "clear_physics_overrides",
    "register_physics_override",
    "resolve_zone",
]


class Capability(IntFlag):
    """What may be done with a field. ADMIN is of admin scopes, and no right of a field."""

    READ = 1
    APPEND = 2
    UPDATE = 4
    DELETE = 8
    ADMIN = 16


class ContextZone(Enum):
    """The zones that the name of a field can say."""

    DATA = "data"
    SIGNAL = "signal"
    META = "meta"
    HEAVY = "heavy"
    LOG = "log"
    CONSTANT = "constant"
    PRIVATE = "private"


PREFIX_SIGNAL = ("sig_", "cmd_")
PREFIX_META = "meta_"
PREFIX_HEAVY = "heavy_"
PREFIX_LOG = "log_"
PREFIX_CONSTANT = "const_"
PREFIX_PRIVATE = "internal_"

MUTABLE = Capability.READ | Capability.APPEND | Capability.UPDATE | Capability.DELETE
APPEND_ONLY = Capability.READ | Capability.APPEND
IMMUTABLE = Capability.READ

# The engine has this table in C, see csrc/binding/zones.c.
ZONE_RIGHTS: Mapping[ContextZone, Capability] = {
    ContextZone.DATA: MUTABLE,
    ContextZone.SIGNAL: APPEND_ONLY,
    ContextZone.META: Capability.READ | Capability.UPDATE,
    ContextZone.HEAVY: Capability.READ | Capability.UPDATE,
    ContextZone.LOG: APPEND_ONLY,
    ContextZone.CONSTANT: IMMUTABLE,
    ContextZone.PRIVATE: Capability(0),
}

_PREFIXES = (
    (PREFIX_SIGNAL, ContextZone.SIGNAL),
    (PREFIX_META, ContextZone.META),
    (PREFIX_HEAVY, ContextZone.HEAVY),
    (PREFIX_LOG, ContextZone.LOG),
    (PREFIX_CONSTANT, ContextZone.CONSTANT),
    (PREFIX_PRIVATE, ContextZone.PRIVATE),
)


def resolve_zone(key: str) -> ContextZone:
    """The zone that the name of a field says."""
    for prefix, zone in _PREFIXES:
        if key.startswith(prefix):
            return zone
    return ContextZone.DATA


# ---- annotations ----------------------------------------------------------------------


class Mutable:
    """`Annotated[T, Mutable]`: the field is data, whatever its name says."""


class AppendOnly:
    """`Annotated[T, AppendOnly]`: the field may be read and appended to."""


class Immutable:
    """`Annotated[T, Immutable]`: the field keeps its initial value."""


_MARKERS: dict[type, Capability] = {
    Mutable: MUTABLE,
    AppendOnly: APPEND_ONLY,
    Immutable: IMMUTABLE,
}


def _marked(hint: object) -> Capability | None:
    for note in getattr(hint, "__metadata__", ()):
        rights = _MARKERS.get(note if isinstance(note, type) else type(note))
        if rights is not None:
            return rights
    if get_origin(hint) in (Union, UnionType):  # Optional[Annotated[T, Immutable]] means the field
        return next(filter(None, map(_marked, get_args(hint))), None)
    return None


def _marked_within(hint: object) -> bool:
    return any(_marked(part) is not None or _marked_within(part) for part in get_args(hint))


def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a class, if it is one whose instances have declared fields."""
    if not (hasattr(cls, "__dataclass_fields__") or hasattr(cls, "__pydantic_fields__")):
        return {}
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:  # names that exist for type checkers only
        texts = [str(text) for base in cls.__mro__ for text in _raw_annotations(base)]
        if any(marker.__name__ in text for text in texts for marker in _MARKERS):
            raise TypeError(
                f"the annotations of {cls.__qualname__} cannot be evaluated, and one of them "
                f"says what may be done with a field: {error}"
            ) from error
        return {}


def _raw_annotations(cls: type) -> list[object]:
    try:
        return list(vars(cls).get("__annotations__", {}).values())
    except NameError:
        return []


def _check_deeper(cls: type, root: str, seen: set[type]) -> None:
    """Annotations below the fields of a root would be obeyed by nobody: refuses them."""
    for name, hint in _hints(cls).items():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and part not in seen:
                seen.add(part)
                for inner, inner_hint in _hints(part).items():
                    if _marked(inner_hint) is not None:
                        raise ValueError(
                            f"{part.__qualname__}.{inner} is annotated with what may be done with "
                            f"it, but it lies below a field of {root!r} ({cls.__qualname__}."
                            f"{name}), and only the fields of a root have zones; annotate "
                            f"{cls.__qualname__}.{name}"
                        )
                _check_deeper(part, root, seen)


def annotated_rights(cls: type, root: str) -> dict[str, int]:
    """What the annotations of the class of a root say of its fields."""
    rights: dict[str, int] = {}
    for name, hint in _hints(cls).items():
        marked = _marked(hint)
        if marked is not None:
            rights[name] = int(marked)
        elif _marked_within(hint):
            raise ValueError(
                f"{cls.__qualname__}.{name} is annotated with what may be done inside it ({hint}), "
                "and only a field as a whole has a zone: Annotated[list[int], Immutable]"
            )
    _check_deeper(cls, root, {cls})
    return rights


# ---- rules ----------------------------------------------------------------------------

PYTHON_PHYSICS_OVERRIDES: dict[str, int] = {}
"""What `register_physics_override` has registered. Engines that exist do not change with it."""


def register_physics_override(path: str, caps: int) -> None:
    """A rule for every engine that is made from now on. `TheusEngine(zones=...)` is for one.

    `path` names a root or a field of one, `caps` is a sum of `Capability`. Raises ValueError.
    """
    parse_rule(path, caps)
    PYTHON_PHYSICS_OVERRIDES[path] = int(caps)


def clear_physics_overrides() -> None:
    """Forgets what `register_physics_override` has registered."""
    PYTHON_PHYSICS_OVERRIDES.clear()


def parse_rule(path: Path | str, rights: object) -> tuple[str, str | None, int]:
    """(root, field or None, rights). Raises ValueError and TypeError."""
    if not isinstance(path, (str, tuple)):
        raise TypeError(
            f"zones: a path is a text such as 'domain.rows', or a tuple, not {_shown(path)}"
        )
    keys = parse_path(path) if isinstance(path, str) else path
    if not 1 <= len(keys) <= 2 or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"zones: {_where(keys)!r} is neither a root nor a field of one, as 'domain.rows' is; "
            "deeper keys are data"
        )
    if isinstance(rights, type) and rights in _MARKERS:
        rights = _MARKERS[rights]
    if not isinstance(rights, int) or isinstance(rights, bool) or not 0 <= rights <= MUTABLE:
        raise ValueError(
            f"zones: {_where(keys)!r} has the rights {_shown(rights)}; they are a sum of READ 1, "
            "APPEND 2, UPDATE 4 and DELETE 8"
        )
    return ROOT_ALIASES.get(keys[0], keys[0]), keys[1] if len(keys) == 2 else None, int(rights)


Rules = dict[str, tuple[int, dict[str, int]]]
"""What a C engine takes: root -> (rights of the root, field -> rights)."""


def rules_of(
    roots: Mapping[str, object],
    policies: Mapping[str, int],
    given: Mapping[Path | str, object] | None,
) -> Rules | None:
    """All rules of an engine: annotations of its roots' classes, policies of its namespaces,
    registered ones, and those it was given, the later ones before the earlier. None: no rule."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            f"zones is a dict such as {{'domain.rows': APPEND_ONLY}}, not {_shown(given)}"
        )
    rules: Rules = {}

    def fields_of(root: str) -> dict[str, int]:
        return rules.setdefault(root, (int(MUTABLE), {}))[1]

    for root, value in roots.items():
        annotated = annotated_rights(type(value), root)
        if annotated:
            fields_of(root).update(annotated)
    for root, rights in policies.items():
        rules[root] = (rights, fields_of(root))
    for path, wanted in (*PYTHON_PHYSICS_OVERRIDES.items(), *(given or {}).items()):
        root, field, rights = parse_rule(path, wanted)
        if field is None:
            rules[root] = (rights, fields_of(root))
        else:
            fields_of(root)[field] = rights
    return rules or None


# ---- refusing -------------------------------------------------------------------------


def refusal(
    path: Path, rights: int, process: str | None, write: bool = True
) -> ContractViolationError:
    """What is raised when something is done at `path` that its zone does not allow."""
    who = f"process {process!r}" if process is not None else "a transaction"
    if not path:
        return ContractViolationError(
            f"Illegal Read: {who} asked for the whole state, which holds fields that processes do "
            "not see; ask for the roots",
            path,
            process,
        )
    name = path[1] if len(path) > 1 else path[0]
    zone = resolve_zone(name) if len(path) > 1 and isinstance(name, str) else ContextZone.DATA
    kind = f"is in zone {zone.name}" if int(ZONE_RIGHTS[zone]) == rights else "has a rule"
    allowed = [one.name for one in Capability if one & rights and one.name is not None]
    did = f"did at {_where(path)} what may not be done there" if write else f"read {_where(path)}"
    way = "give it another rule: TheusEngine(zones=...)"
    if rights != Capability.READ:  # an admin scope does not lift that
        way = f"change it in an admin scope (theus.admin), or {way}"
    return ContractViolationError(
        f"Illegal {'Write' if write else 'Read'}: {who} {did}: {_where(path[:2])} {kind} which "
        f"allows {' and '.join(allowed) if allowed else 'nothing'}; {way}",
        path,
        process,
    )
