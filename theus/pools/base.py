"""What every pool of workers is, whatever its workers are made of.

A *pool* runs calls elsewhere: in other processes, interpreters or threads. It is an
`concurrent.futures.Executor`: `submit` gives a real `Future`, so `as_completed`, `wait`,
`asyncio.wrap_future` and `loop.run_in_executor` work as with any other. A *worker* is one place
where calls run, one at a time, in the order in which they came to it. A *task* is one call.

The life of a worker, as its pool sees it:

    start ──▶ starting ──ready──▶ idle ◀──result──▶ busy
                 │                  │                 │
                 └─────── gone ◀────┴── told to end ──┴── killed, crashed, too slow

  - gone while starting: another is started; three in a row, or an initializer that raises, break
    the pool, and every task ends with BrokenPoolError.
  - gone while busy: the task that it ran ends with WorkerDied, or is tried once more if the pool
    says `retry_dead`; a task with which two workers have died is never tried again. Tasks that
    were on their way to it, but not begun, go to the others and know nothing of it.
  - gone while idle: another is started.

The life of a task is that of its Future: pending while it waits in the pool, running as soon as
it is on its way to a worker, then done. Whatever happens, it ends: with the result, with the
task's own exception, or with an error that says why there is neither.

Arguments are encoded when `submit` is called: what the caller changes afterwards, no task sees.
A task's exception keeps its type, arguments and attributes; its `__cause__` is a WorkerTraceback
that shows where it was raised. Log records of workers reach the loggers of this process. Threads
need none of that: they get the caller's own objects, and what they raise has its traceback.
"""

from __future__ import annotations

import itertools
import os
import sys
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from theus._types import PoolStats
from theus.arguments import check_seconds
from theus.errors import _shown

__all__ = [
    "PLAIN",
    "Due",
    "Look",
    "Pool",
    "PoolStats",
    "SeparatePool",
    "Terms",
    "WorkerTraceback",
]

T = TypeVar("T")

Due = tuple[float, float]
"""When a task has to be done, by time.monotonic(), and the seconds that it was given."""

Look = Callable[..., object]
"""Is shown each part of a call that travels as more than plain data. May raise."""


class Terms(NamedTuple):
    """What is said of a task by those who run somebody else's function with one of their own."""

    shown: object = None
    """What errors name in place of the function."""
    due: Due | None = None
    """What has begun and is not done by then ends with its worker, as by the timeout of a pool;
    what has not begun is the caller's to cancel. Not heeded by threads."""
    look: Look | None = None
    """Heeded by pools of interpreters alone."""


PLAIN = Terms()


class WorkerTraceback(Exception):
    """The cause of an exception that came from a worker: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


class Pool(Executor):
    """The interface that all pools share. Any thread may use a pool."""

    size: int
    """The number of workers."""

    by_fork = False
    """Whether workers have what this process had when it started them."""

    crew: Any
    """The workers; see Crew."""

    def _take(self, make: Callable[[], Any]) -> Any:
        """Makes the crew, which ends as by shutdown(wait=False) when this pool is dropped."""
        self.crew = crew = make()
        self._finalizer = weakref.finalize(self, crew.close, False)
        self._finalizer.atexit = False
        return crew

    @abstractmethod
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Has fn(*args, **kwargs) called by a worker. Returns at once.

        Raises SendError if the function or an argument cannot travel, ClosedError after
        shutdown(), BrokenPoolError if no worker can be started.
        """

    def submit_task(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        terms: Terms,
    ) -> Future[T]:
        """As submit(), on these terms."""
        return self.submit(fn, *args, **kwargs)

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """fn over the iterables, in their order; results come as they are asked for.

        All calls are submitted at once, `chunksize` of them as one task. TimeoutError if a
        result is not there `timeout` seconds (default: no limit) after the call of map().
        """
        if type(chunksize) is not int or not 1 <= chunksize <= sys.maxsize:
            raise ValueError(f"chunksize is at least 1, not {_shown(chunksize)}")
        check_seconds("timeout", timeout, zero=True)
        end = None if timeout is None else monotonic() + timeout
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            futures = [self.submit(fn, *call) for call in calls]
            return (found for (found,) in results_of(futures, end, single=True))
        chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        found = [self.submit(run_chunk, fn, chunk) for chunk in chunks]
        return itertools.chain.from_iterable(results_of(found, end, single=False))

    @abstractmethod
    def stats(self) -> PoolStats:
        """Figures of this moment."""

    @abstractmethod
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No new task from now on; workers end when the last one is done.

        `wait`: returns when they have; but a callback of a future never waits here, as it is
        called by who would have to end them. `cancel_futures`: tasks that wait in the pool are
        cancelled. May be called again.
        """

    @abstractmethod
    def kill(self) -> None:
        """Ends all workers at once, whatever they do. Unfinished tasks end with ClosedError."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        # Ctrl-C, sys.exit(): nobody is left to wait for the results.
        if kind is not None and not issubclass(kind, Exception):
            self.kill()
        else:
            self.shutdown()
        return None


class Crew(Protocol):
    """The workers of a pool, and what they have to do; see crew.py and residents.py."""

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child, and nothing of it ours."""

    def submit(self, fn: Any, args: Any, kwargs: Any, terms: Terms = PLAIN) -> Future[Any]: ...

    def close(self, cancel: bool) -> None: ...

    def kill(self) -> None: ...

    def join(self) -> None: ...


class SeparatePool(Pool):
    """A pool whose workers share no objects with this interpreter: calls travel as bytes."""

    crew: Crew

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self.crew.submit(fn, args, kwargs)

    def submit_task(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        terms: Terms,
    ) -> Future[T]:
        return self.crew.submit(fn, args, kwargs, terms)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._finalizer.detach()
        if self.crew.foreign:
            return
        self.crew.close(cancel_futures)
        if wait:
            self.crew.join()

    def kill(self) -> None:
        self._finalizer.detach()
        if not self.crew.foreign:
            self.crew.kill()
            self.crew.join()


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_size(
    size: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    timeout: float | None,
) -> int:
    """The number of workers, if the options that all pools have are good; else it raises."""
    size = cores() if size is None else size
    if type(size) is not int or size < 1:
        raise ValueError(f"size is at least 1, not {_shown(size)}")
    check_seconds("timeout", timeout)
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer is a function, not {_shown(initializer)}")
    if not isinstance(initargs, (tuple, list)):
        raise TypeError(f"initargs is a tuple, not {_shown(initargs)}")
    return size


def results_of(futures: Any, end: float | None, single: bool) -> Iterator[Any]:
    """The results in order; what was not taken when the caller stops is cancelled."""
    futures.reverse()
    try:
        while futures:
            left = None if end is None else end - monotonic()
            found = futures.pop().result(left)
            yield (found,) if single else found
    finally:
        for future in futures:
            future.cancel()


def run_chunk(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*call) for call in calls]
