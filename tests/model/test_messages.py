"""Long random programs that send: what is handed over is what a naive outbox would hand over.

Up to three transactions at a time write, send, open savepoints and roll them back, conflict and
commit; in between messages are handed over, by handlers that fail at times. The reference keeps a
stack of lists for each transaction, and moves the lowest to the end of one queue when it commits.
"""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from theus import OutboxMsg, TheusEngine, Transaction
from theus.errors import ConflictError
from theus.signals import Signals

KEYS = st.sampled_from("ab")
TOPICS = st.sampled_from(["mail", "log"])
Sent = tuple[str, int]


class Sender:
    """One transaction, and what the reference knows of it."""

    def __init__(self, engine: TheusEngine) -> None:
        self.tx = engine.transaction(detached=True)
        self.open: Transaction = self.tx.__enter__()
        self.savepoints: list[Any] = []
        self.messages: list[list[Sent]] = [[]]
        self.signals: list[list[Sent]] = [[]]


class Messages(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = TheusEngine({"domain": {"a": 0, "b": 0}}, ring_capacity=4096)
        self.signals: Signals = self.engine.signals()
        self.senders: list[Sender] = []
        self.count = 0
        self.waiting: list[Sent] = []
        self.signalled: list[Sent] = []
        self.received: list[Sent] = []
        self.ids: dict[str, Sent] = {}

    # ---- transactions ------------------------------------------------------------------

    @precondition(lambda self: len(self.senders) < 3)
    @rule()
    def begin(self) -> None:
        self.senders.append(Sender(self.engine))

    def pick(self, which: int) -> Sender:
        return self.senders[which % len(self.senders)]

    @precondition(lambda self: self.senders)
    @rule(which=st.integers(0, 2), topic=TOPICS, signal=st.booleans())
    def send(self, which: int, topic: str, signal: bool) -> None:
        sender = self.pick(which)
        self.count += 1
        if signal:
            sender.open.update(signal={topic: self.count})
            sender.signals[-1].append((topic, self.count))
        else:
            sender.open.outbox.add(topic, self.count)
            sender.messages[-1].append((topic, self.count))
        assert len(sender.open.outbox) == sum(map(len, sender.messages))

    @precondition(lambda self: self.senders)
    @rule(which=st.integers(0, 2), key=KEYS)
    def write(self, which: int, key: str) -> None:
        self.pick(which).open.domain[key] += 1

    @precondition(lambda self: self.senders)
    @rule(which=st.integers(0, 2))
    def save(self, which: int) -> None:
        sender = self.pick(which)
        savepoint = sender.open.savepoint()
        savepoint.__enter__()
        sender.savepoints.append(savepoint)
        sender.messages.append([])
        sender.signals.append([])

    @precondition(lambda self: any(sender.savepoints for sender in self.senders))
    @rule(which=st.integers(0, 2), keep=st.booleans())
    def end_savepoint(self, which: int, keep: bool) -> None:
        sender = self.pick(which)
        if not sender.savepoints:
            return
        error = None if keep else ValueError()
        sender.savepoints.pop().__exit__(error and ValueError, error, None)
        for sent in (sender.messages, sender.signals):
            undone = sent.pop()
            if keep:
                sent[-1].extend(undone)

    @precondition(lambda self: self.senders)
    @rule(which=st.integers(0, 2), keep=st.booleans())
    def end(self, which: int, keep: bool) -> None:
        sender = self.pick(which)
        while sender.savepoints:
            self.end_savepoint(which, keep)
        self.senders.remove(sender)
        error = None if keep else ValueError()
        try:
            sender.tx.__exit__(error and ValueError, error, None)
        except ConflictError:
            return
        if keep:
            self.waiting.extend(sender.messages[0])
            self.signalled.extend(sender.signals[0])

    # ---- handing over -------------------------------------------------------------------

    @rule(bad=st.sets(st.integers(0, 9)))
    def hand_over(self, bad: set[int]) -> None:
        got: list[Sent] = []

        def handler(message: OutboxMsg) -> None:
            sent = (message.topic, message.payload)
            assert self.ids.setdefault(str(message.id), sent) == sent
            if message.payload % 10 in bad:
                raise ValueError
            got.append(sent)

        # Elsewhere: here transactions are open, which it would refuse.
        report = contextvars.Context().run(self.engine.process_outbox, handler)
        stuck: set[str] = set()
        expected, left = [], []
        for topic, number in self.waiting:
            if topic not in stuck and number % 10 in bad:
                stuck.add(topic)
            (left if topic in stuck else expected).append((topic, number))
        assert got == expected
        assert (report.delivered, report.pending) == (len(expected), len(left))
        assert {failure.message.topic for failure in report.failed} == stuck
        self.waiting = left

    @invariant()
    def signals_are_those_of_commits(self) -> None:
        while (signal := self.signals.poll()) is not None:
            self.received.append((signal.topic, signal.payload))
        assert self.received == self.signalled

    def teardown(self) -> None:
        for sender in self.senders:
            sender.tx.rollback()
        self.hand_over(set())
        assert not self.waiting and len(self.ids) == len(set(self.ids.values()))
        self.signals.close()


@pytest.mark.parametrize(
    ("programs", "steps"), [(50, 30), pytest.param(15, 200, marks=pytest.mark.slow)]
)
def test_random_programs(programs: int, steps: int) -> None:
    run_state_machine_as_test(
        Messages, settings=settings(max_examples=programs, stateful_step_count=steps)
    )
