"""Processes that run processes: the contract of the outer one bounds them, at the line."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from processes import domain, effect, pure, small_engine
from theus import StateUpdate, TheusEngine, process
from theus.errors import ContractViolationError, TransactionError


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


Act = Callable[[Any], Any]


def refused_at_the_line(act: Act, refusals: list[ContractViolationError]) -> Act:
    """A body that lets `act` be refused and goes on, having noted by whom."""

    def body(ctx: Any) -> None:
        try:
            act(ctx)
        except ContractViolationError as error:
            refusals.append(error)

    return body


def set_b(ctx: Any) -> None:
    ctx.domain.b = 0


@pytest.mark.parametrize(
    "read",
    [
        lambda ctx: ctx.domain.b,
        lambda ctx: ctx.domain["b"],
        lambda ctx: ctx["domain"].get("b"),
        lambda ctx: ctx.domain.user.pin,
        lambda ctx: dict(ctx.domain),
        lambda ctx: "b" in ctx.domain,
        lambda ctx: len(ctx.domain),
        lambda ctx: ctx.shop,
        lambda ctx: ctx.domain.rows[1],
        lambda ctx: ctx.state.domain.b,
        lambda ctx: ctx.transaction.get("domain.b"),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_reads_are_bounded_by_the_caller(engine: TheusEngine, read: Act, lenient: bool) -> None:
    """By whatever route: the inner process declares it, the outer one does not."""
    inner = effect("domain.a", inputs=("domain", "shop"))(read)
    engine.run_process(inner)  # by itself it may

    @effect("domain.a", inputs=("domain.rows[0]", "domain.user.name"))
    def outer(ctx: Any) -> Any:
        return engine.run_process(inner)

    with pytest.raises(ContractViolationError, match=r"Illegal Read: process 'outer'"):
        engine.run_process(outer)
    if lenient:
        engine.strict_guards = False
        engine.run_process(outer)


def test_what_both_declare_is_open_to_both(engine: TheusEngine) -> None:
    @effect("domain.*.name", "domain.rows")
    def inner(ctx: Any) -> Any:
        ctx.domain.user.name = "ann"
        ctx.domain.rows[0]["x"] += 1
        ctx.domain.rows.append({"x": 9})
        with pytest.raises(ContractViolationError, match="'inner' read domain.user.pin"):
            ctx.domain.user.pin  # noqa: B018
        return [row["x"] for row in ctx.domain.rows]

    @effect("domain.user", "domain.rows")
    def outer(ctx: Any) -> Any:
        ctx.domain.user.pin = 7
        return engine.run_process(inner)

    assert engine.run_process(outer) == [2, 2, 9]
    assert domain(engine)["user"] == {"name": "ann", "pin": 7}


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        (effect("domain.a"), r"Illegal Write: process '<lambda>' wrote domain\.b"),
        (pure("domain"), "PURE process cannot write"),
        (process(semantic="guide"), "is a GUIDE, which may only read"),
    ],
)
@pytest.mark.parametrize(
    "write",
    [
        set_b,
        lambda ctx: ctx.domain.__setitem__("b", 1),
        lambda ctx: ctx.add("domain.b", 1),
        lambda ctx: ctx.transaction.set("domain.b", 5),
        lambda ctx: ctx.transaction.update({"domain": {"b": 4}}),
    ],
)
def test_writes_are_bounded_by_the_caller(
    engine: TheusEngine, outer: Any, words: str, write: Act
) -> None:
    """At the line; and a refusal that the inner body swallows still fails the run."""
    refusals: list[ContractViolationError] = []
    inner = effect("domain.b")(refused_at_the_line(write, refusals))
    other = small_engine()
    other.run_process(inner)
    assert not refusals and domain(other)["b"] != 2, "by itself it may"
    with pytest.raises(ContractViolationError, match=words):
        engine.run_process(outer(lambda ctx: engine.run_process(inner)))
    assert len(refusals) == 1 and engine.version == 1


@pytest.mark.parametrize("outer", [effect("domain.a"), pure("domain"), process(semantic="guide")])
def test_so_is_what_a_process_returns(engine: TheusEngine, outer: Any) -> None:
    inner = pure("domain.a", outputs=("domain.b",))(lambda ctx: 5)
    with pytest.raises(ContractViolationError):
        engine.run_process(outer(lambda ctx: engine.run_process(inner)))
    deep = effect("domain.rows")(lambda ctx: ctx.domain.rows.append(1))
    with pytest.raises(ContractViolationError):
        engine.run_process(outer(lambda ctx: engine.run_process(deep)))
    assert engine.version == 1


def test_a_chain_is_bounded_by_all_of_it(engine: TheusEngine) -> None:
    @effect("domain.a", "domain.b", "domain.user")
    def third(ctx: Any, key: str) -> Any:
        return {"domain.a": ctx.domain[key]}

    @effect("domain.a", "domain.b", inputs=("domain.rows",))
    def second(ctx: Any, key: str) -> Any:
        engine.run_process(third, key)

    @effect("domain.a", "domain.user", inputs=("domain.rows",))
    def first(ctx: Any, key: str) -> Any:
        engine.run_process(second, key)

    engine.run_process(first, "a")
    for key, by in (("b", "first"), ("user", "second"), ("rows", "third")):
        with pytest.raises(ContractViolationError, match=f"process '{by}' read domain.{key}"):
            engine.run_process(first, key)


def test_the_guard_of_the_body_comes_back(engine: TheusEngine) -> None:
    """After a nested run, also after one that failed, the body may do what it declares."""

    @pure("domain.a", outputs=("domain.b",))
    def inner(ctx: Any, fails: bool) -> int:
        if fails:
            raise LookupError
        return int(ctx.domain.a) + 10

    @effect("domain.b", "domain.rows", inputs=("domain.a",))
    def outer(ctx: Any) -> None:
        for fails in (False, True, False):
            try:
                engine.run_process(inner, fails)
            except LookupError:
                assert fails
            ctx.transaction.append("domain.rows", {"x": ctx.domain.b})
            with pytest.raises(ContractViolationError, match="'outer' read domain.tags"):
                ctx.transaction.get("domain.tags")

    engine.run_process(outer)
    assert domain(engine)["b"] == 11 and len(domain(engine)["rows"]) == 5


@pytest.mark.parametrize("through", ["its own context", "a draft of the caller"])
def test_the_body_may_go_on_after_a_run_that_was_refused(engine: TheusEngine, through: str) -> None:
    """At the line or when that run is over: it leaves nothing, and the body has been told."""

    @effect("domain.b")
    def inner(ctx: Any, draft: Any) -> None:
        (ctx.domain if draft is None else draft).a = 99

    @effect("domain.a", "domain.b")
    def outer(ctx: Any) -> None:
        ctx.domain.a = 5
        with pytest.raises(ContractViolationError, match=r"'inner' wrote domain\.a"):
            engine.run_process(inner, ctx.domain if through == "a draft of the caller" else None)
        ctx.domain.b = 6

    engine.run_process(outer)
    assert (domain(engine)["a"], domain(engine)["b"]) == (5, 6)


def test_a_run_cannot_end_a_block_of_the_body_around_it(engine: TheusEngine) -> None:
    """Nor does it get that body's guard by trying."""
    around: list[Any] = []

    @effect("domain.b")
    def inner(ctx: Any) -> None:
        for failure in ((None, None, None), (LookupError, LookupError(), None)):
            with pytest.raises(TransactionError, match="reverse order"):
                around[0].__exit__(*failure)
        tx = engine.current()
        assert tx is not None
        with pytest.raises(ContractViolationError, match=r"'inner' read domain\.a"):
            tx.get("domain.a")
        with contextlib.suppress(ContractViolationError):
            tx.set("domain.a", 99)

    @effect("domain")
    def outer(ctx: Any) -> None:
        around.append(engine.transaction())
        with pytest.raises(LookupError), around[0]:
            ctx.domain.a = 5
            with pytest.raises(ContractViolationError, match=r"'inner' wrote domain\.a"):
                engine.run_process(inner)
            raise LookupError
        assert ctx.domain.a == 1, "and the block is rolled back by who began it"

    engine.run_process(outer)
    assert domain(engine)["a"] == 1


