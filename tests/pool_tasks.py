"""Functions that the tests of pools have called in workers: they must be importable there."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Any


class Odd(Exception):
    """Has more than arguments."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message, place)
        self.place = place


class Sealed(Exception):
    """Cannot travel: nothing rebuilds it from its arguments."""

    def __init__(self, *, lock: object) -> None:
        super().__init__("sealed")
        self.lock = lock


class Particular(Exception):
    """Can be written, but not read: its arguments are not those of its constructor."""

    def __init__(self, what: str, place: int) -> None:
        super().__init__(f"{what} at {place}")


class ExitWhenRead:
    def __reduce__(self) -> Any:
        return sys.exit, (4,)


class Counter:
    def __init__(self, n: int) -> None:
        self.n = n

    def plus(self, by: int) -> int:
        return self.n + by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counter) and self.n == other.n


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def add(a: int, b: int = 1) -> int:
    return a + b


class Careful:
    """Is pickled with its lock held."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            return {}


def nothing_with(it: object) -> None:
    """As an initializer."""


def nothing() -> None:
    pass


def fail(error: BaseException) -> None:
    raise error


def fail_odd() -> None:
    raise Odd("it broke", 7)


def fail_sealed() -> None:
    raise Sealed(lock=threading.Lock())


def fail_particular() -> None:
    raise Particular("broken", 7)


def give_exit() -> ExitWhenRead:
    return ExitWhenRead()


def log_much(size: int) -> None:
    logging.getLogger("pool.much").warning("x" * size)


def give_lock() -> Any:
    return threading.Lock()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def touch(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


def wait_for(path: str) -> str:
    """Until the file is there; the test removes it in the end."""
    while not os.path.exists(path):
        time.sleep(0.001)
    return path


def begin_and_wait(begun: str, path: str) -> str:
    touch(begun)
    return wait_for(path)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def die_once(path: str) -> str:
    """Kills the first worker that runs it."""
    if not os.path.exists(path):
        touch(path)
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


def die_noting(path: str) -> None:
    touch(path)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(status: int) -> None:
    os._exit(status)


def log(name: str, level: int, message: str, *args: object) -> None:
    logging.getLogger(name).log(level, message, *args)


def log_failure(name: str) -> None:
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger(name).exception("it failed")


def change(array: Any) -> float:
    array[0] = 99
    return float(array.sum())


def total(array: Any) -> Any:
    return array.sum()


def ones(size: int) -> Any:
    import numpy

    return numpy.ones(size)


def writes(array: Any) -> bool:
    return bool(array.flags.writeable)


settings: dict[str, Any] = {}


def fill_rows(loan: Any, value: float) -> int:
    with loan as rows:
        rows[:] = value
    return os.getpid()


def die_within(loan: Any) -> None:
    with loan:
        os.kill(os.getpid(), signal.SIGKILL)


def prepare(key: str, value: Any) -> None:
    settings[key] = value


def prepared(key: str) -> Any:
    return settings.get(key)


def refuse_to_start() -> None:
    raise RuntimeError("no licence")


def variable(name: str) -> str | None:
    return os.environ.get(name)


def pid() -> int:
    return os.getpid()


def in_a_pool_of_its_own(n: int) -> int:
    from theus.pools import ProcessPool

    with ProcessPool(1) as pool:
        return pool.submit(add, n).result()


def fork_and_add(n: int) -> int:
    """A task that forks; its child leaves at once, and holds every pipe until then."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return n + 1


KEPT: list[Any] = []


def keep(array: Any) -> int:
    """Looks at it for as long as this worker lives."""
    KEPT.append(array)
    return os.getpid()


def transfer(n: int) -> dict[str, int]:
    """What changes in a bank of ten accounts."""
    return {str(n % 10): -1 - n, str((n + 3) % 10): 1 + n}
