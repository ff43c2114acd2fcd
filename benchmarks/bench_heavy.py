"""What do arrays in shared memory cost, beside memory filled by hand and the standard library's?"""

from __future__ import annotations

import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import numpy as np
from harness import Bar, Contender, Row, main

from theus import ArrayView, kernels
from theus.heavy import ManagedAllocator
from theus.registry import sweep

MIB = 2**20
HEAVY = ManagedAllocator(512)
BY_HAND = "one memfd, filled again by hand"

# Owns what the attaching rows attach to: for that, this process has to be a borrower.
OWNER = """
import os, pickle, sys
from multiprocessing import shared_memory
from theus import ArrayView, kernels
from theus.heavy import ManagedAllocator
heavy = ManagedAllocator(2048)
for size in pickle.load(sys.stdin.buffer):
    array = heavy.alloc(str(size), size, "u1", zero=False)
    kept = heavy.alloc(f"kept{size}", 1, "u1") if size < 2**25 else array[:1]
    segment = shared_memory.SharedMemory(create=True, size=size)
    pickle.dump((pickle.dumps(array), segment.name), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    sys.stdin.readline()
    heavy.free(str(size))
    segment.close()
    segment.unlink()
"""


def repeat(work: Callable[[], object]) -> Contender:
    def loop(count: int) -> None:
        for _ in range(count):
            work()

    return loop


# ---- making, filling, letting go -----------------------------------------------------------


def filling(mib: int) -> Row:
    size = mib * MIB
    descriptor = os.memfd_create("bench")
    os.truncate(descriptor, size)
    by_hand = np.frombuffer(mmap.mmap(descriptor, size), "u1")
    os.close(descriptor)

    def ours() -> None:
        HEAVY.alloc("filling", size, "u1", zero=False).fill(1)
        HEAVY.free("filling")

    def private() -> None:
        np.empty(size, "u1").fill(1)

    def standard() -> None:
        segment = shared_memory.SharedMemory(create=True, size=size)
        np.ndarray(size, "u1", segment.buf).fill(1)
        segment.close()
        segment.unlink()

    ours()  # the first one of all makes the arena
    return Row(
        f"make, fill and release {mib} MiB, warm",
        {
            "engine.heavy": repeat(ours),
            BY_HAND: repeat(lambda: by_hand.fill(1)),
            "a private array": repeat(private),
            "multiprocessing.shared_memory": repeat(standard),
        },
        bars=(Bar(1.1, peer=BY_HAND),),
    )


# ---- attaching --------------------------------------------------------------------------------


