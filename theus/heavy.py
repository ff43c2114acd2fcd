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

So it is with the "anonymous" backend, the default. With the "named" one, the memory lies in files
(/dev/shm, or THEUS_SHM_DIR): any process of the same user can borrow by token, also one that does
not see the owner's process, as in another container. Only a kill leaves files, until the next
engine with that backend, or `theus gc` (see `theus.registry`).

In a transaction

    def next_frame(tx):
        frame = engine.heavy.alloc("frame", (1080, 1920), "uint8")    # a draft
        camera.read_into(frame)
        tx.update(heavy={"frame": frame})

    engine.run(next_frame)
    engine.state.heavy["frame"]                                       # read-only

an array is a draft until it is stored: if the attempt fails, or is repeated, its drafts are
freed with it. What is stored is published: a state holds it through a mapping that cannot
be written in this process either, and this array loses its `writeable` flag; only views that
were taken before could still write. The key is free again, for the next version. Versions
are ordinary values of the state: two writers of one path conflict, a failed commit leaves
nothing, and an old version lives as long as a state or a reader holds it.

`alloc(..., mode="shared")` is for scratch results that many workers write together: each gets a
loan of rows of its own, see `theus.loans`. What a state stores of such an array is a copy.

Freed memory stays mapped for the next array, up to 256 MiB of it and for ten seconds (`decay`):
fresh pages cost ten times what warm ones do.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from theus._theus import (
    Engine,
    SharedBlock,
    SharedZone,
    hide_arenas,
    limit_process,
    place_in_block,
    system_memory,
)
from theus.arguments import check_flag
from theus.errors import ClosedError, UnknownArrayError, _shown
from theus.heavy_arguments import (
    Backend,
    Mode,
    Order,
    backend_of,
    bytes_in,
    check_key,
    dtype_of,
    limit_of,
    limits_of,
    process_limit_of_environment,
    shape_of,
)
from theus.heavy_keys import HeavyKeys
from theus.heavy_report import (
    HeavyArray,
    HeavyReport,
    MemoryReport,
    ProcessReport,
    QuotaReport,
    process_report,
)
from theus.heavy_watch import HeavyWatch
from theus.memory import MemoryClass, kinds_of, lendable_of, refused, set_of
from theus.shm_array import OWNERS, PlainArray, ShmArray, array_over

if TYPE_CHECKING:
    from theus.engine import TheusEngine

__all__ = [
    "HeavyArray",
    "HeavyReport",
    "ManagedAllocator",
    "MemoryClass",
    "MemoryReport",
    "ProcessReport",
    "QuotaReport",
]


