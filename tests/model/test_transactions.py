"""Long random programs of up to three interleaved transactions, against the reference.

Drafts, path methods, deferred additions, savepoints, swaps and both isolation levels. After every
step the engine stands at the version of the reference with the same content, and at the end every
version in its history is the one that the reference made. (Short ones: test_pairs.py.)
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from model.beside import both, containers, judge
from model.reference import ABSENT, Reference, at, walk
from support import begin, exact, kind, plain
from theus import TheusEngine

START = {
    "domain": {"a": {"a": 1, "b": {"c": 1}}, "b": 1, "c": [1, {"a": 1}, 3]},
    "other": {"a": {1, 2}, "b": [], "c": {}},
}

KEYS = st.sampled_from(["a", "b", "c", 7])
NUMBERS = st.integers(0, 3)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.none(), st.sampled_from(["s", "t"])),
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=2),
        st.lists(inner, max_size=2),
        st.sets(NUMBERS, max_size=2),
    ),
    max_leaves=3,
)
STEPS: dict[str | None, Any] = {
    "dict": st.one_of(
        st.tuples(st.sampled_from(["get", "in", "del", "pop"]), KEYS),
        st.tuples(st.sampled_from(["set", "set", "setdefault"]), KEYS, VALUES),
        st.tuples(st.sampled_from(["pop", "increase"]), KEYS, NUMBERS),
        st.tuples(st.sampled_from(["len", "iter", "all"])),
    ),
    "list": st.one_of(
        st.tuples(st.sampled_from(["get", "del", "pop"]), st.integers(-3, 3)),
        st.tuples(st.sampled_from(["set", "insert"]), st.integers(-3, 3), VALUES),
        st.tuples(st.just("append"), VALUES),
        st.tuples(st.sampled_from(["len", "iter", "all", "pop", "sort"])),
        st.tuples(st.just("in"), NUMBERS),
    ),
    "set": st.one_of(
        st.tuples(st.sampled_from(["in", "add", "discard"]), NUMBERS),
        st.tuples(st.sampled_from(["len", "iter", "all"])),
    ),
}


class Interleaved(RuleBasedStateMachine):
    """The engine on one side, the reference on the other, the same steps to both."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = TheusEngine(START)
        self.engine.history_limit(count=1000)
        self.model = Reference(START, self.engine.version)
        self.open: list[tuple[Any, Any, list[Any]]] = []  # transaction, session, savepoints

    def some(self, data: Any) -> tuple[Any, Any, list[Any]]:
        return data.draw(st.sampled_from(self.open), label="transaction")

    @initialize()
    def first(self) -> None:
        self.start_one("serializable")

    @precondition(lambda self: len(self.open) < 3)
    @rule(isolation=st.sampled_from(["serializable", "serializable", "snapshot"]))
    def start_one(self, isolation: str) -> None:
        self.open.append((begin(self.engine, isolation), self.model.begin(isolation), []))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def step(self, data: Any) -> None:
        """One operation on one container, through drafts."""
        tx, session, _ = self.some(data)
        path = data.draw(st.sampled_from(containers(session.data)), label="container")
        both(tx, session, path, *data.draw(STEPS[kind(walk(session.data, path))], label="step"))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), key=KEYS, value=VALUES)
    def step_by_path(self, data: Any, key: Any, value: Any) -> None:
        """The same, through the path methods of the transaction."""
        tx, session, _ = self.some(data)
        dicts = [p for p in containers(session.data) if kind(walk(session.data, p)) == "dict"]
        if not dicts:
            return
        path = data.draw(st.sampled_from(dicts), label="dict")
        match data.draw(st.sampled_from(["get", "set", "delete"])):
            case "get":
                _, expected = session.do("get", path, key)
                there = at(session.data, (*path, key)) is not ABSENT
                got = tx.get((*path, key), "nothing")
                assert (kind(got) or got) == (expected if there else "nothing")
            case "set":
                session.do("set", path, key, value)
                tx.set((*path, key), value)
            case "delete" if session.do("del", path, key)[0] == "ok":
                tx.delete((*path, key))
            case "delete":
                with pytest.raises(KeyError):
                    tx.delete((*path, key))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), root=st.sampled_from(["domain", "other"]), value=VALUES)
    def replace_root(self, data: Any, root: str, value: Any) -> None:
        tx, session, _ = self.some(data)
        whole = {"a": value, "b": {"c": 1}}
        session.do("set", (), root, whole)
        tx[root] = whole

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def save(self, data: Any) -> None:
        tx, session, savepoints = self.some(data)
        savepoint = tx.savepoint()
        savepoint.__enter__()
        savepoints.append(savepoint)
        session.save()

    @precondition(lambda self: any(savepoints for _, _, savepoints in self.open))
    @rule(data=st.data(), keep=st.booleans())
    def restore(self, data: Any, keep: bool) -> None:
        saved = [entry for entry in self.open if entry[2]]
        _, session, savepoints = data.draw(st.sampled_from(saved), label="transaction")
        error = None if keep else RuntimeError("undo")
        assert not savepoints.pop().__exit__(error and RuntimeError, error, None)
        session.restore(keep)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data: Any) -> None:
        entry = self.some(data)
        tx, session, savepoints = entry
        self.open.remove(entry)
        while savepoints:
            savepoints.pop().__exit__(None, None, None)
            session.restore(keep=True)
        judge(self.engine, self.model, session, tx.commit)
        assert not tx.active

    @rule(data=st.data(), value=VALUES, key=KEYS, deep=st.booleans())
    def compare_and_swap(self, data: Any, value: Any, key: Any, deep: bool) -> None:
        expected = data.draw(st.integers(1, self.model.version), label="expected")
        change = {"domain": {"a": {key: value}} if deep else {key: value}}
        session = self.model.swap(expected, change)
        ask = self.engine.compare_and_swap
        judge(self.engine, self.model, session, lambda: ask(expected, data=change))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: Any) -> None:
        entry = self.some(data)
        self.open.remove(entry)
        entry[0].rollback()

    @invariant()
    def the_newest_version_is_the_same(self) -> None:
        assert self.engine.version == self.model.version
        newest = self.engine.state
        assert newest.version == self.model.version
        assert exact(newest.to_dict()) == exact(self.model.versions[self.model.version])

    def teardown(self) -> None:
        newest = self.engine.state
        for version, expected in self.model.versions.items():
            assert exact(newest.at(version).to_dict()) == exact(expected), f"version {version}"
        for tx, session, _ in self.open:
            assert plain(tx["domain"]) == session.data["domain"]
            tx.rollback()
        self.engine.close()


def test_interleaved_transactions() -> None:
    run_state_machine_as_test(
        Interleaved, settings=settings(max_examples=20, stateful_step_count=25, deadline=None)
    )


@pytest.mark.slow
def test_interleaved_transactions_at_length() -> None:
    run_state_machine_as_test(
        Interleaved, settings=settings(max_examples=50, stateful_step_count=40, deadline=None)
    )
