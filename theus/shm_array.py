"""ShmArray: a NumPy array in shared memory that knows how to travel.

    array = engine.heavy.alloc("frame", (1080, 1920, 3), "uint8")
    queue.put(array[::2])                    # some 150 bytes, whatever its size

What is pickled is a token where the data truly lie in a living block: the name of the block,
and offset, shape, strides and dtype of this view of it. The receiver maps the same memory,
read-only: the kernel refuses writes there. Everything else (a computed array, a copy, an array
whose block was freed meanwhile) travels as plain data, as any array does. Which of the two it
is, is found from the addresses, each time: nothing is inherited from array to array.

A token holds nothing: if the owner frees the array before it has arrived, unpickling raises
StaleArrayError, for ever. Whoever has unpickled it keeps the memory until its last view goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex
from weakref import WeakValueDictionary

import numpy as np

from theus._theus import ABSENT, SharedBlock, borrow_block, place_in_block, token_in_block
from theus.array_view import array_arriving, name_of, placed
from theus.errors import BadTokenError, BorrowedArrayError, LoanError, _shown

if TYPE_CHECKING:
    from theus.loans import Loan

__all__ = ["ShmArray", "ShmHandle"]

PlainArray = np.ndarray[Any, np.dtype[Any]]
LentRows = tuple[int, int, int | None]

BUILTIN_TYPES = np.dtype("float16").num
"""The last of the numbers that NumPy's own types have in every version."""

COMMON_TYPES = {code: np.dtype(code) for code in "?bhilqBHILQefdgFDG"}
"""Those that are one object each: a token says the letter."""


