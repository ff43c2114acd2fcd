"""Shared memory that outlives nobody: what it was built for, by processes that end in every way.

A: nothing is freed by hand. B: a bad worker. C: two engines, eight workers. D: kill -9, and the
next start. On both backends; and what only named memory has: files, and who removes them when.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from borrower import Borrower
from helpers import run_fresh
from theus import BorrowedArrayError, StaleArrayError, TheusEngine
from theus.registry import sweep

np = pytest.importorskip("numpy")
if not sys.platform.startswith("linux"):
    pytest.skip("shared memory by descriptor or name is Linux's", allow_module_level=True)

from theus.heavy import ManagedAllocator  # noqa: E402


@pytest.fixture(params=["anonymous", "named"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("THEUS_SHM_BACKEND", request.param)
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    """For processes of this test alone; that of the whole run is for those that share with us."""
    with tempfile.TemporaryDirectory(prefix="pytest-", dir=os.environ["THEUS_SHM_DIR"]) as made:
        yield Path(made)


def files() -> list[str]:
    """Of this run's folder, those of the living: arrays of tests before may be garbage by now."""
    return sorted(n for n in os.listdir(os.environ["THEUS_SHM_DIR"]) if n.startswith("theus_"))


OWNER = """
import os, pickle, sys
from theus import TheusEngine
engine = TheusEngine()
engine.heavy.alloc("x", 1000)[:] = 1
sys.stdout.buffer.write(pickle.dumps(engine.heavy.get("x")) + b"END")
sys.stdout.buffer.flush()
sys.stdin.read()
"""


class Owner:
    """A process with an engine and an array of a thousand ones."""

    def __init__(self, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
            cwd=Path(sys.executable).parent,
        )
        assert self.process.stdout is not None
        self.token = b""
        while not self.token.endswith(b"END"):
            self.token += os.read(self.process.stdout.fileno(), 4096)
        self.token = self.token[:-3]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


# ---- A: no boilerplate --------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    ["", "raise SystemExit(0)", "engine.close()", "del engine, array; import gc; gc.collect()"],
)
def test_nothing_is_freed_by_hand(backend: str, folder: Path, end: str) -> None:
    code = f"""
from theus import TheusEngine
engine = TheusEngine({{"heavy": {{}}}})
array = engine.heavy.alloc("x", (100, 100))
array[:] = 1
engine.run(lambda tx: tx.update(heavy={{"x": array}}))
print(engine.heavy.backend, engine.state.heavy["x"].sum())
{end}
"""
    assert run_fresh(code, THEUS_SHM_DIR=str(folder)) == f"{backend} 10000.0\n"
    assert os.listdir(folder) == []


def test_children_of_multiprocessing_take_theirs_along(folder: Path) -> None:
    """They end by os._exit(), which runs nothing that a library has asked for."""
    code = """
import multiprocessing, os, sys, warnings
from theus.heavy import ManagedAllocator
warnings.simplefilter("ignore", DeprecationWarning)
heavy = ManagedAllocator(backend="named")
array = heavy.alloc("x", 10)
before = os.listdir(os.environ["THEUS_SHM_DIR"])
def child():
    heavy.alloc("own", 10)
    assert len(os.listdir(os.environ["THEUS_SHM_DIR"])) == 4
process = multiprocessing.get_context("fork").Process(target=child)
process.start(); process.join()
assert process.exitcode == 0
assert os.listdir(os.environ["THEUS_SHM_DIR"]) == before and array.info()["live"]
"""
    assert run_fresh(code, THEUS_SHM_DIR=str(folder)) == ""
    assert os.listdir(folder) == []


# ---- B: a bad worker ----------------------------------------------------------------------


def test_a_worker_cannot_delete_what_it_borrows(backend: str) -> None:
    worker = Borrower()
    with TheusEngine(shm_backend=backend) as engine:
        array = engine.heavy.put("x", np.arange(1000))
        for door in ("it.shm.unlink()", "it[3:].shm.unlink()", "it.cow().shm.unlink()"):
            with pytest.raises(PermissionError):
                worker.ask(door, array)
        with pytest.raises((ValueError, TypeError)):
            worker.ask("it.__setitem__(0, 5)", array)
        worker.send("ctypes.memset(it.ctypes.data, 0, 8)", array)
        assert worker.end() == -signal.SIGSEGV
        assert array.sum() == 499500 and engine.heavy.get("x").info()["live"]
        assert pickle.loads(pickle.dumps(array)).sum() == 499500


