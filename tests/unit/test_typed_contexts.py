"""The base classes of typed contexts, their locks, and what older programs import."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence, Set
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest

from helpers import run_fresh, run_threads
from theus import TheusEngine, process
from theus.context import BaseDomainContext, BaseGlobalContext, BaseSystemContext
from theus.errors import LockViolationError
from theus.locks import LockManager
from theus.zones import ContextZone


@dataclass
class Shop(BaseDomainContext):
    price: int = 1
    rows: list[int] = field(default_factory=list)
    log_events: list[str] = field(default_factory=list)

    def raise_price(self, by: int) -> None:
        self.price += by


@dataclass
class Limits(BaseGlobalContext):
    most: int = 10


@dataclass
class System(BaseSystemContext):
    global_ctx: Limits = field(default_factory=Limits)
    domain: Shop = field(default_factory=Shop)


# ---- locks ----------------------------------------------------------------------------


def test_a_typed_context_written_outside_a_transaction_raises() -> None:
    """Weakness 30: the lock was attached by nobody."""
    system = System()
    system.domain.price = 2  # nobody has it yet
    engine = TheusEngine(system)
    for act in (
        lambda: setattr(system.domain, "price", 5),
        lambda: system.domain.raise_price(1),
        lambda: delattr(system.domain, "rows"),
        lambda: setattr(system.global_ctx, "most", 5),
        lambda: setattr(system, "domain", Shop()),
    ):
        with pytest.raises(LockViolationError, match="outside a transaction"):
            act()
    assert system.domain.price == 2 and engine.state["domain"].price == 2
    engine.run(lambda tx: tx.domain.raise_price(3))

    @process(inputs=["domain"], outputs=["domain"])
    def body(ctx: Any) -> None:
        ctx.domain.price += 1
        ctx.domain.raise_price(1)

    engine.run_process(body)
    with engine.edit() as ctx:
        ctx.domain.price += 1
    assert engine.state["domain"].price == 8
    copied = engine.state["domain"].to_object()
    copied.price = 100  # a copy is the caller's
    assert type(copied) is Shop and engine.state["domain"].price == 8


def test_without_strict_guards_it_is_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="theus")
    system = System()
    TheusEngine(system, strict_guards=False)
    system.domain.price = 5
    assert system.domain.price == 5
    assert "Shop.price was written outside a transaction" in caplog.text


def test_the_lock_can_be_opened_by_a_thread_for_itself() -> None:
    system = System()
    engine = TheusEngine(system)
    assert engine.lock_manager is not None

    def other() -> None:
        with pytest.raises(LockViolationError):
            system.domain.price = 7

    with engine.lock_manager.unlock():
        with engine.lock_manager.unlock():  # the original one hung here
            system.domain.price = 6
        system.domain.price = 7
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    with pytest.raises(LockViolationError) as caught:
        system.domain.price = 8
    assert (caught.value.name, caught.value.context) == ("price", "Shop")


def test_a_lock_manager_by_itself() -> None:
    strict = LockManager(strict_mode=True)
    assert strict.strict_guards and strict.strict_mode and not LockManager().strict_guards
    with pytest.raises(LockViolationError):
        strict.validate_write("x", object())
    with pytest.raises(ZeroDivisionError), strict.unlock():
        strict.validate_write("x", object())
        1 / 0  # noqa: B018
    with pytest.raises(LockViolationError):
        strict.validate_write("x", object())
    inside: list[int] = []

    def one(index: int) -> None:
        with strict.unlock():
            inside.append(index)
            assert len(inside) == 1
            strict.validate_write("x", object())
            inside.remove(index)

    run_threads(8, one)


@dataclass
class Address(BaseDomainContext):
    city: str = "Ulm"


@dataclass
class Plain:
    address: Address = field(default_factory=Address)


@dataclass
class Customer(BaseDomainContext):
    address: Address = field(default_factory=Address)
    others: list[Any] = field(default_factory=lambda: [Address(), (Address(),)])
    by_name: dict[str, Any] = field(default_factory=lambda: {"ann": {"home": Address()}})
    plain: Plain = field(default_factory=Plain)


def test_contexts_inside_a_context_are_locked_too() -> None:
    customer = Customer()
    customer.others.append(customer)  # a circle does not end the search
    customer.others.pop()
    customer.plain.__dict__["back"] = customer
    del customer.plain.__dict__["back"]
    engine = TheusEngine(System(domain=customer))  # type: ignore[arg-type]
    inner = [
        customer.address,
        customer.others[0],
        customer.others[1][0],
        customer.by_name["ann"]["home"],
        customer.plain.address,
    ]
    for address in inner:
        with pytest.raises(LockViolationError, match=r"Address\.city"):
            address.city = "Rom"
        assert address.city == "Ulm"
    engine.run(lambda tx: setattr(tx.domain.address, "city", "Rom"))
    mine = engine.state["domain"].to_object()
    mine.address.city = "Bern"
    assert engine.state["domain"].address.city == "Rom" and customer.address.city == "Ulm"


def test_the_lock_follows_strict_guards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="theus")
    system = System()
    engine = TheusEngine(system)
    assert caplog.text == ""
    engine.strict_guards = False
    engine.strict_mode = False
    assert caplog.text.count("processes may read what they have not declared") == 1
    system.domain.price = 5
    assert "Shop.price was written outside a transaction" in caplog.text
    engine.strict_guards = True
    with pytest.raises(LockViolationError):
        system.domain.price = 6


# ---- given back as a whole ----------------------------------------------------------------


def test_a_typed_context_is_given_back_typed() -> None:
    engine = TheusEngine(System(domain=Shop(rows=[1])))

    @process(outputs=["domain.rows", "global.most"])
    def body(ctx: Any) -> None:
        ctx.domain.rows.append(2)
        ctx.global_.most = 11

    engine.run_process(body)
    system = engine.to_object()
    assert type(system) is System and system == System(Limits(11), Shop(rows=[1, 2]))
    system.domain.rows.append(3)
    system.domain.price = 9  # the caller's own, and not locked
    assert engine.state["domain"].rows == [1, 2] and engine.to_object().domain.price == 1
    assert engine.to_object(engine.state.at(1)) == System(domain=Shop(rows=[1]))
    again = TheusEngine(engine.to_object())
    assert again.state.data == engine.state.data
    engine.run(lambda tx: tx.set("extra", [{"a": 1}]))
    assert engine.to_object().extra == [{"a": 1}]


def test_other_contexts_are_given_back_as_a_dict() -> None:
    engine = TheusEngine({"domain": Shop(), "rows": [{"a": {1}}]})
    given = engine.to_object()
    assert given == {"domain": Shop(), "rows": [{"a": {1}}]} and type(given["rows"][0]) is dict
    given["rows"].append(1)
    assert engine.state["rows"] == [{"a": {1}}] and TheusEngine().to_object() == {}


def test_a_class_without_room_for_a_root_says_so() -> None:
    @dataclass(slots=True)
    class Tight:
        domain: dict[str, int]

    engine = TheusEngine(Tight({"a": 1}))
    assert engine.to_object() == Tight({"a": 1})
    engine.run(lambda tx: tx.set("more", 1))
    with pytest.raises(TypeError, match=r"root 'more', and instances of .*Tight have no room"):
        engine.to_object()


def test_a_model_is_given_back_as_a_model() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):  # type: ignore[misc,name-defined]
        n: int = 0

    class Whole(pydantic.BaseModel):  # type: ignore[misc,name-defined]
        model_config = pydantic.ConfigDict(extra="allow")
        domain: Inner
        global_: dict[str, int] = {}

    engine = TheusEngine(Whole(domain=Inner(n=1), global_={"a": 1}))
    engine.run(lambda tx: tx.set("domain.n", 2))
    engine.run(lambda tx: tx.set("more", [1]))
    whole = engine.to_object()
    assert type(whole) is Whole and type(whole.domain) is Inner
    assert whole.model_dump() == {"domain": {"n": 2}, "global_": {"a": 1}, "more": [1]}


def test_one_context_may_begin_two_engines() -> None:
    system = System()
    first, second = TheusEngine(system), TheusEngine(system)
    first.run(lambda tx: setattr(tx.domain, "price", 5))
    assert (first.state["domain"].price, second.state["domain"].price) == (5, 1)


# ---- base classes ---------------------------------------------------------------------


def test_dicts_and_zones_of_a_context() -> None:
    system = System()
    assert system.domain.get_zone("log_events") is ContextZone.LOG
    assert system.to_dict() == {"global_ctx": {"most": 10}, "domain": {"price": 1, "rows": []}}
    assert system.to_dict(())["domain"]["log_events"] == []
    assert system.domain.to_dict([ContextZone.DATA]) == {"log_events": []}
    system.from_dict({"domain": {"price": 3}, "global_ctx": {"most": 4, "least": 1}, "extra": 1})
    assert (system.domain.price, system.global_ctx.most) == (3, 4)
    assert (system.global_ctx.least, system.extra) == (1, 1)  # type: ignore[attr-defined]
    state = TheusEngine(system).state
    assert state["global"].most == 4 and state["extra"] == 1
    assert BaseSystemContext() == BaseSystemContext(None, None)
    assert TheusEngine(BaseSystemContext()).state.to_dict() == {"domain": {}, "global": {}}


def test_every_field_of_a_context_arrives() -> None:
    """Weakness 24: fields of the zones LOG, META, HEAVY and SIGNAL were dropped."""
    system = System()
    system.domain.log_events.append("made")
    engine = TheusEngine(system)
    assert engine.state["domain"].log_events == ["made"]
    assert engine.state["global"].most == 10


# ---- names, and what views count as -----------------------------------------------------


def test_unknown_names_are_attribute_errors() -> None:
    for module in ("theus", "theus.context", "theus.interop", "theus.structures"):
        with pytest.raises(AttributeError, match="no_such_thing"):
            getattr(import_module(module), "no_such_thing")  # noqa: B009


def test_refusals_are_caught_by_either_old_except() -> None:
    engine = TheusEngine({"domain": {"const_k": 1}})

    @process(outputs=["domain.const_k"])
    def body(ctx: Any) -> None:
        ctx.domain.const_k = 2

    from theus.engine import SecurityViolationError

    for kind in (PermissionError, SecurityViolationError):
        with pytest.raises(kind):
            engine.run_process(body)


def test_guards_and_views_count_as_what_they_are_from_the_import_on() -> None:
    code = """
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet, Sequence, Set
from theus import TheusEngine, process
engine = TheusEngine({"domain": {"m": {}, "l": [], "s": {1}}})
state = engine.state["domain"]
assert isinstance(state, Mapping) and isinstance(state["l"], Sequence)
assert isinstance(state["s"], Set)
@process(inputs=["domain.m", "domain.l", "domain.s"], outputs=["domain.l"])
def body(ctx):
    assert isinstance(ctx.domain, MutableMapping) and isinstance(ctx.domain.m, Mapping)
    assert isinstance(ctx.domain.l, MutableSequence) and isinstance(ctx.domain.s, MutableSet)
    match ctx.domain.l:
        case []: pass
        case _: assert False
