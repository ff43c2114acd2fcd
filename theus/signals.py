"""Signals: what a commit tells, as it happens, to whoever listens.

    ctx.signal.send("done", 5)                  in a process with the output `signal.done`;
                                                or tx.update(signal={"done": 5})
    for signal in engine.signals("done"):       in another thread; `async for` in a task
        ...

A signal is sent by the commit of its transaction, and only by that. It rides in the commit
record, so receivers are readers of the ring of records (`TheusEngine.reader`): each has its own
place there, and all see the same signals in the order of the commits. Where the ring overwrites
they hold nobody up, and what has left it before a slow receiver came to it is counted (`lost`).
The last payload of each topic is kept in the state, for those who come later:
`engine.state.signals`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from theus.errors import _shown
from theus.waiting import Follower

if TYPE_CHECKING:
    from theus._theus import Engine

__all__ = ["Signal", "Signals"]


_NEXT = 1 << 62
"""Beyond any record there is: a cursor that is to begin there begins with the next one."""


class Signal(NamedTuple):
    """One signal, as it was sent.

    topic    what it was sent under
    payload  what was sent, immutable
    version  the version that its commit made
    """

    topic: str
    payload: Any
    version: int


class Signals(Follower[Signal]):
    """An iterator over the signals of an engine, those of one topic, or all (None)."""

    def __init__(self, engine: Engine, topic: str | None) -> None:
        if topic is not None and type(topic) is not str:
            raise TypeError(
                f"signals() takes a topic, a text, or None for all; not {_shown(topic)}"
            )
        super().__init__(engine)
        self._topic = topic
        self._cursor = engine.attach(_NEXT)
        self._waiting: deque[Signal] = deque()
        """Further signals of the record that was read last."""

    @property
    def lost(self) -> int:
        """Commit records, with signals or without, that were overwritten before this receiver came
        to them. 0: no signal was missed.
        """
        return self._cursor.lost

    def _take(self) -> Signal | None:
        newest = self._engine.version  # so that this ends, however fast others commit
        while not self._waiting:
            record = self._cursor.take()
            if record is None:
                return None
            self._waiting.extend(
                Signal(topic, payload, record.version)
                for topic, payload in record.signals
                if self._topic is None or topic == self._topic
            )
            if record.version >= newest:
                break
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread. Harmless the second time."""
        self._cursor.detach()
        super().close()
