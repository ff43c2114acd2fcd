"""The list of all pools, which a fork and the end of the program go through."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

from theus.pools import registry


class Crew:
    """As little of one as the list needs."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def forget(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def kill(self, at_exit: bool = False) -> None: ...

    def join_at_exit(self) -> None: ...


def test_pools_end_while_a_fork_looks_at_them() -> None:
    """At each line that the looking runs, one ends: as it may in another thread."""
    stay, ending = [Crew() for _ in range(100)], [Crew() for _ in range(100)]
    for crew in (*stay, *ending):
        registry.enlist(crew)

    def one_ends(*_: object) -> Any:
        if ending:
            registry.delist(ending.pop())
        return one_ends

    before = sys.gettrace()
    sys.settrace(one_ends)
    try:
        found = registry.living()
    finally:
        sys.settrace(before)
    assert len(ending) < 100
    assert set(stay) <= set(found)


def test_a_pool_that_is_dropped_or_ends_twice_is_off_the_list() -> None:
    ends, dropped = Crew(), Crew()
    for crew in (ends, dropped):
        registry.enlist(crew)
    assert {ends, dropped} <= set(registry.living())
    registry.delist(ends)
    registry.delist(ends)
    del crew, dropped
    gc.collect()
    assert not any(isinstance(crew, Crew) for crew in registry.living())
