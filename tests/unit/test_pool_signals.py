"""A signal handler that raises in the main thread, anywhere in what it does to a pool: nothing is
lost, and the pool goes on."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import gc
import importlib
import os
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pool_tasks as tasks
from support import PATIENCE, until

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

from theus import ClosedError, WorkerDied
from theus._compat import HAS_INTERPRETERS
from theus._theus import Promise, apart, bracket, drop_first, encode, on_error
from theus.pools import InterpreterPool, Pool, ProcessPool, ThreadPool, promise, pump
from theus.pools.promise import PromisedFuture
from theus.pools.steps import has, undisturbed, whole

KINDS: dict[str, Callable[..., Pool]] = {"processes": ProcessPool, "threads": ThreadPool}

if HAS_INTERPRETERS:
    KINDS["interpreters"] = InterpreterPool


class Alarm(BaseException):
    """What the handler raises."""


class Alarms:
    """Has Alarm raised in the main thread, after so many seconds."""

    def __init__(self) -> None:
        self.wanted = False
        self.raised = 0

    def ring(self, number: int, frame: FrameType | None) -> None:
        if is_in_callback_of_weakref(frame):  # what is raised there is told as unraisable
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
        elif self.wanted:
            self.wanted = False
            self.raised += 1
            raise Alarm

    def during(self, seconds: float, fn: Callable[..., object], *args: Any) -> bool:
        """Calls that, with an alarm. Whether it was thrown out."""
        try:
            self.wanted = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            fn(*args)
            self.wanted = False
        except Alarm:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


def is_in_callback_of_weakref(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.endswith(WEAK):
        frame = frame.f_back
    return frame is not None


WEAK = ("weakref.py", "_weakrefset.py")


@pytest.fixture
def alarms() -> Iterator[Alarms]:
    alarms = Alarms()
    before = signal.signal(signal.SIGALRM, alarms.ring)
    collects = gc.isenabled()
    gc.disable()  # what is raised in a finalizer is told as unraisable, and that fails a test
    yield alarms
    signal.signal(signal.SIGALRM, before)
    if collects:
        gc.enable()


@pytest.fixture(params=KINDS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    pool = KINDS[request.param](2)
    yield pool
    pool.kill()


# ---- the steps themselves ---------------------------------------------------------------------


def test_a_lock_is_let_go_whatever_is_raised_with_it() -> None:
    lock = threading.RLock()
    inside: Callable[..., Any] = partial(bracket, lock.acquire, lock.release)
    assert inside(lambda a, b: (a, b, has(lock)), 1, 2) == (1, 2, True)
    with pytest.raises(ZeroDivisionError):
        inside(lambda: 1 // 0)
    assert not has(lock)
    free = partial(bracket, partial(lock.acquire, False), lock.release)
    with lock:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(free(found.append, "in")))
        thread.start()
        thread.join()
    assert found == [NotImplemented]
    with pytest.raises(RuntimeError, match="un-acquired"):  # of leave(), if fn raises nothing
        bracket(lambda: None, lock.release, lambda: None)
    with pytest.raises(ZeroDivisionError):  # what fn raises counts more
        bracket(lambda: None, lock.release, lambda: 1 // 0)
    with pytest.raises(KeyError):
        bracket({}.popitem, lock.release, lambda: None)
    with pytest.raises(TypeError):
        bracket(lock.acquire, lock.release)  # type: ignore[call-arg]


def test_who_waits_apart_has_its_lock_again_as_often_as_before() -> None:
    lock = threading.RLock()
    with lock, lock:
        assert not apart(lock, has, lock)
        with pytest.raises(ZeroDivisionError):
            apart(lock, lambda: 1 // 0)
        lock.release()
        assert has(lock)
        lock.acquire()
    assert not has(lock)
    with pytest.raises(RuntimeError, match="un-acquired"):
        apart(lock, has, lock)


def test_who_raises_has_rung_before() -> None:
    rung: list[int] = []
    ring = partial(rung.append, 1)
    assert on_error(ring, max, 1, 2) == 2 and not rung
    with pytest.raises(ZeroDivisionError):
        on_error(ring, lambda: 1 // 0)
    assert rung == [1]
    with pytest.raises(ZeroDivisionError):  # an alarm that fails changes nothing
        on_error({}.popitem, lambda: 1 // 0)


def test_the_first_one_is_dropped_if_it_is_that_very_one() -> None:
    first = ("a", 1)
    some = deque([first, first])
    assert not drop_first(some, ("a", 1 + len(some) - 2))
    assert drop_first(some, first) and drop_first(some, first)
    assert not drop_first(some, first)
    with pytest.raises(TypeError):
        drop_first(1, first)  # type: ignore[arg-type]


def test_a_promise_is_fulfilled_in_one_step_or_not_at_all() -> None:
    future: Any = Promise()
    assert future.fulfil(encode({"a": [1, 2.5]})) and future.over()
    assert future._result == {"a": [1, 2.5]} and future._state == "FINISHED"
    assert not future.fulfil(encode(2)) and future._result == {"a": [1, 2.5]}
    shown: Any = Promise()
    shown.ask()
    assert not shown.fulfil(encode(1)) and not shown.over()
    odd: Any = Promise()
    extended = encode(1j.conjugate, lambda part: (1, "x"))
    assert not odd.fulfil(extended) and not odd.fulfil(b"nonsense") and not odd.over()
    with pytest.raises(TypeError, match="bytes"):
        odd.fulfil("x")


def test_a_thread_of_its_own_goes_on_when_the_main_thread_is_thrown_out(alarms: Alarms) -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        while not go.wait(0.01):  # again and again: it is not noticed just before a wait for a lock
            os.kill(os.getpid(), signal.SIGALRM)
        done.set()

    assert alarms.during(0.0, undisturbed, True, work)
    go.set()
    assert done.wait(PATIENCE)
    lock = threading.RLock()
    with lock:  # as a handler that has come into the middle of something: it does not wait
        undisturbed(False, lambda: lock.acquire() and lock.release())


in_finalizers_too = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # Python only says what is raised there
)


# ---- pools ------------------------------------------------------------------------------------


class Crowd:
    """What a program does with a pool, for as long as it is let."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.futures: list[tuple[cf.Future[Any], int]] = []
        self.called: list[int] = []
        self.ways = [self.trip, self.many, self.odd, self.map, self.callbacks, self.cancel]

    def submit(self, n: int) -> cf.Future[Any]:
        future = self.pool.submit(tasks.add, n)
        self.futures.append((future, n + 1))
        return future

    def trip(self) -> None:
        for n in range(3):
            assert self.submit(n).result() == n + 1

    def many(self) -> None:
        for n in range(40):
            self.submit(n)
        self.take()

    def take(self) -> None:
        for future, _ in self.futures:
            future.result()

    def odd(self) -> None:
        """Results that take code of Python, and none at all."""
        counter = self.pool.submit(tasks.echo, tasks.Counter(3))
        failed = self.pool.submit(tasks.fail, LookupError(1))
        assert counter.result() == ((tasks.Counter(3),), {})
        assert isinstance(failed.exception(), LookupError)

    def map(self) -> None:
        assert list(self.pool.map(tasks.add, range(20), chunksize=3)) == list(range(1, 21))
        with contextlib.closing(self.pool.map(tasks.add, range(20))) as some:  # type: ignore[type-var]
            assert next(some) == 1

    def callbacks(self) -> None:
        for n in range(5):
            self.submit(n).add_done_callback(lambda future: self.called.append(future.result()))
        self.take()

    def cancel(self) -> None:
        futures = [self.pool.submit(tasks.nothing) for _ in range(10)]
        for future in reversed(futures):
            future.cancel()
        for future in futures:
            assert future.cancelled() or future.result() is None


