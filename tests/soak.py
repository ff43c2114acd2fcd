"""python tests/soak.py [--seconds 600] [--seed N]: everything at once, for a long time.

Threads and tasks move money, add, send messages, insert and delete rows, read, compare and swap,
think long inside a transaction, abort, are cancelled, and are killed: an exception is thrown into
the middle of whatever they do. All of it on one engine, whose history is cut and stretched
meanwhile. What must hold is in the state itself, so that nothing depends on what a killed thread
could still note:

    the sum of all accounts never changes, in any version that anybody reads
    count == the sum of all marks (a deferred add, and a mark of the same transaction)
    sent == the messages that were handed over, in the end; in order, some of them twice
    every row is {"a": n, "b": -n}
    versions: one per commit

Printed are these, memory over time, how many attempts the unluckiest run of each kind needed,
and fairness (the smallest share of a worker of a kind, of the largest). Ends with status 1 if
something does not hold, if a worker hangs or fails, or if memory grows in the second half. Not
part of any test run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from theus import ConflictError, ContextError, OutboxMsg, TheusEngine

ACCOUNTS, BALANCE, ROWS, MARKS, TASKS = 64, 1_000, 32, 8, 40
GROWTH = 1.25  # memory at the end, of what it was half-way
START = {
    "bank": {f"a{n}": BALANCE for n in range(ACCOUNTS)},
    "rows": {},
    "count": 0,
    "sent": 0,
    "marks": {f"m{n}": 0 for n in range(MARKS)},
    "swaps": {},
    "audit": {"total": 0},
}


class Killed(BaseException):
    """Thrown into a thread from outside."""


class Undo(Exception):
    """Raised by bodies that abort on purpose."""


class Soak:
    def __init__(self, seed: int) -> None:
        self.engine = TheusEngine({"d": START}, history=64, ring_capacity=256)
        self.seed = seed
        self.stop = threading.Event()
        self.runs: Counter[str] = Counter()  # by worker, each written by itself alone
        self.tries: Counter[str] = Counter()  # by kind, the largest
        self.events: Counter[str] = Counter()
        self.failures: list[str] = []
        self.memory: list[int] = []
        self.handed_over = ("", 0)  # id of the last message, and how many: one assignment

    # ---- what a transaction does ---------------------------------------------------------------

    def transfer(self, tx: Any, rng: random.Random) -> None:
        one, two = rng.sample(range(ACCOUNTS), 2)
        amount = rng.randint(1, 9)
        if rng.random() < 0.5:
            one, two = one % 4, two % 4 + 4  # hot ones
        tx.d.bank[f"a{one}"] -= amount
        tx.d.bank[f"a{two}"] += amount
        if rng.random() < 0.02:
            raise Undo

    def add(self, tx: Any, rng: random.Random) -> None:
        tx.add(("d", "count"), 1)
        tx.add(("d", "marks", f"m{rng.randrange(MARKS)}"), 1)
        if rng.random() < 0.1:
            tx.add(("d", "sent"), 1)
            tx.outbox.add("added", 1)

    def churn(self, tx: Any, rng: random.Random) -> None:
        rows, key, number = tx.d.rows, f"r{rng.randrange(ROWS)}", rng.randint(1, 1_000_000)
        if key not in rows:
            rows[key] = {"a": number, "b": -number}
        elif rng.random() < 0.5:
            del rows[key]
        else:
            rows[key]["a"], rows[key]["b"] = number, -number

    def long(self, tx: Any, rng: random.Random) -> None:
        total = sum(tx.d.bank.values())
        time.sleep(0.02)
        tx.d.bank["a0"] -= 1
        tx.d.bank["a1"] += 1
        tx.d.audit["total"] = total

    # ---- who does it ---------------------------------------------------------------------------

    def runner(self, what: Callable[[Any, random.Random], None], isolation: str) -> Any:
        """A worker that runs one kind of transaction until the end, or until it is killed."""
        kind = what.__name__

        def work(name: str, rng: random.Random) -> None:
            while not self.stop.is_set():
                tries = 0

                def body(tx: Any) -> None:
                    nonlocal tries
                    tries += 1
                    what(tx, rng)

                with contextlib.suppress(Undo):
                    self.engine.run(body, isolation=isolation)
                self.runs[name] += 1
                self.tries[kind] = max(self.tries[kind], tries)

        return work

    def reader(self, name: str, rng: random.Random) -> None:
        held: deque[Any] = deque(
            maxlen=20
        )  # old versions stay whole as long as somebody holds them
        while not self.stop.is_set():
            with self.engine.transaction(read_only=True) as tx:
                self.judge(tx.d)
                held.append(tx.state)
            self.judge(rng.choice(held)["d"])
            self.runs[name] += 1

    def swapper(self, name: str, rng: random.Random) -> None:
        while not self.stop.is_set():
            value = {"d": {"swaps": {name: rng.random()}}}
            try:
                self.engine.compare_and_swap(self.engine.version, value)
                self.runs[name] += 1
            except (ConflictError, ContextError):
                self.events["swaps refused"] += 1
                time.sleep(0.001)

    def historian(self, name: str, rng: random.Random) -> None:
        """Cuts and stretches the history, and reads the records."""
        since = 0
        while not self.stop.wait(0.05):
            self.engine.history_limit(count=rng.choice([1, 8, 64, 256]))
            records, lost = self.engine.records(since)
            numbers = [record.version for record in records]
            if numbers != sorted(numbers):
                raise AssertionError(f"records out of order: {numbers}")
            self.events["records read"] += len(records)
            self.runs[name] += 1

    def victims(self, name: str, rng: random.Random) -> None:
        """Starts threads that move money, and kills them at any moment."""
        work = self.runner(self.transfer, "serializable")

        def live(number: int) -> None:
            with contextlib.suppress(Killed):
                work(f"{name}: victims", random.Random(number))

        while not self.stop.is_set():
            thread = threading.Thread(target=live, args=(rng.random(),), daemon=True)
            thread.start()
            time.sleep(rng.random() * 0.02)
            kill(thread)
            self.runs[name] += 1
            self.events["threads killed"] += 1

    def courier(self, name: str, rng: random.Random) -> None:
        """Threads that hand messages over, to a handler that fails at times, and are killed."""

        def handler(message: OutboxMsg) -> None:
            if rng.random() < 0.01:
                raise Undo
            last, count = self.handed_over
            if str(message.id) > last:  # else: killed after the handler, before that was noted
                self.handed_over = str(message.id), count + 1
            else:
                self.events["messages handed over twice"] += 1
            if str(message.id) < last:
                self.failures.append(f"message {message.id} came after {last}")

        def live() -> None:
            with contextlib.suppress(Killed):
                while not self.stop.is_set():
                    self.engine.process_outbox(handler)

        while not self.stop.is_set():
            thread = threading.Thread(target=live, daemon=True)
            thread.start()
            time.sleep(rng.random() * 0.05)
            kill(thread)
            self.runs[name] += 1

    def loop(self, name: str, rng: random.Random) -> None:
        """An event loop with many tasks, some of which are cancelled."""
        asyncio.run(self.tasks(name, rng))

    async def tasks(self, name: str, rng: random.Random) -> None:
        async def body(tx: Any) -> None:
            self.transfer(tx, rng)
            await asyncio.sleep(0)

        async def scope() -> None:
            async with self.engine.transaction() as tx:
                self.add(tx, rng)
                await asyncio.sleep(0)

        async def one() -> None:
            ways: list[Callable[[], Coroutine[Any, Any, None]]] = [
                lambda: self.engine.run_async(body),
                lambda: self.engine.run_async(body, isolation="snapshot"),
                scope,
            ]
            while not self.stop.is_set():
                with contextlib.suppress(Undo, ConflictError):
                    await rng.choice(ways)()
                self.runs[name] += 1
                await asyncio.sleep(0)

        live = {asyncio.create_task(one()) for _ in range(TASKS)}
        while not self.stop.is_set():
            await asyncio.sleep(0.01)
            victim = rng.choice(sorted(live, key=id))
            victim.cancel()
            live.remove(victim)
            with contextlib.suppress(asyncio.CancelledError):
                await victim
            self.events["tasks cancelled"] += 1
            live.add(asyncio.create_task(one()))
        await asyncio.gather(*live)

    # ---- what must hold ------------------------------------------------------------------------

    def judge(self, d: Any) -> None:
        total = sum(d["bank"].values())
        if total != ACCOUNTS * BALANCE:
            raise AssertionError(f"the accounts hold {total}, not {ACCOUNTS * BALANCE}")
        marks = sum(d["marks"].values())
        if d["count"] != marks:
            raise AssertionError(f"count is {d['count']}, the marks are {marks}")
        for key, row in d["rows"].items():
            if row["a"] != -row["b"]:
                raise AssertionError(f"row {key} is {row}")

    # ---- the run -------------------------------------------------------------------------------

    def guard(self, name: str, work: Callable[[str, random.Random], None]) -> None:
        try:
            work(name, random.Random(f"{self.seed} {name}"))
        except BaseException as error:
            self.failures.append(f"{name}: {error!r}")
            self.stop.set()

    def workers(self) -> dict[str, Callable[[str, random.Random], None]]:
        move = self.runner(self.transfer, "serializable")
        snapshot = self.runner(self.transfer, "snapshot")
        made: dict[str, Callable[[str, random.Random], None]] = {}
        made |= {f"transfer {n}": move for n in range(4)}
        made |= {f"transfer (snapshot) {n}": snapshot for n in range(2)}
        made |= {f"add {n}": self.runner(self.add, "serializable") for n in range(2)}
        made |= {f"churn {n}": self.runner(self.churn, "serializable") for n in range(2)}
        made |= {f"reader {n}": self.reader for n in range(2)}
        made |= {f"swapper {n}": self.swapper for n in range(2)}
        return made | {
            "long": self.runner(self.long, "serializable"),
            "killer": self.victims,
            "courier": self.courier,
            "tasks": self.loop,
            "historian": self.historian,
        }

    def run(self, seconds: float) -> None:
        sys.setswitchinterval(1e-4)
        workers = self.workers()
        threads = [
            threading.Thread(target=self.guard, args=item, name=item[0], daemon=True)
            for item in workers.items()
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop.wait(min(1.0, seconds / 20)):
            self.memory.append(resident())
        self.stop.set()
        for thread in threads:
            thread.join(60.0)
            if thread.is_alive():
                self.failures.append(f"{thread.name} hangs")

    def report(self) -> bool:
        engine, stats = self.engine, self.engine.stats()
        try:
            self.judge(engine.state["d"])
        except AssertionError as error:
            self.failures.append(str(error))
        ids: set[str] = set()
        engine.process_outbox(lambda message: ids.add(str(message.id)))
        last, count = self.handed_over
        count += sum(id > last for id in ids)
        sent = engine.state["d"]["sent"]
        if count != sent:
            self.failures.append(f"{count} messages were handed over, and {sent} were sent")
        if engine.version - 1 != stats.commits:
            self.failures.append(f"version {engine.version} after {stats.commits} commits")
        half, last = self.memory[len(self.memory) // 2], self.memory[-1]
        if last > half * GROWTH:
            self.failures.append(f"memory grew from {half} to {last} bytes in the second half")
        print(
            f"{sum(self.runs.values())} runs; "
            + ", ".join(f"{n} {e}" for e, n in self.events.items())
        )
        kinds: dict[str, list[int]] = {}
        for name in self.workers():
            kinds.setdefault(name.rstrip("0123456789 "), []).append(self.runs[name])
        for kind, runs in kinds.items():
            fair = f"  fairness {min(runs) / max(max(runs), 1):.2f}" if len(runs) > 1 else ""
            print(f"  {kind:22} {sum(runs):9} runs{fair}")
        print("most attempts: " + ", ".join(f"{kind} {n}" for kind, n in self.tries.items()))
        shown = [
            f"{name} {value}" for name, value in stats._asdict().items() if len(f"{value}") < 80
        ]
        print("engine: " + ", ".join(shown))
        marks = self.memory[:: max(len(self.memory) // 10, 1)]
        print("memory (MiB): " + " ".join(f"{size / 2**20:.0f}" for size in marks))
        for failure in self.failures:
            print(f"FAILED: {failure}")
        print("all invariants hold" if not self.failures else f"{len(self.failures)} failures")
        return not self.failures


def kill(thread: threading.Thread) -> None:
    while thread.is_alive():
        ident = ctypes.c_ulong(thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Killed))
        thread.join(1.0)


def resident() -> int:
    """Bytes of this process in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    print(
        f"seed {options.seed}, {options.seconds:.0f} s, Python {sys.version.split()[0]}", flush=True
    )
    soak = Soak(options.seed)
    soak.run(options.seconds)
    return 0 if soak.report() else 1


if __name__ == "__main__":
    sys.exit(main())
