"""All pools of this process: a fork and the end of the program concern each of them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol

from theus.pools.steps import has

__all__ = ["arrange_for_the_end", "delist", "enlist", "in_forked_child", "is_forking"]


class Crew(Protocol):
    """What a pool has to do then."""

    lock: threading.RLock

    def forget(self) -> None:
        """In a forked child: nothing of it is ours."""

    def pause(self) -> None:
        """Before a fork, without a lock: ends what a forking process cannot have."""

    def resume(self) -> None:
        """After it, in the parent."""

    def kill(self, at_exit: bool = False) -> None:
        """Ends the workers, whatever they do."""

    def join_at_exit(self) -> None:
        """Gives them a moment for it."""


roll: set[weakref.ref[Crew]] = set()
"""Weakly: a pool that is dropped is off it. Pools end in threads of their own, and are dropped in
any, so this is a plain set: each change to it, and a copy of it, is one step for other threads. To
iterate over a WeakSet is not."""

forking = threading.RLock()
"""Held throughout a fork: two threads that fork take turns, and no pool is added meanwhile."""


def enlist(crew: Crew) -> None:
    with forking:
        roll.add(weakref.ref(crew, roll.discard))


def delist(crew: Crew) -> None:
    """Takes off one that has ended. Without the lock: a fork may be waiting for that end."""
    roll.discard(weakref.ref(crew))


def is_forking() -> bool:
    """Whether this thread is in the middle of a fork."""
    return has(forking)


def living() -> list[Crew]:
    """All of them. Those that end from here on are on the list, too."""
    return [crew for ref in roll.copy() if (crew := ref()) is not None]


def before_fork() -> None:
    """Nobody is inside a region of a pool when the child is made."""
    forking.acquire()
    for crew in sorted(living(), key=id):
        crew.pause()
        paused.append(crew)
    for crew in list(paused):
        crew.lock.acquire()
        held.append(crew)


def after_in_parent() -> None:
    while held:
        held.pop().lock.release()
    while paused:
        paused.pop().resume()
    forking.release()


def after_in_child() -> None:
    while held:
        crew = held.pop()
        crew.lock.release()
        crew.forget()
    paused.clear()
    roll.clear()
    forked.set()
    forking.release()


held: list[Crew] = []
paused: list[Crew] = []
"""Only between before_fork and after_in_*, in the thread that forks."""


forked = threading.Event()


def in_forked_child() -> bool:
    """Whether this is the child of a program that has made pools: by fork, not by a fresh start."""
    return forked.is_set()


def at_exit() -> None:
    with forking:
        crews = living()
    for crew in crews:
        crew.kill(at_exit=True)
    for crew in crews:
        crew.join_at_exit()


arranged = threading.Lock()


def arrange_for_the_end() -> None:
    """Once in each process, when its first pool is made: nothing happens at import."""
    if arranged.acquire(blocking=False):
        atexit.register(at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=before_fork, after_in_parent=after_in_parent, after_in_child=after_in_child
            )
