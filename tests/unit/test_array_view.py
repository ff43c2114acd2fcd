"""ArrayView: what arrays are where NumPy cannot load. With NumPy here, it is the judge."""

from __future__ import annotations

import array
import gc
import pickle
import struct
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import theus
from theus import ArrayView, BadTokenError, CodecError, StaleArrayError, TheusEngine, array_view
from theus.pools import codec

np = pytest.importorskip("numpy")

LETTERS = "?bhilqBHILQefdFD"


@pytest.fixture
def no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an interpreter where it cannot load."""
    monkeypatch.setattr(array_view, "numpy_here", lambda: None)


def view_over(it: Any) -> ArrayView:
    """Of the same memory, shape and strides."""
    base = it if it.base is None else it.base
    whole = base.reshape(-1, order="A").view("u1")
    offset = it.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return ArrayView(whole, it.shape, it.dtype.char, offset if it.size else 0, it.strides)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """A view of some array: any dtype, up to three axes, any steps."""
    letter = draw(st.sampled_from(LETTERS))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape))
    it = (np.arange(size) % 7 - (letter not in "?BHILQ") * 3).astype(letter).reshape(shape)
    if draw(st.booleans()):
        it = np.array(it, order="F")
    steps = st.sampled_from([slice(None), slice(None, None, 2), slice(None, None, -1), slice(1, 3)])
    return it[tuple(draw(steps) for _ in shape)] if shape else it


@settings(max_examples=60)
@given(arrays())
def test_it_shows_what_numpy_shows(it: Any) -> None:
    view = view_over(it)
    assert (view.shape, view.strides, view.ndim) == (it.shape, it.strides, it.ndim)
    assert (view.size, view.nbytes, view.itemsize) == (it.size, it.nbytes, it.itemsize)
    assert view.dtype == it.dtype.name
    assert view.tolist() == it.tolist()
    assert view.tobytes() == bytes(view) == it.tobytes()
    twin = np.asarray(view)
    assert twin.dtype == it.dtype and twin.strides == it.strides and (twin == it).all()
    assert it.size == 0 or np.shares_memory(twin, it)
    assert view == it and it.tolist() == view.tolist()
    if it.ndim:
        assert len(view) == len(it)
        rows = [row.tolist() if isinstance(row, ArrayView) else row for row in view]
        assert rows == it.tolist()
    else:
        assert view[()] == it[()]
        with pytest.raises(TypeError):
            len(view)


INDICES = st.one_of(
    st.integers(-5, 5),
    st.slices(5),
    st.just(...),
)


@settings(max_examples=60)
@given(arrays(), st.lists(INDICES, max_size=4))
def test_an_index_gives_what_it_gives_in_numpy(it: Any, indices: list[Any]) -> None:
    key = tuple(indices) if len(indices) != 1 else indices[0]
    view = view_over(it)
    try:
        wanted = it[key]
    except IndexError:
        with pytest.raises(IndexError):
            view[key]
        return
    found = view[key]
    if isinstance(found, ArrayView):
        assert found.shape == wanted.shape and found.tolist() == wanted.tolist()
    else:
        assert found == wanted


def test_it_needs_no_numpy() -> None:
    numbers = array.array("d", [1.0, 2.0, 3.0, 4.0])
    view = ArrayView(numbers, (2, 2), "float64")
    assert view.tolist() == [[1.0, 2.0], [3.0, 4.0]] and not view.readonly
    view[1, 0] = 7
    assert numbers[2] == 7.0 and view[1].tolist() == [7.0, 4.0]
    assert repr(view) == "<ArrayView: float64 (2, 2)>"
    assert repr(ArrayView(b"ab", 2, "B")) == "<ArrayView: uint8 (2,), read-only>"
    assert view == ArrayView(numbers, (2, 2), "<f8") and view != ArrayView(numbers, 4, "d")
    assert view != 3 and not view == "x"
    with pytest.raises(TypeError, match="unhashable"):
        hash(view)
    nan = ArrayView(array.array("d", [float("nan")]), 1, "d")
    assert nan != nan


def test_what_is_written_fits() -> None:
    small = ArrayView(bytearray(2), 2, "int8")
    for value in (-128, 127):
        small[0] = value
        assert small[0] == value
    for value in (128, -129, 2**70):
        with pytest.raises(OverflowError, match="does not fit into int8"):
            small[0] = value
    large = ArrayView(bytearray(8), 1, "Q")
    large[0] = 2**64 - 1
    assert large[0] == 2**64 - 1
    with pytest.raises(OverflowError):
        large[0] = -1
    with pytest.raises(TypeError):
        small[0] = 1.5
    with pytest.raises(TypeError, match=r"kernels.copy"):
        small[:] = 1
    with pytest.raises(TypeError, match="deleted"):
        del small[0]
    with pytest.raises(ValueError, match="read-only"):
        ArrayView(b"ab", 2, "b")[0] = 1
    flag = ArrayView(bytearray(1), 1, "?")
    flag[0] = 5
    assert flag[0] is True


@pytest.mark.parametrize(
    ("error", "args"),
    [
        (ValueError, (b"12345678", 2, "d")),
        (ValueError, (b"12345678", 1, "d", 1)),
        (ValueError, (b"12345678", -1, "B")),
        (ValueError, (b"12345678", 1, "B", -1)),
        (ValueError, (b"12345678", 1, "B", 2**62)),
        (ValueError, (b"12345678", 3, "B", 0, -1)),
        (ValueError, (b"12345678", 2, "B", 0, 2**62)),
        (ValueError, (b"12345678", (2, 3), "B", 0, (2**63 - 1, 2**63 - 1))),
        (ValueError, (b"12345678", (2**40, 2**40), "B")),
        (ValueError, (b"12345678", (2, 2), "B", 0, (1,))),
        (ValueError, (memoryview(b"12345678")[::2], 2, "B")),
        (TypeError, (b"12345678", 1, ">d")),
        (TypeError, (b"12345678", 1, "S5")),
        (TypeError, (b"12345678", 1, "<l")),
        (TypeError, (b"12345678", 1, "")),
        (TypeError, (b"12345678", "no", "B")),
        (TypeError, (b"12345678", (1.5,), "B")),
        (TypeError, (b"12345678", (1,) * 65, "B")),
        (TypeError, ("no buffer", 1, "B")),
        (OverflowError, (b"12345678", 2**80, "B")),
    ],
)
def test_what_lies_in_no_memory_is_refused(error: type[Exception], args: Any) -> None:
    with pytest.raises(error):
        ArrayView(*args)


def test_nothing_reaches_beyond_an_empty_array() -> None:
    view = ArrayView(b"", (0, 3), "d")
    assert view.tolist() == [] and len(view) == 0 and view[:, 1].tolist() == []
    assert ArrayView(b"", (3, 0), "d").tolist() == [[], [], []]
    with pytest.raises(IndexError):
        view[0]


def test_buffers_are_given_as_asked_for() -> None:
    view = ArrayView(bytearray(range(24)), (4, 6), "B")
    assert memoryview(view).c_contiguous and memoryview(view[:, ::2]).strides == (6, 2)
    assert bytes(view[::-2, 1::3]) == bytes([19, 22, 7, 10])
    with pytest.raises(BufferError, match="side by side"):
        array.array("B").frombytes(view[:, ::2])
    assert bytes(memoryview(view).cast("B")) == bytes(range(24))
    with pytest.raises((BufferError, TypeError), match="read"):
        struct.pack_into("B", ArrayView(b"abc", 3, "B"), 0, 1)


def test_views_keep_their_memory_and_make_no_cycles_that_stay() -> None:
    class Memory(bytearray):
        pass

    memory = Memory(8)
    gone = weakref.ref(memory)
    view = ArrayView(memory, 2, "i")
    half = view[1:]
    memory.view = half  # type: ignore[attr-defined]
    del memory, view
    gc.collect()
    assert gone() is not None and half.base is gone()
    del half
    gc.collect()
    assert gone() is None


# ---- shared memory -----------------------------------------------------------------------


@pytest.fixture
def frame() -> Iterator[Any]:
    with TheusEngine() as engine:
        it = engine.heavy.alloc("frame", (30, 20), "f8")
        it[:] = np.arange(600.0).reshape(30, 20)
        yield it


def test_a_shared_array_arrives_as_a_view(frame: Any, no_numpy: None) -> None:
    for sent in (frame, frame[::3, ::-2], frame[4], frame.T):
        for view in (
            pickle.loads(pickle.dumps(sent)),
            codec.loads(codec.dumps(sent)),
        ):
            assert type(view) is ArrayView
            assert view.shape == sent.shape and view.tolist() == sent.tolist()
            about, original = view.info(), sent.info()
            assert {**about, "address": 0} == {**original, "address": 0, "writeable": False}
            with pytest.raises(ValueError, match="read-only"):
                view[...] = 1.0


def test_it_travels_on_by_token(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(array_view, "numpy_here", lambda: None)
        view = pickle.loads(pickle.dumps(frame))[::2, 1:]
        again = codec.loads(codec.dumps({"part": view}))["part"]
        assert type(again) is ArrayView and again == view
    assert len(pickle.dumps(view)) < 400
    for back in (pickle.loads(pickle.dumps(view)), codec.loads(codec.dumps(view))):
        assert type(back).__name__ == "ShmArray" and (back == frame[::2, 1:]).all()
        assert np.shares_memory(back, np.asarray(view))


def test_a_copy_on_write_is_ones_own(frame: Any, no_numpy: None) -> None:
    view = pickle.loads(pickle.dumps(frame))
    mine = view[1].cow()
    mine[0] = -1.0
    assert (mine[0], view[1, 0], frame[1, 0]) == (-1.0, 20.0, 20.0)
    assert mine.info()["writeable"] and not mine.info()["live"]
    with pytest.raises(ValueError, match="ordinary memory"):
        ArrayView(bytearray(8), 1, "d").cow()


def test_a_lease_lasts_as_long_as_the_last_view(no_numpy: None) -> None:
    with TheusEngine() as engine:
        frame = engine.heavy.alloc("frame", 100, "i4")
        frame[:] = 7
        token = pickle.dumps(frame)
        part = pickle.loads(token)[50:][::2]
        engine.heavy.free("frame")
        del frame
        assert part.tolist() == [7] * 25 and not part.info()["live"]
        with pytest.raises(StaleArrayError):
            pickle.loads(token)
        assert pickle.loads(pickle.dumps(part)).tolist() == [7] * 25  # as data


def test_forged_tokens_are_refused(frame: Any, no_numpy: None) -> None:
    _, (token, shape, dtype, offset, strides) = frame.__reduce_ex__(5)
    view = array_view.array_arriving
    assert view(token, shape, dtype, offset, strides).tolist() == frame.tolist()
    for args in (
        (token, (31, 20), dtype, offset, strides),
        (token, shape, "S8", offset, strides),
        (token, shape, None, offset, strides),
        (token, shape, dtype, -8, strides),
        (token, shape, dtype, offset, (2**62, 8)),
        (token, "x", dtype, offset, strides),
        (token[:-1], shape, dtype, offset, strides),
        (b"", shape, dtype, offset, strides),
    ):
        with pytest.raises(BadTokenError):
            view(*args)


def test_other_arrays_arrive_as_views_of_their_data(no_numpy: None) -> None:
    for letter in LETTERS:
        sent = (np.arange(12) % 2).astype(letter).reshape(3, 4)
        for it in (sent, np.array(sent, order="F"), sent[:0]):
            got = codec.loads(codec.dumps(it))
            assert type(got) is ArrayView and got.dtype == it.dtype.name
            assert got.shape == it.shape and got.tolist() == it.tolist()
    assert codec.loads(codec.dumps(np.float32(1.5))) == 1.5
    with pytest.raises(CodecError, match="needs NumPy"):
        codec.loads(codec.dumps(np.zeros(2, [("a", "i4")])))


def test_its_data_arrive_as_an_ndarray_where_numpy_loads() -> None:
    view = ArrayView(array.array("h", [1, 2, 3, 4]), (2, 2), "h")[:, ::-1]
    for back in (codec.loads(codec.dumps(view)), pickle.loads(pickle.dumps(view))):
        assert isinstance(back, np.ndarray) and back.dtype == "h"
        assert back.tolist() == [[2, 1], [4, 3]]


def test_what_the_package_shows() -> None:
    assert theus.ArrayView is ArrayView and ArrayView.__module__ == "theus._theus"
    assert array_view.numpy_here() is sys.modules["numpy"]
