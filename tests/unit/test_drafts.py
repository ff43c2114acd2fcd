"""What drafts do that dict, list and set do not: copying, life and death, hostile code, the log.

What they have in common is in test_draft_containers.py and, at random, in model/test_drafts.py.
"""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import abc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers import Crash, Crasher
from support import begin, elsewhere
from theus import (
    ConflictError,
    FrozenDict,
    FrozenList,
    FrozenSet,
    TheusEngine,
    TransactionError,
    UnfreezableError,
)

START: dict[str, Any] = {
    "n": 1,
    "user": {"name": "Ann", "tags": ["x"]},
    "xs": [3, 1, 2],
    "rows": [{"id": 1}, {"id": 2}, {"id": 3}],
    "seen": {1, 2},
}


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": START})


@pytest.fixture
def domain(engine: TheusEngine) -> Iterator[Any]:
    # A walk that is collected in each of its steps takes its time.
    with engine.transaction(write_timeout_ms=60_000) as tx:
        yield tx.domain


# ---- what is stored is copied --------------------------------------------------------


def test_assignment_copies(domain: Any) -> None:
    mine = {"deep": [1]}
    domain.a = mine
    domain.b = domain.a
    mine["deep"].append(2)
    domain.a["deep"].append(3)
    assert (domain.a, domain.b) == ({"deep": [1, 3]}, {"deep": [1]})
    domain.b["self"] = domain.b
    domain.rows.append(domain.rows)
    domain.c = {"inside": [domain.user], "pair": (domain.xs, 1)}
    domain.user.name = "later"
    assert domain.b == {"deep": [1], "self": {"deep": [1]}}
    assert domain.rows[3] == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert domain.c["inside"][0]["name"] == "Ann"
    assert domain.c["pair"] == (FrozenList([3, 1, 2]), 1)


