"""Drafts of records: what is written, what conflicts, and what the class says at commit."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, InitVar, dataclass, field
from typing import Any

import pytest

from theus import (
    DELETE,
    ConflictError,
    ContractViolationError,
    FrozenDict,
    FrozenError,
    PathError,
    RecordError,
    StateUpdate,
    TheusEngine,
    TransactionError,
    UnfreezableError,
    process,
)
from theus._theus import is_record, record_discard, record_store


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass
class Order:
    number: int
    note: str = ""
    lines: list[Line] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        return sum(line.count for line in self.lines)

    @property
    def title(self) -> str:
        return self.note.upper()

    @title.setter
    def title(self, text: str) -> None:
        self.note = text.lower()

    def add(self, sku: str, count: int = 1) -> Order:
        self.lines.append(Line(sku, count))
        self.number += count
        return self


CHECKS: list[Area] = []


@dataclass
class Area:
    """Says no, and derives a field."""

    width: int
    height: int
    area: int = field(init=False)
    uses: int = field(init=False, default=0)
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        CHECKS.append(self)
        if self.width + self.height > 10:
            raise ValueError(f"{self.width} + {self.height} is more than 10")
        self.area = self.width * self.height


@pytest.fixture(autouse=True)
def no_checks() -> None:
    CHECKS.clear()


def engine_with(**content: Any) -> TheusEngine:
    engine = TheusEngine({"domain": content})
    CHECKS.clear()
    return engine


def now(engine: TheusEngine, name: str = "it") -> Any:
    return engine.state["domain"][name]


# ---- writing --------------------------------------------------------------------------------


def test_a_draft_is_an_instance_and_its_methods_write() -> None:
    engine = engine_with(it=Order(1))

    def body(tx: Any) -> None:
        it = tx.domain.it
        assert isinstance(it, Order) and is_record(it) and it.__class__ is Order
        assert it.add("a", 2) is it
        it.title = "LOUD"
        it.marks.add("x")
        it.lines[0].count += 1
        it.lines.append(Line("b"))
        assert (it.number, it.note, it.title, it.size) == (3, "loud", "LOUD", 4)
        assert it == Order(3, "loud", [Line("a", 3), Line("b")], {"x"}) and Order(1) != it
        assert "Line(sku='a', count=3)" in repr(it) and "number" in dir(it)

    engine.run(body)
    assert now(engine) == Order(3, "loud", [Line("a", 3), Line("b")], {"x"})
    assert type(now(engine).to_object()) is Order


def test_names_that_the_class_does_not_have_are_refused() -> None:
    engine = engine_with(it=Order(1))

    def body(tx: Any) -> None:
        for change in (
            lambda: setattr(tx.domain.it, "numbre", 1),
            lambda: setattr(tx.domain.it, "add", 1),
            lambda: setattr(tx.domain.it, "__class__", Line),
            lambda: setattr(tx.domain.it, "size", 1),
            lambda: delattr(tx.domain.it, "number"),
            lambda: delattr(tx.domain.it, "nothing"),
            lambda: tx.domain.it.nothing,
        ):
            with pytest.raises(AttributeError):
                change()
        with pytest.raises(AttributeError, match=r"Order has no field 'numbre'"):
            tx.domain.it.numbre = 1

    engine.run(body)
    assert engine.version == 1


def test_what_is_stored_must_be_storable_and_the_path_is_named() -> None:
    engine = engine_with(it=Order(1))
    with pytest.raises(UnfreezableError) as caught:
        engine.run(lambda tx: setattr(tx.domain.it, "note", [bytearray()]))
    assert caught.value.path == ("domain", "it", "note", 0)


def test_an_attribute_beside_the_fields_can_be_written_and_deleted() -> None:
    instance = Order(1)
    instance.__dict__["beside"] = 1
    engine = engine_with(it=instance)
    engine.run(lambda tx: setattr(tx.domain.it, "beside", 2))
    assert now(engine).beside == 2
    engine.run(lambda tx: delattr(tx.domain.it, "beside"))
    assert not hasattr(now(engine), "beside")


def test_replacing_a_record_and_mixing_kinds() -> None:
    engine = engine_with(it=Order(1), other={"number": 2})

    def body(tx: Any) -> None:
        tx.domain.it = Line("a")
        tx.domain.it.count = 5
        tx.domain.other = Order(3)
        tx.domain.other.note = "n"
        tx.domain.more = [Order(4)]
        tx.domain.more[0].number += 1

    engine.run(body)
    assert now(engine) == Line("a", 5) and now(engine, "other") == Order(3, "n")
    assert now(engine, "more") == [Order(5)]
    changes = engine.diff(1, 2)
    assert [(it.path, it.new) for it in changes] == [
        (("domain", "it"), Line("a", 5)),
        (("domain", "other"), Order(3, "n")),
        (("domain", "more"), [Order(5)]),
    ]


def test_storing_a_draft_copies_it() -> None:
    engine = engine_with(it=Order(1))

    def body(tx: Any) -> None:
        tx.domain.it.note = "first"
        tx.domain.other = tx.domain.it
        tx.domain.it.note = "second"
        tx.domain.it = tx.domain.it
        made = tx.domain.it.to_object()
        made.note = "mine"
        for other in (copy.copy(tx.domain.it), pickle.loads(pickle.dumps(tx.domain.it))):
            assert type(other) is Order and other.note == "second"

    engine.run(body)
    assert now(engine).note == "second" and now(engine, "other").note == "first"


def test_drafts_end_with_their_transaction() -> None:
    engine = engine_with(it=Order(1))
    kept: list[Any] = []
    engine.run(lambda tx: kept.append(tx.domain.it))
    (it,) = kept
    assert isinstance(it, Order)
    for use in (
        lambda: it.number,
        lambda: setattr(it, "number", 1),
        lambda: it.size,
        lambda: it.to_object(),
    ):
        with pytest.raises(TransactionError):
            use()
    with engine.transaction(read_only=True) as tx:
        assert tx.domain.it.number == 1
        with pytest.raises(TransactionError, match="read-only"):
            tx.domain.it.number = 2


def test_returned_drafts_are_views() -> None:
    engine = engine_with(it=Order(1))
    given = engine.run(lambda tx: tx.domain.it.add("a"))
    assert is_record(given) and given == now(engine) == Order(2, lines=[Line("a")])


def test_savepoints_undo() -> None:
    engine = engine_with(it=Area(1, 2))

    def body(tx: Any) -> None:
        tx.domain.it.width = 2
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            tx.domain.it.height = 100
            raise ZeroDivisionError
        assert (tx.domain.it.width, tx.domain.it.height) == (2, 2)

    engine.run(body)
    assert now(engine).area == 4


# ---- conflicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_different_fields_do_not_conflict_and_the_same_does(isolation: str) -> None:
    engine = engine_with(it=Order(1))
    with engine.transaction(isolation=isolation) as tx:
        tx.domain.it.number = 5
        engine.run(lambda other: setattr(other.domain.it, "note", "other"), detached=True)
        engine.run(lambda other: other.domain.it.marks.add("x"), detached=True)
    assert now(engine) == Order(5, "other", marks={"x"})
    with pytest.raises(ConflictError) as caught, engine.transaction(isolation=isolation) as tx:
        tx.domain.it.number += 1
        engine.run(lambda other: setattr(other.domain.it, "number", 9), detached=True)
    assert caught.value.path == ("domain", "it", "number")


def test_calling_a_method_reads_only_the_fields_that_it_reads() -> None:
    engine = engine_with(it=Order(1))
    with engine.transaction() as tx:
        tx.domain.it.add("a")
        tx.domain.seen = tx.domain.it.title
        engine.run(lambda other: other.domain.it.marks.add("x"), detached=True)
    assert now(engine) == Order(2, lines=[Line("a")], marks={"x"})


def test_replacing_the_record_conflicts_with_writing_a_field() -> None:
    engine = engine_with(it=Order(1))
    with pytest.raises(ConflictError), engine.transaction() as tx:
        tx.domain.it.number = 5
        engine.run(lambda other: setattr(other.domain, "it", Order(2)), detached=True)


# ---- the class at commit ----------------------------------------------------------------------


def test_a_written_record_is_built_anew_and_its_derived_fields_follow() -> None:
    engine = engine_with(it=Area(2, 3))

    def body(tx: Any) -> None:
        tx.domain.it.width = 4
        tx.domain.it.uses += 1
        assert tx.domain.it.area == 6

    engine.run(body)
    assert (now(engine).area, now(engine).uses) == (12, 1) and len(CHECKS) == 1
    engine.run(lambda tx: setattr(tx.domain.it, "width", 1))
    assert (now(engine).area, now(engine).uses) == (3, 1)


def test_a_refusal_names_path_and_class_and_publishes_nothing() -> None:
    engine = engine_with(many={"a": [Area(1, 1)]}, count=1)

    def body(tx: Any) -> None:
        tx.domain.count = 2
        tx.domain.many["a"][0].width = 50

    with pytest.raises(RecordError, match=r"domain\.many\.a\[0\].*Area.*50 \+ 1 is more") as caught:
        engine.run(body)
    error = caught.value
    assert error.path == ("domain", "many", "a", 0) and error.record_class.endswith(".Area")
    assert isinstance(error.__cause__, ValueError) and error.reason == "50 + 1 is more than 10"
    assert isinstance(error, ValueError)
    assert engine.version == 1 and now(engine, "count") == 1
    assert len(CHECKS) == 1, "no retry: the next attempt would say the same"


def test_what_was_not_written_is_not_validated() -> None:
    engine = engine_with(a=Area(1, 1), b=Area(2, 2), c=1)

    def body(tx: Any) -> None:
        tx.domain.c = tx.domain.a.area + tx.domain.b.area
        tx.domain.b.height = 3

    engine.run(body)
    assert [it.height for it in CHECKS] == [3]


def test_writing_below_a_record_validates_it() -> None:
    engine = engine_with(it=Area(1, 1))
    engine.run(lambda tx: tx.domain.it.tags.append("x"))
    assert [it.tags for it in CHECKS] == [["x"]] and now(engine).tags == ["x"]


def test_records_inside_a_record_are_validated_first() -> None:
    engine = engine_with(it=Order(1), box=[Area(1, 1)])
    engine.run(lambda tx: setattr(tx.domain.it, "note", Area(2, 2)))
    CHECKS.clear()
    engine.run(lambda tx: setattr(tx.domain.it.note, "width", 3))
    assert now(engine).note.area == 6 and len(CHECKS) == 1


def test_an_invariant_over_two_fields_holds_whoever_writes_them() -> None:
    """Two transactions that write different fields do not conflict; the class sees both."""
    engine = engine_with(it=Area(1, 1))
    with pytest.raises(RecordError, match="8 \\+ 7 is more"), engine.transaction() as tx:
        tx.domain.it.width = 8
        engine.run(lambda other: setattr(other.domain.it, "height", 7), detached=True)
    assert (now(engine).width, now(engine).height) == (1, 7)
    with engine.transaction() as tx:
        tx.domain.it.width = 2
        engine.run(lambda other: setattr(other.domain.it, "height", 3), detached=True)
    assert (now(engine).width, now(engine).height, now(engine).area) == (2, 3, 6)


@dataclass
class Meddler:
    x: int = 0
    y: int = 0

    def __post_init__(self) -> None:
        while MEDDLING:
            MEDDLING.pop()()


MEDDLING: list[Any] = []


def test_the_class_runs_without_a_lock_and_again_when_others_commit_meanwhile() -> None:
    engine = engine_with(it=Meddler(), log=[])

    def other() -> None:
        engine.run(lambda tx: setattr(tx.domain.it, "y", 7), detached=True)
        MEDDLING.append(lambda: seen.append("again"))

    seen: list[str] = []
    MEDDLING.append(other)
    engine.run(lambda tx: setattr(tx.domain.it, "x", 5))
    assert now(engine) == Meddler(5, 7) and seen == ["again"]


def test_the_class_cannot_use_the_transaction_that_it_judges() -> None:
    engine = engine_with(it=Meddler())
    caught: list[BaseException] = []

    def body(tx: Any) -> None:
        def use() -> None:
            try:
                tx.domain.it.y = 1
            except TransactionError as error:
                caught.append(error)

        tx.domain.it.x = 1
        MEDDLING.append(use)
        tx.domain.other = tx.domain.it
        assert len(caught) == 1
        MEDDLING.append(use)

    engine.run(body)
    assert len(caught) == 2 and now(engine) == Meddler(1, 0) == now(engine, "other")


def test_an_interrupt_goes_through_as_it_is() -> None:
    engine = engine_with(it=Meddler())

    def stop() -> None:
        raise KeyboardInterrupt

    def body(tx: Any) -> None:
        tx.domain.it.x = 1
        MEDDLING.append(stop)

    with pytest.raises(KeyboardInterrupt):
        engine.run(body)
    assert engine.version == 1


def test_no_copy_of_an_unchecked_draft_slips_through() -> None:
    def assigned(tx: Any) -> None:
        tx.domain.other = tx.domain.it

    def inside(tx: Any) -> None:
        tx.domain.other = {"all": tx.domain}

    def appended(tx: Any) -> None:
        tx.domain.list.append(tx.domain.it)

    def updated(tx: Any) -> None:
        tx.domain.update(tx.domain.holder)

    def frozen(tx: Any) -> None:
        tx.domain.other = tx.domain.it.freeze()

    def returned(tx: Any) -> Any:
        return tx.domain.it

    for way in (assigned, inside, appended, updated, frozen, returned):
        engine = engine_with(it=Area(1, 1), list=[], holder={"new": Area(1, 1)})

        def body(tx: Any, way: Any = way) -> Any:
            tx.domain.it.width = tx.domain.holder["new"].width = 50
            with pytest.raises(RecordError):
                way(tx)
            if way is not returned:
                del tx.domain["it"]
                tx.domain.holder["new"].width = 5

        if way is returned:
            with pytest.raises(RecordError):
                engine.run(lambda tx: (setattr(tx.domain.it, "width", 50), tx.domain.it)[1])
        else:
            engine.run(body)
            assert "other" not in engine.state["domain"] and not now(engine, "list")


def test_to_object_and_eq_show_a_draft_as_it_is_without_validating() -> None:
    engine = engine_with(it=Area(1, 1))
    with pytest.raises(RecordError), engine.transaction() as tx:
        tx.domain.it.width = 50
        assert tx.domain.it.to_object().width == 50 and "width=50" in repr(tx.domain.it)
        assert tx.domain.it != Area(1, 1) and not CHECKS[1:]


# ---- InitVar, frozen, own __setattr__ ------------------------------------------------


@dataclass
class NeedsInit:
    x: int
    rate: InitVar[int]
    y: int = 0

    def __post_init__(self, rate: int) -> None:
        self.y = self.x * rate


@dataclass
class DefaultInit:
    x: int
    rate: InitVar[int] = 3
    y: int = 0

    def __post_init__(self, rate: int) -> None:
        self.y = self.x * rate


def test_init_vars() -> None:
    engine = engine_with(a=NeedsInit(1, 2), b=DefaultInit(1, 2))
    with pytest.raises(RecordError, match="InitVar 'rate'.*whole new instance"):
        engine.run(lambda tx: setattr(tx.domain.a, "x", 5))
    engine.run(lambda tx: setattr(tx.domain, "a", NeedsInit(5, 2)))
    engine.run(lambda tx: setattr(tx.domain.b, "x", 5))
    assert now(engine, "a").y == 10 and now(engine, "b").y == 15


@dataclass(frozen=True)
class Fixed:
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FixedSlots:
    x: int


@pytest.mark.parametrize("instance", [Fixed(1), FixedSlots(1)], ids=["dict", "slots"])
def test_a_frozen_class_refuses_in_its_own_words(instance: Any) -> None:
    engine = engine_with(it=instance)

    def body(tx: Any) -> None:
        for change in (
            lambda: setattr(tx.domain.it, "x", 2),
            lambda: setattr(tx.domain.it, "new", 2),
            lambda: tx.set(("domain", "it", "x"), 2),
            lambda: tx.update(data={"domain": {"it": {"x": 2}}}),
        ):
            with pytest.raises((FrozenInstanceError, TypeError)) as caught:
                change()
            assert "cannot assign" in str(caught.value) or isinstance(caught.value, TypeError)
        with pytest.raises(TransactionError, match="deferred"):
            tx.add(("domain", "it", "x"), 1)
        tx.domain.it = dataclasses.replace(tx.domain.it.to_object(), x=3)

    engine.run(body)
    assert now(engine).x == 3


def test_what_a_frozen_instance_holds_can_be_written() -> None:
    """As with the instance itself: only its fields are fixed."""
    engine = engine_with(it=Fixed(1))
    engine.run(lambda tx: tx.domain.it.tags.append("a"))
    assert now(engine) == Fixed(1, ["a"])


@dataclass
class Upper:
    text: str
    writes: int = 0
    log: list[str] = field(default_factory=list)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "text":
            value = value.upper()
            self.__dict__["writes"] = self.__dict__.get("writes", 0) + 1
            self.__dict__.setdefault("log", []).append(value)
        super().__setattr__(name, value)


def test_a_setattr_of_the_class_runs_on_an_instance_and_its_changes_are_stored() -> None:
    engine = engine_with(it=Upper("a"))
    before = now(engine).to_object()

    def body(tx: Any) -> None:
        tx.domain.it.text = "new"
        assert tx.domain.it.text == "NEW"
        tx.domain.it.writes = 10

    engine.run(body)
    assert now(engine).text == "NEW" and now(engine).writes == 10
    assert now(engine).log == [*before.log, "NEW"]


@dataclass
class Behind:
    x: int

    @property  # type: ignore[no-redef]
    def x(self) -> int:
        return self._x  # type: ignore[no-any-return, has-type]

    @x.setter
    def x(self, value: int) -> None:
        if value < 0:
            raise ValueError("negative")
        self._x = value


def test_a_field_behind_a_property_is_written_by_its_setter() -> None:
    engine = engine_with(it=Behind(1))
    engine.run(lambda tx: setattr(tx.domain.it, "x", 5))
    assert now(engine).x == 5
    with pytest.raises(ValueError, match="negative"):
        engine.run(lambda tx: setattr(tx.domain.it, "x", -5))


@dataclass(slots=True)
class Slotted:
    x: int = 1
    y: int = 2

    def bump(self) -> None:
        self.x += 1


def test_slots() -> None:
    engine = engine_with(it=Slotted())
    engine.run(lambda tx: tx.domain.it.bump())
    assert now(engine) == Slotted(2)
    with pytest.raises(AttributeError):
        engine.run(lambda tx: setattr(tx.domain.it, "z", 5))


def test_a_record_whose_class_has_changed_is_not_written() -> None:
    @dataclass
    class Shape:
        x: int

        def __post_init__(self) -> None:
            pass

    engine = engine_with(it=Shape(1))
    Shape.__annotations__ = {"x": int, "z": int}
    for name in ("__init__", "__repr__", "__eq__"):
        delattr(Shape, name)
    dataclass(Shape)
    with pytest.raises(RecordError, match="fields of the class have changed"):
        engine.run(lambda tx: setattr(tx.domain.it, "x", 2))


# ---- by path ------------------------------------------------------------------------------------


def test_paths_lead_through_records_by_field() -> None:
    engine = engine_with(it=Order(1, lines=[Line("a")]))

    def body(tx: Any) -> None:
        assert tx.get(("domain", "it", "number")) == 1
        assert tx.get("domain.it.lines[0].sku") == "a"
        assert tx.get(("domain", "it", "nothing"), 5) == 5 and tx.get(("domain", "it", 0)) is None
        tx.set(("domain", "it", "number"), 2)
        tx.set(("domain", "it", "title"), "TITLE")
        tx.update(data={"domain": {"it": {"marks": {"m"}}}})
        tx.add(("domain", "it", "number"), 10)
        tx.append(("domain", "it", "lines"), Line("b"))
        tx.merge(("domain", "it", "note"), "!", lambda old, new: old + new)
        with pytest.raises(AttributeError, match="no field 'nope'"):
            tx.set(("domain", "it", "nope"), 2)
        with pytest.raises(TypeError, match="named by a str"):
            tx.set(("domain", "it", 0), 2)
        for path in (("domain", "it", "nope"), ("domain", "it", 3)):
            with pytest.raises(TransactionError, match="deferred"):
                tx.add(path, 2)
        with pytest.raises(AttributeError, match="cannot be deleted"):
            tx.delete(("domain", "it", "number"))
        with pytest.raises(PathError):
            tx.delete(("domain", "it", "nope"))

    engine.run(body)
    assert now(engine) == Order(12, "title!", [Line("a"), Line("b")], {"m"})
    assert engine.state.get(("domain", "it", "number")) == 12
    assert [(it.path, it.new) for it in engine.diff(1, 2)] == [
        (("domain", "it", "number"), 12),
        (("domain", "it", "note"), "title!"),
        (("domain", "it", "lines", 1), Line("b")),
        (("domain", "it", "marks", "m"), "m"),
    ]


def test_deferred_operations_are_validated() -> None:
    engine = engine_with(it=Area(1, 1))
    engine.run(lambda tx: tx.add(("domain", "it", "width"), 3))
    assert now(engine).area == 4
    with pytest.raises(RecordError):
        engine.run(lambda tx: tx.add(("domain", "it", "width"), 30))


def test_compare_and_swap() -> None:
    engine = engine_with(it=Area(1, 1))
    engine.compare_and_swap(1, data={"domain": {"it": {"width": 4}}})
    assert now(engine).area == 4
    engine.compare_and_swap(1, data={("domain", "it", "height"): 3, ("domain", "new"): Area(2, 2)})
    assert now(engine).area == 12 and now(engine, "new").area == 4
    with pytest.raises(RecordError):
        engine.compare_and_swap(engine.version, data={"domain": {"it": {"width": 40}}})
    engine.compare_and_swap(engine.version, data={"domain": {"it": DELETE}})
    assert "it" not in engine.state["domain"]


def test_processes() -> None:
    engine = engine_with(it=Area(1, 1), total=0)

    @process(inputs=["domain.it"], outputs=["domain.total"])
    def read(ctx: Any) -> int:
        assert isinstance(ctx.domain.it, Area)
        return ctx.domain.it.area

    @process(inputs=["domain.it"], outputs=["domain.it.width"])
    def write(ctx: Any) -> None:
        ctx.domain.it.width = 5

    @process(outputs=["domain.it"])
    def replace(ctx: Any) -> Area:
        return Area(3, 3)

    @process(outputs=["domain.it"])
    def updates(ctx: Any) -> StateUpdate:
        return StateUpdate(data={("domain", "it"): Area(2, 1)})

    engine.run_process(write)
    engine.run_process(read)
    assert now(engine).area == 5 == now(engine, "total")
    engine.run_process(replace)
    assert now(engine).area == 9
    engine.run_process(updates)
    assert now(engine).area == 2


# ---- the way in for theus.records ----------------------------------------------------------------


def test_the_private_door_takes_drafts_of_records_only() -> None:
    engine = engine_with(it=Order(1), plain={})

    def body(tx: Any) -> None:
        for no in (tx.domain.plain, Order(1), FrozenDict(), 5):
            with pytest.raises(TypeError, match="no draft of a record"):
                record_store(no, "number", 1, True)
            with pytest.raises(TypeError, match="no draft of a record"):
                record_discard(no, "number")
        with pytest.raises(TypeError):
            record_store(tx.domain.it, "number", 1)  # type: ignore[call-arg]
        assert record_store(tx.domain.it, "beside", 1, False) is False
        assert record_store(tx.domain.it, "beside", 1, True) is True
        assert record_discard(tx.domain.it, "beside") is True
        assert record_discard(tx.domain.it, "beside") is False

    engine.run(body)


def test_contracts_reach_into_records() -> None:
    engine = engine_with(it=Area(1, 1), log=[])

    @process(inputs=["domain.it.width"], outputs=["domain.it.width", "domain.log"])
    def part(ctx: Any) -> None:
        it = ctx.domain.it
        assert isinstance(it, Area) and it.width == 1
        for refused in (lambda: it.height, lambda: it.to_object(), lambda: vars(it)):
            with pytest.raises(ContractViolationError):
                refused()
        it.width = 4

    @process(inputs=["domain.it"], outputs=["domain.it.width"])
    def too_much(ctx: Any) -> None:
        ctx.domain.it.height = 4

    @process(inputs=["domain.it"], outputs=["domain.it.width"])
    def deletes(ctx: Any) -> None:
        record_discard(ctx.domain.it, "height")

    @process(inputs=["domain.it"], semantic="pure")
    def pure(ctx: Any, writes: bool = False) -> int:
        assert isinstance(ctx.domain.it, Area)
        if writes:
            with pytest.raises(FrozenError):
                ctx.domain.it.width = 5
        return int(ctx.domain.it.area)

    engine.run_process(part)
    assert now(engine).area == 4
    for refused in (too_much, deletes):
        with pytest.raises(ContractViolationError, match="height"):
            engine.run_process(refused)
    assert engine.run_process(pure) == 4
    with pytest.raises(ContractViolationError, match="PURE process cannot write"):
        engine.run_process(pure, writes=True)


@dataclass
class Names:
    """Has methods of our names, and they stay its own."""

    x: int = 1

    def freeze(self) -> str:
        return "cold"

    def to_object(self) -> str:
        return "mine"

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value * 2)


def test_methods_of_the_class_come_before_ours() -> None:
    engine = engine_with(it=Names(1))

    def body(tx: Any) -> Any:
        tx.domain.it.x = 5
        assert tx.domain.it.freeze() == "cold" and tx.domain.it.to_object() == "mine"
        return tx.domain.it, [tx.domain.it]

    @process(inputs=["domain.it"])
    def returning(ctx: Any) -> Any:
        return ctx.domain.it

    async def coroutine(tx: Any) -> Any:
        return body(tx)

    for view, (again,) in (engine.run(body), asyncio.run(engine.run_async(coroutine))):
        assert view.x == again.x == 10 and view.freeze() == "cold" and view.to_object() == "mine"
        assert type(copy.copy(view)) is Names
    assert engine.run_process(returning).x == 10
