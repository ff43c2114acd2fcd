"""FrozenSet: a complete immutable set in insertion order."""

from __future__ import annotations

import collections.abc
import copy
import pickle
import weakref
from typing import Any

import pytest

from helpers import Collider, Crash, Crasher
from theus import FrozenDict, FrozenList, FrozenSet

OTHERS: list[Any] = [
    set(), {1}, {1, 2, 3}, {2, 3, 4}, {7}, frozenset({1, 2}), frozenset({1, 2, 3}),
    FrozenSet([3, 9]), FrozenSet([1, 2, 3]), {1: 0, 8: 0}.keys(), FrozenDict({2: 0}).keys(),
]  # fmt: skip


def test_it_reads_like_a_set_in_insertion_order() -> None:
    made = FrozenSet([3, 1, 2, 1, True, 3.0])
    assert list(made) == [3, 1, 2] and list(reversed(made)) == [2, 1, 3]
    assert len(made) == 3 and made
    assert 1 in made and 9 not in made
    assert made == {1, 2, 3} and {1, 2, 3} == made and made == frozenset({1, 2, 3})
    assert FrozenSet(made) is made
    assert FrozenSet({1, 2}) == {1, 2} and not FrozenSet()
    assert isinstance(made, collections.abc.Set)
    assert not isinstance(made, collections.abc.MutableSet)
    assert FrozenSet[int].__origin__ is FrozenSet  # type: ignore[attr-defined]
    assert weakref.ref(made)() is made
    with pytest.raises(TypeError, match="unhashable"):
        [] in made  # noqa: B015
    with pytest.raises(TypeError, match="unhashable"):
        FrozenSet([[]])
    with pytest.raises(TypeError, match="not iterable"):
        FrozenSet(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no keyword"):
        FrozenSet(source=[])  # type: ignore[call-arg]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
@pytest.mark.parametrize("data", [set(), {1, 2, 3}, {1, 9}], ids=repr)
def test_operators(data: set[int], other: Any) -> None:
    made, plain = FrozenSet(data), set(other)
    for ours, theirs in (
        (made | other, data | plain),
        (made & other, data & plain),
        (made - other, data - plain),
        (made ^ other, data ^ plain),
    ):
        assert type(ours) is FrozenSet and ours == theirs
    for ours, theirs in (
        (other | made, plain | data),
        (other & made, plain & data),
        (other - made, plain - data),
        (other ^ made, plain ^ data),
    ):
        assert set(ours) == theirs
    assert (made == other) == (data == plain) == (other == made)
    assert (made != other) == (data != plain)
    assert (made < other) == (data < plain)
    assert (made <= other) == (data <= plain)
    assert (made > other) == (data > plain)
    assert (made >= other) == (data >= plain)
    assert made.union(other) == data | plain
    assert made.intersection(other) == data & plain
    assert made.difference(other) == data - plain
    assert made.symmetric_difference(other) == data ^ plain
    assert made.issubset(other) == data.issubset(plain)
    assert made.issuperset(other) == data.issuperset(plain)
    assert made.isdisjoint(other) == data.isdisjoint(plain)


def test_methods_take_iterables_and_operators_do_not() -> None:
    made = FrozenSet([1, 2])
    assert made.union([2, 3], (4,)) == {1, 2, 3, 4} and made.union() is made
    assert made.intersection(iter([2]), {2: 0}) == {2}
    assert made.difference([1], iter([2])) == set()
    assert made.symmetric_difference([2, 3]) == {1, 3}
    assert made.issubset([1, 2, 3]) and made.issuperset([1]) and made.isdisjoint("ab")
    for bad in ([1], "ab", 1, {1: 2}):
        with pytest.raises(TypeError):
            made | bad  # type: ignore[operator]
        with pytest.raises(TypeError):
            bad & made  # type: ignore[operator]
        assert made != bad
    with pytest.raises(TypeError):
        made < [1]  # type: ignore[operator]  # noqa: B015


def test_results_keep_the_order_of_the_left() -> None:
    assert list(FrozenSet([3, 1]) | {2}) == [3, 1, 2]
    assert list(FrozenSet([3, 1, 2]) & {1, 2, 3}) == [3, 1, 2]
    assert list(FrozenSet([3, 1, 2]) - {1}) == [3, 2]
    assert list(FrozenSet([3, 1]) ^ FrozenSet([1, 7])) == [3, 7]


def test_changed_copies() -> None:
    one = FrozenSet([1])
    assert one.add(2) == {1, 2} and one.add(1) is one
    assert one.discard(1) == set() and one.discard(9) is one
    assert one == {1}
    more: Any = one
    more |= {5}
    assert more == {1, 5} and one == {1}
    for name in ("remove", "pop", "clear", "update", "difference_update"):
        assert not hasattr(one, name)


def test_it_hashes_like_the_frozenset_it_equals() -> None:
    for data in ((), (1,), (3, 1, 2), range(1000), ("a", (1, 2), None)):
        assert hash(FrozenSet(data)) == hash(frozenset(data))
    assert {frozenset([1]): "found"}[FrozenSet([1])] == "found"
    assert FrozenSet([FrozenSet([1]), frozenset([1])]) == {frozenset([1])}


def test_elements_may_be_frozen_containers() -> None:
    made = FrozenSet([FrozenList([1]), FrozenDict(a=1), FrozenList([1])])
    assert len(made) == 2
    assert FrozenList([1]) in made and FrozenDict(a=1) in made
    assert made.to_set() == {FrozenList([1]), FrozenDict(a=1)}


def test_out() -> None:
    made = FrozenSet([2, 1])
    thawed = made.to_set()
    thawed.add(3)
    assert type(thawed) is set and made == {1, 2}
    assert copy.copy(made) is made and copy.deepcopy(made) is made and made.copy() is made
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(made, protocol))
        assert type(again) is FrozenSet and again == made


