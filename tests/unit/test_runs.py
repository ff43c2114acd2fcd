"""engine.run and its kin: bodies that can be run again, in threads and in asyncio tasks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from support import PATIENCE, domain, elsewhere, plain
from theus import FrozenDict, FrozenList, FrozenSet, TheusEngine
from theus.errors import ConflictError, TransactionError, WriteTimeoutError


@pytest.fixture
def engine() -> Any:
    return TheusEngine({"domain": {"n": 0, "m": 0, "rows": {"a": [1]}, "tags": {1}}})


def disturb(engine: Any) -> None:
    """Another thread commits a change of n."""
    elsewhere(engine.run, bump)


def bump(tx: Any) -> int:
    tx.domain["n"] += 1
    return int(tx.domain["n"])


class Disturbed:
    """A body that meets a conflict in its first `times` attempts."""

    def __init__(self, engine: Any, times: int) -> None:
        self.engine, self.times, self.attempts = engine, times, 0

    def __call__(self, tx: Any) -> int:
        self.attempts += 1
        value = tx.domain["n"]
        if self.attempts <= self.times:
            disturb(self.engine)
        tx.domain["n"] = value + 100
        return self.attempts


# ---- run ---------------------------------------------------------------------------


def test_run_commits_and_returns(engine: Any) -> None:
    def body(tx: Any, by: int, name: str) -> str:
        tx.domain[name] += by
        return f"{name} is {tx.domain[name]}"

    assert engine.run(body, 5, "n") == "n is 5"
    assert domain(engine)["n"] == 5 and engine.version == 2


def test_run_aborts_when_the_body_raises(engine: Any) -> None:
    calls = []

    def body(tx: Any) -> None:
        calls.append(1)
        tx.domain["n"] = 5
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        engine.run(body)
    assert len(calls) == 1, "an error of the body is not a conflict"
    assert domain(engine)["n"] == 0 and engine.version == 1


def test_run_retries_on_a_fresh_snapshot(engine: Any) -> None:
    body = Disturbed(engine, 3)
    assert engine.run(body) == 4
    assert domain(engine)["n"] == 103, "every commit counted, no attempt counted twice"
    stats = engine.stats()
    assert (stats.retries, stats.conflicts) == (3, 3)
    assert stats.conflicts_by_path == {("domain", "n"): 3}
    assert engine.version == 5


def test_a_failed_attempt_of_a_run_leaves_nothing(engine: Any) -> None:
    """Callbacks, deferred operations, signals and other writes of it are gone."""
    ran: list[int] = []
    attempts: list[int] = []

    def body(tx: Any) -> None:
        attempts.append(tx.domain["n"])
        number = len(attempts)
        tx.on_commit(lambda: ran.append(number))
        tx.add("domain.m", 1000)
        tx.append("domain.rows.a", len(attempts))
        tx.update(signal={f"attempt {len(attempts)}": 1})
        if len(attempts) == 1:
            tx.domain["only first"] = 1
            disturb(engine)
        tx.domain["n"] += 1

    engine.run(body)
    assert attempts == [0, 1] and ran == [2]
    assert domain(engine) == {"n": 2, "m": 1000, "rows": {"a": [1, 2]}, "tags": {1}}
    assert plain(engine.state.signals) == {"attempt 2": 1}


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_bound_the_attempts(engine: Any, retries: int) -> None:
    body = Disturbed(engine, 1000)
    with pytest.raises(ConflictError) as caught:
        engine.run(body, retries=retries)
    assert body.attempts == retries + 1 == caught.value.attempts
    assert caught.value.path == ("domain", "n")
    assert domain(engine)["n"] == retries + 1, "only the others' commits"


def test_a_deadline_bounds_the_attempts(engine: Any) -> None:
    body = Disturbed(engine, 10**9)
    with pytest.raises((ConflictError, WriteTimeoutError)):
        engine.run(body, deadline=0.1)
    assert body.attempts >= 1
    assert domain(engine)["n"] == body.attempts


@pytest.mark.parametrize("options", [{"retries": -1}, {"deadline": -1.0}, {"retries": "3"}])
def test_bad_bounds_are_refused(engine: Any, options: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        engine.run(bump, **options)
    assert engine.version == 1


def test_a_snapshot_run_does_not_retry_for_reads(engine: Any) -> None:
    attempts = []

    def body(tx: Any) -> None:
        attempts.append(tx.domain["n"])
        disturb(engine)
        tx.domain["fresh"] = 1

    engine.run(body, isolation="snapshot")
    assert attempts == [0] and engine.stats().retries == 0


def test_conflict_errors_of_the_body_itself_are_not_swallowed(engine: Any) -> None:
    """A ConflictError that is not from this transaction's commit ends the run."""
    calls = []

    def body(tx: Any) -> None:
        calls.append(1)
        raise ConflictError(("somewhere", "else"), 1, 2)

    with pytest.raises(ConflictError):
        engine.run(body, retries=2)
    assert calls in ([1], [1, 1, 1])


# ---- returned drafts ---------------------------------------------------------------


