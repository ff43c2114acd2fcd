"""The modes of the ring of commit records, and the readers that are attached to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest

from support import PATIENCE, elsewhere
from theus import ClosedError, RingFullError, TheusEngine, WriteTimeoutError, process


def make(mode: str, capacity: int = 4, **options: Any) -> Any:
    options.setdefault("ring_timeout_ms", 20)
    return TheusEngine({"d": {"n": 0}}, ring_mode=mode, ring_capacity=capacity, **options)


def add_one(tx: Any) -> None:
    tx.d.n += 1


async def add_one_async(tx: Any) -> None:
    tx.d.n += 1


async def add_in_block(engine: Any, **options: Any) -> None:
    async with engine.transaction(**options) as tx:
        tx.add("d.n", 1)  # in nobody's way


def commit(engine: Any, count: int = 1) -> None:
    for _ in range(count):
        engine.run(add_one)


def taken(reader: Any) -> list[int]:
    return [record.version - 2 for record in iter(reader.poll, None)]


# ---- every way to commit -----------------------------------------------------------------------


@process(inputs=["d.n"], outputs=["d.n"])
def add_process(ctx: Any) -> None:
    ctx.d.n += 1


@process(inputs=["d.n"], outputs=["d.n"])
async def add_process_async(ctx: Any) -> None:
    ctx.d.n += 1


def by_block(engine: Any) -> None:
    with engine.transaction() as tx:
        tx.d.n += 1


def by_commit(engine: Any) -> None:
    tx = engine.transaction()
    with contextlib.suppress(ZeroDivisionError), tx:
        tx.d.n += 1
        tx.commit()


def by_swap(engine: Any) -> None:
    engine.compare_and_swap(engine.version, {"d": {"n": engine.state.d.n + 1}})


def by_signal(engine: Any) -> None:
    engine.compare_and_swap(engine.version, signal={"topic": engine.version})


def by_restore(engine: Any) -> None:
    engine.restore(engine.state.update({"d": {"n": engine.state.d.n + 1}}))


def by_async_block(engine: Any) -> None:
    asyncio.run(add_in_block(engine))


WAYS: dict[str, Callable[[Any], Any]] = {
    "run": lambda engine: engine.run(add_one),
    "block": by_block,
    "commit": by_commit,
    "compare_and_swap": by_swap,
    "signal": by_signal,
    "restore": by_restore,
    "transactional": lambda engine: engine.transactional(add_one)(),
    "run_process": lambda engine: engine.run_process(add_process),
    "execute": lambda engine: asyncio.run(engine.execute(add_process)),
    "execute_async": lambda engine: asyncio.run(engine.execute(add_process_async)),
    "run_async": lambda engine: asyncio.run(engine.run_async(add_one_async)),
    "async_block": by_async_block,
}


@pytest.mark.parametrize("mode", ["block", "strict"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_commit_needs_a_place(mode: str, way: Callable[[Any], Any]) -> None:
    engine = make(mode, 2)
    with pytest.raises(RingFullError) as caught:
        way(engine)
    assert (caught.value.mode, caught.value.capacity, caught.value.reason) == (mode, 2, "no reader")
    assert engine.version == 1 and engine.state.d.n == 0, "it was rolled back"
    with engine.reader() as reader:
        way(engine)
        way(engine)
        with pytest.raises(RingFullError) as caught:
            way(engine)
        assert caught.value.reason == ("full" if mode == "strict" else "timeout")
        assert engine.version == 3
        assert taken(reader) == [0, 1] and reader.lost == 0
        way(engine)
    assert engine.version == 4 and engine.stats().ring_lost == 0


@pytest.mark.parametrize("mode", ["block", "strict"])
def test_what_makes_no_version_needs_no_place(mode: str) -> None:
    engine = make(mode)
    with engine.transaction() as tx:
        assert tx.d.n == 0
    engine.compare_and_swap(1)
    engine.restore(1)
    assert engine.state.update({"d": {"n": 1}}).d.n == 1
    with pytest.raises(ZeroDivisionError), engine.transaction() as tx:
        tx.d.n = 1 / 0
    with engine.reader() as reader:  # and takes none away
        for _ in range(10):
            with pytest.raises(ZeroDivisionError), engine.transaction() as tx:
                tx.d.n = 1
                assert tx.reserve()
                raise ZeroDivisionError
            engine.run(lambda tx: tx.set("d.n", tx.d.n))
        before = engine.version
        commit(engine, 4 - (before - 1))
        assert engine.version == 5 and len(taken(reader)) == 4


# ---- what is lost ------------------------------------------------------------------------------


def test_drop_new_keeps_the_oldest() -> None:
    engine = make("drop_new")
    commit(engine, 10)
    assert engine.stats().ring_lost == 6
    with engine.reader() as reader:
        assert taken(reader) == [0, 1, 2, 3] and reader.lost == 6
        commit(engine, 6)
        assert taken(reader) == [10, 11, 12, 13] and reader.lost == 8
    commit(engine, 6)
    assert engine.records(10)[1] == 8  # 10 to 15 have gone, 20 and 21 were not kept
    with engine.reader() as reader:
        assert taken(reader) == [16, 17, 18, 19] and reader.lost == 2


def test_overwrite_keeps_the_newest_and_asks_nobody() -> None:
    engine = make("overwrite")
    with engine.reader() as slow, engine.reader() as fast:
        for n in range(10):
            commit(engine)
            assert taken(fast) == [n]
        assert taken(slow) == [6, 7, 8, 9] and (slow.lost, fast.lost) == (6, 0)


def test_records_numbers_stay_true_where_some_were_dropped() -> None:
    """records(since) counts commits, kept or not; so what was returned says where to go on."""
    engine = make("drop_new")
    with engine.reader() as reader:
        commit(engine, 6)
        assert len(taken(reader)) == 4
        commit(engine, 2)
    since, versions = 0, []
    for _ in range(3):
        records, lost = engine.records(since)
        versions += [record.version - 2 for record in records]
        since += len(records) + lost
    assert since == 8 and versions == [2, 3, 6, 7]
    assert [record.version - 2 for record in engine.records(4)[0]] == [6, 7]


def test_since() -> None:
    engine = make("overwrite")
    commit(engine, 6)
    for since, expected, lost in [
        (None, [2, 3, 4, 5], 0),
        (0, [2, 3, 4, 5], 2),
        (4, [4, 5], 0),
        (99, [], 0),
    ]:
        with engine.reader(since) as reader:
            assert (taken(reader), reader.lost) == (expected, lost)
    with pytest.raises(ValueError), engine.reader(-1):
        pass


# ---- readers -----------------------------------------------------------------------------------


def test_the_slowest_reader_counts() -> None:
    engine = make("strict", 2)
    with engine.reader() as one, engine.reader() as two:
        commit(engine, 2)
        assert taken(one) == [0, 1]
        with pytest.raises(RingFullError):
            commit(engine)
        assert two.poll().version == 2
        commit(engine)
        two.close()
        commit(engine)
        assert taken(one) == [2, 3] and list(two) == []
        assert engine.counters()["ring_readers"] == 1


def test_a_reader_that_is_dropped_holds_up_nobody() -> None:
    engine = make("block", 2, ring_timeout_ms=0)
    kept, dropped = engine.reader(), engine.reader()
    commit(engine, 2)
    assert taken(kept) == [0, 1]
    cycle: list[Any] = [dropped]
    cycle.append(cycle)
    del dropped, cycle
    gc.collect()
    commit(engine, 2)
    assert taken(kept) == [2, 3]


def test_a_reader_ends_with_its_engine() -> None:
    engine = make("block")
    reader = engine.reader()
    commit(engine, 2)
    engine.close()
    assert [record.version for record in reader] == [2, 3] and reader.closed
    with pytest.raises(ClosedError):
        engine.reader()


def test_a_task_reads() -> None:
    engine = make("block", 2)

    async def read() -> list[int]:
        async with engine.reader() as reader:
            return [record.version async for record in reader]

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        for _ in range(20):  # ten times what the ring holds: each waits for the task above
            await engine.run_async(add_one_async)
        engine.close()
        assert await task == list(range(2, 22))

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


# ---- waiting for room --------------------------------------------------------------------------


def test_a_blocked_commit_goes_on_when_a_record_is_read() -> None:
    engine = make("block", 2, ring_timeout_ms=0)
    with engine.reader() as reader:
        commit(engine, 2)

        async def main() -> None:
            blocked = asyncio.ensure_future(asyncio.to_thread(commit, engine, 3))
            versions = []
            while len(versions) < 5:
                record = await asyncio.to_thread(reader.poll, None)
                versions.append(record.version)
            await blocked
            assert versions == [2, 3, 4, 5, 6]

        asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_record_is_kept_when_telling_of_the_room_fails() -> None:
    """A listener that raises comes between the reader and its record; it loses neither."""
    engine = make("strict", 2)

    def fail() -> None:
        raise ZeroDivisionError

    with engine.reader() as reader:
        commit(engine, 2)
        engine.listen(fail, True)
        with pytest.raises(ZeroDivisionError):
            reader.poll()
        commit(engine)  # the place is free nevertheless
        assert taken(reader) == [0, 1, 2] and reader.lost == 0


TASKS: dict[str, Callable[[Any], Any]] = {
    "run_async": lambda engine: engine.run_async(add_one_async),
    "async_block": add_in_block,
    "execute": lambda engine: engine.execute(add_process_async),
}


@pytest.mark.parametrize("way", TASKS.values(), ids=TASKS.keys())
def test_a_task_waits_and_its_loop_goes_on(way: Callable[[Any], Any]) -> None:
    engine = make("block", 1, ring_timeout_ms=0)

    async def main() -> None:
        with engine.reader() as reader:
            engine.run(add_one)  # there is room
            for blocking in (by_block, by_swap, lambda engine: engine.run(add_one)):
                with pytest.raises(RingFullError, match="event loop"):
                    blocking(engine)
            tasks = [asyncio.ensure_future(way(engine)) for _ in range(3)]
            for _ in range(3):
                await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
            versions = [(await anext(reader)).version for _ in range(4)]
            await asyncio.gather(*tasks)
            assert versions == [2, 3, 4, 5] and engine.state.d.n == 4

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


@pytest.mark.parametrize("way", TASKS.values(), ids=TASKS.keys())
def test_a_cancelled_wait_gives_up_its_transaction(way: Callable[[Any], Any]) -> None:
    engine = make("block", 1, ring_timeout_ms=0)

    async def main() -> None:
        with engine.reader() as reader:
            commit(engine)
            task = asyncio.ensure_future(way(engine))
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert taken(reader) == [0]
            commit(engine)
            assert engine.state.d.n == 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


@pytest.mark.parametrize("way", TASKS.values(), ids=TASKS.keys())
@pytest.mark.parametrize(("end", "error"), [("reader", RingFullError), ("engine", ClosedError)])
def test_the_wait_ends_with_the_last_reader_and_with_the_engine(
    way: Callable[[Any], Any], end: str, error: type[Exception]
) -> None:
    engine = make("block", 1, ring_timeout_ms=0)
    reader = engine.reader()
    commit(engine)

    async def main() -> None:
        task = asyncio.ensure_future(way(engine))
        for _ in range(3):
            await asyncio.sleep(0)
        (reader if end == "reader" else engine).close()
        await task

    with pytest.raises(error):
        asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert engine.state.d.n == 1


def test_the_wait_is_no_longer_than_the_transaction_may_take() -> None:
    engine = make("block", 1, ring_timeout_ms=0)
    with engine.reader():
        commit(engine)
        with pytest.raises(WriteTimeoutError), engine.transaction(write_timeout_ms=30) as tx:
            tx.d.n = 5
        with pytest.raises(WriteTimeoutError):
            asyncio.run(add_in_block(engine, write_timeout_ms=30))
        assert engine.state.d.n == 1


def test_a_ticket_and_a_full_ring_do_not_hold_each_other_up() -> None:
    """Hot key, tickets, a ring of one place: all get through, and every record is read."""
    engine = make("block", 1, ring_timeout_ms=0)
    each, tasks = 25, 4

    async def many() -> None:
        for _ in range(each):
            await engine.run_async(add_slowly)

    async def add_slowly(tx: Any) -> None:
        n = tx.d.n
        await asyncio.sleep(0)
        tx.d.n = n + 1

    async def read() -> list[int]:
        with engine.reader() as reader:
            return [record.version async for record in reader]

    async def main() -> None:
        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        threads = [asyncio.to_thread(commit, engine, each) for _ in range(2)]
        await asyncio.gather(*threads, *(many() for _ in range(tasks)))
        engine.close()
        total = each * (tasks + 2)
        assert engine.state.d.n == total
        assert await reading == list(range(2, total + 2))

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


# ---- construction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ring_mode": "keep"}, ValueError),
        ({"ring_mode": None}, TypeError),
        ({"ring_timeout_ms": -1}, ValueError),
        ({"ring_timeout_ms": 1.5}, TypeError),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        TheusEngine(**options)


def test_the_mode_shows() -> None:
    engine = make("strict", ring_timeout_ms=7)
    assert (engine.ring_mode, engine.ring_timeout_ms) == ("strict", 7)
    assert TheusEngine().ring_mode == "overwrite"


def test_an_engine_with_a_reader_is_in_use() -> None:
    engine: Any = TheusEngine.__new__(TheusEngine)
    with engine.reader():
        with pytest.raises(RuntimeError, match="in use"):
            engine.__init__()
    engine.__init__()


def test_the_reader_is_one_at_a_time() -> None:
    engine = make("overwrite")

    async def main() -> None:
        with engine.reader() as reader:
            waiting = asyncio.ensure_future(anext(reader))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another thread or task"):
                elsewhere(reader.poll)
            commit(engine)
            assert (await waiting).version == 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