def test_a_copy_on_write_frees_nothing(backend: str) -> None:
    """In the owner's process, too: it is not what was allocated."""
    with ManagedAllocator(8) as heavy:
        array = heavy.put("x", np.arange(10))
        copy = array.cow()
        with pytest.raises(BorrowedArrayError, match="free the array that it was made of"):
            copy.shm.unlink()
        assert "x" in heavy and array.info()["live"]
        array.shm.unlink()
        assert "x" not in heavy and copy.sum() == 45


# ---- C: two engines and eight workers -----------------------------------------------------


@pytest.mark.slow
def test_two_engines_eight_workers_one_key(backend: str) -> None:
    with TheusEngine(shm_backend=backend) as one, TheusEngine(shm_backend=backend) as two:
        workers = [Borrower() for _ in range(8)]
        for round in range(3):
            for engine, value in ((one, 1), (two, 2)):
                if "x" in engine.heavy:
                    engine.heavy.free("x")
                engine.heavy.put("x", np.full(50, value + round))
            names = {engine.heavy.get("x").shm.name for engine in (one, two)}
            assert len(names) == 2
            for worker in workers:
                arrays = [one.heavy.get("x"), two.heavy.get("x")]
                worker.send("[int(keep(x).sum()) for x in it]", arrays)
            for worker in workers:
                assert worker.process.stdout is not None
                answer = pickle.load(worker.process.stdout)
                assert answer == (True, [50 * (1 + round), 50 * (2 + round)])
        workers[0].kill()
        for worker in workers[1:]:
            assert worker.end() == 0
        del arrays
        for engine in (one, two):
            engine.heavy.cleanup()
            assert engine.heavy.used_bytes == 0


# ---- D: kill -9, and the next start -------------------------------------------------------


def test_kill_and_the_next_start(backend: str) -> None:
    gc.collect()
    sweep()  # what children of other tests have left, the owner's start would remove
    before = files()
    owner, borrower = Owner(), Borrower()
    assert borrower.ask("int(keep(pickle.loads(it)).sum())", owner.token) == 1000
    left = files()
    assert len(left) - len(before) == (2 if backend == "named" else 0)
    owner.kill()
    assert files() == left
    assert borrower.ask("int(kept[0].sum())") == 1000
    with pytest.raises(StaleArrayError):  # its files may be there: it is gone
        pickle.loads(owner.token)
    with ManagedAllocator(8) as heavy:
        heavy.alloc("x", 1)
        assert not set(files()) & (set(left) - set(before))
        assert len(files()) == len(before) + (2 if backend == "named" else 0)
    assert borrower.ask("int(kept[0].sum())") == 1000  # what it sees stays
    assert borrower.end() == 0
    assert files() == before


def test_the_living_are_left_alone(folder: Path) -> None:
    environ = {"THEUS_SHM_DIR": str(folder), "THEUS_SHM_BACKEND": "named"}
    living, dead = Owner(**environ), Owner(**environ)
    dead.kill()
    command = [sys.executable, "-P", "-W", "error", "-m", "theus", "gc"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ})
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 2 without an owner" in done.stdout and done.stdout.count("; removed") == 1
    assert len(os.listdir(folder)) == 2
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).sum())"
    assert run_fresh(code, living.token.hex(), **environ) == "1000.0\n"
    living.end()
    assert os.listdir(folder) == []


def test_sixty_four_starts_at_once(folder: Path) -> None:
    """All sweep what the same dead owners left, beside each other's first arrays."""
    code = """
import os
import theus.heavy
folder = os.environ["THEUS_SHM_DIR"]
for i in range(20):
    for kind in ("control", "data"):
        open(f"{folder}/theus_1_7_{i:032x}.{kind}", "w").close()
go, ready = os.pipe(), os.pipe()
children = []
for i in range(64):
    pid = os.fork()
    if pid == 0:
        os.close(go[1])
        os.read(go[0], 1)                       # until the parent closes its end
        heavy = theus.heavy.ManagedAllocator(8, backend="named")
        array = heavy.alloc("x", 10); array[:] = i
        file = array.info()["file"]
        os.write(ready[1], b"x")
        ok = (array == i).all() and os.path.exists(f"{folder}/{file}") and array.info()["live"]
        if i % 2:
            del array
            heavy.shutdown()
        os._exit(0 if ok else 1)                # the others leave theirs to the next ones
    children.append(pid)
os.close(go[1])
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 64
assert not any("theus_1_7_" in name for name in os.listdir(folder))
from theus.registry import sweep
report = sweep()
print(report.removed == report.files, os.listdir(folder))
"""
    assert run_fresh(code, THEUS_SHM_DIR=str(folder)) == "True []\n"


