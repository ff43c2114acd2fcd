"""Values as bytes: what arrives is what was sent; any bytes are read or refused, never worse."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import random
import sys
import uuid
import zoneinfo
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import theus
from support import exact
from theus import DELETE, MISSING, SET, CodecError, SendError, StateUpdate, freeze
from theus._theus import decode, encode
from theus.pools.codec import dumps, loads


class Colour(enum.Enum):
    RED = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Broken(Exception):
    def __init__(self, message: str, place: int) -> None:
        super().__init__(message, place)
        self.place = place


class Plain:
    def __init__(self, x: object) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.x == self.x


UTC = datetime.UTC
HALF_PAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30), "IST")
BERLIN = zoneinfo.ZoneInfo("UTC")

SAMPLES: list[Any] = [
    None, True, False, ..., NotImplemented, MISSING, DELETE,
    0, 63, 64, -1, 2**31, -(2**63), 2**63 - 1, 2**63, -(2**63) - 1, 2**1000, -(2**1000),
    0.0, -0.0, 1.5, float("inf"), 5e-324, 1j, complex(-0.0, 2),
    "", "a", "é", "\U0001f600", "\ud800", "x" * 127, "x" * 128, "\0", "ä" * 200,
    b"", b"\xff" * 300, bytearray(b"ab"),
    (), (1, (2,)), [], [[]], [1, "a", None], {}, {1: {2: {}}}, set(), {1, "a"},
    frozenset({1, frozenset()}), {("a", 1): [b"x"], None: 2},
    [{"name": "a", "size": 1}, {"name": "b", "size": 2}, {"size": "name"}],
    freeze({"a": [1, {"b": {1, 2}}], "t": (1, freeze([2]))}), freeze([]), freeze({1}), freeze({}),
    [freeze([1, [2]]), {"plain": [freeze({"x": [1]})]}], {freeze({"a": 1}): 2},
    freeze({freeze([1]): [freeze({2})]}), frozenset({freeze({"a": freeze({"b": 1})})}),
    datetime.date(1, 1, 1), datetime.date.max, datetime.datetime(2024, 2, 29, 23, 59, 59, 999999),
    datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=UTC),
    datetime.datetime(2024, 1, 1, tzinfo=HALF_PAST), datetime.datetime(2024, 1, 1, tzinfo=BERLIN),
    datetime.time(1, 2, 3, 4, fold=1), datetime.timedelta.min, datetime.timedelta(1, 2, 3),
    UTC, HALF_PAST, BERLIN,
    decimal.Decimal("9.950"), decimal.Decimal("-Infinity"), fractions.Fraction(-1, 3),
    uuid.UUID(int=5), pathlib.Path("/a/b"), pathlib.PureWindowsPath("c:\\x"), range(1, 9, 2),
    Colour.RED, theus.SemanticType.PURE, StateUpdate("a", 1, {"b": [2]}, signal={"s": ()}),
    SET(None),
]  # fmt: skip


@pytest.mark.parametrize("value", SAMPLES, ids=lambda v: type(v).__name__)
def test_what_arrives_is_what_was_sent(value: Any) -> None:
    twin = loads(dumps(value))
    assert type(twin) is type(value)
    assert twin == value and repr(twin) == repr(value)
    assert loads(dumps([value, {"key": (value,)}])) == [value, {"key": (value,)}]
    assert loads(dumps(value, pickle=True), pickle=True) == value


def test_time_keeps_fold_and_zone() -> None:
    twin = loads(dumps(datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN)))
    assert twin.fold == 1 and twin.tzinfo is BERLIN


def test_nan_stays_nan_and_floats_keep_their_bits() -> None:
    assert str(loads(dumps(float("nan")))) == "nan"
    assert str(loads(dumps(-0.0))) == "-0.0"


keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.text())
scalars = keys | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.tuples(inner, inner)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
)


@settings(max_examples=25)
@given(values)
def test_any_plain_value(value: Any) -> None:
    assert exact(loads(dumps(value))) == exact(value)
    frozen = freeze(value)
    assert type(loads(dumps(frozen))) is type(frozen) and loads(dumps(frozen)) == frozen


def test_keys_are_written_once() -> None:
    rows = [{"a rather long name of a column": n} for n in range(500)]
    assert len(dumps(rows)) < 500 * 8
    assert loads(dumps(rows)) == rows


def test_more_keys_than_have_numbers() -> None:
    many = {f"key {n}": n for n in range(70_000)}
    assert loads(dumps([many, many])) == [many, many]


def test_a_key_that_dies_meanwhile_is_not_taken_for_the_next() -> None:
    class Odd:
        def __init__(self, n: int) -> None:
            self.n = n

    data = encode([Odd(n) for n in range(2000)], lambda it: (1, {f"key number {it.n}": it.n}))
    assert decode(data, lambda code, it: it) == [{f"key number {n}": n} for n in range(2000)]


# ---- errors ---------------------------------------------------------------------------------


def test_exceptions_keep_class_arguments_and_attributes() -> None:
    error = Broken("it broke", 7)
    error.add_note("on a Monday")
    twin = loads(dumps(error))
    assert type(twin) is Broken and twin.args == ("it broke", 7)
    assert twin.place == 7 and twin.__notes__ == ["on a Monday"]
    refused = theus.ConflictError(("domain", "a"), 5, 7)
    assert str(loads(dumps(refused))) == str(refused)
    missing = FileNotFoundError(2, "no such file", "x")
    assert loads(dumps(missing, pickle=True), pickle=True).filename == "x"


def test_what_only_pickle_writes_has_to_be_asked_for() -> None:
    data = dumps([Plain(1), Mode.READ | Mode.WRITE, Plain], pickle=True)
    assert loads(data, pickle=True) == [Plain(1), Mode.READ | Mode.WRITE, Plain]
    with pytest.raises(CodecError, match="pickle"):
        loads(data)
    with pytest.raises(SendError, match="Plain") as refused:
        dumps({"a": Plain(1)})
    assert pickle.loads(pickle.dumps(refused.value)).why == refused.value.why
    with pytest.raises(SendError, match="lambda"):
        dumps([lambda: 0], pickle=True)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        dumps(loop)


def test_a_container_that_changes_meanwhile_is_refused() -> None:
    rows: dict[Any, Any] = {}

    def grow(it: Any) -> tuple[int, Any]:
        rows[len(rows)] = 0
        return 1, 0

    rows.update(a=Plain(1), b=2)
    with pytest.raises(RuntimeError, match="dict changed its size"):
        encode(rows, grow)
    parts: list[Any] = [Plain(1), 2]

    def shrink(it: Any) -> tuple[int, Any]:
        parts.clear()
        return 1, 0

    with pytest.raises(RuntimeError, match="list changed its size"):
        encode(parts, shrink)


@pytest.mark.parametrize("answer", [None, (1,), (1, 2, 3), [1, 2], ("x", 1), (-1, 1)])
def test_a_bad_answer_of_extend_is_an_error(answer: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        encode(Plain(1), lambda it: answer)


# ---- buffers ----------------------------------------------------------------------------------


def test_large_content_goes_out_of_band() -> None:
    large = bytes(range(256)) * 4
    parts = [large, bytearray(large), memoryview(large), large[:1023]]
    buffers: list[Any] = []
    data = encode(parts, None, buffers, 1024)
    assert buffers == parts[:3] and len(data) < 1100
    twins = decode(data, None, tuple(memoryview(part) for part in buffers))
    assert twins == parts
    assert [type(twin) for twin in twins] == [bytes, bytearray, memoryview, bytes]
    with pytest.raises(CodecError, match="no buffer"):
        decode(data, None, (large,))
    with pytest.raises(CodecError, match="no buffer"):
        decode(data)
    with pytest.raises(TypeError):
        encode(parts, None, (), 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        decode(data, None, [large])  # type: ignore[arg-type]


def test_a_scattered_view_travels_as_its_content() -> None:
    assert loads(dumps(memoryview(b"abcdef")[::2])) == b"ace"


# ---- arrays ----------------------------------------------------------------------------------


def test_arrays_of_every_kind() -> None:
    np = pytest.importorskip("numpy")
    table = np.zeros(3, [("a", "i4"), ("b", ">f8", (2,))])
    for array in [
        np.arange(6).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.array(5), np.zeros((0, 3)),
        np.arange(10)[::-2], np.arange(24).reshape(2, 3, 4)[:, 1], np.arange(3, dtype=">i2"), table,
        np.array(["2020-01-01"], "M8[D]"), np.array(["a", "bcd"]), np.array([1j]), np.bool_([1, 0]),
        np.float16([1.5]), np.array([b"xyz"]),
    ]:  # fmt: skip
        twin = loads(dumps(array))
        assert type(twin) is np.ndarray and twin.dtype == array.dtype and twin.flags.writeable
        assert twin.shape == array.shape and (twin == array).all()
    for scalar in [np.float64(2.5), np.int8(-1), np.datetime64("2020"), np.str_("x"), np.bool_(1)]:
        twin = loads(dumps(scalar))
        assert type(twin) is type(scalar) and twin == scalar
    assert loads(dumps(np.zeros((2, 3)).T)).flags.f_contiguous
    objects = np.array([1, "a"], object)
    with pytest.raises(SendError):
        dumps(objects)
    assert (loads(dumps(objects, pickle=True), pickle=True) == objects).all()


# ---- hostile data -------------------------------------------------------------------------------


def read(data: bytes) -> None:
    """Either a value, or the one error for bytes that are none."""
    try:
        loads(data)
    except (CodecError, theus.StaleArrayError, RecursionError):
        pass


def test_every_cut_and_every_flipped_byte_is_survived() -> None:
    chance = random.Random(5)
    for value in SAMPLES:
        data = dumps([value, {"key": value}])[:400]
        for size in range(0, len(data), 1 + len(data) // 40):
            with pytest.raises(CodecError):
                loads(data[:size])
        for _ in range(40):
            forged = bytearray(data)
            for _ in range(chance.randint(1, 3)):
                forged[chance.randrange(2, len(data))] = chance.randrange(256)
            read(bytes(forged))


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(data: bytes) -> None:
    read(b"\xc5\x01" + data)
    with pytest.raises(CodecError):
        loads(b"\x00" + data)


@pytest.mark.parametrize(
    "data, message, offset",
    [
        (b"", "no encoded data", 0),
        (b"\xc5", "no encoded data", 0),
        (b"\xc5\x02\x00", "another version", 1),
        (b"\xc5\x01", "the data end where", 2),
        (b"\xc5\x01\x00\x00", "something follows", 3),
        (b"\xc5\x01\x3f", "no value begins", 2),
        (b"\xc5\x01\x0c\xff\xff\xff\xff\x7f", "beyond the end", 3),  # a list of 2**35 parts
        (b"\xc5\x01\x0f\x02\x40\x40", "beyond the end", 3),
        (b"\xc5\x01\x07\x05abcd", "beyond the end", 3),
        (b"\xc5\x01\xffabc", "beyond the end", 2),
        (b"\xc5\x01\x82\xff\xff", "no UTF-8", 3),
        (b"\xc5\x01\x03" + b"\xff" * 9 + b"\x02", "more than 64 bits", 3),
        (b"\xc5\x01\x03\x80", "within a number", 3),
        (b"\xc5\x01\x05\x00", "within a float", 3),
        (b"\xc5\x01\x14\x00", "no key has", 3),
        (b"\xc5\x01\x10\x0c\x00", "not of its kind", 3),
        (b"\xc5\x01\x16", "within a buffer", 3),
    ],
)
def test_what_is_wrong_is_named_with_its_place(data: bytes, message: str, offset: int) -> None:
    with pytest.raises(CodecError, match=message) as refused:
        loads(data)
    assert refused.value.offset == offset


def test_what_is_nested_too_deep_is_refused() -> None:
    depth = sys.getrecursionlimit()
    sys.setrecursionlimit(max(depth, 20_000))
    try:
        # CPython 3.12 has a limit of its own for calls in C, which comes first.
        with pytest.raises(CodecError, match="nested too deep|RecursionError"):
            loads(b"\xc5\x01" + b"\x0c\x01" * 1001 + b"\x40")
    finally:
        sys.setrecursionlimit(depth)


@pytest.mark.parametrize(
    "code, content",
    [
        (13, ("os", "system", "x")),  # an enum that is none
        (13, ("antigravity", "X", "y")),  # nothing is imported
        (15, ("subprocess", "Popen", (["true"],), {})),
        (10, ("Popen", "x")),
        (2, (0, 0, 0, 0, 0, 0, 0, 0, None)),
        (22, (b"forged", (3,), "f8", 0, None)),
        (19, (None, (3,), "C", b"")),
        (99, None),
        (16, (b"cos\nsystem\n(S'true'\ntR.",)),
        (14, ("os", "system")),
    ],
)
def test_forged_parts_are_refused(code: int, content: Any) -> None:
    import sys

    with pytest.raises(CodecError):
        loads(encode(Plain(1), lambda it: (code, content)))
    assert "antigravity" not in sys.modules


def test_unhashable_keys_are_refused() -> None:
    with pytest.raises(CodecError, match="unhashable"):
        loads(b"\xc5\x01\x0d\x01\x0c\x00")


def number(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def test_nested_containers_share_what_is_left() -> None:
    """Each of them alone could have that many parts, but not all together."""
    tail = b"\x00" * 10_000
    for tag in (b"\x0b", b"\x0c"):
        with pytest.raises(CodecError, match="beyond the end") as refused:
            loads(b"\xc5\x01" + (tag + number(9_000)) * 3 + tail)
        assert refused.value.offset == 6
    with pytest.raises(CodecError, match="beyond the end"):
        loads(b"\xc5\x01\x0c\x03\x07\x02ab\x00")  # a text that takes the place of two parts
    assert loads(b"\xc5\x01\x0c\x03\x07\x02ab\x00\x00") == ["ab", None, None]
    assert loads(b"\xc5\x01\x0c\x02\x0f\x01\x41\x42\x0f\x01\x43\x44") == [{1: 2}, {3: 4}]


@pytest.mark.parametrize(
    "code, content",
    [
        (1, range(10**12)),
        (11, range(10**12)),
        (15, ("builtins", "ValueError", range(10**12), {})),
        (15, ("builtins", "ValueError", (), [])),
        (17, range(10**12)),
        (8, ("1e999999999",)),
        (8, (1, 2, 3)),
        (7, (0, range(10**12), 0)),
        (9, "sixteen letters!"),
        (12, b"DELETE"),
    ],
)
def test_forged_parts_cost_no_more_than_their_bytes(code: int, content: Any) -> None:
    with pytest.raises(CodecError):
        loads(encode(Plain(1), partial(stand_for, code, content)))


def stand_for(code: int, content: Any, it: Any) -> tuple[int, Any]:
    if type(it) is range:
        return 11, (it.start, it.stop, it.step)
    return code, content


def test_what_is_half_decoded_is_not_to_be_found() -> None:
    import gc

    for kind in (tuple, list):
        found: list[Any] = []

        def look(code: int, content: Any, kind: Any = kind, found: Any = found) -> str:
            found += [it for it in gc.get_objects() if type(it) is kind and len(it) == 12_345]
            return "here"

        data = encode(kind([Plain(1), *[None] * 12_344]), lambda it: (99, None))
        result = decode(data, look)
        assert found == []
        assert result[0] == "here" and gc.is_tracked(result)
    assert decode(encode([(), []])) == [(), []]
