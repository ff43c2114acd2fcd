"""The list of all pools, which a fork and the end of the program go through."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from helpers import run_threads
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


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_pools_end_and_are_dropped_while_a_fork_looks_at_them() -> None:
    stays = [Crew() for _ in range(20)]
    for crew in stays:
        registry.enlist(crew)
    looking = threading.Event()
    looking.set()

    def come_and_go() -> None:
        crews = [Crew() for _ in range(20)]
        while looking.is_set():
            for crew in crews:
                registry.enlist(crew)
            for crew in crews[::2]:
                registry.delist(crew)
            crews = [Crew() for _ in range(20)]  # the others are dropped

    def look() -> None:
        try:
            for _ in range(300):
                assert set(stays) <= set(registry.living())
        finally:
            looking.clear()

    run_threads(3, lambda index: come_and_go() if index else look())
    for crew in stays:
        registry.delist(crew)
        registry.delist(crew)  # twice is as once
    gc.collect()
    assert not any(isinstance(crew, Crew) for crew in registry.living())
