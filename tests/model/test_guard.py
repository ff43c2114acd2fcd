"""Random contracts and random bodies: the guard allows exactly what its judge allows.

Every step of a body is done twice: through the context of a process, by one of several
routes, and by the judge to its own copy of the state. Both must give equal results, or both
refuse; and then the engine must hold the judge's state, or its old one if a write was refused.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Set
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from model.guard_reference import Judge, Refused
from theus import TheusEngine, process, thaw
from theus.errors import ContractViolationError

STATE: dict[str, Any] = {
    "domain": {
        "a": {"a": {"a": 1, "b": {"ab": 2}}, "b": 3, "ab": [1, {"a": 4}, [5]]},
        "ab": {"a": {"a", "b"}, "b": [{"a": 6, "b": 7}, {"a": 8}]},
        "b": 9,
    },
    "a": {"b": {"a": 10}},
}

SEGMENTS = st.sampled_from(["a", "b", "ab", "*", "**", "a*", 0, 1])
ROOTS = st.sampled_from([("domain",)] * 4 + [("a",), ("*",), ("**",), ("a*",)])
PATTERNS = st.tuples(ROOTS, st.lists(SEGMENTS, max_size=4).map(tuple)).map(
    lambda two: two[0] + two[1]
)
CONTRACTS = st.lists(PATTERNS, max_size=3, unique=True)
NAMES = st.sampled_from(["a", "b", "ab", "new"])
ELEMENTS = NAMES | st.sampled_from([0, 1, 2])
VALUES: st.SearchStrategy[Any] = st.sampled_from([
    11, None, {}, {"a": 12}, {"a": {"b": 13}}, {"b": [14]}, [{"a": 15}],
    {"new": {"a": 16, "ab": 17}},
])  # fmt: skip


def containers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all containers, except that of the state itself."""
    if not isinstance(value, (dict, list, set)):
        return []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    below = [found for key, part in pairs for found in containers(part, (*path, key))]
    return [path, *below] if path else below


PLACES = st.sampled_from([*containers(STATE), ("domain", "new")])
STEPS = st.lists(
    st.one_of(
        st.tuples(PLACES, st.sampled_from(["get", "contains", "remove"]), ELEMENTS),
        st.tuples(PLACES, st.sampled_from(["length", "keys", "values", "whole", "clear"])),
        st.tuples(PLACES, st.just("put"), ELEMENTS, VALUES),
        st.tuples(PLACES, st.just("append"), VALUES),
        st.tuples(PLACES, st.just("add"), NAMES),
    ),
    max_size=6,
)

ROUTES: dict[str, list[Callable[..., Any]]] = {
    "get": [
        lambda c, key: c[key],
        lambda c, key: getattr(c, key) if type(key) is str and isinstance(c, Mapping) else c[key],
        lambda c, key: c.get(key) if isinstance(c, Mapping) and key in c else c[key],
    ],
    "contains": [lambda c, key: key in c],
    "length": [len],
    "keys": [list, lambda c: [*c], lambda c: list(c.keys()) if isinstance(c, Mapping) else list(c)],
    "values": [
        lambda c: list(c.values()) if isinstance(c, Mapping) else list(c),
        lambda c: [v for _, v in c.items()] if isinstance(c, Mapping) else [v for v in c],  # noqa: C416
    ],
    "whole": [
        copy.copy,
        copy.deepcopy,
        lambda c: pickle.loads(pickle.dumps(c)),
        lambda c: thaw(c.freeze()),
        lambda c: c if c == thaw(copy.copy(c)) else None,
    ],
    "put": [lambda c, key, value: c.__setitem__(key, value)],
    "remove": [
        lambda c, key: c.remove(key) if isinstance(c, Set) else c.__delitem__(key),
        lambda c, key: c.remove(key) if isinstance(c, Set) else c.pop(key) and None,
    ],
    "append": [lambda c, value: c.append(value), lambda c, value: c.insert(10**6, value)],
    "add": [lambda c, element: c.add(element)],
    "clear": [lambda c: c.clear()],
}

WRITES = frozenset(("put", "remove", "append", "add", "clear"))
KINDS: dict[str, tuple[type, ...]] = {"append": (list,), "add": (set,)}


