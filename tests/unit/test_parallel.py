"""Parallel processes: what runs in a worker commits as what runs here. Another kind of pool joins
by a line in KINDS."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import parallel_tasks as tasks
from parallel_tasks import Broke, Point
from pool_tasks import touch
from support import PATIENCE, until, until_async
from theus import (
    ArgumentError,
    ClosedError,
    ConflictError,
    ContractViolationError,
    ProcessError,
    ProcessTimeoutError,
    SendError,
    StateUpdate,
    TheusEngine,
    TransactionError,
    WorkerDied,
    WorkerTimeoutError,
    options,
    process,
)
from theus._compat import HAS_INTERPRETERS
from theus.parallel import Errand
from theus.pools import WorkerTraceback
from theus.pools.fit import Unfit, Untried

KINDS = ["processes", "threads"]
SEPARATE = ("processes", "interpreters")
"""Workers that share no objects with this interpreter."""

if HAS_INTERPRETERS:
    KINDS.append("interpreters")
if not sys.platform.startswith("linux"):
    KINDS = ["threads"]


def content() -> dict[str, Any]:
    return {
        "domain": {
            "n": 1,
            "total": 0,
            "users": {"ann": {"age": 3}},
            "log": [],
            "rows": [1, 2, 3],
            "seen": {"y"},
            "point": Point(1, 2),
            "later": [],
            "sub": {"a": 1, "b": 2},
        },
        "heavy": {},
    }


@pytest.fixture(scope="module", params=KINDS)
def warm(request: pytest.FixtureRequest) -> Iterator[TheusEngine]:
    """One for all tests, so that its workers are started once."""
    with TheusEngine(content(), pool=request.param, pool_size=2) as made:
        made.get_pool()
        yield made


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["warm"])


@pytest.fixture
def engine(warm: TheusEngine) -> TheusEngine:
    """With the state that it had at first."""
    warm.restore(TheusEngine(content()).state)
    warm.process_outbox(lambda message: None)
    return warm


def separate(kind: str) -> None:
    if kind not in SEPARATE:
        pytest.skip("its workers run here")


class Gate:
    """What tasks wait for: files, since they may run elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.begun, self.gate = str(folder / "begun"), str(folder / "gate")

    async def passed(self, count: int = 1) -> None:
        """So many tasks wait, or have."""
        await until_async(
            lambda: (
                os.path.exists(self.begun) and len(Path(self.begun).read_text().split()) >= count
            )
        )

    def open(self) -> None:
        touch(self.gate)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.open()


