"""Promise: the state of a future without locks, and PromisedFuture, which is one."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import run_threads
from support import PATIENCE, until
from theus._theus import Promise
from theus.pools.promise import Flag, PromisedFuture, Sleeper


class Watched(PromisedFuture[Any]):
    def __init__(self) -> None:
        self.asked = 0

    def shown(self) -> None:
        self.asked += 1


def test_it_is_a_future_and_begins_as_one() -> None:
    future = Watched()
    assert isinstance(future, cf.Future)
    assert not future.over() and future.asked == 0
    assert not future.done() and not future.running() and not future.cancelled()
    assert future.asked == 1  # once, however often it is asked
    assert "state=pending" in repr(future)


def test_one_that_nobody_waits_for_ends_quietly() -> None:
    future = Watched()
    assert future.begin() and future.begin()
    future.set_result([1])
    assert future.over() and future.done() and future.result() == [1]
    assert future.asked == 0
    assert future.exception() is None and "returned list" in repr(future)


def test_one_that_somebody_waits_for_ends_the_long_way() -> None:
    future, called = Watched(), list[Any]()
    future.add_done_callback(called.append)
    assert future.asked == 1 and future.begin() and not future.finish(1)
    assert future.set_running_or_notify_cancel() and future.running()
    future.set_result(1)
    assert called == [future] and future.result() == 1


def test_it_ends_once() -> None:
    future = Watched()
    future.set_result(1)
    assert not future.finish(2) and not future.begin()
    with pytest.raises(cf.InvalidStateError):
        future.set_result(2)
    with pytest.raises(cf.InvalidStateError):
        future.set_exception(ValueError())
    assert not future.cancel() and future.result() == 1


def test_a_cancelled_one_does_not_begin() -> None:
    future = Watched()
    assert future.cancel() and future.over() and future.cancelled()
    assert not future.begin() and not future.finish(1)
    assert not future.set_running_or_notify_cancel()
    with pytest.raises(cf.CancelledError):
        future.result()


def test_a_cancelled_one_is_told_of_once() -> None:
    future, told, called = Watched(), list[Any](), list[Any]()

    class Waiter:
        add_cancelled = staticmethod(told.append)

    future._waiters.append(Waiter())
    future.add_done_callback(called.append)
    assert future.cancel() and future.cancel() and called == [future] and not told
    assert not future.set_running_or_notify_cancel() and told == [future]
    assert not future.set_running_or_notify_cancel() and future.cancel() and told == [future]
    future.add_done_callback(called.append)
    assert called == [future, future]
    thread = threading.Thread(target=lambda: called.append(type(waits.exception_of())))
    waits = Exceptional()
    thread.start()
    until(lambda: bool(waits.waiting()))
    assert waits.cancel()
    thread.join(PATIENCE)
    assert called[-1] is cf.CancelledError


class Exceptional(Watched):
    def exception_of(self) -> BaseException | None:
        try:
            return self.exception(PATIENCE)
        except cf.CancelledError as error:
            return error


def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    future = Watched()
    for limit in (0.001, 0, -1):
        with pytest.raises(TimeoutError):
            future.exception(limit)
    assert future.waiting() == ()
    future.set_result(1)
    assert future.result(1e300) == 1


@pytest.mark.parametrize("look", range(1, 6))
def test_a_limit_that_passes_as_it_ends(look: int) -> None:
    """Whichever comes first, it is never said to be cancelled."""

    class Ending(Watched):
        looks = 0

        def over(self) -> bool:
            self.looks += 1
            if self.looks == look:
                self.set_result(1)
            return super().over()

    with contextlib.suppress(TimeoutError):
        assert Ending().result(0.001) == 1


@pytest.mark.parametrize("end", ["set_result", "cancel"])
def test_who_leaves_as_it_ends_hides_nobody_behind(end: str) -> None:
    future, second = Watched(), Sleeper()

    class Leaving(Sleeper):
        def wake(self, other: Any) -> None:
            assert future.leave(self)

        add_result = wake

    first = Leaving()
    future.ask()
    assert not future.join(first) and not future.join(second)
    future.cancel() if end == "cancel" else future.set_result(1)
    assert second.lock.acquire(blocking=False)


def test_a_callback_that_raises_is_logged_and_the_next_is_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future, called = Watched(), list[Any]()
    future.add_done_callback(lambda future: 1 // 0)
    future.add_done_callback(called.append)
    future.set_result(1)
    assert called == [future]
    (record,) = caplog.records
    assert record.name == "concurrent.futures" and "ZeroDivisionError" in caplog.text


def test_an_exception_is_raised() -> None:
    future = Watched()
    future.set_exception(KeyError("no"))
    with pytest.raises(KeyError, match="no"):
        future.result()
    assert isinstance(future.exception(), KeyError)


def test_those_who_wait_are_woken() -> None:
    future, got = Watched(), list[Any]()
    thread = threading.Thread(target=lambda: got.append(future.result(PATIENCE)))
    thread.start()
    future.set_result(7)
    thread.join(PATIENCE)
    assert got == [7]
    with pytest.raises(TimeoutError):
        Watched().result(0.001)


def test_wait_as_completed_and_asyncio_take_it() -> None:
    done, late = Watched(), Watched()
    done.set_result(1)
    assert cf.wait([done, late], 0).done == {done}
    thread = threading.Thread(target=late.set_result, args=(2,))
    thread.start()
    assert sorted(it.result() for it in cf.as_completed([done, late], PATIENCE)) == [1, 2]
    thread.join(PATIENCE)

    async def awaited() -> Any:
        future = Watched()
        wrapped = asyncio.wrap_future(future)
        future.set_result(3)
        return await wrapped

    assert asyncio.run(awaited()) == 3


def test_who_cannot_show_it_asks_again() -> None:
    class Refused(Watched):
        def shown(self) -> None:
            super().shown()
            if self.asked == 1:
                raise KeyboardInterrupt

    future = Refused()
    with pytest.raises(KeyboardInterrupt):
        future.done()
    assert future.begin()  # nobody has asked
    assert not future.done() and future.asked == 2
    future.set_result(None)


def test_callbacks_come_once_whoever_is_first() -> None:
    """The condition is asked for while the promise ends: each callback is called, and each waiter
    woken, whichever of the two was first."""
    for _ in range(200):
        future, called = Watched(), list[Any]()
        barrier = threading.Barrier(2)

        def end(future: Watched = future, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            future.set_result(1)

        thread = threading.Thread(target=end)
        thread.start()
        barrier.wait()
        future.add_done_callback(called.append)
        assert future.result(PATIENCE) == 1
        thread.join(PATIENCE)
        assert called == [future]


# ---- views ------------------------------------------------------------------------------------


class Hears:
    """A waiter."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.add_result = partial(self.hear, "result")
        self.add_exception = partial(self.hear, "exception")
        self.add_cancelled = partial(self.hear, "cancelled")

    def hear(self, what: str, future: Any) -> None:
        self.heard.append(what)


