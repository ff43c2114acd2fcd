"""What workers of all kinds say to their pool: answers, log records, why they could not start.

A worker answers each task once, by `Reporter.run`. How words go to the pool is for its kind to say.
"""

from __future__ import annotations

import functools
import logging
import traceback
from abc import ABC, abstractmethod
from typing import Any

from theus._theus import decode, encode
from theus.errors import RemoteError, _shown
from theus.pools import wire
from theus.pools.base import WorkerTraceback
from theus.pools.calls import resolve
from theus.pools.codec import dumps, extend, loads

__all__ = ["Reporter", "forward_logs", "log_here", "restored_answer", "restored_error", "unpacked"]


def traceback_of(error: BaseException) -> str:
    """As text, without our own frame, if there is one: some workers call their tasks from C."""
    trace = error.__traceback__
    if trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


class Reporter(ABC):
    """The way back. Any thread of the worker may log, so what is said arrives whole."""

    @abstractmethod
    def unpack(self, kind: int, body: Any) -> Any:
        """The call that a message of the pool holds."""

    @abstractmethod
    def answer(self, kind: int, number: int, value: Any) -> None:
        """Sends what has become of a task."""

    @abstractmethod
    def say(self, kind: int, body: bytes) -> None:
        """Sends what concerns the worker itself."""

    def run(self, kind: int, number: int, body: Any) -> None:
        """Runs a task and answers it, whatever happens."""
        try:
            name, args, kwargs = self.unpack(kind, body)
            fn = resolve(name) if type(name) is tuple else name[0]
            value = fn(*args, **kwargs)
        except BaseException as error:  # SystemExit, too: it is the caller who shall see it
            self.fail(number, error)
            return
        try:
            self.answer(wire.VALUE, number, value)
        except Exception as error:  # it cannot travel
            self.fail(number, error)

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
        self.say(wire.STILLBORN, body)


# ---- logs --------------------------------------------------------------------------------


class LogToPool(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        try:
            about = dict(record.__dict__)
            about["msg"], about["args"] = record.getMessage(), None
            if record.exc_info:
                about["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
                about["exc_info"] = None
            plain = {key: about[key] for key in about if is_plain(about[key])}
            self.reporter.say(wire.LOG, encode(plain))
        except Exception:  # what to do with it is for logging to say, as with any handler
            self.handleError(record)


def is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def forward_logs(reporter: Reporter, level: int) -> None:
    """All records go to the pool. Handlers that a fork has brought along are its own."""
    root = logging.getLogger()
    for logger in (root, *logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
    root.addHandler(LogToPool(reporter))
    root.setLevel(level)


# ---- where the pool is ---------------------------------------------------------------------


def restored_answer(kind: int, content: Any) -> tuple[bool, Any]:
    """(True, the value) or (False, the exception) of an answer that has been unpacked."""
    if kind == wire.UNFIT:
        remote = RemoteError(*content)
        return False, restored_error(remote, remote.traceback)
    if kind == wire.ERROR:
        return False, restored_error(*content)
    return True, content


def unpacked(kind: int, body: bytes) -> tuple[bool, Any]:
    """(True, the value) or (False, the exception) of an answer."""
    try:
        content = wire.unpack(body, kind in wire.INLINE)
        if kind == wire.VALUE:
            return True, content
        return restored_answer(wire.INLINE.get(kind, kind), content)
    except BaseException as error:  # restoring a value is code of anybody; its future has to end
        return False, error


def restored_error(error: BaseException, text: str) -> BaseException:
    """Where the pool is: the task's exception, with the worker's traceback as its cause."""
    error.__cause__ = WorkerTraceback(text)
    return error


def log_here(body: Any) -> None:
    """Hands a record of a worker to the logger that it was meant for."""
    record = logging.makeLogRecord(decode(body))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
