"""What runs in a worker process: read a packet, run its tasks, write each result at once.

The loop over tasks is C (csrc/binding/line_serve.c). It calls what stands in `Results`.

A worker ends when the pipe of tasks is closed, when its pool kills it, or, wherever it is at that
moment, when its pool's process is gone: it has the read end of a pipe that nobody ever writes to,
and asks the kernel for SIGIO should that pipe lose its last writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from theus._theus import Line, SharedBlock
from theus.errors import CodecError, StaleArrayError
from theus.pools import wire
from theus.pools.calls import resolve
from theus.pools.codec import extend, not_restored, restore_any
from theus.pools.reports import Reporter, forward_logs

__all__ = ["Setup", "main"]


class Setup(NamedTuple):
    """What a worker is told once, when it starts."""

    name: str
    threads: int
    """For the BLAS of this worker."""
    log_level: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    look: float
    """Seconds for which it looks for a task before it sleeps."""


# ---- results -------------------------------------------------------------------------------


class Results(Reporter):
    """The way back. Any thread of the worker may log: the line writes whole frames."""

    restore = staticmethod(restore_any)
    resolve = staticmethod(resolve)
    large = wire.LARGE

    def __init__(self, line: Line, name: str) -> None:
        self.line = line
        self.shelf = wire.Shelf(name)
        self.lent: dict[int, tuple[SharedBlock, ...]] = {}
        """By the number of the task: blocks with a result that the pool may be reading."""

    def run(self, kind: int, number: int, body: Any) -> None:
        if kind == wire.RELEASED:
            for block in self.lent.pop(number, ()):
                block.retire()
        else:
            super().run(kind, number, body)

    def extend(self, part: Any) -> tuple[int, Any]:
        """What is sent by token stays as long as the value does: until it is written."""
        return extend([], True, part)

    def answer(self, kind: int, number: int, value: Any) -> None:
        self.send(number, *wire.pack(kind, number, value, wire.INLINE_RESULT, self.shelf, []))

    def enclose(self, number: int, data: bytes, buffers: list[Any]) -> None:
        """A value that was encoded and does not go through the pipe in one piece."""
        limit = wire.INLINE_RESULT
        self.send(number, *wire.enclosed(wire.VALUE, number, data, buffers, limit, self.shelf))

    def send(self, number: int, data: bytes, blocks: tuple[SharedBlock, ...]) -> None:
        if blocks:
            self.lent[number] = blocks
        self.line.answer(data)

    def say(self, kind: int, body: bytes) -> None:
        self.line.answer(wire.frame(kind, 0, body))

    def unreadable(self, number: int, error: BaseException) -> None:
        """A call that could not be decoded."""
        if isinstance(error, Exception) and not isinstance(error, (CodecError, StaleArrayError)):
            refused = not_restored(error)
            refused.__cause__ = error
            error = refused
        self.fail(number, error)

    def unpack(self, kind: int, body: Any) -> Any:
        return wire.unpack(body, kind == wire.CALL_IN_BLOCKS)


# ---- its life ------------------------------------------------------------------------------------


def main(tasks: Any, answers: Any, lifeline: Any, others: tuple[int, ...], setup: Setup) -> None:
    """`tasks`, `answers`, `lifeline`: ends of pipes, as multiprocessing has brought them here.

    `others`: descriptors of the pool that a fork has brought along.
    """
    for fd in others:
        with contextlib.suppress(OSError):
            os.close(fd)
    end_with(lifeline.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the pool decides
    line = Line(os.dup(tasks.fileno()), os.dup(answers.fileno()), setup.look)
    tasks.close()
    answers.close()
    results = Results(line, setup.name)
    forward_logs(results, setup.log_level)
    limit_blas(setup.threads)
    try:
        if setup.initializer is not None:
            setup.initializer(*setup.initargs)
    except BaseException as error:
        results.give_up(error)
        return
    results.say(wire.READY, b"")
    line.serve(results)


def end_with(lifeline: int) -> None:
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which is to end, also in the middle of C code
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # If it was gone before we asked, there is no signal any more.
    import select

    poll = select.poll()
    poll.register(lifeline, select.POLLHUP)
    if poll.poll(0):
        os._exit(0)


BLAS_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
BLAS_CALLS = (
    "scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_", "openblas_set_num_threads", "MKL_Set_Num_Threads",
)  # fmt: skip


def limit_blas(threads: int) -> None:
    """Variables for libraries that are not loaded yet, and a call for those that are.

    What the user's environment says counts.
    """
    if any(variable in os.environ for variable in BLAS_VARIABLES):
        return
    for variable in BLAS_VARIABLES:
        os.environ[variable] = str(threads)
    if "numpy" not in sys.modules:
        return
    import ctypes

    with open("/proc/self/maps") as maps:
        loaded = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    for path in loaded:
        if any(name in os.path.basename(path) for name in ("openblas", "blas", "mkl_rt")):
            library = ctypes.CDLL(path)
            for call in BLAS_CALLS:
                if hasattr(library, call):
                    getattr(library, call)(threads)
