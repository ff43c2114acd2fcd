"""Pools for minutes: nothing grows, and whoever is killed, every task ends. Run with -m long."""

from __future__ import annotations

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
from theus import WorkerDied

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

from theus.pools import ProcessPool

pytestmark = pytest.mark.long


def held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def resident(pid: int | str = "self") -> int:
    """KiB of memory that a process has for itself."""
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


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


def test_every_task_ends_while_workers_are_killed() -> None:
    with ProcessPool(3) as pool:
        stop = threading.Event()
        kills = 0

        def killer() -> None:
            nonlocal kills
            chance = random.Random(7)
            while not stop.wait(0.25):
                with pool.crew.lock:
                    pids = [member.pid for member in pool.crew.members]
                if pids:
                    try:
                        os.kill(chance.choice(pids), signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass

        thread = threading.Thread(target=killer)
        thread.start()
        done = died = 0
        before = held()
        end = time.monotonic() + 60
        try:
            while time.monotonic() < end:
                futures: list[Future[Any]] = [pool.submit(tasks.add, n) for n in range(300)]
                futures += [pool.submit(len, b"x" * 100_000) for _ in range(5)]
                futures += [pool.submit(tasks.nap, 0.003) for _ in range(5)]
                for n, future in enumerate(futures):
                    try:
                        value = future.result(60)
                        assert n >= 300 or value == n + 1
                        done += 1
                    except WorkerDied as error:
                        assert error.signal == signal.SIGKILL
                        died += 1
        finally:
            stop.set()
            thread.join()
        assert kills > 50 and done > 100 * died > 0
        assert died <= kills
        until = time.monotonic() + 30
        while pool.stats().alive < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert held()[0] <= before[0] + 2  # the shared memory of large arguments
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("theus-pool")]
