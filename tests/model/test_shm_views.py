"""Any view of any shared array arrives in another process as NumPy alone would have it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from borrower import Borrower

np = pytest.importorskip("numpy")
if not sys.platform.startswith("linux"):
    pytest.skip("shared memory without names is Linux's", allow_module_level=True)

from theus.heavy import ManagedAllocator  # noqa: E402

DTYPES = [
    *("u1", "i2", ">f4", "c16", "M8[us]", "S3", ">U2"),
    np.dtype([("a", "i4"), ("b", ">f8", (2,)), ("c", [("d", "u1")])]),
    np.dtype({"names": ["a", "b"], "formats": ["i2", "f4"], "offsets": [6, 1], "itemsize": 11}),
]

BOUND = st.none() | st.integers(-7, 7)
SLICES = st.builds(slice, BOUND, BOUND, st.sampled_from([None, 1, 2, 3, -1, -2]))
INDICES = st.lists(SLICES | SLICES | st.integers(-6, 5) | st.none() | st.just(...), max_size=4)

STEPS: dict[str, Any] = {
    "T": lambda x: x.T,
    "reversed": lambda x: x[::-1],
    "swapped": lambda x: x.swapaxes(0, -1),
    "flat": lambda x: x.reshape(-1),
    "rows": lambda x: x.reshape(x.shape[0], -1),
    "field a": lambda x: x["a"],
    "field b": lambda x: x["b"],
    "fields": lambda x: x[["b", "a"]],
    "imag": lambda x: x.imag if x.dtype.kind == "c" else x,
    # Not of records: what lies between fields is no content, and copies leave it out.
    "bytes": lambda x: x.view("u1") if x.dtype.names is None else x,
    "diagonal": lambda x: x.diagonal(),
    "broadcast": lambda x: np.broadcast_to(x, (2, *x.shape), subok=True),
    "windows": lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, 0, subok=True),
    "sum": lambda x: x.sum(0),
    "chosen": lambda x: x[[0, -1]],
    "masked": lambda x: x[x != x[0]],
}


@pytest.fixture(scope="module")
def borrower() -> Iterator[Borrower]:
    made = Borrower()
    yield made
    assert made.end() == 0


def derive(array: Any, steps: list[Any]) -> Any:
    """What cannot be done to an array is left out."""
    for step in steps:
        if not isinstance(array, np.ndarray):
            break
        try:
            array = STEPS[step](array) if isinstance(step, str) else array[tuple(step)]
        except (TypeError, ValueError, IndexError, AttributeError):
            continue
    return array


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 5), max_size=4),
    order=st.sampled_from("CF"),
    steps=st.lists(st.sampled_from(sorted(STEPS)) | INDICES, max_size=5),
)
def test_any_view_arrives(
    dtype: Any, shape: list[int], order: Any, steps: list[Any], borrower: Borrower
) -> None:
    type_ = np.dtype(dtype)
    count = int(np.prod(shape))
    if type_.kind == "U":  # not every number is a character
        plain = np.resize(np.array(["ab", "c", "de"], type_), count)
    else:
        plain = np.frombuffer(bytes(i % 120 + 1 for i in range(count * type_.itemsize)), type_)
    plain = plain.reshape(shape, order=order)
    with ManagedAllocator(1) as heavy:
        whole = heavy.put("x", plain)
        shared, plain = derive(whole, steps), derive(plain, steps)
        if not isinstance(plain, np.ndarray):
            return  # a scalar
        data, shape_, dtype_, by_reference, writeable = borrower.ask(
            "(it.tobytes() if it.dtype.names is None else str(it.tolist()), it.shape, it.dtype,"
            " getattr(it, 'shm', None) is not None, it.flags.writeable)",
            shared,
        )
    if not by_reference:
        plain = pickle.loads(pickle.dumps(plain))  # an empty array of >f4 becomes one of <f4
    assert data == (plain.tobytes() if plain.dtype.names is None else str(plain.tolist()))
    assert (shape_, dtype_) == (plain.shape, plain.dtype)
    assert plain.size == 0 or by_reference == np.may_share_memory(whole, shared)
    assert not (by_reference and writeable)
