"""Futures that cost little as long as one thread waits for them, and that are real ones."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from operator import attrgetter
from typing import Any, TypeVar

from theus._theus import Promise

__all__ = ["PromisedFuture", "QuickCondition"]

T = TypeVar("T")
logger = logging.getLogger("concurrent.futures")
"""Where a Future says what a callback has raised."""

LOOK = 0.01
"""Seconds between two looks at who holds a condition."""
LONG = 1.0
"""Seconds after which a lock of wait() or as_completed() is one that nobody lets go of: they hold
it for as long as it takes to note a result."""


def is_forsaken(condition: threading.Condition) -> bool:
    """Whether the main thread holds that lock and does not know, as a signal handler has thrown it
    out of wait() or as_completed(): these take conditions in code of Python."""
    main = threading.main_thread().ident or 0
    if f"owner={main} " not in repr(condition):
        return False
    frame = sys._current_frames().get(main)
    while frame is not None:
        code = frame.f_code
        if code in (threading.Event.wait.__code__, PromisedFuture.sleep.__code__):
            return True  # who waits there holds none
        if code.co_filename == concurrent.futures._base.__file__ or code in (
            PromisedFuture.set_running_or_notify_cancel.__code__,
            PromisedFuture.finish_shown.__code__,
        ):
            return False
        frame = frame.f_back
    return True


unreachable: weakref.WeakSet[Any] = weakref.WeakSet()
"""Waiters of calls that were thrown out with a lock of theirs: who tells them would hang."""


def is_reachable(waiter: Any) -> bool:
    if not isinstance(waiter, concurrent.futures._base._Waiter):
        return True
    if waiter in unreachable:
        return False
    locks: Any = getattr(waiter, "lock", None), getattr(waiter.event, "_cond", None)
    for lock in locks:
        if lock is not None:
            if not lock.acquire(timeout=LONG):
                unreachable.add(waiter)
                return False
            lock.release()
    return True


class QuickCondition(threading.Condition):
    """Its `with` calls what the lock has, which is of C. In methods of Python a signal handler may
    raise when the lock is taken already, or not let go yet. (From Python 3.14 on it may come right
    after `__enter__` all the same.)"""

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


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
    """A Future that makes its condition when it is first asked for it: csrc/binding/promise.c.

    Its methods are those of Future. But none that the main thread may call takes the condition,
    which a signal handler might leave held; and those that end one do not wait for somebody who
    will not let go of it.
    """

    _state: str
    _result: Any
    _exception: BaseException | None
    _condition: threading.Condition
    _waiters: list[Any]
    _done_callbacks: list[Any]

    def set_running_or_notify_cancel(self) -> bool:
        """Also for one that runs already. Calls what cancel() has not come to."""
        if self.begin():
            return True
        held = self.hold()
        try:
            if self._state == CANCELLED:
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in filter(is_reachable, self._waiters.copy()):
                    waiter.add_cancelled(self)
        finally:
            if held:
                self._condition.release()
        self._invoke_callbacks()
        return False

    def hold(self) -> bool:
        """Whether this thread has the condition now; if not, nobody who will come back has."""
        forsaken = 0
        while not self._condition.acquire(timeout=LOOK):
            forsaken = forsaken + 1 if is_forsaken(self._condition) else 0
            if forsaken == 3:
                return False
        return True

    def set_result(self, result: T) -> None:
        if not self.finish(result):
            self.finish_shown(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        self.finish_shown(None, exception)

    def finish_shown(self, result: Any, error: BaseException | None) -> None:
        held = self.hold()
        try:
            if not self.begin():  # from here on nobody can cancel it
                raise InvalidStateError(f"it is {self._state} already")
            self._result, self._exception = result, error
            self._state = FINISHED
            for waiter in filter(is_reachable, self._waiters.copy()):
                waiter.add_result(self) if error is None else waiter.add_exception(self)
        finally:
            if held:
                self._condition.release()
        self._invoke_callbacks()

    def cancel(self) -> bool:
        if not self.call_off():
            return self._state == CANCELLED_AND_NOTIFIED
        for waiter in self._waiters.copy():
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
                self.call_back(fn)

    def _invoke_callbacks(self) -> None:
        while True:
            try:
                fn = self._done_callbacks.pop(0)
            except IndexError:
                return
            self.call_back(fn)

    def call_back(self, fn: Callable[[Future[T]], object]) -> None:
        try:
            fn(self)
        except Exception:
            logger.exception("exception calling callback of a future that is %s", self._state)

    def running(self) -> bool:
        return not self.done() and self._state == RUNNING

    def cancelled(self) -> bool:
        return self.done() and self._state != FINISHED

    def done(self) -> bool:
        if not self.over():
            self.ask()
        return self.over()

    def ask(self) -> threading.Condition:
        """Whoever asks relies on what comes; so there is somebody who reads it from now on."""
        return self._condition

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
        if self._state != FINISHED:
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
        self._waiters.append(sleeper)
        if not self.over():  # else whoever has ended it may not have seen the sleeper
            most = threading.TIMEOUT_MAX
            sleeper.lock.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, most)))
        if not self.over():
            with contextlib.suppress(ValueError):
                self._waiters.remove(sleeper)
