"""What a container takes in: copied, by reference, or refused with a way out."""

from __future__ import annotations

import array
import asyncio
import collections
import datetime
import decimal
import enum
import fractions
import io
import ipaddress
import math
import pathlib
import pickle
import re
import sys
import time
import types
import typing
import uuid
import zoneinfo
from typing import Any

import pytest

from theus import (
    DELETE,
    MISSING,
    FrozenDict,
    FrozenList,
    FrozenSet,
    Opaque,
    TheusError,
    UnfreezableError,
    freeze,
    thaw,
)


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class Point(typing.NamedTuple):
    x: Any
    y: Any


class Word(str):
    """Adds nothing to str, so it cannot change either."""

    __slots__ = ()


def function() -> None: ...


ATOMS: list[Any] = [
    None, True, 0, -(1 << 100), 1.5, 2j, "text", b"bytes", ..., NotImplemented, range(5),
    (), (1, (2, "x")), frozenset({1, (2,)}),
    Colour.RED, Level.LOW | Level.HIGH, Word("w"), Point(1, 2), time.gmtime(0),
    int, Colour, function, len, math.sin, lambda: None,
    datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    datetime.time(1), datetime.timedelta(1), datetime.UTC, zoneinfo.ZoneInfo("UTC"),
    decimal.Decimal("1.5"), fractions.Fraction(1, 2), uuid.UUID(int=1), re.compile("x"),
    pathlib.Path("a"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"),
    ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_interface("10.0.0.1/8"),
]  # fmt: skip


@pytest.mark.parametrize("atom", ATOMS, ids=lambda a: type(a).__name__)
def test_what_cannot_change_is_held_by_reference(atom: Any) -> None:
    assert freeze(atom) is atom
    assert FrozenDict(a=atom)["a"] is atom
    assert FrozenList([atom])[0] is atom
    assert thaw(atom) is atom
    assert FrozenDict(a=[atom]).to_dict()["a"][0] is atom


def test_builtin_containers_are_copied_once_at_any_depth() -> None:
    value = {"d": {"x": [1, {2, 3}]}, "l": [[]], "s": {1}, "t": (1, [2])}
    frozen = freeze(value)
    assert type(frozen) is FrozenDict and frozen == value
    assert thaw(frozen) == value
    assert type(freeze([1])) is FrozenList and type(freeze({1})) is FrozenSet
    assert freeze(frozen) is frozen
    assert thaw((1, FrozenList([FrozenSet([2])]))) == (1, [{2}])
    frozen_tuple = freeze((1, [2]))
    assert type(frozen_tuple) is tuple and type(frozen_tuple[1]) is FrozenList


def test_other_mappings_become_dicts_in_their_own_order() -> None:
    ordered = collections.OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert list(freeze(ordered)) == ["b", "a"]
    assert freeze(collections.defaultdict(list, a=[1])) == {"a": [1]}
    assert freeze(collections.Counter("aab")) == {"a": 2, "b": 1}
    assert freeze(types.MappingProxyType({"a": [1]})) == {"a": [1]}


def test_named_tuples_keep_their_type() -> None:
    frozen = freeze(Point(1, [2]))
    assert type(frozen) is Point and type(frozen.y) is FrozenList and frozen == Point(1, [2])
    thawed = thaw(frozen)
    assert type(thawed) is Point and type(thawed.y) is list
    assert FrozenDict(p=Point([], 1)).to_dict() == {"p": Point([], 1)}


def test_containers_of_another_family_are_copied() -> None:
    other = FrozenDict(a=[1, {"b": {2}}], t=([1],))
    made = FrozenDict(copy=other)
    del other
    assert made == {"copy": {"a": [1, {"b": {2}}], "t": ([1],)}}
    assert type(made["copy"]["a"][1]["b"]) is FrozenSet


class AttrsLike:
    __attrs_attrs__ = ()


class ArrayLike:
    __array_interface__: typing.ClassVar[dict[str, Any]] = {}


class Plain:
    pass


class Text(str):
    pass


class Number(int):
    pass


class Rows(list):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


class Pair(tuple):  # type: ignore[type-arg]
    pass


async def coroutine() -> None: ...


REFUSED: list[tuple[Any, str]] = [
    (Plain(), r"store plain data .*theus\.Opaque"),
    (object(), r"theus\.Opaque"),
    (AttrsLike(), r"attrs\.asdict\(value\)"),
    (ArrayLike(), r"tolist\(\) or bytes\(value\).*theus\.Opaque"),
    (bytearray(b"x"), r"bytes\(value\)"),
    (memoryview(b"x"), r"bytes\(value\)"),
    (array.array("i"), r"bytes\(value\) or list\(value\)"),
    (collections.deque(), r"list\(value\)"),
    (collections.ChainMap(), r"dict\(value\)"),
    (collections.UserDict(), r"dict\(value\)"),
    (iter([]), r"list\(value\)"),
    ((n for n in ()), r"list\(value\)"),
    (Text("x"), r"str\(value\)"),
    (Number(1), r"int\(value\)"),
    (Rows(), r"list\(value\)"),
    (Table(), r"dict\(value\)"),
    (Pair(), r"tuple\(value\)"),
    ([].append, r"theus\.Opaque"),
    (Plain, None),  # type: ignore[list-item]
    (sys, r"theus\.Opaque"),
    (asyncio.Lock(), r"theus\.Opaque"),
    (io.TextIOWrapper(io.BytesIO()), "outside; store its path"),
    (DELETE, "marks, not values"),
    (MISSING, "marks, not values"),
]


@pytest.mark.parametrize(
    ("value", "advice"), REFUSED, ids=[type(value).__name__ for value, _ in REFUSED]
)
def test_what_can_change_is_refused_with_path_type_and_advice(
    value: Any, advice: str | None
) -> None:
    if advice is None:
        assert freeze(value) is value
        return
    with pytest.raises(UnfreezableError, match=advice) as caught:
        FrozenDict({"rows": [1, {"k": (0, value)}]})
    error = caught.value
    assert error.path == ("rows", 1, "k", 1)
    assert type(value).__qualname__ in error.value_type
    assert isinstance(error, TheusError) and isinstance(error, TypeError)
    with pytest.raises(UnfreezableError) as caught:
        freeze(value)
    assert caught.value.path in ((), None)
    again = pickle.loads(pickle.dumps(error))
    assert again.path == error.path and str(again) == str(error)


def test_a_real_coroutine_and_awaitable() -> None:
    pending = coroutine()
    with pytest.raises(UnfreezableError, match="await"):
        freeze(pending)
    pending.close()


def test_numpy_scalars_pass_and_arrays_do_not() -> None:
    numpy = pytest.importorskip("numpy")
    scalar = numpy.int64(3)
    assert freeze([scalar])[0] is scalar
    assert freeze(numpy.float64(1.5)) == 1.5
    with pytest.raises(UnfreezableError, match=r"tolist\(\)"):
        freeze({"a": numpy.zeros(3)})
    with pytest.raises(UnfreezableError):
        freeze(numpy.zeros(1, dtype=[("x", int)])[0])


def test_a_metaclass_with_an_equality_of_its_own_is_not_asked() -> None:
    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            raise AssertionError

        __hash__ = None  # type: ignore[assignment]

    class Odd(metaclass=Meta):
        pass

    with pytest.raises(UnfreezableError):
        freeze(Odd())
    assert freeze(Odd) is Odd


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: Any = [1]
    loop.append({"in": (loop,)})
    with pytest.raises(UnfreezableError, match="contains itself") as caught:
        FrozenDict(top=loop)
    assert caught.value.path == ("top", 1, "in", 0)
    knot: dict[str, Any] = {}
    knot["me"] = knot
    with pytest.raises(UnfreezableError, match="contains itself"):
        freeze(knot)
    ordered: Any = collections.OrderedDict()
    ordered["me"] = [ordered]
    with pytest.raises(UnfreezableError, match="contains itself"):
        freeze(ordered)
    twice = [1]
    assert freeze([twice, twice]) == [[1], [1]]  # a tree may name a part twice


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: (v, [])])
def test_deep_nesting_is_an_error_not_a_crash(wrap: Any) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = wrap(deep)
    assert thaw(freeze(deep)) == deep
    for _ in range(100_000):
        deep = wrap(deep)
    with pytest.raises(RecursionError):
        freeze(deep)


