"""Recorded runs of processes, and steps that are more than one write.

The contract stands, what was seen and stored is written down, and the check would notice a wrong
note.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from support import PATIENCE, race
from theus import (
    DELETE,
    SET,
    ArgumentError,
    ConflictError,
    ContractViolationError,
    OutboxMsg,
    PathError,
    ProcessError,
    SemanticType,
    StateUpdate,
    TheusEngine,
    TransactionError,
    process,
)
from theus.testing import Anomaly, Attempt, Recorder, RecordingContext, Step, check_history

START: dict[str, Any] = {
    "domain": {"n": 1, "total": 0, "accounts": {"ann": 5, "bob": 7}, "tags": ["x"]},
    "global": {"limit": 9},
}
N = ("domain", "n")
TOTAL = ("domain", "total")
ACCOUNTS = ("domain", "accounts")


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine(START)


@pytest.fixture
def recorder(engine: TheusEngine) -> Recorder:
    return Recorder(engine)


def good(recorder: Recorder) -> list[Attempt]:
    history = recorder.take()
    report = check_history(history)
    assert report.ok, report
    return history.attempts


def steps(recorder: Recorder) -> list[Step]:
    (attempt,) = good(recorder)
    return attempt.steps


# ---- processes ---------------------------------------------------------------------------------


@process(inputs=["global.limit"], outputs=["domain.accounts", "domain.tags"])
def pay(ctx: Any, who: str, amount: int = 1) -> None:
    assert isinstance(ctx, RecordingContext) and ctx.input["who"] == who
    if amount > ctx.global_.limit:
        raise ValueError(amount)
    ctx.domain.accounts[who] -= amount
    ctx.domain.tags.append(who)
    ctx.local["seen"] = True


def test_a_process_reads_and_writes(engine: TheusEngine, recorder: Recorder) -> None:
    assert recorder.run_process(pay, "bob", amount=2) is None
    assert engine.state.domain.accounts == {"ann": 5, "bob": 5}
    assert engine.state.domain.tags == ["x", "bob"]
    noted = steps(recorder)
    assert Step("get", ("global", "limit"), 9) in noted
    assert Step("get", (*ACCOUNTS, "bob"), 7) in noted
    assert Step("set", (*ACCOUNTS, "bob"), 5) in noted
    assert noted[-1] == Step("set", ("domain", "tags"), ["x", "bob"])
    with pytest.raises(ValueError, match="10"):
        recorder.run_process(pay, "bob", 10)
    assert good(recorder)[0].outcome == "aborted"
    with pytest.raises(ArgumentError, match="no parameter 'amuont'"):
        recorder.run_process(pay, "bob", amuont=10)
    assert good(recorder) == []


def test_what_is_returned_is_stored_and_noted(engine: TheusEngine, recorder: Recorder) -> None:
    @process(inputs=["domain.n"], outputs=["domain.total", "domain.extra"])
    def count(ctx: Any) -> Any:
        return ctx.domain.n + 1, {"a": [1]}

    @process(outputs=["domain.n"])
    def update(ctx: Any) -> StateUpdate:
        return StateUpdate("domain.n", 40)

    @process(outputs=["domain.total"], merge={"domain.total": "max"})
    def most(ctx: Any) -> int:
        return 30

    @process(inputs=["domain.n"], outputs=["domain.total"], semantic=SemanticType.PURE)
    def pure(ctx: Any) -> int:
        return int(ctx.domain.n)

    @process(outputs=["domain.extra"])
    def remove(ctx: Any) -> Any:
        return DELETE

    @process(outputs=["domain.deep.er"])
    def make(ctx: Any) -> Any:
        return SET(None)

    assert recorder.run_process(count) == (2, {"a": [1]})
    assert steps(recorder) == [
        Step("kind", ("domain",), "dict"),
        Step("get", N, 1),
        Step("set", TOTAL, 2),
        Step("set", ("domain", "extra"), {"a": [1]}),
    ]
    for each in (update, most, pure, remove, make):
        recorder.run_process(each)
    assert engine.state.domain == {
        **START["domain"], "n": 40, "total": 40, "deep": {"er": None}
    }  # fmt: skip
    assert [each.outcome for each in good(recorder)] == ["committed"] * 5


def test_a_guide_and_a_plain_function(engine: TheusEngine, recorder: Recorder) -> None:
    @process(semantic=SemanticType.GUIDE)
    def guide(ctx: Any) -> Any:
        return (ctx.domain.accounts, sorted(ctx.domain.accounts), "domain" in ctx)

    assert recorder.run_process(guide) == ({"ann": 5, "bob": 7}, ["ann", "bob"], True)
    assert recorder.run_process(lambda ctx: ctx["domain"]["tags"]) == ["x"]

    def change(ctx: Any) -> None:
        ctx.transaction.set(N, 3)
        ctx.add(TOTAL, 2)
        ctx.append("domain.tags", "y")
        del ctx.domain["accounts"]
        ctx.fresh = {"made": 1}

    recorder.run_process(change)
    assert engine.state.fresh == {"made": 1} and engine.state.domain.tags == ["x", "y"]
    assert len(good(recorder)) == 3


def test_the_contract_stands(engine: TheusEngine, recorder: Recorder) -> None:
    @process(inputs=["domain.n"], outputs=["domain.total"])
    def reads(ctx: Any) -> Any:
        return ctx.domain.accounts["ann"]

    @process(inputs=["domain.n"], outputs=["domain.total"])
    def writes(ctx: Any) -> None:
        ctx.domain.n = 5

    @process(inputs=["domain.n"], semantic=SemanticType.PURE)
    def pure(ctx: Any) -> None:
        ctx.transaction.set(N, 3)

    @process(inputs=["domain.n"], outputs=["domain.total"])
    def around(ctx: Any) -> None:
        recorder.run_process(pay, "ann")

    for each in (reads, writes, pure, around):
        for run in (recorder.run_process, engine.run_process):
            if each is around and run == engine.run_process:
                continue
            with pytest.raises(ContractViolationError):
                run(each)
    assert engine.version == 1
    assert all(each.outcome == "aborted" for each in good(recorder))


def test_a_process_joins_a_recorded_body(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> None:
        recorder.run_process(pay, "ann")
        with pytest.raises(ValueError, match="99"):
            recorder.run_process(pay, "ann", 99)
        tx.domain.n = tx.domain.accounts["ann"]

    recorder.run(body)
    assert engine.state.domain.n == 4
    kinds = [step.kind for step in steps(recorder)]
    assert kinds.count("save") == 2 and kinds.count("keep") == kinds.count("undo") == 1


def test_coroutines_and_options(engine: TheusEngine, recorder: Recorder) -> None:
    @process(inputs=["domain.n"], outputs=["domain.n"])
    async def slow(ctx: Any, by: int) -> None:
        there = ctx.domain.n
        await asyncio.sleep(0)
        ctx.domain.n = there + by

    async def main() -> None:
        await asyncio.gather(*(recorder.execute(slow, 1) for _ in range(20)))
        await recorder.execute(pay, "bob")

    asyncio.run(main())
    assert engine.state.domain.n == 21
    attempts = good(recorder)
    assert len(attempts) > 21 and sum(each.outcome == "committed" for each in attempts) == 21

    @process(inputs=["domain.n"], outputs=["domain.total"])
    def overtaken(ctx: Any) -> None:
        ctx.domain.total = ctx.domain.n
        recorder.options(detached=True).run_process(bump)

    with pytest.raises(ConflictError):
        recorder.options(retries=1).run_process(overtaken)
    assert [each.outcome for each in good(recorder)].count("aborted") == 2


@process(inputs=["domain.n"], outputs=["domain.n"])
def bump(ctx: Any) -> None:
    ctx.domain.n += 1


def test_a_cancelled_task_leaves_no_record_open(engine: TheusEngine, recorder: Recorder) -> None:
    inside, go = threading.Event(), threading.Event()

    @process(outputs=["domain.n"])
    def waits(ctx: Any) -> None:
        ctx.domain.n = 5
        inside.set()
        assert go.wait(PATIENCE)

    async def main() -> None:
        task = asyncio.create_task(recorder.execute(waits))
        await asyncio.to_thread(inside.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TransactionError, match="1 recorded"):
            recorder.take()
        go.set()

    asyncio.run(main())  # which waits for its helper threads
    assert engine.version == 1
    assert [each.outcome for each in good(recorder)] == ["aborted"]


def test_threads_that_run_processes(engine: TheusEngine, recorder: Recorder) -> None:
    def work() -> None:
        for _ in range(30):
            recorder.run_process(bump)

    race(*[work] * 4)
    assert engine.state.domain.n == 121
    good(recorder)


def test_what_a_process_may_not_see_cannot_be_checked(recorder: Recorder) -> None:
    for hidden in (
        TheusEngine({"domain": {"n": 1, "internal_key": 2}}),
        TheusEngine({"domain": {"n": 1}}, zones={"domain.n": 0}),
        TheusEngine({"domain": {"n": 1}}, zones={"domain": 0}),
    ):
        with pytest.raises(ProcessError, match=r"domain\.\w+ may not be read by processes"):
            Recorder(hidden).run_process(lambda ctx: None)
    allowed = TheusEngine({"domain": {"internal_key": 1}}, zones={"domain.internal_key": 15})
    watched = Recorder(allowed)
    assert watched.run_process(lambda ctx: ctx.domain.internal_key) == 1
    good(watched)


@pytest.mark.parametrize("name", ["state", "version"])
def test_what_is_not_recorded_of_a_context(recorder: Recorder, name: str) -> None:
    with pytest.raises(AttributeError, match=f"ctx.{name} is not recorded"):
        recorder.run_process(lambda ctx: getattr(ctx, name))
    with pytest.raises(AttributeError, match=f"ctx.{name} is not recorded"):
        recorder.run_process(lambda ctx: setattr(ctx, name, 1))
    with pytest.raises(AttributeError, match="no root 'nothing'"):
        recorder.run_process(lambda ctx: ctx.nothing)


# ---- steps that are more than one write --------------------------------------------------------


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_update(isolation: str) -> None:
    engine = TheusEngine(START)
    recorder = Recorder(engine)
    data = {
        "domain": {"accounts": {"ann": DELETE, "eve": 1}, "n": {"was": {}}, "tags": {"a": DELETE}},
        "new": {"a": {"b": DELETE, "c": [1]}, "d": {}},
        ("global", "more", "deep"): 3,
    }
    recorder.run(lambda tx: tx.update(data=data, signal={"done": 1}), isolation=isolation)
    recorder.run(lambda tx: tx.update({"domain": {"accounts": {}}}), isolation=isolation)
    assert engine.state.to_dict() == {
        "domain": {
            "n": {"was": {}}, "total": 0, "accounts": {"bob": 7, "eve": 1}, "tags": {}
        },
        "global": {"limit": 9, "more": {"deep": 3}},
        "new": {"a": {"c": [1]}, "d": {}},
    }  # fmt: skip
    first, second = good(recorder)
    assert Step("update", (*ACCOUNTS, "ann"), DELETE) in first.steps
    assert second.outcome == "unchanged"


def test_an_update_may_hold_what_the_body_has_read(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> None:
        tx.update({"copy": tx.domain.accounts, "global": {"tags": (tx.domain.tags, 1)}})
        tx.domain.accounts["ann"] = 0

    recorder.run(body)
    assert engine.state.copy == {"ann": 5, "bob": 7}
    assert engine.state["global"]["tags"] == (["x"], 1)
    good(recorder)


def test_an_update_that_fails_did_nothing(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any) -> None:
        for bad in ({"domain": {"n": 5, "file": object()}}, {"domain.n": 1}, {3: 1}):
            with pytest.raises(Exception, match=r"object|tuple|named by"):
                tx.update(bad)
        with pytest.raises(TypeError, match="arrays cannot be recorded"):
            tx.update(heavy={"a": [1]})
        assert tx.get(N) == 1

    recorder.run(body)
    assert [step.kind for step in steps(recorder)] == ["get"]


def larger(old: Any, value: Any) -> Any:
    return max(old, value)


def joined(old: Any, value: Any) -> Any:
    return old | value


def test_merge(engine: TheusEngine, recorder: Recorder) -> None:
    def body(tx: Any, value: int) -> None:
        tx.merge(N, value, larger)
        tx.merge("domain.most", value, larger)
        tx.merge(ACCOUNTS, {f"b{value}": value}, joined)

    race(*(lambda value=value: recorder.run(body, value) for value in range(6)))  # type: ignore[misc]
    assert engine.state.domain.n == 5 and engine.state.domain.most == 5
    assert len(engine.state.domain.accounts) == 8
    good(recorder)

    def read_after(tx: Any) -> Any:
        tx.merge(N, 8, larger)
        with pytest.raises(PathError):
            tx.merge("domain.zzz.n", 1, larger)
        return tx.get(N)

    assert recorder.run(read_after) == 8
    good(recorder)


def test_restore_and_what_is_no_step(engine: TheusEngine, recorder: Recorder) -> None:
    old, called = engine.state, []
    recorder.run(lambda tx: tx.update({"domain": {"n": 7}, "new": {"a": 1}}))

    def body(tx: Any) -> None:
        tx.restore(old)
        tx.outbox.add(OutboxMsg("restored", 1))
        tx.on_commit(lambda: called.append(engine.version))
        assert tx.written and ("delete", ("new",)) in tx.operations()

    recorder.run(body)
    assert engine.state.to_dict() == START and called == [3]
    assert engine.process_outbox(lambda message: None)
    recorder.run(lambda tx: tx.outbox.add(OutboxMsg("only", 2)))  # a version of its own
    assert engine.version == 4
    assert [each.outcome for each in good(recorder)] == ["committed"] * 3


# ---- the check looks at them -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (Step("update", N, 4), Step("update", N, 5)),
        (Step("update", (*ACCOUNTS, "ann"), DELETE), Step("update", (*ACCOUNTS, "eve"), DELETE)),
        (Step("merge", N, (4, larger)), Step("merge", N, (5, larger))),
    ],
)
def test_a_wrong_note_would_be_noticed(recorder: Recorder, right: Step, wrong: Step) -> None:
    def body(tx: Any) -> None:
        if right.kind == "merge":
            tx.merge(right.path, *right.value)
        else:
            (*way, last), data = right.path, right.value
            for key in (last, *reversed(way)):
                data = {key: data}
            tx.update(data)

    recorder.run(body)
    history = recorder.take()
    (attempt,) = history.attempts
    assert check_history(history).ok and attempt.steps[-1] == right
    attempt.steps[-1] = wrong
    (violation,) = check_history(history).violations
    assert violation.anomaly is Anomaly.FINAL_STATE
