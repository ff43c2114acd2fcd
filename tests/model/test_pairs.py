"""Thousands of short pairs of transactions on a state so small that they always meet.

Two transactions of up to four steps each, interleaved, on four containers; the second commits
first. Every answer must be one that the reference allows, and the state that follows the
reference's. No Hypothesis here: a program costs a millisecond, and a failing one is cut down to
the steps that matter before it is shown.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from model.beside import both, containers, judge
from model.reference import Reference, Session, walk
from support import begin, kind
from theus import TheusEngine

START: dict[str, Any] = {"domain": {"a": 0, "b": {"a": 0}, "c": [0, {"a": 0}], 7: {0}}}
KEYS = ["a", "b", "c", 7]
STEPS = {
    "dict": "get in del pop set set setdefault increase update popitem clear len iter all".split(),
    "list": "get set del pop insert append clear len iter all in sort".split(),
    "set": "in add discard clear len iter all".split(),
}
Step = tuple[int, int, Any, Any, Any]  # whose, which container, and numbers to choose by


def program(rng: random.Random) -> tuple[list[str], list[Step]]:
    levels = [rng.choice(["serializable", "serializable", "snapshot"]) for _ in range(2)]
    count = rng.randint(2, 8)
    steps = [(rng.randint(0, 1), *(rng.randrange(1 << 16) for _ in range(4))) for _ in range(count)]
    return levels, steps  # type: ignore[return-value]


def value(number: int) -> Any:
    return [0, 1, 1, {"a": 0}, {"a": 1}, [], [0], {1}, {}][number % 9]


def arguments(what: str | None, name: str, one: int, two: int) -> tuple[Any, ...]:
    if name in ("len", "iter", "all", "sort", "clear", "popitem"):
        return ()
    if name == "update":
        return ({KEYS[one % 4]: value(two), KEYS[two % 4]: value(one)},)
    if what == "dict":
        key = KEYS[one % 4]
        return (key, value(two)) if name in ("set", "setdefault") else (
            (key, two % 3) if name == "increase" else (key,)
        )  # fmt: skip
    if what == "set" or name == "in":
        return (one % 2,)
    index = one % 4 - 1
    return {"append": (value(two),), "get": (index,), "del": (index,), "pop": (index,)}.get(
        name, (index, value(two))
    )


def savepoint(tx: Any, session: Session, saved: list[Any], act: int) -> None:
    """Opens one (0, or none is open), keeps (1) or undoes (2) the innermost."""
    if act == 0 or not saved:
        saved.append(tx.savepoint())
        saved[-1].__enter__()
        session.save()
        return
    error = RuntimeError("undo") if act == 2 else None
    saved.pop().__exit__(error and RuntimeError, error, None)
    session.restore(keep=act == 1)


def play(levels: list[str], steps: list[Step], log: list[str]) -> None:
    engine = TheusEngine(START)
    model = Reference(START, engine.version)
    two = [(begin(engine, level), model.begin(level)) for level in levels]
    saved: list[list[Any]] = [[], []]
    for whose, which, action, one, another in steps:
        tx, session = two[whose]
        if one % 12 == 0:
            log.append(f"{'AB'[whose]} savepoint {['open', 'keep', 'undo'][another % 3]}")
            savepoint(tx, session, saved[whose], another % 3)
            continue
        paths = containers(session.data)
        path = paths[which % len(paths)]
        what = kind(walk(session.data, path))
        name = STEPS[str(what)][action % len(STEPS[str(what)])]
        args = arguments(what, name, one, another)
        log.append(f"{'AB'[whose]} {name} {path} {args}")
        both(tx, session, path, name, *args)
    for whose in (1, 0):
        tx, session = two[whose]
        while saved[whose]:
            savepoint(tx, session, saved[whose], 1)
        log.append(f"{'AB'[whose]} commit ({levels[whose]})")
        judge(engine, model, session, tx.commit)
    engine.close()


def failure(levels: list[str], steps: list[Step]) -> str | None:
    """What goes wrong, with the steps up to there; None if nothing does."""
    log: list[str] = []
    try:
        play(levels, steps, log)
    except Exception as error:
        return "\n    ".join(log) + f"\n{type(error).__name__}: {error}"
    return None


def search(seeds: range) -> None:
    for seed in seeds:
        levels, steps = program(random.Random(seed))
        if failure(levels, steps) is None:
            continue
        at = 0
        while at < len(steps):  # leave out what is not needed
            fewer = steps[:at] + steps[at + 1 :]
            if failure(levels, fewer) is None:
                at += 1
            else:
                steps, at = fewer, 0
        pytest.fail(f"seed {seed}:\n    {failure(levels, steps)}", pytrace=False)


def test_pairs() -> None:
    search(range(2000))


@pytest.mark.slow
def test_pairs_at_length() -> None:
    search(range(2000, 6000))
