"""Instances of dataclasses in a state: what reading one gives, and how it comes back."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import enum
import functools
import json
import pickle
import textwrap
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from helpers import run_fresh
from theus import FrozenDict, FrozenError, FrozenList, TheusEngine, UnfreezableError
from theus._theus import freeze, is_record, thaw
from theus.interop import json_default

T = TypeVar("T")


@dataclass
class Line:
    sku: str
    count: int = 1

    def price(self) -> int:
        return self.count * 10


@dataclass
class Order:
    TAX: ClassVar[int] = 2

    number: int
    lines: list[Line] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)
    extra: dict[str, Any] = field(default_factory=dict)
    secret: str = field(default="hidden", repr=False)

    @property
    def total(self) -> int:
        return sum(line.price() for line in self.lines) * self.TAX

    @classmethod
    def empty(cls, number: int) -> Order:
        return cls(number)

    @staticmethod
    def unit() -> str:
        return "EUR"

    def describe(self, prefix: str = "order") -> str:
        return f"{prefix} {self.number}: {self.total} {self.unit()}"


@dataclass
class Express(Order):
    hours: int = 24

    def describe(self, prefix: str = "express") -> str:
        return super().describe(prefix) + f" in {self.hours} h"


def order() -> Order:
    return Order(7, [Line("a", 2), Line("b")], {"new"}, {"by": {"name": "x"}})


def view(instance: Any) -> Any:
    """As reading a state gives it."""
    return TheusEngine({"domain": {"it": instance}}).state["domain"]["it"]


# ---- what a view is -----------------------------------------------------------------------


def test_a_view_is_an_instance_of_the_class_and_of_its_bases() -> None:
    it = view(Express(1))
    assert isinstance(it, Express) and isinstance(it, Order) and not isinstance(it, Line)
    assert it.__class__ is Express and type(it) is not Express and is_record(it)
    assert it.__doc__ == Express.__doc__  # so help() of a view is that of the class
    assert not is_record(order()) and not is_record(FrozenDict())
    match it:
        case Order(number=number):
            assert number == 1
        case _:
            pytest.fail("no match")


def test_fields_methods_properties_and_super_work() -> None:
    it = view(order())
    assert it.number == 7 and it.total == 60 and it.TAX == 2 and it.unit() == "EUR"
    assert it.describe() == "order 7: 60 EUR" and it.empty(3) == Order(3)
    assert view(Express(1)).describe() == "express 1: 0 EUR in 24 h"
    assert type(it.lines) is FrozenList and it.lines[0].price() == 20
    assert isinstance(it.lines[0], Line) and it.extra["by"]["name"] == "x" and "new" in it.marks
    assert "lines" in dir(it) and "describe" in dir(it)


def test_equality_works_both_ways() -> None:
    it, same, other = view(order()), order(), order()
    other.lines[0].count = 3
    assert it == same and same == it and not it != same
    assert it != other and other != it
    assert it == view(order()) and it != view(Express(7)) and it != 7 and it != {"number": 7}
    assert FrozenDict(it=it) == {"it": same} and {"it": same} == FrozenDict(it=it)
    assert FrozenDict(it=it) == FrozenDict(it=same) != FrozenDict(it=other)
    assert FrozenList([same]) == [it] and FrozenDict(it=it) != FrozenDict(it=dict(vars(same)))


def test_the_repr_is_the_one_of_the_class_also_inside_containers() -> None:
    it = view(order())
    assert repr(it).startswith("Order(number=7, lines=FrozenList([Line(sku='a', count=2)")
    assert "hidden" not in repr(it)
    assert repr(FrozenDict(line=Line("a"))) == "FrozenDict({'line': Line(sku='a', count=1)})"


def test_a_view_cannot_be_changed() -> None:
    it = view(order())
    for change in (
        lambda: setattr(it, "number", 1),
        lambda: setattr(it, "unknown", 1),
        lambda: delattr(it, "number"),
        lambda: setattr(it, "__class__", Line),
    ):
        with pytest.raises(FrozenError, match=r"to_object\(\)"):
            change()
    with pytest.raises(AttributeError, match="'Order' object has no attribute 'nothing'") as caught:
        _ = it.nothing
    assert caught.value.name == "nothing"
    assert not hasattr(it, "keys") and not isinstance(it, collections.abc.Mapping)
    assert not isinstance(it, collections.abc.Iterable) and not callable(it)


def test_the_instance_that_was_stored_stays_its_owners() -> None:
    mine = order()
    engine = TheusEngine({"domain": {"it": mine}})
    mine.number = 1
    mine.lines.append(Line("c"))
    assert engine.state["domain"]["it"] == order()
    out = engine.state["domain"]["it"].to_object()
    out.lines[0].sku = "z"
    assert engine.state["domain"]["it"] == order()


def test_what_an_instance_holds_inside_becomes_frozen_and_comes_back() -> None:
    made = view(order()).to_object()
    assert type(made) is Order and made == order() and type(made.lines) is list
    assert type(made.lines[0]) is Line and type(made.marks) is set and type(made.extra) is dict
    assert thaw(FrozenDict(it=order())) == {"it": order()}
    assert FrozenDict(it=[order()]).to_dict() == {"it": [order()]}
    assert type(FrozenDict(it=[order()]).to_dict()["it"][0]) is Order
    pair = FrozenDict(pair=(1, Line("a")))
    assert isinstance(pair["pair"][1], Line) and is_record(pair["pair"][1])
    assert type(pair.to_dict()["pair"][1]) is Line


def test_copies_and_pickles_are_instances() -> None:
    it = view(order())
    for made in (copy.copy(it), copy.deepcopy(it), pickle.loads(pickle.dumps(it))):
        assert type(made) is Order and made == order()
    assert type(type(it)(3)) is Order
    frozen = pickle.loads(pickle.dumps(FrozenDict(it=order())))
    assert type(frozen) is FrozenDict and is_record(frozen["it"]) and frozen["it"] == order()


def test_the_functions_of_dataclasses_need_the_object() -> None:
    it = view(order())
    for function in (dataclasses.asdict, dataclasses.replace):
        with pytest.raises(TypeError):
            function(it)
    assert dataclasses.asdict(it.to_object())["number"] == 7
    assert [each.name for each in dataclasses.fields(it)][0] == "number"


def test_json() -> None:
    text = json.dumps(TheusEngine({"domain": {"it": order()}}).state, default=json_default)
    assert json.loads(text)["domain"]["it"] == {
        "number": 7,
        "lines": [{"sku": "a", "count": 2}, {"sku": "b", "count": 1}],
        "marks": ["new"],
        "extra": {"by": {"name": "x"}},
        "secret": "hidden",
    }


def test_vars_is_a_copy_with_views() -> None:
    it = view(order())
    content = vars(it)
    assert list(content) == ["number", "lines", "marks", "extra", "secret"]
    content["number"] = 0
    assert it.number == 7 and type(content["lines"]) is FrozenList


# ---- special methods ------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Vector:
    x: int
    y: int = 0

    def __add__(self, other: Vector) -> Vector:
        return type(self)(self.x + other.x, self.y + other.y)

    def __radd__(self, other: int) -> Vector:
        return Vector(self.x + other, self.y)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter((self.x, self.y))

    def __getitem__(self, index: int) -> int:
        return (self.x, self.y)[index]

    def __contains__(self, value: int) -> bool:
        return value in (self.x, self.y)

    def __call__(self, factor: int) -> int:
        return self.x * factor

    def __enter__(self) -> Vector:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __bool__(self) -> bool:
        return self.x != 0

    def __format__(self, spec: str) -> str:
        return f"<{self.x:{spec}}>"

    def __str__(self) -> str:
        return f"({self.x}, {self.y})"


def test_operators_of_the_class_are_found_on_the_type() -> None:
    it = view(Vector(3, 4))
    assert (
        it + Vector(1) == Vector(4, 4) and Vector(1) + it == Vector(4, 4) and 1 + it == Vector(4, 4)
    )
    assert len(it) == 2 and list(it) == [3, 4] and it[1] == 4 and 3 in it and it(2) == 6
    assert f"{it:02}" == "<03>" and str(it) == "(3, 4)" and not view(Vector(0))
    with it as inside:
        assert inside == it
    assert it < Vector(4) and Vector(4) > it and sorted([it, Vector(1)])[0] == Vector(1)
    assert hash(it) == hash(Vector(3, 4)) and {it: 1}[Vector(3, 4)] == 1
    assert callable(it) and isinstance(it, collections.abc.Iterable)


def test_hash_follows_the_class() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(view(order()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(FrozenDict(it=order()))
    assert hash(FrozenDict(it=Vector(1))) == hash(FrozenDict(it=Vector(1)))


@dataclass(eq=False, repr=False)
class Bare:
    x: int = 1


def test_without_eq_and_repr_a_record_is_itself_only() -> None:
    state = TheusEngine({"domain": {"a": Bare(), "b": Bare()}}).state["domain"]
    assert state["a"] == state["a"] and state["a"] != state["b"] and state["a"] != Bare()
    assert hash(state["a"]) == hash(state["a"])
    assert "Bare" in repr(state["a"])


@dataclass
class OwnEq:
    x: int
    noise: int = field(default=0, compare=False)


class Loose(OwnEq):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loose) and abs(self.x - other.x) < 2


def test_eq_of_the_class_decides_also_between_frozen_containers() -> None:
    assert view(OwnEq(1, 5)) == OwnEq(1, 6) and FrozenDict(a=OwnEq(1, 5)) == FrozenDict(
        a=OwnEq(1, 6)
    )
    assert view(Loose(1)) == Loose(2) and Loose(2) == view(Loose(1))
    assert FrozenDict(a=Loose(1)) == FrozenDict(a=Loose(2)) != FrozenDict(a=Loose(4))


# ---- shapes of classes ------------------------------------------------------------------------


@dataclass(slots=True)
class Slotted:
    x: int
    y: list[int] = field(default_factory=list)


class WithSlot:
    __slots__ = ("hidden",)


@dataclass
class OnSlot(WithSlot):
    x: int = 1


@dataclass(kw_only=True)
class Keywords:
    x: int
    y: int = 2


@dataclass
class Box(Generic[T]):
    item: T


@dataclass
class Derived:
    width: int
    area: int = field(init=False)
    never: int = field(init=False)
    scale: InitVar[int] = 1

    def __post_init__(self, scale: int) -> None:
        self.area = self.width * scale

    @functools.cached_property
    def slow(self) -> list[int]:
        return [self.area]


@dataclass
class Behind:
    x: int

    @property  # type: ignore[no-redef]
    def x(self) -> int:
        return self._x  # type: ignore[no-any-return, has-type]

    @x.setter
    def x(self, value: int) -> None:
        self._x = int(value)


@dataclass
class Dynamic:
    x: int = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("get_"):
            return getattr(self, name[4:])
        raise AttributeError(name)

    @property
    def broken(self) -> int:
        raise AttributeError("from the property")


@dataclass
class Untidy:
    x: int = 1

    def __post_init__(self) -> None:
        self.note = {"undeclared": self.x}


class Colour(enum.Enum):
    RED = Vector(1)


def test_slots() -> None:
    it = view(Slotted(1, [2]))
    assert it.x == 1 and it.y == [2] and it == Slotted(1, [2]) and it.to_object() == Slotted(1, [2])
    with pytest.raises(TypeError, match="__dict__"):
        vars(it)
    base = OnSlot(3)
    base.hidden = [4]
    assert view(base).hidden == [4] and view(base).to_object().hidden == [4]
    with pytest.raises(AttributeError, match="'OnSlot' object has no attribute 'hidden'"):
        _ = view(OnSlot()).hidden


def test_keyword_only_and_generic_classes() -> None:
    assert view(Keywords(x=1)) == Keywords(x=1)
    assert view(Box([1])) == Box([1]) and isinstance(view(Box(1)), Box)
    assert view(Box[int](5)).item == 5 and view(Box[int](5)).to_object() == Box(5)


def test_fields_that_init_does_not_take() -> None:
    instance = Derived(3, 2)
    assert instance.slow == [6]
    it = view(instance)
    assert (it.width, it.area, it.slow, it.slow) == (3, 6, [6], [6])
    with pytest.raises(AttributeError, match="never"):
        _ = it.never
    made = it.to_object()
    assert made.area == 6 and "slow" not in vars(made) and not hasattr(made, "never")


def test_a_field_behind_a_property_is_stored_as_the_property_keeps_it() -> None:
    it = view(Behind(3))
    assert it.x == 3 and vars(it) == {"_x": 3} and it.to_object().x == 3


def test_own_getattr_is_asked_last() -> None:
    it = view(Dynamic(5))
    assert it.get_x == 5
    with pytest.raises(AttributeError, match="unknown"):
        _ = it.unknown
    with pytest.raises(AttributeError, match="broken"):
        _ = it.broken


def test_attributes_beside_the_fields_are_kept() -> None:
    it = view(Untidy(2))
    assert it.note == {"undeclared": 2} and it.to_object().note == {"undeclared": 2}


def test_members_of_enums_stay_members() -> None:
    assert view(Colour.RED) is Colour.RED


def test_nested_records_in_every_container() -> None:
    content = {
        "d": {"k": Line("a")},
        "l": [[Line("b")]],
        "t": (Line("c"), 1),
        "r": Box(Box(Line("d"))),
    }
    it = FrozenDict(content)
    assert it == content and it.to_dict() == content
    assert it["r"].item.item.price() == 10 and it["l"][0][0].sku == "b"


def test_another_heap_gets_a_copy() -> None:
    it = view(order())
    again = view(it)
    assert again == order() and is_record(again)
    assert FrozenDict(a=it)["a"] == order()


# ---- refusals -------------------------------------------------------------------------------


@dataclass
class Watcher:
    x: int = 1

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)


@dataclass
class Table(dict):  # type: ignore[type-arg]
    x: int = 1


@dataclass
class Holder:
    parts: list[Any]


@pytest.mark.parametrize(
    ("value", "says"),
    [(Watcher(), "__getattribute__"), (Table(), "is a dict as well")],
    ids=["own", "dict"],
)
def test_classes_that_cannot_be_records(value: Any, says: str) -> None:
    with pytest.raises(UnfreezableError, match=says) as caught:
        freeze({"a": [value]})
    assert caught.value.path == ("a", 0)


def test_what_cannot_be_stored_inside_is_named_by_its_path() -> None:
    with pytest.raises(UnfreezableError) as caught:
        TheusEngine({"domain": {"it": Holder([1, Holder([open])])}}).run(
            lambda tx: tx.set(("domain", "new"), Holder([1, Holder([bytearray()])]))
        )
    assert caught.value.path == ("domain", "new", "parts", 1, "parts", 0)
    loop = Holder([])
    loop.parts.append(loop)
    with pytest.raises(UnfreezableError, match="contains itself"):
        freeze(loop)


def test_a_class_that_changed_after_the_record_was_stored() -> None:
    @dataclass
    class Shape:
        x: int
        y: int = 2

    engine = TheusEngine({"domain": {"old": Shape(1)}})
    Shape.__annotations__ = {"x": int, "z": int}
    for name in ("y", "__init__", "__repr__", "__eq__"):
        delattr(Shape, name)
    dataclass(Shape)
    old = engine.state["domain"]["old"]
    assert (old.x, old.y) == (1, 2)
    with pytest.raises(AttributeError, match="'Shape' object has no attribute 'z'"):
        _ = old.z
    made = old.to_object()
    assert (made.x, made.y) == (1, 2)
    engine.run(lambda tx: tx.set(("domain", "new"), Shape(1, 3)))
    new = engine.state["domain"]["new"]
    assert new.z == 3 and new == Shape(1, 3) and isinstance(new, Shape)


def test_a_class_that_has_no_name_any_more_lives_with_its_records() -> None:
    def make() -> Any:
        @dataclass
        class Gone:
            x: int = 1

            def double(self) -> int:
                return self.x * 2

        return view(Gone(4))

    it = make()
    assert it.double() == 8 and it == it.to_object() and repr(it).endswith("Gone(x=4)")


# ---- imports --------------------------------------------------------------------------------


def test_neither_dataclasses_nor_pydantic_is_imported_for_the_user() -> None:
    run_fresh(
        textwrap.dedent(
            """
            import sys, theus
            class Plain: pass
            try:
                theus.FrozenDict(a=Plain())
            except theus.UnfreezableError:
                pass
            else:
                raise AssertionError("it was taken")
            loaded = {"dataclasses", "pydantic", "pydantic.main"} & set(sys.modules)
            assert not loaded, loaded
            """
        )
    )


def test_an_attribute_asked_for_by_hand_must_be_text() -> None:
    engine = TheusEngine({"domain": {"it": order()}})

    def body(tx: Any) -> None:
        for it in (tx.domain.it, engine.state["domain"]["it"]):
            with pytest.raises(TypeError, match="must be string"):
                type(it).__getattribute__(it, 5)
        with pytest.raises(TypeError, match="must be string"):
            type(tx.domain.it).__setattr__(tx.domain.it, 5, 5)

    engine.run(body)
