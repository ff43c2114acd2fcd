"""What the C side asks about dataclasses and Pydantic models: one plan for each class.

A plan says which attributes an instance has (`take`), how to make one without running its
`__init__` (`make`), and how the class itself judges changed content (`check`). The records
themselves, their views and drafts are C, see csrc/binding/records.h; this module is imported
when the first instance is stored.

It imports neither Pydantic nor dataclasses: a class that needs one of them has loaded it.
"""

from __future__ import annotations

import copyreg
import sys
from types import FunctionType, MemberDescriptorType
from typing import Any, Protocol

from theus._theus import record_discard, record_store, thaw

__all__ = ["Plan", "describe"]

Values = dict[str, Any]
Given = frozenset[str] | None


class Plan(Protocol):
    """What is asked of every class; the attributes are read once, by C."""

    cls: type
    fields: frozenset[str]  # stored when they are assigned, without asking the class
    on_object: frozenset[str]  # methods that run on to_object(), not on a view
    own_getattr: Any  # the class's own __getattr__, or None
    layout: Any  # another object in its place: the fields of the class have changed
    validates: bool
    counts_given: bool
    special: dict[str, Any]  # what the types of views and drafts have, for the interpreter

    def take(self, instance: Any) -> tuple[Values, Given]:
        """All attributes of an instance by name, and those that its maker gave (Pydantic)."""

    def make(self, values: Values, given: Given) -> Any:
        """The instance that has these attributes; nothing of the class runs."""

    def check(self, values: Values, given: Given, written: frozenset[str]) -> Any:
        """An instance with these attributes, as the class accepts it. Raises what it raises."""

    def assign(self, draft: Any, name: str, value: Any) -> None:
        """`draft.name = value` for a name that is not in `fields`."""

    def remove(self, draft: Any, name: str) -> None:
        """`del draft.name`."""

    def part(self, name: str, values: Values, given: Given) -> Any:
        """`view.__dict__`, `view.__pydantic_extra__` and the like, from all attributes."""


def describe(cls: type) -> Plan | str | None:
    """The plan for instances of a class; None if it is no class of records; for one that
    cannot be taken, a sentence on what to do instead.
    """
    main = sys.modules.get("pydantic.main")
    base = getattr(main, "BaseModel", None)
    is_model = isinstance(base, type) and issubclass(cls, base)
    if is_model and not hasattr(cls, "__pydantic_validator__") or hasattr(cls, "__validators__"):
        return "models of Pydantic 1 are not taken; move to Pydantic 2, or store value.dict()"
    if not is_model and not hasattr(cls, "__dataclass_fields__"):
        return None
    for parent in cls.__mro__[:-1]:
        if _is_made_by_c(parent):
            return (
                f"its class is a {parent.__name__} as well, and what that part holds is no field; "
                "store plain data, or give the class a field in its place"
            )
    if _lookup(cls, "__getattribute__") is not vars(object)["__getattribute__"]:
        return (
            "its class has a __getattribute__ of its own, which a view of a record cannot follow; "
            "store plain data, or theus.Opaque(value) to vouch that it does not change"
        )
    return ModelPlan(cls, base) if is_model else DataclassPlan(cls)


# ---- classes ------------------------------------------------------------------------------

_HEAP_TYPE = 1 << 9  # of type.__flags__


def _is_made_by_c(cls: type) -> bool:
    """Is it a class without a class statement? Some of them are heap types as well, with a
    __new__ of their own: what that fills in is no attribute.
    """
    new = vars(cls).get("__new__")
    return not cls.__flags__ & _HEAP_TYPE or getattr(new, "__self__", None) is cls


