"""What was observed of the engine that came before, row by row, with the right result.

The numbers are those of the list of observations. Rows about auditing and schemas (35 to 38, 40)
are not here: neither is part of this version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support import elsewhere, plain
from theus import SET, StateUpdate, TheusEngine, process
from theus.errors import ConflictError, ContextError, ContractViolationError, PathError


def engine_of(**domain: Any) -> TheusEngine:
    return TheusEngine({"domain": domain})


def domain(engine: TheusEngine) -> Any:
    return plain(engine.state["domain"])


def run(
    engine: TheusEngine,
    body: Callable[[Any], Any],
    outputs: Any = (),
    inputs: Any = (),
    **more: Any,
) -> Any:
    return engine.run_process(process(inputs=inputs, outputs=outputs, **more)(body))


@pytest.mark.parametrize(
    ("row", "body", "after"),
    [
        (1, lambda ctx: ctx.domain.c.pop("k") and None, {"z": 2}),
        (2, lambda ctx: ctx.domain.c.clear(), {}),
        (3, lambda ctx: {"only": 1}, {"only": 1}),
        (4, lambda ctx: setattr(ctx.domain, "c", {"x": 1}), {"x": 1}),
    ],
)
def test_rows_1_to_4(row: int, body: Any, after: Any) -> None:
    engine = engine_of(c={"k": 1, "z": 2})
    run(engine, body, ["domain.c"])
    assert domain(engine) == {"c": after} and engine.version == 2


def test_row_5() -> None:
    def body(ctx: Any) -> Any:
        ctx.domain.a = 1
        return None, 5

    engine = engine_of(a=0, b=0)
    run(engine, body, ["domain.a", "domain.b"])
    assert domain(engine) == {"a": 1, "b": 5}


def test_row_6() -> None:
    def update(version: int) -> StateUpdate:
        return StateUpdate(
            data={"domain.a": 1}, heavy={"x": 9}, signal={"stop": 1}, assert_version=version
        )

    outputs = ["domain.a", "heavy.x", "signal.stop"]
    engine = engine_of(a=0)
    with pytest.raises(ContextError):
        run(engine, lambda ctx: update(999), outputs)
    run(engine, lambda ctx: update(1), outputs)
    assert domain(engine) == {"a": 1} and engine.state["heavy"]["x"] == 9
    assert dict(engine.state.signals) == {"stop": 1}
    engine.run(lambda tx: tx.set("domain.a", 7))
    with pytest.raises(ConflictError):
        run(engine, lambda ctx: update(2), outputs)


def test_row_7() -> None:
    engine = engine_of(a=0, b=0)
    run(engine, lambda ctx: StateUpdate(key="domain.a", val=1), ["domain.a", "domain.b"])
    assert domain(engine) == {"a": 1, "b": 0}


def test_row_8() -> None:
    engine = engine_of(u={"name": "old"})
    before = engine.state
    run(engine, lambda ctx: StateUpdate(key="domain.u.name", val="new"), ["domain.u.name"])
    assert before["domain"]["u"]["name"] == "old" and domain(engine)["u"] == {"name": "new"}


def test_row_9() -> None:
    engine = engine_of(a=0)
    run(engine, lambda ctx: "True", ["signal.cmd_stop"])
    assert dict(engine.state.signals) == {"cmd_stop": "True"}


def test_row_10() -> None:
    engine = engine_of(a=7)
    run(engine, lambda ctx: None, ["domain.a"])
    assert domain(engine) == {"a": 7}
    run(engine, lambda ctx: SET(None), ["domain.a"])
    assert domain(engine) == {"a": None}


def test_rows_11_to_13() -> None:
    engine = engine_of(a=0, tags=set(), secret="s3", other=0)
    for body in (
        lambda ctx: ctx.domain.tags.add("evil"),
        lambda ctx: ctx.domain.secret,
        lambda ctx: setattr(ctx.domain, "other", 1),
    ):
        with pytest.raises(ContractViolationError):
            run(engine, body, ["domain.a"], ["domain.a"])
    lenient = TheusEngine({"domain": {"a": 0, "other": 0}}, strict_guards=False)
    with pytest.raises(ContractViolationError):
        run(lenient, lambda ctx: setattr(ctx.domain, "other", 1), ["domain.a"])
    assert engine.version == lenient.version == 1


def test_rows_14_and_15() -> None:
    engine = engine_of(a=0, m={1: "x"})
    run(engine, lambda ctx: setattr(ctx.domain, "a", 1), ["domain.a"])
    run(engine, lambda ctx: {1: "y"}, ["domain.m"])
    assert domain(engine) == {"a": 1, "m": {1: "y"}}


def test_row_16() -> None:
    engine = engine_of(f={})
    for data in ({"r.txt": 1}, {"s.txt": 2}):
        engine.run(lambda tx, data=data: tx.update({"domain": {"f": data}}))
    assert domain(engine) == {"f": {"r.txt": 1, "s.txt": 2}}


@pytest.mark.parametrize(
    "body",
    [
        lambda ctx: ctx.data["domain"].__setitem__("a", 666),
        lambda ctx: ctx.state.domain.__setitem__("a", 666),
        lambda ctx: ctx.domain.__setitem__("a", 666),
        lambda ctx: [row.__setitem__("x", 666) for row in ctx.domain.lst] and None,
        lambda ctx: [row.__setitem__("x", 666) for row in ctx.domain["lst"][:]] and None,
    ],
)
def test_rows_17_and_18(body: Any) -> None:
    engine = engine_of(a=0, lst=[{"x": 1}])
    with pytest.raises(PermissionError):
        run(engine, body, [], ["domain.lst"], semantic="pure")
    assert domain(engine) == {"a": 0, "lst": [{"x": 1}]}


def test_row_19() -> None:
    engine = TheusEngine({"global": {"g": 5}})
    assert run(engine, lambda ctx: ctx.global_.g, [], ["global.g"], semantic="pure") == 5


def test_rows_20_and_21() -> None:
    engine = engine_of(a=0)
    with pytest.raises(TypeError):
        engine.state.data["domain"]["a"] = 99  # type: ignore[index]
    assert "domain" in engine.state.data and list(engine.state.data) == ["domain"]
    assert domain(engine) == {"a": 0}


def test_row_22() -> None:
    engine = engine_of(c=0, n=0)
    tries: list[int] = []

    def body(ctx: Any) -> None:
        ctx.domain.c += 1
        ctx.outbox.add("topic", ctx.domain.n)
        tries.append(1)
        if len(tries) == 1:
            elsewhere(engine.run, lambda tx: tx.set("domain.n", 1))

    run(engine, body, ["domain.c"], ["domain.n"])
    sent: list[Any] = []
    engine.process_outbox(lambda message: sent.append(message.payload))
    assert domain(engine) == {"c": 1, "n": 1} and sent == [1] and len(tries) == 2


def test_rows_23_and_24() -> None:
    engine = engine_of(a=0, b=0)

    async def main() -> None:
        both = asyncio.Barrier(2)

        def writer(name: str) -> Any:
            @process(outputs=[f"domain.{name}"])
            async def body(ctx: Any) -> None:
                cached = ctx.domain
                await both.wait()
                cached[name] = 1

            return body

        await asyncio.gather(engine.execute(writer("a")), engine.execute(writer("b")))

    asyncio.run(main())
    assert domain(engine) == {"a": 1, "b": 1} and engine.stats().retries == 0


@pytest.mark.parametrize("root", ["domain", "heavy"])
def test_rows_25_and_26(root: str) -> None:
    """Write skew, and an increment lost in the heavy zone."""
    engine = TheusEngine({root: {"x": 1, "y": 1, "h": 0}})
    first = True

    def withdraw(tx: Any) -> None:
        nonlocal first
        if tx[root]["x"] + tx[root]["y"] >= 2:
            if first:
                first = False
                elsewhere(engine.run, lambda other: other.set((root, "y"), 0))
            tx[root]["x"] = 0

    engine.run(withdraw)
    assert plain(engine.state[root]) == {"x": 1, "y": 0, "h": 0}
    first = True

    def bump(ctx: Any) -> int:
        nonlocal first
        seen: int = ctx[root]["h"]
        if first:
            first = False
            elsewhere(engine.run, lambda other: other.set((root, "h"), 1))
        return seen + 1

    run(engine, bump, [f"{root}.h"], [f"{root}.h"])
    assert engine.state[root]["h"] == 2


@pytest.mark.parametrize(
    "body",
    [
        lambda ctx: ctx.domain.update({"const_x": 2}),
        lambda ctx: ctx.domain.get("log_l").clear(),
        lambda ctx: (77, []),
        lambda ctx: (77, None),
        lambda ctx: (None, []),
    ],
)
def test_rows_27_and_28(body: Any) -> None:
    engine = engine_of(const_x=1, log_l=[1])
    with pytest.raises(ContractViolationError):
        run(engine, body, ["domain.const_x", "domain.log_l"])
    assert domain(engine) == {"const_x": 1, "log_l": [1]}


def test_rows_29_and_30() -> None:
    engine = engine_of(internal_s="secret", users={})
    look = lambda ctx: (ctx.domain.get("internal_s"), ctx.domain.internal_s)  # noqa: E731
    assert run(engine, look, [], ["domain"]) == (None, None)
    names = ["bob", "const_ance", "internal_bob", "log_an"]

    def add(ctx: Any) -> None:
        for name in names:
            ctx.domain.users[name] = {"n": 1}

    run(engine, add, ["domain.users"])
    assert list(domain(engine)["users"]) == names


def test_row_31() -> None:
    def body(ctx: Any) -> None:
        ctx.shop.bal = 42
        ctx.shop.rows.append("leak")
        raise LookupError

    engine = TheusEngine(namespaces=[("shop", None, {"bal": 1, "rows": []})])
    with pytest.raises(LookupError):
        run(engine, body, ["shop"])
    assert plain(engine.state["shop"]) == {"bal": 1, "rows": []} and engine.version == 1


def test_row_32() -> None:
    def body(ctx: Any) -> Any:
        ctx.domain.x = None
        return ctx.domain.x

    engine = engine_of(x=5)
    assert run(engine, body, ["domain.x"]) is None
    assert domain(engine) == {"x": None}


def test_row_33() -> None:
    engine = engine_of(lst=[1, 2])
    seen: list[bool] = []
    for semantic in ("effect", "pure"):
        run(
            engine,
            lambda ctx: seen.extend([ctx.domain.lst == [1, 2], [1, 2] == ctx.domain.lst]),
            [],
            ["domain.lst"],
            semantic=semantic,
        )
    assert seen == [True] * 4


def test_row_34() -> None:
    from dataclasses import dataclass

    @dataclass
    class User:
        n: int = 0

        def bump(self) -> int:
            self.n += 1
            return self.n

    engine = engine_of(u=User())
    seen: list[int] = []
    run(engine, lambda ctx: seen.append(ctx.domain.u.bump()), ["domain.u"])
    assert seen == [1] and engine.state["domain"]["u"].n == 1


def test_row_39() -> None:
    engine = engine_of(a=0)
    with pytest.raises(LookupError), engine.edit() as ctx:
        ctx.domain.a = 5
        raise LookupError
    assert domain(engine) == {"a": 0} and engine.version == 1


def test_rows_41_and_42() -> None:
    engine = TheusEngine({"domain": {"a": 1}, "orders": [1]})
    assert plain(engine.state["orders"]) == [1]
    with pytest.raises((PathError, ContextError, ValueError), match="domain"):
        engine.compare_and_swap(1, {"domain.a": 5})
    engine.compare_and_swap(1, {("domain", "a"): 5})
    assert engine.state.to_dict() == {"domain": {"a": 5}, "orders": [1]}
