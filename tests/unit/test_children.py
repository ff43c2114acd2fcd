"""Who is a child of an open transaction: whoever was started inside its body, and nobody else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from support import PATIENCE
from theus import TheusEngine
from theus._theus import HOME
from theus.errors import TransactionError

INHERITS = bool(getattr(sys.flags, "thread_inherit_context", False))
"""Do threads begin in a copy of the context of whoever starts them? The default of 3.14t."""


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": {"n": 0}})


def bump(tx: Any) -> None:
    tx.add("domain.n", 1)


async def bump_async(tx: Any) -> None:
    bump(tx)


def finish(work: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, PATIENCE))


def verdict(work: Callable[[], Any]) -> str:
    """Is whoever calls this a child?"""
    try:
        work()
    except TransactionError as error:
        assert "detached=True" in str(error)
        return "child"
    return "free"


# ---- tasks --------------------------------------------------------------------------------------


Start = Callable[[TheusEngine, "Gate"], Awaitable[str]]


class Gate:
    """Lets those who were started before go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.began = asyncio.Event()
        self.thread = threading.Event()

    def open(self) -> None:
        self.opened.set()
        self.thread.set()


async def as_task(engine: TheusEngine, gate: Gate) -> str:
    """Runs a coroutine body."""
    gate.began.set()
    await gate.opened.wait()
    try:
        await engine.run_async(bump_async)
    except TransactionError:
        return "child"
    return "free"


async def as_plain_task(engine: TheusEngine, gate: Gate) -> str:
    """Runs a function."""
    gate.began.set()
    await gate.opened.wait()
    return verdict(lambda: engine.run(bump))


async def as_block(engine: TheusEngine, gate: Gate) -> str:
    gate.began.set()
    await gate.opened.wait()
    try:
        async with engine.transaction() as tx:
            bump(tx)
    except TransactionError:
        return "child"
    return "free"


async def in_a_thread(engine: TheusEngine, gate: Gate) -> str:
    """A helper thread, which begins in a copy of the task's context."""
    loop = asyncio.get_running_loop()

    def work() -> str:
        loop.call_soon_threadsafe(gate.began.set)
        assert gate.thread.wait(PATIENCE)
        return verdict(lambda: engine.run(bump))

    return await asyncio.to_thread(work)


async def two_tasks_down(engine: TheusEngine, gate: Gate) -> str:
    return await asyncio.create_task(as_task(engine, gate))


STARTS = [as_task, as_plain_task, as_block, in_a_thread, two_tasks_down]


