"""Signals ride on the commit: sent once, declared, received by each who listens, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from helpers import run_threads
from theus import TheusEngine, process
from theus.errors import ClosedError, ContractViolationError, TransactionError
from theus.signals import Signal, Signals


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": {"a": 1}})


def taken(signals: Signals) -> list[tuple[Any, Any, int]]:
    got: list[tuple[Any, Any, int]] = []
    while (signal := signals.poll()) is not None:
        got.append(tuple(signal))
    return got


def test_every_way_to_send(engine: TheusEngine) -> None:
    @process(outputs=["signal.done", "signal.step"])
    def by_ctx(ctx: Any) -> None:
        ctx.signal.send("step", 1)
        ctx.signal.send("step", 2)
        ctx.signal.send("done", {"n": [3]})

    @process(outputs=["signal.step"])
    def by_return(ctx: Any) -> int:
        return 4

    with engine.signals() as signals:
        engine.run_process(by_ctx)
        engine.run_process(by_return)
        engine.run(lambda tx: tx.update(signal={"done": 5}))
        engine.compare_and_swap(engine.version, signal={"done": 6})
        assert taken(signals) == [
            ("step", 1, 2), ("step", 2, 2), ("done", {"n": [3]}, 2), ("step", 4, 3),
            ("done", 5, 4), ("done", 6, 5),
        ]  # fmt: skip
        assert signals.lost == 0
    assert engine.state.signals == {"step": 4, "done": 6}
    assert engine.records()[0][0].signals == (("step", 1), ("step", 2), ("done", {"n": [3]}))


def test_each_receiver_gets_all_of_its_topic_from_now_on(engine: TheusEngine) -> None:
    engine.compare_and_swap(1, signal={"go": 0})
    with engine.signals("go") as go, engine.signals() as every, engine.signals("go") as again:
        engine.compare_and_swap(2, signal={"go": 1})
        engine.compare_and_swap(3, {"domain": {"a": 5}})
        engine.compare_and_swap(4, signal=[{"stop": 2}, {"go": 3}])
        assert taken(go) == taken(again) == [("go", 1, 3), ("go", 3, 5)]
        assert taken(every) == [("go", 1, 3), ("stop", 2, 5), ("go", 3, 5)]


def test_what_does_not_commit_sends_nothing(engine: TheusEngine) -> None:
    attempts: list[int] = []

    @process(inputs=["domain.a"], outputs=["domain.a", "signal.*"])
    def work(ctx: Any) -> Any:
        attempts.append(1)
        ctx.signal.send("attempt", len(attempts))
        if len(attempts) == 1:
            run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.a", 1)))
        return ctx.domain.a

    def fails(ctx: Any) -> None:
        ctx.signal.send("failed", 1)
        raise ValueError

    with engine.signals() as signals:
        engine.run_process(work)
        with pytest.raises(ValueError):
            engine.run_process(process(outputs=["signal"])(fails))
        with engine.transaction() as tx:
            with pytest.raises(ValueError), tx.savepoint():
                tx.update(signal={"undone": 1})
                raise ValueError
            tx.update(signal={"kept": 1})
        assert [(topic, payload) for topic, payload, _ in taken(signals)] == [
            ("attempt", 2), ("kept", 1),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "send",
    [
        lambda ctx: ctx.signal.send("go", 1),
        lambda ctx: ctx.transaction.update(signal={"go": 1}),
    ],
)
def test_a_process_sends_what_it_declares(engine: TheusEngine, send: Callable[[Any], Any]) -> None:
    for outputs in ((), ("domain",), ("signal.stop",)):
        with pytest.raises(ContractViolationError, match=r"Illegal Write.*signal\.go") as caught:
            engine.run_process(process(outputs=outputs)(send))
        assert caught.value.path == ("signal", "go")
    assert engine.version == 1
    for outputs in (("signal.go",), ("signal",), ("signal.*",)):
        engine.run_process(process(outputs=outputs)(send))
    engine.run_process(send)
    assert engine.version == 5 and engine.state.signals == {"go": 1}


def test_a_refusal_that_is_swallowed_fails_the_run(engine: TheusEngine) -> None:
    @process(outputs=["domain.a"])
    def work(ctx: Any) -> int:
        with pytest.raises(ContractViolationError):
            ctx.signal.send("go", 1)
        return 5

    with pytest.raises(ContractViolationError):
        engine.run_process(work)
    assert engine.version == 1


def test_the_contract_around_bounds_the_signals_too(engine: TheusEngine) -> None:
    sends = process(outputs=["signal.go"])(lambda ctx: ctx.signal.send("go", 1))
    for outer in (process(outputs=["domain"]), process(semantic="pure"), process(semantic="guide")):
        with pytest.raises(ContractViolationError):
            engine.run_process(outer(lambda ctx: engine.run_process(sends)))
    assert engine.version == 1
    engine.run_process(process(outputs=["signal"])(lambda ctx: engine.run_process(sends)))
    assert engine.state.signals == {"go": 1}


@pytest.mark.parametrize(
    ("semantic", "words"), [("pure", "PURE process cannot"), ("guide", "GUIDE")]
)
def test_pure_and_guide_send_none(engine: TheusEngine, semantic: str, words: str) -> None:
    with pytest.raises(ContractViolationError, match=words):
        engine.run_process(process(semantic=semantic)(lambda ctx: ctx.signal.send("go", 1)))
    assert engine.version == 1


def test_bad_signals(engine: TheusEngine) -> None:
    kept: list[Any] = []

    def body(ctx: Any) -> None:
        kept.append(ctx.signal)
        with pytest.raises(TypeError, match="a topic is a text, not 5"):
            ctx.signal.send(5, 1)
        with pytest.raises(TypeError):
            ctx.signal.send("go")

    engine.run_process(body)
    with pytest.raises(TransactionError):
        kept[0].send("go", 1)


class Prickly(str):
    """A topic that nobody can compare with."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise ValueError("hands off")


