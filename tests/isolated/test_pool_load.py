"""Pools under load: nothing grows, and whoever is killed, every task ends. Minutes with -m long."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import parallel_tasks
import pool_tasks as tasks
from support import until
from theus import TheusEngine, WorkerDied
from theus._compat import HAS_INTERPRETERS
from theus._theus import forget_arenas
from theus.pools import InterpreterPool, Pool, ProcessPool, ThreadPool

if not sys.platform.startswith("linux"):
    pytest.skip("what a process holds is read from /proc", allow_module_level=True)

KINDS: dict[str, type[Pool]] = {"processes": ProcessPool, "threads": ThreadPool}
if HAS_INTERPRETERS:
    KINDS["interpreters"] = InterpreterPool

PATIENCE = 60


def memory_mapped() -> int:
    """Files of shared memory without names that are mapped here."""
    gc.collect()
    forget_arenas()
    with open("/proc/self/maps") as lines:
        return len({line.split()[4] for line in lines if "/memfd:theus-" in line})


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """What forks workers for all pools keeps descriptors here, and stays."""
    with ProcessPool(1):
        pass


def held() -> dict[str, int]:
    gc.collect()
    forget_arenas()
    folder = os.environ["THEUS_SHM_DIR"]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "files": len(os.listdir(folder)),
    }


def assert_held(expected: dict[str, int]) -> None:
    """Nothing more is held, nor less; in a while, as an engine that closes waits a second at
    most for interpreters to be taken down."""
    end = time.monotonic() + PATIENCE
    while held() != expected and time.monotonic() < end:
        time.sleep(0.01)
    assert held() == expected


def resident(pid: int | str = "self") -> int:
    """KiB of memory that a process has for itself."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def workers_of(pool: Pool) -> list[int]:
    return [it.pid for it in pool.crew.members] if isinstance(pool, ProcessPool) else []


def is_left(pid: int) -> bool:
    """Also a zombie is, until it is buried."""
    return os.path.exists(f"/proc/{pid}/stat")


def let_all_begin(pool: Pool, folder: Path) -> None:
    """Comes back when each worker has had a task. One that starts imports modules, and while it
    reads a file it holds one descriptor more."""
    began, gate = folder / "begun", folder / "gate"
    futures = [pool.submit(tasks.begin_and_wait, str(began), str(gate)) for _ in range(pool.size)]
    until(lambda: began.exists() and len(began.read_text().split()) == pool.size)
    gate.touch()
    for future in futures:
        future.result(PATIENCE)


def gone(pids: list[int]) -> bool:
    """Waits for it: the server that has forked a worker buries it, in its own time."""
    end = time.monotonic() + PATIENCE
    while any(map(is_left, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(is_left, pids))


# ---- nothing grows ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.long)])
def test_thousands_of_tasks_leave_no_growth(kind: str, rounds: int, tmp_path: Path) -> None:
    """A thousand small tasks in each round, some large ones, one that fails, one that is cancelled
    and one whose future nobody keeps."""
    before = held()
    with KINDS[kind](2) as pool:

        def work(rounds: int) -> None:
            for _ in range(rounds):
                futures = [pool.submit(tasks.add, n) for n in range(1000)]
                large: list[Future[Any]] = [
                    pool.submit(len, b"x" * 200_000),
                    pool.submit(bytes, 200_000),
                ]
                failing = pool.submit(tasks.fail, KeyError("no"))
                pool.submit(tasks.add, 1).cancel()
                pool.submit(tasks.nothing)
                assert [future.result(PATIENCE) for future in futures] == list(range(1, 1001))
                assert [len(bytes(future.result(PATIENCE))) for future in large[1:]] == [200_000]
                assert large[0].result(PATIENCE) == 200_000
                assert isinstance(failing.exception(PATIENCE), KeyError)

        let_all_begin(pool, tmp_path)
        work(1 if rounds < 10 else 20)
        pids = workers_of(pool)
        begun, memory = held(), [resident(pid) for pid in ("self", *pids)]
        work(rounds)
        assert_held(begun)
        after = [resident(pid) for pid in ("self", *pids)]
        if rounds >= 10:
            grown = [now - then for now, then in zip(after, memory, strict=True)]
            assert max(grown) < 3000, (memory, after)
        figures = pool.stats()
        assert (figures.alive, figures.died) == (2, 0)
    assert_held(before)
    assert gone(pids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.long)])
