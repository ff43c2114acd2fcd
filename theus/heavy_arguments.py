"""Arguments of `theus.heavy`, looked at: keys, shapes, dtypes, limits, backends.

What is wrong raises TypeError or ValueError with the value and what it should be.
"""

from __future__ import annotations

import os
from operator import index
from typing import Any, Literal

import numpy as np

from theus._theus import system_memory
from theus.errors import _shown
from theus.shm_array import COMMON_TYPES

__all__ = [
    "Backend",
    "Mode",
    "Order",
    "backend_of",
    "bytes_in",
    "check_key",
    "dtype_of",
    "limit_of",
    "limits_of",
    "process_limit_of_environment",
    "shape_of",
]

Order = Literal["C", "F"]
Backend = Literal["anonymous", "named"]
Mode = Literal["sealed", "shared"]

COMMON_NAMES = {
    name: np.dtype(name)
    for dtype in COMMON_TYPES.values()
    for name in (dtype.name, dtype.str, dtype.str[1:])
}
"""What is said most often for a dtype; NumPy takes four times as long to know it."""


def check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        raise TypeError(f"the key of a shared array is a text, not {_shown(key)}")
    bytes_in(key)


def bytes_in(name: str) -> int:
    """The length of a name in UTF-8; ValueError for a lone surrogate, which that cannot hold."""
    try:
        return len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(
            f"{_shown(name)} cannot be written in UTF-8, so it names nothing"
        ) from None


def shape_of(shape: Any) -> tuple[int, ...]:
    if type(shape) is int and shape >= 0:
        return (shape,)
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    try:
        if any(isinstance(size, bool) for size in sizes):
            raise TypeError
        whole = tuple(map(index, sizes))
    except TypeError:
        raise TypeError(f"a shape is an int or a tuple of ints, not {_shown(shape)}") from None
    if any(size < 0 for size in whole):
        raise ValueError(f"no size of a shape is below 0, unlike in {_shown(shape)}")
    return whole


def dtype_of(dtype: Any) -> np.dtype[Any]:
    wanted: np.dtype[Any]
    if type(dtype) is str and dtype in COMMON_NAMES:
        return COMMON_NAMES[dtype]
    try:
        wanted = np.dtype(dtype)
    except (TypeError, ValueError) as error:  # lone surrogates are among the latter
        raise TypeError(
            f"dtype is what NumPy makes one of, such as 'float32', not {_shown(dtype)}"
        ) from error
    if wanted.itemsize == 0:
        wanted = np.empty(0, wanted).dtype  # 'U' is 'U1' then, as in np.zeros
    if wanted.hasobject:
        raise TypeError(
            f"dtype {wanted} holds references to Python objects, which mean nothing to another "
            "process: use a structured or a string dtype, or keep the objects in the state"
        )
    return wanted


def backend_of(backend: object) -> Backend:
    what, name = backend, "backend"
    if what is None:
        name, what = "THEUS_SHM_BACKEND", os.environ.get("THEUS_SHM_BACKEND", "anonymous")
    if what == "anonymous" or what == "named":
        return what
    raise ValueError(f"{name} is 'anonymous' or 'named', not {_shown(what)}")


def limit_of(capacity_mb: float | None) -> int:
    if capacity_mb is None:
        limit = _limit_of_environment("THEUS_HEAP_SIZE")
        return system_memory()[0] // 2 if limit is None else limit
    if isinstance(capacity_mb, bool) or not isinstance(capacity_mb, (int, float)):
        raise TypeError(f"capacity_mb is a number of MiB above 0, not {_shown(capacity_mb)}")
    return _bytes_of("capacity_mb", capacity_mb, capacity_mb)


def process_limit_of_environment() -> int:
    """0: it says nothing."""
    return _limit_of_environment("THEUS_PROCESS_HEAP_SIZE") or 0


def _limit_of_environment(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    return _bytes_of(name, float(text) if text.strip().isdecimal() else 0, text)


def _bytes_of(name: str, mib: float, given: object) -> int:
    if not 0 < mib < 2**40:
        raise ValueError(f"{name} is a number of MiB above 0, not {_shown(given)}")
    return int(mib * 2**20)


def limits_of(soft: int | None, hard: int | None) -> tuple[int, int]:
    """Both limits of a quota; 0 for None."""
    for name, limit in (("soft", soft), ("hard", hard)):
        if limit is not None and (type(limit) is not int or not 1 <= limit < 2**63):
            raise ValueError(f"{name}= is a number of bytes above 0, or None, not {_shown(limit)}")
    if soft is not None and hard is not None and soft > hard:
        raise ValueError(
            f"soft={soft} is above hard={hard} and would never be reached; a soft limit lies "
            "below the hard one"
        )
    return soft or 0, hard or 0
