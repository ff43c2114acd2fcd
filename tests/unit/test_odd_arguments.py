"""Odd arguments: whatever is given, the error names it, and says what would have been right."""

import copy
import pickle

import numpy as np
import pytest

from theus import ConflictManager, FrozenDict, FrozenList, FrozenSet, TheusEngine, process
from theus._compat import HAS_INTERPRETERS
from theus.guards import ContextGuard, ProcessContext
from theus.heavy import ManagedAllocator
from theus.pools import InterpreterPool, ProcessPool, ThreadPool
from theus.shm import BufferDescriptor, SafeSharedMemory, rebuild_shm_array
from theus.testing import Recorder, check_history, leak_check


class Hostile:
    """Nothing that a message could use works."""

    def __repr__(self):
        raise RuntimeError("repr")

    __str__ = __repr__

    def __eq__(self, other):
        raise RuntimeError("eq")

    def __hash__(self):
        return 1


ENGINE = TheusEngine({"domain": {"n": 1, "rows": [1]}})


def merging(rule):
    return process(outputs=["domain.n"], merge={"domain.n": rule})(lambda ctx: 1)


CALLS = {
    "options(retries=)": lambda odd: ENGINE.options(retries=odd),
    "options(deadline=)": lambda odd: ENGINE.options(deadline=odd),
    "options(timeout=)": lambda odd: ENGINE.options(timeout=odd),
    "options(inline=)": lambda odd: ENGINE.options(inline=odd),
    "options(detached=)": lambda odd: ENGINE.options(detached=odd),
    "run_process": lambda odd: ENGINE.options().run_process(odd),
    "to_object": lambda odd: ENGINE.to_object(odd),
    "merge=": lambda odd: process(outputs=["domain.n"], merge=odd)(lambda ctx: 1),
    "merge rule": merging,
    "heavy.alloc(key)": lambda odd: ENGINE.heavy.alloc(odd, 3),
    "heavy.get": lambda odd: ENGINE.heavy.get(odd),
    "heavy.free": lambda odd: ENGINE.heavy.free(odd),
    "heavy.quota(prefix)": lambda odd: ENGINE.heavy.quota(odd, hard=2**30),
    "heavy.quota(hard=)": lambda odd: ENGINE.heavy.quota("a", hard=odd),
    "heavy.decay": lambda odd: ENGINE.heavy.decay(odd),
    "heavy.watch(sites=)": lambda odd: ENGINE.heavy.watch(sites=odd),
    "heavy.watch(checksums=)": lambda odd: ENGINE.heavy.watch(checksums=odd),
    "ManagedAllocator(capacity)": ManagedAllocator,
    "ManagedAllocator(session)": lambda odd: ManagedAllocator(1, odd),
    "ManagedAllocator(engine=)": lambda odd: ManagedAllocator(1, engine=odd),
    "rebuild_shm_array": lambda odd: rebuild_shm_array(odd, 3, "f8"),
    "SafeSharedMemory": SafeSharedMemory,
    "BufferDescriptor.open": lambda odd: BufferDescriptor(odd, 8, (1,), "f8").open(),
    "ContextGuard(inputs)": lambda odd: ContextGuard({"a": 1}, odd),
    "ContextGuard(outputs)": lambda odd: ContextGuard({"a": 1}, [], odd),
    "ContextGuard(transaction=)": lambda odd: ContextGuard(None, [], [], transaction=odd),
    "ProcessContext(local)": lambda odd: ProcessContext({"a": 1}, odd),
    "ProcessContext(tx)": lambda odd: ProcessContext(None, None, odd),
    "ConflictManager(retries)": ConflictManager,
    "ConflictManager(backoff)": lambda odd: ConflictManager(5, odd),
    "ProcessPool(size)": ProcessPool,
    "ProcessPool(initializer=)": lambda odd: ProcessPool(1, initializer=odd),
    "ProcessPool(initargs=)": lambda odd: ProcessPool(1, initargs=odd),
    "ProcessPool(start_method=)": lambda odd: ProcessPool(1, start_method=odd),
    "ProcessPool(timeout=)": lambda odd: ProcessPool(1, timeout=odd),
    "ProcessPool(blas_threads=)": lambda odd: ProcessPool(1, blas_threads=odd),
    "ThreadPool(size)": ThreadPool,
    "ThreadPool(initializer=)": lambda odd: ThreadPool(1, initializer=odd),
    "ThreadPool(initargs=)": lambda odd: ThreadPool(1, initargs=odd),
    "ThreadPool(timeout=)": lambda odd: ThreadPool(1, timeout=odd),
    "Recorder": Recorder,
    "check_history": check_history,
    "leak_check": lambda odd: leak_check(odd).__enter__(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("odd", "shown"),
    [
        (2.5j, "2.5j"),
        (b"bytes" * 1000, "b'bytes"),
        (Hostile(), "<Hostile whose repr() fails>"),
    ],
    ids=["complex", "long", "hostile"],
)
def test_the_error_names_what_was_given_and_stays_short(call, odd, shown):
    if isinstance(odd, bytes) and call is CALLS["ContextGuard(inputs)"]:
        odd, shown = 5, "5"  # bytes can be iterated: what they hold is refused
    elif isinstance(odd, bytes) and call is CALLS["ContextGuard(outputs)"]:
        odd, shown = 5, "5"
    with pytest.raises((TypeError, ValueError)) as caught:
        call(odd)
    assert shown in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "call",
    [
        lambda: ENGINE.heavy.alloc("\ud800", 3),
        lambda: ENGINE.heavy.quota("\ud800", hard=2**30),
        lambda: ManagedAllocator(1, "\ud800"),
    ],
)
def test_a_name_that_utf8_cannot_hold_is_refused_by_name(call):
    with pytest.raises(ValueError, match=r"'\\ud800' cannot be written in UTF-8"):
        call()


