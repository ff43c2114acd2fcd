"""Namespaces and their policies, per engine, each flag by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from support import plain
from theus import NamespacePolicy, NamespaceRegistry, TheusEngine, process
from theus.context import BaseSystemContext, Namespace
from theus.errors import ContractViolationError

SHOP: dict[str, Any] = {"bal": 1, "rows": ["a"], "prices": {"x": 1}}
BODY = process(inputs=["shop"], outputs=["shop"])


def engine_with(policy: NamespacePolicy | None) -> TheusEngine:
    return TheusEngine({"domain": {}}, namespaces=[("shop", policy, SHOP)])


def only(*flags: str) -> NamespacePolicy:
    return NamespacePolicy(
        **{f"allow_{flag}": flag in flags for flag in ("read", "update", "delete", "append")}
    )


WRITES: dict[str, list[Callable[[Any], object]]] = {
    "update": [
        lambda shop: shop.__setitem__("bal", 2),
        lambda shop: shop.prices.__setitem__("x", 2),
        lambda shop: shop.rows.__setitem__(0, "b"),
        lambda shop: shop.__setitem__("prices", 5),
    ],
    "append": [
        lambda shop: shop.__setitem__("new", 2),
        lambda shop: shop.prices.__setitem__("y", 2),
        lambda shop: shop.rows.append("b"),
        lambda shop: shop.rows.extend(["b"]),
    ],
    "delete": [
        lambda shop: shop.__delitem__("bal"),
        lambda shop: shop.prices.pop("x"),
        lambda shop: shop.rows.pop(),
        lambda shop: shop.clear(),
    ],
}
CASES = [(flag, act) for flag, acts in WRITES.items() for act in acts]


@pytest.mark.parametrize(("flag", "act"), CASES)
def test_each_flag_allows_its_own(flag: str, act: Callable[[Any], object]) -> None:
    engine = engine_with(only("read", flag))
    engine.run_process(BODY(lambda ctx: act(ctx.shop) and None))
    assert engine.version == 2


@pytest.mark.parametrize(("flag", "act"), CASES)
def test_each_flag_refuses_its_own(flag: str, act: Callable[[Any], object]) -> None:
    engine = engine_with(only("read", *({"update", "delete", "append"} - {flag})))
    with pytest.raises(ContractViolationError, match="shop"):
        engine.run_process(BODY(lambda ctx: act(ctx.shop) and None))
    assert engine.version == 1 and plain(engine.state["shop"]) == SHOP


@pytest.mark.parametrize(("flag", "act"), CASES)
def test_nothing_is_allowed_without_a_flag(flag: str, act: Callable[[Any], object]) -> None:
    engine = engine_with(only("read"))
    with pytest.raises(ContractViolationError):
        engine.run(lambda tx: act(tx.shop))
    for change in (
        lambda tx: tx.delete("shop"),
        lambda tx: tx.set("shop", {}),
        lambda tx: tx.update({"shop": {"bal": 5}}),
    ):
        with pytest.raises(ContractViolationError):
            engine.run(change)
    with pytest.raises(ContractViolationError):
        engine.compare_and_swap(1, {"shop": {"bal": 5}})
    assert engine.version == 1


def test_without_read_no_process_reads() -> None:
    engine = engine_with(only("update", "append", "delete"))
    for look in (
        lambda ctx: ctx.shop.bal,
        lambda ctx: ctx.shop["rows"][0],
        lambda ctx: list(ctx.shop),
        lambda ctx: len(ctx.shop),
        lambda ctx: ctx.shop.to_dict(),
        lambda ctx: ctx.shop.get("bal"),
        lambda ctx: "bal" in ctx.shop,
        lambda ctx: ctx.state.shop.bal,
    ):
        for semantic in ("effect", "pure"):
            with pytest.raises(ContractViolationError, match="^Illegal Read: .*shop"):
                engine.run_process(process(inputs=["shop"], semantic=semantic)(look))

    @process(outputs=["shop.bal"])
    def write(ctx: Any) -> int:
        return 7

    engine.run_process(write)
    assert engine.state["shop"]["bal"] == 7


def test_no_policy_allows_everything_and_the_default_one_no_deletion() -> None:
    for _, act in CASES:
        engine_with(None).run(lambda tx, act=act: act(tx.shop))
    assert NamespacePolicy() == only("read", "update", "append")
    assert NamespacePolicy().to_caps() == 1 | 2 | 4


def test_zones_hold_in_a_namespace_too() -> None:
    engine = TheusEngine(
        namespaces=[("shop", NamespacePolicy(allow_delete=True), {"log_l": [1], "x": 1})]
    )
    engine.run(lambda tx: (tx.shop.log_l.append(2), tx.shop.pop("x")))
    with pytest.raises(ContractViolationError):
        engine.run(lambda tx: tx.shop.log_l.clear())


def test_policies_are_of_one_engine() -> None:
    """Weakness 22."""
    strict, free = engine_with(only("read")), engine_with(None)
    assert engine_with(only("read", "delete")).version == 1
    with pytest.raises(ContractViolationError):
        strict.run(lambda tx: tx.shop.clear())
    free.run(lambda tx: tx.shop.clear())


def test_a_failing_run_leaves_a_namespace_alone() -> None:
    """28.2, row 31: both changes stayed at the old version."""
    engine = engine_with(None)

    def body(ctx: Any) -> None:
        ctx.shop.bal = 42
        ctx.shop.rows.append("leak")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        engine.run_process(BODY(body))
    assert engine.version == 1 and plain(engine.state["shop"]) == SHOP


def test_the_registry() -> None:
    registry = NamespaceRegistry()
    policy = only("read")
    registry.register("shop", policy, {"bal": 1})
    registry.register("bank")
    with pytest.raises(ValueError, match="'shop'"):
        registry.register("shop")
    with pytest.raises(TypeError, match="NamespacePolicy"):
        registry.register("x", policy="none")  # type: ignore[arg-type]
    assert registry.get_policy("shop") is policy and registry.get_policy("bank") is None
    assert registry.resolve_path("shop.a.b") == ("shop", "a.b")
    assert registry.resolve_path("domain.a") == ("default", "domain.a")
    assert registry.resolve_path("shop") == ("default", "shop")
    assert registry.get_all_data() == {"shop": {"bal": 1}, "bank": {}}
    assert len(registry) == 2 and "bank" in registry
    engine = TheusEngine(namespaces=registry)
    registry.clear()
    assert len(registry) == 0 and engine.state.to_dict() == {"shop": {"bal": 1}, "bank": {}}
    with pytest.raises(ContractViolationError):
        engine.run(lambda tx: tx.shop.clear())
    assert TheusEngine(namespaces=registry).state.to_dict() == {}


def test_declared_in_a_system_context() -> None:
    @dataclass
    class Shop:
        bal: int = 1
        rows: list[str] = field(default_factory=list)

    @dataclass
    class System(BaseSystemContext):
        shop = Namespace(Shop, only("read", "append"))

    first, second = System(domain={"a": 1}), System()
    first.shop.bal = 5
    assert (first.shop.bal, second.shop.bal) == (5, 1) and System.shop.cls is Shop
    engine = TheusEngine(first)
    assert engine.state["shop"].bal == 5 and engine.state["domain"] == {"a": 1}
    engine.run(lambda tx: tx.shop.rows.append("x"))
    with pytest.raises(ContractViolationError):
        engine.run(lambda tx: setattr(tx.shop, "bal", 6))
    with pytest.raises(TypeError, match="Namespace"):
        Namespace({})  # type: ignore[arg-type]
