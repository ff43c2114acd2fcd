"""kill -9 and used-up limits, as programs see them: nothing committed is lost, nothing leaks.

The storm proper is tests/c/test_shm_storm.c: thousands of kills, at every step of the core. Here
are a few dozen, with what lies above it: engine, versions, tokens.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import run_fresh

np = pytest.importorskip("numpy")
if not sys.platform.startswith("linux"):
    pytest.skip("shared memory without names is Linux's", allow_module_level=True)

pytestmark = pytest.mark.slow
MIB = 2**20

STORM = """
import os, pickle, random, signal, time, warnings
import numpy as np
from theus import StaleArrayError, TheusEngine
from theus.testing import leak_check

warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside NumPy's threads
KILLS, LANES = 40, 3
chance = random.Random(5)

def next_frames(tx, engine):
    n = tx.domain.n + 1
    for key in ("left", "right"):
        frame = engine.heavy.alloc(key, chance.choice([10, 1000, 20_000]), "i8")
        frame[:] = n
        tx.update(heavy={key: frame})
    tx.domain.n = n

def right(n, frames):
    return all((frame == n).all() and not frame.flags.writeable for frame in frames)

def look(reader, inherited):
    kept = []
    while True:
        n, frames = inherited
        assert right(n, frames), n
        kept = [*kept[-5:], (n, frames[0][::-2], frames[1][3:])]
        assert all(right(n, views) for n, *views in kept)
        sent = pickle.load(reader)
        try:
            inherited = pickle.loads(sent)
        except StaleArrayError:
            pass  # its version has gone before it arrived

def start(engine, others):
    ours = current(engine)
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(into)
            for _, pipe in others:
                pipe.close()  # or its reader would not see the end
            look(os.fdopen(out, "rb"), ours)
        except EOFError:
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    os.close(out)
    return child, os.fdopen(into, "wb", buffering=0)

def current(engine):
    state = engine.state
    return state["domain"]["n"], [state["heavy"][key] for key in ("left", "right")]

def bury(child, pipe, signalled):
    pipe.close()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in ((-signal.SIGKILL, 0) if signalled else (0,)), status

def main():
    with TheusEngine({"domain": {"n": 0}, "heavy": {}}) as engine:
        engine.run(next_frames, engine)
        workers = []
        for _ in range(LANES):
            workers.append(start(engine, workers))
        for kill in range(KILLS):
            for _ in range(chance.randrange(1, 5)):
                engine.run(next_frames, engine)
                sent = pickle.dumps(pickle.dumps(current(engine)))
                for _, pipe in workers:
                    pipe.write(sent)
            victim = chance.randrange(LANES)
            time.sleep(chance.random() / 500)
            os.kill(workers[victim][0], signal.SIGKILL)
            bury(*workers[victim], True)
            workers[victim] = start(engine, workers)
            n, frames = current(engine)
            assert right(n, frames) and n > kill
            report = engine.heavy.report()
            assert report.births - report.deaths == len(report.arrays)
        for worker in workers:
            bury(*worker, False)
        del frames
        engine.heavy.tidy()
        assert engine.heavy.report().lingering == 0

with leak_check():
    main()
print("whole")
"""


def test_what_is_committed_outlives_everybody_who_looks_at_it() -> None:
    assert run_fresh(STORM) == "whole\n"


# ---- limits -----------------------------------------------------------------------------------

FULL = """
import resource, sys
from theus import HeavyMemoryError
from theus.heavy import ManagedAllocator
from theus.testing import leak_check

def fill(heavy, size):
    arrays = 0
    try:
        for arrays in range(1000):
            heavy.alloc(f"k{arrays}", size, "u1", zero=False)[::4096] = 7
    except HeavyMemoryError as error:
        assert "bytes" in str(error), error
        return arrays, error
    raise AssertionError("there was no end to it")