def test_parallel_processes_leave_no_growth(kind: str, rounds: int, tmp_path: Path) -> None:
    before = held()
    with TheusEngine({"domain": {"n": 0}}, pool=kind, pool_size=2) as engine:

        def work(rounds: int) -> None:
            for _ in range(rounds):
                for _ in range(50):
                    engine.run_process(parallel_tasks.count_up)
                found = engine.map_parallel(parallel_tasks.double, range(200))
                assert list(found) == list(range(0, 400, 2))

        let_all_begin(engine.get_pool(), tmp_path)
        work(1 if rounds < 10 else 20)
        begun, memory = held(), resident()
        work(rounds)
        assert_held(begun)
        assert rounds < 10 or resident() < memory + 3000
        assert engine.state.domain.n == engine.stats().commits
    assert_held(before)


# ---- kill -9 ---------------------------------------------------------------------------


class Killer:
    """Kills random workers of a pool, one every quarter of a second; not before all were there, so
    that on a slow machine, too, there is time to do something."""

    def __init__(self, pool: ProcessPool) -> None:
        self.pool = pool
        self.killed: list[int] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.kill_some)

    def kill_some(self) -> None:
        chance = random.Random(7)
        while not self.stop.wait(0.25):
            with self.pool.crew.lock:
                pids = [member.pid for member in self.pool.crew.members if member.ready]
            if len(pids) == self.pool.size:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim := chance.choice(pids), signal.SIGKILL)
                    self.killed.append(victim)

    def __enter__(self) -> list[int]:
        self.thread.start()
        return self.killed

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.thread.join()


def all_alive(pool: ProcessPool) -> bool:
    until = time.monotonic() + PATIENCE
    while pool.stats().alive < pool.size and time.monotonic() < until:
        time.sleep(0.01)
    return pool.stats().alive == pool.size


def book(tx: Any, changes: dict[str, int]) -> None:
    for name, change in changes.items():
        tx.bank[name] += change


seconds = pytest.mark.parametrize(
    "seconds",
    [pytest.param(1.5, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.long)],
)


@seconds
def test_every_task_ends_while_workers_are_killed(seconds: float) -> None:
    """What workers have found out is booked once; what has died with them, never."""
    mapped, before = memory_mapped(), held()
    done = died = booked = 0
    with TheusEngine({"bank": {str(n): 100 for n in range(10)}}) as engine, ProcessPool(3) as pool:
        with Killer(pool) as killed:
            end = time.monotonic() + seconds
            while time.monotonic() < end or not killed:
                futures: list[Future[Any]] = [pool.submit(tasks.add, n) for n in range(100)]
                futures += [pool.submit(tasks.transfer, n) for n in range(100)]
                futures += [pool.submit(len, b"x" * 100_000) for _ in range(5)]
                futures += [pool.submit(tasks.nap, 0.003) for _ in range(5)]
                for n, future in enumerate(futures):
                    try:
                        value = future.result(PATIENCE)
                    except WorkerDied as error:
                        assert error.signal == signal.SIGKILL
                        died += 1
                        continue
                    done += 1
                    assert n >= 100 or value == n + 1
                    if 100 <= n < 200:
                        engine.run(book, value)
                        booked += 1
        assert done and died <= len(killed)  # each took one task with it, at the most
        assert sum(engine.state.bank.values()) == 1000 and engine.stats().commits == booked
        assert all_alive(pool)
    assert_held(before)
    assert memory_mapped() <= mapped
    assert gone(killed)


@seconds
def test_every_run_ends_while_workers_are_killed(seconds: float) -> None:
    """Threads run processes of an engine whose workers are killed: each either has committed, or
    has raised and changed nothing."""
    mapped, before = memory_mapped(), held()
    booked, died, errors = [0] * 3, [0] * 3, []
    bank = {"domain": {"bank": {str(n): 100 for n in range(10)}}}
    with TheusEngine(bank, pool="processes", pool_size=3) as engine:
        pool = engine.get_pool()
        assert isinstance(pool, ProcessPool)

        def use(thread: int, end: float, killed: list[int]) -> None:
            chance = random.Random(thread)
            try:
                while time.monotonic() < end or not (killed and booked[thread]):
                    way = [str(n) for n in chance.sample(range(10), 2)]
                    try:
                        engine.run_process(parallel_tasks.move, *way, chance.randint(1, 9))
                        booked[thread] += 1
                    except WorkerDied as error:
                        assert error.signal == signal.SIGKILL
                        died[thread] += 1
            except BaseException as error:
                errors.append(error)

        with Killer(pool) as killed:
            end = time.monotonic() + seconds
            threads = [threading.Thread(target=use, args=(n, end, killed)) for n in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not errors
        assert sum(died) <= len(killed)
        assert sum(engine.state.domain.bank.values()) == 1000
        assert engine.stats().commits == sum(booked)
        assert all_alive(pool)
    assert_held(before)
    assert memory_mapped() <= mapped
    assert gone(killed)
