"""Random recorded runs over instances, dicts and lists, with compare-and-swap at old versions.

The reference is Python itself: the same changes on copies of plain objects, one per version. The
engine must agree with it, and the check must accept each history as it was recorded, and refuse it
when one of the changes in it is another one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theus import ConflictError, TheusEngine
from theus.testing import Recorder, Step, check_history


@dataclass
class Item:
    count: int = 0
    tags: list[int] = field(default_factory=list)
    inner: Any = None

    def __post_init__(self) -> None:
        self.count = int(self.count) % 100  # the class judges at each commit


def start() -> dict[str, Any]:
    return {"a": Item(1, [1], Item(2)), "b": {"deep": Item(3)}, "n": 0}


PLACES = [("a",), ("a", "inner"), ("b", "deep")]
places = st.sampled_from(PLACES)
numbers = st.integers(0, 9)
changes = st.one_of(
    st.tuples(st.just("count"), places, numbers.map(str)),
    st.tuples(st.just("add"), places, numbers),
    st.tuples(st.just("tag"), places, numbers),
    st.tuples(st.just("whole"), places, st.builds(Item, numbers)),
    st.tuples(st.just("n"), st.just(()), numbers),
)
runs = st.tuples(st.just("run"), st.lists(changes, min_size=1, max_size=4), st.booleans())
swaps = st.tuples(
    st.just("swap"), st.integers(0, 3), st.dictionaries(places, numbers, min_size=1, max_size=2)
)


def at(state: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        state = state[key] if isinstance(state, dict) else getattr(state, key)
    return state


def put(state: Any, path: tuple[str, ...], value: Any) -> None:
    *way, last = path
    there = at(state, tuple(way))
    if isinstance(there, dict):
        there[last] = value
    else:
        setattr(there, last, value)


def change(state: Any, what: str, path: tuple[str, ...], value: Any) -> None:
    """Works on the reference, on a draft, and on what a recorder gives."""
    match what:
        case "count":
            at(state, path).count = value
        case "add":
            at(state, path).count = int(at(state, path).count) + value
        case "tag":
            at(state, path).tags.append(value)
        case "whole":
            old = at(state, path)
            new = copy.deepcopy(value)
            new.inner = copy.deepcopy(old.inner) if path != ("a",) else Item(7)
            put(state, path, new)
        case _:
            state["n"] = value


def judged(state: dict[str, Any]) -> dict[str, Any]:
    for path in reversed(PLACES):
        at(state, path).__post_init__()
    return state


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.one_of(runs, swaps), min_size=1, max_size=8))
def test_recorded_runs_are_what_python_does(work: list[Any]) -> None:
    engine = TheusEngine({"domain": start()})
    recorder = Recorder(engine)
    versions = [start()]

    for kind, *arguments in work:
        reference = copy.deepcopy(versions[-1])
        if kind == "run":
            steps, loosely = arguments

            def body(tx: Any, steps: Any = steps) -> None:
                for step in steps:
                    change(tx.domain, *step)

            recorder.run(body, isolation="snapshot" if loosely else "serializable")
            for step in steps:
                change(reference, *step)
        else:
            back, values = arguments
            expected = max(engine.version - back, 1)
            then = versions[expected - 1]
            data = {("domain", *path, "count"): value for path, value in values.items()}
            try:
                recorder.compare_and_swap(expected, data)
            except ConflictError:
                assert engine.version > expected
                continue
            for path, value in values.items():
                assert at(then, path).count == at(reference, path).count
                at(reference, path).count = value
        while len(versions) < engine.version:
            versions.append(judged(reference))
        assert engine.state.domain.to_dict() == versions[-1]

    history = recorder.take()
    report = check_history(history)
    assert report.ok, report
    made = [it for it in history.attempts if it.version is not None]
    if made:
        number, step = last_write(made[-1].steps)
        made[-1].steps[number] = Step(step.kind, step.path, -1)
        assert not check_history(history).ok


def last_write(steps: list[Step]) -> tuple[int, Step]:
    return [(i, step) for i, step in enumerate(steps) if step.kind in ("set", "update")][-1]
