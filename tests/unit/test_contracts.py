"""The @process decorator, and how processes get their names."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

import pytest

from processes import domain, effect, small_engine
from theus import (
    ProcessContract,
    SemanticType,
    TheusEngine,
    process,
)
from theus.errors import (
    ContractViolationError,
    ProcessError,
    UnknownProcessError,
)


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


# ---- the decorator ------------------------------------------------------------------


def test_the_decorator_gives_the_function_back() -> None:
    def total(ctx: Any) -> int:
        return 5

    decorated = process(inputs=["domain.a"], outputs=["domain.b"], semantic="pure")(total)
    assert decorated is total and total(None) == 5
    assert total.spec is total._pop_contract  # type: ignore[attr-defined]
    assert total.spec == ProcessContract(("domain.a",), ("domain.b",))  # type: ignore[attr-defined]
    assert process(total) is total
    assert total.spec == ProcessContract(semantic=SemanticType.EFFECT)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        total.spec.inputs = ()  # type: ignore[attr-defined]


def test_a_callable_without_attributes_is_wrapped(engine: TheusEngine) -> None:
    class Shop:
        def sell(self, ctx: Any, count: int) -> int:
            ctx.shop.stock -= count
            return int(ctx.shop.stock)

        async def sell_later(self, ctx: Any) -> None:
            ctx.shop.stock -= 1

    shop = Shop()
    assert engine.run_process(effect("shop.stock")(shop.sell), 2) == 1
    asyncio.run(engine.execute(effect("shop")(shop.sell_later)))
    assert engine.state["shop"] == {"stock": 0}


class Counter:
    """Every kind of method, each below or above its decorator."""

    count = 0

    @effect("shop.stock")
    def sell(self, ctx: Any, count: int) -> int:
        self.count += 1
        ctx.shop.stock -= count
        return int(ctx.shop.stock)

    @staticmethod
    @effect("shop.stock")
    def fill(ctx: Any) -> None:
        ctx.shop.stock += 10

    @effect("shop.stock")
    @staticmethod
    def drain(ctx: Any) -> None:
        ctx.shop.stock = 0

    @classmethod
    @effect("shop.stock")
    def refill(cls, ctx: Any, count: int = 5) -> str:
        ctx.shop.stock = count
        return cls.__name__

    @effect("shop.stock")
    @classmethod
    async def later(cls, ctx: Any) -> str:
        ctx.shop.stock = 7
        return cls.__name__

    @process
    @staticmethod
    def bare(ctx: Any) -> Any:
        return ctx.shop


def test_methods_are_processes(engine: TheusEngine) -> None:
    one, two = Counter(), Counter()
    assert engine.run_process(one.sell, 1) == 2 and engine.run_process(two.sell, count=1) == 1
    assert (one.count, two.count) == (1, 1) and one.sell.spec is Counter.sell.spec
    for method in (Counter.fill, one.drain):
        engine.run_process(method)
        assert method.spec.outputs == ("shop.stock",)
    assert engine.state["shop"] == {"stock": 0}
    assert (
        engine.run_process(Counter.refill, count=4) == engine.run_process(one.refill) == "Counter"
    )
    assert asyncio.run(engine.execute(one.later)) == "Counter"
    assert engine.state["shop"] == {"stock": 7}
    with pytest.raises(ContractViolationError, match="Illegal Read"):
        engine.run_process(Counter.bare)
    engine.register(one.sell)
    engine.register(one.sell)
    with pytest.raises(ProcessError):
        engine.register(two.sell)
    assert engine.run_process("sell", 2) == 5
    with pytest.raises(ContractViolationError, match=r"'sell' wrote shop\.other"):
        engine.run_process(_wrong_method())


def _wrong_method() -> Any:
    class Wrong(Counter):
        @effect("shop.stock")
        def sell(self, ctx: Any, count: int = 0) -> int:
            ctx.shop.other = 1
            return 0

    return Wrong().sell


def test_generator_functions_are_refused_when_they_are_declared(engine: TheusEngine) -> None:
    def generates(ctx: Any, by: int = 0) -> Any:
        yield 5

    async def generates_later(ctx: Any) -> Any:
        yield 5

    class Shop:
        def method(self, ctx: Any) -> Any:
            yield 5

    part = functools.partial(generates, by=1)
    for body in (generates, generates_later, Shop().method, Shop.method, part):
        for declare in (process, effect("domain.a")):
            with pytest.raises(TypeError, match=r"generator function.*return a list"):
                declare(body)
        for run in (engine.register, engine.run_process):
            with pytest.raises(TypeError, match="generator function"):
                run(body)
    assert engine.run_process(lambda ctx: list(generates(ctx))) == [5], "using one is nothing"


@pytest.mark.parametrize(
    ("root", "near"),
    [("domian", "domain"), ("Domain", "domain"), ("globl", "global"), ("heavvy", "heavy")],
)
def test_a_mistyped_root_is_refused_when_it_is_declared(root: str, near: str) -> None:
    for which in ("inputs", "outputs"):
        with pytest.raises(ValueError, match=f"{which}.*{root}.*did you mean '{near}'"):
            process(**{which: [f"{root}.x"]})(lambda ctx: None)


def test_roots_that_only_look_like_standard_ones(engine: TheusEngine) -> None:
    """What a name goes on from is no slip, and brackets say that one is meant."""
    process(inputs=["domains.x", "global_settings", '["domian"].x', "shop", "*.x"])(lambda ctx: 1)
    with pytest.raises(ProcessError, match="did you mean 'shop'"):
        engine.register(effect("shopp.stock")(lambda ctx: 1))


def test_a_wrapper_keeps_what_it_wraps() -> None:
    """The decorator gives the function back, so what others have put on it stays."""

    def inner(ctx: Any, by: int) -> int:
        """Says what it does."""
        return by

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    decorated = effect("domain.a")(outer)
    assert decorated is outer and decorated.__wrapped__ is inner
    assert decorated.__name__ == "inner" and decorated.__doc__ == inner.__doc__
    assert inspect.signature(decorated) == inspect.signature(inner)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"inputs": "domain.a"}, TypeError, ["inputs", "['domain.a']"]),
        ({"outputs": ["domain.a", 3]}, TypeError, ["outputs", "3"]),
        ({"outputs": 7}, TypeError, ["outputs", "7"]),
        ({"inputs": ["a..b"]}, ValueError, ["inputs", "'a..b'", "character 3"]),
        ({"inputs": [""]}, ValueError, ["inputs", "root"]),
        ({"outputs": ["domain.a", "domain.a"]}, ValueError, ["twice", "'domain.a'"]),
        ({"semantic": "pur"}, ValueError, ["'pur'", "did you mean 'pure'"]),
        ({"semantic": "zzz"}, ValueError, ["'pure', 'effect', 'guide'"]),
        ({"semantic": 3}, TypeError, ["3"]),
        ({"parallel": 1}, TypeError, ["parallel", "1"]),
        ({"isolation": "dirty"}, ValueError, ["isolation", "'dirty'"]),
        ({"semantic": "guide", "outputs": ["domain.a"]}, ValueError, ["GUIDE", "domain.a"]),
        ({"errors": "ValueError"}, TypeError, ["errors"]),
        ({"errors": ValueError}, TypeError, ["errors", "ValueError"]),
        ({"errors": [ValueError()]}, TypeError, ["errors", "ValueError()"]),
        ({"errors": [int]}, TypeError, ["errors", "int"]),
        ({"errors": 5}, TypeError, ["errors", "5"]),
        ({"timeout": 0}, ValueError, ["timeout", "0"]),
        ({"timeout": float("nan")}, ValueError, ["timeout", "nan"]),
        ({"timeout": "1"}, TypeError, ["timeout", "'1'"]),
        ({"inline": 1}, TypeError, ["inline", "1"]),
    ],
)
def test_bad_declarations_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:

        @process(**options)
        def careless(ctx: Any) -> None: ...

    for word in [*words, "'careless'"]:
        assert word in str(caught.value)


def test_metadata_is_kept() -> None:
    @process(inputs=["domain.a"], errors=["ValueError"], side_effects=("mail",), semantic="Guide")
    def told(ctx: Any) -> None: ...

    spec = told.spec  # type: ignore[attr-defined]
    assert (spec.timeout, spec.inline, spec.parallel) == (None, False, False)
    assert spec.errors == ("ValueError",) and spec.side_effects == ("mail",)
    assert spec.semantic is SemanticType.GUIDE and spec.isolation == "serializable"


# ---- registration and names ---------------------------------------------------------


def test_register_and_run_by_name(engine: TheusEngine) -> None:
    @engine.register
    @effect("domain.a")
    def grow(ctx: Any, by: int = 1) -> int:
        ctx.domain.a += by
        return int(ctx.domain.a)

    assert engine.run_process("grow", by=5) == 6
    assert engine.run_process(grow, 4) == 10
    assert asyncio.run(engine.execute("grow")) == 11
    engine.register(grow, name="also")
    assert engine.run_process("also") == 12
    record = engine.records()[0][-1]
    assert record.process == "also" and record.paths == (("domain", "a"),)
    assert engine.records()[0][-2].process == "grow"


def test_unknown_names(engine: TheusEngine) -> None:
    engine.register(lambda ctx: None, name="known")
    for attempt in (
        lambda: engine.run_process("unknown"),
        lambda: asyncio.run(engine.execute("unknown")),
    ):
        with pytest.raises(UnknownProcessError) as caught:
            attempt()
        assert caught.value.process == "unknown" and caught.value.known == ("known",)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(TypeError, match="42"):
        engine.run_process(42)  # type: ignore[arg-type]


def test_a_taken_name_is_not_overwritten_in_silence(engine: TheusEngine) -> None:
    def first(ctx: Any) -> str:
        return "first"

    def second(ctx: Any) -> str:
        return "second"

    engine.register(first, name="work")
    engine.register(first, name="work")
    with pytest.raises(ProcessError, match="'work'"):
        engine.register(second, name="work")
    assert engine.run_process("work") == "first"
    engine.register(second, name="work", replace=True)
    assert engine.run_process("work") == "second"


def test_two_engines_share_no_names(engine: TheusEngine) -> None:
    engine.register(lambda ctx: None, name="mine")
    with pytest.raises(UnknownProcessError):
        TheusEngine().run_process("mine")


@pytest.mark.parametrize("path", ["shp.stock", "signals.stop", "local.x"])
def test_outputs_below_no_root_are_refused(engine: TheusEngine, path: str) -> None:
    """Dropping them in silence was weakness 2 of an earlier program."""
    typo = effect(path)(lambda ctx: 1)
    for attempt in (lambda: engine.register(typo), lambda: engine.run_process(typo)):
        with pytest.raises(ProcessError) as caught:
            attempt()
        assert repr(path.split(".")[0]) in str(caught.value) and "'shop'" in str(caught.value)
    engine.register(effect("shop.stock", "domain.x", "heavy.y", "*.z")(lambda ctx: None))


def test_a_wrapper_is_not_taken_for_the_function_it_wraps(engine: TheusEngine) -> None:
    @effect("domain.a")
    def inner(ctx: Any) -> int:
        return 1

    engine.run_process(inner)

    @functools.wraps(inner)
    def outer(ctx: Any) -> int:
        return inner(ctx) + 100  # type: ignore[no-any-return]

    assert engine.run_process(outer) == 101 and domain(engine)["a"] == 101
    assert engine.run_process(inner) == 1


def test_a_partial_call_keeps_the_contract(engine: TheusEngine) -> None:
    @effect("domain.a")
    def inner(ctx: Any, key: str, value: int) -> None:
        ctx.domain[key] = value

    engine.run_process(functools.partial(inner, key="a"), value=5)
    engine.register(functools.partial(inner, value=7))
    with pytest.raises(ContractViolationError, match=r"domain\.b"):
        engine.run_process("inner", "b")
    assert domain(engine)["a"] == 5 and domain(engine)["b"] == 2


def test_a_new_declaration_replaces_the_old(engine: TheusEngine) -> None:
    def body(ctx: Any) -> int:
        return 5

    engine.run_process(effect("domain.a")(body))
    engine.run_process(effect("domain.b")(body))
    assert (domain(engine)["a"], domain(engine)["b"]) == (5, 5)
