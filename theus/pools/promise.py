"""Futures that cost little as long as one thread waits for them, and that are real ones."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from functools import partial
from typing import Any, TypeVar

from theus._theus import Promise

__all__ = ["PromisedFuture"]

T = TypeVar("T")
logger = logging.getLogger("concurrent.futures")
"""Where a Future says what a callback has raised."""

LONG = 5.0
"""Seconds after which the lock of a waiter is one that nobody lets go of: it is held for as long as
it takes to note a result."""


class ForsakenError(Exception):
    """Whoever has that lock was thrown out with it."""


class TimedLock:
    """The `lock` of a waiter: ForsakenError for who finds it taken for LONG."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forsaken = False

    def __enter__(self) -> None:
        for _ in range(5):  # where all stands still, time passes for who waits, too
            if self.forsaken:
                break
            if self.lock.acquire(timeout=LONG / 5):
                return
        self.forsaken = True
        raise ForsakenError

    def __exit__(self, *about: object) -> None:
        self.lock.release()


class Flag:
    """The `event` of a waiter, for the one thread that waits there. An Event takes a lock in code
    of Python, which that thread may be thrown out with; to set this one waits for nobody."""

    def __init__(self) -> None:
        self.flag = False
        self.lock = threading.Lock()
        self.lock.acquire()
        self.tokens = [None]
        """Who takes the only one lets go of the lock: once, as it may be handed to who waits."""

    def is_set(self) -> bool:
        return self.flag

    def set(self) -> None:
        self.flag = True
        with contextlib.suppress(IndexError):  # it was set
            self.tokens.pop()
            self.lock.release()

    def clear(self) -> None:
        self.flag = False
        if not self.tokens:
            self.lock.acquire(blocking=False)
            self.tokens.append(None)

    def wait(self, timeout: float | None = None) -> bool:
        while not self.flag and acquired(self.lock, timeout):
            pass
        return self.flag


def acquired(lock: threading.Lock, timeout: float | None) -> bool:
    """For any number of seconds, also more than a lock takes."""
    limit = -1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX))
    return lock.acquire(timeout=limit)


def make_safe(waiter: Any) -> None:
    """Before anybody tells one of wait() or as_completed(): nobody will hang who does."""
    if isinstance(waiter, concurrent.futures._base._Waiter):
        if isinstance(waiter.event, threading.Event):
            waiter.event = Flag()  # type: ignore[assignment]
        if hasattr(waiter, "lock") and not isinstance(waiter.lock, TimedLock):
            waiter.lock = TimedLock()


class View:
    """The `_condition` of a future, for wait() and as_completed(): no lock, nobody waits for it.
    Who has it sees the state of that moment; see promise.c."""

    __slots__ = ("future",)

    def __init__(self, future: PromisedFuture[Any]) -> None:
        self.future = future

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.future.look()
        return True

    def release(self) -> None:
        self.future.look_away()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *about: object) -> None:
        self.release()


class Waiters:
    """The `_waiters` of a future, for wait() and as_completed()."""

    __slots__ = ("future",)

    def __init__(self, future: PromisedFuture[Any]) -> None:
        self.future = future

    def append(self, waiter: Any) -> None:
        make_safe(waiter)
        if self.future.join(waiter):
            self.future.note(waiter)

    def remove(self, waiter: Any) -> None:
        if not self.future.leave(waiter):
            raise ValueError(f"{waiter!r} does not wait for {self.future!r}")

    def __len__(self) -> int:
        return len(self.future.waiting())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.future.waiting())


class Sleeper:
    """A thread that waits for one future: among those that are told of its end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def wake(self, future: Any) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self.lock.release()

    add_result = add_exception = add_cancelled = wake


class PromisedFuture(Promise, Future[T]):
    """A Future that costs nothing more until somebody asks for it: csrc/binding/promise.c.

    Its methods are those of Future, without a lock: a signal handler that raises in the main thread
    leaves none held, wherever it comes. Only a value that nobody has asked for is written there in
    one step; whoever else ends one tells others of it, and is not the main thread (steps.py).
    """

    _result: Any
    _exception: BaseException | None
    _done_callbacks: list[Any]

    @property
    def _condition(self) -> Any:  # type: ignore[override]  # only Future's own methods write it
        self.ask()
        return View(self)

    @property
    def _waiters(self) -> Any:  # type: ignore[override]
        self.ask()
        return Waiters(self)

    def set_running_or_notify_cancel(self) -> bool:
        """Also for one that runs already. Calls what cancel() has not come to."""
        if self.begin():
            return True
        if self.notify():
            self.tell_all()
        self._invoke_callbacks()
        return False

    def set_result(self, result: T) -> None:
        if not self.finish(result):
            self.finish_shown(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        self.finish_shown(None, exception)

    def finish_shown(self, result: Any, error: BaseException | None) -> None:
        ended = self.conclude(result, error)
        self.tell_all()  # also what somebody has not come to who was thrown out
        self._invoke_callbacks()
        if not ended:
            raise InvalidStateError(f"it is {self.state} already")

    def tell_all(self) -> None:
        while (waiter := self.next_untold()) is not None:
            with contextlib.suppress(ForsakenError):
                self.note(waiter)

    def note(self, waiter: Any) -> None:
        """Tells one of the end. Caller has it from join() or next_untold()."""
        if self.state != FINISHED:
            waiter.add_cancelled(self)
        elif self._exception is None:
            waiter.add_result(self)
        else:
            waiter.add_exception(self)

    def cancel(self) -> bool:
        if not self.call_off():
            return bool(self.state == CANCELLED_AND_NOTIFIED)
        for waiter in self.waiting():
            if isinstance(waiter, Sleeper):
                waiter.wake(self)
        self._invoke_callbacks()
        return True

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        self.ask()
        self._done_callbacks.append(fn)
        if self.over():
            # It may have come too late; whoever takes it off the list calls it.
            with contextlib.suppress(ValueError):
                self._done_callbacks.remove(fn)
                self.call_back(partial(fn, self))

    def _invoke_callbacks(self) -> None:
        while self.call_back(self.call_next) is not False:
            pass

    def call_back(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception:
            logger.exception("exception calling callback of a future that is %s", self.state)
            return None

    def running(self) -> bool:
        return not self.done() and self.state == RUNNING

    def cancelled(self) -> bool:
        return self.done() and self.state != FINISHED

    def done(self) -> bool:
        if not self.over():
            self.ask()
        return self.over()

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """(done, cancelled, result, exception), for asyncio from Python 3.15 on."""
        done = self.done()
        if done and self.state == FINISHED:
            return True, False, self._result, self._exception
        return done, done, None, None

    def result(self, timeout: float | None = None) -> T:
        """As Future.result(); ClosedError in a forked child, where no answer can come."""
        error = self.exception(timeout)
        if error is None:
            return self._result  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            del self, error  # it refers to this frame now

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.over():
            self.wait(timeout)
        if not self.over():
            raise TimeoutError
        if self.state != FINISHED:
            raise CancelledError
        return self._exception

    def wait(self, timeout: float | None) -> None:
        """Until it is over or the time has passed. Futures of pools have more to do."""
        self.sleep(timeout)

    def sleep(self, timeout: float | None) -> None:
        """Until it is over or the time has passed. Not Condition.wait(): there a signal handler
        that raises is hidden by the RuntimeError of a lock that is let go twice."""
        sleeper = Sleeper()
        self.ask()
        self.join(sleeper)
        if not self.over():  # else whoever has ended it may not have seen the sleeper
            acquired(sleeper.lock, timeout)
        if not self.over():
            self.leave(sleeper)
