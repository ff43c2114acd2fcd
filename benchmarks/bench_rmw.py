"""What does it cost to read one key, change it and commit, beside what else one could use?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import stores
from harness import Bar, Contender, Row, main
from stores import Keys

from theus import TheusEngine

TRANSACTION = "optimistic transaction over immutables"
SWAP = "optimistic swap over immutables"
LOCKED = "dict under a lock"

SAME = ["key-7"] * 1000
"""One key, again and again, in a list so that the loop around it costs next to nothing."""


def names(size: int) -> Keys:
    return [f"key-{n}" for n in range(size)]


def engine_with(size: int) -> TheusEngine:
    return TheusEngine({"domain": dict.fromkeys(names(size), 0)})


def run_path(engine: TheusEngine, keys: Keys) -> Contender:
    """engine.run with a path."""
    paths = [("domain", key) for key in keys]

    def bump(tx: Any, path: Any) -> None:
        tx.set(path, tx.get(path) + 1)

    def run(count: int) -> None:
        execute = engine.run
        for _ in repeat(None, count):
            for path in paths:
                execute(bump, path)

    return run


def run_draft(engine: TheusEngine, keys: Keys) -> Contender:
    """engine.run with a draft."""

    def bump(tx: Any, key: Any) -> None:
        tx.domain[key] += 1

    def run(count: int) -> None:
        execute = engine.run
        for _ in repeat(None, count):
            for key in keys:
                execute(bump, key)

    return run


def with_path(engine: TheusEngine, keys: Keys) -> Contender:
    """The with statement, with a path."""
    paths = [("domain", key) for key in keys]

    def run(count: int) -> None:
        transaction = engine.transaction
        for _ in repeat(None, count):
            for path in paths:
                with transaction() as tx:
                    tx.set(path, tx.get(path) + 1)

    return run


def with_draft(engine: TheusEngine, keys: Keys) -> Contender:
    """The with statement, with a draft."""

    def run(count: int) -> None:
        transaction = engine.transaction
        for _ in repeat(None, count):
            for key in keys:
                with transaction() as tx:
                    tx.domain[key] += 1

    return run


def run_add(engine: TheusEngine, keys: Keys) -> Contender:
    """A deferred addition: nothing is read, so nothing can conflict."""
    paths = [("domain", key) for key in keys]

    def bump(tx: Any, path: Any) -> None:
        tx.add(path, 1)

    def run(count: int) -> None:
        execute = engine.run
        for _ in repeat(None, count):
            for path in paths:
                execute(bump, path)

    return run


OURS = {
    "theus engine.run, path": run_path,
    "theus engine.run, draft": run_draft,
    "theus with transaction, path": with_path,
    "theus with transaction, draft": with_draft,
    "theus engine.run, add": run_add,
}

PEERS: dict[str, Callable[[Keys, Keys], Contender | None]] = {
    TRANSACTION: stores.path_store,
    SWAP: stores.swap_store,
    LOCKED: stores.locked_dict,
    "dict": stores.bare_dict,
    "LMDB, writemap, no sync": stores.lmdb_store,
    "SQLite :memory:": stores.sqlite_store,
    "ZODB, in memory": stores.zodb_store,
}


def row_peers(size: int) -> Row:
    contenders = {name: make(engine_with(size), SAME) for name, make in OURS.items()}
    for name, make_peer in PEERS.items():
        contender = make_peer(names(size), SAME)
        if contender is not None:
            contenders[name] = contender
    runs, withs = "theus engine.run, path", "theus with transaction, path"
    bars = (
        Bar(550, of=runs),
        Bar(0.5, TRANSACTION, of=runs),
        Bar(0.5, SWAP, of=runs),
        Bar(4, LOCKED, of=runs),
        Bar(900, of=withs),
        Bar(550, of="theus engine.run, draft"),
        Bar(900, of="theus with transaction, draft"),
    )
    return Row(f"read, add one, commit: one key of {size:,}", contenders, bars, per=len(SAME))


def row_sizes() -> Row:
    """The same key among more and more: what others are there must not matter."""
    contenders = {
        f"1 of {size:,} keys": run_path(engine_with(size), SAME) for size in (1_000_000, 10_000, 10)
    }
    return Row(
        "engine.run, path: the same key among others",
        contenders,
        (Bar(1.5, "1 of 10,000 keys"), Bar(2, "1 of 10 keys")),
        per=len(SAME),
    )


def row_random(size: int) -> Row:
    """Other keys each time: the memory has its say. A dict shows how much of it."""
    keys = [f"key-{n}" for n in random.Random(7).sample(range(size), min(size, 100_000))]
    contenders: dict[str, Contender] = {"theus engine.run, path": run_path(engine_with(size), keys)}
    for name in (TRANSACTION, SWAP, LOCKED, "dict"):
        contender = PEERS[name](names(size), keys)
        if contender is not None:
            contenders[name] = contender
    return Row(f"read, add one, commit: random keys of {size:,}", contenders, per=len(keys))


def rows() -> Iterator[Callable[[], Row]]:
    yield partial(row_peers, 10_000)
    yield row_sizes
    yield partial(row_random, 10_000)
    yield partial(row_random, 1_000_000)


if __name__ == "__main__":
    main(__doc__, rows())
