"""`engine.map_parallel`: a stream that takes items as results are taken."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import parallel_tasks as tasks
from pool_tasks import touch, wait_for
from support import PATIENCE
from theus import ClosedError, ProcessError, SendError, TheusEngine
from theus._compat import HAS_INTERPRETERS
from theus.pools.fit import Untried
from theus.workers import Choice

KINDS = ["processes", "threads"] if sys.platform.startswith("linux") else ["threads"]
if HAS_INTERPRETERS:
    KINDS.append("interpreters")
OPTIONS: list[dict[str, Any]] = [{}, {"chunk": 3}, {"ordered": False}]


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest) -> Iterator[TheusEngine]:
    with TheusEngine(pool=request.param, pool_size=2) as made:
        yield made


@pytest.mark.parametrize("options", OPTIONS)
def test_all_results_once(engine: TheusEngine, options: dict[str, Any]) -> None:
    found = list(engine.map_parallel(tasks.double, range(50), **options))
    assert sorted(found) == list(range(0, 100, 2))
    assert options or found == sorted(found)

    async def awaited() -> list[int]:
        return [it async for it in engine.map_parallel(tasks.double, range(50), **options)]

    found = asyncio.run(awaited())
    assert sorted(found) == list(range(0, 100, 2))
    assert options or found == sorted(found)
    assert list(engine.map_parallel(tasks.double, [])) == []


@pytest.mark.parametrize("options", OPTIONS)
def test_items_are_taken_as_results_are(engine: TheusEngine, options: dict[str, Any]) -> None:
    given = 0

    def endless() -> Iterator[int]:
        nonlocal given
        while True:
            given += 1
            yield given

    with engine.map_parallel(tasks.double, endless(), **options) as results:
        assert given == 0
        for taken, _ in enumerate(results, 1):
            assert given < taken + 6 * options.get("chunk", 1) + 6
            if taken == 100:
                break
    before = given
    with pytest.raises(StopIteration):
        next(results)
    assert given == before


class Incomparable:
    """As an array is, which answers == with an array."""

    def __eq__(self, other: object) -> Any:
        raise AssertionError("nobody has to compare items")

    __hash__ = None  # type: ignore[assignment]


def test_items_are_not_compared() -> None:
    items = [Incomparable() for _ in range(6)]
    others_are_taken = threading.Event()

    def place(item: Incomparable) -> int:
        number = next(i for i, it in enumerate(items) if it is item)
        if number == 0:
            assert others_are_taken.wait(PATIENCE)
        return number

    with (
        TheusEngine(pool="threads", pool_size=2) as engine,
        engine.map_parallel(place, items, chunk=1, ordered=False) as results,
    ):
        try:
            assert sorted(itertools.islice(results, 5)) == [1, 2, 3, 4, 5]
        finally:
            others_are_taken.set()
        assert list(results) == [0]


def test_progress(engine: TheusEngine) -> None:
    told: list[Any] = []

    def progress(taken: int, total: int | None) -> None:
        told.append((taken, total))

    list(engine.map_parallel(tasks.double, [1, 2, 3], progress=progress))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    list(engine.map_parallel(tasks.double, iter([1]), progress=progress))
    assert told == [(1, None)]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_ends_it(engine: TheusEngine, ordered: bool) -> None:
    results = engine.map_parallel(tasks.refuses_seven, range(1000), chunk=1, ordered=ordered)
    with pytest.raises(ValueError, match="seven"):
        list(results)
    with pytest.raises(StopIteration):
        next(results)

    async def awaited() -> None:
        results = engine.map_parallel(tasks.refuses_seven, range(1000), chunk=1, ordered=ordered)
        with pytest.raises(ValueError, match="seven"):
            async for _ in results:
                ...
        await results.aclose()

    asyncio.run(awaited())
    assert list(engine.map_parallel(tasks.double, [1])) == [2]


def test_leaving_early_cancels_what_has_not_begun(engine: TheusEngine, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    for _ in engine.map_parallel(tasks.double, itertools.count()):
        break
    pool = engine.get_pool()
    pool.submit(tasks.double, 1).result(PATIENCE)

    async def leaves() -> None:
        async with engine.map_parallel(tasks.naps, itertools.repeat(0.01)) as results:
            async for _ in results:
                break
        waiting = asyncio.ensure_future(take(engine.map_parallel(wait_for, [gate] * 100)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        touch(gate)

    async def take(results: Any) -> None:
        async for _ in results:
            ...

    before = pool.stats().done
    asyncio.run(leaves())
    pool.submit(tasks.double, 1).result(PATIENCE)  # behind all that was not cancelled
    assert pool.stats().queued == 0 and pool.stats().done < before + 20


@pytest.mark.parametrize("awaited", [True, False])
def test_a_trial_is_no_matter_for_the_thread_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    where: list[int] = []

    class Try(Untried):
        def try_it(self) -> None:
            where.append(threading.get_ident())

    with TheusEngine(pool="threads", pool_size=2) as engine:
        choice = engine.workers.choice

        def choose(wanted: bool | str, function: Any) -> Choice:
            if not where:
                raise Try("some_module", None)
            return choice(wanted, function)

        monkeypatch.setattr(engine.workers, "choice", choose)

        async def take() -> list[int]:
            return [it async for it in engine.map_parallel(tasks.double, range(100))]

        if awaited:
            assert asyncio.run(take()) == list(range(0, 200, 2))
            assert len(where) == 1 and where != [threading.get_ident()]
        else:
            results = engine.map_parallel(tasks.double, range(100))
            assert where == []
            assert list(results) == list(range(0, 200, 2)) and len(where) == 1


def test_what_it_refuses(engine: TheusEngine) -> None:
    with pytest.raises(ProcessError, match="execute"):
        engine.map_parallel(tasks.count_up, [1])
    for wrong in ({"chunk": 0}, {"chunk": "2"}):
        with pytest.raises(ValueError, match="chunk"):
            engine.map_parallel(tasks.double, [1], **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ordered"):
        engine.map_parallel(tasks.double, [1], ordered="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="progress"):
        engine.map_parallel(tasks.double, [1], progress=3)  # type: ignore[arg-type]
    results = engine.map_parallel(tasks.double, [1, 2])
    assert next(results) == 2

    async def both() -> None:
        with pytest.raises(RuntimeError, match="not both"):
            await anext(results)

    asyncio.run(both())
    if engine.stats().pools[0].kind != "threads":
        with pytest.raises(SendError, match="lambda"):
            engine.map_parallel(lambda item: item, [1])
        with pytest.raises(SendError, match="lock"):
            list(engine.map_parallel(tasks.double, [threading.Lock()]))


def test_a_closed_engine_maps_nothing() -> None:
    engine = TheusEngine(pool="threads")
    results = engine.map_parallel(tasks.double, [1])
    engine.close()
    with pytest.raises(ClosedError):
        next(results)
    with pytest.raises(ClosedError):
        engine.map_parallel(tasks.double, [1])
