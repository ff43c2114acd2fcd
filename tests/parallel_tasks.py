"""Processes that the tests of workers run: they must be importable there."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from pool_tasks import begin_and_wait
from theus import DELETE, StateUpdate, TheusEngine, process


@dataclass
class Point:
    x: int
    y: int


@process(inputs=["domain.n"], outputs=["domain.n"], parallel=True)
def count_up(ctx: Any, by: int = 1) -> int:
    return int(ctx.domain.n + by)


@process(inputs=["domain.n"], parallel=True)
def looks_for_an_argument(ctx: Any, by: int) -> Any:
    return ctx.domain.by


@process(inputs=["domain.by"], parallel=True)
def finds_an_argument(ctx: Any, by: int) -> tuple[int, int, int]:
    return by, ctx.input["by"], ctx.domain.by


@process(inputs=["domain.n"], parallel=True)
def where(ctx: Any) -> tuple[int, int]:
    return os.getpid(), ctx.domain.n


@process(outputs=["domain"], parallel=True)
def edits(ctx: Any) -> None:
    domain = ctx.domain
    domain.n += 1
    domain.users["bob"] = {"age": 7, "tags": ["a"]}
    domain.users["bob"]["tags"].append("b")
    del domain.users["ann"]
    domain.log.append("done")
    domain.rows[1] = 20
    domain.seen.add("x")
    domain.seen.discard("y")
    domain.point.x = 5
    ctx.add("domain.total", 3)
    ctx.append("domain.later", "z")


@process(outputs=["domain"], parallel=True)
def moves_to_the_end(ctx: Any) -> None:
    sub = ctx.domain.sub
    sub["a"] = sub.pop("a")
    ctx.domain.n = ctx.domain.pop("n")


@process(inputs=["domain.n"], semantic="pure", outputs=["domain.total"], parallel=True)
def pure(ctx: Any) -> int:
    return int(ctx.domain.n * 2)


@process(inputs=["domain.n"], parallel=True)
def undeclared_read(ctx: Any) -> Any:
    return ctx.domain.total


@process(inputs=["domain.n"], parallel=True)
def undeclared_write(ctx: Any) -> None:
    ctx.domain.n = 3


@process(parallel=True, semantic="guide")
def guide(ctx: Any) -> str:
    return "many" if len(ctx.domain.users) > 0 and ctx.domain.n > 5 else "few"


@process(inputs=["domain.n"], outputs=["signal.done"], parallel=True)
def sends(ctx: Any) -> None:
    ctx.outbox.add("mail", {"n": ctx.domain.n})
    ctx.signal.send("done", [1, 2])
    ctx.log.info("sent %d", ctx.domain.n)


class Broke(Exception):
    pass


@process(inputs=["domain.n"], outputs=["domain.n"], errors=[KeyError], parallel=True)
def fails(ctx: Any) -> None:
    ctx.domain.n = 99
    raise Broke("no", ctx.domain.n)


@process(parallel=True, timeout=0.3)
def sleeps(ctx: Any, seconds: float) -> None:
    """In short naps, between which an interpreter can be interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


@process(parallel=True)
def waits(ctx: Any, begun: str, gate: str) -> None:
    begin_and_wait(begun, gate)


