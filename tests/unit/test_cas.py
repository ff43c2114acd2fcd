"""compare_and_swap: level by level, at any depth, and the errors that tell who won."""

from __future__ import annotations

from typing import Any

import pytest

from support import domain, elsewhere, exact, plain
from theus import DELETE, TheusEngine
from theus._theus import Engine
from theus.errors import ConflictError, ContextError, UnfreezableError, VersionError

DEEP = ("domain", "deep", "a", "b")


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"x": 1, "y": 1, "deep": {"a": {"b": 1}}, "xs": [1]}, "top": 5})


def move(engine: Any, **changes: Any) -> int:
    """Somebody else commits; the version that this makes."""
    return int(engine.compare_and_swap(engine.version, data={"domain": changes}))


# ---- what it does when nothing is in the way ---------------------------------------


def test_an_equal_version_commits_and_returns_the_new_one(engine: Any) -> None:
    assert engine.compare_and_swap(1, data={"domain": {"x": 2}}) == 2 == engine.version
    assert domain(engine)["x"] == 2


def test_dicts_are_merged_and_siblings_kept(engine: Any) -> None:
    engine.compare_and_swap(1, data={"domain": {"deep": {"a": {"c": 2}, "new": {}}}})
    assert domain(engine) == {
        "x": 1, "y": 1, "deep": {"a": {"b": 1, "c": 2}, "new": {}}, "xs": [1],
    }  # fmt: skip


def test_everything_else_replaces(engine: Any) -> None:
    engine.compare_and_swap(1, data={"domain": {"xs": [2, 3], "x": {"was": 1}}, "top": {"t": 1}})
    assert domain(engine)["xs"] == [2, 3] and domain(engine)["x"] == {"was": 1}
    assert plain(engine.state["top"]) == {"t": 1}


def test_delete_removes(engine: Any) -> None:
    engine.compare_and_swap(1, data={"domain": {"x": DELETE, "deep": {"a": DELETE}}, "top": DELETE})
    assert exact(engine.state.to_dict()) == exact({"domain": {"y": 1, "deep": {}, "xs": [1]}})


def test_heavy_and_signal_ride_along(engine: Any) -> None:
    engine.compare_and_swap(1, data={"top": 6}, heavy={"h": (1,)}, signal={"topic": "now"})
    state = engine.state
    assert state.version == 2 and state["top"] == 6
    assert state.heavy["h"] == (1,) and state.signals["topic"] == "now"


def test_keys_and_paths(engine: Any) -> None:
    """A tuple is a path, a text is one key, and what looks like a path in a text is refused."""
    engine.compare_and_swap(1, data={("domain", "deep", "a"): {"b": 7}, "a.b": 1})
    assert domain(engine)["deep"] == {"a": {"b": 7}} and engine.state["a.b"] == 1
    with pytest.raises((ValueError, ContextError)) as caught:
        engine.compare_and_swap(2, data={"domain.x": 5})
    assert "('domain', 'x')" in str(caught.value)
    assert engine.version == 2 and domain(engine)["x"] == 1


def test_any_hashable_key_at_any_depth(engine: Any) -> None:
    engine.compare_and_swap(1, data={"domain": {1: {None: {(1, 2): {"a.b": 3}}}}})
    assert engine.state["domain"][1][None][1, 2]["a.b"] == 3


def test_nothing_to_do_makes_no_version(engine: Any) -> None:
    for empty in ({}, {"data": {}}, {"data": {"domain": {}}}, {"data": {"domain": {"deep": {}}}}):
        assert engine.compare_and_swap(1, **empty) == 1
    assert engine.version == 1


@pytest.mark.parametrize("data", [5, "text", [("domain", 1)]])
def test_bad_data_is_refused(engine: Any, data: Any) -> None:
    with pytest.raises((ContextError, TypeError)):
        engine.compare_and_swap(1, data=data)
    with pytest.raises(UnfreezableError):
        engine.compare_and_swap(1, data={"domain": {"x": object()}})
    assert engine.version == 1


# ---- when the version has moved ----------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"domain": {"y": 9}},
        {"domain": {"deep": {"a": {"b": 9}}}},
        {"domain": {"new": {"z": 9}}},
        {"other": 9},
        {("domain", "deep", "a", "z"): 9},
    ],
)
def test_untouched_paths_merge(engine: Any, data: Any) -> None:
    moved = move(engine, x=2)
    assert engine.compare_and_swap(1, data=data) == moved + 1
    assert domain(engine)["x"] == 2
    assert engine.stats().conflicts == 0 and engine.stats().rebases == 1


