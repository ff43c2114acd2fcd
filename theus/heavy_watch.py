"""What an allocator of shared arrays notes of them when it is asked to: for looking into errors.

    engine.heavy.watch(sites=True)
    print(engine.heavy.report())             # each array with the line that allocated it

    engine.heavy.watch(checksums=True)
    ...
    engine.heavy.verify()                    # ArrayChangedError: a published array was written to

A view of an array that was taken before the array was stored in a state can still write to it,
and with it to every state that holds it. The engine cannot take that back from a view; with
checksums it can at least be found. A site costs about a microsecond for each array, a checksum one
pass over the array when it is published, and one more for each `verify`.
"""

from __future__ import annotations

import os
import sys
import threading
import zlib
from typing import Any
from weakref import ref

from theus._theus import SharedBlock
from theus.errors import ArrayChangedError

__all__ = ["HeavyWatch"]

_OF_THEUS = ("theus.heavy", "theus.shm_array", "theus.runs", "theus.plan")


class HeavyWatch:
    """The notes of one allocator. `sites` and `checksums` say what is noted from now on."""

    def __init__(self, *, sites: bool = False, checksums: bool = False) -> None:
        self.sites = sites
        self.checksums = checksums
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._names: list[str] = []  # of place number 1 and on
        self._sums: list[tuple[ref[SharedBlock], int]] = []

    @classmethod
    def of_environment(cls) -> HeavyWatch:
        """As THEUS_HEAVY_WATCH says; ValueError if that is something else."""
        text = os.environ.get("THEUS_HEAVY_WATCH", "")
        wanted = set(filter(None, text.split(",")))
        if wanted - {"sites", "checksums"}:
            raise ValueError(f"THEUS_HEAVY_WATCH is sites, checksums or both, not {text!r}")
        return cls(sites="sites" in wanted, checksums="checksums" in wanted)

    def allocated(self, block: SharedBlock) -> None:
        """Notes the innermost line outside this package that is being run."""
        frame: Any = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith(_OF_THEUS):
            frame = frame.f_back
        if frame is None:
            return
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        with self._lock:
            number = self._places.get(place)
            if number is None:
                self._names.append(place)
                number = self._places[place] = len(self._names)
        block.mark(number)

    def site(self, number: int) -> str | None:
        # A number comes from memory that others can write, too.
        return self._names[number - 1] if 0 < number <= len(self._names) else None

    def published(self, block: SharedBlock) -> None:
        """Notes what the block holds now, which is not to change."""
        checksum = _checksum(block)
        with self._lock:
            self._sums = [(seen, known) for seen, known in self._sums if seen() is not None]
            self._sums.append((ref(block), checksum))

    def verify(self) -> None:
        with self._lock:
            noted = list(self._sums)
        changed = [
            block.label
            for seen, known in noted
            if (block := seen()) is not None and _checksum(block) != known
        ]
        if changed:
            raise ArrayChangedError(tuple(changed))


def _checksum(block: SharedBlock) -> int:
    data: Any = block
    return zlib.crc32(memoryview(data))
