"""Messages of many threads and tasks: what committed is handed over, once, and nothing else."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

from helpers import run_threads
from theus import OutboxMsg, TheusEngine, process
from theus.errors import ConflictError

SENDERS, RUNS, COURIERS = 6, 60, 2


class Unlucky(Exception):
    """What bodies and handlers raise at random."""


def check(engine: TheusEngine, committed: list[Any], handed_over: list[Any]) -> None:
    """Beside the number of commits, by the records: each message in exactly one of them."""
    recorded = [payload for record in engine.records()[0] for _, payload in record.outbox]
    assert handed_over == recorded, "in the order of the commits"
    assert sorted(handed_over) == sorted(committed)
    assert engine.process_outbox(handed_over.append).delivered == 0
    assert engine.state["domain"]["hot"] == len(committed)


def test_threads_that_conflict_fail_and_save() -> None:
    engine = TheusEngine({"domain": {"hot": 0}}, ring_capacity=1 << 12)
    committed: list[tuple[int, int]] = []
    handed_over: list[tuple[int, int]] = []
    all_sent = threading.Barrier(SENDERS)
    finished = threading.Event()

    def send(me: int) -> None:
        luck = random.Random(me)

        @process(outputs=["domain.hot"])
        def body(ctx: Any, number: int) -> None:
            ctx.domain.hot += 1
            ctx.outbox.add("mail", (me, number))
            try:
                with ctx.transaction.savepoint():
                    ctx.outbox.add("mail", (me, -1))
                    raise Unlucky
            except Unlucky:
                pass
            if luck.random() < 0.3:
                raise Unlucky

        for number in range(RUNS):
            try:
                if luck.random() < 0.5:
                    engine.run_process(body, number)
                else:
                    with engine.transaction(process="with") as tx:
                        tx.domain.hot += 1
                        tx.outbox.add("mail", (me, number))
            except (Unlucky, ConflictError):
                continue
            committed.append((me, number))

    def hand_over(me: int) -> None:
        luck = random.Random(me)

        def handler(message: OutboxMsg) -> None:
            if luck.random() < 0.2:
                raise Unlucky
            handed_over.append(message.payload)

        while not finished.is_set():
            engine.process_outbox(handler)
        while engine.process_outbox(handler).pending:
            pass

    def work(k: int) -> None:
        if k >= SENDERS:
            hand_over(k)
            return
        try:
            send(k)
            all_sent.wait(120)
        finally:
            finished.set()

    run_threads(SENDERS + COURIERS, work)
    check(engine, committed, handed_over)


def test_tasks_that_are_cancelled_anywhere() -> None:
    engine = TheusEngine({"domain": {"hot": 0}}, ring_capacity=1 << 12)
    luck = random.Random(5)
    committed: list[int] = []
    handed_over: list[int] = []

    @process(outputs=["domain.hot"])
    async def body(ctx: Any, number: int) -> int:
        ctx.outbox.add("mail", number)
        for _ in range(number % 4):
            await asyncio.sleep(0)
        ctx.domain.hot += 1
        return number

    async def run(number: int) -> None:
        await engine.execute(body, number)
        committed.append(number)  # no await in between: a task that got here has committed

    async def main() -> None:
        tasks = [asyncio.create_task(run(number)) for number in range(300)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            if luck.random() < 0.3:
                luck.choice(tasks).cancel()
            engine.process_outbox(lambda message: handed_over.append(message.payload))
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 120))
    engine.process_outbox(lambda message: handed_over.append(message.payload))
    assert 0 < len(committed) < 300
    check(engine, committed, handed_over)
