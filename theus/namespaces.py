"""Namespaces: further roots of the state, and what may be done in them.

    TheusEngine(context, namespaces=[("shop", NamespacePolicy(allow_delete=False), {"rows": []})])

A namespace is a root like any other: contracts name it (`inputs=["shop.rows"]`), processes find it
at `ctx.shop`. A policy is a rule of the engine about all fields of that root (`theus.zones`); zones
of the fields hold besides. It is given when the engine is made, and belongs to that engine alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from theus.arguments import check_entries, check_flag, check_name
from theus.errors import _shown
from theus.zones import Capability

__all__ = ["Namespace", "NamespacePolicy", "NamespaceRegistry"]


class NamespacePolicy(NamedTuple):
    """What may be done with the fields of a namespace, and below them.

    allow_read    processes may read. Who holds the engine always may
    allow_update  a value may be put in the place of another
    allow_delete  entries may be removed
    allow_append  entries may be added: fields, keys, elements
    """

    allow_read: bool = True
    allow_update: bool = True
    allow_delete: bool = False
    allow_append: bool = True

    def to_caps(self) -> int:
        """The same as a sum of `Capability`."""
        for name, allowed in zip(self._fields, self, strict=True):
            check_flag(f"{name} of a NamespacePolicy", allowed)
        return int(
            Capability.READ * self.allow_read
            | Capability.UPDATE * self.allow_update
            | Capability.DELETE * self.allow_delete
            | Capability.APPEND * self.allow_append
        )


class _Entry(NamedTuple):
    policy: NamespacePolicy | None
    data: Any


class NamespaceRegistry:
    """Namespaces by name, to be given to an engine: `TheusEngine(namespaces=registry)`.

    The engine takes what is registered at that moment. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def register(
        self, name: str, policy: NamespacePolicy | None = None, default_data: Any = None
    ) -> None:
        """Adds a namespace. Without a policy everything may be done in it.

        Raises ValueError if there is one of that name, or the name is none.
        """
        name, policy, data = parse_namespace((name, policy, default_data))
        if name in self._entries:
            raise ValueError(f"a namespace {name!r} is registered already")
        self._entries[name] = _Entry(policy, data)

    def get_policy(self, name: str) -> NamespacePolicy | None:
        """The policy of a namespace; None if it has none, or is not known."""
        entry = self._entries.get(check_name("name", name))
        return None if entry is None else entry.policy

    def resolve_path(self, path: str) -> tuple[str, str]:
        """("shop", "rows.x") for "shop.rows.x", ("default", path) if that is no namespace."""
        name, dot, rest = check_name("path", path).partition(".")
        return (name, rest) if dot and name in self._entries else ("default", path)

    def get_all_data(self) -> dict[str, Any]:
        """The initial data of all namespaces, by name."""
        return {name: entry.data for name, entry in self._entries.items()}

    def clear(self) -> None:
        """Forgets all of them. Engines that were made with them keep theirs."""
        self._entries.clear()

    def __iter__(self) -> Iterator[tuple[str, NamespacePolicy | None, Any]]:
        for name, entry in self._entries.items():
            yield name, entry.policy, entry.data

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class Namespace:
    """Declares a namespace in the class of a system context.

        class System(BaseSystemContext):
            shop = Namespace(Shop, NamespacePolicy(allow_delete=False))

    Each instance has a `Shop()` of its own there until another one is assigned; the engine
    that is made with it has a root "shop".
    """

    def __init__(self, cls: Callable[[], Any], policy: NamespacePolicy | None = None) -> None:
        if not callable(cls):
            raise TypeError(f"a Namespace takes the class of its data, not {_shown(cls)}")
        self.cls = cls
        self.policy = policy
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        # No data descriptor: from now on the attribute of the instance comes first.
        return vars(instance).setdefault(self.name, self.cls())


def namespaces_of(context: object) -> list[tuple[str, NamespacePolicy | None, Any]]:
    """Those that the class of a context declares, with the data of this instance."""
    found: dict[str, Namespace] = {}
    for cls in reversed(type(context).__mro__):
        found.update((k, v) for k, v in vars(cls).items() if isinstance(v, Namespace))
    return [(name, one.policy, getattr(context, name)) for name, one in found.items()]


def parse_namespace(entry: object) -> tuple[str, NamespacePolicy | None, Any]:
    """(name, policy, data) of an entry of `TheusEngine(namespaces=...)`."""
    if isinstance(entry, Mapping):
        unknown = set(entry) - {"name", "policy", "data"}
        if unknown:
            raise ValueError(
                f"namespaces: {entry!r} has the unknown key {min(unknown, key=str)!r}; keys are "
                "name, policy and data"
            )
        fields = (entry.get("name"), entry.get("policy"), entry.get("data"))
    elif type(entry) is tuple and 1 <= len(entry) <= 3:
        fields = (*entry, None, None)[:3]
    else:
        raise TypeError(
            "namespaces: each is a dict with a name, or a tuple (name, policy, data), "
            f"not {_shown(entry)}"
        )
    name, policy, data = fields
    if not isinstance(name, str) or not name:
        raise ValueError(f"namespaces: {_shown(entry)} has no name")
    if policy is not None and not isinstance(policy, NamespacePolicy):
        raise TypeError(
            f"namespaces: the policy of {name!r} must be a NamespacePolicy, not {_shown(policy)}"
        )
    if policy is not None:
        policy.to_caps()  # refuses what is no flag before anything is made of it
    return name, policy, {} if data is None else data


def parse_namespaces(
    given: Iterable[object] | None,
) -> list[tuple[str, NamespacePolicy | None, Any]]:
    if given is None:
        return []
    each = "a dict with a name, or a tuple (name, policy, data)"
    return [parse_namespace(entry) for entry in check_entries("namespaces", given, each)]