# Runs where process ids are others than outside. The driver is number 1 there.
CONTAINER = """
import os, signal, sys, warnings
from theus.heavy import ManagedAllocator
from theus.registry import sweep
warnings.simplefilter("ignore", DeprecationWarning)     # forks beside NumPy's threads
def owner():
    ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        array = ManagedAllocator(8, backend="named").alloc("x", 10)
        os.write(ready[1], b"x")
        signal.pause()
    assert os.read(ready[0], 1) == b"x"
    return pid
def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
def reasons():
    return sorted((it.reason, it.pid, it.removed) for it in sweep().files)
outside = int(sys.argv[1])                              # an owner whose number nobody has here
assert os.getpid() == 1 and not os.path.exists(f"/proc/{outside}")
dead = owner()
kill(dead)
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(dead - 1))
other = os.fork()                                       # has a dead owner's number, and is none
if other == 0:
    signal.pause()
assert other == dead, (other, dead)
assert reasons() == [("alive", outside, False), ("dead", dead, True)]
living = owner()
print(living, flush=True)
assert sys.stdin.readline() == "kill it\\n"
kill(living)
print("killed", flush=True)
"""


@pytest.mark.slow
def test_another_container_and_numbers_that_come_again(folder: Path) -> None:
    """Process ids mean nothing: not another container's, nor one that somebody else has by now."""
    probe = "echo 1 > /proc/sys/kernel/ns_last_pid"
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        possible = subprocess.run([*apart, "sh", "-c", probe], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no namespace of process ids can be made here: that takes rights")
    environ = {"THEUS_SHM_DIR": str(folder), "THEUS_SHM_BACKEND": "named"}
    owner = Owner(**environ)
    inside = subprocess.Popen(
        [*apart, sys.executable, "-W", "error", "-c", CONTAINER, str(owner.process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        cwd=Path(sys.executable).parent,
    )
    assert inside.stdin is not None and inside.stdout is not None
    living = int(inside.stdout.readline())
    report = sweep(str(folder))
    assert sorted(it.pid for it in report.files) == sorted([living, owner.process.pid])
    assert {it.reason for it in report.files} == {"alive"}
    inside.stdin.write("kill it\n")
    inside.stdin.flush()
    assert inside.stdout.readline() == "killed\n"
    assert [(it.pid, it.reason) for it in sweep(str(folder)).removed] == [(living, "dead")]
    inside.communicate()
    assert inside.returncode == 0
    owner.end()
    assert os.listdir(folder) == []


# ---- named files --------------------------------------------------------------------------


def test_a_file_says_whose_it_is_and_only_its_user_opens_it(folder: Path) -> None:
    code = """
import os
from theus import TheusEngine
with TheusEngine(shm_backend="named") as engine:
    os.umask(0o777)                             # what others can do is not left to this
    array = engine.heavy.alloc("x", 10)
    about = array.info()
    print(about["file"], about["name"] == f"theus:{engine.heavy.session_id}:{os.getpid()}:x")
    for name in sorted(os.listdir(os.environ["THEUS_SHM_DIR"])):
        print(name, oct(os.stat(os.path.join(os.environ["THEUS_SHM_DIR"], name)).st_mode))
    print(os.getpid())
"""
    lines = run_fresh(code, THEUS_SHM_DIR=str(folder)).splitlines()
    file, same = lines[0].split()
    pid = lines[3]
    assert same == "True" and file.startswith(f"theus_2_{pid}_") and file.endswith(".data")
    assert lines[1] == f"{file.removesuffix('data')}control 0o{stat.S_IFREG | 0o600:o}"
    assert lines[2] == f"{file} 0o{stat.S_IFREG | 0o400:o}"  # its owner's mapping is the last


def test_a_forked_child_has_no_way_to_write(backend: str) -> None:
    """Neither through what it inherited, nor by making that writable; and it keeps nobody alive."""
    code = """
import ctypes, os
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator(8)
array = heavy.alloc("x", 1000); array[:] = 1
shown = array._published() if os.environ["PUBLISH"] == "1" else array
child = os.fork()
if child == 0:
    for it in (array, shown):
        page = ctypes.c_void_p(it.ctypes.data // 4096 * 4096)
        if ctypes.CDLL(None).mprotect(page, 4096, 3) != -1:
            os._exit(1)
    writable = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            writable += "theus-data" in target and os.write(fd, b"x") > 0
            if "/#" in target and os.fstat(fd).st_size > 2**22:
                writable += os.write(fd, b"x")
        except OSError:
            pass
    os._exit(2 if writable else 0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), array.sum())
"""
    for publish in "01":
        assert run_fresh(code, PUBLISH=publish) == "0 1000.0\n"


def test_a_child_outlives_its_parent_and_keeps_nothing_of_it(folder: Path) -> None:
    """The lock is the parent's alone: a child that goes on does not make it look alive."""
    code = """
import os, sys
from theus.heavy import ManagedAllocator
from theus.registry import sweep
heavy = ManagedAllocator(8, backend="named")
array = heavy.alloc("x", 1000); array[:] = 1
(alive,) = sweep().files
assert alive.reason == "alive" and alive.session == heavy.session_id and alive.pid == os.getpid()
ready = os.pipe()
if os.fork() > 0:
    os.close(ready[1])
    os.read(ready[0], 1)
    os.kill(os.getpid(), 9)                     # no exit of ours runs
os.write(ready[1], b"x")
os.close(ready[0])
while os.getppid() == alive.pid:
    pass
removed = [file.pid for file in sweep().removed]
assert removed == [alive.pid] and array.sum() == 1000 and not array.info()["live"]
own = heavy.alloc("x", 10)
assert own.info()["pid"] == os.getpid() and len(os.listdir(sys.argv[1])) == 2
print("good", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "THEUS_SHM_DIR": str(folder)},
        cwd=Path(sys.executable).parent,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "good\n", "")
    assert os.listdir(folder) == []


def test_a_key_under_allocation_at_a_fork_is_free_in_the_child(backend: str) -> None:
    code = """
import os, threading
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator(256)
zone, allocating, go_on = heavy._zone, threading.Event(), threading.Event()
class Slow:
    def alloc(self, *args):
        allocating.set()
        go_on.wait()
        return zone.alloc(*args)
heavy._zone = Slow()
thread = threading.Thread(target=heavy.alloc, args=("x", 10))
thread.start()
allocating.wait()
child = os.fork()
if child == 0:
    heavy._zone = zone
    own = heavy.alloc("x", 20)
    os._exit(0 if own.info()["pid"] == os.getpid() and heavy.get("x").size == 20 else 1)
go_on.set()
thread.join()
heavy._zone = zone
print(os.waitpid(child, 0)[1], heavy.get("x").size)
"""
    assert run_fresh(code, options=("-W", "ignore::DeprecationWarning")) == "0 10\n"


# ---- the choice ---------------------------------------------------------------------------


def test_the_choice_is_explicit_and_final(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("THEUS_SHM_BACKEND", "named")
    with TheusEngine() as engine, TheusEngine(shm_backend="anonymous") as other:
        assert engine.heavy.backend == "named" and other.heavy.backend == "anonymous"
        assert other.heavy.alloc("x", 1).info()["file"] is None
    monkeypatch.setenv("THEUS_SHM_BACKEND", "Named")
    with pytest.raises(
        ValueError, match="THEUS_SHM_BACKEND is 'anonymous' or 'named', not 'Named'"
    ):
        ManagedAllocator()
    with pytest.raises(ValueError, match="shm_backend is 'anonymous' or 'named', not 'posix'"):
        TheusEngine(shm_backend="posix")
    code = """
from theus import TheusEngine
engine = TheusEngine(shm_backend="named")
try:
    engine.heavy.alloc("x", 10)
except (OSError, NotImplementedError) as error:
    print(error)
print(len(engine.heavy))
"""
    for wrong in (f"{folder}/missing", "relative", "/" + "x" * 300, "/proc"):
        lines = run_fresh(code, THEUS_SHM_DIR=wrong).splitlines()
        assert "THEUS_SHM_" in lines[0] and lines[1] == "0"
