"""A pool of threads at the end of its program, and in a fork: silent, quick, nobody hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from support import PATIENCE, silent

PREFACE = """
import os, signal, sys, threading, time
from theus import ClosedError
from theus.pools import ThreadPool
pool = ThreadPool(2, timeout=500)
assert pool.submit(abs, -1).result() == 1
def spin():
    while True: pass
"""

ENDS = {
    "at its end": ("", 0, ""),
    "with tasks that wait": ("[pool.submit(time.sleep, 600) for _ in range(9)]", 0, ""),
    "with tasks that run": ("[pool.submit(spin) for _ in range(9)]\ntime.sleep(0.01)", 0, ""),
    "by an exception": ("pool.submit(spin)\nraise SystemExit(3)", 3, ""),
    "with an error": ("pool.submit(time.sleep, 600)\n1 / 0", 1, "ZeroDivisionError"),
    "by os._exit": ("pool.submit(spin)\nos._exit(4)", 4, ""),
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
        "threading.Thread(target=future.result, daemon=True).start()\ntime.sleep(0.01)", 0, ""),
    "after shutdown(wait=False)": ("pool.submit(abs, 1)\npool.shutdown(wait=False)", 0, ""),
}  # fmt: skip


@pytest.mark.slow
def test_programs_end() -> None:
    """All at once: each of them waits for its Python most of the time."""
    begun = {
        way: subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREFACE + end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=os.path.dirname(sys.executable),
        )
        for way, (end, *_) in ENDS.items()
    }
    for way, process in begun.items():
        _, code, says = ENDS[way]
        with process:
            # Less than the ten minutes that the tasks take: nobody has waited for them.
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (code, ""), (way, process.returncode, err)
        assert says in err if says else err == "", (way, err)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_forks() -> None:
    """The child has no pool, may open its own, and hangs on nothing; the parent goes on."""
    silent(
        textwrap.dedent(PREFACE)
        + """
import faulthandler, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: that is the subject

def in_child(fn):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            faulthandler.dump_traceback_later(50, exit=True)
            fn()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0

gate = threading.Event()
waiting, done = pool.submit(gate.wait), pool.submit(abs, -2)
assert done.result() == 2

def child():
    assert done.result() == 2 and done.exception() is None
    for use in (lambda: pool.submit(abs, 1), waiting.result, waiting.exception):
        try:
            use()
        except ClosedError:
            pass
        else:
            raise AssertionError("used after the fork")
    pool.shutdown(); pool.kill(); repr(pool)
    assert pool.stats().alive == 0
    with ThreadPool(1) as own:
        assert own.submit(abs, -5).result() == 5

in_child(child)
stop = threading.Event()
def use():
    while not stop.is_set():
        assert [f.result() for f in [pool.submit(abs, -n) for n in range(20)]] == list(range(20))

threads = [threading.Thread(target=use) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(20):
        in_child(child)
        assert pool.submit(in_child, child).result() is None  # a task that forks
finally:
    stop.set()
    for thread in threads:
        thread.join()
gate.set()
assert waiting.result() is True
assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
pid = os.fork()
if pid == 0:
    sys.exit(0)  # through all exit handlers
assert os.waitpid(pid, 0)[1] == 0
"""
    )
