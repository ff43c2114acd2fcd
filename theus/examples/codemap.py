"""A map of a Python source tree, built by many threads in one engine's state.

    domain
    ├── tree        module -> path                        written once, read by each parse
    ├── modules     module -> what it defines             one key each: never in conflict
    ├── problems    path -> why and where                 the same
    ├── importers   module -> the modules that import it  one key per target: at times
    ├── outside     module not in the tree -> importers   one key per name: at times
    ├── names       function name -> definitions          the same; `__init__` most of all
    ├── totals      what the whole tree holds             read and written by every module
    ├── size        files, lines, bytes                   deferred additions: never
    └── ranking     the most complex functions            read by all, written by few
    heavy
    ├── text        all files, side by side               with workers; see `texts.py`
    ├── offsets     where each of them begins             the same
    └── metrics     six numbers for each module           one array in shared memory, at the end

Each file costs one PURE process, which parses it and returns what it found, and
a few EFFECT processes, which merge that into the state. Each of these is a
transaction. Those that touch different keys pass one another; those that read
and write the same counter in the same moment conflict, and the engine runs the
loser again on the newer state. With workers, the PURE process is one for many
files, runs in a pool, and reads the text where it lies. `count_plainly` does the
same work in a loop over dicts: both must come to the same numbers, or an update
was lost.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from theus import SemanticType, TheusEngine, process
from theus.examples.crew import work_through
from theus.examples.cycles import import_cycles
from theus.examples.pysource import (
    Links,
    Module,
    Problem,
    Source,
    find_sources,
    parse_source,
    read_source,
    resolve_imports,
)
from theus.examples.texts import (
    Parsed,
    Share,
    parse_share,
    quiet_parser,
    shares,
    store_texts,
    unpacked,
)
from theus.paths import format_path
from theus.pools.codec import dumps

if TYPE_CHECKING:
    from theus.pools import Pool

RANKED = 25
"""How many functions the ranking keeps."""

PoolKind = Literal["interpreters", "processes", "threads"]

Ranked = tuple[int, str, str, int]
"""Complexity, module, function, line: as the ranking holds them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one file of the tree turned out to hold."""

    source: Source
    size: int
    module: Module
    links: Links

    def entry(self) -> dict[str, Any]:
        """The module as the state keeps it."""
        return {
            "path": self.source.path,
            "lines": self.module.lines,
            "functions": [
                {"name": function.name, "line": function.line, "complexity": function.complexity}
                for function in self.module.functions
            ],
            "classes": list(self.module.classes),
            "imports": list(self.links.eager),
            "lazy_imports": list(self.links.lazy),
            "outside": list(self.links.outside),
        }

    def counts(self) -> dict[str, int]:
        """What the module adds to the totals."""
        return {
            "modules": 1,
            "functions": len(self.module.functions),
            "classes": len(self.module.classes),
            "complexity": sum(function.complexity for function in self.module.functions),
            "imports": len(self.links.eager),
            "lazy_imports": len(self.links.lazy),
        }

    def names(self) -> Counter[str]:
        """How often the module defines a function of each name, classes left aside."""
        return Counter(function.name.rpartition(".")[2] for function in self.module.functions)

    def ranked(self) -> list[Ranked]:
        """The functions, as the ranking holds them."""
        return [
            (function.complexity, self.source.name, function.name, function.line)
            for function in self.module.functions
        ]


def examine(source: Source, data: bytes, tree: Container[str]) -> Finding | Problem:
    """Parse one file and resolve its imports against the modules of the tree."""
    module = parse_source(source.path, data)
    if isinstance(module, Problem):
        return module
    return Finding(source, len(data), module, resolve_imports(source, module, tree))


def best(functions: list[Ranked]) -> list[Ranked]:
    """The most complex ones first; equal ones by module and line."""
    return sorted(functions, key=lambda item: (-item[0], *item[1:]))[:RANKED]


Finished = Callable[[Source], None]
"""Told of each file that is done, on the thread that waits for the others."""

NO_COUNTS: Mapping[str, int] = dict.fromkeys(
    ("modules", "functions", "classes", "complexity", "imports", "lazy_imports"), 0
)


# ---- the processes ------------------------------------------------------------------


@process(inputs=["domain.tree"], outputs=[], semantic=SemanticType.PURE)
def parse(ctx: Any, source: Source, data: bytes) -> Finding | Problem:
    """Examine one file. It reads the tree in the state and hands its finding back."""
    return examine(source, data, ctx.domain.tree)


@process(inputs=[], outputs=["domain.problems"])
def record_problem(ctx: Any, problem: Problem) -> None:
    """Note a file that could not be read or parsed, under its path."""
    ctx.domain.problems[problem.path] = {"reason": problem.reason, "line": problem.line}


@process(inputs=[], outputs=["domain.modules", "domain.size"])
def record_module(ctx: Any, found: Finding) -> None:
    """Store a module under its own key; add its size without reading the sum."""
    ctx.domain.modules[found.source.name] = found.entry()
    ctx.add(("domain", "size", "files"), 1)
    ctx.add(("domain", "size", "lines"), found.module.lines)
    ctx.add(("domain", "size", "bytes"), found.size)


@process(inputs=["domain.totals"], outputs=["domain.totals"])
def add_to_totals(ctx: Any, found: Finding) -> None:
    """Read, add, write back: whoever lost a race here is run again."""
    totals = ctx.domain.totals
    for name, count in found.counts().items():
        totals[name] += count


@process(
    inputs=["domain.importers", "domain.outside"], outputs=["domain.importers", "domain.outside"]
)
def link_imports(ctx: Any, found: Finding) -> None:
    """Draw the import edges backwards, and count what lies outside the tree."""
    importers, outside = ctx.domain.importers, ctx.domain.outside
    for target in (*found.links.eager, *found.links.lazy):
        importers.setdefault(target, set()).add(found.source.name)
    for name in found.links.outside:
        outside[name] = outside.get(name, 0) + 1


@process(inputs=["domain.names"], outputs=["domain.names"])
def index_names(ctx: Any, found: Finding) -> None:
    """Count definitions by name: only modules that define the same names collide."""
    names = ctx.domain.names
    for name, count in found.names().items():
        names[name] = names.get(name, 0) + count


@process(inputs=["domain.ranking"], outputs=["domain.ranking"])
def rank_functions(ctx: Any, found: Finding) -> None:
    """Let the module's functions into the ranking where they are complex enough."""
    before = list(ctx.domain.ranking)
    after = best([*before, *found.ranked()])
    if after != before:
        ctx.domain["ranking"] = after


