"""Forks of programs with a live pool: parent and child go on, the child without that pool."""

from __future__ import annotations

import sys

import pytest

from support import silent

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
                faulthandler.dump_traceback_later(30, exit=True)
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


def test_the_child_has_no_pool_and_can_open_its_own() -> None:
    forked(
        """
    waiting = pool.submit(time.sleep, 0.3)
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
    assert waiting.result() is None
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
                time.sleep(60)
                os._exit(0)
            os.write(write, f"{worker} {child}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(middle, 0)
    worker, child = map(int, os.read(read, 100).split())
    end = time.monotonic() + 20
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

    def by_fork():
        in_child(pool.stats)

    def by_subprocess():
        assert subprocess.run(["true"], preexec_fn=os.getpid).returncode == 0

    def by_multiprocessing():
        process = multiprocessing.get_context("fork").Process(target=pool.stats)
        process.start()
        process.join(30)
        assert process.exitcode == 0, process.exitcode

    def in_thread(way):
        # None of an executor: a child of multiprocessing would join that at its end, itself.
        done = []
        thread = threading.Thread(target=lambda: done.append(way()))
        thread.start()
        thread.join(60)
        assert done

    for _ in range(ROUNDS):
        for way in (by_fork, by_subprocess, by_multiprocessing):
            running = [pool.submit(time.sleep, 0.002) for _ in range(4)]
            way()
            in_thread(way)
            assert [future.result(30) for future in running] == [None] * 4
            way()  # nothing runs
    assert pool.stats().died == 0
    """


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=pytest.mark.long)])
def test_every_way_to_fork(rounds: int) -> None:
    """In the main thread and in another one, with tasks running and without."""
    silent(PREFACE + MATRIX.replace("ROUNDS", str(rounds)), timeout=300)
