"""What lies in the folder of named shared memory, and what of it is nobody's any more.

    theus gc --dry-run                      # the same on the command line

    from theus.registry import sweep
    print(sweep(dry_run=True))

An engine whose arrays have names (`TheusEngine(shm_backend="named")`) leaves files behind when it
is killed, and only then. The next engine that uses the backend removes them, before its first
array; so does `sweep`, at any time. There is no list that could be wrong: a file is somebody's as
long as its owner holds a lock on it, and the kernel ends that lock with its owner, however it dies.
So no process id is asked, which may be used again, or mean another process in another container;
and a sweep is safe beside live engines, other sweeps and being killed itself.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakSet, finalize

from theus._theus import open_ledger, shared_folder, sweep_shared

__all__ = ["MemoryRegistry", "SharedFile", "SweepReport", "sweep"]

NAME_BYTES = 255
"""The most that a file system takes for the name of a file."""

REASONS = {
    "dead": "its owner is dead",
    "orphan": "data without a control file",
    "alive": "its owner lives",
    "others": "another user's",
    "closed": "permission denied",
    "foreign": "not made by theus",
}
"""Of the first two, nothing is needed by anybody; the others are never touched."""


@dataclass(frozen=True, slots=True)
class SharedFile:
    """An entry of the folder. The two files of an arena count as one, under the name of one."""

    name: str
    reason: str
    """"dead", "orphan", "alive", "others", "closed" or "foreign": see REASONS."""
    removed: bool
    bytes: int
    """Of memory, as of now: of an arena, what its arrays took."""
    pid: int
    """That its owner had, as seen by its owner; 0: not known."""
    session: str
    """Of its owner; "": not known."""
    made: float
    """Seconds since 1970; 0.0: not known."""

    @property
    def garbage(self) -> bool:
        """Nobody needs it."""
        return self.reason in ("dead", "orphan")

    def __str__(self) -> str:
        text = f"{self.name}  {self.bytes:,} bytes  {REASONS[self.reason]}"
        if self.pid:
            session = f" of session {self.session}" if self.session else ""
            text += f" (process {self.pid}{session})"
        return text + ("; removed" if self.removed else "")


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep found in `folder`. `error` says why the folder could not be read, if so."""

    folder: str
    files: tuple[SharedFile, ...] = ()
    error: str | None = None

    @property
    def garbage(self) -> tuple[SharedFile, ...]:
        """What nobody needs: what was removed, or would be."""
        return tuple(file for file in self.files if file.garbage)

    @property
    def removed(self) -> tuple[SharedFile, ...]:
        return tuple(file for file in self.files if file.removed)

    def document(self) -> dict[str, Any]:
        """The same as builtin types, for JSON."""
        return {
            "folder": self.folder,
            "error": self.error,
            "removed": len(self.removed),
            "bytes": sum(file.bytes for file in self.removed),
            "files": [asdict(file) for file in self.files],
        }

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.folder}: {self.error}"
        garbage = self.garbage
        return "\n".join(
            [
                *map(str, self.files),
                f"{self.folder}: {len(garbage)} of {len(self.files)} without an owner "
                f"({sum(file.bytes for file in garbage):,} bytes), {len(self.removed)} removed",
            ]
        )


def sweep(folder: str | None = None, *, dry_run: bool = False) -> SweepReport:
    """Removes what dead processes left in a folder of named shared memory.

    `folder`: by default, that of this process. `dry_run`: only looks. Raises nothing: that a
    folder cannot be read is the report's `error`. From any thread and any number of processes at
    once; what live engines use is not touched.
    """
    where = shared_folder() if folder is None else folder
    try:
        found = sweep_shared(where, not dry_run)
    except (OSError, MemoryError, ValueError) as error:
        return SweepReport(where, error=str(error))
    return SweepReport(where, tuple(SharedFile(*file) for file in found))


class MemoryRegistry:
    """The registry of shared memory under its old name. Nothing here prints; from any thread.

    `session_id` is that of an allocator (`engine.heavy.session_id`). Making a registry sweeps, as
    it always did. Arrays of theus need no entry: what they lie in says itself whose it is.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._ledger: _Ledger | None = None
        self.scan_zombies()

    def scan_zombies(self) -> tuple[str, ...]:
        """Removes what dead processes left, of whatever session; the names of what was removed."""
        return tuple(file.name for file in sweep().removed)

    def log_allocation(self, name: str, size: int) -> None:
        """From now on the segment `name`, made by other means, does not outlive this process.

        As of `multiprocessing.shared_memory.SharedMemory("theus_frames", create=True, size=n)`: it
        is removed by `cleanup`, by the registry's end, or, if this process is killed, by the next
        sweep. It may be logged before it is made. `size` is in bytes; nothing depends on it.

        Raises ValueError for a name that does not begin with "theus_" (a sweep touches no other),
        and for one that no file can have.
        """
        if not name.startswith("theus_") or "/" in name or "\n" in name or "\0" in name:
            raise ValueError(
                f"the name of a logged segment begins with 'theus_' and has no '/' or line break, "
                f"unlike {name!r}"
            )
        if len(os.fsencode(name)) > NAME_BYTES:  # a UnicodeEncodeError is a ValueError
            raise ValueError(f"the name of a segment has at most {NAME_BYTES} bytes: {name!r}")
        if size < 0:
            raise ValueError(f"the size of {name!r} is a number of bytes, not {size!r}")
        with _lock:
            if self._ledger is None or self._ledger.pid != os.getpid():
                self._ledger = _Ledger()  # a forked child owns nothing of its parent's
            self._ledger.add(name)

    def cleanup(self) -> None:
        """Frees the arrays of this session, and removes the segments logged here, of this process.

        Views stay good.
        """
        arrays = sys.modules.get("theus.shm_array")  # else there are none here
        owner = None if arrays is None else arrays.OWNERS.get(self.session_id)
        if owner is not None:
            owner.cleanup()
        with _lock:
            ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.end()


class _Ledger:
    """A file of names, which the kernel holds locked for this process alone."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.names: list[str] = []
        fd, file = open_ledger()
        self.file = os.path.join(shared_folder(), file)
        self.fd = fd
        # At the latest when the interpreter ends; never in a forked child.
        self.end = finalize(self, _end_ledger, fd, self.file, self.names)
        _ledgers.add(self)

    def add(self, name: str) -> None:
        self.names.append(name)
        os.write(self.fd, os.fsencode(name) + b"\n")


_ledgers: WeakSet[_Ledger] = WeakSet()
_lock = threading.Lock()
"""Held while a ledger of this process is begun, written to or taken away."""


def _end_ledger(fd: int, file: str, names: list[str]) -> None:
    # What was never made, or cannot be removed (another user's, a folder), must not keep the rest.
    for path in (*(os.path.join(shared_folder(), name) for name in names), file):
        with suppress(OSError):
            os.unlink(path)
    os.close(fd)


def _leave_ledgers() -> None:
    """In a forked child: as long as it held the descriptor, its parent would look alive."""
    global _lock
    _lock = threading.Lock()  # the thread that held it is not in the child
    for ledger in list(_ledgers):
        ledger.end.detach()
        os.close(ledger.fd)
    _ledgers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_ledgers)
