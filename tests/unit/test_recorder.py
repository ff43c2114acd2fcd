"""The recorder: what a body sees is what the engine says, and every step of it is written down."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from helpers import run_fresh, run_threads
from theus import DELETE, MISSING, ConflictError, PathError, TheusEngine, TransactionError
from theus.errors import ContextError, VersionError
from theus.testing import Anomaly, Attempt, Recorder, RecordingMap, Step, check_history

START: dict[str, Any] = {
    "domain": {"n": 1, "accounts": {"ann": 5, "bob": 7}, "tags": ["x", "y"], "seen": {1, 2}}
}
N = ("domain", "n")
ACCOUNTS = ("domain", "accounts")


class Stop(Exception):
    """Raised by bodies that abort on purpose."""


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine(START)


@pytest.fixture
def recorder(engine: TheusEngine) -> Recorder:
    return Recorder(engine)


def only(recorder: Recorder) -> Attempt:
    """The one attempt that was recorded. The history of it is good."""
    history = recorder.take()
    report = check_history(history)
    assert report.ok, report
    (attempt,) = history.attempts
    return attempt


# ---- steps -------------------------------------------------------------------------------------


def test_reads_and_writes_by_path(recorder: Recorder) -> None:
    def body(tx: Any, by: int) -> int:
        assert tx.get("domain.n") == 1 and tx.get("domain.zzz", 3) == 3
        assert tx.has(N) and not tx.has("domain.zzz")
        assert tx.keys(ACCOUNTS) == ["ann", "bob"] and tx.length(ACCOUNTS) == 2
        assert tx.get("domain.tags") == ["x", "y"] and tx.get("domain.seen") == {1, 2}
        tx.set("domain.n", by)
        tx.delete((*ACCOUNTS, "ann"))
        tx.add((*ACCOUNTS, "bob"), 1)
        tx.append("domain.tags", "z")
        result: int = tx.get(N)
        return result

    assert recorder.run(body, 4) == 4
    attempt = only(recorder)
    assert attempt.steps == [
        Step("get", N, 1),
        Step("get", ("domain", "zzz"), MISSING),
        Step("has", N, True),
        Step("has", ("domain", "zzz"), False),
        Step("keys", ACCOUNTS, frozenset({"ann", "bob"})),
        Step("length", ACCOUNTS, 2),
        Step("kind", ("domain", "tags"), "list"),
        Step("all", ("domain", "tags"), ["x", "y"]),
        Step("kind", ("domain", "seen"), "set"),
        Step("all", ("domain", "seen"), {1, 2}),
        Step("set", N, 4),
        Step("delete", (*ACCOUNTS, "ann")),
        Step("add", (*ACCOUNTS, "bob"), 1),
        Step("append", ("domain", "tags"), "z"),
        Step("get", N, 4),
    ]
    assert (attempt.snapshot, attempt.version, attempt.outcome) == (1, 2, "committed")
    assert attempt.who == "MainThread" and attempt.isolation == "serializable"


def test_nested_dicts_work_as_dicts(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> RecordingMap:
        accounts = tx.domain.accounts
        assert isinstance(accounts, RecordingMap) and accounts == {"ann": 5, "bob": 7}
        accounts["ann"] -= 2
        tx.domain.n += 1
        accounts.setdefault("cat", 0)
        assert accounts.pop("bob") == 7 and "bob" not in accounts
        assert sorted(accounts.items()) == [("ann", 3), ("cat", 0)] and len(accounts) == 2
        with pytest.raises(KeyError):
            accounts["bob"]
        with pytest.raises(KeyError):
            del accounts["bob"]
        with pytest.raises(AttributeError, match="zzz"):
            _ = tx.domain.zzz
        tx["domain"]["copy"] = accounts  # by value
        accounts["ann"] = 0
        assert accounts.to_dict() == {"ann": 0, "cat": 0} and "accounts" in repr(accounts)
        return accounts

    assert recorder.run(body) == {"ann": 0, "cat": 0}  # of its own, not a map that is dead
    assert engine.state.domain.to_dict() == {
        **START["domain"],
        "n": 2,
        "accounts": {"ann": 0, "cat": 0},
        "copy": {"ann": 3, "cat": 0},
    }
    assert only(recorder).version == 2


def test_what_is_noted_cannot_change_later(recorder: Recorder) -> None:
    given = {"list": [1]}

    def body(tx: Any) -> None:
        tx.all("domain.tags").append("mine alone")
        tx.set("domain.given", given)
        given["list"].append(2)

    recorder.run(body)
    steps = only(recorder).steps
    assert steps[0].value == ["x", "y"] and steps[1].value == {"list": [1]}


def change_lists(tx: Any) -> None:
    rows, tags, seen = tx.domain.rows, tx.domain.tags, tx.domain.seen
    rows[0]["v"] = 5
    rows[0].tags.append("deep")
    rows.append({"v": 2})
    rows[-1].v += 1
    rows.insert(0, {"v": 0})
    rows.sort(key=lambda row: -row["v"])
    tags += ["z"]
    tags[0] = "first"
    del tags[1]
    tx.domain.seen |= {7, 8}
    seen = tx.domain.seen
    seen.discard(1)
    seen.add(9)
    tx.domain.moved = rows.pop()


def test_lists_and_sets_are_changed_as_the_engine_does() -> None:
    start = {"domain": {"rows": [{"v": 1, "tags": []}], "tags": ["x", "y"], "seen": {1, 2}}}
    plain, recorded = TheusEngine(start), TheusEngine(start)
    recorder = Recorder(recorded)
    plain.run(change_lists)
    recorder.run(change_lists)
    assert recorded.state == plain.state and plain.state.domain.rows[0]["v"] == 5
    only(recorder)


def test_an_old_copy_of_a_list_undoes_nothing(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> Any:
        tags, nested = tx.domain.tags, tx.domain.accounts
        tx.append("domain.tags", "z")
        with pytest.raises(TransactionError, match=r"domain\.tags has changed"):
            tags.append("lost")
        assert tags == ["x", "y"] and nested["ann"] == 5
        tx.domain.tags.append("last")
        return tx.domain.tags

    result = recorder.run(body)
    assert result == ["x", "y", "z", "last"] and type(result) is list
    assert engine.state.domain.tags == result
    only(recorder)


@pytest.mark.parametrize("name", ["state", "commit", "rollback", "reserve"])
def test_what_is_not_recorded_says_so(recorder: Recorder, name: str) -> None:
    with pytest.raises(AttributeError, match=f"tx.{name} is not recorded"):
        recorder.run(lambda tx: getattr(tx, name))


def test_a_step_that_raised_did_not_happen(recorder: Recorder) -> None:
    with recorder.transaction() as tx:
        for bad in (lambda: tx.delete("domain.zzz"), lambda: tx.set("domain.n.m", 1)):
            with pytest.raises(PathError):
                bad()
        with pytest.raises(KeyError):
            tx.keys("domain.zzz")
        tx.set("root", 1)
    assert only(recorder).steps == [
        Step("get", ("domain", "zzz"), MISSING),
        Step("set", ("root",), 1),
    ]


def test_savepoints_and_joined_runs(engine: TheusEngine, recorder: Recorder) -> None:
    def inner(tx: Any, fail: bool) -> None:
        tx.domain.n += 10
        if fail:
            raise Stop

    def body(tx: Any) -> None:
        with tx.savepoint():
            tx.set(N, 2)
        for run in (lambda: recorder.run(inner, True), lambda: guarded(tx)):
            with pytest.raises(Stop):
                run()
        recorder.run(inner, False)
        assert tx.get(N) == 12

    def guarded(tx: Any) -> None:
        with tx.savepoint():
            inner(tx, True)

    recorder.run(body)
    assert engine.state["domain"]["n"] == 12
    kinds = [step.kind for step in only(recorder).steps]
    assert kinds.count("save") == 4 and kinds.count("undo") == 2 and kinds.count("keep") == 2


def test_what_cannot_be_recorded_is_refused(engine: TheusEngine, recorder: Recorder) -> None:
    with engine.transaction():
        for start in (lambda: recorder.run(print), recorder.transaction):
            with pytest.raises(TransactionError):
                start()
        recorder.run(lambda tx: tx.set(N, 2), detached=True)
    with recorder.transaction(), pytest.raises(TransactionError, match="1 recorded"):
        recorder.take()
    assert len(recorder.take().attempts) == 2


# ---- attempts ----------------------------------------------------------------------------------


def test_every_attempt_of_a_run_is_kept(engine: TheusEngine, recorder: Recorder) -> None:
    failures = 2

    def body(tx: Any) -> None:
        nonlocal failures
        tx.domain.n += 1
        if failures:
            failures -= 1
            recorder.run(lambda other: other.add(N, 100), detached=True)

    recorder.run(body)
    assert engine.state["domain"]["n"] == 202
    history = recorder.take()
    assert check_history(history).ok
    told = [(a.snapshot, a.version, a.outcome, a.floor) for a in history.attempts]
    assert told == [
        (1, 2, "committed", 1),
        (1, None, "aborted", 1),
        (2, 3, "committed", 2),
        (2, None, "aborted", 2),
        (3, 4, "committed", 3),
    ]


def test_how_attempts_end(engine: TheusEngine, recorder: Recorder) -> None:
    with pytest.raises(Stop), recorder.transaction() as tx:
        tx.set(N, 5)
        raise Stop
    with recorder.transaction(read_only=True, isolation="snapshot") as tx:
        assert tx.get(N) == 1 and tx.version == 1 and tx.isolation == "snapshot"
    recorder.run(lambda tx: tx.set(N, 1))  # what is there already
    with pytest.raises(ConflictError), recorder.transaction() as tx:
        tx.domain.n += 1
        engine.run(lambda other: other.set(N, 8), detached=True)
    history = recorder.take()
    told = [(a.outcome, a.version, a.read_only, a.isolation) for a in history.attempts]
    assert told == [
        ("aborted", None, False, "serializable"),
        ("unchanged", None, True, "snapshot"),
        ("unchanged", None, False, "serializable"),
        ("aborted", None, False, "serializable"),
    ]
    # Not all that happened was recorded, and the check notices.
    assert not check_history(history).ok


def test_one_history_begins_where_the_last_one_ended(recorder: Recorder) -> None:
    for n in range(3):
        recorder.run(lambda tx, n=n: tx.set(N, 10 + n))
        history = recorder.take()
        assert (history.first, len(history.attempts)) == (1 + n, 1)
        assert check_history(pickle.loads(pickle.dumps(history))).ok
    assert recorder.take().attempts == []


def test_tasks(engine: TheusEngine, recorder: Recorder) -> None:
    async def count(tx: Any, by: int) -> int:
        before: int = tx.get(N)
        await asyncio.sleep(0)
        tx.set(N, before + by)
        return before

    async def scope() -> None:
        async with recorder.transaction() as tx:
            tx.add(N, 1)
        with pytest.raises(Stop):
            async with recorder.transaction() as tx:
                raise Stop

    async def main() -> None:
        await asyncio.gather(*(recorder.run_async(count, 1) for _ in range(20)), scope())

    asyncio.run(main())
    assert engine.state["domain"]["n"] == 22
    history = recorder.take()
    assert check_history(history).ok and len(history.attempts) >= 22
    assert "Task-" in history.attempts[0].who


def test_a_wrong_note_would_be_noticed(recorder: Recorder) -> None:
    """What is recorded is what is judged: nothing here passes by being empty."""
    for n in range(5):
        recorder.run(lambda tx, n=n: (tx.get(N), tx.keys(ACCOUNTS), tx.set(N, n)))
    good = pickle.dumps(recorder.take())
    for number in range(5):
        for step in range(2):
            history = pickle.loads(good)
            steps = history.attempts[number].steps
            steps[step] = steps[step]._replace(value="something else")
            assert not check_history(history).ok


def test_the_engine_does_not_load_it() -> None:
    code = "import sys, theus; print([m for m in sys.modules if m.startswith('theus.testing')])"
    assert run_fresh(code) == "[]\n"
    assert run_fresh("import sys, theus.testing; print('pytest' in sys.modules)") == "False\n"


# ---- compare-and-swap ----------------------------------------------------------------------------


def test_compare_and_swap(engine: TheusEngine, recorder: Recorder) -> None:
    assert recorder.compare_and_swap(1, {"domain": {"n": 2, "accounts": {"ann": DELETE}}}) == 2
    recorder.run(lambda tx: tx.set((*ACCOUNTS, "bob"), 8))
    assert recorder.compare_and_swap(2, {N: 3}) == 4  # others changed, but not what it writes
    assert recorder.compare_and_swap(4, {N: 3}) == 4  # as it is
    with pytest.raises(ConflictError):
        recorder.compare_and_swap(3, {N: 9})
    history = recorder.take()
    assert check_history(history).ok
    assert [(it.snapshot, it.version, it.outcome, it.isolation) for it in history.attempts] == [
        (1, 2, "committed", "snapshot"),
        (2, 3, "committed", "serializable"),
        (2, 4, "committed", "snapshot"),
        (4, None, "unchanged", "snapshot"),
        (3, None, "aborted", "snapshot"),
    ]
    assert history.attempts[0].steps == [
        Step("update", N, 2),
        Step("update", (*ACCOUNTS, "ann"), DELETE),
    ]


def test_a_swap_that_should_have_lost(recorder: Recorder) -> None:
    """What it wrote was another value before its commit, or with strict_cas another version."""
    recorder.run(lambda tx: tx.set(N, 2))
    recorder.compare_and_swap(2, {N: 3})
    recorder.compare_and_swap(3, {"domain": {"other": 1}})
    history = recorder.take()
    history.attempts[1].snapshot = history.attempts[1].floor = 1
    history.attempts[2].snapshot = history.attempts[2].floor = 1
    (lost,) = check_history(history).violations
    assert (lost.anomaly, lost.path, lost.by) == (Anomaly.LOST_UPDATE, N, history.attempts[0])
    history.attempts[2].isolation = "strict"
    kinds = [violation.anomaly for violation in check_history(history).violations]
    assert kinds == [Anomaly.STALE_SNAPSHOT, Anomaly.LOST_UPDATE]


def test_a_swap_at_a_version_from_before_the_history(
    engine: TheusEngine, recorder: Recorder
) -> None:
    for value in (2, 1):
        recorder.run(lambda tx, value=value: tx.set(N, value))
    recorder.run(lambda tx: tx.set(N, 2))
    assert recorder.take().first == 1
    assert recorder.compare_and_swap(2, {N: 2}) == 2
    assert recorder.compare_and_swap(2, {N: 5}) == 5
    with pytest.raises(ConflictError):
        recorder.compare_and_swap(1, {N: 6})
    history = recorder.take()
    assert check_history(history).ok, check_history(history)
    assert [attempt.outcome for attempt in history.attempts] == [
        *("unchanged", "committed", "aborted")
    ]


def test_a_swap_that_is_refused_did_not_happen(engine: TheusEngine, recorder: Recorder) -> None:
    with pytest.raises(VersionError):
        recorder.compare_and_swap(7, {N: 2})
    with pytest.raises(TypeError, match=r"arrays cannot be recorded.*'big'"):
        recorder.compare_and_swap(1, heavy={"big": [1]})
    with pytest.raises((ContextError, TypeError)):
        recorder.compare_and_swap(1, 5)  # type: ignore[arg-type]
    assert recorder.take().attempts == []


@pytest.mark.parametrize("strict", [False, True])
def test_threads_that_swap(strict: bool) -> None:
    engine = TheusEngine(START, strict_cas=strict)
    recorder = Recorder(engine)

    def work(number: int) -> None:
        for _ in range(20):
            while True:
                state = engine.state
                try:
                    recorder.compare_and_swap(
                        state.version, {N: state.domain.n + 1, ("domain", f"of {number}"): number}
                    )
                    break
                except ConflictError:
                    continue

    run_threads(4, work)
    history = recorder.take()
    report = check_history(history)
    assert report.ok, report
    assert engine.state.domain.n == 81 and report.commits == 80
