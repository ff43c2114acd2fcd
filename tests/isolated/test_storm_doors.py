"""A borrower tries every door to the owner's data: it gets an exception, or dies alone.

Not among them: to write into the memory of *another process* (/proc/PID/mem, process_vm_writev).
Who may debug the owner may change whatever the owner has; no library can promise otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from borrower import Borrower

np = pytest.importorskip("numpy")
if not sys.platform.startswith("linux"):
    pytest.skip("shared memory without names is Linux's", allow_module_level=True)

from theus.heavy import ManagedAllocator  # noqa: E402

# What doors need, in the borrower. `dies` tries one in a child, which inherits the mapping.
TOOLS = """
import fcntl, warnings
libc = ctypes.CDLL(None, use_errno=True)
def page(it):
    return ctypes.c_void_p(it.ctypes.data // 4096 * 4096)
def file():
    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    paths = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in fds}
    return next(fd for fd in fds if "theus" in paths[fd] and "data" in paths[fd])
def rebuilt(it):
    interface = dict(it.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(type("Rebuilt", (), {"__array_interface__": interface})())
def dies(door, it):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside NumPy's threads
        child = os.fork()
    if child == 0:
        os.close(2)
        try:
            door(it)
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.fixture(scope="module")
def heavy() -> Iterator[ManagedAllocator]:
    with ManagedAllocator(64) as allocator:
        yield allocator


@pytest.fixture(scope="module")
def array(heavy: ManagedAllocator) -> Any:
    return heavy.put("x", np.arange(1000))


@pytest.fixture(scope="module")
def borrower() -> Iterator[Borrower]:
    made = Borrower()
    made.ask(f"exec({TOOLS!r}, globals())")
    yield made
    assert made.end() == 0


@pytest.mark.parametrize(
    "door",
    [
        "np.copyto(it, 0)",
        "it.fill(0)",
        "it.put(0, 1)",
        "it.partition(3)",
        "it.byteswap(inplace=True)",
        "it.resize(2000, refcheck=False)",
        "it.flat.__setitem__(0, 1)",
        "it.real.__setitem__(0, 1)",
        "it.T[::-1].__setitem__(0, 1)",
        "it.view('u1').__setitem__(0, 1)",
        "it.view(np.recarray).__setitem__(0, 1)",
        "it.data.__setitem__(0, 1)",
        "it.base.setflags(write=True)",
        "memoryview(it.base).__setitem__(0, 1)",
        "np.asarray(memoryview(it).cast('B')).__setitem__(0, 1)",
        "np.from_dlpack(it).__setitem__(0, 1)",
        "np.lib.stride_tricks.as_strided(it, writeable=True).__setitem__(0, 1)",
        "np.place(it, it > 0, 0)",
        "np.multiply(it, 0, out=it)",
        "np.random.default_rng(1).shuffle(it)",
        "np.nditer(it, op_flags=['readwrite'])",
        "__import__('io').BytesIO(bytes(8000)).readinto(it)",
        "(ctypes.c_char * 8).from_buffer(it)",
        "pickle.loads(pickle.dumps(it[::2])).__setitem__(0, 1)",
    ],
)
def test_numpy_and_buffers_refuse(door: str, array: Any, borrower: Borrower) -> None:
    with pytest.raises((ValueError, TypeError, BufferError, AttributeError)):
        borrower.ask(door, array)
    assert array.sum() == 499500


@pytest.mark.parametrize(
    "door",
    [
        "mmap.mmap(file(), 4096)",
        "mmap.mmap(file(), 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)",
        "os.pwrite(file(), b'x', 0)",
        "os.ftruncate(file(), 0)",
        "os.posix_fallocate(file(), 0, 2**28)",
        "os.sendfile(file(), os.open('/dev/zero', os.O_RDONLY), 0, 8)",
        "os.pwrite(os.open('/proc/self/mem', os.O_RDWR), b'x', it.ctypes.data)",
    ],
)
def test_the_kernel_refuses(door: str, array: Any, borrower: Borrower) -> None:
    with pytest.raises((PermissionError, OSError)):
        borrower.ask(f"(keep(it), {door})", array)
    assert array.sum() == 499500


@pytest.mark.skipif(
    os.environ.get("THEUS_SHM_BACKEND") == "named",
    reason="a file with a name opens for its user: no promise there",
)
@pytest.mark.parametrize(
    "door",
    [
        "os.truncate(f'/proc/self/fd/{file()}', 0)",
        "os.pwrite(os.open(f'/proc/self/fd/{file()}', os.O_RDWR), b'x', 0)",
        "fcntl.fcntl(file(), 1033, 0)",  # F_ADD_SEALS: none is left to give
    ],
)
def test_the_kernel_refuses_who_opens_it_again(door: str, array: Any, borrower: Borrower) -> None:
    with pytest.raises((PermissionError, OSError)):
        borrower.ask(f"(keep(it), {door})", array)
    assert array.sum() == 499500


@pytest.mark.parametrize(
    "door",
    [
        "libc.mprotect(page(it), 4096, 3)",
        "libc.madvise(page(it), 4096, 9)",  # MADV_REMOVE
        "libc.fallocate(file(), 3, ctypes.c_long(0), ctypes.c_long(4096))",  # punches a hole
        "libc.fallocate(file(), 16, ctypes.c_long(0), ctypes.c_long(4096))",  # writes zeroes
        "libc.read(os.open('/dev/zero', os.O_RDONLY), page(it), 8)",
        "libc.process_vm_readv(os.getpid(), (ctypes.c_void_p * 2)(it.ctypes.data, 8), 1,"
        " (ctypes.c_void_p * 2)(it.ctypes.data + 8, 8), 1, 0)",
    ],
)
def test_system_calls_fail(door: str, array: Any, borrower: Borrower) -> None:
    assert borrower.ask(f"(keep(it), {door})[1]", array) == -1
    assert array.sum() == 499500


@pytest.mark.parametrize(
    "door",
    [
        "ctypes.memmove(a.ctypes.data, b'12345678', 8)",
        "ctypes.memset(a.ctypes.data, 0, 8000)",
        "(ctypes.c_char * 8).from_address(a.ctypes.data).__setitem__(0, b'x')",
        "np.ctypeslib.as_array((ctypes.c_long * 8).from_address(a.ctypes.data)).fill(0)",
        "rebuilt(a).fill(0)",
        "libc.munmap(page(a), 2**26) == 0 and a.sum()",  # tears down its own view
    ],
)
def test_who_goes_past_python_dies_alone(door: str, array: Any, borrower: Borrower) -> None:
    assert borrower.ask(f"dies(lambda a: {door}, it)", array) == -signal.SIGSEGV
    assert array.sum() == 499500 and borrower.ask("int(it.sum())", array) == 499500


def test_what_numpy_forgets_to_check(array: Any, borrower: Borrower) -> None:
    """ufunc.at() writes to read-only arrays in some versions: the kernel is there for that."""
    assert borrower.ask("dies(lambda a: np.add.at(a, [0], 1), it)", array) in (3, -signal.SIGSEGV)
    assert array.sum() == 499500


def test_a_mapping_of_ones_own_is_a_copy(array: Any, borrower: Borrower) -> None:
    """MAP_FIXED over the view replaces what the borrower sees, and nothing else."""
    code = (
        "libc.mmap.restype = ctypes.c_void_p\n"
        "def over(a):\n"
        "    at = libc.mmap(page(a), 4096, 3, 0x32, -1, ctypes.c_long(0))\n"
        "    ctypes.memset(at, 1, 4096)\n"
        "    os._exit(7)\n"
    )
    borrower.ask(f"exec({code!r}, globals())")
    assert borrower.ask("dies(over, it)", array) == 7
    assert array.sum() == 499500


def test_the_owner_frees_what_all_of_them_saw(heavy: ManagedAllocator, borrower: Borrower) -> None:
    """After all that, nothing is in the way of giving it back."""
    borrower.ask("kept.clear() or gc.collect()")
    second = heavy.put("y", np.arange(10))
    assert borrower.ask("dies(lambda a: os.kill(os.getpid(), 9), it)", second) == -signal.SIGKILL
    heavy.free("y")
    del second
    heavy.tidy()
    assert "y" not in heavy and heavy.report().lingering == 0
