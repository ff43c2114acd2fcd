"""Processes awaited by many tasks at once, cancelled wherever they wait, beside threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from helpers import run_threads
from theus import TheusEngine, process

LIMIT = 60.0
"""Seconds after which a test that waits for something gives up."""


def finish(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, LIMIT))


@process(inputs=["domain.n"], outputs=["domain.n"], semantic="pure")
async def grow(ctx: Any) -> int:
    value = int(ctx.domain.n)
    await asyncio.sleep(0)
    return value + 1


@process(outputs=["domain.cells"])
async def count(ctx: Any, key: int) -> int:
    ctx.domain.cells[key] += 1
    await asyncio.sleep(0)
    ctx.domain.cells[key] += 1
    return int(ctx.domain.cells[key])


def test_a_thousand_tasks_on_one_value() -> None:
    """Each sees a version of its own, none loses an update, and each gets through."""
    engine = TheusEngine({"domain": {"n": 0}})

    async def main() -> list[int]:
        return await asyncio.gather(*(engine.execute(grow) for _ in range(1000)))

    assert sorted(finish(main())) == list(range(1, 1001))
    assert engine.state.domain.n == 1000


def test_a_thousand_tasks_on_values_of_their_own() -> None:
    engine = TheusEngine({"domain": {"cells": dict.fromkeys(range(1000), 0)}})

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for key in range(1000):
                group.create_task(engine.execute(count, key))

    finish(main())
    assert engine.state.domain.cells == dict.fromkeys(range(1000), 2)
    assert engine.stats().conflicts == 0 and engine.stats().commits == 1000


def test_a_failing_task_of_a_group_cancels_the_others_without_a_trace() -> None:
    engine = TheusEngine({"domain": {"cells": dict.fromkeys(range(50), 0)}})
    written = asyncio.Semaphore(0)

    @process(outputs=["domain.cells"])
    async def waits(ctx: Any, key: int) -> None:
        ctx.domain.cells[key] = 99
        written.release()
        await asyncio.Event().wait()

    async def fails() -> None:
        for _ in range(50):
            await written.acquire()
        raise LookupError("mine")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for key in range(50):
                group.create_task(engine.execute(waits, key))
            group.create_task(fails())

    with pytest.raises(ExceptionGroup) as caught:
        finish(main())
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert engine.version == 1 and engine.stats().queue_depth == 0
    finish(engine.execute(count, 0))
    assert engine.state.domain.cells[0] == 2, "nobody's transaction is left behind"


class Steps:
    """Awaits in a coroutine, so that a test can cancel at each of them in turn."""

    def __init__(self) -> None:
        self.done = 0

    async def step(self) -> None:
        await asyncio.sleep(0)
        self.done += 1


async def cancel_after(turns: int, work: Callable[[], Any]) -> bool:
    """Whether `work` was cancelled; False if it had ended after so many turns of the loop."""
    task = asyncio.create_task(work())
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    cancelled = task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert cancelled
        return True
    return False


@pytest.mark.parametrize("contended", [False, True])
def test_cancelled_at_every_point_where_it_waits(contended: bool) -> None:
    """All of it or nothing, whether the cancellation meets the body, a nested run, the wait
    before another attempt, or the commit."""
    engine = TheusEngine({"domain": {"a": 0, "b": 0, "rival": 0}})

    @process(outputs=["domain.b"])
    async def inner(ctx: Any, steps: Steps) -> None:
        await steps.step()
        ctx.domain.b += 1
        await steps.step()

    @process(outputs=["domain.a", "domain.b"], inputs=["domain.rival"])
    async def outer(ctx: Any, steps: Steps) -> None:
        await steps.step()
        ctx.domain.a += 1
        if contended and steps.done == 1:
            _ = ctx.domain.rival
            run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.rival", 1)))
        await engine.execute(inner, steps)
        await steps.step()

    async def main() -> tuple[int, int]:
        cancelled = committed = 0
        for turns in range(1000):
            before = engine.state.domain
            gone = await cancel_after(turns, lambda: engine.execute(outer, Steps()))
            after = engine.state.domain
            grown = 0 if gone else 1
            assert (after.a - before.a, after.b - before.b) == (grown, grown)
            assert engine.current() is None and engine.stats().queue_depth == 0
            cancelled, committed = cancelled + gone, committed + (not gone)
            if committed == 3:  # past the last point
                break
        return cancelled, committed

    cancelled, committed = finish(main())
    assert committed == 3 and cancelled >= 5


def test_tasks_and_threads_mixed() -> None:
    """Coroutines and helper threads of one loop, and threads beside it, on one counter."""
    engine = TheusEngine({"domain": {"n": 0}})
    request: contextvars.ContextVar[int] = contextvars.ContextVar("request")

    @process(inputs=["domain.n"], outputs=["domain.n"], semantic="pure")
    def plain(ctx: Any) -> int:
        return int(ctx.domain.n) + 1

    async def one(index: int) -> None:
        request.set(index)
        for turn in range(20):
            await engine.execute(plain if (index + turn) % 2 else grow)
            assert request.get() == index

    async def main() -> None:
        await asyncio.gather(*(one(index) for index in range(20)))

    loop = threading.Thread(target=lambda: finish(main()), daemon=True)
    loop.start()
    run_threads(4, lambda _: [engine.run_process(plain) for _ in range(100)])
    loop.join(LIMIT)
    assert not loop.is_alive() and engine.state.domain.n == 20 * 20 + 4 * 100
