"""What the tests of processes and of coroutine bodies share: engines, declarations, rivals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from helpers import run_threads
from theus import SemanticType, TheusEngine, process


def small_engine() -> TheusEngine:
    return TheusEngine(
        {
            "domain": {
                "a": 1,
                "b": 2,
                "rows": [{"x": 1}, {"x": 2}],
                "tags": {"red"},
                "user": {"name": "bob", "pin": 1234},
            },
            "global": {"limit": 10},
            "shop": {"stock": 3},
        }
    )


def domain(engine: TheusEngine) -> Any:
    """The root `domain` as builtins."""
    return engine.state["domain"].to_dict()


def pure(*inputs: str, outputs: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    return process(inputs=inputs, outputs=outputs, semantic=SemanticType.PURE)


def effect(*outputs: str, inputs: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    return process(inputs=inputs, outputs=outputs)


# ---- bodies of runs ------------------------------------------------------------------


def counting_engine() -> TheusEngine:
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
