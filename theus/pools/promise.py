"""Futures that cost little as long as one thread waits for them, and that are real ones."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures._base import FINISHED
from typing import TypeVar

from theus._theus import Promise

__all__ = ["PromisedFuture"]

T = TypeVar("T")


class PromisedFuture(Promise, Future[T]):
    """A Future that makes its condition when it is first asked for it: csrc/binding/promise.c.

    What ends or shows one as long as nobody waits is here and in C; the rest is Future's own.
    """

    def set_result(self, result: T) -> None:
        if not self.finish(result):
            super().set_result(result)

    def result(self, timeout: float | None = None) -> T:
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return super().result(timeout)

    def done(self) -> bool:
        return self.over() or super().done()
