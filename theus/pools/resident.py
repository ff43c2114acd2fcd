"""What runs in a worker interpreter. The thread, the loop and the letters are C's:
interp_type.c."""

from __future__ import annotations

import atexit
import runpy
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from theus._theus import Mailbox, encode
from theus.errors import InterpreterImportError
from theus.pools import wire
from theus.pools.calls import resolve
from theus.pools.codec import decode_with, extend
from theus.pools.reports import Reporter, forward_logs

__all__ = ["start"]


class Answers(Reporter):
    """The way back: a letter for each answer."""

    def __init__(self, box: Mailbox) -> None:
        self.box = box

    def unpack(self, kind: int, body: Any) -> Any:
        content, buffers = body
        return decode_with(content, True, buffers)

    def answer(self, kind: int, number: int, value: Any) -> None:
        buffers: list[Any] = []
        # What shares memory with a shared array goes by its token, and the array has to live until
        # it was read. This interpreter's own arrays are those that the pool's has lent it.
        body = encode(value, partial(extend, [], True), buffers, wire.LARGE)
        self.box.post(kind, number, body, buffers)

    def say(self, kind: int, body: bytes) -> None:
        self.box.post(kind, 0, body)

    def fail(self, number: int, error: BaseException) -> None:
        super().fail(number, explained(error))

    def call(self, kind: int, number: int, body: Any, buffers: Any) -> None:
        """What C calls for each letter."""
        self.run(kind, number, (body, buffers))


def explained(error: BaseException) -> BaseException:
    """If an import failed because the module cannot be in two interpreters: our error, from it."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            break
        if isinstance(seen, ImportError) and (
            "support loading in subinterpreters" in str(seen)
            or "load module more than once per process" in str(seen)
        ):
            refused = InterpreterImportError(module_of(seen))
            refused.__cause__ = error
            refused.__traceback__ = error.__traceback__
            return refused
        seen = seen.__cause__ or seen.__context__
    return error


def module_of(error: ImportError) -> str:
    """The package of the refused module. Packages wrap the sentence of Python into their own."""
    before, found, _ = str(error).partition(" does not support loading in subinterpreters")
    name = before.split()[-1] if found and before.split() else error.name or "a module"
    return name.partition(".")[0]


class MainModule(ModuleType):
    """Stands for the script of the program until something of it is asked for; then that is run, as
    `__mp_main__`: what stands below `if __name__ == "__main__":` is not done again."""

    def __init__(self, path: str | None, name: str | None) -> None:
        super().__init__("__main__")
        self.__dict__["__source__"] = (path, name)

    def __getattr__(self, attribute: str) -> Any:
        source = self.__dict__.get("__source__")
        if source is None or (attribute.startswith("__") and attribute.endswith("__")):
            raise AttributeError(f"module '__main__' has no attribute {attribute!r}")
        path, name = source
        if name is not None:
            found = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
        else:
            found = runpy.run_path(path, run_name="__mp_main__")
        del self.__dict__["__source__"]
        self.__dict__.update(found)
        return getattr(self, attribute)


def forget_thread() -> None:
    """Before the end of the interpreter. `threading` has made an object for this thread, which it
    has not started; that is finalized too late, when the module is empty, and complains."""
    own = getattr(threading, "_thread_local_info", None)
    if own is not None:
        own.__dict__.clear()


def start(box: Mailbox, setup: bytes) -> Callable[[int, int, Any, Any], None] | None:
    """Readies this interpreter. What is to be called for each letter; None: the pool knows why
    not."""
    answers = Answers(box)
    atexit.register(forget_thread)
    try:
        level, main, initializer, initargs = decode_with(setup, True, None)
        if main is not None:
            sys.modules["__main__"] = sys.modules["__mp_main__"] = MainModule(*main)
        forward_logs(answers, level)
        if initializer is not None:
            fn = resolve(initializer) if type(initializer) is tuple else initializer[0]
            fn(*initargs)
    except BaseException as error:
        answers.give_up(explained(error))
        return None
    answers.say(wire.READY, b"")
    return answers.call
