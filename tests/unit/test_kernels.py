"""Kernels: arithmetic without NumPy, with NumPy as the judge."""

from __future__ import annotations

import array
import math
import random
import threading
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theus import ArrayView, kernels

np = pytest.importorskip("numpy")

INTEGERS = "bhilqBHILQ"
FLOATS = "fd"
COMPLEX = "FD"
STEPS = [
    slice(None),
    slice(None, None, 2),
    slice(None, None, -1),
    slice(1, 3),
    slice(None, None, -3),
]


@st.composite
def pairs(draw: st.DrawFn, letters: str = "?" + INTEGERS + FLOATS + COMPLEX) -> Any:
    """Two arrays of one dtype and shape, each with strides of its own."""
    letter = draw(st.sampled_from(letters))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    steps = [draw(st.sampled_from(STEPS)) for _ in shape]
    chance = random.Random(draw(st.integers(0, 2**20)))

    def one() -> Any:
        size = math.prod(shape)
        if letter in INTEGERS:
            limits = np.iinfo(letter)
            numbers = [chance.choice([0, 1, 3, limits.min, limits.max]) for _ in range(size)]
        else:
            numbers = [chance.choice([0, 1, -2.5, 3, math.inf, math.nan]) for _ in range(size)]
        with np.errstate(all="ignore"):
            it = np.array(numbers).astype(letter).reshape(shape)
        order = chance.choice("CF")
        return np.array(it, order=order)[tuple(steps)] if shape else it

    return one(), one()


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found), wanted)


@settings(max_examples=80)
@given(pairs())
def test_elementwise(ab: Any) -> None:
    a, b = ab
    with np.errstate(all="ignore"):
        out = np.empty_like(a)
        assert kernels.copy(a, out) is out
        same(out, a)
        same(kernels.add(a, b, np.empty(a.shape, a.dtype)), a + b)
        flat = kernels.add(a, b, bytearray(a.nbytes))
        assert bytes(flat) == (a + b).tobytes() or np.isnan(a + b).any()
        for operation in ("==", "!="):
            found = kernels.compare(a, operation, b, np.empty(a.shape, "?"))  # type: ignore[arg-type]
            same(found, a == b if operation == "==" else a != b)
        if a.dtype.char not in COMPLEX:
            same(kernels.compare(a, "<", b, np.empty(a.shape, "?")), a < b)
            same(kernels.compare(a, "<=", b, np.empty(a.shape, "?")), a <= b)
            same(kernels.compare(a, ">=", b, np.empty(a.shape, "?")), a >= b)
            same(kernels.compare(a, ">", b, np.empty(a.shape, "?")), a > b)


@settings(max_examples=60)
@given(pairs(INTEGERS + FLOATS))
def test_products(ab: Any) -> None:
    a, b = ab
    with np.errstate(all="ignore"):
        same(kernels.scale(a, b, np.empty(a.shape, a.dtype)), a * b)
        same(kernels.scale(a, 3, np.empty(a.shape, a.dtype)), a * a.dtype.type(3))
        mine = a.copy()
        assert kernels.axpy(3, b, mine) is mine
        same(mine, a + b * a.dtype.type(3))
        same(kernels.add(mine, mine, mine), (a + b * a.dtype.type(3)) * a.dtype.type(2))


@settings(max_examples=80)
@given(pairs())
def test_reductions(ab: Any) -> None:
    a, b = ab
    numbers, others = a.reshape(-1).tolist(), b.reshape(-1).tolist()
    found = kernels.sum(a)
    if a.dtype.char in "?" + INTEGERS:
        assert found == sum(numbers) and type(found) is int
        if a.dtype.char != "?":
            assert kernels.dot(a, b) == sum(x * y for x, y in zip(numbers, others, strict=True))
    elif a.dtype.char in FLOATS:
        np.testing.assert_equal(found, float(sum(numbers)))
        wanted = sum(x * y for x, y in zip(numbers, others, strict=True))
        np.testing.assert_equal(kernels.dot(a, b), float(wanted))
    else:
        with np.errstate(all="ignore"):
            np.testing.assert_equal(found, complex(np.sum(a.astype("D"))))
        return
    if a.size:
        np.testing.assert_equal(kernels.min(a), a.min().item())
        np.testing.assert_equal(kernels.max(a), a.max().item())
    else:
        with pytest.raises(ValueError, match="no least"):
            kernels.min(a)


@settings(max_examples=40)
@given(pairs(), st.sampled_from(INTEGERS), st.data())
def test_gather(ab: Any, letter: str, data: st.DataObject) -> None:
    a = ab[0].reshape(-1)
    low = 0 if letter.isupper() else -len(a)
    asked = data.draw(st.lists(st.integers(low, len(a) - 1), max_size=6)) if len(a) else []
    indices = np.array(asked, letter)[::-1]
    same(kernels.gather(a, indices, np.empty(indices.shape, a.dtype)), a[indices])
    for bad in (len(a), *([-len(a) - 1] if letter.islower() else [])):
        with pytest.raises(IndexError, match=str(bad)):
            kernels.gather(a, np.array([bad], letter), np.empty(1, a.dtype))


