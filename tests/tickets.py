"""Who holds a ticket, and how one is come by: for the tests of turns and of the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from support import PATIENCE
from theus import ConflictError, TheusEngine
from theus._theus import Turn

K = 5  # failures after which a run has a ticket
LEASE = 6.0
"""Seconds for which these tickets hold: more than a busy machine stands still for."""


def bump(engine: TheusEngine, key: str = "n") -> None:
    """A commit by somebody else, who does not wait for anybody."""
    value = engine.state.data["domain"][key]
    engine.compare_and_swap(engine.version, {("domain", key): value + 1})


def fail_slowly(engine: TheusEngine, key: str, lease: float) -> None:
    """What the first attempt does to get a ticket: so many others come first. The lease is a
    hundred times what the attempt takes, and at least a second."""
    if lease > 1.0:
        time.sleep(lease / 100)
    for _ in range(70):
        bump(engine, key)


def run_with_ticket(
    engine: TheusEngine, action: Callable[[Any], Any], key: str = "n", lease: float = LEASE
) -> Any:
    """A run on domain.<key> whose second attempt holds a ticket for `lease` seconds. There it
    calls action(tx)."""
    attempts = 0

    def body(tx: Any) -> Any:
        nonlocal attempts
        attempts += 1
        tx.domain[key] += 1
        if attempts == 1:
            fail_slowly(engine, key, lease)
            return None
        return action(tx)

    result = engine.run(body)
    assert attempts == 2
    return result


async def run_task_with_ticket(engine: TheusEngine, action: Callable[[Any], Awaitable[Any]]) -> Any:
    attempts = 0

    async def body(tx: Any) -> Any:
        nonlocal attempts
        attempts += 1
        tx.domain["n"] += 1
        if attempts == 1:
            fail_slowly(engine, "n", LEASE)
            return None
        return await action(tx)

    result = await engine.run_async(body)
    assert attempts == 2
    return result


class Holder:
    """A thread that holds a ticket on domain.<key> until it is let go, or its lease ends."""

    def __init__(self, engine: TheusEngine, key: str = "n", lease: float = LEASE) -> None:
        self.engine = engine
        self.key = key
        self.lease = lease
        self.holds = threading.Event()
        self.go = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        def action(tx: Any) -> None:
            self.holds.set()
            assert self.go.wait(PATIENCE)

        try:
            run_with_ticket(self.engine, action, self.key, self.lease)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Holder:
        self.thread.start()
        assert self.holds.wait(PATIENCE)
        return self

    def __exit__(self, *exc: object) -> None:
        self.go.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def lengthen_leases(engine: TheusEngine) -> None:
    """Of tickets that are taken in the queue: they hold a hundred times as long as failed bodies
    take in the mean, and so here is one that took a minute."""
    came_first = False
    while not came_first:  # who holds a ticket, or commits meanwhile, is in the way of bump()
        with suppress(ConflictError), engine.transaction() as tx:
            tx.domain["m"] += 1
            bump(engine, "m")
            came_first = True
    turn = Turn(engine, lengthen_leases)
    turn.failed(tx, 60.0)
    turn.end(None)


def assert_clean(engine: TheusEngine) -> None:
    """Nobody holds anything, and everybody gets through."""
    stats = engine.stats()
    assert (stats.tickets_held, stats.queue_depth) == (0, 0)
    before = engine.state.data["domain"]["n"]
    engine.run(lambda tx: tx.domain.update(n=before + 1))
    assert engine.state.data["domain"]["n"] == before + 1
