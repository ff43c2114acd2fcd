"""The same random program on a draft and on a builtin: same results, same types of exceptions.

Handles are kept over inserts, sorts and removals, so they show that a draft stays with its
container wherever that goes, and works on, detached, when it has been taken out. The one allowed
difference is aliasing: assignment copies, so the builtin side gets a deep copy of every operand.
"""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support import begin, exact, kind, plain
from theus import TheusEngine

START: dict[str, Any] = {
    "d": {"a": {"x": 1, "y": [1, 2]}, "b": 2, 1: "one", None: {}},
    "l": [[3, 1], {"k": 1}, [2], 5],
    "s": {1, "two", (3, 4)},
    "deep": {"a": [{"b": [{"c": {1}}]}]},
}

KEYS = st.sampled_from(["a", "b", "x", 0, 1, True, 1.0, None, (1, 2), "get", "items"])
BAD_KEYS = st.sampled_from([[], {}, {1}])
ATOMS = st.sampled_from([0, 1, True, 1.0, "two", "", None, (3, 4), b"b", 2**70])
MEMBERS = st.sampled_from([0, 1, "two", "", None, (3, 4), b"b"])  # equal ones are the same
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(MEMBERS, max_size=3),
    ),
    max_leaves=4,
)
LISTS = st.lists(VALUES, max_size=3)
DICTS = st.dictionaries(KEYS, VALUES, max_size=3)
SETS = st.sets(MEMBERS, max_size=4)
INDEXES = st.integers(-5, 5)
BOUNDS = st.one_of(st.none(), INDEXES)
SLICES = st.builds(slice, BOUNDS, BOUNDS, st.sampled_from([None, 1, 2, -1, -2]))


def done(fn: Any) -> Any:
    """A mutation whose own result does not matter."""
    return lambda c, *args: fn(c, *args) and None


def method(name: str) -> Any:
    return lambda c, *args: getattr(c, name)(*args)


def by_text(value: Any) -> str:
    return str(plain(value))


def op(name: str, fn: Any, *args: Any) -> Any:
    return st.tuples(st.just((name, fn)), *args)


DICT_OPS = st.one_of(
    op("[]", operator.getitem, st.one_of(KEYS, BAD_KEYS)),
    op("[]=", operator.setitem, st.one_of(KEYS, BAD_KEYS), VALUES),
    op("del", operator.delitem, KEYS),
    op("in", operator.contains, st.one_of(KEYS, BAD_KEYS)),
    op("get", method("get"), KEYS),
    op("get", method("get"), KEYS, ATOMS),
    op("pop", method("pop"), KEYS),
    op("pop", method("pop"), KEYS, ATOMS),
    op("popitem", method("popitem")),
    op("setdefault", method("setdefault"), KEYS, VALUES),
    op("setdefault", method("setdefault"), KEYS),
    op("update", method("update"), st.one_of(DICTS, st.just(5), st.just([(1, 2)]), st.just([1]))),
    op("update=", lambda c, other: c.update(a=1, **other), st.just({"kw": [1]})),
    op("clear", method("clear")),
    op("|", lambda c, other: c | other, DICTS),
    op("r|", lambda c, other: other | c, DICTS),
    op("|=", done(operator.ior), st.one_of(DICTS, st.just([(1, 2)]))),
    op("keys", lambda c: list(c.keys())),
    op("values", lambda c: list(c.values())),
    op("items", lambda c: list(c.items())),
    op("keys&", lambda c, keys: len(c.keys() & keys), st.sets(KEYS)),
    op("reversed", lambda c: list(reversed(c))),
    op("copy", method("copy")),
    op("==", lambda c, other: (c == other, c != other, other == c), DICTS),
    op("== self", lambda c: c == plain(c) and plain(c) == c),
    op("<", operator.lt, DICTS),
)
LIST_OPS = st.one_of(
    op("[]", operator.getitem, st.one_of(INDEXES, SLICES, st.just("a"))),
    op("[]=", operator.setitem, INDEXES, VALUES),
    op("[:]=", operator.setitem, SLICES, st.one_of(LISTS, st.just("ab"), st.just(5))),
    op("del", operator.delitem, st.one_of(INDEXES, SLICES)),
    op("append", method("append"), VALUES),
    op("extend", method("extend"), st.one_of(LISTS, st.just("ab"), st.just(5))),
    op("insert", method("insert"), INDEXES, VALUES),
    op("pop", method("pop")),
    op("pop", method("pop"), INDEXES),
    op("remove", method("remove"), VALUES),
    op("index", method("index"), VALUES),
    op("index", method("index"), VALUES, INDEXES, INDEXES),
    op("count", method("count"), VALUES),
    op("reverse", method("reverse")),
    op("clear", method("clear")),
    op("+", operator.add, LISTS),
    op("r+", lambda c, other: other + c, LISTS),
    op("+=", done(operator.iadd), LISTS),
    op("*", operator.mul, st.integers(-1, 2)),
    op("in", operator.contains, VALUES),
    op("iter", list),
    op("reversed", lambda c: list(reversed(c))),
    op("copy", method("copy")),
    op("==", lambda c, other: (c == other, c != other, other == c), LISTS),
    op("== self", lambda c: c == plain(c) and plain(c) == c),
    op("<", lambda c, other: (c < other, c >= other), st.lists(st.integers(0, 3))),
    op("swap", lambda c: c.__setitem__(slice(None), list(plain(c))[::-1])),
)
SET_OPS = st.one_of(
    op("add", method("add"), st.one_of(MEMBERS, st.just([]))),
    op("discard", method("discard"), st.one_of(ATOMS, st.just([]))),
    op("remove", method("remove"), ATOMS),
    op("clear", method("clear")),
    op("update", method("update"), SETS, SETS),
    op("in", operator.contains, st.one_of(ATOMS, st.just([]))),
    op("|=", done(operator.ior), st.one_of(SETS, st.just([1]))),
    op("&=", done(operator.iand), SETS),
    op("-=", done(operator.isub), SETS),
    op("^=", done(operator.ixor), SETS),
    op("difference_update", method("difference_update"), SETS),
    op("intersection_update", method("intersection_update"), SETS),
    op("symmetric_difference_update", method("symmetric_difference_update"), SETS),
    op("|", lambda c, other: (c | other, other | c), SETS),
    op("&", lambda c, other: (c & other, other & c), SETS),
    op("-", lambda c, other: (c - other, other - c), SETS),
    op("^", lambda c, other: (c ^ other, other ^ c), SETS),
    op("compare", lambda c, o: (c <= o, c < o, c >= o, c > o, c == o, c.isdisjoint(o)), SETS),
    op("methods", lambda c, o: (c.union(o), c.difference(o), c.issubset(o), c.issuperset(o)), SETS),
    op("copy", method("copy")),
)
OPS = {"dict": DICT_OPS, "list": LIST_OPS, "set": SET_OPS}


