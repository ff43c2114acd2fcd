"""theus.testing.leak_check: it finds what is kept, and only that."""

from __future__ import annotations

import pickle

import pytest

from helpers import run_fresh
from theus.testing import LeakError, leak_check

np = pytest.importorskip("numpy")

from theus.heavy import ManagedAllocator  # noqa: E402


def test_who_gives_everything_back_passes() -> None:
    with ManagedAllocator(64) as heavy, leak_check(heavy):
        for i in range(10):
            array = heavy.put(f"x{i}", np.arange(1000))
            again = pickle.loads(pickle.dumps(array[3:]))
            heavy.free(f"x{i}")
        del array, again
    with leak_check(), ManagedAllocator() as heavy:
        heavy.alloc("large", 2**26, "u1")


def test_what_is_kept_is_named() -> None:
    with ManagedAllocator(64) as heavy:
        with pytest.raises(LeakError) as caught, leak_check(heavy):
            heavy.alloc("x", 1000, "u1")
        leaks = {name: (before, after) for name, before, after in caught.value.leaks}
        assert leaks["arrays"] == (0, 1) and leaks["bytes"] == (0, 1024)
        assert leaks["leases"][1] == leaks["leases"][0] + 1
        assert leaks["descriptors"] == (leaks["descriptors"][0], leaks["descriptors"][0] + 2)
        assert "bytes: 0 before, 1,024 now" in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        with leak_check(heavy):
            heavy.free("x")  # less than before is no leak


def test_a_view_that_is_kept_is_a_leak() -> None:
    kept = []
    with (
        pytest.raises(LeakError, match=r"^[^;]*arrays of allocator 1: 0 before, 1 now"),
        ManagedAllocator() as one,
        ManagedAllocator() as two,
        leak_check(one, two),
    ):
        kept.append(two.alloc("x", 10)[3:])
        two.free("x")
    assert kept[0].sum() == 0


def test_what_is_borrowed_and_kept_is_a_leak() -> None:
    """Also where its memory is mapped already."""
    code = """
import pickle, sys
from theus.testing import LeakError, leak_check
first, second = (bytes.fromhex(token) for token in sys.argv[1:])
kept = [pickle.loads(first)]
with leak_check():
    pickle.loads(second)
try:
    with leak_check():
        kept.append(pickle.loads(second))
except LeakError as error:
    print(error.leaks)
"""
    with ManagedAllocator(64) as heavy:
        tokens = [pickle.dumps(heavy.put(key, np.arange(10))).hex() for key in "ab"]
        assert run_fresh(code, *tokens) == "(('leases', 1, 2),)\n"


def test_a_quota_that_is_not_back_is_a_leak() -> None:
    with ManagedAllocator(64) as heavy:
        heavy.alloc("b", 1000, "u1")
        heavy.quota("a/", hard=10**6)
        with pytest.raises(LeakError) as caught, leak_check(heavy):
            heavy.free("b")
            heavy.alloc("a/x", 1000, "u1")  # as much as before, in all
        assert caught.value.leaks == (("bytes of 'a/'", 0, 1024),)


def test_an_error_of_the_block_goes_on() -> None:
    with ManagedAllocator() as heavy, pytest.raises(KeyError), leak_check(heavy):
        heavy.alloc("x", 1)
        raise KeyError
