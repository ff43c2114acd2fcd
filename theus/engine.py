"""TheusEngine: one versioned state, and everything that may change it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import starmap
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar, overload

from theus._theus import Context, DraftDict, Scope, Transaction
from theus._types import Isolation, PoolKind
from theus.admin import AdminRecord
from theus.arguments import check_flag, check_name
from theus.construction import (
    context_of,
    context_type,
    lock_contexts,
    namespaced,
    roots_of,
    write_timeout,
)
from theus.edit import Edit
from theus.errors import (
    ProcessError,
    SecurityViolationError,
    TransactionError,
    UnknownProcessError,
    _shown,
)
from theus.guards import ContextGuard
from theus.old_names import OldNames
from theus.options import Options, check_options
from theus.outbox import Courier, OutboxMsg, OutboxReport, check_handler
from theus.plan import Plan, plan_of
from theus.runs import run_async, transactional

if TYPE_CHECKING:
    from theus._theus import State
    from theus.locks import LockManager
    from theus.namespaces import NamespaceRegistry
    from theus.paths import Path
    from theus.zones import Rules

# The errors are exported here, too, because older programs import them from here.
__all__ = ["SecurityViolationError", "TheusEngine", "TransactionError"]

# What a process sees has the same types whatever it declares. Older programs name them so.
SupervisorProxy = ContextGuard
RestrictedStateProxy = Context
FilteredDomainProxy = DraftDict

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class TheusEngine(OldNames):
    """One immutable, versioned state, and the transactions that make its next versions.

        engine = TheusEngine({"domain": {"count": 0}})
        with engine.transaction() as tx:
            tx.domain.count += 1

    `context` is the initial state: a mapping whose keys are the roots; an instance of a
    dataclass or a Pydantic model, whose fields are the roots, and keep their types: a
    `domain: Shop` is given back as a view of a Shop, with `to_object()`; or an object with
    `to_dict()`. It is copied; typed contexts (`theus.context`) are locked then.

    `namespaces` are further roots, each `{"name": ..., "policy": ..., "data": ...}`,
    `(name, policy, data)`, or a registry of them: see `theus.namespaces`. `zones` are rules
    about roots and their fields, `{"domain.rows": APPEND_ONLY}`: see `theus.zones`.

    `strict_guards=False` lets processes read what they have not declared; writes are
    checked all the same. `strict_cas` makes every newer version a conflict for
    `compare_and_swap`. `write_timeout_ms` bounds the engine's own runs and the time for
    which they are retried (default: the environment's THEUS_WRITE_TIMEOUT_MS, else five
    minutes). `history` is the number of versions kept, `ring_capacity` of commit records, and
    `ring_mode` says what becomes of a record for which there is no room: "overwrite" (the
    oldest goes), "drop_new" (it is not kept), "block" (the commit waits for a `reader`, at most
    `ring_timeout_ms`; 0: no limit) or "strict" (the commit fails). See `reader`.
    `shm_backend` is where the arrays of `heavy` lie: "anonymous" or "named" (default: the
    environment's THEUS_SHM_BACKEND, else "anonymous"); see `theus.heavy`. `pool` and `pool_size`
    say which workers run parallel processes, and how many: see `theus.workers`. `strict_mode` is
    an old name of `strict_guards`, and `audit_recipe` must be None.

    Raises TypeError or ValueError, naming the option, for what it does not take;
    UnfreezableError, with the path, for a value that a state cannot own.

    Engines share nothing. All methods may be called from any thread and any task.
    """

    checks_reads: (
        bool  # strict_guards, as plans ask for it: an attribute costs less than a property
    )
    has_rules: bool  # about fields: see scope_of

    def __init__(
        self,
        context: object = None,
        namespaces: NamespaceRegistry | Iterable[Mapping[str, Any] | tuple[Any, ...]] | None = None,
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
        zones: Mapping[Path | str, int] | None = None,
        shm_backend: str | None = None,
        pool: PoolKind | None = None,
        pool_size: int | None = None,
    ) -> None:
        if audit_recipe is not None:
            raise NotImplementedError(
                "audit_recipe: auditing is not part of this version; leave it out"
            )
        if shm_backend not in (None, "anonymous", "named"):
            raise ValueError(f"shm_backend is 'anonymous' or 'named', not {_shown(shm_backend)}")
        if strict_mode is not None:
            strict_guards = check_flag("strict_mode", strict_mode)
        if pool is not None or pool_size is not None:
            from theus.workers import check_pool

            check_pool(pool, pool_size)
        self._pool = (pool, pool_size)
        self._shm_backend = shm_backend
        roots = roots_of(context)
        self._rules = namespaced(roots, context, namespaces, zones)
        self.has_rules = self._rules is not None
        super().__init__(
            roots or None,
            zones=self._rules,
            strict_cas=strict_cas,
            write_timeout_ms=write_timeout(write_timeout_ms),
            ring_capacity=ring_capacity,
            ring_mode=ring_mode,
            ring_timeout_ms=ring_timeout_ms,
            history=history,
        )
        self.checks_reads = True
        self.lock_manager: LockManager | None = None
        self.strict_guards = strict_guards
        self._registry: dict[str, Plan] = {}
        self._runnable: set[Plan] = set()  # of those that do not run in every engine
        self._courier = Courier()
        self._scopes: dict[Scope, Scope] = {}  # of processes, under the rules of this engine
        self._context_type = context_type(context)
        self.lock_manager = lock_contexts(context, roots, self.strict_guards)

    @property
    def strict_guards(self) -> bool:
        """Whether a process is refused reads that it has not declared; writes always are.

        May be set at any time, for the runs that begin then. Setting it to False is told to the
        logger "theus".
        """
        return self.checks_reads

    @strict_guards.setter
    def strict_guards(self, value: bool) -> None:
        check_flag("strict_guards", value)
        before, self.checks_reads = self.checks_reads, value
        if self.lock_manager is not None:
            self.lock_manager.strict_guards = value
        if before and not value:
            from theus.helpers import get_logger  # some milliseconds that nobody else pays

            get_logger("theus").warning(
                "strict_guards=False: processes may read what they have not declared; "
                "writes are checked"
            )

    def log(self, *values: object) -> None:
        """Logs the values, separated by spaces, as an INFO record of the logger "theus"."""
        from theus.helpers import get_logger  # some milliseconds that nobody else pays

        get_logger("theus").info("%s", " ".join(map(str, values)), stacklevel=2)

    # ---- processes --------------------------------------------------------------------

    def register(self, func: F, *, name: str | None = None, replace: bool = False) -> F:
        """Makes a process known by name (default: its own). Returns it, so it decorates.

        Raises ProcessError if another process has the name (unless `replace`), if it is a
        coroutine function that is declared parallel, or if an input or output is below no root of
        the state; TypeError or ValueError for a `name` that is no text, or empty.
        """
        check_flag("replace", replace)
        plan = plan_of(func, None if name is None else check_name("name", name))
        plan.check_runnable(self)
        known = self._registry.get(plan.name)
        if known is not None and known.function != func and not replace:
            raise ProcessError(
                f"another process is registered as {plan.name!r}; give this one a name=, or pass "
                "replace=True",
                plan.name,
            )
        self._registry[plan.name] = plan
        return func

    def allow_admin(self, process: Callable[..., Any] | str) -> None:
        """Lets a process open admin scopes (`theus.admin`): this very function, or the one that is
        registered by this name now. Raises UnknownProcessError; TransactionError in a transaction:
        no body lets itself in.
        """
        plan = self.plan(process)
        self.allow_admin_function(plan.function, plan.name)

    def admin_log(self) -> list[AdminRecord]:
        """The last 1024 admin scopes, oldest first."""
        return list(starmap(AdminRecord, self.admissions()))

    @property
    def field_rules(self) -> Rules | None:
        """What it was told about roots and their fields, for those who hold themselves to it
        elsewhere. Not to be changed."""
        return self._rules

    def scope_of(self, scope: Scope | None) -> Scope | None:
        """The scope of a contract under the rules that this engine has about fields."""
        if scope is None or self._rules is None:
            return scope
        ruled = self._scopes.get(scope)
        if ruled is None:
            if len(self._scopes) >= 1024:  # of functions that are made for one call
                self._scopes.clear()
            ruled = self._scopes[scope] = scope.under(self._rules)
        return ruled

    @overload
    async def execute(
        self,
        process: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...

    @overload
    async def execute(
        self, process: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    async def execute(self, process: str, /, *args: Any, **kwargs: Any) -> Any: ...

    async def execute(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Runs a process, given as a function or by its registered name, as a transaction.

        All arguments are the function's own, after its context; `options` has those of the run.
        A coroutine function runs in this task; a plain one in a helper thread, unless it is
        declared `inline`, with this task's context variables, and what it sets in them is set
        here. Inside a body, both join it as a savepoint, within the contract of that body, and
        a plain function runs here: a transaction is not shared between threads. One that is
        declared parallel runs in a worker: see `theus.parallel`, also for what that raises.

        Returns what the function returned, its drafts as frozen views; what of that goes
        into the state is told in `theus.outputs`. Raises what the function raises, and
        nothing is kept then; ContractViolationError for what it has not declared; ArgumentError
        if it does not take these arguments; ProcessTimeoutError after its `timeout`;
        ConflictError when retries are used up; UnknownProcessError for a name that is not
        registered; TransactionError in a task that a body has started, and in a thread that has
        a copy of the context variables of a body, as `asyncio.to_thread` gives it one
        (`options(detached=True)`). A bare thread has none, unless its Python hands them on
        (3.14 without a GIL does): nothing ties what it runs to the body that has started it.

        If this task is cancelled, so is the run, and it is rolled back at once. A helper thread
        cannot be stopped: what it asks of its context from then on is refused.
        """
        plan: Plan | None = getattr(process, "_theus_plan", None)
        if (
            plan is not None
            and plan.is_simple_coroutine
            and plan.function is process
            and (plan.runs_anywhere or plan in self._runnable)
        ):
            return await run_async(self, plan.attempt, (self, args, kwargs), process=plan.name)
        return await Options(self).execute(process, *args, **kwargs)

    @overload
    def run_process(
        self, process: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    def run_process(self, process: str, /, *args: Any, **kwargs: Any) -> Any: ...

    def run_process(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`execute` for synchronous callers: runs a process here and now, in this thread.

        Raises ProcessError for a coroutine function; everything else as `execute`. A `timeout`
        is looked at when the body is back, and then the run is rolled back.
        """
        plan: Plan | None = getattr(process, "_theus_plan", None)
        if (
            plan is not None
            and plan.is_simple
            and plan.function is process
            and (plan.runs_anywhere or plan in self._runnable)
        ):
            return self.run(plan.attempt, self, args, kwargs, process=plan.name)
        return Options(self).run_process(process, *args, **kwargs)

    def execute_parallel(
        self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Any:
        """`run_process` in a worker, also for a process that is not declared parallel.

        Waits for it: a task awaits `execute`. See `theus.parallel`.
        """
        plan = self.plan(process)
        if plan.is_coroutine:
            raise ProcessError(
                f"process {plan.name!r} is a coroutine function, which a worker has no loop for; "
                "await engine.execute() runs it here",
                plan.name,
            )
        return Options(self).run_elsewhere(plan, (args, kwargs), plan.parallel or True)

    def options(
        self,
        *,
        retries: int | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
        inline: bool | None = None,
        detached: bool = False,
    ) -> Options:
        """How the processes are run that are started through what this returns.

            engine.options(retries=3, timeout=2.0).run_process(pay, "ann", amount=5)

        See `theus.options.Options`, which has `execute` and `run_process`. Times are in
        seconds. Raises TypeError or ValueError for what no run can be held to.
        """
        check_options(retries, deadline, timeout, inline, detached)
        return Options(self, retries, deadline, timeout, inline, detached)

    def plan(self, process: Callable[..., Any] | str) -> Plan:
        """A process made ready to run here; see `theus.plan`. Raises as `execute` does."""
        if isinstance(process, str):
            known = self._registry.get(process)
            if known is None:
                raise UnknownProcessError(process, tuple(self._registry))
            plan = known
        else:
            plan = plan_of(process)
        if not plan.runs_anywhere and plan not in self._runnable:
            plan.check_runnable(self)
            if len(self._runnable) >= 1024:  # of functions that are made for one call
                self._runnable.clear()
            self._runnable.add(plan)
        return plan

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

    def edit(self, write_timeout_ms: int = 5000) -> Edit:
        """A block that changes the state as a whole by hand, as one transaction.

            with engine.edit() as ctx:
                ctx.domain.users["ann"] = {"age": 31}
                ctx.global_.limit = 5

        `ctx` is a context without a contract: see `theus.context`. Leaving the block commits,
        under the name `edit`; if it raises, nothing is kept and the exception goes on. Raises
        ConflictError if another commit came first: a block cannot be repeated, `run` can.
        `async with` does the same in a task. In a body it joins that, within its contract.
        """
        return Edit(self.transaction(write_timeout_ms, process="edit"))

    def to_object(self, state: State | None = None) -> Any:
        """The state as a whole, of the kind that the engine was made with, and the caller's own.

            system = engine.to_object()         # of TheusEngine(System(domain=Shop(), ...))
            assert type(system) is System and type(system.domain) is Shop

        An instance of the dataclass or Pydantic model that was given as `context`, with all that
        is in it; a dict of the roots, of builtins and instances, if it was anything else. It is
        independent of the engine and not locked. `state` is the version (default: the current
        one). Roots that the class does not declare become attributes, if instances have room for
        them; TypeError if not.
        """
        return context_of(self._context_type, self.state if state is None else state)

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
