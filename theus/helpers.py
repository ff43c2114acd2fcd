"""What a process is given beside the state: a log, the time, random numbers.

    ctx.log.info("sold %d", n)      a logger whose records say which run it was
    ctx.now                         the time, one and the same for the whole attempt
    ctx.random.choice(names)        random numbers from a seed of this attempt's own

The last two are for processes that shall be repeatable, PURE ones above all. What they gave is
noted in the record of the commit: `record.notes` holds ("now", time) and ("seed", number), each
once for every process that has asked, and `random.Random(number)` gives the same numbers
again. A run that changes nothing makes no record.

The logger is `theus.process`. Each of its records has the attributes

    theus_process   name of the process
    theus_run       number of the run in its engine, the same for all of its attempts
    theus_version   the version that the attempt began with

What an attempt has logged stays logged if it fails, or is made again. Nothing is printed unless
the program sets up logging.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

__all__ = ["ProcessLog", "get_logger", "make_log", "make_random", "read_clock"]

if TYPE_CHECKING:
    from random import Random

    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


def get_logger(name: str) -> logging.Logger:
    """A logger of ours. Without a handler `logging` itself would print its warnings."""
    top = logging.getLogger("theus")
    if not any(isinstance(handler, logging.NullHandler) for handler in top.handlers):
        top.addHandler(logging.NullHandler())
    return logging.getLogger(name)


class ProcessLog(_Adapter):
    """The log of one process: all methods of a logger. Calling it is `info`."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        # An adapter would drop the caller's own extra= until Python 3.13.
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs

    def __call__(self, msg: object, *args: object) -> None:
        self.info(msg, *args, stacklevel=2)


def make_log(process: str, run: int, version: int) -> ProcessLog:
    """The log of one attempt. (LogRecord has a `process` already: the number of the system's.)"""
    facts = {"theus_process": process, "theus_run": run, "theus_version": version}
    return ProcessLog(get_logger("theus.process"), facts)


def make_random(seed: int) -> Random:
    from random import Random  # it brings hashlib, and that OpenSSL

    return Random(seed)


def read_clock() -> datetime:
    return datetime.now(UTC)
