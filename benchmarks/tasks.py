"""What the benchmarks of pools have their workers do. A module of its own, so that a worker imports
no more than this, and can be an interpreter."""

from __future__ import annotations

from typing import Any


def nothing() -> None:
    pass


def add(n: int) -> int:
    return n + 1


def burn(turns: int) -> int:
    """Pure Python, and nothing that two workers could share."""
    value = 0
    for turn in range(turns):
        value = (value * 31 + turn) & 0xFFFF
    return value


def first(array: Any) -> float:
    return float(array.flat[0])


def total(array: Any) -> float:
    return float(array.sum())


def trace_of_product(a: Any, b: Any) -> float:
    return float((a @ b).trace())


def first_by_name(name: str) -> float:
    """`first` of an array of float64 in the segment of that name."""
    return _by_name(name, first)


def total_by_name(name: str) -> float:
    return _by_name(name, total)


def _by_name(name: str, work: Any) -> float:
    from multiprocessing.shared_memory import SharedMemory

    import numpy

    segment = SharedMemory(name)
    try:
        return float(work(numpy.ndarray(segment.size // 8, "f8", segment.buf)))
    finally:
        segment.close()
