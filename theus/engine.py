"""TheusEngine: one versioned state, and everything that may change it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, overload

from theus._theus import Transaction
from theus._types import Isolation
from theus.construction import namespace_of, roots_of, write_timeout
from theus.errors import (
    ProcessError,
    SecurityViolationError,
    TransactionError,
    UnknownProcessError,
)
from theus.history import EngineHistory
from theus.outbox import Courier, OutboxMsg, OutboxReport, check_handler
from theus.plan import Plan, plan_of
from theus.runs import run_async, transactional

# The errors are exported here, too, because older programs import them from here.
__all__ = ["SecurityViolationError", "TheusEngine", "TransactionError"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class TheusEngine(EngineHistory):
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
        roots = roots_of(context)
        for name, data in map(namespace_of, namespaces or ()):
            if name in roots:
                raise ValueError(f"namespaces: the state has a root {name!r} already")
            roots[name] = data
        super().__init__(
            roots or None,
            strict_cas=strict_cas,
            write_timeout_ms=write_timeout(write_timeout_ms),
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
        self._courier = Courier()

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
            return await run_async(
                self,
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

    # ---- messages -----------------------------------------------------------------------

    def attach_worker(self, handler: Callable[[OutboxMsg], object]) -> None:
        """Sets the handler that `process_outbox()` uses when it is given none."""
        self._courier.handler = check_handler(handler)

    def process_outbox(self, handler: Callable[[OutboxMsg], object] | None = None) -> OutboxReport:
        """Calls `handler(message)` for each message that waits, in the order of the commits.

        A message is done when its handler has returned. If that raises an Exception, the report
        has it, and the message stays with those behind it in its topic, for the next call;
        other topics go on. Without a handler (see `attach_worker`) all of them stay.

        The handler runs here, in this thread, and may use the engine; what it sends is for the
        next call. One thread at a time hands over: others wait their turn. Also works after
        `close()`. Raises TypeError for a handler that is none or a coroutine function,
        TransactionError inside a transaction, and ProcessError inside a handler.
        """
        return self._courier.run(self, handler)

    # ---- transactions -------------------------------------------------------------------

    async def run_async(
        self,
        fn: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: Isolation = "serializable",
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
        return await run_async(
            self,
            fn,
            args,
            retries=retries,
            deadline=deadline,
            isolation=isolation,
            detached=detached,
        )

    @overload
    def transactional(self, fn: Callable[Concatenate[Transaction, P], R], /) -> Callable[P, R]: ...

    @overload
    def transactional(
        self,
        /,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: Isolation = "serializable",
        detached: bool = False,
    ) -> Callable[[Callable[Concatenate[Transaction, P], R]], Callable[P, R]]: ...

    def transactional(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        isolation: Isolation = "serializable",
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
        options = {
            "retries": retries,
            "deadline": deadline,
            "isolation": isolation,
            "detached": detached,
        }
        if fn is None:
            return functools.partial(self.transactional, **options)
        return transactional(self, fn, options)

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
