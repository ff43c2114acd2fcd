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

A future is shown by whoever first asks for it (csrc/binding/promise.c).

Who lets go of the turn looks at what is under way *after* that, and arms if there is anything:
so whoever comes too late for the turn is not forgotten. Who submits the only task does not arm:
what usually comes next is result(), which reads the answer itself. Everything else that can be
done with a future (done(), a callback, as_completed(), wait()) asks for it, and that arms first.
Arming looks at what is there: an answer that came before is seen.

`armed` is true only if the entry is, or has just woken the watcher. Who arms may be late, and
somebody pump already: then an answer wakes both, the watcher finds the turn taken, and sleeps on.
So it notes when it wakes that the entry is spent: who comes next arms once more. And whoever
arms writes `armed` after the entry, whoever disarms before it: a signal handler that raises in
between leaves an entry that is armed and does not say so, which wakes the watcher once too often.

In the main thread such a handler may raise anywhere (theus/pools/steps.py). Whoever is thrown out
of the turn rings the bell when it has let go of it: the watcher then reads, and arms.
"""

from __future__ import annotations

import os
import select
import threading
from functools import partial
from io import FileIO
from typing import Any, Protocol, TypeVar

from theus._theus import bracket, on_error
from theus.pools.promise import PromisedFuture
from theus.pools.steps import inside

__all__ = ["PoolFuture", "Pump"]

T = TypeVar("T")

EVENT = select.EPOLLIN if hasattr(select, "epoll") else 0
ONE = (1).to_bytes(8, "little")
"""As eventfd counts."""
TICK = 1.0
"""Seconds after which the watcher looks, whatever it has been told."""
LONGEST = 3600.0
"""Seconds that one wait for answers may take. Those who wait for longer wait once more."""


class Pump:
    """The turn, the two epolls and what rings in them."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.in_turn = partial(bracket, partial(self.turn.acquire, False), self.turn.release)
        """in_turn(fn, *args) calls it with the turn; NotImplemented if somebody else has that."""
        self.taken = False
        """Somebody pumps, and will look at what is under way when it lets go."""
        self.switch = threading.RLock()
        """Nothing is called with it, but the collector may run there, and end an iterator of map(),
        which takes the crew's lock: so nobody who has that waits for this. Futures take it when
        they are shown."""
        self.switched = inside(self.switch)
        self.armed = True
        """Guarded by switch."""
        self.wakes_at = float("inf")
        """When the watcher looks at the clock next. Guarded by the crew's lock."""
        self.inner = select.epoll()
        self.outer = select.epoll()
        # As files, whose methods are of C, and write to nobody else's once they are closed.
        self.bell, self.call = (
            FileIO(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), "r+") for _ in range(2)
        )
        self.ring = partial(self.bell.write, ONE)
        """The watcher shall look at everything."""
        self.interrupt = partial(self.call.write, ONE)
        """Whoever pumps shall look at its future again."""
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
        self.taken = True
        if self.armed:
            self.switched(self.disarm)

    def disarm(self) -> None:
        """Caller has the switch."""
        if self.armed and self.open:
            self.armed = False
            self.outer.modify(self.inner, 0)

    def arm(self) -> None:
        """An answer from now on wakes the watcher; also one that is there."""
        self.switched(self.arm_here)

    def arm_here(self) -> None:
        """Caller has the switch."""
        if self.open:
            self.outer.modify(self.inner, EVENT | select.EPOLLONESHOT)
            self.armed = True

    def show(self) -> None:
        """Somebody relies on the watcher. Who pumps at the moment arms when it lets go."""
        if not self.armed and not self.taken:
            self.arm()

    def ready(self, timeout: float) -> list[int]:
        """Descriptors with something to read; the caller has the turn. Less than 0: no limit."""
        found = [fd for fd, _ in self.inner.poll(min(timeout, LONGEST))]
        if self.call.fileno() in found:
            found.remove(self.call.fileno())
            self.call.read(8)
        return found

    def look_by(self, at: float) -> None:
        """The watcher, who calls this itself, looks at the clock again at that time. Caller holds
        the crew's lock."""
        self.wakes_at = min(self.wakes_at, at)

    def wake_by(self, at: float) -> None:
        """The same, if anybody may call it."""
        if at < self.wakes_at:
            self.ring()  # first: the watcher waits for the lock before it looks
            self.wakes_at = at

    def sleep(self, pause: float) -> None:
        """The watcher waits for the bell, or an answer while that is armed."""
        rung = [fd for fd, _ in self.outer.poll(min(pause, TICK))]
        if self.inner.fileno() in rung:
            with self.switch:
                self.armed = False  # it may have come in vain, and would not come again
        if self.bell.fileno() in rung:
            self.bell.read(8)

    def close(self) -> None:
        with self.switch:
            self.shut()

    def shut(self) -> None:
        """As close(), in a forked child, where nobody may hold the switch any more."""
        self.open = False
        self.armed = True  # show() has nothing to do any more
        for file in (self.outer, self.inner, self.bell, self.call):
            file.close()


# ---- futures -------------------------------------------------------------------------------


class Crew(Protocol):
    """What a future asks of its pool."""

    pump: Pump

    def wait_for(self, future: PoolFuture[Any], timeout: float | None) -> None:
        """Until it is done, or the time has passed."""

    def interrupt(self) -> None:
        """Whoever pumps shall look at its future again."""


class PoolFuture(PromisedFuture[T]):
    """A Future whose waiting thread reads the answers of the pool itself, if nobody else does."""

    crew: Crew

    def wait(self, timeout: float | None) -> None:
        self.crew.wait_for(self, timeout)

    def shown(self) -> None:
        """From now on somebody may wait who cannot pump. While this is under way, the entry stays
        armed or somebody pumps; so once is enough."""
        if not self.over():
            self.crew.pump.show()

    def cancel(self) -> bool:
        """True if it had not been handed to a worker."""
        cancelled = on_error(self.crew.interrupt, super().cancel)
        self.crew.interrupt()
        return bool(cancelled)