def test_a_hostile_topic_disturbs_nobody(engine: TheusEngine) -> None:
    """It stood among the latest payloads, and whoever sent "go" after it failed."""
    with engine.signals("go") as signals:
        engine.compare_and_swap(1, signal={Prickly("go"): 1})
        engine.run(lambda tx: tx.update(signal={"go": 2}))
        assert taken(signals) == [("go", 1, 2), ("go", 2, 3)]
    assert engine.state.signals == {"go": 2}


@pytest.mark.parametrize("topic", [5, None, b"go", ("go",), object()])
def test_topics_are_texts(engine: TheusEngine, topic: Any) -> None:
    for send in (
        lambda: engine.compare_and_swap(1, signal={topic: 1}),
        lambda: engine.run(lambda tx: tx.update(signal=[{"go": 1}, {topic: 1}])),
        lambda: engine.run_process(lambda ctx: ctx.signal.send(topic, 1)),
    ):
        with pytest.raises(TypeError, match="a topic is a text"):
            send()
    assert engine.version == 1


@pytest.mark.parametrize("topic", [5, b"go", ("go",)])
def test_what_is_no_topic(engine: TheusEngine, topic: Any) -> None:
    with pytest.raises(TypeError, match="a topic, a text"):
        engine.signals(topic)


def test_a_slow_receiver_is_told_what_it_missed() -> None:
    engine = TheusEngine({}, ring_capacity=4)
    with engine.signals() as signals:
        for i in range(10):
            engine.compare_and_swap(engine.version, signal={"n": i})
        assert [payload for _, payload, _ in taken(signals)] == [6, 7, 8, 9] and signals.lost == 6


def test_threads_and_tasks_receive(engine: TheusEngine) -> None:
    signals = engine.signals("n")

    async def main() -> list[int]:
        got = []
        async with engine.signals("n") as mine:
            for i in range(20):
                engine.compare_and_swap(engine.version, signal={"n": i, "other": i})
            async for signal in mine:
                got.append(signal.payload)
                if signal.payload == 19:
                    break
        return got

    assert asyncio.run(main()) == list(range(20))

    def receive(k: int) -> list[Signal]:
        if k == 1:
            engine.close()
            return []
        return list(signals)

    received, _ = run_threads(2, receive)
    assert [signal.payload for signal in received] == list(range(20))
    with pytest.raises(ClosedError):
        engine.signals()
