"""Which worker of a ProcessPool gets which task, and when.

To an idle worker first. If all are busy, tasks are sent ahead to those whose last ones were short,
up to half a millisecond of work, so that no worker waits for a round trip. If one of them turns out
to be long after all and another worker is idle, what was not begun is taken back
(theus/pools/wire.py says why that is exact). What fits nowhere waits in the queue.

Everything here is guarded by the pool's lock.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from concurrent.futures._base import RUNNING
from time import monotonic
from typing import Any

from theus.pools import wire
from theus.pools.member import PACKETS, Member, Task
from theus.pools.pump import Pump

__all__ = ["Dispatcher"]

AHEAD = 0.0005
"""Seconds of work that may lie in the pipe of a busy worker."""
SHORT = 0.00005
"""Tasks of at most so many seconds share packets."""
PATIENCE = 0.002
"""Seconds after which a busy worker has to give what it has not begun to an idle one."""


class Dispatcher:
    """The tasks that wait, and the workers that they can go to."""

    def __init__(self, size: int, timeout: float | None, pump: Pump) -> None:
        self.size = size
        self.timeout = timeout
        self.timed = timeout is not None
        """Whether anybody looks at the clock: from the first task on that has its own time."""
        self.pump = pump
        self.queue: deque[Task] = deque()
        self.members: list[Member] = []
        self.recalled = 0

    def count_sent(self) -> int:
        """The tasks that workers have."""
        sent = 0
        for member in self.members:
            sent += len(member.sent)
        return sent

    def has_one_task(self) -> bool:
        return not self.queue and self.count_sent() == 1

    # ---- to workers ---------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """A new task goes to a worker, if one is free for it; else it waits."""
        if task.due is not None:
            self.timed = True
        if self.queue:
            self.queue.append(task)  # for what waits already there is no room
        elif not self.begin(task):
            self.queue.append(task)
            self.hand_out()

    def begin(self, task: Task) -> bool:
        member = self.free_member()
        if member is None:
            return False
        future = task.future
        future.mark(begun=True)  # first: whatever the collector runs in between may read the answer
        if not member.send([task]):
            future.mark(begun=False)
            return False
        if self.timed:
            self.pump.wake_by(self.next_due(member, monotonic()))
        return True

    def hand_out(self) -> None:
        """Gives tasks of the queue to workers."""
        queue = self.queue
        while queue:
            member = self.free_member()
            if member is None:
                return
            some = self.next_tasks(member)
            if not some:
                return  # all were cancelled, or somebody is just looking at the first
            if not member.send(some):
                queue.extendleft(reversed(some))  # its pipe is full; they are running already,
                if not member.sent:  # of what it has not read, nothing will be answered
                    self.pump.wake_by(monotonic() + PATIENCE)
                return  # and go to the next worker with room
            if self.timed:
                self.pump.wake_by(self.next_due(member, monotonic()))

    def free_member(self) -> Member | None:
        """The worker that has the least to do, if it may have more."""
        best: Member | None = None
        for member in self.members:
            if member.gone or member.late is not None or not member.open:
                continue
            if best is None or len(member.sent) < len(best.sent):
                best = member
        if best is None or not best.sent:
            return best
        room = len(best.packets) < PACKETS and len(best.sent) * best.pace < AHEAD
        return best if room else None

    def next_tasks(self, member: Member) -> list[Task]:
        """What goes into the next packet for a worker; cancelled ones fall out here."""
        most = 1
        if member.pace < SHORT:
            most = min(16, 1 + len(self.queue) // (2 * self.size))
        some: list[Task] = []
        size = 0
        while self.queue and len(some) < most:
            task = self.queue[0]
            size += len(task.frame)
            if some and size > wire.PACKET:
                break
            begun = task.future.begin() or self.begin_shown(task.future)
            if begun is None:
                self.pump.wake_by(monotonic() + PATIENCE)
                break
            self.queue.popleft()
            if begun:
                some.append(task)
            else:
                task.release()
        return some

    def begin_shown(self, future: Future[Any]) -> bool | None:
        """As set_running_or_notify_cancel(), but it waits for nobody, as we have the pool's lock:
        who holds a condition may want that, as soon as the collector ends an iterator of map()
        there. None: somebody holds it."""
        condition = future._condition
        if not condition.acquire(blocking=False):
            return None
        try:
            return future.set_running_or_notify_cancel()
        finally:
            condition.release()

    def answered(self, member: Member) -> None:
        """That worker has answered something: it can have more."""
        self.hand_out()
        if self.timed and member.sent:
            self.pump.wake_by(self.due_of(member.sent[0], member.since))
        if not self.queue:
            self.look_for_idle()

    def look_for_idle(self) -> None:
        """If one worker is idle while others have more than they can begin, the clock decides."""
        waiting = [m for m in self.members if len(m.sent) > 1]
        if waiting and any(not m.sent and not m.gone for m in self.members):
            self.pump.wake_by(min(m.since for m in waiting) + PATIENCE)

    # ---- by the clock -----------------------------------------------------------------------

    def look_after(self, now: float) -> None:
        """By the watcher: what is due, and when the next will be."""
        self.check_timeouts(now)
        self.take_back(now)
        self.try_again(now)

    def check_timeouts(self, now: float) -> None:
        for member in self.members if self.timed else ():
            if member.sent and member.ready and not member.gone and member.late is None:
                if self.due_of(member.sent[0], member.since) <= now:
                    member.late = member.sent[0]
                    member.kill()
                else:
                    self.pump.look_by(self.next_due(member, now))

    def due_of(self, task: Task, begun: float) -> float:
        due = float("inf") if self.timeout is None else begun + self.timeout
        return due if task.due is None else min(due, task.due[0])

    def next_due(self, member: Member, now: float) -> float:
        """When the clock has to be looked at for a worker: those behind the first task begin at
        the earliest now, and one that is late already is found when its turn comes."""
        first, *others = member.sent
        dues = [self.due_of(task, now) for task in others]
        return min([self.due_of(first, member.since), *(due for due in dues if due > now)])

    def take_back(self, now: float) -> None:
        idle = [m for m in self.members if not m.sent and not m.gone and m.ready]
        if self.queue or not idle:
            return
        for member in self.members:
            if len(member.sent) > 1 and not member.gone:
                if now < member.since + PATIENCE:
                    self.pump.look_by(member.since + PATIENCE)
                    continue
                member.pace = max(member.pace, now - member.since)
                back = member.recall()
                self.recalled += len(back)
                self.queue.extend(back)
        self.hand_out()

    def try_again(self, now: float) -> None:
        """An idle worker had its pipe full of what is no task; it is asked until it has room."""
        if self.queue and (member := self.free_member()) is not None and not member.sent:
            self.pump.look_by(now + PATIENCE)  # first: so no bell is rung for it
            self.hand_out()

    # ---- out of the queue -----------------------------------------------------------------

    def take_all(self) -> list[Task]:
        """All that wait."""
        waiting = list(self.queue)
        self.queue.clear()
        return waiting

    def take_unbegun(self) -> list[Task]:
        """Those that can be cancelled: one that was taken back is running to its caller."""
        # Not running(), which takes the condition. Whether they are changes under our lock alone.
        waiting = [task for task in self.queue if task.future._state != RUNNING]
        begun = [task for task in self.queue if task.future._state == RUNNING]
        self.queue.clear()
        self.queue.extend(begun)
        return waiting