def run(engine: TheusEngine, way: str, *args: Any, **kwargs: Any) -> Any:
    if way == "sync":
        return engine.run_process(*args, **kwargs)
    return asyncio.run(engine.execute(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- values and state -----------------------------------------------------------------


def test_two_engines_have_nothing_in_common(engine: TheusEngine, kind: str) -> None:
    """Neither state nor workers, nor parcels: also with a process, and paths, of the same names."""
    with TheusEngine({"domain": {"n": 100}}, pool=kind, pool_size=1) as other:  # type: ignore[arg-type]
        assert [it.run_process(tasks.count_up) for it in (engine, other, engine)] == [2, 101, 3]
        assert (engine.state.domain.n, other.state.domain.n) == (3, 101)
        if kind == "processes":
            assert engine.run_process(tasks.where)[0] != other.run_process(tasks.where)[0]
        with pytest.raises(ClosedError):
            other.close()
            other.run_process(tasks.count_up)
        assert engine.run_process(tasks.count_up) == 4


def test_a_process_may_have_an_engine_of_its_own(engine: TheusEngine) -> None:
    """With a pool, of threads wherever it runs; its state is another one."""
    assert engine.run_process(tasks.has_an_engine, "threads") == (11, 11)
    assert engine.state.domain.n == 1


def test_arguments_are_not_looked_for_in_the_state(engine: TheusEngine) -> None:
    with pytest.raises(ContractViolationError, match=r"read domain\.by"):
        engine.run_process(tasks.looks_for_an_argument, by=3)
    engine.run(lambda tx: tx.set("domain.by", 4))
    assert engine.run_process(tasks.finds_an_argument, by=3) == (3, 3, 4)


def test_it_sees_the_state_and_its_result_is_committed(engine: TheusEngine, way: str) -> None:
    before = engine.version
    assert run(engine, way, tasks.count_up) == 2
    assert run(engine, way, tasks.count_up, 4) == 6
    assert run(engine, way, tasks.count_up, by=4) == 10
    assert engine.state.domain.n == 10 and engine.version == before + 3
    made = engine.provenance("domain.n")
    assert made is not None and made.process == "count_up"


def test_it_runs_elsewhere(engine: TheusEngine, way: str, kind: str) -> None:
    pid, n = run(engine, way, tasks.where)
    assert n == 1 and (pid != os.getpid()) == (kind == "processes")


def test_every_sort_of_write(engine: TheusEngine) -> None:
    before = engine.version
    engine.run_process(tasks.edits)
    assert engine.version == before + 1
    assert engine.state.domain.to_dict() == {
        "n": 2,
        "total": 3,
        "users": {"bob": {"age": 7, "tags": ["a", "b"]}},
        "log": ["done"],
        "rows": [1, 20, 3],
        "seen": {"x"},
        "point": Point(5, 2),
        "later": ["z"],
        "sub": {"a": 1, "b": 2},
    }


def test_keys_are_in_the_order_in_which_they_were_put_there(engine: TheusEngine) -> None:
    before = list(engine.state.domain)
    engine.run_process(tasks.moves_to_the_end)
    assert list(engine.state.domain) == [*before[1:], "n"]
    assert list(engine.state.domain.sub) == ["b", "a"]


def test_pure_guide_and_updates(engine: TheusEngine) -> None:
    assert engine.run_process(tasks.pure) == 2 and engine.state.domain.total == 2
    assert engine.run_process(tasks.guide) == "few"
    assert isinstance(engine.run_process(tasks.by_update), StateUpdate)
    assert engine.state.domain.n == 3 and "total" not in engine.state.domain


def test_what_the_context_knows(engine: TheusEngine) -> None:
    version = engine.version
    told = engine.run_process(tasks.reports, 1, word="w")
    assert told["input"] == {"first": 1, "word": "w"} and told["version"] == version
    record = engine.provenance("domain.total")
    assert record is not None
    notes = dict(record.notes)
    assert told["now"] == notes["now"]
    import random

    assert random.Random(notes["seed"]).random() == told["random"]


def test_messages_signals_and_logs(
    engine: TheusEngine, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    messages: list[Any] = []
    with engine.signals("done") as signals, caplog.at_level(logging.INFO, "theus.process"):
        engine.run_process(tasks.sends)
        assert next(signals).payload == [1, 2]
    engine.process_outbox(messages.append)
    assert [(it.topic, it.payload) for it in messages] == [("mail", {"n": 1})]
    if kind in SEPARATE:  # its workers took the level of this process when they began
        engine.run_process(tasks.warns)
    records = [it for it in caplog.records if it.name == "theus.process"]
    assert records and records[-1].theus_process in ("sends", "warns")  # type: ignore[attr-defined]


def test_registered_names_and_execute_parallel(engine: TheusEngine, kind: str) -> None:
    engine.register(tasks.where, name="place", replace=True)
    assert engine.run_process("place")[1] == 1
    engine.register(tasks.here, name="ordinary", replace=True)
    assert engine.run_process("ordinary")[0] == os.getpid()
    pid, n = engine.execute_parallel("ordinary", n=5)
    assert n == 5 and (pid != os.getpid()) == (kind == "processes")
    with pytest.raises(ContractViolationError, match="'other name'"):
        engine.register(tasks.undeclared_read, name="other name", replace=True)
        engine.run_process("other name")


# ---- refusals and errors -----------------------------------------------------------------


def test_the_contract_holds_there(engine: TheusEngine, way: str) -> None:
    before = engine.version
    with pytest.raises(ContractViolationError, match=r"Illegal Read.*domain\.total"):
        run(engine, way, tasks.undeclared_read)
    with pytest.raises(ContractViolationError, match="Illegal Write"):
        run(engine, way, tasks.undeclared_write)
    with pytest.raises(ContractViolationError, match="Illegal Write"):
        run(engine, way, tasks.swallows)
    assert engine.version == before


def test_errors_keep_their_type_and_say_where(engine: TheusEngine, way: str, kind: str) -> None:
    before = engine.version
    with pytest.raises(Broke) as caught:
        run(engine, way, tasks.fails)
    assert caught.value.args == ("no", 99) and engine.version == before
    assert any("does not declare" in note for note in caught.value.__notes__)
    if kind in SEPARATE:
        assert isinstance(caught.value.__cause__, WorkerTraceback)
        assert "in fails" in str(caught.value.__cause__)


def test_wrong_arguments(engine: TheusEngine, way: str) -> None:
    with pytest.raises(ArgumentError, match="'count_up' has no parameter 'bye'"):
        run(engine, way, tasks.count_up, bye=1)


def test_zones_hold_there() -> None:
    with TheusEngine({"domain": {"const_pi": 3, "log_all": [1]}}, pool="threads") as here:
        with pytest.raises(ContractViolationError) as wanted:
            here.run_process(tasks.writes_a_constant)
    if "processes" in KINDS:
        with TheusEngine({"domain": {"const_pi": 3, "log_all": [1]}}, pool_size=1) as there:
            with pytest.raises(ContractViolationError) as found:
                there.options().run_process(tasks.writes_a_constant)
            assert str(found.value) == str(wanted.value)
            there.run_process(tasks.appends_to_a_log)
            assert there.state.domain.log_all == [1, 2]


def test_what_cannot_travel(engine: TheusEngine, way: str, kind: str) -> None:
    separate(kind)
    for wrong in (process(parallel=True)(lambda ctx: None),):
        with pytest.raises(SendError, match="a lambda"):
            run(engine, way, wrong)

    @process(parallel=True)
    def local(ctx: Any) -> None: ...

    with pytest.raises(SendError, match="top of a module"):
        run(engine, way, local)
    with pytest.raises(SendError, match="lock"):
        run(engine, way, tasks.count_up, threading.Lock())
    with pytest.raises(SendError, match="lock"):
        run(engine, way, tasks.returns_a_lock)
    assert engine.current() is None


def test_coroutine_functions_are_refused(engine: TheusEngine) -> None:
    @process(parallel=True)
    async def waits(ctx: Any) -> None: ...

    for attempt in (
        lambda: engine.register(waits),
        lambda: engine.run_process(waits),
        lambda: asyncio.run(engine.execute(waits)),
        lambda: engine.execute_parallel(waits),
    ):
        with pytest.raises(ProcessError, match="coroutine"):
            attempt()


def test_callbacks_and_arrays_of_the_worker_are_refused(engine: TheusEngine, kind: str) -> None:
    separate(kind)
    with pytest.raises(TransactionError, match="on_commit"):
        engine.run_process(tasks.calls_back)
    pytest.importorskip("numpy")
    with pytest.raises(PermissionError, match=r"heavy\.x"):
        engine.run_process(tasks.allocates)


def test_in_a_body_it_needs_a_transaction_of_its_own(engine: TheusEngine) -> None:
    def body(tx: Any) -> int:
        with pytest.raises(TransactionError, match="detached=True"):
            engine.run_process(tasks.count_up)
        assert not tx.written
        return int(engine.options(detached=True).run_process(tasks.count_up))

    assert engine.run(body) == 2

    async def a_body(tx: Any) -> int:
        with pytest.raises(TransactionError, match="detached=True"):
            await engine.execute(tasks.count_up)
        return int(await engine.options(detached=True).execute(tasks.count_up))

    assert asyncio.run(engine.run_async(a_body)) == 3


# ---- conflicts, time, ends ------------------------------------------------------------------


def test_a_conflict_is_tried_again_on_a_fresh_snapshot(engine: TheusEngine, gate: Gate) -> None:
    before = engine.stats().conflicts

    async def both() -> list[int]:
        count = partial(engine.execute, tasks.slow_count, gate.begun, gate.gate)
        running = [asyncio.ensure_future(count()) for _ in range(2)]
        await gate.passed(2)
        gate.open()
        return await asyncio.gather(*running)

    assert sorted(asyncio.run(both())) == [2, 3]
    assert engine.state.domain.n == 3 and engine.stats().conflicts == before + 1


def test_retries_and_footprints(engine: TheusEngine, kind: str, tmp_path: Path) -> None:
    """It depends on what it has read, not on what it might have read."""
    separate(kind)

    async def beside(path: str, value: int) -> Any:
        (tmp_path / path).mkdir()
        gate = Gate(tmp_path / path)
        run = engine.options(retries=0).execute(tasks.slow_part, gate.begun, gate.gate)
        running = asyncio.ensure_future(run)
        await gate.passed()
        engine.run(lambda tx: tx.set(path, value))
        gate.open()
        return await running

    asyncio.run(beside("domain.sub.b", 5))
    with pytest.raises(ConflictError):
        asyncio.run(beside("domain.sub.a", 5))


def test_a_timeout_ends_the_worker(engine: TheusEngine, way: str, kind: str) -> None:
    separate(kind)
    told: list[str] = []

    def ends_it() -> bool:
        """Or it had not begun: a machine may stand still for as long."""
        with pytest.raises((WorkerTimeoutError, ProcessTimeoutError)) as late:
            run(engine.options(timeout=0.1), way, tasks.sleeps, 600)  # type: ignore[arg-type]
        told.append(str(late.value))
        return late.type is WorkerTimeoutError

    until(ends_it)
    assert re.search(r"tasks\.sleeps .* 0\.1 s", told[-1])
    assert run(engine, way, tasks.count_up) == 2


def test_a_timeout_of_what_has_not_begun(warm: TheusEngine, kind: str, gate: Gate) -> None:
    separate(kind)
    with TheusEngine(content(), pool=kind, pool_size=1) as engine:  # type: ignore[arg-type]
        engine.run_process(tasks.where)

        async def crowd() -> list[Any]:
            busy = engine.options(timeout=PATIENCE).execute(tasks.waits, gate.begun, gate.gate)
            first = asyncio.ensure_future(busy)
            await gate.passed()
            late = asyncio.ensure_future(engine.options(timeout=0.05).execute(tasks.where))
            await asyncio.sleep(0)  # now it waits
            await asyncio.sleep(0.06)
            gate.open()
            return await asyncio.gather(first, late, return_exceptions=True)

        first, late = asyncio.run(crowd())
        assert first is None
        assert isinstance(late, (ProcessTimeoutError, WorkerTimeoutError))


class Clock:
    """Of theus.options, and nobody else's: it can be moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(options, "time", made)
    return made


def needs_a_trial(
    engine: TheusEngine, monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float
) -> None:
    """Has the next choice of workers take that long."""

    class Try(Untried):
        def try_it(self) -> None:
            monkeypatch.setattr(engine.workers, "choice", choice)
            clock.ahead += seconds

    def choose(*args: object) -> Any:
        raise Try("some_module", None)

    choice = engine.workers.choice
    monkeypatch.setattr(engine.workers, "choice", choose)


def test_a_timeout_holds_for_the_trial(
    engine: TheusEngine, way: str, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    needs_a_trial(engine, monkeypatch, clock, 1001)
    with pytest.raises(ProcessTimeoutError, match="timeout of 1000 s"):
        run(engine.options(timeout=1000.0), way, tasks.count_up)  # type: ignore[arg-type]
    assert engine.state.domain.n == 1
    needs_a_trial(engine, monkeypatch, clock, 1001)
    assert run(engine, way, tasks.count_up) == 2


def test_an_awaited_run_does_not_wait_for_a_trial_that_takes_too_long(
    engine: TheusEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()

    class Try(Untried):
        def try_it(self) -> None:
            assert left.wait(PATIENCE)

    def choose(*args: object) -> Any:
        raise Try("some_module", None)

    monkeypatch.setattr(engine.workers, "choice", choose)

    async def leaves() -> None:
        try:
            await engine.options(timeout=0.05).execute(tasks.count_up)
        finally:
            left.set()

    with pytest.raises(ProcessTimeoutError):
        asyncio.run(leaves())


def test_a_trial_and_the_body_share_a_timeout(
    way: str, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    @process(inputs=["domain.n"], outputs=["domain.n"], parallel=True)
    def late(ctx: Any) -> int:
        clock.ahead += 600
        return int(ctx.domain.n) + 1

    with TheusEngine(content(), pool="threads", pool_size=1) as engine:
        assert run(engine.options(timeout=1000.0), way, late) == 2  # type: ignore[arg-type]
        needs_a_trial(engine, monkeypatch, clock, 600)
        with pytest.raises(ProcessTimeoutError):
            run(engine.options(timeout=1000.0), way, late)  # type: ignore[arg-type]
        assert engine.state.domain.n == 2


def test_a_run_that_begins_anew_keeps_its_end(
    engine: TheusEngine, way: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    separate(kind)
    ends: list[float | None] = []

    def send(errand: Errand, *args: Any) -> Any:
        ends.append(errand.end)
        if len(ends) == 1:
            raise Unfit("a reason")
        return really_send(errand, *args)

    really_send = Errand.send
    monkeypatch.setattr(Errand, "send", send)
    monkeypatch.setattr(engine.workers, "is_unfit", lambda function, error: None)
    assert run(engine.options(timeout=1000.0), way, tasks.count_up) == 2  # type: ignore[arg-type]
    assert len(ends) == 2 and ends[0] is not None and ends[0] == ends[1]


def test_a_dead_worker_fails_its_task_alone(engine: TheusEngine, way: str, kind: str) -> None:
    if kind != "processes":
        pytest.skip("its workers die with this process")
    with pytest.raises(WorkerDied, match=r"tasks\.dies"):
        run(engine, way, tasks.dies)
    assert run(engine, way, tasks.count_up) == 2


def test_cancelling_ends_the_transaction(engine: TheusEngine, gate: Gate) -> None:
    async def cancels() -> None:
        running = asyncio.ensure_future(engine.execute(tasks.slow_count, gate.begun, gate.gate))
        await gate.passed()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert engine.current() is None
        assert await engine.execute(tasks.count_up) == 2

    asyncio.run(cancels())
    gate.open()
    until(lambda: engine.get_pool().stats().running == 0)
    assert engine.state.domain.n == 2


def test_closing_the_engine_ends_what_runs(warm: TheusEngine, kind: str) -> None:
    separate(kind)
    engine = TheusEngine(content(), pool=kind, pool_size=1)  # type: ignore[arg-type]
    pool = engine.get_pool()
    future = pool.submit(exec, "while True: pass")
    assert engine.stats().pools[0].kind == kind
    engine.close()
    with pytest.raises(ClosedError):
        future.result(PATIENCE)
    with pytest.raises(ClosedError):
        engine.get_pool()
    with pytest.raises(ClosedError):
        pool.submit(time.sleep, 0)


# ---- arrays ---------------------------------------------------------------------------------


def test_arrays_are_borrowed_and_results_copied_once(engine: TheusEngine, kind: str) -> None:
    np = pytest.importorskip("numpy")
    if kind == "interpreters":
        pytest.skip("NumPy does not load there")
    source = np.arange(12.0).reshape(3, 4)
    with engine.edit() as ctx:
        ctx.heavy["a"] = engine.heavy.put("a", source)
    lent = engine.run_process(tasks.sums)
    assert lent.tolist() == source.sum(axis=0).tolist()
    kept = engine.state.heavy["sum"]
    info = kept.info()
    assert (kept == source.sum(axis=0)).all() and info["published"] and info["owned"]
    view = engine.run_process(tasks.gives_a_view)
    assert (view == source[::2, 1:]).all()
    if kind in SEPARATE:
        assert view.info()["shared"] and view.info()["name"] == engine.state.heavy["a"].shm.name


# ---- choices ----------------------------------------------------------------------------------


def test_which_pool(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from theus.workers import general_choice

    for variable in ("THEUS_USE_PROCESSES", "THEUS_FORCE_INTERPRETERS", "THEUS_POOL_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    general = general_choice()
    if free:
        assert general is not None and general.kind == "threads"
    else:
        assert (general is None) == HAS_INTERPRETERS
    monkeypatch.setenv("THEUS_FORCE_INTERPRETERS", "1")
    general = general_choice()
    assert general is not None and general.kind == "interpreters"
    monkeypatch.setenv("THEUS_USE_PROCESSES", "1")
    general = general_choice()
    assert general is not None and general.kind == "processes" and "USE_PRO" in general.why
    monkeypatch.setenv("THEUS_POOL_SIZE", "3")
    with TheusEngine(pool="threads") as engine, caplog.at_level(logging.INFO, "theus.pools"):
        assert engine.stats().pools == ()
        assert engine.get_pool().size == 3 and engine.get_pool() is engine.get_pool("threads")
        assert "3 workers: threads" in caplog.text
        assert [it.kind for it in engine.stats().pools] == ["threads"]
    for wrong in ("0", "two", "-1"):
        monkeypatch.setenv("THEUS_POOL_SIZE", wrong)
        with TheusEngine() as engine, pytest.raises(ValueError, match="THEUS_POOL_SIZE"):
            engine.get_pool("threads")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pool": "fibres"}, ValueError),
        ({"pool": 3}, TypeError),
        ({"pool_size": 0}, ValueError),
        ({"pool_size": "2"}, ValueError),
    ],
)
def test_odd_choices(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="pool"):
        TheusEngine(**options)


def test_declarations() -> None:
    for word in ("threads", "processes", "interpreters"):
        spec = process(parallel=word)(partial(tasks.here)).spec  # type: ignore[call-overload]
        assert spec.parallel == word
    with pytest.raises(ValueError, match="'fibres'"):
        process(parallel="fibres")(tasks.here)  # type: ignore[call-overload]


def test_two_threads_make_one_pool() -> None:
    from helpers import run_threads

    with TheusEngine(pool="threads", pool_size=1) as engine:
        pools = run_threads(4, lambda number: engine.get_pool(), timeout=PATIENCE)
        assert len(set(map(id, pools))) == 1