# What the interpreter looks up on the type of an object, so that the types of views need it too.
# Missing on purpose: making, copying and pickling (a record has its own way) and attribute access.
_SPECIAL = frozenset(
    f"__{name}__"
    for name in (
        "eq ne lt le gt ge hash bool repr str bytes format fspath len length_hint getitem "
        "setitem delitem missing contains iter next reversed call enter exit aenter aexit await "
        "aiter anext neg pos abs invert complex int float index round trunc floor ceil "
        "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor "
        "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand ror rxor "
        "iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ior ixor"
    ).split()
)


def _lookup(cls: type, name: str) -> Any:
    """What the class has under `name`, as it stands there: no descriptor is bound."""
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


def _special(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {"__doc__": cls.__doc__}  # for help()
    for base in reversed(cls.__mro__[:-1]):
        found.update((name, it) for name, it in vars(base).items() if name in _SPECIAL)
    return found


def _is_setter(attribute: Any) -> bool:
    """Does assigning run this (a property, say), and not just fill a slot?"""
    return hasattr(type(attribute), "__set__") and not isinstance(attribute, MemberDescriptorType)


def _is_cached(attribute: Any) -> bool:
    """Is an instance's own attribute beside this one no more than a remembered result?

    So it is with functools.cached_property and those like it: descriptors that cannot be
    assigned and leave their result in the instance.
    """
    kind = type(attribute)
    return hasattr(kind, "__get__") and not hasattr(kind, "__set__") and kind not in _METHODS


_METHODS = (FunctionType, staticmethod, classmethod)


class _Assignment:
    """What both kinds of classes do with attributes that are not just stored."""

    __slots__ = (
        "cls", "counts_given", "fields", "layout", "on_object", "open", "own_getattr", "plain",
        "special", "stored", "validates",
    )  # fmt: skip

    cls: type
    stored: frozenset[str]  # declared by the class
    fields: frozenset[str]
    plain: bool  # the class assigns as every class does
    open: bool  # takes any attribute (Pydantic's extra="allow")

    def take(self, instance: Any) -> tuple[Values, Given]:
        raise NotImplementedError

    def assign(self, draft: Any, name: str, value: Any) -> None:
        attribute = _lookup(self.cls, name)
        if not self.plain or name in self.stored:
            self._assign_on_object(draft, name, value)
        elif _is_setter(attribute) and name != "__class__":
            type(attribute).__set__(attribute, draft, value)
        elif not record_store(draft, name, value, self.open and attribute is None):
            self._refuse(draft, name, value)

    def _refuse(self, draft: Any, name: str, value: Any) -> None:
        raise AttributeError(
            f"{self.cls.__qualname__} has no field {name!r}; a record takes the fields that its "
            "class declares, and no others",
            name=name,
            obj=draft,
        )

    def _assign_on_object(self, draft: Any, name: str, value: Any) -> None:
        """Runs the class's own __setattr__ on an instance, and stores what that has changed."""
        changed = thaw(draft)
        setattr(changed, name, value)  # a frozen class refuses here, in its own words
        after, before = self.take(changed)[0], self.take(thaw(draft))[0]
        for key, item in after.items():
            old = before.pop(key, before)
            if item is not old and (type(item) is not type(old) or item != old):
                record_store(draft, key, item, True)
        for key in before:
            record_discard(draft, key)

    def remove(self, draft: Any, name: str) -> None:
        if self.plain and name not in self.stored and record_discard(draft, name):
            return
        if name in self.stored:
            raise AttributeError(
                f"field {name!r} of {self.cls.__qualname__} cannot be deleted from a record; "
                "assign another value",
                name=name,
                obj=draft,
            )
        raise AttributeError(
            f"this {self.cls.__qualname__} has no attribute {name!r}", name=name, obj=draft
        )


# ---- dataclasses --------------------------------------------------------------------------


class DataclassPlan(_Assignment):
    """Fields, slots of other base classes, and whatever else the instance's __dict__ holds."""

    __slots__ = ("_declared", "_has_dict", "_init_vars", "_validates_init")

    def __init__(self, cls: type) -> None:
        dataclasses = sys.modules["dataclasses"]
        self.cls = cls
        self.layout = cls.__dataclass_fields__  # type: ignore[attr-defined]
        self._declared = dataclasses.fields(cls)
        # The module has no public way to ask for these.
        self._init_vars = [
            field
            for field in self.layout.values()
            if field._field_type is dataclasses._FIELD_INITVAR
        ]
        # Of a field behind a property the property's own attributes are stored.
        names = {field.name for field in self._declared}
        names |= {name for name in copyreg._slotnames(cls) if name != "__weakref__"}  # type: ignore[attr-defined]
        self.stored = frozenset(name for name in names if not _is_setter(_lookup(cls, name)))
        own = _lookup(cls, "__setattr__")
        self.plain = own is vars(object)["__setattr__"] or getattr(own, "only_refuses", False)
        self.fields = self.stored if self.plain else frozenset()
        self.open = False
        self.on_object = frozenset[str]()
        self.own_getattr = _lookup(cls, "__getattr__")
        self._validates_init = hasattr(cls, "__pydantic_validator__")  # Pydantic's own dataclasses
        self.validates = hasattr(cls, "__post_init__") or self._validates_init
        self.counts_given = False
        self.special = _special(cls)
        self._has_dict = cls.__dictoffset__ != 0

    def take(self, instance: Any) -> tuple[Values, Given]:
        values: Values = {}
        for field in self._declared:
            name = field.name
            if name in self.stored:
                try:
                    values[name] = object.__getattribute__(instance, name)
                except AttributeError:
                    continue  # init=False, and never set
        if self._has_dict:
            for name, value in instance.__dict__.items():
                if name in values or name == "__orig_class__":  # typing's note: Box[int](...)
                    continue
                if name in self.stored or not _is_cached(_lookup(self.cls, name)):
                    values[name] = value
        for name in self.stored - values.keys():
            try:
                values[name] = object.__getattribute__(instance, name)
            except AttributeError:
                continue  # an empty slot
        return values, None

    def make(self, values: Values, given: Given) -> Any:
        instance: Any = object.__new__(self.cls)
        for name, value in values.items():
            object.__setattr__(instance, name, value)
        return instance

    def check(self, values: Values, given: Given, written: frozenset[str]) -> Any:
        """As the generated __init__ does it: every field assigned, then __post_init__.

        Fields with init=False keep the value they have, which may be counted up by nobody but
        the transactions; __post_init__ may set them anew.
        """
        cls: Any = self.cls
        if cls.__dataclass_fields__ is not self.layout:
            raise TypeError(
                "the fields of the class have changed since the record was stored; store a whole "
                "new instance"
            )
        if self._validates_init:
            return self._check_by_init(values)
        instance = self.make(values, given)
        arguments = [self._init_var(field) for field in self._init_vars]
        instance.__post_init__(*arguments)
        return instance

    def _init_var(self, field: Any) -> Any:
        missing = sys.modules["dataclasses"].MISSING
        value = getattr(self.cls, field.name, field.default)
        if value is missing:
            raise TypeError(
                f"__post_init__ takes the InitVar {field.name!r}, which no record keeps; store a "
                "whole new instance instead of writing a field"
            )
        return value

    def _check_by_init(self, values: Values) -> Any:
        rest = dict(values)
        arguments = {
            field.name: rest.pop(field.name)
            for field in self._declared
            if field.init and field.name in rest
        }
        instance = self.cls(**arguments)
        for name, value in rest.items():
            object.__setattr__(instance, name, value)
        return instance

    def part(self, name: str, values: Values, given: Given) -> Any:
        if name == "__dict__" and self._has_dict:
            return values
        raise AttributeError(f"{self.cls.__qualname__!r} object has no attribute {name!r}")


# ---- Pydantic -----------------------------------------------------------------------------


class ModelPlan(_Assignment):
    """Fields and extras, private attributes, and the set of fields that were given."""

    __slots__ = ("_declared", "_private", "_by_name", "_is_root")

    def __init__(self, cls: Any, base: Any) -> None:
        self.cls = cls
        self.layout = cls.__pydantic_fields__
        self._declared = frozenset(self.layout)
        self._private = frozenset(cls.__private_attributes__)
        self.stored = self._declared | self._private
        own = _lookup(cls, "__setattr__")
        self.plain = own is vars(base)["__setattr__"] and not cls.model_config.get("frozen")
        self.fields = frozenset(
            name for name in self.stored if name in self._private or not self.layout[name].frozen
        )
        if not self.plain:
            self.fields = frozenset()
        self.open = cls.model_config.get("extra") == "allow"
        self.on_object = frozenset(
            name
            for name, it in vars(base).items()
            if isinstance(it, FunctionType)
            and (name.startswith("model_") or name in ("copy", "dict", "json"))
        )
        getter = _lookup(cls, "__getattr__")
        self.own_getattr = None if getter is vars(base).get("__getattr__") else getter
        self.validates = True
        self.counts_given = True
        self.special = _special(cls)
        # Methods of BaseModel ask type(self) for these.
        self.special["__pydantic_fields__"] = self.layout
        self.special["__private_attributes__"] = cls.__private_attributes__
        self._by_name = "by_name" in (base.model_validate.__func__.__kwdefaults__ or ())
        self._is_root = bool(getattr(cls, "__pydantic_root_model__", False))

    def take(self, instance: Any) -> tuple[Values, Given]:
        own = instance.__dict__
        values: Values = {name: own[name] for name in self.layout if name in own}
        values.update(getattr(instance, "__pydantic_extra__", None) or {})
        values.update(getattr(instance, "__pydantic_private__", None) or {})
        return values, frozenset(instance.__pydantic_fields_set__)

    def make(self, values: Values, given: Given) -> Any:
        model: Any = self.cls
        fields, extra, private = self._parts(values)
        if extra and not self.open:
            raise AttributeError(
                f"the record has a field {next(iter(extra))!r}, which {self.cls.__qualname__} has "
                "no more"
            )
        instance = model.__new__(model)
        assign = object.__setattr__
        assign(instance, "__dict__", fields)
        assign(instance, "__pydantic_fields_set__", set(given or ()))
        assign(instance, "__pydantic_extra__", extra if self.open else None)
        assign(instance, "__pydantic_private__", private if self._private else None)
        return instance

    def check(self, values: Values, given: Given, written: frozenset[str]) -> Any:
        """model_validate() of all fields; private attributes, which it does not know, stay."""
        fields, extra, private = self._parts(values)
        model: Any = self.cls
        if self._is_root:
            instance = model.model_validate(fields["root"])
        elif self._by_name:
            instance = model.model_validate({**fields, **extra}, by_alias=False, by_name=True)
        else:
            aliased = {self.layout[name].validation_alias or name: fields[name] for name in fields}
            instance = model.model_validate({**aliased, **extra})
        known = (given or frozenset()) | (written - self._private)
        object.__setattr__(instance, "__pydantic_fields_set__", set(known))
        if private:
            instance.__pydantic_private__.update(private)
        return instance

    def _refuse(self, draft: Any, name: str, value: Any) -> None:
        setattr(thaw(draft), name, value)  # refuses in Pydantic's words
        super()._refuse(draft, name, value)

    def _parts(self, values: Values) -> tuple[Values, Values, Values]:
        fields: Values = {}
        extra: Values = {}
        private: Values = {}
        for name, value in values.items():
            into = fields if name in self._declared else private if name in self._private else extra
            into[name] = value
        return fields, extra, private

    def part(self, name: str, values: Values, given: Given) -> Any:
        fields, extra, private = self._parts(values)
        if name == "__dict__":
            return fields
        if name == "__pydantic_extra__":
            return extra if self.open else None
        if name == "__pydantic_private__":
            return private if self._private else None
        return set(given or ())
