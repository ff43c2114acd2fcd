"""What becomes of many threads that want the same key?"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from harness import Bar, Row, main, peer
from stores import PathStore

from theus import TheusEngine

THREADS = 8
SPAN = 0.5  # seconds that threads work for one figure
FAIR_SPAN = 6.0
"""The same for fairness. The interpreter hands on its lock about every 5 ms, to nobody in
particular: in a shorter span a thread gets so few turns that the figure shows their luck,
whatever the store does."""
LONG_BODY = 0.02  # seconds
GIVE_UP = 40  # attempts after which a long body is given up
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
AS_FAST = 0.95 if HAS_GIL else 0.85
"""Eight threads on a hot key should get so much of what one gets done. Without a GIL the key goes
from one processor's cache to another's."""

Body = Callable[[], None]
Contender = Callable[[int], float]  # of a row whose figure is no time of the harness
Increment = Callable[[Body], int]
"""Adds one to the hot key, calling the body between reading and writing; returns the attempts."""


def nothing() -> None:
    pass


def spin(seconds: float) -> Body:
    def body() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return body


# ---- the stores ------------------------------------------------------------------------------


def theus_store() -> Increment:
    engine = TheusEngine({"domain": {f"key-{n}": 0 for n in range(1000)}})

    def increment(body: Body) -> int:
        attempts = 0

        def change(tx: Any) -> None:
            nonlocal attempts
            attempts += 1
            data = tx.domain
            value = data["key-7"]
            body()
            data["key-7"] = value + 1

        engine.run(change)
        return attempts

    return increment


def optimistic_store() -> Increment | None:
    """The loop over `immutables` that keeps a read set, see stores.py."""
    immutables = peer("immutables")
    if immutables is None:
        return None
    store = PathStore(immutables.Map({f"key-{n}": 0 for n in range(1000)}))

    def increment(body: Body) -> int:
        attempts = 0

        def change(tx: Any) -> None:
            nonlocal attempts
            attempts += 1
            value = tx.get("key-7")
            body()
            tx.set("key-7", value + 1)
            if attempts >= GIVE_UP:
                raise TimeoutError

        try:
            store.run(change)
        except TimeoutError:
            pass
        return attempts

    return increment


def lmdb_store() -> Increment | None:
    """One writer at a time, by a lock: nobody tries twice."""
    lmdb = peer("lmdb")
    if lmdb is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="theus-bench-")
    env = lmdb.open(folder.name, map_size=2**28, sync=False, metasync=False, writemap=True)
    with env.begin(write=True) as txn:
        txn.put(b"key-7", b"0")

    def increment(body: Body) -> int:
        with env.begin(write=True) as txn:
            value = int(txn.get(b"key-7"))
            body()
            txn.put(b"key-7", b"%d" % (value + 1))
        return 1

    increment.folder = folder  # type: ignore[attr-defined] # lives as long as its user
    return increment


def zodb_store() -> Increment | None:
    """A connection for each thread; a conflict is tried again at once."""
    zodb, mapping, trees, transaction, errors = map(
        peer, ("ZODB", "ZODB.MappingStorage", "BTrees.OOBTree", "transaction", "ZODB.POSException")
    )
    if zodb is None or mapping is None or trees is None or transaction is None or errors is None:
        return None
    db = zodb.DB(mapping.MappingStorage(), pool_size=1000)
    manager = transaction.TransactionManager()
    root = db.open(manager).root()
    root["store"] = trees.OOBTree({"key-7": 0})
    manager.commit()
    local = threading.local()

    def increment(body: Body) -> int:
        if not hasattr(local, "manager"):
            local.manager = transaction.TransactionManager()
            local.root = db.open(local.manager).root()
        attempts = 0
        while attempts < GIVE_UP:
            attempts += 1
            local.manager.begin()
            store = local.root["store"]
            value = store["key-7"]
            body()
            store["key-7"] = value + 1
            try:
                local.manager.commit()
            except errors.ConflictError:
                local.manager.abort()
                continue
            break
        return attempts

    return increment


STORES: dict[str, Callable[[], Increment | None]] = {
    "theus": theus_store,
    "optimistic transaction over immutables": optimistic_store,
    "lmdb": lmdb_store,
    "ZODB": zodb_store,
}


def stores() -> dict[str, Increment]:
    made = {name: make() for name, make in STORES.items()}
    return {name: increment for name, increment in made.items() if increment is not None}


# ---- how they are driven -----------------------------------------------------------------------


def in_threads(workers: int, work: Callable[[int], None]) -> float:
    """Starts together, ends when all have ended. Returns the seconds in between."""
    began = 0.0

    def start() -> None:
        nonlocal began
        began = time.perf_counter()

    barrier = threading.Barrier(workers, start)

    def run(index: int) -> None:
        barrier.wait()
        work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


@dataclass
class Outcome:
    """What threads did that incremented without a pause."""

    seconds: float
    done: list[int]  # increments of each thread
    most: int  # attempts for one increment


def for_a_while(increment: Increment, body: Body, workers: int, span: float = SPAN) -> Outcome:
    done, most = [0] * workers, [0] * workers
    stop = threading.Event()
    timer = threading.Timer(span, stop.set)

    def work(index: int) -> None:
        while not stop.is_set():
            for _ in range(10):
                most[index] = max(most[index], increment(body))
            done[index] += 10

    timer.start()
    seconds = in_threads(workers, work)
    timer.join()
    return Outcome(seconds, done, max(most))


def pace(increment: Increment, body: Body, workers: int = THREADS) -> Contender:
    """Microseconds for one increment, all threads together."""

    def run(_: int) -> float:
        outcome = for_a_while(increment, body, workers)
        return 1e6 * outcome.seconds / sum(outcome.done)

    return run


# ---- rows ----------------------------------------------------------------------------------------


def hot_key(name: str, body: Body) -> Row:
    contenders = {
        f"{store}, {THREADS} threads": pace(increment, body)
        for store, increment in stores().items()
    }
    contenders["theus, one thread"] = pace(theus_store(), body, 1)
    return Row(f"hot key, {name}", contenders, (Bar(1 / AS_FAST, "theus, one thread"),), unit="µs")


def fairness(name: str, body: Body) -> Row:
    def of(increment: Increment) -> Contender:
        def run(_: int) -> float:
            done = for_a_while(increment, body, THREADS, FAIR_SPAN).done
            return max(done) / max(min(done), 1)

        return run

    contenders = {store: of(increment) for store, increment in stores().items()}
    return Row(
        f"most over fewest commits of {THREADS} threads, {name}",
        contenders,
        (Bar(1 / 0.75),),
        unit="x",
    )


def attempts(name: str, body: Body) -> Row:
    def of(increment: Increment) -> Contender:
        return lambda _: for_a_while(increment, body, THREADS).most

    contenders = {store: of(increment) for store, increment in stores().items()}
    return Row(
        f"most attempts for one commit, {THREADS} threads, {name}",
        contenders,
        (Bar(7),),
        unit="attempts",
    )


def long_body() -> Row:
    """A body of 20 ms while eight threads write a key without a pause, from its start to its
    commit. It takes longer than 20 ms even on a key of its own, where there is only one
    interpreter for all: that is its own run time."""

    def of(increment: Increment, apart: Increment | None = None) -> Contender:
        def run(_: int) -> float:
            stop = threading.Event()
            took = 0.0

            def work(index: int) -> None:
                nonlocal took
                if index > 0:
                    while not stop.is_set():
                        increment(nothing)
                    return
                began = time.perf_counter()
                tries = (apart or increment)(spin(LONG_BODY))
                took = time.perf_counter() - began if tries < GIVE_UP else float("inf")
                stop.set()

            in_threads(THREADS + 1, work)
            return took * 1e3

        return run

    contenders = {store: of(increment) for store, increment in stores().items()}
    contenders["theus, on a key of its own"] = of(theus_store(), theus_store())
    return Row(
        "one transaction of 20 ms against eight threads of short ones",
        contenders,
        (Bar(3, "theus, on a key of its own"),),
        unit="ms",
    )


def hot_counter(engine: TheusEngine) -> Increment:
    def change(tx: Any) -> None:
        tx.add(("domain", "n"), 1)

    def increment(_: Body) -> int:
        engine.run(change)
        return 1

    return increment


def counter() -> Row:
    many, one = (hot_counter(TheusEngine({"domain": {"n": 0}})) for _ in range(2))
    return Row(
        "tx.add on one counter",
        {
            f"theus, {THREADS} threads": pace(many, nothing),
            "theus, one thread": pace(one, nothing, 1),
        },
        (Bar(1 / 0.95, "theus, one thread"),),
        unit="µs",
    )


def aborts() -> Row:
    engine = TheusEngine({"domain": {"n": 0}})

    def count(_: int) -> float:
        for_a_while(hot_counter(engine), nothing, THREADS)
        return float(engine.stats().conflicts)

    return Row("tx.add on one counter, attempts that failed", {"theus": count}, (Bar(0),), unit="")


def rows() -> Iterator[Callable[[], Row]]:
    for name, body in (("empty body", nothing), ("body of 5 µs", spin(5e-6))):
        yield lambda name=name, body=body: hot_key(name, body)
        yield lambda name=name, body=body: fairness(name, body)
        yield lambda name=name, body=body: attempts(name, body)
    yield long_body
    yield counter
    yield aborts


if __name__ == "__main__":
    main(__doc__, rows())
