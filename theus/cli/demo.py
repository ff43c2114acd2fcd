"""`theus demo`: map a source tree with workers and threads, check the result, show it."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import click

from theus.cli import INTERRUPTED
from theus.errors import BrokenPoolError

if TYPE_CHECKING:
    from theus.examples.codemap import (
        CodeMap,
        EngineFacts,
        HeavyFacts,
        PoolKind,
        Summary,
        WorkerFacts,
    )

SHOWN_DIFFERENCES = 20

SAMPLE = 4
"""Unless workers were asked for, one worker is timed on one file of so many."""

WORTH_WORKERS = 1024 * 1024
"""Bytes of source below which nobody gets workers who has not asked for them."""

THREADS = min(4, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Staff:
    """The workers that are to parse, and whether someone asked for them."""

    size: int
    kind: PoolKind | None
    asked: bool

    def missing(self, codemap: CodeMap) -> str | None:
        """Why there can be no workers, or nobody needs them; None: there is a pool now."""
        if importlib.util.find_spec("numpy") is None:
            return "NumPy is not installed"
        if not self.asked and self.size == 1:
            return "there is one core"
        if not self.asked and codemap.text_size() < WORTH_WORKERS:
            return "there is little to read"
        try:
            kind = codemap.open_pool().stats().kind
        except (NotImplementedError, OSError, BrokenPoolError) as error:
            return str(error)
        if not self.asked and kind == "threads" and _has_gil():
            return "this system has none, and threads share the GIL"
        return None


@dataclass(slots=True)
class Report:
    """All that a run came to, ready to be shown."""

    root: Path
    threads: int
    files: int
    summary: Summary
    engine: EngineFacts
    workers: WorkerFacts | None = None
    alone: str | None = None
    """Why there were no workers."""
    heavy: HeavyFacts | None = None
    checked: bool = False
    differences: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The report for machines: builtins only, everything in a stable order."""
        summary = self.summary
        return {
            "path": str(self.root),
            "threads": self.threads,
            "files": self.files,
            "python": sys.version.split()[0],
            "totals": summary.totals,
            "size": summary.size,
            "most_complex": [
                {"complexity": complexity, "module": module, "function": function, "line": line}
                for complexity, module, function, line in summary.ranking
            ],
            "cycles": summary.cycles(),
            "modules": dict(sorted(summary.modules.items())),
            "importers": {name: sorted(by) for name, by in sorted(summary.importers.items())},
            "outside": dict(sorted(summary.outside.items())),
            "names": dict(sorted(summary.names.items())),
            "problems": dict(sorted(summary.problems.items())),
            "engine": {
                **asdict(self.engine),
                "transactions": self.engine.transactions,
                "commits_per_second": self.engine.commits_per_second,
            },
            "workers": None
            if self.workers is None
            else {**asdict(self.workers), "speedup": self.workers.speedup},
            "no_workers": self.alone,
            "heavy": None if self.heavy is None else asdict(self.heavy),
            "check": {"complete": self.checked, "differences": self.differences},
        }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", required=False)
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    help=f"How many threads merge; without --workers, they also read and parse.  "
    f"[default: {THREADS}]",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    help="How many workers of a pool parse, from one shared array; 0: none.  "
    "[default: the cores, for 1 MiB of source or more, if --threads is not given]",
)
@click.option(
    "--pool",
    type=click.Choice(["auto", "interpreters", "processes", "threads"]),
    help="What the workers are.  [default: auto, what suits this Python]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.pass_context
def demo(
    context: click.Context,
    path: str | None,
    threads: int | None,
    workers: int | None,
    pool: str | None,
    as_json: bool,
) -> None:
    """Map a tree of Python code, with workers and many threads over one state.

    PATH is a folder or a Python file; without it, the standard library of this
    Python. Nothing in it is run or written. The result is checked against a
    plain sequential count before it is shown; if one number differs, the exit
    status is 1. With --workers, one worker alone is timed on all files, else on
    every fourth.
    """
    root = _checked_root(sysconfig.get_path("stdlib") if path is None else path)
    if pool is not None and workers == 0:
        raise click.BadParameter("a pool has workers, at least 1", param_hint="--workers")
    asked = workers is not None or pool is not None
    if workers is None:
        workers = 0 if threads is not None and not asked else _cores()
    kind = cast("PoolKind | None", None if pool == "auto" else pool)
    context.exit(_demo(root, threads or THREADS, Staff(workers, kind, asked), as_json))


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _checked_root(path: str) -> Path:
    """The path, made absolute, if there is something to map; else exit status 2."""

    def refuse(why: str) -> click.BadParameter:
        return click.BadParameter(f"{path!r} {why}", param_hint="PATH")

    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refuse(f"cannot be read: {reason.lower()}") from error
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and path.endswith(".py")):
        return Path(path).resolve()
    raise refuse("is neither a folder nor a Python file (*.py)")


