"""The report of `theus demo` as a developer reads it: tables, on standard output."""

from __future__ import annotations

import io
import sys
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


def show(report: Report) -> None:
    """Print the tables. Nothing a file name may hold can upset the terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    console.print(_totals(report))
    for table in (_complex(report), _imported(report), _outside(report), _cycles(report),
                  _problems(report), _engine(report)):
        if table.row_count:
            console.print()
            console.print(table)
    if report.checked:
        console.print()
        console.print(Text(f"Checked: {len(report.summary.numbers()):,} numbers equal those of a "
                           "plain sequential count."))


def _text(value: object) -> Text:
    """Text as it is: no markup, and unprintable characters shown as escapes."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in (f"{value:,}" if isinstance(value, int) else str(value))
    )
    return Text(shown, overflow="fold")


def _table(title: str, *columns: str) -> Table:
    """A table whose columns are named; a leading ">" sets one to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim",
                  box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left",
                         no_wrap=right)
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*map(_text, cells))


def _more(table: Table, count: int) -> None:
    if count > 0:
        table.caption = f"and {count:,} more"
        table.caption_justify = "left"


def _totals(report: Report) -> Table:
    totals, size = report.summary.totals, report.summary.size
    table = Table(title=_text(f"Code map of {report.root}"), title_justify="left",
                  title_style="bold", box=None, pad_edge=False, show_header=False,
                  padding=(0, 3, 0, 0))
    cells = [*totals.items(), ("lines", size["lines"]), ("bytes", size["bytes"])]
    for at in range(0, len(cells), 4):
        table.add_row(*(_text(f"{count:,} {name}") for name, count in cells[at:at + 4]))
    return table


def _complex(report: Report) -> Table:
    table = _table("Most complex functions", ">complexity", "function", "module", ">line")
    for complexity, module, function, line in report.summary.ranking[:ROWS]:
        _row(table, complexity, function, module, str(line))
    return table


def _imported(report: Report) -> Table:
    table = _table("Most imported modules", ">importers", "module")
    for name, count in report.summary.most_imported(ROWS):
        _row(table, count, name)
    _more(table, len(report.summary.importers) - ROWS)
    return table


def _outside(report: Report) -> Table:
    table = _table("Most imported from outside the tree", ">importers", "module")
    outside = sorted(report.summary.outside.items(), key=lambda item: (-item[1], item[0]))
    for name, count in outside[:ROWS]:
        _row(table, count, name)
    _more(table, len(outside) - ROWS)
    return table


def _cycles(report: Report) -> Table:
    graph, cycles = report.summary.graph(), report.summary.cycles()
    table = _table("Import cycles", ">modules", "the shortest way round from the first")
    for cycle in cycles[:ROWS]:
        loop = shortest_loop(graph, cycle[0])
        _row(table, len(cycle), " > ".join([*loop, cycle[0]]))
    _more(table, len(cycles) - ROWS)
    return table


def _problems(report: Report) -> Table:
    table = _table("Not read, or not Python", "path", ">line", "why")
    problems = sorted(report.summary.problems.items())
    for path, problem in problems:
        _row(table, path, "" if problem["line"] is None else str(problem["line"]),
             problem["reason"])
    return table


def _engine(report: Report) -> Table:
    facts = report.engine
    table = _table(f"What the engine did with {report.threads} threads in {facts.seconds:.1f} s",
                   ">", "")
    _row(table, facts.transactions, f"transactions, {facts.unchanged:,} of them changed nothing")
    _row(table, facts.commits, f"commits, {facts.commits_per_second:,.0f} each second (between "
                               "them the files were parsed)")
    _row(table, facts.rebases, "rebased: others had committed, but nothing that they had read")
    _row(table, facts.conflicts, "conflicts")
    _row(table, facts.retries, "retries")
    _row(table, facts.version, "versions of the state")
    by_path = sorted(facts.conflicts_by_path.items(), key=lambda item: (-item[1], item[0]))
    for path, count in by_path[:ROWS]:
        _row(table, count, f"conflicts at {path}")
    return table
