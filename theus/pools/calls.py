"""How functions travel to a worker: by the name under which an import finds them there."""

from __future__ import annotations

import functools
import os
import sys
from types import FunctionType
from typing import Any

from theus.errors import SendError, _shown
from theus.pools.codec import find, name_of

__all__ = ["NotThere", "reference", "resolve", "shown_name"]


def shown_name(fn: Any) -> str:
    """The name of a callable for messages."""
    name = getattr(fn, "__qualname__", None)
    return f"{fn.__module__}.{name}" if isinstance(name, str) else _shown(fn)


def reference(fn: Any, copies: bool) -> Any:
    """What a worker finds the callable by: (module, qualified name), or [itself] for pickle.

    `copies`: workers are copies of this process, and have what it had when it started them.
    """
    name: tuple[str, str] | None
    if is_of_its_module(fn):
        name = (fn.__module__, fn.__qualname__)
    elif not callable(fn):
        raise SendError(_shown(fn), "it cannot be called", "submit a function")
    else:
        name = name_of(fn)
    if name is not None:
        if name[0] == "__main__" and not copies and not main_has_a_file():
            raise SendError(
                shown_name(fn),
                "the program was typed in or given with -c, so workers cannot import it",
                'move it to a module, or use a ProcessPool with start_method="fork"',
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
    if type(fn) is not FunctionType:
        return False
    there, module = fn.__globals__, sys.modules.get(fn.__module__)
    # A doctest, for one, runs in a copy of what its module has.
    return there.get(fn.__qualname__) is fn and there is getattr(module, "__dict__", None)


def main_has_a_file() -> bool:
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:  # python -m
        return True
    file = getattr(main, "__file__", None)
    return file is not None and is_there(file)


@functools.lru_cache(maxsize=16)
def is_there(file: str) -> bool:
    return os.path.exists(file)


class NotThere(AttributeError):
    """Tells that a worker does not find what the program has: it was put there after the import, or
    is made in the main interpreter only. What it imports is in order."""


@functools.lru_cache(maxsize=1024)
def resolve(name: tuple[str, str]) -> Any:
    """In a worker. Raises NotThere, and whatever an import raises."""
    try:
        return find(name, True)
    except AttributeError as error:
        raise NotThere(f"there is no {'.'.join(name)} in this worker: {error}") from error
