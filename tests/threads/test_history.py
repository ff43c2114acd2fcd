"""Eight threads, a hundred thousand transactions, every read and write recorded, 0 violations.

The mix has hot and cold keys, key sets, nested dicts, deletions, deferred adds, aborts, read-only
transactions and both isolation levels. tests/checker.py replays what was recorded.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from checker import ABSENT, Record, check
from support import plain, race
from theus import TheusEngine

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
ACTS = ["move", "move", "hot", "skew", "rows", "row", "row", "undo", "look", "add"]
ROWS = [("d", "rows", f"r{n}") for n in range(8)]


class Undo(Exception):
    """Raised by bodies that abort on purpose."""


@pytest.fixture(autouse=True)
def eager_switching() -> Iterator[None]:
    """Lets threads meet inside transactions, which are shorter than a usual time slice."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


class Client:
    """One thread: runs random transactions and records the attempt that counted."""

    def __init__(self, engine: Any, number: int) -> None:
        self.engine, self.number = engine, number
        self.rng = random.Random(number)
        self.value = number * 10_000_000
        self.history: list[Record] = []
        self.adds = 0

    def read(self, tx: Any, record: Record, path: tuple[Any, ...]) -> None:
        record.reads.append(("value", path, tx.get(path, ABSENT)))

    def ask(self, tx: Any, record: Record, question: str) -> None:
        rows = tx.get(("d", "rows"))
        match question:
            case "keys":
                record.reads.append(("keys", ("d", "rows"), frozenset(rows)))
            case "length":
                record.reads.append(("length", ("d", "rows"), len(rows)))
            case "all":
                record.reads.append(("all", ("d", "rows"), rows.to_dict()))

    def put(self, tx: Any, record: Record, path: tuple[Any, ...], gone: bool = False) -> None:
        self.value += 1
        if not gone:
            tx.set(path, self.value)
            record.writes.append((path, self.value))
        elif tx.get(path, ABSENT) is not ABSENT:
            tx.delete(path)
            record.writes.append((path, ABSENT))

    def body(self, tx: Any, record: Record, act: str) -> None:
        record.reads.clear()
        record.writes.clear()
        record.snapshot = tx.version
        rng = self.rng
        match act:
            case "move":
                one, two = rng.sample(COLD, 2)
                self.read(tx, record, one)
                self.read(tx, record, two)
                self.put(tx, record, one)
                self.put(tx, record, two)
            case "hot":
                path = rng.choice(HOT)
                self.read(tx, record, path)
                if rng.random() < 0.1:
                    time.sleep(0)
                self.put(tx, record, path)
            case "skew":
                self.read(tx, record, rng.choice(COLD))
                self.read(tx, record, rng.choice(COLD))
                self.put(tx, record, rng.choice(COLD))
            case "rows":
                self.ask(tx, record, rng.choice(["keys", "length", "all"]))
                self.put(tx, record, rng.choice(COLD[:5]))
            case "row":
                path = rng.choice(ROWS)
                self.read(tx, record, path)
                self.put(tx, record, path, gone=rng.random() < 0.5)
            case "undo":
                self.put(tx, record, rng.choice(HOT))
                raise Undo

    def one(self) -> None:
        rng, engine = self.rng, self.engine
        floor = engine.version
        isolation = "snapshot" if rng.random() < 0.1 else "serializable"
        record = Record(-1, floor=floor, who=self.number, isolation=isolation)
        used: list[Any] = []
        act = rng.choice(ACTS)
        if act in ("look", "add"):
            record.isolation = "serializable"
        if act == "look":
            with engine.transaction(read_only=True) as tx:
                record.snapshot = tx.version
                for path in rng.sample(COLD, 3):
                    self.read(tx, record, path)
                self.ask(tx, record, "all")
        elif act == "add":

            def adding(tx: Any) -> None:
                used[:] = [tx]
                record.snapshot = tx.version
                tx.add(("d", "count"), 1)

            engine.run(adding, deadline=60.0)
            self.adds += 1
            # What it made of the count is whatever was there plus one: filled in by `history`.
            record.writes.append((("d", "count"), None))
            record.version = used[0].version
        else:

            def running(tx: Any) -> None:
                used[:] = [tx]
                self.body(tx, record, act)

            try:
                engine.run(running, isolation=isolation, deadline=60.0)
            except Undo:
                pass
            else:
                record.version = used[0].version if record.writes else None
        self.history.append(record)


def history(clients: list[Client]) -> list[Record]:
    """All records; the n-th add to the count, in the order of versions, made it n."""
    records = [record for client in clients for record in client.history]
    adds = [r for r in records if r.writes and r.writes[0] == (("d", "count"), None)]
    adds.sort(key=lambda record: record.version or 0)
    for number, record in enumerate(adds, 1):
        record.writes = [(("d", "count"), number)]
    return records


def run_and_check(threads: int, each: int) -> None:
    engine = TheusEngine(START)
    first = engine.version
    clients = [Client(engine, number) for number in range(threads)]

    def client(number: int) -> None:
        for _ in range(each):
            clients[number].one()

    race(*(lambda n=n: client(n) for n in range(threads)))  # type: ignore[misc]
    records = history(clients)
    assert len(records) == threads * each
    violations = check(records, START, first, plain(engine.state.data))
    assert violations == [], "\n".join(map(str, violations[:5]))
    stats = engine.stats()
    committed = sum(record.version is not None for record in records)
    assert engine.version - first == committed
    assert engine.state["d"]["count"] == sum(client.adds for client in clients)
    assert stats.rebases > 0, "the threads never met: this run proved nothing"


def test_a_recorded_history_replays() -> None:
    run_and_check(threads=8, each=400)


@pytest.mark.slow
def test_a_recorded_history_of_100_000_transactions_replays() -> None:
    run_and_check(threads=8, each=12_500)


def test_the_same_recording_with_one_wrong_read_is_refused() -> None:
    """The recording and the checker together would notice: nothing here passes by being empty."""
    engine = TheusEngine(START)
    client = Client(engine, 1)
    for _ in range(200):
        client.one()
    records = history([client])
    assert check(records, START, 1, plain(engine.state.data)) == []
    reading = [r for r in records if r.version and r.reads and r.isolation == "serializable"]
    assert len(reading) > 20
    for record in reading[:5]:
        broken = deepcopy(records)
        twin = broken[records.index(record)]
        question, path, _ = twin.reads[0]
        twin.reads[0] = (question, path, "not this")
        kinds = {violation.kind for violation in check(broken, START, 1)}
        assert kinds == {"stale read", "torn read"}
