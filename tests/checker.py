"""A white-box checker of histories: was this run of transactions what it claims to be?

An engine that numbers its versions leaves nothing to search for: the serial order is known. So
checking is replay. Walk the versions in order with a plain dict as the model and ask

    of every transaction    its reads are the model at its snapshot (nobody sees a torn state)
    serializable writers    the same reads are the model just before their own version
    snapshot writers        the places they wrote held at that version what they held at snapshot
    versions                are first + 1, first + 2, ... without gap or repetition
    real time               a snapshot is at least as new as any commit known when it began
    aborted ones            have no version, so whatever they wrote is in nobody's reads

This takes time linear in the reads and writes recorded, and is exact: a history passes if and
only if running the transactions one after the other explains everything that was seen.

Paths in reads lead through dicts. A read is one of
    ("value", path, value or ABSENT)      ("keys", path, frozenset of keys)
    ("length", path, number)              ("all", path, deep copy)
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Path = tuple[Any, ...]
Read = tuple[str, Path, Any]


class _Absent(Enum):
    ABSENT = "nothing there"


ABSENT = _Absent.ABSENT  # an enum member: its deep copy is itself


@dataclass(slots=True)
class Record:
    """One transaction, as the one who ran it saw it."""

    snapshot: int
    reads: list[Read] = field(default_factory=list)
    writes: list[tuple[Path, Any]] = field(default_factory=list)  # value or ABSENT
    version: int | None = None  # what its commit made; None if it aborted or wrote nothing
    isolation: str = "serializable"
    floor: int = 0  # the newest version known to be committed when it began
    who: Any = None


@dataclass(frozen=True, slots=True)
class Violation:
    kind: str
    record: Record | None
    path: Path
    expected: Any
    found: Any

    def __str__(self) -> str:
        who = f" {self.record}" if self.record else ""
        return f"{self.kind} at {self.path}: {self.expected!r}, found {self.found!r}{who}"


def look(model: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(model, dict) or key not in model:
            return ABSENT
        model = model[key]
    return model


def answer(model: Any, question: str, path: Path) -> Any:
    """What a read of that kind would have shown on the model."""
    there = look(model, path)
    if there is ABSENT or question in ("value", "all"):
        return there
    return frozenset(there) if question == "keys" else len(there)


def write(model: Any, path: Path, value: Any) -> None:
    place = look(model, path[:-1])
    if value is ABSENT:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = deepcopy(value) if isinstance(value, (dict, list, set)) else value


def check(records: Iterable[Record], start: Any, first: int, end: Any = None) -> list[Violation]:
    """All violations in a history that began with state `start` at version `first`.

    `end`, where given, is the state that the engine holds after it.
    """
    records = list(records)
    found: list[Violation] = []
    model = deepcopy(start)
    writers = sorted((r for r in records if r.version is not None), key=lambda r: r.version or 0)
    for expected, record in enumerate(writers, first + 1):
        if record.version != expected:
            found.append(Violation("version number", record, (), expected, record.version))
            return found  # the order is not known, so nothing else can be judged
    newest = first + len(writers)
    by_snapshot: dict[int, list[Record]] = {}
    for record in records:
        if not record.floor <= record.snapshot <= newest:
            found.append(
                Violation("stale snapshot", record, (), f">= {record.floor}", record.snapshot)
            )
        by_snapshot.setdefault(record.snapshot, []).append(record)
        if record.version is not None and record.snapshot >= record.version:
            found.append(Violation("time travel", record, (), record.version, record.snapshot))

    def compare(kind: str, record: Record) -> None:
        for question, path, seen in record.reads:
            expected = answer(model, question, path)
            if seen is not expected and seen != expected:
                found.append(Violation(kind, record, path, expected, seen))

    held: dict[int, list[Any]] = {}  # by id of a snapshot writer: what its places held at first
    for version in range(first, newest + 1):
        if version > first:
            record = writers[version - first - 1]
            if record.isolation == "serializable":
                compare("stale read", record)
            else:
                for (path, _), before in zip(record.writes, held.pop(id(record), ()), strict=False):
                    if look(model, path) != before:
                        now = look(model, path)
                        found.append(Violation("lost update", record, path, before, now))
            for path, value in record.writes:
                write(model, path, value)
        for record in by_snapshot.get(version, ()):
            compare("torn read", record)
            if record.isolation == "snapshot" and record.version is not None:
                held[id(record)] = [deepcopy(look(model, path)) for path, _ in record.writes]
    if end is not None and end != model:
        found.append(Violation("final state", None, (), model, end))
    return found
