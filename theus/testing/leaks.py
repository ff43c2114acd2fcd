"""Did that piece of program give back all the shared memory it used?

    from theus.testing import leak_check

    def test_pipeline():
        with leak_check(engine.heavy):
            run_pipeline(engine)

At the end of the block, everything that theus holds of the system has to be what it was at its
beginning: descriptors and mappings of shared memory, its files with names, leases (arrays that this
process looks at, its own and others'), the bytes of all arrays that it owns; and of the allocators
that are given, their arrays, bytes (those of each quota, too) and freed arrays that other processes
still look at.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from theus._theus import count_leases, forget_arenas, process_memory, shared_folder
from theus.errors import _shown

if TYPE_CHECKING:
    from theus.heavy import ManagedAllocator

__all__ = ["LeakError", "leak_check"]


class LeakError(AssertionError):
    """Raised when more is held than before. `leaks` says what: (name, before, after)."""

    def __init__(self, leaks: tuple[tuple[str, int, int], ...]) -> None:
        super().__init__(leaks)
        self.leaks = leaks

    def __str__(self) -> str:
        listed = "; ".join(
            f"{name}: {before:,} before, {after:,} now" for name, before, after in self.leaks
        )
        return f"shared memory was not given back: {listed}"


@contextmanager
def leak_check(*allocators: ManagedAllocator) -> Iterator[None]:
    """Raises LeakError if the block ends with more shared memory than it began with.

    Collects garbage first, and gives back what is only kept for reuse. If the block
    raises, that goes on instead. For one thread's work: what others do meanwhile counts.
    """
    for allocator in allocators:
        if not hasattr(allocator, "tidy"):  # its class would load NumPy
            raise TypeError(
                f"leak_check() takes allocators, such as engine.heavy, not {_shown(allocator)}"
            )
    before = _held(allocators)
    yield
    after = _held(allocators)
    leaks = tuple(
        (name, before.get(name, 0), now) for name, now in after.items() if now > before.get(name, 0)
    )
    if leaks:
        raise LeakError(leaks)


def _held(allocators: tuple[ManagedAllocator, ...]) -> dict[str, int]:
    gc.collect()
    forget_arenas()
    held = {}
    for number, allocator in enumerate(allocators):
        allocator.tidy()
        report = allocator.report()
        of = f" of allocator {number}" if len(allocators) > 1 else ""
        held[f"arrays{of}"] = len(report.arrays)
        held[f"bytes{of}"] = report.used
        held[f"freed arrays that others look at{of}"] = report.lingering
        for quota in report.quotas[1:]:  # the first is all of it
            held[f"bytes of {quota.prefix!r}{of}"] = quota.used
    held["leases"] = count_leases()
    held["bytes of this process"] = process_memory()[2]
    held["descriptors"] = sum(map(_is_ours, _targets("/proc/self/fd")))
    held["mappings"] = _mappings()
    own = re.compile(rf"theus_\d+_{os.getpid()}_")
    held["files with names"] = sum(own.match(name) is not None for name in _names(shared_folder()))
    return held


def _is_ours(target: str) -> bool:
    # The last one: how a file is shown that got its name after it was made.
    folder = shared_folder()
    return target.startswith(("/memfd:theus-", f"{folder}/theus_", f"{folder}/#"))


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _targets(folder: str) -> Iterator[str]:
    for name in _names(folder):
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:  # closed meanwhile: the one that lists the folder, for one
            continue


def _mappings() -> int:
    if not os.path.exists("/proc/self/maps"):
        return 0
    with open("/proc/self/maps") as maps:
        return sum(_is_ours(line.split(None, 5)[5]) for line in maps if line.count(" ") > 5)
