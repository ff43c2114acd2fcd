"""The State: what it holds, what it refuses, and its bounded past (at, diff, provenance)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support import begin, elsewhere, exact, plain
from theus import DELETE, MISSING, FrozenDict, FrozenList, FrozenSet, State, TheusEngine
from theus.errors import ContextError, FrozenError, TheusError, UnfreezableError, VersionError

DATA = {"domain": {"n": 1, "xs": [1, {"a": 2}], "tags": {1, 2}}, "global": {"limit": 5}}


@pytest.fixture
def state() -> Any:
    return State(DATA)


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"n": 0, "rows": {"a": {"v": 1}, "b": {"v": 1}}, "xs": [1, 2]}})


def commit(engine: Any, path: Any, value: Any, **options: Any) -> int:
    with engine.transaction(**options) as tx:
        tx.delete(path) if value is DELETE else tx.set(path, value)
    return int(tx.version)


# ---- construction and reading ------------------------------------------------------


def test_an_empty_state() -> None:
    state = State()
    assert state.version == 1
    assert dict(state.data) == {} and dict(state.heavy) == {} and dict(state.signals) == {}
    assert state.meta == [] and state.to_dict() == {}


def test_construction(state: Any) -> None:
    assert state.version == 1 and State(DATA, version=7).version == 7
    assert plain(state.data) == DATA
    assert plain(State({"a": 1}, heavy={"h": (1, 2)}).heavy) == {"h": (1, 2)}


@pytest.mark.parametrize("data", [5, "text", [1], [("a", 1)]])
def test_construction_from_something_else(data: Any) -> None:
    with pytest.raises(TypeError):
        State(data)


def test_construction_copies() -> None:
    source = {"domain": {"xs": [1]}}
    state = State(source)
    source["domain"]["xs"].append(2)
    source["more"] = {}
    assert plain(state.data) == {"domain": {"xs": [1]}}


def test_its_roots_are_in_dir() -> None:
    names = dir(State({"domain": {}, "shop": {}, "a b": 1, "class": 2}))
    assert {"domain", "shop", "at", "version", "__eq__"} <= set(names) and "a b" not in names


def test_the_ways_to_a_root(state: Any) -> None:
    assert state["domain"] == state.domain == state.data["domain"] == state.get(("domain",))
    assert getattr(state, "global") == state["global"] == {"limit": 5}
    assert state.get(("domain", "n")) == state.get("domain.n") == 1
    assert state.get("domain.xs[1].a") == 2
    assert state.get("domain.none") is None and state.get("none.deep", 3) == 3
    with pytest.raises(KeyError):
        state["none"]
    with pytest.raises(AttributeError):
        state.none  # noqa: B018


def test_what_is_read_is_complete_and_frozen(state: Any) -> None:
    assert isinstance(state.data, FrozenDict) and isinstance(state.domain, FrozenDict)
    assert isinstance(state.domain["xs"], FrozenList)
    assert isinstance(state.domain["tags"], FrozenSet)
    assert state.domain == DATA["domain"] and DATA["domain"] == state.domain
    for write in (
        lambda: state.domain.__setitem__("n", 2),
        lambda: state.domain.__delitem__("n"),
        lambda: setattr(state.domain, "n", 2),
        lambda: state.domain["xs"].__setitem__(0, 2),
        lambda: state.data.__setitem__("domain", 2),
    ):
        with pytest.raises((FrozenError, TypeError, AttributeError)):
            write()
    assert plain(state.data) == DATA


@pytest.mark.parametrize("name", ["domain", "version", "data", "fresh"])
def test_attributes_cannot_be_assigned(state: Any, name: str) -> None:
    with pytest.raises((ContextError, AttributeError)):
        setattr(state, name, 1)
    with pytest.raises((ContextError, AttributeError)):
        delattr(state, name)
    assert state.version == 1


def test_a_root_never_hides_a_member() -> None:
    state = State({"version": "mine", "data": 1, "update": 2})
    assert state.version == 1 and state["version"] == "mine" and callable(state.update)
    assert state.data["data"] == 1


def test_to_dict_is_independent(state: Any) -> None:
    copy = state.to_dict()
    assert exact(copy) == exact(DATA) and type(copy["domain"]["xs"]) is list
    copy["domain"]["xs"].append(3)
    assert plain(state.data) == DATA


def test_the_repr_is_short_and_says_the_version() -> None:
    state = State({"domain": dict.fromkeys(range(1000), "x" * 100)}, version=42)
    assert "42" in repr(state) and len(repr(state)) < 2000


def test_foreign_objects_are_refused() -> None:
    with pytest.raises(UnfreezableError) as caught:
        State({"domain": {"a": [object()]}})
    assert caught.value.path == ("domain", "a", 0)


# ---- update: a new state beside the old one ----------------------------------------


def test_update_makes_a_new_state(state: Any) -> None:
    newer = state.update(data={"domain": {"n": 2, "new": {"x": 1}}, "other": 1})
    assert (state.version, newer.version) == (1, 2)
    assert plain(state.data) == DATA
    assert plain(newer.data) == {
        "domain": {**DATA["domain"], "n": 2, "new": {"x": 1}}, "global": {"limit": 5}, "other": 1,
    }  # fmt: skip


def test_update_branches(state: Any) -> None:
    """Two states from one: neither sees the other."""
    one = state.update(data={"domain": {"n": "one"}})
    two = state.update(data={"domain": {"n": "two"}})
    assert (one.domain["n"], two.domain["n"], state.domain["n"]) == ("one", "two", 1)
    assert one.version == two.version == 2
    assert one.update(data={"x": 1}).domain["n"] == "one"


def test_update_deletes_and_takes_any_key(state: Any) -> None:
    newer = state.update(data={"domain": {"n": DELETE, 5: {None: 1}, "a.b": 2}, "global": DELETE})
    assert plain(newer.data) == {
        "domain": {"xs": [1, {"a": 2}], "tags": {1, 2}, 5: {None: 1}, "a.b": 2}
    }


def test_update_heavy_and_signals(state: Any) -> None:
    newer = state.update(heavy={"h": (1,)}, signal={"topic": [1]})
    assert newer.heavy["h"] == (1,) and newer.signals["topic"] == [1]
    assert plain(state.heavy) == {} and plain(state.signals) == {}


@pytest.mark.parametrize("data", [5, "text", [("a", 1)]])
def test_update_with_something_else(state: Any, data: Any) -> None:
    with pytest.raises((ContextError, TypeError)):
        state.update(data=data)


def test_unchanged_parts_are_shared(state: Any) -> None:
    """The cost of an update does not grow with what it leaves alone: the parts are the same."""
    newer = state.update(data={"domain": {"n": 2}})
    assert newer["global"] == state["global"]
    assert newer.domain["xs"] == state.domain["xs"]
    assert [change.path for change in newer.diff(state)] == [("domain", "n")]


def test_meta_log() -> None:
    state = State({"a": 1}, meta_capacity=3)
    before = time.time() - 1
    for n in range(5):
        state.log_meta(f"key {n}", f"message {n}")
    entries = state.get_meta_logs()
    assert [(entry.key, entry.message) for entry in entries] == [
        (f"key {n}", f"message {n}") for n in (2, 3, 4)
    ]
    assert [entry.key for entry in state.meta] == [entry.key for entry in entries]
    assert before <= entries[0].timestamp <= time.time() + 1
    assert "key 4" in repr(entries[-1]) and "message 4" in repr(entries[-1])


def test_meta_log_is_shared_by_versions_and_can_be_off() -> None:
    state = State({"a": 1})
    newer = state.update(data={"a": 2})
    newer.log_meta("late", "message")
    assert "late" in [entry.key for entry in state.meta]
    off = State({"a": 1}, meta_capacity=0)
    off.log_meta("key", "message")
    assert off.meta == []


def test_restrict_view_has_the_same_data(state: Any) -> None:
    view = state.restrict_view()
    assert view.version == state.version and view.data == state.data


# ---- the state of an engine --------------------------------------------------------


def test_versions_start_at_nothing_and_at_one() -> None:
    assert TheusEngine().version == 0 == TheusEngine().state.version
    assert TheusEngine({"domain": {}}).version == 1


def test_a_state_is_one_version_for_ever(engine: Any) -> None:
    old = engine.state
    commit(engine, "domain.n", 1)
    assert old.version == 1 and old["domain"]["n"] == 0
    assert engine.state.version == 2 and engine.state["domain"]["n"] == 1


def test_updating_an_engines_state_does_not_touch_the_engine(engine: Any) -> None:
    branch = engine.state.update(data={"domain": {"n": 99}})
    assert branch["domain"]["n"] == 99 and branch.version == 2
    assert engine.version == 1 and engine.state["domain"]["n"] == 0
    commit(engine, "domain.n", 1)
    assert branch["domain"]["n"] == 99


def test_a_state_outlives_its_engine(engine: Any) -> None:
    state = engine.state
    rows = state["domain"]["rows"]
    engine.close()
    del engine
    assert rows["a"]["v"] == 1 and plain(state.data)["domain"]["xs"] == [1, 2]


# ---- at ----------------------------------------------------------------------------


def test_at_gives_every_version_in_the_history(engine: Any) -> None:
    for n in range(2, 8):
        commit(engine, "domain.n", n)
    for state in (engine.state, engine.state.at(3)):
        for version in range(2, 8):
            assert state.at(version).version == version
            assert state.at(version)["domain"]["n"] == version
    assert engine.state.at(1)["domain"]["n"] == 0


@pytest.mark.parametrize("version", [9, 2**40, 10**30])
def test_at_a_version_of_the_future(engine: Any, version: int) -> None:
    with pytest.raises(VersionError) as caught:
        engine.state.at(version)
    assert (caught.value.version, caught.value.newest) == (version, 1)


def test_at_what_is_no_version(engine: Any) -> None:
    for version in (-1, "1", None):
        with pytest.raises((TheusError, TypeError, ValueError, OverflowError)):
            engine.state.at(version)


def test_limits_that_are_none(engine: Any) -> None:
    for name in "count", "bytes", "age":
        with pytest.raises(ValueError, match=f"{name}= must be a positive number"):
            engine.history_limit(**{name: 0})
        with pytest.raises(TypeError, match=f"{name}= must be a positive number .* not 'x'"):
            engine.history_limit(**{name: "x"})


def test_history_by_count(engine: Any) -> None:
    engine.history_limit(count=4)
    for n in range(2, 12):
        commit(engine, "domain.n", n)
    assert engine.stats().history_versions == 4
    assert [engine.state.at(version).version for version in (8, 9, 10, 11)] == [8, 9, 10, 11]
    with pytest.raises(VersionError) as caught:
        engine.state.at(7)
    assert (caught.value.oldest, caught.value.newest) == (8, 11)
    assert "history_limit" in str(caught.value)


def test_history_can_be_shortened_and_lengthened(engine: Any) -> None:
    for n in range(2, 12):
        commit(engine, "domain.n", n)
    engine.history_limit(count=2)
    assert engine.stats().history_versions == 2
    with pytest.raises(VersionError):
        engine.state.at(9)
    engine.history_limit(count=100)
    for n in range(12, 20):
        commit(engine, "domain.n", n)
    assert engine.stats().history_versions == 10
    assert engine.state.at(10)["domain"]["n"] == 10


def test_the_default_history_is_bounded(engine: Any) -> None:
    for n in range(500):
        engine.compare_and_swap(n + 1, data={"domain": {"n": n + 1}})
    assert 1 < engine.stats().history_versions <= 128


def test_a_held_state_survives_its_place_in_the_history(engine: Any) -> None:
    engine.history_limit(count=1)
    held = engine.state
    for n in range(5):
        commit(engine, "domain.n", n + 10)
    assert held["domain"]["n"] == 0 and held.version == 1


@pytest.mark.parametrize("limits", [{"count": 0}, {"count": -1}, {"count": "5"}, {"age": -1.0}])
def test_bad_limits_are_refused(engine: Any, limits: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        engine.history_limit(**limits)


# ---- diff --------------------------------------------------------------------------


def changes(found: Any) -> dict[Any, Any]:
    return {change.path: (plain(change.old), plain(change.new)) for change in found}


def test_diff_names_each_change_with_old_and_new(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain["n"] = 5
        tx.domain["rows"]["a"]["v"] = 2
        tx.domain["rows"]["c"] = {"v": 3}
        del tx.domain["rows"]["b"]
    expected = {
        ("domain", "n"): (0, 5),
        ("domain", "rows", "a", "v"): (1, 2),
        ("domain", "rows", "b"): ({"v": 1}, MISSING),
        ("domain", "rows", "c"): (MISSING, {"v": 3}),
    }
    state = engine.state
    assert changes(state.diff(1, 2)) == expected
    assert changes(state.diff(state.at(1), state)) == expected
    assert changes(state.diff(state.at(1))) == expected == changes(state.diff(1)), "to this one"
    assert changes(engine.diff(1, 2)) == expected


def test_diff_backwards_swaps_old_and_new(engine: Any) -> None:
    commit(engine, "domain.n", 5)
    commit(engine, "domain.rows.a", DELETE)
    assert changes(engine.diff(3, 1)) == {
        ("domain", "n"): (5, 0),
        ("domain", "rows", "a"): (MISSING, {"v": 1}),
    }


def test_diff_of_equal_versions_is_empty(engine: Any) -> None:
    commit(engine, "domain.n", 5)
    commit(engine, "domain.n", 0)
    assert engine.diff(1, 3) == [] == engine.diff(2, 2)


def test_diff_of_containers_replaced_by_values_and_back(engine: Any) -> None:
    commit(engine, "domain.rows", 7)
    assert changes(engine.diff(1, 2)) == {("domain", "rows"): ({"a": {"v": 1}, "b": {"v": 1}}, 7)}


def test_diff_of_lists_can_be_replayed(engine: Any) -> None:
    """However a list is reported: setting each new value at its path gives the new list."""
    with engine.transaction() as tx:
        tx.domain["xs"][0] = 9
    found = engine.diff(1, 2)
    assert found and all(change.path[:2] == ("domain", "xs") for change in found)
    copy = plain(engine.state.at(1).data)
    for change in found:
        place = copy
        for key in change.path[:-1]:
            place = place[key]
        place[change.path[-1]] = plain(change.new)
    assert copy == plain(engine.state.data)


def test_diff_of_versions_that_are_gone(engine: Any) -> None:
    engine.history_limit(count=2)
    for n in range(4):
        commit(engine, "domain.n", n + 1)
    with pytest.raises(VersionError):
        engine.diff(1, 5)


def test_diff_of_states_of_two_engines(engine: Any) -> None:
    other = TheusEngine({"domain": {"n": 0, "rows": {"a": {"v": 2}, "b": {"v": 1}}, "xs": [1, 2]}})
    assert changes(other.state.diff(engine.state)) == {("domain", "rows", "a", "v"): (1, 2)}


# ---- provenance --------------------------------------------------------------------


def test_provenance_names_the_commit_that_wrote_the_path(engine: Any) -> None:
    commit(engine, "domain.n", 1, process="first")
    commit(engine, "domain.rows.a.v", 2, process="second")
    commit(engine, "domain.xs", [3], process="third")
    for look in (engine.provenance, engine.state.provenance):
        record = look(("domain", "rows", "a", "v"))
        assert (record.version, record.process) == (3, "second")
        assert abs(record.time - time.time()) < 3600
        assert look("domain.n").process == "first"
        assert look(("domain", "xs")).version == 4


def test_provenance_sees_the_newest_of_several(engine: Any) -> None:
    for n in range(5):
        commit(engine, "domain.n", n + 1)
        commit(engine, "domain.other", n)
    assert engine.provenance("domain.n").version == 10
    assert engine.state.at(5).provenance("domain.n").version == 4, "as seen from that version"


def test_provenance_of_ancestors_and_descendants(engine: Any) -> None:
    """A path was changed by who changed it, something below it, or replaced what is around it."""
    commit(engine, "domain.rows.a.v", 2)
    assert engine.provenance("domain.rows").version == 2
    commit(engine, "domain.rows", {"a": {"v": 5}})
    assert engine.provenance("domain.rows.a.v").version == 3


def test_provenance_of_a_deletion(engine: Any) -> None:
    commit(engine, "domain.rows.a", DELETE)
    assert engine.provenance("domain.rows.a").version == 2


def test_provenance_of_what_nobody_wrote(engine: Any) -> None:
    commit(engine, "domain.other", 1)
    assert engine.provenance("domain.nothing") is None
    record = engine.provenance("domain.n")
    assert record is None or record.version == 1


def test_provenance_beyond_the_history_is_not_guessed(engine: Any) -> None:
    commit(engine, "domain.n", 5)
    engine.history_limit(count=3)
    for n in range(5):
        commit(engine, "domain.other", n)
    assert engine.provenance("domain.n") is None


def test_provenance_sees_other_threads_and_rebases(engine: Any) -> None:
    tx = begin(engine)
    tx.domain["rows"]["new"] = 1
    elsewhere(commit, engine, "domain.n", 1)
    tx.commit()
    assert engine.provenance(("domain", "rows", "new")).version == 3
    assert engine.provenance(("domain", "rows", "new")).rebased


# ---- closing -----------------------------------------------------------------------


def test_a_closed_engine_refuses_and_says_so(engine: Any) -> None:
    state = engine.state
    engine.close()
    engine.close()
    assert engine.closed
    for use in (
        lambda: engine.transaction().__enter__(),
        lambda: engine.run(lambda tx: None),
        lambda: engine.compare_and_swap(1, data={"x": 1}),
    ):
        with pytest.raises(TheusError, match="closed"):
            use()
    assert state["domain"]["n"] == 0


def test_an_engine_closes_at_the_end_of_its_block() -> None:
    with TheusEngine({"domain": {}}) as engine:
        assert not engine.closed
    assert engine.closed