def test_elements_without_bytes_need_a_shape():
    with ManagedAllocator(1) as heavy:
        heavy.alloc("a", 4)
        with pytest.raises(ValueError, match="shape="):
            heavy.get("a", dtype=[])
        assert heavy.get("a", 7, []).shape == (7,)


@pytest.mark.parametrize("falsy", [0, (), [], {}, False])
def test_a_prefix_is_not_left_out_because_it_is_falsy(falsy):
    with ManagedAllocator(1) as heavy:
        before = heavy.capacity
        with pytest.raises(TypeError, match="prefix of a quota"):
            heavy.quota(falsy, hard=5)
        assert heavy.capacity == before


@pytest.mark.parametrize(
    "other", [FrozenSet({2}), FrozenDict({2: 3}), {2}, {2: 3}, {2: 3}.keys()], ids=repr
)
def test_lists_are_not_added_to_sets_and_dicts(other):
    with pytest.raises(TypeError):
        FrozenList([1]) + other
    with pytest.raises(TypeError):
        other + FrozenList([1])
    with pytest.raises(TypeError):
        ENGINE.run(lambda tx: tx.add("domain.rows", other))
    assert ENGINE.state.domain.rows == [1]


def test_lists_are_added_to_any_sequence():
    assert FrozenList([1]) + (2,) == [1, 2] == [1] + FrozenList([2])
    assert FrozenList([1]) + FrozenList([2]) == [1, 2] == FrozenList([1]) + range(2, 3)
    assert FrozenList([1]) + np.array([2]) == [1, 2]


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_transaction_is_not_copied_into_one_of_another_engine(copied):
    with ENGINE.transaction() as tx:
        for each in (tx, tx.savepoint()):
            with pytest.raises(TypeError, match="cannot be pickled"):
                copied(each)


@pytest.mark.skipif(HAS_INTERPRETERS, reason="the pool is there")
def test_a_pool_of_interpreters_on_an_old_python_names_the_other_one() -> None:
    with pytest.raises(NotImplementedError, match="3.13 or newer.*use ProcessPool"):
        InterpreterPool(1)
