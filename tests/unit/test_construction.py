"""Making an engine, ending it, and asking it for figures."""

from __future__ import annotations

import asyncio
import copy
import pickle
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from helpers import run_threads
from processes import effect, small_engine
from theus import ClosedError, ConflictError, TheusEngine, TransactionError


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


# ---- construction -------------------------------------------------------------------


def test_every_key_of_a_context_is_kept() -> None:
    engine = TheusEngine(
        {"domain": {"log_x": 1, "meta_y": 2}, "global_ctx": {"g": 1}, "orders": [1], "n": 5}
    )
    assert engine.state.to_dict() == {
        "domain": {"log_x": 1, "meta_y": 2}, "global": {"g": 1}, "orders": [1], "n": 5,
    }  # fmt: skip
    assert engine.version == 1 and TheusEngine().version == 0 == TheusEngine({}).version


def test_a_context_is_copied() -> None:
    data = {"domain": {"rows": [1]}}
    engine = TheusEngine(data)
    data["domain"]["rows"].append(2)
    data["domain"]["x"] = []
    assert engine.state["domain"] == {"rows": [1]}


@pytest.mark.parametrize("way", ["to_dict", "model_dump"])
def test_contexts_that_can_be_dumped(way: str) -> None:
    context = type("Context", (), {way: lambda self: {"domain": {"x": 1}}})()
    assert TheusEngine(context).state["domain"] == {"x": 1}


@dataclass
class Shop:
    stock: int = 0
    log_moves: list[int] = field(default_factory=list)
    _till: int = 5

    def sell(self, count: int) -> None:
        self.stock -= count
        self.log_moves.append(-count)


@dataclass
class System:
    kind: ClassVar[str] = "no field"
    domain: Shop = field(default_factory=Shop)
    global_ctx: Any = None
    orders: list[int] = field(default_factory=lambda: [1])
    nothing: Any = None

    def to_dict(self) -> Any:
        raise AssertionError("a dump would lose the types")


def test_a_typed_context_hydrates_whole_and_is_given_back_typed() -> None:
    mine = System(Shop(3))
    engine = TheusEngine(mine)
    assert engine.state.to_dict() == {
        "domain": Shop(3), "global": {}, "orders": [1], "nothing": None,
    }  # fmt: skip

    @effect("domain", "global")
    def sell(ctx: Any, count: int) -> Any:
        assert isinstance(ctx.domain, Shop)
        ctx.domain.sell(count)
        ctx.global_.seen = ctx.domain._till
        return None

    engine.run_process(sell, 2)
    shop = engine.state.domain
    assert isinstance(shop, Shop) and shop == Shop(1, [-2])
    assert type(shop.to_object()) is Shop and engine.state["global"] == {"seen": 5}
    assert mine == System(Shop(3)), "the caller's own is copied"


def test_a_pydantic_context_is_typed_too() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    Domain = pydantic.create_model("Domain", count=(int, 0), log_x=(list[int], []))
    Context = pydantic.create_model(
        "Context", __config__={"extra": "allow"}, domain=(Domain, Domain()), global_ctx=(dict, {})
    )
    engine = TheusEngine(Context(domain=Domain(count=3), extra=[1]))
    assert set(engine.state.data) == {"domain", "global", "extra"}
    engine.run_process(effect("domain.count")(lambda ctx: ctx.domain.count + 1))
    back = engine.state.domain.to_object()
    assert type(back) is Domain and back == Domain(count=4)


def test_a_state_is_a_view_of_one_version(engine: TheusEngine) -> None:
    before = engine.state
    engine.run(lambda tx: tx.set("domain.a", 50))
    assert (before.domain.a, before.version) == (1, 1)
    assert (engine.state.domain.a, engine.state.version) == (50, 2)


def test_a_closed_engine_compares_states_and_no_versions(engine: TheusEngine) -> None:
    first = engine.state
    engine.run(lambda tx: tx.set("domain.a", 50))
    engine.close()
    assert [change.path for change in engine.diff(first)] == [("domain", "a")]
    for a, b in ((1, 2), (1, None)):
        with pytest.raises(ClosedError):
            engine.diff(a, b)


# ---- edit -----------------------------------------------------------------------------


def test_edit_is_a_transaction(engine: TheusEngine) -> None:
    with engine.edit() as ctx:
        ctx.domain.a = 5
        ctx.domain_ctx.rows.append({"x": 3})
        ctx.global_.limit += 1
        ctx.fresh = {"y": 1}
        assert engine.state.domain.a == 1 and ctx.input == {}
    assert engine.version == 2 and engine.state.domain.a == 5
    assert engine.state["global"] == {"limit": 11} and engine.state["fresh"] == {"y": 1}
    assert engine.records()[0][-1].process == "edit"


def test_an_edit_that_raises_leaves_nothing(engine: TheusEngine) -> None:
    """Weakness 23 of an earlier program: it kept what was written, and swallowed the error."""
    before = engine.state
    with pytest.raises(LookupError, match="mine"), engine.edit() as ctx:
        ctx.domain.a = 5
        ctx.domain.rows[0]["x"] = 9
        raise LookupError("mine")
    assert engine.state == before and engine.version == 1
    with pytest.raises(TransactionError):
        ctx.domain.a  # noqa: B018
    with pytest.raises(ConflictError), engine.edit() as ctx:
        ctx.domain.b = ctx.domain.a
        run_threads(1, lambda _: engine.run(lambda tx: tx.set("domain.a", 7)))
    assert engine.state.domain.b == 2
    with pytest.raises(TransactionError), engine.edit() as ctx:
        ctx.transaction.commit()