def test_coroutines_are_bounded_too(engine: TheusEngine) -> None:
    @effect("domain.b")
    async def inner(ctx: Any) -> Any:
        await asyncio.sleep(0)
        ctx.domain.b = 9
        return ctx.domain.b

    async def outer(ctx: Any) -> Any:
        async with asyncio.TaskGroup():
            return await engine.execute(inner)

    assert asyncio.run(engine.execute(effect("domain.b")(outer))) == 9
    for declare in (effect("domain.a"), pure("domain"), process(semantic="guide")):
        with pytest.raises(BaseException) as caught:
            asyncio.run(engine.execute(declare(outer)))
        error = caught.value
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, ContractViolationError)
    assert engine.version == 2


def test_a_plain_block_and_an_edit_in_a_body_are_bounded(engine: TheusEngine) -> None:
    @effect("domain.a")
    def body(ctx: Any, way: Any) -> None:
        with way() as inner:
            inner.domain.a = 5
            inner.domain.b = 6

    for way in (engine.transaction, engine.edit):
        with pytest.raises(ContractViolationError, match=r"wrote domain\.b"):
            engine.run_process(body, way)
    assert engine.version == 1


def test_a_body_gains_nothing_by_opening_and_closing_contexts(engine: TheusEngine) -> None:
    from theus._theus import Scope, close_context, open_context

    def opens(ctx: Any) -> None:
        everything = Scope(((),), ((),))
        tx = engine.current()
        assert tx is not None
        wide = open_context(tx, ctx, everything, everything, (), {})
        for act in (lambda: wide.domain.b, lambda: tx.get("domain.b"), lambda: set_b(wide)):
            with pytest.raises(ContractViolationError):
                act()

    def closes(ctx: Any) -> None:
        tx = engine.current()
        assert tx is not None
        close_context(ctx, None)
        with pytest.raises(ContractViolationError, match="Illegal Read"):
            tx.get("domain.b")

    for body in (opens, closes):
        for declare in (effect("domain.a"), pure("domain.a")):
            with pytest.raises((ContractViolationError, TransactionError)):
                engine.run_process(declare(body))
    assert engine.version == 1


