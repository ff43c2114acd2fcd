"""The four scenarios of contention, on threads and on tasks: by counts, never by times.

Fast vs Slow          one long body against short ones on its key
Thundering Herd       all start at once on one key
Disjoint              different keys: no conflict, no wait, no ticket
Starvation Rescue     a victim all of whose keys are written all the time
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest

from helpers import run_threads
from theus import TheusEngine

PATIENCE = 120.0
MOST_TRIES = 7


LEAST = 11
"""Runs that each of the others has at the end. They may get little of a busy machine: so those with
a number go on until then."""


@dataclass
class Job:
    """A worker: so many runs, or as many as fit until all those with a number are done. Each run
    reads and increments its keys, with a pause of so many seconds in between; in its first attempt
    as long as so many others take to come first."""

    keys: tuple[str, ...]
    pause: float = 0.0
    runs: int | None = None
    come_first: int = 0


Report = list[list[int]]  # for each job, the attempts of each of its runs


class Field:
    def __init__(self, jobs: tuple[Job, ...]) -> None:
        self.engine = TheusEngine({"domain": dict.fromkeys("abcdefgh", 0)})
        self.jobs = jobs
        self.report: Report = [[] for _ in jobs]
        self.finished: list[Job] = []

    def goes_on(self, job: Job, done: int) -> bool:
        if job.runs is not None:
            pairs = zip(self.jobs, self.report, strict=True)
            others = (len(runs) for other, runs in pairs if other.runs is None)
            return done < job.runs or min(others, default=LEAST) < LEAST
        return len(self.finished) < sum(job.runs is not None for job in self.jobs)

    def is_long(self, job: Job, attempt: int, begun: int) -> bool:
        """Shall the body go on? Only as long as it stands in nobody's way."""
        behind = self.engine.version < begun + job.come_first
        return attempt == 1 and behind and not self.engine.queueing

    def ends(self, job: Job) -> None:
        if job.runs is not None:
            self.finished.append(job)

    def check(self, report: Report) -> None:
        """No update was lost, nothing is left over, and nobody needed more than the bound."""
        for key, value in self.engine.state.data["domain"].items():
            assert value == sum(
                len(runs) for job, runs in zip(self.jobs, report, strict=True) if key in job.keys
            )
        stats = self.engine.stats()
        assert (stats.tickets_held, stats.queue_depth) == (0, 0)
        assert max(max(runs, default=1) for runs in report) <= MOST_TRIES
        assert stats.tries_max <= MOST_TRIES
        assert stats.retries == sum(n - 1 for runs in report for n in runs)


def on_threads(field: Field) -> Report:
    def worker(index: int) -> list[int]:
        job, report = field.jobs[index], field.report[index]

        def body(tx: Any) -> None:
            report[-1] += 1
            begun = field.engine.version
            before = {key: tx.domain[key] for key in job.keys}
            if job.pause:
                time.sleep(job.pause)
            while field.is_long(job, report[-1], begun):
                time.sleep(0.001)
            tx.domain.update({key: value + 1 for key, value in before.items()})

        while field.goes_on(job, len(report)):
            report.append(0)
            field.engine.run(body)
        field.ends(job)
        return report

    return run_threads(len(field.jobs), worker, timeout=PATIENCE)


def on_tasks(field: Field) -> Report:
    async def worker(job: Job, report: list[int]) -> list[int]:
        async def body(tx: Any) -> None:
            report[-1] += 1
            begun = field.engine.version
            before = {key: tx.domain[key] for key in job.keys}
            await asyncio.sleep(job.pause)
            while field.is_long(job, report[-1], begun):
                await asyncio.sleep(0.001)
            tx.domain.update({key: value + 1 for key, value in before.items()})

        while field.goes_on(job, len(report)):
            report.append(0)
            await field.engine.run_async(body)
        field.ends(job)
        return report

    async def main() -> Report:
        return list(await asyncio.gather(*map(worker, field.jobs, field.report)))

    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


Run = Callable[[Field], Report]


def contend(run: Run, *jobs: Job) -> tuple[Field, Report]:
    """Once more where a machine stood still for so long that a lease has ended: the bounds suppose
    that it has not."""
    for _ in range(5):
        field = Field(jobs)
        report = run(field)
        if field.engine.stats().leases_expired == 0:
            field.check(report)
            return field, report
    raise AssertionError("leases end each time")


both = pytest.mark.parametrize("run", [on_threads, on_tasks])


@both
def test_fast_against_slow(run: Run) -> None:
    slow = Job(("a",), pause=0.02, runs=10, come_first=100)
    _, report = contend(run, slow, *(Job(("a",)) for _ in range(4)))
    # A body so long beside the others has its ticket after one failure.
    assert median(report[0]) <= 3
    assert all(len(runs) >= LEAST for runs in report[1:])  # and they are not starved for it


@both
def test_thundering_herd(run: Run) -> None:
    field, report = contend(run, *(Job(("a",), pause=0.002, runs=10) for _ in range(8)))
    assert [len(runs) for runs in report] == [10] * 8
    assert field.engine.stats().tickets > 0  # it was no picnic


@both
def test_disjoint(run: Run) -> None:
    field, report = contend(run, *(Job((key,), pause=0.001, runs=30) for key in "ab"))
    assert report == [[1] * 30] * 2
    stats = field.engine.stats()
    assert (stats.conflicts, stats.waits, stats.tickets) == (0, 0, 0)


@both
def test_starvation_rescue(run: Run) -> None:
    """The victim touches every key; each bully writes one, as fast as it can."""
    victim = Job(tuple("abcdefgh"), pause=0.005, runs=10, come_first=100)
    field, report = contend(run, victim, *(Job((key,)) for key in "abcdefgh"))
    assert field.engine.stats().tickets >= 1
    assert all(len(runs) >= LEAST for runs in report[1:])
