"""What is particular about a pool of threads: nothing travels, and nobody can be killed."""

from __future__ import annotations

import contextlib
import gc
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest

from support import PATIENCE, until
from theus import BrokenPoolError, ClosedError, TaskInterrupted, TheusEngine, WorkerTimeoutError
from theus._theus import interrupt_thread
from theus.pools import ThreadPool


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a task waits for in C, where no interrupt reaches it."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def make() -> Iterator[Callable[..., ThreadPool]]:
    made: list[ThreadPool] = []

    def pool(size: int = 1, **options: Any) -> ThreadPool:
        made.append(ThreadPool(size, **options))
        return made[-1]

    yield pool
    for it in made:
        it.kill()


def result(future: Future[Any]) -> Any:
    return future.result(PATIENCE)


class Clock:
    """What the pool takes for the time: it goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def run_late(self, *futures: Future[Any]) -> None:
        """These and their tasks come to their time limits, one after the other."""

        def pass_on() -> bool:
            self.now += 1.0
            return all(future.done() for future in futures)

        until(lambda: any(future.running() for future in futures))
        until(pass_on)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("theus.pools.thread.monotonic", clock)
    return clock


def run_on(begun: threading.Event) -> None:
    """Python code without an end."""
    begun.set()
    while True:
        time.sleep(0.0001)


# ---- nothing travels --------------------------------------------------------------------


def test_what_comes_and_goes_is_the_thing_itself(make: Any) -> None:
    pool = make()
    rows: list[int] = []
    assert result(pool.submit(lambda it: it, rows)) is rows
    assert result(pool.submit(threading.current_thread)) is not threading.current_thread()
    error = KeyError("a")

    def fail() -> None:
        raise error

    assert pool.submit(fail).exception(PATIENCE) is error
    assert error.__traceback__ is not None and error.__traceback__.tb_frame.f_code is fail.__code__
    with pytest.raises(TypeError, match="fn is a function, not 3"):
        pool.submit(3)


def test_tasks_run_at_the_same_time(make: Any) -> None:
    pool = make(3)
    meet = threading.Barrier(3, timeout=PATIENCE)
    assert sorted(map(result, [pool.submit(meet.wait) for _ in range(3)])) == [0, 1, 2]


def test_workers_begin_without_context_variables(make: Any) -> None:
    """Also where threads inherit them: else a pool made in a body would count as part of it."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    variable.set("here")
    assert result(make().submit(variable.get)) == "none"
    engine = TheusEngine({"domain": {"n": 0}})

    def count(tx: Any) -> None:
        tx.domain.n += 1

    with engine.transaction():
        pool = make()
    list(pool.map(engine.run, [count] * 20))
    assert engine.state.domain["n"] == 20


class Thing:
    pass


def test_a_worker_keeps_nothing_of_a_task(make: Any) -> None:
    pool = make()

    def fail(thing: Thing) -> None:
        raise ValueError(thing)

    gc.disable()
    try:
        for task in (fail, lambda thing: thing):
            thing = Thing()
            gone = weakref.ref(thing)
            future = pool.submit(task, thing)
            future.exception(PATIENCE)
            del future, thing
            result(pool.submit(int))  # the worker has left the frame of the one before
            if hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
                gc.collect()  # counts of other threads are merged there
            assert gone() is None
    finally:
        gc.enable()


# ---- nobody can be killed -------------------------------------------------------------------


def test_python_code_is_interrupted_and_may_clean_up(make: Any, clock: Clock) -> None:
    pool = make(timeout=0.05)
    begun = threading.Event()
    seen: list[BaseException] = []
    worker: list[threading.Thread] = []

    def task() -> None:
        worker.append(threading.current_thread())
        try:
            run_on(begun)
        except BaseException as error:
            seen.append(error)
            raise

    future = pool.submit(task)
    assert begun.wait(PATIENCE)
    clock.now += 1.0
    with pytest.raises(WorkerTimeoutError, match="0.05 s, so it was interrupted") as late:
        result(future)
    assert late.value.pid is None and late.value.task.endswith("task")
    worker[0].join(PATIENCE)
    assert [type(error) for error in seen] == [TaskInterrupted]
    assert not isinstance(seen[0], Exception)
    twin = pickle.loads(pickle.dumps(late.value))
    assert (twin.task, twin.pid, str(twin)) == (late.value.task, None, str(late.value))


def test_a_task_that_waits_in_c_is_left_behind(
    make: Any, gate: threading.Event, clock: Clock
) -> None:
    pool = make(timeout=0.05)
    stuck = pool.submit(gate.wait)
    clock.run_late(stuck)
    with pytest.raises(WorkerTimeoutError):
        result(stuck)
    assert result(pool.submit(abs, -1)) == 1
    assert (pool.stats().died, pool.stats().alive, pool.stats().done) == (1, 1, 1)
    pool.shutdown()  # does not wait for it
    assert pool.stats().alive == 0 and not gate.is_set()


