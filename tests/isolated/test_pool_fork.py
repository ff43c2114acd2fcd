"""Forks of programs with a live pool: parent and child go on, the child without that pool."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import silent
from theus._compat import HAS_INTERPRETERS

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

pytestmark = pytest.mark.slow

PREFACE = """
    import faulthandler, os, signal, subprocess, sys, threading, time, traceback, warnings
    from concurrent.futures import ThreadPoolExecutor
    from theus import ClosedError
    from theus.pools import ProcessPool
    warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads: that is the subject

    def in_child(fn):
        '''Runs fn in a forked child; fails if it raises, dies or hangs.'''
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
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"the child ended with {status}"

    pool = ProcessPool(2)
    assert pool.submit(abs, -1).result() == 1
    """


def forked(script: str) -> None:
    silent(PREFACE + script)


def test_a_pool_can_be_made_in_the_middle_of_a_fork() -> None:
    silent(
        """
    import faulthandler, os, warnings
    from theus.pools import ThreadPool
    warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads
    made = []
    os.register_at_fork(after_in_child=lambda: made.append(ThreadPool(1)))  # before theus has hooks
    with ThreadPool(1) as pool:
        assert pool.submit(abs, -1).result() == 1
        if os.fork() == 0:
            faulthandler.dump_traceback_later(50, exit=True)
            assert made[0].submit(abs, -2).result() == 2
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    """
    )


def test_the_child_has_no_pool_and_can_open_its_own() -> None:
    forked(
        """
    import tempfile
    folder = tempfile.TemporaryDirectory()
    gate = folder.name + "/gate"
    wait = f"import os, time\\nwhile not os.path.exists({gate!r}): time.sleep(0.001)"
    waiting = pool.submit(exec, wait)
    done = pool.submit(abs, -2)
    assert done.result() == 2

    def child():
        assert done.result() == 2
        for use in (lambda: pool.submit(abs, 1), lambda: waiting.result()):
            try:
                use()
            except ClosedError:
                pass
            else:
                raise AssertionError("used after the fork")
        pool.shutdown(); pool.kill(); pool.stats(); repr(pool)
        with ProcessPool(1) as own:
            assert own.submit(abs, -5).result() == 5

    in_child(child)
    open(gate, "w").close()
    assert waiting.result() is None
    folder.cleanup()
    assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))
    """
    )


def test_the_childs_end_does_not_touch_the_pool() -> None:
    """Not even a child that leaves through all exit handlers."""
    forked(
        """
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert pool.submit(abs, -3).result() == 3
    assert pool.stats().died == 0
    """
    )


def test_workers_die_with_the_parent_though_a_child_lives() -> None:
    """A forked child has closed what the pool had: it does not keep workers alive."""
    forked(
        """
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        with ProcessPool(1) as own:
            worker = own.submit(os.getpid).result()
            child = os.fork()
            if child == 0:
                os.close(read)
                time.sleep(600)
                os._exit(0)
            os.write(write, f"{worker} {child}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(middle, 0)
    worker, child = map(int, os.read(read, 100).split())
    end = time.monotonic() + 50
    def lives():
        try:
            with open(f"/proc/{worker}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    while lives():
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    """
    )


def test_forks_while_tasks_run_and_threads_wait() -> None:
    forked(
        """
    stop = threading.Event()
    def use():
        while not stop.is_set():
            futures = [pool.submit(abs, -n) for n in range(20)]
            assert [f.result() for f in futures] == list(range(20))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for round in range(10):
            in_child(lambda: None)
            with ThreadPoolExecutor(1) as other:  # a fork in another thread
                other.submit(in_child, lambda: repr(pool)).result()
        assert subprocess.run(["true"], preexec_fn=lambda: None).returncode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert pool.stats().died == 0
    """
    )


MATRIX = """
    import multiprocessing
    sys.path.insert(0, TESTS)
    import parallel_tasks
    from theus import TheusEngine
    from theus.pools import *

    own = {"processes": ProcessPool, "threads": ThreadPool, "interpreters": InterpreterPool}
    engine = TheusEngine({"domain": {"n": 1}}, pool=KINDS[0], pool_size=2)
    pools = [engine.get_pool(kind) for kind in KINDS] + [own[kind](1) for kind in KINDS]
    pool.shutdown()

    def look():
        for pool in pools:
            pool.stats()
        assert engine.state.domain.n >= 1

    def by_fork():
        in_child(look)

    def by_subprocess():
        assert subprocess.run(["true"], preexec_fn=look).returncode == 0

    def by_multiprocessing():
        process = multiprocessing.get_context("fork").Process(target=look)
        process.start()
        process.join(60)
        assert process.exitcode == 0, process.exitcode

    def in_thread(way):
        # None of an executor: a child of multiprocessing would join that at its end, itself.
        done = []
        thread = threading.Thread(target=lambda: done.append(way()))
        thread.start()
        thread.join(60)
        assert done
    """

ROUNDS = """
    for _ in range(ROUNDS):
        for way in (by_fork, by_subprocess, by_multiprocessing):
            running = [pool.submit(time.sleep, 0.002) for pool in pools for _ in range(4)]
            way()
            in_thread(way)
            assert [future.result(60) for future in running] == [None] * len(running)
            assert engine.run_process(parallel_tasks.count_up) == engine.state.domain.n
            way()  # nothing runs
    assert engine.stats().commits == 3 * ROUNDS
    for pool in pools:
        assert pool.stats().died == 0
        pool.shutdown()
    engine.close()
    """

KINDS = ["processes", "threads"] + ["interpreters"] * HAS_INTERPRETERS


def matrix(kinds: list[str], script: str, timeout: float = 500) -> None:
    made = MATRIX.replace("TESTS", repr(str(Path(__file__).resolve().parent.parent)))
    silent(PREFACE + made.replace("KINDS", repr(kinds)) + script, timeout=timeout)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), KINDS], ids=[*KINDS, "all"])
@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=pytest.mark.long)])
def test_every_way_to_fork(rounds: int, kinds: list[str]) -> None:
    """In the main thread and in another one, with tasks running and without; pools of an engine and
    others. Interpreters end before each fork and start anew, so a hundred rounds take minutes."""
    matrix(kinds, ROUNDS.replace("ROUNDS", str(rounds)), timeout=500 + 50 * rounds)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_has_pools_of_its_own_in_the_child(kind: str) -> None:
    """And a state that is its own from there on."""
    matrix(
        [kind],
        """
    assert engine.run_process(parallel_tasks.count_up) == 2

    def child():
        assert engine.workers.stats() == ()
        assert engine.run_process(parallel_tasks.count_up) == 3
        assert list(engine.map_parallel(parallel_tasks.double, range(9))) == list(range(0, 18, 2))
        assert engine.get_pool() is not pools[0] and engine.state.domain.n == 3
        engine.close()

    in_child(child)
    in_thread(lambda: in_child(child))
    assert engine.state.domain.n == 2
    assert engine.run_process(parallel_tasks.count_up) == 3
    """,
    )
