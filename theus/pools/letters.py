"""The tasks of an InterpreterPool, from submit() to their answers: see residents.py."""

from __future__ import annotations

from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from theus._theus import Letter
from theus.errors import TaskStoppedError
from theus.pools.base import Due
from theus.pools.codec import decode_with
from theus.pools.promise import PromisedFuture
from theus.pools.reports import restored_answer

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

    def result(self, timeout: float | None = None) -> T:
        """As Future.result(); ClosedError in a forked child, where no answer can come."""
        left = self.crew.pump_for(self, timeout)
        return super().result(left)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        left = self.crew.pump_for(self, timeout)
        return super().exception(left)

    def running(self) -> bool:
        """Whether a worker has begun it, and has not answered yet."""
        return self.letter.taken and not self.over()

    def cancel(self) -> bool:
        """True if no worker had begun it."""
        if not self.letter.recall():
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()
        self.crew.dropped(self.number)
        return True

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
