"""Pydantic models in a state."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import sys
import types
import uuid
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest

from theus import ConflictError, FrozenDict, RecordError, TheusEngine, UnfreezableError
from theus._theus import freeze, is_record
from theus.interop import json_default

pydantic = pytest.importorskip("pydantic")

from pydantic import (  # noqa: E402
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    ValidationError,
    computed_field,
    field_validator,
    model_validator,
)

T = TypeVar("T")


class Line(BaseModel):
    sku: str
    count: int = 1

    def price(self) -> int:
        return self.count * 10


class Order(BaseModel):
    number: int
    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    lines: list[Line] = []
    note: str | None = None
    _seen: int = PrivateAttr(default=0)
    _memo: dict[str, int] = PrivateAttr(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(line.count for line in self.lines)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return sum(line.price() for line in self.lines)

    @field_validator("number")
    @classmethod
    def positive(cls, number: int) -> int:
        if number < 0:
            raise ValueError("must not be negative")
        return number

    def add(self, sku: str) -> None:
        self.lines.append(Line(sku=sku))
        self._seen += 1


class Express(Order):
    hours: int = 24

    def add(self, sku: str) -> None:
        super().add(sku.upper())

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return {"express": super().model_dump(**options)}


def order(**fields: Any) -> Order:
    return Order(number=1, key="k", lines=[Line(sku="a", count=2)], **fields)


def engine_with(**content: Any) -> TheusEngine:
    return TheusEngine({"domain": content})


def now(engine: TheusEngine, name: str = "it") -> Any:
    return engine.state["domain"][name]


def view(instance: Any) -> Any:
    return now(engine_with(it=instance))


# ---- views ----------------------------------------------------------------------------------


def test_a_view_is_a_model_to_everyone() -> None:
    it = view(order())
    assert isinstance(it, Order) and isinstance(it, BaseModel) and it.__class__ is Order
    assert (it.number, it.size, it.total, it._seen, it._memo) == (1, 2, 20, 0, {})
    assert it == order() and order() == it and it == view(order())
    assert it != order(note="x") and order(note="x") != it and it != 5
    assert repr(it) == repr(order()).replace(
        "[Line(sku='a', count=2)]", "FrozenList([Line(sku='a', count=2)])"
    )
    assert dict(it)["number"] == 1 and "number" in dir(it)
    assert it.model_fields_set == {"number", "key", "lines"} and it.model_extra is None
    for change in (lambda: setattr(it, "number", 2), lambda: delattr(it, "number")):
        with pytest.raises(TypeError, match="to_object"):
            change()
    with pytest.raises(AttributeError, match="'Order' object has no attribute 'nothing'"):
        _ = it.nothing


def test_serialisers_and_copies_run_on_the_object() -> None:
    it = view(order())
    assert (
        it.model_dump() == order().model_dump()
        and it.model_dump_json() == order().model_dump_json()
    )
    assert type(it.model_copy(update={"number": 5})) is Order and it.model_copy() == order()
    for made in (it.to_object(), copy.copy(it), copy.deepcopy(it), pickle.loads(pickle.dumps(it))):
        assert type(made) is Order and made == order() and type(made.lines) is list
        assert made.model_fields_set == {"number", "key", "lines"}
    assert view(Express(number=1, key="k")).model_dump()["express"]["hours"] == 24
    assert Order.model_validate(it) == order() and Order.model_validate(it.model_dump()) == order()
    text = json.dumps({"it": it}, default=json_default)
    assert json.loads(text)["it"] == json.loads(order().model_dump_json())


def test_private_attributes_extras_and_the_fields_that_were_given() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        x: int = 1
        y: int = 2

    instance = Open(y=5, more=[1], other={"a": 1})  # type: ignore[call-arg]
    it = view(instance)
    assert it.more == [1] and it.model_extra == {"more": [1], "other": {"a": 1}}
    assert it == instance and it.to_object() == instance and "more=" in repr(it)
    assert it.model_fields_set == instance.model_fields_set == {"y", "more", "other"}
    assert it.model_dump(exclude_unset=True) == {"y": 5, "more": [1], "other": {"a": 1}}

    engine = engine_with(it=instance)
    engine.run(lambda tx: setattr(tx.domain.it, "fresh", 7))
    engine.run(lambda tx: tx.domain.it.more.append(2))
    engine.run(lambda tx: delattr(tx.domain.it, "other"))
    assert now(engine).model_extra == {"more": [1, 2], "fresh": 7}
    mine = order()
    mine._seen = 4
    mine._memo["a"] = 1
    assert view(mine)._seen == 4 and view(mine).to_object()._memo == {"a": 1}
    assert view(mine) == mine and view(mine) != order()


def test_generics_roots_cached_properties_and_frozen_models() -> None:
    class Box(BaseModel, Generic[T]):
        item: T

    class Names(RootModel[list[str]]):
        def __len__(self) -> int:
            return len(self.root)

    class Slow(BaseModel):
        x: int

        @functools.cached_property
        def double(self) -> int:
            return self.x * 2

    class Fixed(BaseModel):
        model_config = ConfigDict(frozen=True)
        x: int

    box = view(Box[int](item=1))
    assert isinstance(box, Box[int]) and box == Box[int](item=1) and Box[int](item=1) == box
    assert view(Box[Line](item=Line(sku="a"))).item.price() == 10
    names = engine_with(it=Names(["a"]))
    assert len(now(names)) == 1 and now(names).root == ["a"]
    names.run(lambda tx: tx.domain.it.root.append("b"))
    assert now(names).model_dump() == ["a", "b"]
    with pytest.raises(RecordError):
        names.run(lambda tx: tx.domain.it.root.append(5))
    slow = Slow(x=2)
    assert slow.double == 4
    engine = engine_with(it=slow)
    engine.run(lambda tx: setattr(tx.domain.it, "x", 5))
    assert now(engine).double == 10 and "double" not in vars(now(engine).to_object())
    assert view(slow) == slow
    assert hash(view(Fixed(x=1))) == hash(Fixed(x=1))


# ---- drafts ------------------------------------------------------------------------------------


def test_a_written_model_is_validated_at_commit_and_holds_what_validation_gives() -> None:
    engine = engine_with(it=order())

    def body(tx: Any) -> None:
        it = tx.domain.it
        it.number = "5"
        it.lines.append({"sku": "b", "count": "3"})
        it.add("c")
        assert isinstance(it, Order) and it.number == "5" and it._seen == 1

    engine.run(body)
    it = now(engine)
    assert it.number == 5 and it._seen == 1 and it.key == "k"
    assert [type(line.to_object()) for line in it.lines] == [Line] * 3 and it.lines[1].count == 3
    assert it.model_fields_set == {"number", "key", "lines"}
    engine.run(lambda tx: setattr(tx.domain.it, "note", "n"))
    assert now(engine).model_fields_set == {"number", "key", "lines", "note"}
    assert [change.path for change in engine.diff(2, 3)] == [("domain", "it", "note")]


def test_a_refusal_names_path_class_and_field() -> None:
    engine = engine_with(many=[order()], count=1)

    def body(tx: Any) -> None:
        tx.domain.count = 2
        tx.domain.many[0].number = -1

    with pytest.raises(
        RecordError, match=r"domain\.many\[0\](.|\n)*Order(.|\n)*number(.|\n)*negative"
    ) as caught:
        engine.run(body)
    assert isinstance(caught.value.__cause__, ValidationError) and engine.version == 1
    with pytest.raises(RecordError, match="valid integer"):
        engine.run(lambda tx: setattr(tx.domain.many[0].lines[0], "count", "many"))
    with pytest.raises(ValueError, match='"Order" object has no field "nope"'):
        engine.run(lambda tx: setattr(tx.domain.many[0], "nope", 1))
    with pytest.raises(AttributeError, match="cannot be deleted"):
        engine.run(lambda tx: delattr(tx.domain.many[0], "number"))
    assert pickle.loads(pickle.dumps(caught.value)).path == ("domain", "many", 0)


def test_defaults_are_not_made_anew_and_fields_not_written_stay_the_same() -> None:
    engine = engine_with(it=Order(number=1))
    key = now(engine).key
    engine.run(lambda tx: setattr(tx.domain.it, "number", 2))
    assert now(engine).key == key and now(engine).model_fields_set == {"number"}


def test_models_that_validate_across_fields_and_derive() -> None:
    class Span(BaseModel):
        start: int
        end: int
        length: int = 0

        @model_validator(mode="after")
        def check(self) -> Span:
            if self.start > self.end:
                raise ValueError("starts after its end")
            self.length = self.end - self.start
            return self

    engine = engine_with(it=Span(start=1, end=3))

    def move(tx: Any) -> None:
        tx.domain.it.start = 10
        tx.domain.it.end = 15

    engine.run(move)
    assert now(engine).length == 5
    with engine.transaction() as tx:
        tx.domain.it.start = 11
        engine.run(lambda other: setattr(other.domain.it, "end", 20), detached=True)
    assert (now(engine).start, now(engine).end, now(engine).length) == (11, 20, 9)
    with pytest.raises(RecordError, match="starts after its end"), engine.transaction() as tx:
        tx.domain.it.start = 19
        engine.run(lambda other: setattr(other.domain.it, "end", 12), detached=True)
    assert (now(engine).start, now(engine).end) == (11, 12)


def test_different_fields_do_not_conflict_even_when_both_become_given() -> None:
    engine = engine_with(it=Order(number=1))
    with engine.transaction() as tx:
        tx.domain.it.note = "mine"
        engine.run(lambda other: setattr(other.domain.it, "lines", [Line(sku="z")]), detached=True)
    assert now(engine).note == "mine" and now(engine).lines == [Line(sku="z")]
    assert now(engine).model_fields_set == {"number", "note", "lines"}
    with pytest.raises(ConflictError), engine.transaction() as tx:
        tx.domain.it.number += 1
        engine.run(lambda other: setattr(other.domain.it, "number", 9), detached=True)


def test_unions_are_told_apart_and_matched() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"] = "cat"
        lives: int = 9

    class Dog(BaseModel):
        kind: Literal["dog"] = "dog"
        weight: int = 1

    class Zoo(BaseModel):
        star: Cat | Dog = Field(discriminator="kind")
        others: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []

    engine = TheusEngine({"domain": {"zoo": Zoo(star=Cat(), others=[Dog()])}})

    def change(tx: Any) -> None:
        tx.domain.zoo.star = {"kind": "dog", "weight": "3"}
        tx.domain.zoo.others.append(Cat(lives=7))

    engine.run(change)
    zoo = engine.state["domain"]["zoo"]
    assert zoo == Zoo(star=Dog(weight=3), others=[Dog(), Cat(lives=7)])
    match zoo:
        case Zoo(star=Dog(weight=weight), others=[Dog(), Cat(lives=lives)]):
            assert (weight, lives) == (3, 7)
        case _:
            pytest.fail("no match")
    with pytest.raises(RecordError, match="fish"):
        engine.run(lambda tx: setattr(tx.domain.zoo, "star", {"kind": "fish"}))


def test_aliases_strictness_and_settings_of_the_model() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(strict=True, extra="forbid", validate_assignment=True)
        name: str = Field(alias="fullName")
        size: int = Field(default=1, validation_alias="howBig")
        fixed: int = Field(default=5, frozen=True)

    instance = Aliased(fullName="x", howBig=2)
    engine = engine_with(it=instance)
    assert now(engine) == instance and now(engine).model_dump(by_alias=True)["fullName"] == "x"
    engine.run(lambda tx: setattr(tx.domain.it, "name", "y"))
    assert now(engine).name == "y" and now(engine).size == 2
    with pytest.raises(RecordError, match="valid integer"):
        engine.run(lambda tx: setattr(tx.domain.it, "size", "3"))
    with pytest.raises(ValidationError, match="frozen"):
        engine.run(lambda tx: setattr(tx.domain.it, "fixed", 6))
    with pytest.raises(ValueError, match="more"):
        engine.run(lambda tx: setattr(tx.domain.it, "more", 6))

    class Fixed(BaseModel):
        model_config = ConfigDict(frozen=True)
        x: int
        tags: list[str] = []

    engine = engine_with(it=Fixed(x=1))
    with pytest.raises(ValidationError, match="frozen"):
        engine.run(lambda tx: setattr(tx.domain.it, "x", 2))
    engine.run(lambda tx: tx.domain.it.tags.append("a"))
    assert now(engine).tags == ["a"]


def test_own_setattr_getattr_and_property_setters() -> None:
    class Own(BaseModel):
        x: int = 0

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value * 2)

        def __getattr__(self, name: str) -> Any:
            if name == "answer":
                return 42
            return super().__getattr__(name)  # type: ignore[misc]

    class Setter(BaseModel):
        x: int = 0

        @property
        def half(self) -> int:
            return self.x // 2

        @half.setter
        def half(self, value: int) -> None:
            self.x = value * 2

    engine = engine_with(it=Own(), other=Setter())
    assert now(engine).answer == 42
    with pytest.raises(AttributeError):
        _ = now(engine).nothing

    def body(tx: Any) -> None:
        tx.domain.it.x = 4
        tx.domain.other.half = 4

    engine.run(body)
    assert now(engine).x == 8 and now(engine, "other").x == 8


def test_dataclasses_of_pydantic() -> None:
    @pydantic.dataclasses.dataclass
    class Point:
        x: int
        y: int = Field(default=2, gt=0)

    engine = engine_with(it=Point(1))
    assert now(engine) == Point(1) and Point(1) == now(engine)
    engine.run(lambda tx: setattr(tx.domain.it, "x", "5"))
    assert now(engine) == Point(5) and type(now(engine).x) is int
    with pytest.raises(RecordError, match="greater than 0"):
        engine.run(lambda tx: setattr(tx.domain.it, "y", -1))


def test_models_beside_and_inside_dataclasses() -> None:
    import dataclasses

    @dataclasses.dataclass
    class Cart:
        order: Order
        by: dict[str, Line]

    class Shop(BaseModel):
        cart: Cart
        lines: tuple[Line, ...] = ()

    cart = Cart(order(), {"a": Line(sku="a")})
    shop = Shop(cart=cart, lines=(Line(sku="t"),))
    engine = engine_with(cart=cart, shop=shop)
    engine.run(lambda tx: setattr(tx.domain.cart.order, "number", "7"))
    assert now(engine, "cart").order.number == 7 and isinstance(now(engine, "cart").by["a"], Line)
    engine.run(lambda tx: tx.domain.shop.cart.order.add("z"))
    it = now(engine, "shop")
    assert it.cart.order.lines[1].sku == "z" and is_record(it.lines[0]) and it.cart.order._seen == 1
    assert type(it.to_object().cart) is Cart and type(it.to_object().lines[0]) is Line


def test_rebuilding_a_model_changes_what_is_known_of_it() -> None:
    Late = pydantic.create_model("Late", x=(int, 1))
    engine = engine_with(it=Late())
    Late.__pydantic_fields__ = {
        **Late.__pydantic_fields__,
        "y": pydantic.fields.FieldInfo(annotation=int, default=2),
    }
    Late.model_rebuild(force=True)
    assert now(engine).x == 1 and not hasattr(now(engine), "y")
    engine.run(lambda tx: setattr(tx.domain.it, "x", 5))
    assert now(engine).x == 5 and now(engine).to_object().y == 2
    engine.run(lambda tx: setattr(tx.domain, "it", Late(y=6)))
    assert now(engine).y == 6


# ---- refusals -----------------------------------------------------------------------------------


def test_models_of_pydantic_1_are_refused() -> None:
    class Old:
        __fields__: dict[str, Any] = {}
        __validators__: dict[str, Any] = {}

    with pytest.raises(UnfreezableError, match="Pydantic 1"):
        freeze({"a": Old()})
    if sys.version_info < (3, 14):
        import pydantic.v1

        with pytest.raises(UnfreezableError, match="Pydantic 1"):
            freeze(pydantic.v1.create_model("Older", x=1)())


def test_another_package_of_that_name_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for main in (None, types.SimpleNamespace(), types.SimpleNamespace(BaseModel=5)):
        monkeypatch.setitem(sys.modules, "pydantic.main", main)
        with pytest.raises(UnfreezableError):
            FrozenDict(a=types.SimpleNamespace())


def test_what_a_model_holds_must_be_storable() -> None:
    class Any_(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        thing: Any

    with pytest.raises(UnfreezableError) as caught:
        freeze({"a": Any_(thing=[bytearray()])})
    assert caught.value.path == ("a", "thing", 0)


# ---- values of Pydantic's own types ------------------------------------------------------------


class Access(BaseModel):
    token: pydantic.SecretStr
    raw: pydantic.SecretBytes
    site: pydantic.HttpUrl
    store: pydantic.PostgresDsn
    limit: pydantic.ByteSize


def access() -> Access:
    return Access.model_validate(
        {
            "token": "t0p",
            "raw": b"t0p",
            "site": "https://example.org/x",
            "store": "postgresql://me@host/db",
            "limit": "2kb",
        }
    )


def test_secrets_addresses_and_sizes_are_values() -> None:
    """Nothing that they offer changes them, so a state holds the very objects."""
    engine = TheusEngine({"domain": {"access": access()}})
    held = engine.state["domain"]["access"]
    assert held == access() and held.token.get_secret_value() == "t0p"
    assert held.site.host == "example.org" and held.limit == 2000
    assert "t0p" not in repr(engine.state.data) and "t0p" not in str(held)
    engine.run(lambda tx: tx.set("domain.access.token", pydantic.SecretStr("new")))
    assert engine.state["domain"]["access"].token == pydantic.SecretStr("new")
    assert pickle.loads(pickle.dumps(engine.state))["domain"]["access"].raw == held.raw


def test_a_secret_of_anything_says_what_to_store() -> None:
    with pytest.raises(UnfreezableError, match=r"store value\.get_secret_value\(\), or a"):
        freeze({"a": pydantic.Secret[list]([1])})

    class Loose(pydantic.SecretStr):
        """A class of the program's own may offer more: of that nothing is known."""

    with pytest.raises(UnfreezableError, match="get_secret_value"):
        freeze({"a": Loose("x")})
