"""The workers of a ProcessPool, and what they have to do.

Who does what
-------------
`submit` encodes the call and hands it to a worker at once, in the caller's thread. Answers are
read by whoever pumps: a thread that waits for its result, or the pool's own, the *watcher*
(theus/pools/pump.py). What takes time, and what only the clock brings about (timeouts, tasks to
take back, workers to start or to bury), is the watcher's alone.

The main thread, where a signal handler may raise between any two instructions, pumps as long as
what comes is plain: a value that C can restore, for a future that nobody else waits for. There each
step is one call of C (theus/pools/steps.py): from the queue to a worker, from the pipe to what has
arrived, from there to the future. At anything else it lets go of the turn, rings, and waits as for
any future; the watcher finds the rest in `arrived`.

Callbacks of futures run in whoever pumps, without the lock. They may submit, close the pool, raise
anything, or wait for another future: then the same thread pumps once more, inside; the watcher also
goes on with its other duties there, as the task may need a worker that has still to be started. So
what was read and is not delivered yet lies in `arrived`, where the next one who pumps finds it.

The lock is reentrant for the collector's sake: it may run in any thread at any moment, also where
the lock is held, and end a pool or an iterator of map() there. What these do then (`close`,
`interrupt`) sets flags and rings bells, and disturbs nobody who is in the middle of something.

Which worker gets which task, and when, is for the dispatcher to say (theus/pools/dispatch.py).
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from concurrent.futures import Future
from itertools import count
from signal import SIGKILL
from threading import get_ident
from time import monotonic
from typing import Any

from theus._theus import apart, drop_first, on_error, recover_leases
from theus.errors import BrokenPoolError, ClosedError, WorkerDied, WorkerTimeoutError
from theus.pools import wire
from theus.pools.base import PLAIN, Terms
from theus.pools.calls import reference
from theus.pools.dispatch import Dispatcher
from theus.pools.member import Answer, Member, Task
from theus.pools.pump import PoolFuture, Pump
from theus.pools.registry import delist, enlist
from theus.pools.reports import log_here, unpacked
from theus.pools.steps import Gate, has, inside, undisturbed
from theus.pools.worker import Setup

__all__ = ["Crew"]

LAST_CALL = 5.0
"""Seconds that a worker that is told to end has for it, when it has nothing to do."""
STARTS = 3
"""So many workers in a row that do not even start: the pool is broken. Those that somebody kills
do not count: the next one may live."""


class Crew:
    """The workers of a pool and what they have to do. The watcher and the futures hold it, and the
    pool itself only from outside: so a pool that is dropped can end."""

    def __init__(self, size: int, context: Any, setup: Setup, timeout: float | None, retry: bool):
        self.size = size
        self.context = context
        self.by_fork = context.get_start_method() == "fork"
        self.setup = setup
        self.timeout = timeout
        self.retry = retry
        self.numbers = count(1)
        self.shelf = wire.Shelf(setup.name)
        self.foreign = False
        """This is a forked child, and nothing of it ours."""

        self.lock = threading.RLock()
        self.locked = inside(self.lock)
        self.pump = Pump()
        # Guarded by lock:
        self.dispatch = Dispatcher(size, timeout, self.pump)
        self.members = self.dispatch.members
        self.closing = False
        self.failure: BaseException | None = None
        self.by_descriptor: dict[int, Member] = {}
        self.failed_starts = 0
        self.burials = 0
        """Of workers that are under way: their tasks may come back."""
        self.done = 0
        """By workers that are gone."""
        self.died = self.reclaimed = 0

        # Guarded by the turn of the pump:
        self.arrived: deque[Answer] = deque()
        """What is not delivered yet: answers to tasks, and what workers say of themselves."""
        self.looks = 0
        """At an only worker, since all were asked."""
        self.main = threading.main_thread().ident
        self.watcher = 0
        """The thread that is."""
        self.ended = Gate()
        self.over = False
        try:
            for _ in range(size):
                self.start_member()
        except BaseException:
            self.kill_members()
            for member in self.members:
                member.bury()
            self.pump.close()
            raise
        self.thread = threading.Thread(target=self.watch, name=f"{setup.name}-watcher", daemon=True)
        self.thread.start()
        enlist(self)

    # ---- tasks in -----------------------------------------------------------------------

    def submit(self, fn: Any, args: Any, kwargs: Any, terms: Terms = PLAIN) -> Future[Any]:
        held: list[Any] = []
        number = next(self.numbers)
        call = (reference(fn, self.by_fork), args, kwargs)
        frame, blocks = wire.pack(wire.CALL, number, call, wire.PACKET, self.shelf, held)
        future: PoolFuture[Any] = PoolFuture(self)
        task = Task(number, terms.shown or fn, future, frame, blocks, held, terms.due)
        on_error(self.pump.ring, self.take_in, task)
        return future

    def take_in(self, task: Task) -> None:
        if not self.locked(self.add, task):  # without the lock: see Pump.switch
            self.pump.arm()

    def add(self, task: Task) -> bool:
        """Whether somebody will read its answer. Caller holds the lock."""
        if self.closing or self.foreign or self.failure is not None:
            task.release()
            refused = self.failure
            raise ClosedError("the pool") if self.closing or refused is None else refused
        self.dispatch.add(task)
        return self.pump.armed or self.pump.taken or self.dispatch.has_one_task()

    def figures(self) -> tuple[int, ...]:
        """For PoolStats. Caller holds the lock."""
        alive = sum(not member.gone for member in self.members)
        queued, running = len(self.dispatch.queue), self.dispatch.count_sent()
        done = self.done + sum(member.line.answered for member in self.members)
        return alive, queued, running, done, self.died, self.dispatch.recalled, self.reclaimed

    # ---- answers out ------------------------------------------------------------------------

    def wait_for(self, future: PoolFuture[Any], timeout: float | None) -> None:
        """Until the future is done, or the time has passed; reads answers, if nobody else does."""
        if self.foreign:
            raise ClosedError("the pool of the parent process")
        for lock in (self.lock, self.pump.switch):
            if has(lock):  # a signal handler came between two steps: others can go on from there
                apart(lock, self.wait_for, future, timeout)
                return
        end = None if timeout is None else monotonic() + timeout
        if get_ident() == self.watcher:
            self.watch_for(future, end)
        else:
            on_error(self.pump.ring, self.pump_until, future, end)
        if not future.over():
            future.sleep(None if end is None else end - monotonic())

    def pump_until(self, future: PoolFuture[Any], end: float | None) -> None:
        # In a callback of somebody who pumps, or a signal handler that has come into the middle of
        # something: nobody else can go on before this thread does.
        inside = has(self.pump.turn)
        plain = get_ident() == self.main and not inside
        done = self.pump.in_turn(self.read_until, future, end, plain, inside)
        if done is NotImplemented:
            return
        if inside:
            self.pump.interrupt()  # it may have looked at its future just before, and waits now
            return
        # Who has let go of the turn sees to it that what is under way is read.
        if self.locked(self.leave_to_watcher, done):
            self.pump.arm()

    def leave_to_watcher(self, done: bool) -> bool:
        """Whether anything is under way. Caller holds the lock."""
        if not done and not self.over:
            self.pump.ring()
        return self.dispatch.has_tasks()

    def read_until(
        self, future: PoolFuture[Any], end: float | None, plain: bool, inside: bool
    ) -> bool:
        """With the turn. False: what has arrived and is not delivered is in no pipe, where arming
        would see it; or the watcher has to bury somebody. `plain`: only what is one step."""
        self.pump.take()
        try:
            while not (future.over() or self.over):
                left = -1.0 if end is None else end - monotonic()
                if end is not None and left <= 0:
                    break
                if not self.read_answers(left, plain):
                    return False
        finally:
            self.pump.taken = inside
        return not self.arrived

    def interrupt(self) -> None:
        """Whoever pumps shall look at its future again."""
        self.locked(self.call)

    def call(self) -> None:
        """Caller holds the lock."""
        if not self.over and not self.foreign:
            self.pump.interrupt()

    def read_answers(self, timeout: float, plain: bool) -> bool:
        """Waits for answers and delivers them, and buries who is gone. Caller has the turn. False:
        there is something that is not plain, and left to the watcher."""
        if self.arrived:  # of an outer round, or of one that was left by an exception
            return self.deliver(plain)
        if timeout != 0 and (member := self.only_busy_one()) is not None and member.line.look():
            return self.read_member(member, plain)
        # All before the first is read: a callback that waits may bury a worker, and then the one
        # that takes its place may have descriptors of the same numbers.
        there = self.by_descriptor
        found = [(fd, there[fd]) for fd in self.pump.ready(timeout) if fd in there]
        dead = [member for fd, member in found if fd == member.alarm]
        if dead and plain:
            return False
        for member in dead:
            member.gone = True
        for fd, member in found:
            if fd != member.alarm and not self.read_member(member, plain):
                return False
        if not plain:
            self.bury_the_dead()
        return True

    def only_busy_one(self) -> Member | None:
        """If one worker alone has something to do: looking for its answer may be quicker than to be
        woken. Now and then the others have their turn, too."""
        busy = [member for member in self.members if member.sent]
        if len(busy) != 1 or self.looks >= 16 or busy[0].line.reads < 0:
            self.looks = 0
            return None
        self.looks += 1
        return busy[0]

    def read_member(self, member: Member, plain: bool) -> bool:
        """Takes what a worker has said, gives it more, and delivers that. False: as above."""
        self.locked(self.collect, member)
        return self.deliver(plain)

    def collect(self, member: Member) -> int:
        """How many frames have arrived. Caller holds the lock and has the turn."""
        line = member.line
        if line.reads < 0:  # buried by what a callback has waited for
            return 0
        before = line.answered
        found = line.collect(member, member.sent, member.packets, self.arrived)
        if line.answered != before:
            self.dispatch.answered(member)
            if self.closing and not self.dispatch.queue:
                self.pump.wake_by(0.0)
        return found

    def deliver(self, plain: bool) -> bool:
        """In order. An answer stays until its future has ended: a signal handler may raise between
        any two instructions. A callback that pumps goes past it. False: as above."""
        while True:
            try:
                first = self.arrived[0]
            except IndexError:
                return True
            member, task, kind, body = first
            if plain:
                if task is None or not task.fulfil(kind, body):
                    return False
                drop_first(self.arrived, first)
            elif task is None:
                self.arrived.popleft()
                self.hear(member, kind, body)
            else:
                try:
                    if not task.future.over():
                        self.deliver_one(member, task, kind, body)
                finally:
                    if task.future.over():
                        drop_first(self.arrived, first)

    def deliver_one(self, member: Member, task: Task, kind: int, body: bytes) -> None:
        good, found = unpacked(kind, body)
        if task.blocks or task.held:
            task.release()
        try:
            if good:
                task.future.set_result(found)
            else:
                task.future.set_exception(found)
        finally:
            # Not before: the value may lie in the block that the worker gets back.
            if kind in wire.INLINE and task.future.over():
                with self.lock:
                    member.owed.append(task.number)
                    member.give_back()

    def hear(self, member: Member, kind: int, body: bytes) -> None:
        """What a worker says of itself."""
        if kind == wire.LOG:
            log_here(body)
        elif kind == wire.READY:
            with self.lock:
                self.failed_starts = 0
                member.ready = True
                member.line.since = monotonic()  # what it was sent before begins now
                self.pump.wake_by(0.0)  # it may take over what others have too much of
        elif kind == wire.STILLBORN:
            self.broken(unpacked(wire.ERROR, body)[1])

    # ---- the watcher --------------------------------------------------------------------------

    def watch(self) -> None:
        self.watcher = get_ident()
        try:
            while not self.watch_once(float("inf")):
                pass
            self.end()
        finally:
            self.ended.open()

    def watch_for(self, future: PoolFuture[Any], end: float | None) -> None:
        """A callback, called by the watcher, waits: the watcher goes on, inside."""
        until = float("inf") if end is None else end
        while not future.over() and monotonic() < until:
            if self.watch_once(until):
                break

    def watch_once(self, until: float) -> bool:
        """Waits for what comes first, and looks after everything. True: all is done."""
        with self.lock:
            pause = max(0.0, min(self.pump.wakes_at, until) - monotonic())
        self.pump.sleep(pause)
        if (turn := self.pump.turn).acquire(blocking=False):
            try:
                self.pump.taken = False
                self.read_answers(0, plain=False)
            except BaseException:  # a callback's SystemExit, a filter of logging: not our end
                self.report()
            finally:
                turn.release()
            self.pump.arm()
        return self.look_after()

    def report(self) -> None:
        """What a callback has raised, and nobody is there to catch."""
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self.thread)))

    def look_after(self) -> bool:
        """What is due by the clock. True: all is done, and the pool ends."""
        self.tell_cancelled()
        with self.lock:
            # A callback has raised: what came together with its answer is in no pipe any more.
            left = self.arrived and not self.pump.taken
            self.pump.wakes_at = 0.0 if left else float("inf")
            now = monotonic()
            self.dispatch.look_after(now)
            missing = self.size - len(self.members)
            needed = self.failure is None and (not self.closing or bool(self.dispatch.queue))
            # All together: a task may come back from a worker that dies, or has too many.
            if self.closing and not self.dispatch.queue and not self.dispatch.count_sent():
                for member in self.members:
                    if member.open:
                        member.dismiss()
                        member.line.since = now
                    elif now > member.line.since + LAST_CALL:
                        member.kill()
                    self.pump.look_by(now + 0.25)
                if not self.members and not self.has_more_to_say():
                    return True
        if missing and needed:
            self.start_missing()
        return False

    def tell_cancelled(self) -> None:
        """Without the lock: who is told runs code of anybody."""
        cancelled = self.dispatch.cancelled
        while cancelled:
            task = cancelled.popleft()
            task.release()
            try:
                task.future.set_running_or_notify_cancel()
            except BaseException:
                self.report()

    def has_more_to_say(self) -> bool:
        """Some tasks have ended, or will, and nobody was told. Caller holds the lock."""
        return bool(self.arrived or self.burials or self.dispatch.cancelled)

    def start_missing(self) -> None:
        try:
            for _ in range(self.size - len(self.members)):
                self.start_member()
        except Exception as error:  # no memory, no descriptors, no process
            self.broken(error)
        else:
            with self.lock:
                self.dispatch.hand_out()

    def start_member(self) -> None:
        member = Member(self.context, self.setup, self.by_fork)
        with self.lock:
            self.members.append(member)
            self.by_descriptor[member.answers] = member
            self.pump.add(member.answers)
            if member.alarm >= 0:
                self.by_descriptor[member.alarm] = member
                self.pump.add(member.alarm, alarm=True)
            else:
                member.gone = True
                self.pump.wake_by(0.0)

    # ---- deaths ----------------------------------------------------------------------------------

    def bury_the_dead(self) -> None:
        """Caller has the turn."""
        for member in [m for m in self.members if m.gone]:
            while self.locked(self.collect, member):
                self.deliver(plain=False)  # all that it has said
            with self.lock:
                if member not in self.members:
                    continue  # what its last answers have called has come here, too
                self.members.remove(member)
                self.burials += 1
                self.done += member.line.answered
                back = member.recall()
                lost = list(member.sent)
                member.sent.clear()
                for fd in (member.answers, member.alarm):
                    if self.by_descriptor.pop(fd, None) is not None:
                        self.pump.remove(fd, alarm=fd == member.alarm)
                self.pump.wake_by(0.0)
            expected = not member.open and not lost
            signal, status = member.bury()
            # Else they would stay until memory is short, and what it looked at could not be freed.
            leases = recover_leases()
            with self.lock:
                self.died += not expected
                self.reclaimed += leases
                if not member.ready and not expected and signal != SIGKILL:
                    self.failed_starts += 1
            if self.failed_starts >= STARTS and self.failure is None:
                how = f"signal {signal}" if signal is not None else f"status {status}"
                self.broken(RuntimeError(f"the last of {STARTS} workers left with {how}"))
            self.mourn(member, lost, back, signal, status)

    def mourn(
        self,
        member: Member,
        lost: list[Task],
        back: list[Task],
        signal: int | None,
        status: int | None,
    ) -> None:
        """The tasks of a dead worker: the first was running, the others were not begun."""
        culprit = lost[0] if lost else None
        again = lost[1:] + back
        error: Exception | None = None
        if culprit is not None:
            culprit.deaths += 1
            if member.late is culprit:
                given = self.timeout if culprit.due is None else culprit.due[1]
                error = WorkerTimeoutError(culprit.name, member.pid, given or 0.0)
            elif self.failure is not None or (self.retry and culprit.deaths < 2):
                again.insert(0, culprit)
            else:
                error = WorkerDied(culprit.name, member.pid, signal, status, culprit.deaths)
        with self.lock:
            self.burials -= 1
            if self.failure is None:
                self.dispatch.queue.extendleft(reversed(again))
                again = []
                self.dispatch.hand_out()
            if not self.over:
                self.pump.wake_by(0.0)
        if culprit is not None and error is not None:
            self.end_with([culprit], error)
        self.end_with(again, self.failure)

    def end_with(self, tasks: list[Task], error: BaseException | None) -> None:
        """Ends tasks that nobody answers any more; each, whatever the callbacks of others raise."""
        for task in tasks:
            task.release()
            try:
                if task.future.set_running_or_notify_cancel():
                    task.future.set_exception(error)
            except BaseException:
                self.report()

    def broken(self, error: BaseException) -> None:
        """No worker can be started: everything that waits ends with that."""
        with self.lock:
            if self.failure is None:
                self.failure = BrokenPoolError(f"{type(error).__name__}: {error}")
                self.failure.__cause__ = error
            waiting = self.dispatch.take_all()
            self.pump.wake_by(0.0)
            self.kill_members()
        self.end_with(waiting, self.failure)
        self.interrupt()  # last: whoever pumps looks at its future once, and sleeps on

    # ---- the end -----------------------------------------------------------------------------

    def close(self, cancel: bool) -> None:
        self.locked(self.set_closing)
        if cancel:
            undisturbed(not self.is_inside(), self.cancel_unbegun)

    def set_closing(self) -> None:
        """Caller holds the lock."""
        self.closing = True
        if not self.over:
            self.pump.wake_by(0.0)

    def cancel_unbegun(self) -> None:
        with self.lock:
            waiting = self.dispatch.take_unbegun()
        for task in waiting:
            task.release()
            try:
                task.future.cancel()
                task.future.set_running_or_notify_cancel()
            except BaseException:
                self.report()

    def kill(self, at_exit: bool = False) -> None:
        """Workers die now; what they had, and what waits, ends with ClosedError.

        `at_exit`: that is told to nobody. Only daemon threads still wait, and would print it.
        """
        undisturbed(not self.is_inside(), self.kill_all, at_exit)

    def kill_all(self, at_exit: bool) -> None:
        with self.lock:
            self.closing = True
            if self.failure is None:
                self.failure = ClosedError("the pool")
            waiting = self.dispatch.take_all()
            self.kill_members()
            for member in self.members:
                waiting += member.sent
                member.sent.clear()
                member.packets.clear()
            if not self.over:
                self.pump.wake_by(0.0)
        if at_exit:
            for task in waiting:
                task.release()
        else:
            self.end_with(waiting, ClosedError("the pool"))

    def is_inside(self) -> bool:
        """A signal handler has come to where this thread holds what others may have to wait for."""
        return has(self.lock) or has(self.pump.switch)

    def kill_members(self) -> None:
        for member in self.members:
            member.kill()

    def end(self) -> None:
        self.over = True
        self.pump.interrupt()  # whoever pumps sees that
        # With the lock, too: nobody rings a bell whose number is already another file's.
        with self.pump.turn, self.pump.switch, self.lock:
            self.pump.close()
            self.shelf = wire.Shelf(self.setup.name)  # its memory goes
        delist(self)

    def join(self) -> None:
        """Waits for the end; not in a callback of a future or a signal handler for which the end
        would wait."""
        if get_ident() != self.watcher and not has(self.pump.turn) and not self.is_inside():
            self.ended.wait()
            self.thread.join()

    def join_at_exit(self) -> None:
        self.thread.join(2.0)

    def pause(self) -> None:
        """Before a fork: processes do not mind it."""

    def resume(self) -> None:
        """After it."""

    def forget(self) -> None:
        """In a forked child: nothing of this is ours."""
        self.foreign = True
        for member in self.members:
            member.close()
            member.gone = True
        self.members.clear()
        if not self.over:
            self.over = True
            self.pump.shut()