"""


def test_sixty_four_descriptors() -> None:
    code = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
others = [open("/dev/null") for _ in range(40)]  # or it takes a gigabyte to use them up
with ManagedAllocator(2**20) as heavy, leak_check(heavy):
    arrays, error = fill(heavy, 33 * 2**20)
    assert 3 < arrays < 12, arrays
    heavy.free("k0")
    assert heavy.alloc("again", 33 * 2**20, "u1").nbytes == 33 * 2**20
    heavy.cleanup()
for other in others:
    other.close()
print("clean")
"""
    assert run_fresh(FULL + code) == "clean\n"


def test_files_may_not_grow() -> None:
    """RLIMIT_FSIZE is a signal by default; an answer here."""
    code = """
with ManagedAllocator(2**10) as heavy, leak_check(heavy):
    kept = heavy.alloc("kept", 1000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    arrays, error = fill(heavy, 40 * 2**20)
    assert arrays == 0 and error.asked == 40 * 2**20 and len(heavy) == 1
    kept[:] = 1
    del kept
    heavy.cleanup()
print("clean")
"""
    assert run_fresh(FULL + code) == "clean\n"


def test_the_address_space_ends() -> None:
    code = """
with open("/proc/self/statm") as statm:
    here = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (here + 2**28, here + 2**28))
with ManagedAllocator(2**20) as heavy, leak_check(heavy):
    arrays, error = fill(heavy, 2**20)
    assert 20 < arrays < 256, arrays
    heavy.cleanup()
    heavy.alloc("again", 2**24)
    heavy.cleanup()
print("clean")
"""
    assert run_fresh(FULL + code) == "clean\n"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here")
def test_a_small_dev_shm(tmp_path: Path) -> None:
    """With names, a full one is an answer; without, memory does not come from there."""
    code = """
import os
with ManagedAllocator(64) as heavy, leak_check(heavy):
    arrays, error = fill(heavy, 2**18)
    named = os.environ.get("THEUS_SHM_BACKEND") == "named"
    assert arrays < 16 if named else arrays == 256, arrays
    assert error.asked == 2**18 and (named or error.limit == 2**26)
    assert all((heavy.get(f"k{i}")[::4096] == 7).all() for i in range(arrays))
    heavy.cleanup()
assert os.listdir("/dev/shm") == []
print("clean")
"""
    script = tmp_path / "fill.py"
    script.write_text(FULL + code)
    mount = "mount -t tmpfs -o size=4m none /dev/shm || exit 77; exec "
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount + shlex.join([sys.executable, str(script)])],
        capture_output=True,
        text=True,
        env={**os.environ, "THEUS_SHM_DIR": "/dev/shm"},
        timeout=60,
    )
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("no mount namespace can be made here: that takes rights")
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup of 96 MiB below our own, of either version."""
    made = None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        root = {"memory": "/sys/fs/cgroup/memory", "": "/sys/fs/cgroup"}.get(kind)
        if root is None or made is not None:
            continue
        folder = Path(root + path) / f"theus-test-{os.getpid()}"
        limit = "memory.limit_in_bytes" if kind else "memory.max"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(96 * MIB))
            made = folder
        except OSError:
            folder.rmdir()
    if made is None:
        pytest.skip("no memory cgroup can be made here: that takes rights, and a writable mount")
    yield made
    made.rmdir()


def test_a_full_cgroup_is_an_answer(group: Path) -> None:
    """Not the kernel's out-of-memory killer, and not a SIGBUS."""
    code = """
import os
with open(os.path.join(sys.argv[1], "cgroup.procs"), "w") as procs:
    procs.write(str(os.getpid()))
with ManagedAllocator(2**20) as heavy, leak_check(heavy):
    arrays, error = fill(heavy, 2 * 2**20)
    assert 4 < arrays < 48, arrays
    assert error.prefix is None and error.asked == 2**21, error
    assert all((heavy.get(f"k{i}")[::4096] == 7).all() for i in range(arrays))
    heavy.cleanup()
    assert fill(heavy, 2 * 2**20)[0] > 4
    heavy.cleanup()
print("clean")
"""
    assert run_fresh(FULL + code, str(group)) == "clean\n"
