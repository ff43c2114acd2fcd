"""What an engine can be asked about: its versions, who made them, what comes next, figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from theus import _theus
from theus._theus import Change, CommitRecord, State, Transaction
from theus._types import EngineStats
from theus.errors import ClosedError, VersionError
from theus.paths import Path

if TYPE_CHECKING:
    from theus.changes import Changes, RecordReader
    from theus.signals import Signals

__all__ = ["EngineHistory"]


class EngineHistory(_theus.Engine):
    """The part of an engine that looks at versions. Each state holds the history before it."""

    def diff(self, a: State | int, b: State | int | None = None) -> list[Change]:
        """What changed from version `a` to version `b` (None: the newest), path by path.

        Raises VersionError for a number that the history does not hold. A closed engine has no
        history, and raises ClosedError for it; States can still be compared.
        """
        try:
            return self.state.diff(a, b)
        except VersionError:
            if self.closed:
                raise ClosedError from None
            raise

    def provenance(self, path: Path | str) -> CommitRecord | None:
        """The commit that gave `path` its present value, or None if the history has forgotten."""
        return self.state.provenance(path)

    def restore(
        self,
        version: State | int,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        process: str | None = "restore",
    ) -> int:
        """Makes the content that of another version again, in one commit. Returns the version
        that now stands: a new one, unless nothing differs.

        It is a run like any other: recorded (under the name `process`), repeated when another
        commit came first (`retries`, `deadline` in seconds: as in `run`), and a part of the
        body if it is called in one (`tx.restore(state)` there). What is the same in both
        versions is shared, not copied; signals stay as they are. A State of another engine, or
        one made by hand or unpickled, is copied in.

        Raises VersionError for a version that the history does not hold, ConflictError when
        retries are used up, ClosedError.
        """
        if self.closed:
            raise ClosedError
        wanted = self.state.at(version) if isinstance(version, int) else version

        def put_back(tx: Transaction) -> Transaction:
            tx.restore(wanted)
            return tx

        return self.run(put_back, retries=retries, deadline=deadline, process=process).version

    def changes(self, path: Path | str | None = None, since: int | None = None) -> Changes:
        """The versions in which what stands at `path` is another one, as they come.

            for commit in engine.changes("domain.jobs"):
                print(commit.version, commit.old, commit.value)

        Begins after version `since` (None: after the present one), for every version if `path`
        is None. `for` waits in its thread, `async for` in its task; both end when the engine is
        closed, or the iterator is. `poll(timeout)` gives the next item or None. See
        `theus.changes.Commit` for the items; each tells how many versions were missed before it.

        Compares by identity: a value that was stored anew counts as a change although it is
        equal, unless it is the very same object; one that is put back before it was looked
        at does not. Raises VersionError for a version that does not exist yet.
        """
        from theus.changes import Changes

        return Changes(self, path, since)

    def wait_for(self, predicate: Callable[[State], object], timeout: float | None = None) -> State:
        """Waits until `predicate(state)` is true of the newest version, and returns that state.

        It is asked here and now, and after each commit, in this thread, outside all locks;
        versions that came and went in between may be left out (`changes` shows each). What
        it raises goes to the caller.

        Raises WaitTimeoutError when `timeout` seconds (None: no limit) have passed, ClosedError
        when the engine is closed, RuntimeError where it would block a running event loop.
        """
        from theus.waiting import wait_for

        return wait_for(self, predicate, timeout)

    async def wait_for_async(
        self, predicate: Callable[[State], object], timeout: float | None = None
    ) -> State:
        """`wait_for` for a task, which is where the predicate is asked: a plain function."""
        from theus.waiting import wait_for_async

        return await wait_for_async(self, predicate, timeout)

    def reader(self, since: int | None = None) -> RecordReader:
        """Attaches a reader to the ring of commit records, and returns it as an iterator.

            with engine.reader() as records:
                for record in records:
                    archive(record)

        Begins with the record of commit number `since`, or (None) with the oldest that no
        reader has taken; in mode "overwrite" with the oldest that is kept. `records.lost`
        counts exactly what was not kept for it. In the modes "block" and "strict" nothing is
        lost: commits need an attached reader, and wait or fail while one of them has a whole
        ring of records to read; so what reads should not be what commits. Raises ClosedError.
        """
        from theus.changes import RecordReader

        return RecordReader(self, since)

    def signals(self, topic: str | None = None) -> Signals:
        """The signals of one topic, or of all (None), that are sent from now on.

            for signal in engine.signals("done"):
                print(signal.version, signal.payload)

        An iterator for a thread or, with `async for`, a task; a reader of the ring as `reader`
        makes them, so read or close it where the ring's mode is "block" or "strict". See
        `theus.signals`. Raises ClosedError.
        """
        from theus.signals import Signals

        return Signals(self, topic)

    def stats(self) -> EngineStats:
        """What the engine has done so far. The figures are read one after the other."""
        counters = self.counters()
        workers = self.__dict__.get("_workers")
        return EngineStats(
            version=self.version,
            commits=counters["commits"],
            rebases=counters["rebases"],
            conflicts=counters["conflicts"],
            retries=counters["retries"],
            noops=counters["noops"],
            reads=counters["reads"],
            conflicts_by_path=counters["conflicts_by_path"],
            ring_capacity=counters["ring_capacity"],
            ring_lost=counters["ring_lost"],
            history_versions=counters["history_versions"],
            queue_depth=counters["queue_depth"],
            queueing=counters["queueing"],
            tickets=counters["tickets"],
            tickets_held=counters["tickets_held"],
            waits=counters["waits"],
            leases_expired=counters["leases_expired"],
            tries_max=max(counters["tries_max"], min(counters["commits"], 1)),
            tries=counters["tries"],
            pools=() if workers is None else workers.stats(),
            choices=() if workers is None else workers.choices(),
        )
