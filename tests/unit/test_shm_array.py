"""ShmArray: what travels as a token, what as data, and that both arrive as NumPy would have it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from theus._theus import place_in_block  # noqa: E402
from theus.heavy import ManagedAllocator  # noqa: E402
from theus.shm_array import ShmArray  # noqa: E402


@pytest.fixture
def heavy() -> Iterator[ManagedAllocator]:
    with ManagedAllocator(64) as allocator:
        yield allocator


def travel(array: Any) -> Any:
    return pickle.loads(pickle.dumps(array))


VIEWS = {
    "whole": lambda a: a,
    "slice": lambda a: a[1:3],
    "steps": lambda a: a[::2, 1::3],
    "reversed": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "row": lambda a: a[2],
    "diagonal": lambda a: a.diagonal(),
    "broadcast": lambda a: np.broadcast_to(a[0], (5, 6), subok=True),
    "new axis": lambda a: a[:, None, 2:],
    "flat": lambda a: a.reshape(-1),
    "bytes": lambda a: a.view("u1"),
    "part of a complex": lambda a: a[:2].view("c8").imag,
    "empty": lambda a: a[4:4],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_travel_by_reference(heavy: ManagedAllocator, name: str) -> None:
    array = heavy.put("x", np.arange(24, dtype="f4").reshape(4, 6))
    view = VIEWS[name](array)
    pickled = pickle.dumps(view)
    arrived = pickle.loads(pickled)
    assert type(arrived) is ShmArray and arrived.info()["shared"]
    assert arrived.shape == view.shape and arrived.dtype == view.dtype
    assert view.size == 0 or arrived.strides == view.strides
    assert np.array_equal(arrived, view)
    assert len(pickled) < 200
    array[:] = 7
    assert np.array_equal(arrived, view)  # it is the same memory


def test_fields_of_records_travel_by_reference(heavy: ManagedAllocator) -> None:
    array = heavy.alloc("x", 5, [("a", "i2"), ("b", ">f8", (3,))])
    array["b"] = np.arange(15).reshape(5, 3)
    for view in (array, array["a"], array["b"], array["b"][::-1, 1], array[["b"]]):
        arrived = travel(view)
        assert arrived.info()["shared"] and arrived.dtype == view.dtype
        assert np.array_equal(arrived, view)
        assert len(pickle.dumps(view)) < 1000


DERIVED = {
    "sum of two": lambda a: a + a,
    "ufunc": lambda a: np.sqrt(a),
    "sum": lambda a: a.sum(),
    "sum over an axis": lambda a: a.sum(axis=0),
    "mean": lambda a: np.mean(a, axis=1),
    "fancy": lambda a: a[[2, 1]],
    "mask": lambda a: a[a > 3],
    "copy": lambda a: a.copy(),
    "astype": lambda a: a.astype("i8"),
    "element": lambda a: a[1, 2],
    "concatenated": lambda a: np.concatenate([a, a]),
    "dot": lambda a: a @ a.T,
    "flatten": lambda a: a.flatten(),
    "deepcopy": copy.deepcopy,
    "copy.copy": copy.copy,
}


@pytest.mark.parametrize("name", DERIVED)
def test_results_travel_as_data(heavy: ManagedAllocator, name: str) -> None:
    plain = np.arange(24, dtype="f4").reshape(4, 6)
    array = heavy.put("x", plain)
    result, expected = DERIVED[name](array), DERIVED[name](plain)
    assert np.array_equal(result, expected)
    array[:] = -1
    arrived = travel(result)
    assert np.array_equal(arrived, expected)
    assert type(arrived) is type(expected)
    if isinstance(result, ShmArray):
        assert result.shm is None and not result.info()["shared"]


def test_ufuncs_give_plain_arrays_and_scalars(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(6.0))
    assert type(array * 2) is np.ndarray
    assert type(array.max()) is np.float64
    assert type(np.add.reduce(array)) is np.float64
    out = np.multiply(array, 2, out=array)
    assert out is array and array[3] == 6
    array += 1
    assert type(array) is ShmArray and array[3] == 7
    fraction, whole = np.modf(array)
    assert type(fraction) is np.ndarray and type(whole) is np.ndarray


def test_numpy_functions_take_it_as_any_array(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.eye(3) * 2)
    assert not hasattr(array, "__array_wrap__")  # or NumPy would ask it at each result
    assert np.array_equal(np.linalg.inv(array), np.eye(3) / 2)
    assert np.array_equal(np.kron(array, array), np.eye(9) * 4)
    assert np.apply_along_axis(sum, 0, array).tolist() == [2, 2, 2]
    assert np.median(array) == 0 and np.round(array, 1).sum() == 6
    assert type(np.einsum("ij,jk", array, array)) is np.ndarray
    rows = [row.sum() for row in array]
    assert rows == [2, 2, 2] and np.frompyfunc(abs, 1, 1)(array)[0, 0] == 2


def test_who_is_in_a_block_is_told_by_addresses(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(10))
    assert place_in_block(array[2:4]) is not None
    assert place_in_block(np.arange(10)) is None
    assert place_in_block(np.frombuffer(memoryview(array), "i8")) is not None
    assert place_in_block(np.asarray(memoryview(array))[3:]) is not None
    assert place_in_block(array[::-1][2:]) == (array.shm._block, 56)
    assert place_in_block("text") is None
    dates = heavy.put("dates", np.arange(4).astype("M8[s]"))
    assert place_in_block(dates[1:]) == (dates.shm._block, 8)
    stranger = np.lib.stride_tricks.as_strided(array, (20,), (8,))  # reaches beyond the block
    assert place_in_block(stranger) is None


def test_all_protocols_and_the_out_of_band_way(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(6))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        arrived = pickle.loads(pickle.dumps(array, protocol))
        assert arrived.info()["shared"] and np.array_equal(arrived, array)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps([array, array + 1], 5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    shared, derived = pickle.loads(data, buffers=buffers)
    assert shared.info()["shared"] and np.array_equal(derived, array + 1)


def test_copy_on_write(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(5000).reshape(50, 100))
    mine = array[10:20, ::-2].cow()
    assert np.array_equal(mine, array[10:20, ::-2]) and mine.flags.writeable
    mine[:] = 0
    assert array[10, 99] == 1099
    arrived = travel(mine)
    assert type(arrived) is np.ndarray and not arrived.any()
    heavy.free("x")
    array = None
    assert not mine.any() and heavy.used_bytes > 0  # pages not written are still the block's
    del mine
    assert heavy.used_bytes == 0
    with pytest.raises(ValueError, match="ordinary memory"):
        np.arange(3).view(ShmArray).cow()


def test_a_copy_of_a_written_copy(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(3000))
    first = array[1:].cow()
    first[:2] = -1
    second = first[1:].cow()
    assert second[0] == -1 and second[1] == 3 and second[-1] == 2999
    second[1] = -2
    assert first[2] == 3 and array[3] == 3


def test_types_that_numpy_does_not_have_itself(heavy: ManagedAllocator) -> None:
    core = "core" if np.__version__.startswith("1.") else "_core"
    rational = pytest.importorskip(f"numpy.{core}._rational_tests").rational
    array = heavy.alloc("x", 3, np.dtype(rational))
    array[1] = rational(2, 3)
    arrived = travel(array)
    assert arrived.dtype == array.dtype and arrived[1] == rational(2, 3) and arrived.shm is not None


def test_handles(heavy: ManagedAllocator) -> None:
    array = heavy.alloc("x", 10, "u1")
    handle = array.shm
    assert handle is not None and handle.size == 10
    handle.buf[3] = 5
    handle.close()
    assert array[3] == 5 and repr(handle).endswith("x': 10 bytes>")
    assert np.arange(3).view(ShmArray).shm is None


def test_other_libraries_see_it(heavy: ManagedAllocator) -> None:
    array = heavy.put("x", np.arange(12.0).reshape(3, 4))
    assert np.shares_memory(np.from_dlpack(array), array)
    shown = memoryview(array)
    assert shown.format == "d" and shown.shape == (3, 4) and not shown.readonly
    assert array.__array_interface__["data"] == (array.info()["address"], False)


# ---- any view of any array --------------------------------------------------------------------


@st.composite
def slices(draw: st.DrawFn, length: int) -> slice:
    bound = st.none() | st.integers(-length - 1, length + 1)
    return slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, -1, -3])))


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Any]]:
    """A shape, and what to do one after the other: slices, transposes, ufuncs, copies."""
    shape = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    steps: list[Any] = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["slice", "slice", "T", "ravel", "newaxis", "add", "take"]))
        steps.append([draw(slices(6)) for _ in range(3)] if kind == "slice" else kind)
    return tuple(shape), steps


def step(array: Any, what: Any) -> Any:
    if isinstance(what, list):
        return array[tuple(what[: array.ndim])]
    match what:
        case "T":
            return array.T
        case "ravel":
            return array.reshape(-1)
        case "newaxis":
            return array[..., None]
        case "add":
            return array + 1
    return array[np.arange(array.shape[0])[::-1]] if array.ndim else array


@given(views())
def test_any_view_arrives_as_numpy_would_have_it(case: tuple[tuple[int, ...], list[Any]]) -> None:
    shape, steps = case
    plain = np.arange(int(np.prod(shape)), dtype="i2").reshape(shape)
    with ManagedAllocator(1) as allocator:
        array = allocator.put("x", plain)
        for what in steps:
            array, plain = step(array, what), step(plain, what)
        arrived = travel(array)
        assert arrived.dtype == plain.dtype and arrived.shape == plain.shape
        assert np.array_equal(arrived, plain)


def test_an_object_that_is_its_own_base_lies_in_no_block() -> None:
    from theus._theus import place_in_block, token_in_block

    class Loop:
        base: Any = None

    loop = Loop()
    loop.base = loop
    assert place_in_block(loop) is None  # type: ignore[arg-type]
    assert token_in_block(loop) is None  # type: ignore[arg-type]
