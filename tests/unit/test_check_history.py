"""The white-box checker: silent on good histories, and every kind of bad one is found and named.

By hand: one small history for each anomaly. And a toy engine that runs random interleaved
transactions, correctly or with one bug of a list, each of which a real engine could have.
"""

from __future__ import annotations

import pickle
import random
from copy import deepcopy
from typing import Any

import pytest

from theus import MISSING
from theus.testing import Anomaly, Attempt, History, Report, Step, check_history

START: dict[str, Any] = {"d": {"a": 0, "b": 0, "rows": {"r": 0}, "list": [1]}}
A, B, ROWS = ("d", "a"), ("d", "b"), ("d", "rows")


def attempt(snapshot: int, version: int | None, *steps: Step, **more: Any) -> Attempt:
    outcome = "aborted" if version is None else "committed"
    return Attempt(f"t{version or '?'}", snapshot, list(steps), version, outcome=outcome, **more)


def got(path: tuple[Any, ...], value: Any) -> Step:
    return Step("get", path, value)


def put(path: tuple[Any, ...], value: Any) -> Step:
    return Step("set", path, value)


def check(*attempts: Attempt, end: dict[str, Any] | None = None) -> Report:
    return check_history(History(START, 0, list(attempts), end))


def named(*attempts: Attempt, end: dict[str, Any] | None = None) -> list[Anomaly]:
    return [violation.anomaly for violation in check(*attempts, end=end).violations]


# ---- good ones ---------------------------------------------------------------------------------


def test_what_one_after_the_other_explains_passes() -> None:
    report = check(
        attempt(0, 1, got(A, 0), put(A, 1), got(A, 1)),
        attempt(0, 2, got(B, 0), put(B, 5)),  # rebased: nobody touched what it read
        attempt(1, None, got(A, 1), got(B, 0), put(A, 9), got(A, 9)),
        attempt(2, 3, Step("add", A, 4), Step("append", ("d", "list"), 2)),
        attempt(2, 4, Step("add", A, 4), Step("add", ("d", "new"), 3)),
        Attempt("reader", 4, [got(A, 9), got(("d", "new"), 3)], outcome="unchanged"),
        end={"d": {"a": 9, "b": 5, "rows": {"r": 0}, "list": [1, 2], "new": 3}},
    )
    assert report.ok and report.complete and report.commits == 4 and report.attempts == 6
    assert str(report) == "6 attempts, 4 commits, 15 steps: no violations"


def test_every_question_is_answered_by_the_model() -> None:
    assert not named(
        attempt(
            0,
            None,
            Step("kind", ROWS, "dict"),
            Step("kind", ("d", "list"), "list"),
            Step("kind", ("d", "x"), MISSING),
            Step("has", A, True),
            Step("has", ("d", "x", "y"), False),
            Step("keys", ROWS, frozenset({"r"})),
            Step("length", ("d", "list"), 1),
            Step("all", ROWS, {"r": 0}),
            got(("d", "list", 0), 1),
            got(("d", "list", 1), MISSING),
            got(("d", "a", "b"), MISSING),
        )
    )


def test_what_a_savepoint_took_back_was_not_done() -> None:
    steps = [put(A, 1), Step("save"), put(A, 2), Step("delete", B), got(A, 2), Step("undo")]
    steps += [got(A, 1), got(B, 0), Step("save"), put(B, 7), Step("keep")]
    end = deepcopy(START)
    end["d"].update(a=1, b=7)
    assert not named(attempt(0, 1, *steps), end=end)
    other = attempt(0, 1, put(B, 1))
    kept = attempt(0, 2, Step("save"), put(B, 2), Step("undo"), put(A, 1), isolation="snapshot")
    assert not named(other, kept)  # it did not write B after all


def test_values_are_not_shared_with_the_history() -> None:
    rows = {"r": {"n": 1}}
    first = attempt(0, 1, put(ROWS, rows))
    second = attempt(1, 2, put((*ROWS, "r", "n"), 2))
    assert not named(first, second, attempt(1, None, Step("all", ROWS, {"r": {"n": 1}})))
    assert rows == {"r": {"n": 1}} and START["d"]["rows"] == {"r": 0}


# ---- one history, one name ---------------------------------------------------------------------

