"""What a type checker knows about processes and transactional functions."""

from collections.abc import Callable
from typing import Any, assert_type

import theus.context
from theus import SemanticType, StateUpdate, TheusEngine, Transaction, process
from theus.errors import ContractViolationError, ProcessError, UnknownProcessError

engine = TheusEngine({"domain": {"n": 1}}, strict_mode=True, history=10)


@process(inputs=["domain.n"], outputs=["domain.n"], semantic=SemanticType.PURE)
def grow(ctx: Any, by: int) -> int:
    return int(ctx.domain.n) + by


@process
def bare(ctx: Any) -> str:
    return "x"


assert_type(grow(None, 1), int)
as_function: Callable[[Any, int], int] = grow
assert_type(grow.__name__, str)
assert_type(grow.__doc__, str | None)
assert_type(theus.ProcessContext({"domain": {"n": 1}}), theus.context.Context)
assert_type(theus.ContextGuard({"domain": {}}, ["domain.n"]), theus.context.Context)
assert_type(bare(None), str)
engine.register(grow, name="grow")
assert_type(engine.register(bare)(None), str)


@process(errors=[LookupError, "OSError"], timeout=1.5, inline=True, isolation="snapshot")
async def later(ctx: Any, name: str, *, times: int = 1) -> bytes:
    return name.encode() * times


class Shop:
    @process(outputs=["domain.n"])
    def sell(self, ctx: Any, count: int) -> float:
        return count / 2

    @staticmethod
    @process
    def close(ctx: Any) -> None: ...


@engine.transactional
def deposit(tx: Transaction, amount: int) -> str:
    tx.add("domain.n", amount)
    return "done"


@engine.transactional(retries=3)
async def deposit_later(tx: Transaction, amount: int) -> str:
    tx.domain.n += amount
    return "done"


async def coroutine(tx: Transaction, amount: int) -> float:
    return amount / 2


async def main() -> None:
    assert_type(deposit(5), str)
    assert_type(await deposit_later(5), str)
    assert_type(await engine.run_async(coroutine, 5, retries=0), float)
    await engine.execute("grow", by=1)
    assert_type(await engine.execute(grow, 1), int)
    assert_type(await engine.execute(later, "x", times=2), bytes)
    assert_type(await engine.options(timeout=2.5).execute(later, name="x"), bytes)
    async with engine.edit() as ctx:
        ctx.domain.n = 5
    await engine.execute(later, 5)  # error: [call-overload]
    await engine.execute(later, "x", time=2)  # error: [call-arg]


try:
    engine.run_process("grow", by=1)
except UnknownProcessError as error:
    assert_type(error.known, tuple[str, ...])
    as_base: ProcessError = error
except ContractViolationError as error:
    as_builtin: PermissionError = error

StateUpdate(key="domain.n", val=1, assert_version=engine.version)
assert_type(engine.stats().commits, int)

assert_type(engine.run_process(grow, by=1), int)
assert_type(engine.options(retries=3).run_process(Shop().sell, 2), float)
engine.run_process(Shop.close)
with engine.edit() as ctx:
    ctx.domain.n = 5

engine.run_process(grow, "1")  # error: [call-overload]
engine.options(retries="3")  # error: [arg-type]
engine.transaction(isolation="dirty")  # error: [arg-type]
engine.run(deposit, 5, isolation="dirty")  # error: [arg-type]
process(isolation="dirty")  # error: [call-overload]
grow(None, "1")  # error: [arg-type]
deposit("5")  # error: [arg-type]
process(semantic=3)  # error: [call-overload]
as_other: Callable[[Any, str], int] = grow  # error: [assignment]
theus.ContextGuard({"domain": {}}, 5)  # error: [arg-type]
engine.transactional(5)  # error: [call-overload]
