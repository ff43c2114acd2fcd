"""Keys and values whose methods turn on the engine: they re-enter it, raise, or lie.

Python code runs inside __eq__, __hash__ and __del__ of what users store. Wherever that is, the
engine must hold no lock, keep its structures sound, and go on.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from helpers import Bomb, Collider, Crash, Crasher
from support import begin, plain, race
from theus import Opaque, TheusEngine
from theus.errors import ConflictError, TheusError


def Key(name: str) -> Crasher:
    """All of them collide, so every search compares."""
    return Crasher(name, hash=7)


def once(act: Callable[[], Any]) -> Callable[[], None]:
    """The first comparison acts; the later ones are quiet."""
    left = [act]

    def fire() -> None:
        if left:
            left.pop()()

    return fire


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"n": 0, "rows": {Key("a"): 1, Key("b"): 2}, "xs": [3, 1]}})


def swap(engine: Any) -> None:
    engine.compare_and_swap(engine.version, data={"domain": {"n": engine.state["domain"]["n"] + 1}})


B, C, NEW = Key("b"), Key("c"), Key("new")  # made now, so that only the engine sets keys off
MORE = {B: 5, C: 6}
SAME = {Key("a"): 1, Key("b"): 2}

ACTS: dict[str, Callable[[Any], Any]] = {
    "get": lambda rows: rows[B],
    "set": lambda rows: rows.__setitem__(B, 9),
    "insert": lambda rows: rows.__setitem__(NEW, 9),
    "delete": lambda rows: rows.__delitem__(B),
    "in": lambda rows: B in rows,
    "pop": lambda rows: rows.pop(B),
    "setdefault": lambda rows: rows.setdefault(NEW, 1),
    "update": lambda rows: rows.update(MORE),
    "==": lambda rows: rows == SAME,
}


TRAPS = [(act, where) for act in sorted(ACTS) for where in ("eq", "hash")]
TRAPS.remove(("==", "hash"))  # hashes are kept, so comparing two dicts asks for none
EVERYWHERE = pytest.mark.parametrize("act, where", TRAPS)


@EVERYWHERE
def test_keys_that_commit_while_they_are_compared(engine: Any, act: str, where: str) -> None:
    """A nested commit by compare_and_swap inside every operation on a draft."""
    tx = begin(engine)
    rows = tx.domain["rows"]
    with Crasher.armed(where, act=lambda: swap(engine)) as trap:
        ACTS[act](rows)
    assert trap.sprung > 0 and engine.version == 1 + trap.sprung
    twin = {Key("a"): 1, Key("b"): 2}
    ACTS[act](twin)
    assert rows == twin
    tx.commit()
    assert engine.state["domain"]["rows"] == twin
    assert engine.state["domain"]["n"] == trap.sprung


@EVERYWHERE
def test_keys_that_write_to_the_same_transaction(engine: Any, act: str, where: str) -> None:
    """From inside a comparison: another key of the very dict that is being searched."""
    tx = begin(engine)
    rows = tx.domain["rows"]

    def write() -> None:
        for n in range(40):
            rows[Key(f"more {n}")] = n

    with Crasher.armed(where, act=once(write)):
        try:
            ACTS[act](rows)
        except (RuntimeError, TheusError):
            pass  # refusing is an answer; a crash or a lost key is not
    assert all(rows[Key(f"more {n}")] == n for n in range(40))
    names = [key.name for key in rows]
    assert len(names) == len(set(names)) == len(rows)
    tx.commit()
    assert len(engine.state["domain"]["rows"]) == len(names)


@EVERYWHERE
def test_keys_that_empty_what_is_searched(engine: Any, act: str, where: str) -> None:
    tx = begin(engine)
    rows = tx.domain["rows"]
    with Crasher.armed(where, act=once(rows.clear)):
        try:
            ACTS[act](rows)
        except (RuntimeError, LookupError, TheusError):
            pass  # any answer that Python's dict could give as well
    names = [key.name for key in rows]
    assert len(names) == len(rows) <= 3
    tx.rollback()
    assert len(engine.state["domain"]["rows"]) == 2


@EVERYWHERE
def test_keys_that_end_the_transaction(engine: Any, act: str, where: str) -> None:
    """Rollback from inside an operation: refused or obeyed, never a use of freed memory."""
    tx = begin(engine)
    rows = tx.domain["rows"]
    with Crasher.armed(where, act=once(tx.rollback)):
        try:
            ACTS[act](rows)
        except TheusError:
            pass  # refusing is an answer
    tx.rollback()
    assert len(engine.state["domain"]["rows"]) == 2 and engine.version == 1


@EVERYWHERE
def test_keys_that_raise(engine: Any, act: str, where: str) -> None:
    """The exception comes out as it is, and the dict is as it was before."""
    tx = begin(engine)
    rows = tx.domain["rows"]
    with Crasher.armed(where), pytest.raises(Crash):
        ACTS[act](rows)
    assert rows == {Key("a"): 1, Key("b"): 2}
    tx.commit()
    assert engine.version == 1


def test_keys_that_commit_during_a_commit(engine: Any) -> None:
    """Replaying writes on a newer version compares keys; that comparison commits, too."""
    tx = begin(engine)
    tx.domain["rows"][Key("new")] = 1
    with engine.transaction() as other:
        other.domain["rows"][Key("other")] = 1
    with Crasher.armed("eq", act=once(lambda: swap(engine))) as trap:
        tx.commit()
    assert trap.sprung > 0, "the rebase compared no key: the test has lost its object"
    rows = engine.state["domain"]["rows"]
    assert rows == {Key("a"): 1, Key("b"): 2, Key("other"): 1, Key("new"): 1}
    assert engine.state["domain"]["n"] == 1 and engine.version == 4


def test_keys_that_raise_during_a_commit(engine: Any) -> None:
    tx = begin(engine)
    tx.domain["rows"][Key("new")] = 1
    with engine.transaction() as other:
        other.domain["rows"][Key("other")] = 1
    with Crasher.armed("eq"), pytest.raises(Crash):
        tx.commit()
    assert not tx.active and engine.version == 2
    assert engine.state["domain"]["rows"] == {Key("a"): 1, Key("b"): 2, Key("other"): 1}
    swap(engine)
    assert engine.version == 3


def test_values_that_commit_when_they_die(engine: Any) -> None:
    """A version that falls out of the history takes values with it, whose __del__ commits."""
    engine.history_limit(count=1)
    died: list[int] = []

    def last_words() -> None:
        died.append(engine.version)
        swap(engine)

    with engine.transaction() as tx:
        tx.domain["mortal"] = Opaque(Bomb(last_words))
    with engine.transaction() as tx:
        del tx.domain["mortal"]
    gc.collect()
    assert len(died) == 1
    assert engine.state["domain"]["n"] == 1


def test_values_that_die_with_an_aborted_transaction(engine: Any) -> None:
    died: list[bool] = []
    tx = begin(engine)

    def last_words() -> None:
        died.append(tx.active)
        swap(engine)

    tx.domain["mortal"] = Opaque(Bomb(last_words))
    tx.domain["xs"].append(Opaque(Bomb(last_words)))
    tx.rollback()
    gc.collect()
    assert died == [False, False] and engine.state["domain"]["n"] == 2


def test_values_that_die_when_they_are_overwritten(engine: Any) -> None:
    """Inside a transaction: the old value of a key goes while the new one is being stored."""
    tx = begin(engine)
    rows = tx.domain["rows"]
    rows["mortal"] = Opaque(Bomb(lambda: rows.__setitem__("last words", 1)))
    rows["mortal"] = 2
    gc.collect()
    assert rows["mortal"] == 2 and rows["last words"] == 1
    tx.commit()
    assert engine.state["domain"]["rows"]["last words"] == 1


def test_sort_keys_that_change_the_list(engine: Any) -> None:
    """list raises ValueError; so does a draft, or it refuses; its content stays a list."""
    tx = begin(engine)
    xs = tx.domain["xs"]

    def key(value: int) -> int:
        xs.append(9)
        return value

    with pytest.raises((ValueError, TheusError, RuntimeError)):
        xs.sort(key=key)
    assert set(plain(xs)) <= {1, 3, 9} and {1, 3} <= set(plain(xs))
    tx.rollback()


def test_iterators_outlive_what_they_iterate(engine: Any) -> None:
    tx = begin(engine)
    iterators = [iter(tx.domain), iter(tx.domain["xs"]), iter(tx.domain["rows"].items())]
    for iterator in iterators:
        next(iterator)
    tx.rollback()
    for iterator in iterators:
        with pytest.raises(TheusError):
            next(iterator)


def test_equality_of_values_is_not_asked_at_commit(engine: Any) -> None:
    """Values are told apart by identity, so an __eq__ that lies or raises decides nothing."""

    class Liar:
        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        __hash__ = None  # type: ignore[assignment]

    with engine.transaction() as tx:
        tx.domain["liar"] = Opaque(Liar())
    reader = begin(engine)
    reader.domain["copy"] = reader.domain["liar"]
    with engine.transaction() as tx:
        tx.domain["liar"] = Opaque(Liar())
    with pytest.raises(ConflictError):
        reader.commit()


def test_hostile_keys_from_many_threads(engine: Any) -> None:
    """Colliding keys with Python comparisons, inserted and removed by six threads."""

    def worker(number: int) -> None:
        for step in range(30):

            def body(tx: Any, step: int = step) -> None:
                tx.domain["rows"][Collider(f"{number}.{step}")] = step
                if step:
                    del tx.domain["rows"][Collider(f"{number}.{step - 1}")]

            engine.run(body, deadline=60.0)

    race(*(lambda n=n: worker(n) for n in range(6)))  # type: ignore[misc]
    names = {key.name for key in engine.state["domain"]["rows"]}
    assert names == {"a", "b", *(f"{n}.29" for n in range(6))}
