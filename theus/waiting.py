"""Waiting for an engine without polling, without a thread per waiter, and without an event loop
that stands still.

A commit looks whether anybody waits, which costs it one load, and if so calls each waiter once,
after the new version stands and outside every lock. A thread waits for a lock that the call
releases; a task for a future that the call finishes through `call_soon_threadsafe`.
"""

from __future__ import annotations

import sys
import time
from _thread import allocate_lock
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from theus._theus import Engine, State, Transaction
from theus.errors import ClosedError, RingFullError, WaitTimeoutError, _shown

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["Follower", "Waiter", "make_room", "wait_for", "wait_for_async"]

T = TypeVar("T")

LONGEST = 1e6
"""Seconds that a lock or a timer is given at once, well within what both can count."""


def end_of(timeout: float | None) -> float | None:
    """The time, by the monotonic clock, at which `timeout` seconds from now are over.

    Raises TypeError or ValueError for what is no time.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(
            f"timeout is a time in seconds, or None for no limit, not {_shown(timeout)}"
        )
    if not timeout >= 0:
        raise ValueError(f"timeout is a time in seconds, 0 or more, not {_shown(timeout)}")
    return time.monotonic() + min(timeout, sys.float_info.max)


class Waiter:
    """What one thread or one task sleeps on, until `ready` says so, the time is over, or
    somebody closes the waiter. One sleep at a time.

    `room` waits for a place in the ring of records instead of the next commit.
    """

    __slots__ = ("_engine", "_room", "_wake", "closed")

    def __init__(self, engine: Engine, room: bool = False) -> None:
        self._engine = engine
        self._room = room
        self._wake: Callable[[], object] | None = None
        self.closed = False

    def sleep(self, ready: Callable[[], bool], end: float | None = None) -> None:
        """Returns when `ready()` may have become true. Raises RuntimeError instead of blocking
        an event loop that runs in this thread.
        """
        events = sys.modules.get("asyncio.events")
        if events is not None and events._get_running_loop() is not None:
            raise RuntimeError(
                "waiting here would block the event loop that runs in this thread: use the form "
                "that is awaited (async for, wait_for_async), or wait in another thread"
            )
        lock = allocate_lock()
        lock.acquire()
        try:
            self._listen(lock.release)
            if not (ready() or self.closed):
                left = LONGEST if end is None else min(end - time.monotonic(), LONGEST)
                lock.acquire(timeout=max(left, 0.0))
        finally:
            self._unlisten()

    async def sleep_async(self, ready: Callable[[], bool], end: float | None = None) -> None:
        """The same for a task of any running loop. It lets others run there even if it need not
        sleep: where commits come faster than looks, it never need.
        """
        from asyncio import get_running_loop, sleep

        loop = get_running_loop()
        called = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(_finish, called)

        left = LONGEST if end is None else min(end - time.monotonic(), LONGEST)
        timer = loop.call_later(max(left, 0.0), _finish, called)
        try:
            self._listen(wake)
            if ready() or self.closed:
                await sleep(0)
            else:
                await called
        finally:
            timer.cancel()
            self._unlisten()

    def close(self) -> None:
        """Ends the sleep, from whichever thread, and every later one at once."""
        self.closed = True
        wake = self._wake
        if wake is not None and self._engine.unlisten(wake, self._room):
            wake()

    def _listen(self, wake: Callable[[], object]) -> None:
        # In this order: close() finds what may be listening, and who listens looks at `closed`.
        self._wake = wake
        self._engine.listen(wake, self._room)

    def _unlisten(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            self._engine.unlisten(wake, self._room)


def _finish(called: Future[None]) -> None:
    if not called.done():
        called.set_result(None)


# ---- following ------------------------------------------------------------------------------


class Follower(Generic[T]):
    """An iterator over what an engine does: `for` in a thread, `async for` in a task.

    It waits when there is nothing new, and ends when it or the engine is closed and all has been
    read. It holds no queue of its own, so a slow consumer costs the engine nothing. Using it from
    two threads or tasks at once raises RuntimeError; `close` may come from anywhere.
    """

    _user: object = None
    """Whoever is inside, one token for each call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiter = Waiter(engine)

    def _take(self) -> T | None:
        """The next item, or None if there is none yet. Bounded, however fast new ones come."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread. Harmless the second time."""
        self._waiter.close()

    @property
    def closed(self) -> bool:
        """True if no item will come that is not there already."""
        return self._waiter.closed or self._engine.closed

    def poll(self, timeout: float | None = 0.0) -> T | None:
        """The next item, or None if none has come in `timeout` seconds (None: no limit) or none
        will.
        """
        end = end_of(timeout)
        me = object()
        try:
            self._enter(me)
            while True:
                late = end is not None and time.monotonic() >= end
                item, version, ended = self._look()
                if item is not None or ended or late:
                    return item
                self._waiter.sleep(self._news(version), end)
        finally:
            # An interrupt may come wherever something is called, in _enter() too: so nothing is.
            if self._user is me:
                del self._user

    def _enter(self, me: object) -> None:
        if self.__dict__.setdefault("_user", me) is not me:
            raise RuntimeError(
                "this iterator is in use by another thread or task: give each one of its own"
            )

    def _look(self) -> tuple[T | None, int, bool]:
        """The next item; if there is none, the version up to which that is so, and whether it
        stays so for ever.
        """
        engine, waiter = self._engine, self._waiter
        version, ended = engine.version, engine.closed or waiter.closed  # before looking
        return None if waiter.closed else self._take(), version, ended

    def _news(self, version: int) -> Callable[[], bool]:
        engine = self._engine
        return lambda: engine.version != version or engine.closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        item = self.poll(None)
        if item is None:
            raise StopIteration
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        me = object()
        try:
            self._enter(me)
            while True:
                item, version, ended = self._look()
                if item is not None:
                    return item
                if ended:
                    raise StopAsyncIteration
                await self._waiter.sleep_async(self._news(version))
        finally:
            if self._user is me:  # as in poll()
                del self._user

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


