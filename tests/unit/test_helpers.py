"""ctx.log, ctx.now, ctx.random, ctx.local: what a process has beside the state."""

from __future__ import annotations

import asyncio
import datetime
import logging
import pickle
import random
from typing import Any

import pytest

from helpers import run_fresh, run_threads
from theus import TheusEngine, process
from theus.errors import TransactionError


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": {"a": 1}})


SEMANTICS = pytest.mark.parametrize("semantic", ["effect", "pure", "guide"])


def facts(record: logging.LogRecord) -> tuple[Any, Any, Any]:
    return tuple(vars(record)[f"theus_{name}"] for name in ("process", "run", "version"))


# ---- log ------------------------------------------------------------------------------


@SEMANTICS
def test_records_say_who_speaks(
    engine: TheusEngine, semantic: str, caplog: pytest.LogCaptureFixture
) -> None:
    @process(semantic=semantic)
    def work(ctx: Any) -> None:
        ctx.log.info("sold %d", 5)
        ctx.log.warning("again", extra={"customer": "ann", "theus_run": "forged"})
        ctx.log("old programs call it")

    caplog.set_level(logging.DEBUG, "theus")
    engine.run_process(work)
    engine.run_process(work)
    first, second, third, *others = caplog.records
    assert [record.getMessage() for record in (first, second, third)] == [
        "sold 5", "again", "old programs call it",
    ]  # fmt: skip
    assert facts(first) == facts(second) == facts(third) == ("work", 1, 1)
    assert facts(others[0]) == ("work", 2, 1)
    assert vars(second)["customer"] == "ann" and first.name == "theus.process"
    assert {record.funcName for record in caplog.records} == {"work"}
    assert {record.filename for record in caplog.records} == {"test_helpers.py"}


def test_attempts_of_one_run_have_one_number(
    engine: TheusEngine, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    def body(ctx: Any) -> None:
        ctx.log.info("begin")
        attempts.append(ctx.domain.a)
        if len(attempts) % 3:
            run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.a", 1)))
        ctx.domain.a = 10 * ctx.domain.a

    async def body_async(ctx: Any) -> None:
        body(ctx)

    caplog.set_level(logging.INFO, "theus")
    engine.run_process(body)
    asyncio.run(engine.execute(body_async))
    seen = [facts(record) for record in caplog.records]
    assert [(name, version) for name, _, version in seen] == [
        ("body", 1), ("body", 2), ("body", 3), ("body_async", 4), ("body_async", 5),
        ("body_async", 6),
    ]  # fmt: skip
    assert len({run for _, run, _ in seen[:3]}) == len({run for _, run, _ in seen[3:]}) == 1
    assert seen[0][1] != seen[3][1]


def test_a_process_that_joins_logs_the_same_run(
    engine: TheusEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def inner(ctx: Any) -> None:
        ctx.log.info("inner")

    def outer(ctx: Any) -> int:
        ctx.log.info("outer")
        engine.run_process(inner)
        return int(ctx.transaction.run_id)

    caplog.set_level(logging.INFO, "theus")
    run = engine.run_process(outer)
    assert [facts(record) for record in caplog.records] == [("outer", run, 1), ("inner", run, 1)]


QUIET = """
from theus import TheusEngine, process
engine = TheusEngine({"domain": {}}, strict_guards=False)
engine.run_process(lambda ctx: ctx.log.critical("not a word"))
import logging
logging.getLogger("theus").critical("nor here")
"""


def test_nothing_is_printed_unless_asked() -> None:
    assert run_fresh(QUIET) == ""


# ---- now and random ---------------------------------------------------------------------


@SEMANTICS
def test_time_and_numbers_are_of_the_attempt(engine: TheusEngine, semantic: str) -> None:
    @process(semantic=semantic)
    def work(ctx: Any) -> Any:
        assert ctx.now is ctx.now and ctx.random is ctx.random and ctx.log is ctx.log
        return ctx.now, [ctx.random.random() for _ in range(3)]

    before = datetime.datetime.now(datetime.UTC)
    now, numbers = engine.run_process(work)
    assert before <= now <= datetime.datetime.now(datetime.UTC)
    assert engine.run_process(work)[1] != numbers
    assert engine.version == 1, "they alone make no version"


@pytest.mark.parametrize("semantic", ["effect", "pure"])
def test_the_record_tells_what_they_were(engine: TheusEngine, semantic: str) -> None:
    @process(outputs=["domain.a"], semantic=semantic)
    def work(ctx: Any) -> Any:
        return [ctx.now, ctx.random.randrange(1000), ctx.random.gauss(0, 1)]

    now, whole, real = engine.run_process(work)
    record = engine.records()[0][0]
    (first, noted), (second, seed) = record.notes
    assert (first, noted, second) == ("now", now, "seed")
    again = random.Random(seed)
    assert (again.randrange(1000), again.gauss(0, 1)) == (whole, real)
    assert pickle.loads(pickle.dumps(record)).notes == record.notes
    engine.run(lambda tx: tx.set("domain.a", 5))
    assert engine.records()[0][1].notes == ()


def test_what_a_failed_attempt_asked_is_not_in_the_record(engine: TheusEngine) -> None:
    asked: list[Any] = []

    @process(inputs=["domain.a"], outputs=["domain.a"])
    def work(ctx: Any) -> Any:
        asked.append(ctx.now)
        if len(asked) == 1:
            run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.a", 1)))
        return ctx.domain.a + 1

    engine.run_process(work)
    assert len(asked) == 2 and engine.records()[0][-1].notes == (("now", asked[1]),)


@pytest.mark.parametrize("name", ["log", "now", "random", "outbox", "signal", "local", "input"])
def test_helpers_cannot_be_replaced(engine: TheusEngine, name: str) -> None:
    def work(ctx: Any) -> None:
        with pytest.raises(AttributeError, match=rf"a root of that name is ctx\['{name}'\]"):
            setattr(ctx, name, {})
        ctx[name] = {"root": 1}
        assert ctx[name]["root"] == 1

    engine.run_process(work)
    assert engine.state[name] == {"root": 1}


@pytest.mark.parametrize("name", ["log", "now", "random"])
def test_they_end_with_the_attempt(engine: TheusEngine, name: str) -> None:
    kept: list[Any] = []
    engine.run_process(kept.append)
    with pytest.raises(TransactionError):
        getattr(kept[0], name)


# ---- local ------------------------------------------------------------------------------


@SEMANTICS
def test_local_is_of_one_attempt_and_no_state(engine: TheusEngine, semantic: str) -> None:
    seen: list[dict[str, Any]] = []

    @process(inputs=["domain.a"], semantic=semantic)
    def work(ctx: Any) -> None:
        seen.append(dict(ctx.local))
        ctx.local["scratch"] = [object()]
        assert ctx.local["scratch"] is ctx.local["scratch"]

    engine.run_process(work)
    engine.run_process(work)
    assert seen == [{}, {}] and engine.version == 1


def test_local_of_a_failed_attempt_is_gone(engine: TheusEngine) -> None:
    seen: list[int] = []

    def work(ctx: Any) -> None:
        ctx.local["n"] = ctx.local.get("n", 0) + 1
        seen.append(ctx.local["n"])
        if len(seen) == 1:
            run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.a", 1)))
        ctx.domain.a += 1

    engine.run_process(work)
    assert seen == [1, 1]
