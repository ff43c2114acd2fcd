"""The pools of an engine, and which of them runs a process.

In this order:

  - what the process declares: `parallel="processes"` and the like;
  - what the engine was told: its argument `pool=`;
  - the environment: THEUS_USE_PROCESSES=1, else THEUS_FORCE_INTERPRETERS=1;
  - threads, where Python has no GIL;
  - interpreters, from Python 3.13 on, for a process that can be there;
  - processes, or threads where there are none of those.

The last choice but one is the engine's own, and made for each function. It takes interpreters if
they give the function all that a process would give it, which takes three things:

  - Its module loads there. That is found out by a trial, once in the life of this program, and
    takes a fifth of a second: see theus.pools.trial. NumPy and Pydantic do not load there, nor do
    most modules that import extensions.
  - So do the classes of all that it is sent, and arrays and numbers of NumPy are not among that.
  - While it runs it imports nothing else that does not load there, and does nothing that Python
    forbids there: os.fork, daemon threads. If it does, its run begins anew in a process, as after
    a conflict: nothing of it is committed, but what it did outside of the state is done twice.
    A refused import counts even if the module that wanted it has caught the ImportError.

A function for which one of these has failed is a matter for processes from then on.
`engine.stats().choices` tells what was chosen for each, and why, and so does the logger
"theus.pools". A process with living interpreters cannot fork as others do: see
theus.pools.interpreter. Interpreters have the working directory and the environment of the program:
who changes them in one changes them for all.

`pool_size=`, else THEUS_POOL_SIZE, else the number of cores, is the number of workers. A pool is
made when it is first needed, which is told to the logger, kept warm, and ended by `engine.close()`.
`engine.get_pool()` gives the one that takes any function, and `engine.map_parallel` streams a
function over many items; it chooses as for processes.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from theus._compat import HAS_INTERPRETERS
from theus._types import POOL_KINDS, PoolChoice, PoolKind
from theus.errors import ClosedError, _shown
from theus.helpers import get_logger
from theus.parallel import Errand
from theus.pools.calls import main_has_a_file
from theus.pools.codec import name_of
from theus.pools.fit import Unfit, Untried
from theus.pools.parcels import Depot
from theus.pools.trial import known

if TYPE_CHECKING:
    from theus.plan import Plan
    from theus.pools import Pool, PoolStats

__all__ = ["Choice", "Workers", "check_pool"]

logger = get_logger("theus.pools")


class Choice(NamedTuple):
    """`tentative`: what turns out not to fit begins anew elsewhere."""

    kind: PoolKind
    why: str
    tentative: bool = False


def check_pool(kind: object, size: object) -> None:
    """Raises TypeError or ValueError for what an engine cannot be told about its pool."""
    kinds = ", ".join(map(repr, POOL_KINDS))
    if kind is not None and not isinstance(kind, str):
        raise TypeError(f"pool is one of {kinds}, or None, not {_shown(kind)}")
    if kind is not None and kind not in POOL_KINDS:
        raise ValueError(f"pool is one of {kinds}, or None, not {_shown(kind)}")
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"pool_size is a number of workers above 0, or None, not {_shown(size)}")


def size_of(given: int | None) -> int:
    """The number of workers: as given, else by the environment, else the cores."""
    if given is not None:
        return given
    text = os.environ.get("THEUS_POOL_SIZE")
    if text is None:
        from theus.pools.base import cores

        return cores()
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"THEUS_POOL_SIZE is a number of workers, at least 1, not {_shown(text)}")
    return int(text)


def general_choice() -> Choice | None:
    """What holds for all functions, as nothing is left to choose; else None."""
    if os.environ.get("THEUS_USE_PROCESSES") == "1":
        return Choice("processes", "THEUS_USE_PROCESSES says so")
    if os.environ.get("THEUS_FORCE_INTERPRETERS") == "1":
        return Choice("interpreters", "THEUS_FORCE_INTERPRETERS says so")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return Choice("threads", "this Python has no GIL")
    if not HAS_INTERPRETERS:
        return for_anything("this Python is older than 3.13")
    return None


def for_anything(why: str) -> Choice:
    """For what cannot be in an interpreter."""
    import select

    if hasattr(select, "epoll") and hasattr(os, "eventfd"):
        return Choice("processes", why)
    return Choice("threads", f"{why}, and there are no worker processes on this system")


def choice_for(function: Any, name: tuple[str, str] | None) -> Choice:
    """What suits a function. Raises Untried if that has to be found out."""
    general = general_choice()
    if general is not None:
        return general
    if name is None:
        return for_anything("no import finds it by a name")
    module = name[0]
    if module == "__main__" and not main_has_a_file():
        return for_anything("it is in no file")
    verdict = known(module)
    if verdict is None:
        raise Untried(*name)
    if not verdict.loads:
        return for_anything(f"its module cannot be in an interpreter: {verdict.why}")
    return Choice("interpreters", "its module loads there", True)


def make_pool(kind: str, size: int) -> Pool:
    if kind == "threads":
        from theus.pools import ThreadPool

        return ThreadPool(size)
    if kind == "interpreters":
        from theus.pools import InterpreterPool

        return InterpreterPool(size)
    from theus.pools import ProcessPool

    return ProcessPool(size)


DEPOT = "theus-parcels"


class Workers:
    """The pools of one engine, each made when it is first asked for. Any thread may ask."""

    untried, unfit = Untried, Unfit
    """What runs meet, for those who must not import them before there are workers."""

    def __init__(self, kind: PoolKind | None, size: int | None) -> None:
        self._asked = kind
        self._size = size
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._choices: dict[tuple[str, str], Choice] = {}
        """By module and name of the function. Single operations on it need no lock."""
        # Guarded by lock:
        self._pools: dict[str, Pool] = {}
        self._depot = Depot(DEPOT)
        self._closed = False

    def choice(self, wanted: bool | str, function: Any) -> Choice:
        """Where that function runs, if its process declares `parallel=wanted`. Raises Untried."""
        if isinstance(wanted, str):
            return Choice(wanted, "asked for")  # type: ignore[arg-type]
        if self._asked is not None:
            return Choice(self._asked, "asked for")
        name = name_of(function)
        made = None if name is None else self._choices.get(name)
        if made is None:
            made = choice_for(function, name)
            if name is not None:
                made = self._keep(name, made)
        return made

    def is_unfit(self, function: Any, error: Unfit) -> Choice:
        """That function goes to where anything can, from now on; it has turned out not to fit."""
        name = name_of(function)
        made = for_anything(error.why)
        return made if name is None else self._keep(name, made, anew=True)

    def _keep(self, name: tuple[str, str], choice: Choice, anew: bool = False) -> Choice:
        kept = self._choices.get(name)
        if kept is None or (anew and kept.kind != choice.kind):
            self._choices[name] = kept = choice
            logger.info("%s.%s runs in %s: %s", *name, choice.kind, choice.why)
        return kept

    def choices(self) -> tuple[PoolChoice, ...]:
        return tuple(
            PoolChoice(".".join(name), choice.kind, choice.why)
            for name, choice in list(self._choices.items())
        )

    def kind_for_anything(self) -> str:
        """The kind of pool that takes any function."""
        choice = general_choice() or for_anything("")
        return self._asked or choice.kind

    def pool(self, kind: str) -> Pool:
        """The pool of that kind. Raises ClosedError when the engine is closed."""
        if self._pid != os.getpid():
            self._begin_anew()
        made = self._pools.get(kind)
        if made is not None:
            return made
        with self._lock:
            if self._closed:
                raise ClosedError
            made = self._pools.get(kind)
            if made is None:
                made = make_pool(kind, size_of(self._size))
                self._pools[kind] = made
                logger.info("a pool of the engine has %d workers: %s", made.size, kind)
        return made

    def errand(self, plan: Plan, choice: Choice, timeout: float | None) -> Errand:
        """A run of a process by the pool of that kind."""
        return Errand(plan, self.pool(choice.kind), self._depot, choice, timeout)

    def _begin_anew(self) -> None:
        """In a forked child: the pools are the parent's, and so is whoever holds the lock."""
        self._lock = threading.Lock()
        self._pools = {}
        self._depot = Depot(DEPOT)
        self._pid = os.getpid()

    def stats(self) -> tuple[PoolStats, ...]:
        if self._pid != os.getpid():
            return ()
        return tuple(pool.stats() for pool in list(self._pools.values()))

    def close(self) -> None:
        """Ends the pools. What their workers are at ends with ClosedError."""
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, {}
            self._depot = Depot(DEPOT)  # the memory of the old one goes
        for pool in pools.values():
            pool.kill()
