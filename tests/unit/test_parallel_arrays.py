"""Arrays of every dtype, and every view of them, through workers of each kind: what arrives is what
was sent, without a copy where it is shared, and what comes back is what they have."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import parallel_tasks as tasks
from theus import CodecError, ProcessError, SendError, StaleArrayError, TheusEngine
from theus._compat import HAS_INTERPRETERS

np = pytest.importorskip("numpy")

KINDS = ["threads"]
if sys.platform.startswith("linux"):
    KINDS += ["processes"] + ["interpreters"] * HAS_INTERPRETERS

NUMBERS = list("?bhilqBHILQefdFD")
"""What an ArrayView knows, too."""
OTHERS = ["g", "G", ">i4", ">f8", "M8[s]", "m8[ns]", "S5", "U3", "V3", "i4,f8", "(2,3)i2,S1"]
"""What NumPy alone knows."""
NATIVE = {"threads": NUMBERS + OTHERS, "processes": NUMBERS + OTHERS, "interpreters": NUMBERS}


def made(dtype: str) -> Any:
    """Six rows of four, of which no two are alike, or nearly."""
    kind = np.dtype(dtype)
    size = 24 * kind.itemsize
    if kind.kind in "fc":
        return (np.arange(24) - 11.5).astype(kind).reshape(6, 4)
    if kind.kind in "?bMmU":
        return (np.arange(24) % (2 if kind.kind == "b" else 24)).astype(kind).reshape(6, 4)
    return np.frombuffer(bytes(n * 7 % 128 for n in range(size)), kind).reshape(6, 4)


def views(a: Any) -> Iterator[Any]:
    yield a
    yield a[1:3]
    yield a[:, 1:3]
    yield a[::2, ::-1]
    yield a[::-1]
    yield a.T
    yield a[1:, 1:].T
    yield a[2:2]
    yield a[:, 3:3]
    yield a[2, 1, ...]
    yield a[3]
    yield a[:, 2]
    yield a[None, :, None]
    yield a.reshape(-1)
    yield a.reshape(2, 3, 2, 2)[:, ::2, 1]
    yield np.broadcast_to(a[0], (3, 4), subok=True)


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest) -> Iterator[TheusEngine]:
    """With an array of each dtype, half of them in the order of Fortran."""
    with TheusEngine({"heavy": {}}, pool=request.param, pool_size=1) as made_engine:
        with made_engine.edit() as ctx:
            for n, dtype in enumerate(NATIVE[request.param]):
                array = made(dtype)
                array = np.asfortranarray(array) if n % 2 else array
                ctx.heavy[f"a{n}"] = made_engine.heavy.put(f"a{n}", array)
        yield made_engine


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["engine"])


def steps(shape: Any, strides: Any) -> list[int]:
    """The strides that lead from one element to another one: nobody minds the others."""
    return [step for axis, step in zip(shape, strides, strict=True) if axis > 1 and 0 not in shape]


def described(array: Any) -> tuple[Any, ...]:
    return array.shape, array.dtype.name, array.tobytes()


@pytest.mark.parametrize("shared", [True, False])
def test_they_arrive_as_they_are(engine: TheusEngine, kind: str, shared: bool) -> None:
    for n, dtype in enumerate(NATIVE[kind]):
        source = engine.state.heavy[f"a{n}"] if shared else made(dtype)
        sent = list(views(source))
        got = engine.run_process(tasks.describes, sent)
        assert [it[:3] for it in got] == [described(it) for it in sent], dtype
        if shared:
            found = [steps(shape, strides) for shape, _, _, strides in got]
            assert found == [steps(it.shape, it.strides) for it in sent], dtype


def test_they_come_back_as_they_are(engine: TheusEngine, kind: str) -> None:
    for n, dtype in enumerate(NATIVE[kind]):
        source = engine.state.heavy[f"a{n}"]
        sent = list(views(source))
        got = engine.run_process(tasks.gives_back, sent)
        assert list(map(described, got)) == list(map(described, sent)), dtype
        found = [steps(it.shape, it.strides) for it in got]
        assert found == [steps(it.shape, it.strides) for it in sent], dtype
        # NumPy has copied some before they were sent.
        full = [it for it, that in zip(got, sent, strict=True) if np.may_share_memory(that, source)]
        assert len(full) > 8
        assert {it.info()["name"] for it in full} == {source.info()["name"]}, dtype
        assert not any(it.flags.writeable for it in full)


def test_those_of_the_state_are_read_under_their_contract(engine: TheusEngine, kind: str) -> None:
    for n, dtype in enumerate(NATIVE[kind]):
        array = engine.state.heavy[f"a{n}"]
        found = engine.run_process(tasks.describes_heavy, f"a{n}")
        assert found == (*described(array), array.strides), dtype
        assert array.flags.f_contiguous == bool(n % 2)


def test_no_worker_writes_into_the_state(engine: TheusEngine) -> None:
    """INC-014: a worker could, through its view of the caller's memory."""
    array = engine.state.heavy["a0"]
    before = described(array)
    refused = engine.run_process(tasks.writes_into, "a0", array)
    assert len(refused) == 4 and all("read-only" in it for it in refused), refused
    assert described(array) == before


