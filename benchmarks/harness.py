"""Times contenders side by side, in turns, and says which bars are met.

One machine is never equally fast twice. So the contenders of a row run in turns
inside one process: A B C, A B C, and so on. What a noisy neighbour does to a turn it does
to all of them, and the ratio of two contenders is taken turn by turn before the
median is. A time is the median over the turns. It is processor time, because nothing
here waits, and because it says nothing about what else the machine had to do.

A contender is a function that takes a count and does its work that many times. It
holds its own loop, so that no call is measured which its user would not make.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

Contender = Callable[[int], object]

PEERS = (
    "theus",
    "immutables",
    "pyrsistent",
    "lmdb",
    "ZODB",
    "pydantic",
    "apache-burr",
    "pydantic-graph",
    "langgraph",
    "numpy",
    "joblib",
    "loky",
    "ray",
)
ROUNDS, QUICK_ROUNDS = 15, 3
ROUND_SECONDS, QUICK_SECONDS = 0.03, 0.005
FIGURE_ROUNDS = 3


@dataclass(frozen=True)
class Bar:
    """A promise about one contender: at most `limit`, in ns or as a multiple of a peer.

    With `beyond`, the limit in ns is for what it takes longer than that peer.
    """

    limit: float
    peer: str | None = None
    of: str | None = None
    beyond: str | None = None

    def describe(self, unit: str = "ns") -> str:
        """The promise in words."""
        if self.peer is not None:
            return f"<= {self.limit:.3g} x {self.peer}"
        text = f"<= {show(self.limit, unit)}"
        return f"{text} more than {self.beyond}" if self.beyond else text


@dataclass(frozen=True)
class Row:
    """One question with the contenders that answer it; the first one is ours."""

    title: str
    contenders: Mapping[str, Contender]
    bars: tuple[Bar, ...] = ()
    per: int = 1
    """How many operations one count stands for: the keys of an iteration, say."""
    clock: Callable[[], int] = time.process_time_ns
    unit: str = "ns"
    """Other than that: a contender is called with 1, and what it returns is the figure."""
    rounds: int | None = None
    """Turns, where the usual number would be too many: for work that takes seconds."""


@dataclass
class Result:
    """Medians in ns, and what became of each bar."""

    title: str
    ns: dict[str, float]
    ratios: dict[str, float]
    """Our time over the peer's: below 1 we are faster."""
    bars: list[dict[str, Any]] = field(default_factory=list)
    unit: str = "ns"


