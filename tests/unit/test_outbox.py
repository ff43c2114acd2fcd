"""Messages: sent once by what commits, never by what does not; kept until a handler returned."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from helpers import run_fresh, run_threads
from theus import OutboxMsg, OutboxReport, TheusEngine, Transaction, json_default, process
from theus._theus import Context
from theus.errors import (
    ClosedError,
    ConflictError,
    ContractViolationError,
    ProcessError,
    TransactionError,
    UnfreezableError,
)
from theus.scope import ROOT_ALIASES


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": {"a": 1, "rows": [1]}})


def drain(engine: TheusEngine) -> list[tuple[str, Any]]:
    """What waits, and is done with."""
    got: list[tuple[str, Any]] = []
    report = engine.process_outbox(lambda message: got.append((message.topic, message.payload)))
    assert report == OutboxReport(len(got), (), 0)
    return got


def send(engine: TheusEngine, *messages: tuple[str, Any]) -> None:
    def body(tx: Any) -> None:
        for topic, payload in messages:
            tx.outbox.add(topic, payload)

    engine.run(body)


def disturb(engine: TheusEngine, path: str = "domain.a") -> None:
    run_threads(1, lambda _: engine.run(lambda tx: tx.add(path, 1)))


# ---- sending ----------------------------------------------------------------------------


def test_a_process_sends_with_its_commit(engine: TheusEngine) -> None:
    @process(outputs=["domain.a"])
    def work(ctx: Any) -> int:
        ctx.outbox.add("mail", {"to": ["ann"]})
        ctx.outbox.add(OutboxMsg("log", 5))
        assert len(ctx.outbox) == 2
        return 7

    engine.run_process(work)
    got: list[OutboxMsg] = []
    assert engine.process_outbox(got.append) == OutboxReport(2, (), 0)
    assert [(m.topic, m.payload, m.version) for m in got] == [
        ("mail", {"to": ["ann"]}, 2),
        ("log", 5, 2),
    ]
    assert engine.process_outbox(got.append) == OutboxReport(0, (), 0) and len(got) == 2


def test_every_way_to_commit_sends(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        tx.outbox.add("with", 1)
    engine.run(lambda tx: tx.outbox.add("run", 2))

    @engine.transactional
    def decorated(tx: Any) -> None:
        tx.outbox.add("transactional", 3)

    decorated()
    engine.run_process(lambda ctx: ctx.outbox.add("no contract", 4))

    async def body(tx: Any) -> None:
        await asyncio.sleep(0)
        tx.outbox.add("coroutine", 5)

    asyncio.run(engine.run_async(body))
    assert drain(engine) == [
        ("with", 1), ("run", 2), ("transactional", 3), ("no contract", 4), ("coroutine", 5),
    ]  # fmt: skip


def test_a_message_alone_makes_a_version_and_a_record(engine: TheusEngine) -> None:
    send(engine, ("mail", [1]))
    assert engine.version == 2 and engine.state["domain"] == {"a": 1, "rows": [1]}
    record = engine.records()[0][0]
    assert record.outbox == (("mail", [1]),) and record.signals == () and record.notes == ()
    assert len(record) == 9, "by name alone: the record is the tuple that it was"
    again = pickle.loads(pickle.dumps(record))
    assert again == record and again.outbox == record.outbox


def test_the_payload_is_as_it_was_when_it_was_sent(engine: TheusEngine) -> None:
    def body(tx: Any) -> None:
        mine = {"rows": [1]}
        tx.outbox.add("mine", mine)
        tx.outbox.add("draft", tx.domain.rows)
        mine["rows"].append(2)
        tx.domain.rows.append(2)

    engine.run(body)
    assert drain(engine) == [("mine", {"rows": [1]}), ("draft", [1])]
    assert engine.state["domain"]["rows"] == [1, 2]


@pytest.mark.parametrize("payload", [object(), [object()], {"a": (i for i in ())}])
def test_what_can_change_is_refused_with_its_place(engine: TheusEngine, payload: Any) -> None:
    def body(tx: Any) -> None:
        with pytest.raises(UnfreezableError) as caught:
            tx.outbox.add("mail", payload)
        assert caught.value.path is not None and caught.value.path[:2] == ("outbox", "mail")

    engine.run(body)
    assert engine.version == 1 and drain(engine) == []


@pytest.mark.parametrize("arguments", [(5, 5), (None, 1), ("mail",), (b"mail", 1), ()])
def test_what_is_no_message(engine: TheusEngine, arguments: tuple[Any, ...]) -> None:
    def body(tx: Any) -> None:
        with pytest.raises(TypeError):
            tx.outbox.add(*arguments)

    engine.run(body)
    assert engine.version == 1


class Topic(str):
    """One of an enum, say; and one that cannot be hashed any more when it is delivered."""

    broken = False

    def __hash__(self) -> int:
        if Topic.broken:
            raise RuntimeError("no hash")
        return str.__hash__(self)


def test_topics_are_delivered_as_plain_texts(
    engine: TheusEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.edit() as ctx:
        ctx.outbox.add(Topic("mail"), 1)
        ctx.outbox.add(OutboxMsg(Topic("mail"), 2))
        ctx.signal.send(Topic("done"), 3)
    monkeypatch.setattr(Topic, "broken", True)
    failing = engine.process_outbox(lambda message: 1 / 0)
    assert (len(failing.failed), failing.pending) == (1, 2), "the second waits behind the first"
    assert [type(topic) for topic, _ in drain(engine)] == [str, str]
    assert [*map(type, engine.state.signals)] == [str] and engine.state.signals == {"done": 3}


def test_an_outbox_ends_with_its_transaction(engine: TheusEngine) -> None:
    kept: list[Any] = []
    engine.run_process(lambda ctx: kept.append(ctx.outbox))
    with pytest.raises(TransactionError):
        kept[0].add("mail", 1)
    with pytest.raises(TransactionError):
        len(kept[0])
    assert drain(engine) == []


def test_a_read_only_transaction_sends_nothing(engine: TheusEngine) -> None:
    with engine.transaction(read_only=True) as tx:
        with pytest.raises(TransactionError, match="read-only"):
            tx.outbox.add("mail", 1)
        with pytest.raises(TransactionError, match="read-only"):
            tx.update(signal={"go": 1})
    assert drain(engine) == [] and engine.version == 1


# ---- what does not commit sends nothing ----------------------------------------------------


def test_a_body_that_raises_sends_nothing(engine: TheusEngine) -> None:
    def body(tx: Any) -> None:
        tx.outbox.add("mail", 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        engine.run(body)
    with engine.transaction() as tx:
        tx.outbox.add("mail", 2)
        tx.rollback()
    assert drain(engine) == []


def test_a_retried_run_sends_once(engine: TheusEngine) -> None:
    """Weakness 3 of an earlier program: each attempt left its messages."""
    attempts: list[int] = []

    @process(inputs=["domain.a"], outputs=["domain.a"])
    def work(ctx: Any) -> int:
        attempts.append(ctx.domain.a)
        ctx.outbox.add("attempt", len(attempts))
        if len(attempts) < 3:
            disturb(engine)
        return int(ctx.domain.a)

    engine.run_process(work)
    assert attempts == [1, 2, 3] and drain(engine) == [("attempt", 3)]


def test_a_conflict_that_is_raised_sends_nothing(engine: TheusEngine) -> None:
    with pytest.raises(ConflictError), engine.transaction() as tx:
        tx.set("domain.a", tx.domain.a + 1)
        tx.outbox.add("mail", 1)
        disturb(engine)
    assert drain(engine) == []


def test_a_rebased_commit_sends_once(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        tx.add("domain.a", 1)
        tx.outbox.add("mail", 1)
        disturb(engine)
    assert engine.records()[0][-1].rebased and drain(engine) == [("mail", 1)]


def test_savepoints_take_their_messages_along(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        tx.outbox.add("mail", 1)
        with pytest.raises(ValueError), tx.savepoint():
            tx.outbox.add("mail", 2)
            assert len(tx.outbox) == 2
            raise ValueError
        assert len(tx.outbox) == 1
        with tx.savepoint():
            tx.outbox.add("mail", 3)
    assert drain(engine) == [("mail", 1), ("mail", 3)]


def test_a_joined_process_that_fails_takes_its_messages_along(engine: TheusEngine) -> None:
    def fails(ctx: Any) -> None:
        ctx.outbox.add("inner", 1)
        raise ValueError

    @process
    def outer(ctx: Any) -> None:
        ctx.outbox.add("outer", 1)
        with pytest.raises(ValueError):
            engine.run_process(fails)
        engine.run_process(process(lambda inner: inner.outbox.add("inner", 2)))

    engine.run_process(outer)
    assert drain(engine) == [("outer", 1), ("inner", 2)]


def test_a_write_that_was_refused_takes_the_messages_along(engine: TheusEngine) -> None:
    @process(outputs=["domain.rows"])
    def work(ctx: Any) -> None:
        ctx.outbox.add("mail", 1)
        with pytest.raises(ContractViolationError):
            ctx.domain.a = 5

    with pytest.raises(ContractViolationError):
        engine.run_process(work)
    assert drain(engine) == []


def test_a_result_that_fits_no_output_takes_the_messages_along(engine: TheusEngine) -> None:
    @process(outputs=["domain.a", "domain.rows"])
    def work(ctx: Any) -> Any:
        ctx.outbox.add("mail", 1)
        return 1, 2, 3

    with pytest.raises(ContractViolationError):
        engine.run_process(work)
    assert drain(engine) == []


def test_a_cancelled_task_sends_nothing(engine: TheusEngine) -> None:
    async def main() -> None:
        sent = asyncio.Event()

        @process
        async def work(ctx: Any) -> None:
            ctx.outbox.add("mail", 1)
            sent.set()
            await asyncio.sleep(60)

        task = asyncio.create_task(engine.execute(work))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert drain(engine) == [] and engine.version == 1


def test_a_cancelled_thread_sends_nothing(engine: TheusEngine) -> None:
    sent, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    @process
    def work(ctx: Any) -> None:
        try:
            ctx.outbox.add("mail", 1)
            sent.set()
            assert go_on.wait(60)
        finally:
            ended.set()

    async def main() -> None:
        task = asyncio.create_task(engine.execute(work))
        await asyncio.to_thread(sent.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main())
    assert ended.wait(60) and drain(engine) == []


# ---- who may send -----------------------------------------------------------------------------


@pytest.mark.parametrize("use", [lambda ctx: ctx.outbox.add("mail", 1), lambda ctx: ctx.outbox])
def test_pure_and_guide_processes_cannot(engine: TheusEngine, use: Callable[[Any], Any]) -> None:
    line: list[str] = []

    def body(ctx: Any) -> None:
        line.append("before")
        use(ctx)
        line.append("after")

    with pytest.raises(ContractViolationError, match="PURE process cannot send to outbox"):
        engine.run_process(process(semantic="pure")(body))
    with pytest.raises(ContractViolationError, match="GUIDE"):
        engine.run_process(process(semantic="guide")(body))
    assert line == ["before", "before"] and drain(engine) == []


@pytest.mark.parametrize("semantic", ["pure", "guide"])
def test_nor_if_they_swallow_the_refusal(engine: TheusEngine, semantic: str) -> None:
    @process(semantic=semantic)
    def body(ctx: Any) -> None:
        with pytest.raises(ContractViolationError):
            ctx.outbox.add("mail", 1)

    with pytest.raises(ContractViolationError):
        engine.run_process(body)


@pytest.mark.parametrize("semantic", ["pure", "guide"])
def test_nor_through_an_effect_process_that_joins_them(engine: TheusEngine, semantic: str) -> None:
    sends = process(lambda ctx: ctx.outbox.add("mail", 1))

    @process(semantic=semantic)
    def body(ctx: Any) -> None:
        engine.run_process(sends)

    with pytest.raises(ContractViolationError):
        engine.run_process(body)
    assert drain(engine) == [] and engine.version == 1


@pytest.mark.parametrize("name", [name for name in dir(Context) if not name.startswith("_")])
def test_roots_with_names_of_the_context_are_reached_by_item(name: str) -> None:
    root = ROOT_ALIASES.get(name, name)
    engine = TheusEngine({root: {"a": 1}, "domain": {}} if root != "domain" else {root: {"a": 1}})

    @process(inputs=[root], outputs=[root])
    def work(ctx: Any) -> int:
        ctx[name]["a"] += 1
        return int(ctx[name]["a"])

    assert engine.run_process(work) == 2 and engine.state[root]["a"] == 2


# ---- handing over -----------------------------------------------------------------------------


def test_nothing_is_dropped_without_a_handler(engine: TheusEngine) -> None:
    """Weakness 28 of an earlier program."""
    send(engine, ("mail", 1), ("mail", 2))
    assert engine.process_outbox() == OutboxReport(0, (), 2)
    assert drain(engine) == [("mail", 1), ("mail", 2)]


def test_an_attached_worker(engine: TheusEngine) -> None:
    got: list[Any] = []
    engine.attach_worker(lambda message: got.append(message.payload))
    send(engine, ("mail", 1))
    assert engine.process_outbox().delivered == 1 and got == [1]
    send(engine, ("mail", 2))
    assert drain(engine) == [("mail", 2)], "the one that is given comes first"


def test_a_message_stays_until_its_handler_returned(engine: TheusEngine) -> None:
    send(engine, ("mail", 1), ("mail", 2), ("log", 3))
    seen: list[tuple[str, Any, str | None]] = []

    def fails_once(message: OutboxMsg) -> None:
        seen.append((message.topic, message.payload, message.id))
        if len(seen) == 1:
            raise ValueError("not now")

    report = engine.process_outbox(fails_once)
    assert (report.delivered, report.pending) == (1, 2)
    [failure] = report.failed
    assert failure.message.payload == 1 and str(failure.error) == "not now"
    assert [(topic, payload) for topic, payload, _ in seen] == [("mail", 1), ("log", 3)]
    assert engine.process_outbox(fails_once) == OutboxReport(2, (), 0)
    assert [(topic, payload) for topic, payload, _ in seen[2:]] == [("mail", 1), ("mail", 2)]
    assert seen[0][2] == seen[2][2], "the same message has the same id each time"


def test_an_interrupt_loses_nothing(engine: TheusEngine) -> None:
    send(engine, ("mail", 1), ("mail", 2))

    def interrupted(message: OutboxMsg) -> None:
        if message.payload == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.process_outbox(interrupted)
    assert drain(engine) == [("mail", 2)]


def test_ids_are_unique_and_in_order(engine: TheusEngine) -> None:
    for i in range(12):
        send(engine, ("mail", i), ("log", i))
    ids: list[str] = []
    engine.process_outbox(lambda message: ids.append(str(message.id)))
    assert len(set(ids)) == 24 and ids == sorted(ids)
    other = TheusEngine({})
    send(other, ("mail", 1))
    other.process_outbox(lambda message: ids.append(str(message.id)))
    assert len(set(ids)) == 25, "also among engines"


def test_handlers_may_use_the_engine_and_send(engine: TheusEngine) -> None:
    """Weakness 17 of an earlier program: it crashed."""
    send(engine, ("mail", 1))

    def handler(message: OutboxMsg) -> None:
        engine.run(lambda tx: tx.outbox.add("again", message.payload + 1))
        engine.compare_and_swap(engine.version, {"domain": {"a": message.payload}})

    assert engine.process_outbox(handler) == OutboxReport(1, (), 0)
    assert drain(engine) == [("again", 2)]
    assert engine.state["domain"]["a"] == 1


def test_not_inside_a_handler_nor_inside_a_transaction(engine: TheusEngine) -> None:
    send(engine, ("mail", 1))
    report = engine.process_outbox(lambda message: engine.process_outbox(print))
    assert isinstance(report.failed[0].error, ProcessError) and report.pending == 1
    with engine.transaction(), pytest.raises(TransactionError, match="after the commit"):
        engine.process_outbox(print)
    assert drain(engine) == [("mail", 1)]


@pytest.mark.parametrize("handler", [5, "print", object()])
def test_what_is_no_handler(engine: TheusEngine, handler: Any) -> None:
    send(engine, ("mail", 1))
    for use in (engine.process_outbox, engine.attach_worker):
        with pytest.raises(TypeError):
            use(handler)
    assert drain(engine) == [("mail", 1)]


def test_coroutine_functions_are_no_handlers(engine: TheusEngine) -> None:
    """An earlier program made the coroutine, never ran it, and dropped the message."""

    async def handler(message: OutboxMsg) -> None:
        pass

    send(engine, ("mail", 1))
    with pytest.raises(TypeError, match="coroutine function"):
        engine.process_outbox(handler)
    report = engine.process_outbox(lambda message: handler(message))
    assert isinstance(report.failed[0].error, TypeError) and report.pending == 1
    assert drain(engine) == [("mail", 1)]


def test_after_close(engine: TheusEngine) -> None:
    send(engine, ("mail", 1))
    engine.close()
    assert drain(engine) == [("mail", 1)]
    with pytest.raises(ClosedError):
        send(engine, ("mail", 2))


def test_the_queue_outlives_ring_and_history() -> None:
    engine = TheusEngine({"domain": {"a": 0}}, ring_capacity=2, history=1)
    for i in range(50):
        send(engine, ("mail", {"number": i}))
    assert drain(engine) == [("mail", {"number": i}) for i in range(50)]


def test_one_handler_at_a_time_each_message_once(engine: TheusEngine) -> None:
    got: list[tuple[int, int]] = []
    inside = threading.Lock()

    def handler(message: OutboxMsg) -> None:
        assert inside.acquire(blocking=False), "two handlers at once"
        try:
            got.append(tuple(message.payload))  # type: ignore[arg-type]
        finally:
            inside.release()

    def work(k: int) -> None:
        for i in range(100):
            send(engine, ("mail", [k, i]))
            if i % 10 == 0:
                assert not engine.process_outbox(handler).failed
        engine.process_outbox(handler)

    run_threads(8, work)
    assert engine.process_outbox(handler) == OutboxReport(0, (), 0)
    order = [tuple(record.outbox[0][1]) for record in engine.records()[0]]
    assert got == order, "in the order of the commits"
    assert sorted(got) == [(k, i) for k in range(8) for i in range(100)]


FORK = """
import os
from theus import TheusEngine

