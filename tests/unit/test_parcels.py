"""Parcels: what workers have had of a state is not sent again, and is always what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import parallel_tasks as tasks
import theus
from parallel_tasks import Broke, Point
from theus import CodecError, SendError, StaleArrayError, TheusEngine, WorkerDied
from theus._compat import HAS_INTERPRETERS
from theus._theus import borrow_block, encode, is_same
from theus.parallel import Load, places
from theus.pools import parcels
from theus.pools.codec import extend, seen
from theus.pools.fit import CAREFUL, FORCED, Unfit
from theus.pools.parcels import INLINE, Depot, Receipt

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
    (receipt or Receipt()).open(load.sent(), roots)
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
    _, token, size = parcel.sent
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
    engine.run(lambda tx: tx.set("domain.stock.item1", 5))
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
    assert small.sent == (("a",), theus.pools.codec.dumps(theus.freeze({"a": 1})), 0)
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

    receipt, roots = Receipt(), dict.fromkeys("abcd")
    again = [claim(depot, text, text[0]) for text in texts[:3]]
    new = receipt.open([parcel.sent for parcel in again], roots)
    assert roots == {"a": "a" * 2000, "b": "b" * 2000, "c": "c" * 2000, "d": None}
    receipt.keep(new, theus.State(roots))
    depot.leave(again)
    assert len(new) == 3 and len(receipt.open([it.sent for it in again[1:]], roots)) == 0
    with pytest.raises(StaleArrayError):  # kept no more, and gone
        receipt.open([again[0].sent], roots)


def test_what_is_known_is_not_read_again() -> None:
    depot, receipt = Depot("test"), Receipt()
    engine = TheusEngine(content())
    parcel = claim(depot, engine.state.domain.stock)
    roots: dict[str, Any] = {"a": None}
    new = receipt.open([parcel.sent], roots)
    assert new == [parcel.sent] and roots["a"] == STOCK
    receipt.keep(new, theus.State(roots))
    parcel.block.retire()
    roots = {"a": None}
    assert receipt.open([parcel.sent], roots) == [] and roots["a"] == STOCK


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
        Receipt().open([(("a",), b"none", 0)], {"a": None})


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
