"""Arrays where NumPy cannot load: in an interpreter with a GIL of its own, or where it is missing.

There an array arrives as an ArrayView (a class in C): shape, strides, dtype, indexing, slices, the
buffer protocol, and the kernels of `theus.kernels`. It is as much a view of the shared memory as a
ShmArray, is made from the same tokens, and keeps the memory in the same way.

Which of the two an array becomes, the receiver decides, in `numpy_here`, and nobody else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from theus._theus import ArrayView, SharedBlock, borrow_block, place_in_block, token_in_block
from theus.errors import BadTokenError
from theus.memory import MemoryClass

__all__ = ["ArrayView"]


@lru_cache(maxsize=1)
def numpy_here() -> Any:
    """NumPy, or None where it cannot load. Found out once: a failed import takes long."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def name_of(block: SharedBlock) -> str:
    """`theus:{session}:{pid}:{key}`"""
    return f"theus:{block.session}:{block.pid}:{block.label}"


# ---- made here ------------------------------------------------------------------------


def array_arriving(
    token: bytes,
    shape: tuple[int, ...],
    dtype: Any,
    offset: int,
    strides: tuple[int, ...] | None,
) -> Any:
    """A shared array that was sent: what unpickling calls, and the codec.

    Raises StaleArrayError if it is gone, BadTokenError if there never was one.
    """
    if numpy_here() is None:
        return view_of_token(token, shape, dtype, offset, strides)
    from theus.shm_array import array_from_token

    return array_from_token(token, shape, dtype, offset, strides)


def view_of_token(
    token: bytes,
    shape: tuple[int, ...],
    dtype: Any,
    offset: int,
    strides: tuple[int, ...] | None,
) -> ArrayView:
    """Never writable, also not over a draft of this very process, which an interpreter is sent: the
    engine's thread may be writing there."""
    block: Any = borrow_block(token)
    try:
        return ArrayView(memoryview(block).toreadonly(), shape, dtype, offset, strides)
    except Exception as error:  # the parts of a forged token may be anything
        raise BadTokenError(
            f"the token names a block of {block.size:,} bytes, but no array there with shape "
            f"{shape!r}, dtype {dtype!r}, offset {offset!r} and strides {strides!r}: {error}"
        ) from error


def array_of_data(data: Any, shape: tuple[int, ...], dtype: str, order: str = "C") -> Any:
    """An array over bytes: of NumPy, where that loads."""
    numpy = numpy_here()
    if numpy is not None:
        return numpy.ndarray(shape, dtype, data, 0, None, order)
    if order == "C":
        return ArrayView(data, shape, dtype)
    packed = ArrayView(data, shape[::-1], dtype)
    return ArrayView(data, shape, dtype, 0, packed.strides[::-1])


# ---- what a view says of itself, and how it travels on ---------------------------------


def about(view: ArrayView) -> dict[str, Any]:
    """What view.info() gives: see ShmArray.info."""
    where = {"address": view.address, "bytes": view.nbytes, "writeable": not view.readonly}
    return placed(place_in_block(view)) | where


def placed(place: tuple[SharedBlock, int] | None) -> dict[str, Any]:
    """What there is to say about a place in shared memory; None: in ordinary memory."""
    if place is None:
        return {"shared": False}
    block, offset = place
    return {
        "shared": True,
        "name": name_of(block),
        "key": block.label,
        "pid": block.pid,
        "file": block.file,
        "owned": block.owned,
        "memory": MemoryClass(1 << block.memory).name,
        "live": block.live,
        "published": block.published,
        "leases": block.leases,
        "offset": offset,
        "block_bytes": block.size,
        "mode": "shared" if block.lends else "sealed",
    }


def writable_copy(view: ArrayView) -> ArrayView:
    """What view.cow() gives."""
    place = place_in_block(view)
    if place is None:
        raise ValueError("cow(): this array lies in ordinary memory; copy it with tobytes()")
    block, offset = place
    memory: Any = block.private()
    return ArrayView(memory, view.shape, view.format, offset, view.strides)


def published(view: ArrayView) -> ArrayView | None:
    """What a state keeps of it: itself, if nobody can write there any more. See
    ShmArray._published."""
    place = place_in_block(view)
    if place is None or not view.readonly:
        return None
    block = place[0]
    return view if block.live and block.published else None


def is_freed(value: Any) -> bool:
    """Whether it is an array in shared memory that nobody can borrow any more."""
    shared = isinstance(value, ArrayView) or type(value).__module__ == "theus.shm_array"
    return shared and place_in_block(value) is not None and token_in_block(value) is None


def letter_of(view: ArrayView) -> str:
    """The dtype as tokens say it: NumPy's letter."""
    return {"Zf": "F", "Zd": "D"}.get(view.format, view.format)


def reduced(view: ArrayView) -> tuple[Any, tuple[Any, ...]]:
    """By token where the data lie in a living block, else as data: as a ShmArray is pickled."""
    found = token_in_block(view)
    if found is None:
        return array_of_data, (view.tobytes(), view.shape, letter_of(view))
    return array_arriving, (found[0], view.shape, letter_of(view), found[1], view.strides)