def attaching(size: int) -> Row:
    """The first array of an arena maps it; what is measured is every later one."""
    owner = subprocess.Popen(
        [sys.executable, "-P", "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdin is not None and owner.stdout is not None
    pickle.dump([size], owner.stdin)
    owner.stdin.flush()
    token, name = pickle.load(owner.stdout)
    pickle.loads(token)

    def standard() -> None:
        segment = shared_memory.SharedMemory(name)
        # It believes itself the owner of what it attaches, and would remove it at exit.
        if sys.version_info < (3, 13):
            resource_tracker.unregister(segment._name, "shared_memory")  # type: ignore[attr-defined]
        np.ndarray(size, "u1", segment.buf)
        segment.close()

    return Row(
        f"attach an array of {_shown(size)} in a process that knows the arena",
        {
            "its token": repeat(lambda: (pickle.loads(token), owner)),
            "SharedMemory(name)": repeat(standard),
        },
        bars=(Bar(3000),),
    )


def _shown(size: int) -> str:
    return f"{size // 2**30} GiB" if size >= 2**30 else f"{size // 2**10:,} KiB"


# ---- travelling ---------------------------------------------------------------------------------


def travelling() -> Row:
    array = HEAVY.put("travelling", np.zeros(MIB, "u1"))
    plain = np.zeros(MIB, "u1")
    return Row(
        "pickle an array of 1 MiB and unpickle it, in its own process",
        {
            "a token": repeat(lambda: pickle.loads(pickle.dumps(array))),
            "a plain array, out of band": repeat(partial(_out_of_band, plain)),
            "a plain array": repeat(lambda: pickle.loads(pickle.dumps(plain))),
        },
        bars=(Bar(4000),),
    )


def _out_of_band(array: Any) -> object:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=buffers)


def weight() -> Row:
    array = HEAVY.put("weight", np.zeros(MIB // 8))
    return Row(
        "the pickled token of a part of a 1 MiB array",
        {
            "every second element": lambda _: len(pickle.dumps(array[::2])),
            "all of it": lambda _: len(pickle.dumps(array)),
        },
        bars=(Bar(200), Bar(200, of="all of it")),
        unit="bytes",
    )


# ---- computing -------------------------------------------------------------------------------

WORK: dict[str, Callable[[Any], object]] = {
    "a + a": lambda a: a + a,
    "np.sqrt(a)": np.sqrt,
    "a.sum()": lambda a: a.sum(),
    "a[i], once": lambda a: a[7],
}


def computing(name: str, count: int) -> Row:
    shared = HEAVY.put(f"{name} of {count}", np.zeros(count))
    plain = np.zeros(count)
    work = WORK[name]
    return Row(
        f"{name} of {count:,} numbers",
        {
            "ShmArray": repeat(lambda: work(shared)),
            "ndarray": repeat(lambda: work(plain)),
        },
        bars=(Bar(1.1, peer="ndarray"),),
    )


# ---- clearing up ------------------------------------------------------------------------------

DEAD = 10_000


def in_a_folder(names: list[str], clear: Callable[[str], object]) -> float:
    """What `clear` takes for a folder with these files of a page: milliseconds of the processor."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="theus-bench-") as folder:
        for name in names:
            Path(folder, name).write_bytes(bytes(4096))
        started = time.process_time_ns()
        clear(folder)
        took = (time.process_time_ns() - started) / 1e6
        assert not os.listdir(folder)
    return took


def by_hand(folder: str) -> None:
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))


def sweeping() -> Row:
    dead = [f"theus_1_4242_{i:032x}.{kind}" for i in range(DEAD) for kind in ("control", "data")]
    return Row(
        f"remove {DEAD:,} segments of dead owners",
        {
            "theus gc, two files each": lambda _: in_a_folder(dead, sweep),
            "os.unlink, one file each": lambda _: in_a_folder(dead[::2], by_hand),
        },
        bars=(Bar(1000),),
        unit="ms",
    )


# Without NumPy: the same numbers through an ArrayView. NumPy's dot is that of BLAS, whose threads
# count as processor time, also while they wait for each other: OPENBLAS_NUM_THREADS=1 says what it
# takes alone.
KERNELS: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "sum(a)": (lambda a, _: kernels.sum(a), lambda a, _: a.sum()),
    "dot(a, b), with all threads of BLAS,": (kernels.dot, np.dot),
    "b += 0.5 * a": (lambda a, b: kernels.axpy(0.5, a, b), lambda a, b: np.add(b, 0.5 * a, out=b)),
}


def without_numpy(name: str) -> Row:
    a, b = np.linspace(0, 1, 1_000_000), np.zeros(1_000_000)
    views = tuple(ArrayView(array, (len(array),), "d") for array in (a, b))
    ours, numpys = KERNELS[name]
    return Row(
        f"{name} of 1,000,000 float64",
        {
            "theus.kernels": repeat(lambda: ours(*views)),
            "NumPy": repeat(lambda: numpys(a, b)),
        },
    )


if __name__ == "__main__":
    main(
        __doc__,
        [
            partial(filling, 1),
            partial(filling, 64),
            *(partial(attaching, size) for size in (2**16, 2**24, 2**30)),
            travelling,
            weight,
            sweeping,
            *(partial(without_numpy, name) for name in KERNELS),
            *(partial(computing, name, n) for name in WORK for n in (1_000, 10_000, 100_000)),
        ],
    )
