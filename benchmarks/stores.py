"""What users would otherwise write or install for a read-modify-write of one key."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Callable
from itertools import repeat
from typing import Any

from harness import Contender, peer

Keys = list[str]


def bare_dict(names: Keys, keys: Keys) -> Contender:
    """A dict and nothing else: no lock, no snapshot, no rollback. The floor."""
    store = dict.fromkeys(names, 0)

    def run(count: int) -> None:
        for _ in repeat(None, count):
            for key in keys:
                store[key] += 1

    return run


def locked_dict(names: Keys, keys: Keys) -> Contender:
    """A dict under a lock: no snapshot for readers, no rollback."""
    store, lock = dict.fromkeys(names, 0), threading.Lock()

    def run(count: int) -> None:
        for _ in repeat(None, count):
            for key in keys:
                with lock:
                    store[key] += 1

    return run


class SwapStore:
    """The shortest optimistic loop: one root, replaced if nobody replaced it meanwhile."""

    __slots__ = ("lock", "root")

    def __init__(self, root: Any) -> None:
        self.root = root
        self.lock = threading.Lock()

    def update(self, key: str, change: Callable[[Any], Any]) -> None:
        """Any commit in between, to whatever key, makes this one start again."""
        while True:
            before = self.root
            after = before.set(key, change(before[key]))
            with self.lock:
                if self.root is before:
                    self.root = after
                    return


class PathStore:
    """The same with a transaction: reads are remembered, and only they can conflict."""

    __slots__ = ("lock", "root")

    def __init__(self, root: Any) -> None:
        self.root = root
        self.lock = threading.Lock()

    def run(self, body: Callable[..., Any], *args: Any) -> Any:
        while True:
            tx = PathTransaction(self.root)
            result = body(tx, *args)
            with self.lock:
                if self.root is tx.base:
                    self.root = tx.now
                    return result
                newest = self.root
                if all(newest.get(key) is value for key, value in tx.reads.items()):
                    for key, value in tx.writes.items():
                        newest = newest.set(key, value)
                    self.root = newest
                    return result


class PathTransaction:
    """What a body of `PathStore.run` reads and writes."""

    __slots__ = ("base", "now", "reads", "writes")

    def __init__(self, root: Any) -> None:
        self.base = self.now = root
        self.reads: dict[str, Any] = {}
        self.writes: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        value = self.now.get(key)
        if key not in self.writes:
            self.reads[key] = value
        return value

    def set(self, key: str, value: Any) -> None:
        self.writes[key] = value
        self.now = self.now.set(key, value)


def swap_store(names: Keys, keys: Keys) -> Contender | None:
    immutables = peer("immutables")
    if immutables is None:
        return None
    store = SwapStore(immutables.Map(dict.fromkeys(names, 0)))

    def bump(value: int) -> int:
        return value + 1

    def run(count: int) -> None:
        update = store.update
        for _ in repeat(None, count):
            for key in keys:
                update(key, bump)

    return run


def path_store(names: Keys, keys: Keys) -> Contender | None:
    immutables = peer("immutables")
    if immutables is None:
        return None
    store = PathStore(immutables.Map(dict.fromkeys(names, 0)))

    def bump(tx: PathTransaction, key: str) -> None:
        tx.set(key, tx.get(key) + 1)

    def run(count: int) -> None:
        execute = store.run
        for _ in repeat(None, count):
            for key in keys:
                execute(bump, key)

    return run


def lmdb_store(names: Keys, keys: Keys) -> Contender | None:
    """A memory-mapped tree of bytes. Nothing waits for the disk."""
    lmdb = peer("lmdb")
    if lmdb is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="theus-bench-")
    env = lmdb.open(folder.name, map_size=2**30, sync=False, metasync=False, writemap=True)
    with env.begin(write=True) as txn:
        for name in names:
            txn.put(name.encode(), b"0")
    encoded = [key.encode() for key in keys]

    def run(count: int) -> None:
        begin = env.begin
        for _ in repeat(None, count):
            for key in encoded:
                with begin(write=True) as txn:
                    txn.put(key, b"%d" % (int(txn.get(key)) + 1))

    run.folder = folder  # type: ignore[attr-defined] # lives as long as its user
    return run


def sqlite_store(names: Keys, keys: Keys) -> Contender:
    """In memory, one prepared statement that commits by itself."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("create table store (key text primary key, value integer) without rowid")
    db.executemany("insert into store values (?, 0)", [(name,) for name in names])

    def run(count: int) -> None:
        execute = db.execute
        for _ in repeat(None, count):
            for key in keys:
                execute("update store set value = value + 1 where key = ?", (key,))

    return run


def zodb_store(names: Keys, keys: Keys) -> Contender | None:
    """Python objects in a B-tree, in memory."""
    zodb, mapping, trees, transaction = map(
        peer, ("ZODB", "ZODB.MappingStorage", "BTrees.OOBTree", "transaction")
    )
    if zodb is None or mapping is None or trees is None or transaction is None:
        return None
    root = zodb.DB(mapping.MappingStorage()).open().root()
    root["store"] = trees.OOBTree(dict.fromkeys(names, 0))
    transaction.commit()
    store = root["store"]

    def run(count: int) -> None:
        commit = transaction.commit
        for _ in repeat(None, count):
            for key in keys:
                store[key] += 1
                commit()

    return run
