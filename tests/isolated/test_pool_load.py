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
from typing import Any

import pytest

import pool_tasks as tasks
from theus import TheusEngine, WorkerDied
from theus._theus import forget_arenas

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

from theus.pools import ProcessPool


def memory_mapped() -> int:
    """Files of shared memory without names that are mapped here."""
    gc.collect()
    forget_arenas()
    with open("/proc/self/maps") as lines:
        return len({line.split()[4] for line in lines if "/memfd:theus-" in line})


def held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def resident(pid: int | str = "self") -> int:
    """KiB of memory that a process has for itself."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


@pytest.mark.long
def test_a_hundred_thousand_tasks_leave_no_growth() -> None:
    with ProcessPool(2) as pool:

        def work(rounds: int) -> None:
            for _ in range(rounds):
                futures = [pool.submit(tasks.add, n) for n in range(1000)]
                futures.append(pool.submit(len, b"x" * 200_000))  # type: ignore[arg-type]
                futures.append(pool.submit(bytes, 200_000))  # type: ignore[arg-type]
                assert [future.result() for future in futures][:1000] == list(range(1, 1001))

        work(20)
        pids = [member.pid for member in pool.crew.members]
        before, memory = held(), [resident(pid) for pid in ("self", *pids)]
        work(100)
        assert held() == before
        after = [resident(pid) for pid in ("self", *pids)]
        assert all(now < then + 3000 for now, then in zip(after, memory, strict=True)), (
            memory,
            after,
        )


def book(tx: Any, changes: dict[str, int]) -> None:
    for name, change in changes.items():
        tx.bank[name] += change


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(1.5, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.long)],
)
def test_every_task_ends_while_workers_are_killed(seconds: float) -> None:
    """What workers have found out is booked once; what has died with them, never."""
    mapped = memory_mapped()
    stop = threading.Event()
    killed: list[int] = []
    done = died = booked = 0
    with TheusEngine({"bank": {str(n): 100 for n in range(10)}}) as engine, ProcessPool(3) as pool:

        def killer() -> None:
            chance = random.Random(7)
            while not stop.wait(0.25):
                with pool.crew.lock:
                    pids = [member.pid for member in pool.crew.members if member.ready]
                if len(pids) == 3:  # on a slow machine, too, there is time to do something
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim := chance.choice(pids), signal.SIGKILL)
                        killed.append(victim)

        thread = threading.Thread(target=killer)
        thread.start()
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end or not killed:
                futures: list[Future[Any]] = [pool.submit(tasks.add, n) for n in range(100)]
                futures += [pool.submit(tasks.transfer, n) for n in range(100)]
                futures += [pool.submit(len, b"x" * 100_000) for _ in range(5)]
                futures += [pool.submit(tasks.nap, 0.003) for _ in range(5)]
                for n, future in enumerate(futures):
                    try:
                        value = future.result(60)
                    except WorkerDied as error:
                        assert error.signal == signal.SIGKILL
                        died += 1
                        continue
                    done += 1
                    assert n >= 100 or value == n + 1
                    if 100 <= n < 200:
                        engine.run(book, value)
                        booked += 1
        finally:
            stop.set()
            thread.join()
        assert done > 20 * died and died <= len(killed)
        assert sum(engine.state.bank.values()) == 1000 and engine.stats().commits == booked
        until = time.monotonic() + 30
        while pool.stats().alive < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert pool.stats().alive == 3
    assert memory_mapped() <= mapped
    assert not [pid for pid in killed if os.path.exists(f"/proc/{pid}/exe")]
