"""How long a run keeps trying, and how long it waits in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from helpers import run_threads
from theus import TheusEngine
from theus.errors import (
    ConflictError,
)
from theus.retry import LONGEST_WAIT, Patience


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": {"n": 0, "m": 0, "rows": {"a": [1]}}})


def n(engine: TheusEngine) -> int:
    return int(engine.state["domain"]["n"])


def bump(tx: Any, by: int = 1) -> int:
    tx.domain.n += by
    return int(tx.domain.n)


def disturb(engine: TheusEngine) -> None:
    """A thread that inherits nothing commits a change of n."""
    run_threads(1, lambda _: engine.run(bump))


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


class Disturbed:
    """A coroutine body that meets a conflict in its first `times` attempts."""

    def __init__(self, engine: TheusEngine, times: int) -> None:
        self.engine, self.times, self.attempts = engine, times, 0

    async def __call__(self, tx: Any) -> int:
        self.attempts += 1
        value = tx.domain.n
        if self.attempts <= self.times:
            disturb(self.engine)
        await asyncio.sleep(0)
        tx.domain.n = value + 100
        return self.attempts


def waits(patience: Patience, count: int, body: float) -> list[float]:
    conflict = ConflictError(("domain", "n"), 1, 2)
    found = []
    for _ in range(count):
        patience.begin()
        patience._began -= body  # as if the body had taken so long
        found.append(patience.wait_after(conflict))
    return found


def test_waits_grow_with_the_body_and_the_attempts() -> None:
    for body in (0.00005, 0.001):
        for number, wait in enumerate(waits(Patience(None, 60), 12, body), 1):
            assert 0 <= wait <= min(1.5 * body * 2**number, LONGEST_WAIT)
    many = [waits(Patience(None, 60), 1, 0.01)[0] for _ in range(200)]
    assert len(set(many)) > 100, "jittered"
    assert 0.005 < sum(many) / 200 < 0.015, "half of body * 2 on the mean"


def test_patience_ends() -> None:
    conflict = ConflictError(("domain", "n"), 1, 2)
    patience = Patience(2, 60)
    for _ in range(2):
        patience.begin()
        patience.wait_after(conflict)
    patience.begin()
    with pytest.raises(ConflictError) as caught:
        patience.wait_after(conflict)
    assert caught.value is conflict and conflict.attempts == 3 == conflict.args[5]
    short = Patience(None, 0.001)
    short.begin()
    time.sleep(0.002)
    with pytest.raises(ConflictError):
        short.wait_after(conflict)
