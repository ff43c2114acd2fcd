"""Shared arrays between processes: who may do what, and what the dead leave behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from borrower import Borrower
from helpers import run_fresh
from theus import BorrowedArrayError, StaleArrayError

np = pytest.importorskip("numpy")
if not sys.platform.startswith("linux"):
    pytest.skip("shared memory without names is Linux's", allow_module_level=True)

from theus.heavy import ManagedAllocator  # noqa: E402
from theus.registry import sweep  # noqa: E402

MIB = 2**20


@pytest.fixture(autouse=True, params=["anonymous", "named"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every promise here is one of both backends."""
    monkeypatch.setenv("THEUS_SHM_BACKEND", request.param)
    return str(request.param)


def named_files() -> list[str]:
    """Those that are there when what belongs to nobody any more has been swept."""
    folder = os.environ.get("THEUS_SHM_DIR", "/dev/shm")
    sweep(folder)
    return sorted(name for name in os.listdir(folder) if name.startswith("theus_"))


@pytest.fixture
def borrower() -> Iterator[Borrower]:
    made = Borrower()
    yield made
    if made.process.returncode is None:
        assert made.end() == 0


@pytest.fixture
def heavy() -> Iterator[ManagedAllocator]:
    with ManagedAllocator(256) as allocator:
        yield allocator


# ---- borrowing --------------------------------------------------------------------------------


def test_the_same_memory_in_another_process(heavy: ManagedAllocator, borrower: Borrower) -> None:
    array = heavy.put("x", np.arange(1000))
    assert borrower.ask("keep(it).sum()", array) == 499500
    assert borrower.ask("it[::-7].tolist()", array[::2]) == array[::2][::-7].tolist()
    array[5] = -1
    assert borrower.ask("int(kept[0][5])") == -1
    about = borrower.ask("kept[0].info()")
    assert (about["owned"], about["writeable"], about["pid"]) == (False, False, os.getpid())
    assert about["name"] == array.info()["name"] and array.info()["leases"] == 2
    assert borrower.ask("kept[0][3:5].shm.size") == array.nbytes


def test_what_an_array_is_can_be_read_without_its_pages(
    heavy: ManagedAllocator, borrower: Borrower
) -> None:
    array = heavy.put("x", np.ones((1024, 1024)))
    about = borrower.ask("(keep(it).info(), it.shape, it.dtype.str, it.strides)", array)
    assert about[0]["key"] == "x" and about[0]["block_bytes"] == 2**23
    assert about[1:] == ((1024, 1024), "<f8", (8192, 8))
    assert borrower.ask("touched()") == 0
    assert borrower.ask("kept[0][0, 0]") == 1
    assert borrower.ask("touched()") > 0


def test_an_array_may_be_passed_on(heavy: ManagedAllocator, borrower: Borrower) -> None:
    array = heavy.put("x", np.arange(1000))
    back = borrower.ask("it[10:20]", array)  # from the borrower to its owner
    assert back.shm is not None and back.flags.writeable
    assert back.info()["address"] == array[10:].info()["address"]
    third = Borrower()
    passed_on = borrower.ask("pickle.dumps(keep(it))", array)
    assert third.ask("int(pickle.loads(it).sum())", passed_on) == 499500
    assert third.end() == 0


def test_a_freed_array_is_stale_and_stays_with_who_has_it(
    heavy: ManagedAllocator, borrower: Borrower
) -> None:
    array = heavy.put("x", np.full(1000, 7))
    late = pickle.dumps(array)
    assert borrower.ask("len(keep(it))", array) == 1000
    heavy.free("x")
    del array
    with pytest.raises(StaleArrayError):
        borrower.ask("pickle.loads(it)", late)
    for i in range(5):
        heavy.put(f"other {i}", np.zeros(1000, int))
    assert borrower.ask("kept[0].sum()") == 7000
    assert heavy.report().lingering == 1
    assert type(borrower.ask("kept[0]")) is np.ndarray  # what is freed travels as data
    borrower.ask("kept.clear()")
    heavy.alloc("next", 1)
    assert heavy.report().lingering == 0


