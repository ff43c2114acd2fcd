"""A process that wants more than it declared, and what a guard says to everybody else.

Each trick tries to change state that its contract does not list. It may be refused where it
is tried, or its run fails, or it comes to nothing; what it must not do is to publish.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pytest

import theus.outputs
import theus.plan
from processes import effect, pure, small_engine
from theus import StateUpdate, TheusEngine, Transaction, process
from theus._theus import Scope, close_context, open_context
from theus.errors import ContractViolationError, TheusError, TransactionError
from theus.scope import EVERYTHING

TRICKS: list[Callable[..., Any]] = []


def trick(act: Callable[..., Any]) -> Callable[..., Any]:
    """Part of the corpus: called with the context and the engine, which a closure might hold."""
    TRICKS.append(act)
    return act


for plainly in (
    lambda ctx, engine: setattr(ctx.domain, "b", 0),
    lambda ctx, engine: ctx.domain.__setitem__("b", 0),
    lambda ctx, engine: ctx.domain.update({"a": 1, "b": 0}),
    lambda ctx, engine: ctx.domain.setdefault("new", 1),
    lambda ctx, engine: ctx.domain.__ior__({"b": 0}),
    lambda ctx, engine: ctx.domain.pop("b"),
    lambda ctx, engine: ctx.domain.popitem(),
    lambda ctx, engine: ctx.domain.clear(),
    lambda ctx, engine: delattr(ctx.domain, "b"),
    lambda ctx, engine: ctx.domain.rows.append(1),
    lambda ctx, engine: ctx.domain.rows.__setitem__(slice(None), []),
    lambda ctx, engine: ctx.domain.rows.__iadd__([1]),
    lambda ctx, engine: ctx.domain.rows.__imul__(2),
    lambda ctx, engine: ctx.domain.rows.reverse(),
    lambda ctx, engine: ctx.domain.rows.sort(key=lambda row: -row["x"]),
    lambda ctx, engine: next(iter(ctx.domain.rows)).update(x=9),
    lambda ctx, engine: ctx.domain.rows[-1].__setitem__("x", 9),
    lambda ctx, engine: ctx.domain.tags.add("blue"),
    lambda ctx, engine: ctx.domain.tags.pop(),
    lambda ctx, engine: ctx.domain.tags.__ixor__({"red", "blue"}),
    lambda ctx, engine: ctx.domain.tags.intersection_update(set()),
    lambda ctx, engine: setattr(ctx, "domain", {"a": 1}),
    lambda ctx, engine: ctx.__delitem__("shop"),
    lambda ctx, engine: ctx.__setitem__("fresh", {}),
    lambda ctx, engine: ctx.add("domain.b", 1),
    lambda ctx, engine: ctx.append("domain.rows", 1),
    lambda ctx, engine: ctx.data["domain"].update(b=0),
    lambda ctx, engine: ctx.data.update(shop={}),
    lambda ctx, engine: ctx.data.clear(),
    lambda ctx, engine: ctx.tx.set("domain.b", 0),
    lambda ctx, engine: ctx.transaction.set("domain.b", 0),
    lambda ctx, engine: ctx.transaction.delete("domain.b"),
    lambda ctx, engine: ctx.transaction.update({"domain": {"a": 1, "b": 0}}),
    lambda ctx, engine: ctx.transaction.merge("domain.b", 1, lambda old, new: 0),
    lambda ctx, engine: ctx.transaction.restore(engine.state),
    lambda ctx, engine: setattr(ctx.transaction.domain, "b", 0),
    lambda ctx, engine: setattr(ctx.transaction, "domain", {}),
    lambda ctx, engine: engine.current().set("domain.b", 0),
    lambda ctx, engine: engine.run(lambda tx: tx.set("domain.b", 0)),
    lambda ctx, engine: engine.run_process(lambda inner: setattr(inner.domain, "b", 0)),
    lambda ctx, engine: engine.run_process(effect("domain")(lambda c: setattr(c.domain, "b", 0))),
    lambda ctx, engine: engine.run_process(effect("domain.b")(lambda inner: 0)),
    lambda ctx, engine: type(ctx.domain).__setitem__(ctx.domain, "b", 0),
    lambda ctx, engine: dict.__setitem__(ctx.domain, "b", 0),
    lambda ctx, engine: object.__setattr__(ctx, "scope", None),
    lambda ctx, engine: vars(ctx).clear(),
    lambda ctx, engine: setattr(ctx, "__class__", dict),
    lambda ctx, engine: copy.deepcopy(ctx.domain.rows).append(1),
    lambda ctx, engine: pickle.loads(pickle.dumps(ctx.domain.rows)).append(1),
    lambda ctx, engine: ctx.domain.rows.__reduce_ex__(2)[1][0].append(1),
    lambda ctx, engine: setattr(ctx.state.domain, "b", 0),
    lambda ctx, engine: {"domain.b": 0},
    lambda ctx, engine: StateUpdate(key="domain.b", val=0),
    lambda ctx, engine: StateUpdate(data={("domain", "b"): 0}),
):
    trick(plainly)


@trick
def a_savepoint(ctx: Any, engine: Any) -> None:
    with ctx.transaction.savepoint() as tx:
        tx.set("domain.b", 0)


@trick
def a_transaction_that_joins(ctx: Any, engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain.b = 0


@trick
def commits_itself(ctx: Any, engine: Any) -> None:
    with contextlib.suppress(ContractViolationError):
        ctx.domain.b = 0
    ctx.transaction.commit()


@trick
def what_the_context_refers_to(ctx: Any, engine: Any) -> None:
    for found in gc.get_referents(ctx):
        if isinstance(found, Transaction):
            found.set("domain.b", 0)


@trick
def who_refers_to_the_context(ctx: Any, engine: Any) -> None:
    for found in gc.get_referrers(ctx):
        if isinstance(found, types.FrameType) and "tx" in found.f_locals:
            found.f_locals["tx"].set("domain.b", 0)


@trick
def walks_the_frames(ctx: Any, engine: Any) -> None:
    frame: Any = sys._getframe()
    while frame is not None and "tx" not in frame.f_locals:
        frame = frame.f_back
    frame.f_locals["tx"].set("domain.b", 0)


def plan_of(ctx: Any) -> Any:
    return next(found for found in gc.get_referents(ctx) if isinstance(found, theus.plan.Plan))


@trick
def changes_its_plan(ctx: Any, engine: Any) -> None:
    plan = plan_of(ctx)
    plan.bound = plan.scope = None
    plan.outputs = theus.outputs.Outputs("any", ("domain",), Scope((), (EVERYTHING,)))
    ctx.transaction.set("domain.b", 0)


@trick
def returns_through_another_plan(ctx: Any, engine: Any) -> Any:
    plan = plan_of(ctx)
    plan.outputs = theus.outputs.Outputs("any", ("domain.b",), Scope((), (EVERYTHING,)))
    plan.single = ("domain", "b")
    return 0


@trick
def opens_a_wide_context(ctx: Any, engine: Any) -> None:
    everything = Scope((EVERYTHING,), (EVERYTHING,))
    wide = open_context(engine.current(), plan_of(ctx), everything, None, (), {})
    wide.domain.b = 0


@trick
def closes_its_context(ctx: Any, engine: Any) -> None:
    tx = engine.current()
    close_context(ctx, None)
    tx.set("domain.b", 0)


@trick
def a_plan_of_its_own(ctx: Any, engine: Any) -> None:
    wide = theus.plan.plan_of(effect("domain")(lambda inner: setattr(inner.domain, "b", 0)))
    wide.attempt(engine.current(), engine, (), {})


@trick
def replaces_the_settling(ctx: Any, engine: Any) -> Any:
    kind = type(plan_of(ctx))
    old = kind.settle

    def settle(self: Any, engine: Any, tx: Any, result: Any) -> None:
        kind.settle = old
        tx.set("domain.b", 0)

    kind.settle = settle
    return [1]


@trick
def threads_with_the_context(ctx: Any, engine: Any) -> None:
    def work() -> None:
        with contextlib.suppress(TheusError):
            ctx.domain.b = 0

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@trick
def threads_with_the_transaction(ctx: Any, engine: Any) -> None:
    tx = engine.current()

    def work() -> None:
        with contextlib.suppress(TheusError):
            tx.domain.b = 0

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@trick
def a_draft_from_before(ctx: Any, engine: Any) -> None:
    FREE[0].b = 0


FREE: list[Any] = []


@trick
def a_key_that_lies(ctx: Any, engine: Any) -> None:
    class Liar(str):
        __slots__ = ("answers",)

        def __hash__(self) -> int:
            return hash("a") if not TURNS or TURNS.pop() else hash("b")

        def __eq__(self, other: object) -> bool:
            return True

    TURNS[:] = [False, True]
    ctx.domain[Liar("b")] = 0


TURNS: list[bool] = []


@trick
def a_key_that_writes_when_it_is_compared(ctx: Any, engine: Any) -> None:
    tx = engine.current()

    class Key:
        def __hash__(self) -> int:
            return hash("x")

        def __eq__(self, other: object) -> bool:
            with contextlib.suppress(TheusError):
                tx.domain.b = 0
            return self is other

    ctx.domain.a = {Key(): 1, "x": 2}
    ctx.domain.a[Key()] = 3


@trick
def a_finalizer(ctx: Any, engine: Any) -> None:
    class Last:
        def __del__(self) -> None:
            with contextlib.suppress(TheusError):
                ctx.domain.b = 0

    Last()


@trick
def a_weak_callback(ctx: Any, engine: Any) -> None:
    def gone(_: object) -> None:
        with contextlib.suppress(TheusError):
            ctx.domain.b = 0

    KEPT.append(weakref.ref(ctx, gone))


KEPT: list[Any] = []


@trick
def a_resolver(ctx: Any, engine: Any) -> None:
    def resolve(old: Any, new: Any) -> Any:
        with contextlib.suppress(TheusError):
            ctx.domain.b = 0
        return new

    ctx.transaction.merge("domain.a", 5, resolve)


@trick
def after_the_commit(ctx: Any, engine: Any) -> None:
    def late() -> None:
        with contextlib.suppress(TheusError):
            ctx.domain.b = 0

    ctx.transaction.on_commit(late)


@trick
def a_generator(ctx: Any, engine: Any) -> Any:
    def steps() -> Iterator[None]:
        yield
        ctx.domain.b = 0

    KEPT.append(steps())
    next(KEPT[-1])


def others(engine: TheusEngine) -> Any:
    """All of the state but what the tricks may write."""
    state = engine.state.to_dict()
    state.get("domain", {}).pop("a", None)
    return state


def run_trick(engine: TheusEngine, body: Any) -> None:
    with contextlib.suppress(TheusError, TypeError, AttributeError, StopIteration, LookupError):
        engine.run_process(body, engine)
    for left in KEPT:
        if isinstance(left, types.GeneratorType):
            with contextlib.suppress(TheusError, StopIteration):
                next(left)
    KEPT.clear()


CORPUS = pytest.mark.parametrize("act", TRICKS, ids=lambda act: act.__name__.strip("<>"))


@CORPUS
@pytest.mark.parametrize("swallow", [False, True])
def test_no_trick_of_an_effect_publishes_more_than_it_declared(act: Any, swallow: bool) -> None:
    engine = small_engine()
    before = others(engine)
    FREE[:] = [engine.run(lambda tx: tx.domain)]

    def make() -> Any:  # a new one for each run: a trick may have changed the plan of the last
        @effect("domain.a", inputs=("domain.rows", "domain.tags"))
        def body(ctx: Any, engine: Any) -> Any:
            with contextlib.suppress(*(Exception,) if swallow else ()):
                return act(ctx, engine)

        return body

    run_trick(engine, make())
    assert others(engine) == before
    with engine.transaction() as outer:  # a draft of a transaction that it joins
        FREE[:] = [outer.domain]
        with contextlib.suppress(Exception):
            engine.run_process(make(), engine)
        assert outer.domain.b == 2 and outer.domain.rows == [{"x": 1}, {"x": 2}]


@CORPUS
@pytest.mark.parametrize("semantic", ["pure", "guide"])
def test_no_trick_of_a_reader_publishes_anything(act: Any, semantic: str) -> None:
    engine = small_engine()
    before = engine.state.to_dict()
    FREE[:] = [engine.run(lambda tx: tx.domain)]

    @process(inputs=["domain.a", "domain.rows", "domain.tags"], semantic=semantic)
    def body(ctx: Any, engine: Any) -> Any:
        return act(ctx, engine)

    run_trick(engine, body)
    assert engine.state.to_dict() == before


def test_the_corpus_is_large_enough_and_runs_where_nothing_is_declared_to_hold_it() -> None:
    """Without a contract most tricks do change the state: they are not harmless by accident."""
    changed = 0
    for act in TRICKS:
        engine = small_engine()
        before = others(engine)
        FREE[:] = [engine.run(lambda tx: tx.domain)]
        run_trick(engine, lambda ctx, engine, act=act: act(ctx, engine))
        changed += others(engine) != before
    assert len(TRICKS) >= 40 and changed >= 40


# ---- across awaits ---------------------------------------------------------------------


def test_a_view_kept_across_awaits_keeps_its_guard() -> None:
    engine = small_engine()

    @effect("domain.a", inputs=("domain.rows",))
    async def body(ctx: Any) -> None:
        view, rows = ctx.domain, ctx.domain.rows
        await asyncio.sleep(0)
        with pytest.raises(ContractViolationError, match=r"wrote domain\.b"):
            view.b = 0
        await asyncio.sleep(0)
        with pytest.raises(ContractViolationError, match=r"wrote domain\.rows"):
            rows.append(1)

    with pytest.raises(ContractViolationError, match=r"wrote domain\.b"):
        asyncio.run(engine.execute(body))
    assert engine.version == 1


def test_a_guard_comes_back_after_a_nested_run() -> None:
    engine = small_engine()

    @effect("domain.b")
    def inner(ctx: Any) -> None:
        ctx.domain.b += 1
        with pytest.raises(ContractViolationError):
            ctx.domain.a  # noqa: B018

    @effect("domain")
    def outer(ctx: Any) -> int:
        ctx.domain.a = 5
        engine.run_process(inner)
        engine.run(lambda tx: tx.set("domain.a", tx.get("domain.a") + 1))
        with pytest.raises(ContractViolationError, match="'outer' read shop"):
            ctx.transaction.get("shop.stock")
        return int(ctx.domain.b)

    assert engine.run_process(outer) == 3 and engine.state["domain"]["a"] == 6


def test_a_refusal_that_a_nested_run_swallows_is_its_own() -> None:
    engine = small_engine()

    @effect("domain.b")
    def inner(ctx: Any) -> None:
        with pytest.raises(ContractViolationError):
            ctx.domain.a = 0

    @effect("domain")
    def outer(ctx: Any) -> None:
        with pytest.raises(ContractViolationError, match="'inner' wrote"):
            engine.run_process(inner)
        ctx.domain.a = 9

    engine.run_process(outer)
    assert engine.state["domain"]["a"] == 9


# ---- what is not a trick ------------------------------------------------------------------


def test_a_guarded_draft_behaves_as_its_builtin_within_its_contract() -> None:
    engine = small_engine()

    @effect("domain.user.name", inputs=("domain.rows.*.x", "domain.tags.red", "global"))
    def body(ctx: Any) -> None:
        user = ctx.domain.user
        assert user.get("name") == "bob" and user["name"] == user.pop("name")
        assert "name" not in user and user.setdefault("name", "ann") == "ann"
        user |= {"name": "eve"}
        assert [row.x for row in ctx.domain.rows] == [1, 2] and len(ctx.domain.rows) == 2
        assert [row["x"] for row in ctx.domain.rows[::-1]] == [2, 1]
        assert "red" in ctx.domain.tags
        match ctx.global_:
            case {"limit": limit}:
                assert limit == 10
        assert dict(ctx.global_) == {"limit": 10} == {**ctx.global_}
        assert isinstance(user, Mapping) and isinstance(ctx.domain.rows, Sequence)
        assert isinstance(ctx.domain.tags, Set) and "refused" not in repr(ctx.global_)
        assert "Illegal Read" in repr(user), "a text like any other: debuggers ask for it"

    engine.run_process(body)
    assert engine.state["domain"]["user"] == {"name": "eve", "pin": 1234}


@dataclass
class Order:
    total: int = 1
    secret: str = "s"

    def doubled(self) -> int:
        return self.total * 2

    def bump(self) -> None:
        self.total += 1
        self.secret = "changed"


def test_a_record_is_guarded_by_field_in_its_own_methods_too() -> None:
    engine = TheusEngine({"domain": {"order": Order()}})

    def runs(semantic: str, output: str, act: Callable[[Any], Any]) -> Any:
        outputs = [output] if semantic == "effect" else []
        return engine.run_process(
            process(inputs=["domain.order.total"], outputs=outputs, semantic=semantic)(act)
        )

    seen: list[int] = []
    for semantic in ("effect", "pure"):
        runs(semantic, "domain.order.total", lambda ctx: seen.append(ctx.domain.order.doubled()))
        assert seen.pop() == 2
        for act in (
            lambda ctx: ctx.domain.order.secret,
            lambda ctx: ctx.domain.order == Order(),
            lambda ctx: copy.copy(ctx.domain.order),
            lambda ctx: pickle.dumps(ctx.domain.order),
            lambda ctx: ctx.domain.order,
            lambda ctx: ctx.domain.order.bump(),
        ):
            with pytest.raises(ContractViolationError):
                runs(semantic, "domain.order.total", act)
    runs("effect", "domain.order.total", lambda ctx: setattr(ctx.domain.order, "total", 5))
    assert engine.state["domain"]["order"] == Order(5) and engine.version == 2
    runs("effect", "domain.order", lambda ctx: ctx.domain.order.bump())
    assert engine.state["domain"]["order"] == Order(6, "changed")


def test_a_draft_that_remembers_a_child_forgets_it_in_time() -> None:
    """Reading the same container twice gives the same draft, unless another stands there."""
    engine = small_engine()

    @effect("domain", "shop")
    def body(ctx: Any) -> None:
        domain = ctx.domain
        user = domain.user
        assert domain.user == user
        domain.user = {"name": "ann"}
        assert domain.user == {"name": "ann"} and user.name == "bob", "the old one lives on"
        with contextlib.suppress(ZeroDivisionError), ctx.transaction.savepoint():
            domain.user = {"name": "eve"}
            inside = domain.user
            raise ZeroDivisionError
        assert domain.user.name == "ann"
        with pytest.raises(TransactionError):
            inside.name  # noqa: B018
        del domain["user"]
        with pytest.raises(AttributeError):
            domain.user  # noqa: B018
        ctx.append("domain.rows", {"x": 3})
        assert len(domain.rows) == 3
        ctx.domain = {"rows": []}
        assert ctx.domain.rows == [] and len(domain.rows) == 3

    engine.run_process(body)
    assert engine.state["domain"] == {"rows": []}


@pytest.mark.parametrize("semantic", ["pure", "effect", "guide"])
def test_pydantic_takes_a_root(semantic: str) -> None:
    pydantic = pytest.importorskip("pydantic")

    class User(pydantic.BaseModel):
        name: str
        pin: int

    class Domain(pydantic.BaseModel):
        a: int
        user: User
        tags: set[str]

    @process(inputs=["domain"], semantic=semantic)
    def body(ctx: Any) -> Any:
        return Domain.model_validate(ctx.domain).model_dump()

    assert small_engine().run_process(body) == {
        "a": 1, "user": {"name": "bob", "pin": 1234}, "tags": {"red"},
    }  # fmt: skip


def test_lenient_guards_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="theus"):
        engine = TheusEngine({"domain": {"a": 1, "b": 2}}, strict_guards=False)
        for _ in range(3):
            assert engine.run_process(pure("domain.a")(lambda ctx: ctx.domain.b)) == 2
            assert engine.run_process(effect("domain.a")(lambda ctx: ctx.domain.b)) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "strict_guards=False: processes may read what they have not declared; writes are checked"
    ]


def test_a_context_of_an_ended_run_says_so() -> None:
    kept: list[Any] = []
    engine = small_engine()
    engine.run_process(effect("domain.a")(lambda ctx: kept.append((ctx, ctx.domain))))
    for use in (
        lambda: kept[0][0].domain,
        lambda: kept[0][0]["domain"],
        lambda: setattr(kept[0][0], "domain", {}),
        lambda: kept[0][1].a,
        lambda: setattr(kept[0][1], "b", 1),
    ):
        with pytest.raises(TransactionError):
            use()
    assert "context of process" in repr(kept[0][0])
