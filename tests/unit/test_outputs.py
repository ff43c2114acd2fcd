"""Where returned values go: by position, by name, as StateUpdate, and beside ctx writes."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from helpers import run_threads
from theus import (
    DELETE,
    SET,
    FrozenDict,
    FrozenList,
    FrozenSet,
    StateUpdate,
    TheusEngine,
    process,
)
from theus.errors import (
    ConflictError,
    ContractViolationError,
    PathError,
    ProcessError,
    UnfreezableError,
    VersionError,
)


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine(
        {"domain": {"a": 1, "b": 2, "c": {"k": 1, "z": 2}, "rows": [1, 2]}, "global": {"g": 0}}
    )


def domain(engine: TheusEngine) -> Any:
    return engine.state["domain"].to_dict()


def giving(result: Any, *outputs: str, semantic: str = "effect") -> Callable[[Any], Any]:
    """A process that returns `result`, or what it gives when called with ctx."""

    @process(outputs=outputs, semantic=semantic)
    def give(ctx: Any) -> Any:
        return result(ctx) if callable(result) and not isinstance(result, type) else result

    return give


BOTH = pytest.mark.parametrize("semantic", ["effect", "pure"])


# ---- one output ---------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        0,
        "text",
        False,
        1.5,
        b"raw",
        [1, [2]],
        {"x": {"y": 1}},
        {1, 2},
        (1, 2),
        {},
        [],
        {"a": 1, "b": 2},
    ],
)
def test_the_whole_result_is_the_value(engine: TheusEngine, value: Any, semantic: str) -> None:
    result = engine.run_process(giving(value, "domain.c", semantic=semantic))
    assert result is value, "the caller gets what the function returned"
    assert engine.state["domain"]["c"] == value


@BOTH
def test_a_dict_replaces_and_never_merges(engine: TheusEngine, semantic: str) -> None:
    """Weakness 1 of an earlier program: nothing could be removed."""
    engine.run_process(giving({"only": 1}, "domain.c", semantic=semantic))
    assert domain(engine)["c"] == {"only": 1}
    engine.run_process(giving({}, "domain.c", semantic=semantic))
    assert domain(engine)["c"] == {}


@BOTH
def test_none_changes_nothing_and_set_none_stores_it(engine: TheusEngine, semantic: str) -> None:
    assert engine.run_process(giving(None, "domain.a", semantic=semantic)) is None
    assert domain(engine)["a"] == 1 and engine.version == 1
    engine.run_process(giving(SET(None), "domain.a", semantic=semantic))
    assert domain(engine)["a"] is None and "a" in engine.state["domain"]


@BOTH
def test_delete_removes(engine: TheusEngine, semantic: str) -> None:
    engine.run_process(giving(DELETE, "domain.c.k", semantic=semantic))
    assert domain(engine)["c"] == {"z": 2}
    version = engine.version
    engine.run_process(giving(DELETE, "domain.c.k", semantic=semantic))
    assert engine.version == version, "removing what is not there changes nothing"


def test_none_written_through_ctx_is_stored(engine: TheusEngine) -> None:
    """And reads back as None at once."""

    @process(outputs=["domain.a"])
    def clear(ctx: Any) -> None:
        ctx.domain.a = None
        assert ctx.domain.a is None

    engine.run_process(clear)
    assert domain(engine)["a"] is None


@BOTH
@pytest.mark.parametrize("name", ["domain.c", "c"])
def test_one_output_by_name(engine: TheusEngine, name: str, semantic: str) -> None:
    engine.run_process(giving({name: 5}, "domain.c", semantic=semantic))
    assert domain(engine)["c"] == 5


def test_set_keeps_a_dict_from_being_taken_for_names(engine: TheusEngine) -> None:
    engine.run_process(giving(SET({"c": 5}), "domain.c"))
    assert domain(engine)["c"] == {"c": 5}
    assert SET({"c": 5}) == SET({"c": 5}) != SET(5) and repr(SET(5)) == "SET(5)"


def test_non_string_keys_are_data(engine: TheusEngine) -> None:
    """Weakness 11 of an earlier program: they made the commit raise TypeError."""
    engine.run_process(giving({1: "x", None: "y", (2, "b"): "z"}, "domain.c"))
    assert domain(engine)["c"] == {1: "x", None: "y", (2, "b"): "z"}


def test_roots_aliases_list_items_and_new_roots(engine: TheusEngine) -> None:
    engine.run_process(giving(7, "global_.g"))
    engine.run_process(giving(8, "domain.rows[0]"))
    engine.run_process(giving(9, "heavy.big"))
    engine.run_process(giving({"x": 1}, "domain"))
    assert engine.state.to_dict() == {
        "domain": {"x": 1}, "global": {"g": 7}, "heavy": {"big": 9},
    }  # fmt: skip


@BOTH
def test_the_way_to_an_output_is_made(engine: TheusEngine, semantic: str) -> None:
    engine.run_process(giving(5, "domain.stats.per_day.count", semantic=semantic))
    assert domain(engine)["stats"] == {"per_day": {"count": 5}}


@pytest.mark.parametrize("path", ["domain.rows[9]", "domain.a.x", "domain.new[0].x"])
def test_a_way_that_cannot_be_made_is_an_error(engine: TheusEngine, path: str) -> None:
    with pytest.raises(PathError):
        engine.run_process(giving(5, path))
    assert engine.version == 1


def test_foreign_values_are_refused_with_their_place(engine: TheusEngine) -> None:
    with pytest.raises(UnfreezableError) as caught:
        engine.run_process(giving({"file": object()}, "domain.c"))
    assert caught.value.path is not None and caught.value.path[:2] == ("domain", "c")
    assert engine.version == 1


def test_without_outputs_the_result_is_the_callers(engine: TheusEngine) -> None:
    marker = object()
    assert engine.run_process(giving(marker)) is marker
    assert engine.run_process(lambda ctx: marker) is marker
    assert engine.run_process(giving((1, 2, 3))) == (1, 2, 3)
    assert engine.version == 1


# ---- several outputs ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("kind", [tuple, list])
def test_by_position(engine: TheusEngine, kind: type, semantic: str) -> None:
    result = kind((None, 5, DELETE, SET(None)))
    give = giving(result, "domain.a", "domain.b", "domain.c", "domain.d", semantic=semantic)
    assert engine.run_process(give) is result
    assert domain(engine) == {"a": 1, "b": 5, "rows": [1, 2], "d": None}


@BOTH
@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((1, 2), ["returned 2 values for 3 outputs"]),
        ((1, 2, 3, 4), ["returned 4 values for 3 outputs"]),
        ([], ["returned 0 values for 3 outputs"]),
        (5, ["one value, a int, for 3 outputs"]),
        ("abc", ["one value, a str, for 3 outputs"]),
        ({"a": 1, "d": 2}, ["'d'"]),
        ({5: 1}, ["5"]),
        ({"a": 1, "domain.a": 2}, ["two values", "domain.a"]),
        ({("domain", "x"): 1}, ["('domain', 'x')"]),
    ],
)
def test_results_that_do_not_fit(
    engine: TheusEngine, result: Any, words: list[str], semantic: str
) -> None:
    give = giving(result, "domain.a", "domain.b", "global.g", semantic=semantic)
    with pytest.raises(ContractViolationError) as caught:
        engine.run_process(give)
    for word in [*words, "'give'", "'domain.b'"]:
        assert word in str(caught.value)
    assert engine.version == 1


@BOTH
@pytest.mark.parametrize(
    "result",
    [
        {"domain.a": 5, "g": 6},
        {("domain", "a"): 5, "global.g": 6},
        {"a": 5, "global_.g": 6, "b": None},
        {"g": 6, "a": SET(5)},
    ],
)
def test_by_name(engine: TheusEngine, result: Any, semantic: str) -> None:
    engine.run_process(giving(result, "domain.a", "domain.b", "global_.g", semantic=semantic))
    assert domain(engine)["a"] == 5 and domain(engine)["b"] == 2
    assert engine.state["global"] == {"g": 6}


def test_a_shared_last_segment_must_be_spelled_out(engine: TheusEngine) -> None:
    give = giving({"x": 1}, "domain.x", "global.x")
    with pytest.raises(ContractViolationError, match="whole path"):
        engine.run_process(give)
    engine.run_process(giving({"domain.x": 1, "global.x": 2}, "domain.x", "global.x"))
    assert domain(engine)["x"] == 1 and engine.state["global"]["x"] == 2


def test_an_empty_dict_names_nothing(engine: TheusEngine) -> None:
    engine.run_process(giving({}, "domain.a", "domain.b"))
    assert engine.version == 1


def test_wildcards_take_no_returned_values(engine: TheusEngine) -> None:
    assert engine.run_process(giving("done", "domain.*")) == "done"
    assert engine.version == 1
    engine.run_process(giving(5, "domain.x*", "domain.b"))
    assert domain(engine)["b"] == 5


# ---- written through ctx and returned -----------------------------------------------


def test_a_return_for_one_output_survives_a_write_to_another(engine: TheusEngine) -> None:
    """Weakness 6 of an earlier program: the returned 5 was lost."""

    def body(ctx: Any) -> Any:
        ctx.domain.a = 10
        return None, 5

    engine.run_process(giving(body, "domain.a", "domain.b"))
    assert (domain(engine)["a"], domain(engine)["b"]) == (10, 5)


@pytest.mark.parametrize(
    "write",
    [
        lambda ctx: ctx.domain.c.update(k=9),
        lambda ctx: ctx.domain.__setitem__("c", {"k": 9, "z": 2}),
        lambda ctx: ctx.transaction.set("domain.c.k", 9),
        lambda ctx: ctx.add("domain.c.k", 8),
    ],
)
def test_what_was_written_at_or_below_an_output_stays(engine: TheusEngine, write: Any) -> None:
    def body(ctx: Any) -> str:
        write(ctx)
        return "done"

    assert engine.run_process(giving(body, "domain.c")) == "done"
    assert domain(engine)["c"] == {"k": 9, "z": 2}


def test_written_and_returned_by_position(engine: TheusEngine) -> None:
    def body(ctx: Any) -> Any:
        ctx.domain.a = 10
        return 77, 5

    assert engine.run_process(giving(body, "domain.a", "domain.b")) == (77, 5)
    assert (domain(engine)["a"], domain(engine)["b"]) == (10, 5)


def test_when_all_outputs_are_written_any_result_is_the_callers(engine: TheusEngine) -> None:
    def body(ctx: Any) -> str:
        ctx.domain.a = ctx.domain.b = 5
        return "both"

    assert engine.run_process(giving(body, "domain.a", "domain.b")) == "both"

    def half(ctx: Any) -> str:
        ctx.domain.a = 6
        return "half"

    with pytest.raises(ContractViolationError, match="2 outputs"):
        engine.run_process(giving(half, "domain.a", "domain.b"))


def test_a_different_value_by_name_is_an_error(engine: TheusEngine) -> None:
    def body(ctx: Any, write: Any, give: Any) -> Any:
        ctx.domain.c = write
        return {"domain.c": give, "domain.b": 5}

    declared = process(outputs=["domain.c", "domain.b"])(body)
    with pytest.raises(ContractViolationError, match=r"wrote domain\.c through ctx") as caught:
        engine.run_process(declared, {"x": 1}, {"x": 2})
    assert caught.value.path == ("domain", "c") and engine.version == 1
    engine.run_process(declared, {"x": 1}, {"x": 1})
    assert domain(engine)["c"] == {"x": 1} and domain(engine)["b"] == 5
    engine.run_process(declared, {"x": 2}, SET({"x": 2}))
    with pytest.raises(ContractViolationError):
        engine.run_process(declared, {"x": 3}, DELETE)


def test_a_write_above_an_output_does_not_count_as_one_at_it(engine: TheusEngine) -> None:
    def body(ctx: Any) -> Any:
        ctx.domain.c = {"k": 0}
        return None, 5

    engine.run_process(giving(body, "domain.c", "domain.c.k"))
    assert domain(engine)["c"] == {"k": 5}


# ---- drafts and views in results ----------------------------------------------------


def test_returned_drafts_become_frozen_views(engine: TheusEngine) -> None:
    @process(outputs=["domain.rows", "domain.c"])
    def body(ctx: Any) -> Any:
        rows = ctx.domain.rows
        result = {"domain.c": rows, "rows": rows}
        rows.append(3)
        return result

    result = engine.run_process(body)
    assert isinstance(result["rows"], FrozenList) and result["rows"] == [1, 2, 3]
    assert domain(engine)["c"] == domain(engine)["rows"] == [1, 2, 3]
    engine.run_process(process(outputs=["domain.rows"])(lambda ctx: ctx.domain.rows.clear()))
    assert result["rows"] == [1, 2, 3] == domain(engine)["c"], "content, never a view"


def test_drafts_are_found_inside_containers(engine: TheusEngine) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)

    def body(ctx: Any) -> Any:
        return [(ctx.domain.c, {"deep": [ctx.domain.rows]}), cycle, SET(ctx.domain.c)]

    (c, nested), again, wrapped = engine.run_process(body)
    assert isinstance(c, FrozenDict) and isinstance(nested["deep"][0], FrozenList)
    assert again is cycle and isinstance(wrapped.value, FrozenDict)


def test_what_holds_no_draft_is_returned_as_it_is(engine: TheusEngine) -> None:
    result = [({"a": [1]},)]
    assert engine.run_process(lambda ctx: result) is result


def test_a_removed_draft_is_returned_whole(engine: TheusEngine) -> None:
    @process(outputs=["domain.c"])
    def take(ctx: Any) -> Any:
        return ctx.domain.pop("c")

    assert engine.run_process(take) == {"k": 1, "z": 2} and "c" not in domain(engine)


def test_views_of_a_pure_process_are_stored_as_content(engine: TheusEngine) -> None:
    @process(inputs=["domain"], outputs=["global.copy", "global.rows"], semantic="pure")
    def copy(ctx: Any) -> Any:
        return ctx.domain, ctx.domain.rows + [3]

    whole, rows = engine.run_process(copy)
    assert isinstance(whole, FrozenDict) and rows == [1, 2, 3]
    assert engine.state["global"]["copy"] == whole == domain(engine)
    assert engine.state["global"]["rows"] == [1, 2, 3]


def test_sets_are_kept_as_sets(engine: TheusEngine) -> None:
    engine.run_process(giving({3, 4}, "domain.c"))
    result = engine.run_process(lambda ctx: ctx.domain.c)
    assert isinstance(result, FrozenSet) and result == {3, 4}


@BOTH
def test_a_forgotten_await_is_an_error(engine: TheusEngine, semantic: str) -> None:
    async def later() -> int:
        return 5

    def body(ctx: Any) -> Any:
        return later()

    declared = process(outputs=["domain.a"], semantic=semantic)(body)
    with pytest.raises(ProcessError, match="coroutine"):
        engine.run_process(declared)
    assert engine.version == 1


# ---- StateUpdate --------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("key", ["domain.c.k", ("domain", "c", "k")])
def test_key_and_val(engine: TheusEngine, key: Any, semantic: str) -> None:
    """Weaknesses 8 and 9 of an earlier program: not with two outputs, and written in place."""
    before = engine.state
    update = StateUpdate(key=key, val={"n": [1]})
    assert engine.run_process(giving(update, "domain.c", "domain.b", semantic=semantic)) == update
    assert domain(engine)["c"] == {"k": {"n": [1]}, "z": 2}
    assert before["domain"]["c"] == {"k": 1, "z": 2}
    version = engine.version
    engine.run_process(giving(StateUpdate(key=key), "domain.c", semantic=semantic))
    assert engine.version == version
    engine.run_process(giving(StateUpdate(key=key, val=SET(None)), "domain.c"))
    assert domain(engine)["c"]["k"] is None


def test_data_sets_each_path(engine: TheusEngine) -> None:
    update = StateUpdate(
        data={"domain.a": None, ("domain", "c"): {"x": 1}, "domain.b": DELETE, "domain.new": [1]}
    )
    engine.run_process(giving(update, "domain"))
    assert domain(engine) == {"a": None, "c": {"x": 1}, "rows": [1, 2], "new": [1]}


def test_heavy_and_signal(engine: TheusEngine) -> None:
    """Weakness 2 of an earlier program: both were dropped in silence."""
    update = StateUpdate(heavy={"big.array": 5}, signal={"done": "yes"})
    engine.run_process(giving(update, "heavy", "signal.done"))
    assert engine.state["heavy"] == {"big.array": 5}
    assert engine.state.signals == {"done": "yes"}


@pytest.mark.parametrize(
    "outputs", [(), ("domain",), ("signal.stop",), ("signal.go.on",), ("domain.signal.go",)]
)
def test_signals_of_an_update_are_declared(engine: TheusEngine, outputs: tuple[str, ...]) -> None:
    with pytest.raises(ContractViolationError, match=r"Illegal Write.*signal\.go") as caught:
        engine.run_process(giving(StateUpdate(signal={"go": 1}), *outputs))
    assert caught.value.path == ("signal", "go") and engine.version == 1


@pytest.mark.parametrize("output", ["signal", "signal.*", "signal.g?", "*.go", "**.go"])
def test_ways_to_declare_a_signal(engine: TheusEngine, output: str) -> None:
    engine.run_process(giving(StateUpdate(signal={"go": 1}), output))
    assert engine.state.signals == {"go": 1} and "signal" not in engine.state.data


def test_what_is_returned_for_a_topic_is_sent(engine: TheusEngine) -> None:
    """Weakness 2 of an earlier program: it was ignored without notice."""
    engine.run_process(giving("True", "signal.cmd_stop"))
    assert engine.state.signals == {"cmd_stop": "True"} and "signal" not in engine.state.data
    give = giving((5, None, SET(None)), "domain.a", "signal.quiet", 'signal["a.b"]')
    engine.run_process(give)
    assert engine.state.signals == {"cmd_stop": "True", "a.b": None} and domain(engine)["a"] == 5
    engine.run_process(giving({"go": [1]}, "signal.go", "domain.b"))
    assert engine.state.signals["go"] == [1] and domain(engine)["b"] == 2


@pytest.mark.parametrize(
    ("result", "output"), [(DELETE, "signal.go"), (1, "signal.go.on"), ({"go": 1}, "signal")]
)
def test_what_is_no_signal_is_an_error(engine: TheusEngine, result: Any, output: str) -> None:
    with pytest.raises(ContractViolationError, match="which is no signal"):
        engine.run_process(giving(result, output))
    assert engine.version == 1


def test_a_pure_process_declares_no_signals(engine: TheusEngine) -> None:
    with pytest.raises(ContractViolationError, match="PURE process cannot send signals"):
        engine.run_process(giving(1, "signal.go", semantic="pure"))


@pytest.mark.parametrize(
    "update",
    [
        StateUpdate(key="domain.b", val=1),
        StateUpdate(data={"domain.a": 1, "domain.b": 1}),
        StateUpdate(data={"domain": {"a": 1}}),
        StateUpdate(heavy={"x": 1}),
        StateUpdate(key="elsewhere.x", val=1),
    ],
)
@BOTH
def test_an_update_stays_within_the_outputs(
    engine: TheusEngine, update: StateUpdate, semantic: str
) -> None:
    with pytest.raises(PermissionError, match="Illegal Write"):
        engine.run_process(giving(update, "domain.a", semantic=semantic))
    assert engine.version == 1


@pytest.mark.parametrize(
    "update",
    [
        StateUpdate(key="domain.a", val=1, data={"domain.a": 2}),
        StateUpdate(data={"domain.a": 1, ("domain", "a"): 2}),
        StateUpdate(data={"global.g": 1, "global_.g": 2}),
        StateUpdate(data={"heavy.x": 1}, heavy={"x": 2}),
    ],
)
def test_an_update_has_one_value_for_each_place(engine: TheusEngine, update: StateUpdate) -> None:
    """The first one was dropped in silence."""
    with pytest.raises(ContractViolationError, match="two values"):
        engine.run_process(giving(update, "domain", "global", "heavy"))
    assert engine.version == 1


@pytest.mark.parametrize("key", ["domain_ctx.a", "global_.g", "global_ctx.g"])
def test_an_update_may_use_the_old_names_of_roots(engine: TheusEngine, key: str) -> None:
    engine.run_process(giving(StateUpdate(key=key, val=7), "domain.a", "global_.g"))
    assert 7 in (engine.state["domain"]["a"], engine.state["global"]["g"])
    assert sorted(engine.state.data) == ["domain", "global"]


def test_updates_of_functions_without_contract(engine: TheusEngine) -> None:
    engine.run_process(lambda ctx: StateUpdate(key="shop.stock", val=3))
    assert engine.state["shop"] == {"stock": 3}


def test_a_pure_update_sends_no_signals(engine: TheusEngine) -> None:
    give = giving(StateUpdate(key="domain.a", val=5, signal={"x": 1}), "domain.a", semantic="pure")
    with pytest.raises(ContractViolationError, match="PURE process cannot"):
        engine.run_process(give)
    with pytest.raises(ContractViolationError, match="GUIDE"):
        engine.run_process(giving(StateUpdate(), semantic="guide"))
    assert engine.version == 1


def test_an_update_beside_a_ctx_write(engine: TheusEngine) -> None:
    def body(ctx: Any) -> StateUpdate:
        ctx.domain.a = 5
        return StateUpdate(data={"domain.a": 6})

    with pytest.raises(ContractViolationError, match="another value"):
        engine.run_process(giving(body, "domain.a"))


def test_drafts_in_an_update(engine: TheusEngine) -> None:
    result = engine.run_process(
        giving(lambda ctx: StateUpdate(key="domain.b", val=ctx.domain.rows), "domain")
    )
    assert isinstance(result.val, FrozenList) and domain(engine)["b"] == [1, 2]


def asserting(version: Any, path: str = "domain.a", value: Any = 50) -> Callable[[Any], Any]:
    return giving(StateUpdate(key=path, val=value, assert_version=version), "domain")


def test_assert_version_that_holds(engine: TheusEngine) -> None:
    engine.run_process(asserting(1))
    assert domain(engine)["a"] == 50
    engine.run(lambda tx: tx.set("domain.b", 7))
    engine.run_process(asserting(2, value=51))
    assert domain(engine)["a"] == 51 and domain(engine)["b"] == 7, (
        "a disjoint change is no conflict"
    )


def test_assert_version_that_does_not_hold(engine: TheusEngine) -> None:
    """Weakness 2 of an earlier program: it was ignored. It is not retried: it cannot get better."""
    engine.run(lambda tx: tx.set("domain.a", 7))
    with pytest.raises(ConflictError, match="CAS Version Mismatch") as caught:
        engine.run_process(asserting(1))
    error = caught.value
    assert (error.path, error.expected, error.found) == (("domain", "a"), 1, 2)
    assert getattr(error.winner, "version", None) == 2
    assert domain(engine)["a"] == 7 and engine.version == 2


def test_assert_version_looks_below_and_at_what_is_gone(engine: TheusEngine) -> None:
    engine.run(lambda tx: tx.delete("domain.c.k"))
    with pytest.raises(ConflictError):
        engine.run_process(asserting(1, "domain.c", {}))
    with pytest.raises(ConflictError):
        engine.run_process(asserting(1, "domain.c.k", 0))
    engine.run_process(asserting(1, "domain.c.z", 0))


def test_assert_version_also_guards_what_was_written_through_ctx(engine: TheusEngine) -> None:
    engine.run(lambda tx: tx.set("domain.b", 7))

    def body(ctx: Any) -> StateUpdate:
        ctx.domain.b = 8
        return StateUpdate(key="domain.a", val=8, assert_version=1)

    with pytest.raises(ConflictError):
        engine.run_process(giving(body, "domain"))
    assert engine.version == 2


def test_assert_version_holds_until_the_commit(engine: TheusEngine) -> None:
    """A change between the check and the commit conflicts, and the next attempt tells."""
    attempts: list[int] = []

    class Slow:
        """Frozen like a dict, after a rival has committed."""

        def __call__(self, ctx: Any) -> StateUpdate:
            attempts.append(ctx.state.version)
            update = StateUpdate(key="domain.a", val=50, assert_version=1)
            if len(attempts) == 1:
                ctx.domain.b = 5
                run_threads(1, lambda _: engine.run(lambda tx: tx.set("domain.a", 7)))
            return update

    with pytest.raises(ConflictError):
        engine.run_process(giving(Slow(), "domain"))
    assert attempts == [1, 2] and domain(engine)["a"] == 7 and domain(engine)["b"] == 2


def test_assert_version_of_unknown_versions(engine: TheusEngine) -> None:
    with pytest.raises(VersionError):
        engine.run_process(asserting(999))
    engine.history_limit(count=1)
    engine.run(lambda tx: tx.set("domain.b", 7))
    with pytest.raises(VersionError):
        engine.run_process(asserting(1))
    with pytest.raises(TypeError, match="'1'"):
        engine.run_process(asserting("1"))
    assert engine.version == 2


def test_assert_version_with_strict_cas() -> None:
    engine = TheusEngine({"domain": {"a": 1, "b": 2}}, strict_cas=True)
    engine.run(lambda tx: tx.set("domain.b", 7))
    with pytest.raises(ConflictError, match="Strict CAS Mismatch"):
        engine.run_process(asserting(1))
    engine.run_process(asserting(2))


def test_coroutine_processes_map_alike(engine: TheusEngine) -> None:
    @process(inputs=["domain.a"], outputs=["domain.a", "domain.b"], semantic="pure")
    async def body(ctx: Any) -> Any:
        await asyncio.sleep(0)
        return ctx.domain.a + 1, DELETE

    assert asyncio.run(engine.execute(body)) == (2, DELETE)
    assert domain(engine) == {"a": 2, "c": {"k": 1, "z": 2}, "rows": [1, 2]}


def test_an_update_is_plain_data() -> None:
    update = StateUpdate("domain.a", 5)
    assert (update.key, update.val, update.assert_version) == ("domain.a", 5, None)
    assert update == StateUpdate(key="domain.a", val=5) != StateUpdate("domain.a", 6)
    assert repr(update) == "StateUpdate(key='domain.a', val=5)"
    assert pickle.loads(pickle.dumps(update)) == update


# ---- writing what stands already -------------------------------------------------------------

SAME: dict[str, Callable[[Any], Any]] = {
    "an attribute": lambda ctx: setattr(ctx.domain, "a", 5),
    "an item": lambda ctx: ctx.domain.__setitem__("a", 5),
    "a path": lambda ctx: ctx.transaction.set("domain.a", 5),
    "a tree": lambda ctx: ctx.transaction.update({"domain": {"a": 5}}),
    "and back": lambda ctx: (setattr(ctx.domain, "a", 6), setattr(ctx.domain, "a", 5)),
}


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("way", SAME)
def test_writing_what_stands_already_is_writing(way: str, joined: bool) -> None:
    engine = TheusEngine({"domain": {"a": 5, "b": 1}})

    @process(outputs=["domain.a"])
    def body(ctx: Any, result: Any) -> Any:
        SAME[way](ctx)
        return result

    @process(outputs=["domain"])
    def outer(ctx: Any, result: Any) -> Any:
        ctx.domain.b = 2
        engine.run_process(body, result)

    run = outer if joined else body
    engine.run_process(run, "ok")
    assert engine.state["domain"]["a"] == 5
    engine.run_process(run, {"domain.a": 5})
    with pytest.raises(ContractViolationError, match="returned another value for it by name"):
        engine.run_process(run, {"domain.a": 6})
    assert engine.state["domain"]["a"] == 5


BELOW: dict[str, Callable[[Any], Any]] = {
    "domain.rows": lambda ctx: ctx.domain.rows.__setitem__(0, 1),
    "domain.tags": lambda ctx: ctx.domain.tags.add(1),
    "domain.d": lambda ctx: setattr(ctx.domain.d.x, "y", 1),
}


@pytest.mark.parametrize("path", BELOW)
def test_writing_what_stands_below_an_output_is_writing_it(path: str) -> None:
    engine = TheusEngine({"domain": {"rows": [1, 2], "tags": {1}, "d": {"x": {"y": 1}}}})

    @process(outputs=[path])
    def body(ctx: Any) -> str:
        BELOW[path](ctx)
        return "ok"

    assert engine.run_process(body) == "ok" and engine.version == 1


def test_what_is_read_or_undone_is_not_written() -> None:
    engine = TheusEngine({"domain": {"a": 5, "rows": [1]}})

    @process(inputs=["domain"], outputs=["domain.a"])
    def body(ctx: Any, value: Any) -> Any:
        assert ctx.domain.a and list(ctx.domain.rows) == [1]
        with contextlib.suppress(KeyError), ctx.transaction.savepoint():
            ctx.domain.a = 7
            raise KeyError
        return value

    engine.run_process(body, 6)
    assert engine.state["domain"]["a"] == 6