ENDS: dict[str, Callable[[Watched], object]] = {
    "result": lambda future: future.set_result(1),
    "exception": lambda future: future.set_exception(KeyError()),
    "cancelled": lambda future: future.cancel() and future.set_running_or_notify_cancel(),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_waiter_hears_of_what_it_has_not_seen(end: str) -> None:
    future = Watched()
    before, within, behind, after, gone = (Hears() for _ in range(5))
    future._waiters.append(before)
    with future._condition:
        future._waiters.append(within)
        future._waiters.append(gone)
        future._waiters.remove(gone)
        assert future._state == "PENDING"
        ENDS[end](future)
        assert future._state == "PENDING" and future.over() and future.done()
        assert before.heard == within.heard == [end]
        future._waiters.append(behind)
        assert behind.heard == [end]
    assert future._state == future.state != "PENDING"
    future._waiters.append(after)
    assert [it.heard for it in (before, within, behind, after, gone)] == [[end]] * 3 + [[]] * 2
    assert list(future._waiters) == [before, within, behind, after]
    with pytest.raises(ValueError, match="does not wait for"):
        future._waiters.remove(gone)


@pytest.mark.parametrize("end", ENDS)
def test_a_view_that_is_left_over_hides_no_end(end: str) -> None:
    """Of a thread that was thrown out: from no other thread, and not from itself."""
    future, other = Watched(), Watched()
    for _ in range(3):
        future._condition.acquire()  # and never released
    ENDS[end](future)
    other.set_result(1)
    for call in (run_now, in_thread):
        for those in ([future], [future, other]):
            for until_when in (cf.ALL_COMPLETED, cf.FIRST_COMPLETED, cf.FIRST_EXCEPTION):
                done, left = call(lambda: cf.wait(those, 0, until_when))  # noqa: B023
                assert done == set(those) and not left
            assert set(call(lambda: list(cf.as_completed(those, 0)))) == set(those)  # noqa: B023
        assert "pending" not in call(lambda: repr(future))
    assert future._get_snapshot()[:2] == (True, end == "cancelled")
    assert future.waiting() == ()


def run_now(fn: Callable[[], Any]) -> Any:
    return fn()


def in_thread(fn: Callable[[], Any]) -> Any:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(fn()))
    thread.start()
    thread.join(PATIENCE)
    return got[0]


def test_a_view_is_its_threads_own_and_the_last_one_counts() -> None:
    future = Watched()
    view = future._condition
    assert view.acquire()
    future.begin()
    assert view.acquire(timeout=1)
    future.set_result(1)
    assert in_thread(lambda: future._state) == "FINISHED"
    with future._condition:
        assert future._state == "FINISHED"
    assert future._state == "RUNNING"
    view.release()
    assert future._state == "PENDING"
    in_thread(view.release)  # that one has none
    assert future._state == "PENDING"
    view.release()
    assert future._state == "FINISHED"
    view.release()  # nor has this one any more
    assert future._state == "FINISHED"
    assert future._get_snapshot() == (True, False, 1, None)
    assert Watched()._get_snapshot() == (False, False, None, None)


