"""FrozenList: a complete immutable sequence, and its changed copies."""

from __future__ import annotations

import collections.abc
import copy
import pickle
import weakref
from typing import Any

import pytest

from helpers import Crash, Crasher
from theus import FrozenDict, FrozenError, FrozenList, Opaque, UnfreezableError

SAMPLES: list[list[Any]] = [
    [],
    [1],
    ["a", None, 2.5],
    list(range(100)),
    [[1, [2]], {"a": {1}}, (1, [2])],
]


@pytest.mark.parametrize("data", SAMPLES)
def test_it_reads_like_the_list_it_was_made_from(data: list[Any]) -> None:
    made = FrozenList(data)
    assert made == data and data == made
    assert FrozenList(iter(data)) == data == FrozenList(tuple(data))
    assert len(made) == len(data)
    assert list(made) == data
    assert list(reversed(made)) == data[::-1]
    assert [made[i] for i in range(-len(data), len(data))] == data + data
    assert FrozenList(made) is made
    assert made.to_list() == data and type(made.to_list()) is list


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        FrozenList(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no keyword"):
        FrozenList(source=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="at most 1"):
        FrozenList([], [])  # type: ignore[call-arg]


def test_indices() -> None:
    made = FrozenList("abc")
    with pytest.raises(IndexError, match="3 is out of range for a FrozenList of 3"):
        made[3]
    with pytest.raises(IndexError):
        made[-4]
    with pytest.raises(IndexError):
        made[1 << 70]
    with pytest.raises(TypeError, match="int or a slice, not a str"):
        made["0"]  # type: ignore[call-overload]
    assert made[True] == "b"


@pytest.mark.parametrize("size", [0, 1, 5, 40, 100])
def test_slices(size: int) -> None:
    data = list(range(size))
    made = FrozenList(data)
    bounds = [None, 0, 1, 3, 33, 39, 200, -1, -4, -200]
    for start in bounds:
        for stop in bounds:
            for step in (None, 1, 2, 7, -1, -3):
                part = made[start:stop:step]
                assert type(part) is FrozenList
                assert part == data[start:stop:step]
    assert made[:] is made
    with pytest.raises(ValueError, match="zero"):
        made[::0]


def test_it_is_a_sequence_to_everyone() -> None:
    made = FrozenList([1, 2, 3])
    assert isinstance(made, collections.abc.Sequence)
    assert not isinstance(made, collections.abc.MutableSequence)
    first, *rest = made
    assert (first, rest) == (1, [2, 3])
    match made:
        case [1, *others]:
            assert others == [2, 3]
        case _:
            pytest.fail("a sequence pattern does not match")
    assert FrozenList[int].__origin__ is FrozenList  # type: ignore[attr-defined]
    assert weakref.ref(made)() is made
    assert list(zip(made, made, strict=True)) == [(1, 1), (2, 2), (3, 3)]
    assert sum(made) == 6 and max(made) == 3 and sorted(made, reverse=True) == [3, 2, 1]


def test_searching() -> None:
    made = FrozenList([1, "a", [2], 1.0, None])
    assert 1 in made and [2] in made and 7 not in made
    assert made.index(1) == 0 and made.index(1, 1) == 3 and made.index([2]) == 2
    assert made.index(None, -1) == 4
    assert made.count(1) == 2 and made.count("x") == 0
    for args in (("x",), (1, 1, 3), ("a", 2), ("a", -100, 1)):
        with pytest.raises(ValueError, match="not in the FrozenList"):
            made.index(*args)


def test_comparing() -> None:
    made = FrozenList([1, 2, [3]])
    assert (
        made == [1, 2, [3]] and [1, 2, [3]] == made and made == FrozenList([1, 2, (3,)][:2] + [[3]])
    )
    assert made != (1, 2, [3]) and made != [1, 2] and made != [1, 2, [4]] and made != "x"
    assert made < [1, 3] and made > [1, 2] and made <= [1, 2, [3]] and made >= FrozenList([1, 2])
    assert [1, 3] > made and not [1, 2] > made
    assert FrozenList([1, 2, 3]) < FrozenList([1, 2, 4])
    for bad in ((1, 2), 1, {1: 2}):
        with pytest.raises(TypeError):
            made < bad  # type: ignore[operator]  # noqa: B015
    with pytest.raises(TypeError):
        FrozenList([1]) < FrozenList(["a"])  # noqa: B015


def test_hash() -> None:
    assert hash(FrozenList([1, [2]])) == hash(FrozenList([1.0, [2]]))
    assert hash(FrozenList([1, 2])) != hash(FrozenList([2, 1]))
    assert len({FrozenList([1]), FrozenList([True]), FrozenList([2])}) == 2


def test_changed_copies() -> None:
    one = FrozenList([1, 2])
    assert one.append([3]) == [1, 2, [3]]
    assert one.set(-1, {"a": 1}) == [1, {"a": 1}]
    assert one + [3] == one + (3,) == one + iter([3]) == one + FrozenList([3]) == [1, 2, 3]  # type: ignore[operator]
    assert [0] + one == (0,) + one == [0, 1, 2]  # type: ignore[operator]
    assert type([0] + one) is FrozenList
    assert one + one == one * 2 == 2 * one == [1, 2, 1, 2]
    assert one * 0 == one * -1 == [] and one * 1 is one
    assert one == [1, 2]
    grown = one
    grown += [3]
    assert grown == [1, 2, 3] and one == [1, 2]
    for bad in ("ab", 1, {1: 2}, {3}, b"x"):
        with pytest.raises(TypeError):
            one + bad  # type: ignore[operator]
    for index in (2, -3):
        with pytest.raises(IndexError, match="out of range"):
            one.set(index, 0)
    with pytest.raises(OverflowError):
        FrozenList([1]) * (1 << 40)


def test_a_long_life() -> None:
    made: FrozenList[int] = FrozenList()
    for n in range(3000):
        made = made.append(n)
    assert made == list(range(3000))
    assert made[:1025][-1] == 1024 and made[1024:][0] == 1024
    for n in range(0, 3000, 7):
        made = made.set(n, -n)
    assert made == [-n if n % 7 == 0 else n for n in range(3000)]


def test_writing_is_refused() -> None:
    made: Any = FrozenList([1])
    with pytest.raises(FrozenError, match=r"FrozenList is immutable: .*append"):
        made[0] = 2
    with pytest.raises(FrozenError):
        del made[0]
    with pytest.raises(AttributeError):
        made.extra = 1
    for name in ("extend", "insert", "pop", "remove", "sort", "reverse", "clear"):
        assert not hasattr(made, name)


def test_out() -> None:
    made = FrozenList([[1], {"a": {2}}])
    thawed = made.to_list()
    thawed[0].append(2)
    thawed[1]["b"] = 1
    assert made == [[1], {"a": {2}}]
    assert copy.copy(made) is made and copy.deepcopy(made) is made and made.copy() is made
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(made, protocol))
        assert type(again) is FrozenList and again == made


