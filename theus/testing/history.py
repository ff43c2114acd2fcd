"""What a recorded run consists of, and how its faults are told. Plain data: it pickles."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from theus._theus import MISSING
from theus.paths import Path, format_path


class Step(NamedTuple):
    """One thing that a body did. `value` is the answer to a question, or the operand of a change.

    questions    `get`: an atom, or MISSING; `kind`: "dict", "list", "set" or the class of an
                 instance was fetched; `has`: a bool; `keys`: a frozenset; `length`: an int; `all`:
                 a deep copy, with theus.testing.Fields for instances, as in all values
    changes      `set`, `delete`, `add`, `append`, with the operand; `merge`, with value and
                 resolver; `update`, one for each end of the nested dicts: a value, DELETE, or {}
    savepoints   `save`, then `keep` or `undo`
    """

    kind: str
    path: Path = ()
    value: Any = None


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of one transaction, as whoever ran it saw it.

    `snapshot` is the version that it pinned and `floor` the newest one that was known to be
    committed when it began. `version` is what its commit made; None if it was read-only, had
    nothing to change, was aborted, or met a conflict: `outcome` says which ("committed",
    "unchanged", "aborted"; "open" while it runs). `isolation` is "serializable" or "snapshot"; or,
    of a compare-and-swap that no other commit may have come before, "strict".
    """

    who: str
    snapshot: int
    steps: list[Step] = field(default_factory=list)
    version: int | None = None
    isolation: str = "serializable"
    read_only: bool = False
    floor: int = 0
    outcome: str = "open"

    def __str__(self) -> str:
        made = f"made version {self.version}" if self.version is not None else self.outcome
        return f"{self.who} ({self.isolation}, snapshot {self.snapshot}, {made})"


@dataclass(slots=True)
class History:
    """A run that began with `start` at version `first`; `end`, if it is known, is what it left."""

    start: dict[str, Any]
    first: int
    attempts: list[Attempt]
    end: dict[str, Any] | None = None


class Anomaly(str, Enum):
    """What can be wrong with a history. The text of each is its value."""

    VERSION_ORDER = "version order"
    """Versions are first + 1, first + 2 and so on, each made by one transaction."""
    STALE_SNAPSHOT = "stale snapshot"
    """A transaction began on an older version than one that had been committed before."""
    DIRTY_READ = "dirty read"
    """It saw what an aborted transaction had written, or what another one overwrote before its
    commit.
    """
    READ_SKEW = "read skew"
    """It saw a value of another version than its snapshot."""
    OWN_WRITE = "own write lost"
    """It did not see what it had written itself."""
    IMPOSSIBLE_READ = "impossible read"
    """It saw something that nobody has written."""
    LOST_UPDATE = "lost update"
    """It read and wrote a place (snapshot isolation: wrote one) that another one wrote
    meanwhile.
    """
    WRITE_SKEW = "write skew"
    """It and another one each wrote what the other had read, and both were committed."""
    PHANTOM = "phantom"
    """The keys, or the absence of one, that it relied on were others when it was committed."""
    STALE_READ = "stale read"
    """A value that it had read was another one when it was committed."""
    LOST_WRITE = "lost write"
    """It wrote something, its commit succeeded, and there is no version of it."""
    FINAL_STATE = "final state"
    """The state after the run is not what all its transactions, in order, lead to."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault: `attempt` at `path` should have found `expected`, by the state at `version`.

    `attempt` is None for a wrong final state. `by` is the other transaction that had a part in it,
    where one is known.
    """

    anomaly: Anomaly
    attempt: Attempt | None
    path: Path
    expected: Any
    found: Any
    version: int
    by: Attempt | None = None

    def __str__(self) -> str:
        who = "the state after the run" if self.attempt is None else str(self.attempt)
        where = format_path(self.path) if self.path else "the state"
        text = (
            f"{self.anomaly}: {who} at {where}: expected {_short(self.expected)} as of version "
            f"{self.version}, found {_short(self.found)}"
        )
        return text if self.by is None else f"{text}; the other one is {self.by}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `ok` is True if that is nothing; str() tells it all."""

    violations: tuple[Violation, ...]
    attempts: int
    commits: int
    steps: int
    complete: bool = True
    """False if the check ended early: at `limit`, or because the order of versions is unknown."""

    @property
    def ok(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        head = f"{self.attempts} attempts, {self.commits} commits, {self.steps} steps: "
        if self.ok:
            return head + "no violations"
        more = "" if self.complete else " at least"
        lines = [f"{head}{more.strip()} {len(self.violations)} violations".replace("  ", " ")]
        return "\n".join(lines + [f"  {violation}" for violation in self.violations])


def _short(value: Any) -> str:
    text = "nothing" if value is MISSING else repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
