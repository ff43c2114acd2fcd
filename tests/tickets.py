"""Who holds a ticket, and how one is come by: for the tests of turns and of the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from support import PATIENCE
from theus import TheusEngine

K = 5  # failures after which a run has a ticket


def bump(engine: TheusEngine, key: str = "n") -> None:
    """A commit by somebody else, who does not wait for anybody."""
    value = engine.state.data["domain"][key]
    engine.compare_and_swap(engine.version, {("domain", key): value + 1})


def run_with_ticket(engine: TheusEngine, action: Callable[[Any], Any], key: str = "n") -> Any:
    """A run on domain.<key> whose second attempt holds a ticket, because so many others came
    before its first one. There it calls action(tx)."""
    attempts = 0

    def body(tx: Any) -> Any:
        nonlocal attempts
        attempts += 1
        tx.domain[key] += 1
        if attempts == 1:
            for _ in range(70):
                bump(engine, key)
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
            for _ in range(70):
                bump(engine)
            return None
        return await action(tx)

    result = await engine.run_async(body)
    assert attempts == 2
    return result


class Holder:
    """A thread that holds a ticket on domain.<key> until it is let go."""

    def __init__(self, engine: TheusEngine, key: str = "n") -> None:
        self.engine = engine
        self.key = key
        self.holds = threading.Event()
        self.go = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        def action(tx: Any) -> None:
            self.holds.set()
            assert self.go.wait(PATIENCE)

        try:
            run_with_ticket(self.engine, action, self.key)
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


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def assert_clean(engine: TheusEngine) -> None:
    """Nobody holds anything, and everybody gets through."""
    stats = engine.stats()
    assert (stats.tickets_held, stats.queue_depth) == (0, 0)
    before = engine.state.data["domain"]["n"]
    engine.run(lambda tx: tx.domain.update(n=before + 1))
    assert engine.state.data["domain"]["n"] == before + 1
