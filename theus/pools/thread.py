"""ThreadPool: calls that run in other threads of this process.

    with ThreadPool(8) as pool:
        pages = list(pool.map(fetch, urls))

For calls that wait, or that spend their time in C code which lets other threads run; on a Python
without the GIL for any work. Functions and arguments are the caller's own objects, and results are
those of the function: nothing is copied or encoded, so what two threads change, they lock.

How it works: one queue, from which each worker takes its next task. Whoever changes what there is
to do puts a token into `wake`, and a worker that gets one looks: there is a task, or it is the end,
or nothing. So there may be too many tokens, but not too few.

Two may want to end the Future of a task that a worker runs: the worker, with the result, and
whoever gives the task up (the watcher, because it takes too long; `kill`). The crew's lock decides:
who is second finds `Member.since` or `Member.gone` changed, and leaves the Future alone. A worker
whose task was given up cannot be killed. It is interrupted, which ends Python code but no call that
waits in C; another worker takes its place, and it leaves as soon as it can. Interrupts are sent
only then, and in the lock, which a worker needs in order to leave: until then the number of its
thread is no other's.

In a forked child the pool is closed: it has no threads there, and waiting for one of its futures
raises ClosedError. At the end of the program tasks of a pool that nobody has shut down are
abandoned; a pool that nobody refers to any more ends as by shutdown(wait=False).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from theus._theus import apart, bracket, interrupt_thread, on_error
from theus.errors import (
    BrokenPoolError,
    ClosedError,
    TaskInterrupted,
    WorkerTimeoutError,
    _shown,
)
from theus.pools.base import Pool, PoolStats, checked_size
from theus.pools.calls import shown_name
from theus.pools.promise import PromisedFuture
from theus.pools.registry import arrange_for_the_end, enlist, is_forking
from theus.pools.steps import Gate, has, inside, undisturbed, whole

__all__ = ["ThreadPool"]

T = TypeVar("T")
Task = tuple["ThreadFuture[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]
POOLS = count(1)
IDLE = float("inf")
GRACE = 0.25
"""Seconds that interrupted workers have to end, before nobody waits for them any more."""


class ThreadPool(Pool):
    """A pool of worker threads.

    size            how many; default: the cores that this process may use
    initializer     called in each worker when it starts, with `initargs`; if it raises, the pool
                    is broken
    timeout         seconds that a task may run; then it ends with WorkerTimeoutError, its worker is
                    interrupted (TaskInterrupted is raised in it, once it runs Python code) and
                    replaced. Default: no limit

    Workers start with the pool, each in an empty context of context variables. See
    theus.pools.base for what becomes of tasks and workers.
    """

    crew: ThreadCrew

    def __init__(
        self,
        size: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        timeout: float | None = None,
    ) -> None:
        self.size = checked_size(size, initializer, initargs, timeout)
        arrange_for_the_end()
        make = partial(ThreadCrew, self.size, initializer, tuple(initargs), timeout)
        whole(partial(self._take, make), is_forking())

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Has fn(*args, **kwargs) called by a worker. Returns at once.

        Raises TypeError if that is no function, ClosedError after shutdown(), BrokenPoolError if
        no worker can be started.
        """
        return self.crew.submit(fn, args, kwargs)

    def stats(self) -> PoolStats:
        crew = self.crew
        figures: tuple[int, ...] = crew.locked(crew.figures)
        return PoolStats("threads", self.size, *figures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._finalizer.detach()
        if not self.crew.forgotten:
            self.crew.close(cancel_futures)
            if wait:
                self.crew.join()

    def kill(self) -> None:
        """Interrupts all workers. Unfinished tasks end with ClosedError, also those that go on."""
        self._finalizer.detach()
        if not self.crew.forgotten:
            self.crew.kill()
            self.crew.join(GRACE)

    def __repr__(self) -> str:
        figures = self.stats()
        return f"<ThreadPool: {figures.alive} of {self.size} workers, {figures.queued} tasks wait>"


class ThreadFuture(PromisedFuture[T]):
    """A Future that a forked child does not wait for: there, nobody works on it."""

    crew: ThreadCrew

    def wait(self, timeout: float | None) -> None:
        self.crew.wait_for(self, timeout)


class Member:
    """A worker, as its pool has it."""

    __slots__ = ("gone", "left", "since", "task", "thread")

    thread: threading.Thread

    def __init__(self) -> None:
        self.left = Gate()
        """Set by the thread, as the last thing it does with the pool."""
        self.task: Task | None = None
        """Until its Future is told how it ended. Only the thread itself writes it."""
        # Guarded by the crew's lock:
        self.since = IDLE
        """When the task began; IDLE as soon as it has ended."""
        self.gone = False
        """The task was given up, and this worker with it."""


class ThreadCrew:
    """The workers of a pool and what they have to do. Threads and futures hold it, and the pool
    itself only from outside: so a pool that is dropped can end. As the collector may do that
    anywhere, the lock is reentrant, and close() disturbs nobody who holds it."""

    def __init__(
        self,
        size: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        timeout: float | None,
    ) -> None:
        self.initializer = initializer
        self.initargs = initargs
        self.timeout = timeout
        self.label = f"theus-threads-{next(POOLS)}"
        self.numbers = count(1)
        self.forgotten = False
        """In a forked child."""
        self.over = threading.Event()
        """All workers have left, and nobody takes their places."""

        self.wake: SimpleQueue[None] = SimpleQueue()
        self.token = partial(self.wake.put, None)
        self.lock = threading.RLock()
        self.locked = inside(self.lock)
        # Guarded by lock:
        self.queue: deque[Task] = deque()
        self.members: list[Member] = []
        self.given_up: list[Member] = []
        """Those that are gone, and have not left yet."""
        self.closing = False
        self.failure: BaseException | None = None
        self.done = self.died = 0

        self.watcher: threading.Thread | None = None
        try:
            for _ in range(size):
                self.start_member()
            if timeout is not None:
                name = f"{self.label}-watcher"
                watcher = threading.Thread(
                    target=self.watch, args=(timeout,), name=name, daemon=True
                )
                watcher.start()
                self.watcher = watcher
        except BaseException:
            self.close(False)
            raise
        enlist(self)

    def start_member(self) -> None:
        member = Member()
        member.thread = threading.Thread(
            # Python may let threads inherit context variables: of transactions, for instance.
            target=Context().run,
            args=(self.work, member),
            name=f"{self.label}-{next(self.numbers)}",
            daemon=True,
        )
        with self.lock:
            self.members.append(member)
        try:
            member.thread.start()
        except BaseException:
            with self.lock:
                self.members.remove(member)
            raise

    # ---- tasks in ----------------------------------------------------------------------

    def submit(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        if not callable(fn):
            raise TypeError(f"fn is a function, not {_shown(fn)}")
        future: ThreadFuture[Any] = ThreadFuture(self)
        self.locked(self.add, (future, fn, args, kwargs))
        return future

    def add(self, task: Task) -> None:
        """Caller holds the lock."""
        if self.closing or self.forgotten:
            raise ClosedError("the pool")
        if self.failure is not None:
            raise self.failure
        # One step: or a handler might use up the token of another task, or of the end.
        bracket(partial(self.queue.append, task), self.token, bool)

    def wait_for(self, future: ThreadFuture[Any], timeout: float | None) -> None:
        """Until the future is done, or the time has passed."""
        if self.forgotten:
            raise ClosedError("the pool of the parent process")
        if has(self.lock):  # a signal handler came between two steps: others can go on from there
            apart(self.lock, future.sleep, timeout)
        else:
            future.sleep(timeout)

    def figures(self) -> tuple[int, ...]:
        """For PoolStats. Caller holds the lock."""
        alive = sum(not member.left.is_open for member in self.members)
        running = sum(member.since != IDLE for member in self.members)
        return alive, len(self.queue), running, self.done, self.died, 0

    def take_all(self) -> list[Task]:
        """Caller holds the lock."""
        waiting = list(self.queue)
        self.queue.clear()
        return waiting

    # ---- in a worker -------------------------------------------------------------------

    def work(self, member: Member) -> None:
        try:
            with contextlib.suppress(TaskInterrupted):  # too late for its task
                try:
                    if self.prepare():
                        while self.look(member):
                            pass
                finally:
                    if member.gone:
                        # Or it would come to what threading does with a thread that ends. It is
                        # taken, and not called off: CPython 3.11 goes on looking for one that was,
                        # in all threads and for ever, and with a profiler that is an endless loop.
                        # Again and again: it may come into the callback of a weak reference.
                        while True:
                            interrupt_thread(threading.get_ident(), TaskInterrupted)
        finally:
            with self.lock:
                member.left.open()
                if member.gone:
                    self.given_up.remove(member)
                self.see_whether_it_is_over()

    def prepare(self) -> bool:
        try:
            if self.initializer is not None:
                self.initializer(*self.initargs)
        except BaseException as error:  # SystemExit, too: without it, this is no worker
            self.broken(error)
            return False
        return True

    def look(self, member: Member) -> bool:
        """Waits for a token, unless there is something already, and does what there is to do.
        Whether there may be more."""
        with contextlib.suppress(Empty):
            # A signal handler may wait for a task before its token is there.
            self.wake.get(block=not self.queue)
        with self.lock:
            if not self.queue:
                if not self.closing and self.failure is None:
                    return True
                self.wake.put(None)  # the others shall see the end, too
                return False
            # Not a variable: this frame is one of those in the traceback of an error, which has to
            # lead to nothing that leads to the error, or both would stay.
            member.task = self.queue.popleft()
        return self.run(member, *member.task)

    def run(self, member: Member, future: Future[Any], fn: Any, args: Any, kwargs: Any) -> bool:
        """One task. Whether this worker may have more: not if it was given up meanwhile."""
        if not future.set_running_or_notify_cancel():
            member.task = None
            return True
        with self.lock:
            killed = self.failure
            if killed is None:
                member.since = monotonic()
        value = error = None
        try:
            if killed is None:
                value = fn(*args, **kwargs)
            else:
                error = killed
        except BaseException as raised:  # SystemExit, too: it is the caller who shall see it
            error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
        # Not by `with`: the interrupt of a task that has just ended would leave the lock held, see
        # steps.py. This is where it may come last.
        mine: bool = self.locked(self.has_ended, member)
        if mine:
            tell(future, value, error)
        member.task = None
        del future, error  # as above
        return mine

    def has_ended(self, member: Member) -> bool:
        """Whether its task is still the worker's to end: it was not given up. Caller holds the
        lock."""
        member.since = IDLE
        mine = not member.gone and not self.forgotten
        self.done += mine
        return mine

    # ---- tasks that are given up ----------------------------------------------------------

    def give_up(self, begun: float) -> list[Task]:
        """Takes their tasks from those workers that have begun by then, and dismisses these: from
        here on, only the caller ends the Futures. Caller holds the lock."""
        tasks = []
        for member in list(self.members):
            if member.since <= begun and member.task is not None:
                member.gone = True
                self.members.remove(member)
                self.given_up.append(member)
                tasks.append(member.task)
                # Not oneself, out of a task that kills its own pool: kill() has more to do.
                if member.thread is not threading.current_thread():
                    interrupt_thread(member.thread.ident or 0, TaskInterrupted)
        self.died += len(tasks)
        return tasks

    def watch(self, timeout: float) -> None:
        # Nothing that begins from now on is due earlier than the pause ends.
        pause = timeout
        while not self.over.wait(pause):
            with self.lock:
                now = monotonic()
                late = self.give_up(now - timeout)
                begun = min((member.since for member in self.members), default=IDLE)
                pause = min(begun, now) + timeout - now
            for future, fn, *_ in late:
                tell(future, None, WorkerTimeoutError(shown_name(fn), None, timeout))
            try:
                for _ in late:
                    self.start_member()
            except Exception as error:  # no memory, no more threads
                self.broken(error)

    def broken(self, error: BaseException) -> None:
        """There can be no workers: everything that waits ends with that."""
        with self.lock:
            if self.failure is None:
                self.failure = BrokenPoolError(f"{type(error).__name__}: {error}")
                self.failure.__cause__ = error
            waiting = self.take_all()
        self.wake.put(None)
        for future, *_ in waiting:
            if future.set_running_or_notify_cancel():
                tell(future, None, self.failure)

    # ---- the end ---------------------------------------------------------------------------

    def close(self, cancel: bool) -> None:
        if self.forgotten:
            return
        on_error(self.token, self.set_closing)
        if cancel:
            undisturbed(not has(self.lock), self.cancel_unbegun)

    def set_closing(self) -> None:
        self.closing = True
        self.token()

    def cancel_unbegun(self) -> None:
        with self.lock:
            waiting = self.take_all()
        for future, *_ in waiting:
            future.cancel()
            future.set_running_or_notify_cancel()

    def kill(self, at_exit: bool = False) -> None:
        """Workers are interrupted; what they had, and what waits, ends with ClosedError.

        `at_exit`: that is told to nobody. Only daemon threads still wait, and would print it.
        """
        undisturbed(not has(self.lock), self.kill_all, at_exit)

    def kill_all(self, at_exit: bool) -> None:
        with self.lock:
            self.closing = True
            if self.failure is None:
                self.failure = ClosedError("the pool")
            waiting = self.take_all()
            running = self.give_up(monotonic())
            self.see_whether_it_is_over()
        self.wake.put(None)
        if at_exit:
            return
        for future, *_ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ClosedError("the pool"))
        for future, *_ in running:
            future.set_exception(ClosedError("the pool"))

    def see_whether_it_is_over(self) -> None:
        """Caller holds the lock."""
        last = self.closing or self.failure is not None
        if last and all(member.left.is_open for member in self.members):
            self.over.set()

    def join(self, timeout: float | None = None) -> None:
        """Waits until all have left; with a limit, for those who are given up, too. Not in a task
        or a callback that shuts its own pool down: for that, the end would wait."""
        if has(self.lock):  # a signal handler came between two steps: they wait for this thread
            return
        here = threading.current_thread()
        end = None if timeout is None else monotonic() + timeout
        joined: set[Member] = set()
        while True:
            some = self.members + (self.given_up if end is not None else [])
            rest = [member for member in some if member not in joined]
            if here is self.watcher or any(member.thread is here for member in rest):
                return
            for member in rest:
                if member.left.wait(None if end is None else max(0.0, end - monotonic())):
                    member.thread.join()
                joined.add(member)
            if not rest:  # as long as there were any, the watcher may have added others
                break
        if self.watcher is not None and self.over.is_set():
            self.watcher.join()

    def pause(self) -> None:
        """Before a fork: threads do not mind it."""

    def resume(self) -> None:
        """After it."""

    def join_at_exit(self) -> None:
        self.join(GRACE)

    def discard(self) -> None:
        self.kill()
        self.join(GRACE)

    def forget(self) -> None:
        """In a forked child: there are no threads here."""
        self.forgotten = True
        self.members.clear()


def tell(future: Future[Any], value: Any, error: BaseException | None) -> None:
    """Ends a Future, in a thread of the pool: a callback's SystemExit is not the end of that."""
    try:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    except BaseException:
        about = (*sys.exc_info(), threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(about))
