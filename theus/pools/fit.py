"""What of a call can be in a worker interpreter, and how it is said that something cannot.

The codec shows an `Inspection` each part of a call that is more than plain data: instances, members
of enums, arrays, functions and classes that are sent by name. Such a part needs its module where it
arrives. What pickle writes is not looked into, but for shared arrays: what else is in it, the
worker finds out.

Two ways out, for whoever runs the process: it has the name tried and begins anew (`Untried`), or it
begins anew elsewhere, or gives up (`Unfit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from types import FunctionType
from typing import Any

from theus.errors import InterpreterImportError
from theus.paths import format_path
from theus.pools.codec import name_of
from theus.pools.resident import Forbidden
from theus.pools.trial import known, try_name

__all__ = [
    "CAREFUL",
    "FORCED",
    "Inspection",
    "Unfit",
    "Untried",
    "path_to",
    "place_of",
    "unfit_by_import",
]


class Untried(Exception):
    """Nobody knows yet whether that loads in an interpreter."""

    def __init__(self, module: str, name: str | None) -> None:
        super().__init__(module, name)
        self.module, self.name = module, name

    def try_it(self) -> None:
        """Waits for a trial: not for the thread of an event loop."""
        try_name(self.module, self.name)


class Unfit(Exception):
    """That cannot be in an interpreter: `kind` is a class, or what else is sent by name."""

    def __init__(self, why: str, kind: Any = None) -> None:
        super().__init__(why, kind)
        self.why, self.kind = why, kind


def unfit_by_import(error: InterpreterImportError) -> Unfit:
    """What a function has met in an interpreter."""
    if isinstance(error, Forbidden):
        return Unfit(error.why)
    return Unfit(f"it imports {error.module}, which is for one interpreter in a process")


class Inspection:
    """Looks at the parts of a call, and raises Untried or Unfit.

    `careful`: nobody has asked for interpreters, so nothing may be another one there than in a
    process. Arrays of NumPy would arrive as ArrayView, its scalars as numbers, and a module about
    which a trial has found out nothing might do anything. Else only that is refused which Python
    refuses.
    """

    def __init__(self, careful: bool) -> None:
        self.careful = careful
        self.passed: set[Any] = set()
        """Classes; one that is dropped again is found by name no more, and not among them."""

    def __call__(self, part: Any, with_arrays: bool = False) -> None:
        kind = type(part)
        if with_arrays and self.careful:
            raise Unfit("the arrays in it are something else there", class_of(kind, part))
        if kind not in self.passed:
            self.look(kind, part)

    def look(self, kind: Any, part: Any) -> None:
        by_name = kind is FunctionType or issubclass(kind, type)
        thing = part if by_name else class_of(kind, part)
        module = getattr(thing, "__module__", None)
        if not isinstance(module, str):
            return
        if not by_name and (module == "theus.shm_array" or module.partition(".")[0] == "numpy"):
            if self.careful:
                raise Unfit("arrays and numbers of NumPy are something else there", thing)
            return
        verdict = known(module)
        if verdict is None:
            name = name_of(thing)
            raise Untried(module, None if name is None else name[1])
        if not verdict.loads and (self.careful or verdict.refused):
            raise Unfit(f"its module cannot be in an interpreter: {verdict.why}", thing)
        if not by_name and name_of(kind) is not None:
            self.passed.add(kind)


def class_of(kind: type, part: Any) -> Any:
    """The class that it will have there: views of records say it, and have one of their own."""
    return part.__class__ if kind.__module__ == "theus._theus" else kind


CAREFUL, FORCED = Inspection(True), Inspection(False)


# ---- for messages -----------------------------------------------------------------------------


def place_of(kind: Any, roots: Mapping[str, Any], arguments: Any) -> str:
    """Where in the state or among the arguments the first part of that class is; as text."""

    def is_one(value: Any) -> bool:
        return value is kind or value.__class__ is kind

    found = path_to(is_one, roots)
    if found is not None:
        return format_path(found)
    args, kwargs = arguments
    for name, value in (*enumerate(args, 1), *kwargs.items()):
        found = path_to(is_one, value)
        if found is not None:
            return f"argument {name!r}" + (f" at {format_path(found)}" if found else "")
    return "a part of the call"


def path_to(wanted: Callable[[Any], bool], value: Any) -> tuple[Any, ...] | None:
    """The keys that lead to the first part that is wanted; None if there is none."""
    if wanted(value):
        return ()
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes, bytearray)):
        inner = enumerate(value)
    for key, part in inner:
        found = path_to(wanted, part)
        if found is not None:
            return (key, *found)
    return None
