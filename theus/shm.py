"""Shared arrays under the names that older programs know; see `theus.heavy` for how they are made.

    descriptor = BufferDescriptor.of(array)     # picklable, some hundred bytes
    with_names = HeavyZoneWrapper({"frame": descriptor})
    with_names["frame"]                         # the array: mapped once, read-only in a borrower

Pickling an array does the same without these. Names of arrays are for people: the memory behind
one has none in any file system, so only the process that allocated it finds it by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from theus._theus import SharedBlock, place_in_block
from theus.array_view import name_of
from theus.errors import BorrowedArrayError, StaleArrayError, _shown
from theus.heavy import ManagedAllocator
from theus.shm_array import OWNERS, Owner, ShmArray, array_from_token

__all__ = [
    "BufferDescriptor",
    "HeavyZoneAllocator",
    "HeavyZoneWrapper",
    "SafeSharedMemory",
    "rebuild_shm_array",
]


def _named(name: str) -> tuple[Owner, SharedBlock]:
    """The living block of this name, if this process has allocated it. StaleArrayError if not."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a shared array is a text, not {_shown(name)}")
    for session, owner in list(OWNERS.items()):
        prefix = f"theus:{session}:"
        if name.startswith(prefix):
            key = name[len(prefix) :].partition(":")[2]
            block = owner.block_of(key)
            if block is not None and name_of(block) == name:
                return owner, block
    raise StaleArrayError(
        f"this process has allocated no shared array {name!r}, or freed it; send the array itself, "
        "or a BufferDescriptor of it"
    )


def rebuild_shm_array(name: str, shape: int | tuple[int, ...], dtype: Any) -> ShmArray:
    """The array of this name, read as `shape` and `dtype` from its first byte on.

    Raises StaleArrayError if this process has no such array, ValueError if it is smaller.
    """
    owner, block = _named(name)
    try:
        return owner.get(block.label, shape, dtype)
    except KeyError:  # freed meanwhile, by another thread
        raise StaleArrayError(f"the shared array {name!r} was freed") from None


class BufferDescriptor(NamedTuple):
    """Where the data of an array lie, to be sent in its place. Immutable.

    `size` in bytes. One that was made by hand, without a `token`, is found by its name.
    """

    name: str
    size: int
    shape: tuple[int, ...]
    dtype: Any
    token: bytes | None = None
    offset: int = 0
    strides: tuple[int, ...] | None = None

    @classmethod
    def of(cls, array: ShmArray) -> BufferDescriptor:
        """The descriptor of an array or of a view of one. It does not keep the memory.

        Raises ValueError if the data do not lie in shared memory, StaleArrayError if that is freed.
        """
        place = place_in_block(array)
        if place is None:
            raise ValueError("these data lie in ordinary memory: copy them with engine.heavy.put()")
        block, offset = place
        if not block.live:
            raise StaleArrayError(f"the shared array {name_of(block)!r} was freed")
        strides = None if array.flags.c_contiguous else array.strides
        return cls(
            name_of(block), array.nbytes, array.shape, array.dtype, block.token, offset, strides
        )

    def open(self) -> ShmArray:
        """The array. Read-only unless this process has allocated it.

        Raises StaleArrayError if it is gone, BadTokenError if this is no descriptor of an array.
        """
        if self.token is None:
            return rebuild_shm_array(self.name, self.shape, self.dtype)
        return array_from_token(self.token, self.shape, self.dtype, self.offset, self.strides)


class SafeSharedMemory:
    """A read-only view of the bytes of a shared array of this process.

    Raises StaleArrayError if it has no array of that name.
    """

    __slots__ = ("_block",)

    def __init__(self, name: str) -> None:
        self._block: SharedBlock | None = _named(name)[1]

    def _opened(self) -> SharedBlock:
        if self._block is None:
            raise ValueError("this view of a shared array was closed")
        return self._block

    @property
    def name(self) -> str:
        return name_of(self._opened())

    @property
    def size(self) -> int:
        """In bytes."""
        return self._opened().size

    @property
    def buf(self) -> memoryview:
        """The bytes, read-only."""
        block: Any = self._opened()
        return memoryview(block).toreadonly()

    def close(self) -> None:
        """Lets go of the block. Views of `buf` stay good. May be called again."""
        self._block = None

    def unlink(self) -> None:
        """Raises BorrowedArrayError, a PermissionError: `engine.heavy.free(key)` is who frees."""
        raise BorrowedArrayError(
            f"{self.name!r} is only looked at here; who allocated it frees it, with "
            "engine.heavy.free(key)"
        )


class HeavyZoneAllocator(ManagedAllocator):
    """A `ManagedAllocator` with the usual limit and a session of its own."""

    def __init__(self) -> None:
        super().__init__()


class HeavyZoneWrapper(dict[str, Any]):
    """A dict in which a BufferDescriptor reads as its array: by item, attribute, `get`, `items`.

    The array is mapped when it is first read, and then kept. Not for several threads at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrays: dict[str, tuple[BufferDescriptor, ShmArray]] = {}

    def _shown(self, key: str, value: Any) -> Any:
        if not isinstance(value, BufferDescriptor):
            return value
        known = self._arrays.get(key)
        if known is None or known[0] is not value:  # the key was assigned meanwhile
            known = self._arrays[key] = (value, value.open())
        return known[1]

    def __getitem__(self, key: str) -> Any:
        return self._shown(key, super().__getitem__(key))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no heavy entry {name!r}", name=name) from None

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def values(self) -> list[Any]:  # type: ignore[override]
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:  # type: ignore[override]
        return [(key, self[key]) for key in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return HeavyZoneWrapper, (dict(dict.items(self)),)