def fits(judge: Judge, path: tuple[Any, ...], action: str, *arguments: Any) -> bool:
    """Whether the step means something for the container that stands there now."""
    container: Any = judge.state
    for key in path:
        try:
            container = container[key]
        except (LookupError, TypeError):
            return False
    kind = type(container)
    if kind not in KINDS.get(action, (dict, list, set)):
        return False
    if kind is list:
        by_index = action in ("get", "put", "remove")
        return action not in ("contains", "keys", "remove") and (
            not by_index or type(arguments[0]) is int
        )
    return not (kind is set and action in ("get", "put", "values"))


def outcome(act: Callable[[], Any], writes: bool) -> Any:
    try:
        result = act()
    except Refused as refused:
        return "refused", refused.write
    except ContractViolationError as error:
        return "refused", "Illegal Read" not in str(error)
    except AttributeError:
        if writes:
            raise
        return "missing"
    except LookupError:
        return "missing"
    return "gave", result


def plain(value: Any) -> Any:
    """Kinds and shapes, without what a guard would have to let through."""
    return type(value).__name__.replace("Draft", "").lower()


Contract = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], bool]


def declare(contract: Contract) -> Any:
    inputs, outputs, pure = contract
    kind = "pure" if pure else "effect"
    return process(inputs=map(text, inputs), outputs=map(text, outputs), semantic=kind)


BOUNDS: st.SearchStrategy[Contract] = st.tuples(CONTRACTS, CONTRACTS, st.booleans())


@settings(max_examples=300, deadline=None)
@given(BOUNDS, STEPS, st.data())
def test_the_guard_allows_what_its_judge_allows(
    contract: Contract, steps: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    engine = TheusEngine(STATE)
    run_and_judge(engine, Judge(STATE, *contract), contract, steps, data, lambda body: body)


@settings(max_examples=300, deadline=None)
@given(BOUNDS, BOUNDS, STEPS, st.data())
def test_a_nested_process_may_do_what_both_contracts_allow(
    inner: Contract, outer: Contract, steps: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    engine = TheusEngine(STATE)
    judge = Judge(STATE, *inner).within(Judge(STATE, *outer))

    def around(body: Any) -> Any:
        return declare(outer)(lambda ctx: engine.run_process(body))

    run_and_judge(engine, judge, inner, steps, data, around)


def run_and_judge(
    engine: TheusEngine,
    judge: Judge,
    contract: Contract,
    steps: list[tuple[Any, ...]],
    data: st.DataObject,
    around: Callable[[Any], Any],
) -> None:
    refused_writes: list[tuple[Any, ...]] = []

    @declare(contract)
    def body(ctx: Any) -> None:
        for path, action, *arguments in steps:
            if not fits(judge, path, action, *arguments):
                continue
            writes = action in WRITES
            route = data.draw(st.sampled_from(ROUTES[action]))

            def ours(path: Any = path, route: Any = route, arguments: Any = arguments) -> Any:
                container = ctx[path[0]]
                for key in path[1:]:
                    container = container[key]
                return route(container, *arguments)

            expected = outcome(lambda: judge.do(path, action, *arguments), writes)  # noqa: B023
            got = outcome(ours, writes)
            if expected[0] == "gave" and isinstance(expected[1], (dict, list, set)):
                assert got[0] == "gave", (path, action, got)
                compare(
                    got[1], expected[1], judge, path if action != "get" else (*path, *arguments)
                )
            else:
                assert got == expected, (path, action, arguments, contract)
            if expected == ("refused", True):
                refused_writes.append(path)

    before = engine.state.to_dict()
    try:
        engine.run_process(around(body))
    except ContractViolationError:
        assert refused_writes
        assert engine.state.to_dict() == before
    else:
        assert not refused_writes
        assert engine.state.to_dict() == judge.state


def compare(ours: Any, theirs: Any, judge: Judge, path: tuple[Any, ...]) -> None:
    """Equal, as far as one may look."""
    if judge.reads.show_all(path):
        assert ours == theirs
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert plain(mine) == type(other).__name__, (ours, theirs)
    else:
        assert plain(ours) == type(theirs).__name__


def text(pattern: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if type(key) is int else f".{key}" for key in pattern).lstrip(".")
