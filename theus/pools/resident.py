"""What runs in a worker interpreter. The thread, the loop and the letters are C's:
interp_type.c."""

from __future__ import annotations

import atexit
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from importlib.machinery import ExtensionFileLoader
from types import ModuleType
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

from theus._theus import Mailbox, encode
from theus.errors import CodecError, InterpreterImportError
from theus.pools import wire
from theus.pools.calls import NotThere, resolve
from theus.pools.codec import decode_with, extend
from theus.pools.reports import Reporter, forward_logs

__all__ = ["Forbidden", "refusal", "start"]


class Forbidden(InterpreterImportError):
    """Tells the pool of a tentative call what was in the way, if that is no import: `why`. Nobody
    else sees one."""

    def __init__(self, why: str) -> None:
        super().__init__("")
        self.args = (why,)
        self.why = why


class Answers(Reporter):
    """The way back: a letter for each answer."""

    def __init__(self, box: Mailbox) -> None:
        self.box = box
        self.tentative = False
        self.before = 0

    def unpack(self, kind: int, body: Any) -> Any:
        content, buffers = body
        return decode_with(content, True, buffers)

    def answer(self, kind: int, number: int, value: Any) -> None:
        if self.tentative and kind == wire.VALUE:
            unfit = refusal(self.before)
            if unfit is not None:
                raise unfit
        buffers: list[Any] = []
        # What shares memory with a shared array goes by its token, and the array has to live until
        # it was read. This interpreter's own arrays are those that the pool's has lent it.
        body = encode(value, partial(extend, [], True), buffers, wire.LARGE)
        self.box.post(kind, number, body, buffers)

    def say(self, kind: int, body: bytes) -> None:
        self.box.post(kind, 0, body)

    def fail(self, number: int, error: BaseException) -> None:
        told = explained(error)
        if self.tentative and not isinstance(told, InterpreterImportError):
            told = refusal(self.before) or forbidden(error) or missing(error) or error
            if told is not error:
                told.__cause__, told.__traceback__ = error, error.__traceback__
        super().fail(number, told)

    def call(self, kind: int, number: int, body: Any, buffers: Any) -> None:
        """What C calls for each letter."""
        self.tentative, self.before = kind == wire.TENTATIVE, refused.count
        self.run(kind, number, (body, buffers))


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that it came of: not without end, as they may go round."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            break
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_refusal(error: BaseException) -> TypeGuard[ImportError]:
    """Whether Python says that a module cannot be in two interpreters."""
    return isinstance(error, ImportError) and (
        "support loading in subinterpreters" in str(error)
        or "load module more than once per process" in str(error)
    )


def explained(error: BaseException) -> BaseException:
    """If an import failed because the module cannot be in two interpreters: our error, from it."""
    for seen in chain(error):
        if is_refusal(seen):
            told = InterpreterImportError(module_of(seen))
            told.__cause__ = error
            told.__traceback__ = error.__traceback__
            return told
    return error


FORBIDDEN = re.compile(
    "daemon threads are disabled in this|not supported (for|within) (isolated )?subinterpreters"
)
"""What Python says of daemon threads, os.fork, os.exec, and preexec_fn."""


def forbidden(error: BaseException) -> Forbidden | None:
    """If something was done that only the main interpreter may: our error."""
    for seen in chain(error):
        if isinstance(seen, RuntimeError) and FORBIDDEN.search(str(seen)):
            return Forbidden(f"it does what interpreters do not allow: {seen}")
    return None


def missing(error: BaseException) -> Forbidden | None:
    """If the call speaks of something that its module has not got here: our error."""
    if isinstance(error, NotThere) or (
        isinstance(error, CodecError) and isinstance(error.__cause__, AttributeError)
    ):
        return Forbidden(f"not all of it is there: {error}")
    return None


def module_of(error: ImportError) -> str:
    """The package of the refused module. Packages wrap the sentence of Python into their own."""
    before, found, _ = str(error).partition(" does not support loading in subinterpreters")
    name = before.split()[-1] if found and before.split() else error.name or "a module"
    return name.partition(".")[0]


# ---- refusals that nobody hears of: `except ImportError: numpy = None` ----------------------


class Refusals:
    """What was refused here: how often, the last package, and by module that was being imported
    then, while it lives, the package that it has not got."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""
        self.met: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()

    def note(self, error: ImportError) -> None:
        self.count += 1
        self.last = module_of(error)
        for module in list(sys.modules.values()):
            if issubclass(type(module), ModuleType):
                # Past the __getattribute__ of those that load when they are asked for something.
                spec = object.__getattribute__(module, "__dict__").get("__spec__")
                if getattr(spec, "_initializing", False):
                    self.met[module] = self.last


refused = Refusals()


def watched(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of loading an extension, which notes refusals."""

    @wraps(step)
    def watch(*args: Any) -> Any:
        try:
            return step(*args)
        except ImportError as error:
            if is_refusal(error):
                refused.note(error)
            raise

    return watch


def watch_imports() -> None:
    """Of this interpreter."""
    loader: Any = ExtensionFileLoader
    loader.create_module = watched(loader.create_module)
    loader.exec_module = watched(loader.exec_module)


def refusal(before: int) -> InterpreterImportError | None:
    """Whether something may be otherwise here than in a process: an import was refused, after so
    many, or a module lives on that has met a refusal, whoever it was that imported it."""
    if refused.count > before:
        return InterpreterImportError(refused.last)
    if refused.met:
        here = set(map(id, list(sys.modules.values())))
        for module, name in list(refused.met.items()):
            if id(module) in here:
                return InterpreterImportError(name)
    return None


class MainModule(ModuleType):
    """Stands for the script of the program until something of it is asked for; then that is run, as
    `__mp_main__`: what stands below `if __name__ == "__main__":` is not done again."""

    def __init__(self, path: str | None, name: str | None) -> None:
        super().__init__("__main__")
        self.__dict__["__source__"] = (path, name)

    def __getattr__(self, attribute: str) -> Any:
        private = attribute.startswith("__") and attribute.endswith("__")
        if private or "__source__" not in self.__dict__:
            raise AttributeError(f"module '__main__' has no attribute {attribute!r}")
        load_main(self)
        return getattr(self, attribute)


def load_main(module: ModuleType) -> None:
    """Runs the script, if this is a MainModule for which nobody has asked for anything."""
    source = module.__dict__.get("__source__") if isinstance(module, MainModule) else None
    if source is None:
        return
    path, name = source
    if name is not None:
        found = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
    else:
        found = runpy.run_path(path, run_name="__mp_main__")
    del module.__dict__["__source__"]
    module.__dict__.update(found)


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
    watch_imports()
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
