"""check_history: replays a recorded run on a plain dict and compares what everybody saw.

An engine that numbers its versions leaves nothing to search for: the serial order is known. So
checking is replay. Walk the versions in order with a plain dict as the model and ask

    every attempt          its steps, run alone on the model at its snapshot, see the same: also
                           of attempts that were aborted, for nobody may see a torn state
    serializable commits   the same on the model just before their own version
    snapshot commits,      the places they wrote held there what they held at the snapshot
    compare-and-swap
    the rest               versions without gap, snapshots not older than what was known,
                           nothing written and then gone, the final state

A history passes exactly if running the transactions one after the other explains everything that
was seen. Changes go into the one model and are taken back by an undo log, so an attempt costs
its steps (and the size of what it read or wrote whole), not the size of the state.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from theus._theus import DELETE, MISSING, freeze, thaw
from theus.errors import _shown
from theus.paths import Path
from theus.testing.history import Anomaly, Attempt, History, Report, Step, Violation
from theus.testing.instances import Fields, gathered, spread

CHANGES = frozenset({"set", "delete", "add", "append", "merge", "update"})
_SAVEPOINTS = frozenset({"save", "keep", "undo"})
_KINDS: dict[type, str] = {dict: "dict", list: "list", set: "set"}


def check_history(history: History, *, limit: int = 100) -> Report:
    """What is wrong with a history, up to `limit` violations.

    The history is not changed. Time is linear in its steps; memory in the state, the attempts, and
    the values that snapshot transactions overwrote. Raises ValueError for a limit below 1, and for
    an attempt that is still open or has an unknown step; and what the class of an instance raises,
    if it refuses attributes that it took at the commit.
    """
    if not isinstance(history, History):
        raise TypeError(f"check_history() takes what Recorder.take() gave, not {_shown(history)}")
    if limit < 1:
        raise ValueError(f"limit is a number from 1, not {_shown(limit)}")
    checker = _Checker(history, limit)
    try:
        checker.check_all()
    except _Enough:
        complete = False
    else:
        complete = checker.ordered
    return Report(
        tuple(checker.violations),
        len(history.attempts),
        len(checker.writers),
        sum(len(attempt.steps) for attempt in history.attempts),
        complete,
    )


class _Enough(Exception):
    """The limit is reached."""


# ---- the model ---------------------------------------------------------------------------------


def look(model: Any, path: Path) -> Any:
    """What the model holds at a path, or MISSING."""
    for key in path:
        if isinstance(model, dict):
            model = model.get(key, MISSING)
        elif isinstance(model, list) and type(key) is int and -len(model) <= key < len(model):
            model = model[key]
        else:
            return MISSING
    return model


def kind_of(value: Any) -> str | type | None:
    """The word for a container, the class of an instance, None for anything else."""
    return value.cls if type(value) is Fields else _KINDS.get(type(value))


def _frozen(value: Any) -> Any:
    """What a resolver gets of it."""
    return value if kind_of(value) is None else freeze(gathered(value))


def answer(model: Any, step: Step) -> Any:
    """What a question would have been answered on the model."""
    there = look(model, step.path)
    match step.kind:
        case "get":  # a container is no atom: say what it is
            return there if kind_of(there) is None else f"a {kind_of(there)}"
        case "all":
            return there
        case "kind":
            return MISSING if there is MISSING else kind_of(there)
        case "has":
            return there is not MISSING
        case "keys":
            return frozenset(there) if isinstance(there, (dict, set)) else MISSING
        case "length":
            return len(there) if kind_of(there) else MISSING
    raise ValueError(f"{step!r} is no step: kinds are listed at theus.testing.Step")


class Model:
    """A state in plain containers, with a log of how to take changes back."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = deepcopy(state)
        self._undo: list[
            tuple[Any, Any, Any]
        ] = []  # container, key or None (a pop), what was there

    def change(self, step: Step) -> bool:
        """Does what a step did. False if that cannot be: nothing is there to delete, or to write
        in.
        """
        *way, last = step.path
        place = self._make(way) if step.kind == "update" else look(self.state, tuple(way))
        if not isinstance(place, (dict, list)):
            return False
        if isinstance(place, list) and look(place, (last,)) is MISSING:
            return False
        old = look(place, (last,))
        match step.kind:
            case "delete":
                return self._delete(place, last, old)
            case "append" if isinstance(old, list):
                self._undo.append((old, None, None))
                old.append(deepcopy(step.value))
                return True
            case "append":
                new = [deepcopy(step.value)]
            case "add":
                new = step.value if old is MISSING else old + step.value
            case "merge":
                value, resolver = step.value
                new = value
                if old is not MISSING:
                    new = spread(thaw(resolver(_frozen(old), _frozen(value))))
                new = deepcopy(new)
            case "update" if step.value is DELETE:
                return old is MISSING or self._delete(place, last, old)
            case "update" if step.value == {} and isinstance(old, dict):
                return True
            case _:  # set, update
                new = step.value if kind_of(step.value) is None else deepcopy(step.value)
        self._undo.append((place, last, old))
        place[last] = new
        return True

    def admit(self, written: list[Path]) -> None:
        """The commit shows the instances that were written to their classes, inner ones first."""
        above = {path[:length] for path in written for length in range(1, len(path))}
        for at in sorted(above, key=len, reverse=True):
            there = look(self.state, at)
            if isinstance(there, Fields):
                names = {path[-1] for path in written if path[:-1] == at}
                place = look(self.state, at[:-1])
                self._undo.append((place, at[-1], there))
                place[at[-1]] = there.admitted(frozenset(names))

    def _delete(self, place: Any, last: Any, old: Any) -> bool:
        if old is MISSING:
            return False
        if isinstance(place, list):  # the rest moves: keep the whole
            self._undo.append((place, slice(None), list(place)))
        else:
            self._undo.append((place, last, old))
        del place[last]
        return True

    def _make(self, way: list[Any]) -> dict[Any, Any]:
        """The dict there; what is on the way, and is no dict, becomes one."""
        place = self.state
        for key in way:
            old = place.get(key, MISSING)
            if not isinstance(old, dict):
                self._undo.append((place, key, old))
                place[key] = {}
            place = place[key]
        return place

    def mark(self) -> int:
        return len(self._undo)

    def back(self, mark: int) -> None:
        while len(self._undo) > mark:
            place, key, old = self._undo.pop()
            if key is None:
                place.pop()
            elif old is MISSING:
                del place[key]
            else:
                place[key] = old

    def settle(self) -> None:
        """What was done stays."""
        self._undo.clear()


