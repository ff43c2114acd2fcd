"""Kinds of memory: every kind holds arrays as good as any other, and a set of kinds is a choice."""

from __future__ import annotations

import pickle
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest

from helpers import run_fresh
from theus import HeavyMemoryError, TheusEngine
from theus.heavy import ManagedAllocator, MemoryClass
from theus.heavy_arguments import Backend
from theus.memory import BLOCKS

MIB = 2**20
KINDS = [MemoryClass.HUGE, MemoryClass.PINNED, MemoryClass.SHARED, MemoryClass.FILE]


@pytest.fixture
def heavy() -> ManagedAllocator:
    return ManagedAllocator(512, backend="anonymous")


def try_alloc(heavy: ManagedAllocator, kind: MemoryClass) -> np.ndarray:
    try:
        return heavy.alloc("a", (3, 1000), "int32", memory=kind)
    except (HeavyMemoryError, NotImplementedError, OSError) as error:
        pytest.skip(f"no memory of the kind {kind.name} here: {error}")


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_each_kind(heavy: ManagedAllocator, kind: MemoryClass) -> None:
    array = try_alloc(heavy, kind)
    assert (array == 0).all()
    array[:] = np.arange(3000).reshape(3, 1000)
    assert MemoryClass.of(array) is kind and MemoryClass.of(array[1, ::2]) is kind
    assert array.info()["memory"] == kind.name
    assert MemoryClass.of(array + 1) is MemoryClass.of(array.cow()) is MemoryClass.HOST
    assert (pickle.loads(pickle.dumps(array[:, ::3])) == array[:, ::3]).all()
    cow = array.cow()
    cow[0, 0] = 9
    assert array[0, 0] == 0
    with ManagedAllocator(8, memory=kind | MemoryClass.SHARED) as other:
        assert MemoryClass.of(other.put("b", array)) in kind | MemoryClass.SHARED


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_borrows_it(heavy: ManagedAllocator, kind: MemoryClass) -> None:
    array = try_alloc(heavy, kind)
    array[:] = 7
    code = """
import pickle, sys
from theus.heavy import MemoryClass
array = pickle.loads(bytes.fromhex(sys.argv[1]))
assert (array == 7).all() and not array.flags.writeable
print(MemoryClass.of(array).name)
try:
    array.shm.unlink()
except PermissionError:
    print("refused")
"""
    out = run_fresh(code, pickle.dumps(array).hex())
    assert out == f"{kind.name}\nrefused\n"
    assert (array == 7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_owner_leaves_nothing(kind: MemoryClass, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from theus.heavy import ManagedAllocator, MemoryClass
child = os.fork()
if child == 0:
    heavy = ManagedAllocator(64, backend="anonymous")
    try:
        heavy.alloc("a", 10**6, "u1", memory=MemoryClass[sys.argv[1]]).fill(1)
    except (MemoryError, NotImplementedError, OSError):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    assert run_fresh(code, kind.name, THEUS_SPILL_DIR=str(tmp_path)) == "9\n"
    assert list(tmp_path.iterdir()) == []


def test_the_first_kind_that_has_room(heavy: ManagedAllocator) -> None:
    assert MemoryClass.of(heavy.alloc("default", 10)) is MemoryClass.SHARED
    both = MemoryClass.SHARED | MemoryClass.FILE
    assert MemoryClass.of(heavy.alloc("either", 10, memory=both)) is MemoryClass.SHARED
    assert MemoryClass.of(heavy.alloc("any", 10, memory=BLOCKS)) in BLOCKS
    assert MemoryClass.of(heavy.put("put", np.ones(3), memory=both)) is MemoryClass.SHARED


def test_placement_is_a_question_of_the_set() -> None:
    kinds = [*KINDS, MemoryClass.HOST]
    for some in chain.from_iterable(combinations(kinds, n) for n in range(6)):
        accepted = MemoryClass(0)
        for kind in some:
            accepted |= kind
        assert [kind in accepted for kind in kinds] == [kind in some for kind in kinds]


def test_place_copies_only_what_lies_elsewhere(heavy: ManagedAllocator) -> None:
    plain = np.arange(4)
    shared = heavy.place("a", plain)
    assert shared is not plain and MemoryClass.of(shared) is MemoryClass.SHARED
    assert heavy.place("b", shared) is shared
    assert heavy.place("b", plain, memory=MemoryClass.HOST | MemoryClass.SHARED) is plain
    assert heavy.place("b", shared[1:], memory=BLOCKS).base is not None and "b" not in heavy
    assert MemoryClass.of(heavy.place("b", [1, 2])) is MemoryClass.SHARED
    with pytest.raises(ValueError, match="HOST"):
        heavy.place("c", shared, memory=MemoryClass.HOST)


def test_what_cannot_be_had_is_said(heavy: ManagedAllocator) -> None:
    with pytest.raises(ValueError, match=r"one of .*not in <MemoryClass.HOST"):
        heavy.alloc("a", 10, memory=MemoryClass.HOST)
    with pytest.raises(TypeError, match="'huge'"):
        heavy.alloc("a", 10, memory="huge")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="4"):
        ManagedAllocator(memory=4)  # type: ignore[arg-type]
    assert "a" not in heavy
    named = ManagedAllocator(64, backend="named")
    with pytest.raises(NotImplementedError, match="MemoryClass"):
        named.alloc("a", 10, memory=MemoryClass.FILE)
    assert MemoryClass.of(named.alloc("a", 10, memory=BLOCKS & ~MemoryClass.PINNED))
    assert "a" in named
    named.shutdown()


@pytest.mark.parametrize("backend", ["anonymous", "named"])
def test_rows_are_lent_of_ordinary_memory(backend: Backend) -> None:
    huge_or_file = MemoryClass.HUGE | MemoryClass.FILE
    with ManagedAllocator(64, backend=backend) as heavy:
        for kinds in (MemoryClass.HUGE, MemoryClass.FILE, huge_or_file):
            with pytest.raises(ValueError, match=r"mode='shared' lends .*PINNED.*memory="):
                heavy.alloc("a", (4, 10), mode="shared", memory=kinds)
            assert "a" not in heavy
        for kinds in (MemoryClass.SHARED, MemoryClass.SHARED | huge_or_file):
            array = heavy.alloc("a", (4, 10), mode="shared", memory=kinds)
            with array.lend(1, 3) as rows:
                rows[:] = 5
            assert (
                MemoryClass.of(array) is MemoryClass.SHARED
                and (array.sum(axis=1) == [0, 50, 50, 0]).all()
            )
            heavy.free("a")
    with ManagedAllocator(64, backend=backend, memory=MemoryClass.FILE) as heavy:
        with pytest.raises(ValueError, match="FILE"):
            heavy.alloc("a", 10, mode="shared")


def test_a_refusal_names_the_kind() -> None:
    with pytest.raises(HeavyMemoryError) as caught, ManagedAllocator(2**39) as heavy:
        heavy.alloc("a", 2**58, "u1", memory=MemoryClass.FILE)  # more than any disk
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.memory == "FILE" and error.asked == 2**58 and error.prefix is None
    assert "MemoryClass.FILE" in str(error)


def test_huge_pages_are_those_that_are_set_aside(heavy: ManagedAllocator) -> None:
    """And no others, whatever there is of ordinary memory: also where none are."""
    try:
        free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text()
    except OSError:
        free = "0"
    with ManagedAllocator(2**39) as large, pytest.raises(HeavyMemoryError) as caught:
        large.alloc("a", 2 * MIB * (int(free) + 2**20), "u1", memory=MemoryClass.HUGE)
    error = caught.value
    assert error.memory == "HUGE" and error.limit < error.asked and "vm.nr_hugepages" in str(error)
    assert MemoryClass.of(heavy.alloc("a", 10, memory=MemoryClass.HUGE | MemoryClass.SHARED))
    assert heavy.report().used < 4 * MIB


def test_the_report_tells_kinds_apart(heavy: ManagedAllocator) -> None:
    heavy.alloc("plain", 10)
    array = try_alloc(heavy, MemoryClass.FILE)
    report = heavy.report()
    assert set(report.by_memory) == {MemoryClass.SHARED, MemoryClass.FILE}
    of_files = report.by_memory[MemoryClass.FILE]
    assert of_files.arrays == of_files.arenas == 1 and of_files.used >= array.nbytes
    assert {a.key: a.memory for a in report.arrays}["a"] is MemoryClass.FILE
    assert "a: 12,000 bytes, FILE memory" in str(report)
    assert sum(kind.used for kind in report.by_memory.values()) == report.used


def test_versions_lie_in_it_too() -> None:
    with TheusEngine() as engine:

        def store(tx: object) -> None:
            array = try_alloc(engine.heavy, MemoryClass.PINNED)
            array[:] = 3
            tx.update(heavy={"a": array})  # type: ignore[attr-defined]

        engine.run(store)
        kept = engine.state.heavy["a"]
        assert MemoryClass.of(kept) is MemoryClass.PINNED and not kept.flags.writeable
