"""What an allocator notes when asked: sites, checksums, leaks; what it keeps, and for how long."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from theus import ArrayChangedError, TheusEngine, process

np = pytest.importorskip("numpy")

from theus.heavy import ManagedAllocator  # noqa: E402

MIB = 2**20


@pytest.fixture
def heavy() -> Iterator[ManagedAllocator]:
    with ManagedAllocator(200) as allocator:
        yield allocator


def line() -> str:
    """Where it is called."""
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def test_sites_are_noted_when_asked(heavy: ManagedAllocator) -> None:
    heavy.alloc("before", 3)
    heavy.watch(sites=True)
    here = line(), heavy.alloc("alloc", 3)
    there = line(), heavy.put("put", np.ones(3))
    sites = {array.key: array.site for array in heavy.report().arrays}
    assert sites == {"before": None, "alloc": here[0], "put": there[0]}
    assert here[0] in str(heavy.report())
    heavy.watch()
    heavy.free("alloc")
    heavy.alloc("alloc", 3)  # in the slot of the one before, whose site it is not
    assert [a.site for a in heavy.report().arrays if a.key == "alloc" and a.live] == [None]


def test_the_site_of_a_process_is_a_line_of_its_body() -> None:
    with TheusEngine({"heavy": {}}) as engine:
        engine.heavy.watch(sites=True)

        @process(outputs=["heavy.x"])
        def make(ctx: Any) -> Any:
            return ctx.heavy.alloc("x", 3)

        engine.run_process(make)
        (array,) = engine.heavy.report().arrays
        first = make.__wrapped__.__code__.co_firstlineno if hasattr(make, "__wrapped__") else 0
        assert array.published and array.site is not None
        assert array.site == f"{__file__}:{first + 2}" or (not first and __file__ in array.site)


def test_checksums_find_what_an_old_view_wrote() -> None:
    with TheusEngine({"heavy": {}}) as engine:
        engine.heavy.watch(checksums=True)
        for key in ("good", "bad", "gone"):
            array = engine.heavy.alloc(key, 100)
            view = array[3:4]
            engine.compare_and_swap(engine.version, heavy={key: array})
            engine.heavy.verify()
            if key != "good":
                view[0] = 7  # the flag of this view was never taken away
            if key == "bad":
                kept = engine.state.heavy["bad"]
                with pytest.raises(ArrayChangedError, match="'bad'.*view") as caught:
                    engine.heavy.verify()
                assert caught.value.keys == ("bad",) and kept[3] == 7
                engine.run(lambda tx: tx["heavy"].pop("bad"))
                engine.history_limit(count=1)
                del kept, caught, array, view
                gc.collect()
                engine.heavy.verify()  # nobody can see it any more
        with pytest.raises(ArrayChangedError, match="'gone'"):
            engine.heavy.verify()


@pytest.mark.parametrize(
    ("text", "sites", "checksums"),
    [("", False, False), ("sites", True, False), ("checksums,sites", True, True)],
)
def test_the_environment_may_ask(
    text: str, sites: bool, checksums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEUS_HEAVY_WATCH", text)
    watch = ManagedAllocator(1)._watch
    assert (watch.sites, watch.checksums) == (sites, checksums)
    monkeypatch.setenv("THEUS_HEAVY_WATCH", "everything")
    with pytest.raises(ValueError, match="THEUS_HEAVY_WATCH.*everything"):
        ManagedAllocator(1)


def test_leaks_are_what_nobody_can_get_any_more(heavy: ManagedAllocator) -> None:
    heavy.alloc("kept", 3)
    freed = heavy.alloc("freed", 1000)
    assert heavy.leaks() == ()
    heavy.free("freed")
    (leak,) = heavy.leaks()
    assert leak.key == "freed" and leak.bytes == 8000 and not leak.live and leak.processes == 1
    del freed
    assert heavy.leaks() == ()


def test_a_draft_that_was_not_stored_is_a_leak_while_a_view_holds_it() -> None:
    with TheusEngine({"heavy": {}}) as engine:
        held = []

        def fails(tx: Any) -> None:
            held.append(engine.heavy.alloc("x", 3)[1:])
            raise KeyError

        with pytest.raises(KeyError):
            engine.run(fails)
        engine.run(lambda tx: tx.update(heavy={"x": engine.heavy.put("x", np.ones(3))}))
        assert [leak.key for leak in engine.heavy.leaks()] == ["x"]
        held.clear()
        gc.collect()
        assert engine.heavy.leaks() == () and len(engine.heavy.report().arrays) == 1


def test_available_and_capacity(heavy: ManagedAllocator) -> None:
    assert heavy.available <= heavy.capacity == 200 * MIB
    heavy.quota(hard=10 * MIB)
    assert heavy.available == heavy.capacity == 10 * MIB
    heavy.alloc("x", 4 * MIB, "u1")
    assert heavy.available == 6 * MIB
    heavy.alloc("y", heavy.available, "u1")
    assert heavy.available == 0
    heavy.quota(hard=MIB)
    assert heavy.available == 0  # and not below


def test_memory_that_waited_too_long_is_given_back(heavy: ManagedAllocator) -> None:
    heavy.decay(600)  # a machine may stand still for the ten seconds that it is at first
    heavy.alloc("large", 40 * MIB, "u1", zero=False)  # an arena of its own
    heavy.alloc("small", 3)
    heavy.free("large")
    before = heavy.report()
    assert before.idle == 40 * MIB and before.arenas == 2
    heavy.alloc("other", 3)
    assert heavy.report().arenas == 2  # its time has not come
    heavy.decay(0)
    after = heavy.report()
    assert after.arenas == 1 and after.idle == 0 and heavy.get("small").sum() == 0
    heavy.alloc("large", 40 * MIB, "u1", zero=False)
    heavy.free("large")
    assert heavy.report().arenas == 1  # nothing is kept now
    for wrong in (-1, float("nan"), 1e30):
        with pytest.raises(ValueError, match="between 0 and"):
            heavy.decay(wrong)
