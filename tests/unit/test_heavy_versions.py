"""Shared arrays in transactions: drafts, what is published, versions, conflicts, failures."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import run_threads
from theus import ConflictError, TheusEngine, UnfreezableError, process

np = pytest.importorskip("numpy")

from theus.heavy import ManagedAllocator  # noqa: E402
from theus.shm_array import ShmArray  # noqa: E402


@pytest.fixture
def engine() -> Iterator[TheusEngine]:
    with TheusEngine({"domain": {"n": 0}, "heavy": {}}) as made:
        yield made


def put(tx: Any, engine: TheusEngine, value: int, key: str = "x") -> ShmArray:
    array = engine.heavy.alloc(key, 100, "i4")
    array[:] = value
    tx.update(heavy={key: array})
    return array


def stored(engine: TheusEngine, key: str = "x") -> Any:
    return engine.state["heavy"][key]


def test_an_array_is_published_with_the_commit(engine: TheusEngine) -> None:
    draft = engine.run(put, engine, 5)
    array = stored(engine)
    assert type(array) is ShmArray and (array == 5).all() and array.info()["published"]
    assert not array.flags.writeable and not draft.flags.writeable
    for door in (array, array[2:], np.asarray(array), array.view(np.ndarray)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            door.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        draft[0] = 1
    assert stored(engine) is array  # by reference, whoever reads it
    arrived = pickle.loads(pickle.dumps(array))
    assert len(pickle.dumps(array)) < 200 and (arrived == 5).all()


def test_views_taken_before_are_the_writers_own_affair(engine: TheusEngine) -> None:
    array = engine.heavy.alloc("x", 10)
    part = array[3:5]
    engine.compare_and_swap(engine.version, heavy={"x": array})
    part[0] = 1  # documented
    assert stored(engine)[3] == 1


@pytest.mark.parametrize("way", ["update", "cas", "item", "process", "edit"])
def test_every_route_publishes(engine: TheusEngine, way: str) -> None:
    array = engine.heavy.alloc("x", 10)
    array[:] = 3
    if way == "update":
        engine.run(lambda tx: tx.update(heavy={"x": array[2:6]}))
    elif way == "cas":
        engine.compare_and_swap(engine.version, heavy={"x": array[2:6]})
    elif way == "item":

        def set_item(tx: Any) -> None:
            tx["domain"]["deep"] = [{"x": array[2:6]}]

        engine.run(set_item)
    elif way == "process":

        @process(outputs=["heavy.x"])
        def make(ctx: Any) -> Any:
            return array[2:6]

        engine.run_process(make)
    else:
        with engine.transaction() as tx:
            tx.set(("heavy", "x"), array[2:6])
    found = engine.state.domain["deep"][0]["x"] if way == "item" else stored(engine)
    assert found.shape == (4,) and found.info()["offset"] == 16 and found.info()["published"]


def test_versions_live_as_long_as_somebody_holds_them(engine: TheusEngine) -> None:
    engine = TheusEngine({"heavy": {}}, history=2)
    for i in range(6):
        engine.run(put, engine, i)
        gc.collect()
    old = engine.state
    for i in range(6, 12):
        engine.run(put, engine, i)
    assert (old["heavy"]["x"] == 5).all() and (stored(engine) == 11).all()
    gc.collect()
    assert engine.heavy.report().births == 12
    assert len(engine.heavy.report().arrays) <= 4  # the history, and the one that is held
    del old
    engine.close()


def test_what_the_state_holds_outlives_the_engine(engine: TheusEngine) -> None:
    engine.run(put, engine, 7)
    state = engine.state
    engine.close()
    assert (state["heavy"]["x"] == 7).all()
    assert not state["heavy"]["x"].info()["live"]


# ---- failures ---------------------------------------------------------------------------------


class Stop(Exception):
    pass


def test_a_failed_attempt_frees_its_drafts(engine: TheusEngine) -> None:
    def fails(tx: Any, published: bool) -> None:
        array = engine.heavy.alloc("x", 100)
        engine.heavy.alloc("scratch", 100)
        if published:
            tx.update(heavy={"x": array})
        assert "scratch" in engine.heavy
        raise Stop

    for published in (False, True, False):
        with pytest.raises(Stop):
            engine.run(fails, published)
        gc.collect()
        assert engine.heavy.used_bytes == 0 and len(engine.heavy) == 0
    assert "x" not in engine.state["heavy"]


def test_a_repeated_attempt_begins_without_drafts(engine: TheusEngine) -> None:
    attempts = []

    def body(tx: Any) -> None:
        attempts.append(tx["domain"]["n"])
        put(tx, engine, len(attempts))
        tx["domain"]["n"] += 1
        if len(attempts) < 3:
            engine.compare_and_swap(engine.version, {"domain": {"n": 10 * len(attempts)}})

    engine.run(body)
    assert len(attempts) == 3 and (stored(engine) == 3).all()
    gc.collect()
    assert len(engine.heavy.report().arrays) == 1


def test_a_draft_that_is_not_stored_stays_with_its_key(engine: TheusEngine) -> None:
    engine.run(lambda tx: engine.heavy.alloc("cache", 10).fill(4))
    assert engine.heavy.get("cache").sum() == 40
    with pytest.raises(FileExistsError):
        engine.heavy.alloc("cache", 10)


def test_a_savepoint_takes_its_drafts_back(engine: TheusEngine) -> None:
    def body(tx: Any) -> None:
        put(tx, engine, 1, "kept")
        try:
            with tx.savepoint():
                put(tx, engine, 2, "dropped")
                raise Stop
        except Stop:
            pass

    engine.run(body)
    gc.collect()
    assert set(engine.state["heavy"]) == {"kept"}
    assert [array.key for array in engine.heavy.report().arrays] == ["kept"]


def test_two_writers_of_one_key_conflict(engine: TheusEngine) -> None:
    with pytest.raises(ConflictError) as caught, engine.transaction() as tx:
        assert "x" not in tx["heavy"]
        engine.run(put, engine, 1, detached=True)
        array = engine.heavy.alloc("x", 100, "i4")
        tx.update(heavy={"x": array})
    assert caught.value.path is not None and caught.value.path[0] == "heavy"
    assert (stored(engine) == 1).all()


def test_the_key_is_free_for_the_next_version(engine: TheusEngine) -> None:
    engine.run(put, engine, 1)
    assert engine.heavy.get("x").sum() == 100 and not engine.heavy.get("x").flags.writeable
    second = engine.heavy.alloc("x", 100, "i4")
    assert engine.heavy.get("x").flags.writeable and second.sum() == 0
    assert (stored(engine) == 1).all()


def test_threads_publish_versions(engine: TheusEngine) -> None:
    def body(index: int) -> None:
        for i in range(30):
            key = f"k{index}"

            def work(tx: Any, key: str = key, i: int = i) -> None:
                put(tx, engine, i, key)
                tx["domain"]["n"] += 1

            engine.run(work)

    run_threads(4, body)
    assert engine.state["domain"]["n"] == 120
    assert all((stored(engine, f"k{i}") == 29).all() for i in range(4))


# ---- what is refused --------------------------------------------------------------------------


def test_what_may_still_change_is_refused(engine: TheusEngine) -> None:
    array = engine.heavy.put("x", np.arange(10))
    freed = engine.heavy.put("freed", np.arange(10))
    engine.heavy.free("freed")
    for value in (array[[1, 2]], array.cow(), freed):
        with pytest.raises(UnfreezableError, match=r"heavy\.y.*engine\.heavy\.put"):
            engine.compare_and_swap(engine.version, heavy={"y": value})
    with pytest.raises(UnfreezableError, match=r"engine\.heavy\.put"):
        engine.compare_and_swap(engine.version, heavy={"y": np.arange(3)})
    assert engine.version == 1


def test_an_allocator_without_an_engine_publishes_too(engine: TheusEngine) -> None:
    with ManagedAllocator(1) as other:
        engine.compare_and_swap(engine.version, heavy={"x": other.put("mine", np.ones(3))})
        assert other.get("mine").sum() == 3
    assert stored(engine).sum() == 3


def test_states_with_arrays_can_be_pickled(engine: TheusEngine) -> None:
    engine.run(put, engine, 5)
    data = pickle.dumps(engine.state)
    assert len(data) < 2000
    assert (pickle.loads(data)["heavy"]["x"] == 5).all()
