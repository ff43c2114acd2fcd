"""Instances of dataclasses and Pydantic models in recorded runs.

To the engine an instance is a map that knows its class: two transactions that write different
attributes do not meet. So a recorded body gets a stand-in that reads and writes attribute by
attribute, and a history holds Fields where the state holds an instance. What a class makes of
changed attributes at the commit (`__post_init__`, validators) the check asks the class again: it
supposes that the answer is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from theus._theus import is_record, thaw
from theus.paths import Path, format_path
from theus.records import Plan, _lookup, describe

if TYPE_CHECKING:
    from theus.testing.recording import RecordingTransaction

__all__ = ["Fields", "RecordingInstance", "plan_of", "spread"]

_PLANS: WeakKeyDictionary[type, Plan | None] = WeakKeyDictionary()
_NOTHING = object()


def plan_of(cls: type) -> Plan | None:
    """How instances of a class are taken apart and made; None if they are not."""
    if cls.__module__ == "builtins":
        return None
    plan: Any = _PLANS.get(cls, _NOTHING)
    if plan is _NOTHING:
        found = describe(cls)
        plan = _PLANS[cls] = None if isinstance(found, str) else found
    known: Plan | None = plan
    return known


class Fields(dict[str, Any]):
    """The attributes of an instance of `cls` by name, in a history.

    Equal to other Fields of the same class with equal attributes. `given` is Pydantic's
    `model_fields_set`, or None; it is no part of the comparison.
    """

    __slots__ = ("cls", "given")

    def __init__(self, cls: type, values: dict[str, Any], given: frozenset[str] | None) -> None:
        super().__init__(values)
        self.cls = cls
        self.given = given

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.cls is other.cls and dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __reduce__(self) -> Any:  # copies are made by this, too
        return Fields, (self.cls, dict(self), self.given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fields:
        from copy import deepcopy

        return Fields(self.cls, deepcopy(dict(self), memo), self.given)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.items())
        return f"{self.cls.__qualname__}({inside})"

    def admitted(self, written: frozenset[str]) -> Fields:
        """What the class makes of it at a commit. Raises what the class raises."""
        plan = plan_of(self.cls)
        assert plan is not None
        values = {name: gathered(value) for name, value in self.items()}
        made = plan.check(values, self.given, written) if plan.validates else None
        after = self if made is None else spread(made)
        if not isinstance(after, Fields):
            raise TypeError(f"{self.cls.__qualname__} made {made!r} of its attributes")
        return after


def spread(value: Any) -> Any:
    """A value as a history holds it: a deep copy, with Fields instead of instances."""
    if is_record(value):
        value = thaw(value)
    kind = type(value)
    if kind is dict:
        return {key: spread(part) for key, part in value.items()}
    if kind is list:
        return [spread(part) for part in value]
    plan = plan_of(kind)
    if plan is None:
        return set(value) if kind is set else value
    values, given = plan.take(value)
    return Fields(kind, {name: spread(part) for name, part in values.items()}, given)


def gathered(value: Any) -> Any:
    """The way back: a deep copy, with instances instead of Fields."""
    kind = type(value)
    if kind is dict:
        return {key: gathered(part) for key, part in value.items()}
    if kind is list:
        return [gathered(part) for part in value]
    if kind is Fields:
        plan = plan_of(value.cls)
        assert plan is not None
        return plan.make({name: gathered(part) for name, part in value.items()}, value.given)
    return set(value) if kind is set else value


def holds_instances(value: Any) -> bool:
    """Does a list or set, as a history holds it, have any within?"""
    if isinstance(value, Fields):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return isinstance(value, (dict, list)) and any(holds_instances(part) for part in parts)


class RecordingInstance:
    """The instance at one path of a recorded transaction, by that path: it holds nothing itself.

    isinstance() knows it as its class, whose methods and properties run on it; what is asked by
    way of operators, but for ==, needs `to_object()`.
    """

    __slots__ = ("_recorded",)

    def __init__(self, tx: RecordingTransaction, path: Path, cls: type) -> None:
        object.__setattr__(self, "_recorded", (tx, path, cls))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        cls: type = self._recorded[2]
        return cls

    def to_object(self) -> Any:
        """An independent instance. Reads all of it."""
        tx, path, _ = self._recorded
        return tx.all(path)

    def __getattr__(self, name: str) -> Any:
        tx, path, cls = self._recorded
        if name.startswith("__"):
            return getattr(self.to_object(), name)
        value = tx.get((*path, name), _NOTHING)
        if value is not _NOTHING:
            return value
        plan = plan_of(cls)
        attribute = _lookup(cls, name)
        bind = getattr(type(attribute), "__get__", None)
        if attribute is None or plan is None or name in plan.on_object:
            return getattr(self.to_object(), name)
        return attribute if bind is None else bind(attribute, self, cls)

    def __setattr__(self, name: str, value: Any) -> None:
        tx, path, cls = self._recorded
        plan = plan_of(cls)
        attribute = _lookup(cls, name)
        if plan is not None and name in plan.fields:
            tx.set((*path, name), value)
        elif isinstance(attribute, property):
            attribute.__set__(self, value)
        else:
            raise TypeError(
                f"assigning {name!r} runs code of {cls.__qualname__}, or is refused by it, and "
                f"cannot be recorded: change a copy, instance.to_object(), and set that at "
                f"{format_path(path)}"
            )

    def __eq__(self, other: object) -> bool:
        if type(other) is RecordingInstance:
            other = other.to_object()
        same: bool = self.to_object() == other
        return same

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        _, path, cls = self._recorded
        return f"<RecordingInstance of {cls.__qualname__} at {path!r}>"