def test_augmented_assignment_leaves_the_container_in_its_place(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        xs, seen, user, first = tx.domain.xs, tx.domain.seen, tx.domain.user, tx.domain.rows[0]
        tx.domain.xs += [4]
        tx.domain["seen"] |= {3}
        tx.domain.user |= {"age": 9}
        tx.domain.rows[0] |= {"x": 1}
        tx.domain.user = user
        xs.append(5)
        seen.add(4)
        user["age"] += 1
        first["x"] += 1
    assert engine.state["domain"] == {
        "n": 1,
        "user": {"name": "Ann", "tags": ["x"], "age": 10},
        "xs": [3, 1, 2, 4, 5],
        "rows": [{"id": 1, "x": 2}, {"id": 2}, {"id": 3}],
        "seen": {1, 2, 3, 4},
    }


def test_drafts_of_another_engine_are_copied(domain: Any) -> None:
    other = TheusEngine({"domain": {"deep": {"xs": [1, {2}]}}})
    with other.transaction() as tx:
        domain.taken = tx.domain.deep
        tx.domain.deep.xs.append(3)
        domain.update(tx.domain)
        domain.xs.extend(tx.domain.deep.xs)
    assert domain.taken == {"xs": [1, {2}]}
    assert domain.deep == {"xs": [1, {2}, 3]}
    assert domain.xs == [3, 1, 2, 1, {2}, 3]


def test_copies_are_independent_builtins(domain: Any) -> None:
    for made in (
        domain.copy(),
        domain.to_dict(),
        copy.copy(domain),
        copy.deepcopy(domain),
        pickle.loads(pickle.dumps(domain)),
    ):
        assert type(made) is dict and type(made["rows"][0]) is dict and type(made["seen"]) is set
        assert made == START
        made["rows"][0]["id"] = 99
    assert domain == START
    assert type(domain.xs.copy()) is type(domain.xs.to_list()) is list
    assert type(domain.seen.copy()) is type(domain.seen.to_set()) is set


def test_freeze_gives_what_stays(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        tx.domain.user.tags.append("y")
        kept = tx.domain.freeze(), tx.domain.xs.freeze(), tx.domain.seen.freeze()
        tx.domain.clear()
        assert [type(part) for part in kept] == [FrozenDict, FrozenList, FrozenSet]
    assert kept[0]["user"] == {"name": "Ann", "tags": ["x", "y"]}
    assert kept[1:] == ([3, 1, 2], {1, 2})


def test_a_refused_value_is_named_with_its_whole_path(domain: Any) -> None:
    cases: list[tuple[Callable[[], Any], tuple[Any, ...]]] = [
        (lambda: domain.user.__setitem__("f", object()), ("domain", "user", "f")),
        (lambda: domain.user.tags.append({"a": [object()]}), ("domain", "user", "tags", 1, "a", 0)),
        (lambda: domain.rows.__setitem__(1, bytearray()), ("domain", "rows", 1)),
        (lambda: domain.rows[2].update(a=1, b=[object()]), ("domain", "rows", 2, "b", 0)),
        (lambda: domain.xs.extend([1, bytearray()]), ("domain", "xs", 4)),
    ]
    for act, path in cases:
        with pytest.raises(UnfreezableError) as caught:
            act()
        assert caught.value.path == path


# ---- comparing, telling apart --------------------------------------------------------


def test_drafts_equal_builtins_views_and_drafts_both_ways(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        domain, frozen = tx.domain, engine.state["domain"]
        for draft, view, builtin in (
            (domain, frozen, START),
            (domain.rows, frozen["rows"], START["rows"]),
            (domain.seen, frozen["seen"], START["seen"]),
        ):
            for other in (view, builtin, draft):
                assert draft == other and other == draft
                assert not draft != other and not other != draft
            assert draft != 1 and draft is not None and draft != () and draft != "x"
        domain.rows[0]["id"] = 0
        assert domain != frozen and frozen != domain and domain.rows != START["rows"]
        assert domain.xs < [3, 1, 3] and domain.xs >= [3] and [4] > domain.xs
        assert domain.xs <= frozen["xs"] and domain.rows[0] not in [1, {}]
        with pytest.raises(TypeError):
            assert domain < {}


def test_abstract_classes(domain: Any) -> None:
    assert isinstance(domain, abc.MutableMapping)
    assert isinstance(domain.xs, abc.MutableSequence)
    assert isinstance(domain.seen, abc.MutableSet)
    assert isinstance(domain.keys(), abc.KeysView) and isinstance(domain.items(), abc.ItemsView)
    assert isinstance(domain.values(), abc.ValuesView)
    match domain:
        case {"xs": [first, *_], "user": {"name": str(name)}}:
            assert (first, name) == (3, "Ann")
        case _:
            raise AssertionError("a draft must match as a mapping")
    for draft in (domain, domain.xs, domain.seen):
        with pytest.raises(TypeError, match="unhashable"):
            hash(draft)
        with pytest.raises(TypeError, match="cannot create"):
            type(draft)()
        assert type(draft)[int].__origin__ is type(draft)


def test_reprs_read_like_python(domain: Any) -> None:
    assert repr(domain.user) == "DraftDict({'name': 'Ann', 'tags': ['x']})"
    assert repr(domain.xs) == "DraftList([3, 1, 2])"
    assert repr(domain.seen) == "DraftSet({1, 2})"
    domain.seen.clear()
    assert repr(domain.seen) == "DraftSet()"


def test_a_draft_sees_what_was_deferred(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        domain, xs = tx.domain, tx.domain.xs
        tx.add(("domain", "n"), 4)
        tx.append(("domain", "xs"), 9)
        tx.merge(("domain", "made"), 5, lambda old, new: [old, new])
        assert domain["n"] == 5 and list(domain)[-1] == "made"
        assert xs == [3, 1, 2, 9] and xs.pop() == 9
        tx.append(("domain", "xs"), 8)
        assert domain.to_dict()["xs"] == [3, 1, 2, 8]
        tx.add(("domain", "xs", 0), 1)
        xs.insert(0, 0)
        tx.add(("domain", "n"), 1)
        domain["n"] += 1
        tx.add(("domain", "n"), 1)
        domain["n"] = -1
    assert engine.state["domain"]["xs"] == [0, 4, 1, 2, 8]
    assert engine.state["domain"]["n"] == -1


# ---- who may use a draft, and when ---------------------------------------------------

WRITES: list[Callable[[Any], Any]] = [
    lambda d: d.__setitem__("n", 2),
    lambda d: setattr(d, "n", 2),
    lambda d: d.__delitem__("n"),
    lambda d: d.pop("n"),
    lambda d: d.pop("nothing", 0),
    lambda d: d.popitem(),
    lambda d: d.setdefault("n", 0),
    lambda d: d.update({}),
    lambda d: d.clear(),
    lambda d: d.__ior__({}),
    lambda d: d.__setitem__("user", d.user),
    lambda d: d.user.__setitem__("name", 1),
    lambda d: d.xs.append(1),
    lambda d: d.xs.extend([]),
    lambda d: d.xs.insert(0, 1),
    lambda d: d.xs.pop(),
    lambda d: d.xs.remove(99),
    lambda d: d.xs.sort(),
    lambda d: d.xs.reverse(),
    lambda d: d.xs.clear(),
    lambda d: d.xs.__setitem__(0, 1),
    lambda d: d.xs.__setitem__(slice(0, 0), []),
    lambda d: d.xs.__delitem__(0),
    lambda d: d.xs.__iadd__([]),
    lambda d: d.xs.__imul__(1),
    lambda d: d.seen.add(1),
    lambda d: d.seen.discard(99),
    lambda d: d.seen.remove(1),
    lambda d: d.seen.pop(),
    lambda d: d.seen.clear(),
    lambda d: d.seen.update([]),
    lambda d: d.seen.__iand__({1, 2}),
    lambda d: d.seen.__isub__(set()),
    lambda d: d.seen.__ixor__(set()),
]


@pytest.mark.parametrize("write", WRITES)
def test_read_only_transactions_refuse_every_write(
    engine: TheusEngine, write: Callable[[Any], Any]
) -> None:
    with engine.transaction(read_only=True) as tx:
        with pytest.raises(TransactionError, match="read-only") as caught:
            write(tx.domain)
        assert caught.value.path[0] == "domain"
        assert tx.domain == START
    assert engine.state.version == 1


def test_a_draft_ends_with_its_transaction(engine: TheusEngine) -> None:
    tx = begin(engine)
    domain = tx.domain
    parts: list[Any] = [domain, domain.keys(), iter(domain), domain.xs, iter(domain.xs)]
    tx.commit()
    acts: list[Callable[[], Any]] = [
        lambda: domain["n"],
        lambda: domain.n,
        lambda: len(domain),
        lambda: domain == {},
        lambda: domain.xs,
        lambda: len(parts[1]),
        lambda: next(parts[2]),
        lambda: parts[3][0],
        lambda: next(parts[4]),
        lambda: domain.update({}),
    ]
    for act in acts:
        with pytest.raises(TransactionError, match="ended"):
            act()
    assert repr(domain).startswith("<DraftDict: the transaction has ended")
    assert repr(parts[3]).startswith("<DraftList: the transaction has ended")


def test_another_thread_may_not_come_in_between(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        domain = tx.domain
        refused: list[str] = []

        def meanwhile() -> None:
            with pytest.raises(TransactionError, match="another thread") as caught:
                domain["n"]
            refused.append(str(caught.value))

        domain[Crasher("k")] = 1
        with Crasher.armed("eq", act=lambda: elsewhere(meanwhile)):
            assert domain[Crasher("k")] == 1
        assert refused
        assert elsewhere(lambda: domain["n"]) == 1  # but it may use it afterwards


def test_drafts_of_a_rolled_back_savepoint_are_dead(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        rows = tx.domain.rows
        with pytest.raises(Crash), tx.savepoint():
            first = tx.domain.rows[0]
            rows.append(1)
            raise Crash
        assert rows == START["rows"]
        with pytest.raises(TransactionError, match="savepoint"):
            first["id"]
        assert tx.domain.rows[0]["id"] == 1


# ---- hostile code in the middle ------------------------------------------------------


def test_key_equality_cannot_end_the_transaction_under_us(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        domain = tx.domain
        domain[Crasher("k")] = [1]
        for end in (tx.rollback, tx.commit):
            with Crasher.armed("eq", act=end), pytest.raises(TransactionError, match="inside"):
                domain[Crasher("k")]
        assert domain[Crasher("k")] == [1]


def test_key_equality_may_change_the_dict(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        domain = tx.domain
        key = Crasher("k")
        for act in (
            lambda: domain.clear(),
            lambda: [domain.__setitem__(i, i) for i in range(100)],
            lambda: domain.to_dict(),
        ):
            for step in (
                lambda: domain.get(Crasher("k")),
                lambda: domain.pop(Crasher("k"), None),
                lambda: domain.__setitem__(Crasher("k"), 1),
                lambda: domain.setdefault(Crasher("k"), [1]),
                lambda: Crasher("k") in domain,
            ):
                domain[key] = 0
                once = iter([act])
                with Crasher.armed("eq", act=lambda: next(once, int)()):  # noqa: B023
                    step()
                assert dict(domain) == domain.to_dict() == {**domain}


def test_failing_keys_leave_the_dict_alone(domain: Any) -> None:
    domain[Crasher("k")] = 1
    before = list(domain.items())
    for where in ("eq", "hash"):
        for step in (
            lambda: domain[Crasher("k")],
            lambda: domain.__setitem__(Crasher("k"), 2),
            lambda: domain.pop(Crasher("k")),
            lambda: domain.update({1: 1}) or domain.get(Crasher("k")),
        ):
            with Crasher.armed(where), pytest.raises(Crash):
                step()
            domain.pop(1, None)
    assert list(domain.items()) == before


def test_equality_of_elements_may_change_the_list(domain: Any) -> None:
    class Shortener:
        def __eq__(self, other: object) -> bool:
            domain.xs.clear()
            return other == 2

        __hash__ = None  # type: ignore[assignment]

    for step in (
        lambda: Shortener() in domain.xs,
        lambda: domain.xs.count(Shortener()),
        lambda: domain.xs.index(Shortener()),
        lambda: domain.xs.remove(Shortener()),
        lambda: domain.xs == [Shortener()] * 3,
    ):
        domain.xs = [1, 2, 3]
        try:
            step()
        except ValueError:
            pass
        assert domain.xs == []


def test_an_iterable_may_change_what_it_feeds(domain: Any) -> None:
    def growing() -> Iterator[int]:
        domain.xs.append(0)
        yield 1
        del domain.xs[:]
        yield 2

    domain.xs.extend(growing())
    assert domain.xs == [1, 2]
    domain.xs[5:] = growing()
    assert domain.xs == [1, 2]


def test_released_values_may_come_back_in(engine: TheusEngine) -> None:
    """A value's finalizer runs when its last place goes, and may use the very draft."""

    class Last(str):
        __slots__ = ()

        def __del__(self) -> None:
            if tx.active:
                domain.setdefault("log", []).append("gone")

    with engine.transaction() as tx:
        domain = tx.domain
        for step in (
            lambda: domain.__setitem__("v", 0),
            lambda: domain.pop("v") and None,
            lambda: domain.xs.__setitem__(slice(None), [1]),
            lambda: domain.xs.clear(),
        ):
            domain.v = Last("a")
            domain.xs = [Last("b"), Last("c")]
            step()
        assert "gone" in domain.log


def test_a_list_may_shrink_while_a_slice_is_replaced(engine: TheusEngine) -> None:
    class Last(str):
        __slots__ = ()

        def __del__(self) -> None:
            if tx.active:
                tx.domain.xs.clear()

    with engine.transaction() as tx:
        tx.domain.xs[:] = [Last("a"), 1, 2]
        with pytest.raises(RuntimeError, match="changed size"):
            tx.domain.xs[:] = [0, 0, 0]
        assert tx.domain.xs == []


# ---- memory --------------------------------------------------------------------------


def test_drafts_are_weakly_referenced_and_collected(engine: TheusEngine) -> None:
    tx = begin(engine)
    draft = tx.domain
    seen = weakref.ref(draft)
    assert seen() is draft
    del draft
    assert seen() is None
    draft = tx.domain
    seen = weakref.ref(draft)
    tx.on_commit(draft.freeze)  # a cycle: transaction, callback, draft, transaction
    tx_seen = weakref.ref(tx)
    del draft, tx
    gc.collect()
    assert seen() is None and tx_seen() is None


def test_views_and_iterators_are_collected(engine: TheusEngine) -> None:
    tx = begin(engine)
    gone = weakref.ref(tx)
    items = iter(tx.domain.items())
    next(items)
    parts = [tx.domain.keys(), items, iter(tx.domain.xs)]
    tx.on_commit(parts.clear)  # a cycle: transaction, callback, list, views, transaction
    del tx, items, parts
    gc.collect()
    assert gone() is None


class LikeN:
    """Found under the key "n"."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx

    def __hash__(self) -> int:
        return hash("n")

    def __eq__(self, other: object) -> bool:
        return other == "n"


def test_the_key_that_was_looked_up_last_is_collected(engine: TheusEngine) -> None:
    tx = begin(engine)
    key = LikeN(tx)  # a cycle: transaction, key, transaction
    assert tx.domain[key] == tx.domain[key] == 1
    gone = weakref.ref(key)
    del tx, key
    gc.collect()
    assert gone() is None


def test_a_key_that_is_looked_up_again_gives_what_is_there_now(domain: Any) -> None:
    key = LikeN(None)
    assert domain[key] == 1
    domain[key] += 1
    assert domain[key] == 2
    domain["n"] = 3
    assert domain[key] == 3
    del domain["n"]
    assert key not in domain
    domain["n"] = 4
    assert domain[key] == 4
    domain.clear()
    assert key not in domain


def test_a_walk_survives_a_collection(domain: Any) -> None:
    """The pair of the last step is reused; a collection may have untracked it meanwhile."""
    domain.clear()
    domain.update((i, i if i % 2 else [i]) for i in range(6))
    seen = []
    for key, value in domain.items():
        gc.collect()
        seen.append((key, value if key % 2 else value.copy()))
    assert seen == [(0, [0]), (1, 1), (2, [2]), (3, 3), (4, [4]), (5, 5)]


def test_a_draft_keeps_its_transaction(engine: TheusEngine) -> None:
    tx = begin(engine)
    domain = tx.domain
    del tx
    gc.collect()
    domain["n"] = 5
    assert domain["n"] == 5


# ---- what is logged ------------------------------------------------------------------

Act = Callable[[Any], Any]

CONFLICTS: list[tuple[str, Act, Act, bool]] = [
    # the body, what another transaction commits meanwhile, whether that is a conflict
    ("value read, other key", lambda d: d["n"], lambda d: d.__setitem__("m", 1), False),
    ("value read, same key", lambda d: d["n"], lambda d: d.__setitem__("n", 2), True),
    ("nested fetch, change below", lambda d: d["user"], lambda d: d.user.update(name=1), False),
    ("nested fetch, replaced", lambda d: d["user"], lambda d: d.update(user=1), True),
    ("absence, same key", lambda d: d.get("z"), lambda d: d.__setitem__("z", 1), True),
    ("absence, other key", lambda d: "z" in d, lambda d: d.__setitem__("y", 1), False),
    ("len, value", lambda d: len(d), lambda d: d.__setitem__("n", 2), False),
    ("len, new key", lambda d: len(d), lambda d: d.__setitem__("z", 2), True),
    ("keys, value", lambda d: list(d), lambda d: d.__setitem__("n", 2), False),
    ("keys, deletion", lambda d: list(d), lambda d: d.__delitem__("n"), True),
    ("values, value", lambda d: list(d.values()), lambda d: d.__setitem__("n", 2), True),
    ("first item, later value", lambda d: next(iter(d.items())), lambda d: d.update(xs=1), False),
    ("whole, deep below", lambda d: d == {}, lambda d: d.user.tags.append(1), True),
    ("repr, deep below", lambda d: repr(d), lambda d: d.user.tags.append(1), True),
    ("blind write, same key", lambda d: d.__setitem__("n", 5), lambda d: d.update(n=2), False),
    ("pop, other key", lambda d: d.pop("n"), lambda d: d.__setitem__("m", 1), False),
    ("pop, same key", lambda d: d.pop("n"), lambda d: d.__setitem__("n", 2), True),
    ("popitem, new key", lambda d: d.popitem(), lambda d: d.__setitem__("m", 1), True),
    ("in place, same list", lambda d: d.xs.append(5), lambda d: d.xs.append(6), True),
    ("index, other index", lambda d: d.xs[0], lambda d: d.xs.__setitem__(1, 9), False),
    ("index, same index", lambda d: d.xs[0], lambda d: d.xs.__setitem__(0, 9), True),
    ("index, append", lambda d: d.xs[0], lambda d: d.xs.append(9), False),
    ("last, append", lambda d: d.xs[-1], lambda d: d.xs.append(9), True),
    ("beyond the end, append", lambda d: too_far(d.xs, 3), lambda d: d.xs.append(9), True),
    ("early end of a loop", lambda d: next(iter(d.xs)), lambda d: d.xs.append(9), False),
    ("whole loop, append", lambda d: list(d.xs), lambda d: d.xs.append(9), True),
    ("found early, later index", lambda d: 3 in d.xs, lambda d: d.xs.__setitem__(2, 9), False),
    ("not found, append", lambda d: 9 in d.xs, lambda d: d.xs.append(9), True),
    ("set lookup, other element", lambda d: 1 in d.seen, lambda d: d.seen.add(9), False),
    ("set lookup, absent", lambda d: 9 in d.seen, lambda d: d.seen.add(9), True),
    ("set add, other element", lambda d: d.seen.add(8), lambda d: d.seen.add(9), False),
    ("attribute probes", lambda d: hasattr(d, "__len_hint__"), lambda d: d.update(z=1), False),
]


def too_far(xs: Any, index: int) -> None:
    with pytest.raises(IndexError):
        xs[index]


@pytest.mark.parametrize(
    ("body", "meanwhile", "conflict"),
    [pytest.param(*case[1:], id=case[0].replace(" ", "_")) for case in CONFLICTS],
)
def test_what_a_body_depends_on(
    engine: TheusEngine, body: Act, meanwhile: Act, conflict: bool
) -> None:
    tx = begin(engine)
    body(tx.domain)
    tx.domain["touched"] = 1  # a transaction without writes is not validated
    other = begin(engine)
    meanwhile(other.domain)
    other.commit()
    if conflict:
        with pytest.raises(ConflictError):
            tx.commit()
    else:
        tx.commit()
        assert engine.state["domain"]["touched"] == 1
