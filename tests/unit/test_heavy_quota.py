"""The quota of a process: all its allocators together, whatever their own limits are."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator

import pytest

from helpers import run_fresh
from theus import HeavyMemoryError, TheusEngine
from theus._theus import process_memory
from theus.testing import LeakError, leak_check

np = pytest.importorskip("numpy")

from theus.heavy import ManagedAllocator  # noqa: E402

MIB = 2**20


@pytest.fixture
def quota() -> Iterator[int]:
    """The bytes that the process may have: 8 MiB more than it has."""
    hard = process_memory()[2] + 8 * MIB
    ManagedAllocator.process_quota(hard=hard)
    yield hard
    ManagedAllocator.process_quota()


def test_engines_share_it(quota: int) -> None:
    with TheusEngine() as one, TheusEngine() as two:
        one.heavy.alloc("mine", 5 * MIB, "u1")
        with pytest.raises(HeavyMemoryError, match="quota of this process") as caught:
            two.heavy.alloc("too much", 3 * MIB + 1, "u1")
        error = pickle.loads(pickle.dumps(caught.value))
        assert (error.scope, error.prefix, error.limit) == ("process", None, quota)
        assert error.asked == 3 * MIB + 1 and error.used == quota - 3 * MIB
        assert error.holders[0] == ("mine", 5 * MIB)  # another engine's
        assert "process_quota" in str(error)
        two.heavy.alloc("fits", 3 * MIB, "u1")
        assert two.heavy.available == 0 and "too much" not in two.heavy
        assert two.heavy.report().process.used == two.heavy.report().process.hard == quota
        one.heavy.free("mine")
        two.heavy.alloc("now", 5 * MIB, "u1")


def test_the_engines_own_limit_is_named_first(quota: int) -> None:
    with ManagedAllocator(4) as heavy:
        with pytest.raises(HeavyMemoryError) as caught:
            heavy.alloc("x", 9 * MIB, "u1")
        assert (caught.value.scope, caught.value.prefix) == ("quota", "")


def test_what_outlives_its_engine_counts(quota: int) -> None:
    before = process_memory()[2]
    with ManagedAllocator() as heavy:
        view = heavy.alloc("x", 6 * MIB, "u1")[5:]
    del heavy
    assert process_memory()[2] == before + 6 * MIB
    with ManagedAllocator() as heavy, pytest.raises(HeavyMemoryError) as caught:
        heavy.alloc("y", 6 * MIB, "u1")
    assert ("x", 6 * MIB) in caught.value.holders
    del view
    assert process_memory()[2] == before


def test_beyond_the_soft_limit_nobody_keeps_memory() -> None:
    ManagedAllocator.process_quota(soft=1)
    try:
        with ManagedAllocator() as one, ManagedAllocator() as two:
            one.put("x", np.zeros(MIB, "u1"))
            one.free("x")
            assert one.report().idle > 0
            two.alloc("y", 8)
            assert one.report().idle == 0 == one.report().arenas
    finally:
        ManagedAllocator.process_quota()


@pytest.mark.parametrize(
    ("soft", "hard", "message"),
    [
        (0, None, "soft= is a number of bytes above 0, or None, not 0"),
        (None, "8", "hard= is a number of bytes above 0, or None, not '8'"),
        (None, 2**63, "hard= is"),
        (9, 8, "soft=9 is above hard=8"),
    ],
)
def test_bad_limits(soft: int | None, hard: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ManagedAllocator.process_quota(soft=soft, hard=hard)


def test_the_environment_sets_it_unless_the_program_does() -> None:
    code = """
import os, sys
from theus.heavy import ManagedAllocator
os.environ["THEUS_PROCESS_HEAP_SIZE"] = "3"
print(ManagedAllocator().report().process.hard)
os.environ["THEUS_PROCESS_HEAP_SIZE"] = "4"
print(ManagedAllocator().report().process.hard)
ManagedAllocator.process_quota(soft=5)
print(ManagedAllocator().report().process.hard)
os.environ["THEUS_PROCESS_HEAP_SIZE"] = "-1"
try:
    ManagedAllocator()
except ValueError as error:
    print(error)