# ---- a bad worker -----------------------------------------------------------------------------


def test_a_borrower_can_neither_free_nor_write(heavy: ManagedAllocator, borrower: Borrower) -> None:
    array = heavy.put("x", np.arange(1000))
    with pytest.raises(BorrowedArrayError, match="belongs to another process") as caught:
        borrower.ask("it.shm.unlink()", array)
    assert isinstance(caught.value, PermissionError)
    for door in (
        "it.__setitem__(0, 1)",
        "it.setflags(write=True)",
        "it.view(np.ndarray).setflags(write=True)",
        "np.add(it, 1, out=it)",
        "it.sort()",
        "it.shm.buf.__setitem__(0, 1)",
        "memoryview(it.shm._block).cast('B').__setitem__(0, 1)",
        "np.frombuffer(it.shm._block, 'u1').setflags(write=True)",
    ):
        with pytest.raises((ValueError, TypeError), match=r"read-only|WRITEABLE"):
            borrower.ask(door, array)
    with pytest.raises(TypeError, match="not writable"):
        borrower.ask("(ctypes.c_char * 8).from_buffer(it.shm._block)", array)
    page = "ctypes.c_void_p(it.ctypes.data // 4096 * 4096)"
    assert borrower.ask(f"ctypes.CDLL(None).mprotect({page}, 4096, 3)", array) == -1
    assert heavy.get("x").sum() == 499500 and "x" in heavy


def test_no_file_of_an_arena_opens_for_writing(
    heavy: ManagedAllocator, borrower: Borrower, backend: str
) -> None:
    if backend == "named":
        pytest.skip("a file with a name opens for who may do everything: no promise there")
    array = heavy.put("x", np.arange(1000))
    assert borrower.ask("keep(it).sum()", array) == 499500
    files = [
        f"/proc/{pid}/fd/{fd}"
        for pid in (os.getpid(), borrower.process.pid)
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.path.exists(f"/proc/{pid}/fd/{fd}")
        and "theus-data" in os.readlink(f"/proc/{pid}/fd/{fd}")
    ]
    assert len(files) >= 2
    for file in files:
        with pytest.raises(PermissionError):
            borrower.ask(f"mmap.mmap(os.open({file!r}, os.O_RDWR), 4096)")
        with pytest.raises(PermissionError):
            borrower.ask(f"os.write(os.open({file!r}, os.O_RDWR), b'x')")
        with pytest.raises(PermissionError):
            borrower.ask(f"os.truncate({file!r}, 0)")
    assert array.sum() == 499500


def test_who_writes_past_python_dies_alone(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(1000))
    bad, good = Borrower(), Borrower()
    assert good.ask("len(keep(it))", array) == 1000
    bad.send("ctypes.memset(it.ctypes.data, 0, 8000)", array)
    assert bad.end() == -signal.SIGSEGV
    assert array.sum() == 499500 and good.ask("kept[0].sum()") == 499500
    assert good.end() == 0
    heavy.free("x")
    del array
    heavy.cleanup()  # both have ended, one of them with its lease
    assert heavy.report().used == 0


# ---- the dead ---------------------------------------------------------------------------------


def test_a_killed_borrower_keeps_nothing(heavy: ManagedAllocator) -> None:
    for size in (10, MIB, 40 * MIB):
        array = heavy.put("x", np.ones(size, "u1"))
        killed = Borrower()
        assert killed.ask("int(keep(it)[3:].sum())", array) == size - 3
        killed.kill()
        heavy.free("x")
        del array
        heavy.cleanup()
        assert heavy.report().used == 0 and heavy.report().arenas == 0


