"""How long a run keeps trying, and how long it waits in between.

The engine's own loop is in C. This is the same rule for coroutine bodies, whose loop has
to wait without blocking the event loop.
"""

from __future__ import annotations

import time
from typing import NoReturn

from theus.arguments import check_seconds
from theus.errors import ConflictError, _shown

__all__ = ["Patience"]

LONGEST_WAIT = 0.05
SHORTEST_BODY = 20e-6


class Patience:
    """The tries of one run: counts them, measures them, and ends them.

    The wait after the n-th conflict is a random part of body * 2**n, where body is the
    measured time of an attempt: a constant in milliseconds would make one of two fast
    bodies wait for ages, and be no wait at all for a slow one.
    """

    __slots__ = ("_attempts", "_began", "_body", "_retries", "end")

    end: float
    """When the time is over, by `time.monotonic()`."""

    def __init__(self, retries: int | None, deadline: float) -> None:
        if retries is not None and (type(retries) is not int or retries < 0):
            raise ValueError(
                f"retries is a number from 0, or None for no limit, not {_shown(retries)}"
            )
        check_seconds("deadline", deadline, zero=True)
        self._retries = retries
        self._attempts = 0
        self._body = 0.0
        self.end = time.monotonic() + deadline
        self._began = 0.0

    def begin(self) -> None:
        """An attempt begins."""
        self._attempts += 1
        self._began = time.monotonic()

    def took(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self._began

    def give_up(self, conflict: ConflictError) -> NoReturn:
        """Raises `conflict`, which now says how many attempts there were."""
        conflict.attempts = self._attempts
        conflict.args = (*conflict.args[:5], self._attempts)
        raise conflict

    def wait_after(self, conflict: ConflictError) -> float:
        """Seconds to wait before the next attempt. Raises `conflict` if there is none."""
        now = time.monotonic()
        took = max(now - self._began, SHORTEST_BODY)
        self._body = took if self._attempts == 1 else (3 * self._body + took) / 4
        longest = min(self._body * 2.0 ** min(self._attempts, 10), LONGEST_WAIT)
        wait = longest * _random()
        spent = self._retries is not None and self._attempts > self._retries
        if spent or now + wait >= self.end:
            self.give_up(conflict)
        return wait


def _random() -> float:
    import random  # 3 ms that only a conflict needs

    return random.uniform(0.0, 1.0)