def test_an_edit_of_a_typed_context_is_held_to_its_class() -> None:
    engine = TheusEngine(System(Shop(3)))

    async def main() -> None:
        async with engine.edit() as ctx:
            ctx.domain.sell(1)

    asyncio.run(main())
    assert engine.state.domain == Shop(2, [-1])


def test_contexts_that_cannot_be_taken() -> None:
    with pytest.raises(TypeError, match=r"a dict of roots.* not a object: <object"):
        TheusEngine(object())
    with pytest.raises(TypeError, match="5"):
        TheusEngine({5: {}})
    with pytest.raises(ValueError, match="'global'"):
        TheusEngine({"global": {"a": 1}, "global_": {"a": 2}})
    with pytest.raises(TypeError, match="to_dict"):
        TheusEngine(type("Context", (), {"to_dict": lambda self: [1]})())


def test_a_state_begins_another_engine_and_an_engine_is_not_copied(engine: TheusEngine) -> None:
    again = pickle.loads(pickle.dumps(engine.state))
    assert TheusEngine(again).state == engine.state
    for way in pickle.dumps, copy.copy, copy.deepcopy:
        with pytest.raises(TypeError, match=r"TheusEngine\(state\)"):
            way(engine)


def test_namespaces_become_roots() -> None:
    engine = TheusEngine(
        {"domain": {}},
        namespaces=[{"name": "shop", "data": {"stock": 1}}, ("bank",), ("mail", None, [1])],
    )
    assert engine.state.to_dict() == {
        "domain": {}, "shop": {"stock": 1}, "bank": {}, "mail": [1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("namespace", "error", "word"),
    [
        ({"name": "domain"}, ValueError, "'domain'"),
        ({"data": {}}, ValueError, "no name"),
        ({"name": "x", "dta": {}}, ValueError, "'dta'"),
        ("shop", TypeError, "'shop'"),
        ((), TypeError, "()"),
        ({"name": "shop", "policy": "none"}, TypeError, "NamespacePolicy"),
    ],
)
def test_bad_namespaces(namespace: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error) as caught:
        TheusEngine({"domain": {}}, namespaces=[namespace])
    assert word in str(caught.value)


def test_what_comes_later_is_refused_not_ignored() -> None:
    with pytest.raises(NotImplementedError, match="audit_recipe"):
        TheusEngine(audit_recipe="recipe.yaml")


def test_write_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THEUS_WRITE_TIMEOUT_MS", raising=False)
    assert TheusEngine().write_timeout_ms == 300_000
    assert TheusEngine().transaction().write_timeout_ms == 5000
    monkeypatch.setenv("THEUS_WRITE_TIMEOUT_MS", "1234")
    assert TheusEngine().write_timeout_ms == 1234
    assert TheusEngine(write_timeout_ms=7).write_timeout_ms == 7
    for text in ("", "soon", "-5", "0", "1.5"):
        monkeypatch.setenv("THEUS_WRITE_TIMEOUT_MS", text)
        with pytest.raises(ValueError, match="THEUS_WRITE_TIMEOUT_MS") as caught:
            TheusEngine()
        assert text in str(caught.value)
    for value in (0, -1, 1.5, True, "5"):
        with pytest.raises(ValueError, match="write_timeout_ms"):
            TheusEngine(write_timeout_ms=value)  # type: ignore[arg-type]


def test_an_engine_is_closed_by_its_block() -> None:
    with TheusEngine({"domain": {}}) as engine:
        assert "domain" in repr(engine)
    assert engine.closed and "closed" in repr(engine)

    async def main() -> TheusEngine:
        async with TheusEngine() as engine:
            return engine

    assert asyncio.run(main()).closed


def test_close_ends_everything_whatever_a_listener_raises(engine: TheusEngine) -> None:
    def wake() -> None:
        raise ZeroDivisionError

    array = engine.heavy.alloc("a", (10,), "f8")
    pool = engine.get_pool("threads")
    engine.listen(wake)
    with pytest.raises(ZeroDivisionError):
        engine.close()
    assert engine.closed
    with pytest.raises(ClosedError):
        pool.submit(abs, -1)
    with pytest.raises(ClosedError):
        engine.heavy.alloc("b", (10,), "f8")
    assert array.sum() == 0


def test_figures_and_history(engine: TheusEngine) -> None:
    engine.run_process(effect("domain.a")(lambda ctx: 5))
    engine.run_process(effect("domain.b")(lambda ctx: 6))
    changes = {change.path: (change.old, change.new) for change in engine.diff(1, 3)}
    assert changes == {("domain", "a"): (1, 5), ("domain", "b"): (2, 6)}
    assert [change.path for change in engine.diff(2)] == [("domain", "b")]
    origin = engine.provenance("domain.a")
    assert origin is not None and origin.version == 2
    stats = engine.stats()
    assert (stats.version, stats.commits, stats.conflicts) == (3, 2, 0)
    assert stats.history_versions == 3 and stats.ring_lost == 0 and stats.ring_capacity >= 1024
    with pytest.raises(AttributeError):
        stats.commits = 0  # type: ignore[misc]
