"""Admin scopes: allowed by the owner, recorded, and over when they are over."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import CoroutineType, FrameType, SimpleNamespace
from typing import Any

import pytest

import theus._theus as native
from support import plain
from theus import AdminTransaction, TheusEngine, contracts, process
from theus.errors import ContractViolationError, TransactionError

BOTH = ["domain.internal_s", "domain.log_l", "domain.meta_m", "domain.const_k", "domain.a"]


def engine_with(body: Any = None, **options: Any) -> TheusEngine:
    engine = TheusEngine(
        {
            "domain": {
                "internal_s": {"key": "secret"},
                "log_l": [1, 2],
                "meta_m": {"n": 1},
                "const_k": 1,
                "a": 1,
            }
        },
        **options,
    )
    if body is not None:
        engine.allow_admin(body)
    return engine


def as_admin(act: Any) -> Any:
    @process(inputs=BOTH, outputs=BOTH)
    def admin(ctx: Any) -> Any:
        with AdminTransaction(ctx, reason="test") as inside:
            assert inside is ctx
            act(ctx)

    return admin


def test_what_an_admin_may() -> None:
    def act(ctx: Any) -> None:
        ctx.domain.log_l.clear()
        ctx.domain.log_l.append(9)
        del ctx.domain.meta_m["n"]
        seen.append(ctx.domain.internal_s.key)
        ctx.domain.internal_s = {"key": "new"}

    seen: list[str] = []

    body = as_admin(act)
    engine = engine_with(body)
    engine.run_process(body)
    assert seen == ["secret"]
    assert plain(engine.state["domain"]) == {
        "internal_s": {"key": "new"}, "log_l": [9], "meta_m": {}, "const_k": 1, "a": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "act",
    [
        lambda ctx: setattr(ctx.domain, "const_k", 2),
        lambda ctx: ctx.domain.__delitem__("const_k"),
        lambda ctx: ctx.transaction.set("domain.const_k", 2),
        lambda ctx: ctx.transaction.update({"domain": {"const_k": 2}}),
    ],
)
def test_constants_stay(act: Any) -> None:
    body = as_admin(act)
    engine = engine_with(body)
    with pytest.raises(ContractViolationError, match="const_k"):
        engine.run_process(body)
    assert engine.version == 1


def test_the_contract_binds_an_admin_too() -> None:
    @process(inputs=["domain.a"], outputs=["domain.a"])
    def body(ctx: Any) -> None:
        with AdminTransaction(ctx, reason="test"):
            ctx.domain.log_l.clear()

    engine = engine_with(body)
    with pytest.raises(ContractViolationError, match="add 'domain.log_l' to inputs"):
        engine.run_process(body)


def test_who_is_not_allowed_is_refused_and_not_recorded() -> None:
    """Weakness 27: any process could elevate itself."""
    body = as_admin(lambda ctx: ctx.domain.log_l.clear())
    other = as_admin(lambda ctx: None)  # of the same name
    engine = engine_with(other)
    with pytest.raises(ContractViolationError, match=r"engine\.allow_admin\(admin\)"):
        engine.run_process(body)
    assert engine.version == 1 and engine.admin_log() == []
    engine.run_process(other)
    assert len(engine.admin_log()) == 1
    with pytest.raises(ContractViolationError):  # of another engine
        engine_with().run_process(other)


def test_a_body_cannot_let_itself_in() -> None:
    engine = engine_with()

    @process(inputs=BOTH)
    def climber(ctx: Any) -> None:
        with pytest.raises(TransactionError, match="cannot let itself"):
            engine.allow_admin(climber)
        with AdminTransaction(ctx, reason="mine"):
            raise AssertionError

    with pytest.raises(ContractViolationError):
        engine.run_process(climber)
    assert engine.admin_log() == []


def test_nothing_private_grants_anything() -> None:
    """Weakness 27: _elevate, _set_capabilities, _target, _inner."""

    @process(inputs=["domain.a"], outputs=["domain.a"])
    def body(ctx: Any) -> None:
        for name in ("_elevate", "_set_capabilities", "_target", "_inner", "is_admin"):
            for thing in (ctx, ctx.domain, ctx.transaction):
                with pytest.raises((AttributeError, ContractViolationError)):
                    getattr(thing, name)

    engine_with().run_process(body)


def test_a_reason_is_needed_and_recorded() -> None:
    def act(ctx: Any) -> None:
        ctx.domain.meta_m = {"n": 2}

    body = as_admin(act)
    engine = engine_with(body)
    engine.run_process(body)
    (one,) = engine.admin_log()
    assert (one.process, one.reason, one.version, one.committed) == ("admin", "test", 1, 2)
    assert one.time > 1.7e9
    assert engine.records()[0][0].notes == (("admin", "test"),)

    @process(inputs=BOTH)
    def silent(ctx: Any) -> None:
        with AdminTransaction(ctx):
            pass

    engine.allow_admin(silent)
    with pytest.raises(ValueError, match="reason"):
        engine.run_process(silent)


def test_a_run_that_fails_is_recorded_and_leaves_nothing() -> None:
    def act(ctx: Any) -> None:
        ctx.domain.log_l.clear()
        raise RuntimeError("stop")

    body = as_admin(act)
    engine = engine_with(body)
    with pytest.raises(RuntimeError, match="stop"):
        engine.run_process(body)
    assert engine.version == 1
    assert [(one.reason, one.committed) for one in engine.admin_log()] == [("test", None)]


def test_what_was_read_inside_is_of_no_use_after_it() -> None:
    """Property P-RFC1-b: elevation ends with the block, also of drafts that were read in it."""

    @process(inputs=["domain"], outputs=["domain"])
    def body(ctx: Any) -> None:
        before = ctx.domain
        with AdminTransaction(ctx, reason="test"):
            domain, log, private = ctx.domain, ctx.domain.log_l, ctx.domain.internal_s
            assert private.key == "secret" and domain["internal_s"]["key"] == "secret"
            steps = iter(domain.items())
        for use in (
            lambda: domain.internal_s,
            lambda: domain["log_l"],
            lambda: domain.get("a"),
            lambda: domain.a,
            lambda: setattr(domain, "a", 2),
            lambda: log.clear(),
            lambda: log.append(1),
            lambda: log[0],
            lambda: len(log),
            lambda: list(log),
            lambda: private.key,
            lambda: private == {},
            lambda: private.copy(),
            lambda: next(steps),
        ):
            refused.append(use)
            with pytest.raises(ContractViolationError):
                use()
        assert before.internal_s is None and ctx.domain.internal_s is None
        assert "internal_s" not in ctx.domain
        with pytest.raises(ContractViolationError, match="LOG"):
            ctx.domain.log_l.clear()

    refused: list[Any] = []
    engine = engine_with(body)
    with pytest.raises(
        ContractViolationError, match="has ended"
    ):  # swallowed, and so the run fails
        engine.run_process(body)
    assert len(refused) == 14 and engine.version == 1


def test_what_was_wrong_before_or_is_wrong_after_is_not_excused() -> None:
    @process(inputs=BOTH, outputs=BOTH)
    def before(ctx: Any) -> None:
        ctx.transaction.update({"domain": {"log_l": []}})
        with AdminTransaction(ctx, reason="test"):
            pass

    @process(inputs=BOTH, outputs=BOTH)
    def after(ctx: Any) -> Any:
        with AdminTransaction(ctx, reason="test"):
            ctx.domain.log_l = [7, 8]
        ctx.domain.log_l.append(9)
        return {"domain.log_l": [7]} if shrink else None

    @process(inputs=BOTH, outputs=["domain.log_l"])
    def returned(ctx: Any) -> Any:
        with AdminTransaction(ctx, reason="test"):
            assert ctx.domain.log_l
        return []

    engine = engine_with(before)
    engine.allow_admin(after)
    engine.allow_admin(returned)
    shrink = True
    for body in (before, after, returned):
        with pytest.raises(ContractViolationError, match="log_l"):
            engine.run_process(body)
    assert engine.version == 1
    shrink = False
    engine.run_process(after)
    assert engine.state["domain"]["log_l"] == [7, 8, 9]


def test_a_scope_left_open_ends_with_the_body() -> None:
    leaked: list[Any] = []

    @process(inputs=BOTH, outputs=BOTH)
    def careless(ctx: Any) -> None:
        AdminTransaction(ctx, reason="test").__enter__()
        leaked.append(ctx)
        ctx.domain.log_l.clear()

    @process(inputs=["domain.a"], outputs=BOTH)
    def outer(ctx: Any) -> None:
        engine.run_process(careless)
        with pytest.raises(ContractViolationError):
            leaked[0].domain.log_l.clear()

    engine = engine_with(careless)
    with pytest.raises(ContractViolationError, match="log_l"):
        engine.run_process(outer)
    assert engine.version == 1


def test_scopes_do_not_nest() -> None:
    def act(ctx: Any) -> None:
        with pytest.raises(TransactionError, match="nest"), AdminTransaction(ctx, reason="again"):
            pass
        ctx.domain.log_l.clear()

    body = as_admin(act)
    engine = engine_with(body)
    engine.run_process(body)
    assert engine.state["domain"]["log_l"] == []
    assert contracts.AdminTransaction is AdminTransaction


def test_a_pure_process_reads_as_admin_and_writes_nothing() -> None:
    @process(inputs=BOTH, outputs=["domain.a"], semantic="pure")
    def count(ctx: Any, writes: bool) -> Any:
        with AdminTransaction(ctx, reason="test"):
            length = len(ctx.domain.internal_s["key"])
            if writes:
                with pytest.raises(ContractViolationError, match="PURE process cannot"):
                    ctx.domain.log_l.clear()
        return length

    engine = engine_with(count)
    engine.run_process(count, False)
    assert engine.state["domain"]["a"] == 6
    with pytest.raises(ContractViolationError, match=r"cannot write domain\.log_l"):
        engine.run_process(count, True)


def test_a_retried_run_is_an_admin_again() -> None:
    def act(ctx: Any) -> None:
        ctx.domain.log_l.clear()
        ctx.domain.a += 1
        if engine.version == 1:
            engine.run(lambda tx: tx.set("domain.a", 5), detached=True)

    body = as_admin(act)
    engine = engine_with(body)
    engine.run_process(body)
    assert plain(engine.state["domain"])["a"] == 6
    assert [one.committed for one in engine.admin_log()] == [None, 3]


# ---- no private door ----------------------------------------------------------------------


def allowed(ctx: Any, act: Any = None) -> None:
    if act is not None:
        act()


async def allowed_async(ctx: Any, step: Any) -> None:
    await step


ALLOWED = process(inputs=BOTH, outputs=BOTH)(allowed)
ALLOWED_ASYNC = process(inputs=BOTH, outputs=BOTH)(allowed_async)
FALSE = SimpleNamespace(name="allowed", function=ALLOWED, parameters=())

Door = Callable[[Any, Any, TheusEngine], Any]
DOORS: list[Door] = []


def door(way: Door) -> Door:
    """Gives a context, or raises. Called with that of a body, its plan and the engine."""
    DOORS.append(way)
    return way


@door
def a_context_for_the_plan_of_another(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    return native.open_context(ctx.tx, ALLOWED._theus_plan, None, None, (), {})


@door
def a_context_for_a_false_plan(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    return native.open_context(ctx.tx, FALSE, None, None, (), {})


@door
def another_function_in_its_own_plan(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    plan.function = ALLOWED
    return ctx


@door
def a_body_of_its_own_for_the_plan_of_another(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    kept: list[Any] = []
    native.run_body(ctx.tx, FALSE, None, None, (), {}, kept.append)
    return kept[0]


@door
def a_run_of_the_plan_of_another_with_its_own_function(
    ctx: Any, plan: Any, engine: TheusEngine
) -> Any:
    kept: list[Any] = []
    other = ALLOWED._theus_plan.for_method(kept.append)
    native.run_body(
        ctx.tx, other, None, None, (), {}, lambda c: AdminTransaction(c, "x").__enter__()
    )


@door
def a_coroutine_that_it_does_not_run(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    context, call = native.start_body(ctx.tx, FALSE, None, None, (None,), {}, ALLOWED_ASYNC)
    assert isinstance(call, CoroutineType)
    call.close()
    return context


@door
def a_coroutine_that_it_has_begun(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    async def wait() -> None:
        await asyncio.sleep(0)

    context, call = native.start_body(ctx.tx, FALSE, None, None, (wait(),), {}, ALLOWED_ASYNC)
    assert isinstance(call, CoroutineType)
    call.send(None)
    engine.calls = call  # type: ignore[attr-defined]  # it stays suspended
    return context


@door
def the_context_of_a_body_that_has_returned(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    kept: list[FrameType] = []
    engine.run_process(ALLOWED, lambda: kept.append(sys._getframe(1)))
    return kept[0].f_locals["ctx"]


@door
def letting_itself_in(ctx: Any, plan: Any, engine: TheusEngine) -> Any:
    engine.allow_admin_function(plan.function, plan.name)


@pytest.mark.parametrize("way", DOORS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("semantic", ["effect", "without a contract"])
def test_no_private_door_opens_an_admin_scope(way: Door, semantic: str) -> None:
    """Neither AdminTransaction nor what it calls, whatever context a body gets hold of."""

    def body(ctx: Any) -> None:
        plan = next(p for p in plans if p is not None)
        seen = way(ctx, plan, engine)
        native.open_admin(seen, "mine")
        leaked.append(seen.domain.internal_s)

    contracted = process(inputs=BOTH, outputs=BOTH)(body) if semantic == "effect" else body
    engine = engine_with(ALLOWED)
    engine.allow_admin(ALLOWED_ASYNC)
    engine.register(contracted)
    plans, leaked = [engine.plan("body")], []
    with pytest.raises((ContractViolationError, TransactionError)):
        engine.run_process(contracted)
    assert leaked == [] and engine.admin_log() == [] and engine.version == 1


def test_a_process_that_an_admin_runs_is_none() -> None:
    """It may walk to the context of the body around it, which is the one that is allowed."""

    @process(inputs=["domain.a"])
    def inner(ctx: Any, outer: Any) -> None:
        with pytest.raises(TransactionError, match="while it runs"):
            native.open_admin(outer, "mine")
        native.close_context(ctx, ValueError())
        with pytest.raises(TransactionError, match="while it runs"):
            native.open_admin(outer, "mine")

    @process(inputs=BOTH)
    def outer(ctx: Any) -> None:
        with pytest.raises(TransactionError, match="closed"):
            engine.run_process(inner, ctx)
        with AdminTransaction(ctx, reason="test"):
            seen.append(ctx.domain.internal_s["key"])

    seen: list[Any] = []
    engine = engine_with(outer)
    engine.run_process(outer)
    assert seen == ["secret"] and len(engine.admin_log()) == 1


def test_a_coroutine_is_an_admin_while_it_runs() -> None:
    async def read(ctx: Any) -> str:
        await asyncio.sleep(0)
        with AdminTransaction(ctx, reason="test"):
            await asyncio.sleep(0)
            key: str = ctx.domain.internal_s["key"]
            return key

    @process(inputs=BOTH)
    async def admin(ctx: Any) -> str:
        return await read(ctx)

    engine = engine_with(admin)
    assert asyncio.run(engine.execute(admin)) == "secret"
    with pytest.raises(ContractViolationError, match="not allowed"):
        asyncio.run(engine_with().execute(admin))


def test_a_body_has_many_arguments() -> None:
    @process(inputs=["domain.a"])
    def wide(ctx: Any, *numbers: int, **named: int) -> int:
        return sum(numbers) + sum(named.values()) + int(ctx.domain.a)

    engine = engine_with()
    for count in (0, 1, 5, 6, 7, 100):
        assert engine.run_process(wide, *range(count)) == sum(range(count)) + 1
        assert engine.run_process(wide, *range(count), x=2, y=3) == sum(range(count)) + 6


def test_the_record_names_who_was_allowed_and_not_what_a_plan_says() -> None:
    """A body can run an allowed function under a plan of its own making. That gains it nothing, and
    cannot put another name in the record either."""

    def body(ctx: Any) -> None:
        liar = SimpleNamespace(name="somebody else", function=admin, parameters=())
        native.run_body(ctx.tx, liar, None, None, (), {}, admin)

    admin = as_admin(lambda ctx: None)
    engine = engine_with(admin)
    engine.run_process(body)
    engine.run_process(admin)
    assert [record.process for record in engine.admin_log()] == ["admin", "admin"]


def test_an_allowance_is_of_a_function_and_a_name() -> None:
    engine = engine_with()
    with pytest.raises(TypeError, match="takes a function and the name for the record"):
        engine.allow_admin_function(print, 5)  # type: ignore[arg-type]
