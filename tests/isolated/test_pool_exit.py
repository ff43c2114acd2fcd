"""How programs with a pool end: silently, quickly, and with nothing left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from support import PATIENCE, silent

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

PREFACE = """
import os, signal, sys, threading, time
from theus.pools import ProcessPool
pool = ProcessPool(2, start_method="METHOD")
pids = set()
while len(pids) < 2:  # one of them is busy, the other one answers
    nap = pool.submit(time.sleep, 0.02)
    pids.add(pool.submit(os.getpid).result())
    nap.result()
    pids.add(pool.submit(os.getpid).result())
print(*pids, flush=True)
"""

BUSY = "pool.submit(time.sleep, 600)\n"
ENDS = {
    "at its end": ("", 0, ""),
    "with tasks running": (BUSY + "[pool.submit(abs, 1) for _ in range(9)]", 0, ""),
    "by an exception": (BUSY + "raise SystemExit(3)", 3, ""),
    "with an error": (BUSY + "1 / 0", 1, "ZeroDivisionError"),
    "by os._exit": (BUSY + "os._exit(4)", 4, ""),
    "by SIGTERM": (
        BUSY + "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(600)", -15, ""),
    "by SIGKILL": (BUSY + "os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    "by Ctrl-C while it waits": (
        # Who runs tests in the background may have it ignored, and that is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # CPython notices no signal that comes just before a lock is waited for: so more than one.
        "signal.signal(signal.SIGALRM, lambda *_: any(signal.setitimer(signal.ITIMER_REAL, 0))"
        " and os.kill(os.getpid(), signal.SIGINT))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)\n"
        "with pool:\n    pool.submit(time.sleep, 600).result()", -2, "KeyboardInterrupt"),
    "with daemon threads that wait": (
        "future = pool.submit(time.sleep, 600)\n"
        "threading.Thread(target=future.result, daemon=True).start()\ntime.sleep(0.05)", 0, ""),
    "after shutdown(wait=False)": ("pool.submit(abs, 1)\npool.shutdown(wait=False)", 0, ""),
    "after a worker's death": ("os.kill(min(pids), signal.SIGKILL)", 0, ""),
    "in the middle of a start": ("ProcessPool(2)", 0, ""),
}  # fmt: skip


def gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def begin(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(sys.executable).parent,
    )


def check(process: subprocess.Popen[str], way: str, code: int, says: str, said: str = "") -> None:
    """It ends like that; of the pids and inodes that it prints, or has `said`, none is left."""
    with process:
        # Far less than the ten minutes that the tasks take: nobody has waited for them.
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, (way, process.returncode, err)
    assert says in err if says else err == "", (way, err)
    assert err.count("Traceback") <= 1, (way, err)
    first, _, rest = (said + out).partition("\n")
    pids = [int(pid) for pid in first.split()]
    assert len(pids) == 2, way
    end = time.monotonic() + PATIENCE
    while not all(map(gone, pids)):
        assert time.monotonic() < end, f"{way}: workers live on: {pids}"
        time.sleep(0.005)
    memory = set(rest.split())
    while users := [pid for pid in os.listdir("/proc") if pid.isdigit() and maps(pid) & memory]:
        assert time.monotonic() < end, f"{way}: {users} have memory of the pool"
        time.sleep(0.005)


def maps(pid: int | str) -> set[str]:
    """The inodes of the shared memory without names that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:  # gone meanwhile, or somebody else's
        return set()
    return {line.split()[4] for line in lines if "/memfd:theus-" in line}


OFTEN = ("with an error", "by SIGKILL", "by Ctrl-C while it waits")


@pytest.mark.parametrize(
    "ways",
    [pytest.param(OFTEN, marks=pytest.mark.slow), pytest.param(ENDS, marks=pytest.mark.long)],
    ids=["often", "all"],
)
def test_programs_end(ways: tuple[str, ...]) -> None:
    """All at once: each of them waits for its Python most of the time."""
    begun = {way: begin(PREFACE.replace("METHOD", "forkserver") + ENDS[way][0]) for way in ways}
    for way, process in begun.items():
        check(process, way, *ENDS[way][1:])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_programs_end_with_other_start_methods(method: str) -> None:
    quiet = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
    ways = ("with tasks running", "by SIGKILL", "with an error")
    preface = quiet + PREFACE.replace("METHOD", method)
    begun = {way: begin(preface + ENDS[way][0]) for way in ways}
    for way, process in begun.items():
        check(process, way, *ENDS[way][1:])


def test_importing_pools_starts_nothing() -> None:
    code = """
    import sys, threading
    import theus.pools
    assert threading.active_count() == 1
    assert "numpy" not in sys.modules and "asyncio" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_functions_of_a_script(tmp_path: Path) -> None:
    """They travel by name, and what stands below the guard runs once; with -c they cannot."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from theus.pools import ProcessPool
        class Row:
            def __init__(self, n): self.n = n
        def double(row): return Row(row.n * 2)
        print("imported")
        if __name__ == "__main__":
            with ProcessPool(1, start_method=sys.argv[1]) as pool:
                print(pool.submit(double, Row(4)).result().n)
        """)
    )
    for method in ("forkserver", "spawn"):
        done = subprocess.run(
            [sys.executable, str(script), method], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.stderr == "" and done.stdout.split()[-1] == "8"
    done = subprocess.run(
        [sys.executable, "-c", f"exec(open({str(script)!r}).read())", "forkserver"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "SendError" in done.stderr and "typed in or given with -c" in done.stderr


@pytest.mark.slow
def test_the_pool_ends_with_its_process_also_in_the_middle_of_c_code() -> None:
    """A worker that never comes back to Python is ended by the kernel."""
    program = PREFACE.replace("METHOD", "forkserver") + (
        "large = pool.submit(bytes, 200_000).result()\n"
        "with open('/proc/self/maps') as maps:\n"
        "    print(*{it.split()[4] for it in maps if 'memfd:theus-' in it}, flush=True)\n"
        "sys.stdin.readline()\n"
        "pool.submit(pow, 7, 10**9); pool.submit(pow, 7, 10**9); time.sleep(0.05)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = begin(program)
    assert process.stdin is not None and process.stdout is not None
    pids, memory = process.stdout.readline(), process.stdout.readline()
    assert memory.split() and set(memory.split()) <= maps(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    check(process, "in C", -signal.SIGKILL, "", pids + memory)


def test_threads_that_have_left_leave_no_interrupt_behind() -> None:
    """CPython 3.11 would look for it for ever, which with a profiler is an endless loop."""
    silent("""
        import operator, sys
        from theus.pools import ThreadPool

        with ThreadPool(1) as pool:
            pool.submit(operator.neg, 1).result()
        sys.setprofile(lambda frame, event, arg: None)
        (lambda: 1)()
        sys.setprofile(None)
    """)
