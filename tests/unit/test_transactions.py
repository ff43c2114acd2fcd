"""The transaction and its methods, one by one; how it ends; what it leaves behind.

Isolation is in test_anomalies.py, runs and coroutines are in test_runs.py, hostile values in
test_hostile.py.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from support import begin, domain, exact, plain
from theus import DELETE, FrozenDict, FrozenList, Opaque, TheusEngine
from theus.errors import (
    ConflictError,
    ContextError,
    PathError,
    TransactionError,
    UnfreezableError,
    WriteTimeoutError,
)


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"n": 1, "xs": [1, 2], "rows": {"a": {"v": 1}}, "tags": {"t"}}})


def trace(engine: Any) -> Any:
    """Everything by which an attempt could betray itself."""
    state, (records, lost) = engine.state, engine.records()
    source = state.provenance(("domain", "n"))
    return (
        engine.stats(), [record.version for record in records], lost, exact(state.to_dict()),
        plain(state.signals), plain(state.heavy), source and source.version, len(state.meta),
    )  # fmt: skip


# ---- beginning and ending ----------------------------------------------------------


def test_a_block_commits_at_its_end(engine: Any) -> None:
    with engine.transaction() as tx:
        assert tx.active and tx.version == 1
        tx.domain["n"] = 2
        assert engine.version == 1, "nothing shows before the end"
    assert not tx.active
    assert tx.version == engine.version == 2
    assert domain(engine)["n"] == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_aborts_and_goes_on(engine: Any, error: type[BaseException]) -> None:
    with pytest.raises(error):
        with engine.transaction() as tx:
            tx.domain["n"] = 2
            raise error
    assert not tx.active and engine.version == 1
    assert domain(engine)["n"] == 1


def test_a_failed_attempt_leaves_no_trace(engine: Any) -> None:
    """No version, record, count, history, provenance, signal or reference."""
    value = Opaque([1])
    tx = begin(engine)
    before = trace(engine)
    held = sys.getrefcount(value)
    tx.set(("domain", "opaque"), value)
    tx.update(data={"new": {"x": 1}}, heavy={"h": 1}, signal={"topic": "payload"})
    tx.add(("domain", "n"), 5)
    ran: list[int] = []
    tx.on_commit(lambda: ran.append(1))
    tx.domain["rows"]["a"].clear()
    tx.rollback()
    del tx
    assert trace(engine) == before and ran == []
    assert sys.getrefcount(value) == held


def test_a_transaction_that_is_dropped_is_aborted(engine: Any) -> None:
    tx = begin(engine)
    tx.domain["n"] = 2
    del tx
    assert domain(engine)["n"] == 1 and engine.version == 1


def test_commit_and_rollback_inside_the_block_end_it(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain["n"] = 2
        tx.commit()
        assert not tx.active
    with engine.transaction() as tx:
        tx.domain["n"] = 3
        tx.rollback()
    assert domain(engine)["n"] == 2 and engine.version == 2


def test_use_after_the_end_is_refused(engine: Any) -> None:
    with engine.transaction() as tx:
        rows = tx.domain["rows"]
    uses = [
        lambda: tx.domain, lambda: tx["domain"], lambda: "domain" in tx, lambda: tx.get("domain"),
        lambda: tx.set(("domain", "n"), 1), lambda: tx.delete(("domain", "n")),
        lambda: tx.update(data={}), lambda: tx.add(("domain", "n"), 1),
        lambda: tx.append(("domain", "xs"), 1), lambda: tx.merge(("domain", "n"), 1, max),
        lambda: tx.on_commit(print), lambda: tx.savepoint().__enter__(), lambda: tx.commit(),
        lambda: tx.__enter__(),
        lambda: rows["a"], lambda: len(rows), lambda: list(rows), lambda: rows.update(b=1),
        lambda: rows == {}, lambda: rows.clear(),
    ]  # fmt: skip
    for number, use in enumerate(uses):
        with pytest.raises(TransactionError) as caught:
            use()
            pytest.fail(f"use {number} was let through")
        assert "end" in str(caught.value) or "over" in str(caught.value)
    assert engine.version == 1


def test_a_rollback_after_the_end_is_harmless(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain["n"] = 2
    tx.rollback()
    assert domain(engine)["n"] == 2


def test_a_draft_of_one_transaction_written_into_another_is_copied(engine: Any) -> None:
    one, two = begin(engine), begin(engine)
    row = one.domain["rows"]["a"]
    two.domain["rows"]["b"] = row
    row["v"] = 99
    assert two.domain["rows"]["b"] == {"v": 1}
    one.rollback()
    two.commit()
    assert domain(engine)["rows"] == {"a": {"v": 1}, "b": {"v": 1}}


def test_a_transaction_without_writes_makes_no_version(engine: Any) -> None:
    before = engine.stats().commits
    for isolation in ("serializable", "snapshot"):
        with engine.transaction(isolation=isolation) as tx:
            assert tx.domain["n"] == 1
        assert tx.version == 1
    assert engine.version == 1 and engine.stats().commits == before


# ---- reading and writing by path ---------------------------------------------------


def test_get_set_delete(engine: Any) -> None:
    with engine.transaction() as tx:
        assert tx.get(("domain", "n")) == tx.get("domain.n") == 1
        assert tx.get(("domain", "xs", 1)) == tx.get("domain.xs[1]") == 2
        assert tx.get("domain.none") is None and tx.get("domain.none.deep", 7) == 7
        tx.set("domain.rows.a.v", 2)
        tx.set(("domain", "rows", 5), [1])
        tx.set("domain.xs[0]", 9)
        tx.delete("domain.n")
        tx.delete(("domain", "tags"))
    assert domain(engine) == {"xs": [9, 2], "rows": {"a": {"v": 2}, 5: [1]}}


def test_get_of_a_container_is_a_draft(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.get("domain.rows")["b"] = 1
    assert domain(engine)["rows"] == {"a": {"v": 1}, "b": 1}


@pytest.mark.parametrize(
    "path", [("domain", "none", "x"), ("domain", "none", "x", "y"), ("none", "x", "y")]
)
def test_set_below_nothing_names_the_path(engine: Any, path: tuple[str, ...]) -> None:
    with engine.transaction() as tx:
        with pytest.raises(KeyError) as caught:
            tx.set(path, 1)
        assert "none" in str(caught.value)
    assert engine.version == 1


def test_set_makes_a_missing_root(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.set(("fresh", "x"), 1)
        tx.set(("whole",), {"y": 2})
    assert plain(engine.state["fresh"]) == {"x": 1} and plain(engine.state["whole"]) == {"y": 2}


@pytest.mark.parametrize("path", ["domain.none", "none", "domain.rows.b", "domain.xs[7]"])
def test_delete_of_what_is_not_there(engine: Any, path: str) -> None:
    with engine.transaction() as tx:
        with pytest.raises((KeyError, IndexError)):
            tx.delete(path)
    assert engine.version == 1


@pytest.mark.parametrize("path", ["domain.n.x", ("domain", "n", "x"), "domain.xs.name"])
def test_set_through_a_value_that_has_no_parts(engine: Any, path: Any) -> None:
    with engine.transaction() as tx:
        with pytest.raises((LookupError, TypeError)):
            tx.set(path, 1)
    assert engine.version == 1


@pytest.mark.parametrize("path", [(), "", 5, None, ["domain"], "domain..x", "domain[", (["x"],)])
def test_a_path_that_is_none(engine: Any, path: Any) -> None:
    """Refused with a message about the path, not with a crash or in silence."""
    with engine.transaction() as tx:
        with pytest.raises((TypeError, ValueError, LookupError, ContextError)):
            tx.set(path, 1)
    assert engine.version == 1


def test_keys_are_never_interpreted(engine: Any) -> None:
    odd = ["a.b", "a[0]", "", "items", "\\", 0, 1.5, None, (1, "x"), b"b", frozenset({1})]
    with engine.transaction() as tx:
        for number, key in enumerate(odd):
            tx.set(("domain", "rows", key), number)
    rows = engine.state["domain"]["rows"]
    assert [rows[key] for key in odd] == list(range(len(odd)))
    assert engine.state.get('domain.rows["a.b"]') == 0 == engine.state.get(r"domain.rows.a\.b")


def test_items_of_the_transaction(engine: Any) -> None:
    with engine.transaction() as tx:
        assert "domain" in tx and "other" not in tx
        tx["other"] = {"x": 1}
        assert tx["other"] == {"x": 1} and "other" in tx
        assert tx.other["x"] == 1
        del tx["domain"]
        assert "domain" not in tx
        with pytest.raises(KeyError):
            tx["domain"]
        with pytest.raises(AttributeError):
            tx.nothing  # noqa: B018
    assert exact(engine.state.to_dict()) == exact({"other": {"x": 1}})


def test_operations_lists_what_was_written(engine: Any) -> None:
    with engine.transaction() as tx:
        assert tx.operations() == []
        tx.domain["rows"]["a"]["v"] = 2
        tx.delete("domain.n")
        tx.add(("domain", "count"), 1)
        tx.append(("domain", "log"), 1)
        tx.domain["xs"].insert(0, 5)
        assert set(tx.operations()) == {
            ("set", ("domain", "rows", "a", "v")),
            ("delete", ("domain", "n")),
            ("add", ("domain", "count")),
            ("append", ("domain", "log")),
            ("set", ("domain", "xs")),
        }
        tx.rollback()


# ---- update ------------------------------------------------------------------------


def test_update_merges_dicts_deeply(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.update(data={"domain": {"rows": {"a": {"w": 2}, "b": {}}, "xs": [3]}, "new": {"x": {}}})
    assert domain(engine) == {
        "n": 1, "xs": [3], "rows": {"a": {"v": 1, "w": 2}, "b": {}}, "tags": {"t"},
    }  # fmt: skip
    assert plain(engine.state["new"]) == {"x": {}}


def test_update_replaces_what_is_no_dict(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.update(data={"domain": {"n": {"now": "a dict"}, "rows": 5}})
    assert domain(engine)["n"] == {"now": "a dict"} and domain(engine)["rows"] == 5


def test_update_deletes_what_is_marked(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.update(data={"domain": {"n": DELETE, "rows": {"a": DELETE}}})
        assert "n" not in tx.domain
    assert domain(engine) == {"xs": [1, 2], "rows": {}, "tags": {"t"}}


def test_update_with_paths_and_dots(engine: Any) -> None:
    """A tuple is a path; a text key is one key, dots and all; what looks like a mistake is one."""
    with engine.transaction() as tx:
        tx.update(data={("domain", "rows", "a"): {"w": 2}, "domain": {"file.txt": 1}, "top.key": 2})
        with pytest.raises((ValueError, ContextError)) as caught:
            tx.update(data={"domain.n": 5})
        assert "('domain', 'n')" in str(caught.value)
    assert domain(engine)["rows"] == {"a": {"v": 1, "w": 2}}
    assert domain(engine)["file.txt"] == 1 and engine.state["top.key"] == 2


@pytest.mark.parametrize("data", [5, "text", [("domain", 1)], {1, 2}])
def test_update_with_something_else(engine: Any, data: Any) -> None:
    with engine.transaction() as tx:
        with pytest.raises((ContextError, TypeError)):
            tx.update(data=data)
    assert engine.version == 1


def test_update_heavy_and_signal(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.update(heavy={"array": (1, 2)}, signal={"done": {"id": 1}})
    state = engine.state
    assert state.heavy["array"] == (1, 2)
    assert state.signals["done"] == {"id": 1}
    with engine.transaction() as tx:
        tx.update(signal={"other": 2})
    assert state.signals.get("other") is None, "an old version keeps its signals"
    assert engine.state.signals["other"] == 2


def test_values_are_copied_in(engine: Any) -> None:
    """What the caller does with an object afterwards changes nothing."""
    row = {"xs": [1]}
    with engine.transaction() as tx:
        tx.domain["rows"]["b"] = row
        tx.update(data={"domain": {"c": row}})
        tx.set("domain.d", row)
        row["xs"].append(2)
        assert tx.domain["rows"]["b"] == {"xs": [1]}
    row["xs"].append(3)
    for place in ("rows.b", "c", "d"):
        assert engine.state.get(f"domain.{place}") == {"xs": [1]}


@pytest.mark.parametrize("value", [object(), bytearray(b"x"), iter([]), [[object()]]])
def test_values_that_a_state_cannot_own(engine: Any, value: Any) -> None:
    with engine.transaction() as tx:
        with pytest.raises(UnfreezableError) as caught:
            tx.set("domain.x", value)
        assert caught.value.path is not None and caught.value.path[:2] == ("domain", "x")
        assert "Opaque" in str(caught.value) or "store list(value)" in str(caught.value)
        with pytest.raises(UnfreezableError):
            tx.domain["x"] = value
    assert "x" not in engine.state["domain"] and engine.version == 1


# ---- deferred operations -----------------------------------------------------------


def test_add(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.add("domain.n", 5)
        tx.add(("domain", "n"), 2.5)
        tx.add("domain.fresh", 3)
        tx.add("domain.xs[1]", 10)
        assert tx.domain["n"] == 8.5, "own deferred operations are seen"
    assert domain(engine)["n"] == 8.5 and domain(engine)["fresh"] == 3
    assert domain(engine)["xs"] == [1, 12]


def test_append(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.append("domain.xs", 3)
        tx.append("domain.fresh", {"a": 1})
    assert domain(engine)["xs"] == [1, 2, 3] and domain(engine)["fresh"] == [{"a": 1}]


def test_merge_resolves_against_the_newest_value(engine: Any) -> None:
    """The resolver gets what stands at the commit, not what stood at the beginning."""
    calls: list[Any] = []

    def union(current: Any, mine: Any) -> Any:
        calls.append((plain(current), plain(mine)))
        return sorted({*current, *mine})

    tx = begin(engine)
    tx.merge("domain.xs", [5, 1], union)
    with engine.transaction() as other:
        other.domain["xs"].append(7)
    tx.commit()
    assert domain(engine)["xs"] == [1, 2, 5, 7]
    assert calls[-1] == ([1, 2, 7], [5, 1])
    assert engine.stats().conflicts == 0


def test_an_append_to_what_is_no_list_says_what_is_there(engine: Any) -> None:
    for path, found in ("domain.n", "1"), ("domain.rows", "FrozenDict"):
        with pytest.raises(TypeError, match=f"{path} holds {found}.* appends to a list"):
            engine.run(lambda tx, path=path: tx.append(path, 3))


def test_a_list_is_asked_by_index(engine: Any) -> None:
    with pytest.raises(PathError, match=r"domain\.xs\['0'\]: .* as in log\[0\]"):
        engine.run(lambda tx: tx.set("domain.xs.0", 5))
    with pytest.raises(PathError, match=r"domain\.xs\[2\]: .* append\(\) makes it longer"):
        engine.run(lambda tx: tx.set("domain.xs[2]", 5))
    engine.run(lambda tx: tx.set("domain.xs[0]", 5))
    assert domain(engine)["xs"] == [5, 2]


@pytest.mark.parametrize("method, operand", [("add", "text"), ("append", 1)])
def test_a_deferred_operation_that_cannot_be_done(engine: Any, method: str, operand: Any) -> None:
    """It fails at the call or at the commit, with a type error, and nothing is written."""
    with pytest.raises((TypeError, ContextError)):
        with engine.transaction() as tx:
            tx.domain["new"] = 1
            getattr(tx, method)("domain.n", operand)
    assert engine.version == 1 and "new" not in engine.state["domain"]


def test_a_resolver_that_raises_aborts_the_commit(engine: Any) -> None:
    def resolver(current: Any, mine: Any) -> Any:
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        with engine.transaction() as tx:
            tx.domain["n"] = 2
            tx.merge("domain.xs", [1], resolver)
    assert not tx.active and domain(engine)["n"] == 1 and engine.version == 1


# ---- on_commit ---------------------------------------------------------------------


def test_callbacks_run_after_the_commit_in_order(engine: Any) -> None:
    seen: list[Any] = []
    with engine.transaction() as tx:
        tx.on_commit(lambda: seen.append(("first", engine.version, domain(engine)["n"])))
        tx.on_commit(lambda: seen.append("second"))
        tx.domain["n"] = 2
        assert seen == []
    assert seen == [("first", 2, 2), "second"]


def test_a_callback_may_use_the_engine(engine: Any) -> None:
    """No lock is held, and the transaction has ended: it is not joined."""

    def more() -> None:
        with engine.transaction() as inner:
            inner.domain["n"] += 10

    with engine.transaction() as tx:
        tx.domain["n"] = 2
        tx.on_commit(more)
    assert domain(engine)["n"] == 12 and engine.version == 3


def test_callbacks_of_a_conflict_do_not_run(engine: Any) -> None:
    tx = begin(engine)
    tx.domain["n"] += 1
    ran: list[int] = []
    tx.on_commit(lambda: ran.append(1))
    with engine.transaction() as other:
        other.domain["n"] += 1
    with pytest.raises(ConflictError):
        tx.commit()
    assert ran == []


# ---- savepoints --------------------------------------------------------------------


def test_a_savepoint_keeps_or_undoes(engine: Any) -> None:
    with engine.transaction() as tx:
        with tx.savepoint():
            tx.domain["n"] = 2
        with pytest.raises(ValueError):
            with tx.savepoint():
                tx.domain["n"] = 3
                tx.domain["xs"].append(9)
                del tx.domain["rows"]["a"]
                tx.domain["new"] = {"x": 1}
                tx.add("domain.count", 5)
                raise ValueError
        assert tx.active
        assert tx.domain == {"n": 2, "xs": [1, 2], "rows": {"a": {"v": 1}}, "tags": {"t"}}
    assert domain(engine)["n"] == 2 and engine.version == 2


def test_savepoints_nest(engine: Any) -> None:
    with engine.transaction() as tx:
        with pytest.raises(ValueError):
            with tx.savepoint():
                tx.domain["n"] = 2
                with tx.savepoint():
                    tx.domain["xs"].append(3)
                assert tx.domain["xs"] == [1, 2, 3]
                with pytest.raises(KeyError):
                    with tx.savepoint():
                        tx.domain["xs"].append(4)
                        raise KeyError
                assert tx.domain["xs"] == [1, 2, 3]
                raise ValueError
        assert tx.domain["n"] == 1 and tx.domain["xs"] == [1, 2]
    assert engine.version == 1, "all undone is nothing done"


def test_a_nested_transaction_joins_as_a_savepoint(engine: Any) -> None:
    """One commit for all of it; the inner block that fails takes back only its own part."""
    with engine.transaction() as outer:
        outer.domain["n"] = 2
        with engine.transaction() as inner:
            assert inner.domain["n"] == 2
            inner.domain["xs"].append(3)
        assert engine.version == 1, "the inner block has committed nothing by itself"
        with pytest.raises(ValueError):
            with engine.transaction() as inner:
                inner.domain["n"] = 99
                raise ValueError
        assert outer.domain["n"] == 2
    assert engine.version == 2
    assert domain(engine)["n"] == 2 and domain(engine)["xs"] == [1, 2, 3]


def test_what_an_undone_savepoint_registered_does_not_run(engine: Any) -> None:
    ran: list[str] = []
    with engine.transaction() as tx:
        tx.on_commit(lambda: ran.append("outer"))
        with pytest.raises(ValueError):
            with tx.savepoint():
                tx.on_commit(lambda: ran.append("undone"))
                raise ValueError
        with tx.savepoint():
            tx.on_commit(lambda: ran.append("kept"))
        tx.domain["n"] = 2
    assert ran == ["outer", "kept"]


def test_a_draft_made_in_an_undone_savepoint_is_dead(engine: Any) -> None:
    """A container that never was cannot be written to; one that was goes on as it was."""
    with engine.transaction() as tx:
        old = tx.domain["rows"]
        with pytest.raises(ValueError):
            with tx.savepoint():
                tx.domain["new"] = {}
                new = tx.domain["new"]
                old["b"] = 1
                raise ValueError
        assert old == {"a": {"v": 1}}
        old["c"] = 2
        with pytest.raises(TransactionError):
            new["x"] = 1
    assert domain(engine)["rows"] == {"a": {"v": 1}, "c": 2} and "new" not in domain(engine)


# ---- read-only, isolation, timeout -------------------------------------------------


def test_read_only_refuses_every_write(engine: Any) -> None:
    with engine.transaction(read_only=True) as tx:
        assert tx.read_only and tx.domain["rows"]["a"]["v"] == 1
        writes = [
            lambda: tx.set("domain.n", 1), lambda: tx.delete("domain.n"),
            lambda: tx.update(data={"domain": {"n": 2}}), lambda: tx.add("domain.n", 1),
            lambda: tx.append("domain.xs", 1), lambda: tx.merge("domain.n", 1, max),
            lambda: tx.domain.update(n=2), lambda: tx.domain["xs"].append(1),
            lambda: tx.domain["xs"].sort(), lambda: tx.domain["tags"].add("u"),
            lambda: tx.domain["rows"].pop("a"), lambda: tx.__setitem__("x", 1),
            lambda: tx.update(signal={"s": 1}),
        ]  # fmt: skip
        for number, write in enumerate(writes):
            with pytest.raises(TransactionError, match="read.only"):
                write()
                pytest.fail(f"write {number} was let through")
    assert engine.version == 1 and len(domain(engine)["rows"]) == 1


def test_read_only_never_conflicts(engine: Any) -> None:
    tx = begin(engine, read_only=True)
    assert tx.domain["n"] == 1
    engine.compare_and_swap(1, data={"domain": {"n": 2}})
    assert tx.domain["n"] == 1 and tx.version == 1
    tx.commit()
    assert engine.version == 2 and engine.stats().conflicts == 0


@pytest.mark.parametrize("isolation", ["", "SERIALIZABLE", "read committed", "Snapshot", None, 1])
def test_an_unknown_isolation_is_named(engine: Any, isolation: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        engine.transaction(isolation=isolation)
    if isinstance(isolation, str):
        assert isinstance(caught.value, ValueError)
        assert repr(isolation) in str(caught.value)
        assert "serializable" in str(caught.value) and "snapshot" in str(caught.value)
    with pytest.raises((ValueError, TypeError)):
        engine.run(lambda tx: None, isolation=isolation)


def test_the_level_is_shown(engine: Any) -> None:
    for isolation in ("serializable", "snapshot"):
        tx = begin(engine, isolation)
        assert tx.isolation == isolation and isolation in repr(tx)
        tx.rollback()


@pytest.mark.parametrize("timeout", [-1, "5", 1.5, None])
def test_a_bad_timeout_is_refused(engine: Any, timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        engine.transaction(write_timeout_ms=timeout)


def test_a_transaction_that_took_too_long_is_rolled_back(engine: Any) -> None:
    with pytest.raises(WriteTimeoutError) as caught:
        with engine.transaction(write_timeout_ms=1) as tx:
            tx.domain["n"] = 2
            time.sleep(0.02)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.limit_ms == 1 and caught.value.elapsed_ms >= 1
    assert not tx.active and domain(engine)["n"] == 1 and engine.version == 1


def test_a_commit_that_never_settles_ends_at_the_timeout(engine: Any) -> None:
    """The resolver moves the version each time it is asked, so each attempt to publish is stale."""

    def resolver(current: Any, mine: Any) -> Any:
        engine.compare_and_swap(engine.version, data={"domain": {"moved": engine.version}})
        return mine

    with pytest.raises((WriteTimeoutError, ConflictError)):
        with engine.transaction(write_timeout_ms=100) as tx:
            tx.merge("domain.xs", [9], resolver)
    assert not tx.active and domain(engine)["xs"] == [1, 2]


def test_a_slow_transaction_without_writes_is_let_go(engine: Any) -> None:
    """It is a *write* timeout: a long look costs nobody anything."""
    with engine.transaction(write_timeout_ms=1, read_only=True) as tx:
        assert tx.domain["n"] == 1
        time.sleep(0.02)


def test_the_timeout_stands_on_the_transaction(engine: Any) -> None:
    assert engine.transaction().write_timeout_ms == 5000
    assert engine.transaction(write_timeout_ms=70).write_timeout_ms == 70


# ---- a few drafts, as users write them (the rest: model/test_drafts.py) ------------


def test_drafts_in_the_way_of_python(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain["n"] -= 5
        tx.domain.rows["a"]["v"] += 1
        tx.domain["xs"] += [4, 3]
        tx.domain["xs"].sort(key=lambda x: -x)
        tx.domain["tags"] |= {"u"}
        tx.domain.rows.setdefault("b", []).append({"deep": [1]})
        tx.domain.rows["b"][0]["deep"][0] = 2
    assert domain(engine) == {
        "n": -4, "xs": [4, 3, 2, 1], "rows": {"a": {"v": 2}, "b": [{"deep": [2]}]},
        "tags": {"t", "u"},
    }  # fmt: skip


def test_drafts_follow_their_container(engine: Any) -> None:
    engine.compare_and_swap(1, data={"domain": {"xs": [{"id": 3}, {"id": 1}, {"id": 2}]}})
    with engine.transaction() as tx:
        xs = tx.domain["xs"]
        three = xs[0]
        xs.insert(0, {"id": 0})
        three["seen"] = "after insert"
        xs.sort(key=lambda row: row["id"])
        three["sorted"] = True
        assert xs[3] == {"id": 3, "seen": "after insert", "sorted": True}
        xs.remove({"id": 3, "seen": "after insert", "sorted": True})
        three["id"] = 99
        assert three["id"] == 99 and len(xs) == 3
    assert domain(engine)["xs"] == [{"id": 0}, {"id": 1}, {"id": 2}]


def test_assignment_replaces_and_copies(engine: Any) -> None:
    with engine.transaction() as tx:
        old = tx.domain["rows"]["a"]
        tx.domain["rows"]["a"] = {"w": 2}
        old["v"] = 99
        tx.domain["rows"]["b"] = tx.domain["rows"]["a"]
        tx.domain["rows"]["a"]["w"] = 3
    assert domain(engine)["rows"] == {"a": {"w": 3}, "b": {"w": 2}}


def test_attribute_access_never_hides_a_method(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.domain["items"] = 1
        assert tx.domain["items"] == 1 and callable(tx.domain.items)
        with pytest.raises(AttributeError):
            tx.domain.nothing  # noqa: B018


def test_a_frozen_copy_of_a_draft_stays(engine: Any) -> None:
    with engine.transaction() as tx:
        frozen, copy = tx.domain["rows"].freeze(), tx.domain["xs"].copy()
        tx.domain["rows"]["b"] = 1
        tx.domain["xs"].append(3)
        assert isinstance(frozen, FrozenDict) and frozen == {"a": {"v": 1}}
        assert type(copy) is list and copy == [1, 2]
        assert isinstance(tx.domain["xs"].freeze(), FrozenList)
    assert frozen == {"a": {"v": 1}}, "and outlives the transaction"
