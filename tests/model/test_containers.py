"""Random programs on the frozen containers and on builtins, side by side.

Every step starts from any version made so far, and every version is compared again at the
end: a version that a later one disturbs is found. Keys collide, are equal without being the
same (1, 1.0, True), or fail in the middle of a look-up.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import Collider, Crash, Crasher
from theus import FrozenDict, FrozenList, FrozenSet

PROGRAM = settings(max_examples=120)

colliders = st.builds(Collider, st.integers(0, 12), st.sampled_from([0, 1, -1, 1 << 40]))
keys: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 12),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 2.5, None, "a", "b", "", "1", (1, 2), (True, 2.0), -0.0]),
    colliders,
)
values = st.one_of(
    st.integers(0, 5),
    st.sampled_from(["x", None, 1.0, True]),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
    st.sets(st.integers(0, 3), max_size=2),
)
pairs = st.lists(st.tuples(keys, values), max_size=8)
# Which version a step starts from: mostly a recent one.
choices = st.integers(0, 30)


def outcome(act: Callable[..., Any], *args: Any) -> Any:
    """What act(*args) gives, or the type of what it raises."""
    try:
        return act(*args)
    except (KeyError, IndexError, ValueError) as error:
        return type(error)


def same(one: object, two: object) -> bool:
    """Equal, and of one type: 1 is not True here."""
    return one == two and (
        type(one) is type(two) or isinstance(one, (FrozenDict, FrozenList, FrozenSet))
    )


def heap_of(container: Any) -> Any:
    (heap,) = [o for o in gc.get_referents(container) if type(o).__name__ == "Heap"]
    return heap


def check_empty(heap: Any) -> None:
    """All versions of the family are gone, and nothing of them is left."""
    assert (heap.containers, heap.nodes, heap.bytes) == (0, 0, 0)


# ---- maps -----------------------------------------------------------------------------

map_steps = st.one_of(
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("update"), pairs),
    st.tuples(st.just("or"), pairs),
    st.tuples(st.just("ror"), pairs),
    st.tuples(st.just("mutate"), st.lists(st.tuples(keys, st.none() | values), max_size=12)),
    st.tuples(st.just("thin"), st.integers(2, 4)),
)


def step_map(made: FrozenDict[Any, Any], step: tuple[Any, ...]) -> FrozenDict[Any, Any]:
    match step:
        case ("set", key, value):
            return made.set(key, value)
        case ("delete", key):
            return made.delete(key)
        case ("update", entries):
            return made.update(entries)
        case ("or", entries):
            return made | dict(entries)
        case ("ror", entries):
            return dict(entries) | made
        case ("thin", every):
            for key in list(made)[::every]:
                made = made.delete(key)
            return made
        case ("mutate", writes):
            with made.mutate() as draft:
                for key, value in writes:
                    if value is None:
                        draft.pop(key, None)
                    else:
                        draft[key] = value
            return draft.finish()
    raise AssertionError(step)


def step_dict(model: dict[Any, Any], step: tuple[Any, ...]) -> dict[Any, Any]:
    model = dict(model)
    match step:
        case ("set", key, value):
            model[key] = value
        case ("delete", key):
            del model[key]
        case ("update" | "or", entries):
            model |= dict(entries)
        case ("ror", entries):
            model = dict(entries) | model
        case ("thin", every):
            for key in list(model)[::every]:
                del model[key]
        case ("mutate", writes):
            for key, value in writes:
                if value is None:
                    model.pop(key, None)
                else:
                    model[key] = value
    return model


def check_map(made: FrozenDict[Any, Any], model: dict[Any, Any]) -> None:
    assert len(made) == len(model)
    assert all(map(same, made, model)), "keys or their order"
    assert list(made.items()) == list(model.items())
    assert list(reversed(made)) == list(reversed(model))
    assert made == model and model == made and made.to_dict() == model
    for key in model:
        assert key in made and made[key] == model[key] == made.get(key)


@PROGRAM
@given(pairs, st.lists(st.tuples(choices, map_steps), max_size=40), st.lists(keys, max_size=5))
def test_maps(start: Any, program: Any, probes: list[Any]) -> None:
    check_empty(run_maps(start, program, probes))


def run_maps(start: Any, program: Any, probes: list[Any]) -> Any:
    versions = [(FrozenDict(start), dict(start))]
    for back, step in program:
        made, model = versions[-1 - back % len(versions)]
        result, expected = outcome(step_map, made, step), outcome(step_dict, model, step)
        if expected is KeyError:
            assert result is KeyError
            continue
        check_map(result, expected)
        versions.append((result, expected))
    for made, model in versions:
        check_map(made, model)
        for key in probes:
            assert (key in made) == (key in model)
            assert made.get(key, "nothing") == model.get(key, "nothing")
    for made, model in versions[:8]:
        for other, other_model in versions[-8:]:
            assert (made == other) == (model == other_model)
            if made == other:
                assert hash(made) == hash(other)
            assert made.keys() - other.keys() == model.keys() - other_model.keys()
    return heap_of(versions[0][0])


@PROGRAM
@given(st.integers(0, 3000), st.integers(1, 5), st.lists(st.integers(0, 3000), max_size=30))
def test_large_maps(size: int, every: int, picks: list[int]) -> None:
    model = {n: n for n in range(size)}
    made = FrozenDict(model)
    for n in range(0, size, every):
        if n % 2:
            del model[n]
            made = made.delete(n)
    with made.mutate() as draft:
        for n in picks:
            draft[n] = [n]
            model[n] = [n]
        for n in list(model)[:: every + 1]:
            del model[n], draft[n]
    check_map(draft.finish(), model)
    with draft.finish().mutate() as draft:
        while model:
            assert draft.popitem() == model.popitem()
    assert draft.finish() == {}


# ---- lists ----------------------------------------------------------------------------

list_steps = st.one_of(
    st.tuples(st.just("append"), values),
    st.tuples(st.just("append"), values),
    st.tuples(st.just("set"), st.integers(-40, 40), values),
    st.tuples(st.just("add"), st.lists(values, max_size=40)),
    st.tuples(st.just("radd"), st.lists(values, max_size=5)),
    st.tuples(st.just("times"), st.integers(-1, 3)),
    st.tuples(st.just("slice"), st.slices(50)),
)


def step_list(value: Any, step: tuple[Any, ...]) -> Any:
    """One for both: a FrozenList gives changed copies, a list is copied first."""
    match step:
        case ("append", item):
            return value + [item] if type(value) is list else value.append(item)
        case ("set", index, item):
            if type(value) is not list:
                return value.set(index, item)
            value = list(value)
            value[index] = item
            return value
        case ("add", items):
            return value + items
        case ("radd", items):
            return items + value
        case ("times", times):
            return value * times if len(value) < 2000 else value
        case ("slice", part):
            return value[part]
    raise AssertionError(step)


def check_list(made: FrozenList[Any], model: list[Any]) -> None:
    assert len(made) == len(model)
    assert list(made) == model and all(map(same, made, model))
    assert list(reversed(made)) == model[::-1]
    assert made == model and model == made and made.to_list() == model
    for index in range(-len(model), len(model), 7):
        assert made[index] == model[index]


@PROGRAM
@given(st.lists(values, max_size=70), st.lists(st.tuples(choices, list_steps), max_size=30))
def test_lists(start: list[Any], program: Any) -> None:
    check_empty(run_lists(start, program))


def run_lists(start: list[Any], program: Any) -> Any:
    versions: list[tuple[Any, Any]] = [(FrozenList(start), start)]
    for back, step in program:
        made, model = versions[-1 - back % len(versions)]
        result, expected = outcome(step_list, made, step), outcome(step_list, model, step)
        if expected is IndexError:
            assert result is IndexError
            continue
        check_list(result, expected)
        versions.append((result, expected))
    for made, model in versions:
        check_list(made, model)
        for item in (1, True, [1], "x", None):
            assert made.count(item) == model.count(item)
            assert outcome(made.index, item) == outcome(model.index, item)
    for made, model in versions[:6]:
        for other, other_model in versions[-6:]:
            assert (made == other) == (model == other_model)
    return heap_of(versions[0][0])


# ---- sets -----------------------------------------------------------------------------

set_steps = st.tuples(
    st.sampled_from(["add", "discard", "|", "&", "-", "^", "r|", "r&", "r-", "r^"]),
    st.lists(keys, max_size=8),
)


def step_set(made: FrozenSet[Any], name: str, elements: list[Any]) -> FrozenSet[Any]:
    other = set(elements)
    match name:
        case "add" | "discard":
            for element in elements[:1]:
                made = getattr(made, name)(element)
            return made
        case "|":
            return made | other
        case "&":
            return made & other
        case "-":
            return made - other
        case "^":
            return made ^ other
        case "r|":
            return other | made
        case "r&":
            return other & made
        case "r-":
            return other - made
        case "r^":
            return other ^ made
    raise AssertionError(name)


def step_plain_set(model: set[Any], name: str, elements: list[Any]) -> set[Any]:
    other = set(elements)
    match name:
        case "add":
            return model | set(elements[:1])
        case "discard":
            return model - set(elements[:1])
        case "|" | "r|":
            return model | other
        case "&" | "r&":
            return model & other
        case "-":
            return model - other
        case "r-":
            return other - model
        case "^" | "r^":
            return model ^ other
    raise AssertionError(name)


@PROGRAM
@given(st.lists(keys, max_size=20), st.lists(st.tuples(choices, set_steps), max_size=40))
def test_sets(start: list[Any], program: Any) -> None:
    versions = [(FrozenSet(start), set(start))]
    assert list(versions[0][0]) == list(dict.fromkeys(start))
    for back, (name, elements) in program:
        made, model = versions[-1 - back % len(versions)]
        versions.append((step_set(made, name, elements), step_plain_set(model, name, elements)))
    for made, model in versions:
        assert made == model and model == made and len(made) == len(model)
        assert set(made) == model == made.to_set() and len(list(made)) == len(model)
        assert list(reversed(made)) == list(made)[::-1]
        assert hash(made) == hash(frozenset(model))
        assert all(element in made for element in model)
    for made, model in versions[:6]:
        for other, other_model in versions[-6:]:
            assert (made == other) == (model == other_model)
            assert (made <= other) == (model <= other_model)
            assert (made > other) == (model > other_model)
            assert made.isdisjoint(other) == model.isdisjoint(other_model)


# ---- mutations ------------------------------------------------------------------------

writes = st.one_of(
    st.tuples(st.just("__setitem__"), keys, values),
    st.tuples(st.just("__setitem__"), keys, values),
    st.tuples(st.just("__delitem__"), keys),
    st.tuples(st.just("pop"), keys),
    st.tuples(st.just("pop"), keys, st.just("default")),
    st.tuples(st.just("popitem")),
    st.tuples(st.just("setdefault"), keys, values),
    st.tuples(st.just("update"), pairs),
    st.tuples(st.just("clear")),
    st.tuples(st.just("get"), keys, st.just("default")),
    st.tuples(st.just("__contains__"), keys),
)


@PROGRAM
@given(pairs, st.lists(writes, max_size=60), st.integers(0, 60))
def test_mutations(start: Any, program: Any, clear_after: int) -> None:
    base = FrozenDict(start)
    draft, model = base.mutate(), dict(start)
    for number, (name, *args) in enumerate(program):
        if name == "clear" and number < clear_after:
            continue  # else hardly a program grows
        assert outcome(getattr(draft, name), *args) == outcome(getattr(model, name), *args)
        assert len(draft) == len(model)
    assert all(map(same, draft, model)) and list(draft.items()) == list(model.items())
    done = draft.finish()
    check_map(done, model)
    check_map(base, dict(start))


# ---- keys that fail -------------------------------------------------------------------

crashers = st.builds(Crasher, st.integers(0, 8), st.sampled_from([0, 1]))
crashing = st.tuples(
    st.sampled_from(["set", "delete", "draft", "pop", "get"]), crashers, st.integers(0, 6)
)


@PROGRAM
@given(st.lists(crashing, max_size=40), st.sampled_from(["eq", "hash"]))
def test_a_key_that_fails_changes_nothing(program: Any, where: str) -> None:
    made: FrozenDict[Any, Any] = FrozenDict()
    draft = made.mutate()
    for number, (name, key, after) in enumerate(program):
        before, drafted = made, dict(draft)
        crashed = False
        try:
            with Crasher.armed(where, after=after):
                match name:
                    case "set":
                        made = made.set(key, number)
                    case "delete":
                        made = made.delete(key)
                    case "draft":
                        draft[key] = number
                    case "pop":
                        draft.pop(key)
                    case "get":
                        made.get(key)
        except KeyError:
            assert key not in (made if name == "delete" else draft)
        except Crash:
            crashed = True
        if crashed:
            assert made is before and draft == drafted
    assert len(made) == len(set(made)) and len(draft) == len(set(draft))


@pytest.mark.parametrize("where", ["hash", "eq"])
@settings(max_examples=60)
@given(
    st.lists(st.tuples(crashers, st.sampled_from(["set", "pop", "clear", "finish"])), max_size=12)
)
def test_a_key_that_writes_in_the_middle_breaks_nothing(where: str, program: Any) -> None:
    base = FrozenDict({Crasher(n, n % 2): n for n in range(6)})
    draft: Any = base.mutate()
    left = list(program)

    def meddle() -> None:
        if not left:
            return
        key, name = left.pop()
        try:
            match name:
                case "set":
                    draft[key] = "meddled"
                case "pop":
                    draft.pop(key, None)
                case "clear":
                    draft.clear()
                case "finish":
                    draft.finish()
        except (TypeError, RuntimeError):
            pass

    with Crasher.armed(where, act=meddle):
        for key, _ in program:
            try:
                draft[key] = 1
                draft.pop(key, None)
                draft.setdefault(key, 2)
                draft.update({key: 3})
            except (TypeError, RuntimeError):
                break
    done = draft.finish()
    assert len(done) == len(list(done)) == len(set(done)) == len(draft)
    assert all(done[key] == value for key, value in done.items())
    assert base == {Crasher(n, n % 2): n for n in range(6)}