@pytest.mark.parametrize(
    "change, data, path",
    [
        ({"x": 2}, {"domain": {"x": 9}}, ("domain", "x")),
        ({"x": 2}, {"domain": {"x": 1}}, ("domain", "x")),
        ({"x": 2}, {"domain": {"x": DELETE}}, ("domain", "x")),
        ({"x": DELETE}, {"domain": {"x": 9}}, ("domain", "x")),
        ({"new": 1}, {"domain": {"new": 9}}, ("domain", "new")),
        ({"deep": {"a": {"b": 2}}}, {"domain": {"deep": {"a": {"b": 9}}}}, DEEP),
        ({"deep": 5}, {"domain": {"deep": {"a": {"b": 9}}}}, None),
        ({"deep": {"a": DELETE}}, {"domain": {"deep": {"a": {"b": 9}}}}, None),
        ({"deep": {"a": {"b": 2}}}, {"domain": {"deep": 9}}, None),
        ({"x": 2}, {"domain": 9}, None),
        ({"xs": [1, 2]}, {"domain": {"xs": [9]}}, ("domain", "xs")),
    ],
)
def test_touched_paths_conflict(engine: Any, change: Any, data: Any, path: Any) -> None:
    """The same place, one around it or one inside it; there, gone or new."""
    moved = move(engine, **change)
    before = exact(engine.state.to_dict())
    with pytest.raises(ConflictError, match="CAS Version Mismatch") as caught:
        engine.compare_and_swap(1, data=data)
    assert exact(engine.state.to_dict()) == before and engine.version == moved
    error = caught.value
    assert (error.expected, error.found) == (1, moved)
    assert error.path[:1] == ("domain",)
    if path is not None:
        assert error.path == path
    assert isinstance(error, ContextError)


def test_a_place_deleted_and_made_again_has_changed(engine: Any) -> None:
    move(engine, deep=DELETE)
    move(engine, deep={"a": {"b": 1}})
    with pytest.raises(ConflictError):
        engine.compare_and_swap(1, data={"domain": {"deep": {"a": {"b": 2}}}})


def test_the_winner_is_named(engine: Any) -> None:
    move(engine, y=2)
    with engine.transaction(process="winner") as tx:
        tx.domain["x"] = 2
    move(engine, y=3)
    with pytest.raises(ConflictError) as caught:
        engine.compare_and_swap(1, data={"domain": {"x": 9}})
    winner = caught.value.winner
    assert winner.version == 3 and winner.process == "winner"
    assert ("domain", "x") in winner.paths
    assert "winner" in str(caught.value) and "domain.x" in str(caught.value)


def test_the_loser_is_counted_at_its_path(engine: Any) -> None:
    move(engine, x=2)
    for _ in range(3):
        with pytest.raises(ConflictError):
            engine.compare_and_swap(1, data={"domain": {"x": 9}})
    assert engine.stats().conflicts == 3
    assert engine.stats().conflicts_by_path == {("domain", "x"): 3}


# ---- strict, and versions that cannot be judged ------------------------------------


def test_strict_takes_any_newer_version_as_a_conflict() -> None:
    engine = TheusEngine({"domain": {"x": 1, "y": 1}}, strict_cas=True)
    assert engine.strict_cas is True
    move(engine, x=2)
    with pytest.raises(ConflictError, match="Strict CAS Mismatch") as caught:
        engine.compare_and_swap(1, data={"domain": {"y": 9}})
    assert (caught.value.expected, caught.value.found, caught.value.reason) == (1, 2, "strict")
    assert engine.compare_and_swap(2, data={"domain": {"y": 9}}) == 3


def test_strict_can_be_switched(engine: Any) -> None:
    move(engine, x=2)
    engine.strict_cas = True
    with pytest.raises(ConflictError):
        engine.compare_and_swap(1, data={"domain": {"y": 9}})
    engine.strict_cas = False
    assert engine.compare_and_swap(1, data={"domain": {"y": 9}}) == 3


@pytest.mark.parametrize("version", [2, 10, 2**40])
def test_a_version_of_the_future_is_refused(engine: Any, version: int) -> None:
    with pytest.raises(VersionError) as caught:
        engine.compare_and_swap(version, data={"domain": {"new": 1}})
    assert caught.value.version == version and caught.value.newest == 1
    assert str(version) in str(caught.value)
    assert engine.version == 1


@pytest.mark.parametrize("version", [-1, "1", None, 1.0, 2**70])
def test_what_is_no_version_is_refused(engine: Any, version: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, ContextError)):
        engine.compare_and_swap(version, data={"domain": {"new": 1}})
    assert engine.version == 1


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ((), {"data": {}}, "expected version"),
        ((1,), {"date": {}}, "'date'"),
        ((1, {}), {"data": {}}, "multiple values .* 'data'"),
        ((1, None, None, None, None, None), {}, "at most 5"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    args: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Engine().compare_and_swap(*args, **named)


def test_a_version_older_than_the_history_is_refused(engine: Any) -> None:
    engine.history_limit(count=2)
    for step in range(4):
        move(engine, x=step + 10)
    with pytest.raises(
        ConflictError, match="CAS Version Mismatch: version 3 is no longer"
    ) as caught:
        engine.compare_and_swap(3, data={"domain": {"new": 1}})
    assert (caught.value.expected, caught.value.found) == (3, 5)
    assert caught.value.reason == "forgotten" and caught.value.path is None
    assert engine.compare_and_swap(4, data={"domain": {"new": 1}}) == 6


def test_strict_and_older_than_the_history(engine: Any) -> None:
    engine.history_limit(count=1)
    engine.strict_cas = True
    move(engine, x=10)
    with pytest.raises(ConflictError, match="Strict CAS Mismatch"):
        engine.compare_and_swap(1, data={"domain": {"new": 1}})


def test_requester_is_accepted(engine: Any) -> None:
    """Who asks is for the priority of later releases; naming it already does no harm."""
    assert engine.compare_and_swap(1, data={"domain": {"x": 2}}, requester="me") == 2


def test_swaps_of_other_threads_are_seen(engine: Any) -> None:
    elsewhere(move, engine)
    elsewhere(lambda: move(engine, x=3))
    with pytest.raises(ConflictError):
        engine.compare_and_swap(1, data={"domain": {"x": 9}})
