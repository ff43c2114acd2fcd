"""All pools of this process: a fork and the end of the program concern each of them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol

__all__ = ["CREWS", "arrange_for_the_end", "in_forked_child"]


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


CREWS: weakref.WeakSet[Crew] = weakref.WeakSet()

forking = threading.RLock()
"""Held throughout a fork: two threads that fork take turns, and no pool is added meanwhile."""


def enlist(crew: Crew) -> None:
    with forking:
        CREWS.add(crew)


def before_fork() -> None:
    """Nobody is inside a region of a pool when the child is made."""
    forking.acquire()
    for crew in sorted(CREWS, key=id):
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
    CREWS.clear()
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
        crews = list(CREWS)
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
