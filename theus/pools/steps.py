"""What a signal handler that raises, as that of Ctrl-C does, may not leave half-done.

Python runs signal handlers in the main thread, between any two instructions. Other threads are
never disturbed, but for the workers of a ThreadPool, by the interrupts of their tasks (thread.py).
So what the main thread does to a pool is either

  - a row of *steps*, calls of C that are done or not begun, such that others can go on after any of
    them; locks are taken and let go by C around it (`bracket`), and if it raises, C rings for
    somebody who looks at everything (`on_error`): csrc/binding/steps.c;
  - or it is left to a thread of the pool, or to one of its own (`undisturbed`).

What a *step* does to tasks: csrc/binding/line_steps.c; to futures: promise.c, `fulfil`.
"""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from theus._theus import bracket

__all__ = ["Gate", "has", "in_main_thread", "inside", "undisturbed", "whole"]


class Crew(Protocol):
    """What works for a pool."""

    def discard(self) -> None:
        """Ends it, and waits for that a while: nobody has it."""


T = TypeVar("T", bound=Crew)


def inside(lock: Any) -> Callable[..., Any]:
    """inside(lock)(fn, *args) calls fn with the lock held."""
    return partial(bracket, lock.acquire, lock.release)


class Gate:
    """Shut, until somebody opens it, for good. As Event, whose wait() takes a lock in code of
    Python; and Thread.join(), once it was thrown out, thinks that the thread has ended (3.11)."""

    def __init__(self) -> None:
        self.is_open = False
        self.lock = threading.Lock()
        self.lock.acquire()

    def open(self) -> None:
        self.is_open = True
        self.lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is open, after so many seconds at the most."""
        limit = -1 if timeout is None else max(0.0, timeout)
        passed = bracket(partial(self.lock.acquire, timeout=limit), self.lock.release, bool)
        return passed is not NotImplemented


def has(lock: Any) -> bool:
    """Whether this thread holds that RLock."""
    held: bool = lock._is_owned()  # as threading.Condition asks
    return held


def in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def undisturbed(wait: bool, fn: Callable[..., object], *args: Any) -> None:
    """Calls fn(*args) where no signal handler runs, and waits until it is done.

    A handler may raise here: then it goes on all the same. A handler that has come to where this
    thread holds what fn takes does not `wait`.
    """
    if not in_main_thread():
        fn(*args)
        return
    done = Gate()

    def work() -> None:
        try:
            fn(*args)
        finally:
            done.open()

    try:
        start_new_thread(work, ())  # one step; Thread.start() takes locks in code of Python
    except RuntimeError:  # no thread is to be had, or not any more: the program ends
        fn(*args)
        return
    if wait:
        done.wait()


def whole(make: Callable[[], T], busy: bool) -> T:
    """What make() gives, made where no signal handler runs. If one that raises throws this thread
    out meanwhile, it is ended, and that is waited for.

    make() runs no code of anybody else: that might want a lock, or an import, that this thread is
    in. For the same reason it is made here while `busy`, in a fork.
    """
    if busy or not in_main_thread():
        return make()
    made: list[T] = []
    failed: list[BaseException] = []
    begun = threading.Lock()
    over = Gate()

    def work() -> None:
        if begun.acquire(blocking=False):
            try:
                made.append(make())
            except BaseException as error:
                failed.append(error)
            finally:
                over.open()

    def end() -> None:
        if not begun.acquire(blocking=False):  # else it never begins
            over.wait()
            for crew in made:
                crew.discard()

    try:
        undisturbed(True, work)
    except BaseException:
        undisturbed(True, end)
        raise
    if failed:
        try:
            raise failed[0]
        finally:
            failed.clear()  # it refers to this frame now
    return made[0]
