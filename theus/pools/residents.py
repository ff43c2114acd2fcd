"""The workers of an InterpreterPool, and what they have to do.

All are in this process, so there is one box of tasks for all of them and one of answers for the
pool (csrc/core/mailbox.h). A worker takes the next task when it has done the last one: nothing is
sent ahead, nothing need be taken back, and a task can be cancelled until a worker takes it.

    submit ──▶ tasks ──▶ workers, each a thread in an interpreter of its own
    futures ◀── answers ◀──┘
       whoever waits for a result takes them from the box itself; else the watcher does

Who takes answers holds the *pump*, a lock, and attends the box meanwhile, so that nobody wakes the
watcher. Callbacks of futures run there, without any other lock. They may submit, close the pool,
raise anything, or wait for another future: then the same thread pumps once more, inside. So what
was taken from the box lies in `arrived` until it is delivered, and whoever pumps next finds it
there.

The main thread, where a signal handler may raise between any two instructions, delivers only what
is one step, a value that C can restore for a future that nobody else waits for, and leaves the rest
to the watcher: theus/pools/steps.py.

The lock is reentrant for the collector's sake: it may run wherever the lock is held, and end a pool
or an iterator of map() there. What these do then sets flags, boxes and bells.

Interpreters cannot be killed. A task that has to stop gets a KeyboardInterrupt, which Python code
sees at its next step; C code sees it when it comes back. The worker that does not come back in time
is *abandoned*: another one takes its place, and it ends when its task does. A process with living
interpreters cannot fork (its child would crash), so a fork ends all of them first, and waits for
what they run; they are started anew when there is a task.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from itertools import count
from time import monotonic
from typing import Any

from theus._theus import Mailbox, apart, bracket, encode, hide_arenas, on_error
from theus.errors import BrokenPoolError, ClosedError, TaskStoppedError, WorkerTimeoutError
from theus.helpers import get_logger
from theus.pools import wire
from theus.pools.base import PLAIN, Terms
from theus.pools.calls import reference, shown_name
from theus.pools.codec import decode_with, extend, seen
from theus.pools.letters import UNBORN, LetterFuture, Task, unpacked
from theus.pools.registry import at_exit, delist, enlist
from theus.pools.reports import log_here, restored_answer
from theus.pools.residence import Resident
from theus.pools.steps import has, in_main_thread, inside, undisturbed

__all__ = ["Residents"]

STARTS = 3
"""So many workers in a row that do not even start: the pool is broken."""
GRACE = 1.0
"""Seconds that a task has to end after its KeyboardInterrupt, before its worker is abandoned."""
FORK_PATIENCE = 5.0
"""Seconds that a fork waits for tasks before it interrupts them, and between two lines of the
log."""

logger = get_logger(__name__)


class Residents:
    """The workers of a pool and what they have to do. The watcher and the futures hold it, and the
    pool itself only from outside: so a pool that is dropped can end."""

    def __init__(
        self, name: str, size: int, setup: bytes, timeout: float | None, spin: float
    ) -> None:
        self.name = name
        self.size = size
        self.setup = setup
        self.timeout = timeout
        self.pid = os.getpid()
        self.numbers = count(1)
        self.workers = count(1)
        self.tasks = Mailbox(spin)
        self.answers = Mailbox(spin)
        self.open: dict[int, Task] = {}
        """Tasks without an answer, by number. Single operations on it need no lock."""

        self.cancelling: list[LetterFuture[Any]] = []
        """Those that somebody is just about to cancel."""

        self.lock = threading.RLock()
        self.locked = inside(self.lock)
        # Guarded by lock:
        self.members: list[Resident] = []
        self.abandoned: list[Resident] = []
        self.closing = False
        self.killed: float | None = None
        self.paused = self.resting = False
        """A fork is under way; there was one, and workers start when there is a task."""
        self.failure: BaseException | None = None
        self.failed_starts = 0
        self.died = 0
        self.wakes_at = float("inf")
        """When the watcher looks at the clock next."""
        self.next_due = float("inf")
        """No open task is due earlier; the one that was may be done."""
        self.to_interrupt: list[tuple[Resident, int]] = []
        """Workers and what they are at, for when the lock is let go."""

        self.pump = threading.RLock()
        self.pumping = partial(bracket, partial(self.pump.acquire, False), self.pump.release)
        self.attending = partial(bracket, self.answers.attend, self.answers.leave)
        # Guarded by pump:
        self.arrived: list[tuple[int, int, Any, Any]] = []
        """Letters that are not delivered yet."""
        self.done = 0
        self.ended = threading.Event()
        with self.lock:
            self.start_missing()
        self.thread = threading.Thread(target=self.watch, name=f"{name}-watcher", daemon=True)
        self.thread.start()
        enlist(self)

    @property
    def foreign(self) -> bool:
        return self.pid != os.getpid()

    # ---- tasks in -----------------------------------------------------------------------

    def submit(self, fn: Any, args: Any, kwargs: Any, terms: Terms = PLAIN) -> Future[Any]:
        shown, due, look = terms
        held: list[Any] = []
        buffers: list[Any] = []
        call = (reference(fn, False), args, kwargs)
        part = partial(extend, held, True) if look is None else partial(seen, look, held)
        body = encode(call, part, buffers, wire.LARGE)
        kind = wire.TENTATIVE if getattr(look, "careful", False) else wire.CALL
        future: LetterFuture[Any] = LetterFuture(self)
        task = Task(shown or fn, future, held, due)
        on_error(self.answers.ring, self.locked, self.post, task, kind, body, buffers)
        return future

    def post(self, task: Task, kind: int, body: bytes, buffers: list[Any]) -> None:
        """Caller holds the lock."""
        if self.closing or self.foreign:
            raise ClosedError("the pool")
        if self.failure is not None:
            raise self.failure
        future, due = task.future, task.due
        future.number = number = next(self.numbers)
        self.open[number] = task
        try:
            future.letter = self.tasks.post(kind, number, body, buffers)
        except BaseException:
            self.open.pop(number, None)  # it may have been answered already
            raise
        if len(self.members) < self.size:
            self.call_watcher(0.0)
        elif self.timeout is not None and self.wakes_at == float("inf"):
            self.call_watcher(monotonic() + self.timeout)
        if due is not None and due[0] < self.next_due:
            self.next_due = due[0]
            self.call_watcher(due[0])

    def figures(self) -> tuple[int, ...]:
        """For PoolStats. Caller holds the lock."""
        tasks = list(self.open.values())
        running = sum(task.future.letter.taken for task in tasks)
        alive = sum(member.thread.is_alive() for member in self.members)
        return alive, len(tasks) - running, running, self.done, self.died, 0

    def dropped(self, number: int) -> None:
        """That task was cancelled. Whoever pumps shall look at its future again."""
        self.open.pop(number, None)
        self.answers.ring()

    # ---- answers out ------------------------------------------------------------------------

    def wait_for(self, future: LetterFuture[Any], timeout: float | None) -> None:
        """Until the future is done, or the time has passed; takes answers, if nobody else does."""
        if self.foreign:
            raise ClosedError("the pool of the parent process")
        if has(self.lock):  # a signal handler came between two steps: others can go on from there
            apart(self.lock, self.wait_for, future, timeout)
            return
        end = None if timeout is None else monotonic() + timeout
        on_error(self.answers.ring, self.pump_until, future, end)
        if not future.over():
            future.sleep(None if end is None else end - monotonic())

    def pump_until(self, future: LetterFuture[Any], end: float | None) -> None:
        # In a callback, or a signal handler between two steps: nobody else can go on before us.
        inside = has(self.pump)
        plain = in_main_thread() and not inside
        self.attending(self.pumping, self.read_until, future, end, plain)
        if self.arrived or inside:  # for the watcher; for who is further out, and about to wait
            self.answers.ring()

    def read_until(self, future: LetterFuture[Any], end: float | None, plain: bool) -> None:
        """Caller holds the pump. `plain`: only what is one step."""
        while not future.over() and not self.ended.is_set():
            left = None if end is None else end - monotonic()
            if (left is not None and left <= 0) or not self.read(left, plain):
                break

    def read(self, timeout: float | None, plain: bool) -> bool:
        """Waits for answers, and delivers them. Caller holds the pump. False: there are some that
        are not plain, and left to the watcher."""
        if not self.arrived:
            self.answers.take(self.arrived, timeout)
        while True:
            try:
                letter = self.arrived[0]
            except IndexError:
                return True
            if plain and not self.deliver_plain(*letter):
                return False
            try:
                if not plain:
                    self.deliver(*letter)
            finally:
                # A callback may have pumped, and gone past it. It stays if an exception came
                # before its task had ended: then it is delivered once more.
                if self.arrived and self.arrived[0] is letter and letter[1] not in self.open:
                    del self.arrived[0]

    def deliver_plain(self, kind: int, number: int, body: Any, buffers: Any) -> bool:
        """False: it takes more than a step."""
        if kind != wire.VALUE or buffers or type(body) is not bytes:
            return False
        task = self.open.get(number)
        if task is None:  # it has ended otherwise
            return True
        if not task.future.fulfil(body) and not task.future.over():
            return False
        self.done += 1
        self.open.pop(number, None)
        return True

    def deliver(self, kind: int, number: int, body: Any, buffers: Any) -> None:
        task = self.open.get(number)
        if task is not None:
            # In this order: an exception of a signal handler may come between any two of these, and
            # then the letter is delivered once more.
            self.done += 1
            if not task.future.settle(*unpacked(kind, body, buffers)):
                self.done -= 1
            self.open.pop(number, None)
        elif kind == wire.LOG:
            log_here(body)
        elif kind == wire.READY:
            with self.lock:
                self.failed_starts = 0
        elif kind == wire.STILLBORN:
            self.broken(restored_answer(wire.ERROR, decode_with(body, True, buffers))[1])
        elif kind == UNBORN:
            with self.lock:
                self.failed_starts += 1
                hopeless = self.failed_starts >= STARTS
            if hopeless:
                self.broken(RuntimeError(bytes(body).decode("utf-8", "replace")))

    # ---- the watcher --------------------------------------------------------------------------

    def call_watcher(self, at: float) -> None:
        """The watcher shall look at the clock at that time."""
        self.locked(self.call_by, at)

    def call_by(self, at: float) -> None:
        """Caller holds the lock."""
        if at < self.wakes_at:
            self.answers.ring()  # first: the watcher waits for the lock before it looks
            self.wakes_at = at

    def watch(self) -> None:
        while True:
            with self.lock:
                pause = None if self.wakes_at == float("inf") else self.wakes_at - monotonic()
            self.answers.watch(pause)
            try:
                if self.pump.acquire(blocking=False):
                    try:
                        self.read(0, plain=False)
                    finally:
                        self.pump.release()
                if self.look_after():
                    break
            except BaseException:  # a callback's SystemExit, a filter of logging: not our end
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self.thread)))
                self.answers.ring()  # what had arrived with it is no longer in the box
        self.end()

    def look_after(self) -> bool:
        """What is due by the clock. True: all is done, and the pool ends."""
        for future in self.cancelling.copy():
            future.end_recalled()
        with self.lock:
            self.wakes_at = float("inf")
            now = monotonic()
            self.bury_the_dead()
            late = self.check_timeouts(now) + self.check_dues(now)
            if not self.paused:
                if self.closing:
                    self.tasks.hold() if self.killed is not None else self.tasks.drain()
                eager = not self.closing and not self.resting
                if self.failure is None and (eager or self.tasks.waiting):
                    self.start_missing()
        self.lost(late)
        self.interrupt_late()
        with self.lock:
            if not self.closing or self.paused or self.arrived or self.answers.waiting:
                return False
            if self.killed is not None and now > self.killed + GRACE:
                return True  # daemon threads: they end with their calls, or with the process
            if self.killed is not None:
                self.wakes_at = min(self.wakes_at, self.killed + GRACE)
            return not self.members

    def bury_the_dead(self) -> None:
        """Caller holds the lock."""
        for member in [m for m in self.members if not m.thread.is_alive()]:
            self.members.remove(member)
            if not self.closing and not self.paused:
                self.died += 1
            if member.failed is not None:
                self.failed_starts += 1
                if self.failed_starts >= STARTS:
                    self.broken(member.failed)
        self.abandoned = [m for m in self.abandoned if m.thread.is_alive()]
        # A thread says that it ends just before it does.
        if self.closing and self.members:
            self.wakes_at = min(self.wakes_at, monotonic() + 0.01)

    def start_missing(self) -> None:
        """Caller holds the lock."""
        try:
            while len(self.members) < self.size:
                member = Resident(self, next(self.workers))
                member.thread.start()
                self.members.append(member)
        except Exception as error:  # no memory, no thread
            self.broken(error)

    def check_timeouts(self, now: float) -> list[tuple[Task, BaseException]]:
        """Tasks whose time is up, and what becomes of their futures. Caller holds the lock."""
        found: list[tuple[Task, BaseException]] = []
        for member in list(self.members):
            current = member.worker.current()
            if current is None or current[0] != member.late:
                member.late = None
            if member.late is not None:
                due = member.late_since + GRACE
                if due <= now and self.killed is None and not self.paused:
                    self.abandon(member)
                    continue
            elif self.timeout is None or not self.open:
                continue
            elif current is None:
                due = now + self.timeout
            else:
                due = current[1] + self.timeout
                if due <= now:
                    task = self.open.pop(current[0], None)
                    if task is not None:
                        name = shown_name(task.fn)
                        found.append((task, WorkerTimeoutError(name, None, self.timeout)))
                    self.is_late(member, current[0])
                    due = now + GRACE
            self.wakes_at = min(self.wakes_at, due)
        return found

    def check_dues(self, now: float) -> list[tuple[Task, BaseException]]:
        """The same for tasks that have a time of their own. Caller holds the lock."""
        found: list[tuple[Task, BaseException]] = []
        if self.next_due <= now:
            self.next_due = float("inf")
            running = {}
            for member in self.members:
                current = member.worker.current()
                if current is not None:
                    running[current[0]] = member
            for number, task in list(self.open.items()):
                if task.due is None:
                    continue
                due, seconds = task.due
                if due <= now and number in running:
                    if self.open.pop(number, None) is not None:
                        name = shown_name(task.fn)
                        found.append((task, WorkerTimeoutError(name, None, seconds)))
                        self.is_late(running[number], number)
                        self.wakes_at = min(self.wakes_at, now + GRACE)
                else:  # if it should begin before its caller cancels it, it is seen soon after
                    self.next_due = min(self.next_due, max(due, now + 0.01))
        self.wakes_at = min(self.wakes_at, self.next_due)
        return found

    def is_late(self, member: Resident, number: int) -> None:
        """Caller holds the lock, and calls interrupt_late() without it."""
        member.late, member.late_since = number, monotonic()
        self.to_interrupt.append((member, number))

    def interrupt_late(self) -> None:
        with self.lock:
            late, self.to_interrupt = self.to_interrupt, []
        for member, number in late:
            member.interrupt(number)

    def abandon(self, member: Resident) -> None:
        """Caller holds the lock."""
        member.worker.retire()
        self.members.remove(member)
        self.abandoned.append(member)
        self.died += 1
        logger.warning(
            "%s is in a call that does not end when it is interrupted; another worker takes its "
            "place, and it ends when the call does",
            member.thread.name,
        )

    # ---- the end -----------------------------------------------------------------------------

    def broken(self, error: BaseException) -> None:
        """No worker can be started: everything that waits ends with that."""
        with self.lock:
            if self.failure is None:
                self.failure = BrokenPoolError(f"{type(error).__name__}: {error}")
                self.failure.__cause__ = error
            failure = self.failure
            self.tasks.empty()
            waiting = self.forget_open()
            self.call_watcher(0.0)
        self.lost((task, failure) for task in waiting)

    def lost(self, tasks: Iterable[tuple[Task, BaseException]]) -> None:
        """Ends tasks for which no answer comes any more. Without a lock: futures have callbacks.

        Who waits for one of them may sleep at the box, and looks at its future when that rings: a
        ring before the future is done, or the answer to an interrupt, it would sleep through.
        """
        settled = [task.future.settle(False, error) for task, error in tasks]
        if settled:
            self.answers.ring()

    def forget_open(self) -> list[Task]:
        """All open tasks, which have no letter any more, or whose answers nobody waits for."""
        found = []
        for number in list(self.open):
            task = self.open.pop(number, None)
            if task is not None:
                found.append(task)
        return found

    def close(self, cancel: bool) -> None:
        self.closing = True
        self.call_watcher(0.0)
        if cancel:
            undisturbed(not has(self.lock), self.cancel_unbegun)

    def cancel_unbegun(self) -> None:
        for task in list(self.open.values()):
            task.future.cancel()

    def kill(self, at_exit: bool = False) -> None:
        """No worker begins anything any more, Python code is interrupted, and all that is not done
        ends with ClosedError.

        `at_exit`: that is told to nobody. Only daemon threads still wait, and would print it.
        """
        undisturbed(not has(self.lock), self.kill_all, at_exit)

    def kill_all(self, at_exit: bool) -> None:
        with self.lock:
            self.closing = True
            self.killed = monotonic() if self.killed is None else self.killed
            if self.failure is None:
                self.failure = ClosedError("the pool")
            self.tasks.hold()
            self.tasks.empty()
            waiting = self.forget_open()
            for member in self.members:
                current = member.worker.current()
                if current is not None:
                    self.is_late(member, current[0])
            self.call_watcher(0.0)
        self.interrupt_late()
        if not at_exit:
            self.lost((task, ClosedError("the pool")) for task in waiting)

    def join_at_exit(self) -> None:
        """No interpreter may be in use when Python takes them down.

        What runs in C code cannot be stopped. Then a program that ends with an error or by Ctrl-C
        ends at once, as it would. One that ends otherwise waits, as it does for threads: nobody
        knows the status that it wants to leave with.
        """
        deadline = monotonic() + GRACE
        for member in [*self.members, *self.abandoned]:
            try:
                while member.thread.is_alive():
                    member.thread.join(0.02)
                    stuck = member.worker.current() is not None and monotonic() > deadline
                    error = getattr(sys, "last_exc", None)
                    if stuck and error is not None:
                        leave(error)
            except KeyboardInterrupt as error:
                leave(error)

    def end(self) -> None:
        self.ended.set()
        self.answers.ring()  # whoever pumps sees that it is over
        # A worker was lost with its answer: no memory.
        self.lost((task, ClosedError("the pool")) for task in self.forget_open())
        with self.lock:
            living = [*self.members, *self.abandoned]
        if not any(member.thread.is_alive() for member in living):
            delist(self)  # else a fork, and the end of the program, have to wait for them

    def join(self) -> None:
        """Waits for the end; not in a callback of a future or a signal handler for which the end
        would wait."""
        if threading.get_ident() != self.thread.ident and not has(self.pump) and not has(self.lock):
            self.thread.join()

    def discard(self) -> None:
        self.kill()
        self.join()

    # ---- forks -------------------------------------------------------------------------------

    def pause(self) -> None:
        """Before a fork: ends all interpreters. Waits for what they run, interrupts it if that
        takes long."""
        with self.lock:
            self.paused = True
            self.tasks.hold()
            living = [*self.members, *self.abandoned]
        begun, told, ctrl_c = monotonic(), False, False
        for member in living:
            while member.thread.is_alive():
                patience = begun + FORK_PATIENCE - monotonic()
                try:
                    if patience > 0 and not ctrl_c:
                        member.thread.join(patience)
                    elif not told:
                        told = True
                        self.interrupt_for_fork(living)
                        member.thread.join(GRACE)
                    else:
                        logger.warning(
                            "a fork waits for %s, which is in C code: a process with living "
                            "interpreters cannot fork",
                            member.thread.name,
                        )
                        member.thread.join(FORK_PATIENCE)
                except KeyboardInterrupt:  # an exception would not stop the fork
                    ctrl_c = True
        if ctrl_c:
            interrupt_main()  # so it comes afterwards

    def interrupt_for_fork(self, living: list[Resident]) -> None:
        for member in living:
            current = member.worker.current()
            if current is None:
                continue
            task = self.open.pop(current[0], None)  # before it can answer to the interrupt
            member.late, member.late_since = current[0], monotonic()
            member.interrupt(current[0])
            if task is not None:
                why = f"the process forks, and has waited for it for {FORK_PATIENCE:g} s"
                self.lost([(task, TaskStoppedError(shown_name(task.fn), why))])

    def resume(self) -> None:
        """After it, in the parent. Workers start when there is a task."""
        with self.lock:
            self.members.clear()
            self.abandoned.clear()
            self.paused, self.resting = False, True
            self.tasks.open()
            self.call_watcher(0.0)

    def forget(self) -> None:
        """In a forked child: nothing of this is ours."""
        self.members.clear()
        self.abandoned.clear()
        self.open.clear()
        self.ended.set()


def leave(error: BaseException) -> None:
    """Ends the process as an exception that nobody has caught does, without Python's own end."""
    atexit.unregister(at_exit)
    atexit._run_exitfuncs()
    hide_arenas()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or None
            stream.flush()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(1)
