"""changes() and wait_for(): what they report, what they leave out, and how they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from helpers import Crash, Crasher
from support import PATIENCE, elsewhere
from theus import MISSING, ClosedError, State, TheusEngine, VersionError, WaitTimeoutError


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"n": 0, "rows": {"a": {"x": 1}, "b": {"x": 2}}, "list": [1, 2]}})


def put(engine: Any, path: Any, value: Any) -> int:
    with engine.transaction(process="put") as tx:
        tx.set(path, value)
    return int(engine.version)


def drain(changes: Any) -> list[Any]:
    items = []
    while (item := changes.poll()) is not None:
        items.append(item)
    return items


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


# ---- what is reported --------------------------------------------------------------------------


def test_every_version_with_its_record(engine: Any) -> None:
    changes = engine.changes()
    assert drain(changes) == []
    for n in (1, 2, 3):
        put(engine, "domain.n", n)
    items = drain(changes)
    assert [item.version for item in items] == [2, 3, 4] == [item.record.version for item in items]
    assert [item.state.domain.n for item in items] == [1, 2, 3]
    assert [item.before.version for item in items] == [1, 2, 3]
    assert {item.record.process for item in items} == {"put"}
    assert {item.missed for item in items} == {0} and changes.missed == 0


def test_only_what_changed_at_the_path_or_below(engine: Any) -> None:
    at_a, at_row, at_n = (
        engine.changes(path) for path in ("domain.rows.a", "domain.rows", ("domain", "n"))
    )
    put(engine, "domain.rows.a.x", 5)  # 2
    put(engine, "domain.n", 7)  # 3
    put(engine, "domain.rows.b", 6)  # 4
    assert [item.version for item in drain(at_a)] == [2]
    assert [item.version for item in drain(at_row)] == [2, 4]
    (item,) = drain(at_n)
    assert (item.version, item.old, item.value, item.path) == (3, 0, 7, ("domain", "n"))


def test_a_path_that_comes_and_goes(engine: Any) -> None:
    changes = engine.changes(("domain", "rows", "c"))
    put(engine, ("domain", "rows", "c"), 1)
    put(engine, ("domain", "rows", "a"), 1)
    with engine.transaction() as tx:
        del tx.domain.rows["c"]
    came, went = drain(changes)
    assert (came.old, came.value) == (MISSING, 1)
    assert (went.old, went.value) == (1, MISSING)


def test_it_is_identity_that_counts(engine: Any) -> None:
    """The same object again is no change, an equal one stored anew is."""
    number = 10**20
    put(engine, "domain.n", number)
    changes = engine.changes("domain.n")
    put(engine, "domain.n", number)
    assert drain(changes) == []
    put(engine, "domain.n", int("1" + 20 * "0"))
    assert [item.value for item in drain(changes)] == [number]
    rows = engine.changes("domain.rows")
    put(engine, "domain.rows", engine.state.domain.rows)
    assert drain(rows) == []
    put(engine, "domain.rows", engine.state.domain.rows.to_dict())
    assert len(drain(rows)) == 1


def test_more_paths_than_a_record_keeps(engine: Any) -> None:
    """Records keep eight paths; what changed is found in the versions, so the ninth counts, too."""
    many = {f"k{n}": {"v": 0} for n in range(30)}
    put(engine, "domain.many", many)
    last = engine.changes("domain.many.k29.v")
    with engine.transaction() as tx:
        for n in range(30):
            tx.domain.many[f"k{n}"]["v"] = 1
    (item,) = drain(last)
    assert len(item.record.paths) == 8 and item.value == 1


def test_diff_of_an_item(engine: Any) -> None:
    changes = engine.changes("domain.rows")
    with engine.transaction() as tx:
        tx.domain.n = 9
        tx.domain.rows.a.x = 3
    (item,) = drain(changes)
    assert [tuple(change) for change in item.diff()] == [(("domain", "rows", "a", "x"), 1, 3)]
    assert len(drain(engine.changes(since=1))[0].diff()) == 2


def test_a_list_by_index(engine: Any) -> None:
    changes = engine.changes(("domain", "list", 1))
    with engine.transaction() as tx:
        tx.domain.list.append(3)
    assert drain(changes) == []
    with engine.transaction() as tx:
        tx.domain.list.insert(0, 0)
    (item,) = drain(changes)
    assert (item.old, item.value) == (2, 1)


# ---- where it begins ---------------------------------------------------------------------------


def test_since(engine: Any) -> None:
    for n in range(5):
        put(engine, "domain.n", n + 10)
    assert [item.version for item in drain(engine.changes(since=3))] == [4, 5, 6]
    assert drain(engine.changes(since=6)) == []
    first = drain(engine.changes(since=0))[0]
    assert (first.version, first.before, first.record, first.missed) == (1, None, None, 0)
    assert first.old is MISSING
    with pytest.raises(VersionError):
        first.diff()
    with pytest.raises(VersionError) as caught:
        engine.changes(since=7)
    assert caught.value.newest == 6


@pytest.mark.parametrize("since", [-1, "3", 1.5])
def test_since_is_a_version(engine: Any, since: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        engine.changes(since=since)


def test_one_goes_on_where_another_has_stopped(engine: Any) -> None:
    first = engine.changes("domain.n")
    put(engine, "domain.n", 1)
    assert len(drain(first)) == 1
    put(engine, "domain.n", 2)
    assert [item.value for item in drain(engine.changes("domain.n", since=first.version))] == [2]


# ---- what is missed ----------------------------------------------------------------------------


def test_what_fell_out_is_counted_exactly() -> None:
    engine = TheusEngine({"d": {"n": 0, "other": 0}}, history=4)
    everything, n_only, other = engine.changes(), engine.changes("d.n"), engine.changes("d.other")
    for n in range(10):
        put(engine, "d.n", n + 1)
    items = drain(everything)
    assert [(item.version, item.missed) for item in items] == [(8, 6), (9, 0), (10, 0), (11, 0)]
    assert everything.missed == 6
    items = drain(n_only)
    assert [(item.version, item.missed) for item in items] == [(8, 6), (9, 0), (10, 0), (11, 0)]
    assert (items[0].before.version, items[0].old, items[0].value) == (1, 0, 7)
    # Nothing to report, and yet it says what it has not seen: at once here, and with the next item.
    assert drain(other) == [] and other.missed == 6
    put(engine, "d.other", 1)
    assert [(item.version, item.missed) for item in drain(other)] == [(12, 6)]


def test_a_start_that_has_left_the_history() -> None:
    engine = TheusEngine({"n": 0}, history=2)
    for n in range(5):
        put(engine, ("n",), n + 1)
    first, second = drain(engine.changes(("n",), since=2))
    assert (first.version, first.missed, first.before, first.value) == (5, 2, None, 4)
    assert (second.version, second.missed, second.old, second.value) == (6, 0, 4, 5)


# ---- in a task ---------------------------------------------------------------------------------


def test_a_task_follows_and_ends_with_the_engine(engine: Any) -> None:
    async def follow() -> list[int]:
        return [item.value async for item in engine.changes("domain.n")]

    async def main() -> None:
        task = asyncio.create_task(follow())
        for n in range(1, 6):
            await asyncio.sleep(0)
            put(engine, "domain.n", n)
        await engine.wait_for_async(lambda state: state.domain.n == 5)
        engine.close()
        seen = await task
        assert seen[-1] == 5 and seen == sorted(seen)

    run(main())


def test_a_task_is_woken_by_a_thread(engine: Any) -> None:
    async def main() -> None:
        changes = engine.changes("domain.n")
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(put, engine, "domain.n", 1)
        assert (await waiting).value == 1

    run(main())


def test_cancelling_a_wait_loses_nothing(engine: Any) -> None:
    async def main() -> None:
        changes = engine.changes("domain.n")
        for _ in range(2):
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        put(engine, "domain.n", 1)
        put(engine, "domain.n", 2)
        assert [(await anext(changes)).value for _ in range(2)] == [1, 2]

    run(main())


def test_a_loop_that_was_closed_hurts_no_commit(engine: Any) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(engine.wait_for_async(lambda state: state.domain.n == 1))
    loop.run_until_complete(asyncio.sleep(0, loop))
    loop.close()
    put(engine, "domain.n", 1)
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]


def test_the_blocking_forms_refuse_a_loop(engine: Any) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            engine.wait_for(lambda state: False)
        with pytest.raises(RuntimeError, match="event loop"):
            next(engine.changes())
        put(engine, "domain.n", 1)
        assert engine.wait_for(lambda state: state.domain.n == 1)  # no wait, no refusal
        assert next(engine.changes(since=1)).version == 2

    run(main())


# ---- ends --------------------------------------------------------------------------------------


def test_close_of_the_engine_ends_the_iteration(engine: Any) -> None:
    changes = engine.changes()
    put(engine, "domain.n", 1)
    engine.close()
    assert [item.version for item in changes] == [2]
    assert changes.closed and changes.poll(None) is None and list(changes) == []


def test_close_of_the_iterator_ends_it(engine: Any) -> None:
    with engine.changes() as changes:
        put(engine, "domain.n", 1)
    assert changes.closed and list(changes) == [] and changes.poll(None) is None
    changes.close()


def test_one_that_is_dropped_leaves_nothing_behind(engine: Any) -> None:
    changes = engine.changes()
    put(engine, "domain.n", 1)
    next(changes)
    del changes

    async def abandon() -> None:
        async for _ in engine.changes():
            break
        task = asyncio.ensure_future(anext(engine.changes()))
        await asyncio.sleep(0)
        task.cancel()

    async def main() -> None:
        task = asyncio.ensure_future(abandon())
        await asyncio.sleep(0)
        put(engine, "domain.n", 2)
        await task

    run(main())
    assert not engine.unlisten(print)
    put(engine, "domain.n", 3)


def test_the_wait_may_not_be_shared(engine: Any) -> None:
    async def main() -> None:
        changes = engine.changes()
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another thread or task"):
            await anext(changes)
        with pytest.raises(RuntimeError, match="another thread or task"):
            elsewhere(next, changes)
        put(engine, "domain.n", 1)
        assert (await first).version == 2

    run(main())


# ---- wait_for ----------------------------------------------------------------------------------


def test_wait_for_asks_at_once(engine: Any) -> None:
    asked: list[int] = []

    def predicate(state: State) -> bool:
        asked.append(state.version)
        return state.domain.n == 0  # type: ignore[no-any-return]

    state = engine.wait_for(predicate, timeout=0)
    assert asked == [1] == [state.version]
    assert run(engine.wait_for_async(predicate, timeout=0)).version == 1


def test_wait_for_returns_the_state_that_satisfied_it(engine: Any) -> None:
    thread = threading.Thread(target=lambda: [put(engine, "domain.n", n) for n in range(1, 50)])
    thread.start()
    state = engine.wait_for(lambda state: state.domain.n >= 20)
    assert state.domain.n >= 20
    thread.join()


def test_wait_for_in_time(engine: Any) -> None:
    with pytest.raises(WaitTimeoutError) as caught:
        engine.wait_for(lambda state: False, timeout=0.01)
    assert (caught.value.timeout, caught.value.version) == (0.01, 1)
    with pytest.raises(TimeoutError, match=r"waited 0\.01 s"):
        run(engine.wait_for_async(lambda state: False, timeout=0.01))


def test_a_predicate_that_raises_is_heard(engine: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        engine.wait_for(lambda state: 1 / state.domain.n)
    with pytest.raises(ZeroDivisionError):
        run(engine.wait_for_async(lambda state: 1 / state.domain.n))


def test_a_predicate_may_use_the_engine(engine: Any) -> None:
    def predicate(state: State) -> bool:
        if state.domain.n < 5:
            put(engine, "domain.n", state.domain.n + 1)
        return state.domain.n == 5  # type: ignore[no-any-return]

    assert engine.wait_for(predicate).version == 6


def test_wait_for_ends_with_the_engine(engine: Any) -> None:
    engine.close()
    assert engine.wait_for(lambda state: True).version == 1
    with pytest.raises(ClosedError):
        engine.wait_for(lambda state: False)
    with pytest.raises(ClosedError):
        run(engine.wait_for_async(lambda state: False))


def test_closing_wakes_a_task(engine: Any) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(engine.wait_for_async(lambda state: False))
        await asyncio.sleep(0)
        engine.close()
        with pytest.raises(ClosedError):
            await waiting

    run(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_bad_timeout_is_named(engine: Any, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout is a time in seconds"):
        engine.wait_for(lambda state: True, timeout)
    with pytest.raises((TypeError, ValueError), match="timeout is a time in seconds"):
        engine.changes().poll(timeout)


def test_a_bad_predicate_is_named(engine: Any) -> None:
    async def predicate(state: State) -> bool:
        return True

    with pytest.raises(TypeError, match="asks a function"):
        engine.wait_for(5)
    with pytest.raises(TypeError, match="plain function"):
        engine.wait_for(predicate)


# ---- listeners ---------------------------------------------------------------------------------


def test_a_listener_is_called_once_after_the_commit(engine: Any) -> None:
    seen: list[int] = []

    def listener() -> None:
        seen.append(engine.version)

    engine.listen(listener)
    put(engine, "domain.n", 1)
    put(engine, "domain.n", 2)
    assert seen == [2] and not engine.unlisten(listener)
    engine.listen(listener)
    assert engine.unlisten(listener)
    put(engine, "domain.n", 3)
    assert seen == [2]


def test_nothing_but_a_commit_calls(engine: Any) -> None:
    called: list[int] = []
    engine.listen(lambda: called.append(1))
    with engine.transaction() as tx:
        assert tx.domain.n == 0
    with pytest.raises(ZeroDivisionError):
        with engine.transaction() as tx:
            tx.domain.n = 1 / 0
    engine.compare_and_swap(1)
    engine.state.update({"domain": {}})
    assert not called
    engine.compare_and_swap(1, {"domain": {"n": 3}})
    assert called == [1]


def test_what_a_listener_raises_reaches_the_committer_after_all_were_called(engine: Any) -> None:
    order: list[str] = []

    def fails() -> None:
        order.append("fails")
        raise ZeroDivisionError

    engine.listen(fails)
    engine.listen(lambda: order.append("second"))
    with pytest.raises(ZeroDivisionError):
        with engine.transaction() as tx:
            tx.domain.n = 1
            tx.on_commit(lambda: order.append("callback"))
    assert order == ["fails", "second", "callback"] and engine.state.domain.n == 1
    with pytest.raises(TypeError):
        engine.listen(5)


def test_shares_passes_errors_of_keys_through() -> None:
    engine = TheusEngine({"d": {}})
    key = Crasher("k")
    put(engine, "d", {key: 1})
    old = engine.state
    put(engine, ("d", "x"), 1)
    assert engine.state.shares(old, ("d", Crasher("k"))) and not engine.state.shares(old)
    with Crasher.armed("eq"), pytest.raises(Crash):
        engine.state.shares(old, ("d", Crasher("k")))
    with pytest.raises(TypeError, match="another State"):
        old.shares(5)
