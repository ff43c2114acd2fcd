"""`engine.heavy`: NumPy arrays in shared memory that nobody has to free by hand.

    frames = engine.heavy.alloc("frames", (100, 1080, 1920), "uint8")
    frames[:] = camera.read()                # in this process: an ordinary writable array
    pool.submit(count, frames[10:20])        # in another one: the same memory, read-only

The process that allocates an array owns it; it alone frees it. Others borrow it by token (see
`theus.shm_array`), through a mapping that the kernel protects. Memory goes when the array
has been freed *and* its last view, in any process, is gone; so no order of `free`, `shutdown`,
garbage collection, engine's end and exit can leave a view without its memory. A process that
is killed leaves nothing: the memory has no name in any file system, and the kernel gives it
back with its last user. In a forked child everything inherited is borrowed.

Freed memory stays mapped for the next array, up to 256 MiB of it: fresh pages cost ten times
what warm ones do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import numpy as np

from theus._theus import SharedBlock, SharedZone, system_memory
from theus.errors import ClosedError, HeavyMemoryError, _shown
from theus.shm_array import ShmArray, array_over

__all__ = ["HeavyArray", "HeavyReport", "ManagedAllocator", "QuotaReport"]

Order = Literal["C", "F"]

HOLDERS_NAMED = 5


@dataclass(frozen=True, slots=True)
class HeavyArray:
    """One array of a report. `bytes` as asked for, `extent` as taken; `age` in seconds."""

    key: str
    bytes: int
    extent: int
    live: bool
    """Not freed yet: can be had by key or token. Others are still looked at by somebody."""
    processes: int
    """How many processes look at it."""
    age: float


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """A limit on the arrays whose keys begin with `prefix` ("": all). Bytes; 0: no limit."""

    prefix: str
    soft: int
    hard: int
    used: int
    peak: int


@dataclass(frozen=True, slots=True)
class HeavyReport:
    """What `engine.heavy` holds. All sizes are bytes.

    `births` - `deaths` = the number of `arrays`. `used` is what they take and `asked` what was
    asked for; `backed` is the memory that the system has given for them and for the next ones,
    `idle` what of it lies in arenas without an array; `largest_free` is the largest array
    that fits into what is mapped.
    """

    used: int
    asked: int
    peak: int
    limit: int
    births: int
    deaths: int
    arenas: int
    mapped: int
    backed: int
    idle: int
    free: int
    largest_free: int
    lingering: int
    """Arrays that were freed while other processes look at them."""
    by_size: dict[int, tuple[int, int]]
    """Largest size of a class -> (arrays, bytes)."""
    quotas: tuple[QuotaReport, ...]
    arrays: tuple[HeavyArray, ...]

    @property
    def fragmentation(self) -> float:
        """The share of the free memory that is not in its largest range: 0.0 to 1.0."""
        return 1 - self.largest_free / self.free if self.free else 0.0

    def __str__(self) -> str:
        lines = [
            f"{len(self.arrays)} arrays, {self.used:,} of {self.limit:,} bytes in use "
            f"(peak {self.peak:,}); {self.backed:,} backed in {self.arenas} arenas"
        ]
        for array in self.arrays:
            state = "" if array.live else ", freed"
            lines.append(
                f"  {array.key}: {array.bytes:,} bytes, seen by {array.processes}, "
                f"{array.age:.1f} s old{state}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a key names. `block` is None while the array is being allocated."""

    block: SharedBlock | None = None
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype("u1"))
    order: Order = "C"

    def array(self) -> ShmArray:
        assert self.block is not None
        return array_over(self.block, self.shape, self.dtype, order=self.order)


