"""The checker of histories: silent on good ones, and no seeded bug escapes it.

A toy engine runs random interleaved transactions, correctly or with one bug of a list. Each bug
is one that a real engine could have; with it, some history out of a few must be refused.
"""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

import pytest

from checker import ABSENT, Record, check, look, write

START = {"d": {"a": 0, "b": 0, "c": 0, "deep": {"x": 0, "y": 0}}}
LEAVES = [("d", "a"), ("d", "b"), ("d", "c"), ("d", "deep", "x"), ("d", "deep", "y"), ("d", "new")]

BUGS = {
    "skips the read check": "stale read",
    "skips the key set check": "stale read",
    "skips the absence check": "stale read",
    "publishes on a stale base": "torn read",
    "shows writes before the commit": "torn read",
    "commits aborted writes": "torn read",
    "reads the live state": "torn read",
    "loses a write": "torn read",
    "begins on an old version": "stale snapshot",
    "numbers two commits alike": "version number",
    "skips a number": "version number",
    "skips the write check": "lost update",
}


class Toy:
    """A small optimistic engine over deep copies, with room for one bug."""

    def __init__(self, bug: str = "") -> None:
        self.bug = bug
        self.versions = [deepcopy(START)]
        self.made: list[list[Any]] = [[]]
        self.offset = 0

    def run(self, seed: int, count: int, isolation: str) -> list[Record]:
        """`count` transactions, up to three at a time."""
        rng = random.Random(seed)
        self.value = 0
        history: list[Record] = []
        live: list[tuple[Record, Any]] = []
        while len(history) < count or live:
            if len(history) < count and (not live or len(live) < 3 and rng.random() < 0.4):
                now = len(self.versions) - 1
                old = self.bug == "begins on an old version" and rng.random() < 0.1
                start = max(now - 1, 0) if old else now
                record = Record(start, isolation=isolation, floor=now, who=len(history))
                history.append(record)
                live.append((record, deepcopy(self.versions[start])))
            else:
                entry = rng.choice(live)
                if rng.random() < 0.75:
                    self.step(rng, *entry)
                else:
                    live.remove(entry)
                    self.finish(rng, *entry)
        return history

    def step(self, rng: random.Random, record: Record, own: Any) -> None:
        path = rng.choice(LEAVES)
        written = {path for path, _ in record.writes}
        act = rng.choice(["read", "read", "write", "write", "delete", "keys", "length", "all"])
        source = self.versions[-1] if self.bug == "reads the live state" else own
        if act in ("write", "delete"):
            self.value += 1
            value = ABSENT if act == "delete" else self.value
            record.writes.append((path, value))
            write(own, path, value)
            if self.bug == "shows writes before the commit":
                write(self.versions[-1], path, value)
        elif act == "read" and path not in written:
            record.reads.append(("value", path, look(source, path)))
        elif act == "keys" and not written:
            record.reads.append(("keys", ("d",), frozenset(source["d"])))
        elif act == "length" and not written:
            record.reads.append(("length", ("d",), len(source["d"])))
        elif act == "all" and not written:
            record.reads.append(("all", ("d", "deep"), deepcopy(source["d"]["deep"])))

    def finish(self, rng: random.Random, record: Record, own: Any) -> None:
        aborted = rng.random() < 0.15 or not self.valid(record)
        if not record.writes or aborted and self.bug != "commits aborted writes":
            return
        stale = self.bug == "publishes on a stale base"
        base = deepcopy(self.versions[record.snapshot if stale else -1])
        writes = record.writes
        if self.bug == "loses a write" and rng.random() < 0.3:
            writes = writes[:-1]
        for path, value in writes:
            write(base, path, value)
        if self.bug == "commits aborted writes" and aborted:
            self.versions[-1] = base
            return
        self.versions.append(base)
        self.made.append(record.writes)
        if self.bug == "numbers two commits alike" and rng.random() < 0.1:
            self.offset -= 1
        if self.bug == "skips a number" and rng.random() < 0.1:
            self.offset += 1
        record.version = len(self.versions) - 1 + self.offset

    def valid(self, record: Record) -> bool:
        if record.isolation == "snapshot":
            mine = {path for path, _ in record.writes}
            theirs = {path for made in self.made[record.snapshot + 1 :] for path, _ in made}
            return self.bug == "skips the write check" or not mine & theirs
        skip = {
            "skips the read check": ("value", "all"),
            "skips the key set check": ("keys", "length"),
        }.get(self.bug, ())
        now = self.versions[-1]
        for question, path, seen in record.reads:
            if question in skip or seen is ABSENT and self.bug == "skips the absence check":
                continue
            there = look(now, path)
            new = {"keys": frozenset, "length": len}.get(question, lambda x: x)(there)  # type: ignore[operator]
            if new != seen:
                return False
        return True


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_correct_engine_passes(isolation: str) -> None:
    for seed in range(60):
        toy = Toy()
        history = toy.run(seed, 40, isolation)
        assert check(history, START, 0, toy.versions[-1]) == []


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_every_seeded_bug_is_found(bug: str) -> None:
    isolation = "snapshot" if bug == "skips the write check" else "serializable"
    kinds: set[str] = set()
    for seed in range(60):
        toy = Toy(bug)
        history = toy.run(seed, 40, isolation)
        kinds |= {violation.kind for violation in check(history, START, 0, toy.versions[-1])}
    assert BUGS[bug] in kinds


def test_snapshot_histories_may_skew_and_serializable_ones_may_not() -> None:
    """The same write skew is let through under one name and refused under the other."""
    for isolation, kinds in (("snapshot", []), ("serializable", ["stale read"])):
        skew = [
            Record(0, [("value", ("d", "a"), 0)], [(("d", "b"), 1)], 1, isolation),
            Record(0, [("value", ("d", "b"), 0)], [(("d", "a"), 1)], 2, isolation),
        ]
        assert [violation.kind for violation in check(skew, START, 0)] == kinds


def test_an_ancestor_written_in_between_is_a_lost_update() -> None:
    deep = ("d", "deep")
    for one, two in ((deep, (*deep, "x")), ((*deep, "x"), deep)):
        history = [
            Record(0, [], [(one, {} if one is deep else 1)], 1, "snapshot"),
            Record(0, [], [(two, {} if two is deep else 1)], 2, "snapshot"),
        ]
        assert [violation.kind for violation in check(history, START, 0)] == ["lost update"]


def test_a_final_state_that_nobody_wrote_is_found() -> None:
    history = [Record(0, [], [(("d", "a"), 1)], 1)]
    end = deepcopy(START)
    assert [violation.kind for violation in check(history, START, 0, end)] == ["final state"]
    end["d"]["a"] = 1
    assert check(history, START, 0, end) == []


def test_a_violation_says_what_where_and_who() -> None:
    record = Record(0, [("value", ("d", "a"), 7)], who="thread 3")
    (violation,) = check([record], START, 0)
    text = str(violation)
    assert "torn read" in text and "('d', 'a')" in text and "thread 3" in text and "7" in text
