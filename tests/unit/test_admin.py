"""Admin scopes: allowed by the owner, recorded, and over when they are over."""

from __future__ import annotations

from typing import Any

import pytest

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