engine.run_process(body)
"""
    assert run_fresh(code) == ""
    assert issubclass(type(TheusEngine({"domain": {}}).state["domain"]), Mapping)
    assert not issubclass(type(TheusEngine({"domain": {}}).state["domain"]), MutableMapping)
    assert Sequence in MutableSequence.__mro__ and Set is not Sequence


def test_pydantic_validates_what_a_process_sees() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[misc,name-defined]
        a: int
        rows: list[int]

    engine = TheusEngine({"domain": {"a": 1, "rows": [1, 2], "internal_s": "secret"}})
    for semantic in ("effect", "pure", "guide"):

        @process(inputs=[] if semantic == "guide" else ["domain"], semantic=semantic)
        def body(ctx: Any) -> None:
            found = Model.model_validate(ctx.domain)
            assert (found.a, found.rows) == (1, [1, 2])

        engine.run_process(body)


def test_the_encoder() -> None:
    from theus import TheusEncoder

    class Thing:
        def to_dict(self) -> dict[str, int]:
            return {"x": 1}

    engine = TheusEngine({"domain": {"rows": [{"a": 1}], "tags": {"t"}, "internal_s": "secret"}})
    assert json.dumps({"t": Thing()}, cls=TheusEncoder) == '{"t": {"x": 1}}'

    @process(inputs=["domain"])
    def body(ctx: Any) -> str:
        return json.dumps(ctx.domain, cls=TheusEncoder)

    assert engine.run_process(body) == '{"rows": [{"a": 1}], "tags": ["t"]}'
    with pytest.raises(TypeError, match="no form in JSON"):
        json.dumps(object(), cls=TheusEncoder)
