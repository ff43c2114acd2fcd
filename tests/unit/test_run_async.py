"""Coroutine bodies and processes: retries, cancellation, nesting, threads and context variables."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from typing import Any

import pytest

from helpers import run_threads
from processes import Disturbed, bump, counting_engine, disturb, finish, n
from theus import FrozenDict, TheusEngine, process
from theus.errors import (
    ClosedError,
    ConflictError,
    ContractViolationError,
    ProcessError,
    TransactionError,
    WriteTimeoutError,
)


@pytest.fixture
def engine() -> TheusEngine:
    return counting_engine()


# ---- run_async ----------------------------------------------------------------------


def test_commits_and_returns(engine: TheusEngine) -> None:
    async def body(tx: Any, by: int) -> Any:
        tx.domain.n += by
        await asyncio.sleep(0)
        return tx.domain.rows, [tx.domain.rows]

    rows, nested = finish(engine.run_async(body, 5))
    assert n(engine) == 5 and engine.version == 2
    assert isinstance(rows, FrozenDict) and isinstance(nested[0], FrozenDict)


def test_retries_on_a_fresh_transaction(engine: TheusEngine) -> None:
    body = Disturbed(engine, 3)
    assert finish(engine.run_async(body)) == 4
    assert n(engine) == 103, "every commit counted, no attempt counted twice"
    stats = engine.stats()
    assert (stats.conflicts, stats.retries) == (3, 3)
    assert stats.conflicts_by_path == {("domain", "n"): 3}


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_bound_the_attempts(engine: TheusEngine, retries: int) -> None:
    body = Disturbed(engine, 1000)
    with pytest.raises(ConflictError) as caught:
        finish(engine.run_async(body, retries=retries))
    assert body.attempts == retries + 1 == caught.value.attempts
    assert n(engine) == retries + 1, "only the others' commits"


def test_a_deadline_bounds_the_attempts(engine: TheusEngine) -> None:
    body = Disturbed(engine, 10**9)
    begun = time.monotonic()
    with pytest.raises(ConflictError) as caught:
        finish(engine.run_async(body, deadline=0.1))
    assert body.attempts == caught.value.attempts >= 1
    assert time.monotonic() - begun < 30


def test_the_default_deadline_is_the_write_timeout() -> None:
    engine = TheusEngine({"domain": {"n": 0}}, write_timeout_ms=50)
    with pytest.raises((ConflictError, WriteTimeoutError)):
        finish(engine.run_async(Disturbed(engine, 10**9)))


def test_a_body_that_takes_too_long_is_rolled_back() -> None:
    engine = TheusEngine({"domain": {"n": 0}}, write_timeout_ms=20)

    async def slow(tx: Any) -> None:
        tx.domain.n = 1
        await asyncio.sleep(0.1)

    with pytest.raises(WriteTimeoutError):
        finish(engine.run_async(slow))
    assert engine.version == 1


@pytest.mark.parametrize(
    "options", [{"retries": -1}, {"retries": "3"}, {"retries": 1.5}, {"deadline": -1.0}]
)
def test_bad_bounds_are_refused(engine: TheusEngine, options: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        finish(engine.run_async(Disturbed(engine, 0), **options))
    assert engine.version == 1


def test_snapshot_isolation(engine: TheusEngine) -> None:
    attempts: list[int] = []

    async def body(tx: Any) -> None:
        attempts.append(tx.domain.n)
        disturb(engine)
        tx.domain.m = 5

    finish(engine.run_async(body, isolation="snapshot"))
    assert attempts == [0]
    finish(engine.run_async(body, isolation="snapshot"))
    with pytest.raises(ValueError, match="'dirty'"):
        finish(engine.run_async(body, isolation="dirty"))


def test_errors_roll_back_and_go_on_unchanged(engine: TheusEngine) -> None:
    error = LookupError("mine")

    async def body(tx: Any) -> None:
        tx.domain.n = 5
        await asyncio.sleep(0)
        raise error

    with pytest.raises(LookupError) as caught:
        finish(engine.run_async(body))
    assert caught.value is error and engine.version == 1


def test_conflicts_of_the_body_itself_are_its_own(engine: TheusEngine) -> None:
    """A stale compare_and_swap in the body would never get better by running it again."""
    attempts: list[int] = []
    disturb(engine)

    async def body(tx: Any) -> None:
        attempts.append(1)
        tx.domain.m = 5
        run_threads(1, lambda _: engine.compare_and_swap(1, {"domain": {"n": 7}}))

    with pytest.raises(ConflictError):
        finish(engine.run_async(body))
    assert attempts == [1] and engine.version == 2


def test_a_plain_function_is_refused(engine: TheusEngine) -> None:
    with pytest.raises(TypeError, match="engine.run"):
        finish(engine.run_async(bump))  # type: ignore[arg-type]
    assert engine.version == 1


def test_a_closed_engine(engine: TheusEngine) -> None:
    engine.close()
    with pytest.raises(ClosedError):
        finish(engine.run_async(Disturbed(engine, 0)))
    with pytest.raises(ClosedError):
        finish(engine.execute(lambda ctx: None))


def test_waiting_does_not_block_the_loop(engine: TheusEngine) -> None:
    """Other tasks go on while a body waits, and while a conflict is waited out."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        await engine.run_async(Disturbed(engine, 5))
        ticking.cancel()

    finish(main())
    assert ticks > 5


