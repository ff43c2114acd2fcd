"""What every pool promises. Another kind of pool joins by a line in KINDS.

What only some can promise says so: `encoded` is for those where values travel as bytes, `processes`
for workers that can be killed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pool_tasks as tasks
import theus
from support import PATIENCE, descriptors, until
from theus import BrokenPoolError, ClosedError, RemoteError, SendError, WorkerDied
from theus._compat import HAS_INTERPRETERS
from theus._theus import forget_arenas
from theus.pools import (
    InterpreterPool,
    Pool,
    ProcessPool,
    ThreadPool,
    WorkerTraceback,
    pump,
    residents,
)
from theus.pools.calls import reference

if not sys.platform.startswith("linux"):
    pytest.skip("the pools that there are need Linux", allow_module_level=True)

KINDS: dict[str, Callable[..., Pool]] = {"processes": ProcessPool, "threads": ThreadPool}

if HAS_INTERPRETERS:
    KINDS["interpreters"] = InterpreterPool

encoded = pytest.mark.parametrize("kind", [it for it in KINDS if it != "threads"], indirect=True)
processes = pytest.mark.parametrize("kind", ["processes"], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pool(kind: str) -> Iterator[Pool]:
    """One for all tests that leave it as it was."""
    with KINDS[kind](2) as pool:
        yield pool


@pytest.fixture
def fresh(kind: str) -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(size: int = 1, **options: Any) -> Pool:
        made.append(KINDS[kind](size, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.kill()


def result(future: cf.Future[Any]) -> Any:
    return future.result(PATIENCE)


# ---- calls ------------------------------------------------------------------------------


def test_values_and_keywords(pool: Pool) -> None:
    assert result(pool.submit(tasks.add, 1, b=5)) == 6
    value = {"a": [1, (2.5, None)], "s": {1}, "b": b"x", "f": theus.freeze({"k": [1]})}
    assert result(pool.submit(tasks.echo, value, key=value)) == ((value,), {"key": value})
    assert result(pool.submit(tasks.echo, tasks.Counter(3))) == ((tasks.Counter(3),), {})


@processes
def test_workers_are_elsewhere(pool: Pool) -> None:
    assert result(pool.submit(os.getpid)) != os.getpid()


def test_what_is_called_may_be_any_callable_that_travels(pool: Pool) -> None:
    assert result(pool.submit(partial(tasks.add, b=4), 1)) == 5
    assert result(pool.submit(tasks.Counter(2).plus, 3)) == 5
    assert result(pool.submit(tasks.Counter, 3)) == tasks.Counter(3)
    assert result(pool.submit(len, [1, 2])) == 2


@encoded
def test_arguments_are_those_of_the_call(pool: Pool) -> None:
    rows = [1]
    future = pool.submit(tasks.echo, rows)
    rows.append(2)
    assert result(future) == (([1],), {})


def test_many_small_tasks(pool: Pool) -> None:
    before = pool.stats().done
    futures = [pool.submit(tasks.add, n) for n in range(3000)]
    assert [result(future) for future in futures] == list(range(1, 3001))
    stats = pool.stats()
    assert (stats.queued, stats.running, stats.done - before) == (0, 0, 3000)


def test_tasks_from_many_threads(pool: Pool) -> None:
    from helpers import run_threads

    def use(index: int) -> None:
        for n in range(100):
            assert result(pool.submit(tasks.add, index, n)) == index + n

    run_threads(4, use)


def test_map(pool: Pool, tmp_path: Path) -> None:
    assert list(pool.map(tasks.add, range(50), range(50))) == [2 * n for n in range(50)]
    assert list(pool.map(tasks.add, range(10), chunksize=3)) == list(range(1, 11))
    assert list(pool.map(tasks.add, [])) == []
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(tasks.add, [1], chunksize=0)
    gate = str(tmp_path / "gate")
    with pytest.raises(TimeoutError):
        list(pool.map(tasks.wait_for, [gate], timeout=0.01))
    tasks.touch(gate)


def test_map_that_fails_says_so_and_cancels_the_rest(pool: Pool) -> None:
    found = pool.map(tasks.fail, [ValueError(1), *(KeyError(n) for n in range(200))])
    with pytest.raises(ValueError):
        next(found)
    assert list(found) == []


def test_futures_work_with_the_standard_library(pool: Pool) -> None:
    futures = [pool.submit(tasks.add, n) for n in range(20)]
    assert sorted(map(result, cf.as_completed(futures, PATIENCE))) == list(range(1, 21))
    done, rest = cf.wait([pool.submit(tasks.nothing)], PATIENCE)
    assert len(done) == 1 and not rest and isinstance(pool, cf.Executor)
    called = threading.Event()
    pool.submit(tasks.nothing).add_done_callback(lambda future: called.set())
    assert called.wait(PATIENCE)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        one = loop.run_in_executor(pool, tasks.add, 1)
        two = asyncio.wrap_future(pool.submit(tasks.add, 2))
        return await asyncio.gather(one, two)

    assert asyncio.run(main()) == [2, 3]


def test_waiting_with_a_limit(pool: Pool, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    future = pool.submit(tasks.wait_for, gate)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    tasks.touch(gate)
    assert future.exception(PATIENCE) is None and future.done()


# ---- errors ---------------------------------------------------------------------------------


def test_an_exception_keeps_its_type_and_shows_where_it_was_raised(pool: Pool) -> None:
    with pytest.raises(tasks.Odd) as raised:
        result(pool.submit(tasks.fail_odd))
    assert raised.value.args == ("it broke", 7) and raised.value.place == 7
    cause = raised.value.__cause__
    assert cause is None or isinstance(cause, WorkerTraceback)
    shown = "".join(traceback.format_exception(raised.value))
    assert "in fail_odd" in shown and "reports.py" not in shown
    for error in (KeyError("a"), FileNotFoundError(2, "x", "y"), theus.ConflictError(("a",), 1, 2)):
        twin = pool.submit(tasks.fail, error).exception(PATIENCE)
        assert type(twin) is type(error) and str(twin) == str(error)


def test_an_exit_of_a_task_reaches_the_caller(pool: Pool) -> None:
    with pytest.raises(SystemExit, match="3"):
        result(pool.submit(sys.exit, 3))
    assert result(pool.submit(tasks.add, 1)) == 2


@encoded
def test_an_exception_that_cannot_travel_is_described(pool: Pool) -> None:
    with pytest.raises(RemoteError, match="sealed") as raised:
        result(pool.submit(tasks.fail_sealed))
    assert raised.value.type_name == "pool_tasks.Sealed" and "fail_sealed" in raised.value.traceback


@encoded
def test_a_result_that_cannot_travel(pool: Pool) -> None:
    with pytest.raises(SendError, match="lock"):
        result(pool.submit(tasks.give_lock))


@encoded
@pytest.mark.parametrize(
    "fn, why",
    [
        (lambda: 0, "a lambda cannot be sent to a worker: it has no name"),
        (3, "cannot be called"),
        (pytest.fixture, "no limit"),
    ],
)
def test_what_cannot_travel_is_refused_at_once(pool: Pool, fn: Any, why: str) -> None:
    if fn is pytest.fixture:

        def fn() -> None: ...

        why = "made inside another function; define it at the top of a module"
    with pytest.raises(SendError, match=why):
        pool.submit(fn)
    with pytest.raises(SendError, match="lock"):
        pool.submit(tasks.echo, threading.Lock())


def test_a_function_is_not_taken_for_the_one_that_its_module_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a doctest, which runs in a copy of what the module has."""
    module = ModuleType("module_of_this_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def f(): pass", module.__dict__)
    copy = dict(module.__dict__)
    assert reference(copy["f"], False) == (module.__name__, "f")
    exec("def f(): pass", copy)
    with pytest.raises(SendError, match="another object has its name"):
        reference(copy["f"], False)


