"""What `engine.heavy` tells about itself: its arrays, quotas and totals at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from theus._theus import process_memory
from theus.memory import MemoryClass

__all__ = ["HeavyArray", "HeavyReport", "MemoryReport", "ProcessReport", "QuotaReport"]


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
    published: bool
    """Its owner has stored it in a state, and changes it no more."""
    shared: bool
    """Rows of it can be lent (`alloc(..., mode="shared")`)."""
    lent: int
    """How many ranges of rows others may write now, or will."""
    site: str | None
    """Where it was allocated, "file:line"; None unless that is noted (`ManagedAllocator.watch`)."""
    memory: MemoryClass = MemoryClass.SHARED
    """What it lies in."""


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """A limit on the arrays whose keys begin with `prefix` ("": all). Bytes; 0: no limit."""

    prefix: str
    soft: int
    hard: int
    used: int
    peak: int
    arrays: int
    """How many count for it."""


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What all engines of this process have together. In bytes, but for the numbers of arrays.

    `births` - `deaths` = `arrays`, and `used` = `bytes`: the former are counted, the latter are
    found in the tables of the arrays.
    """

    soft: int
    """0: no limit."""
    hard: int
    used: int
    peak: int
    births: int
    deaths: int
    arrays: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What an allocator has of one kind of memory. In bytes, but for `arenas` and `arrays`."""

    arenas: int
    arrays: int
    used: int
    backed: int
    idle: int


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
    by_memory: dict[MemoryClass, MemoryReport]
    """Those kinds that there is something of."""
    by_process: dict[int, tuple[int, int]]
    """Process id, as that process sees it -> (arrays, bytes) that it looks at."""
    quotas: tuple[QuotaReport, ...]
    process: ProcessReport
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
        for quota in self.quotas[1:]:
            lines.append(
                f"  keys {quota.prefix}...: {quota.arrays} arrays, {quota.used:,} bytes"
                f"{f' of {quota.hard:,}' if quota.hard else ''} (peak {quota.peak:,})"
            )
        if self.process.hard or self.process.arrays != len(self.arrays):
            of = f" of {self.process.hard:,}" if self.process.hard else ""
            lines.append(
                f"  all of this process: {self.process.arrays} arrays, {self.process.used:,} "
                f"bytes{of} (peak {self.process.peak:,})"
            )
        for array in self.arrays:
            state = "" if array.live else ", freed"
            state += f", shared, {array.lent} ranges lent" if array.shared else ""
            kind = "" if array.memory is MemoryClass.SHARED else f", {array.memory.name} memory"
            lines.append(
                f"  {array.key}: {array.bytes:,} bytes{kind}, seen by {array.processes}, "
                f"{array.age:.1f} s old{state}{'' if array.site is None else f', {array.site}'}"
            )
        return "\n".join(lines)


def process_report() -> ProcessReport:
    """Of this process, as of now."""
    soft, hard, used, peak, births, deaths, _, _, arrays, size = process_memory()
    return ProcessReport(soft, hard, used, peak, births, deaths, arrays, size)
