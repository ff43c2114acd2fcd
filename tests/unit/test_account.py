"""Accounts: what one transaction has seen and done, repeated in another, is worth as much.

Each body runs three times on equal engines: as it is; on an engine of its own from which only the
account comes back; and so with the account sent as bytes. Whatever another commit does meanwhile,
all three must conflict or commit alike, and leave the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from support import begin
from theus import ClosedError, ConflictError, TheusEngine, TransactionError
from theus._theus import Engine, account, decode, encode, rehearse, repeat
from theus.pools.codec import dumps, loads

Body = Callable[[Any], Any]


@dataclass
class Point:
    x: int = 1
    y: int = 2


def content() -> dict[str, Any]:
    return {
        "domain": {
            "n": 1,
            "m": 2,
            "users": {"ann": {"age": 3, "tags": ["a"]}, "bob": {"age": 4, "tags": []}},
            "rows": [1, [2, 3], {"k": 4}],
            "seen": {"p", "q"},
            "point": Point(),
            "later": ["z"],
            1: "one",
        },
        "other": {"v": 5},
    }


def keep_both(old: Any, new: Any) -> Any:
    return (old, new)


def deep(tx: Any) -> Any:
    """A dict many levels down."""
    here = tx.domain
    for i in range(40):
        here[f"l{i}"] = {}
        here = here[f"l{i}"]
    return here


def within_a_savepoint(tx: Any) -> None:
    try:
        with tx.savepoint():
            tx.domain.n = 50
            assert tx.domain.m == 2
            raise KeyError
    except KeyError:
        tx.domain.later.append("undone")


BODIES: dict[str, Body] = {
    "reads a value": lambda tx: tx.domain.n,
    "reads and writes": lambda tx: tx.set("domain.n", tx.domain.n + 1),
    "writes blindly": lambda tx: tx.set("domain.n", 7),
    "writes what stands there": lambda tx: tx.set("domain.n", 1),
    "looks in vain": lambda tx: tx.domain.get("nobody"),
    "inserts": lambda tx: tx.domain.update(new=1, newer=[2]),
    "deletes": lambda tx: tx.domain.users.pop("ann"),
    "deletes and inserts": lambda tx: tx.domain.update(n=tx.domain.pop("n")),
    "counts keys": lambda tx: tx.set("other.v", len(tx.domain.users)),
    "iterates": lambda tx: tx.set("other.v", list(tx.domain.users)),
    "reads all": lambda tx: tx.set("other.v", tx.domain.users.to_dict()),
    "compares": lambda tx: tx.domain.users == {"ann": 1},
    "goes deep": lambda tx: tx.domain.users.ann.tags.append("b"),
    "edits a list": lambda tx: tx.domain.rows.__setitem__(0, 9),
    "edits within a list": lambda tx: tx.domain.rows[2].update(k=5),
    "reads by index": lambda tx: tx.domain.rows[1][0],
    "reads the last": lambda tx: tx.domain.rows[-1],
    "inserts in a list": lambda tx: tx.domain.rows.insert(0, 0),
    "sorts": lambda tx: tx.domain.rows[1].sort(reverse=True),
    "adds to a set": lambda tx: tx.domain.seen.add("r"),
    "discards": lambda tx: tx.domain.seen.discard("p"),
    "asks a set": lambda tx: "p" in tx.domain.seen and "nope" in tx.domain.seen,
    "writes a field": lambda tx: setattr(tx.domain.point, "x", 5),
    "reads a field": lambda tx: tx.set("other.v", tx.domain.point.y),
    "stores an instance": lambda tx: tx.set("domain.q", Point(7, 8)),
    "adds later": lambda tx: (tx.add("domain.n", 3), tx.add("domain.n", 4)),
    "appends later": lambda tx: (tx.append("domain.later", 1), tx.append("domain.later", 2)),
    "merges later": lambda tx: tx.merge("domain.m", 9, keep_both),
    "adds, then reads": lambda tx: (tx.add("domain.n", 3), tx.set("other.v", tx.domain.n)),
    "adds into what it has made": lambda tx: (
        tx.set("domain.d", {"n": 1}),
        tx.add("domain.d.n", 1),
    ),
    "makes and fills": lambda tx: (tx.set("domain.d", {"a": {}}), tx.domain.d.a.update(b=[1])),
    "moves": lambda tx: tx.set("other.moved", tx.domain.users.pop("bob")),
    "many levels": lambda tx: deep(tx).update(end=1),
    "other keys": lambda tx: tx.domain.__setitem__(1, "uno"),
    "savepoint": within_a_savepoint,
    "a new root": lambda tx: tx.set("extra", {"a": 1}),
    "sends": lambda tx: (tx.outbox.add("mail", {"a": [1]}), tx.update(signal={"done": 3})),
}

OTHERS: dict[str, Body | None] = {
    "nobody": None,
    "n": lambda tx: tx.set("domain.n", 100),
    "m": lambda tx: tx.set("domain.m", 100),
    "a key": lambda tx: tx.set("domain.nobody", 1),
    "new": lambda tx: tx.set("domain.new", 1),
    "users": lambda tx: tx.set("domain.users.cid", {}),
    "ann": lambda tx: tx.domain.users.pop("ann"),
    "age": lambda tx: tx.set("domain.users.bob.age", 9),
    "tags": lambda tx: tx.domain.users.ann.tags.append("x"),
    "rows": lambda tx: tx.domain.rows.insert(0, "first"),
    "a row": lambda tx: tx.domain.rows.__setitem__(1, "row"),
    "k": lambda tx: tx.domain.rows[2].update(k=77),
    "p": lambda tx: tx.domain.seen.discard("p"),
    "nope": lambda tx: tx.domain.seen.add("nope"),
    "x": lambda tx: setattr(tx.domain.point, "x", 50),
    "y": lambda tx: setattr(tx.domain.point, "y", 50),
    "later": lambda tx: tx.domain.later.append("other"),
    "all of it": lambda tx: tx.set("domain", content()["domain"]),
    "v": lambda tx: tx.set("other.v", "theirs"),
}


def as_it_is(tx: Any, body: Body) -> None:
    body(tx)


THERE = Engine()


def by_account(tx: Any, body: Body, send: Callable[[Any], Any] = lambda it: it) -> None:
    roots = {name: tx.state.data[name] for name in tx.state.data}
    mine = rehearse(THERE, roots, tx.version, tx.run_id, tx.isolation, "there", False)
    body(mine)
    assert (mine.version, mine.run_id) == (tx.version, tx.run_id)
    repeat(tx, send(account(mine)))
    assert sorted(tx.operations(False, True), key=repr) == sorted(
        mine.operations(False, True), key=repr
    )


def by_wire(tx: Any, body: Body) -> None:
    by_account(tx, body, lambda it: loads(dumps(it, pickle=True), pickle=True))


def outcome(way: Any, body: Body, other: Body | None, isolation: str) -> Any:
    engine = TheusEngine(content())
    tx = begin(engine, isolation)
    way(tx, body)
    if other is not None:
        engine.run(other, detached=True)
    try:
        tx.commit()
    except ConflictError as conflict:
        return "conflict", conflict.expected
    messages: list[Any] = []
    engine.process_outbox(lambda it: messages.append((it.topic, it.payload)))
    return engine.version, engine.state.to_dict(), dict(engine.state.signals), messages


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("body", BODIES)
def test_a_repeated_account_is_worth_as_much_as_the_body(body: str, isolation: str) -> None:
    for name, other in OTHERS.items():
        wanted = outcome(as_it_is, BODIES[body], other, isolation)
        assert outcome(by_account, BODIES[body], other, isolation) == wanted, name
    assert outcome(by_wire, BODIES[body], None, isolation) == outcome(
        as_it_is, BODIES[body], None, isolation
    )


def test_keys_that_were_deleted_and_are_there_again_stand_at_the_end() -> None:
    def few(tx: Any) -> None:
        users = tx.domain.users
        users.update(ann=users.pop("ann"), new=1)
        del tx.domain["m"]
        tx.domain.m = 3
        tx.domain.n = 4

    def most(tx: Any) -> None:
        """So many that the map is packed anew."""
        users = tx.domain.users
        del users["ann"], users["bob"]
        users["bob"] = {}
        users["ann"] = 0

    def all_of_them(tx: Any) -> None:
        tx.domain.users.clear()
        tx.domain.users.update(cid=0, ann=2)

    for body, order in (
        (few, (["n", "users", "m"], ["bob", "cid", "ann", "new"])),
        (most, (["m", "n", "users"], ["cid", "bob", "ann"])),
        (all_of_them, (["m", "n", "users"], ["cid", "ann"])),
    ):
        for way in (as_it_is, by_account, by_wire):
            content = {"m": 1, "n": 2, "users": {"ann": 1, "bob": 2, "cid": 3}}
            engine = TheusEngine({"domain": content})
            engine.run(partial(way, body=body))
            assert (list(engine.state.domain), list(engine.state.domain.users)) == order


def test_callbacks_cannot_be_told() -> None:
    tx = begin(TheusEngine({}))
    tx.on_commit(print)
    with pytest.raises(TransactionError, match="worker"):
        account(tx)


def test_a_rehearsal_leaves_its_engine_as_it_was() -> None:
    engine = TheusEngine({"domain": {"n": 1}})
    for n in range(3):
        tx: Any = rehearse(engine, {"other": {"n": n}}, 40 + n, 1, "serializable", "there", False)
        assert tx.state.data == {"other": {"n": n}} and tx.version == 40 + n
        tx.other.n += 1
        assert account(tx)[0]
        tx.__exit__(ValueError, ValueError(), None)
    assert engine.version == 1 and engine.state.data == {"domain": {"n": 1}}
    assert engine.current() is None


def test_what_cannot_be_rehearsed_is_refused() -> None:
    engine = TheusEngine()
    good: Any = (engine, {}, 1, 1, "serializable", "there", False)
    for place, wrong, error in (
        (0, object(), TypeError),
        (1, {1: 2}, TypeError),
        (1, {"domain": object()}, TypeError),
        (2, -1, ValueError),
        (3, -1, OverflowError),
        (4, "none", ValueError),
        (5, None, TypeError),
        (6, None, TypeError),
    ):
        with pytest.raises(error):
            rehearse(*good[:place], wrong, *good[place + 1 :])
    engine.close()
    with pytest.raises(ClosedError):
        rehearse(*good)
    assert engine.current() is None


def test_what_is_no_account_is_refused() -> None:
    tx = begin(TheusEngine(content()))
    nothing: tuple[Any, ...] = ((), (), ())
    for wrong in (
        None,
        ([], (), ()),
        ([None], *nothing),
        ([(0,)], *nothing),
        ([(99, ("domain",))], *nothing),
        ([(4, ("domain", "n"))], *nothing),
        ([(4, (), 1)], *nothing),
        ([(7, ("domain", "n"))], *nothing),
        ([], ((1,),), (), ()),
    ):
        with pytest.raises(ValueError, match="no entry|account"):
            repeat(tx, wrong)
    with pytest.raises(TypeError, match="transaction"):
        repeat(None, nothing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="transaction"):
        account(3)  # type: ignore[arg-type]
    assert decode(encode(account(tx)[1:])) == nothing