def test_returned_drafts_are_frozen_views_of_their_final_content(engine: Any) -> None:
    def body(tx: Any) -> Any:
        rows = tx.domain["rows"]
        result = (rows, [rows["a"]], {"tags": tx.domain["tags"]}, "text")
        rows["a"].append(2)
        tx.domain["tags"].add(2)
        return result

    rows, inner, named, text = engine.run(body)
    assert isinstance(rows, FrozenDict) and rows == {"a": [1, 2]}
    assert isinstance(inner[0], FrozenList) and inner[0] == [1, 2]
    assert isinstance(named["tags"], FrozenSet) and named["tags"] == {1, 2}
    assert text == "text"
    engine.run(lambda tx: tx.domain["rows"].clear())
    assert rows == {"a": [1, 2]}, "and they stay"


def test_a_returned_draft_that_was_taken_out(engine: Any) -> None:
    result = engine.run(lambda tx: tx.domain["rows"].pop("a"))
    assert result == [1] and isinstance(result, FrozenList)
    assert domain(engine)["rows"] == {}


# ---- nested runs -------------------------------------------------------------------


def test_a_nested_run_joins_as_a_savepoint(engine: Any) -> None:
    def inner(tx: Any, fail: bool) -> None:
        tx.domain["m"] += 1
        if fail:
            raise ValueError

    def outer(tx: Any) -> None:
        tx.domain["n"] = 1
        engine.run(inner, False)
        with pytest.raises(ValueError):
            engine.run(inner, True)
        assert tx.domain["m"] == 1 and engine.version == 1

    engine.run(outer)
    assert engine.version == 2 and (domain(engine)["n"], domain(engine)["m"]) == (1, 1)


def test_a_nested_run_is_undone_with_the_outer(engine: Any) -> None:
    def outer(tx: Any) -> None:
        engine.run(bump)
        raise ValueError

    with pytest.raises(ValueError):
        engine.run(outer)
    assert engine.version == 1


def test_reads_of_a_nested_run_count_for_the_outer(engine: Any) -> None:
    """What an inner part read decides the whole, whether it was kept or not."""
    attempts = []

    def inner(tx: Any) -> None:
        attempts.append(tx.domain["n"])
        raise ValueError

    def outer(tx: Any) -> None:
        with pytest.raises(ValueError):
            engine.run(inner)
        if len(attempts) == 1:
            disturb(engine)
        tx.domain["fresh"] = 1

    engine.run(outer)
    assert attempts == [0, 1]


def test_a_run_in_a_child_thread_of_a_body_names_detached(engine: Any) -> None:
    """It inherits the context, so joining was surely meant, and cannot be had."""

    def outer(tx: Any) -> None:
        tx.domain["n"] += 1
        context = contextvars.copy_context()
        errors: list[BaseException] = []

        def child() -> None:
            try:
                context.run(engine.run, bump)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=child)
        thread.start()
        thread.join(PATIENCE)
        assert isinstance(errors[0], TransactionError)
        assert "detached=True" in str(errors[0])

    engine.run(outer)
    assert domain(engine)["n"] == 1


def test_a_detached_run_commits_by_itself(engine: Any) -> None:
    def inner(tx: Any) -> None:
        tx.domain["m"] += 1

    def outer(tx: Any) -> None:
        engine.run(inner, detached=True)
        assert engine.version == 2 and tx.domain["m"] == 0
        raise ValueError

    with pytest.raises(ValueError):
        engine.run(outer)
    assert domain(engine)["m"] == 1


def test_runs_of_two_engines_do_not_join(engine: Any) -> None:
    other = TheusEngine({"domain": {"n": 0}})

    def outer(tx: Any) -> None:
        other.run(bump)
        assert domain(other)["n"] == 1 and domain(engine)["n"] == 0
        bump(tx)

    engine.run(outer)
    assert domain(engine)["n"] == 1


# ---- transactional -----------------------------------------------------------------


def test_transactional_runs_the_body_again(engine: Any) -> None:
    disturbed = Disturbed(engine, 2)

    @engine.transactional
    def add_hundred(tx: Any, note: str) -> str:
        """The docstring stays."""
        return f"{note} {disturbed(tx)}"

    assert add_hundred("attempt") == "attempt 3"
    assert add_hundred.__name__ == "add_hundred" and "stays" in add_hundred.__doc__
    assert domain(engine)["n"] == 102


def test_transactional_coroutines(engine: Any) -> None:
    attempts = []

    @engine.transactional
    async def body(tx: Any, by: int) -> int:
        attempts.append(1)
        value = tx.domain["n"]
        await asyncio.sleep(0)
        if len(attempts) == 1:
            disturb(engine)
        tx.domain["n"] = value + by
        return int(tx.domain["n"])

    assert asyncio.run(body(100)) == 101
    assert len(attempts) == 2


# ---- asyncio -----------------------------------------------------------------------


