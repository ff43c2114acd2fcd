"""Which worker of a ProcessPool gets which task, and when.

To an idle worker first. If all are busy, tasks are sent ahead to those whose last ones were short,
up to half a millisecond of work, so that no worker waits for a round trip. If one of them turns out
to be long after all and another worker is idle, what was not begun is taken back
(theus/pools/wire.py says why that is exact). What fits nowhere waits in the queue.

Everything here is guarded by the pool's lock.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures._base import RUNNING
from time import monotonic

from theus._theus import drop_first
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
        self.cancelled: deque[Task] = deque()
        """Those that have fallen out of the queue, and that nobody was told of."""
        self.recalled = 0

    def count_sent(self) -> int:
        """The tasks that workers have."""
        sent = 0
        for member in self.members:
            sent += len(member.sent)
        return sent

    def has_tasks(self) -> bool:
        return bool(self.queue) or self.count_sent() > 0

    def has_one_task(self) -> bool:
        return not self.queue and self.count_sent() == 1

    # ---- to workers ---------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """A new task goes to a worker, if one is free for it; else it waits."""
        if task.due is not None:
            self.timed = True
        self.queue.append(task)
        # Else for what waits already there is no room; but a signal handler may have come to where
        # it was about to be handed out.
        if len(self.queue) == 1 or self.has_idle():
            self.hand_out()

    def has_idle(self) -> bool:
        for member in self.members:
            if not member.sent:
                return True
        return False

    def hand_out(self) -> None:
        """Gives tasks of the queue to workers."""
        queue = self.queue
        while queue:
            member = self.free_member()
            if member is None:
                return
            if member.owed:
                member.give_back()
            most = self.most_at_once(member)
            sent = member.line.post(queue, most, member.sent, member.packets)
            if sent < 0:
                self.drop_cancelled()
            elif sent == 0:  # its pipe is full; they are running already,
                if not member.sent:  # of what it has not read, nothing will be answered
                    self.pump.wake_by(monotonic() + PATIENCE)
                return  # and go to the next worker with room
            elif self.timed:
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
        room = len(best.packets) < PACKETS and len(best.sent) * best.line.pace < AHEAD
        return best if room else None

    def most_at_once(self, member: Member) -> int:
        """How many tasks the next packet for a worker may hold."""
        if member.line.pace < SHORT:
            return min(16, 1 + len(self.queue) // (2 * self.size))
        return 1

    def drop_cancelled(self) -> None:
        """The first task did not begin: it was cancelled, and falls out."""
        with contextlib.suppress(IndexError):
            task = self.queue[0]
            if not task.future.begin():  # else somebody has been quicker
                self.cancelled.append(task)
                drop_first(self.queue, task)
                self.pump.wake_by(0.0)

    def answered(self, member: Member) -> None:
        """That worker has answered something: it can have more."""
        self.hand_out()
        if self.timed and member.sent:
            self.pump.wake_by(self.due_of(member.sent[0], member.line.since))
        if not self.queue:
            self.look_for_idle()

    def look_for_idle(self) -> None:
        """If one worker is idle while others have more than they can begin, the clock decides."""
        waiting = [m for m in self.members if len(m.sent) > 1]
        if waiting and any(not m.sent and not m.gone for m in self.members):
            self.pump.wake_by(min(m.line.since for m in waiting) + PATIENCE)

    # ---- by the clock -----------------------------------------------------------------------

    def look_after(self, now: float) -> None:
        """By the watcher: what is due, and when the next will be."""
        self.check_timeouts(now)
        self.take_back(now)
        self.try_again(now)

    def check_timeouts(self, now: float) -> None:
        for member in self.members if self.timed else ():
            if member.sent and member.ready and not member.gone and member.late is None:
                if self.due_of(member.sent[0], member.line.since) <= now:
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
        if not member.sent:  # a signal handler has waited until it was through
            return float("inf")
        first, *others = member.sent
        dues = [self.due_of(task, now) for task in others]
        return min([self.due_of(first, member.line.since), *(due for due in dues if due > now)])

    def take_back(self, now: float) -> None:
        idle = [m for m in self.members if not m.sent and not m.gone and m.ready]
        if self.queue or not idle:
            return
        for member in self.members:
            if len(member.sent) > 1 and not member.gone:
                since = member.line.since
                if now < since + PATIENCE:
                    self.pump.look_by(since + PATIENCE)
                    continue
                member.line.pace = max(member.line.pace, now - since)
                back = member.recall()
                self.recalled += len(back)
                self.queue.extend(back)
        self.hand_out()

    def try_again(self, now: float) -> None:
        """An idle worker had its pipe full of what is no task; it is asked until it has room. And
        the main thread may have been thrown out before it handed out anything."""
        if self.queue and (member := self.free_member()) is not None:
            if not member.sent:
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
        # Not running(), which asks for it. Whether they are changes under our lock alone.
        waiting = [task for task in self.queue if task.future.state != RUNNING]
        begun = [task for task in self.queue if task.future.state == RUNNING]
        self.queue.clear()
        self.queue.extend(begun)
        return waiting