"""
    assert run_fresh(code).splitlines() == [
        str(3 * MIB),
        str(3 * MIB),  # it was said
        "0",
        "THEUS_PROCESS_HEAP_SIZE is a number of MiB above 0, not '-1'",
    ]


# ---- figures ----------------------------------------------------------------------------------


def test_a_report_counts_by_prefix_and_by_process() -> None:
    with ManagedAllocator(64) as heavy:
        heavy.quota("cam.", hard=3 * MIB)
        kept = [heavy.alloc(key, MIB, "u1") for key in ("cam.left", "cam.right", "other")]
        report = heavy.report()
        assert [(quota.prefix, quota.arrays) for quota in report.quotas] == [("", 3), ("cam.", 2)]
        assert report.by_process == {os.getpid(): (3, 3 * MIB)}
        assert f"keys cam....: 2 arrays, {2 * MIB:,} bytes of {3 * MIB:,}" in str(report)
        before = report.process
        del kept[0]
        heavy.free("cam.left")
        after = heavy.report()
        assert after.process.deaths == before.deaths + 1
        assert after.process.arrays == before.arrays - 1
        assert [quota.arrays for quota in after.quotas] == [2, 1]
        heavy.quota("cam.r")  # what lives is counted anew
        assert [quota.arrays for quota in heavy.report().quotas] == [2, 1, 1]


def test_bytes_of_other_allocators_are_leaks_too() -> None:
    kept = []
    with pytest.raises(LeakError, match="bytes of this process"), leak_check():
        kept.append(ManagedAllocator().alloc("x", 10))


def test_out_of_address_space() -> None:
    """Seen before anything is mapped, with room left for the interpreter to say so."""
    code = """
import resource
from theus import HeavyMemoryError
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator(2**20)
with open("/proc/self/statm") as statm:
    here = int(statm.read().split()[0]) * resource.getpagesize()
most = here + 2**28
resource.setrlimit(resource.RLIMIT_AS, (most, most))
assert heavy.available <= 2**28
try:
    heavy.alloc("x", 2**28 - 2**23, "u1")
except HeavyMemoryError as error:
    assert error.scope == "address space" and error.limit == most and error.used >= here, error
    print(error)
print(list(heavy), heavy.alloc("y", 2**27, "u1").nbytes, ManagedAllocator().capacity <= most // 2)
heavy.alloc("z", 8)  # with 64 MiB at once, nothing could be published there
print(heavy.report().mapped - 2**27)
"""
    lines = run_fresh(code).splitlines()
    assert "RLIMIT_AS" in lines[0] and lines[1:] == [f"[] {2**27} True", str(2**25)]


def test_nothing_can_be_mapped_any_more() -> None:
    """What is borrowed, lent or stored takes addresses, too. Who is refused has lost nothing."""
    code = """
import pickle, resource, sys
from theus import HeavyMemoryError, TheusEngine
from theus._theus import count_leases
from theus.testing import leak_check
parcel, loan = pickle.loads(bytes.fromhex(sys.argv[1]))
first = resource.getrlimit(resource.RLIMIT_AS)
def limit(more):
    with open("/proc/self/statm") as statm:
        here = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + more, first[1]))
def refused(call):
    try:
        call()
    except HeavyMemoryError as caught:
        error = pickle.loads(pickle.dumps(caught))
        assert error.scope == "address space" and error.asked == 2**26, error
        assert error.used <= error.limit == resource.getrlimit(resource.RLIMIT_AS)[0]
        assert error.limit - error.used < error.asked and error.prefix is None
        assert "RLIMIT_AS" in str(error)
        return error
    raise AssertionError(call)
def store(tx):
    draft = engine.heavy.alloc("draft", 1000)
    draft[:] = 7
    tx.update(heavy={"draft": draft})
with TheusEngine() as engine:
    mine = engine.heavy.put("mine", [1.0] * 10_000)
    limit(2**25 + 2**24)
    error = refused(lambda: engine.run(store))
    assert error.holders == (("mine", 81_920), ("draft", 8_000)) and error.largest_free == 0
    refused(lambda: pickle.loads(parcel))
    with leak_check():
        refused(loan.__enter__)
    report = engine.heavy.report()
    assert (report.births, report.deaths) == (2, 1) and list(engine.heavy) == ["mine"]
    assert report.used == report.process.used == 81_920 and count_leases() == 1
    assert mine.flags.writeable and "draft" not in engine.state.heavy
    resource.setrlimit(resource.RLIMIT_AS, first)
    engine.run(store)
    assert engine.state.heavy["draft"].sum() == 7000 and mine.sum() == 10_000
    borrowed = pickle.loads(parcel)
    assert borrowed.sum() == 10
    with loan as rows:
        rows[:] = 5
print("done")
"""
    with ManagedAllocator() as heavy:
        array = heavy.put("x", np.ones(10))
        table = heavy.alloc("table", (4, 5), mode="shared")
        given = table.lend(1, 3)
        parcel = pickle.dumps((pickle.dumps(array), given))
        assert run_fresh(code, parcel.hex()) == "done\n"
        assert given.state == "returned" and table.sum(axis=1).tolist() == [0, 25, 25, 0]
