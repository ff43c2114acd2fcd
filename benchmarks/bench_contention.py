"""What becomes of many threads that want the same key?"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from harness import Bar, Contender, Row, main, peer
from stores import PathStore

from theus import TheusEngine

THREADS = 8
SPAN = 0.4          # seconds of a run whose figure is no time
LONG_BODY = 0.02    # seconds
GIVE_UP = 40        # attempts after which a long body is given up

Body = Callable[[], None]
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

    increment.folder = folder    # type: ignore[attr-defined] # lives as long as its user
    return increment


def zodb_store() -> Increment | None:
    """A connection for each thread; a conflict is tried again at once."""
    zodb, mapping, trees, transaction, errors = map(
        peer, ("ZODB", "ZODB.MappingStorage", "BTrees.OOBTree", "transaction", "ZODB.POSException"))
    if zodb is None or mapping is None or trees is None or transaction is None or errors is None:
        return None
    db = zodb.DB(mapping.MappingStorage(), pool_size=THREADS + 2)
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


def in_threads(workers: int, work: Callable[[int], None]) -> None:
    """Starts together, ends when all have ended."""
    barrier = threading.Barrier(workers)

    def run(index: int) -> None:
        barrier.wait()
        work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def shared(increment: Increment, body: Body, workers: int) -> Contender:
    """`count` increments by so many threads, which take their share in small portions."""

    def run(count: int) -> None:
        portion = max(1, count // (workers * 16))
        left = count
        lock = threading.Lock()

        def work(index: int) -> None:
            nonlocal left
            while True:
                with lock:
                    mine = min(portion, left)
                    left -= mine
                if mine == 0:
                    return
                for _ in range(mine):
                    increment(body)

        in_threads(workers, work)

    return run


def for_a_while(increment: Increment, body: Body) -> tuple[list[int], list[int]]:
    """Increments, and most attempts for one, of each thread in SPAN seconds."""
    done, most = [0] * THREADS, [0] * THREADS

    def work(index: int) -> None:
        end = time.perf_counter() + SPAN
        while time.perf_counter() < end:
            most[index] = max(most[index], increment(body))
            done[index] += 1

    in_threads(THREADS, work)
    return done, most


# ---- rows ----------------------------------------------------------------------------------------


def hot_key(name: str, body: Body) -> Row:
    contenders = {f"{store}, {THREADS} threads": shared(increment, body, THREADS)
                  for store, increment in stores().items()}
    contenders["theus, one thread"] = shared(theus_store(), body, 1)
    return Row(f"hot key, {name}", contenders, (Bar(1 / 0.95, "theus, one thread"),),
               clock=time.perf_counter_ns)


def fairness(name: str, body: Body) -> Row:
    def of(increment: Increment) -> Contender:
        def run(_: int) -> float:
            done, _most = for_a_while(increment, body)
            return max(done) / max(min(done), 1)

        return run

    contenders = {store: of(increment) for store, increment in stores().items()}
    return Row(f"most over fewest commits of {THREADS} threads, {name}", contenders,
               (Bar(1 / 0.75),), unit="x")


def attempts(name: str, body: Body) -> Row:
    def of(increment: Increment) -> Contender:
        return lambda _: max(for_a_while(increment, body)[1])

    contenders = {store: of(increment) for store, increment in stores().items()}
    return Row(f"most attempts for one commit, {THREADS} threads, {name}", contenders,
               (Bar(7),), unit="attempts")


def long_body() -> Row:
    """A body of 20 ms, by the wall, while eight threads write its key without a pause."""

    def of(increment: Increment) -> Contender:
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
                tries = increment(spin(LONG_BODY))
                took = time.perf_counter() - began if tries < GIVE_UP else float("inf")
                stop.set()

            in_threads(THREADS + 1, work)
            return took / LONG_BODY

        return run

    contenders = {store: of(increment) for store, increment in stores().items()}
    return Row("one transaction of 20 ms against eight threads of short ones: its own run times",
               contenders, (Bar(3),), unit="x")


def hot_counter(workers: int, engine: TheusEngine) -> Contender:
    def change(tx: Any) -> None:
        tx.add(("domain", "n"), 1)

    def increment(_: Body) -> int:
        engine.run(change)
        return 1

    return shared(increment, nothing, workers)


def counter() -> Row:
    many, one = (TheusEngine({"domain": {"n": 0}}) for _ in range(2))
    return Row("tx.add on one counter",
               {f"theus, {THREADS} threads": hot_counter(THREADS, many),
                "theus, one thread": hot_counter(1, one)},
               (Bar(1 / 0.95, "theus, one thread"),), clock=time.perf_counter_ns)


def aborts() -> Row:
    engine = TheusEngine({"domain": {"n": 0}})
    run = hot_counter(THREADS, engine)

    def count(_: int) -> float:
        run(20_000)
        return float(engine.stats().conflicts)

    return Row("tx.add on one counter, aborted attempts of 20,000", {"theus": count}, (Bar(0),),
               unit="")


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
