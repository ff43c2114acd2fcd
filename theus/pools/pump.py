"""Who reads the answers of a pool's workers, and how a thread that waits is woken.

Answers are read by whoever has the *turn*, a lock: a thread that waits in `Future.result()`, so
that its result comes to it without a change of threads; and the pool's own thread, the *watcher*,
for everybody else.

    answers, deaths, call ──▶ inner epoll ─▶ whoever has the turn
                                   │
                         (one-shot)▼
       bell, deaths ─────▶ outer epoll ─▶ the watcher

The watcher waits on an epoll that holds the inner one as a one-shot entry. While that is *armed*,
an answer wakes it. A wake is dear: beside a thread that pumps for itself it costs as much as the
rest of an empty round trip. So the rule is

    whenever something is under way that nobody pumps for, the entry is armed;
    except for a single task whose future has been shown to nobody who could not pump.

A future is shown by whoever asks for its condition (csrc/binding/promise.c).

Who lets go of the turn looks at what is under way *after* that, and arms if there is anything:
so whoever comes too late for the turn is not forgotten. Who submits the only task does not arm:
what usually comes next is result(), which reads the answer itself. Everything else that can be
done with a future (done(), a callback, as_completed(), wait()) asks for its condition, and that
arms first. Arming looks at what is there: an answer that came before is seen.

`armed` is true only if the entry is, or has just woken the watcher. Who arms may be late, and
somebody pump already: then an answer wakes both, the watcher finds the turn taken, and sleeps on.
So it notes when it wakes that the entry is spent: who comes next arms once more.

Should all that fail (Ctrl-C in the very instruction that arms), the watcher looks once a second.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable
from concurrent.futures._base import PENDING, RUNNING
from typing import Any, Protocol, TypeVar

from theus.pools.promise import PromisedFuture

__all__ = ["PoolFuture", "Pump"]

T = TypeVar("T")

EVENT = select.EPOLLIN if hasattr(select, "epoll") else 0
TICK = 1.0
"""Seconds after which the watcher looks, whatever it has been told."""


class Pump:
    """The turn, the two epolls and what rings in them."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.taken = False
        """Somebody pumps, and will look at what is under way when it lets go."""
        self.switch = threading.RLock()
        """Nothing is called with it, but the collector may run there, and end an iterator of map(),
        which takes the crew's lock: so nobody who has that waits for this. Futures take it when
        they are shown, also with the condition of another future held."""
        self.armed = True
        """Guarded by switch; but the watcher sets it to False without."""
        self.wakes_at = float("inf")
        """When the watcher looks at the clock next. Guarded by the crew's lock."""
        self.inner = select.epoll()
        self.outer = select.epoll()
        self.bell, self.call = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self.inner.register(self.call, EVENT)
        self.outer.register(self.bell, EVENT)
        self.outer.register(self.inner, EVENT | select.EPOLLONESHOT)
        self.open = True

    def add(self, fd: int, alarm: bool = False) -> None:
        """`alarm`: it wakes the watcher, armed or not."""
        self.inner.register(fd, EVENT)
        if alarm:
            self.outer.register(fd, EVENT | select.EPOLLONESHOT)

    def remove(self, fd: int, alarm: bool = False) -> None:
        self.inner.unregister(fd)
        if alarm:
            self.outer.unregister(fd)

    def take(self) -> None:
        """The caller, who has the turn, reads from now on."""
        with self.switch:
            self.taken = True
            if self.armed and self.open:
                self.outer.modify(self.inner, 0)
                self.armed = False

    def arm(self) -> None:
        """An answer from now on wakes the watcher; also one that is there."""
        with self.switch:
            if self.open:
                self.outer.modify(self.inner, EVENT | select.EPOLLONESHOT)
                self.armed = True

    def show(self) -> None:
        """Somebody relies on the watcher. Who pumps at the moment arms when it lets go."""
        if not self.armed and not self.taken:
            self.arm()

    def free_abandoned(self, is_somebody_in: Callable[[], bool]) -> None:
        """By the watcher, who did not get the turn: has anybody?

        A signal between taking the turn and the next instruction leaves it taken by a thread that
        does not know. That thread may come back at any moment, and get in, as the turn is
        reentrant; so we look once more when a new turn is there and not to be had yet.
        """
        if self.taken or is_somebody_in():
            return
        old, new = self.turn, threading.RLock()
        with new:
            self.turn = new
            if is_somebody_in():
                self.turn = old

    def ready(self, timeout: float) -> list[int]:
        """Descriptors with something to read; the caller has the turn."""
        found = [fd for fd, _ in self.inner.poll(timeout)]
        if self.call in found:
            found.remove(self.call)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.call)
        return found

    def interrupt(self) -> None:
        """Whoever pumps shall look at its future again."""
        os.eventfd_write(self.call, 1)

    def ring(self) -> None:
        """The watcher shall look at the clock."""
        os.eventfd_write(self.bell, 1)

    def look_by(self, at: float) -> None:
        """The watcher, who calls this itself, looks at the clock again at that time. Caller holds
        the crew's lock."""
        self.wakes_at = min(self.wakes_at, at)

    def wake_by(self, at: float) -> None:
        """The same, if anybody may call it."""
        if at < self.wakes_at:
            self.wakes_at = at
            self.ring()

    def sleep(self, pause: float) -> None:
        """The watcher waits for the bell, or an answer while that is armed."""
        rung = [fd for fd, _ in self.outer.poll(min(pause, TICK))]
        if self.inner.fileno() in rung:
            self.armed = False  # it may have come in vain, and would not come again
        if self.bell in rung:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.bell)

    def close(self) -> None:
        with self.switch:
            self.shut()

    def shut(self) -> None:
        """As close(), in a forked child, where nobody may hold the switch any more."""
        self.open = False
        self.armed = True  # show() has nothing to do any more
        for epoll in (self.outer, self.inner):
            epoll.close()
        for fd in (self.bell, self.call):
            os.close(fd)


def is_anybody_in(method: Any, of: object) -> bool:
    """Whether a thread is in the middle of that method of that object."""
    for frame in sys._current_frames().values():
        at: Any = frame
        while at is not None:
            if at.f_code is method.__code__ and at.f_locals.get("self") is of:
                return True
            at = at.f_back
    return False


# ---- futures -------------------------------------------------------------------------------


class Crew(Protocol):
    """What a future asks of its pool."""

    pump: Pump

    def pump_for(self, future: PoolFuture[Any], timeout: float | None) -> float | None:
        """Reads answers until it is done, if nobody else does. What is left of the time."""

    def interrupt(self) -> None:
        """Whoever pumps shall look at its future again."""


class PoolFuture(PromisedFuture[T]):
    """A Future whose waiting thread reads the answers of the pool itself, if nobody else does."""

    crew: Crew

    def shown(self) -> None:
        """From now on somebody may wait who cannot pump. While this is under way, the entry stays
        armed or somebody pumps; so once is enough."""
        if not self.over():
            self.crew.pump.show()

    def mark(self, begun: bool) -> None:
        """As set_running_or_notify_cancel(), for a future that nobody else has yet; and back."""
        self._state = RUNNING if begun else PENDING

    def result(self, timeout: float | None = None) -> T:
        """As Future.result(); ClosedError in a forked child, where no answer can come."""
        if not self.over():
            timeout = self.crew.pump_for(self, timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.over():
            timeout = self.crew.pump_for(self, timeout)
        return super().exception(timeout)

    def cancel(self) -> bool:
        """True if it had not been handed to a worker."""
        cancelled = super().cancel()
        self.crew.interrupt()
        return cancelled