class ManagedAllocator:
    """Shared arrays by key. `engine.heavy` is one; others can be made without an engine.

    `capacity_mb` (MiB) limits the sum of all arrays; default: the environment's
    THEUS_HEAP_SIZE, else half of the memory that this process may use. (All allocators of the
    process together can be limited, too: `process_quota`.) `session_id` stands in
    the names of its arrays (at most 63 bytes; default: 16 random hexadecimal digits). `engine`
    is the one whose transactions its arrays are drafts of. `backend` is "anonymous" or "named"
    (see above; default: the environment's THEUS_SHM_BACKEND, else "anonymous"). Where it cannot be
    had, the first `alloc` raises OSError or NotImplementedError: no other one takes its place.
    `memory` is what arrays lie in whose `alloc` says nothing else (see `theus.memory`).

    All methods may be called from any thread. As a context manager it shuts down at the end.
    """

    def __init__(
        self,
        capacity_mb: float | None = None,
        session_id: str | None = None,
        *,
        engine: TheusEngine | None = None,
        backend: Backend | None = None,
        memory: MemoryClass = MemoryClass.SHARED,
    ) -> None:
        if not (session_id is None or isinstance(session_id, str)):
            raise TypeError(f"session_id is a text, or None, not {_shown(session_id)}")
        if not (engine is None or isinstance(engine, Engine)):
            raise TypeError(f"engine is a TheusEngine, or None, not {_shown(engine)}")
        self.session_id = os.urandom(8).hex() if session_id is None else session_id
        if not 1 <= bytes_in(self.session_id) <= 63 or "\0" in self.session_id:
            raise ValueError(f"session_id has 1 to 63 bytes and no NUL, unlike {session_id!r}")
        self._limit = limit_of(capacity_mb)
        limit_process(0, process_limit_of_environment(), True)
        self.backend = backend_of(backend)
        self.memory = kinds_of(memory)
        self._zone = SharedZone(self.session_id, self._limit, self.backend == "named")
        self._at_end_of = 0  # the multiprocessing child that hides our files when it ends
        self._keys = HeavyKeys()
        self._closed = False
        self._engine = None if engine is None else ref(engine)
        self._watch = HeavyWatch.of_environment()
        OWNERS[self.session_id] = self

    # ---- arrays ---------------------------------------------------------------------------

    def alloc(
        self,
        key: str,
        shape: int | tuple[int, ...],
        dtype: Any = "float64",
        *,
        order: Order = "C",
        zero: bool = True,
        mode: Mode = "sealed",
        memory: MemoryClass | None = None,
    ) -> ShmArray:
        """A new array of zeroes under `key`, writable here.

        `zero=False` leaves whatever an earlier array of this allocator had there. `order` is
        that of memory: "C" or "F" (Fortran). `mode="shared"` is for scratch results of many
        workers: rows of it can be lent (`ShmArray.lend`), its file is not sealed against other
        writers, and what a state stores is a copy; it takes whole pages, SHARED or
        PINNED ones. `memory` is the kind of memory, or the set of kinds of which the first that has
        room is taken (`theus.memory`; default: the allocator's).

        In a transaction it is a draft of that attempt; other attempts may have theirs under the
        same key, and meet at the commit.

        Raises FileExistsError if the key is in use, TypeError for elements that are Python
        objects, HeavyMemoryError if a quota or the system has no room, NotImplementedError if it
        has no such memory at all, ClosedError after shutdown().
        """
        sizes = shape_of(shape)
        type_ = dtype_of(dtype)
        check_flag("zero", zero)
        if order not in ("C", "F"):
            raise ValueError(f"order is 'C' or 'F', not {_shown(order)}")
        if mode not in ("sealed", "shared"):
            raise ValueError(f"mode is 'sealed' or 'shared', not {_shown(mode)}")
        kinds = self.memory if memory is None else kinds_of(memory)
        if mode == "shared":
            kinds = lendable_of(kinds)
        check_key(key)
        self._check_open()
        tx = None if self._engine is None else self._attempt()
        entry = self._keys.claim(key, tx)
        if self.backend == "named" and self._at_end_of != os.getpid():
            self._at_end_of = os.getpid()
            _hide_at_end()
        try:
            size = type_.itemsize * math.prod(sizes)
            block = self._block(key, size, zero, mode == "shared", kinds)
            array = array_over(block, sizes, type_, 0, None, order)
            entry.shape, entry.dtype, entry.order = sizes, type_, order
            self._keys.hold(key, entry, block, tx)
        except BaseException:
            self._keys.drop(key, entry)
            raise
        if self._closed:  # meanwhile, by another thread
            self.free(key)
            raise ClosedError("this allocator")
        return array

    def _block(
        self, key: str, size: int, zero: bool, lending: bool, kinds: MemoryClass
    ) -> SharedBlock:
        block = (
            self._zone.alloc(key, size, zero, lending, kinds.value)
            if size < 2**63
            else ("system", "", 0, system_memory()[1], 2)
        )
        if not isinstance(block, SharedBlock):
            raise refused(self._zone, size, block)
        if self._watch.sites:
            self._watch.allocated(block)
        return block

    def put(self, key: str, array: Any, *, memory: MemoryClass | None = None) -> ShmArray:
        """Copies an array (or what NumPy makes one of) to shared memory, under `key`.

        `memory` is as for `alloc`. Raises what `alloc` raises.
        """
        given = np.asanyarray(array)
        fortran = given.flags.f_contiguous and not given.flags.c_contiguous
        # What a copy leaves out, between fields, is not to be what an older array had there.
        padded = given.dtype.names is not None
        order: Order = "F" if fortran else "C"
        made = self.alloc(key, given.shape, given.dtype, order=order, zero=padded, memory=memory)
        np.copyto(made, given)
        return made

    def place(self, key: str, array: Any, *, memory: MemoryClass | None = None) -> PlainArray:
        """The array as it is if it lies in memory of the set already; else a copy, as `put` makes.

        `memory` may hold HOST, which any array lies in that is not shared.
        """
        accepted = self.memory if memory is None else set_of(memory)
        if isinstance(array, np.ndarray) and MemoryClass.of(array) in accepted:
            return array
        return self.put(key, array, memory=accepted)

    def get(
        self, key: str, shape: int | tuple[int, ...] | None = None, dtype: Any = None
    ) -> ShmArray:
        """The array under `key`, whole; or its bytes read as `dtype` (default: its own)
        and `shape` (default: one dimension) from the first one on.

        Raises UnknownArrayError (a KeyError) if there is none, ValueError if it has too few bytes
        for that.
        """
        check_key(key)
        entry = self._keys.get(key)
        array = None if entry is None else entry.array()
        if array is None or entry is None:
            raise UnknownArrayError(key, tuple(self))
        if shape is None and dtype is None:
            return array
        type_ = array.dtype if dtype is None else dtype_of(dtype)
        if shape is None and type_.itemsize == 0:
            raise ValueError(f"elements of {type_} take no bytes: say how many there are, shape=")
        sizes = (array.nbytes // type_.itemsize,) if shape is None else shape_of(shape)
        needed = type_.itemsize * math.prod(sizes)
        if needed > array.nbytes:
            raise ValueError(
                f"the shared array {key!r} has {array.nbytes:,} bytes, and shape {sizes!r} of "
                f"{type_} takes {needed:,}"
            )
        block = place_in_block(array)
        assert block is not None  # it was made over one
        return array_over(block[0], sizes, type_)

    def block_of(self, key: str) -> SharedBlock | None:
        """The living block under `key`; None if there is none."""
        entry = self._keys.get(key)
        block = None if entry is None else entry.block
        return block if block is not None and block.live else None

    def free(self, key: str) -> None:
        """Takes the array from under `key`: nobody can get or borrow it from now on.

        Its memory goes with its last view, in whatever process. Raises UnknownArrayError (a
        KeyError) if there is no such array, BorrowedArrayError (a PermissionError) if it is another
        process's.
        """
        check_key(key)
        entry = self._keys.get(key)
        block = None if entry is None else entry.block
        if block is None:
            raise UnknownArrayError(key, tuple(self))
        block.retire()
        self._keys.drop(key, entry)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("this allocator")

    def _attempt(self) -> Any:
        """The transaction that what is allocated now is a draft of; or None."""
        engine = None if self._engine is None else self._engine()
        tx = None if engine is None else engine.current()
        return None if tx is None or tx.read_only else tx

    def let_go(self, block: SharedBlock) -> None:
        """The block was published: it is now for those to keep who hold it, states among them."""
        self._keys.let_go(block)
        if self._watch.checksums:
            self._watch.published(block)

    def seal(self, block: SharedBlock, array: ShmArray) -> ShmArray:
        """A published copy of `array`, whose data lie in `block`, of mode "shared". Its key names
        the copy from now on; of the array itself nobody is lent any more, and it is read-only.

        Raises BufferError if somebody is lent some of it, HeavyMemoryError: then it is as it was.
        """
        key = block.label
        padded = array.dtype.names is not None  # see put()
        order: Order = "F" if array.flags.fnc else "C"
        sealed = self._block(key, array.nbytes, padded, False, MemoryClass.of(array))
        shown = array_over(sealed.publish(), array.shape, array.dtype, 0, None, order)
        block.publish()  # when there is room for the copy: what is published stays so
        array.flags.writeable = False
        np.copyto(array_over(sealed, array.shape, array.dtype, 0, None, order), array)
        if self._watch.checksums:
            self._watch.published(sealed)
        self._keys.replace(block, sealed, array.shape, array.dtype, order)
        return shown

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    # ---- limits and figures -------------------------------------------------------------------

    def quota(
        self, prefix: str | None = None, *, soft: int | None = None, hard: int | None = None
    ) -> None:
        """Limits the bytes of all arrays whose keys begin with `prefix` (None: of all).

        Beyond `hard`, `alloc` raises HeavyMemoryError; beyond `soft`, it first gives back what
        nobody uses. None: no such limit. An array counts for each prefix that its key has, also
        if it was there before. At most 63 prefixes.
        """
        if prefix is not None and not isinstance(prefix, str):
            raise TypeError(f"the prefix of a quota is a text, or None, not {_shown(prefix)}")
        bytes_in(prefix or "")
        self._zone.limit(prefix or "", *limits_of(soft, hard))

    @staticmethod
    def process_quota(*, soft: int | None = None, hard: int | None = None) -> None:
        """Limits the bytes of all arrays that this process owns, whatever engines they are of.

        As `quota`; beyond `soft`, every engine of the process gives back what it keeps. Arrays
        count until their last view here is gone, also when their engine has ended. What this
        process only borrows counts for its owner. A forked child has the same limits for arrays
        of its own. Default: the environment's THEUS_PROCESS_HEAP_SIZE (MiB), else none.
        """
        limit_process(*limits_of(soft, hard), False)

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
        by_process: dict[int, tuple[int, int]] = {}
        for pid, arrays, size in self._zone.lookers():
            before = by_process.get(pid, (0, 0))
            by_process[pid] = (before[0] + arrays, before[1] + size)
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
            by_memory={
                MemoryClass(1 << kind): MemoryReport(*tally)
                for kind, tally in enumerate(figures["memory"])
                if tally[0]
            },
            by_process=by_process,
            quotas=quotas,
            process=process_report(),
            arrays=tuple(array for array, _ in self._arrays()),
        )

    @property
    def available(self) -> int:
        """How many bytes more may be allocated: what the system, the quota of the process and the
        limit of this allocator leave."""
        room: int = system_memory()[1]
        process = process_report()
        for limit, used in ((self.capacity, self.used_bytes), (process.hard, process.used)):
            room = min(room, max(0, limit - used)) if limit else room
        return room

    def leaks(self) -> tuple[HeavyArray, ...]:
        """Arrays that take memory although nobody can get them any more by key or from a state.

        Some view still looks at them: they were freed, or were drafts that were not stored. Ask for
        `watch(sites=True)` to see where they came from.
        """
        reachable = self._keys.addresses()
        return tuple(
            array
            for array, address in self._arrays()
            if not array.live or not (array.published or address in reachable)
        )

    def _arrays(self) -> Iterator[tuple[HeavyArray, int]]:
        for block in self._zone.blocks():
            memory = MemoryClass(1 << block[11])
            site = self._watch.site(block[7])
            yield HeavyArray(*block[:7], *block[9:11], site, memory), block[8]

    def watch(self, *, sites: bool = False, checksums: bool = False) -> None:
        """What is noted of arrays from now on; see `theus.heavy_watch`.

        The environment's THEUS_HEAVY_WATCH ("sites", "checksums" or "sites,checksums") says it for
        every allocator from its beginning.
        """
        for name, flag in (("sites", sites), ("checksums", checksums)):
            check_flag(f"{name}=", flag)
        self._watch.sites, self._watch.checksums = sites, checksums

    def verify(self) -> None:
        """Raises ArrayChangedError if a published array was written to through an earlier view.

        For arrays that were published under `watch(checksums=True)`.
        """
        self._watch.verify()

    def decay(self, seconds: float) -> None:
        """How long memory that no array is in is kept for the next ones; at first, 10 seconds.

        The next `alloc`, or the next end of an array, gives back what has waited longer.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"decay() takes a number of seconds, not {_shown(seconds)}")
        if not 0 <= seconds <= 1e9:
            raise ValueError(
                f"decay() takes a number of seconds between 0 and 1e9, not {_shown(seconds)}"
            )
        self._zone.decay(seconds)

    def tidy(self) -> int:
        """Gives back memory that no array is in, and what killed processes still held. In bytes.

        It happens by itself when memory runs short.
        """
        return self._zone.tidy()

    # ---- the end --------------------------------------------------------------------------------

    def cleanup(self) -> None:
        """Frees every array, and gives back all memory that nobody looks at. Can be repeated."""
        self._zone.retire_all(self._closed)
        self._keys.drop_all()
        self.tidy()

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


def _hide_at_end() -> None:
    """Children of multiprocessing end without the exit that takes names away elsewhere."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, hide_arenas, exitpriority=0)
