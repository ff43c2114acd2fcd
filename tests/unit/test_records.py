"""The ring of commit records: what each says, in which order, and how many were lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from support import elsewhere, race
from theus import TheusEngine


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"n": 0, "rows": {}}})


def commit(engine: Any, count: int = 1) -> None:
    for _ in range(count):
        with engine.transaction() as tx:
            tx.domain["n"] += 1


def new(engine: Any) -> Any:
    """The records made by transactions: the first data may or may not have one."""
    return [record for record in engine.records()[0] if record.version > 1]


def test_a_record_says_what_the_commit_did(engine: Any) -> None:
    before = time.time() - 1
    with engine.transaction(process="cleaner") as tx:
        assert tx.domain["n"] == 0
        tx.domain["rows"]["a"] = 1
        tx.domain["rows"]["b"] = 2
        del tx.domain["n"]
    (record,) = new(engine)
    assert record.version == 2 and record.process == "cleaner"
    assert (record.sets, record.deletes, record.rebased) == (2, 1, False)
    assert record.reads >= 1
    assert set(record.paths) == {("domain", "rows", "a"), ("domain", "rows", "b"), ("domain", "n")}
    assert record.thread == threading.get_ident() or record.thread == threading.get_native_id()
    assert before <= record.time <= time.time() + 1


def test_a_record_without_a_process_says_none(engine: Any) -> None:
    commit(engine)
    assert new(engine)[0].process is None


def test_threads_are_told_apart(engine: Any) -> None:
    commit(engine)
    elsewhere(commit, engine)
    one, two = new(engine)
    assert one.thread != two.thread


def test_a_rebased_commit_says_so(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain["rows"]["a"] = 1
        elsewhere(commit, engine)
    assert [record.rebased for record in new(engine)] == [False, True]


def test_at_most_eight_paths_are_kept_and_all_are_counted(engine: Any) -> None:
    with engine.transaction() as tx:
        for n in range(20):
            tx.domain["rows"][n] = n
    (record,) = new(engine)
    assert record.sets == 20 and len(record.paths) == 8
    assert all(path[:2] == ("domain", "rows") for path in record.paths)


def test_oldest_first_and_since(engine: Any) -> None:
    """`since` counts commits from 0, whatever version the engine began with."""
    commit(engine, 10)
    assert [record.version for record in new(engine)] == list(range(2, 12))
    for since in range(11):
        records, lost = engine.records(since)
        assert lost == 0
        assert [record.version for record in records] == list(range(2 + since, 12))
    assert engine.records(10**9) == ([], 0)


def test_nothing_else_makes_a_record(engine: Any) -> None:
    commit(engine)
    with engine.transaction() as tx:
        tx.domain["n"]
    with pytest.raises(ValueError):
        with engine.transaction() as tx:
            tx.domain["n"] = 5
            raise ValueError
    engine.compare_and_swap(2)
    assert len(new(engine)) == 1
    assert engine.stats().noops >= 1


@pytest.mark.parametrize("commits", [3, 8, 9, 100])
def test_the_ring_overwrites_the_oldest_and_counts_exactly(commits: int) -> None:
    engine = TheusEngine(ring_capacity=8)
    for n in range(commits):
        engine.compare_and_swap(n, data={"n": n})
    records, lost = engine.records()
    stats = engine.stats()
    assert stats.ring_capacity == 8
    kept = range(max(0, commits - 8) + 1, commits + 1)
    assert [record.version for record in records] == list(kept)
    assert lost == stats.ring_lost == max(0, commits - 8)
    assert len(records) + lost == commits


def test_a_reader_that_polls_gets_everything_once_or_is_told() -> None:
    """records(since) while four threads write: delivered plus lost is exactly what was written."""
    each = 300
    engine = TheusEngine({"domain": {f"t{n}": 0 for n in range(4)}}, ring_capacity=16)
    first = engine.version
    delivered: list[int] = []

    def writer(number: int) -> None:
        def body(tx: Any) -> None:
            tx.domain[f"t{number}"] += 1

        for _ in range(each):
            engine.run(body)

    def reader() -> int:
        since = lost_so_far = 0
        while since < 4 * each:
            records, lost = engine.records(since)
            for number, record in enumerate(records, since + lost + 1):
                assert record.version == first + number, "each record is where its number says"
            delivered.extend(record.version for record in records)
            since += lost + len(records)
            lost_so_far += lost
        return lost_so_far

    lost = race(reader, *(lambda n=n: writer(n) for n in range(4)))[0]  # type: ignore[misc]
    assert len(delivered) == len(set(delivered)) and delivered == sorted(delivered)
    assert len(delivered) + lost == 4 * each == engine.stats().commits
    assert engine.stats().ring_lost == 4 * each - 16


def test_a_record_outlives_the_ring_and_the_engine() -> None:
    engine = TheusEngine(ring_capacity=1)
    engine.compare_and_swap(0, data={"key": {"a": 1}})
    (record,) = engine.records()[0]
    for n in range(5):
        engine.compare_and_swap(n + 1, data={"n": n})
    engine.close()
    del engine
    assert record.version == 1 and record.paths == (("key",),)


def test_two_engines_have_two_rings() -> None:
    one, two = TheusEngine(), TheusEngine()
    one.compare_and_swap(0, data={"x": 1})
    assert len(one.records()[0]) == 1 and two.records() == ([], 0)