@pytest.mark.parametrize("used_before", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("start", STARTS)
def test_a_task_from_before_the_body_is_free(
    engine: TheusEngine, start: Start, used_before: bool
) -> None:
    async def main() -> tuple[str, str]:
        if used_before:
            engine.run(bump)
            async with engine.transaction() as tx:
                bump(tx)
        before = Gate()
        task = asyncio.create_task(start(engine, before))  # type: ignore[arg-type]
        async with engine.transaction() as tx:
            bump(tx)
            inside = Gate()
            child = asyncio.create_task(start(engine, inside))  # type: ignore[arg-type]
            await asyncio.gather(before.began.wait(), inside.began.wait())
            before.open()
            inside.open()
            return await task, await child

    assert finish(main()) == ("free", "child")


@pytest.mark.parametrize("start", STARTS)
def test_who_outlives_the_body_is_free_also_in_the_next_one(
    engine: TheusEngine, start: Start
) -> None:
    async def main() -> str:
        gate = Gate()
        async with engine.transaction():
            task = asyncio.create_task(start(engine, gate))  # type: ignore[arg-type]
            await gate.began.wait()
        async with engine.transaction():
            gate.open()
            return await task

    assert finish(main()) == "free"


def test_members_of_a_group_are_children_of_the_body_that_made_it(engine: TheusEngine) -> None:
    """Also if the group is older: what counts is where the task was created."""

    async def main() -> list[str]:
        async with asyncio.TaskGroup() as group:
            gate = Gate()
            early = group.create_task(as_task(engine, gate))
            async with engine.transaction() as tx:
                bump(tx)
                late = group.create_task(as_task(engine, gate))
                gate.open()
                found = await asyncio.gather(early, late, as_task(engine, gate))
        return found

    assert finish(main()) == ["free", "child", "child"]


def test_a_pool_keeps_the_context_of_nobody(engine: TheusEngine) -> None:
    """run_in_executor carries no context, so its work is a child only where threads inherit and
    the pool has started its thread inside the body."""

    async def main(pool: concurrent.futures.Executor, warm: bool) -> str:
        loop = asyncio.get_running_loop()
        engine.run(bump)
        if warm:
            await loop.run_in_executor(pool, int)
        async with engine.transaction():
            return await loop.run_in_executor(pool, verdict, lambda: engine.run(bump))

    for warm in (True, False):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert finish(main(pool, warm)) == ("child" if INHERITS and not warm else "free")


# ---- functions, and threads beside them ---------------------------------------------------------


class Helper:
    """Work that is asked, in the middle of somebody's body, whether it is a child."""

    def __init__(self, engine: TheusEngine) -> None:
        self.engine = engine
        self.began, self.go, self.done = threading.Event(), threading.Event(), threading.Event()
        self.found = ""

    def work(self) -> None:
        self.began.set()
        assert self.go.wait(PATIENCE)
        self.found = verdict(lambda: self.engine.run(bump))
        self.done.set()

    def ask(self, tx: Any = None) -> None:
        self.go.set()
        assert self.done.wait(PATIENCE)


def start_thread(helper: Helper, target: Callable[[], None] | None = None) -> Helper:
    threading.Thread(target=target or helper.work, daemon=True).start()
    assert helper.began.wait(PATIENCE)
    return helper


def test_a_helper_thread_from_before_a_function(engine: TheusEngine) -> None:
    async def main() -> str:
        engine.run(bump)
        helper = Helper(engine)
        task = asyncio.create_task(asyncio.to_thread(helper.work))
        while not helper.began.is_set():
            await asyncio.sleep(0.001)
        engine.run(helper.ask)
        await task
        return helper.found

    assert finish(main()) == "free"


def test_a_thread_from_before_a_function(engine: TheusEngine) -> None:
    """Where threads inherit the context, too: also one of a pool."""
    engine.run(bump)
    helper = start_thread(Helper(engine))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result(PATIENCE)
        engine.run(bump)
        engine.run(helper.ask)
        assert helper.found == "free"
        with engine.transaction():
            assert pool.submit(verdict, lambda: engine.run(bump)).result(PATIENCE) == "free"


def test_a_thread_that_a_function_starts(engine: TheusEngine) -> None:
    helper = Helper(engine)
    late = Helper(engine)

    def body(tx: Any) -> None:
        start_thread(helper).ask()
        start_thread(late)

    engine.run(body)
    assert helper.found == ("child" if INHERITS else "free")
    engine.run(late.ask)
    assert late.found == "free", "that body is over"


def test_copies_by_hand(engine: TheusEngine) -> None:
    engine.run(bump)
    early, helper = contextvars.copy_context(), Helper(engine)
    start_thread(helper, lambda: early.run(helper.work))
    contextvars.copy_context().run(engine.run, helper.ask)  # in a context of its own
    assert helper.found == "free"

    child = Helper(engine)

    def body(tx: Any) -> None:
        copy = contextvars.copy_context()
        copy.run(start_thread, child, lambda: copy.copy().run(child.work))
        child.ask()

    engine.run(body)
    assert child.found == "child"


# ---- several transactions at once ---------------------------------------------------------------


async def asked(engine: TheusEngine) -> str:
    return await asyncio.create_task(as_plain_task(engine, opened()))


def opened() -> Gate:
    gate = Gate()
    gate.open()
    return gate


def test_bodies_of_several_engines(engine: TheusEngine) -> None:
    other = TheusEngine({"domain": {"n": 0}})

    async def main() -> None:
        gate = Gate()
        async with engine.transaction():
            between = [asyncio.create_task(as_task(it, gate)) for it in (engine, other)]
            async with other.transaction():
                gate.open()
                assert await asyncio.gather(*between) == ["child", "free"]
                assert [await asked(engine), await asked(other)] == ["child", "child"]
                other.run(bump)
                engine.run(bump)
            assert [await asked(engine), await asked(other)] == ["child", "free"]
            other.run(bump)
            assert await asked(engine) == "child"
        assert [await asked(engine), await asked(other)] == ["free", "free"]

    finish(main())


def test_a_detached_body_inside_another(engine: TheusEngine) -> None:
    async def detached(tx: Any) -> None:
        assert await asked(engine) == "child"

    async def outer(tx: Any) -> None:
        await engine.run_async(detached, detached=True)
        assert await asked(engine) == "child"
        engine.run(bump, detached=True)
        assert await asked(engine) == "child"

    finish(engine.run_async(outer))


def test_variables_that_are_carried_back_keep_children_known(engine: TheusEngine) -> None:
    """Some libraries set every variable of a helper's context where it was started."""

    async def main() -> str:
        async with engine.transaction():
            copy = contextvars.copy_context()
            copy.run(engine.run, bump, detached=True)
            for variable, value in copy.items():
                variable.set(value)
            engine.run(bump, detached=True)
            return await asked(engine)

    assert finish(main()) == "child"


# ---- memory -------------------------------------------------------------------------------------


def homes() -> Iterator[Any]:
    kind = type(HOME.get()[0])
    return (it for it in gc.get_objects() if type(it) is kind)


def test_what_a_context_carries_does_not_grow(engine: TheusEngine) -> None:
    """Each callback of a loop runs in a copy of the context that has asked for it: a chain of all
    that came before grew there."""
    engine.run(bump)
    before = len(list(homes()))

    async def main() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def again(turns: int) -> None:
            engine.run(bump)
            assert len(HOME.get()) <= 2
            if turns:
                loop.call_soon(again, turns - 1)
            else:
                over.set()

        async with engine.transaction():
            pass
        contextvars.copy_context().run(again, 50)
        await over.wait()

    finish(main())
    gc.collect()
    assert len(list(homes())) - before < 10


def test_nor_where_each_begins_before_the_last_has_ended(engine: TheusEngine) -> None:
    engine.run(bump)
    before = len(list(homes()))

    async def relay(turns: int, last: asyncio.Event) -> None:
        mine = asyncio.Event()
        async with engine.transaction(detached=True):
            last.set()
            assert len(HOME.get()) <= 2
            if turns:
                task = asyncio.create_task(relay(turns - 1, mine))
                await mine.wait()  # the next one has begun
        if turns:
            await task

    finish(relay(50, asyncio.Event()))
    gc.collect()
    assert len(list(homes())) - before < 10