def test_what_comes_too_late_is_dropped(make: Any, gate: threading.Event, clock: Clock) -> None:
    pool = make(timeout=0.05)
    worker: list[threading.Thread] = []
    begun = threading.Event()

    def stubborn() -> str:
        worker.append(threading.current_thread())
        with contextlib.suppress(TaskInterrupted):
            begun.set()
            gate.wait()
            run_on(gate)
        return "too late"

    future = pool.submit(stubborn)
    assert begun.wait(PATIENCE)
    clock.now += 1.0
    with pytest.raises(WorkerTimeoutError):
        result(future)
    gate.set()
    worker[0].join(PATIENCE)
    assert isinstance(future.exception(0), WorkerTimeoutError)
    assert not worker[0].is_alive() and pool.stats().done == 0


def test_the_limit_is_each_tasks_own(make: Any) -> None:
    pool = make(2, timeout=PATIENCE)
    assert result(pool.submit(time.sleep, 0.01)) is None
    assert list(pool.map(abs, range(100))) == list(range(100))
    assert pool.stats().died == 0


def test_kill_does_not_wait_for_what_hears_nothing(make: Any, gate: threading.Event) -> None:
    pool = make(2)
    begun = threading.Event()
    futures = [pool.submit(gate.wait), pool.submit(run_on, begun), pool.submit(abs, 1)]
    assert begun.wait(PATIENCE)
    pool.kill()
    for future in futures:  # a worker that was just about to begin one ends it itself
        assert isinstance(future.exception(PATIENCE), ClosedError)
    until(lambda: pool.stats().alive == 0)  # one that has not begun leaves when it can
    pool.shutdown()
    pool.shutdown(cancel_futures=True)
    gate.set()
    pool.kill()
    with pytest.raises(ClosedError):
        pool.submit(abs, 1)


def test_a_task_may_kill_its_own_pool(make: Any) -> None:
    pool = make(2)
    ended: list[str] = []

    def end() -> None:
        pool.kill()
        ended.append("after it")

    with pytest.raises(ClosedError):
        result(pool.submit(end))
    until(lambda: ended == ["after it"])
    pool.shutdown()


def test_a_task_may_shut_its_own_pool_down(make: Any) -> None:
    pool = make()
    assert result(pool.submit(pool.shutdown)) is None
    pool.shutdown()
    assert pool.stats().alive == 0


def test_callbacks_of_late_tasks_cannot_end_the_watcher(
    make: Any, gate: threading.Event, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: seen.append(about.exc_type))
    pool = make(timeout=0.05)
    stuck = [pool.submit(gate.wait) for _ in range(2)]
    for future in stuck:
        future.add_done_callback(lambda future: sys.exit(3))
    clock.run_late(*stuck)
    until(lambda: seen == [SystemExit] * 2)
    assert result(pool.submit(abs, -1)) == 1
    closer = pool.submit(gate.wait)
    closer.add_done_callback(lambda future: pool.shutdown())
    clock.run_late(closer)
    assert isinstance(closer.exception(PATIENCE), WorkerTimeoutError)
    pool.shutdown()


def test_nothing_is_left_of_pools_and_late_tasks(make: Any, clock: Clock) -> None:
    before = set(threading.enumerate())
    pool = make(2, timeout=0.02)
    futures = [pool.submit(run_on, threading.Event()) for _ in range(4)]
    clock.run_late(*futures)
    assert all(isinstance(future.exception(PATIENCE), WorkerTimeoutError) for future in futures)
    pool.shutdown()
    until(lambda: set(threading.enumerate()) <= before)


def test_the_initializer_of_a_replacement_can_break_the_pool(
    make: Any, gate: threading.Event, clock: Clock
) -> None:
    licences = [1]
    pool = make(timeout=0.05, initializer=licences.pop)
    futures = [pool.submit(gate.wait), pool.submit(abs, 1)]
    clock.run_late(futures[0])
    assert isinstance(futures[0].exception(PATIENCE), WorkerTimeoutError)
    with pytest.raises(BrokenPoolError, match="pop from empty list"):
        result(futures[1])
    with pytest.raises(BrokenPoolError):
        pool.submit(abs, 1)
    until(lambda: pool.stats().alive == 0)  # the one that has told it leaves after that


@pytest.mark.parametrize("later", [False, True])
def test_no_room_for_a_thread(
    make: Any, gate: threading.Event, clock: Clock, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = set(threading.enumerate())
    start = threading.Thread.start
    if later:
        pool = make(timeout=0.05)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        futures = [pool.submit(gate.wait), pool.submit(abs, 1)]
        clock.run_late(futures[0])
        assert isinstance(futures[0].exception(PATIENCE), WorkerTimeoutError)
        with pytest.raises(BrokenPoolError, match="can't start new thread"):
            result(futures[1])
        return
    left = [2]

    def start_two(thread: threading.Thread) -> None:
        if not left[0]:
            refuse(thread)
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError):
        ThreadPool(3)
    until(lambda: set(threading.enumerate()) <= before)


def test_interrupts_are_for_threads_that_there_are() -> None:
    assert interrupt_thread(2**40 + 1, TaskInterrupted) is False
    with pytest.raises(TaskInterrupted):
        assert interrupt_thread(threading.get_ident(), TaskInterrupted) is True
    with pytest.raises(TypeError, match="not None"):
        interrupt_thread(1, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not 3"):
        interrupt_thread(1, 3)  # type: ignore[arg-type]
