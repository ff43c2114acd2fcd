"""`ctx.heavy`: arrays of a process, as drafts of its attempt, under its contract."""

from __future__ import annotations

import contextvars
import gc
import pickle
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from support import PATIENCE
from theus import ContractViolationError, TheusEngine, process

np = pytest.importorskip("numpy")


@pytest.fixture
def engine() -> Iterator[TheusEngine]:
    with TheusEngine({"domain": {"n": 0}, "heavy": {}}) as made:
        yield made


@process(outputs=["heavy.frame"])
def by_return(ctx: Any, value: int) -> Any:
    frame = ctx.heavy.alloc("frame", (4, 4), "i4")
    frame[:] = value
    return frame


@process(outputs=["heavy.frame"])
def by_item(ctx: Any, value: int) -> None:
    ctx.heavy["frame"] = ctx.heavy.put("frame", np.full((4, 4), value, "i4"))


@pytest.mark.parametrize("way", [by_return, by_item])
def test_a_process_makes_the_next_version_of_an_array(engine: TheusEngine, way: Any) -> None:
    for value in (1, 2):
        engine.run_process(way, value)
        frame = engine.state.heavy["frame"]
        assert (frame == value).all() and frame.info()["published"]
    gc.collect()
    assert {a.key for a in engine.heavy.report().arrays} == {"frame"}


def test_other_libraries_are_told_that_it_cannot_be_written(engine: TheusEngine) -> None:
    engine.run_process(by_item, 1)
    frame = engine.state.heavy["frame"]
    assert memoryview(frame).readonly and frame.__array_interface__["data"][1]
    try:
        there = np.from_dlpack(frame)
    except BufferError:  # an older NumPy cannot say it, and refuses
        assert np.lib.NumpyVersion(np.__version__) < "2.0.0"
    else:
        assert np.shares_memory(there, frame) and not there.flags.writeable


def test_what_is_not_declared_is_refused_before_there_are_pages(engine: TheusEngine) -> None:
    @process(outputs=["heavy.frame"])
    def other_key(ctx: Any) -> None:
        ctx.heavy.alloc("other", 10**6)

    @process(outputs=["heavy.frame"])
    def swallows(ctx: Any) -> None:
        with pytest.raises(ContractViolationError):
            ctx.heavy.put("other", np.ones(3))

    @process(inputs=["heavy.frame"])
    def no_output(ctx: Any) -> None:
        ctx.heavy.alloc(key="frame", shape=3)

    @process(inputs=["heavy"], semantic="pure")
    def pure(ctx: Any) -> None:
        ctx.heavy.alloc("frame", 3)

    for way in (other_key, swallows, no_output, pure):
        with pytest.raises(ContractViolationError, match="heavy"):
            engine.run_process(way)
    assert engine.heavy.report().births == 0 and engine.version == 1


def test_a_failed_attempt_frees_what_it_allocated(engine: TheusEngine) -> None:
    @process(outputs=["heavy.frame"])
    def fails(ctx: Any) -> None:
        ctx.heavy.alloc("frame", 1000)[:] = 1
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        engine.run_process(fails)
    gc.collect()
    assert engine.heavy.used_bytes == 0 and engine.heavy.report().births == 1


def test_reads_of_an_array_are_in_the_read_set(engine: TheusEngine) -> None:
    engine.run_process(by_item, 1)
    tries = []

    @process(inputs=["heavy.frame"], outputs=["domain.n"])
    def total(ctx: Any) -> int:
        found = int(ctx.heavy.frame.sum())
        tries.append(found)
        if len(tries) == 1:
            apart = contextvars.Context().run  # a thread that inherited ours would be refused
            other = threading.Thread(target=apart, args=(engine.run_process, by_item, 2))
            other.start()
            other.join()
        return found

    engine.run_process(total)
    assert tries == [16, 32] and engine.state.domain["n"] == 32


def test_two_attempts_may_have_a_draft_of_one_key_each(engine: TheusEngine) -> None:
    """They meet at the commit, as two writers of any other path do, and not at the name."""
    both = threading.Barrier(2)
    tries = []

    @process(outputs=["heavy.frame"], inputs=["heavy.frame"])
    def add_one(ctx: Any) -> Any:
        before = ctx.heavy.get("frame")
        frame = ctx.heavy.alloc("frame", 3, "i4")
        frame[:] = 1 if before is None else before + 1
        tries.append(threading.get_ident())
        if len(tries) <= 2:
            both.wait(PATIENCE)
        return frame

    threads = [threading.Thread(target=engine.run_process, args=(add_one,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (engine.state.heavy["frame"] == 2).all() and len(tries) == 3


def test_it_is_a_mapping_like_any_other_root(engine: TheusEngine) -> None:
    engine.run_process(by_item, 1)

    @process(outputs=["heavy", "domain.n"])
    def look(ctx: Any) -> None:
        heavy = ctx.heavy
        assert isinstance(heavy, MutableMapping) and len(heavy) == 1 and list(heavy) == ["frame"]
        assert "frame" in heavy and heavy.get("none") is None and set(heavy.keys()) == {"frame"}
        assert heavy == ctx["heavy"] == ctx.heavy != {} and "frame" in repr(heavy)
        assert (heavy.frame == heavy["frame"]).all()
        heavy["copy"] = heavy.frame
        heavy.second = heavy.frame
        del heavy["frame"]
        with pytest.raises(TypeError, match="key"):
            heavy.alloc()
        with pytest.raises(AttributeError):
            _ = heavy.nothing
        ctx.domain.n = len(heavy)

    engine.run_process(look)
    assert set(engine.state.heavy) == {"copy", "second"} and engine.state.domain["n"] == 2

    @process(outputs=["heavy"])
    def replace(ctx: Any) -> None:
        ctx.heavy = {"only": ctx.heavy["copy"]}

    engine.run_process(replace)
    assert set(engine.state.heavy) == {"only"}


def test_what_comes_back_to_its_owner_cannot_be_written() -> None:
    """By token, as from a worker: it is the memory that the state holds."""
    with TheusEngine({"heavy": {}}) as engine:
        with engine.edit() as ctx:
            ctx.heavy["a"] = engine.heavy.put("a", np.arange(6.0))
        held = engine.state.heavy["a"]
        for arrived in (pickle.loads(pickle.dumps(held)), pickle.loads(pickle.dumps(held[::2]))):
            with pytest.raises(ValueError, match="read-only"):
                arrived[0] = 99
            assert arrived.info()["name"] == held.info()["name"]
            copy = arrived.cow()
            copy[0] = 99
        assert held.tolist() == list(range(6))