METRICS = ("lines", "functions", "classes", "complexity", "imports", "lazy_imports")
"""The columns of the array; its rows are the modules, by name."""


@process(inputs=["domain.modules"], outputs=["heavy.metrics"])
def measure(ctx: Any) -> Any:
    """The numbers of all modules as one array, which any process could read without a copy."""
    rows = [_metrics(entry) for _, entry in sorted(ctx.domain.modules.items())]
    table = ctx.heavy.alloc("metrics", (len(rows), len(METRICS)), "int64")
    if rows:
        table[:] = rows
    return table


def _metrics(entry: Mapping[str, Any]) -> tuple[int, ...]:
    functions = entry["functions"]
    return (
        entry["lines"],
        len(functions),
        len(entry["classes"]),
        sum(function["complexity"] for function in functions),
        len(entry["imports"]),
        len(entry["lazy_imports"]),
    )


MERGES = (record_module, add_to_totals, link_imports, index_names, rank_functions)


# ---- the application -----------------------------------------------------------------


@dataclass(slots=True)
class Summary:
    """What is known of a tree: the part of `domain` that grows, in plain Python values."""

    totals: dict[str, int] = field(default_factory=lambda: dict(NO_COUNTS))
    size: dict[str, int] = field(default_factory=lambda: {"files": 0, "lines": 0, "bytes": 0})
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    importers: dict[str, set[str]] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    ranking: list[Ranked] = field(default_factory=list)
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)

    def graph(self) -> dict[str, list[str]]:
        """Module -> the modules it imports while being imported itself."""
        return {name: entry["imports"] for name, entry in self.modules.items()}

    def cycles(self) -> list[tuple[str, ...]]:
        """Groups of modules that import one another."""
        return import_cycles(self.graph())

    def numbers(self) -> dict[str, object]:
        """Every number in here under a name, for comparison with another summary."""
        numbers: dict[str, object] = {
            **{f"total of {name}": count for name, count in self.totals.items()},
            **{f"size in {name}": count for name, count in self.size.items()},
            **{f"importers of {name}": len(by) for name, by in self.importers.items()},
            **{f"imports of {name} from outside": n for name, n in self.outside.items()},
            **{f"definitions of {name}": count for name, count in self.names.items()},
            **{f"place {place} of the ranking": item for place, item in enumerate(self.ranking, 1)},
            **{
                f"line of the problem in {path}": problem["line"]
                for path, problem in self.problems.items()
            },
            **{f"modules in cycle {n}": len(cycle) for n, cycle in enumerate(self.cycles(), 1)},
        }
        for name, entry in self.modules.items():
            numbers[f"lines of {name}"] = entry["lines"]
            for key in ("functions", "classes", "imports", "lazy_imports", "outside"):
                numbers[f"{key} of {name}"] = len(entry[key])
        return numbers


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine did while the map was drawn."""

    seconds: float
    commits: int
    unchanged: int
    rebases: int
    conflicts: int
    retries: int
    version: int
    conflicts_by_path: dict[str, int]

    @property
    def transactions(self) -> int:
        """Runs that ended well: those that made a version, and those with nothing to change."""
        return self.commits + self.unchanged

    @property
    def commits_per_second(self) -> float:
        return self.commits / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class HeavyFacts:
    """What the array of metrics was, and what the engine left of it. Sizes are bytes."""

    modules: int
    sums: dict[str, int]
    """Of each column."""
    bytes: int
    peak: int
    leaked: int
    """What `engine.heavy.report()` says is still in use when the engine is gone."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """How workers have parsed and threads merged what they found; the pool was warm."""

    pool: str
    workers: int
    shares: int
    """Tasks: runs of files that lie side by side."""
    seconds: float
    bytes_shared: int
    """The text, which no worker copies."""
    bytes_encoded: int
    """What went to workers and back through the codec: names, the tree, findings."""
    bytes_pickled: int
    one_seconds: float | None = None
    """What one worker takes for the same, by what it took for `one_bytes` of the text."""
    one_bytes: int = 0

    @property
    def speedup(self) -> float | None:
        return None if self.one_seconds is None else self.one_seconds / self.seconds


class CodeMap:
    """One tree, the engine that holds its map, and the threads that draw it.

    `workers` of a pool of that kind (None: what suits this Python) parse for the threads, from
    one shared array, which needs NumPy; 0: the threads parse.
    """

    def __init__(self, root: Path, *, workers: int = 0, pool: PoolKind | None = None) -> None:
        self.root = root
        self.base = root if root.is_dir() else root.parent
        self.skipped: list[Problem] = []
        self.sources = find_sources(root, self.skipped)
        self.workers = workers
        self.pool = pool
        self.seconds = 0.0
        self.crowd: WorkerFacts | None = None
        nothing = Summary()
        self.engine = TheusEngine(
            {
                "domain": {
                    "tree": {source.name: source.path for source in self.sources},
                    **{part.name: getattr(nothing, part.name) for part in fields(Summary)},
                },
                "heavy": {},
            },
            pool=pool,
            pool_size=workers or None,
        )
        for problem in self.skipped:
            self.engine.run_process(record_problem, problem)

    def run(self, *, threads: int, finished: Finished) -> None:
        """Map every file. Ctrl-C comes through; what was found until then stays."""
        started = time.perf_counter()
        try:
            with quiet_parser():
                if self.workers:
                    self._run_workers(self.sources, threads, finished)
                else:
                    work_through(self.sources, self._map, threads=threads, finished=finished)
        finally:
            self.seconds = time.perf_counter() - started

    def _run_workers(self, sources: Sequence[Source], threads: int, finished: Finished) -> None:
        """Read everything into one array, have it parsed share by share, merge what comes back."""
        texts: dict[Source, bytes] = {}
        for source in sources:
            data = read_source(self.base, source.path)
            if isinstance(data, Problem):
                self.engine.run_process(record_problem, data)
                finished(source)
            else:
                texts[source] = data
        if not texts:
            return
        sizes = [*map(len, texts.values())]
        dealt = shares([*texts], sizes, self.workers)
        self.engine.run_process(store_texts, [*texts.values()])
        del texts, data
        self._warm()

        tree = len(dumps(self.engine.state.domain.tree))
        encoded: list[int] = []
        separate = self.open_pool().stats().kind != "threads"

        def work(share: Share) -> None:
            # Without pickle: dumps() refuses what would need it.
            names = share.names
            results = self.engine.run_process(parse_share, share.first, names)
            if separate:
                encoded.append(tree + len(dumps((share.first, names))) + len(dumps(results)))
            for source, size, found in zip(
                share.sources, sizes[share.first :], results, strict=False
            ):
                self._merge(source, size, found)

        def each_finished(share: Share) -> None:
            for source in share.sources:
                finished(source)

        started = time.perf_counter()
        try:
            work_through(
                dealt, work, threads=max(threads, 2 * self.workers), finished=each_finished
            )
        except BaseException:
            self.open_pool().kill()  # threads that wait for a worker would wait on
            raise
        stats = self.open_pool().stats()
        self.crowd = WorkerFacts(
            pool=stats.kind,
            workers=stats.size,
            shares=len(dealt),
            seconds=time.perf_counter() - started,
            bytes_shared=sum(sizes),
            bytes_encoded=sum(encoded),
            bytes_pickled=0,
        )

    def _map(self, source: Source) -> None:
        """One file: parse it in a PURE process, merge what it holds in EFFECT ones."""
        data = read_source(self.base, source.path)
        found = data if isinstance(data, Problem) else self.engine.run_process(parse, source, data)
        self._store(found)

    def _merge(self, source: Source, size: int, parsed: Parsed) -> None:
        found = unpacked(parsed)
        if isinstance(found, Problem):
            self._store(found)
        else:
            self._store(Finding(source, size, *found))

    def _store(self, found: Finding | Problem) -> None:
        if isinstance(found, Problem):
            self.engine.run_process(record_problem, found)
            return
        for merge in MERGES:
            self.engine.run_process(merge, found)

    def text_size(self) -> int:
        """Bytes of source that the files seem to hold."""
        size = 0
        for source in self.sources:
            with suppress(OSError):
                size += os.stat(self.base / source.path).st_size
        return size

    def open_pool(self) -> Pool:
        """The pool of the workers. Raises what its kind does where it cannot be made."""
        return self.engine.get_pool()

    def _warm(self) -> None:
        """Start the workers, and have them load what they need: that is not what is timed."""
        work_through(
            range(self.workers),
            lambda _: self.engine.run_process(parse_share, 0, []),
            threads=self.workers,
        )

    def time_one_worker(self, *, every: int, threads: int, finished: Finished) -> None:
        """Have a pool of one do the same with one file of `every`, for an engine of its own."""
        crowd = self.crowd
        if crowd is None:
            return
        alone = CodeMap(self.root, workers=1, pool=self.pool)
        with alone.engine, quiet_parser():
            alone._run_workers(alone.sources[::every], threads, finished)
        one = alone.crowd
        if one is not None and one.bytes_shared:
            takes = one.seconds * crowd.bytes_shared / one.bytes_shared
            self.crowd = replace(crowd, one_seconds=takes, one_bytes=one.bytes_shared)

    def summary(self) -> Summary:
        """The map as it stands in the engine's state now, copied out of it."""
        domain = self.engine.state.domain.to_dict()
        return Summary(**{part.name: domain[part.name] for part in fields(Summary)})

    def close(self) -> HeavyFacts | None:
        """Measures the modules and ends the engine. None without NumPy, which arrays need."""
        facts = None
        if importlib.util.find_spec("numpy") is not None:
            self.engine.run_process(measure)
            table = self.engine.state.heavy["metrics"]
            sums = dict(zip(METRICS, map(int, table.sum(axis=0)), strict=True))
            facts = HeavyFacts(len(table), sums, table.nbytes, 0, 0)
            del table
            heavy = self.engine.heavy
        self.engine.close()
        del self.engine
        if facts is None:
            return None
        gc.collect()  # the last state goes with its engine, and the array with it
        report = heavy.report()
        return replace(facts, peak=report.peak, leaked=report.used)

    def facts(self) -> EngineFacts:
        """The engine's own counters, and how long `run` took."""
        stats = self.engine.stats()
        by_path = {format_path(path): count for path, count in stats.conflicts_by_path.items()}
        return EngineFacts(
            self.seconds,
            stats.commits,
            stats.noops + stats.reads,
            stats.rebases,
            stats.conflicts,
            stats.retries,
            stats.version,
            by_path,
        )


