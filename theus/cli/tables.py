"""The report of `theus demo` as a developer reads it: tables, on standard output."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from theus.examples.cycles import shortest_loop

if TYPE_CHECKING:
    from theus.cli.demo import Report

ROWS = 15
"""Rows of a ranking. What does not fit is counted below it; `--json` has it all."""

PLAIN_WIDTH = 100
"""Columns to use where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class Section:
    """A title, columns, rows, and how many rows were left out.

    A column whose name begins with ">" is set to the right and never broken.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]
    more: int = 0

    def lines(self) -> Iterator[Text | Table]:
        """What to print, if there is a row."""
        if not self.rows:
            return
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 3, 0, 0),
            header_style="dim",
            show_header=any(name.strip(">") for name in self.columns),
        )
        for name in self.columns:
            right = name.startswith(">")
            table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
        for row in self.rows:
            table.add_row(*map(_text, row))
        yield Text()
        yield _text(self.title, "bold")
        yield table
        if self.more > 0:
            yield _text(f"and {self.more:,} more", "dim")


def show(report: Report) -> None:
    """Print the tables. Nothing that a file name may hold can upset the terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(_text(f"Code map of {report.root}", "bold"))
    console.print(_totals(report))
    for section in _sections(report):
        for line in section.lines():
            console.print(line)
    if report.checked:
        console.print()
        console.print(
            f"Checked: {len(report.summary.numbers()):,} numbers equal those of a plain "
            "sequential count."
        )


def _text(value: object, style: str = "") -> Text:
    """Text as it is: no markup, and unprintable characters shown as escapes."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in (f"{value:,}" if isinstance(value, int) else str(value))
    )
    return Text(shown, style, overflow="fold")


def _totals(report: Report) -> Text:
    summary = report.summary
    counts = {**summary.totals, "lines": summary.size["lines"], "bytes": summary.size["bytes"]}
    return _text(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()))


def _sections(report: Report) -> Iterator[Section]:
    summary = report.summary
    yield Section(
        "Most complex functions",
        (">complexity", "function", "module", ">line"),
        [
            (complexity, function, module, str(line))
            for complexity, module, function, line in summary.ranking[:ROWS]
        ],
    )
    yield _ranking(
        "Most imported modules",
        "importers",
        "module",
        ((name, len(by)) for name, by in summary.importers.items()),
    )
    yield _ranking(
        "Most imported from outside the tree", "importers", "module", summary.outside.items()
    )
    yield _ranking(
        "Function names defined most often", "definitions", "name", summary.names.items()
    )
    yield _cycles(report)
    yield Section(
        "Not read, or not Python",
        ("path", ">line", "why"),
        [
            (path, "" if problem["line"] is None else str(problem["line"]), problem["reason"])
            for path, problem in sorted(summary.problems.items())
        ],
    )
    yield _workers(report)
    yield _engine(report)
    yield _heavy(report)


def _ranking(title: str, count: str, name: str, counts: Iterable[tuple[str, int]]) -> Section:
    """The largest numbers first; equal ones by name."""
    ordered = sorted(counts, key=lambda item: (-item[1], item[0]))
    return Section(
        title,
        (f">{count}", name),
        [(number, named) for named, number in ordered[:ROWS]],
        len(ordered) - ROWS,
    )


def _cycles(report: Report) -> Section:
    graph, cycles = report.summary.graph(), report.summary.cycles()
    return Section(
        "Import cycles",
        (">modules", "the shortest way round from the first of them"),
        [
            (len(cycle), " > ".join([*shortest_loop(graph, cycle[0]), cycle[0]]))
            for cycle in cycles[:ROWS]
        ],
        len(cycles) - ROWS,
    )


def _engine(report: Report) -> Section:
    facts = report.engine
    by_path = sorted(facts.conflicts_by_path.items(), key=lambda item: (-item[1], item[0]))
    return Section(
        f"What the engine did, with {report.threads} threads in {facts.seconds:.1f} s",
        (">", ""),
        [
            (facts.transactions, f"transactions; {facts.unchanged:,} of them changed nothing"),
            (
                facts.commits,
                f"commits, {facts.commits_per_second:,.0f} a second; in between, the "
                "files were parsed",
            ),
            (facts.rebases, "rebases: others had committed, but nothing that was read"),
            (facts.conflicts, "conflicts"),
            (facts.retries, "retries"),
            (facts.version, "versions of the state"),
            *((count, f"conflicts at {path}") for path, count in by_path[:ROWS]),
        ],
        len(by_path) - ROWS,
    )


def _workers(report: Report) -> Section:
    facts = report.workers
    if facts is None:
        rows: list[tuple[object, ...]] = []
        if report.alone is not None:
            rows = [("", f"No workers: {report.alone}. The threads have parsed.")]
        return Section("Workers", (">", ""), rows)
    rows = [
        (f"{facts.seconds:.2f} s", f"with {facts.workers}, to parse and to merge what they found"),
        (facts.bytes_shared, "bytes shared: the text, read where it lies"),
        (facts.bytes_encoded, f"bytes encoded, to and fro, for {facts.shares:,} tasks"),
        (facts.bytes_pickled, "bytes pickled"),
    ]
    if facts.one_seconds is not None and facts.speedup is not None:
        measured = (
            ""
            if facts.one_bytes == facts.bytes_shared
            else (f", by the {facts.one_bytes:,} bytes that it was timed on")
        )
        rows.insert(0, (f"{facts.one_seconds:.2f} s", f"with one worker{measured}"))
        rows.insert(2, (f"{facts.speedup:.2f}", "times as fast"))
    return Section(f"Workers: {facts.pool}", (">", ""), rows)


def _heavy(report: Report) -> Section:
    facts = report.heavy
    if facts is None:
        rows: list[tuple[object, ...]] = [("", "NumPy is not installed: no array was made")]
    else:
        rows = [
            (facts.modules, f"modules, {len(facts.sums)} numbers each, in one array"),
            (facts.bytes, "bytes of it"),
            (facts.peak, "bytes in use at most"),
            (facts.leaked, "bytes left in use after the engine"),
        ]
    return Section("Shared memory, by engine.heavy.report()", (">", ""), rows)
