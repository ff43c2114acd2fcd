"""Parcels: what workers have had of a state is not sent again, and is always what it says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parallel_tasks as tasks
import theus
from parallel_tasks import Broke, Point
from theus import CodecError, SendError, StaleArrayError, TheusEngine, WorkerDied
from theus._compat import HAS_INTERPRETERS
from theus._theus import borrow_block, container_changes, encode, is_same
from theus.parallel import Load, places
from theus.pools import codec, parcels
from theus.pools.codec import extend, seen
from theus.pools.fit import CAREFUL, FORCED, Unfit
from theus.pools.parcels import INLINE, Depot, Receipt, patched

KINDS = ["processes", "interpreters"] if HAS_INTERPRETERS else ["processes"]
if not sys.platform.startswith("linux"):
    KINDS = []

STOCK = {f"item{n}": n for n in range(500)}
TOTAL = sum(STOCK.values())


def content() -> dict[str, Any]:
    return {
        "domain": {
            "n": 1,
            "rows": [1, 2, 3],
            "point": Point(1, 2),
            "sub": {"a": 1, "b": 2},
            "stock": STOCK,
        },
    }


# ---- what is sent -----------------------------------------------------------------------------


def test_what_has_arrays_in_it_is_no_parcel() -> None:
    """Nor in an instance, which pickle writes: a worker that kept it would keep their memory."""
    np = pytest.importorskip("numpy")
    with TheusEngine({"domain": {}, "heavy": {}}) as engine:
        array = engine.heavy.put("a", np.zeros(1000))
        held: list[Any] = []
        encode([Point(array, 1)], partial(extend, held, True))
        assert len(held) == 1
        assert Depot("test").claim(("domain", "a"), theus.freeze([1] * 5000)) is not None
        for value in ([array], [Point(array, 1)]):
            assert Depot("test").claim(("domain", "a"), value) is None
        with pytest.raises(Unfit, match="arrays in it"):
            encode([SimpleNamespace(a=array)], partial(seen, CAREFUL, []))
        encode([SimpleNamespace(a=array)], partial(seen, FORCED, []))


def test_places() -> None:
    assert places(("domain.a", "domain.a.b", "domain.users.*.age", "x")) == (
        ("x",),
        ("domain", "a"),
        ("domain", "users"),
    )


def received(load: Load, receipt: Receipt | None = None) -> Any:
    """What a worker has before it, as builtins."""
    roots = load.roots
    (receipt or Receipt(theus.freeze)).open(load.sent(), roots)
    return theus.thaw(theus.freeze(roots))


def test_a_load_holds_the_places_and_what_is_on_the_way() -> None:
    state = TheusEngine(content()).state

    def sent(*paths: str) -> Any:
        load = Load(Depot("test"))
        load.add_places(state, places(paths))
        return received(load)

    assert sent("domain.n", "domain.no", "no.x") == {"domain": {"n": 1}}
    assert sent("domain.sub.a", "domain.sub.c") == {"domain": {"sub": {"a": 1}}}
    assert sent("heavy.x") == {"heavy": {}}
    assert sent("domain.rows[1]", "domain.rows[2]") == {"domain": {"rows": [1, 2, 3]}}
    assert sent("domain.point.x", "domain.no.x") == {"domain": {"point": Point(1, 2)}}
    assert sent("domain.stock", "domain.sub") == {
        "domain": {"stock": STOCK, "sub": {"a": 1, "b": 2}}
    }
    everything = Load(Depot("test"))
    everything.add_all(state)
    assert received(everything) == content() | {"heavy": {}}


# ---- the depot and the receipt ------------------------------------------------------------------


def claim(depot: Depot, value: Any, name: str = "a") -> Any:
    parcel = depot.claim((name,), value)
    assert parcel is not None
    return parcel


def is_there(parcel: Any) -> bool:
    _, token, size, _ = parcel.sent
    try:
        return borrow_block(token).size >= size > 0
    except StaleArrayError:
        return False


def test_the_same_container_is_one_parcel() -> None:
    engine, depot = TheusEngine(content()), Depot("test")
    before = engine.state.domain.stock
    first = claim(depot, before)
    assert first.size > INLINE and claim(depot, engine.state.domain.stock) is first
    engine.run(lambda tx: tx.set("domain.n", 5))
    assert is_same(before, engine.state.domain.stock) and not is_same(before, dict(before))
    assert claim(depot, engine.state.domain.stock) is first
    engine.run(lambda tx: tx.set("domain.stock", dict(reversed(STOCK.items()))))
    second = claim(depot, engine.state.domain.stock)
    assert second is not first and second.sent[1] != first.sent[1]
    # The runs that have claimed the old one may still need it.
    assert is_there(first) and is_there(second)
    depot.leave([first, first])
    assert is_there(first)
    depot.leave([first, second])
    assert not is_there(first) and is_there(second)


def test_small_content_needs_no_block() -> None:
    depot = Depot("test")
    small = claim(depot, theus.freeze({"a": 1}))
    assert small.sent == (("a",), theus.pools.codec.dumps(theus.freeze({"a": 1})), 0, None)
    assert all(parcels.is_small(it) for it in (1, None, 2.5, True, "x" * INLINE, b"x"))
    assert not any(parcels.is_small(it) for it in ((), "x" * (INLINE + 1), theus.freeze({})))


def test_what_was_there_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "KEPT", 5000)
    depot, texts = Depot("test"), ["abcd"[n] * 2000 for n in range(4)]
    made = [claim(depot, text, text[0]) for text in texts]
    assert all(map(is_there, made))
    depot.leave(made)
    assert [is_there(parcel) for parcel in made] == [False, False, True, True]
    assert claim(depot, texts[3], "d") is made[3]
    large = claim(depot, "x" * 6000, "large")  # goes, and is not kept
    assert is_there(large) and is_there(made[2])
    depot.leave([large])
    assert not is_there(large)

    adopted: list[Any] = []
    receipt, roots = Receipt(lambda it: adopted.append(it) or it), dict.fromkeys("abcd")
    again = [claim(depot, text, text[0]) for text in texts[:3]]
    receipt.open([parcel.sent for parcel in again], roots)
    assert roots == {"a": "a" * 2000, "b": "b" * 2000, "c": "c" * 2000, "d": None}
    depot.leave(again)
    receipt.open([it.sent for it in again[1:]], roots)
    assert len(adopted) == 3
    with pytest.raises(StaleArrayError):  # kept no more, and gone
        receipt.open([again[0].sent], roots)


def test_what_is_known_is_not_read_again() -> None:
    depot, receipt = Depot("test"), Receipt(theus.freeze)
    engine = TheusEngine(content())
    parcel = claim(depot, engine.state.domain.stock)
    roots: dict[str, Any] = {"a": None}
    receipt.open([parcel.sent], roots)
    assert roots["a"] == STOCK
    parcel.block.retire()
    again = {"a": None}
    receipt.open([parcel.sent], again)
    assert again["a"] is roots["a"]


# ---- differences ------------------------------------------------------------------------------


def grown(depot: Depot, engine: TheusEngine, n: int) -> Any:
    """The parcel of what stands there after one more change."""
    engine.run(lambda tx: tx.set(("domain", "stock", f"item{n}"), -1))
    return claim(depot, engine.state.domain.stock)


def test_of_a_later_version_the_difference_goes() -> None:
    engine, depot, receipt = TheusEngine(content()), Depot("test"), Receipt(theus.freeze)
    first = claim(depot, engine.state.domain.stock)
    second = grown(depot, engine, 1)
    assert second.sent[3] == (first.sent[1], first.size) and len(second.sent[1]) < 40
    # From the same ground, whether it comes first or later, and whatever was there meanwhile.
    third = grown(depot, engine, 2)
    assert third.ground is second.ground is first
    for parcels_sent in ([third], [first, second, third, second], [second]):
        fresh = Receipt(theus.freeze)
        for which in (receipt, fresh):
            roots: dict[str, Any] = {}
            for parcel in parcels_sent:
                which.open([parcel.sent], roots)
                assert roots["a"] == parcel.value
                assert list(roots["a"].items()) == list(parcel.value.items())


def test_the_ground_stays_as_long_as_there_are_differences_from_it() -> None:
    engine, depot = TheusEngine(content()), Depot("test")
    first = claim(depot, engine.state.domain.stock)
    second = grown(depot, engine, 1)
    depot.leave([first])
    assert is_there(first) and first.claims == 1
    other = claim(depot, theus.freeze({"other": "x" * 2000}))  # takes the place of the second
    assert is_there(first)
    depot.leave([second])
    assert not is_there(first) and is_there(other)


def test_differences_that_are_as_much_as_the_whole_are_no_more_sent() -> None:
    """So that their number is bounded, and what all of them cost together, too."""
    engine, depot = TheusEngine(content()), Depot("test")
    first = claim(depot, engine.state.domain.stock)
    sent = 0
    for n in range(100):
        parcel = grown(depot, engine, n)
        depot.leave([parcel])
        if parcel.ground is not first:
            break
        sent += max(parcel.size - first.size, len(parcel.sent[1]))
    assert first.size / 2 < sent <= first.size and 10 < n < 90
    assert parcel.ground is None and first.claims == 1 and not first.kept


def test_what_cannot_be_told_as_a_difference_goes_whole() -> None:
    np = pytest.importorskip("numpy")
    with TheusEngine(content() | {"heavy": {}}) as engine:
        depot, before = Depot("test"), engine.state.domain.stock
        for change in (
            lambda tx: tx.set("domain.stock", dict(reversed(before.items()))),  # another one
            lambda tx: [tx.domain.stock.pop(key) for key in list(before)[:400]],  # packed anew
            lambda tx: tx.domain.stock.update(dict.fromkeys(before, -1)),  # all of it
        ):
            assert depot.claim(("a",), before) is not None
            engine.run(lambda tx, change=change: (change(tx), None)[1])
            parcel = claim(depot, engine.state.domain.stock)
            assert parcel.ground is None and parcel.value == engine.state.domain.stock
            engine.run(lambda tx: tx.set("domain.stock", before))
        assert depot.claim(("a",), before) is not None
        array = engine.heavy.put("a", np.zeros(10))
        engine.run(lambda tx: tx.set("domain.stock.item1", array))
        assert depot.claim(("a",), engine.state.domain.stock) is None
        assert depot._parcels[("a",)].claims == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["map", "sub", "rows", "seen", "deep"]),
        st.sampled_from(["put", "pop", "again", "clear", "whole"]),
        st.integers(0, 40),
    ),
    max_size=25,
)


def step(domain: Any, where: str, what: str, n: int) -> None:
    """Some change, of a map, a map in it, a list, a set, a record in a map in a map."""
    place = {"map": domain, "sub": domain["sub"], "deep": domain["deep"]["x"]}.get(where)
    if where == "rows":
        rows = domain["rows"]
        {"put": rows.append, "pop": lambda n: rows and rows.pop()}.get(
            what, lambda n: rows and rows.__setitem__(n % len(rows), [n])
        )(n)
    elif where == "seen":
        {"put": domain["seen"].add, "pop": domain["seen"].discard}.get(what, lambda n: None)(n)
    elif what == "put":
        place[f"k{n}"] = n if n % 3 else {"n": n, "point": Point(n, 1)}
    elif what == "pop":
        place.pop(f"k{n}", None)
    elif what == "again" and f"k{n}" in place:
        place[f"k{n}"] = place.pop(f"k{n}")
    elif what == "clear" and where == "sub" and n < 5:
        place.clear()
    elif what == "whole" and where != "map":
        domain[where] = {"x": {}} if where == "deep" else {"k1": 0}
    elif what == "clear" and where == "deep" and "point" in place:
        place["point"].x = n


@given(STEPS, STEPS)
@settings(max_examples=60, deadline=None)
def test_what_is_done_again_gives_the_same_in_the_same_order(
    before: list[Any], after: list[Any]
) -> None:
    many = {f"k{n}": n for n in range(30)}
    deep = {"x": dict(many) | {"point": Point(1, 2)}}
    engine = TheusEngine(
        {"domain": {**many, "sub": many, "rows": [1, 2], "seen": {1, 2}, "deep": deep}}
    )

    def body(tx: Any, steps: list[Any]) -> None:
        for each in steps:
            step(tx.domain, *each)

    engine.run(body, before)
    old = engine.state.domain
    engine.run(body, after)
    new = engine.state.domain
    changes = container_changes(old, new, 1000)
    if changes is not None:
        # Adopted, as a worker has it, and as it travels.
        ground = theus.freeze(codec.loads(codec.dumps(old, pickle=True), pickle=True))
        made = patched(ground, codec.loads(codec.dumps(changes, pickle=True), pickle=True))
        assert made == new and repr(made) == repr(new)
    assert container_changes(old, old, 0) == []
    if changes:
        assert container_changes(old, new, 0) is None


class Alone:
    """Equal to itself, and not to what a worker gets of it."""


NAN = float("nan")


@pytest.mark.parametrize(
    "key", [NAN, (1, NAN), Alone(), (Alone(),)], ids=["nan", "nan within", "alone", "alone within"]
)
def test_by_keys_that_do_not_equal_their_copies_nothing_is_told(key: Any) -> None:
    """Who does the changes could not find the entry: it would stay, or stand there twice."""
    old, seen = theus.freeze({key: 1, "b": {}, "c": 3}), theus.freeze({key, 1})
    for gone in (old.set(key, 2), old.delete(key), old.delete(key).set(key, 1)):
        assert container_changes(old, gone, 9) is None
    assert container_changes(seen, seen.discard(key), 9) is None
    assert container_changes(old, old.set("c", 4), 9) == [("c", 4)]
    bare, none = old.delete(key), seen.discard(key)
    assert container_changes(bare, bare.set(key, 1), 9) == [(key, 1)]  # at the end: not looked for
    assert container_changes(none, none.add(key), 9) == [(key, None)]
    outer = theus.freeze({"d": old})
    changed = outer.set("d", outer["d"].set(key, 2))
    assert container_changes(outer, changed, 9) == [("d", changed["d"])]


@pytest.mark.parametrize("key", [None, True, 7, 2.5, "a", b"a", (1, "a", 2.5)], ids=repr)
def test_by_plain_keys_changes_are_told(key: Any) -> None:
    old = theus.freeze({key: 1, "b": 2})
    assert container_changes(old, old.set(key, 2), 9) == [(key, 2)]
    assert container_changes(old, old.delete(key), 9) == [(key,)]


def test_of_what_changes_can_be_told() -> None:
    engine = TheusEngine(content())
    old = engine.state.domain
    engine.run(lambda tx: tx.set("domain.sub.a", 5))
    new = engine.state.domain
    assert container_changes(old, new, 9) == [("sub", None, [("a", 5)])]
    assert container_changes(new, old, 9) == [("sub", None, [("a", 1)])]
    engine.run(lambda tx: (tx.domain.stock.pop("item7"), tx.domain.rows.append(4), None)[2])
    found = container_changes(new, engine.state.domain, 9)
    assert found == [("rows", None, [(3, 4)]), ("stock", None, [("item7",)])]
    for a, b in (
        (old, 1),
        (None, old),
        (old, old.rows),
        (old, theus.freeze({"n": 1})),  # another memory
        (old.point, old.point),  # a record
    ):
        assert container_changes(a, b, 9) is None
    with pytest.raises(TypeError):
        container_changes(old, new)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        container_changes(old, new, "9")  # type: ignore[arg-type]


def test_arrays_are_no_parcels() -> None:
    np = pytest.importorskip("numpy")
    with TheusEngine() as engine:
        array = engine.heavy.put("a", np.arange(4))
        assert Depot("test").claim(("x",), (array, 1)) is None


def test_what_cannot_travel_leaves_no_claim() -> None:
    state = TheusEngine({"domain": {"a": STOCK, "b": theus.Opaque(sys._getframe())}}).state
    load = Load(Depot("test"))
    with pytest.raises(SendError):
        load.add_all(state)
    load.leave()


def test_forged_content_is_refused() -> None:
    with pytest.raises(CodecError):
        Receipt(theus.freeze).open([(("a",), b"none", 0, None)], {"a": None})


# ---- in workers ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def warm(request: pytest.FixtureRequest) -> Iterator[TheusEngine]:
    with TheusEngine(content(), pool=request.param, pool_size=2) as made:
        yield made


@pytest.fixture
def engine(warm: TheusEngine) -> TheusEngine:
    warm.restore(TheusEngine(content()).state)
    return warm


def test_workers_see_each_version_as_it_is(engine: TheusEngine) -> None:
    for n in range(6):  # both workers, from the block and from what they keep
        assert engine.run_process(tasks.counts) == (500, TOTAL - n, ["item0", "item1"])
        assert engine.run_process(tasks.counts) == (500, TOTAL - n, ["item0", "item1"])
        engine.run_process(tasks.takes, f"item{n}")
    engine.run(lambda tx: tx.domain.stock.pop("item0"))
    assert engine.run_process(tasks.counts) == (499, TOTAL - 5, ["item1", "item2"])
    assert engine.run_process(tasks.looks) == (["n", "point", "rows", "stock", "sub"], 499)
    engine.restore(TheusEngine(content()).state)
    assert engine.run_process(tasks.counts) == (500, TOTAL, ["item0", "item1"])


def test_what_a_failed_attempt_wrote_is_seen_by_nobody(engine: TheusEngine) -> None:
    for _ in range(4):
        with pytest.raises(Broke):
            engine.run_process(tasks.takes, "item7", fail=True)
        assert engine.run_process(tasks.counts) == (500, TOTAL, ["item0", "item1"])


def test_a_new_worker_knows_nothing_and_learns_it(engine: TheusEngine) -> None:
    if engine.get_pool().stats().kind != "processes":
        pytest.skip("its workers die with this process")
    for _ in range(2):
        assert engine.run_process(tasks.counts)[0] == 500
        with pytest.raises(WorkerDied):
            engine.run_process(tasks.dies)
    assert [engine.run_process(tasks.counts)[1] for _ in range(4)] == [TOTAL] * 4


def test_runs_leave_their_claims(engine: TheusEngine) -> None:
    engine.run_process(tasks.counts)
    with pytest.raises(Broke):
        engine.run_process(tasks.takes, "item7", fail=True)
    kept = engine.workers._depot._parcels
    assert kept[("domain", "stock")].claims == 0 and kept[("domain", "stock")].size > INLINE


def test_workers_follow_many_versions(engine: TheusEngine) -> None:
    """By differences from one ground and from the next one, which each of the two learns."""
    assert engine.run_process(tasks.counts) == (500, TOTAL, ["item0", "item1"])
    grounds = set()
    for n in range(60):
        engine.run(lambda tx, n=n: tx.set(("domain", "stock", f"item{n}"), 0))
        futures = [
            asyncio.run(engine.execute(tasks.counts)) if n % 2 else engine.run_process(tasks.counts)
            for _ in range(2)
        ]
        assert futures == [(500, TOTAL - n * (n + 1) // 2, ["item0", "item1"])] * 2
        parcel = engine.workers._depot._parcels[("domain", "stock")]
        grounds.add(id(parcel.ground or parcel))
    assert 1 < len(grounds) < 10
