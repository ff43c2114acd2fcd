"""TheusEngine: one versioned state, and everything that may change it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    NoReturn,
    ParamSpec,
    TypeVar,
    overload,
)

from theus import _theus
from theus._theus import Change, CommitRecord, State, Transaction, Turn
from theus._types import EngineStats
from theus.errors import (
    ClosedError,
    ConflictError,
    ProcessError,
    SecurityViolationError,
    TransactionError,
    UnknownProcessError,
    WriteTimeoutError,
    _shown,
)
from theus.outputs import release
from theus.paths import Path
from theus.plan import Plan, is_coroutine_function, plan_of
from theus.retry import Patience
from theus.scope import ROOT_ALIASES

if TYPE_CHECKING:
    from theus.changes import Changes, RecordReader

# The errors are exported here, too, because older programs import them from here.
__all__ = ["SecurityViolationError", "TheusEngine", "TransactionError"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_WRITE_TIMEOUT_MS = 300_000


class TheusEngine(_theus.Engine):
    """One immutable, versioned state, and the transactions that make its next versions.

        engine = TheusEngine({"domain": {"count": 0}})
        with engine.transaction() as tx:
            tx.domain.count += 1

    `context` is the initial state: a mapping whose keys are the roots, or an object with
    `to_dict()` or `model_dump()`. It is copied. `namespaces` are further roots, each
    `{"name": ..., "data": ...}` or `(name, None, data)`.

    `strict_guards=False` lets processes read what they have not declared; writes are
    checked all the same. `strict_cas` makes every newer version a conflict for
    `compare_and_swap`. `write_timeout_ms` bounds the engine's own runs and the time for
    which they are retried (default: the environment's THEUS_WRITE_TIMEOUT_MS, else five
    minutes). `history` is the number of versions kept, `ring_capacity` of commit records, and
    `ring_mode` says what becomes of a record for which there is no room: "overwrite" (the
    oldest goes), "drop_new" (it is not kept), "block" (the commit waits for a `reader`, at most
    `ring_timeout_ms`; 0: no limit) or "strict" (the commit fails). See `reader`.

    Engines share nothing. All methods may be called from any thread and any task.
    """

    strict_guards: bool

    def __init__(
        self,
        context: object = None,
        namespaces: Iterable[Mapping[str, Any] | tuple[Any, ...]] | None = None,
        strict_guards: bool = True,
        strict_cas: bool = False,
        audit_recipe: object = None,
        write_timeout_ms: int | None = None,
        *,
        strict_mode: bool | None = None,
        ring_capacity: int = 1024,
        ring_mode: str = "overwrite",
        ring_timeout_ms: int = 1000,
        history: int = 128,
    ) -> None:
        if audit_recipe is not None:
            raise NotImplementedError(
                "audit_recipe: auditing is not part of this version; leave it out"
            )
        roots = _roots_of(context)
        for name, data in map(_namespace, namespaces or ()):
            if name in roots:
                raise ValueError(f"namespaces: the state has a root {name!r} already")
            roots[name] = data
        super().__init__(
            roots or None,
            strict_cas=strict_cas,
            write_timeout_ms=_write_timeout(write_timeout_ms),
            ring_capacity=ring_capacity,
            ring_mode=ring_mode,
            ring_timeout_ms=ring_timeout_ms,
            history=history,
        )
        self.strict_guards = bool(strict_guards if strict_mode is None else strict_mode)
        if not self.strict_guards:
            import logging  # some milliseconds that nobody else pays

            logging.getLogger("theus").warning(
                "strict_guards=False: processes may read what they have not declared; "
                "writes are checked"
            )
        self._registry: dict[str, Plan] = {}

    @property
    def strict_mode(self) -> bool:
        """The old name of `strict_guards`."""
        return self.strict_guards

    @strict_mode.setter
    def strict_mode(self, value: bool) -> None:
        self.strict_guards = value

    # ---- processes --------------------------------------------------------------------

    def register(self, func: F, *, name: str | None = None, replace: bool = False) -> F:
        """Makes a process known by name (default: its own). Returns it, so it decorates.

        Raises ProcessError if another process has the name (unless `replace`), if it is
        declared parallel, or if an output is below no root of the state.
        """
        plan = plan_of(func, name)
        plan.check_runnable(self)
        known = self._registry.get(plan.name)
        if known is not None and known.function is not func and not replace:
            raise ProcessError(
                f"another process is registered as {plan.name!r}; give this one a name=, or pass "
                "replace=True",
                plan.name,
            )
        self._registry[plan.name] = plan
        return func

    async def execute(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a process, given as a function or by its registered name, as a transaction.

        A coroutine function runs in this task; a plain one in a helper thread, with this
        task's context variables. Inside a body, both join it as a savepoint, and a plain
        function runs here: a transaction is not shared between threads.

        Returns what the function returned, its drafts as frozen views; what of that goes
        into the state is told in `theus.outputs`. Raises what the function raises, and
        nothing is kept then; ContractViolationError for what it has not declared;
        ConflictError when retries are used up; UnknownProcessError for a name that is not
        registered. If this task is cancelled, so is the run; a helper thread cannot be
        stopped, but what it does after that is rolled back.
        """
        plan = self._plan(process)
        if plan.is_coroutine:
            return await self._run_async(
                plan.attempt,
                (self, args, kwargs),
                isolation=plan.isolation,
                process=plan.name,
            )
        if self.current() is not None:
            return self._run_plan(plan, plan.attempt, args, kwargs)
        return await self._run_in_thread(plan, args, kwargs)

    def run_process(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`execute` for synchronous callers: runs a process here and now, in this thread.

        Raises ProcessError for a coroutine function; everything else as `execute`.
        """
        plan: Plan | None = getattr(process, "_theus_plan", None)
        if plan is not None and plan.is_simple and plan.function is process:
            return self.run(plan.attempt, self, args, kwargs, process=plan.name)
        plan = self._plan(process)
        if plan.is_coroutine:
            raise ProcessError(
                f"process {plan.name!r} is a coroutine function: use "
                f"`await engine.execute({plan.name!r}, ...)`",
                plan.name,
            )
        return self._run_plan(plan, plan.attempt, args, kwargs)

    def _plan(self, process: Callable[..., Any] | str) -> Plan:
        if isinstance(process, str):
            known = self._registry.get(process)
            if known is None:
                raise UnknownProcessError(process, tuple(self._registry))
            plan = known
        else:
            plan = plan_of(process)
        if not plan.runs_anywhere:
            plan.check_runnable(self)
        return plan

    def _run_plan(
        self,
        plan: Plan,
        attempt: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        return self.run(attempt, self, args, kwargs, isolation=plan.isolation, process=plan.name)

    async def _run_in_thread(
        self, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        from asyncio import CancelledError, to_thread

        cancelled = False

        def attempt(tx: Transaction, *rest: Any) -> Any:
            result = None if cancelled else plan.attempt(tx, *rest)
            if cancelled:
                raise TransactionError(f"the task that awaited {plan.name!r} was cancelled")
            return result

        try:
            return await to_thread(self._run_plan, plan, attempt, args, kwargs)
        except CancelledError:
            cancelled = True
            raise

    # ---- transactions -------------------------------------------------------------------

    async def run_async(
        self,
        fn: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: str = "serializable",
        detached: bool = False,
    ) -> R:
        """Awaits `fn(tx, *args)` in a transaction and commits, as `run` does for functions.

        If the commit meets a conflict, `fn` is awaited again on a fresh transaction:
        at most `retries` times (None: no limit), and until `deadline` seconds have passed
        (None: the engine's write timeout). Waiting never blocks the event loop.

        In a task that runs a body of this engine, it joins that body as a savepoint; in a
        child task it raises TransactionError unless `detached`, which gives it a
        transaction of its own. If `fn` raises, or the task is cancelled, everything is
        rolled back and the exception goes on unchanged.
        """
        return await self._run_async(
            fn, args, retries=retries, deadline=deadline, isolation=isolation, detached=detached
        )

    async def _run_async(
        self,
        fn: Callable[..., Coroutine[Any, Any, R]],
        args: tuple[Any, ...],
        *,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: str = "serializable",
        detached: bool = False,
        process: str | None = None,
    ) -> R:
        from asyncio import sleep

        limit = self.write_timeout_ms
        patience = Patience(retries, limit / 1000 if deadline is None else deadline)
        turn: Turn | None = None
        if deadline is not None or self.queueing:
            turn = await self._line_up(patience, detached)
        done = None
        try:
            while True:
                patience.begin()
                finished = False
                attempt = self.transaction(limit, isolation, False, process, detached)
                if turn is not None:
                    turn.lead(attempt, patience.end - time.monotonic())
                try:
                    async with attempt as tx:
                        pending = fn(tx, *args)
                        if not isinstance(pending, Coroutine):
                            raise TypeError(
                                f"run_async awaits a coroutine function; {fn!r} returned "
                                f"{pending!r}: use engine.run"
                            )
                        result: R = release(await pending)
                        finished = True
                    done = attempt
                    return result
                except ConflictError as conflict:
                    if not finished:  # the body's own affair
                        raise
                    if turn is None:
                        turn = Turn(self)
                    turn.failed(attempt, patience.took())
                    wait = patience.wait_after(conflict)
                    if turn.in_line:
                        from theus.turns import line_up

                        if not await line_up(turn, patience.end):
                            patience.give_up(conflict)
                        wait = 0.0
                if wait > 0.0:
                    await sleep(wait)
                self.count_retry()
        finally:
            if turn is not None:
                turn.end(done)

    async def _line_up(self, patience: Patience, detached: bool) -> Turn | None:
        """Before the first attempt: a run that joins another one has no turn of its own."""
        if not detached and self.current() is not None:
            return None
        turn = Turn(self)
        turn.line_up()
        if turn.in_line:
            from theus.turns import line_up

            began = time.monotonic()
            try:
                if not await line_up(turn, patience.end):
                    waited, given = time.monotonic() - began, patience.end - began
                    raise WriteTimeoutError(round(given * 1000), round(waited * 1000))
            except BaseException:
                turn.end(None)
                raise
        return turn

    @overload
    def transactional(self, fn: Callable[Concatenate[Transaction, P], R], /) -> Callable[P, R]: ...

    @overload
    def transactional(
        self,
        /,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: str = "serializable",
        detached: bool = False,
    ) -> Callable[[Callable[Concatenate[Transaction, P], R]], Callable[P, R]]: ...

    def transactional(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: str = "serializable",
        detached: bool = False,
    ) -> Any:
        """Decorates `fn(tx, ...)`, so that calling it without `tx` runs it as a transaction.

            @engine.transactional
            def deposit(tx, name, amount):
                tx.domain.accounts[name] += amount

            deposit("bob", 5)

        A coroutine function becomes one that is awaited. Options as in `run` and
        `run_async`; the undecorated function is `deposit.__wrapped__`.
        """
        if fn is None:
            return functools.partial(
                self.transactional,
                retries=retries,
                deadline=deadline,
                isolation=isolation,
                detached=detached,
            )
        if not callable(fn):
            raise TypeError(f"@engine.transactional decorates a function, not {fn!r}")
        body = fn
        if is_coroutine_function(body):

            @functools.wraps(body)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                return await self.run_async(
                    functools.partial(_with_keywords, body, kwargs),
                    *args,
                    retries=retries,
                    deadline=deadline,
                    isolation=isolation,
                    detached=detached,
                )

            return call_async

        @functools.wraps(body)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(
                functools.partial(_with_keywords, body, kwargs) if kwargs else body,
                *args,
                retries=retries,
                deadline=deadline,
                isolation=isolation,
                detached=detached,
            )

        return call

    # ---- history and figures --------------------------------------------------------------

    def diff(self, a: State | int, b: State | int | None = None) -> list[Change]:
        """What changed from version `a` to version `b` (None: the newest), path by path."""
        return self.state.diff(a, b)

    def provenance(self, path: Path | str) -> CommitRecord | None:
        """The commit that gave `path` its present value, or None if the history has forgotten."""
        return self.state.provenance(path)

    def restore(
        self,
        version: State | int,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        process: str | None = "restore",
    ) -> int:
        """Makes the content that of another version again, in one commit. Returns the version
        that now stands: a new one, unless nothing differs.

        It is a run like any other: recorded (under the name `process`), repeated when another
        commit came first (`retries`, `deadline` in seconds: as in `run`), and a part of the
        body if it is called in one (`tx.restore(state)` there). What is the same in both
        versions is shared, not copied; signals stay as they are. A State of another engine, or
        one made by hand or unpickled, is copied in.

        Raises VersionError for a version that the history does not hold, ConflictError when
        retries are used up, ClosedError.
        """
        if self.closed:
            raise ClosedError
        wanted = self.state.at(version) if isinstance(version, int) else version

        def put_back(tx: Transaction) -> Transaction:
            tx.restore(wanted)
            return tx

        return self.run(put_back, retries=retries, deadline=deadline, process=process).version

    def changes(self, path: Path | str | None = None, since: int | None = None) -> Changes:
        """The versions in which what stands at `path` is another one, as they come.

            for commit in engine.changes("domain.jobs"):
                print(commit.version, commit.old, commit.value)

        Begins after version `since` (None: after the present one), for every version if `path`
        is None. `for` waits in its thread, `async for` in its task; both end when the engine is
        closed, or the iterator is. `poll(timeout)` gives the next item or None. See
        `theus.changes.Commit` for the items; each tells how many versions were missed before it.

        Compares by identity: a value that was stored anew counts as a change although it is
        equal, unless it is the very same object; one that is put back before it was looked
        at does not. Raises VersionError for a version that does not exist yet.
        """
        from theus.changes import Changes

        return Changes(self, path, since)

    def wait_for(self, predicate: Callable[[State], object], timeout: float | None = None) -> State:
        """Waits until `predicate(state)` is true of the newest version, and returns that state.

        It is asked here and now, and after each commit, in this thread, outside all locks;
        versions that came and went in between may be left out (`changes` shows each). What
        it raises goes to the caller.

        Raises WaitTimeoutError when `timeout` seconds (None: no limit) have passed, ClosedError
        when the engine is closed, RuntimeError where it would block a running event loop.
        """
        from theus.waiting import wait_for

        return wait_for(self, predicate, timeout)

    async def wait_for_async(
        self, predicate: Callable[[State], object], timeout: float | None = None
    ) -> State:
        """`wait_for` for a task, which is where the predicate is asked: a plain function."""
        from theus.waiting import wait_for_async

        return await wait_for_async(self, predicate, timeout)

    def reader(self, since: int | None = None) -> RecordReader:
        """Attaches a reader to the ring of commit records, and returns it as an iterator.

            with engine.reader() as records:
                for record in records:
                    archive(record)

        Begins with the record of commit number `since`, or (None) with the oldest that no
        reader has taken; in mode "overwrite" with the oldest that is kept. `records.lost`
        counts exactly what was not kept for it. In the modes "block" and "strict" nothing is
        lost: commits need an attached reader, and wait or fail while one of them has a whole
        ring of records to read; so what reads should not be what commits. Raises ClosedError.
        """
        from theus.changes import RecordReader

        return RecordReader(self, since)

    def stats(self) -> EngineStats:
        """What the engine has done so far. The figures are read one after the other."""
        counters = self.counters()
        return EngineStats(
            version=self.version,
            commits=counters["commits"],
            rebases=counters["rebases"],
            conflicts=counters["conflicts"],
            retries=counters["retries"],
            noops=counters["noops"],
            reads=counters["reads"],
            conflicts_by_path=counters["conflicts_by_path"],
            ring_capacity=counters["ring_capacity"],
            ring_lost=counters["ring_lost"],
            history_versions=counters["history_versions"],
            queue_depth=counters["queue_depth"],
            queueing=counters["queueing"],
            tickets=counters["tickets"],
            tickets_held=counters["tickets_held"],
            waits=counters["waits"],
            leases_expired=counters["leases_expired"],
            tries_max=max(counters["tries_max"], min(counters["commits"], 1)),
            tries=counters["tries"],
        )

    # ---- life -------------------------------------------------------------------------------

    def __enter__(self) -> TheusEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> TheusEngine:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an engine cannot be pickled or copied; pickle engine.state, and begin another engine "
            "with it: TheusEngine(state)"
        )

    def __repr__(self) -> str:
        if self.closed:
            return "<TheusEngine: closed>"
        roots = ", ".join(map(str, self.state.data))
        return f"<TheusEngine: version {self.version}, roots {roots or 'none'}>"


def _with_keywords(
    body: Callable[..., R], kwargs: Mapping[str, Any], tx: Transaction, /, *args: Any
) -> R:
    return body(tx, *args, **kwargs)


# ---- construction ---------------------------------------------------------------------------


def _roots_of(context: object) -> dict[str, Any]:
    """The roots that a context names, under their proper names. Nothing is left out."""
    if context is None:
        return {}
    given = context
    if not isinstance(given, Mapping):
        for way in ("to_dict", "model_dump"):
            dump = getattr(context, way, None)
            if callable(dump):
                given = dump()
                break
    if not isinstance(given, Mapping):
        if given is not context:
            raise TypeError(f"the context's {way}() gave {given!r}, which is not a mapping")
        raise TypeError(
            "the initial state is a dict of roots, such as {'domain': {...}}, or an object with "
            f"to_dict() or model_dump(), not a {type(context).__name__}: {_shown(context)}"
        )
    roots: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise TypeError(f"the roots of a state are named by texts, and {key!r} is none")
        name = ROOT_ALIASES.get(key, key)
        if name in roots and roots[name] != value:
            raise ValueError(f"the context has two different roots {name!r}, one named {key!r}")
        roots[name] = value
    return roots


def _namespace(entry: object) -> tuple[str, Any]:
    """Name and data of one namespace. Policies are refused: nothing would enforce them."""
    if isinstance(entry, Mapping):
        unknown = set(entry) - {"name", "policy", "data"}
        if unknown:
            raise ValueError(
                f"namespaces: {entry!r} has the unknown key {min(unknown, key=str)!r}; keys are "
                "name, policy and data"
            )
        fields = (entry.get("name"), entry.get("policy"), entry.get("data"))
    elif isinstance(entry, tuple) and 1 <= len(entry) <= 3:
        fields = (*entry, None, None)[:3]
    else:
        raise TypeError(
            "namespaces: each is a dict with a name, or a tuple (name, policy, data), "
            f"not {entry!r}"
        )
    name, policy, data = fields
    if not isinstance(name, str) or not name:
        raise ValueError(f"namespaces: {entry!r} has no name")
    if policy is not None:
        raise NotImplementedError(
            f"namespaces: {name!r} has a policy, and policies are not part of this version; "
            "leave it out: contracts say what a process may do there"
        )
    return name, {} if data is None else data


def _write_timeout(given: int | None) -> int:
    what, value = "write_timeout_ms", given
    if given is None:
        what = "THEUS_WRITE_TIMEOUT_MS"
        text = os.environ.get(what)
        if text is None:
            return DEFAULT_WRITE_TIMEOUT_MS
        value = int(text) if text.strip().isdecimal() else None
        given = value if value is not None else text  # type: ignore[assignment]
    if type(value) is not int or value <= 0:
        raise ValueError(f"{what} is a number of milliseconds above 0, not {given!r}")
    return value
