"""The tasks of an InterpreterPool, from submit() to their answers: see residents.py."""

from __future__ import annotations

import contextlib
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from theus._theus import Letter, on_error
from theus.errors import TaskStoppedError
from theus.pools.base import Due
from theus.pools.codec import decode_with
from theus.pools.promise import PromisedFuture
from theus.pools.reports import restored_answer
from theus.pools.steps import in_main_thread

if TYPE_CHECKING:
    from theus.pools.residents import Residents

__all__ = ["LOST", "UNBORN", "LetterFuture", "Task", "unpacked"]

T = TypeVar("T")

LOST, UNBORN = 12, 13
"""Kinds of letters that C writes: see interp_type.c."""


class LetterFuture(PromisedFuture[T]):
    """A Future whose waiting thread takes the answers of the pool itself, if nobody else does.

    Only the letter knows whether a worker has begun its task: in other interpreters nobody can
    touch a Future.
    """

    crew: Residents
    letter: Letter
    number: int

    def wait(self, timeout: float | None) -> None:
        self.crew.wait_for(self, timeout)

    def running(self) -> bool:
        """Whether a worker has begun it, and has not answered yet."""
        return self.letter.taken and not self.over()

    def cancel(self) -> bool:
        """True if no worker had begun it."""
        # On the list first: it is the watcher who goes on if a signal handler raises.
        self.crew.cancelling.append(self)
        on_error(self.crew.answers.ring, self.recall)
        return self.cancelled()

    def recall(self) -> None:
        self.letter.recall()
        if self.letter.recalled and in_main_thread():
            super().cancel()
            self.crew.dropped(self.number)  # rings, and the watcher tells those who wait
        else:
            self.end_recalled()

    def end_recalled(self) -> None:
        """The second half of cancel(); may be done twice, and in two threads."""
        if self.letter.recalled:
            super().cancel()
            self.set_running_or_notify_cancel()
            self.crew.dropped(self.number)
        with contextlib.suppress(ValueError):
            self.crew.cancelling.remove(self)

    def settle(self, good: bool, found: Any) -> bool:
        """Ends with that, if it has not ended: by a timeout, or because it was delivered twice."""
        try:
            self.set_result(found) if good else self.set_exception(found)
        except InvalidStateError:
            return False
        return True


class Task(NamedTuple):
    """One call, from submit() to its end."""

    fn: Any
    future: LetterFuture[Any]
    held: list[Any]
    """What it refers to without owning: shared arrays, until they were read."""
    due: Due | None = None


def unpacked(kind: int, body: Any, buffers: Any) -> tuple[bool, Any]:
    """(True, the value) or (False, the exception) of an answer."""
    try:
        if kind == LOST:
            return False, TaskStoppedError("the task", "its worker could not answer")
        return restored_answer(kind, decode_with(body, True, buffers))
    except BaseException as error:  # restoring a value is code of anybody; its future has to end
        return False, error