@encoded
def test_a_value_that_contains_itself_is_refused(pool: Pool) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        pool.submit(tasks.echo, loop)


# ---- large values ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3000, 4090, 5000, 65_536, 200_000, 3_000_000])
def test_content_of_every_size(pool: Pool, size: int) -> None:
    content = os.urandom(1000) * (size // 1000)
    text = "x" * size
    sent = [content, bytearray(content), text]
    assert result(pool.submit(tasks.echo, *sent)) == (tuple(sent), {})


def test_many_buffers(pool: Pool) -> None:
    parts = [bytes([n]) * 70_000 for n in range(60)]
    assert result(pool.submit(tasks.echo, parts)) == ((parts,), {})


@processes
def test_arrays(pool: Pool) -> None:
    np = pytest.importorskip("numpy")
    for size in (10, 100_000):
        array = np.arange(float(size))
        assert result(pool.submit(tasks.total, array)) == array.sum()
        assert result(pool.submit(tasks.change, array)) == array.sum() + 99
        assert array[0] == 0  # the worker's pages changed, not ours
        made = result(pool.submit(tasks.ones, size))
        made[0] = 5
        assert made.sum() == size + 4
    table = np.zeros(20_000, [("a", "i4"), ("b", "f8")])
    ((twin,), _) = result(pool.submit(tasks.echo, table))
    assert twin.dtype == table.dtype and (twin == table).all()


@processes
def test_shared_arrays_travel_by_token(pool: Pool) -> None:
    pytest.importorskip("numpy")
    with theus.TheusEngine() as engine:
        array = engine.heavy.alloc("frame", (300, 300), "f8")
        array[:] = 2.0
        assert result(pool.submit(tasks.total, array)) == 180_000
        assert result(pool.submit(tasks.writes, array)) is False
        future = pool.submit(tasks.total, array)
        engine.heavy.free("frame")
        with contextlib.suppress(theus.StaleArrayError):  # the worker came too late for it
            assert result(future) == 180_000


@processes
@pytest.mark.slow
def test_large_values_leave_no_memory_behind(pool: Pool) -> None:
    content = b"x" * 1_000_000
    for _ in range(5):
        assert result(pool.submit(len, content)) == 1_000_000
        assert len(result(pool.submit(bytes, 1_000_000))) == 1_000_000
    held = blocks_of(pool)
    for _ in range(30):
        result(pool.submit(len, content))
        result(pool.submit(bytes, 1_000_000))
    assert blocks_of(pool) <= held + 2


@processes
def test_what_a_dead_worker_looked_at_is_freed(fresh: Any) -> None:
    pytest.importorskip("numpy")
    with theus.TheusEngine() as engine:
        pool = fresh()
        array = engine.heavy.alloc("frame", (300, 300), "f8")
        victim = result(pool.submit(tasks.keep, array))
        engine.heavy.free("frame")
        del array
        until(lambda: engine.heavy.used_bytes > 0)  # there it lives on
        os.kill(victim, signal.SIGKILL)
        until(lambda: pool.stats().died == 1)
        assert engine.heavy.used_bytes == 0 and pool.stats().reclaimed >= 1


def blocks_of(pool: Any) -> int:
    return len(pool.crew.shelf.zone.blocks())


# ---- workers -----------------------------------------------------------------------------------


def test_initializer_and_its_arguments(fresh: Any) -> None:
    pool = fresh(initializer=tasks.prepare, initargs=("colour", "red"))
    assert result(pool.submit(tasks.prepared, "colour")) == "red"


def test_an_initializer_that_fails_breaks_the_pool(fresh: Any) -> None:
    pool = fresh(2, initializer=tasks.refuse_to_start)
    try:
        future = pool.submit(tasks.nothing)
    except BrokenPoolError:
        pass  # found out already
    else:
        with pytest.raises(BrokenPoolError, match="no licence"):
            result(future)
    with pytest.raises(BrokenPoolError) as broken:
        pool.submit(tasks.nothing)
    assert isinstance(broken.value.__cause__, RuntimeError)


def test_log_records_reach_the_loggers_here(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "jobs"):
        result(pool.submit(tasks.log, "jobs.a", logging.WARNING, "%d rows of %s", 5, "x"))
        result(pool.submit(tasks.log_failure, "jobs.b"))
        until(lambda: len(caplog.records) == 2)
    first, second = caplog.records
    assert first.name == "jobs.a" and first.getMessage() == "5 rows of x"
    assert first.funcName == "log"
    assert second.exc_text is not None and "inside" in second.exc_text


@processes
def test_one_blas_thread_for_each_core(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    if "OMP_NUM_THREADS" not in os.environ:
        expected = str(max(1, cores // 2))
        assert result(pool.submit(tasks.variable, "OPENBLAS_NUM_THREADS")) == expected


def test_bad_arguments(kind: str) -> None:
    for options in ({"size": 0}, {"size": "2"}, {"timeout": 0}):
        with pytest.raises(ValueError):
            KINDS[kind](**options)
    with pytest.raises(ValueError if kind == "processes" else TypeError, match="start_method"):
        KINDS[kind](1, start_method="magic")
    with pytest.raises(TypeError, match="initializer"):
        KINDS[kind](1, initializer=3)


# ---- deaths --------------------------------------------------------------------------------------


@processes
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_fails_its_task_and_is_replaced(fresh: Any, number: int) -> None:
    pool = fresh()
    before = result(pool.submit(tasks.pid))
    futures = [pool.submit(tasks.die, number), *(pool.submit(tasks.add, n) for n in range(40))]
    with pytest.raises(WorkerDied, match=f"signal {int(number)}") as died:
        result(futures[0])
    assert died.value.pid == before and died.value.task == "pool_tasks.die"
    assert [result(future) for future in futures[1:]] == list(range(1, 41))
    assert pool.stats().died == 1 and pool.stats().alive == 1


@processes
def test_a_worker_that_leaves(fresh: Any) -> None:
    pool = fresh()
    with pytest.raises(WorkerDied, match="left with status 3") as died:
        result(pool.submit(tasks.leave, 3))
    assert died.value.exitcode == 3 and died.value.signal is None


@processes
@pytest.mark.slow
def test_how_a_worker_ended_is_known_though_the_server_of_forks_is_slow(fresh: Any) -> None:
    pool = fresh()
    result(pool.submit(tasks.nothing))
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    try:
        future = pool.submit(tasks.leave, 3)
        until(lambda: not pool.crew.members)
        assert not cf.wait([future], 1.1).done  # a second was all the patience that there was
    finally:
        os.kill(server, signal.SIGCONT)
    with pytest.raises(WorkerDied, match="left with status 3"):
        result(future)
    assert result(pool.submit(tasks.add, 1)) == 2


@processes
@pytest.mark.slow
def test_a_task_is_not_tried_again_unless_the_pool_says_so(fresh: Any, tmp_path: Path) -> None:
    pool = fresh()
    with pytest.raises(WorkerDied):
        result(pool.submit(tasks.die_once, str(tmp_path / "a")))
    again = fresh(retry_dead=True)
    assert result(again.submit(tasks.die_once, str(tmp_path / "b"))) == "lived"
    with pytest.raises(WorkerDied) as died:
        result(again.submit(tasks.die_noting, str(tmp_path / "c")))
    assert died.value.attempts == 2 and len((tmp_path / "c").read_text().split()) == 2


@pytest.mark.slow
def test_a_task_that_takes_too_long_is_ended(
    fresh: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "GRACE", PATIENCE)  # however late its interrupt is heard
    pool = fresh(timeout=0.2)
    late = pool.submit(tasks.wait_for, str(tmp_path / "never"))
    with pytest.raises(theus.WorkerTimeoutError, match="0.2 s"):
        result(late)
    late_too = 0
    while isinstance(pool.submit(tasks.add, 1).exception(PATIENCE), theus.WorkerTimeoutError):
        late_too += 1  # a machine may stand still for as long
    # An interpreter goes on after it was interrupted.
    died = 0 if kind == "interpreters" else 1 + late_too
    assert (pool.stats().died, pool.stats().alive) == (died, 1)


def test_what_was_sent_ahead_is_taken_back_from_a_busy_worker(fresh: Any, tmp_path: Path) -> None:
    pool = fresh(2)
    for _ in range(200):  # so that both count as quick
        result(pool.submit(tasks.nothing))
    gate, begun = str(tmp_path / "gate"), str(tmp_path / "begun")
    futures = [pool.submit(tasks.add, n) for n in range(5)]
    stuck = pool.submit(tasks.begin_and_wait, begun, gate)
    # Short tasks that share a packet with it would wait for it.
    until(lambda: os.path.exists(begun))
    futures += [pool.submit(tasks.add, n) for n in range(300)]
    assert all(isinstance(result(future), int) for future in futures)
    assert not stuck.done()
    tasks.touch(gate)
    assert result(stuck) == gate


@processes
def test_an_idle_worker_that_is_killed_costs_no_task(fresh: Any) -> None:
    pool = fresh()
    os.kill(result(pool.submit(tasks.pid)), signal.SIGKILL)
    until(lambda: pool.stats().died == 1)
    assert result(pool.submit(tasks.add, 1)) == 2


# ---- the end -------------------------------------------------------------------------------


def test_shutdown_waits_for_what_was_submitted(fresh: Any) -> None:
    pool = fresh(2)
    futures = [pool.submit(tasks.add, n) for n in range(500)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == list(range(1, 501))
    with pytest.raises(ClosedError, match="the pool is closed"):
        pool.submit(tasks.nothing)
    pool.shutdown()
    assert pool.stats().alive == 0


def test_what_is_taken_back_after_shutdown_is_done_by_the_others(
    fresh: Any, tmp_path: Path
) -> None:
    pool = fresh(2)
    for _ in range(100):
        result(pool.submit(tasks.nothing))
    gate = str(tmp_path / "gate")
    stuck = pool.submit(tasks.wait_for, gate)
    futures = [pool.submit(tasks.add, n) for n in range(300)]
    pool.shutdown(wait=False)
    assert [result(future) for future in futures] == list(range(1, 301))
    tasks.touch(gate)
    assert result(stuck) == gate
    pool.shutdown()


def test_shutdown_can_cancel_what_waits(fresh: Any, tmp_path: Path) -> None:
    pool = fresh()
    gate, begun = str(tmp_path / "gate"), str(tmp_path / "begun")
    running = pool.submit(tasks.begin_and_wait, begun, gate)
    waiting = [pool.submit(tasks.nothing) for _ in range(5)]
    until(lambda: os.path.exists(begun))
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    tasks.touch(gate)
    assert result(running) == gate


def test_a_task_that_waits_can_be_cancelled(fresh: Any, tmp_path: Path) -> None:
    pool = fresh()
    gate, begun = str(tmp_path / "gate"), str(tmp_path / "begun")
    running = pool.submit(tasks.begin_and_wait, begun, gate)
    waiting = pool.submit(tasks.touch, str(tmp_path / "never"))
    until(lambda: os.path.exists(begun))
    assert waiting.cancel() and not running.cancel() and running.running()
    with pytest.raises(cf.CancelledError):
        waiting.result(PATIENCE)
    tasks.touch(gate)
    assert result(running) == gate
    pool.shutdown()
    assert not (tmp_path / "never").exists()


def test_cancelling_wakes_who_waits(fresh: Any, tmp_path: Path) -> None:
    pool = fresh()
    gate = str(tmp_path / "gate")
    running, waiting = pool.submit(tasks.wait_for, gate), pool.submit(tasks.nothing)
    canceller = threading.Timer(0.05, waiting.cancel)
    canceller.start()
    with pytest.raises(cf.CancelledError):
        waiting.result(PATIENCE)
    canceller.join()
    tasks.touch(gate)
    assert result(running) == gate


def soon(kind: str) -> float:
    """Seconds after kill() in which a task ends: a thread that was just about to begin one ends it
    itself."""
    return PATIENCE if kind == "threads" else 0


def test_kill_ends_everything_at_once(fresh: Any, tmp_path: Path, kind: str) -> None:
    pool = fresh(2)
    futures = [pool.submit(tasks.wait_for, str(tmp_path / "never")) for _ in range(5)]
    pool.kill()
    for future in futures:
        with pytest.raises(ClosedError):
            future.result(soon(kind))


def test_leaving_the_block_by_ctrl_c_does_not_wait(kind: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with KINDS[kind](1) as pool:
            future = pool.submit(tasks.wait_for, str(tmp_path / "never"))
            raise KeyboardInterrupt
    assert isinstance(future.exception(soon(kind)), ClosedError)


@processes
@pytest.mark.slow
def test_a_pool_leaves_nothing_behind(kind: str) -> None:
    with KINDS[kind](1) as pool:  # starts what stays: the server of forks, the resource tracker
        result(pool.submit(tasks.nothing))
    before, threads = descriptors(), set(threading.enumerate())
    with KINDS[kind](2) as pool:
        pids = {result(pool.submit(tasks.pid)) for _ in range(20)}
        result(pool.submit(len, b"x" * 100_000))
        with pytest.raises(WorkerDied):
            result(pool.submit(tasks.leave, 1))
    del pool
    gc.collect()
    forget_arenas()
    assert not descriptors() - before and set(threading.enumerate()) <= threads
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}") or "Z" in state(pid)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.slow
def test_a_dropped_pool_ends_after_its_tasks(kind: str) -> None:
    before = set(threading.enumerate())
    pool = KINDS[kind](1)
    future = pool.submit(tasks.add, 1)
    del pool
    assert result(future) == 2
    until(lambda: set(threading.enumerate()) <= before)


@processes
@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_other_start_methods(fresh: Any, method: str) -> None:
    pool = fresh(2, start_method=method)
    assert [result(pool.submit(tasks.add, n)) for n in range(50)] == list(range(1, 51))
    with pytest.raises(WorkerDied):
        result(pool.submit(tasks.die, signal.SIGKILL))
    assert result(pool.submit(tasks.add, 1)) == 2
    pool.shutdown()


@processes
@pytest.mark.slow
def test_pools_within_workers_and_tasks_that_fork(pool: Pool) -> None:
    assert result(pool.submit(tasks.in_a_pool_of_its_own, 1)) == 2
    assert result(pool.submit(tasks.fork_and_add, 1)) == 2


# ---- what callbacks, finalizers and values of others may do ----------------------------------


@encoded
def test_an_exception_that_cannot_be_rebuilt_arrives_as_what_is_known_of_it(pool: Pool) -> None:
    with pytest.raises(RemoteError, match="broken at 7") as raised:
        result(pool.submit(tasks.fail_particular))
    assert raised.value.type_name == "pool_tasks.Particular"
    assert "fail_particular" in raised.value.traceback


@encoded
def test_a_value_that_raises_anything_when_it_is_read_ends_its_future(pool: Pool) -> None:
    with pytest.raises(SystemExit):
        result(pool.submit(tasks.give_exit))
    silent = pool.submit(tasks.give_exit)  # read by the watcher
    until(silent.done)
    assert result(pool.submit(tasks.add, 1)) == 2


def test_a_large_view_of_any_format(pool: Pool) -> None:
    import ctypes

    numbers = (ctypes.c_int32 * 20_000)(*range(20_000))
    (received,), _ = result(pool.submit(tasks.echo, memoryview(numbers)))
    assert bytes(received) == bytes(numbers)


def test_a_callback_may_wait_for_another_task(pool: Pool) -> None:
    got: list[int] = []

    def go_on(future: cf.Future[Any]) -> None:
        got.append(result(pool.submit(tasks.add, 1)) + result(second))

    first, second = pool.submit(tasks.nap, 0.02), pool.submit(tasks.add, 2)
    first.add_done_callback(go_on)
    result(first)
    until(lambda: got == [5])


def test_a_callback_that_raises_anything_costs_nobody_else_an_answer(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: seen.append(about.exc_type))
    gate = str(tmp_path / "gate")
    first = pool.submit(tasks.wait_for, gate)
    first.add_done_callback(lambda future: sys.exit(3))
    futures = [pool.submit(tasks.add, n) for n in range(40)]
    tasks.touch(gate)
    until(lambda: first.done() and all(future.done() for future in futures))
    until(lambda: seen == [SystemExit])  # the watcher has told it: nobody waited
    assert [result(future) for future in futures] == list(range(1, 41))


@processes
def test_nor_an_answer_that_a_process_sent_together_with_it(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: seen.append(about.exc_type))
    monkeypatch.setattr(pump, "TICK", 10 * PATIENCE)  # nothing is found by looking now and then
    done = threading.Event()
    crew = fresh(1).crew
    crew.members[0].line.pace = 0.0  # all are sent at once
    with crew.pump.turn:  # so the watcher cannot take the one before the other is there
        crew.pump.take()
        crew.submit(tasks.nothing, (), {}).add_done_callback(lambda future: sys.exit(3))
        crew.submit(tasks.nothing, (), {}).add_done_callback(lambda future: done.set())
        crew.submit(tasks.touch, (str(tmp_path / "behind"),), {})
        until((tmp_path / "behind").exists)
        crew.pump.taken = False
    crew.pump.arm()
    assert done.wait(PATIENCE)
    assert seen == [SystemExit]


@pytest.mark.skipif(not HAS_INTERPRETERS, reason="from Python 3.13 on")
def test_nor_an_answer_that_an_interpreter_posted_together_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: seen.append(about.exc_type))
    done = threading.Event()
    with InterpreterPool(1) as pool:
        with pool.crew.pump:  # so the watcher cannot take the one before the other is there
            pool.submit(tasks.nothing).add_done_callback(lambda future: sys.exit(3))
            pool.submit(tasks.nothing).add_done_callback(lambda future: done.set())
            until(lambda: pool.crew.answers.waiting >= 2)
        assert done.wait(PATIENCE)
        assert seen == [SystemExit]
        until(lambda: not pool.crew.open)


@pytest.mark.parametrize("by_watcher", [True, False])
def test_a_callback_may_shut_the_pool_down(fresh: Any, by_watcher: bool) -> None:
    pool = fresh()
    over = threading.Event()
    future = pool.submit(tasks.nap, 0.02)

    def end(future: cf.Future[Any]) -> None:
        pool.shutdown()  # does not wait here, for itself
        over.set()

    future.add_done_callback(end)
    if not by_watcher:
        result(future)
    assert over.wait(PATIENCE)
    pool.shutdown()
    assert pool.stats().alive == 0


def test_the_collector_may_end_a_pool_wherever_it_runs(fresh: Any) -> None:
    """Also in the middle of what the same thread does with the pool."""
    pool = fresh()
    waiting = pool.map(tasks.add, range(3))
    with pool.crew.lock:
        waiting.close()
        pool._finalizer()
    with pytest.raises(ClosedError):
        pool.submit(tasks.nothing)


def test_a_log_record_of_megabytes_arrives_in_time(pool: Pool) -> None:
    sizes: list[int] = []
    handler = logging.Handler()
    handler.emit = lambda record: sizes.append(len(record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("pool.much")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        result(pool.submit(tasks.log_much, 8_000_000))
        assert sizes == [8_000_000]
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def test_threads_that_fork_take_turns(pool: Pool) -> None:
    from helpers import run_threads
    from theus.pools import registry

    def fork(index: int) -> None:
        """As os.fork() does, without the child."""
        for _ in range(200):
            registry.before_fork()
            assert registry.held
            registry.after_in_parent()

    run_threads(4, fork)
    assert not registry.held
    assert result(pool.submit(tasks.add, 1)) == 2
