"""The black-box checker: hand-made cycles get their names, and simulated levels theirs.

Each simulator below runs random transactions under one isolation level, seeded. What is known of
the level is known of its runs: some of them show the anomalies that it allows, and none shows
another.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from theus.testing import Append, AppendTransaction, Read, check_appends

T = AppendTransaction


def names(*run: T, isolation: str = "strict-serializable") -> list[str]:
    return sorted(check_appends(run, isolation).anomalies)


def together(*steps: list[Append | Read], committed: bool = True) -> list[T]:
    """Transactions that all overlap in time."""
    return [T(list(each), 0, 100, committed, f"t{n}") for n, each in enumerate(steps)]


# ---- one history, one name ---------------------------------------------------------------------


def test_an_empty_run_and_a_serial_one_pass() -> None:
    assert check_appends([]).ok
    serial = [
        T([Append("x", 1)], 0, 1),
        T([Read("x", (1,)), Append("x", 2), Read("x", (1, 2))], 2, 3),
        T([Read("x", (1, 2)), Read("y", ())], 4, 5),
    ]
    report = check_appends(serial)
    assert report.ok and report.transactions == 3 and report.edges > 0
    assert "no anomalies" in str(report)


def test_dirty_writes_are_g0() -> None:
    both: list[list[Append | Read]] = [
        [Append("x", 1), Append("y", 1)],
        [Append("x", 2), Append("y", 2)],
        [Read("x", (1, 2)), Read("y", (2, 1))],
    ]
    assert names(*together(*both)) == ["G0"]


def test_a_read_of_what_was_aborted_is_g1a() -> None:
    run = [T([Append("x", 1)], 0, 9, False, "gone"), T([Read("x", (1,))], 0, 9)]
    assert names(*run) == ["G1a"]
    run[0].committed = None  # nobody knows: it may have been committed
    assert names(*run) == []


def test_a_read_of_an_intermediate_state_is_g1b() -> None:
    run = together([Append("x", 1), Append("x", 2)], [Read("x", (1,))])
    assert "G1b" in names(*run)


def test_circular_information_is_g1c() -> None:
    run = together([Append("x", 1), Read("y", (1,))], [Append("y", 1), Read("x", (1,))])
    assert names(*run) == ["G1c"]
    (cycle,) = check_appends(run).anomalies["G1c"]
    assert not isinstance(cycle, str)
    assert set(cycle.edges) == {"wr"} and len(cycle.transactions) == 2
    assert "-wr->" in str(cycle) and "t0" in str(cycle)


def test_a_lost_update_is_g_single() -> None:
    run = together(
        [Read("x", (1,)), Append("x", 2)],
        [Read("x", (1,)), Append("x", 3)],
        [Append("x", 1)],
        [Read("x", (1, 2, 3))],
    )
    for isolation in ("strict-serializable", "serializable", "snapshot"):
        assert names(*run, isolation=isolation) == ["G-single"]


def test_read_skew_is_g_single() -> None:
    run = together([Append("x", 1), Append("y", 1)], [Read("x", (1,)), Read("y", ())])
    assert names(*run, isolation="snapshot") == ["G-single"]


def test_write_skew_is_g2_and_a_snapshot_allows_it() -> None:
    run = together([Read("x", ()), Append("y", 1)], [Read("y", ()), Append("x", 1)])
    assert names(*run) == ["G2"]
    assert names(*run, isolation="serializable") == ["G2"]
    assert names(*run, isolation="snapshot") == []


def test_an_old_snapshot_is_a_matter_of_time() -> None:
    run = [T([Append("x", 1)], 0, 1), T([Read("x", ())], 2, 3)]
    assert names(*run) == ["G-single-realtime"]
    assert names(*run, isolation="serializable") == []
    assert names(*run, isolation="snapshot") == ["G-single-realtime"]


def test_a_lost_append_is_found_by_a_last_read() -> None:
    run = [T([Append("x", 1)], 0, 1), T([Append("x", 2)], 2, 3), T([Read("x", (1,))], 4, 5)]
    assert names(*run) == ["G-single-realtime"]
    run[1].committed = False
    assert names(*run) == []


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("internal", [[Append("x", 1), Read("x", ())]]),
        ("internal", [[Read("x", ()), Read("x", (1,))], [Append("x", 1)]]),
        ("duplicate", [[Append("x", 1)], [Append("x", 1)]]),
        ("duplicate", [[Append("x", 1)], [Read("x", (1, 1))]]),
        ("invented", [[Read("x", (7,))]]),
        ("order", [[Append("x", 1)], [Append("x", 2)], [Read("x", (2,))], [Read("x", (1, 2))]]),
    ],
)
def test_what_is_no_cycle_has_a_name_too(name: str, steps: list[list[Append | Read]]) -> None:
    assert name in names(*together(*steps))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'eventual'"):
        check_appends([], "eventual")


# ---- simulators --------------------------------------------------------------------------------

CHARACTERISTIC = {
    "strict-serializable": set[str](),
    "serializable": {"G-single-realtime"},
    "snapshot": {"G2"},
    "read committed": {"G-single"},
    "read uncommitted": {"G1a", "G1b", "G1c"},
    "nothing": {"G0"},
}
ALLOWED = {
    "strict-serializable": set[str](),
    "serializable": {"G-single-realtime", "G2-realtime", "G1c-realtime"},
    "snapshot": {"G2", "G2-realtime"},
    "read committed": {"G-single", "G2", "G-single-realtime", "G2-realtime", "internal"},
}


class Simulator:
    """Transactions over lists, interleaved by a seeded generator, under one level."""

    def __init__(self, level: str, seed: int) -> None:
        self.level = level
        self.rng = random.Random(seed)
        self.now = 0
        self.element = 0
        self.versions: list[dict[str, list[int]]] = [{"x": [], "y": [], "z": []}]
        self.dirty: dict[str, list[int]] = {"x": [], "y": [], "z": []}  # of levels without versions
        self.run: list[T] = []

    def play(self, count: int) -> list[T]:
        live: list[tuple[T, dict[str, Any]]] = []
        begun = 0
        while begun < count or live:
            self.now += 1
            if begun < count and (not live or (len(live) < 4 and self.rng.random() < 0.4)):
                live.append(self.begin(begun))
                begun += 1
            else:
                entry = self.rng.choice(live)
                if self.rng.random() < 0.7:
                    self.step(*entry)
                else:
                    live.remove(entry)
                    self.end(*entry)
        self.now += 1
        last = self.begin(begun)
        for key in "xyz":
            last[0].steps.append(Read(key, tuple(self.look(last[1], key))))
        last[0].ended = self.now + 1
        self.run.append(last[0])
        return self.run

    def begin(self, number: int) -> tuple[T, dict[str, Any]]:
        base = len(self.versions) - 1
        if self.level == "serializable" and self.rng.random() < 0.2:
            base = max(base - 2, 0)
        return T([], self.now, self.now, who=f"t{number}"), {"base": base, "own": {}, "read": set()}

    def look(self, own: dict[str, Any], key: str) -> list[int]:
        if self.level in ("read uncommitted", "nothing"):
            return self.dirty[key]
        base = -1 if self.level == "read committed" else own["base"]
        return self.versions[base][key] + own["own"].get(key, [])

    def step(self, transaction: T, own: dict[str, Any]) -> None:
        key = self.rng.choice("xyz")
        if self.rng.random() < 0.5:
            if self.level == "nothing":
                return  # its appends alone are to be seen, by the last transaction
            own["read"].add(key)
            transaction.steps.append(Read(key, tuple(self.look(own, key))))
            return
        if self.level == "serializable" and own["base"] < len(self.versions) - 1:
            return  # an old snapshot is read, and no more
        self.element += 1
        own["own"].setdefault(key, []).append(self.element)
        transaction.steps.append(Append(key, self.element))
        if self.level in ("read uncommitted", "nothing"):
            self.dirty[key].append(self.element)

    def end(self, transaction: T, own: dict[str, Any]) -> None:
        transaction.ended = self.now
        self.run.append(transaction)
        changed = {
            key
            for made in range(own["base"] + 1, len(self.versions))
            for key in "xyz"
            if self.versions[made][key] != self.versions[own["base"]][key]
        }
        touched = set(own["own"])
        if self.level in ("strict-serializable", "serializable"):
            touched |= own["read"] if own["own"] else set()
        versioned = self.level not in ("read committed", "read uncommitted", "nothing")
        if self.rng.random() < 0.1 and self.level != "nothing" or versioned and changed & touched:
            transaction.committed = False
            return
        if own["own"] and self.level not in ("read uncommitted", "nothing"):
            newest = self.versions[-1]
            self.versions.append({key: newest[key] + own["own"].get(key, []) for key in newest})


@pytest.mark.parametrize("level", sorted(CHARACTERISTIC))
def test_a_simulated_level_shows_what_it_allows(level: str) -> None:
    found: set[str] = set()
    for seed in range(150):
        found |= set(check_appends(Simulator(level, seed).play(14)).anomalies)
    assert CHARACTERISTIC[level] <= found
    if level in ALLOWED:
        assert found <= ALLOWED[level]


@pytest.mark.parametrize("level", ["strict-serializable", "serializable", "snapshot"])
def test_a_level_passes_as_what_it_is(level: str) -> None:
    for seed in range(150):
        report = check_appends(Simulator(level, seed).play(14), level)
        assert report.ok, f"seed {seed}: {report}"


def test_three_thousand_transactions_are_no_trouble() -> None:
    report = check_appends(Simulator("strict-serializable", 1).play(3_000))
    assert report.ok and report.transactions == 3_001