def outcome(fn: Any, *args: Any) -> tuple[str, Any]:
    """("ok", result) or ("raised", type): the exception itself would name other types."""
    try:
        return "ok", fn(*args)
    except Exception as error:
        bases = (KeyError, IndexError, TypeError, ValueError, AttributeError)
        return "raised", next((base for base in bases if isinstance(error, base)), type(error))


def same(got: tuple[str, Any], expected: tuple[str, Any]) -> bool:
    if "raised" in (got[0], expected[0]):
        return got == expected
    return bool(exact(got[1]) == exact(expected[1]))


class Twin:
    """A draft and its builtin twin."""

    def __init__(self, draft: Any, builtin: Any) -> None:
        self.draft, self.builtin = draft, builtin

    def __repr__(self) -> str:
        return f"Twin({self.builtin!r})"


class SameProgram(RuleBasedStateMachine):
    twins = Bundle("twins")

    def __init__(self) -> None:
        super().__init__()
        self.engine = TheusEngine({"domain": START})
        self.tx = begin(self.engine)
        self.builtin = deepcopy(START)
        self.everyone: list[Twin] = []

    def twin(self, draft: Any, builtin: Any) -> Any:
        if not kind(builtin):
            return multiple()
        self.everyone.append(Twin(draft, builtin))
        return self.everyone[-1]

    @initialize(target=twins)
    def root(self) -> Any:
        return self.twin(self.tx.domain, self.builtin)

    @rule(target=twins, twin=twins, data=st.data())
    def fetch(self, twin: Twin, data: Any) -> Any:
        """A part of a container, to be kept as a handle."""
        parts = kind(twin.builtin)
        if parts == "set" or not twin.builtin:
            return multiple()
        keys = list(twin.builtin) if parts == "dict" else list(range(len(twin.builtin)))
        key = data.draw(st.sampled_from(keys), label="key")
        return self.twin(twin.draft[key], twin.builtin[key])

    @rule(target=twins, twin=twins)
    def iterate(self, twin: Twin) -> Any:
        """Handles from iteration and from values() are drafts like any other."""
        if kind(twin.builtin) == "set":
            return multiple()
        drafts, builtins = list(twin.draft), list(twin.builtin)
        if kind(twin.builtin) == "dict":
            drafts, builtins = list(twin.draft.values()), list(twin.builtin.values())
        assert exact(drafts) == exact(builtins)
        pairs = [(d, b) for d, b in zip(drafts, builtins, strict=True) if kind(b)]
        return multiple(*(self.twin(*pair) for pair in pairs[:2]))

    @rule(target=twins, twin=twins, key=KEYS, value=VALUES)
    def setdefault(self, twin: Twin, key: Any, value: Any) -> Any:
        """d.setdefault(k, []).append(x) works, as everywhere."""
        if kind(twin.builtin) != "dict":
            return multiple()
        pair = twin.draft.setdefault(key, value), twin.builtin.setdefault(key, deepcopy(value))
        assert exact(pair[0]) == exact(pair[1])
        return self.twin(*pair)

    @rule(target=twins, twin=twins, data=st.data())
    def take_out(self, twin: Twin, data: Any) -> Any:
        """What pop returns is the container itself, detached; handles to it go on too."""
        if not twin.builtin or kind(twin.builtin) == "set":
            return multiple()
        keys = list(twin.builtin) if kind(twin.builtin) == "dict" else range(len(twin.builtin))
        key = data.draw(st.sampled_from(list(keys)), label="key")
        pair = twin.draft.pop(key), twin.builtin.pop(key)
        assert exact(pair[0]) == exact(pair[1])
        return self.twin(*pair) if hasattr(pair[0], "freeze") else multiple()

    @rule(twin=twins, data=st.data())
    def operate(self, twin: Twin, data: Any) -> None:
        (_, fn), *args = data.draw(OPS[str(kind(twin.builtin))], label="operation")
        expected = outcome(fn, twin.builtin, *deepcopy(args))
        got = outcome(fn, twin.draft, *args)
        assert same(got, expected), f"{got}, but a builtin says {expected}"
        assert exact(twin.draft) == exact(twin.builtin)

    @rule(twin=twins, reverse=st.booleans(), key=st.sampled_from([None, by_text, len]))
    def sort(self, twin: Twin, reverse: bool, key: Any) -> None:
        """A sort that fails raises the same, and leaves the draft as it was."""
        if kind(twin.builtin) != "list":
            return
        ahead = list(twin.builtin)
        expected = outcome(lambda: ahead.sort(key=key, reverse=reverse))
        got = outcome(lambda: twin.draft.sort(key=key, reverse=reverse))
        assert got == expected
        if expected[0] == "ok":
            twin.builtin[:] = ahead

    @rule(twin=twins)
    def pop_of_a_set(self, twin: Twin) -> None:
        """Any member may go, so the builtin follows."""
        if kind(twin.builtin) != "set":
            return
        got = outcome(twin.draft.pop)
        if twin.builtin:
            assert got[0] == "ok" and got[1] in twin.builtin
            twin.builtin.discard(got[1])
        else:
            assert got == ("raised", KeyError)

    @rule(twin=twins, key=KEYS, value=LISTS)
    def augmented_item(self, twin: Twin, key: Any, value: Any) -> None:
        """d[k] += v: one container stays where it is, and handles to it stay with it."""

        def augment(c: Any, operand: Any) -> None:
            c[key] += operand

        expected = outcome(augment, twin.builtin, deepcopy(value))
        assert outcome(augment, twin.draft, value) == expected

    @rule(twin=twins, times=st.integers(-1, 3))
    def repeat_in_place(self, twin: Twin, times: int) -> None:
        if kind(twin.builtin) != "list":
            return
        twin.draft *= times
        once = list(twin.builtin)
        copies = [part for _ in range(times - 1) for part in deepcopy(once)]
        twin.builtin[:] = once + copies if times > 0 else []

    @rule(into=twins, what=twins, key=KEYS)
    def assign_a_draft(self, into: Twin, what: Twin, key: Any) -> None:
        """Assignment copies the content of that moment, of an ancestor and of itself too."""
        if kind(into.builtin) != "dict":
            return
        if key in into.builtin and into.builtin[key] is what.builtin:
            return  # to its own place: nothing to copy, see augmented_item
        copy = deepcopy(what.builtin)
        if len(str(copy)) > 2000:
            return
        into.draft[key] = what.draft
        into.builtin[key] = copy

    @precondition(lambda self: len(self.everyone) > 1)
    @rule(twin=consumes(twins))
    def forget(self, twin: Twin) -> None:
        self.everyone.remove(twin)

    @invariant()
    def all_twins_are_equal(self) -> None:
        for twin in self.everyone:
            assert exact(twin.draft) == exact(twin.builtin)
            assert len(twin.draft) == len(twin.builtin) and bool(twin.draft) == bool(twin.builtin)

    def teardown(self) -> None:
        """What is committed is what the builtin ended with."""
        self.tx.commit()
        assert exact(self.engine.state["domain"]) == exact(self.builtin)
        self.engine.close()


def test_drafts_and_builtins() -> None:
    run_state_machine_as_test(
        SameProgram, settings=settings(max_examples=20, stateful_step_count=20, deadline=None)
    )


@pytest.mark.slow
def test_drafts_and_builtins_at_length() -> None:
    run_state_machine_as_test(
        SameProgram, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )
