"""Parcels: a part of a state that workers have had is not sent again.

    engine   domain.tree ──encoded once──▶ a block of shared memory: the parcel
    task     carries the token of the block
    worker   knows the token: has the value; else reads the block, and keeps the value

The engine has one parcel for each declared place, of the content that stood there when somebody
asked last. As long as the very same container stands there in the version that a task runs on, its
parcel goes, and costs its token. Small content goes as bytes within the task. Of a later version of
the same container a *difference* goes: a parcel that holds what has changed since its *ground*,
which is the last one that was encoded whole. Versions share their nodes, so to find out what has
changed costs what has. When all differences from one ground have come to its size, the next parcel
is a ground again: so each costs a share of that, however many versions there are.

Invariant: a token names content that never changes, here and in all workers.

  - Containers of a state never change, and `Opaque` vouches for what is in it.
  - A block is written before anybody knows its token, and never again. No two blocks have the same
    token, also not one after the other.
  - What a worker keeps are containers of the memory that it runs attempts on, which take what is
    theirs as it is; transactions copy what they write.

So any worker may take any task, also one that another one has died with, and a task that is tried
again; nobody has to know which worker has what: a difference names its ground, and who has not got
that reads it. A block stays until the runs that have claimed it have their answers; a ground, as
long as there are differences from it. What breaks this: writing to a block later; handing out a
token whose block is not claimed; a worker that keeps what it got from elsewhere under a token; a
difference that does not lead to the same content in the same order (see csrc/binding/delta.h).

Arrays are no parcels: they have tokens of their own, and a worker that kept them would keep their
memory.

Both sides keep at most KEPT bytes of encoded content; what has been longest there goes first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from theus._theus import (
    FrozenDict,
    FrozenList,
    SharedBlock,
    borrow_block,
    container_changes,
    encode,
    is_same,
)
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

CHANGE = 16
"""Bytes. Few changes are shorter; more of them than fit into the ground are not looked for."""

Ground = tuple[bytes, int]
"""Token of the block, size of the content."""

Sent = tuple[tuple[Any, ...], bytes, int, Ground | None]
"""As it travels: (place, token of the block, size of the content, None), or (place, content, 0,
None); of a difference the same, with its ground."""

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

    __slots__ = ("block", "claims", "ground", "kept", "look", "sent", "size", "spent", "value")

    def __init__(
        self,
        place: Path,
        value: Any,
        content: bytes,
        block: SharedBlock | None,
        look: Look | None,
        ground: Parcel | None,
    ) -> None:
        self.look = look
        """What has looked at its parts, if anything has."""
        self.value = value
        """Held, so that no other container can have its identity."""
        self.block = block
        self.ground: Parcel | None = ground
        """Claimed, and content is the difference from it; or None."""
        known = (
            None if ground is None or ground.block is None else (ground.block.token, ground.size)
        )
        self.sent: Sent = (
            (place, content, 0, known)
            if block is None
            else (place, block.token, len(content), known)
        )
        self.size: int = (0 if block is None else len(content)) + (
            0 if ground is None else ground.size
        )
        """Of the blocks that it needs."""
        self.spent = 0
        """Bytes of differences from this one."""
        self.claims = 1
        """Runs that may need the block: at first that of its maker."""
        self.kept = False
        """By the depot."""

    def retire_if_unused(self) -> None:
        if self.kept or self.claims != 0:
            return
        if self.block is not None:
            self.block.retire()
            self.block = None
        ground, self.ground = self.ground, None
        if ground is not None:
            ground.claims -= 1
            ground.retire_if_unused()


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
            if known is not None and look not in (None, known.look):
                known = None
            if known is not None and is_same(known.value, value):
                known.claims += 1
                return known
            ground = known if known is None or known.ground is None else known.ground
            if ground is not None and ground.block is None:
                ground = None
            if ground is not None:
                ground.claims += 1
        parcel = None
        if ground is not None:
            try:
                parcel = self._difference(place, value, look, ground)
            finally:
                if parcel is None:
                    self.leave([ground])
        if parcel is None:
            content = encoded(value, look)
            if content is None:
                return None
            parcel = self._parcel(place, value, content, look, None)
        if parcel.size <= KEPT:
            self._keep(place, parcel)
        return parcel

    def _difference(
        self, place: Path, value: Any, look: Look | None, ground: Parcel
    ) -> Parcel | None:
        """The parcel of what leads there from the ground, which is claimed for it; None: better
        whole."""
        changes = container_changes(ground.value, value, ground.size // CHANGE)
        content = None if changes is None else encoded(changes, look)
        if content is None:
            return None
        with self._lock:
            if ground.spent + len(content) > ground.size:
                return None
            ground.spent += len(content)
        return self._parcel(place, value, content, look, ground)

    def _parcel(
        self, place: Path, value: Any, content: bytes, look: Look | None, ground: Parcel | None
    ) -> Parcel:
        block = None
        if len(content) > INLINE:
            with self._lock:
                block = self._shelf.store(content)
        return Parcel(place, value, content, block, look, ground)

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


def encoded(value: Any, look: Look | None) -> bytes | None:
    """None: there are arrays in it."""
    arrays: list[Any] = []
    part = partial(extend, arrays, True) if look is None else partial(seen, look, arrays)
    content = encode(value, part)
    return None if arrays else content


# ---- where a worker is --------------------------------------------------------------------


class Kept(NamedTuple):
    """`name` tells what it is: what was sent beside the place, and says everything."""

    name: tuple[bytes, Ground | None]
    size: int
    value: Any
    ground: Kept | None


class Receipt:
    """What a worker keeps of what it was sent. For one thread.

    `adopt` gives a value in the memory that attempts run on, which takes it as it is from there.
    """

    def __init__(self, adopt: Callable[[Any], Any]) -> None:
        self._adopt = adopt
        self._kept: dict[Path, Kept] = {}

    def open(self, sent: Iterable[Sent], roots: dict[str, Any]) -> None:
        """Puts the content of parcels where it belongs."""
        for place, content, size, ground in sent:
            if size == 0 and ground is None:
                value = decode_with(content, True, None)
            else:
                value = self._value(place, content, size, ground)
            here = roots
            for key in place[:-1]:
                here = here[key]
            here[place[-1]] = value

    def _value(self, place: Path, content: bytes, size: int, ground: Ground | None) -> Any:
        known = self._kept.get(place)
        name = content, ground
        if known is not None and known.name == name:
            return known.value
        if ground is None:
            made = self._read_whole(place, content, size)
        else:
            found = known if known is None or known.ground is None else known.ground
            if found is None or found.name != (ground[0], None):
                known = None
                found = self._read_whole(place, *ground)
            value = patched(found.value, read(content, size))
            made = Kept(name, size + found.size, value, found)
        self._kept[place] = made
        while sizes(self._kept.values()) > KEPT:
            del self._kept[next(iter(self._kept))]
        return made.value

    def _read_whole(self, place: Path, token: bytes, size: int) -> Kept:
        self._kept.pop(place, None)  # before what takes its place is made
        return Kept((token, None), size, self._adopt(read(token, size)), None)


def read(content: bytes, size: int) -> Any:
    """What lies in a block; with no size, in the content itself."""
    if size == 0:
        return decode_with(content, True, None)
    block: Any = borrow_block(content)
    return decode_with(memoryview(block)[:size], True, None)


def patched(value: Any, changes: Iterable[tuple[Any, ...]]) -> Any:
    """What has become of a container: see csrc/binding/delta.h."""
    kind = type(value)
    for key, *new in changes:
        if kind is FrozenDict:
            if not new:
                value = value.delete(key)
            elif len(new) == 1:
                value = value.set(key, new[0])
            else:
                value = value.set(key, patched(value[key], new[1]))
        elif kind is FrozenList:
            it = new[0] if len(new) == 1 else patched(value[key], new[1])
            value = value.set(key, it) if key < len(value) else value.append(it)
        else:
            value = value.add(key) if new else value.discard(key)
    return value
