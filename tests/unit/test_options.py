"""How a process is called and run: parameters, options, time limits, threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from helpers import run_threads
from processes import domain, effect, pure, small_engine
from support import until_async
from theus import (
    ArgumentError,
    ConflictError,
    ProcessError,
    ProcessTimeoutError,
    TheusEngine,
    TransactionError,
    process,
)

LIMIT = 60.0
"""Seconds after which a test that waits for something gives up."""


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


# ---- parameters -----------------------------------------------------------------------


def test_a_process_may_have_parameters_of_any_name(engine: TheusEngine) -> None:
    names = ("self", "process", "func", "name", "engine", "args", "kwargs", "retries", "timeout",
             "deadline", "inline", "detached", "plan", "tx", "isolation")  # fmt: skip

    def plain(ctx: Any, **given: int) -> Any:
        return given, dict(ctx.input)

    async def later(ctx: Any, **given: int) -> Any:
        return given, dict(ctx.input)

    passed = {name: number for number, name in enumerate(names)}
    assert engine.run_process(plain, **passed) == (passed, passed)
    assert engine.options(retries=1).run_process(plain, **passed) == (passed, passed)
    assert asyncio.run(engine.execute(plain, **passed)) == (passed, passed)
    assert asyncio.run(engine.execute(later, **passed)) == (passed, passed)
    assert asyncio.run(engine.options(timeout=LIMIT).execute(later, **passed)) == (passed, passed)

    def own(ctx: Any, self: int, process: int, timeout: int) -> int:
        return self + process + timeout

    assert engine.run_process(own, 1, process=2, timeout=3) == 6


@pytest.mark.parametrize(
    ("args", "kwargs", "argument", "words"),
    [
        ((), {"amuont": 5}, "amuont", ["'pay'", "did you mean 'amount'"]),
        ((5,), {"zzz": 1}, "zzz", ["'zzz'", "'amount', 'to'"]),
        ((5,), {"retries": 3}, "retries", ["engine.options(retries=...)"]),
        ((), {}, None, ["'pay'", "'amount'"]),
        ((1, 2, 3), {}, None, ["too many"]),
        ((1,), {"amount": 2}, None, ["multiple values", "'amount'"]),
    ],
)
def test_arguments_that_do_not_fit(
    engine: TheusEngine,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    argument: str | None,
    words: list[str],
) -> None:
    def pay(ctx: Any, amount: int, to: str = "ann") -> None: ...

    async def pay_later(ctx: Any, amount: int, to: str = "ann") -> None: ...

    pay_later.__name__ = "pay"
    for attempt in (
        lambda: engine.run_process(pay, *args, **kwargs),
        lambda: engine.run_process(effect("domain.a")(pay), *args, **kwargs),
        lambda: asyncio.run(engine.execute(pay, *args, **kwargs)),
        lambda: asyncio.run(engine.execute(pay_later, *args, **kwargs)),
    ):
        with pytest.raises(ArgumentError) as caught:
            attempt()
        assert caught.value.argument == argument and caught.value.parameters == ("amount", "to")
        assert isinstance(caught.value, TypeError) and caught.value.process == "pay"
        for word in words:
            assert word in str(caught.value)


def test_a_type_error_of_the_body_is_its_own(engine: TheusEngine) -> None:
    def inner(needed: int) -> None: ...

    def body(ctx: Any) -> None:
        inner()  # type: ignore[call-arg]

    for run in (body, int, lambda ctx: ctx + 1):
        with pytest.raises(TypeError) as caught:
            engine.run_process(run)
        assert type(caught.value) is TypeError


# ---- errors ---------------------------------------------------------------------------


class OutOfStock(LookupError):
    """A failure that a process declares."""


@pytest.mark.parametrize(
    "declared", [[OutOfStock], ["OutOfStock"], [f"{__name__}.OutOfStock"], ["LookupError"]]
)
def test_declared_errors_pass_as_they_are(engine: TheusEngine, declared: Any) -> None:
    error = OutOfStock("apples")

    @process(errors=declared)
    def sell(ctx: Any) -> None:
        raise error

    with pytest.raises(OutOfStock) as caught:
        engine.run_process(sell)
    assert caught.value is error and not hasattr(error, "__notes__")


def test_an_undeclared_error_gets_a_note_and_stays_what_it_is(engine: TheusEngine) -> None:
    error = ZeroDivisionError("by nothing")

    @process(errors=[OutOfStock, "KeyError"])
    def sell(ctx: Any) -> None:
        raise error

    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            engine.run_process(sell)
        assert caught.value is error
    (note,) = error.__notes__
    for word in ("'sell'", "ZeroDivisionError", "OutOfStock", "KeyError"):
        assert word in note


def test_an_error_that_refuses_notes_is_not_lost(engine: TheusEngine) -> None:
    class Stubborn(Exception):
        def add_note(self, note: str) -> None:
            raise RuntimeError("no notes")

    @process(errors=[KeyError])
    def failing(ctx: Any) -> None:
        raise Stubborn

    with pytest.raises(Stubborn):
        engine.run_process(failing)


def test_what_needs_no_declaration(engine: TheusEngine) -> None:
    """No list, no promise; and neither Ctrl-C nor a refusal is a failure of the process."""

    for errors, error in (
        (None, ValueError()),
        (["KeyError"], TransactionError("no")),
        (["KeyError"], KeyboardInterrupt()),
    ):

        @process(errors=errors)
        def failing(ctx: Any, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            engine.run_process(failing)
        assert not hasattr(caught.value, "__notes__")


# ---- options --------------------------------------------------------------------------


def test_options_are_checked_at_once(engine: TheusEngine) -> None:
    for bad, kind in (
        ({"retries": -1}, ValueError),
        ({"deadline": -0.5}, ValueError),
        ({"deadline": "1"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"inline": 1}, TypeError),
        ({"detached": None}, TypeError),
    ):
        with pytest.raises(kind, match=next(iter(bad))):
            engine.options(**bad)  # type: ignore[arg-type]
    options = engine.options(retries=2, timeout=1.5)
    assert (options.retries, options.timeout, options.detached) == (2, 1.5, False)
    with pytest.raises(AttributeError):
        options.retries = 3  # type: ignore[misc]


def rival_of(engine: TheusEngine, attempts: list[int]) -> Callable[[Any], None]:
    """Reads what somebody else changes, at each attempt."""

    def body(ctx: Any) -> None:
        attempts.append(ctx.domain.a)
        run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.a", 1)))
        ctx.domain.b = 0

    return body


def test_retries_are_bounded_by_count_and_by_time(engine: TheusEngine) -> None:
    for options, most in (
        (engine.options(retries=0), 1),
        (engine.options(retries=2), 3),
        (engine.options(deadline=0.02), None),
        (engine.options(timeout=0.02), None),
    ):
        for run in (options.run_process, lambda body, o=options: asyncio.run(o.execute(body))):
            attempts: list[int] = []
            with pytest.raises((ConflictError, TimeoutError)) as caught:
                run(effect("domain.b", inputs=("domain.a",))(rival_of(engine, attempts)))
            assert most in (None, len(attempts))  # no time for a first one: on a busy machine
            assert most is None or getattr(caught.value, "attempts", None) == most
            assert len(set(attempts)) == len(attempts), "each attempt sees a newer version"
    assert domain(engine)["b"] == 2


# ---- time limits ----------------------------------------------------------------------


def test_a_coroutine_that_takes_too_long_is_cancelled(engine: TheusEngine) -> None:
    ended: list[str] = []

    @process(outputs=["domain.a"], timeout=0.02)
    async def wait(ctx: Any) -> None:
        ctx.domain.a = 99
        try:
            await asyncio.sleep(LIMIT)
        finally:
            ended.append("yes")

    with pytest.raises(ProcessTimeoutError, match="'wait'") as caught:
        asyncio.run(engine.execute(wait))
    assert ended == ["yes"] and domain(engine)["a"] == 1
    assert caught.value.timeout == 0.02 and isinstance(caught.value, TimeoutError)


def test_a_coroutine_that_swallows_the_cancellation_is_rolled_back(engine: TheusEngine) -> None:
    @process(outputs=["domain.a"], timeout=0.02)
    async def swallow(ctx: Any) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LIMIT)
        return 99

    @process(outputs=["domain.a"], timeout=0.02)
    async def block(ctx: Any) -> int:
        threading.Event().wait(0.04)
        return 99

    for late in (swallow, block):
        with pytest.raises(ProcessTimeoutError) as caught:
            asyncio.run(engine.execute(late))
        assert caught.value.timeout == 0.02 and caught.value.__cause__ is None
    assert domain(engine)["a"] == 1 and engine.version == 1


def test_a_thread_that_takes_too_long_is_refused_from_then_on(engine: TheusEngine) -> None:
    started, go_on, done = threading.Event(), threading.Event(), threading.Event()
    refused: list[BaseException] = []
    ahead = 0.0

    def body(ctx: Any) -> None:
        ctx.domain.a = 99
        started.set()
        go_on.wait(LIMIT)
        for attempt in (
            lambda: ctx.domain.a,
            lambda: setattr(ctx.domain, "a", 5),
            lambda: engine.run_process(lambda inner: setattr(inner.domain, "a", 6)),
            lambda: engine.run(lambda tx: tx.set("domain.a", 7)),
        ):
            try:
                attempt()
            except TransactionError as error:
                refused.append(error)
        done.set()

    async def main() -> None:
        nonlocal ahead
        # The clock of the loop: had the time been over before the thread came to its task, nobody
        # would ever call the body.
        loop = asyncio.get_running_loop()
        loop.time = lambda: time.monotonic() + ahead  # type: ignore[method-assign]
        running = asyncio.ensure_future(engine.options(timeout=1000.0).execute(body))
        await until_async(started.is_set)
        ahead = 1001.0
        with pytest.raises(ProcessTimeoutError):
            await running
        go_on.set()
        await until_async(done.is_set)

    asyncio.run(main())
    assert len(refused) == 4 and domain(engine)["a"] == 1 and engine.version == 1


def test_a_synchronous_run_that_took_too_long_is_rolled_back(engine: TheusEngine) -> None:
    def body(ctx: Any) -> None:
        ctx.domain.a = 99
        threading.Event().wait(0.03)

    with pytest.raises(ProcessTimeoutError):
        engine.options(timeout=0.01).run_process(body)
    with pytest.raises(ProcessTimeoutError):
        engine.run_process(process(outputs=["domain.a"], timeout=0.01)(body))
    assert domain(engine)["a"] == 1
    engine.options(timeout=LIMIT).run_process(body)
    assert domain(engine)["a"] == 99


def test_a_timeout_of_the_body_is_its_own(engine: TheusEngine) -> None:
    @process(timeout=LIMIT)
    async def body(ctx: Any) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        asyncio.run(engine.execute(body))
    assert type(caught.value) is TimeoutError


# ---- threads and their variables --------------------------------------------------------


def test_inline_runs_on_the_thread_of_the_loop(engine: TheusEngine) -> None:
    def where(ctx: Any) -> int:
        return threading.get_ident()

    async def main() -> None:
        here = threading.get_ident()
        assert await engine.execute(where) != here
        assert await engine.options(inline=True).execute(where) == here
        assert await engine.execute(process(inline=True)(where)) == here
        assert await engine.options(inline=False).execute(process(inline=True)(where)) != here

    asyncio.run(main())


def test_context_variables_go_both_ways(engine: TheusEngine) -> None:
    request = contextvars.ContextVar("request", default="none")
    seen = contextvars.ContextVar("seen", default="none")

    def plain(ctx: Any, fails: bool = False) -> str:
        seen.set(f"by {request.get()}")
        if fails:
            raise LookupError
        return request.get()

    async def later(ctx: Any) -> str:
        return plain(ctx)

    async def main() -> None:
        for body in (plain, later, process(inline=True)(lambda ctx: plain(ctx))):
            seen.set("none")
            request.set(repr(body))
            assert await engine.execute(body) == repr(body)
            assert seen.get() == f"by {body!r}"
        request.set("failing")
        with pytest.raises(LookupError):
            await engine.execute(plain, fails=True)
        assert seen.get() == "by failing"
        # What was set in the thread tells nothing about who runs: no run is refused here.
        async with engine.transaction() as tx:
            assert engine.current() is tx

    asyncio.run(main())


def test_stop_iteration_from_a_thread_arrives(engine: TheusEngine) -> None:
    def body(ctx: Any) -> None:
        next(iter(()))

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(engine.execute(body), LIMIT)

    asyncio.run(main())


def test_a_cancelled_task_ends_the_run_of_its_thread_at_once(engine: TheusEngine) -> None:
    started, go_on, done = threading.Event(), threading.Event(), threading.Event()
    swallowed: list[BaseException] = []

    def body(ctx: Any) -> int:
        ctx.domain.a = 99
        started.set()
        go_on.wait(LIMIT)
        try:
            ctx.domain.a = 98
        except TransactionError as error:
            swallowed.append(error)
        done.set()
        return 5

    async def main() -> None:
        task = asyncio.create_task(engine.execute(effect("domain.a")(body)))
        assert await asyncio.to_thread(started.wait, LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine.run_process(effect("domain.a")(lambda ctx: 7))  # nothing is held
        go_on.set()
        assert await asyncio.to_thread(done.wait, LIMIT)

    asyncio.run(main())
    assert len(swallowed) == 1 and domain(engine)["a"] == 7 and engine.version == 2


async def cancel_when(inside: Callable[[], bool], run: Any) -> None:
    task = asyncio.create_task(run)
    while not inside():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_run_that_is_cancelled_in_its_commit_commits_nothing(engine: TheusEngine) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(old: int, value: int) -> int:
        started.set()
        go_on.wait(LIMIT)
        return old + value

    @process(outputs=["domain.a"], merge={"domain.a": slow})
    def grow(ctx: Any) -> int:
        ctx.outbox.add("grown", 1)
        return 5

    async def main() -> None:
        await cancel_when(started.is_set, engine.execute(grow))
        go_on.set()

    asyncio.run(main())  # which joins its helper threads
    assert domain(engine)["a"] == 1 and engine.version == 1
    assert engine.process_outbox().pending == 0


@pytest.mark.parametrize("ends", ["at once", "with the wait"])
def test_a_run_that_is_cancelled_while_it_waits_for_its_record_commits_nothing(ends: str) -> None:
    full = TheusEngine({"domain": {"a": 0}}, ring_mode="block", ring_capacity=4, ring_timeout_ms=0)
    cursor = full.attach(0)
    waiting = threading.Event()
    for number in range(1, 5):
        full.compare_and_swap(full.version, {"domain": {"a": number}})
    before = full.version

    def write(ctx: Any) -> int:
        waiting.set()  # nearly
        return 99

    async def main() -> None:
        await cancel_when(waiting.is_set, full.execute(effect("domain.a")(write)))
        while ends == "with the wait" and cursor.take() is not None:
            pass

    asyncio.run(main())  # waits for that thread
    assert full.version == before and cursor.attached


def test_a_child_needs_a_transaction_of_its_own(engine: TheusEngine) -> None:
    @pure("domain.a", outputs=("domain.b",))
    def grow(ctx: Any) -> int:
        return int(ctx.domain.a) + 10

    async def body(ctx: Any, detached: bool) -> Any:
        options = engine.options(detached=detached)
        for run in (grow, process(inputs=["domain.a"])(_look)):
            await asyncio.create_task(options.execute(run))
        return await asyncio.to_thread(options.run_process, grow)

    with pytest.raises(TransactionError, match="detached=True"):
        asyncio.run(engine.execute(body, False))
    assert asyncio.run(engine.execute(body, True)) == 11 == domain(engine)["b"]


async def _look(ctx: Any) -> int:
    return int(ctx.domain.a)


@pytest.mark.parametrize("name", ["timeout", "deadline"])
@pytest.mark.parametrize(
    "seconds", [10**400, 10**5000, float("nan"), float("inf"), -1], ids="abcde"
)
def test_times_that_no_clock_can_count_are_refused(
    engine: TheusEngine, name: str, seconds: Any
) -> None:
    with pytest.raises(ValueError, match=rf"{name} (must be a number|is a time).* seconds"):
        engine.options(**{name: seconds})
    if name == "timeout":
        with pytest.raises(ValueError, match="timeout of process"):
            process(timeout=seconds)(lambda ctx: None)


def test_roots_that_there_are_not_are_refused_before_the_body_runs(engine: TheusEngine) -> None:
    ran: list[int] = []
    for inputs, outputs, what in (["shpo.stock"], [], "input"), ([], ["shpo.stock"], "output"):

        @process(inputs=inputs, outputs=outputs)
        def body(ctx: Any) -> None:
            ran.append(1)

        for act in (engine.register, engine.run_process):
            with pytest.raises(ProcessError, match=rf"declares an {what} below 'shpo'.*'shop'\?"):
                act(body)
    assert not ran
    for declared in ["shop.stock"], ["*.stock"], ["transaction", "outbox", "local"]:
        assert engine.run_process(process(inputs=declared)(lambda ctx: 5)) == 5

    @process(inputs=["later.x"], outputs=["domain.a"], semantic="pure")
    def reads(ctx: Any) -> Any:
        return ctx.later.x

    with pytest.raises(ProcessError, match="'later'"):
        engine.run_process(reads)
    engine.run(lambda tx: tx.set("later", {"x": 8}))
    for _ in range(2):  # the second time without a look
        assert engine.run_process(reads) == 8 == domain(engine)["a"]
