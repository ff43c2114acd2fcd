"""`theus demo`: map a source tree with many threads, check the result, show it."""

from __future__ import annotations

import json
import os
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from theus.cli import INTERRUPTED

if TYPE_CHECKING:
    from theus.examples.codemap import CodeMap, EngineFacts, HeavyFacts, Summary

SHOWN_DIFFERENCES = 20


@dataclass(slots=True)
class Report:
    """All that a run came to, ready to be shown."""

    root: Path
    threads: int
    files: int
    summary: Summary
    engine: EngineFacts
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
            "heavy": None if self.heavy is None else asdict(self.heavy),
            "check": {"complete": self.checked, "differences": self.differences},
        }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", required=False)
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    default=min(4, 2 * (os.cpu_count() or 1)),
    show_default=True,
    help="How many threads read and merge.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.pass_context
def demo(context: click.Context, path: str | None, threads: int, as_json: bool) -> None:
    """Map a tree of Python code, with many threads over one state.

    PATH is a folder or a Python file; without it, the standard library of this
    Python. Nothing in it is run or written. The result is checked against a
    plain sequential count before it is shown; if one number differs, the exit
    status is 1.
    """
    root = _checked_root(sysconfig.get_path("stdlib") if path is None else path)
    context.exit(_demo(root, threads, as_json))


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


def _demo(root: Path, threads: int, as_json: bool) -> int:
    """Run, check, show. Returns the exit status."""
    from theus.examples.codemap import CodeMap, count_plainly, differences, heavy_differences

    codemap: CodeMap | None = None
    plain: Summary | None = None
    try:
        codemap = CodeMap(root)
        visible = not as_json and sys.stderr is not None and sys.stderr.isatty()
        with _progress(len(codemap.sources), visible=visible) as step:
            codemap.run(threads=threads, finished=step("reading"))
            plain = count_plainly(codemap, finished=step("checking"))
    except KeyboardInterrupt:
        if codemap is None:
            click.echo("Interrupted before the first file was read.", err=True)
            return INTERRUPTED
    report = Report(root, threads, len(codemap.sources), codemap.summary(), codemap.facts())
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


@contextmanager
def _progress(files: int, *, visible: bool) -> Iterator[Callable[[str], Callable[[object], None]]]:
    """Gives `step(label)`, which starts a bar and returns what moves it on by one file."""
    if not visible:
        yield lambda label: lambda done: None
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

        def step(label: str) -> Callable[[object], None]:
            task = bars.add_task(label, total=files)
            return lambda done: bars.advance(task)

        yield step
