"""Back-off and priority for programs that retry `compare_and_swap` by hand.

An engine's own runs need none of this: `engine.run`, `run_async` and `execute` retry by
themselves, and their attempts are bounded.
"""

from __future__ import annotations

import time
from _thread import RLock
from collections.abc import Hashable
from typing import NamedTuple

from theus.errors import _shown

__all__ = ["ConflictManager", "RetryDecision"]

BUSY_WAIT_MS = 50
DOUBLINGS = 10
KEYS_MOST = 10_000
LONGEST_MS = 1e9


class RetryDecision(NamedTuple):
    """What to do after a conflict.

    should_retry  always True: how long to go on is for the caller to say
    wait_ms       milliseconds to wait before that, a whole number
    """

    should_retry: bool
    wait_ms: int


class ConflictManager:
    """Counts the conflicts of each key, says how long to wait, and gives one key at a time
    priority.

        manager = ConflictManager()
        while True:
            version = engine.version
            try:
                if not manager.is_blocked("me"):
                    engine.compare_and_swap(version, {"domain": {"n": compute()}})
                    break
            except ConflictError:
                time.sleep(manager.report_conflict("me").wait_ms / 1000)
            else:
                time.sleep(0.05)
        manager.report_success("me")

    The n-th conflict of a key waits `base_backoff_ms` * 2**(n - 1) (at most 2**10), give or take
    a fifth. The conflict number `max_retries` gives the key the priority ticket, if nobody has
    it: it waits for 1 ms only, while the others are blocked and told to wait for 50 ms. The
    ticket ends with `report_success`, and at the latest after `lease_ms`: whoever dies with it,
    or forgets it, holds nobody up for longer, and then has to fail as often again.

    A key stands for one logical run: give two runs of one function two keys. All methods may
    be called from any thread, and none blocks. Only the newest 10 000 keys are remembered.
    """

    __slots__ = ("_base_ms", "_counts", "_lease", "_lock", "_max_retries", "_vip", "_vip_end")

    def __init__(
        self, max_retries: int = 5, base_backoff_ms: float = 2, *, lease_ms: float = 1000
    ) -> None:
        if type(max_retries) is not int or max_retries < 1:
            raise ValueError(
                f"max_retries is a number of conflicts from 1, not {_shown(max_retries)}"
            )
        times: dict[str, object] = {"base_backoff_ms": base_backoff_ms, "lease_ms": lease_ms}
        for name, value in times.items():
            if type(value) not in (int, float) or not 0 <= value <= LONGEST_MS:  # type: ignore[operator]
                raise ValueError(
                    f"{name} is a number of milliseconds, 0 to 1e9, not {_shown(value)}"
                )
        self._max_retries = max_retries
        self._base_ms = base_backoff_ms
        self._lease = lease_ms / 1000
        # Again by the same thread: keys are compared in it, and a signal handler may ask.
        self._lock = RLock()
        # Guarded by the lock:
        self._counts: dict[Hashable, int] = {}  # conflicts since the last success
        self._vip: Hashable | None = None
        self._vip_end = 0.0  # when its lease ends, by time.monotonic()

    def report_conflict(self, key: Hashable) -> RetryDecision:
        """Counts a conflict of `key` and says how long to wait before the next attempt."""
        if key is None:
            raise TypeError("a key names one run; None is nobody's name")
        with self._lock:
            vip = self._holder()
            if vip is not None and vip != key:
                return RetryDecision(True, BUSY_WAIT_MS)
            count = self._counts.pop(key, 0) + 1
            self._counts[key] = count  # at the end: the oldest keys are at the front
            if len(self._counts) > KEYS_MOST:
                del self._counts[next(iter(self._counts))]
            if vip is None and count >= self._max_retries:
                self._vip, self._vip_end = key, time.monotonic() + self._lease
                vip = key
        if vip is not None:
            return RetryDecision(True, 1)
        wait = self._base_ms * 2.0 ** min(count - 1, DOUBLINGS) * _jitter()
        return RetryDecision(True, int(wait))

    def report_success(self, key: Hashable) -> None:
        """Forgets the conflicts of `key`; it gives back the ticket if it has it."""
        with self._lock:
            self._counts.pop(key, None)
            if self._vip == key:
                self._vip = None

    def is_blocked(self, requester: Hashable | None = None) -> bool:
        """Whether somebody other than `requester` has the ticket. None is nobody's name."""
        with self._lock:
            vip = self._holder()
        return vip is not None and vip != requester

    def get_failure_count(self, key: Hashable) -> int:
        """Conflicts of `key` since its last success."""
        with self._lock:
            return self._counts.get(key, 0)

    def _holder(self) -> Hashable | None:
        """Who has the ticket. The caller holds the lock."""
        if self._vip is not None and time.monotonic() >= self._vip_end:
            self._counts.pop(self._vip, None)
            self._vip = None
        return self._vip


def _jitter() -> float:
    import random  # 3 ms that only a conflict needs

    return random.uniform(0.8, 1.2)
