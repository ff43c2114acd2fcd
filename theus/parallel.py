"""Parallel processes: bodies that run on another core, and commit as any other.

    @process(inputs=["domain.orders"], outputs=["domain.total"], parallel=True)
    def total(ctx):
        return sum(order["price"] for order in ctx.domain.orders)

    await engine.execute(total)

What happens is a transaction of the engine whose body is elsewhere:

    engine    pin a version ──▶ declared places of it ──┐              ┌─▶ repeat, settle, commit
    worker                                              └─▶ run body ──┘     conflict: once more
                                                            account, result

The worker gets the declared inputs and outputs (below a wildcard: all of the container that holds
it; a GUIDE and an engine with strict_guards=False: everything), and arrays by token, not copied.
What has not changed since workers were sent it is not sent again: see theus.pools.parcels. The
body runs there under the same guard. Its account, that is what it has read, written and sent, is
repeated in the transaction which stays open meanwhile, and what it returned is stored there: so
contract, zones, conflicts, `merge=`, retries, messages, signals, notes and records are those of a
process that runs here. If it raises, its exception is raised here, with the worker's traceback as
its cause. Log records reach the loggers of this process.

What is different

  - The function, its arguments, what it reads and what it returns have to travel: functions by
    name, instances of dataclasses and models by their class. SendError says what does not.
  - `ctx.heavy` holds read-only arrays; `alloc` and `put` raise PermissionError there. An ordinary
    array that is returned for an output `heavy.key` is copied once, into the engine's memory.
  - An array that is still in the state, and was given up by `heavy.free`, cannot be borrowed:
    StaleArrayError.
  - Whoever changes a global changes that of the worker.
  - `on_commit` and admin scopes are refused.
  - In the body of another process it is refused: a worker cannot see what that has written and not
    committed. `engine.options(detached=True)` gives it a transaction of its own.
  - After its `timeout` the worker is killed, and replaced, and WorkerTimeoutError raised;
    ProcessTimeoutError if it had not begun. If the awaiting task is cancelled, the transaction ends
    at once, and what the worker finds out later is dropped.

`theus.workers` says in which pool. With "threads", a process runs as one that is not parallel; only
in a thread of the pool. With "interpreters", a worker that is out of time is interrupted, not
killed; see theus.pools.interpreter for what that cannot end.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from theus._theus import MISSING, FrozenDict, Transaction, repeat
from theus.array_view import is_freed
from theus.errors import (
    CodecError,
    InterpreterImportError,
    ProcessTimeoutError,
    SendError,
    StaleArrayError,
)
from theus.paths import format_path
from theus.pools.attempt import perform
from theus.pools.base import Look, Terms
from theus.pools.calls import reference, shown_name
from theus.pools.fit import CAREFUL, FORCED, Unfit, path_to, place_of, unfit_by_import
from theus.pools.parcels import Depot, Parcel, Sent, is_small
from theus.scope import is_literal, parse_pattern

if TYPE_CHECKING:
    from theus._theus import State
    from theus.engine import TheusEngine
    from theus.paths import Path
    from theus.plan import Plan
    from theus.pools import Pool, ProcessPool
    from theus.workers import Choice

    INTERPRETERS_SUPPORTED: bool

__all__ = [
    "INTERPRETERS_SUPPORTED",
    "Errand",
    "ParallelContext",
    "ProcessPool",
]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


# ---- what a worker is sent ------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def places(declared: tuple[str, ...]) -> tuple[Path, ...]:
    """The places that hold everything which these paths declare; none lies in another one."""
    ends: dict[Path, None] = {}
    for text in declared:
        pattern = parse_pattern(text)
        while not is_literal(pattern):
            pattern = pattern[:-1]
        ends[pattern] = None
    return tuple(
        sorted(
            (path for path in ends if not any(path[:i] in ends for i in range(len(path)))),
            key=len,
        )
    )


class Load:
    """The part of a state that one attempt is sent: `roots`, and `parcels` of what goes by token
    (theus.pools.parcels), for which there is None in the roots. Without a depot all of it is in the
    roots. `look`: see theus.pools.fit."""

    __slots__ = ("depot", "look", "parcels", "roots")

    def __init__(self, depot: Depot | None, look: Look | None = None) -> None:
        self.depot = depot
        self.look = look
        self.parcels: dict[Path, Parcel] = {}
        self.roots: dict[str, Any] = {}

    def add_all(self, state: State) -> None:
        for name, root in state.data.items():
            self.put(self.roots, (name,), root)
        self.roots["heavy"] = state.heavy

    def add_places(self, state: State, ends: tuple[Path, ...]) -> None:
        """What lies at these places, and nothing else on the way there.

        A list, set or record on the way is taken whole: without its other parts it is no such
        thing.
        """
        for path in ends:
            here: dict[Any, Any] = self.roots
            there: Any = {"heavy": state.heavy} if path[0] == "heavy" else state.data
            place = path
            for length, key in enumerate(path[:-1], 1):
                inner = there.get(key, MISSING)
                if type(inner) is not FrozenDict:
                    place = path[:length]
                    break
                here, there = here.setdefault(key, {}), inner
            else:
                inner = there.get(path[-1], MISSING)
            if inner is not MISSING:
                self.put(here, place, inner)

    def put(self, here: dict[Any, Any], place: Path, value: Any) -> None:
        if place in self.parcels:
            return
        if self.depot is not None and place[0] != "heavy" and not is_small(value):
            parcel = self.depot.claim(place, value, self.look)
            if parcel is not None:
                self.parcels[place] = parcel
                value = None
        here[place[-1]] = value

    def sent(self) -> tuple[Sent, ...]:
        return tuple([parcel.sent for parcel in self.parcels.values()])

    def leave(self) -> None:
        """The attempt is over: nobody reads the parcels for it any more."""
        if self.depot is not None and self.parcels:
            self.depot.leave(self.parcels.values())


# ---- one run ------------------------------------------------------------------------------


class Errand:
    """One run of a parallel process, with all its attempts. Called, it is one attempt.

    `end` is when it is to be over, by time.monotonic(), and `timeout` the seconds that it was
    given; None: no limit. Unfit or Untried, and it begins anew: see theus.pools.fit. The run goes
    on with another errand then, which is given the `end` of the first.
    """

    __slots__ = ("depot", "end", "look", "plan", "pool", "target", "tentative", "timeout")

    def __init__(
        self, plan: Plan, pool: Pool, depot: Depot, choice: Choice, timeout: float | None
    ) -> None:
        self.plan = plan
        self.pool = pool
        self.depot = depot
        self.target = reference(plan.function, pool.by_fork)
        self.tentative = choice.tentative
        self.look = None
        if choice.kind == "interpreters":
            self.look = CAREFUL if choice.tentative else FORCED
        self.timeout = timeout
        self.end = None if timeout is None else time.monotonic() + timeout

    def fill(self, load: Load, tx: Transaction, engine: TheusEngine) -> None:
        """With what the worker needs of the state."""
        contract = self.plan.contract
        if contract is None or not engine.checks_reads or self.plan.reads_everything:
            load.add_all(tx.state)
        else:
            load.add_places(tx.state, places(contract.inputs + contract.outputs))

    def content(self, tx: Transaction, engine: TheusEngine) -> dict[str, Any]:
        """All that the worker is sent of the state."""
        whole = Load(None)
        self.fill(whole, tx, engine)
        return whole.roots

    def send(
        self, load: Load, tx: Transaction, engine: TheusEngine, arguments: Arguments
    ) -> Future[Any]:
        plan, version, run = self.plan, tx.version, tx.run_id
        view = (engine.checks_reads, engine.hides_fields, engine.field_rules)
        due = None if self.end is None else (self.end, self.timeout or 0.0)
        try:
            self.fill(load, tx, engine)
            target = (self.target, plan.name, version, run)
            call = (*target, *view, load.roots, load.sent(), *arguments)
            return self.pool.submit_task(perform, call, {}, Terms(plan.function, due, self.look))
        except Unfit as unfit:
            place = place_of(unfit.kind, self.content(tx, engine), arguments)
            what = f"{place}, a {shown_name(unfit.kind)},"
            if self.tentative:
                raise Unfit(f"it is sent {what} and {unfit.why}") from None
            raise SendError(what, unfit.why, 'use parallel="processes"') from None

    def take(self, tx: Transaction, engine: TheusEngine, answer: tuple[Any, Any]) -> Any:
        """Does here what the worker's transaction has done, and stores what the body returned."""
        result, account = answer
        body = functools.partial(repeated, tx, account, result)
        return self.plan.attempt_here(tx, engine, (), {}, body)

    def too_late(self) -> ProcessTimeoutError:
        return ProcessTimeoutError(self.plan.name, self.timeout or 0.0)

    def check_time(self) -> None:
        if self.end is not None and time.monotonic() > self.end:
            raise self.too_late()

    def __call__(
        self, tx: Transaction, engine: TheusEngine, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        load = Load(self.depot, self.look)
        try:
            future = self.send(load, tx, engine, (args, kwargs))
            try:
                answer = self.wait(future)
            except BaseException as error:
                future.cancel()
                self.went_wrong(error, tx, engine, (args, kwargs))
                raise
        finally:
            load.leave()
        result = self.take(tx, engine, answer)
        self.check_time()
        return result

    def went_wrong(
        self, error: BaseException, tx: Transaction, engine: TheusEngine, arguments: Arguments
    ) -> None:
        if self.tentative and isinstance(error, InterpreterImportError):
            raise unfit_by_import(error) from error
        if isinstance(error, (CodecError, StaleArrayError)):
            # A worker cannot read the call: by far the likeliest reason is that there is an array
            # in the state which was freed. To look for one before would cost every call.
            path = path_to(is_freed, self.content(tx, engine))
            if path is not None:
                raise StaleArrayError(
                    f"the state has an array at {format_path(path)} that was freed: no worker can "
                    "borrow it; take it out of the state before heavy.free()",
                    path,
                ) from error
        self.plan.failed(error, *arguments)

    def wait(self, future: Future[Any]) -> Any:
        """The answer. When time is over, the pool ends what has begun; the rest is ours."""
        if self.end is not None:
            from concurrent.futures import wait

            left = self.end - time.monotonic()
            if not future.done() and wait((future,), max(0.0, left)).not_done and future.cancel():
                raise self.too_late()
        return future.result()

    async def in_task(
        self, tx: Transaction, engine: TheusEngine, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One attempt, awaited."""
        load = Load(self.depot, self.look)
        try:
            future = self.send(load, tx, engine, (args, kwargs))
            try:
                answer = await self.answer(future)
            except BaseException as error:
                future.cancel()
                self.went_wrong(error, tx, engine, (args, kwargs))
                raise
        finally:
            load.leave()
        result = self.take(tx, engine, answer)
        self.check_time()
        return result

    async def answer(self, future: Future[Any]) -> Any:
        from asyncio import CancelledError, get_running_loop, wrap_future

        if self.end is None:
            return await wrap_future(future)
        late = False

        def time_is_over() -> None:
            nonlocal late
            late = future.cancel()

        timer = get_running_loop().call_later(self.end - time.monotonic(), time_is_over)
        try:
            return await wrap_future(future)
        except CancelledError:
            if late:
                raise self.too_late() from None
            raise
        finally:
            timer.cancel()


def repeated(tx: Transaction, account: Any, result: Any, context: object) -> Any:
    """The body that the engine runs in place of the process."""
    repeat(tx, account)
    return result


# ---- names of older programs ----------------------------------------------------------


class ParallelContext:
    """What older programs passed to a function in a worker: the arguments of its call, no state.

    For calling such a function by hand; parallel processes get the context that all processes get.
    """

    def __init__(self, domain: dict[str, Any], heavy: Mapping[str, Any] | None = None) -> None:
        self.domain = domain
        self.input = domain
        self.heavy = {} if heavy is None else heavy

    @classmethod
    def from_state(cls, state: State, **kwargs: Any) -> ParallelContext:
        """With the arrays of a state, and these arguments."""
        return cls(kwargs, dict(state.heavy))


def __getattr__(name: str) -> Any:
    if name in ("InterpreterPool", "ProcessPool", "INTERPRETERS_SUPPORTED"):
        from theus import pools

        if name == "INTERPRETERS_SUPPORTED":
            return hasattr(pools, "InterpreterPool")
        if hasattr(pools, name):
            return getattr(pools, name)
    raise AttributeError(f"module 'theus.parallel' has no attribute {name!r}", name=name)
