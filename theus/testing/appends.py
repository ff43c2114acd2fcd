"""check_appends: what a store did, judged only by lists that grew and who read what.

Transactions append unique elements to lists and read whole lists. A read of [3, 1, 4] says who
wrote before whom: 3, then 1, then 4. So the versions of each list are known from what was read,
and every pair of transactions on one list is ordered by a dependency:

    ww   one appended right before the other        wr   one read what the other appended last
    rw   one read a list to which the other then appended (an anti-dependency)
    rt   one had ended before the other began (real time)

If the transactions can be put in an order that explains everything, these edges have no cycle. A
cycle is an anomaly, named by its edges as Adya did:

    G0         ww only                 a dirty write
    G1a, G1b   (no cycle)              a read of what was aborted, or is intermediate
    G1c        ww and wr               circular information flow
    G-single   exactly one rw          read skew, lost update, a snapshot that is none
    G2         more than one rw        write skew: what snapshot isolation allows
    ...-realtime                       the cycle needs an rt edge: the order is not that of time

The idea is that of Elle (Kingsbury and Alvaro, 2020). Time and memory are linear in what was read
and in the transactions that overlap in time; only inside a cycle is there a search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from theus.errors import _shown

WW, WR, RW, RT = 1, 2, 4, 8
_NAMES = {WW: "ww", WR: "wr", RW: "rw", RT: "rt"}

ISOLATIONS = {
    "strict-serializable": frozenset[str](),
    "serializable": frozenset({"G0-realtime", "G1c-realtime", "G-single-realtime", "G2-realtime"}),
    "snapshot": frozenset({"G2", "G2-realtime"}),
}
"""Levels, and the anomalies that each allows."""


class Append(NamedTuple):
    """`element` was appended to the list `key`. No element is ever appended twice to one list."""

    key: Hashable
    element: Hashable


class Read(NamedTuple):
    """The list `key` was read and held these elements (none, if there was no list yet)."""

    key: Hashable
    elements: tuple[Hashable, ...]


@dataclass(slots=True, eq=False)
class AppendTransaction:
    """What one transaction did, in order, and when.

    `began` and `ended` are any numbers of one clock that ticks for all: `time.monotonic_ns()`, or a
    shared counter. `committed` is False if it was aborted for sure, None if nobody knows.
    """

    steps: list[Append | Read]
    began: float
    ended: float
    committed: bool | None = True
    who: str = ""

    def __str__(self) -> str:
        return f"{self.who or 'transaction'} [{self.began}..{self.ended}]"


class Cycle(NamedTuple):
    """Transactions that each must stand before the next, and the last before the first."""

    transactions: tuple[AppendTransaction, ...]
    edges: tuple[str, ...]
    """edges[i] leads from transactions[i] to the next one: "ww", "wr", "rw" or "rt"."""

    def __str__(self) -> str:
        steps = zip(map(str, self.transactions), self.edges, strict=True)
        return " ".join(f"{who} -{edge}->" for who, edge in steps) + f" {self.transactions[0]}"


@dataclass(slots=True)
class AppendReport:
    """What was found: by name of the anomaly, the cycles (or texts, where there is no cycle)."""

    anomalies: dict[str, list[Cycle | str]] = field(default_factory=dict)
    transactions: int = 0
    edges: int = 0

    @property
    def ok(self) -> bool:
        return not self.anomalies

    def add(self, name: str, what: Cycle | str) -> None:
        self.anomalies.setdefault(name, []).append(what)

    def __str__(self) -> str:
        head = f"{self.transactions} transactions, {self.edges} dependencies: "
        if self.ok:
            return head + "no anomalies"
        lines = [head + ", ".join(f"{n} {name}" for name, n in self.counts().items())]
        lines += [f"  {name}: {what[0]}" for name, what in self.anomalies.items()]
        return "\n".join(lines)

    def counts(self) -> dict[str, int]:
        return {name: len(what) for name, what in sorted(self.anomalies.items())}


def check_appends(
    transactions: Iterable[AppendTransaction], isolation: str = "strict-serializable"
) -> AppendReport:
    """The anomalies in a run that `isolation` does not allow.

    `isolation` is "strict-serializable", "serializable" or "snapshot". Begin with lists that are
    empty. What nobody read is not judged: end with a transaction that reads every list, and a lost
    append is a cycle with it. Besides the cycles there are "duplicate" (an element is there twice),
    "invented" (nobody appended it), "order" (two reads of one list fit no common order) and
    "internal" (a transaction contradicts itself). Raises ValueError for an unknown level.
    """
    if isolation not in ISOLATIONS:
        raise ValueError(f"isolation is one of {', '.join(ISOLATIONS)}, not {_shown(isolation)}")
    run = list(transactions)
    report = AppendReport(transactions=len(run))
    graph = _Graph(len(run))
    _Lists(run, report).draw(graph)
    _draw_real_time(run, graph)
    report.edges = graph.count
    for name, cycle in _cycles(graph, ISOLATIONS[isolation]):
        members = tuple(run[number] for number, _ in cycle)
        report.add(name, Cycle(members, tuple(_NAMES[edge] for _, edge in cycle)))
    return report


# ---- dependencies ------------------------------------------------------------------------------


class _Graph:
    """Edges between numbers, each with the set of reasons for it."""

    def __init__(self, size: int) -> None:
        self.after: list[dict[int, int]] = [{} for _ in range(size)]
        self.count = 0

    def add(self, one: int, two: int, reason: int) -> None:
        if one == two:
            return
        known = self.after[one].get(two, 0)
        self.count += not known & reason
        self.after[one][two] = known | reason


class _Lists:
    """The versions of each list, as far as they were read."""

    def __init__(self, run: Sequence[AppendTransaction], report: AppendReport) -> None:
        self.run = run
        self.report = report
        self.writer: dict[tuple[Hashable, Hashable], int] = {}  # list, element -> transaction
        self.last: dict[
            tuple[Hashable, int], Hashable
        ] = {}  # list, transaction -> its last element
        self.longest: dict[Hashable, tuple[Hashable, ...]] = {}
        self.reads: list[tuple[int, Read]] = []  # of what others wrote: no prefix of them is own
        for number, transaction in enumerate(run):
            self.enter(number, transaction)

    def enter(self, number: int, transaction: AppendTransaction) -> None:
        """Notes what a transaction did. Checks it against itself."""
        own: dict[Hashable, list[Hashable]] = {}
        before: dict[Hashable, tuple[Hashable, ...]] = {}
        for step in transaction.steps:
            mine = own.setdefault(step.key, [])
            if isinstance(step, Append):
                if self.writer.setdefault((step.key, step.element), number) != number:
                    self.report.add("duplicate", f"{step} by {transaction} and somebody else")
                mine.append(step.element)
                self.last[step.key, number] = step.element
                continue
            cut = len(step.elements) - len(mine)
            others = step.elements[: max(cut, 0)]
            if cut < 0 or list(step.elements[cut:]) != mine:
                self.report.add("internal", f"{transaction} did not read its own {mine}: {step}")
            elif before.setdefault(step.key, others) != others:
                self.report.add("internal", f"{transaction} read two states of {step.key!r}")
            elif transaction.committed is not False:
                self.reads.append((number, Read(step.key, others)))
                if len(step.elements) > len(self.longest.get(step.key, ())):
                    self.longest[step.key] = step.elements

    def draw(self, graph: _Graph) -> None:
        report, run = self.report, self.run
        for key, order in self.longest.items():
            if len(set(order)) < len(order):
                report.add("duplicate", f"{key!r} held an element twice: {order!r}")
            unknown = [element for element in order if (key, element) not in self.writer]
            if unknown:
                report.add("invented", f"{key!r} held {unknown!r}, which nobody appended")
            writers = [self.writer[key, element] for element in order if element not in unknown]
            for one, two in zip(writers, writers[1:], strict=False):
                graph.add(one, two, WW)
        unseen = self.unseen()
        for number, (key, elements) in self.reads:
            order = self.longest.get(key, ())
            if elements != order[: len(elements)]:
                report.add("order", f"{key!r} was read as {elements!r} and as {order!r}")
                continue
            self.check_read(number, key, elements)
            if elements:
                writer = self.writer.get((key, elements[-1]))
                if writer is not None:
                    graph.add(writer, number, WR)
            after = order[len(elements) : len(elements) + 1] or tuple(unseen.get(key, ()))
            for element in after:
                writer = self.writer.get((key, element))
                if writer is not None and run[writer].committed is not False:
                    graph.add(number, writer, RW)

    def unseen(self) -> dict[Hashable, list[Hashable]]:
        """Committed elements that no read shows. If they are anywhere, then behind all that were
        read.
        """
        seen = {(key, element) for key, order in self.longest.items() for element in order}
        found: dict[Hashable, list[Hashable]] = {}
        for (key, element), writer in self.writer.items():
            if (key, element) not in seen and self.run[writer].committed:
                found.setdefault(key, []).append(element)
        return found

    def check_read(self, number: int, key: Hashable, elements: tuple[Hashable, ...]) -> None:
        for element in elements:
            writer = self.writer.get((key, element))
            if writer is not None and self.run[writer].committed is False:
                self.report.add(
                    "G1a",
                    f"{self.run[number]} read {element!r} of {key!r} by aborted {self.run[writer]}",
                )
        if elements:
            writer = self.writer.get((key, elements[-1]))
            if writer is not None and writer != number and self.last[key, writer] != elements[-1]:
                self.report.add(
                    "G1b",
                    f"{self.run[number]} read {key!r} up to {elements[-1]!r}, in the middle of "
                    f"{self.run[writer]}",
                )


def _draw_real_time(run: Sequence[AppendTransaction], graph: _Graph) -> None:
    """Edges from each transaction to those that began after it ended, but for what follows from
    others.
    """
    # A beginning at the same tick as an end comes first: then nothing is known about the two.
    events = [(t.began, 0, n) for n, t in enumerate(run)] + [
        (t.ended, 1, n) for n, t in enumerate(run)
    ]
    events.sort()
    frontier: set[int] = set()  # ended, and no other one lies between their end and now
    before: dict[int, set[int]] = {}
    for _, is_end, number in events:
        if not is_end:
            before[number] = set(frontier)
        elif run[number].committed is not None:  # nobody knows when the others ended
            frontier -= before.pop(number)
            frontier.add(number)
            continue
        for one in before.get(number, ()):
            graph.add(one, number, RT)


# ---- cycles ------------------------------------------------------------------------------------

_Path = list[tuple[int, int]]  # nodes, and the edge that leads on from each

_KINDS = (
    # name, edges that the cycle is made of, and one that it needs once more than the others
    ("G0", WW, 0),
    ("G1c", WW | WR, 0),
    ("G-single", WW | WR, RW),
    ("G2", WW | WR | RW, 0),
)


def _cycles(graph: _Graph, allowed: frozenset[str]) -> Iterator[tuple[str, _Path]]:
    """One cycle for each knot of the graph, of the lowest kind that is not allowed."""
    explained: set[int] = set()
    for suffix, more in (("", 0), ("-realtime", RT)):
        for name, edges, once in _KINDS:
            if name + suffix in allowed:
                continue
            for knot in _knots(graph, edges | once | more):
                if not explained.isdisjoint(knot):
                    continue
                cycle = _cycle(graph, knot, edges | more, once)
                if cycle is not None:
                    explained |= knot
                    yield name + suffix, cycle


def _cycle(graph: _Graph, knot: set[int], edges: int, once: int) -> _Path | None:
    """A shortest cycle inside a knot over these edges and, if asked for, one edge of the kind
    `once`.
    """
    best: _Path | None = None
    for start in knot:
        for second, reasons in graph.after[start].items():
            if second in knot and reasons & (once or edges):
                back = _way(graph, knot, second, start, edges)
                if back is not None and (best is None or len(back) + 1 < len(best)):
                    best = [(start, _lowest(reasons & (once or edges))), *back]
        if best is not None:
            return best
    return None


def _way(graph: _Graph, knot: set[int], start: int, goal: int, edges: int) -> _Path | None:
    """The shortest way over these edges, without the goal itself."""
    came: dict[int, int] = {start: start}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        if here == goal:
            break
        for there, reasons in graph.after[here].items():
            if reasons & edges and there in knot and there not in came:
                came[there] = here
                waiting.append(there)
    if goal not in came:
        return None
    way: _Path = []
    here = goal
    while here != start:
        way.append((came[here], _lowest(graph.after[came[here]][here] & edges)))
        here = came[here]
    return way[::-1]


def _lowest(reasons: int) -> int:
    return reasons & -reasons


def _knots(graph: _Graph, edges: int) -> Iterator[set[int]]:
    """Strongly connected components of more than one node (Tarjan's algorithm, without
    recursion).
    """
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in range(len(graph.after)):
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(graph.after[root].items()))]
        while work:
            here, rest = work[-1]
            for there, reasons in rest:
                if not reasons & edges:
                    continue
                if there not in index:
                    index[there] = low[there] = len(index)
                    stack.append(there)
                    on_stack.add(there)
                    work.append((there, iter(graph.after[there].items())))
                    break
                if there in on_stack:
                    low[here] = min(low[here], index[there])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[here])
                if low[here] == index[here]:
                    knot: set[int] = set()
                    while here not in knot:
                        member = stack.pop()
                        on_stack.discard(member)
                        knot.add(member)
                    if len(knot) > 1:
                        yield knot
