"""Waiting for one's turn without blocking an event loop.

What `engine.run` does for threads when transactions get into each other's way (it sleeps until
nothing older is in front), tasks do here with a future. The thread that ends the wait finishes
the future through `call_soon_threadsafe`; a timer looks again when the lease in front ends.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from theus._theus import Turn
from theus.waiting import make_room

if TYPE_CHECKING:
    from asyncio import Future

    from theus._theus import Engine, Transaction

__all__ = ["commit", "line_up"]


async def line_up(turn: Turn, end: float) -> bool:
    """Waits for the turn of a run that has a ticket; one without does not wait.

    False if `end`, a time of `time.monotonic()`, came first. Raises ClosedError if the engine
    is closed meanwhile. A run that goes away while it waits gives its ticket back.
    """
    while turn.must_wait:
        await _sleep(turn, end, None)
        if time.monotonic() >= end:
            return False
    return True


async def commit(engine: Engine, tx: Transaction) -> Literal[False]:
    """Commits a transaction that was held up, by a ticket or by a full ring: what
    `async with engine.transaction()` awaits.

    Raises what a commit raises, WriteTimeoutError too. Cancelled, it ends the transaction
    without a trace.
    """
    turn = Turn(engine)
    try:
        while True:
            await _sleep(turn, None, tx)
            await make_room(engine, tx)  # last: who has the ticket may need the place
            if turn.commit(tx):
                return False
    except BaseException:
        turn.abort(tx)
        raise


async def _sleep(turn: Turn, end: float | None, tx: Transaction | None) -> None:
    """Waits once, for the turn or (with `tx`) for a place to commit: until it may have come."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_finish, woken)

    limit = turn.wait(wake) if tx is None else turn.wait(wake, tx)
    if limit is None:
        return
    if end is not None:
        limit = min(limit, end - time.monotonic())
    timer = loop.call_later(max(limit, 0.0), _finish, woken)
    try:
        await woken
    finally:
        timer.cancel()
        turn.leave()


def _finish(woken: Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
