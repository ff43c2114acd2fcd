"""Plain data that the public interface hands out or takes. A leaf: imports nothing of ours.

No dataclasses here, nor anywhere else that `import theus` comes by: they bring `inspect`, `ast` and
`dis` with them, and with those would take half of the time of that import.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, NamedTuple, get_args

__all__ = [
    "POOL_KINDS",
    "SET",
    "EngineStats",
    "Isolation",
    "PoolChoice",
    "PoolKind",
    "PoolStats",
    "SemanticType",
    "StateUpdate",
]

Isolation = Literal["serializable", "snapshot"]
"""Under which rule a transaction commits: see `TheusEngine.run_async`."""

PoolKind = Literal["interpreters", "processes", "threads"]
"""What the workers of a pool are: see `theus.workers`."""

POOL_KINDS: tuple[PoolKind, ...] = get_args(PoolKind)


class SemanticType(str, Enum):
    """What a process may do. A plain string of the same text is accepted everywhere.

    PURE    reads its declared inputs; changes state only by what it returns
    EFFECT  works on drafts, and may write what it declares in its outputs
    GUIDE   reads anything, to steer a workflow; writes nothing
    """

    PURE = "pure"
    EFFECT = "effect"
    GUIDE = "guide"


class SET:
    """A returned value that is to be stored exactly as it is.

    `SET(None)` stores None, where a bare None would leave the output unchanged;
    `SET({"user": 1})` stores that dict, where a bare one might be taken for values by
    output name.
    """

    __slots__ = ("value",)
    __match_args__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"SET({self.value!r})"

    def __eq__(self, other: object) -> bool:
        return self.value == other.value if isinstance(other, SET) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it may hold anything


class StateUpdate:
    """A returned value that says itself where it goes. Every field is honoured.

    key, val        store `val` at the path `key` (written, or a tuple; without one, at the
                    only output). A `val` of None changes nothing: `SET(None)` stores None
    data            {path: value}; each value, None too, replaces what stands there, and
                    `theus.DELETE` removes it
    heavy           {key: value} below the root `heavy`
    signal          {topic: payload}, sent when the run has committed; as an output, a topic
                    is declared as `signal.topic`
    assert_version  the version that the caller had seen: the run fails with
                    `ConflictError` if a path that it writes has changed since, and with
                    `VersionError` if the history cannot tell

    All paths must be among the outputs of the process.
    """

    __slots__ = ("assert_version", "data", "heavy", "key", "signal", "val")
    __match_args__ = ("key", "val", "data", "heavy", "signal", "assert_version")

    def __init__(
        self,
        key: str | tuple[Any, ...] | None = None,
        val: Any = None,
        data: Mapping[str | tuple[Any, ...], Any] | None = None,
        heavy: Mapping[str, Any] | None = None,
        signal: Mapping[str, Any] | None = None,
        assert_version: int | None = None,
    ) -> None:
        for name, part in (("data", data), ("heavy", heavy), ("signal", signal)):
            if part is not None and not hasattr(part, "items"):
                raise TypeError(f"{name}= of a StateUpdate is a dict, not {part!r}")
        self.key = key
        self.val = val
        self.data = data
        self.heavy = heavy
        self.signal = signal
        self.assert_version = assert_version

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__match_args__}

    def __repr__(self) -> str:
        given = (f"{name}={value!r}" for name, value in self._fields().items() if value is not None)
        return f"StateUpdate({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StateUpdate):
            return NotImplemented
        return self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]  # its fields can be set


class PoolStats(NamedTuple):
    """What a pool has done, and what it has at this moment.

    kind       "processes", "interpreters" or "threads"
    size       workers that it keeps
    alive      of these, started and not gone
    queued     tasks that wait in the pool
    running    tasks that are with a worker, or on their way
    done       tasks that a worker has answered
    died       workers that went before they were told to, or were given up
    recalled   tasks taken back from a worker that did not come to them
    reclaimed  leases of shared memory that ended because who had them had died
    """

    kind: str
    size: int
    alive: int
    queued: int
    running: int
    done: int
    died: int
    recalled: int
    reclaimed: int = 0


class PoolChoice(NamedTuple):
    """Where an engine runs a function that is declared parallel, and why.

    function  its module and name
    kind      "processes", "interpreters" or "threads"
    why       a few words
    """

    function: str
    kind: PoolKind
    why: str


class EngineStats(NamedTuple):
    """What an engine has done since it was made.

    version            the version that stands
    commits            versions made by transactions, runs and compare_and_swap
    rebases            of these, replayed on a newer version that they had not touched
    conflicts          attempts that met another commit
    retries            attempts made again after a conflict
    noops              transactions that made no version: what they wrote was there already, or
                       they neither read nor wrote
    reads              transactions that read and changed nothing: read-only ones, and others
                       that wrote nothing
    conflicts_by_path  where the conflicts were, and how many
    ring_capacity      commit records that are kept
    ring_lost          commit records that were overwritten, or (drop_new) not kept
    history_versions   versions that `state.at` can still reach
    queue_depth        threads and tasks that wait at this moment: for their turn, or to commit
    queueing           whether runs that fight line up before their first attempt
    tickets            tickets given so far to runs that had failed too often
    tickets_held       of these, in force
    waits              how often somebody had to wait for a ticket
    leases_expired     tickets taken away from runs that did not end in time
    tries_max          most attempts that a run has needed (0: nothing was committed yet)
    tries              runs that needed more than one, by the number of attempts (16 stands
                       for 16 and more)
    pools              figures of the pools that run parallel processes, of those that were made
    choices            which kind of pool runs a function, where the engine was left to choose
    """

    version: int
    commits: int
    rebases: int
    conflicts: int
    retries: int
    noops: int
    reads: int
    conflicts_by_path: Mapping[tuple[Any, ...], int]
    ring_capacity: int
    ring_lost: int
    history_versions: int
    queue_depth: int
    queueing: bool
    tickets: int
    tickets_held: int
    waits: int
    leases_expired: int
    tries_max: int
    tries: Mapping[int, int]
    pools: tuple[PoolStats, ...]
    choices: tuple[PoolChoice, ...]