def _demo(root: Path, threads: int, staff: Staff, as_json: bool) -> int:
    """Run, check, show. Returns the exit status."""
    from theus.examples.codemap import CodeMap, count_plainly, differences, heavy_differences

    codemap: CodeMap | None = None
    plain: Summary | None = None
    alone: str | None = None
    try:
        codemap = CodeMap(root, workers=staff.size, pool=staff.kind)
        if staff.size:
            alone = staff.missing(codemap)
            if alone is not None:
                codemap.workers = 0
                if staff.asked:
                    codemap.engine.close()
                    raise click.ClickException(f"no workers: {alone}")
        visible = not as_json and sys.stderr is not None and sys.stderr.isatty()
        with _progress(len(codemap.sources), visible=visible) as step:
            codemap.run(threads=threads, finished=step("reading"))
            if codemap.crowd is not None and codemap.crowd.workers > 1:
                every = 1 if staff.asked else SAMPLE
                codemap.time_one_worker(
                    every=every, threads=threads, finished=step("timing", every)
                )
            plain = count_plainly(codemap, finished=step("checking"))
    except KeyboardInterrupt:
        if codemap is None:
            click.echo("Interrupted before the first file was read.", err=True)
            return INTERRUPTED
    report = Report(root, threads, len(codemap.sources), codemap.summary(), codemap.facts())
    report.workers, report.alone = codemap.crowd, alone
    report.heavy = codemap.close()
    if plain is not None:
        report.checked = True
        report.differences = differences(report.summary, plain)
        if report.heavy is not None:
            report.differences += heavy_differences(report.summary, report.heavy)

    if as_json or not report.differences:
        _write(report, as_json)
    if report.differences:
        _complain(report.differences)
        return 1
    if plain is None:
        click.echo(
            f"Interrupted: this is what {len(report.summary.modules):,} of {report.files:,} "
            "files hold, unchecked.",
            err=True,
        )
        return INTERRUPTED
    return 0


def _write(report: Report, as_json: bool) -> None:
    """Put the report on standard output, all of it, or say why that cannot be."""
    if sys.stdout is None:  # closed by whoever started us: nobody wants to read
        return
    try:
        if as_json:
            click.echo(json.dumps(report.document()))
        else:
            from theus.cli.tables import show

            show(report)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader has seen enough; click ends in silence
    except OSError as error:
        # What is left in the buffer would fail once more, and loudly, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.ClickException(f"the report cannot be written: {error.strerror}") from error


def _complain(lines: list[str]) -> None:
    click.echo(
        f"The check failed: {len(lines)} numbers differ from a plain sequential count.", err=True
    )
    for line in lines[:SHOWN_DIFFERENCES]:
        click.echo(f"  {line}", err=True)
    if len(lines) > SHOWN_DIFFERENCES:
        click.echo(f"  and {len(lines) - SHOWN_DIFFERENCES} more", err=True)
    click.echo("Unless files changed meanwhile, an update was lost: please report it.", err=True)


class Step(Protocol):
    """Starts a bar, for one file of `every`; what it returns moves it on by one file."""

    def __call__(self, label: str, every: int = 1) -> Callable[[object], None]: ...


@contextmanager
def _progress(files: int, *, visible: bool) -> Iterator[Step]:
    """Gives what starts the bars."""
    if not visible:
        yield lambda label, every=1: lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def step(label: str, every: int = 1) -> Callable[[object], None]:
            task = bars.add_task(label, total=-(-files // every))
            return lambda done: bars.advance(task)

        yield step