# ---- what they return --------------------------------------------------------------------


@pytest.mark.parametrize("through", ["a returned value", "ctx", "a plain run"])
def test_what_a_nested_run_wrote_counts_as_written_by_the_body(
    engine: TheusEngine, through: str
) -> None:
    """One transaction: a plain value is then only the caller's, and one by name has to agree."""

    def inner(ctx: Any) -> Any:
        if through == "ctx":
            ctx.domain.a = 5
            return None
        return 5

    def step(ctx: Any) -> None:
        if through == "a plain run":
            engine.run(lambda tx: tx.set("domain.a", 5))
        else:
            engine.run_process(effect("domain.a")(inner))

    def returning(value: Any) -> Any:
        def outer(ctx: Any) -> Any:
            step(ctx)
            return value

        return effect("domain.a")(outer)

    assert engine.run_process(returning(7)) == 7 and domain(engine)["a"] == 5
    engine.run(lambda tx: tx.set("domain.a", 1))
    assert engine.run_process(returning({"domain.a": 5})) == {"domain.a": 5}
    engine.run(lambda tx: tx.set("domain.a", 1))
    for named in ({"domain.a": 7}, StateUpdate("domain.a", 7)):
        with pytest.raises(ContractViolationError, match="returned another value"):
            engine.run_process(returning(named))

    def failing(ctx: Any) -> int:
        with pytest.raises(LookupError):
            engine.run_process(effect("domain.a")(lambda ctx: {}[ctx.domain.a]))
        return 7  # that run has left nothing, so this is the output

    assert engine.run_process(effect("domain.a")(failing)) == 7 == domain(engine)["a"]


# ---- ends of nested runs ----------------------------------------------------------------


def test_a_nested_run_that_is_cancelled_leaves_the_body_as_it_was(engine: TheusEngine) -> None:
    """A plain run joins for the time of its call, whatever ends it."""

    def cancelled(tx: Any) -> None:
        tx.domain.b = 99
        tx.on_commit(lambda version: calls.append(version))
        with pytest.raises(TransactionError, match="nested run"):
            tx.rollback()
        raise asyncio.CancelledError

    calls: list[int] = []
    with engine.transaction() as tx:
        tx.domain.a = 5
        with pytest.raises(asyncio.CancelledError):
            engine.run(cancelled)
        assert tx.domain.b == 2
        tx.commit()  # by hand again: nobody is in a nested run any more
    assert (domain(engine)["a"], domain(engine)["b"], calls) == (5, 2, [])


def test_a_task_cancelled_in_a_nested_run_may_go_on_with_its_body(engine: TheusEngine) -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        @effect("domain.b")
        async def inner(ctx: Any) -> None:
            ctx.domain.b = 99
            waiting.set()
            await asyncio.Event().wait()

        @effect("domain.a", "domain.b")
        async def outer(ctx: Any) -> None:
            ctx.domain.a = 5
            with pytest.raises(asyncio.CancelledError):
                await engine.execute(inner)
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            assert ctx.domain.b == 2  # as before it, and its guard is gone
            ctx.domain.a += 1
            await engine.execute(effect("domain.b")(lambda ctx: 3))

        task = asyncio.create_task(engine.execute(outer))
        await waiting.wait()
        task.cancel()
        await task

    asyncio.run(main())
    assert (domain(engine)["a"], domain(engine)["b"], engine.version) == (6, 3, 2)


def test_runs_inside_runs_have_an_end(engine: TheusEngine) -> None:
    """Python's own limit may be raised to where the stack of the thread is over before."""
    deepest: list[int] = []

    def ping(tx: Any, depth: int) -> None:
        deepest[:] = [depth]
        engine.run(pong, depth + 1)

    def pong(tx: Any, depth: int) -> None:
        engine.run(ping, depth + 1)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(RecursionError) as refused:
            engine.run(ping, 1)
    finally:
        sys.setrecursionlimit(limit)
    if sys.version_info[:2] != (3, 12):  # whose own limit of calls in C comes first
        assert deepest == [501] and "500 runs stand inside one another" in str(refused.value)
    assert engine.version == 1
    engine.run(lambda tx: engine.run(lambda tx: tx.set("domain.a", 7)))
    assert domain(engine)["a"] == 7
