"""Programs with an InterpreterPool: how they end, how they fork, what they refuse."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from support import PATIENCE, elsewhere, silent
from theus import InterpreterImportError, WorkerTimeoutError
from theus._compat import HAS_INTERPRETERS
from theus.pools import InterpreterPool
from theus.pools.letters import LetterFuture
from theus.pools.resident import explained

if not HAS_INTERPRETERS:
    pytest.skip("interpreters work beside each other from 3.13 on", allow_module_level=True)

slow = pytest.mark.slow

PREFACE = """
import os, signal, sys, threading, time, warnings
from theus import ClosedError, InterpreterImportError, TaskStoppedError
from theus.pools import InterpreterPool
warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: that is the subject
pool = InterpreterPool(2)
assert pool.submit(abs, -1).result() == 1
"""

SPIN = "pool.submit(exec, 'while True: pass')\ntime.sleep(0.05)\n"
STUCK = "pool.submit(time.sleep, 4000)\ntime.sleep(0.05)\n"
ENDS = {
    "at its end": ("", 0, ""),
    "with tasks running": (SPIN + "[pool.submit(abs, 1) for _ in range(9)]", 0, ""),
    "by an exception": (SPIN + "raise SystemExit(3)", 3, ""),
    "with an error, in C": (STUCK + "1 / 0", 1, "ZeroDivisionError"),
    "by os._exit": (STUCK + "os._exit(4)", 4, ""),
    "by SIGTERM": (STUCK + "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(4000)", -15, ""),
    "by Ctrl-C while it waits": (
        # Whoever runs the tests in the background of a shell has them ignore SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # CPython notices no signal that comes just before a lock is waited for: so more than one.
        "signal.signal(signal.SIGALRM, lambda *_: any(signal.setitimer(signal.ITIMER_REAL, 0))"
        " and os.kill(os.getpid(), signal.SIGINT))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)\n"
        "with pool:\n    pool.submit(time.sleep, 4000).result()", -2, "KeyboardInterrupt"),
    "after shutdown(wait=False)": ("pool.submit(abs, 1)\npool.shutdown(wait=False)", 0, ""),
    "in the middle of a start": ("InterpreterPool(2)", 0, ""),
}  # fmt: skip


@pytest.mark.long
def test_programs_end() -> None:
    """All at once. Each needs half a second of a core, which it gets late on a busy machine:
    so they have minutes, and what they must not wait for takes an hour."""
    begun = {
        way: subprocess.Popen(
            [sys.executable, "-P", "-W", "error", "-c", PREFACE + program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(sys.executable).parent,
        )
        for way, (program, _, _) in ENDS.items()
    }
    for way, process in begun.items():
        _, code, says = ENDS[way]
        with process:
            _, err = process.communicate(timeout=3 * PATIENCE)
        assert process.returncode == code, (way, process.returncode, err)
        assert says in err if says else err == "", (way, err)
        assert err.count("Traceback") <= 1, (way, err)


@slow
def test_forks() -> None:
    """The child has no pool and can make its own; the parent goes on."""
    silent(
        PREFACE
        + textwrap.dedent("""
        def in_child(fn):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.alarm(50)
                    fn()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0

        done, running = pool.submit(abs, -2), pool.submit(time.sleep, 0.1)
        assert done.result() == 2

        def child():
            assert done.result() == 2
            try:
                pool.submit(abs, 1)
            except ClosedError:
                pass
            else:
                raise AssertionError("used after the fork")
            pool.shutdown(); pool.kill(); repr(pool)
            with InterpreterPool(1) as own:
                assert own.submit(abs, -5).result() == 5

        in_child(child)
        assert running.result() is None
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        thread = threading.Thread(target=in_child, args=(lambda: None,))
        thread.start()
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        thread.join()
        """)
    )


@slow
def test_a_fork_interrupts_what_takes_long() -> None:
    silent(
        PREFACE
        + textwrap.dedent("""
        from theus.pools import residents
        residents.FORK_PATIENCE = 0.2
        endless = pool.submit(exec, "while True: pass")
        while not endless.running():
            time.sleep(0.001)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert isinstance(endless.exception(), TaskStoppedError)
        assert pool.submit(abs, -3).result() == 3
        """)
    )


@slow
def test_functions_of_a_script(tmp_path: Path) -> None:
    """They travel by name, and what stands below the guard runs once."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        from theus.pools import InterpreterPool
        class Row:
            def __init__(self, n): self.n = n
        def double(row): return Row(row.n * 2)
        if __name__ == "__main__":
            with InterpreterPool(1) as pool:
                print(pool.submit(double, Row(4)).result().n)
        """)
    )
    done = subprocess.run(
        [sys.executable, "-P", str(script)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("8\n", "")


@slow
def test_numpy_is_refused_with_the_way_out() -> None:
    pytest.importorskip("numpy")
    silent(
        PREFACE
        + textwrap.dedent("""
        try:
            pool.submit(exec, "import numpy").result()
        except InterpreterImportError as error:
            assert error.module == "numpy" and 'parallel="processes"' in str(error)
        else:
            raise AssertionError("NumPy loads in interpreters: a day to celebrate")
        """)
    )


@pytest.mark.parametrize(
    ("text", "name", "module"),
    [
        ("module one._two does not support loading in subinterpreters", "one._two", "one"),
        ("Why: module one._two does not support loading in subinterpreters\n", None, "one"),
        ("cannot load module more than once per process", "one._two", "one"),
        ("cannot load module more than once per process", None, "a module"),
    ],
)
def test_refusals_name_the_package(text: str, name: str | None, module: str) -> None:
    """However the package has wrapped the sentence of Python."""
    failed = ImportError(text, name=name)
    told = explained(failed)
    assert isinstance(told, InterpreterImportError) and told.__cause__ is failed
    assert told.module == module and 'parallel="processes"' in str(told)
    other = ImportError("No module named 'one'")
    assert explained(other) is other


@slow
def test_who_waits_for_a_late_task_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the worker answers to the interrupt before the future has been told."""
    settle = LetterFuture.settle

    def slowly(future: LetterFuture[Any], good: bool, found: Any) -> bool:
        if isinstance(found, WorkerTimeoutError):
            time.sleep(0.3)
        return settle(future, good, found)

    monkeypatch.setattr(LetterFuture, "settle", slowly)
    with InterpreterPool(1, timeout=0.1) as pool:
        late = pool.submit(exec, "while True: pass")
        with pytest.raises(WorkerTimeoutError):
            elsewhere(late.result)