@in_finalizers_too
def test_nothing_is_lost_wherever_it_comes(pool: Pool, alarms: Alarms) -> None:
    """The pool's own thread never looks by itself: what is forgotten is forgotten for ever."""
    dice = random.Random(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pump, "TICK", 3600.0)
        for number in range(700):
            crowd = Crowd(pool)
            way = crowd.ways[number % len(crowd.ways)]
            most = dice.choice([3e-4, 1e-3, 3e-3])
            alarms.during(dice.uniform(1e-5, most), way)
            for future, value in crowd.futures:
                assert future.result(PATIENCE) == value
    assert alarms.raised > 20
    until(lambda: pool.stats().queued + pool.stats().running == 0)
    Crowd(pool).many()


@in_finalizers_too
def test_who_waits_for_many_at_once_loses_nothing_either(pool: Pool, alarms: Alarms) -> None:
    """These take the conditions in code of Python, and a handler may leave them taken."""
    dice = random.Random(11)
    for number in range(60):
        crowd = Crowd(pool)

        def wait(crowd: Crowd = crowd, number: int = number) -> None:
            futures = [crowd.submit(n) for n in range(8)]
            list(cf.as_completed(futures)) if number % 2 else cf.wait(futures)

        with contextlib.suppress(RuntimeError):  # what Condition.wait() makes of an alarm
            alarms.during(dice.uniform(1e-5, 1e-3), wait)
        for future, value in crowd.futures:
            assert future.result(PATIENCE) == value
    Crowd(pool).many()


def test_a_handler_may_use_the_pool_that_it_comes_into(pool: Pool) -> None:
    got: list[int] = []
    seen: list[int] = []
    before = signal.signal(
        signal.SIGALRM, lambda *about: got.append(pool.submit(tasks.add, 1).result(PATIENCE))
    )
    try:
        while len(got) < 100:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + len(got) % 30))
            futures = [pool.submit(tasks.add, n) for n in range(5)]
            seen += [future.result(PATIENCE) for future in futures]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(got) == {2} and seen == [1, 2, 3, 4, 5] * (len(seen) // 5)


@pytest.mark.parametrize("how", ["kill", "shutdown"])
def test_a_handler_may_end_the_pool_that_it_comes_into(pool: Pool, how: str) -> None:
    """Where the main thread holds something that the end needs, it does not wait for the end."""
    ended: list[bool] = []

    def end(*about: object) -> None:
        ended.append(True)
        getattr(pool, how)()

    before = signal.signal(signal.SIGALRM, end)
    futures: list[cf.Future[Any]] = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.003)
        with pytest.raises(ClosedError):
            while True:
                futures.append(pool.submit(tasks.add, 1))
                if len(futures) % 100 == 0:
                    futures[-1].result(PATIENCE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended == [True]
    for future in futures:
        assert isinstance(future.exception(PATIENCE), ClosedError | None)
    pool.shutdown()


@pytest.mark.parametrize("how", ["kill", "shutdown"])
def test_an_end_that_is_thrown_out_can_be_asked_for_again(alarms: Alarms, how: str) -> None:
    dice = random.Random(3)
    for kind in KINDS.values():
        for _ in range(6):
            pool = kind(1)
            futures = [pool.submit(tasks.nap, 0.001) for _ in range(20)]
            end = pool.kill if how == "kill" else partial(pool.shutdown, cancel_futures=True)
            alarms.during(dice.uniform(1e-5, 2e-3), end)
            end()
            until(lambda futures=futures: all(future.done() for future in futures))


# ---- pools that are made -----------------------------------------------------------------------


def left_of_pools() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("theus-")}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"processes"}))
def test_who_is_thrown_out_of_making_a_pool_leaves_nothing_of_it(kind: str, alarms: Alarms) -> None:
    before = left_of_pools()
    pools: list[Pool] = []
    dice = random.Random(3)
    for _ in range(20):
        alarms.during(dice.choice([1e-4, 1e-3, 2e-2]) * dice.random(), make, kind, pools)
        while pools:
            pools.pop().kill()
        until(lambda: left_of_pools() <= before)
    assert alarms.raised


def make(kind: str, pools: list[Pool]) -> None:
    pools.append(KINDS[kind](2))


def test_what_is_made_whole_is_ended_if_nobody_takes_it(alarms: Alarms) -> None:
    making, go, told = threading.Event(), threading.Event(), list[str]()

    class Crew:
        def __init__(self) -> None:
            making.set()
            assert go.wait(PATIENCE)

        def discard(self) -> None:
            told.append("discard")

    def disturb() -> None:
        assert making.wait(PATIENCE)
        while not told and alarms.wanted:  # again and again: see above
            os.kill(os.getpid(), signal.SIGALRM)
            go.set()

    thread = threading.Thread(target=disturb)
    alarms.wanted = True
    thread.start()
    with pytest.raises(Alarm):
        whole(Crew, busy=False)
    thread.join(PATIENCE)
    assert told == ["discard"]
    assert isinstance(whole(Crew, busy=False), Crew) and len(told) == 1
    with pytest.raises(ZeroDivisionError):
        whole(lambda: 1 // 0, busy=False)  # type: ignore[arg-type,return-value]


def test_what_a_pool_is_made_of_may_want_a_lock_that_its_maker_has() -> None:
    careful = tasks.Careful()
    with careful.lock:
        pool = ProcessPool(1, initializer=tasks.nothing_with, initargs=(careful,))
    with pool:
        assert pool.submit(tasks.add, 1).result(PATIENCE) == 2


def test_a_module_makes_its_pool_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is defined in it is pickled then, and Python has other threads wait for the import."""
    once = tmp_path / "once"  # the worker imports it, too, and makes none
    once.touch()
    (tmp_path / "has_a_pool.py").write_text(
        "import pathlib\n"
        "from theus.pools import ProcessPool\n"
        "names = []\n"
        "def begin(name): names.append(name)\n"
        "def last(): return names[-1]\n"
        f"once = pathlib.Path({str(once)!r})\n"
        "if once.exists():\n"
        "    once.unlink()\n"
        "    POOL = ProcessPool(1, initializer=begin, initargs=['ann'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("has_a_pool")
    with module.POOL as pool:
        assert pool.submit(module.last).result(PATIENCE) == "ann"


# ---- conditions that nobody lets go of --------------------------------------------------------


def test_a_condition_that_is_held_for_ever_holds_up_nobody(pool: Pool) -> None:
    """As by this thread, if it was thrown out of wait()."""
    gates = [pool.submit(tasks.nap, 0.02) for _ in range(2)]
    futures = [pool.submit(tasks.add, n) for n in range(6)]
    for future in futures[::2]:
        future._condition.acquire()
    assert [future.result(PATIENCE) for future in futures] == [1, 2, 3, 4, 5, 6]
    assert all(gate.result(PATIENCE) for gate in gates)
    assert (
        cf.wait(futures, PATIENCE).done == set(futures) == set(cf.as_completed(futures, PATIENCE))
    )
    killed = [pool.submit(tasks.nap, 0.01) for _ in range(4)]
    killed[-1]._condition.acquire()
    pool.kill()
    assert all(promised(future).over() for future in killed)
    assert cf.wait(killed, PATIENCE).done == set(killed)
    called: list[Any] = []
    killed[-1].add_done_callback(called.append)
    assert called == killed[-1:]


def promised(future: Any) -> PromisedFuture[Any]:
    assert isinstance(future, PromisedFuture)
    return future


def test_who_is_thrown_out_of_waiting_waits_again(pool: Pool, alarms: Alarms) -> None:
    dice = random.Random(7)
    for wait in (cf.wait, lambda them: list(cf.as_completed(them))) * 10:
        futures = [pool.submit(tasks.add, n) for n in range(20)]
        for _ in range(3):
            with contextlib.suppress(RuntimeError):  # Condition.wait() has let go of its lock twice
                alarms.during(dice.uniform(1e-5, 5e-4), wait, futures)
        assert cf.wait(futures, PATIENCE).done == set(futures)
        assert set(cf.as_completed(futures, PATIENCE)) == set(futures)
        assert [future.result(PATIENCE) for future in futures] == [n + 1 for n in range(20)]


def test_who_is_thrown_out_of_cancel_hides_it_from_nobody(pool: Pool, alarms: Alarms) -> None:
    dice = random.Random(5)
    for _ in range(40):
        busy = [pool.submit(tasks.nap, 0.003) for _ in range(2 * pool.size)]
        future, called, found = pool.submit(tasks.add, 1), list[Any](), list[Any]()
        for _ in range(5):
            future.add_done_callback(called.append)

        def wait(future: cf.Future[int] = future, found: list[Any] = found) -> None:
            found.append(cf.wait([future], PATIENCE).done)

        waits = threading.Thread(target=wait)
        waits.start()
        until(lambda future=future, found=found: found or promised(future).waiting())
        alarms.during(dice.uniform(1e-6, 6e-5), future.cancel)
        waits.join(PATIENCE)
        assert found == [{future}]
        until(lambda called=called, future=future: called == [future] * 5)
        assert cf.wait(busy, PATIENCE).done == set(busy)


def test_a_waiter_that_was_thrown_out_with_a_lock_is_not_told(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promise, "LONG", 0.05)
    futures = [pool.submit(tasks.nap, 0.05) for _ in range(3)]
    waiter: Any = cf._base._AllCompletedWaiter(3, stop_on_exception=False)
    for future in futures:
        with future._condition:
            future._waiters.append(waiter)
    waiter.lock.__enter__()
    assert [future.result(PATIENCE) for future in futures] == [0.05] * 3
    assert cf.wait(futures, PATIENCE).done == set(futures)
    assert waiter.lock.forsaken and not waiter.event.is_set()


# ---- what becomes of tasks when callbacks misbehave -------------------------------------------


def test_a_callback_that_exits_takes_no_other_task_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: raised.append(about.exc_type))
    with ProcessPool(1) as pool:
        pool.submit(tasks.nothing).result(PATIENCE)
        pool.crew.members[0].line.pace = 0.0  # all are sent at once
        died = pool.submit(tasks.die, signal.SIGKILL)
        behind = [pool.submit(tasks.add, n) for n in range(5)]
        died.add_done_callback(lambda future: sys.exit(3))
        assert [future.result(PATIENCE) for future in behind] == [1, 2, 3, 4, 5]
        assert isinstance(died.exception(PATIENCE), WorkerDied)
    assert raised == [SystemExit]


def test_a_pool_that_is_shut_down_does_not_end_while_a_worker_is_buried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its tasks come back to the queue when it is known how it has ended."""
    burying, go = threading.Event(), threading.Event()
    with ProcessPool(1, retry_dead=True) as pool:
        pool.submit(tasks.nothing).result(PATIENCE)
        crew, member = pool.crew, pool.crew.members[0]
        bury = member.bury

        def slowly() -> Any:
            burying.set()
            assert go.wait(PATIENCE)
            return bury()

        monkeypatch.setattr(member, "bury", slowly)
        future = pool.submit(tasks.nap, 0.5)
        waits = threading.Thread(target=future.exception)  # it pumps, and buries
        waits.start()
        os.kill(member.pid, signal.SIGKILL)
        assert burying.wait(PATIENCE)
        pool.shutdown(wait=False)
        assert not crew.look_after()  # the watcher, if it is not the one who buries
        go.set()
        assert future.result(PATIENCE) == 0.5
        waits.join(PATIENCE)


def test_a_limit_of_years_is_a_limit() -> None:
    with ProcessPool(1) as pool:
        assert pool.submit(tasks.nap, 0.01).result(1e8) == 0.01
        assert pool.submit(tasks.nap, 0.01).exception(1e12) is None
