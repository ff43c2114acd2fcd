"""`engine.map_parallel`: one function over many items, in workers, as a stream.

    for found in engine.map_parallel(parse, paths):
        ...
    async for found in engine.map_parallel(parse, paths, ordered=False):
        ...

Items are taken as results are: no more than a few chunks for each worker are on their way or done
and not yet taken, so an endless iterator is as good as a list, and a slow consumer makes everybody
wait instead of filling the memory. When the function raises, the iteration raises that, and ends;
so it does with the loop that is left early. What has not begun then is cancelled.

Where the engine has chosen interpreters by itself, and an item or what the function imports turns
out not to fit there, processes go on: see `theus.workers`. A chunk that had begun is done anew.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from theus.arguments import check_flag
from theus.contracts import contract_of
from theus.errors import InterpreterImportError, ProcessError, _shown
from theus.pools.base import Pool, Terms, run_chunk
from theus.pools.calls import reference, shown_name
from theus.pools.fit import CAREFUL, Unfit, Untried, unfit_by_import
from theus.workers import Choice, Workers

__all__ = ["ParallelMap"]

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 3
"""Chunks for each worker: one that it works on, one that waits for it, one that is done."""
SHARES = 16
"""Chunks that each worker gets of a list, if nobody says otherwise: the last ones end together."""
LARGEST = 256

Progress = Callable[[int, "int | None"], object]
Calls = list[tuple[Any]]


class Chunk(Generic[R]):
    """Some calls, what becomes of them, and whether they may be done anew elsewhere.

    Equal to itself alone: a search must not ask the items whether they are equal. Arrays have no
    answer to that."""

    __slots__ = ("calls", "future", "tentative")

    def __init__(self, calls: Calls, future: Future[list[R]], tentative: bool) -> None:
        self.calls = calls
        self.future = future
        self.tentative = tentative


class Chunks(Generic[R]):
    """What is on its way, and how results are told of. The streams hold it, and not the map that
    holds them: so a map that is dropped ends at once."""

    choice: Choice
    pool: Pool

    def __init__(
        self,
        workers: Workers,
        fn: Callable[[T], R],
        items: Iterable[T],
        chunk: int | None,
        ordered: bool,
        progress: Progress | None,
    ) -> None:
        self.workers = workers
        self.total = len(items) if isinstance(items, Collection) else None
        self.fn = fn
        self.items: Iterator[T] = iter(items)
        self.chunk = chunk
        self.ordered = ordered
        self.progress = progress
        self.window = 0
        """Chunks that may be on their way; 0 until a pool is chosen."""
        self.waiting: deque[Chunk[R]] = deque()
        self.next: Calls = []
        """Taken, and not sent yet: somebody has to find out whether it fits."""
        self.taken = 0
        self.wake: Callable[[Future[list[R]]], object] | None = None
        """Called when a chunk is done, in whatever thread."""
        # What is wrong is said before anything has begun. Whether an untried function fits is
        # found out by the streams, which know how to wait for that: not here, on an event loop.
        with contextlib.suppress(Untried):
            self.choose()

    def choose(self) -> None:
        """Which workers it is for. Raises Untried, and SendError for what they cannot find."""
        self.choice = self.workers.choice(True, self.fn)
        self.pool = pool = self.workers.pool(self.choice.kind)
        if self.choice.kind != "threads":
            reference(self.fn, pool.by_fork)
        if self.chunk is None:
            self.chunk = 1
            if self.total is not None:
                self.chunk = max(1, min(LARGEST, self.total // (pool.size * SHARES)))
        self.window = pool.size * AHEAD

    def fill(self) -> bool:
        """Sends what there is room for. Whether anything is on its way, or done. Raises Untried."""
        if not self.window:
            self.choose()
        while len(self.waiting) < self.window:
            if not self.next:
                self.next = [(item,) for item in itertools.islice(self.items, self.chunk)]
            if not self.next:
                break
            self.waiting.append(self.send(self.next))
            self.next = []
        return bool(self.waiting)

    def send(self, calls: Calls) -> Chunk[R]:
        call = (self.fn, calls)
        look = CAREFUL if self.choice.tentative else None
        try:
            future = self.pool.submit_task(run_chunk, call, {}, Terms(self.fn, look=look))
        except Unfit as unfit:
            self.move(Unfit(f"it is sent a {shown_name(unfit.kind)}, and {unfit.why}"))
            future = self.pool.submit_task(run_chunk, call, {}, Terms(self.fn))
        if self.wake is not None:
            future.add_done_callback(self.wake)
        return Chunk(calls, future, self.choice.tentative)

    def move(self, unfit: Unfit) -> None:
        """From now on to where anything can be."""
        self.choice = self.workers.is_unfit(self.fn, unfit)
        self.pool = self.workers.pool(self.choice.kind)

    def begin_anew(self, chunk: Chunk[R], error: InterpreterImportError) -> None:
        """That has come of a chunk. Raises it where interpreters were asked for."""
        if not chunk.tentative:
            raise error
        if self.choice.tentative:
            self.move(unfit_by_import(error))
        self.waiting.appendleft(self.send(chunk.calls))

    def one_done(self) -> Chunk[R] | None:
        """The one that is to be taken, if that is known already."""
        if self.ordered:
            return self.waiting[0]
        return next((chunk for chunk in self.waiting if chunk.future.done()), None)

    def took(self) -> None:
        self.taken += 1
        if self.progress is not None:
            self.progress(self.taken, self.total)

    def cancel(self) -> None:
        self.items = iter(())
        while self.waiting:
            self.waiting.popleft().future.cancel()


def stream(chunks: Chunks[R]) -> Generator[R, None, None]:
    try:
        while True:
            try:
                if not chunks.fill():
                    break
            except Untried as found:
                found.try_it()
                continue
            chunk = chunks.one_done()
            if chunk is None:
                wait([it.future for it in chunks.waiting], return_when=FIRST_COMPLETED)
                continue
            chunks.waiting.remove(chunk)
            try:
                results = chunk.future.result()
            except InterpreterImportError as error:
                chunks.begin_anew(chunk, error)
                continue
            except BaseException:  # Ctrl-C, for one
                chunk.future.cancel()
                raise
            for result in results:
                chunks.took()
                yield result
    finally:
        chunks.cancel()


async def stream_awaited(chunks: Chunks[R]) -> AsyncGenerator[R, None]:
    from asyncio import Event, get_running_loop, wrap_future

    loop, event = get_running_loop(), Event()

    def wake(future: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(event.set)

    if not chunks.ordered:
        chunks.wake = wake
    try:
        while True:
            try:
                if not chunks.fill():
                    break
            except Untried as found:
                await loop.run_in_executor(None, found.try_it)
                continue
            event.clear()
            while (chunk := chunks.one_done()) is None:
                await event.wait()
                event.clear()
            chunks.waiting.remove(chunk)
            try:
                results = await wrap_future(chunk.future)
            except InterpreterImportError as error:
                chunks.begin_anew(chunk, error)
                continue
            for result in results:
                chunks.took()
                yield result
    finally:
        chunks.cancel()


class ParallelMap(Generic[R]):
    """The results of `map_parallel`: an iterator for a thread or, with `async for`, for a task.

    For one consumer, once. `close()` (`aclose()`), the end of a `with` (`async with`) block, and
    dropping it, cancel what has not begun.
    """

    def __init__(
        self,
        workers: Workers,
        fn: Callable[[T], R],
        items: Iterable[T],
        chunk: int | None,
        ordered: bool,
        progress: Progress | None,
    ) -> None:
        if contract_of(fn) is not None:
            raise ProcessError(
                f"map_parallel() calls functions, and {_shown(fn)} is a process: a transaction for "
                "each item is `await engine.execute(process, item)` in a task of its own",
                getattr(fn, "__name__", None),
            )
        if chunk is not None and (type(chunk) is not int or chunk < 1):
            raise ValueError(
                f"chunk is a number of items, at least 1, or None, not {_shown(chunk)}"
            )
        check_flag("ordered", ordered)
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is a function(taken, total), not {_shown(progress)}")
        self._chunks: Chunks[R] = Chunks(workers, fn, items, chunk, ordered, progress)
        self._results: Generator[R, None, None] | None = None
        self._awaited: AsyncGenerator[R, None] | None = None

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        if self._results is None:
            self._refuse_two()
            self._results = stream(self._chunks)
        return next(self._results)

    def close(self) -> None:
        """Ends it: what has not begun is cancelled. May be called again."""
        if self._results is not None:
            self._results.close()
        self._chunks.cancel()

    def __enter__(self) -> ParallelMap[R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        if self._awaited is None:
            self._refuse_two()
            self._awaited = stream_awaited(self._chunks)
        return await anext(self._awaited)

    async def aclose(self) -> None:
        """`close` of one that a task takes from."""
        if self._awaited is not None:
            await self._awaited.aclose()
        self._chunks.cancel()

    async def __aenter__(self) -> ParallelMap[R]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _refuse_two(self) -> None:
        if self._results is not None or self._awaited is not None:
            raise RuntimeError("this map is being taken from already: a thread or a task, not both")

    def __repr__(self) -> str:
        chunks = self._chunks
        total = "?" if chunks.total is None else chunks.total
        return f"<ParallelMap of {_shown(chunks.fn)}: {chunks.taken} of {total} taken>"