def test_the_error_of_a_sum_stays_small() -> None:
    chance = random.Random(5)
    numbers = array.array("d", (chance.uniform(0, 1) for _ in range(20_003)))
    exact = sum(map(Fraction, numbers))
    assert abs(Fraction(kernels.sum(numbers)) - exact) / exact < 4e-16
    tenths = np.full((3, 40_000, 2), 0.1)[:, ::2]
    assert abs(kernels.sum(tenths) - 12_000) < 1e-11
    ones = np.ones(2**24 + 3, "f4")
    assert kernels.sum(ones) == 2**24 + 3  # a sum in float32 would stay at 2**24


def test_integers_are_exact_up_to_128_bits() -> None:
    large = array.array("q", [2**63 - 1] * 5 + [-(2**63)] * 2)
    assert kernels.sum(large) == 3 * 2**63 - 5
    assert kernels.sum(array.array("Q", [2**64 - 1] * 3)) == 3 * (2**64 - 1)
    assert kernels.dot(large[:1], large[:1]) == (2**63 - 1) ** 2
    with pytest.raises(OverflowError, match="128 bits"):
        kernels.dot(large, large)
    most = array.array("Q", [2**64 - 1])
    with pytest.raises(OverflowError, match="128 bits"):
        kernels.dot(most, most)


def test_complex_products() -> None:
    a = np.array([1 + 2j, 3 - 1j, 0.5j])
    b = np.array([2 - 1j, 1j, 4])
    assert kernels.dot(a, b) == np.dot(a, b)
    same(kernels.scale(a, 1j, np.empty(3, "D")), a * 1j)
    same(kernels.axpy(2, a, b.copy()), b + 2 * a)


def test_numbers_are_filled_in() -> None:
    view = ArrayView(bytearray(48), (2, 3), "d")
    assert kernels.fill(view[:, ::2], 7) is not view
    assert view.tolist() == [[7, 0, 7], [7, 0, 7]]
    kernels.copy(view[0], view[1, ::-1])
    assert kernels.compare(view, "==", 7, bytearray(6)) == bytes([1, 0, 1] * 2)
    assert kernels.fill(array.array("b", [1, 2]), -3).tolist() == [-3, -3]


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (BufferError, lambda: kernels.fill(b"abc", 1)),
        (OverflowError, lambda: kernels.fill(bytearray(3), 256)),
        (TypeError, lambda: kernels.fill(bytearray(3), 1.5)),
        (TypeError, lambda: kernels.fill(bytearray(3), "x")),
        (TypeError, lambda: kernels.sum([1, 2])),
        (TypeError, lambda: kernels.sum(np.zeros(3, "e"))),
        (TypeError, lambda: kernels.sum(np.zeros(3, ">i4"))),
        (TypeError, lambda: kernels.sum(np.zeros(3, "S3"))),
        (TypeError, lambda: kernels.min(np.zeros(3, "F"))),
        (TypeError, lambda: kernels.compare(np.zeros(3, "F"), "<", 1, bytearray(3))),
        (TypeError, lambda: kernels.dot(np.zeros(3, "?"), np.zeros(3, "?"))),
        (TypeError, lambda: kernels.scale(np.zeros(3, "?"), 1, bytearray(3))),
        (TypeError, lambda: kernels.gather(np.zeros(3), np.zeros(1), np.zeros(1))),
        (TypeError, lambda: kernels.gather(np.zeros((3, 3)), np.zeros(1, "i"), np.zeros(1))),
        (ValueError, lambda: kernels.add(np.zeros(3), np.zeros(4), np.zeros(3))),
        (ValueError, lambda: kernels.add(np.zeros(3), np.zeros(3, "f"), np.zeros(3))),
        (ValueError, lambda: kernels.add(np.zeros(3), 1, np.zeros(4))),
        (ValueError, lambda: kernels.add(np.zeros(3), 1, np.zeros(3, "q"))),
        (ValueError, lambda: kernels.add(np.zeros(3), 1, bytearray(23))),
        (ValueError, lambda: kernels.compare(np.zeros(3), "<>", 1, bytearray(3))),  # type: ignore[arg-type]
        (ValueError, lambda: kernels.compare(np.zeros(3), "add", 1, bytearray(3))),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_done_is_refused(error: type[Exception], call: Any) -> None:
    with pytest.raises(error):
        call()


def test_outputs_overlap_nothing() -> None:
    a = np.arange(6.0)
    same(kernels.add(a[1:], 1, a[1:]), [2, 3, 4, 5, 6])
    for out, given_a in ((a[:-1], a[1:]), (a[::-1], a), (a[:3], a[2:5])):
        with pytest.raises(ValueError, match="overlaps"):
            kernels.copy(given_a, out)
    with pytest.raises(ValueError, match="overlaps"):
        kernels.gather(a, np.arange(6), a)
    same(kernels.copy(a[::2], a[1::2][:3].copy()), a[::2])


def test_other_threads_run_meanwhile() -> None:
    a = np.ones(1_000_000)
    totals: list[float] = []
    threads = [threading.Thread(target=lambda: totals.append(kernels.sum(a))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == [1_000_000.0] * 4
