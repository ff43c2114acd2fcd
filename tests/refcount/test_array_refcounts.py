"""References in balance: shared arrays, values on the wire, contexts and objects given back."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

import theus
from counting import SLACK, WINDOW, blocks, drift, fails
from theus import TheusEngine, freeze, process
from theus.errors import CodecError, StaleArrayError, UnknownArrayError
from theus.pools.codec import dumps, loads

if not hasattr(sys, "gettotalrefcount"):
    pytest.skip("this Python does not count references", allow_module_level=True)

np = pytest.importorskip("numpy")

from theus.heavy import ManagedAllocator  # noqa: E402
from theus.shm import BufferDescriptor, HeavyZoneWrapper, SafeSharedMemory  # noqa: E402

DATA = {"d": {"n": 1, "rows": [{"id": 1}], "seen": {1, 2}, "deep": {"a": {"b": (1, "x")}}}}


class Boom(Exception):
    pass


def engine() -> TheusEngine:
    return TheusEngine({**DATA, "heavy": {}}, ring_capacity=2, history=2)


# ---- arrays ----------------------------------------------------------------------------------


def framing(ctx: Any, fail: bool = False) -> Any:
    frame = ctx.heavy.alloc("frame", (4, 5), "int32")
    frame[:] = ctx.d.n
    fails(FileExistsError, ctx.heavy.alloc, "frame", 3)
    fails(TypeError, ctx.heavy.alloc, "other", 3, object)
    other = ctx.heavy.put("other", [1.0, 2.0])
    if fail:
        raise Boom
    return frame, other


def frames(of: TheusEngine) -> None:
    """Drafts that are stored, dropped and refused; versions of one array."""
    straying = process(inputs=["d.n"], outputs=["heavy.frame"])(lambda ctx: framing(ctx))
    fails(theus.ContractViolationError, of.run_process, straying)
    storing = process(inputs=["d.n", "heavy"], outputs=["heavy.frame", "heavy.other"])(framing)
    for _ in range(3):
        of.run_process(storing)
    fails(Boom, of.run_process, storing, fail=True)
    shown = of.state.heavy["frame"]
    fails(ValueError, shown.__setitem__, 0, 1)
    assert shown[1:, ::2].sum() == 9 and shown.cow()[0, 0] == 1
    assert pickle.loads(pickle.dumps(shown)).sum() == 20
    fails(theus.UnfreezableError, of.run, lambda tx: tx.update(heavy={"frame": np.ones(2)}))
    of.close()
    assert shown.sum() == 20


def allocator(of: TheusEngine) -> None:
    with ManagedAllocator(8) as heavy:
        array = heavy.alloc("a", (3, 4), "f4", order="F")
        heavy.put("b", array[1:])
        fails(UnknownArrayError, heavy.get, "c")
        fails(UnknownArrayError, heavy.free, "c")
        fails(MemoryError, heavy.alloc, "large", 2**30)
        fails(ValueError, heavy.quota, soft=2, hard=1)
        assert heavy.get("b").shape == (2, 4) and heavy.get("a", 3, "u1").nbytes == 3
        assert len(heavy.report().arrays) == 2 and not heavy.leaks()
        heavy.free("a")
        assert list(heavy) == ["b"] and len(heavy.leaks()) == 1


def descriptors(of: TheusEngine) -> None:
    array = of.heavy.put("a", np.arange(12).reshape(3, 4))
    descriptor = BufferDescriptor.of(array[:, 1:])
    assert pickle.loads(pickle.dumps(descriptor)) == descriptor
    assert descriptor.open().sum() == array[:, 1:].sum()
    wrapper = HeavyZoneWrapper({"a": descriptor})
    assert wrapper["a"] is not None and "a" in wrapper
    memory = SafeSharedMemory(array.shm.name)
    assert memory.size >= array.nbytes and bytes(memory.buf[:8]) == bytes(8)
    fails(PermissionError, memory.unlink)
    memory.close()
    fails(ValueError, lambda: memory.buf)
    fails(ValueError, BufferDescriptor.of, np.ones(3))
    of.heavy.free("a")
    fails(StaleArrayError, descriptor.open)
    fails(StaleArrayError, BufferDescriptor.of, array)
    fails(StaleArrayError, SafeSharedMemory, descriptor.name)


# ---- the wire --------------------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int = 1
    y: Any = None


SENT: tuple[Any, ...] = (
    freeze(DATA),
    freeze([1, 2.5, "text", b"bytes", None, {1, 2}]),
    {"a": (1, [2, {3}], frozenset((4,))), 5: 2**100},
    np.arange(6).reshape(2, 3)[:, ::2],
    np.float32(1.5),
    ValueError("one", 2),
)


def wire(of: TheusEngine) -> None:
    for value in SENT:
        data = dumps(value)
        loads(data)
        fails(CodecError, loads, data[:-1])
        fails(CodecError, loads, data + b"x")
    for cut in range(0, 40, 3):
        with contextlib.suppress(CodecError):
            loads(dumps(SENT[0])[cut:])
    pickled = dumps(Point(1, [2]), pickle=True)
    assert loads(pickled, pickle=True) == Point(1, [2])
    fails(CodecError, loads, pickled)
    fails(TypeError, dumps, lambda: 1)
    array = of.heavy.put("sent", [1.0])
    assert loads(dumps(array)).sum() == 1


# ---- contexts, and objects given back --------------------------------------------------------


@dataclasses.dataclass
class Shop:
    n: int = 1
    rows: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class System:
    d: Shop = dataclasses.field(default_factory=Shop)
    other: Any = None


KEEP = freeze([Shop(), System(), Point()])
"""What is known of a class goes with its last record: so it stays for all rounds."""


def given_back(of: TheusEngine) -> None:
    typed = TheusEngine(System(Shop(2, [Point(1, {2})])))
    made = typed.to_object()
    assert made.d.rows[0].y == {2} and made.d.n == 2
    typed.run(lambda tx: tx.set("extra", {"n": [1]}))
    assert typed.to_object(typed.state.at(typed.version)).extra == {"n": [1]}
    fails(TypeError, typed.to_object, 5)
    assert of.to_object()["d"]["rows"] == [{"id": 1}]


@process(inputs=["d"], outputs=["d.n"])
def looking(ctx: Any, word: str, *, mark: Any) -> Any:
    whole = ctx.data
    assert whole["d"].rows[0].id == 1 and ctx.input["word"] == word
    fails(TypeError, operator.setitem, ctx.input, "word", 5)
    fails(theus.ContractViolationError, lambda: ctx.heavy["frame"])
    ctx.local["kept"] = [ctx, whole]  # a cycle through the context
    fails(theus.ContractViolationError, lambda: ctx.missing_root)
    fails(theus.ContractViolationError, lambda: len(whole))
    return len(ctx.state.d.rows) + mark


def contexts(of: TheusEngine) -> None:
    of.run_process(looking, "word", mark=1)
    fails(theus.ArgumentError, of.run_process, looking, "word")
    shown = theus.ProcessContext({"d": {"n": 1}}, {"a": 1})
    assert shown.data["d"].n == 1 and shown.local == {"a": 1}
    fails(theus.ContractViolationError, setattr, shown.d, "n", 5)
    with contextlib.suppress(theus.ContractViolationError), of.transaction() as tx:
        guard = theus.ContextGuard(tx, ["d"], ["d.n"])
        fails(theus.ContractViolationError, setattr, guard.d, "rows", 5)


@process(inputs=["d"], outputs=["d.n"])
def running(ctx: Any, engine: TheusEngine, depth: int) -> Any:
    ctx.d.n = (depth, ctx.d.n)
    if depth > 0:
        engine.run_process(running, engine, depth - 1)
        with contextlib.suppress(Boom), ctx.tx.savepoint():
            ctx.d.n = [ctx.d.n]
            engine.run_process(running, engine, depth - 1)
            raise Boom
        ctx.d.n = {"depth": depth}
    assert ctx.tx.written
    return "ok"


def within(of: TheusEngine) -> None:
    """Processes within processes, one of them undone."""
    of.run_process(running, of, 2)


def merging(of: TheusEngine) -> None:
    for rule, value in (("union", 5), ("sum", "text"), ("append", 5), ("max", "text")):
        body = process(outputs=["d.n"], merge={"d.n": rule})(lambda ctx, value: value)
        fails(theus.MergeError, of.run_process, body, value)


WITH_ARRAYS = (frames, allocator, descriptors, wire)
STORIES = (given_back, contexts, within, merging)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story.__name__))
def test_a_story(story: Callable[[TheusEngine], None]) -> None:
    assert abs(drift(lambda: story(engine()))) < SLACK


@pytest.mark.parametrize("story", WITH_ARRAYS, ids=lambda story: str(story.__name__))
def test_a_story_with_arrays(story: Callable[[TheusEngine], None]) -> None:
    assert abs(drift(lambda: story(engine()), blocks)) < SLACK


def test_blocks_would_notice() -> None:
    kept: list[Any] = []
    assert drift(lambda: kept.append(np.ones(1)), blocks) >= WINDOW
