"""Functions and coroutine functions as transactions: the part of a run that is not in C.

`Engine.run` has its loop in C. `run_async` is the same loop for coroutine bodies, which must
not block their event loop while they wait.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from theus._theus import Transaction, Turn
from theus._types import Isolation
from theus.errors import ConflictError, WriteTimeoutError, _shown
from theus.outputs import release
from theus.plan import is_coroutine_function
from theus.retry import Patience

if TYPE_CHECKING:
    from theus.engine import TheusEngine

__all__ = ["run_async", "transactional"]

R = TypeVar("R")


async def run_async(
    engine: TheusEngine,
    fn: Callable[..., Coroutine[Any, Any, R]],
    args: tuple[Any, ...],
    *,
    retries: int | None = None,
    deadline: float | None = None,
    isolation: Isolation = "serializable",
    detached: bool = False,
    process: str | None = None,
) -> R:
    """Awaits `fn(tx, *args)` in a transaction of `engine`, again while it meets conflicts."""
    from asyncio import sleep

    limit = engine.write_timeout_ms
    patience = Patience(retries, limit / 1000 if deadline is None else deadline)
    turn: Turn | None = None
    joins = not detached and engine.current() is not None  # then it has no turn of its own
    if (deadline is not None or engine.queueing) and not joins:
        turn = Turn(engine, fn, args, process)
        await _line_up(turn, patience)
    done = None
    try:
        while True:
            patience.begin()
            finished = False
            attempt = engine.transaction(limit, isolation, False, process, detached)
            if turn is not None:
                turn.lead(attempt, patience.end - time.monotonic())
            try:
                async with attempt as tx:
                    pending = fn(tx, *args)
                    if not isinstance(pending, Coroutine):
                        raise TypeError(
                            f"run_async awaits a coroutine function; {fn!r} returned "
                            f"{pending!r}: use engine.run"
                        )
                    result: R = release(await pending)
                    finished = True
                done = attempt
                return result
            except ConflictError as conflict:
                if not finished:  # the body's own affair
                    raise
                if turn is None:
                    turn = Turn(engine, fn, args, process)
                turn.failed(attempt, patience.took())
                wait = patience.wait_after(conflict)
                if turn.in_line:
                    from theus.turns import line_up

                    if not await line_up(turn, patience.end):
                        patience.give_up(conflict)
                    wait = 0.0
            if wait > 0.0:
                await sleep(wait)
            engine.count_retry()
    finally:
        if turn is not None:
            turn.end(done)


async def _line_up(turn: Turn, patience: Patience) -> None:
    """Before the first attempt, while the engine is queueing."""
    turn.line_up()
    if not turn.in_line:
        return
    from theus.turns import line_up

    began = time.monotonic()
    try:
        if not await line_up(turn, patience.end):
            waited, given = time.monotonic() - began, patience.end - began
            raise WriteTimeoutError(round(given * 1000), round(waited * 1000))
    except BaseException:
        turn.end(None)
        raise


def transactional(engine: TheusEngine, fn: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """`fn(tx, ...)` as a function that is called without `tx`; `options` are those of `run`."""
    if not callable(fn):
        raise TypeError(f"@engine.transactional decorates a function, not {_shown(fn)}")
    if is_coroutine_function(fn):

        @functools.wraps(fn)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await run_async(
                engine, functools.partial(_with_keywords, fn, kwargs), args, **options
            )

        return call_async

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        body = functools.partial(_with_keywords, fn, kwargs) if kwargs else fn
        return engine.run(body, *args, **options)

    return call


def _with_keywords(
    body: Callable[..., R], kwargs: Mapping[str, Any], tx: Transaction, /, *args: Any
) -> R:
    return body(tx, *args, **kwargs)
