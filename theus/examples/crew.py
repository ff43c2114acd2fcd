"""A handful of threads that work through a list, and stop when asked."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Left:
    """A thread has left the crew: it found nothing more to do, or failed."""

    error: BaseException | None = None


GRACE = 1.0
"""Seconds that threads get to finish the item in hand when the crew stops early."""


def work_through(
    items: Iterable[T],
    work: Callable[[T], object],
    *,
    threads: int,
    finished: Callable[[T], object] = lambda item: None,
) -> None:
    """Call `work(item)` for every item on that many threads; `finished` on this one.

    Items are dealt through a queue, first come, first served. An exception in
    `work` stops the crew and is raised here. So does one that arrives here, as
    Ctrl-C does: each thread finishes its item and leaves. They are daemons, so
    an item that never ends cannot keep the process alive.
    """
    jobs: queue.SimpleQueue[T] = queue.SimpleQueue()
    results: queue.SimpleQueue[T | _Left] = queue.SimpleQueue()
    for item in items:
        jobs.put(item)
    stop = threading.Event()

    def body() -> None:
        try:
            while not stop.is_set():
                try:
                    item = jobs.get_nowait()
                except queue.Empty:
                    break
                work(item)
                results.put(item)
        except BaseException as error:  # raised again in the thread that waits
            results.put(_Left(error))
        else:
            results.put(_Left())

    crew = [threading.Thread(target=body, name=f"crew-{n}", daemon=True) for n in range(threads)]
    try:
        for thread in crew:
            _start(thread)
        left = len(crew)
        while left:
            result = results.get()
            if not isinstance(result, _Left):
                finished(result)
            elif result.error is not None:
                raise result.error
            else:
                left -= 1
    finally:
        stop.set()
        deadline = time.monotonic() + GRACE
        for thread in crew:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))


def _start(thread: threading.Thread) -> None:
    """thread.start(), in which an interrupt is an interrupt.

    Start waits for the thread with its lock let go. Where an interrupt comes then, Python without a
    GIL lets the lock go once more, and raises a RuntimeError over the interrupt.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