# ---- the walk ----------------------------------------------------------------------------------


def changes_of(attempt: Attempt) -> list[Step]:
    """The steps that change something and were not taken back by a savepoint."""
    kept: list[Step] = []
    saves: list[int] = []
    for step in attempt.steps:
        if step.kind in CHANGES:
            kept.append(step)
        elif step.kind == "save":
            saves.append(len(kept))
        elif step.kind == "undo":
            del kept[saves.pop() :]
        elif step.kind == "keep":
            saves.pop()
    return kept


def overlap(one: Path, two: Path) -> bool:
    """Is one of them the other, or above it?"""
    shorter = min(len(one), len(two))
    return one[:shorter] == two[:shorter]


class _Checker:
    def __init__(self, history: History, limit: int) -> None:
        self.history = history
        self.limit = limit
        self.model = Model(history.start)
        self.version = history.first  # the one that what follows is judged by
        self.violations: list[Violation] = []
        self.ordered = True
        self.faulty: set[tuple[int, int]] = set()  # attempt (its id) and step: told once
        self.held: dict[
            int, list[tuple[Path, Any]]
        ] = {}  # snapshot writers: what their places held
        for attempt in history.attempts:
            if attempt.outcome == "open":
                raise ValueError(f"{attempt} has not ended: take the history when all have")
        self.writers = sorted(
            (attempt for attempt in history.attempts if attempt.version is not None),
            key=lambda attempt: attempt.version or 0,
        )

    def report(
        self,
        anomaly: Anomaly,
        attempt: Attempt | None,
        path: Path,
        expected: Any,
        found: Any,
        by: Attempt | None = None,
    ) -> None:
        # The model moves on: keep what is there now.
        expected = deepcopy(expected)
        violation = Violation(anomaly, attempt, path, expected, found, self.version, by)
        self.violations.append(violation)
        if len(self.violations) >= self.limit:
            raise _Enough

    def check_all(self) -> None:
        if not self.check_numbers():
            self.ordered = False
            return
        begun: dict[int, list[Attempt]] = {}
        for attempt in self.history.attempts:
            begun.setdefault(attempt.snapshot, []).append(attempt)
        self.version = self.history.first
        for attempt in begun.get(self.version, ()):
            self.begin(attempt)
        for writer in self.writers:
            self.commit(writer)
            self.version += 1
            for attempt in begun.get(self.version, ()):
                self.begin(attempt)
        end = self.history.end
        if end is not None and end != self.model.state:
            self.report(Anomaly.FINAL_STATE, None, *_difference(self.model.state, end))

    def check_numbers(self) -> bool:
        """Versions and snapshots. False: the order of versions is not known, so nothing can be
        judged.
        """
        first = self.history.first
        for expected, attempt in enumerate(self.writers, first + 1):
            if attempt.version != expected:
                self.version = expected - 1
                self.report(Anomaly.VERSION_ORDER, attempt, (), expected, attempt.version)
                return False
        newest = first + len(self.writers)
        for attempt in self.history.attempts:
            self.version = attempt.floor
            last = newest if attempt.version is None else attempt.version - 1
            oldest = max(attempt.floor, first)
            if attempt.isolation == "strict" and attempt.version is not None:
                oldest = last
            if not oldest <= attempt.snapshot <= last:
                self.report(
                    Anomaly.STALE_SNAPSHOT,
                    attempt,
                    (),
                    f"a snapshot from {oldest} to {last}",
                    attempt.snapshot,
                )
        return True

    # ---- one attempt -------------------------------------------------------------------------

    def begin(self, attempt: Attempt) -> None:
        """The model is at the attempt's snapshot: it must have seen just this and its own
        writes.
        """
        mark = self.model.mark()
        if attempt.isolation != "serializable" and attempt.version is not None:
            self.held[id(attempt)] = [
                (step.path, deepcopy(look(self.model.state, step.path)))
                for step in changes_of(attempt)
                if step.kind in ("set", "delete", "update")
            ]
        changed = self.replay(attempt, at_snapshot=True)
        if attempt.outcome == "unchanged" and changed:
            self.model.admit(list(changed))
            for path, before in changed.items():
                after = look(self.model.state, path)
                if after != before:
                    self.report(Anomaly.LOST_WRITE, attempt, path, after, before)
                    break
        self.model.back(mark)

    def commit(self, attempt: Attempt) -> None:
        """The model is at the version before the attempt's own: that must follow from it."""
        for path, before in self.held.pop(id(attempt), ()):
            now = look(self.model.state, path)
            if now != before:
                by = self.writer_of(attempt, path)
                self.report(Anomaly.LOST_UPDATE, attempt, path, before, now, by)
        self.replay(attempt, at_snapshot=False)
        self.model.admit([step.path for step in changes_of(attempt)])
        self.model.settle()

    def replay(self, attempt: Attempt, at_snapshot: bool) -> dict[Path, Any]:
        """Runs the steps on the model. What the places that were written held, if nothing came
        of it.
        """
        compares = at_snapshot or attempt.isolation == "serializable"
        unchanged = at_snapshot and attempt.outcome == "unchanged"
        before: dict[Path, Any] = {}
        saves: list[int] = []
        for number, step in enumerate(attempt.steps):
            if step.kind in CHANGES:
                if unchanged and step.path not in before:
                    before[step.path] = deepcopy(look(self.model.state, step.path))
                if not self.model.change(step) and compares:
                    self.fault(attempt, number, at_snapshot, MISSING, step.value)
            elif step.kind in _SAVEPOINTS:
                if step.kind == "save":
                    saves.append(self.model.mark())
                elif step.kind == "undo":
                    self.model.back(saves.pop())
                else:
                    saves.pop()
            elif compares:
                expected = answer(self.model.state, step)
                if step.value is not expected and step.value != expected:
                    self.fault(attempt, number, at_snapshot, expected, step.value)
        return before

    # ---- names -------------------------------------------------------------------------------

    def fault(
        self, attempt: Attempt, number: int, at_snapshot: bool, expected: Any, found: Any
    ) -> None:
        if (id(attempt), number) in self.faulty:
            return
        self.faulty.add((id(attempt), number))
        step = attempt.steps[number]
        by = None
        if at_snapshot:
            anomaly, by = self.name_at_snapshot(attempt, number, found)
        else:
            anomaly, by = self.name_at_commit(attempt, step, expected, found)
        self.report(anomaly, attempt, step.path, expected, found, by)

    def name_at_snapshot(
        self, attempt: Attempt, number: int, found: Any
    ) -> tuple[Anomaly, Attempt | None]:
        """Where did that come from? (Only for what is wrong: this looks through the whole
        history.)
        """
        step = attempt.steps[number]
        own = [
            s for s in attempt.steps[:number] if s.kind in CHANGES and overlap(s.path, step.path)
        ]
        if own:
            return Anomaly.OWN_WRITE, None
        if step.kind == "get" and found is not MISSING:
            skewed = None
            for other in self.history.attempts:
                values = [
                    s.value
                    for s in other.steps
                    if s.kind in ("set", "update") and s.path == step.path
                ]
                if found in values and other is not attempt:
                    if other.version is None or values[-1] != found:
                        return Anomaly.DIRTY_READ, other
                    skewed = skewed or other
            if skewed is None and look(self.history.start, step.path) != found:
                return Anomaly.IMPOSSIBLE_READ, None
            return Anomaly.READ_SKEW, skewed
        return Anomaly.READ_SKEW, self.writer_of(attempt, step.path)

    def name_at_commit(
        self, attempt: Attempt, step: Step, expected: Any, found: Any
    ) -> tuple[Anomaly, Attempt | None]:
        """It was true at the snapshot: somebody has changed it before this commit."""
        by = self.writer_of(attempt, step.path)
        mine = [s.path for s in changes_of(attempt)]
        if step.kind in ("keys", "length", "has") or expected is MISSING or found is MISSING:
            return Anomaly.PHANTOM, by
        if any(overlap(path, step.path) for path in mine):
            return Anomaly.LOST_UPDATE, by
        reads = () if by is None else (s.path for s in by.steps if s.kind not in CHANGES)
        if any(overlap(read, path) for read in reads for path in mine):
            return Anomaly.WRITE_SKEW, by
        return Anomaly.STALE_READ, by

    def writer_of(self, attempt: Attempt, path: Path) -> Attempt | None:
        """The last one that wrote at, above or below the path between snapshot and commit."""
        first = self.history.first
        stop = len(self.writers) if attempt.version is None else attempt.version - first - 1
        for other in reversed(self.writers[max(attempt.snapshot - first, 0) : stop]):
            if any(overlap(s.path, path) for s in changes_of(other)):
                return other
        return None


def _difference(expected: Any, found: Any, path: Path = ()) -> tuple[Path, Any, Any]:
    """The first place where two states differ: path, and what each has there."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *found]:
            one, two = expected.get(key, MISSING), found.get(key, MISSING)
            if one is not two and one != two:
                return _difference(one, two, (*path, key))
    return path, expected, found
