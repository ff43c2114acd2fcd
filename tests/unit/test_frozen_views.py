"""keys(), values() and items() of a FrozenDict, beside those of a dict."""

from __future__ import annotations

import collections.abc
import itertools
from typing import Any

import pytest

from theus import FrozenDict, FrozenList, FrozenSet

DATA: dict[Any, Any] = {"b": 1, "a": [2], "c": 3}
MADE: FrozenDict[Any, Any] = FrozenDict(DATA)


def test_they_show_the_same_in_the_same_order() -> None:
    assert list(MADE.keys()) == list(DATA.keys())
    assert list(MADE.values()) == list(DATA.values())
    assert list(MADE.items()) == list(DATA.items())
    for name in ("keys", "values", "items"):
        ours, theirs = getattr(MADE, name)(), getattr(DATA, name)()
        assert len(ours) == len(theirs)
        assert list(reversed(ours)) == list(reversed(theirs))
        assert ours.mapping is MADE
    assert type(list(MADE.values())[1]) is FrozenList


def test_they_are_what_collections_abc_says() -> None:
    assert isinstance(MADE.keys(), collections.abc.KeysView)
    assert isinstance(MADE.values(), collections.abc.ValuesView)
    assert isinstance(MADE.items(), collections.abc.ItemsView)


def test_membership() -> None:
    assert "a" in MADE.keys() and "x" not in MADE.keys()
    assert [2] in MADE.values() and 9 not in MADE.values()
    assert ("a", [2]) in MADE.items() and ("a", 9) not in MADE.items()
    assert ("x", 1) not in MADE.items()
    assert "a" not in MADE.items() and ("a", 1, 2) not in MADE.items()
    with pytest.raises(TypeError, match="unhashable"):
        [] in MADE.keys()  # noqa: B015


KEYS = FrozenDict(a=1, b=2).keys()
OTHERS: list[Any] = [
    {"a"}, {"a", "b"}, {"a", "b", "c"}, frozenset("ab"), set(), {"x"},
    {"a": 1}.keys(), {"a": 0, "b": 0}.keys(), FrozenDict(a=1, c=1).keys(), FrozenSet("ab"),
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: type(other).__name__)
def test_keys_are_a_set(other: Any) -> None:
    same = {"a": 1, "b": 2}.keys()
    plain = set(other)
    for ours, theirs in (
        (KEYS & other, same & plain),
        (KEYS | other, same | plain),
        (KEYS - other, same - plain),
        (KEYS ^ other, same ^ plain),
        (other & KEYS, plain & same),
        (other | KEYS, plain | same),
        (other - KEYS, plain - same),
        (other ^ KEYS, plain ^ same),
    ):
        assert set(ours) == theirs
    assert (KEYS == other) == (same == plain) == (other == KEYS)
    assert (KEYS != other) == (same != plain)
    assert (KEYS < other) == (same < plain) == (other > KEYS)
    assert (KEYS <= other) == (same <= plain)
    assert (KEYS > other) == (same > plain)
    assert (KEYS >= other) == (same >= plain)
    assert KEYS.isdisjoint(other) == same.isdisjoint(plain)


def test_set_operators_take_any_iterable_as_those_of_dict_do() -> None:
    assert KEYS & ["a", "x"] == {"a"}
    assert type(KEYS & ["a"]) is set
    assert KEYS.isdisjoint(iter(["x"])) and not KEYS.isdisjoint(["a"])
    with pytest.raises(TypeError):
        KEYS & 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        KEYS < 1  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError, match="unhashable"):
        hash(KEYS)


def test_items_are_a_set_of_pairs() -> None:
    one, two = FrozenDict(a=1, b=[2]), FrozenDict(b=[2], c=3)
    assert one.items() & two.items() == {("b", FrozenList([2]))}
    assert one.items() - two.items() == {("a", 1)}
    assert FrozenDict(a=1).items() == {"a": 1}.items()
    assert FrozenDict(a=1).items() == {("a", 1)}
    assert FrozenDict(a=1).items() != {("a", 2)}
    assert FrozenDict(a=1).items() < {"a": 1, "b": 2}.items()


def test_values_are_only_equal_to_themselves() -> None:
    values = MADE.values()
    assert values == values
    assert MADE.values() != MADE.values()
    hash(values)


def test_they_outlive_the_name_of_their_map() -> None:
    keys = FrozenDict(a=1, b=2).keys()
    steps = iter(FrozenDict({n: n for n in range(1000)}).items())
    assert list(keys) == ["a", "b"]
    assert list(steps) == [(n, n) for n in range(1000)]


def test_pairs_that_are_kept_stay_as_they_were() -> None:
    pairs = list(zip(MADE.items(), MADE.items(), strict=True))
    assert pairs == [((k, v), (k, v)) for k, v in DATA.items()]
    steps = iter(MADE.items())
    first = next(steps)
    second = next(steps)
    assert (first, second) == (("b", 1), ("a", [2]))


def test_iterators() -> None:
    steps = iter(MADE)
    assert iter(steps) is steps
    assert steps.__length_hint__() == 3  # type: ignore[attr-defined]
    assert next(steps) == "b"
    assert steps.__length_hint__() == 2  # type: ignore[attr-defined]
    assert list(steps) == ["a", "c"]
    assert list(steps) == []
    assert steps.__length_hint__() == 0  # type: ignore[attr-defined]


def test_iteration_over_many_and_over_holes() -> None:
    made = FrozenDict({n: -n for n in range(5000)})
    for n in range(0, 5000, 3):
        made = made.delete(n)
    expected = [n for n in range(5000) if n % 3]
    assert list(made) == expected
    assert list(reversed(made)) == expected[::-1]
    assert list(made.values()) == [-n for n in expected]
    assert list(itertools.islice(made.items(), 2)) == [(1, -1), (2, -2)]


def test_repr() -> None:
    assert repr(MADE.keys()) == "FrozenKeys(['b', 'a', 'c'])"
    assert repr(MADE.values()) == "FrozenValues([1, [2], 3])"
    assert repr(MADE.items()) == "FrozenItems({'b': 1, 'a': [2], 'c': 3})"
    assert repr(FrozenDict().keys()) == "FrozenKeys([])"
    assert "more" in repr(FrozenDict({n: n for n in range(100)}).keys())
