"""Kinds of memory that an array may lie in.

    engine.heavy.alloc("table", n, memory=MemoryClass.HUGE | MemoryClass.SHARED)
    MemoryClass.of(array) in MemoryClass.HUGE | MemoryClass.PINNED     # good enough as it is?

A set of kinds says what somebody can work with: a new array gets the first of them, in the order
below, that has room, and one that lies in memory of the set need not be copied.
"""

from __future__ import annotations

from enum import Flag
from typing import Any

from theus._theus import SharedZone, place_in_block, process_blocks
from theus.errors import HeavyMemoryError, _shown

__all__ = ["MemoryClass"]

HOLDERS_NAMED = 5


class MemoryClass(Flag):
    """A kind of memory, or with `|` a set of kinds."""

    HUGE = 1
    """Pages of 2 MiB that the administrator has set aside (`vm.nr_hugepages`): never swapped out.
    Whole ones: a process holds 2 MiB at least. Not with the named backend."""

    PINNED = 2
    """Ordinary memory that its owner keeps from being swapped out, within RLIMIT_MEMLOCK."""

    SHARED = 4
    """Ordinary memory. The default."""

    FILE = 8
    """A nameless file on a disk, in the folder THEUS_SPILL_DIR (default: /var/tmp): the system
    writes pages back when it needs their memory, so more can be had than there is. Not with the
    named backend. It has no seals: another process of the same user that tries can write there."""

    HOST = 16
    """Private memory of one process, where NumPy has its arrays. Nothing shared lies in it."""

    @classmethod
    def of(cls, array: Any) -> MemoryClass:
        """What the data of an array lie in. HOST for all that is not shared, `cow()` too."""
        place = place_in_block(array)
        return cls.HOST if place is None else cls(1 << place[0].memory)


BLOCKS = MemoryClass.HUGE | MemoryClass.PINNED | MemoryClass.SHARED | MemoryClass.FILE
"""What a shared array can lie in."""

LENDABLE = MemoryClass.PINNED | MemoryClass.SHARED
"""What rows can be lent of: ordinary memory, whose pages a borrower may be let write."""


def set_of(memory: Any) -> MemoryClass:
    """`memory`, as an argument, looked at: TypeError if it is something else."""
    if not isinstance(memory, MemoryClass):
        raise TypeError(f"memory= is a MemoryClass, or several with |, not {_shown(memory)}")
    return memory


def kinds_of(memory: Any) -> MemoryClass:
    """The same for a shared array: ValueError if it cannot lie in any of them."""
    kinds = set_of(memory)
    if not kinds & BLOCKS:
        raise ValueError(
            f"a shared array lies in one of {BLOCKS!r}, not in {kinds!r}: for memory of this "
            "process alone use np.empty()"
        )
    return kinds


def lendable_of(memory: MemoryClass) -> MemoryClass:
    """Those of `kinds_of` whose rows can be lent: ValueError if none can."""
    kinds = memory & LENDABLE
    if not kinds:
        raise ValueError(
            f"mode='shared' lends memory of {LENDABLE!r}, and this is to lie in {memory!r}: "
            "accept one of them, too, with memory="
        )
    return kinds


def refused(
    zone: SharedZone | None, size: int, why: tuple[str, str, int, int, int]
) -> HeavyMemoryError:
    """Why `zone` has no block of `size` bytes, as its alloc() said it; None: why so many cannot be
    mapped to look at a block that is there."""
    scope, prefix, used, limit, kind = why
    of_zone = scope in ("quota", "system")
    blocks = zone.blocks() if zone is not None and of_zone else process_blocks()
    counted = [block[:3] for block in blocks if scope != "quota" or block[0].startswith(prefix)]
    counted.sort(key=lambda block: block[2], reverse=True)
    memory = MemoryClass(1 << kind)
    return HeavyMemoryError(
        size,
        used,
        limit,
        0 if zone is None else zone.figures()["largest_free"],
        tuple((label, extent) for label, _, extent in counted[:HOLDERS_NAMED]),
        prefix if scope == "quota" else None,
        memory.name if scope == "system" and memory is not MemoryClass.SHARED else None,
        scope,
    )