# ---- a condition ----------------------------------------------------------------------------


def _holds(predicate: Callable[[State], object], state: State) -> bool:
    answer = predicate(state)
    if isinstance(answer, Awaitable):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise TypeError(
            f"the predicate of wait_for is a plain function, and {predicate!r} is awaited"
        )
    return bool(answer)


class _Condition:
    """One wait_for: asks the predicate about the newest version, and says when to ask again."""

    def __init__(
        self, engine: Engine, predicate: Callable[[State], object], timeout: float | None
    ) -> None:
        if not callable(predicate):
            raise TypeError(f"wait_for asks a function of one State, not {_shown(predicate)}")
        self.engine = engine
        self.predicate = predicate
        self.timeout = timeout
        self.end = end_of(timeout)
        self.waiter = Waiter(engine)
        self.asked = -1

    def answer(self) -> State | None:
        """The state of which the predicate is true, or None: wait. Raises when it is no use."""
        closed = self.engine.closed
        state = self.engine.state
        if state.version != self.asked:
            self.asked = state.version
            if _holds(self.predicate, state):
                return state
        if closed:
            raise ClosedError
        if self.end is not None and time.monotonic() >= self.end:
            assert self.timeout is not None
            raise WaitTimeoutError(self.timeout, self.asked)
        return None

    def ready(self) -> bool:
        return self.engine.version != self.asked or self.engine.closed


def wait_for(engine: Engine, predicate: Callable[[State], object], timeout: float | None) -> State:
    """See TheusEngine.wait_for."""
    condition = _Condition(engine, predicate, timeout)
    while (state := condition.answer()) is None:
        condition.waiter.sleep(condition.ready, condition.end)
    return state


async def wait_for_async(
    engine: Engine, predicate: Callable[[State], object], timeout: float | None
) -> State:
    """See TheusEngine.wait_for_async."""
    condition = _Condition(engine, predicate, timeout)
    while (state := condition.answer()) is None:
        await condition.waiter.sleep_async(condition.ready, condition.end)
    return state


# ---- room for a record ----------------------------------------------------------------------


async def make_room(engine: Engine, tx: Transaction) -> None:
    """Reserves the place in the ring that the commit of `tx` will need, and waits for it as the
    commit of a thread does.

    Raises RingFullError as that commit would. When the time of `tx` itself is over it returns,
    and the commit says so.
    """
    if tx.reserve():
        return
    waiter = Waiter(engine, room=True)
    timeout, late = engine.ring_timeout_ms, False
    if tx.write_timeout_ms != 0 and not 0 < timeout <= tx.write_timeout_ms:
        timeout, late = tx.write_timeout_ms, True
    end = None if timeout == 0 else time.monotonic() + timeout / 1000
    while not tx.reserve():
        if engine.closed:
            raise ClosedError
        if end is not None and time.monotonic() >= end:
            if late:
                return
            capacity = engine.counters()["ring_capacity"]
            raise RingFullError(engine.ring_mode, capacity, "timeout", timeout)
        await waiter.sleep_async(lambda: tx.reserve() or engine.closed, end)