@functools.cache
def peer(module: str) -> ModuleType | None:
    """A module to compare with, or None and, once, a line on stderr where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"skipped: {module} is not installed", file=sys.stderr)
        return None


def measure(row: Row, *, quick: bool = False) -> Result:
    """Runs the contenders of a row in turns."""
    seconds = QUICK_SECONDS if quick else ROUND_SECONDS
    if row.rounds is not None:
        rounds = 1 if quick else row.rounds
    else:
        rounds = FIGURE_ROUNDS if row.unit != "ns" else QUICK_ROUNDS if quick else ROUNDS
    counts = {
        name: _calibrate(row.clock, contender, seconds) if row.unit == "ns" else 1
        for name, contender in row.contenders.items()
    }
    times: dict[str, list[float]] = {name: [] for name in row.contenders}
    names = list(row.contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if row.unit == "ns":
                one = _time(row.clock, row.contenders[name], counts[name])
                # What was slow when it was new (a pool whose last worker still starts) would get
                # short turns for ever, of which the first call is a large part.
                counts[name] = max(1, round(seconds * 1e9 / (one or 1.0)))
                taken = one / row.per
            else:
                taken = float(row.contenders[name](1))  # type: ignore[arg-type]
            times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}

    def ratio(ours: str, theirs: str) -> float:
        return statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))

    ratios = {name: ratio(names[0], name) for name in names[1:] if row.unit == "ns"}
    result = Result(row.title, medians, ratios, unit=row.unit)
    for bar in row.bars:
        ours = bar.of or names[0]
        if ours not in medians or any(p and p not in medians for p in (bar.peer, bar.beyond)):
            continue
        if bar.peer is not None:
            value = ratio(ours, bar.peer)
        elif bar.beyond is not None:
            value = statistics.median(
                a - b for a, b in zip(times[ours], times[bar.beyond], strict=True)
            )
        else:
            value = medians[ours]
        result.bars.append(
            {
                "contender": ours,
                "bar": bar.describe(row.unit),
                "limit": bar.limit,
                "peer": bar.peer,
                "value": value,
                "met": value <= bar.limit,
            }
        )
    return result


def _calibrate(clock: Callable[[], int], contender: Contender, seconds: float) -> int:
    """A count that keeps the contender busy for about so long.

    The first call says nothing about that, but for work that is longer than any start: a pool's
    workers may have to start for it.
    """
    if _time(clock, contender, 1) >= 1e9:
        return 1
    count = 1
    while True:
        elapsed = _time(clock, contender, count) * count / 1e9
        if elapsed >= seconds / 4:
            return max(1, round(count * seconds / elapsed))
        count *= 4


def _time(clock: Callable[[], int], contender: Contender, count: int) -> float:
    """Nanoseconds for one count. The collector runs before and not meanwhile, as in timeit."""
    gc.collect()
    gc.disable()
    try:
        started = clock()
        contender(count)
        return (clock() - started) / count
    finally:
        gc.enable()


# ---- showing ------------------------------------------------------------------------------


def show_ns(ns: float) -> str:
    """A time in the unit that reads best."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


def show(value: float, unit: str) -> str:
    """A time, or a figure of another unit."""
    return show_ns(value) if unit == "ns" else f"{value:.3g} {unit}".rstrip()


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            cpu = next(
                (line.split(":", 1)[1].strip() for line in info if line.startswith("model name")),
                cpu,
            )
    except OSError:
        pass  # not Linux: the name of the architecture will do
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "cpus": os.cpu_count(),
        "cpu": cpu,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def machine_line() -> str:
    """The same in a line."""
    facts = machine()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    gil = "" if facts["gil"] else " without the GIL"
    return (
        f"{facts['python']}{gil}, {facts['cpus']} x {facts['cpu']}, {facts['system']}; {versions}"
    )


def main(question: str | None, rows: Iterable[Callable[[], Row]]) -> None:
    """The command line of a benchmark: runs its rows, one after the other, and shows them.

    Rows come as functions that build them, so that a million keys are only in memory
    while they are measured.
    """
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="a few short turns: for a first look")
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose title holds TEXT")
    options = parser.parse_args()

    results: list[Result] = []
    titles: list[str] = []
    if not options.json:
        print(question or "")
        print(machine_line())
    for build in rows:
        row = build()
        titles.append(row.title)
        if options.only not in row.title:
            continue
        result = measure(row, quick=options.quick)
        results.append(result)
        if not options.json:
            _print(result)
        del row
        gc.collect()
    if titles and not results:
        parser.error(f"--only {options.only!r} is in no title; there are: {'; '.join(titles)}")
    if options.json:
        print(
            json.dumps(
                {
                    "question": question,
                    "machine": machine(),
                    "rows": [vars(result) for result in results],
                }
            )
        )


def _print(result: Result) -> None:
    print(f"\n{result.title}")
    for name, ns in result.ns.items():
        ratio = f"ours is {result.ratios[name]:.2f} x this" if name in result.ratios else ""
        print(f"  {name:<44} {show(ns, result.unit):>9}   {ratio}")
    for bar in result.bars:
        value = f"{bar['value']:.2f} x" if bar["peer"] else show(bar["value"], result.unit)
        print(
            f"  {'met   ' if bar['met'] else 'MISSED'} {bar['contender']}: {value}, "
            f"bar {bar['bar']}"
        )
