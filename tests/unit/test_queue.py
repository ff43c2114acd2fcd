"""The queue as users see it: who lines up when an engine is fought for, and who does not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from support import PATIENCE, until
from theus import TheusEngine
from theus._theus import Turn
from theus.errors import ConflictError, WriteTimeoutError
from tickets import Holder, assert_clean, bump, lengthen_leases


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": {"n": 0, "m": 0, "many": {}}})


def test_under_contention_runs_queue_and_stop_queueing(engine: TheusEngine) -> None:
    order: list[int] = []
    attempts = 0

    def body(tx: Any, me: int) -> None:
        nonlocal attempts
        attempts += 1
        tx.domain["n"] += 1
        time.sleep(0.001)
        order.append(me)

    def fight(me: int) -> None:
        while not engine.queueing:
            engine.run(body, me)

    def work_in_queue(me: int) -> None:
        together.wait(PATIENCE)
        for _ in range(20):
            engine.run(body, me)

    def all_take_turns() -> bool:
        """Nobody tries in vain, or twice while another one waits. Not so where the machine stood
        still: for so long that the queue has ended, or for one who was not in line."""
        nonlocal attempts
        for target in (fight, work_in_queue):
            order.clear()
            attempts = 0
            threads = [threading.Thread(target=target, args=(me,)) for me in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
        first = order[: len(order) // 2]  # while all of them are there
        counts = [first.count(me) for me in range(6)]
        in_turns = min(counts) >= 0.6 * max(counts)
        return attempts == 120 and in_turns and engine.queueing

    together = threading.Barrier(6)
    until(all_take_turns)
    with engine.transaction() as tx:  # what is not fought for is not in the queue
        tx.domain["m"] = 5
    until(lambda: bump_by_run(engine) and not engine.stats().queueing)
    assert_clean(engine)


def bump_by_run(engine: TheusEngine) -> bool:
    engine.run(lambda tx: tx.add("domain.n", 1))
    return True


Body = tuple[Any, ...]  # a function and its arguments


class Fight:
    """Threads that increment domain.n until the engine is queueing, and go on. After pause() one
    of them holds its turn, and the others stand in line behind it."""

    THREADS = 6

    def __init__(self, engine: TheusEngine, make: Callable[..., Body] | None = None) -> None:
        self.engine = engine
        self.make = make or (lambda fight, key: (fight.increment, key))
        self.stop = threading.Event()
        self.paused = threading.Event()
        self.holds = threading.Event()
        self.go = threading.Semaphore(0)
        # In contexts of their own: where threads inherit one (3.14t), they would share ours.
        self.threads = [
            threading.Thread(target=contextvars.Context().run, args=(self._main,))
            for _ in range(self.THREADS)
        ]

    def increment(self, tx: Any, key: str) -> None:
        tx.domain[key] += 1
        if key != "n":
            return
        if self.paused.is_set():
            self.holds.set()
            assert self.go.acquire(timeout=PATIENCE)
        time.sleep(0.001)

    def _main(self) -> None:
        while not self.stop.is_set():
            self.run("n")

    def run(self, key: str) -> None:
        self.engine.run(*self.make(self, key))

    def lines_up(self, key: str) -> bool:
        """Would such a run?"""
        fn, *args = self.make(self, key)
        turn = Turn(self.engine, fn, tuple(args))
        turn.line_up()
        return turn.in_line

    def pause(self) -> None:
        self.paused.set()
        assert self.holds.wait(PATIENCE)
        until(lambda: self.engine.stats().queue_depth == self.THREADS - 1)

    def let_one_pass(self) -> None:
        """Who holds its turn ends it, and stands behind the others when the next one holds its."""
        self.holds.clear()
        self.go.release()
        assert self.holds.wait(PATIENCE)

    def __enter__(self) -> Fight:
        for thread in self.threads:
            thread.start()
        until(lambda: self.engine.queueing)
        lengthen_leases(self.engine)
        tickets = self.engine.stats().tickets
        until(lambda: self.engine.stats().tickets > tickets + 5 * self.THREADS)  # all are in line
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.paused.clear()
        self.go.release(self.THREADS)
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def key_apart(engine: TheusEngine) -> str:
    """Its path shares no stripe with that of domain.n, which depends on the seed of hashes."""
    keys = [f"apart-{number}" for number in range(20)]
    engine.run(lambda tx: tx.domain.update(dict.fromkeys(keys, 0)))
    with Holder(engine):
        for key in keys:
            with suppress(ConflictError):
                bump(engine, key)
                return key
    raise AssertionError("all of them meet it")


def test_who_fights_for_nothing_does_not_line_up(engine: TheusEngine) -> None:
    """A queue was one for all runs of its engine: those on other keys waited for it, too."""
    key, done = key_apart(engine), 0

    def own(tx: Any, number: int) -> None:
        nonlocal done
        tx.domain[key] += number
        done += 1

    with Fight(engine) as fight:
        for _ in range(20):  # in line at first, since it is the function that fights elsewhere
            fight.run(key)
        fight.pause()
        before = engine.stats()
        for number in range(50):
            engine.run(own, number)
            engine.run(fight.increment, key)
        after = engine.stats()
        assert fight.holds.is_set()
    assert done == 50
    assert after.tickets == before.tickets
    assert after.retries == before.retries
    assert after.queueing
    assert_clean(engine)


@pytest.mark.parametrize(
    "make",
    [
        lambda fight, key: (lambda tx: fight.increment(tx, key),),
        lambda fight, key: (lambda tx, key=key: fight.increment(tx, key),),
        lambda fight, key: (partial(Fight.increment, fight), key),
        lambda fight, key: (partial(fight.increment, key=key),),
        lambda fight, key: (lambda tx, options: fight.increment(tx, **options), {"key": key}),
        lambda fight, key: (lambda tx, path: fight.increment(tx, path[1]), ("domain", key)),
    ],
    ids=["cell", "default", "partial", "keywords", "dict", "tuple"],
)
def test_what_is_made_anew_is_known_again(engine: TheusEngine, make: Callable[..., Body]) -> None:
    """What runs are told apart by: the code of a function, and the values that it was made with."""
    key = key_apart(engine)
    with Fight(engine, make) as fight:
        assert fight.lines_up("n")
        for _ in range(20):
            fight.run(key)
        assert fight.lines_up("n")
        assert not fight.lines_up(key)
    assert_clean(engine)


def test_who_joins_the_fight_lines_up(engine: TheusEngine) -> None:
    """A new body tries first, and has a ticket after one failure; from then on it lines up.

    All of it happens while others stand in line, so nothing can end the queue meanwhile."""
    attempts = {"first": 0, "second": 0}

    def late(tx: Any) -> None:
        attempts[threading.current_thread().name] += 1
        tx.domain["n"] += 1

    def start(name: str) -> threading.Thread:
        thread = threading.Thread(
            target=contextvars.Context().run, args=(engine.run, late), name=name
        )
        thread.start()
        return thread

    with Fight(engine) as fight:
        fight.pause()
        first = start("first")
        while attempts["first"] < 2:  # held up, or failed already and in line
            until(lambda: engine.stats().queue_depth == fight.THREADS)
            fight.let_one_pass()
        first.join(PATIENCE)
        until(lambda: engine.stats().queue_depth == fight.THREADS - 1)
        second = start("second")
        until(lambda: engine.stats().queue_depth == fight.THREADS)
        assert attempts["second"] == 0
    second.join(PATIENCE)
    assert not first.is_alive() and not second.is_alive()
    assert attempts == {"first": 2, "second": 1}
    assert_clean(engine)


def test_a_queued_run_gives_up_at_its_deadline(engine: TheusEngine) -> None:
    with Fight(engine) as fight:
        fight.pause()
        with pytest.raises(WriteTimeoutError):
            engine.run(fight.increment, "n", deadline=0.05)
        # One may still be on its way.
        until(lambda: engine.stats().queue_depth == fight.THREADS - 1)
    assert_clean(engine)


# ---- tasks ------------------------------------------------------------------------------------


def test_tasks_queue(engine: TheusEngine) -> None:
    """Nobody tries in vain."""
    attempts = 0

    async def body(tx: Any) -> None:
        nonlocal attempts
        attempts += 1
        tx.domain["n"] += 1
        await asyncio.sleep(0.001)

    async def main() -> None:
        nonlocal attempts
        while attempts != 50:  # where the machine stands still for long the queue ends
            while not engine.queueing:
                await asyncio.gather(*(engine.run_async(body) for _ in range(8)))
            attempts = 0
            await asyncio.gather(*(engine.run_async(body) for _ in range(50)))

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert_clean(engine)


def test_tasks_that_fight_for_nothing_do_not_line_up(engine: TheusEngine) -> None:
    key = key_apart(engine)

    async def own(tx: Any, number: int) -> None:
        tx.domain[key] += number
        await asyncio.sleep(0)

    async def main() -> None:
        go, holds = asyncio.Event(), asyncio.Event()
        stop = paused = False

        async def body(tx: Any) -> None:
            tx.domain["n"] += 1
            if paused:
                holds.set()
                await go.wait()
            await asyncio.sleep(0.001)

        async def fighter() -> None:
            while not stop:
                await engine.run_async(body)

        while not engine.queueing:
            await asyncio.gather(*(engine.run_async(body) for _ in range(8)))
        lengthen_leases(engine)
        fighters = [asyncio.create_task(fighter()) for _ in range(8)]
        tickets = engine.stats().tickets
        while engine.stats().tickets < tickets + 40:  # all are in line
            await asyncio.sleep(0.001)
        paused = True
        await holds.wait()
        while engine.stats().queue_depth < 7:
            await asyncio.sleep(0.001)
        tickets = engine.stats().tickets
        for number in range(20):
            await engine.run_async(own, number)
        assert engine.stats().tickets == tickets
        assert engine.queueing and not go.is_set()
        stop = True
        go.set()
        await asyncio.gather(*fighters)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert_clean(engine)