OWNER = """
import os, pickle, sys
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator()
for i in range(3):
    heavy.alloc(f"k{i}", 3_000_000, "u1")[:] = i + 1
tokens = [pickle.dumps(heavy.get(f"k{i}")) for i in range(3)]
sys.stdout.buffer.write(pickle.dumps(tokens))
sys.stdout.buffer.flush()
sys.stdin.read()
"""


def test_a_killed_owner_leaves_nothing(borrower: Borrower) -> None:
    before = named_files()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(sys.executable).parent,
    )
    assert owner.stdout is not None
    tokens = pickle.load(owner.stdout)
    assert borrower.ask("int(keep(pickle.loads(it))[-1])", tokens[0]) == 1
    owner.kill()
    owner.communicate()
    # Who looked, still does; who knows the arena, may look; to everybody else it is gone.
    assert borrower.ask("bool((kept[0] == 1).all())") is True
    # Its name is good for nobody else: so it is passed on as data.
    assert borrower.ask("kept[0].info()['live'], type(kept[0]).__name__") == (False, "ShmArray")
    assert borrower.ask("kept[0][:3]").tolist() == [1, 1, 1]
    assert borrower.ask("int(keep(pickle.loads(it))[-1])", tokens[1]) == 2
    with pytest.raises(StaleArrayError):
        pickle.loads(tokens[2])
    assert named_files() == before
    # And the mapping itself goes when the borrower gets to know the next arena.
    count = "mapped()"
    assert borrower.ask(count) == 1
    with ManagedAllocator() as heavy:
        borrower.ask("kept.clear()")
        assert borrower.ask("it.sum()", heavy.alloc("x", 5)) == 0
        assert borrower.ask(count) == 1
        borrower.ask("sys.modules['theus._theus'].forget_arenas()")
        assert borrower.ask(count) == 0


# ---- many -------------------------------------------------------------------------------------


def test_two_engines_and_eight_workers() -> None:
    with ManagedAllocator(64) as one, ManagedAllocator(64) as two:
        workers = [Borrower() for _ in range(8)]
        for key in ("a", "b"):
            one.put(key, np.full(50, 1))
            two.put(key, np.full(50, 2))
        for round in range(3):
            for worker in workers:
                worker.send("[int(keep(x).sum()) for x in it]", [one.get("a"), two.get("b")])
            for worker in workers:
                assert worker.process.stdout is not None
                assert pickle.load(worker.process.stdout) == (True, [50, 100]), round
        assert one.get("a").info()["leases"] == 9
        for worker in workers:
            assert worker.end() == 0
        one.cleanup()
        two.cleanup()
        assert one.used_bytes == two.used_bytes == 0


def test_a_few_descriptors_are_enough() -> None:
    """Out of descriptors is out of memory: an exception, after which everything works."""
    code = """
import resource
from theus import HeavyMemoryError
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator()
small = [heavy.alloc(f"s{i}", 10) for i in range(5000)]
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    for i in range(20):
        heavy.alloc(f"l{i}", 33 * 2**20, "u1")
except HeavyMemoryError as error:
    print(i, error.prefix)
heavy.free("l0")
print(heavy.alloc("again", 33 * 2**20, "u1").nbytes, small[4999].sum())
"""
    lines = run_fresh(code).splitlines()
    assert lines[1] == f"{33 * MIB} 0.0" and lines[0].endswith(" None")


# ---- the end ----------------------------------------------------------------------------------


def test_nothing_has_to_be_freed_by_hand() -> None:
    """run_fresh asserts that it ends well and says nothing."""
    before = named_files()
    code = """
from theus import TheusEngine
engine = TheusEngine({"domain": {}})
array = engine.heavy.alloc("x", (1000, 1000))
array[:] = 1
view = array[::2]
cycle = [array]; cycle.append(cycle)
print(view.sum())
"""
    assert run_fresh(code) == "500000.0\n"
    for end in ("import os; os._exit(0)", "raise SystemExit", "engine.heavy.shutdown()"):
        assert run_fresh(code + end) == "500000.0\n"
    assert named_files() == before