BAD: dict[str, tuple[Anomaly, list[Attempt]]] = {
    "lost update": (
        Anomaly.LOST_UPDATE,
        [attempt(0, 1, got(A, 0), put(A, 1)), attempt(0, 2, got(A, 0), put(A, 1))],
    ),
    "lost update under snapshot": (
        Anomaly.LOST_UPDATE,
        [attempt(0, 1, put(A, 1)), attempt(0, 2, put(A, 2), isolation="snapshot")],
    ),
    "an ancestor was written": (
        Anomaly.LOST_UPDATE,
        [attempt(0, 1, put(ROWS, {})), attempt(0, 2, put((*ROWS, "r"), 2), isolation="snapshot")],
    ),
    "a descendant was written": (
        Anomaly.LOST_UPDATE,
        [attempt(0, 1, put((*ROWS, "r"), 2)), attempt(0, 2, put(ROWS, {}), isolation="snapshot")],
    ),
    "write skew": (
        Anomaly.WRITE_SKEW,
        [attempt(0, 1, got(A, 0), put(B, 1)), attempt(0, 2, got(B, 0), put(A, 1))],
    ),
    "stale read": (
        Anomaly.STALE_READ,
        [attempt(0, 1, put(A, 1)), attempt(0, 2, got(A, 0), put(B, 1))],
    ),
    "stale read of a subtree": (
        Anomaly.STALE_READ,
        [
            attempt(0, 1, put((*ROWS, "r"), 1)),
            attempt(0, 2, Step("all", ROWS, {"r": 0}), put(B, 1)),
        ],
    ),
    "phantom among the keys": (
        Anomaly.PHANTOM,
        [
            attempt(0, 1, put((*ROWS, "s"), 1)),
            attempt(0, 2, Step("keys", ROWS, frozenset({"r"})), put(B, 1)),
        ],
    ),
    "phantom where nothing was": (
        Anomaly.PHANTOM,
        [
            attempt(0, 1, put((*ROWS, "s"), 1)),
            attempt(0, 2, got((*ROWS, "s"), MISSING), put(B, 1)),
        ],
    ),
    "dirty read of what was aborted": (
        Anomaly.DIRTY_READ,
        [attempt(0, None, put(A, 7)), attempt(0, None, got(A, 7))],
    ),
    "dirty read of what was overwritten": (
        Anomaly.DIRTY_READ,
        [attempt(0, 1, put(A, 7), put(A, 8)), attempt(1, None, got(A, 7))],
    ),
    "read skew: something newer": (
        Anomaly.READ_SKEW,
        [attempt(0, 1, put(A, 1)), attempt(0, None, got(A, 1))],
    ),
    "read skew: something older": (
        Anomaly.READ_SKEW,
        [attempt(0, 1, put(A, 1)), attempt(1, None, got(A, 0))],
    ),
    "read skew of keys": (
        Anomaly.READ_SKEW,
        [
            attempt(0, 1, put((*ROWS, "s"), 1)),
            attempt(0, None, Step("keys", ROWS, frozenset("rs"))),
        ],
    ),
    "a value out of nowhere": (Anomaly.IMPOSSIBLE_READ, [attempt(0, None, got(A, 4711))]),
    "own write": (Anomaly.OWN_WRITE, [attempt(0, None, put(A, 1), got(A, 0))]),
    "own write below": (
        Anomaly.OWN_WRITE,
        [attempt(0, None, put((*ROWS, "r"), 1), Step("all", ROWS, {"r": 0}))],
    ),
    "commit without a version": (
        Anomaly.LOST_WRITE,
        [Attempt("t", 0, [put(A, 1)], outcome="unchanged")],
    ),
    "begun too late in time": (
        Anomaly.STALE_SNAPSHOT,
        [attempt(0, 1, put(A, 1)), Attempt("t", 0, [], outcome="unchanged", floor=1)],
    ),
    "a snapshot of its own version": (Anomaly.STALE_SNAPSHOT, [attempt(1, 1, put(A, 1))]),
    "one version, made twice": (
        Anomaly.VERSION_ORDER,
        [attempt(0, 1, put(A, 1)), attempt(0, 1, put(B, 1))],
    ),
    "a version that nobody made": (Anomaly.VERSION_ORDER, [attempt(0, 2, put(A, 1))]),
    "deleted twice": (
        Anomaly.PHANTOM,
        [attempt(0, 1, Step("delete", A)), attempt(0, 2, Step("delete", A))],
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_history_is_found_and_named(case: str) -> None:
    anomaly, attempts = BAD[case]
    report = check(*attempts)
    assert [violation.anomaly for violation in report.violations] == [anomaly], report
    assert str(anomaly) in str(report)


def test_a_final_state_that_nobody_wrote_is_found() -> None:
    end = deepcopy(START)
    writer = attempt(0, 1, put((*ROWS, "r"), 1))
    (violation,) = check(writer, end=end).violations
    assert violation.anomaly is Anomaly.FINAL_STATE
    assert (violation.path, violation.expected, violation.found) == ((*ROWS, "r"), 1, 0)
    end["d"]["rows"]["r"] = 1
    assert check(writer, end=end).ok


def test_snapshots_may_skew_and_may_miss_phantoms() -> None:
    for case in ("write skew", "stale read", "phantom among the keys"):
        snapshots = deepcopy(BAD[case][1])
        for each in snapshots:
            each.isolation = "snapshot"
        assert check(*snapshots).ok, case


def test_a_violation_says_what_where_when_and_who() -> None:
    (violation,) = check(*BAD["lost update"][1]).violations
    assert str(violation) == (
        "lost update: t2 (serializable, snapshot 0, made version 2) at d.a: expected 1 as of "
        "version 1, found 0; the other one is t1 (serializable, snapshot 0, made version 1)"
    )
    report = check(*BAD["lost update"][1])
    assert "2 attempts, 2 commits, 4 steps: 1 violation" in str(report)
    again = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report) and not again.ok


def test_a_report_ends_at_its_limit() -> None:
    bad = [attempt(0, None, got(A, 1 + n)) for n in range(30)]
    report = check_history(History(START, 0, bad), limit=7)
    assert len(report.violations) == 7 and not report.complete and "at least 7" in str(report)
    with pytest.raises(ValueError, match="limit"):
        check_history(History(START, 0, []), limit=0)


def test_an_attempt_that_has_not_ended_is_refused() -> None:
    with pytest.raises(ValueError, match="has not ended"):
        check(Attempt("t", 0))
    with pytest.raises(ValueError, match="'look'"):
        check(attempt(0, None, Step("look", A, 0)))


# ---- a toy engine with bugs --------------------------------------------------------------------

TOY: dict[str, Any] = {"d": {"a": 0, "b": 0, "c": 0, "deep": {"x": 0, "y": 0}}}
LEAVES = [("d", "a"), ("d", "b"), ("d", "c"), ("d", "deep", "x"), ("d", "deep", "y"), ("d", "new")]

BUGS = {
    "skips the read check": {Anomaly.STALE_READ, Anomaly.LOST_UPDATE, Anomaly.WRITE_SKEW},
    "skips the key set check": {Anomaly.PHANTOM},
    "skips the absence check": {Anomaly.PHANTOM},
    "publishes on a stale base": {Anomaly.READ_SKEW},
    "shows writes before the commit": {Anomaly.DIRTY_READ},
    "commits aborted writes": {Anomaly.DIRTY_READ},
    "reads the live state": {Anomaly.READ_SKEW},
    "loses a write": {Anomaly.READ_SKEW, Anomaly.FINAL_STATE},
    "forgets its own writes": {Anomaly.OWN_WRITE},
    "begins on an old version": {Anomaly.STALE_SNAPSHOT},
    "numbers two commits alike": {Anomaly.VERSION_ORDER},
    "skips a number": {Anomaly.VERSION_ORDER},
    "skips the write check": {Anomaly.LOST_UPDATE},
    "says committed and drops it": {Anomaly.LOST_WRITE},
}


def look(state: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        if not isinstance(state, dict) or key not in state:
            return MISSING
        state = state[key]
    return state


def write(state: Any, path: tuple[Any, ...], value: Any) -> None:
    place = look(state, path[:-1])
    if value is MISSING:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value


class Toy:
    """A small optimistic engine over deep copies, with room for one bug."""

    def __init__(self, bug: str = "") -> None:
        self.bug = bug
        self.versions = [deepcopy(TOY)]
        self.made: list[list[Step]] = [[]]
        self.offset = 0
        self.value = 0

    def run(self, seed: int, count: int, isolation: str) -> History:
        """`count` transactions, up to three at a time."""
        rng = random.Random(seed)
        history: list[Attempt] = []
        live: list[tuple[Attempt, Any]] = []
        while len(history) < count or live:
            if len(history) < count and (not live or (len(live) < 3 and rng.random() < 0.4)):
                now = len(self.versions) - 1
                old = self.bug == "begins on an old version" and rng.random() < 0.1
                start = max(now - 1, 0) if old else now
                made = Attempt(f"t{len(history)}", start, isolation=isolation, floor=now)
                history.append(made)
                live.append((made, deepcopy(self.versions[start])))
            else:
                entry = rng.choice(live)
                if rng.random() < 0.75:
                    self.step(rng, *entry)
                else:
                    live.remove(entry)
                    self.finish(rng, *entry)
        return History(TOY, 0, history, self.versions[-1])

    def step(self, rng: random.Random, made: Attempt, own: Any) -> None:
        path = rng.choice(LEAVES)
        act = rng.choice(["get", "get", "set", "set", "delete", "keys", "length", "all"])
        own_writes = [s for s in made.steps if s.kind in ("set", "delete")]
        source = own
        if self.bug == "reads the live state" and not own_writes:
            source = self.versions[-1]
        if self.bug == "forgets its own writes":
            source = self.versions[made.snapshot]
        if act == "set" or (act == "delete" and look(own, path) is not MISSING):
            self.value += 1
            value = MISSING if act == "delete" else self.value
            made.steps.append(Step(act, path, value))
            write(own, path, value)
            if self.bug == "shows writes before the commit":
                write(self.versions[-1], path, value)
        elif act == "get":
            made.steps.append(Step("get", path, look(source, path)))
        elif act == "keys":
            made.steps.append(Step("keys", ("d",), frozenset(source["d"])))
        elif act == "length":
            made.steps.append(Step("length", ("d",), len(source["d"])))
        elif act == "all":
            made.steps.append(Step("all", ("d", "deep"), deepcopy(source["d"]["deep"])))

    def finish(self, rng: random.Random, made: Attempt, own: Any) -> None:
        writes = [s for s in made.steps if s.kind in ("set", "delete")]
        aborted = rng.random() < 0.15 or not self.valid(made)
        made.outcome = "aborted" if aborted else "unchanged"
        if not writes or (aborted and self.bug != "commits aborted writes"):
            return
        if self.bug == "says committed and drops it" and rng.random() < 0.1:
            return
        stale = self.bug == "publishes on a stale base"
        base = deepcopy(self.versions[made.snapshot if stale else -1])
        if self.bug == "loses a write" and rng.random() < 0.3:
            writes = writes[:-1]
        for step in writes:
            write(base, step.path, step.value)
        if self.bug == "commits aborted writes" and aborted:
            self.versions[-1] = base
            return
        self.versions.append(base)
        self.made.append(writes)
        if self.bug == "numbers two commits alike" and rng.random() < 0.1:
            self.offset -= 1
        if self.bug == "skips a number" and rng.random() < 0.1:
            self.offset += 1
        made.version = len(self.versions) - 1 + self.offset
        made.outcome = "committed"

    def valid(self, made: Attempt) -> bool:
        """Is all it saw (under snapshot: what it wrote over) the same on the newest version?"""
        then, now = self.versions[made.snapshot], self.versions[-1]
        if made.isolation == "snapshot":
            mine = {s.path for s in made.steps if s.kind in ("set", "delete")}
            theirs = {s.path for some in self.made[made.snapshot + 1 :] for s in some}
            return self.bug == "skips the write check" or not mine & theirs
        skip = {
            "skips the read check": ("get", "all"),
            "skips the key set check": ("keys", "length"),
        }.get(self.bug, ())
        for step in made.steps:
            if step.kind in skip or (
                step.value is MISSING and self.bug.startswith("skips the abs")
            ):
                continue
            before, after = look(then, step.path), look(now, step.path)
            if step.kind in ("keys", "length"):
                before, after = set(before), set(after)
            if step.kind != "set" and before != after:
                return False
        return True


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_correct_engine_passes(isolation: str) -> None:
    commits = 0
    for seed in range(60):
        report = check_history(Toy().run(seed, 40, isolation))
        assert report.ok, report
        commits += report.commits
    assert commits > 500


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_every_seeded_bug_is_found(bug: str) -> None:
    isolation = "snapshot" if bug == "skips the write check" else "serializable"
    found: set[Anomaly] = set()
    for seed in range(60):
        report = check_history(Toy(bug).run(seed, 40, isolation))
        found |= {violation.anomaly for violation in report.violations}
    assert BUGS[bug] <= found