def count_plainly(codemap: CodeMap, *, finished: Finished) -> Summary:
    """The same map without theus: one thread, one file after the other, plain dicts."""
    plain = Summary()
    tree = {source.name for source in codemap.sources}

    def note(problem: Problem) -> None:
        plain.problems[problem.path] = {"reason": problem.reason, "line": problem.line}

    def count(source: Source) -> None:
        data = read_source(codemap.base, source.path)
        found = data if isinstance(data, Problem) else examine(source, data, tree)
        if isinstance(found, Problem):
            note(found)
            return
        plain.modules[source.name] = found.entry()
        plain.size["files"] += 1
        plain.size["lines"] += found.module.lines
        plain.size["bytes"] += found.size
        for name, number in found.counts().items():
            plain.totals[name] += number
        for target in (*found.links.eager, *found.links.lazy):
            plain.importers.setdefault(target, set()).add(source.name)
        for name in found.links.outside:
            plain.outside[name] = plain.outside.get(name, 0) + 1
        for name, number in found.names().items():
            plain.names[name] = plain.names.get(name, 0) + number
        plain.ranking = best([*plain.ranking, *found.ranked()])

    for problem in codemap.skipped:
        note(problem)
    with quiet_parser():
        work_through(codemap.sources, count, threads=1, finished=finished)
    return plain


def differences(found: Summary, plain: Summary) -> list[str]:
    """Where two summaries disagree, one sentence each; empty if nowhere."""
    ours, theirs = found.numbers(), plain.numbers()
    lines = [
        f"{name}: {ours.get(name, 'nothing')} in the engine, {theirs.get(name, 'nothing')} counted"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    if not lines and found != plain:
        lines = [
            f"{part.name}: equal numbers, but unequal contents"
            for part in fields(Summary)
            if getattr(found, part.name) != getattr(plain, part.name)
        ]
    return lines


def heavy_differences(found: Summary, heavy: HeavyFacts) -> list[str]:
    """Where the array and the totals disagree, and what is left of its memory."""
    expected = {**found.totals, "lines": found.size["lines"]}
    lines = [
        f"{name}: {total} in the shared array, {expected[name]} in the totals"
        for name, total in heavy.sums.items()
        if total != expected[name]
    ]
    if heavy.leaked:
        lines.append(f"shared memory: {heavy.leaked} bytes were not given back")
    return lines
