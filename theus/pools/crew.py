"""The workers of a ProcessPool, and what they have to do.

Who does what
-------------
`submit` encodes the call and hands it to a worker at once, in the caller's thread. Answers are
read by whoever pumps: a thread that waits for its result, or the pool's own, the *watcher*
(theus/pools/pump.py). What takes time, and what only the clock brings about (timeouts, tasks to
take back, workers to start or to bury), is the watcher's alone.

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

from theus._theus import recover_leases
from theus.errors import BrokenPoolError, ClosedError, WorkerDied, WorkerTimeoutError
from theus.pools import wire
from theus.pools.base import PLAIN, Terms
from theus.pools.calls import reference
from theus.pools.dispatch import Dispatcher
from theus.pools.member import Answer, Member, Task
from theus.pools.pump import PoolFuture, Pump, is_anybody_in
from theus.pools.registry import delist, enlist
from theus.pools.reports import log_here, unpacked
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
        self.pump = Pump()
        # Guarded by lock:
        self.dispatch = Dispatcher(size, timeout, self.pump)
        self.members = self.dispatch.members
        self.closing = False
        self.failure: BaseException | None = None
        self.by_descriptor: dict[int, Member] = {}
        self.failed_starts = 0
        self.done = self.died = self.reclaimed = 0

        # Guarded by the turn of the pump:
        self.arrived: deque[Answer] = deque()
        """What is not delivered yet: answers to tasks, and what workers say of themselves."""
        self.looks = 0
        """At an only worker, since all were asked."""
        self.reader: int | None = None
        """The thread that reads answers; its callbacks cannot wait for the end of the pool."""
        self.watcher = 0
        """The thread that is."""
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
        with self.lock:
            if self.closing or self.foreign or self.failure is not None:
                task.release()
                refused = self.failure
                raise ClosedError("the pool") if self.closing or refused is None else refused
            self.dispatch.add(task)
            pump = self.pump
            seen_to = pump.armed or pump.taken or self.dispatch.has_one_task()
        if not seen_to:  # without the lock: see Pump.switch
            pump.arm()
        return future

    # ---- answers out ------------------------------------------------------------------------

    def pump_for(self, future: PoolFuture[Any], timeout: float | None) -> float | None:
        """Reads answers until the future is done, if nobody else does. What is left of the time."""
        if self.foreign:
            raise ClosedError("the pool of the parent process")
        end = None if timeout is None else monotonic() + timeout
        if get_ident() == self.watcher:
            self.watch_for(future, end)
        elif (turn := self.pump.turn).acquire(blocking=False):
            # Ctrl-C in just this place leaves it taken: see Pump.free_abandoned().
            inside = self.pump.taken  # in a callback of somebody who pumps: this thread
            try:
                self.pump.take()
                while not (future.over() or self.over):
                    left = -1.0 if end is None else end - monotonic()
                    if end is not None and left <= 0:
                        break
                    self.read_answers(left)
            finally:
                self.pump.taken = inside
                turn.release()
                if not inside:
                    self.leave_to_watcher()
        return None if end is None else max(0.0, end - monotonic())

    def leave_to_watcher(self) -> None:
        """Who has let go of the turn sees to it that what is under way is read."""
        with self.lock:
            if self.arrived:
                self.pump.wake_by(0.0)  # these are not in any pipe: arming does not see them
            busy = self.dispatch.queue or self.dispatch.count_sent()
        if busy:
            self.pump.arm()

    def interrupt(self) -> None:
        """Whoever pumps shall look at its future again."""
        with self.lock:
            if not self.over and not self.foreign:
                self.pump.interrupt()

    def read_answers(self, timeout: float) -> None:
        """Waits for answers and delivers them, and buries who is gone. Caller has the turn."""
        before, self.reader = self.reader, get_ident()
        try:
            if self.arrived:  # of an outer round, or of one that was left by an exception
                self.deliver()
            else:
                self.read_ready(timeout)
        finally:
            self.reader = before

    def read_ready(self, timeout: float) -> None:
        if timeout != 0 and self.look_at_the_only_one():
            return
        # All before the first is read: a callback that waits may bury a worker, and then the one
        # that takes its place may have descriptors of the same numbers.
        there = self.by_descriptor
        found = [(fd, there[fd]) for fd in self.pump.ready(timeout) if fd in there]
        for fd, member in found:
            if fd == member.alarm:
                member.gone = True
        for fd, member in found:
            if fd != member.alarm:
                self.read_member(member)
        self.bury_the_dead()

    def look_at_the_only_one(self) -> bool:
        """If one worker alone has something to do: looking for its answer may be quicker than to be
        woken. Now and then the others have their turn, too."""
        busy = [member for member in self.members if member.sent]
        if len(busy) != 1 or self.looks >= 16:
            self.looks = 0
            return False
        self.looks += 1
        return self.read_member(busy[0], look=True)

    def read_member(self, member: Member, look: bool = False) -> bool:
        """Delivers what a worker has answered, and gives it more. False: there was nothing."""
        if member.line.reads < 0:  # buried by what a callback has waited for
            return False
        found = member.line.receive(look)
        answers = [it for it in found if it[0] in wire.ANSWERS]
        if len(found) > len(answers):
            said = (it for it in found if it[0] not in wire.ANSWERS)
            self.arrived.extend((member, None, kind, body) for kind, _, body in said)
        if answers:
            with self.lock:
                self.arrived += member.answered(answers)
                self.done += len(answers)
                self.dispatch.answered(member)
                if self.closing and not self.dispatch.queue:
                    self.pump.wake_by(0.0)
        self.deliver()
        return bool(found)

    def deliver(self) -> None:
        """In order. An answer stays until its future has ended: a signal handler may raise between
        any two instructions. A callback that pumps goes past it."""
        while self.arrived:
            first = self.arrived[0]
            member, task, kind, body = first
            if task is None:
                self.arrived.popleft()
                self.hear(member, kind, body)
                continue
            try:
                if not task.future.over():
                    self.deliver_one(member, task, kind, body)
            finally:
                if task.future.over() and self.arrived and self.arrived[0] is first:
                    self.arrived.popleft()

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
            # Not before: if a signal handler raises, the block is read once more.
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
                member.since = monotonic()  # what it was sent before begins now
                self.pump.wake_by(0.0)  # it may take over what others have too much of
        elif kind == wire.STILLBORN:
            self.broken(unpacked(wire.ERROR, body)[1])

    # ---- the watcher --------------------------------------------------------------------------

    def watch(self) -> None:
        self.watcher = get_ident()
        while not self.watch_once(float("inf")):
            pass
        self.end()

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
                self.read_answers(0)
            except BaseException:  # a callback's SystemExit, a filter of logging: not our end
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self.thread)))
            finally:
                turn.release()
            self.pump.arm()
        else:
            self.pump.free_abandoned(lambda: is_anybody_in(Crew.pump_for, self))
        return self.look_after()

    def look_after(self) -> bool:
        """What is due by the clock. True: all is done, and the pool ends."""
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
                        member.since = now
                    elif now > member.since + LAST_CALL:
                        member.kill()
                    self.pump.look_by(now + 0.25)
                if not self.members and not self.arrived:
                    return True
        if missing and needed:
            self.start_missing()
        return False

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
            while self.read_member(member):
                pass  # all that it has said
            with self.lock:
                if member not in self.members:
                    continue  # what its last answers have called has come here, too
                self.members.remove(member)
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
        if culprit is not None:
            culprit.deaths += 1
            name = culprit.name
            if member.late is culprit:
                culprit.release()
                given = self.timeout if culprit.due is None else culprit.due[1]
                error: Exception = WorkerTimeoutError(name, member.pid, given or 0.0)
                culprit.future.set_exception(error)
            elif self.failure is not None or (self.retry and culprit.deaths < 2):
                again.insert(0, culprit)
            else:
                culprit.release()
                died = WorkerDied(name, member.pid, signal, status, culprit.deaths)
                culprit.future.set_exception(died)
        with self.lock:
            if self.failure is None:
                self.dispatch.queue.extendleft(reversed(again))
                again = []
                self.dispatch.hand_out()
        for task in again:
            task.release()
            task.future.set_exception(self.failure)

    def broken(self, error: BaseException) -> None:
        """No worker can be started: everything that waits ends with that."""
        with self.lock:
            if self.failure is None:
                self.failure = BrokenPoolError(f"{type(error).__name__}: {error}")
                self.failure.__cause__ = error
            waiting = self.dispatch.take_all()
            self.pump.wake_by(0.0)
            self.kill_members()
        for task in waiting:
            task.release()
            if Future.running(task.future) or task.future.set_running_or_notify_cancel():
                task.future.set_exception(self.failure)
        self.interrupt()  # last: whoever pumps looks at its future once, and sleeps on

    # ---- the end -----------------------------------------------------------------------------

    def close(self, cancel: bool) -> None:
        with self.lock:
            self.closing = True
            waiting = self.dispatch.take_unbegun() if cancel else []
            if not self.over:
                self.pump.wake_by(0.0)
        for task in waiting:
            task.release()
            task.future.cancel()
            task.future.set_running_or_notify_cancel()

    def kill(self, at_exit: bool = False) -> None:
        """Workers die now; what they had, and what waits, ends with ClosedError.

        `at_exit`: that is told to nobody. Only daemon threads still wait, and would print it.
        """
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
        for task in waiting:
            task.release()
            if at_exit:
                continue
            if Future.running(task.future) or task.future.set_running_or_notify_cancel():
                task.future.set_exception(ClosedError("the pool"))

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
        """Waits for the end; not in a callback of a future, for which the end would wait."""
        if get_ident() not in (self.reader, self.thread.ident):
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