def test_repr() -> None:
    assert repr(FrozenSet()) == "FrozenSet()"
    assert repr(FrozenSet([2, 1])) == "FrozenSet({2, 1})"
    assert repr(FrozenSet(range(100))).endswith(", ... 88 more})")


def test_hostile_elements() -> None:
    made = FrozenSet(Collider(n) for n in range(100))
    assert all(Collider(n) in made for n in range(100)) and Collider(100) not in made
    for n in range(0, 100, 2):
        made = made.discard(Collider(n))
    assert [key.name for key in made] == list(range(1, 100, 2))

    one = FrozenSet([Crasher(1), Crasher(2)])
    for where in ("hash", "eq"):
        for ask in (
            lambda: Crasher(3) in one,
            lambda: one.add(Crasher(3)),
            lambda: one.discard(Crasher(3)),
            lambda: one | {Crasher(3)},
            lambda: one & FrozenSet([Crasher(3)]),
            lambda: one == {Crasher(3), Crasher(4)},
            lambda: one ^ FrozenSet([Crasher(3)]),
        ):
            with Crasher.armed(where), pytest.raises(Crash):
                ask()
    assert one == {Crasher(1), Crasher(2)}


def test_a_step_that_changes_nothing_gives_the_set_itself() -> None:
    made = FrozenSet([1, 2])
    for same in (
        made | {1},
        made & {2, 1, 7},
        made - {9},
        made - set(range(10, 50)),
        made.union([2], (1,)),
        made.difference(),
    ):
        assert same is made


def test_the_smaller_side_decides_the_work_not_the_result() -> None:
    large, small = set(range(2000)), {3, 5, 9000}
    made = FrozenSet(range(2000))
    assert made - small == large - small and list(made - small)[:4] == [0, 1, 2, 4]
    assert FrozenSet(small) - large == {9000}
    assert made & small == {3, 5} and FrozenSet(small) & large == {3, 5}
    assert made ^ small == large ^ small