def test_run_async_retries(engine: Any) -> None:
    attempts = []

    async def body(tx: Any, by: int) -> Any:
        attempts.append(1)
        value = tx.domain["n"]
        await asyncio.sleep(0)
        if len(attempts) <= 2:
            disturb(engine)
        tx.domain["n"] = value + by
        return tx.domain["rows"]

    rows = asyncio.run(engine.run_async(body, 100))
    assert isinstance(rows, FrozenDict) and rows == {"a": [1]}
    assert domain(engine)["n"] == 102 and len(attempts) == 3


def test_run_async_bounds_its_attempts(engine: Any) -> None:
    async def body(tx: Any) -> None:
        value = tx.domain["n"]
        disturb(engine)
        tx.domain["n"] = value + 100

    with pytest.raises(ConflictError):
        asyncio.run(engine.run_async(body, retries=2))
    assert domain(engine)["n"] == 3


def test_run_async_aborts_on_cancel(engine: Any) -> None:
    async def body(tx: Any, started: asyncio.Event) -> None:
        tx.domain["n"] = 99
        started.set()
        await asyncio.sleep(3600)

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(engine.run_async(body, started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert engine.version == 1


def test_tasks_on_one_loop_have_their_own_transactions(engine: Any) -> None:
    """Two hundred increments of one counter from ten tasks that await in the middle."""

    async def increment(tx: Any) -> None:
        value = tx.domain["n"]
        await asyncio.sleep(0)
        tx.domain["n"] = value + 1

    async def task() -> None:
        for _ in range(20):
            await engine.run_async(increment, deadline=PATIENCE)

    async def main() -> None:
        await asyncio.gather(*(task() for _ in range(10)))

    asyncio.run(main())
    assert domain(engine)["n"] == 200 == engine.stats().commits == engine.version - 1


def test_async_with(engine: Any) -> None:
    async def main() -> None:
        async with engine.transaction() as tx:
            tx.domain["n"] = 1
            await asyncio.sleep(0)
            async with engine.transaction() as inner:
                inner.domain["m"] = 1
            assert engine.version == 1
        with pytest.raises(ValueError):
            async with engine.transaction() as tx:
                tx.domain["n"] = 99
                raise ValueError

    asyncio.run(main())
    assert engine.version == 2 and (domain(engine)["n"], domain(engine)["m"]) == (1, 1)


def test_async_with_raises_on_conflict(engine: Any) -> None:
    async def main() -> None:
        async with engine.transaction() as tx:
            tx.domain["n"] += 1
            disturb(engine)

    with pytest.raises(ConflictError):
        asyncio.run(main())


def test_interleaved_tasks_are_isolated(engine: Any) -> None:
    """Two tasks that keep drafts over an await write into their own transactions only."""
    both_inside = 0

    async def writer(name: str, other: str, barrier: asyncio.Event) -> None:
        nonlocal both_inside
        async with engine.transaction() as tx:
            draft = tx.domain
            draft[name] = name
            both_inside += 1
            if both_inside == 2:
                barrier.set()
            await barrier.wait()
            assert other not in draft
            draft[name] += "!"

    async def main() -> None:
        barrier = asyncio.Event()
        await asyncio.gather(writer("x", "nothing", barrier), writer("y", "nothing", barrier))

    asyncio.run(main())
    assert domain(engine)["x"] == "x!" and domain(engine)["y"] == "y!"
    assert engine.version == 3


def test_a_child_task_does_not_join(engine: Any) -> None:
    async def child_body(tx: Any) -> None:
        tx.domain["m"] += 1

    async def body(tx: Any) -> None:
        tx.domain["n"] = 1
        with pytest.raises(TransactionError, match="detached=True"):
            await asyncio.create_task(engine.run_async(child_body))
        await asyncio.create_task(engine.run_async(child_body, detached=True))
        assert engine.version == 2

    asyncio.run(engine.run_async(body))
    assert (domain(engine)["n"], domain(engine)["m"]) == (1, 1)


def test_a_coroutine_given_to_run_is_refused(engine: Any) -> None:
    """Not silently committed before it has run; and the other way round."""

    async def body(tx: Any) -> None:
        tx.domain["n"] = 1

    def around(tx: Any) -> None:
        tx.domain["m"] = 1
        with pytest.raises(TypeError, match="run_async"):
            engine.run(body)

    with pytest.raises(TypeError, match="run_async"):
        engine.run(body)
    assert engine.version == 1
    engine.run(around)
    assert (domain(engine)["n"], domain(engine)["m"]) == (0, 1)


class Yielding:
    def method(self, tx: Any) -> Any:
        tx.domain["n"] = yield


def test_a_generator_function_given_to_run_is_refused(engine: Any) -> None:
    """No line of it has run when the transaction ends. One that a body made may be returned."""

    def body(tx: Any) -> Any:
        tx.domain["n"] = yield

    async def body_async(tx: Any) -> Any:
        tx.domain["n"] = yield

    for fn in body, body_async, Yielding().method, lambda tx: engine.run(body):
        with pytest.raises(TypeError, match="generator function"):
            engine.run(fn)
    with pytest.raises(TypeError, match="generator function"):
        engine.transactional(body)()
    assert engine.version == 1
    assert list(engine.run(lambda tx: (n * 2 for n in [1, 2]))) == [2, 4]