def test_keys_are_anything_with_a_hash() -> None:
    key = Plain()
    made = FrozenDict({key: 1, (key, 2): 2, frozenset({key}): 3, FrozenList([1]): 4})
    assert made[key] == 1 and made[FrozenList([1])] == 4
    assert [type(k) for k in made.to_dict()] == [Plain, tuple, frozenset, FrozenList]


# ---- Opaque and the marks ------------------------------------------------------------------


def test_opaque_holds_the_very_object() -> None:
    thing = [1]
    made = FrozenDict(a=Opaque(thing), b=[Opaque(thing)])
    assert type(made["a"]) is Opaque and made["a"].value is thing
    assert made["b"][0].value is thing
    assert made.to_dict()["a"].value is thing
    assert Opaque(value=thing).value is thing


def test_opaque_compares_and_hashes_by_the_object_it_holds() -> None:
    one, two = [1], [1]
    assert Opaque(one) == Opaque(one) != Opaque(two)
    assert Opaque(one) != one
    assert hash(Opaque(one)) == hash(Opaque(one))
    hash(FrozenDict(a=Opaque(one)))
    with pytest.raises(AttributeError):
        Opaque(one).value = two  # type: ignore[misc]
    with pytest.raises(TypeError):
        Opaque()  # type: ignore[call-arg]


def test_opaque_text_pickle_and_annotation() -> None:
    assert repr(Opaque([1])) == "Opaque([1])"
    again = pickle.loads(pickle.dumps(FrozenDict(a=Opaque([1]))))
    assert again["a"].value == [1]
    assert Opaque[int].__origin__ is Opaque  # type: ignore[attr-defined]
    loop: list[Any] = []
    loop.append(Opaque(loop))
    assert repr(loop) == "[Opaque([...])]"


def test_marks_are_single() -> None:
    import copy

    for mark, name in ((MISSING, "MISSING"), (DELETE, "DELETE")):
        assert repr(mark) == name
        assert copy.copy(mark) is mark and copy.deepcopy(mark) is mark
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(mark, protocol)) is mark
        with pytest.raises(TypeError):
            type(mark)()
