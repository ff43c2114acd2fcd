"""Parcels: a part of a state that workers have had is not sent again.

    engine   domain.tree ──encoded once──▶ a block of shared memory: the parcel
    task     carries the token of the block
    worker   knows the token: has the value; else reads the block, and keeps the value

The engine has one parcel for each declared place, of the content that stood there when somebody
asked last. As long as the very same container stands there in the version that a task runs on, its
parcel goes, and costs its token. Small content goes as bytes within the task.

Invariant: a token names content that never changes, here and in all workers.

  - Containers of a state never change, and `Opaque` vouches for what is in it.
  - A block is written before anybody knows its token, and never again. No two blocks have the same
    token, also not one after the other.
  - What a worker keeps are containers of the memory that it runs attempts on, which take what is
    theirs as it is; transactions copy what they write.

So any worker may take any task, also one that another one has died with, and a task that is tried
again; nobody has to know which worker has what. A block stays until the runs that have claimed it
have their answers. What breaks this: writing to a block later; handing out a token whose block is
not claimed; a worker that keeps what it got from elsewhere under a token.

Arrays are no parcels: they have tokens of their own, and a worker that kept them would keep their
memory.

Both sides keep at most KEPT bytes of encoded content; what has been longest there goes first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from theus._theus import SharedBlock, borrow_block, encode, is_same
from theus.pools.base import Look
from theus.pools.codec import decode_with, extend, seen
from theus.pools.wire import Shelf

if TYPE_CHECKING:
    from theus.paths import Path

__all__ = ["KEPT", "Depot", "Parcel", "Receipt", "Sent", "is_small"]

KEPT = 64 * 1024 * 1024
"""Bytes of encoded content that an engine keeps in shared memory, and each worker as values."""
INLINE = 1024
"""Bytes. A worker reads so many as fast as it finds out that it need not."""

Sent = tuple[tuple[Any, ...], bytes, int]
"""As it travels: (place, token of the block, size of the content), or (place, content, 0)."""

SMALL = frozenset((int, float, bool, type(None)))


def is_small(value: Any) -> bool:
    """Whether a value is not worth a parcel, as far as a glance can tell."""
    kind = type(value)
    return kind in SMALL or (kind in (str, bytes) and len(value) <= INLINE)


def sizes(kept: Iterable[Parcel] | Iterable[Kept]) -> int:
    return sum([each.size for each in kept])


# ---- where the engine is ------------------------------------------------------------------


class Parcel:
    """The encoded content of one place. Guarded by the lock of its depot, but for what is constant:
    `value`, `sent`, `size` and `look`."""

    __slots__ = ("block", "claims", "kept", "look", "sent", "size", "value")

    def __init__(
        self, value: Any, sent: Sent, size: int, block: SharedBlock | None, look: Look | None
    ) -> None:
        self.look = look
        """What has looked at its parts, if anything has."""
        self.value = value
        """Held, so that no other container can have its identity."""
        self.sent = sent
        self.size = size
        """Of the block; 0 if there is none."""
        self.block = block
        self.claims = 1
        """Runs that may need the block: at first that of its maker."""
        self.kept = False
        """By the depot."""

    def retire_if_unused(self) -> None:
        if not self.kept and self.claims == 0 and self.block is not None:
            self.block.retire()
            self.block = None


class Depot:
    """The parcels of one engine. Any thread."""

    def __init__(self, name: str) -> None:
        # Reentrant: the collector may run where it is held, and somebody's finalizer an engine.
        self._lock = threading.RLock()
        # Guarded by lock:
        self._shelf = Shelf(name)
        self._parcels: dict[Path, Parcel] = {}

    def claim(self, place: Path, value: Any, look: Look | None = None) -> Parcel | None:
        """The parcel of what stands there, for one run, which gives it back by `leave`. None: it
        goes as it is. Raises SendError as submit() does, what `look` raises, HeavyMemoryError."""
        with self._lock:
            known = self._parcels.get(place)
            if known is not None and is_same(known.value, value) and look in (None, known.look):
                known.claims += 1
                return known
        arrays: list[Any] = []
        part = partial(extend, arrays, True) if look is None else partial(seen, look, arrays)
        content = encode(value, part)
        if arrays:
            return None
        if len(content) <= INLINE:
            parcel = Parcel(value, (place, content, 0), 0, None, look)
        else:
            with self._lock:
                block = self._shelf.store(content)
            parcel = Parcel(value, (place, block.token, len(content)), len(content), block, look)
        if len(content) <= KEPT:
            self._keep(place, parcel)
        return parcel

    def _keep(self, place: Path, parcel: Parcel) -> None:
        with self._lock:
            parcel.kept = True
            dropped = [self._parcels.pop(place, None)]
            self._parcels[place] = parcel
            while sizes(self._parcels.values()) > KEPT or len(self._parcels) > 1024:
                dropped.append(self._parcels.pop(next(iter(self._parcels))))
            for old in dropped:
                if old is not None:
                    old.kept = False
                    old.retire_if_unused()

    def leave(self, parcels: Iterable[Parcel]) -> None:
        """A run has its answer, or waits for it no longer."""
        with self._lock:
            for parcel in parcels:
                parcel.claims -= 1
                parcel.retire_if_unused()


# ---- where a worker is --------------------------------------------------------------------


class Kept(NamedTuple):
    token: bytes
    size: int
    value: Any


class Receipt:
    """What a worker keeps of what it was sent. For one thread."""

    def __init__(self) -> None:
        self._kept: dict[Path, Kept] = {}

    def open(self, sent: Iterable[Sent], roots: dict[str, Any]) -> list[Sent]:
        """Puts the content of parcels where it belongs, and tells which were new: see `keep`."""
        new: list[Sent] = []
        for one in sent:
            place, content, size = one
            known = self._kept.get(place)
            if size == 0:
                value = decode_with(content, True, None)
            elif known is not None and known.token == content:
                value = known.value
            else:
                # What was there goes before what takes its place is made.
                known = self._kept.pop(place, None)
                block: Any = borrow_block(content)
                value = decode_with(memoryview(block)[:size], True, None)
                new.append(one)
            here = roots
            for key in place[:-1]:
                here = here[key]
            here[place[-1]] = value
        return new

    def keep(self, new: Iterable[Sent], state: Any) -> None:
        """Keeps what has come, as it is in this state."""
        for place, token, size in new:
            self._kept[place] = Kept(token, size, state.get(place))
            while sizes(self._kept.values()) > KEPT:
                del self._kept[next(iter(self._kept))]
