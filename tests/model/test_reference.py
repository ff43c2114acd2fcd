"""The reference itself: textbook histories get textbook verdicts, and its footprints are sound."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.reference import ABSENT, LOST, Reference, at, overlap
from support import kind, plain

BOTH = pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
VERDICTS = pytest.mark.parametrize(
    "isolation, verdict", [("serializable", "conflict"), ("snapshot", "commit")]
)
START = {"domain": {"x": 1, "y": 1, "sub": {"p": 1}, "xs": [1, 2], "s": {1}}}
D = ("domain",)


@pytest.fixture
def model() -> Reference:
    return Reference(START, 1)


@BOTH
def test_a_session_that_wrote_nothing_never_conflicts(model: Reference, isolation: str) -> None:
    reader, writer = model.begin(isolation), model.begin(isolation)
    reader.do("get", D, "x")
    writer.do("set", D, "x", 2)
    model.commit(writer)
    assert model.verdicts(reader) == {"unchanged"}
    assert reader.do("get", D, "x") == ("ok", 1)


@BOTH
def test_a_lost_update_is_refused(model: Reference, isolation: str) -> None:
    first, second = model.begin(isolation), model.begin(isolation)
    for session, value in ((first, 2), (second, 3)):
        session.do("get", D, "x")
        session.do("set", D, "x", value)
    model.commit(first)
    assert model.verdicts(second) == {"conflict"}


@VERDICTS
def test_write_skew_tells_the_levels_apart(model: Reference, isolation: str, verdict: str) -> None:
    first, second = model.begin(isolation), model.begin(isolation)
    for session, reads, writes in ((first, "y", "x"), (second, "x", "y")):
        session.do("get", D, reads)
        session.do("set", D, writes, 0)
    model.commit(first)
    assert model.verdicts(second) == {verdict}


@VERDICTS
@pytest.mark.parametrize("look", [("len",), ("iter",), ("in", "new"), ("all",)])
def test_phantoms(model: Reference, isolation: str, verdict: str, look: tuple[Any, ...]) -> None:
    reader, writer = model.begin(isolation), model.begin(isolation)
    reader.do(look[0], D, *look[1:])
    reader.do("set", ("domain", "sub"), "p", 2)
    writer.do("set", D, "new", 1)
    model.commit(writer)
    assert model.verdicts(reader) == {verdict}


@BOTH
def test_siblings_never_conflict_and_both_writes_stand(model: Reference, isolation: str) -> None:
    first, second = model.begin(isolation), model.begin(isolation)
    first.do("set", ("domain", "sub"), "p", 2)
    second.do("set", ("domain", "sub"), "q", 3)
    model.commit(first)
    assert model.verdicts(second) == {"commit"}
    model.commit(second)
    assert at(model.versions[3], ("domain", "sub")) == {"p": 2, "q": 3}


@VERDICTS
def test_an_undone_savepoint_keeps_its_reads_and_drops_its_writes(
    model: Reference, isolation: str, verdict: str
) -> None:
    session, other = model.begin(isolation), model.begin(isolation)
    session.save()
    session.do("get", D, "x")
    session.do("set", D, "y", 9)
    session.restore(keep=False)
    assert session.do("get", D, "y") == ("ok", 1)
    session.do("set", D, "z", 1)
    other.do("set", D, "x", 5)
    model.commit(other)
    assert model.verdicts(session) == {verdict}


def test_a_swap_of_an_old_version_merges_what_nobody_touched(model: Reference) -> None:
    session = model.begin("serializable")
    session.do("set", D, "x", 2)
    model.commit(session)
    assert model.verdicts(model.swap(1, {"domain": {"x": 3}})) == {"conflict"}
    free = model.swap(1, {"domain": {"sub": {"q": 3}, "y": 4}})
    assert model.verdicts(free) == {"commit"}
    model.commit(free)
    assert model.versions[3]["domain"] == {
        "x": 2,
        "y": 4,
        "sub": {"p": 1, "q": 3},
        "xs": [1, 2],
        "s": {1},
    }


@pytest.mark.parametrize(
    "scope, path, written, reshapes, verdict",
    [
        ("leaf", ("d", "x"), ("d", "x"), False, True),
        ("leaf", ("d", "x"), ("d",), False, True),
        ("leaf", ("d", "x"), ("d", "x", "deep"), True, False),
        ("keys", ("d",), ("d", "x"), False, False),
        ("keys", ("d",), ("d", "x"), True, True),
        ("keys", ("d",), ("d", "x", "deep"), True, False),
        ("all", ("d",), ("d", "x", "deep"), False, True),
        ("all", ("d", "x"), ("d", "y"), True, False),
    ],
)
def test_overlap(
    scope: str, path: tuple[str], written: tuple[str], reshapes: bool, verdict: bool
) -> None:
    assert overlap(scope, path, written, reshapes) is verdict


KEYS = st.sampled_from(["x", "y", "new"])
DICTS = st.sampled_from([D, (*D, "sub")])
STEPS = st.one_of(
    st.tuples(st.sampled_from(["get", "in", "del", "pop"]), DICTS, KEYS),
    st.tuples(st.just("set"), DICTS, KEYS, st.integers(1, 2)),
    st.tuples(st.sampled_from(["len", "iter", "all"]), st.sampled_from([D, (*D, "xs"), (*D, "s")])),
    st.tuples(st.just("get"), st.just((*D, "xs")), st.integers(0, 2)),
    st.tuples(st.just("set"), st.just((*D, "xs")), st.integers(0, 2), st.integers(1, 2)),
    st.tuples(st.just("append"), st.just((*D, "xs")), st.integers(1, 2)),
    st.tuples(st.just("pop"), st.just((*D, "xs"))),
    st.tuples(st.sampled_from(["add", "discard", "in"]), st.just((*D, "s")), st.integers(1, 2)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=6), st.lists(STEPS, max_size=4))
def test_a_session_that_crossed_nothing_sees_nothing_change(one: Any, two: Any) -> None:
    """So "conflict" is never demanded where it would not be allowed: the footprints are sound."""
    model = Reference(START, 1)
    session, other = model.begin("serializable"), model.begin("snapshot")
    for target, steps in ((session, one), (other, two)):
        for name, path, *args in steps:
            target.do(name, path, *args)
    if other.writes:
        model.commit(other)
    after = model.after(session)
    if after is LOST:
        assert model.crossed(session)
    elif not model.crossed(session):
        applied = model.begin("snapshot")
        applied.writes = session.writes
        assert model.after(applied) == after, "replayed steps and applied writes agree"


def test_kinds_and_copies() -> None:
    nested = {"a": [1, {"b": {2}}], "t": ([3],)}
    copy = plain(nested)
    assert copy == nested and copy["a"] is not nested["a"] and copy["a"][1]["b"] == {2}
    assert [kind(x) for x in ({}, [], set(), (), "s", b"", frozenset(), None)] == [
        "dict",
        "list",
        "set",
        None,
        None,
        None,
        None,
        None,
    ]
    assert at({"a": 1}, ("b",)) is ABSENT
