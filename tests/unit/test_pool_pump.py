"""Whoever waits for a result, and however: somebody reads it, and at once."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pool_tasks as tasks
from support import PATIENCE

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

from theus import BrokenPoolError
from theus.pools import ProcessPool, pump, wire


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    """Its watcher never looks by itself: what is forgotten is forgotten for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pump, "TICK", 3600.0)
        with ProcessPool(1) as pool:
            yield pool


def trips(pool: ProcessPool, count: int = 20) -> None:
    """After some of these nobody has armed anything."""
    for n in range(count):
        assert pool.submit(tasks.add, n).result(PATIENCE) == n + 1


def poll(future: cf.Future[Any], look: Callable[[], bool]) -> None:
    wait = threading.Event()
    for _ in range(int(PATIENCE * 1000)):
        if look():
            return
        wait.wait(0.001)
    raise AssertionError("nobody has read the answer")


async def on_a_loop(pool: ProcessPool, future: cf.Future[Any]) -> None:
    await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)


def called(future: cf.Future[Any]) -> None:
    done = threading.Event()
    future.add_done_callback(lambda future: done.set())
    assert done.wait(PATIENCE)


def is_over(future: Any) -> bool:
    """As done(), but for whoever does not wait for it."""
    return bool(future.over())


def in_a_thread(future: cf.Future[Any]) -> None:
    with cf.ThreadPoolExecutor(1) as other:
        other.submit(future.result).result(PATIENCE)