class ManagedAllocator:
    """Shared arrays by key. `engine.heavy` is one; others can be made without an engine.

    `capacity_mb` (MiB) limits the sum of all arrays; default: the environment's
    THEUS_HEAP_SIZE, else half of the memory that this process may use. `session_id` stands in
    the names of its arrays (at most 63 bytes; default: 16 random hexadecimal digits).

    All methods may be called from any thread. As a context manager it shuts down at the end.
    """

    def __init__(self, capacity_mb: float | None = None, session_id: str | None = None) -> None:
        self.session_id = os.urandom(8).hex() if session_id is None else session_id
        if not 1 <= len(self.session_id.encode()) <= 63 or "\0" in self.session_id:
            raise ValueError(f"session_id has 1 to 63 bytes and no NUL, unlike {session_id!r}")
        self._limit = _limit_of(capacity_mb)
        self._zone = SharedZone(self.session_id, self._limit)
        self._entries: dict[str, _Entry] = {}
        self._closed = False

    # ---- arrays ---------------------------------------------------------------------------

    def alloc(
        self,
        key: str,
        shape: int | tuple[int, ...],
        dtype: Any = "float64",
        *,
        order: Order = "C",
        zero: bool = True,
    ) -> ShmArray:
        """A new array of zeroes under `key`, writable here.

        `zero=False` leaves whatever an earlier array of this allocator had there. `order` is
        that of memory: "C" or "F" (Fortran).

        Raises FileExistsError if the key is in use, TypeError for elements that are Python
        objects, HeavyMemoryError if a quota or the system has no room, ClosedError after
        shutdown().
        """
        sizes = _shape_of(shape)
        type_ = _dtype_of(dtype)
        if order not in ("C", "F"):
            raise ValueError(f"order is 'C' or 'F', not {order!r}")
        _check_key(key)
        self._check_open()
        pending = _Entry()
        self._claim(key, pending)
        try:
            size = type_.itemsize * math.prod(sizes)
            entry = _Entry(self._block(key, size, zero), sizes, type_, order)
            array = entry.array()
        except BaseException:
            self._entries.pop(key, None)
            raise
        self._entries[key] = entry
        try:
            self._check_open()
        except ClosedError:  # meanwhile, by another thread
            self.free(key)
            raise
        return array

    def put(self, key: str, array: Any) -> ShmArray:
        """Copies an array (or what NumPy makes one of) to shared memory, under `key`.

        Raises what `alloc` raises.
        """
        given = np.asanyarray(array)
        fortran = given.flags.f_contiguous and not given.flags.c_contiguous
        # What a copy leaves out, between fields, is not to be what an older array had there.
        padded = given.dtype.names is not None
        order: Order = "F" if fortran else "C"
        made = self.alloc(key, given.shape, given.dtype, order=order, zero=padded)
        np.copyto(made, given)
        return made

    def get(self, key: str) -> ShmArray:
        """The array under `key`, whole. Raises KeyError if there is none."""
        entry = self._entries.get(key)
        if entry is None or entry.block is None or not entry.block.live:
            raise KeyError(key)
        return entry.array()

    def free(self, key: str) -> None:
        """Takes the array from under `key`: nobody can get or borrow it from now on.

        Its memory goes with its last view, in whatever process. Raises KeyError if there is no
        such array, BorrowedArrayError (a PermissionError) if it is another process's.
        """
        entry = self._entries.get(key)
        if entry is None or entry.block is None:
            raise KeyError(key)
        entry.block.retire()
        if self._entries.get(key) is entry:
            self._entries.pop(key, None)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this allocator")

    def _claim(self, key: str, entry: _Entry) -> None:
        """Puts `entry` under `key` unless an array of ours is there, or will be."""
        while True:
            there = self._entries.setdefault(key, entry)
            if there is entry:
                return
            block = there.block
            if block is None or (block.live and block.owned):
                raise FileExistsError(
                    f"there is a shared array {key!r} already: free it first, or choose another key"
                )
            # Freed through its handle, or inherited from the parent process.
            if self._entries.get(key) is there:
                self._entries.pop(key, None)

    def _block(self, key: str, size: int, zero: bool) -> SharedBlock:
        if size >= 2**63:
            raise HeavyMemoryError(size, limit=system_memory()[1])
        made = self._zone.alloc(key, size, zero)
        if isinstance(made, SharedBlock):
            return made
        by_quota, prefix, used, limit = made
        holders = sorted(self._zone.blocks(), key=lambda block: block[2], reverse=True)
        raise HeavyMemoryError(
            size,
            used,
            limit,
            self._zone.figures()["largest_free"],
            tuple((block[0], block[2]) for block in holders[:HOLDERS_NAMED]),
            prefix if by_quota else None,
        )

    def __contains__(self, key: object) -> bool:
        entry = self._entries.get(key)  # type: ignore[call-overload]
        return entry is not None and entry.block is not None and entry.block.live

    def __iter__(self) -> Iterator[str]:
        return iter([key for key in list(self._entries) if key in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # ---- limits and figures -------------------------------------------------------------------

    def quota(
        self, prefix: str | None = None, *, soft: int | None = None, hard: int | None = None
    ) -> None:
        """Limits the bytes of all arrays whose keys begin with `prefix` (None: of all).

        Beyond `hard`, `alloc` raises HeavyMemoryError; beyond `soft`, it first gives back what
        nobody uses. None: no such limit. An array counts for each prefix that its key has, also
        if it was there before. At most 63 prefixes.
        """
        limits = []
        for name, limit in (("soft", soft), ("hard", hard)):
            if limit is not None and (type(limit) is not int or limit < 1):
                raise ValueError(f"{name}= is a number of bytes above 0, or None, not {limit!r}")
            limits.append(limit or 0)
        self._zone.limit(prefix or "", *limits)

    @property
    def used_bytes(self) -> int:
        """What all arrays take, those included that were freed but are still looked at."""
        figures = self._zone.figures()
        used: int = figures["bytes_born"] - figures["bytes_dead"]
        return used

    @property
    def capacity(self) -> int:
        """The limit of the whole allocator, in bytes; 0: none."""
        return self._zone.quotas()[0][2]

    def report(self) -> HeavyReport:
        """Everything about this allocator, as of now."""
        figures = self._zone.figures()
        quotas = tuple(QuotaReport(*quota) for quota in self._zone.quotas())
        return HeavyReport(
            used=figures["bytes_born"] - figures["bytes_dead"],
            asked=figures["asked"],
            peak=quotas[0].peak,
            limit=quotas[0].hard,
            births=figures["births"],
            deaths=figures["deaths"],
            arenas=figures["arenas"],
            mapped=figures["mapped"],
            backed=figures["backed"],
            idle=figures["idle"],
            free=figures["free_bytes"],
            largest_free=figures["largest_free"],
            lingering=figures["lingering"],
            by_size=figures["classes"],
            quotas=quotas,
            arrays=tuple(HeavyArray(*block) for block in self._zone.blocks()),
        )

    # ---- the end --------------------------------------------------------------------------------

    def cleanup(self) -> None:
        """Frees every array, and gives back all memory that nobody looks at. Can be repeated."""
        self._zone.retire_all(self._closed)
        for key in [key for key, entry in list(self._entries.items()) if entry.block is not None]:
            self._entries.pop(key, None)
        self._zone.tidy()

    def shutdown(self) -> None:
        """cleanup(), and no array can be allocated from now on. Views stay good."""
        self._closed = True
        self.cleanup()

    def __enter__(self) -> ManagedAllocator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = " (shut down)" if self._closed else ""
        return f"<ManagedAllocator {self.session_id}: {len(self)} arrays{state}>"


# ---- arguments ------------------------------------------------------------------------------


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        raise TypeError(f"the key of a shared array is a text, not {_shown(key)}")


def _shape_of(shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    try:
        whole = tuple(size.__index__() for size in sizes)
    except AttributeError:
        raise TypeError(f"a shape is an int or a tuple of ints, not {_shown(shape)}") from None
    if any(size < 0 for size in whole):
        raise ValueError(f"no size of a shape is below 0, unlike in {_shown(shape)}")
    return whole


def _dtype_of(dtype: Any) -> np.dtype[Any]:
    wanted: np.dtype[Any] = np.empty(0, dtype).dtype  # 'U' is 'U1' then, as in np.zeros
    if wanted.hasobject:
        raise TypeError(
            f"dtype {wanted} holds references to Python objects, which mean nothing to another "
            "process: use a structured or a string dtype, or keep the objects in the state"
        )
    return wanted


def _limit_of(capacity_mb: float | None) -> int:
    what: object = capacity_mb
    name = "capacity_mb"
    if capacity_mb is None:
        name, text = "THEUS_HEAP_SIZE", os.environ.get("THEUS_HEAP_SIZE")
        if text is None:
            return system_memory()[0] // 2
        what = text
        capacity_mb = float(text) if text.strip().isdecimal() else 0
    if not 0 < capacity_mb < 2**40:
        raise ValueError(f"{name} is a number of MiB above 0, not {what!r}")
    return int(capacity_mb * 2**20)