def test_many_tasks_on_one_counter(engine: TheusEngine) -> None:
    async def increment(tx: Any) -> None:
        value = tx.domain.n
        await asyncio.sleep(0)
        tx.domain.n = value + 1

    async def main() -> None:
        await asyncio.gather(*(engine.run_async(increment, deadline=60) for _ in range(50)))

    finish(main())
    assert n(engine) == 50 == engine.stats().commits


# ---- cancellation -------------------------------------------------------------------


def test_cancelling_rolls_back(engine: TheusEngine) -> None:
    @process(outputs=["domain.n"])
    async def as_process(ctx: Any, started: asyncio.Event) -> None:
        ctx.domain.n = 99
        started.set()
        await asyncio.sleep(3600)

    async def as_body(tx: Any, started: asyncio.Event) -> None:
        tx.domain.n = 99
        started.set()
        await asyncio.sleep(3600)

    async def main(run: Any) -> None:
        started = asyncio.Event()
        task = asyncio.create_task(run(started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    finish(main(functools.partial(engine.run_async, as_body)))
    finish(main(functools.partial(engine.execute, as_process)))
    assert engine.version == 1 and engine.current() is None


def test_a_cancelled_body_may_clean_up_and_is_still_rolled_back(engine: TheusEngine) -> None:
    async def body(tx: Any) -> None:
        try:
            tx.domain.n = 5
            await asyncio.sleep(3600)
        finally:
            tx.domain.m = 6
            await asyncio.sleep(0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.run_async(body), 0.01)

    finish(main())
    assert engine.version == 1


def test_a_thread_that_goes_on_after_cancellation_commits_nothing(engine: TheusEngine) -> None:
    started, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @process(outputs=["domain.n"])
    def slow(ctx: Any) -> None:
        ctx.domain.n = 99
        ctx.transaction.on_commit(lambda: pytest.fail("it must not commit"))
        started.set()
        go_on.wait(60)
        ended.set()

    async def main() -> None:
        task = asyncio.create_task(engine.execute(slow))
        await asyncio.to_thread(started.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await asyncio.to_thread(ended.wait, 60)

    finish(main())  # asyncio.run waits for its helper threads
    assert engine.version == 1 and n(engine) == 0


# ---- execute ------------------------------------------------------------------------


def test_plain_functions_run_in_a_thread_with_the_context(engine: TheusEngine) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    @process(outputs=["domain.n"])
    def body(ctx: Any) -> tuple[str, str]:
        ctx.domain.n = 7
        return name.get(), threading.current_thread().name

    async def main() -> Any:
        name.set("bob")
        return await engine.execute(body)

    seen, thread = finish(main())
    assert seen == "bob" and thread != threading.current_thread().name and n(engine) == 7


def test_coroutines_run_in_the_callers_task(engine: TheusEngine) -> None:
    @process(outputs=["domain.n"])
    async def body(ctx: Any) -> Any:
        ctx.domain.n = 7
        return asyncio.current_task()

    async def main() -> None:
        assert await engine.execute(body) is asyncio.current_task()

    finish(main())
    assert n(engine) == 7


class Later:
    async def __call__(self, ctx: Any) -> str:
        ctx.domain.n += 1
        return "called"


@pytest.mark.parametrize("wrap", [lambda f: f, functools.partial], ids=["itself", "partial"])
def test_callables_that_give_coroutines(engine: TheusEngine, wrap: Any) -> None:
    async def body(ctx: Any) -> str:
        ctx.domain.n += 1
        return "called"

    assert finish(engine.execute(wrap(body))) == "called"
    assert finish(engine.execute(Later())) == "called" and n(engine) == 2
    with pytest.raises(ProcessError, match="execute"):
        engine.run_process(wrap(body))
    with pytest.raises(ProcessError, match="execute"):
        engine.run_process(Later())


def test_a_process_is_retried(engine: TheusEngine) -> None:
    attempts: list[int] = []

    @process(inputs=["domain.n"], outputs=["domain.m"], semantic="pure")
    async def look(ctx: Any) -> int:
        attempts.append(ctx.domain.n)
        if len(attempts) == 1:
            disturb(engine)
        await asyncio.sleep(0)
        return attempts[-1] + 100

    assert finish(engine.execute(look)) == 101 and attempts == [0, 1]
    assert engine.state["domain"]["m"] == 101
    assert engine.records()[0][-1].process == "look"


def test_contracts_hold_over_awaits(engine: TheusEngine) -> None:
    @process(inputs=["domain.n"], semantic="pure")
    async def pure(ctx: Any) -> None:
        domain = ctx.domain
        await asyncio.sleep(0)
        domain.n = 5

    @process(outputs=["domain.n"])
    async def effect(ctx: Any) -> None:
        await asyncio.sleep(0)
        ctx.domain.m = 5

    for sneaky, token in ((pure, "PURE process cannot"), (effect, "Illegal Write")):
        with pytest.raises(ContractViolationError, match=token):
            finish(engine.execute(sneaky))
    assert engine.version == 1


def test_interleaved_processes_are_isolated(engine: TheusEngine) -> None:
    """Weakness 5 of an earlier program: a write landed in another task's transaction."""

    @process(outputs=["domain.*"])
    async def write(ctx: Any, name: str, mine: asyncio.Event, other: asyncio.Event) -> None:
        domain = ctx.domain
        mine.set()
        await other.wait()
        domain[name] = name

    async def main() -> None:
        a, b = asyncio.Event(), asyncio.Event()
        await asyncio.gather(engine.execute(write, "a", a, b), engine.execute(write, "b", b, a))

    finish(main())
    domain = engine.state["domain"]
    assert domain["a"] == "a" and domain["b"] == "b" and engine.stats().conflicts == 0


# ---- runs inside runs ---------------------------------------------------------------


def test_everything_in_the_same_task_joins(engine: TheusEngine) -> None:
    async def inner(tx: Any) -> None:
        tx.domain.n += 1

    async def inner_process(ctx: Any) -> None:
        ctx.domain.n += 10

    def plain_process(ctx: Any) -> str:
        ctx.domain.n += 100
        return threading.current_thread().name

    async def outer(tx: Any) -> None:
        await engine.run_async(inner)
        await engine.execute(inner_process)
        assert await engine.execute(plain_process) == threading.current_thread().name
        engine.run(bump, 1000)
        engine.run_process(plain_process)
        assert tx.domain.n == 1211 and engine.version == 1

    finish(engine.run_async(outer))
    assert n(engine) == 1211 and engine.version == 2


def test_a_joined_run_that_fails_is_undone_alone(engine: TheusEngine) -> None:
    async def inner(tx: Any, error: BaseException) -> None:
        tx.domain.n += 1
        await asyncio.sleep(0)
        raise error

    async def outer(tx: Any) -> None:
        tx.domain.m = 5
        for error in (ValueError(), KeyError("x")):
            with pytest.raises(type(error)):
                await engine.run_async(inner, error)
        assert tx.domain.n == 0

    finish(engine.run_async(outer))
    assert engine.state["domain"]["m"] == 5 and n(engine) == 0 and engine.version == 2


def test_joined_runs_are_redone_with_the_outer(engine: TheusEngine) -> None:
    attempts: list[int] = []

    async def inner(tx: Any) -> None:
        attempts.append(tx.domain.n)

    async def outer(tx: Any) -> None:
        await engine.run_async(inner, retries=0)
        if len(attempts) == 1:
            disturb(engine)
        tx.domain.m += 1

    finish(engine.run_async(outer))
    assert attempts == [0, 1]


def test_child_tasks_do_not_join(engine: TheusEngine) -> None:
    async def child(tx: Any) -> None:
        tx.domain.m += 1

    async def async_process(ctx: Any) -> None: ...

    async def outer(tx: Any) -> None:
        tx.domain.n = 1
        attempts = [
            engine.run_async(child),
            engine.execute(async_process),
            engine.execute(lambda ctx: None),
            asyncio.to_thread(engine.run, bump),
        ]
        for attempt in attempts:
            with pytest.raises(TransactionError, match="detached=True"):
                await asyncio.create_task(attempt)  # type: ignore[arg-type]
        await asyncio.create_task(engine.run_async(child, detached=True))
        await asyncio.to_thread(engine.run, bump, 0, detached=True)
        assert engine.version == 2

    finish(engine.run_async(outer))
    domain = engine.state["domain"]
    assert (domain["n"], domain["m"]) == (1, 1)


def test_a_detached_run_in_the_same_task(engine: TheusEngine) -> None:
    async def inner(tx: Any) -> None:
        tx.domain.m += 1
        engine.run(lambda joined: joined.domain.update(joined=joined is tx))

    async def outer(tx: Any) -> None:
        tx.domain.n = 1
        await engine.run_async(inner, detached=True)
        assert engine.version == 2 and tx.domain.m == 0
        engine.run(bump)
        assert tx.domain.n == 2, "after it, runs join the outer body again"
        raise ValueError

    with pytest.raises(ValueError):
        finish(engine.run_async(outer))
    assert engine.state["domain"]["m"] == 1 and engine.state["domain"]["joined"] is True
    assert n(engine) == 0


def test_a_child_that_outlives_the_body_is_free(engine: TheusEngine) -> None:
    async def main() -> None:
        children: list[asyncio.Task[Any]] = []
        ended = asyncio.Event()

        async def child() -> None:
            await ended.wait()
            await engine.execute(bumping)

        async def bumping(ctx: Any) -> None:
            ctx.domain.n += 10

        async def outer(tx: Any) -> None:
            tx.domain.n = 1
            children.append(asyncio.create_task(child()))
            await asyncio.sleep(0)

        await engine.run_async(outer)
        ended.set()
        await children[0]

    finish(main())
    assert n(engine) == 11


def test_engines_do_not_join_each_other(engine: TheusEngine) -> None:
    other = TheusEngine({"domain": {"n": 0}})

    async def child(tx: Any) -> None:
        tx.domain.n += 1

    async def outer(tx: Any) -> None:
        await other.run_async(child)
        await asyncio.create_task(other.run_async(child))
        assert n(other) == 2
        await engine.run_async(child)

    finish(engine.run_async(outer))
    assert n(engine) == 1


def test_a_run_inside_an_explicit_transaction_joins_it(engine: TheusEngine) -> None:
    async def inner(tx: Any) -> None:
        tx.domain.n += 1

    def plain_process(ctx: Any) -> None:
        ctx.domain.n += 10

    async def main() -> None:
        async with engine.transaction() as tx:
            await engine.run_async(inner)
            await engine.execute(plain_process)
            assert tx.domain.n == 11 and engine.version == 1

    finish(main())
    assert n(engine) == 11 and engine.version == 2