def test_repr() -> None:
    assert repr(FrozenList()) == "FrozenList([])"
    assert repr(FrozenList([1, [2], {}, set()])) == "FrozenList([1, [2], {}, set()])"
    assert repr(FrozenList(range(1000))).endswith(", 11, ... 988 more])")


def test_equality_of_versions_asks_only_where_they_differ() -> None:
    one = FrozenList([Opaque([n]) for n in range(1000)])
    assert one.set(7, 0).set(7, one[7]) == one
    assert one.set(7, 0) != one


def test_hostile_items() -> None:
    made = FrozenList([Opaque(1), 2])
    with Crasher.armed("eq"), pytest.raises(Crash):
        FrozenList([1]).count(Crasher(1))
    with Crasher.armed("eq"), pytest.raises(Crash):
        Crasher(1) in made  # noqa: B015

    source: list[Any] = [1, 2]

    class Shrinks:
        def __eq__(self, other: object) -> bool:
            source.clear()
            return True

        __hash__ = None  # type: ignore[assignment]

    source[:] = [Shrinks(), 2]
    assert FrozenList([1, 2]) != source

    grows: list[Any] = [{Crasher(0): 1}, 2]
    with Crasher.armed("hash", act=grows.clear):
        assert FrozenList(grows) == [{Crasher(0): 1}]


def test_errors_name_the_index() -> None:
    with pytest.raises(UnfreezableError) as caught:
        FrozenList([1, [2, object()]])
    assert caught.value.path == (1, 1)
    with pytest.raises(UnfreezableError) as caught:
        FrozenList([1]).append({"k": bytearray()})
    assert caught.value.path == (1, "k")
    with pytest.raises(UnfreezableError) as caught:
        FrozenDict(a=1).set("b", [bytearray()])
    assert caught.value.path == ("b", 0)
