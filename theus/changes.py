"""What an engine has done, as it does it: versions that changed something, and commit records.

`engine.changes()` follows the versions, `engine.reader()` the ring of records. Both are iterators
for threads and for tasks (see `theus.waiting.Follower`), and both say exactly what they missed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from theus._theus import MISSING, Change, CommitRecord, Engine, State
from theus.errors import VersionError, _shown
from theus.paths import Path, as_path
from theus.waiting import Follower

__all__ = ["Changes", "Commit", "RecordReader"]


class Commit(NamedTuple):
    """One version, as `changes` reports it.

    version  its number
    state    the version itself
    before   the version that was looked at just before, or None if `since` named one that the
             history no longer holds
    missed   versions between `before` (or `since`) and this one that had left the history
             unseen; 0 unless the consumer was slow
    path     what `changes` was asked to watch
    """

    version: int
    state: State
    before: State | None
    missed: int
    path: Path

    @property
    def record(self) -> CommitRecord | None:
        """The record of the commit that made it; None for an engine's first version."""
        return self.state.record

    @property
    def value(self) -> Any:
        """What stands at `path` in this version, or MISSING."""
        return self.state.get(self.path, MISSING)

    @property
    def old(self) -> Any:
        """What stood at `path` in `before`, or MISSING."""
        return MISSING if self.before is None else self.before.get(self.path, MISSING)

    def diff(self) -> list[Change]:
        """What differs from `before`, at `path` and below. Raises VersionError without one."""
        if self.before is None:
            raise VersionError(self.version - self.missed - 1, self.version, self.version)
        depth = len(self.path)
        return [
            change for change in self.state.diff(self.before) if change.path[:depth] == self.path
        ]


class Changes(Follower[Commit]):
    """An iterator over the versions after `since` in which what stands at `path` is another one.

    The buffer is the engine's own history: `engine.history_limit` bounds it, for all consumers
    together. What has left it before it was looked at is counted, in the `missed` of the next item
    and, in total, here. After a gap the oldest version that is left is compared with the last
    one that was seen.
    """

    def __init__(self, engine: Engine, path: Path | str | None, since: int | None) -> None:
        super().__init__(engine)
        self._path = () if path is None else as_path(path)
        state = engine.state
        self._before: State | None = state if since is None else _version(state, since)
        self._seen = state.version if since is None else since
        self._gap = 0
        self.missed = 0
        """Versions that left the history before this iterator could look at them."""

    @property
    def version(self) -> int:
        """The number of the last version that was looked at: where another iterator goes on."""
        return self._seen

    def _take(self) -> Commit | None:
        newest = self._engine.state
        while (state := self._next_state(newest)) is not None:
            before, missed = self._before, state.version - self._seen - 1
            # First what may raise, since it compares keys: then this version is looked at again.
            same = before is not None and bool(self._path) and state.shares(before, self._path)
            self._before, self._seen = state, state.version
            self._gap += missed
            self.missed += missed
            if not same:
                missed, self._gap = self._gap, 0
                return Commit(state.version, state, before, missed, self._path)
        return None

    def _next_state(self, newest: State) -> State | None:
        """The oldest version after the last one seen, up to `newest`, that is still there."""
        number = self._seen + 1
        while number < newest.version:
            try:
                return newest.at(number)
            except VersionError as gone:  # and the oldest may be gone when we ask for that one
                number = max(number + 1, gone.oldest)
        return newest if newest.version > self._seen else None


def _version(newest: State, number: int) -> State | None:
    """The version, or None if it was there once. Raises VersionError if it never was."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"since is the number of a version, or None, not {_shown(number)}")
    try:
        return newest.at(number)
    except VersionError as error:
        if error.version > error.newest:
            raise
        return None


class RecordReader(Follower[CommitRecord]):
    """An iterator over the commit records of an engine, attached to their ring.

    In the ring modes "block" and "strict" no record is overwritten before every attached reader
    has taken it: taking the next one is the acknowledgement. So a reader must be read or
    closed: use it in a `with` block. One that is dropped, or belongs to the parent of a forked
    process, holds up nobody. A thread that reads and commits may wait for itself.
    """

    def __init__(self, engine: Engine, since: int | None) -> None:
        super().__init__(engine)
        self._cursor = engine.attach(since)

    @property
    def lost(self) -> int:
        """Records that were not kept until this reader came to them. Exact, as of its last step:
        taken and lost together are all commits since it began.
        """
        return self._cursor.lost

    def _take(self) -> CommitRecord | None:
        return self._cursor.take()

    def close(self) -> None:
        """Detaches, and ends the iteration. Harmless the second time."""
        self._cursor.detach()
        super().close()
