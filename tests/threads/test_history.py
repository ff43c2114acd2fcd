"""Threads and tasks, every attempt recorded, 0 violations by either checker.

The mix has hot and cold keys, key sets, nested dicts, deletions, deferred adds and merges, updates,
savepoints, aborts, processes, read-only transactions and both isolation levels. `theus.testing`
replays what was recorded. A second run appends to lists and is judged by the black box, which knows
nothing of versions.

The runs of a million attempts are marked `long`; they check in slices, so memory does not grow.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import race
from theus import DELETE, TheusEngine, process
from theus.testing import Append, AppendTransaction, Read, Recorder, check_appends, check_history

pytestmark = pytest.mark.usefixtures("eager_switching")

START: dict[str, Any] = {
    "d": {
        **{f"k{n}": 0 for n in range(20)},
        "rows": {f"r{n}": 0 for n in range(5)},
        "deep": {"a": {"x": 0, "y": 0}, "b": {"x": 0, "y": 0}},
        "count": 0,
    }
}
COLD = [("d", f"k{n}") for n in range(20)]
HOT = [("d", "k0"), ("d", "deep", "a", "x"), ("d", "deep", "b", "y")]
DEEP = [("d", "deep", "a"), ("d", "deep", "b")]
ROWS = ("d", "rows")
COUNT = ("d", "count")
MOST = ("d", "most")


def larger(old: int, value: int) -> int:
    return max(old, value)


@process(inputs=["d.k2", "d.rows"], outputs=["d.k3", "d.deep.*.y", "d.last"])
def step(ctx: Any, value: int) -> dict[str, int]:
    seen = (ctx.d.k2, len(ctx.d.rows))
    ctx.d.k3 = value
    ctx.d.deep["a"].y += len(seen)
    return {"d.last": value}


@process(inputs=["d.k2"], outputs=["d.k3", "d.deep"])
async def step_async(ctx: Any, value: int) -> None:
    seen = ctx.d.k2
    await asyncio.sleep(0)
    ctx.d.k3 = value
    ctx.d.deep["b"].x = value if seen else 0


class Undo(Exception):
    """Raised by bodies that abort on purpose."""


class Client:
    """One thread or task: chooses what its next transaction does. Bodies are generators.

    They yield where another one could come in between: threads and tasks stop there in their ways.
    """

    def __init__(self, number: int) -> None:
        self.rng = random.Random(number)
        self.value = number * 10_000_000
        self.acts = [self.move, self.move, self.hot, self.skew, self.rows, self.row, self.row]
        self.acts += [self.undo, self.replace, self.add, self.partly, self.patch, self.most]

    def choose(self) -> tuple[Any, str]:
        isolation = "snapshot" if self.rng.random() < 0.3 else "serializable"
        return self.rng.choice(self.acts), isolation

    def new(self) -> int:
        self.value += 1
        return self.value

    def move(self, tx: Any) -> Iterator[None]:
        one, two = self.rng.sample(COLD, 2)
        tx.get(one), tx.get(two)
        yield
        tx.set(one, self.new())
        tx.set(two, self.new())

    def hot(self, tx: Any) -> Iterator[None]:
        path = self.rng.choice(HOT)
        tx.get(path)
        yield
        tx.set(path, self.new())

    def skew(self, tx: Any) -> Iterator[None]:
        tx.get(self.rng.choice(COLD)), tx.get(self.rng.choice(COLD))
        yield
        tx.set(self.rng.choice(COLD), self.new())

    def rows(self, tx: Any) -> Iterator[None]:
        self.rng.choice([tx.keys, tx.length, tx.all])(ROWS)
        yield
        tx.set(self.rng.choice(COLD[:5]), self.new())

    def row(self, tx: Any) -> Iterator[None]:
        path = (*ROWS, f"r{self.rng.randrange(8)}")
        there = tx.has(path)
        yield
        if there and self.rng.random() < 0.5:
            tx.delete(path)
        else:
            tx.set(path, self.new())

    def undo(self, tx: Any) -> Iterator[None]:
        tx.set(self.rng.choice(HOT), self.new())
        yield
        raise Undo

    def replace(self, tx: Any) -> Iterator[None]:
        path = self.rng.choice(DEEP)
        if self.rng.random() < 0.5:
            tx.all(path)
        yield
        tx.set(path, {"x": self.new(), "y": self.new()})

    def add(self, tx: Any) -> Iterator[None]:
        tx.add(COUNT, 1)
        yield
        if self.rng.random() < 0.2:
            tx.get(COUNT)

    def partly(self, tx: Any) -> Iterator[None]:
        path = self.rng.choice(COLD)
        tx.set(self.rng.choice(COLD), self.new())
        try:
            with tx.savepoint():
                tx.set(path, self.new())
                tx.delete((*ROWS, tx.keys(ROWS)[0]))
                raise Undo
        except (Undo, IndexError):
            yield
        tx.get(path)

    def patch(self, tx: Any) -> Iterator[None]:
        more = DELETE if self.rng.random() < 0.5 else {"z": self.new()}
        tx.update({"d": {"k1": self.new(), "deep": {"a": {"x": self.new()}, "more": more}}})
        yield
        tx.get(self.rng.choice(COLD))

    def most(self, tx: Any) -> Iterator[None]:
        tx.merge(MOST, self.new(), larger)
        yield
        tx.get(self.rng.choice([MOST, COUNT]))

    def look(self, tx: Any) -> None:
        for path in self.rng.sample(COLD, 3):
            tx.get(path)
        tx.all(ROWS)


def in_thread(recorder: Recorder, client: Client, count: int) -> None:
    def body(tx: Any, act: Any) -> None:
        for _ in act(tx):
            if client.rng.random() < 0.1:
                time.sleep(0)

    for _ in range(count):
        if client.rng.random() < 0.1:
            with recorder.transaction(read_only=True) as tx:
                client.look(tx)
            continue
        if client.rng.random() < 0.1:
            recorder.run_process(step, client.new())
            continue
        act, isolation = client.choose()
        try:
            recorder.run(body, act, isolation=isolation, deadline=60.0)
        except Undo:
            assert act == client.undo


async def in_task(recorder: Recorder, client: Client, count: int) -> None:
    async def body(tx: Any, act: Any) -> None:
        for _ in act(tx):
            if client.rng.random() < 0.3:
                await asyncio.sleep(0)

    for _ in range(count):
        if client.rng.random() < 0.1:
            async with recorder.transaction(read_only=True) as tx:
                client.look(tx)
            continue
        if client.rng.random() < 0.1:
            await recorder.execute(step_async, client.new())
            continue
        act, isolation = client.choose()
        try:
            await recorder.run_async(body, act, isolation=isolation, deadline=60.0)
        except Undo:
            assert act == client.undo
        await asyncio.sleep(0)


def on_threads(recorder: Recorder, clients: list[Client], each: int) -> None:
    race(*(lambda c=c: in_thread(recorder, c, each) for c in clients))  # type: ignore[misc]


def on_tasks(recorder: Recorder, clients: list[Client], each: int) -> None:
    async def main() -> None:
        await asyncio.gather(*(in_task(recorder, client, each) for client in clients))

    asyncio.run(main())


def run_and_check(way: Any, clients: int, count: int, slices: int = 1) -> None:
    """About `count` logical transactions in all; each slice is checked, and then forgotten."""
    engine = TheusEngine(START)
    recorder = Recorder(engine)
    people = [Client(number) for number in range(clients)]
    attempts = commits = 0
    for _ in range(slices):
        way(recorder, people, -(-count // (clients * slices)))
        report = check_history(recorder.take())
        assert report.ok, report
        attempts, commits = attempts + report.attempts, commits + report.commits
    assert attempts >= count and engine.version - 1 == commits > count / 2
    assert engine.stats().rebases > 0, "they never met: this run proved nothing"


@pytest.mark.parametrize(("way", "clients"), [(on_threads, 8), (on_tasks, 200)])
def test_a_recorded_history_replays(way: Any, clients: int) -> None:
    run_and_check(way, clients, 4_000)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "clients"), [(on_threads, 8), (on_tasks, 200)])
def test_a_recorded_history_of_20_000_transactions_replays(way: Any, clients: int) -> None:
    run_and_check(way, clients, 20_000, slices=2)


@pytest.mark.long
@pytest.mark.parametrize(("way", "clients"), [(on_threads, 8), (on_tasks, 200)])
def test_a_recorded_history_of_1_000_000_transactions_replays(way: Any, clients: int) -> None:
    run_and_check(way, clients, 1_000_000, slices=50)


# ---- the black box -----------------------------------------------------------------------------


class Lists:
    """Clients that append to lists and read them. `clock` is one counter for all."""

    def __init__(self, keys: int) -> None:
        self.engine = TheusEngine({"d": {f"l{n}": [] for n in range(keys)}})
        self.keys = keys
        self.clock = itertools.count()
        self.elements = itertools.count()
        self.run: list[AppendTransaction] = []

    def body(self, tx: Any, rng: random.Random) -> Iterator[list[Append | Read]]:
        steps: list[Append | Read] = []
        for _ in range(rng.randint(1, 4)):
            key = f"l{rng.randrange(self.keys)}"
            there = tx.get(("d", key))
            if rng.random() < 0.5:
                steps.append(Read(key, tuple(there)))
            else:
                steps.append(Append(key, next(self.elements)))
                there.append(steps[-1].element)
            yield steps

    def note(self, steps: list[Append | Read], began: int, committed: bool) -> None:
        self.run.append(AppendTransaction(steps, began, next(self.clock), committed))

    def in_thread(self, rng: random.Random, count: int, isolation: str) -> None:
        def run(tx: Any) -> list[Append | Read]:
            for steps in self.body(tx, rng):
                tried[:] = steps
                if rng.random() < 0.1:
                    time.sleep(0)
            if rng.random() < 0.05:
                raise Undo
            return steps

        for _ in range(count):
            began, tried = next(self.clock), list[Any]()
            try:
                self.note(self.engine.run(run, isolation=isolation), began, True)
            except Undo:
                self.note(tried, began, False)

    async def in_task(self, rng: random.Random, count: int, isolation: str) -> None:
        async def run(tx: Any) -> list[Append | Read]:
            for steps in self.body(tx, rng):
                tried[:] = steps
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            if rng.random() < 0.05:
                raise Undo
            return steps

        for _ in range(count):
            began, tried = next(self.clock), list[Any]()
            try:
                self.note(await self.engine.run_async(run, isolation=isolation), began, True)
            except Undo:
                self.note(tried, began, False)
            await asyncio.sleep(0)

    def finish(self) -> None:
        """One last transaction reads all: what was lost cannot hide."""
        state, began = self.engine.state["d"], next(self.clock)
        self.note([Read(key, tuple(state[key])) for key in state], began, True)


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_the_black_box_finds_nothing_either(isolation: str, tasks: bool) -> None:
    lists = Lists(keys=12)
    rngs = [random.Random(n) for n in range(40 if tasks else 8)]
    each = 1_000 // len(rngs)
    if tasks:

        async def main() -> None:
            await asyncio.gather(*(lists.in_task(rng, each, isolation) for rng in rngs))

        asyncio.run(main())
    else:
        race(*(lambda r=r: lists.in_thread(r, each, isolation) for r in rngs))  # type: ignore[misc]
    lists.finish()
    level = "strict-serializable" if isolation == "serializable" else "snapshot"
    report = check_appends(lists.run, level)
    assert report.ok, report
    assert report.transactions > 900 and report.edges > 1_000