def test_a_closed_engine_is_no_reason_to_crash() -> None:
    code = """
from theus import TheusEngine
engine = TheusEngine()
array = engine.heavy.alloc("x", 5_000_000)
engine.close()
array[:] = 2
other = array[3:]
del engine, array
print(other.sum())
"""
    assert run_fresh(code) == "9999994.0\n"


# ---- forks ------------------------------------------------------------------------------------


def test_a_forked_child_owns_nothing() -> None:
    code = """
import os, sys
import theus
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator(session_id="s")
array = heavy.alloc("x", 1000); array[:] = 1
child = os.fork()
if child == 0:
    about = array.info()
    assert not about["owned"] and about["leases"] == 2 and array.sum() == 1000
    try:
        heavy.free("x")
    except theus.BorrowedArrayError:
        pass
    else:
        os._exit(2)
    assert len(heavy.report().arrays) == 0 and heavy.used_bytes == 0
    own = heavy.alloc("x", 10)
    assert own.shm.name == f"theus:s:{os.getpid()}:x" and heavy.get("x").info()["owned"]
    heavy.cleanup()
    assert array.sum() == 1000
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert "x" in heavy and array.info()["owned"] and array.info()["live"]
child = os.fork()
if child == 0:
    os.close(2)
    array[0] = 5  # NumPy does not know that the pages are read-only here
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), array.sum())
heavy.free("x"); del array
heavy.cleanup()
print(heavy.used_bytes)
"""
    assert run_fresh(code) == "-11 1000.0\n0\n"


def test_a_child_keeps_what_its_parent_frees_at_once() -> None:
    code = """
import os
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator()
for i in range(30):
    array = heavy.alloc("x", 100_000, "u1"); array[:] = 7
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(done[0], 1)
        os._exit(int(not (array == 7).all()))
    heavy.free("x"); del array
    heavy.alloc("y", 100_000, "u1")[:] = 9
    os.write(done[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    heavy.free("y")
    for end in (*ready, *done): os.close(end)
heavy.cleanup()
print(heavy.used_bytes)
"""
    assert run_fresh(code) == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_hands_arrays_over(method: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "def total(array):\n    assert not array.flags.writeable\n    return float(array.sum())\n"
    )
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import multiprocessing, warnings
import job
from theus.heavy import ManagedAllocator
if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside the pool's threads
    with ManagedAllocator() as heavy:
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            array = heavy.alloc("x", (100, 100)); array[:] = 1
            print(sum(pool.map(job.total, [array[i] for i in range(100)])))
        heavy.cleanup()
        del array
        heavy.cleanup()
        print(heavy.used_bytes)
"""
    assert run_fresh(code) == "10000.0\n0\n"


def test_a_borrower_without_descriptors_is_told_so(tmp_path: Path) -> None:
    with ManagedAllocator(8) as heavy:
        token = tmp_path / "token"
        token.write_bytes(pickle.dumps(heavy.alloc("x", 3)))
        run_fresh(
            dedent(f"""
            import errno, pickle, resource
            import numpy, theus.shm_array
            with open({str(token)!r}, "rb") as file:
                data = file.read()
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                pickle.loads(data)
            except OSError as error:
                assert error.errno == errno.EMFILE and "ulimit -n" in str(error)
            else:
                raise AssertionError("it had no descriptor for it")
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert pickle.loads(data).shape == (3,)
        """)
        )


def test_a_closed_engine_says_so_also_without_numpy() -> None:
    run_fresh(
        dedent("""
        import sys
        sys.modules["numpy"] = None
        from theus import ClosedError, TheusEngine
        engine = TheusEngine()
        try:
            engine.heavy
        except ImportError:
            pass
        else:
            raise AssertionError("there is no NumPy")
        engine.close()
        try:
            engine.heavy
        except ClosedError:
            pass
        else:
            raise AssertionError("it is closed")
    """)
    )
