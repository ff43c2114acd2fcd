"""What does running a function as a process add to calling or awaiting it?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import steps
from harness import Bar, Contender, Row, main

from theus import SemanticType, TheusEngine, process

CALL, AWAIT, THREAD = "the bare call", "the bare await", "asyncio.to_thread"
TICK = iter(range(1 << 62))
OUTSIDE = SimpleNamespace(domain=SimpleNamespace(price=steps.PRICE))
"""Stands in for a context where no engine is."""


@process(inputs=["domain.price"], outputs=["domain.total"], semantic=SemanticType.PURE)
def total(ctx: Any) -> int:
    """Reads one number, returns another."""
    return ctx.domain.price * 3  # type: ignore[no-any-return]


@process(inputs=["domain.price"], outputs=["domain.total"], semantic=SemanticType.PURE)
def fresh_total(ctx: Any) -> int:
    """Another one each time, so that each call commits."""
    return ctx.domain.price + next(TICK)  # type: ignore[no-any-return]


@process(inputs=["domain.price"], outputs=["domain.total"], semantic=SemanticType.PURE)
async def awaited_total(ctx: Any) -> int:
    return ctx.domain.price + next(TICK)  # type: ignore[no-any-return]


@process(inputs=["domain.price"], outputs=["domain.seen"])
def count(ctx: Any) -> None:
    """Reads one number, writes another through a draft."""
    ctx.domain["seen"] = ctx.domain.price


def an_engine(keys: int = 0) -> TheusEngine:
    price, more = steps.PRICE, steps.entries(keys)
    return TheusEngine({"domain": {"price": price, "total": 0, "seen": 0, **more}})


def running(function: Callable[..., Any] | str, keys: int = 0) -> Contender:
    engine = an_engine(keys)
    if isinstance(function, str):
        engine.register(globals()[function])

    def contender(times: int) -> None:
        run = engine.run_process
        for _ in repeat(None, times):
            run(function)

    return contender


def calling(function: Callable[[Any], Any], context: object = OUTSIDE) -> Contender:
    def contender(times: int) -> None:
        for _ in repeat(None, times):
            function(context)

    return contender


def awaiting(start: Callable[[], Coroutine[Any, Any, Any]]) -> Contender:
    runner = asyncio.Runner()

    async def again(times: int) -> None:
        for _ in repeat(None, times):
            await start()

    return lambda times: runner.run(again(times))


# ---- rows --------------------------------------------------------------------------------------


def row_pure() -> Row:
    contenders: dict[str, Contender] = {
        "theus run_process, a new total": running(fresh_total),
        "theus run_process by name, a new total": running("fresh_total"),
        "theus run_process, the same total": running(total),
        CALL: calling(fresh_total),
        **steps.contenders(0),
    }
    return Row(
        "a PURE process with one input and one output", contenders, (Bar(2_000, beyond=CALL),)
    )


def row_many_keys() -> Row:
    contenders: dict[str, Contender] = {
        "theus run_process, a new total": running(fresh_total, 10_000),
        CALL: calling(fresh_total),
        **steps.contenders(10_000),
    }
    return Row("the same in a state of 10,000 keys", contenders, (Bar(2_000, beyond=CALL),))


def row_effect() -> Row:
    return Row(
        "an EFFECT process with one input and one output",
        {
            "theus run_process": running(count),
            CALL: calling(count, SimpleNamespace(domain=Domain(price=steps.PRICE))),
        },
    )


def row_coroutine() -> Row:
    engine = an_engine()
    contenders = {
        "theus await execute": awaiting(lambda: engine.execute(awaited_total)),
        AWAIT: awaiting(lambda: awaited_total(OUTSIDE)),
    }
    return Row("a PURE coroutine process", contenders, (Bar(10_000, beyond=AWAIT),))


def row_thread() -> Row:
    """Wall time, because tasks and threads wait for one another here."""
    engine = an_engine()
    contenders = {
        "theus await execute": awaiting(lambda: engine.execute(fresh_total)),
        THREAD: awaiting(lambda: asyncio.to_thread(fresh_total, OUTSIDE)),
    }
    return Row(
        "a plain PURE process, awaited",
        contenders,
        (Bar(1.3, THREAD),),
        clock=time.perf_counter_ns,
    )


class Domain(dict[str, int]):
    """The least that the bare call of `count` needs in the place of a context."""

    __getattr__ = dict.__getitem__


def rows() -> Iterator[Callable[[], Row]]:
    yield row_pure
    yield row_many_keys
    yield row_effect
    yield row_coroutine
    yield row_thread


if __name__ == "__main__":
    main(__doc__, rows())
