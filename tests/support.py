"""What the tests of transactions share: open sessions, races, another thread, a fresh process."""

from __future__ import annotations

import asyncio
import contextvars
import os
import textwrap
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any

from helpers import run_fresh, run_threads

PATIENCE = 60.0  # seconds after which a thread or process counts as hung


_tasks: weakref.WeakKeyDictionary[Any, contextvars.Context] = weakref.WeakKeyDictionary()


def begin(engine: Any, isolation: str = "serializable", **options: Any) -> Any:
    """An open transaction of a task of its own, so that one test can interleave several.

    In the same task the second would join the first, as a savepoint. The task's context lives as
    long as its transaction.
    """
    tx = engine.transaction(isolation=isolation, **options)
    _tasks[tx] = context = contextvars.copy_context()
    return context.run(tx.__enter__)


def elsewhere(fn: Callable[..., Any], *args: Any) -> Any:
    """What fn returns (or raises) in another thread, which inherits nothing from this one."""
    box: list[Any] = []

    def target() -> None:
        try:
            box.extend((True, contextvars.Context().run(fn, *args)))
        except BaseException as error:  # handed to the caller below
            box.extend((False, error))

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the other thread hangs"
    if not box[0]:
        raise box[1]
    return box[1]


def race(*bodies: Callable[[], Any]) -> list[Any]:
    """Runs all bodies at once, each in a thread and a context of its own; what they returned."""
    return run_threads(
        len(bodies), lambda number: contextvars.Context().run(bodies[number]), timeout=PATIENCE
    )


def until(condition: Callable[[], object]) -> None:
    """Waits for a fact that nobody announces; a test may wait for nothing else than a fact."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.001)


async def until_async(condition: Callable[[], object]) -> None:
    """The same, while the event loop goes on."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come"
        await asyncio.sleep(0.001)


def descriptors() -> Counter[str]:
    """What this process has open, by what it is. To be subtracted, not compared: what others have
    left open they may close at any moment."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile, as what listdir() has opened
            found[os.readlink(f"/proc/self/fd/{name}")] += 1
    return found


def silent(script: str, *flags: str, timeout: float = PATIENCE) -> None:
    """Asserts that a script in a fresh process ends well and says nothing at all."""
    assert run_fresh(textwrap.dedent(script), options=flags, timeout=timeout) == ""


_kinds: dict[type, str | None] = {dict: "dict", list: "list", set: "set", int: None, str: None}


def kind(value: Any) -> str | None:
    """The word dict, list or set for containers of any make, None for all other values."""
    known = _kinds.get(type(value), "")
    if known != "":
        return known
    if isinstance(value, Mapping):
        return "dict"
    if isinstance(value, Set) and not isinstance(value, frozenset):
        return "set"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, tuple, range)):
        return "list"
    return None


def plain(value: Any) -> Any:
    """A deep copy in builtins of a view, a draft or a builtin."""
    match kind(value):
        case "dict":
            return {key: plain(value[key]) for key in value}
        case "list":
            return [plain(part) for part in value]
        case "set":
            return set(value)
    return tuple(map(plain, value)) if type(value) is tuple else value


def domain(engine: Any) -> Any:
    """The root `domain`, in builtins."""
    return plain(engine.state["domain"])


def exact(value: Any) -> Any:
    """A picture of a value in which 1, 1.0 and True differ, and so do two orders of one dict."""
    match kind(value):
        case "dict":
            return ("dict", [(exact(key), exact(value[key])) for key in value])
        case "list":
            return ("list", [exact(part) for part in value])
        case "set":
            return ("set", {exact(part) for part in value})
    if type(value) is tuple:
        return ("tuple", tuple(map(exact, value)))
    return (type(value).__name__, value)