class ShmArray(np.ndarray[Any, np.dtype[Any]]):
    """An ndarray over shared memory. Made by `engine.heavy`; slices and views are ones, too.

    Writable in the process that allocated it, until it is stored in a state; read-only everywhere
    else: `cow()` gives a writable version that shares the pages which are not written, `copy()`
    an array of one's own. What is computed from it is an ordinary array.
    """

    __slots__ = ()

    def __new__(cls, input_array: Any, shm: ShmHandle | None = None) -> ShmArray:
        """A view of an array. With `shm`, the handle of the block that it must lie in: ValueError
        if it does not."""
        array = np.asarray(input_array).view(cls)
        if shm is not None and (array.shm is None or array.shm.name != shm.name):
            raise ValueError(f"the data of this array do not lie in {shm!r}")
        return array

    @property
    def shm(self) -> ShmHandle | None:
        """The shared block that the data lie in; None if they do not (a copy, a result)."""
        place = place_in_block(self)
        return None if place is None else ShmHandle(place[0])

    def info(self) -> dict[str, Any]:
        """Where the data are: the answer to "is this a copy?".

        `shared` says whether they lie in shared memory; then there are `name`, `key`, `pid`
        (of the owner), `file` (in which they lie; None: it has no name), `owned` (by this
        process), `memory` (the name of a `MemoryClass`), `live` (may be sent by token), `published`
        (its owner changes it no more),
        `leases` (processes that look at it), `offset` (bytes from the start of the block),
        `block_bytes`, `mode` ("shared": rows of it can be lent; else "sealed").
        Always: `address`, `bytes`, `writeable`.
        """
        return placed(place_in_block(self)) | {
            "address": self.__array_interface__["data"][0],
            "bytes": self.nbytes,
            "writeable": self.flags.writeable,
        }

    def cow(self) -> PlainArray:
        """The same content, writable: pages that are written become this process's own.

        Raises ValueError if the data do not lie in shared memory.
        """
        place = place_in_block(self)
        if place is None:
            raise ValueError("cow(): this array lies in ordinary memory; use copy()")
        block, offset = place
        return array_over(block.private(), self.shape, self.dtype, offset, self.strides)

    def copy(self, order: Any = "C") -> PlainArray:  # type: ignore[override]
        """An ordinary array with the same content."""
        return self.view(np.ndarray).copy(order)

    def _published(self) -> ShmArray | None:
        """What a state keeps of this array: the same data, by a mapping that nobody can write.

        From here on this array is read-only, too; views that were taken before are not. None
        if a state cannot keep it: the data do not lie in a living block, or in one that another
        process may still write.
        """
        place = place_in_block(self)
        if place is None:
            return None
        block, offset = place
        if not block.live or not (block.owned or block.published):
            return None
        owner = OWNERS.get(block.session)
        if block.lends:
            return self._sealed(block, owner)
        shown = block.publish()
        self.flags.writeable = False
        if owner is not None:
            owner.let_go(block)
        return array_over(shown, self.shape, self.dtype, offset, self.strides)

    def _sealed(self, block: SharedBlock, owner: Owner | None) -> ShmArray | None:
        """What a state keeps of an array of mode "shared": a copy that nobody was ever lent."""
        if owner is None or not block.owned:
            return None
        try:
            return owner.seal(block, self)
        except BufferError:
            raise LoanError(block.label, None, self._rows_of(block.loans())) from None

    # ---- mode="shared" ------------------------------------------------------------------

    def lend(self, start: int, stop: int) -> Loan:
        """Lends the rows from `start` to `stop`, without that one: whoever enters the loan first,
        in whatever process, may write them until he leaves it. See `theus.loans`.

        Raises LoanError if some of them are lent already (or 512 other ranges), ValueError if
        there are no such rows, if they do not lie side by side in memory, or if the array
        was not made by `alloc(..., mode="shared")`, was freed or is stored in a state;
        BorrowedArrayError, a PermissionError, if it is another process's.
        """
        from theus.loans import Loan

        rows = self._rows(start, stop)
        place = place_in_block(rows)
        if place is None or not place[0].lends:
            raise ValueError('lend() takes an array of engine.heavy.alloc(..., mode="shared")')
        block, offset = place
        if not block.owned:
            raise BorrowedArrayError(f"rows of {name_of(block)!r} are lent by its owner alone")
        if not rows.flags.c_contiguous:
            raise ValueError(
                "these rows do not lie side by side in memory: lend rows of an array of order 'C' "
                "that has all their columns"
            )
        given = block.lend(offset, rows.nbytes)
        if isinstance(given, tuple):
            raise LoanError(block.label, (start, stop), self._rows_of([given] if given else []))
        return Loan(given.token, start, stop, rows.shape, rows.dtype, given, block)

    def recall(self) -> int:
        """Takes back all loans of the whole array that nobody has entered. How many they were.

        Entering one of them raises StaleArrayError from now on. ValueError as for `lend`.
        """
        place = place_in_block(self)
        if place is None or not place[0].lends:
            raise ValueError('recall() is for arrays of engine.heavy.alloc(..., mode="shared")')
        return place[0].recall()

    def _rows(self, start: int, stop: int) -> PlainArray:
        for bound in (start, stop):
            if isinstance(bound, bool) or not hasattr(bound, "__index__"):
                raise TypeError(f"rows are numbered by ints, not {_shown(bound)}")
        length = len(self) if self.ndim else 0
        rows = self[start:stop] if 0 <= start < stop <= length else None
        if rows is None or rows.nbytes == 0:
            raise ValueError(
                f"there are no rows {_shown(start)} to {_shown(stop)} in an array of shape "
                f"{self.shape}: 0 <= start < stop <= {length}, and at least one byte in them"
            )
        return rows

    def _rows_of(self, loans: Iterable[tuple[int, int, int]]) -> tuple[LentRows, ...]:
        """Loans of the block, (offset, size, pid or 0), in rows of this view of it."""
        place = place_in_block(self)
        row = abs(self.strides[0]) if self.ndim else 0
        if place is None or row == 0:
            return tuple((0, 1, pid or None) for _, _, pid in loans)
        return tuple(
            ((at - place[1]) // row, -((place[1] - at - size) // row), pid or None)
            for at, size, pid in loans
        )

    def __repr__(self) -> str:
        text = super().__repr__()
        place = place_in_block(self)
        return text if place is None or not place[0].lends else f"{text[:-1]}, mode='shared')"

    # So NumPy leaves results as it makes them, plain, and asks nobody what to make of them.
    __array_wrap__ = ABSENT
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        __array_prepare__ = ABSENT

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        found = token_in_block(self)
        if found is None:
            return self.view(np.ndarray).__reduce_ex__(protocol)
        strides = None if self.flags.c_contiguous else self.strides
        return array_arriving, (found[0], self.shape, wire_dtype(self.dtype), found[1], strides)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


class ShmHandle:
    """The block of shared memory behind an array, under the names that `SharedMemory` made usual.

    Holding one keeps the memory.
    """

    __slots__ = ("_block",)

    def __init__(self, block: SharedBlock) -> None:
        self._block = block

    @property
    def name(self) -> str:
        """`theus:{session}:{pid}:{key}`; the pid is that of the process that allocated it."""
        return name_of(self._block)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._block.size

    @property
    def buf(self) -> memoryview:
        """The bytes; read-only unless this process owns them."""
        block: Any = self._block
        return memoryview(block)

    def close(self) -> None:
        """Does nothing: the memory goes with its last view."""

    def unlink(self) -> None:
        """Frees it, as `engine.heavy.free` does: nobody can borrow it from now on.

        Raises BorrowedArrayError, a PermissionError, in every process but its owner's.
        """
        self._block.retire()

    def __repr__(self) -> str:
        return f"<ShmHandle {self.name!r}: {self.size:,} bytes>"


class Owner(Protocol):
    """What holds blocks by key, until they are published."""

    def let_go(self, block: SharedBlock) -> None: ...

    def seal(self, block: SharedBlock, array: ShmArray) -> ShmArray: ...

    def block_of(self, key: str) -> SharedBlock | None: ...

    def get(
        self, key: str, shape: int | tuple[int, ...] | None = None, dtype: Any = None
    ) -> ShmArray: ...


OWNERS: WeakValueDictionary[str, Owner] = WeakValueDictionary()
"""By session."""


# ---- arrays and blocks ----------------------------------------------------------------


def array_over(
    block: SharedBlock,
    shape: tuple[int, ...],
    dtype: Any,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
    order: Any = "C",
) -> ShmArray:
    """A view of a block; ValueError if it would reach beyond it. The array keeps the block."""
    buffer: Any = block
    return np.ndarray.__new__(ShmArray, shape, dtype, buffer, offset, strides, order)


def wire_dtype(dtype: np.dtype[Any]) -> Any:
    """What a token says of a dtype: a text if that is all there is to it."""
    code = dtype.char
    if COMMON_TYPES.get(code) is dtype:
        return code
    # The types of NumPy itself; another one's `str` is that of its bytes alone.
    plain = 0 <= dtype.num <= BUILTIN_TYPES and dtype.metadata is None
    return dtype.str if plain and dtype.names is None and dtype.subdtype is None else dtype


def array_from_token(
    token: bytes,
    shape: tuple[int, ...],
    dtype: Any,
    offset: int,
    strides: tuple[int, ...] | None,
) -> ShmArray:
    """What unpickling calls. Nothing in a token is believed: it may come from anywhere."""
    return array_of_token(borrow_block(token), shape, dtype, offset, strides)


def array_of_token(
    block: SharedBlock,
    shape: tuple[int, ...],
    dtype: Any,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> ShmArray:
    """The view of a block that a token tells of; BadTokenError if there is none."""
    try:
        wanted = COMMON_TYPES.get(dtype)
        if wanted is None:
            wanted = np.dtype(dtype)
            if wanted.hasobject:
                raise ValueError("elements are no objects")
        if min((offset, *shape)) < 0:
            raise ValueError("no offset or size is below 0")
        array = array_over(block, shape, wanted, offset, strides)
        # NumPy has looked, too; but its sums of strides can overflow, and ours cannot.
        if strides is not None and place_in_block(array) is None:
            raise ValueError("it would reach beyond the block")
        return array
    except Exception as error:  # np.dtype() of a forged text raises anything, SyntaxError too
        raise BadTokenError(
            f"the token names a block of {block.size:,} bytes, but no array there with shape "
            f"{shape!r}, dtype {dtype!r}, offset {offset!r} and strides {strides!r}: {error}"
        ) from error