@process(parallel=True)
def rests(ctx: Any, seconds: float) -> None:
    """As `sleeps`, without a limit."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


@process(inputs=["domain.n"], parallel=True)
def has_an_engine(ctx: Any, pool: str) -> tuple[int, int]:
    """Of its own, with workers, whose state is another one."""
    with TheusEngine({"domain": {"n": 10 * ctx.domain.n}}, pool=pool, pool_size=1) as inner:
        return inner.run_process(count_up), inner.state.domain.n


@process(parallel=True)
def dies(ctx: Any) -> None:
    os.kill(os.getpid(), 9)


@process(outputs=["domain.n", "domain.total"], parallel=True)
def by_update(ctx: Any) -> StateUpdate:
    return StateUpdate(data={"domain.n": 3, "domain.total": DELETE})


@process(inputs=["domain.n"], outputs=["domain.n"], parallel=True)
def slow_count(ctx: Any, begun: str, gate: str) -> int:
    n = int(ctx.domain.n)
    begin_and_wait(begun, gate)
    return n + 1


@process(inputs=["domain.n"], outputs=["domain.total"], parallel=True)
def reports(ctx: Any, first: int, word: str) -> dict[str, Any]:
    told = {"input": dict(ctx.input), "version": ctx.version}
    told |= {"now": ctx.now, "random": ctx.random.random()}
    return told


@process(inputs=["heavy"], outputs=["heavy.sum"], parallel=True)
def sums(ctx: Any) -> Any:
    array = ctx.heavy["a"]
    assert not array.flags.writeable and array.shm is not None
    return array.sum(axis=0)


@process(outputs=["heavy.x"], parallel=True)
def allocates(ctx: Any) -> Any:
    return ctx.heavy.alloc("x", 3)


@process(inputs=["domain.n"], parallel=True)
def swallows(ctx: Any) -> None:
    try:
        ctx.domain.n = 3
    except PermissionError:
        pass


@process(inputs=["domain.n"], parallel=True)
def warns(ctx: Any) -> None:
    ctx.log.warning("careful")


def here(ctx: Any, n: int = 0) -> tuple[int, int]:
    return os.getpid(), n


@process(outputs=["domain.const_pi"], parallel=True)
def writes_a_constant(ctx: Any) -> None:
    ctx.domain.const_pi = 4


@process(outputs=["domain.log_all"], parallel=True)
def appends_to_a_log(ctx: Any) -> None:
    ctx.domain.log_all.append(2)


@process(parallel=True)
def returns_a_lock(ctx: Any) -> Any:
    return threading.Lock()


@process(outputs=["domain.n"], parallel=True)
def calls_back(ctx: Any) -> None:
    ctx.tx.on_commit(print)


@process(inputs=["domain.sub"], outputs=["domain.total"], parallel=True)
def slow_part(ctx: Any, begun: str, gate: str) -> float:
    begin_and_wait(begun, gate)
    return time.time() + ctx.domain.sub.a


@process(inputs=["heavy"], parallel=True)
def gives_a_view(ctx: Any) -> Any:
    return ctx.heavy["a"][::2, 1:]


def double(n: int) -> int:
    return 2 * n


def naps(seconds: float) -> None:
    time.sleep(seconds)


def refuses_seven(n: int) -> int:
    if n == 7:
        raise ValueError("seven")
    return n


@process(inputs=["domain.bank"], outputs=["domain.bank"], parallel=True)
def move(ctx: Any, source: str, target: str, amount: int) -> None:
    ctx.domain.bank[source] -= amount
    ctx.domain.bank[target] += amount


@process(inputs=["domain.n"], outputs=["domain.n"], parallel=True)
def imports_late(ctx: Any) -> int:
    import numpy

    return int(numpy.int64(ctx.domain.n) + 1)


def doubles_with_numpy(n: int) -> int:
    import numpy

    return int(numpy.int64(n) * 2)


@process(inputs=["domain.model"], parallel=True)
def reads_a_model(ctx: Any) -> int:
    return int(ctx.domain.model.n)


def about(array: Any) -> tuple[Any, ...]:
    """Of an ndarray or an ArrayView."""
    dtype = getattr(array.dtype, "name", array.dtype)
    return tuple(array.shape), dtype, array.tobytes(), tuple(array.strides)


@process(parallel=True)
def describes(ctx: Any, arrays: list[Any]) -> list[Any]:
    return [about(array) for array in arrays]


@process(parallel=True)
def gives_back(ctx: Any, arrays: list[Any]) -> list[Any]:
    return list(arrays)


@process(inputs=["heavy"], parallel=True)
def describes_heavy(ctx: Any, key: str) -> tuple[Any, ...]:
    return about(ctx.heavy[key])


@process(inputs=["heavy"], outputs=["heavy.made"], parallel=True)
def reverses(ctx: Any, key: str, fresh: bool) -> Any:
    found = ctx.heavy[key][::-1]
    if fresh:
        return found.copy() if hasattr(found, "copy") else found.cow()
    return found


@process(inputs=["heavy"], parallel=True)
def writes_into(ctx: Any, key: str, array: Any) -> list[str]:
    """What it gets for writing into what it was given and what it finds."""
    refused = []
    for it in (
        array,
        array[1:],
        ctx.heavy[key],
        ctx.heavy[key].T if hasattr(array, "T") else array,
    ):
        try:
            it[0, 0] = 1
        except (ValueError, TypeError) as error:
            refused.append(str(error))
    return refused


@process(inputs=["domain.stock"], parallel=True)
def counts(ctx: Any) -> tuple[int, int, list[str]]:
    stock = ctx.domain.stock
    return len(stock), sum(stock.values()), list(stock)[:2]


@process(outputs=["domain.stock"], parallel=True)
def takes(ctx: Any, name: str, fail: bool = False) -> None:
    stock = ctx.domain.stock
    stock[name] -= 1
    stock["more"] = 1
    if fail:
        raise Broke(name)
    del stock["more"]


@process(parallel=True, semantic="guide")
def looks(ctx: Any) -> tuple[list[str], int]:
    return sorted(ctx.domain), len(ctx.domain.stock)