WAYS: dict[str, Callable[[ProcessPool, cf.Future[Any]], Any]] = {
    "as_completed": lambda pool, future: list(cf.as_completed([future], PATIENCE)),
    "wait": lambda pool, future: cf.wait([future], PATIENCE),
    "a callback": lambda pool, future: called(future),
    "asyncio": lambda pool, future: asyncio.run(on_a_loop(pool, future)),
    "done()": lambda pool, future: poll(future, future.done),
    "running()": lambda pool, future: poll(future, lambda: not future.running()),
    "stats()": lambda pool, future: poll(future, lambda: pool.stats().running == 0),
    "another thread": lambda pool, future: in_a_thread(future),
    "more tasks": lambda pool, future: [pool.submit(tasks.nothing), called(pool.submit(len, ""))],
    "a limit": lambda pool, future: future.exception(PATIENCE),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_waits_gets_the_answer(pool: ProcessPool, way: str) -> None:
    trips(pool)
    future = pool.submit(tasks.nap, 0.002)
    WAYS[way](pool, future)
    assert is_over(future)


def has_come(pool: ProcessPool, future: cf.Future[Any]) -> bool:
    """Whether its answer is there, read or not."""
    waiting = select.select([pool.crew.members[0].answers], [], [], 0)[0]
    return bool(waiting) or is_over(future)


@pytest.mark.parametrize("way", ["as_completed", "a callback", "done()"])
def test_also_when_the_answer_was_there_before(pool: ProcessPool, way: str) -> None:
    for _ in range(20):  # the watcher, still on its way from before, may be quicker
        trips(pool)
        future = pool.submit(tasks.nothing)
        poll(future, partial(has_come, pool, future))
        if not is_over(future):
            break
    WAYS[way](pool, future)
    assert is_over(future)


def test_who_gave_up_waiting_leaves_the_answer_to_the_watcher(
    pool: ProcessPool, tmp_path: Path
) -> None:
    trips(pool)
    gate = str(tmp_path / "gate")
    future = pool.submit(tasks.wait_for, gate)
    with pytest.raises(TimeoutError):
        future.result(0.001)
    tasks.touch(gate)
    poll(future, lambda: is_over(future))


def test_many_threads_wait_in_turn(pool: ProcessPool) -> None:
    from helpers import run_threads

    run_threads(4, lambda index: trips(pool, 200))


def test_an_idle_worker_that_dies_is_replaced_though_nobody_looks(pool: ProcessPool) -> None:
    trips(pool)
    crew = pool.crew
    before = crew.died
    os.kill(crew.members[0].pid, signal.SIGKILL)
    poll(cf.Future(), lambda: crew.died == before + 1)
    trips(pool, 1)


def test_a_callback_of_the_watcher_waits_for_a_task_whose_worker_dies(pool: ProcessPool) -> None:
    """The task is begun by a worker that only the watcher itself can start."""
    got: list[Any] = []
    over = threading.Event()

    def go_on(future: cf.Future[Any]) -> None:
        killed = pool.submit(tasks.die, signal.SIGKILL)
        behind = pool.submit(tasks.add, 1)
        got.append((type(killed.exception(PATIENCE)).__name__, behind.result(PATIENCE)))
        over.set()

    first = pool.submit(tasks.nap, 0.01)
    first.add_done_callback(go_on)
    assert over.wait(PATIENCE) and got == [("WorkerDied", 2)]
    trips(pool, 1)


@pytest.mark.parametrize("alarm_alone", [False, True])
def test_a_worker_that_is_replaced_while_its_answer_is_delivered(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch, alarm_alone: bool
) -> None:
    """The new one has descriptors of the same numbers, and its life is its own."""
    trips(pool)
    crew, over = pool.crew, threading.Event()
    got: list[Any] = []
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    before, old = crew.died, crew.members[0]
    if alarm_alone:  # as if the answer had come just after the look
        ready, there = crew.pump.ready, crew.by_descriptor

        def some(timeout: float) -> list[int]:
            found = ready(timeout)
            return [fd for fd in found if fd == old.alarm or there.get(fd) is not old]

        monkeypatch.setattr(crew.pump, "ready", some)

    def go_on(future: cf.Future[Any]) -> None:
        both = [pool.submit(tasks.add, n) for n in (1, 2)]
        got.extend(it.result(PATIENCE) for it in both)
        got.append(pool.submit(tasks.nap, 0.05))
        over.set()

    first = pool.submit(tasks.nothing)
    monkeypatch.setattr(first, "shown", lambda: None)  # so the watcher does not look at once
    first.add_done_callback(go_on)
    assert select.select([old.answers], [], [], PATIENCE)[0]
    os.kill(old.pid, signal.SIGKILL)
    assert over.wait(PATIENCE)
    *values, future = got
    assert (values, future.result(PATIENCE)) == ([2, 3], 0.05)
    assert crew.died == before + 1 and not raised


def test_an_idle_worker_whose_pipe_is_full_is_tried_again(pool: ProcessPool) -> None:
    trips(pool)
    member = pool.crew.members[0]
    os.kill(member.pid, signal.SIGSTOP)
    poll(cf.Future(), lambda: Path(f"/proc/{member.pid}/stat").read_text().split()[2] == "T")
    while member.line.send([wire.frame(wire.RELEASED, 0, b"")]):
        pass
    future = pool.submit(tasks.add, 1)
    os.kill(member.pid, signal.SIGCONT)
    assert future.result(PATIENCE) == 2
    trips(pool, 1)


def test_an_answer_stays_readable_until_its_future_has_ended(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C just before that: it is delivered once more."""
    trips(pool)
    future = pool.submit(bytes, 200_000)  # lies in a block of the worker
    end = future.set_result
    ended: list[bool] = []
    interrupts: list[bool] = []
    # The watcher may be the one who delivers it, if it is still on its way from before.
    monkeypatch.setattr(threading, "excepthook", lambda about: None)

    def interrupted(value: bytes) -> None:
        monkeypatch.setattr(future, "set_result", end)
        interrupts.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(future, "set_result", interrupted)
    monkeypatch.setattr(pool.crew.members[0], "give_back", lambda: ended.append(is_over(future)))
    with contextlib.suppress(KeyboardInterrupt):
        future.result(PATIENCE)
    assert len(future.result(PATIENCE)) == 200_000
    poll(future, lambda: bool(ended))
    assert ended == [True] and interrupts == [True]
    monkeypatch.undo()
    trips(pool, 1)


def test_a_worker_that_has_started_is_looked_at(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come to take over what another one has too much of."""
    trips(pool)
    crew = pool.crew
    looked = threading.Event()
    monkeypatch.setattr(crew.dispatch, "take_back", lambda now: looked.set())
    crew.hear(crew.members[0], wire.READY, b"")
    assert looked.wait(PATIENCE)


def test_who_pumps_hears_of_it_when_no_worker_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watcher is who finds out, and no pipe is left that could wake whoever pumps."""
    monkeypatch.setattr(pump, "TICK", 3600.0)
    asleep, found = threading.Event(), list[Any]()
    with ProcessPool(1) as pool:
        crew, ready = pool.crew, pool.crew.pump.ready
        trips(pool, 1)

        def refuse() -> None:
            assert asleep.wait(PATIENCE)
            raise OSError("no process")

        def sleep(timeout: float) -> list[int]:
            if timeout != 0 and not crew.members and crew.dispatch.queue:
                asleep.set()
            return ready(timeout)

        monkeypatch.setattr(crew, "start_member", refuse)
        monkeypatch.setattr(crew.pump, "ready", sleep)
        pool.submit(tasks.nap, 3600.0)
        waits = pool.submit(tasks.add, 1)
        threads = list[threading.Thread]()
        while not crew.pump.taken:  # who comes while the watcher reads waits otherwise
            threads.append(threading.Thread(target=lambda: found.append(waits.exception())))
            threads[-1].start()
            threads[-1].join(0.02)
        crew.members[0].kill()
        for thread in threads:
            thread.join(PATIENCE)
        heard = len(found)
        pool.kill()
        for thread in threads:
            thread.join(PATIENCE)
    assert heard == len(threads) and isinstance(found[0], BrokenPoolError)


@contextlib.contextmanager
def held_elsewhere(future: cf.Future[Any]) -> Iterator[None]:
    """Its condition, by another thread."""
    holds, go = threading.Event(), threading.Event()

    def hold() -> None:
        with future._condition:
            holds.set()
            assert go.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(PATIENCE)
    yield
    go.set()
    thread.join(PATIENCE)


def test_who_takes_a_condition_holds_up_nobody(pool: ProcessPool, tmp_path: Path) -> None:
    """wait() takes those of many futures; the collector may end an iterator of map() just there,
    and that takes the lock of the pool."""
    trips(pool, 1)
    pool.crew.members[0].line.pace = 1.0  # nothing is sent ahead
    slow = pool.submit(tasks.wait_for, str(tmp_path / "gate"))
    waits = pool.submit(tasks.add, 1)
    with held_elsewhere(waits):
        assert waits.cancel()
        (tmp_path / "gate").touch()
        assert cf.wait([slow], PATIENCE).done  # the watcher has begun all that it can
        assert pool.submit(tasks.add, 1).result(PATIENCE) == 2
        assert cf.wait([waits], PATIENCE).done and waits.cancelled()
    assert cf.wait([waits], PATIENCE).done
    trips(pool, 1)


def test_only_what_was_cancelled_falls_out_of_the_queue(pool: ProcessPool, tmp_path: Path) -> None:
    """A signal handler may wait, before this looks at the first task, until that one is gone."""
    trips(pool, 1)
    dispatch, member = pool.crew.dispatch, pool.crew.members[0]
    assert dispatch.next_due(member, 0.0) == float("inf")  # or until the worker has nothing to do
    member.line.pace = 1.0  # nothing is sent ahead
    slow = pool.submit(tasks.wait_for, str(tmp_path / "gate"))
    waits = pool.submit(tasks.add, 1)
    with pool.crew.lock:
        dispatch.drop_cancelled()
        assert [task.future for task in dispatch.queue] == [waits]
    (tmp_path / "gate").touch()
    assert waits.result(PATIENCE) == 2 and slow.done()
    trips(pool, 1)


def test_who_lets_go_of_the_turn_of_a_pool_that_has_ended_rings_for_nobody() -> None:
    with ProcessPool(1) as pool:
        trips(pool, 1)
    assert not pool.crew.leave_to_watcher(False)


def test_what_woke_the_watcher_in_vain_is_not_armed_any_more(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was armed late, when somebody pumped already."""
    trips(pool)
    watched = pool.crew.pump
    with watched.turn:
        watched.take()
        watched.arm()
        future = pool.submit(tasks.add, 1)
        poll(cf.Future(), lambda: not watched.armed)
        watched.taken = False
    assert cf.wait([future], PATIENCE).done and future.result() == 2
