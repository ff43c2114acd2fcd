"""What the keys of an allocator of shared arrays name.

An entry is pending while its array is being allocated: the key is taken, and nobody can get it yet.
Then it names a block. The allocator keeps that block, until it is published or freed; but for
a draft, which its transaction keeps until it commits, and for what was published, which states
keep: of those the entry knows only as long as somebody else has them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import ref

import numpy as np

from theus._theus import SharedBlock
from theus.heavy_arguments import Order
from theus.shm_array import ShmArray, array_over

__all__ = ["HeavyEntry", "HeavyKeys"]

# Held while a key is looked at and dropped: of two who drop the same entry, the slower one must not
# drop what a third has put there between. Reentrant: a finalizer that frees may run anywhere.
_dropping = threading.RLock()
_forks = 0  # between us and the process that imported this


def _after_fork() -> None:
    global _dropping, _forks
    _dropping = threading.RLock()  # the thread that held it is not in the child
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(slots=True)
class HeavyEntry:
    """What a key names: a block that is kept here, or one that lives as long as others hold it.

    Neither, while the array is being allocated.
    """

    kept: SharedBlock | None = None
    seen: ref[SharedBlock] | None = None
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None
    order: Order = "C"
    forks: int = field(default_factory=lambda: _forks)
    draft: ref[Any] | None = None
    """The attempt that it is a draft of, until that commits."""

    def is_draft_of_another(self, tx: Any) -> bool:
        return self.draft is not None and (tx is None or self.draft() is not tx)

    @property
    def pending(self) -> bool:
        """Not in a forked child: the thread that allocates is not there."""
        return self.seen is None and self.forks == _forks

    @property
    def block(self) -> SharedBlock | None:
        """None also if it is gone, with the attempt that it was a draft of."""
        kept = self.kept
        return kept if kept is not None or self.seen is None else self.seen()

    def array(self) -> ShmArray | None:
        block = self.block
        if block is None or not block.live:
            return None
        shown = block.publish() if block.published else block
        return array_over(shown, self.shape, self.dtype, order=self.order)


class HeavyKeys:
    """The entries of one allocator, by key. All methods may be called from any thread."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[str, HeavyEntry] = {}

    def get(self, key: str) -> HeavyEntry | None:
        return self._entries.get(key)

    def claim(self, key: str, tx: Any) -> HeavyEntry:
        """A new entry under `key`, pending, of a draft of the attempt `tx` if that is not None.

        Raises FileExistsError if an array is there, or will be.
        """
        entry = HeavyEntry() if tx is None else HeavyEntry(draft=ref(tx))
        while (there := self._entries.setdefault(key, entry)) is not entry:
            block = there.block
            alive = block is not None and block.live and block.owned and not block.published
            if (there.pending or alive) and not there.is_draft_of_another(tx):
                raise FileExistsError(
                    f"there is a shared array {key!r} already: free it first, or choose another key"
                )
            # Freed through its handle, published, the draft of another attempt, or inherited from
            # the parent process.
            self.drop(key, there)
        return entry

    def hold(self, key: str, entry: HeavyEntry, block: SharedBlock, tx: Any) -> None:
        """The block is there. A draft is held by its transaction until that commits; any other by
        its key."""
        if tx is None:
            entry.kept = block
            entry.seen = ref(block)  # last: now it is no longer pending
        else:
            tx.on_commit(partial(self._keep, key, entry, block))
            entry.seen = ref(block, lambda _: self.drop(key, entry))

    def _keep(self, key: str, entry: HeavyEntry, block: SharedBlock) -> None:
        """The attempt has committed. What it did not store stays under its key, if that is free."""
        entry.draft = None
        if block.published:
            return
        with _dropping:
            there = self._entries.get(key)
            if there is None or there is entry or there.draft is not None:
                entry.kept = block
                self._entries[key] = entry

    def let_go(self, block: SharedBlock) -> None:
        """The block was published: it is kept here no longer."""
        entry = self._entries.get(block.label)
        if entry is not None and entry.kept is not None and entry.kept.token == block.token:
            entry.kept = None

    def replace(
        self,
        block: SharedBlock,
        by: SharedBlock,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        order: Order,
    ) -> None:
        """What named `block` names its published copy from now on."""
        key = block.label
        with _dropping:
            entry = self._entries.get(key)
            there = None if entry is None else entry.block
            if entry is not None and there is not None and there.token == block.token:
                entry.kept = None
                entry.shape, entry.dtype, entry.order = shape, dtype, order
                entry.seen = ref(by, lambda _: self.drop(key, entry))

    def drop(self, key: str, entry: HeavyEntry | None) -> None:
        with _dropping:
            if self._entries.get(key) is entry:
                self._entries.pop(key, None)

    def drop_all(self) -> None:
        for key, entry in list(self._entries.items()):
            if not entry.pending:
                self.drop(key, entry)

    def addresses(self) -> set[int]:
        """Where the blocks lie that can be had by key."""
        entries = list(self._entries.values())
        return {block.address for entry in entries if (block := entry.block) is not None}

    def __contains__(self, key: object) -> bool:
        entry = self._entries.get(key)  # type: ignore[call-overload]
        block = None if entry is None else entry.block
        return block is not None and block.live

    def __iter__(self) -> Iterator[str]:
        return iter([key for key in list(self._entries) if key in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)