def test_no_worker_writes_into_a_draft(engine: TheusEngine, kind: str) -> None:
    """Which the thread that has sent it may be writing."""
    if kind == "threads":
        pytest.skip("it is this very array there")
    draft = engine.heavy.put("draft", made("d"))
    try:
        refused = engine.run_process(tasks.writes_into, "a0", draft)
        assert len(refused) == 4 and all("read-only" in it for it in refused), refused
        assert described(draft) == described(made("d"))
        draft[0, 0] = 5
    finally:
        engine.heavy.free("draft")


def test_what_was_freed_is_named(engine: TheusEngine, kind: str) -> None:
    """A state keeps its memory, and its array can be read here; no worker can borrow it."""
    before = engine.state
    with engine.edit() as ctx:
        ctx.heavy["gone"] = engine.heavy.put("gone", made("d"))
    engine.heavy.free("gone")
    try:
        if kind == "threads":
            assert engine.run_process(tasks.describes_heavy, "gone")[2] == made("d").tobytes()
            return
        with pytest.raises(StaleArrayError, match=r"at heavy\.gone that was freed") as caught:
            engine.run_process(tasks.describes_heavy, "gone")
        assert caught.value.path == ("heavy", "gone")
        with pytest.raises(StaleArrayError, match=r"heavy\.gone"):
            asyncio.run(engine.execute(tasks.describes_heavy, "gone"))
        # As an argument it is an array as any other.
        freed = engine.state.heavy["gone"]
        assert engine.run_process(tasks.describes, [freed])[0][2] == made("d").tobytes()
    finally:
        engine.restore(before)


@pytest.mark.parametrize("fresh", [True, False])
def test_what_becomes_of_results(engine: TheusEngine, kind: str, fresh: bool) -> None:
    """An array that the worker has made is copied once; a view of one that is there stays one."""
    for n, dtype in enumerate(NATIVE[kind]):
        before = engine.state.heavy[f"a{n}"]
        engine.run_process(tasks.reverses, f"a{n}", fresh)
        kept = engine.state.heavy["made"]
        assert described(kept) == described(before[::-1]), dtype
        info = kept.info()
        assert info["published"] and info["owned"]
        assert (info["name"] != before.info()["name"]) == fresh


@pytest.mark.skipif("interpreters" not in KINDS, reason="from Python 3.13 on")
def test_what_only_numpy_knows_is_refused_where_it_cannot_load() -> None:
    with TheusEngine({"heavy": {}}, pool="interpreters", pool_size=1) as engine:
        for dtype in OTHERS:
            with pytest.raises((CodecError, SendError, ProcessError, TypeError)):
                engine.run_process(tasks.describes, [made(dtype)])
