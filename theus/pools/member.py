"""One worker process, as its pool has it: the process, three pipes, what is on its way.

    tasks     pool writes packets, worker reads; the pool can read them back (`recall`)
    answers   worker writes a stream, pool reads; it ends when the worker does
    lifeline  the pool only holds its write end: the worker dies with it

The pool keeps the read end of `tasks` that the worker has, too.

Everything here is guarded by the pool's lock. What is sent goes from the pool's queue to `sent` in
one step, what is answered from there to what has arrived (csrc/binding/line_steps.c).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from multiprocessing.connection import Connection
from typing import Any

from theus._theus import Line, SharedBlock
from theus.pools import wire
from theus.pools.base import Due
from theus.pools.calls import shown_name
from theus.pools.pump import PoolFuture
from theus.pools.worker import Setup, main

__all__ = ["Answer", "Member", "Task"]

PACKETS = 15
"""A pipe has sixteen places, one for each packet; one stays free for what is not a task."""
STATUS = 30.0
"""Seconds for which the pool waits to hear how a dead worker has ended. With a forkserver that
comes from there: in a moment, on a busy machine in seconds, and at once if the server is dead."""


class Task:
    """One call, from submit() to its end."""

    __slots__ = ("blocks", "deaths", "due", "fn", "frame", "future", "held", "number")

    def __init__(
        self,
        number: int,
        fn: Any,
        future: PoolFuture[Any],
        frame: bytes,
        blocks: tuple[SharedBlock, ...],
        held: list[Any],
        due: Due | None,
    ) -> None:
        self.number = number
        self.fn = fn
        self.future = future
        self.frame = frame
        self.blocks = blocks
        self.held = held
        self.due = due
        self.deaths = 0

    @property
    def name(self) -> str:
        """Of the function that errors name."""
        return shown_name(self.fn)

    def fulfil(self, kind: int, body: bytes) -> bool:
        """Ends it with an answer. False: that takes more than a step."""
        if kind != wire.VALUE:
            return False
        if not self.future.over():
            self.release()
        return self.future.fulfil(body) or self.future.over()

    def release(self) -> None:
        """The worker is through with what was lent to it."""
        for block in self.blocks:
            block.retire()
        self.blocks = ()
        self.held = []


def disown(process: Any) -> None:
    """The pool buries its workers itself.

    multiprocessing keeps a set of all children, and joins them at the end of the program; also at
    that of a forked child, whose children they are not, and there it raises.
    """
    import multiprocessing.process

    children: Any = getattr(multiprocessing.process, "_children", set())
    children.discard(process)


class Member:
    """A worker process of a pool, from its start to its burial."""

    def __init__(self, context: Any, setup: Setup, by_fork: bool) -> None:
        """Starts the process. A forked one has our ends of the pipes, and closes them."""
        with contextlib.ExitStack() as undo:

            def pipe(flags: int) -> tuple[int, int]:
                ends = os.pipe2(flags | os.O_CLOEXEC)
                for end in ends:
                    undo.callback(os.close, end)
                return ends

            self.unread, tasks = pipe(os.O_DIRECT | os.O_NONBLOCK)
            self.answers, answer_end = pipe(0)
            life_end, self.lifeline = pipe(0)
            os.set_blocking(self.answers, False)

            ours = (tasks, self.answers, self.lifeline, self.unread) if by_fork else ()
            theirs = (
                Connection(os.dup(self.unread), writable=False),
                Connection(os.dup(answer_end), readable=False),
                Connection(os.dup(life_end), writable=False),
            )
            try:
                self.process = context.Process(
                    target=main, args=(*theirs, ours, setup), name=setup.name
                )
                self.process.start()
                disown(self.process)
            finally:
                for connection in theirs:
                    connection.close()
            self.pid: int = self.process.pid
            try:
                self.alarm = os.pidfd_open(self.pid)
            except ProcessLookupError:  # gone already
                self.alarm = -1
            self.line = Line(self.answers, tasks, setup.look)
            undo.pop_all()
        for end in (answer_end, life_end):
            os.close(end)
        self.ready = False
        self.gone = False
        self.late: Task | None = None
        """The task that it was killed for, because it took too long."""
        self.sent: deque[Task] = deque()
        """On their way or running, in the order in which the worker comes to them."""
        self.packets: deque[int] = deque()
        """How many tasks each of the packets holds that have not been answered whole."""
        self.owed: list[int] = []
        """Results whose blocks we are through with, and the worker does not know it yet."""

    @property
    def open(self) -> bool:
        """Whether it may get more tasks."""
        return self.line.writes >= 0

    # ---- tasks ------------------------------------------------------------------------

    def recall(self) -> list[Task]:
        """Takes back the tasks that the worker has not read, in order.

        The worker reads meanwhile: what we get need not be the last packets, but it is whole ones.
        """
        numbers = set()
        with contextlib.suppress(BlockingIOError):
            while packet := os.read(self.unread, wire.PACKET):
                for kind, number, _ in wire.frames(packet)[0]:
                    if kind == wire.RELEASED:
                        self.owed.append(number)
                    else:
                        numbers.add(number)
        back: list[Task] = []
        kept: deque[Task] = deque()
        sizes: deque[int] = deque()
        for size in self.packets:
            tasks = [self.sent.popleft() for _ in range(size)]
            if tasks[0].number in numbers:
                back += tasks
            else:
                kept += tasks
                sizes.append(size)
        self.sent, self.packets = kept, sizes
        self.give_back()
        return back

    def give_back(self) -> None:
        """Tells the worker which of its blocks we are through with; later, if the pipe is full."""
        while self.owed and self.open:
            some = self.owed[:64]
            if not self.line.send([wire.frame(wire.RELEASED, number, b"") for number in some]):
                return
            del self.owed[: len(some)]

    # ---- end -------------------------------------------------------------------------------

    def dismiss(self) -> None:
        """No more tasks: the worker ends when it has done what it has."""
        self.line.hang_up()

    def kill(self) -> None:
        if not self.gone:
            self.process.kill()

    def bury(self) -> tuple[int | None, int | None]:
        """(signal, status) of a worker that is gone; gives back everything it had."""
        self.gone = True
        self.process.join(STATUS)
        code = self.process.exitcode
        self.close()
        if code is not None:
            self.process.close()
        if code is None:
            return None, None
        return (-code, None) if code < 0 else (None, code)

    def close(self) -> None:
        self.line.close()
        for fd in (self.lifeline, self.unread, self.alarm):
            if fd >= 0:
                os.close(fd)


Answer = tuple[Member, Task | None, int, bytes]
"""Who gave it; the task, or None for what a worker says of itself; its kind and its body."""
