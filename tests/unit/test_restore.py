"""restore(): another version again, as one transaction; and what the history says about it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from support import begin, elsewhere
from theus import (
    ClosedError,
    ConflictError,
    State,
    TheusEngine,
    TransactionError,
    VersionError,
)


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"a": {"x": 1}, "b": {"y": 2}}, "other": {"z": [1, 2, 3]}})


def put(engine: Any, path: Any, value: Any) -> None:
    with engine.transaction() as tx:
        tx.set(path, value)


def test_it_is_one_commit_with_a_record(engine: Any) -> None:
    put(engine, "domain.a.x", 5)
    put(engine, "other.z", [])
    assert engine.restore(1) == 4 == engine.version
    assert engine.state == engine.state.at(1)
    record = engine.records()[0][-1]
    assert record.version == 4 and record.process == "restore" and record.sets == 2
    assert engine.restore(2, process="undo") == 5 and engine.state.record.process == "undo"


def test_what_is_the_same_stays_the_same(engine: Any) -> None:
    first = engine.state
    put(engine, "domain.a.x", 5)
    engine.restore(1)
    assert engine.state.shares(first, "domain") and engine.state.shares(first, "other")
    assert engine.diff(1, 3) == []
    assert engine.records()[0][-1].paths == (("domain",),)  # not "other", which nobody had touched
    watched = engine.changes("domain.b", since=1)
    assert watched.poll() is None, "a subtree that never changed is not reported"
    assert [item.value for item in iter(engine.changes("domain.a.x", since=1).poll, None)] == [5, 1]


def test_roots_that_came_and_went(engine: Any) -> None:
    first = engine.state
    with engine.transaction() as tx:
        tx.set(("new",), {"n": 1})
        tx.delete("other")
    engine.restore(1)
    assert engine.state == first and list(engine.state.data) == ["domain", "other"]
    engine.restore(2)
    assert list(engine.state.data) == ["domain", "new"]


def test_nothing_to_do_makes_no_version(engine: Any) -> None:
    put(engine, "domain.a.x", 5)
    assert engine.restore(2) == 2 == engine.version
    assert engine.restore(engine.state) == 2


def test_every_other_commit_is_a_conflict(engine: Any) -> None:
    first = engine.state
    put(engine, "domain.a.x", 5)
    tx = begin(engine)
    tx.restore(first)
    elsewhere(put, engine, "other.w", 1)  # a place that the restore does not write
    with pytest.raises(ConflictError):
        tx.commit()
    assert engine.state.domain.a.x == 5
    assert engine.restore(1, retries=0) == 4 and engine.state == first


def test_it_is_tried_again() -> None:
    engine = TheusEngine({"d": {"n": 0}})
    put(engine, "d.n", 1)
    first = engine.state.at(1)
    meddled: list[int] = []

    def body(tx: Any) -> None:
        tx.restore(first)
        if not meddled:
            meddled.append(1)
            elsewhere(put, engine, "d.n", 99)

    engine.run(body)
    assert engine.state == first and engine.stats().retries == 1


def test_inside_a_body_it_is_a_part_of_it(engine: Any) -> None:
    first = engine.state
    put(engine, "domain.a.x", 5)
    with engine.transaction() as tx:
        tx.domain.a.x = 6
        tx.set(("third",), 3)
        engine.restore(1)
        assert tx.domain.a.x == 1 and "third" not in tx
        tx.domain.b.y = 7
    assert engine.version == 3
    assert engine.state.to_dict() == {**first.to_dict(), "domain": {"a": {"x": 1}, "b": {"y": 7}}}


def test_deferred_operations_before_it_are_replaced(engine: Any) -> None:
    put(engine, ("n",), 1)
    second = engine.state
    with engine.transaction() as tx:
        tx.add(("n",), 5)
        tx.add("domain.a.x", 5)
        tx.restore(second)
    assert engine.state == second
    with engine.transaction() as tx:
        tx.restore(second)
        tx.add(("n",), 5)
    assert engine.state["n"] == 6


def test_a_savepoint_undoes_it(engine: Any) -> None:
    first = engine.state
    put(engine, "domain.a.x", 5)
    with engine.transaction() as tx:
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            tx.restore(first)
            raise ZeroDivisionError
    assert engine.state.domain.a.x == 5


def test_signals_stay(engine: Any) -> None:
    engine.compare_and_swap(1, data={"domain": {"a": {"x": 2}}}, signal={"topic": 1})
    engine.restore(1)
    assert engine.state.signals == {"topic": 1}


def test_heavy_is_a_root_like_any_other() -> None:
    engine = TheusEngine({"d": {}})
    with engine.transaction() as tx:
        tx.update(heavy={"k": (1, 2)})
    engine.restore(1)
    assert engine.state.heavy == {}
    engine.restore(2)
    assert engine.state.heavy == {"k": (1, 2)}


def test_a_state_of_another_engine_is_copied(engine: Any) -> None:
    other = TheusEngine({"domain": {"deep": {"list": [1, {2}]}}})
    kept = other.state
    engine.restore(kept)
    put(other, "domain.deep", None)
    other.close()
    assert engine.state.to_dict() == {"domain": {"deep": {"list": [1, {2}]}}} == kept.to_dict()


def test_a_state_that_was_pickled_or_made_by_hand(engine: Any) -> None:
    saved = pickle.dumps(engine.state)
    put(engine, "domain.a.x", 5)
    engine.restore(pickle.loads(saved))
    assert engine.state.domain.a.x == 1
    engine.restore(State({"only": 1}))
    assert engine.state.to_dict() == {"only": 1}
    engine.restore(engine.state.update({"more": 2}))
    assert engine.state.to_dict() == {"only": 1, "more": 2}


def test_a_version_outside_the_history() -> None:
    engine = TheusEngine({"n": 0}, history=2)
    for n in range(3):
        put(engine, ("n",), n + 1)
    with pytest.raises(VersionError):
        engine.restore(1)
    with pytest.raises(VersionError):
        engine.restore(99)
    held = engine.state
    engine.history_limit(count=1)
    put(engine, ("n",), 9)
    assert engine.restore(held) == 6, "a state that is held needs no history"


@pytest.mark.parametrize("version", ["1", None, 1.0])
def test_what_is_no_version(engine: Any, version: Any) -> None:
    with pytest.raises(TypeError, match="needs a State"):
        engine.restore(version)


def test_refusals(engine: Any) -> None:
    put(engine, "domain.a.x", 5)
    with pytest.raises(TransactionError), engine.transaction(read_only=True) as tx:
        tx.restore(engine.state.at(1))
    engine.close()
    with pytest.raises(ClosedError):
        engine.restore(engine.state)


# ---- provenance --------------------------------------------------------------------------------


def named(engine: Any, process: str, path: Any, value: Any) -> None:
    with engine.transaction(process=process) as tx:
        tx.set(path, value)


def test_provenance_of_nested_overwritten_and_restored_paths(engine: Any) -> None:
    named(engine, "leaf", "domain.a.x", 5)
    named(engine, "other", "domain.b.y", 6)
    named(engine, "whole", "domain.a", {"x": 7, "new": 8})

    def who(path: Any, state: Any = None) -> str | None:
        record = (state or engine.state).provenance(path)
        return None if record is None else str(record.process)

    assert who("domain.a.x") == who("domain.a") == who("domain.a.new") == "whole"
    assert who("domain.b.y") == who("domain.b") == "other"
    assert who("domain") == "whole" and who("other.z") is None
    assert who("domain.a.x", engine.state.at(2)) == "leaf"
    engine.restore(2)
    assert who("domain.a.x") == who("domain.a.new") == who("domain.b.y") == "restore"
    assert who("domain.a.x", engine.state.at(4)) == "whole"
    assert who("other.z") is None, "nobody has ever written it"
    named(engine, "after", "domain.b.y", 1)
    assert who("domain.b.y") == "after" and who("domain.a.x") == "restore"


def test_provenance_of_a_state_that_is_no_version_is_unknown(engine: Any) -> None:
    put(engine, "domain.a.x", 5)
    branch = engine.state.update({"domain": {"a": {"x": 6}}})
    assert branch.version == 3
    assert branch.provenance("domain.a.x") is None
    put(engine, "domain.a.x", 7)  # now there is another version 3
    assert branch.provenance("domain.a.x") is None
    assert engine.state.provenance("domain.a.x").version == 3


@pytest.mark.parametrize(
    "limits", [{"count": 2.0}, {"count": True}, {"bytes": 1.5}, {"count": "2"}, {"bytes": False}]
)
def test_limits_are_whole_numbers(engine: Any, limits: Any) -> None:
    with pytest.raises(TypeError, match="an int"):
        engine.history_limit(**limits)