engine = TheusEngine({"n": 0})
engine.run(lambda tx: tx.outbox.add("mail", "parent"))
engine.process_outbox()   # no handler: taken out of the core, but not delivered
engine.run(lambda tx: tx.outbox.add("mail", "parent too"))
got = []
child = os.fork()
if child == 0:
    engine.process_outbox(lambda message: got.append(message.payload))
    engine.run(lambda tx: tx.outbox.add("mail", "child"))
    engine.process_outbox(lambda message: got.append(message.payload))
    os._exit(0 if got == ["child"] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
engine.process_outbox(lambda message: got.append(message.payload))
assert got == ["parent", "parent too"], got
"""


def test_a_forked_child_hands_nothing_over() -> None:
    assert run_fresh(FORK) == ""


# ---- the message ------------------------------------------------------------------------------


def test_a_message_is_plain_read_only_data(engine: TheusEngine) -> None:
    message = OutboxMsg("mail", {"to": "ann"})
    assert (message.topic, message.payload, message.id, message.version) == (
        "mail", {"to": "ann"}, None, None,
    )  # fmt: skip
    assert message == OutboxMsg(topic="mail", payload={"to": "ann"}) != OutboxMsg("mail", 5)
    assert repr(message) == "OutboxMsg('mail', {'to': 'ann'})"
    with pytest.raises(AttributeError, match="topic"):
        message.topic = "post"
    with pytest.raises(AttributeError):
        del message.payload
    with pytest.raises(TypeError, match="not 5"):
        OutboxMsg(5)  # type: ignore[arg-type]
    got: list[OutboxMsg] = []
    engine.run(lambda tx: tx.outbox.add(message))
    engine.process_outbox(got.append)
    [delivered] = got
    assert delivered.payload == message.payload and delivered.id is not None
    assert pickle.loads(pickle.dumps(delivered)) == delivered == copy.copy(delivered)
    assert json.loads(json.dumps(delivered.payload, default=json_default)) == {"to": "ann"}


# ---- hostile --------------------------------------------------------------------------------


def transaction_behind(ctx: Any) -> Any:
    """What a process is not given, but can find."""
    return next(part for part in gc.get_referents(ctx) if isinstance(part, Transaction))


@pytest.mark.parametrize("semantic", ["pure", "guide"])
def test_nor_through_the_transaction_that_they_find(engine: TheusEngine, semantic: str) -> None:
    @process(semantic=semantic)
    def work(ctx: Any) -> None:
        for use in (
            lambda tx: tx.outbox.add("mail", 1),
            lambda tx: tx.update(signal={"go": 1}),
            lambda tx: type(tx.outbox)(),
        ):
            with pytest.raises((ContractViolationError, TypeError)):
                use(transaction_behind(ctx))

    with pytest.raises(ContractViolationError):
        engine.run_process(work)
    assert drain(engine) == [] and engine.version == 1


def test_nor_when_their_guard_is_gone(engine: TheusEngine) -> None:
    """While the engine stores what was returned no guard stands: the commit looks once more."""
    box: list[Any] = []

    class Key:
        """Compared while the value is stored."""

        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            if box:
                box[0].add("mail", 1)
            return other == "a"

    engine = TheusEngine({"domain": {"d": {Key(): 1}}})

    @process(outputs=["domain.d.a"], semantic="pure")
    def work(ctx: Any) -> int:
        box.append(transaction_behind(ctx).outbox)
        return 5

    with pytest.raises(ContractViolationError):
        engine.run_process(work)
    box.clear()
    assert drain(engine) == [] and engine.version == 1


def test_a_resolver_cannot_send_for_a_pure_process(engine: TheusEngine) -> None:
    """It runs at the commit, when the body is long over."""
    box: list[Any] = []

    def resolve(old: int, value: int) -> int:
        with pytest.raises(TransactionError):
            box[0].add("mail", 1)
        return old + value

    @process(outputs=["domain.a"], merge={"domain.a": resolve}, semantic="pure")
    def work(ctx: Any) -> int:
        box.append(transaction_behind(ctx).outbox)
        return 1

    engine.run_process(work)
    assert drain(engine) == [] and engine.state["domain"]["a"] == 2
