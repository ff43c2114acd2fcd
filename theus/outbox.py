"""The outbox: messages that are part of a commit, and reach their handler after it.

    ctx.outbox.add("mail", {"to": "ann"})       in a process; tx.outbox in a transaction
    engine.process_outbox(send)                 calls send(message) for each that waits

A message exists when its transaction has committed: a run that fails, is retried, cancelled or
rolled back, as a whole or to a savepoint, sends nothing, and one that commits sends each once.
Messages wait in the engine, in the order of the commits, until a handler has returned; whoever
forgets to call `process_outbox` keeps them all in memory.

*At least once*: a handler that raises gets the message again in a later call, and so it does if
the interpreter is interrupted between its return and the note of it. A handler that must not
do its work twice looks at `message.id`, which is the same each time and never another's.

The queue is in memory: what was not handed over is lost with the process. In a forked child it
is empty, since the messages are the parent's to send.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from theus.errors import ProcessError, TransactionError, _shown

if TYPE_CHECKING:
    from theus._theus import Engine

__all__ = ["Courier", "OutboxFailure", "OutboxMsg", "OutboxReport"]

Handler = Callable[["OutboxMsg"], object]

_set = object.__setattr__


class OutboxMsg:
    """One message. Read-only.

    topic    text
    payload  what was sent, as it was then, immutable
    id       text, the same at every delivery of this message and of no other; None for one
             that was made by hand and not yet committed
    version  the version that the commit made; None likewise

    Ids of one engine are ordered: `id` ends in the version and the place within the commit.
    """

    __slots__ = ("id", "payload", "topic", "version")
    __match_args__ = ("topic", "payload")

    topic: str
    payload: Any
    id: str | None
    version: int | None

    def __init__(
        self, topic: str, payload: Any = None, *, id: str | None = None, version: int | None = None
    ) -> None:
        if not isinstance(topic, str):
            raise TypeError(f"a topic is a text, not {_shown(topic)}")
        _set(self, "topic", topic)
        _set(self, "payload", payload)
        _set(self, "id", id)
        _set(self, "version", version)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a message cannot be changed; {name} is as it was sent")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a message cannot be changed; {name} is as it was sent")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OutboxMsg):
            return NotImplemented
        return (self.topic, self.payload, self.id) == (other.topic, other.payload, other.id)

    __hash__ = None  # type: ignore[assignment]  # the payload of one made by hand may be anything

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.topic, self.payload, self.id, self.version)

    def __repr__(self) -> str:
        known = "" if self.id is None else f", id={self.id!r}"
        return f"OutboxMsg({self.topic!r}, {self.payload!r}{known})"


def _rebuild(topic: str, payload: Any, id: str | None, version: int | None) -> OutboxMsg:
    return OutboxMsg(topic, payload, id=id, version=version)


class OutboxFailure(NamedTuple):
    """A message whose handler raised, and what it raised. It waits for the next call."""

    message: OutboxMsg
    error: Exception


class OutboxReport(NamedTuple):
    """What one call of `process_outbox` did.

    delivered  messages whose handler returned
    failed     one for each topic whose handler raised
    pending    messages that wait still: those that failed, those behind them in their
               topics, and all of them if there was no handler
    """

    delivered: int
    failed: tuple[OutboxFailure, ...]
    pending: int


class Courier:
    """Hands over the messages of one engine, in the order of their commits, one at a time."""

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self._begin()

    def _begin(self) -> None:
        """Also for a forked child: its own lock, its own ids, and nothing to hand over."""
        self._pid = os.getpid()
        self._session = os.urandom(8).hex()
        self._lock = allocate_lock()
        self._user: int | None = None  # the thread that has the lock
        # (version, index) -> (topic, payload), oldest first. A message leaves the engine for this
        # dict, and the dict when it was delivered: an interrupt anywhere leaves it in one of them.
        self._pending: dict[tuple[int, int], tuple[str, Any]] = {}

    def run(self, engine: Engine, handler: Handler | None) -> OutboxReport:
        """See TheusEngine.process_outbox."""
        if self._pid != os.getpid():
            self._begin()
        if engine.current() is not None:
            raise TransactionError(
                "process_outbox() inside a transaction: what its handlers do would be rolled back "
                "with that, and the messages gone; call it after the commit"
            )
        if self._user == get_ident():
            raise ProcessError(
                "process_outbox() was called by a handler that it runs: that has to return first"
            )
        handler = self.handler if handler is None else check_handler(handler)
        with self._lock:
            self._user = get_ident()
            try:
                engine.take_outbox(self._pending)
                return self._deliver(handler)
            finally:
                self._user = None

    def _deliver(self, handler: Handler | None) -> OutboxReport:
        """What is pending now. What handlers send is for the next call: this one ends."""
        delivered = 0
        failed: dict[str, OutboxFailure] = {}
        for place in () if handler is None else tuple(self._pending):
            topic, payload = self._pending[place]
            if topic in failed:
                continue  # in order: it waits behind the one that failed
            version, index = place
            id = f"{self._session}-{version:012d}-{index:06d}"
            message = OutboxMsg(topic, payload, id=id, version=version)
            try:
                _call(handler, message)
            except Exception as error:
                failed[topic] = OutboxFailure(message, error)
            else:
                del self._pending[place]
                delivered += 1
        return OutboxReport(delivered, tuple(failed.values()), len(self._pending))


def check_handler(handler: Handler) -> Handler:
    """The handler. Raises TypeError for what cannot be one."""
    from theus.plan import is_coroutine_function

    if not callable(handler):
        raise TypeError(
            f"the handler of an outbox is a function of one message, not {_shown(handler)}"
        )
    if is_coroutine_function(handler):
        raise TypeError(
            f"the handler of an outbox is a plain function, and {handler!r} is a coroutine "
            "function: let it hand the message to your event loop, and wait for the result"
        )
    return handler


def _call(handler: Handler | None, message: OutboxMsg) -> None:
    assert handler is not None
    answer = handler(message)
    if answer is not None and isinstance(answer, Awaitable):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise TypeError(
            f"{handler!r} returned {answer!r}, which nobody awaits: a handler does its work "
            "before it returns"
        )
