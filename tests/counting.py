"""What is gained, round by round, on a Python that counts all references.

Extensions that are no debug build (NumPy, Pydantic) take references that nobody counts. Where they
have a part, blocks of memory are counted instead: what is never let go keeps its block.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

WINDOW = 20  # rounds per measurement
SLACK = WINDOW // 2  # a reference lost or gained in each round is more


def references() -> int:
    return sys.gettotalrefcount()  # type: ignore[attr-defined, no-any-return]


blocks = sys.getallocatedblocks


def drift(work: Callable[[], Any], counted: Callable[[], int] = references) -> int:
    """References, or blocks, gained over a window of rounds, in the calmest of a few."""
    found = []
    for window in range(8):
        before = settled(counted)
        for _ in range(WINDOW):
            work()
        found.append(settled(counted) - before)
        if window > 0 and abs(found[-1]) < SLACK:
            break  # the first window warms up
    return min(found, key=abs)


def settled(counted: Callable[[], int]) -> int:
    sys._clear_internal_caches()  # type: ignore[attr-defined]  # types remember names they were asked for
    gc.collect()
    gc.collect()
    return counted()


def fails(kind: type[BaseException], fn: Callable[..., Any], *args: Any, **options: Any) -> None:
    with pytest.raises(kind):
        fn(*args, **options)
