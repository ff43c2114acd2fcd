"""What runs in a worker process: read a packet, run its tasks, write each result at once.

A worker ends when the pipe of tasks is closed, when its pool kills it, or, wherever it is at that
moment, when its pool's process is gone: it has the read end of a pipe that nobody ever writes to,
and asks the kernel for SIGIO should that pipe lose its last writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

from theus._theus import SharedBlock, encode
from theus.errors import SendError, _shown
from theus.pools import wire
from theus.pools.base import WorkerTraceback
from theus.pools.codec import dumps, extend, find, loads, name_of

__all__ = ["Setup", "main", "reference", "shown_name"]


class Setup(NamedTuple):
    """What a worker is told once, when it starts."""

    name: str
    threads: int
    """For the BLAS of this worker."""
    log_level: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]


# ---- functions ------------------------------------------------------------------------


def shown_name(fn: Any) -> str:
    """The name of a callable for messages."""
    name = getattr(fn, "__qualname__", None)
    return f"{fn.__module__}.{name}" if isinstance(name, str) else _shown(fn)


def reference(fn: Any, by_fork: bool) -> Any:
    """What a worker finds the callable by: (module, qualified name), or [itself] for pickle.

    `by_fork`: workers have what this process had when it started them.
    """
    name: tuple[str, str] | None
    if is_of_its_module(fn):
        name = (fn.__module__, fn.__qualname__)
    elif not callable(fn):
        raise SendError(_shown(fn), "it cannot be called", "submit a function")
    else:
        name = name_of(fn)
    if name is not None:
        if name[0] == "__main__" and not by_fork and not main_has_a_file():
            raise SendError(
                shown_name(fn),
                "the program was typed in or given with -c, so other processes cannot import it",
                'move it to a module, or make the pool with start_method="fork"',
            )
        return name
    if isinstance(fn, FunctionType):
        if fn.__name__ == "<lambda>":
            raise SendError("a lambda", "it has no name to find it by", "write it with def")
        if "<locals>" in fn.__qualname__:
            why, way = "it is made inside another function", "define it at the top of a module"
        else:
            why, way = "another object has its name", "submit the one that its module shows"
        raise SendError(shown_name(fn), why, way)
    return [fn]


def is_of_its_module(fn: Any) -> bool:
    """Most are, and this is a third of the price of name_of()."""
    return type(fn) is FunctionType and fn.__globals__.get(fn.__qualname__) is fn


def main_has_a_file() -> bool:
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:  # python -m
        return True
    file = getattr(main, "__file__", None)
    return file is not None and os.path.exists(file)


@functools.lru_cache(maxsize=1024)
def resolve(name: tuple[str, str]) -> Any:
    return find(name, True)


# ---- results -------------------------------------------------------------------------------


def traceback_of(error: BaseException) -> str:
    """As text, without the frame of this file."""
    trace = error.__traceback__
    inner = trace.tb_next if trace is not None else None
    return "".join(traceback.format_exception(type(error), error, inner))


class Results:
    """The way back. Any thread of the worker may log, so what is written is whole."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.lock = threading.Lock()
        self.shelf = wire.Shelf(name)
        self.lent: dict[int, tuple[SharedBlock, ...]] = {}
        """By the number of the task: blocks with a result that the pool may be reading."""

    def write(self, data: bytes) -> None:
        with self.lock:
            wire.write_all(self.fd, data)

    def answer(self, kind: int, number: int, value: Any) -> None:
        data, blocks = wire.pack(kind, number, value, wire.INLINE_RESULT, self.shelf, [])
        if blocks:
            self.lent[number] = blocks
        self.write(data)

    def fail(self, number: int, error: BaseException) -> None:
        """The exception with its traceback; if it cannot travel, what can be said about it."""
        text = traceback_of(error)
        try:
            loads(dumps(error, pickle=True), pickle=True)  # some can only be written
            self.answer(wire.ERROR, number, (error, text))
        except Exception as refused:  # __reduce__ of anybody
            about = (f"{type(error).__module__}.{type(error).__qualname__}", _shown(error, 500))
            self.answer(wire.UNFIT, number, (*about, text, f"{type(refused).__name__}: {refused}"))

    def give_up(self, error: BaseException) -> None:
        """The initializer has raised that."""
        text, anything = traceback_of(error), functools.partial(extend, [], True)
        try:
            body = encode((error, text), anything)
        except Exception:  # it cannot travel
            body = encode((RuntimeError(_shown(error, 500)), text), anything)
        self.write(wire.frame(wire.STILLBORN, 0, body))

    def take_back(self, number: int) -> None:
        for block in self.lent.pop(number, ()):
            block.retire()


class LogToPool(logging.Handler):
    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results

    def emit(self, record: logging.LogRecord) -> None:
        try:
            about = dict(record.__dict__)
            about["msg"], about["args"] = record.getMessage(), None
            if record.exc_info:
                about["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
                about["exc_info"] = None
            plain = {key: about[key] for key in about if is_plain(about[key])}
            self.results.write(wire.frame(wire.LOG, 0, encode(plain)))
        except Exception:  # what to do with it is for logging to say, as with any handler
            self.handleError(record)


def is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


# ---- the loop ------------------------------------------------------------------------------------


def run(results: Results, kind: int, number: int, body: memoryview) -> None:
    try:
        name, args, kwargs = wire.unpack(body, kind == wire.CALL_IN_BLOCKS)
        fn = resolve(name) if type(name) is tuple else name[0]
        value = fn(*args, **kwargs)
    except BaseException as error:  # SystemExit, too: it is the caller who shall see it
        results.fail(number, error)
        return
    try:
        results.answer(wire.VALUE, number, value)
    except Exception as error:  # it cannot travel
        results.fail(number, error)


def serve(tasks: int, results: Results) -> None:
    while packet := os.read(tasks, 16 * wire.PACKET):
        for kind, number, body in wire.frames(packet)[0]:
            if kind == wire.RELEASED:
                results.take_back(number)
            else:
                run(results, kind, number, body)


def main(tasks: Any, answers: Any, lifeline: Any, others: tuple[int, ...], setup: Setup) -> None:
    """`tasks`, `answers`, `lifeline`: ends of pipes, as multiprocessing has brought them here.

    `others`: descriptors of the pool that a fork has brought along.
    """
    for fd in others:
        with contextlib.suppress(OSError):
            os.close(fd)
    end_with(lifeline.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the pool decides
    results = Results(answers.fileno(), setup.name)
    forward_logs(results, setup.log_level)
    limit_blas(setup.threads)
    try:
        if setup.initializer is not None:
            setup.initializer(*setup.initargs)
    except BaseException as error:
        results.give_up(error)
        return
    results.write(wire.frame(wire.READY, 0, b""))
    serve(tasks.fileno(), results)


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


def forward_logs(results: Results, level: int) -> None:
    """All records go to the pool's process. Handlers that a fork has brought along are its own."""
    root = logging.getLogger()
    for logger in (root, *logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
    root.addHandler(LogToPool(results))
    root.setLevel(level)


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


def restored_error(error: BaseException, text: str) -> BaseException:
    """In the pool's process: the task's exception, with the worker's traceback as its cause."""
    error.__cause__ = WorkerTraceback(text)
    return error
