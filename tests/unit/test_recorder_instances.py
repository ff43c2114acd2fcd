"""Instances in recorded runs: read and written by attribute, judged by their class."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from typing import Any

import pydantic
import pytest

from helpers import run_threads
from theus import ConflictError, TheusEngine, process
from theus.testing import (
    Attempt,
    Fields,
    Recorder,
    RecordingInstance,
    Step,
    check_history,
)


@dataclass
class Place:
    row: int
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row = int(self.row)

    def down(self, by: int) -> int:
        self.row += by
        return self.row

    @property
    def next_row(self) -> int:
        return self.row + 1

    @next_row.setter
    def next_row(self, value: int) -> None:
        self.row = value - 1


@dataclass(frozen=True)
class Fixed:
    value: int


class Order(pydantic.BaseModel):
    number: int
    place: Place | None = None
    note: str = ""

    def total(self) -> int:
        return self.number * 2


PLACE = ("domain", "place")
ORDER = ("domain", "order")


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine(
        {
            "domain": {
                "place": Place(1, ["a"]),
                "order": Order(number=3, place=Place(5)),
                "fixed": Fixed(4),
                "many": [Place(1)],
                "n": 0,
            }
        }
    )


@pytest.fixture
def recorder(engine: TheusEngine) -> Recorder:
    return Recorder(engine)


def only(recorder: Recorder) -> Attempt:
    history = recorder.take()
    report = check_history(history)
    assert report.ok, report
    (attempt,) = history.attempts
    return attempt


def test_attributes_are_steps(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> None:
        place = tx.domain.place
        assert type(place) is RecordingInstance and isinstance(place, Place)
        place.row += 1
        place.tags.append("b")

    recorder.run(body)
    assert engine.state.domain.place == Place(2, ["a", "b"])
    assert only(recorder).steps == [
        Step("kind", ("domain",), "dict"),
        Step("kind", PLACE, Place),
        Step("get", (*PLACE, "row"), 1),
        Step("set", (*PLACE, "row"), 2),
        Step("kind", (*PLACE, "tags"), "list"),
        Step("all", (*PLACE, "tags"), ["a"]),
        Step("set", (*PLACE, "tags"), ["a", "b"]),
    ]


def test_methods_properties_and_comparison(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> Any:
        place, order = tx.domain.place, tx.domain.order
        assert place.down(2) == 3 and place.next_row == 4
        place.next_row = 8
        assert place == Place(7, ["a"]) and place != Place(1)
        assert order.total() == 6 and order.place.row == 5
        order.place.row = 6
        assert order.model_dump() == {"number": 3, "place": {"row": 6, "tags": []}, "note": ""}
        copied = order.to_object()
        copied.number = 99
        assert tx.get((*ORDER, "number")) == 3 and "Order" in repr(order)
        with pytest.raises(AttributeError):
            _ = place.nothing
        tx.domain["copy"] = place  # by value
        return order

    result = recorder.run(body)
    assert type(result) is Order and result.place == Place(6)
    assert engine.state.domain["copy"] == Place(7, ["a"])
    only(recorder)


def test_the_class_judges_at_the_commit(engine: TheusEngine, recorder: Recorder) -> None:
    """What it makes of the attributes is what the check expects."""

    def body(tx: Any) -> None:
        tx.domain.place.row = "12"
        tx.domain.order.number = "7"
        tx.domain.order.place.row = "8"
        assert tx.domain.place.row == "12"

    recorder.run(body)
    recorder.run(lambda tx: setattr(tx.domain.place, "row", "12"))  # what it is, in other words
    recorder.run(lambda tx: tx.add((*ORDER, "number"), 1))
    recorder.compare_and_swap(engine.version, {(*PLACE, "row"): "13"})
    recorder.compare_and_swap(engine.version, {"domain": {"order": {"note": "x"}}})
    assert engine.state.domain.place == Place(13, ["a"])
    assert engine.state.domain.order == Order(number=8, place=Place(8), note="x")
    history = recorder.take()
    assert check_history(history).ok, check_history(history)
    history.attempts[0].steps[2] = Step("set", (*PLACE, "row"), "11")
    assert not check_history(history).ok


def test_whole_instances(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> None:
        tx.domain["new"] = {"deep": Order(number=1)}
        tx.domain.place = Place(9)
        tx.domain["again"] = engine.state.domain.fixed
        assert tx.domain.again.value == 4
        tx.merge(PLACE, Place(3), larger)
        tx.update({"domain": {"other": Place(0)}})
        assert tx.all("domain.new") == {"deep": Order(number=1)}

    recorder.run(body)
    assert engine.state.domain.place == Place(9) and engine.state.domain.other == Place(0)
    history = recorder.take()
    assert check_history(history).ok, check_history(history)
    fields = history.attempts[0].steps[3].value
    assert fields == Fields(Place, {"row": 9, "tags": []}, None)
    assert fields != Fields(Fixed, {"row": 9, "tags": []}, None) and fields != dict(fields)
    assert copy.deepcopy(fields) == fields == pickle.loads(pickle.dumps(fields))
    assert check_history(pickle.loads(pickle.dumps(history))).ok


def larger(old: Any, new: Any) -> Any:
    return old if old.row > new.row else new


def test_what_cannot_be_recorded(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> None:
        with pytest.raises(TypeError, match=r"list at domain\.many holds instances"):
            _ = tx.domain.many
        with pytest.raises(TypeError, match=r"'value' runs code of Fixed.*domain\.fixed"):
            tx.domain.fixed.value = 5
        with pytest.raises(TypeError, match="'zzz'"):
            tx.domain.place.zzz = 5
        assert tx.all("domain.many") == [Place(1)]

    recorder.run(body)
    only(recorder)


def test_a_process_with_an_instance(engine: TheusEngine, recorder: Recorder) -> None:
    @process(inputs=["domain.place.row"], outputs=["domain.place.row", "domain.n"])
    def move(ctx: Any, by: int) -> tuple[int, int]:
        ctx.domain.place.row += 1
        return ctx.domain.place.row + by, 5

    plain = TheusEngine(engine.state.data.to_dict())
    plain.run_process(move, 4)
    recorder.run_process(move, 4)
    assert engine.state == plain.state and engine.state.domain.place.row > 1
    only(recorder)


def test_two_attributes_do_not_meet(engine: TheusEngine) -> None:
    recorder = Recorder(engine)

    def work(number: int) -> None:
        for turn in range(20):
            if number % 2:
                recorder.run(lambda tx: tx.domain.place.down(1))
            elif turn % 2:
                recorder.run(lambda tx: setattr(tx.domain.place, "tags", [str(number)]))
            else:
                try:
                    state = engine.state
                    recorder.compare_and_swap(
                        state.version, {(*ORDER, "number"): state.domain.order.number + 1}
                    )
                except ConflictError:
                    pass

    run_threads(4, work)
    history = recorder.take()
    report = check_history(history)
    assert report.ok, report
    assert engine.state.domain.place.row == 41
    last = [it for it in history.attempts if it.version and it.steps[-1].path[-1] == "row"][-1]
    last.steps = [step for step in last.steps if step.kind != "set"]
    assert not check_history(history).ok
