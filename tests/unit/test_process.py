"""Running processes: contexts, declared writes, conflicts, nesting, threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from helpers import run_threads
from processes import domain, effect, pure, small_engine
from theus import (
    FrozenError,
    State,
    TheusEngine,
    process,
)
from theus.errors import (
    ConflictError,
    ContractViolationError,
    SecurityViolationError,
    TransactionError,
)


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


# ---- what every context has ---------------------------------------------------------


def test_input_names_what_was_passed(engine: TheusEngine) -> None:
    def seen(ctx: Any, first: int, second: int = 2, *rest: int, key: int = 3, **more: int) -> Any:
        with pytest.raises(TypeError):
            ctx.input["first"] = 0
        return dict(ctx.input)

    assert engine.run_process(seen, 1) == {"first": 1}
    assert engine.run_process(seen, 1, 5, 6, key=7, other=8) == {
        "first": 1, "second": 5, "key": 7, "other": 8,
    }  # fmt: skip
    assert engine.run_process(pure()(seen), first=1) == {"first": 1}
    with pytest.raises(TypeError, match="typo"):
        engine.run_process(lambda ctx, right: None, typo=1)


def test_local_lives_for_one_attempt(engine: TheusEngine) -> None:
    def note(ctx: Any) -> Any:
        before = dict(ctx.local)
        ctx.local["x"] = 1
        assert ctx.local == {"x": 1}
        return before

    assert engine.run_process(note) == engine.run_process(note) == {}
    assert engine.run_process(pure()(note)) == {}
    assert engine.version == 1


def test_roots_by_every_name(engine: TheusEngine) -> None:
    def roots(ctx: Any) -> Any:
        assert ctx.domain["a"] == ctx["domain"].a == ctx.domain_ctx.a == 1
        values = {ctx.global_.limit, getattr(ctx, "global").limit, ctx["global_"].limit}
        assert ctx.shop.stock == ctx["shop"]["stock"] == 3
        assert "shop" in ctx and "shp" not in ctx
        with pytest.raises(AttributeError, match="shp"):
            ctx.shp  # noqa: B018
        with pytest.raises(KeyError):
            ctx["shp"]
        assert isinstance(repr(ctx), str)
        return values

    assert engine.run_process(roots) == {10}
    assert engine.run_process(process(semantic="guide")(roots)) == {10}


def test_the_state_and_the_transaction_of_an_effect(engine: TheusEngine) -> None:
    @effect("domain.a")
    def body(ctx: Any) -> int:
        ctx.transaction.set("domain.a", 5)
        assert ctx.state["domain"]["a"] == 1 == ctx.state.domain.a, "the snapshot"
        assert ctx.state.version == ctx.version == 1
        with pytest.raises(ContractViolationError, match="Illegal Read"):
            ctx.state.domain.b  # noqa: B018
        with pytest.raises(ContractViolationError, match="Illegal Read"):
            ctx.transaction.state  # noqa: B018
        with pytest.raises(ContractViolationError, match="Illegal Write"):
            ctx.state.domain.a = 7
        return int(ctx.domain.a)

    assert engine.run_process(body) == 5
    assert engine.run_process(lambda ctx: isinstance(ctx.state, State)) is True
    for name in ("state", "transaction", "input", "local"):
        with pytest.raises(AttributeError, match=name):
            engine.run_process(lambda ctx, name=name: setattr(ctx, name, 1))


# ---- EFFECT -------------------------------------------------------------------------


def test_an_effect_writes_what_it_declares(engine: TheusEngine) -> None:
    @effect("domain.rows", "domain.user.name", "domain.tags", "global.limit")
    def body(ctx: Any) -> None:
        ctx.domain.rows[0]["x"] = 9
        ctx.domain.rows.append({"x": 3})
        ctx.domain.user.name = "ann"
        ctx.domain.tags |= {"blue"}
        ctx.global_.limit += 1

    engine.run_process(body)
    assert domain(engine) == {
        "a": 1, "b": 2, "rows": [{"x": 9}, {"x": 2}, {"x": 3}], "tags": {"red", "blue"},
        "user": {"name": "ann", "pin": 1234},
    }  # fmt: skip
    assert engine.state["global"] == {"limit": 11} and engine.version == 2


@pytest.mark.parametrize(
    ("write", "path"),
    [
        (lambda ctx: setattr(ctx.domain, "b", 0), ("domain", "b")),
        (lambda ctx: ctx.domain.update(new=1), ("domain", "new")),
        (lambda ctx: ctx.domain.shown.tags.add("evil"), ("domain", "shown", "tags")),
        (lambda ctx: ctx.domain.shown.rows[1].update(x=0), ("domain", "shown", "rows", 1, "x")),
        (lambda ctx: ctx.domain.shown.rows.append(1), ("domain", "shown", "rows")),
        (lambda ctx: ctx.domain.shown.pop("rows"), ("domain", "shown", "rows")),
        (lambda ctx: ctx.domain.pop("b"), ("domain", "b")),
        (lambda ctx: setattr(ctx, "domain", {"a": 5}), ("domain",)),
        (lambda ctx: ctx.__delitem__("domain"), ("domain",)),
        (lambda ctx: ctx.__setitem__("extra", {}), ("extra",)),
        (lambda ctx: ctx.transaction.set("shop.stock", 0), ("shop", "stock")),
        (lambda ctx: ctx.add("domain.b", 1), ("domain", "b")),
        (lambda ctx: ctx.append("domain.rows", 1), ("domain", "rows")),
        (lambda ctx: ctx.transaction.update({"domain": {"b": 4}}), ("domain", "b")),
    ],
)
def test_an_undeclared_write_is_refused_and_nothing_is_kept(
    engine: TheusEngine, write: Any, path: tuple[Any, ...]
) -> None:
    """However it is made: weakness 7 of an earlier program let some of these through."""

    engine.run(lambda tx: tx.set("domain.shown", {"tags": {"red"}, "rows": [{"x": 1}, {"x": 2}]}))

    @effect("domain.a", inputs=("domain.shown",))
    def sneaky(ctx: Any) -> None:
        ctx.domain.a = 99
        write(ctx)

    before = engine.state.to_dict()
    with pytest.raises(ContractViolationError, match="Illegal Write") as caught:
        engine.run_process(sneaky)
    error = caught.value
    assert error.path is not None and error.path[: len(path)] == path
    assert error.process == "sneaky" and error.declared == ("domain.a",)
    assert isinstance(error, PermissionError) and isinstance(error, SecurityViolationError)
    assert engine.state.to_dict() == before and engine.version == 2


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_process_cannot_end_its_transaction(engine: TheusEngine, end: str) -> None:
    """Else it could publish what nobody has checked, or go on without a transaction."""

    @effect("domain.b")
    def sneaky(ctx: Any, of_engine: bool) -> None:
        ctx.domain.b = 99
        getattr(engine.current() if of_engine else ctx.transaction, end)()

    @effect("domain.b")
    async def sneaky_async(ctx: Any) -> None:
        ctx.domain.b = 99
        getattr(ctx.transaction, end)()

    attempts = [
        lambda: engine.run_process(sneaky, False),
        lambda: engine.run_process(sneaky, True),
        lambda: engine.run(lambda tx: engine.run_process(sneaky, False)),
        lambda: asyncio.run(engine.execute(sneaky_async)),
    ]
    for attempt in attempts:
        with pytest.raises(TransactionError):
            attempt()
    assert engine.version == 1 and domain(engine)["b"] == 2


def test_a_refused_write_raises_where_it_is_made_and_fails_the_run(engine: TheusEngine) -> None:
    @effect("domain.a", "domain.user")
    def sneaky(ctx: Any) -> int:
        with pytest.raises(ContractViolationError, match=r"wrote domain\.b"):
            ctx.domain.b = 0
        with pytest.raises(ContractViolationError, match=r"read domain\.tags"):
            ctx.domain.tags  # noqa: B018
        ctx.domain.a = 5
        return 7

    with pytest.raises(ContractViolationError, match=r"wrote domain\.b"):
        engine.run_process(sneaky)
    assert engine.version == 1


@pytest.mark.parametrize("semantic", ["pure", "guide"])
@pytest.mark.parametrize(
    "write",
    [
        lambda ctx: ctx.domain.rows.__setitem__(0, 5),
        lambda ctx: ctx.domain.rows[0].__setitem__("x", 5),
        lambda ctx: setattr(ctx.domain.user, "name", "eve"),
        lambda ctx: ctx.domain.user.__delitem__("name"),
        lambda ctx: ctx.domain.rows.append(1),
    ],
)
def test_a_write_of_a_read_only_process_fails_the_run_though_it_is_swallowed(
    engine: TheusEngine, semantic: str, write: Any
) -> None:
    def body(ctx: Any) -> int:
        with pytest.raises(ContractViolationError, match="cannot write|may only read"):
            write(ctx)
        return 7

    def harmless(ctx: Any) -> int:
        with pytest.raises(FrozenError):
            ctx.domain.rows.freeze()[0] = 2
        return int(ctx.domain.rows.freeze().set(0, 5)[0])

    def declared(run: Any) -> Any:
        return process(inputs=["domain"], semantic=semantic)(run)

    with pytest.raises(ContractViolationError, match="cannot write|may only read"):
        engine.run_process(declared(body))
    assert engine.run_process(declared(harmless)) == 5 and engine.version == 1


def test_a_bare_process_declares_nothing(engine: TheusEngine) -> None:
    @process
    def bare(ctx: Any) -> Any:
        return ctx.domain

    with pytest.raises(ContractViolationError, match="Illegal Read"):
        engine.run_process(bare)
    assert engine.run_process(process(lambda ctx: 7)) == 7


def test_a_root_without_a_declared_path_is_not_read(engine: TheusEngine) -> None:
    for read in (
        lambda ctx: ctx.shop,
        lambda ctx: ctx["shop"],
        lambda ctx: "shop" in ctx,
        lambda ctx: ctx.global_,
    ):
        with pytest.raises(ContractViolationError, match="Illegal Read") as caught:
            engine.run_process(effect("domain.a", inputs=("domain.b",))(read))
        assert caught.value.declared == ("domain.b", "domain.a")


@pytest.mark.parametrize("name", ["get", "set", "delete", "merge", "update"])
def test_a_method_that_only_the_transaction_has(engine: TheusEngine, name: str) -> None:
    for run in (effect("domain"), lambda body: body):
        with pytest.raises(AttributeError, match=rf"ctx\.transaction\.{name}\(\)"):
            engine.run_process(run(lambda ctx: getattr(ctx, name)))


def test_wildcards_in_outputs(engine: TheusEngine) -> None:
    @effect("domain.*.name", "domain.log_*")
    def body(ctx: Any, key: str) -> None:
        ctx.domain.user.name = "eve"
        ctx.domain[key] = [1]

    engine.run_process(body, "log_app")
    assert domain(engine)["log_app"] == [1]
    with pytest.raises(ContractViolationError, match="secret"):
        engine.run_process(body, "secret")


def test_making_the_way_to_an_output_is_allowed(engine: TheusEngine) -> None:
    @effect("domain.stats.count", "heavy.big")
    def body(ctx: Any, **extra: int) -> None:
        ctx.domain.stats = {"count": 1, **extra}
        ctx.heavy = {"big": 5}

    with pytest.raises(ContractViolationError, match="stats"):
        engine.run_process(body, other=1)
    engine.run_process(body)
    assert domain(engine)["stats"] == {"count": 1} and engine.state["heavy"] == {"big": 5}
    with pytest.raises(ContractViolationError, match="stats"):
        engine.run_process(body)  # now it would replace what others may have put there


def test_a_function_without_contract_may_do_everything(engine: TheusEngine) -> None:
    def free(ctx: Any) -> int:
        ctx.domain.a += 1
        ctx.fresh = {"x": [1]}
        del ctx.shop
        return int(ctx.domain.user.pin)

    assert engine.run_process(free) == 1234
    assert engine.state["fresh"] == {"x": [1]} and "shop" not in engine.state.data


def test_deferred_operations_do_not_conflict(engine: TheusEngine) -> None:
    @effect("domain.a", "domain.rows")
    def count(ctx: Any, number: int) -> None:
        ctx.add("domain.a", 1)
        ctx.append(("domain", "rows"), number)

    def work(index: int) -> None:
        for number in range(50):
            engine.run_process(count, (index, number))

    run_threads(4, work)
    assert domain(engine)["a"] == 201 and len(domain(engine)["rows"]) == 202
    assert engine.stats().conflicts == 0


# ---- atomicity, conflicts, errors ---------------------------------------------------


@pytest.mark.parametrize("semantic", ["effect", "pure", "guide"])
def test_errors_of_the_body_go_on_unchanged(engine: TheusEngine, semantic: str) -> None:
    error = LookupError("mine")

    @process(semantic=semantic)
    def failing(ctx: Any) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        engine.run_process(failing)
    assert caught.value is error and error.__cause__ is None
    with pytest.raises(LookupError) as caught:
        asyncio.run(engine.execute(failing))
    assert caught.value is error and engine.version == 1


def conflicting(engine: TheusEngine, times: int, attempts: list[int]) -> Callable[[Any], int]:
    """Reads domain.a, which other threads change in its first attempts."""

    def body(ctx: Any) -> int:
        value = int(ctx.domain.a)
        attempts.append(value)
        if len(attempts) <= times:
            run_threads(1, lambda _: engine.run(lambda tx: tx.set("domain.a", value + 10)))
        return value + 100

    return body


def test_a_conflict_runs_an_effect_again_once(engine: TheusEngine) -> None:
    """Weakness 3 of an earlier program: the failed attempt was committed as well."""
    attempts: list[int] = []
    committed: list[int] = []
    inner = conflicting(engine, 1, attempts)

    @effect("domain.a", "domain.b")
    def body(ctx: Any) -> None:
        ctx.domain.b += 1
        ctx.local["attempt"] = len(ctx.local)
        assert ctx.local == {"attempt": 0}
        number = len(attempts)
        ctx.transaction.on_commit(lambda: committed.append(number))
        ctx.domain.a = inner(ctx)

    engine.run_process(body)
    assert attempts == [1, 11] and committed == [1]
    assert domain(engine)["a"] == 111 and domain(engine)["b"] == 3, "+1 once, not twice"


def test_a_pure_run_is_serializable(engine: TheusEngine) -> None:
    """What it read through views counts as read, also of containers and key sets."""
    attempts: list[int] = []
    body = conflicting(engine, 2, attempts)
    engine.run_process(pure("domain.a", outputs=("domain.b",))(body))
    assert attempts == [1, 11, 21] and domain(engine)["b"] == 121

    seen: list[int] = []

    @pure("domain.rows", outputs=("domain.b",))
    def deep(ctx: Any) -> int:
        seen.append(ctx.domain.rows[1].x)
        if len(seen) == 1:
            run_threads(1, lambda _: engine.run(lambda tx: tx.set("domain.rows[1].x", 50)))
        return seen[-1]

    engine.run_process(deep)
    assert seen == [2, 50] and domain(engine)["b"] == 50


def test_fields_beside_the_one_read_do_not_conflict(engine: TheusEngine) -> None:
    attempts: list[int] = []

    @pure("domain", outputs=("domain.b",))
    def body(ctx: Any) -> int:
        attempts.append(ctx.domain.a)
        run_threads(1, lambda _: engine.run(lambda tx: tx.set("domain.user.pin", 0)))
        return 5

    engine.run_process(body)
    assert attempts == [1] and engine.stats().rebases == 1


def test_snapshot_isolation_on_a_process(engine: TheusEngine) -> None:
    attempts: list[int] = []
    body = conflicting(engine, 1, attempts)
    snapshot = process(inputs=["domain.a"], outputs=["domain.b"], isolation="snapshot")(body)
    engine.run_process(snapshot)
    assert attempts == [1], "what was only read is not validated"


def test_a_run_without_change_makes_no_version(engine: TheusEngine) -> None:
    engine.run_process(effect("domain.a")(lambda ctx: None))
    engine.run_process(pure("domain.a")(lambda ctx: ctx.domain.a))
    asyncio.run(engine.execute(lambda ctx: None))
    assert engine.version == 1


# ---- nested processes ---------------------------------------------------------------


def test_a_nested_process_is_held_to_its_own_contract(engine: TheusEngine) -> None:
    @effect("domain.b")
    def inner(ctx: Any, value: int) -> None:
        ctx.domain.b = value

    @effect("domain.b")
    def sneaky(ctx: Any) -> None:
        ctx.domain.a = 5

    @pure("domain.b")
    def look(ctx: Any) -> int:
        return int(ctx.domain.b)

    @effect("domain.a", "domain.b")
    def outer(ctx: Any) -> int:
        ctx.domain.a = 7
        engine.run_process(inner, 8)
        with pytest.raises(ContractViolationError):
            engine.run_process(sneaky)
        assert ctx.domain.a == 7, "the inner run is undone, the outer goes on"
        return int(engine.run_process(look))

    assert engine.run_process(outer) == 8
    assert (domain(engine)["a"], domain(engine)["b"]) == (7, 8) and engine.version == 2


def test_the_outer_contract_covers_the_whole_run(engine: TheusEngine) -> None:
    @effect("domain.b")
    def inner(ctx: Any) -> None:
        ctx.domain.b = 0

    @effect("domain.a")
    def outer(ctx: Any) -> None:
        engine.run_process(inner)

    with pytest.raises(ContractViolationError, match=r"'outer' wrote domain\.b"):
        engine.run_process(outer)
    assert engine.version == 1


# ---- threads ------------------------------------------------------------------------


def test_one_process_in_many_threads() -> None:
    """One plan and one view class serve all threads at once; nothing gets mixed up."""
    engine = TheusEngine({"domain": {"n": 0, "cells": {str(i): 0 for i in range(4)}}})

    @effect("domain.n", "domain.cells")
    def count(ctx: Any, index: str) -> str:
        ctx.domain.n += 1
        ctx.domain.cells[index] += 1
        ctx.local["index"] = index
        return str(ctx.local["index"] + ctx.input["index"])

    @pure("domain.cells", outputs=("domain.cells",))
    def same(ctx: Any) -> Any:
        return ctx.domain.cells

    def work(index: int) -> None:
        for _ in range(100):
            assert engine.run_process(count, str(index)) == f"{index}{index}"
            engine.run_process(same)

    run_threads(4, work)
    assert engine.state["domain"] == {"n": 400, "cells": {str(i): 100 for i in range(4)}}


def test_plans_are_shared_by_engines_and_threads() -> None:
    @pure("domain.x", outputs=("domain.x",))
    def up(ctx: Any) -> int:
        return int(ctx.domain.x) + 1

    engines = [TheusEngine({"domain": {"x": i * 1000}}) for i in range(4)]
    run_threads(4, lambda i: [engines[i].run_process(up) for _ in range(100)])
    assert [engine.state["domain"]["x"] for engine in engines] == [100, 1100, 2100, 3100]


def test_a_process_may_end_in_another_thread_than_it_was_made() -> None:
    engine = TheusEngine({"domain": {"x": 1}})
    names: list[str] = []

    @pure("domain.x")
    def where(ctx: Any) -> None:
        names.append(threading.current_thread().name)

    asyncio.run(engine.execute(where))
    engine.run_process(where)
    assert names[1] == threading.current_thread().name != names[0]


def test_conflict_errors_name_the_process() -> None:
    engine = TheusEngine({"domain": {"a": 1}})

    @effect("domain.a")
    def rival(ctx: Any) -> int:
        return 7

    def body(tx: Any) -> None:
        tx.domain.a += 1
        run_threads(1, lambda _: engine.run_process(rival))

    with pytest.raises(ConflictError) as caught:
        engine.run(body, retries=0)
    assert caught.value.path == ("domain", "a")
    assert getattr(caught.value.winner, "process", None) == "rival"