def test_the_collector_may_end_it_wherever_it_runs() -> None:
    """Before Python 3.12 that is at any allocation: finalizers run there, and other threads."""

    class Cycle:
        def __init__(self, fn: Callable[[], object]) -> None:
            self.me, self.fn = self, fn

        def __del__(self) -> None:
            self.fn()

    def while_collected(step: Callable[[], Any], fn: Callable[[], object], after: int) -> Any:
        gc.collect()
        Cycle(fn)
        gc.set_threshold(gc.get_count()[0] + after)
        gc.enable()
        try:
            return step()
        finally:
            gc.disable()

    before = gc.get_threshold(), gc.isenabled()
    gc.disable()
    try:
        for after in range(1, 20):
            future, waiter = Watched(), Hears()
            future.ask()
            future.look()

            def finish(future: Watched = future) -> None:
                future.conclude(1, None)
                future.tell_all()

            if while_collected(partial(future.join, waiter), finish, after):
                future.note(waiter)
            finish()
            assert waiter.heard == ["result"]
            many = [Sleeper() for _ in range(40)]
            for sleeper in many:
                future.join(sleeper)
            more = partial(list, map(future.join, many * 40))
            found = while_collected(future.waiting, more, after)
            assert set(found) <= {waiter, *many}
    finally:
        gc.set_threshold(*before[0])
        if before[1]:
            gc.enable()


@given(
    st.lists(
        st.sampled_from(
            ["look", "look_away", "join", "leave", "begin", "call_off", "notify", "end", "tell"]
        )
    )
)
def test_each_waiter_hears_once_of_what_it_has_not_seen(steps: list[str]) -> None:
    """Whoever ends it, tells them, or looks on, in any order."""
    future, waiters, due = Watched(), list[Hears](), set[Hears]()
    told_of = {"FINISHED", "CANCELLED_AND_NOTIFIED"}
    for step in steps:
        match step:
            case "join":
                waiters.append(Hears())
                due |= {waiters[-1]} - ({waiters[-1]} if future._state in told_of else set())
                future._waiters.append(waiters[-1])
            case "leave" if waiters:
                left = waiters.pop(0)
                future._waiters.remove(left)
                if not left.heard:
                    due.discard(left)
            case "end":
                future.conclude(1, None)
            case "tell":
                future.tell_all() if future.state in told_of else None
            case "look" | "look_away" | "begin" | "call_off" | "notify":
                getattr(future, step)()
        for waiter in waiters:
            assert len(waiter.heard) <= (waiter in due)
    future.call_off() or future.conclude(1, None)
    future.notify()
    future.tell_all()
    assert all(len(waiter.heard) == 1 for waiter in due)
    assert list(future._waiters) == waiters


@pytest.mark.parametrize("stale", [False, True])
def test_whoever_waits_while_they_end_hears_of_all(stale: bool) -> None:
    for turn in range(100):
        futures = [Watched() for _ in range(5)]
        if stale:
            futures[turn % 5]._condition.acquire()

        def body(index: int, futures: list[Watched] = futures) -> set[Any]:
            match index:
                case 0:
                    for future in futures:
                        future.set_result(1)
                    return set(futures)
                case 1:
                    return set(cf.wait(futures, PATIENCE).done)
                case 2:
                    return set(cf.as_completed(futures, PATIENCE))
                case _:
                    return {future for future in futures if future.result(PATIENCE) == 1}

        assert run_threads(4, body) == [set(futures)] * 4


def test_a_flag_is_an_event() -> None:
    flag = Flag()
    assert not flag.wait(0) and not flag.wait(-1) and not flag.wait(1e-3) and not flag.is_set()
    thread = threading.Thread(target=flag.set)
    thread.start()
    assert flag.wait() and flag.is_set()
    thread.join(PATIENCE)
    flag.set()
    assert flag.wait(1e300) and flag.wait(0)
    flag.clear()
    assert not flag.wait(0) and not flag.is_set()
    flag.set()
    flag.clear()
    assert not flag.wait(1e-3)
    for _ in range(200):
        run_threads(3, lambda n: flag.wait(PATIENCE) if n == 0 else flag.set())
        flag.clear()


def test_who_ends_it_first_has_ended_it() -> None:
    """Many at once: for one it is done, the others hear of it."""
    for _ in range(100):
        future, won = Watched(), list[int]()
        future.ask()

        def end(n: int, future: Watched = future, won: list[int] = won) -> None:
            with contextlib.suppress(cf.InvalidStateError):
                future.set_result(n)
                won.append(n)

        run_threads(4, end)
        assert won == [future.result()]


def test_cycles_through_it_are_found() -> None:
    future = Watched()
    future.set_result([future])
    seen = weakref.ref(future)
    del future
    gc.collect()
    assert seen() is None


def test_odd_states_are_no_state(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is written where only Future writes: no crash, and nothing begins or ends."""
    caplog.set_level(logging.CRITICAL + 1)
    for state in (None, 7, "RUNNING AWAY"):
        future = Watched()
        future._state = state
        assert future.over() and not future.begin() and not future.finish(1)
    bare = Promise()
    assert not bare.over() and bare.finish(1) and bare.over()
