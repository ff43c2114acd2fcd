"""Followers, waiters and blocked commits under load: nothing is lost that is not counted."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from helpers import run_threads
from support import PATIENCE
from theus import ClosedError, RingFullError, TheusEngine
from theus.waiting import Waiter

pytestmark = pytest.mark.usefixtures("eager_switching")

WRITERS, EACH = 4, 250


def add(engine: Any, number: int) -> None:
    def body(tx: Any) -> None:
        tx.d[f"t{number}"] += 1

    for _ in range(EACH):
        engine.run(body)


def make(**options: Any) -> Any:
    return TheusEngine({"d": {f"t{n}": 0 for n in range(WRITERS)}}, **options)


def done(state: Any) -> bool:
    return bool(sum(state.d.values()) == WRITERS * EACH)


@pytest.mark.parametrize("history", [2, 16, 10_000])
def test_changes_delivered_and_missed_are_all(history: int) -> None:
    engine = make(history=history)
    everything = [engine.changes() for _ in range(2)]
    ones = [engine.changes(f"d.t{n}") for n in range(WRITERS)]

    def follow(changes: Any) -> None:
        last, delivered, missed = engine.version if changes.missed else 1, 0, 0
        for item in changes:
            assert item.version == last + item.missed + 1 and item.before.version == last
            last, delivered, missed = item.version, delivered + 1, missed + item.missed
        assert delivered + missed == WRITERS * EACH == last - 1 and missed == changes.missed

    def follow_one(changes: Any, number: int) -> None:
        value, missed = 0, 0
        for item in changes:
            assert item.old == value and item.value > value, "in order, and only real changes"
            assert item.missed or item.value == value + 1, "none is skipped without being counted"
            value, missed = item.value, missed + item.missed
        assert value == EACH and missed <= changes.missed

    def main(index: int) -> None:
        if index < WRITERS:
            add(engine, index)
            if index == 0:
                engine.wait_for(done)
                engine.close()
        elif index < 2 * WRITERS:
            follow_one(ones[index - WRITERS], index - WRITERS)
        else:
            follow(everything[index - 2 * WRITERS])

    run_threads(2 * WRITERS + 2, main, timeout=PATIENCE)


@pytest.mark.parametrize("mode", ["overwrite", "drop_new", "block", "strict"])
def test_records_taken_and_lost_are_all(mode: str) -> None:
    engine = make(ring_mode=mode, ring_capacity=8, ring_timeout_ms=0)
    readers = [engine.reader() for _ in range(2)]
    committed: list[int] = []

    def write(number: int) -> None:
        def body(tx: Any) -> None:
            tx.d[f"t{number}"] += 1

        def attempt() -> bool:
            try:
                engine.run(body)
            except RingFullError as error:
                assert mode == error.mode == "strict" and error.reason == "full"
                return False
            committed.append(number)
            return True

        waiter = Waiter(engine, room=True)  # so that who is refused does not spin
        for n in range(1, EACH + 1):
            while committed.count(number) < n:
                waiter.sleep(attempt)

    def read(reader: Any) -> None:
        versions = [record.version for record in reader]
        assert versions == sorted(set(versions))
        assert len(versions) + reader.lost == WRITERS * EACH
        assert mode in ("overwrite", "drop_new") or reader.lost == 0

    def main(index: int) -> None:
        if index < WRITERS:
            write(index)
            if index == 0:
                engine.wait_for(done)
                engine.close()
        else:
            read(readers[index - WRITERS])

    run_threads(WRITERS + 2, main, timeout=PATIENCE)
    lost = engine.stats().ring_lost
    assert mode in ("overwrite", "drop_new") or lost == 0
    if mode == "drop_new":
        assert {reader.lost for reader in readers} == {lost}


def test_many_wait_for_many_things() -> None:
    engine = TheusEngine({"n": 0})
    count = 8

    def main(index: int) -> None:
        if index == count:
            for _ in range(count):
                engine.wait_for(lambda state: state["n"] % 2 == 1)
                engine.run(lambda tx: tx.set(("n",), tx["n"] + 1))
        else:
            state = engine.wait_for(lambda state: state["n"] == 2 * index)
            engine.compare_and_swap(state.version, {"n": state["n"] + 1})

    run_threads(count + 1, main, timeout=PATIENCE)
    assert engine.state["n"] == 2 * count


def test_threads_and_tasks_hand_a_number_to_and_fro() -> None:
    """Each side waits for the other's commit: one lost wake-up, and it stands still."""
    engine = TheusEngine({"n": 0})
    last = 400

    def step(tx: Any) -> None:
        tx["n"] += 1

    def thread() -> None:
        for n in range(0, last, 2):
            engine.wait_for(lambda state, n=n: state["n"] == n)
            engine.run(step)

    async def task() -> None:
        for n in range(1, last, 2):
            await engine.wait_for_async(lambda state, n=n: state["n"] == n)
            engine.run(step)

    run_threads(
        2,
        lambda index: thread() if index else asyncio.run(asyncio.wait_for(task(), PATIENCE)),
        timeout=PATIENCE,
    )
    assert engine.state["n"] == last


def test_closing_wakes_every_thread() -> None:
    engine = make(ring_mode="block", ring_capacity=1, ring_timeout_ms=0)
    reader = engine.reader()
    engine.run(lambda tx: tx.set("d.t0", 1))
    asleep = threading.Semaphore(0)

    def wait(index: int) -> str:
        try:
            if index == 0:
                asleep.release()
                engine.wait_for(lambda state: False)
            elif index == 1:
                asleep.release()
                return f"{len(list(engine.changes()))} changes"
            elif index == 2:
                asleep.release()
                engine.run(lambda tx: tx.set("d.t0", 2))
            else:
                for _ in range(3):
                    asleep.acquire()
                engine.close()
        except ClosedError:
            return "closed"
        return "went on"

    assert run_threads(4, wait, timeout=PATIENCE) == ["closed", "0 changes", "closed", "went on"]
    assert [record.version for record in reader] == [2]


def test_closing_a_follower_wakes_its_thread() -> None:
    engine = make()
    for kind in (engine.changes, engine.reader):
        follower = kind()
        begun = threading.Event()

        def main(index: int, follower: Any = follower, begun: Any = begun) -> list[Any]:
            if index == 0:
                begun.set()
                return list(follower)
            begun.wait(PATIENCE)
            follower.close()
            return []

        assert run_threads(2, main, timeout=PATIENCE) == [[], []]


def test_a_body_that_waits_holds_up_nobody() -> None:
    """wait_for inside a transaction waits for commits of others; its own snapshot does not move."""
    engine = TheusEngine({"go": 0, "n": 0})
    begun = threading.Event()

    def main(index: int) -> None:
        if index == 0:
            with engine.transaction(isolation="snapshot") as tx:
                before = tx["go"]
                begun.set()
                engine.wait_for(lambda state: state["go"] == 1)
                assert tx["go"] == before == 0
                tx["n"] = 1
        else:
            begun.wait(PATIENCE)
            engine.run(lambda tx: tx.set(("go",), 1))

    run_threads(2, main, timeout=PATIENCE)
    assert engine.state.to_dict() == {"go": 1, "n": 1}
