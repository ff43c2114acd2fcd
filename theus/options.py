"""How one process is run, apart from what its function is passed.

    engine.options(retries=3, timeout=2.0).run_process(pay, "ann", amount=5)

Options travel apart from the call, so a process may have parameters of any name.

An awaited plain function runs in a helper thread, which nobody can stop. If the task that waits
for it is cancelled, or its time is over, its transaction is ended from outside: what it held is
free at once, and whatever the function asks of its context from then on is refused.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from operator import is_not
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar, overload

from theus._theus import HOME, Engine, Transaction, abandon
from theus.arguments import check_flag, check_seconds
from theus.errors import ProcessError, ProcessTimeoutError, TransactionError, _shown
from theus.plan import Plan
from theus.retry import Patience
from theus.runs import run_async

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from theus.engine import TheusEngine
    from theus.workers import Choice

__all__ = ["Options", "check_options"]

P = ParamSpec("P")
R = TypeVar("R")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_NONE_SET = (None, None, None, None, False)


class Options(NamedTuple):
    """What `TheusEngine.options` gives. Does not change; may be kept, and shared by threads.

    retries    attempts after the first that meet a conflict; None: no limit
    deadline   seconds for which attempts are repeated; None: the engine's write timeout
    timeout    seconds for the run with all its attempts; None: as the process declares. It ends
               an awaited run at once; a synchronous one is refused when its body is back. Of a
               parallel process it holds for the trial that finds its workers, too, and goes on
               when the run begins anew in others
    inline     whether a plain function that is awaited runs on the loop's thread; None: as the
               process declares
    detached   gives a run that a body starts, or a task or thread of it, a transaction of its own
    """

    engine: TheusEngine
    retries: int | None = None
    deadline: float | None = None
    timeout: float | None = None
    inline: bool | None = None
    detached: bool = False

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
        """`TheusEngine.execute` with these options. Raises ProcessTimeoutError, too."""
        engine = self.engine
        plan = self._plan(process)
        timeout = plan.timeout if self.timeout is None else self.timeout
        if plan.parallel:
            return await self._elsewhere(plan, (args, kwargs), timeout)
        if plan.is_coroutine:
            run = run_async(
                engine,
                plan.attempt if timeout is None else _timed_async(plan, timeout),
                (engine, args, kwargs),
                retries=self.retries,
                deadline=self.deadline,
                isolation=plan.isolation,
                detached=self.detached,
                process=plan.name,
            )
            return await (run if timeout is None else _in_time(run, plan, timeout))
        inline = plan.inline if self.inline is None else self.inline
        if inline or (not self.detached and engine.current() is not None):
            return self._run(plan, plan.attempt, (args, kwargs), timeout)
        running = self._in_thread(plan, (args, kwargs), timeout)
        return await (running if timeout is None else _in_time(running, plan, timeout))

    @overload
    def run_process(
        self, process: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @overload
    def run_process(self, process: str, /, *args: Any, **kwargs: Any) -> Any: ...

    def run_process(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`TheusEngine.run_process` with these options. Raises ProcessTimeoutError, too."""
        plan = self._plan(process)
        if plan.is_coroutine:
            raise ProcessError(
                f"process {plan.name!r} is a coroutine function: use "
                f"`await engine.execute({plan.name!r}, ...)`",
                plan.name,
            )
        timeout = plan.timeout if self.timeout is None else self.timeout
        if plan.parallel:
            return self.run_elsewhere(plan, (args, kwargs), plan.parallel)
        return self._run(plan, plan.attempt, (args, kwargs), timeout)

    def _plan(self, process: Callable[..., Any] | str) -> Plan:
        """The process that is to be run. A tuple can be made with anything in it: so here."""
        if any(map(is_not, self[1:], _NONE_SET)):
            check_options(*self[1:])
        if not isinstance(self.engine, Engine):
            raise TypeError(f"options are those of a TheusEngine, not of {_shown(self.engine)}")
        return self.engine.plan(process)

    def run_elsewhere(self, plan: Plan, arguments: Arguments, wanted: bool | str) -> Any:
        """Runs a process in a worker, and waits for it."""
        workers = self.engine.workers
        timeout = plan.timeout if self.timeout is None else self.timeout
        end = _end(timeout)
        while True:
            try:
                _check_time(plan, timeout, end)
                choice = self._choice_of_workers(plan, wanted)
                if choice.kind == "threads":  # this one is as good as another
                    return self._run(plan, plan.attempt, arguments, timeout, end)
                errand = workers.errand(plan, choice, timeout)
                errand.end = end
                return self._run(plan, errand, arguments, None)
            except workers.untried as found:
                found.try_it()
            except workers.unfit as found:
                workers.is_unfit(plan.function, found)

    async def _elsewhere(self, plan: Plan, arguments: Arguments, timeout: float | None) -> Any:
        """Runs a process in a worker, and awaits it."""
        engine, workers = self.engine, self.engine.workers
        end = _end(timeout)
        while True:
            try:
                _check_time(plan, timeout, end)
                choice = self._choice_of_workers(plan, plan.parallel)
                if choice.kind == "threads":
                    threads = engine.get_pool("threads")
                    running = self._in_thread(plan, arguments, timeout, threads, end)
                    return await (
                        running if timeout is None else _in_time(running, plan, timeout, end)
                    )
                errand = workers.errand(plan, choice, timeout)
                errand.end = end
                return await run_async(
                    engine,
                    errand.in_task,
                    (engine, *arguments),
                    retries=self.retries,
                    deadline=_no_longer(self.deadline, timeout, engine),
                    isolation=plan.isolation,
                    detached=self.detached,
                    process=plan.name,
                )
            except workers.untried as found:
                from asyncio import get_running_loop

                trial = get_running_loop().run_in_executor(None, found.try_it)
                await (trial if timeout is None else _in_time(trial, plan, timeout, end))
            except workers.unfit as found:
                workers.is_unfit(plan.function, found)

    def _choice_of_workers(self, plan: Plan, wanted: bool | str) -> Choice:
        """Of what kind its worker is. Raises TransactionError in a body, and Untried."""
        engine = self.engine
        if not self.detached and engine.current() is not None:
            raise TransactionError(
                f"process {plan.name!r} is parallel, and a worker cannot see what the body around "
                "it has written and not committed: run it outside, or with "
                "engine.options(detached=True), in a transaction of its own"
            )
        return engine.workers.choice(wanted, plan.function)

    def _run(
        self,
        plan: Plan,
        attempt: Callable[..., Any],
        arguments: Arguments,
        timeout: float | None,
        end: float | None = None,
    ) -> Any:
        """`end`: when its time is over, if that has begun already."""
        engine, deadline = self.engine, self.deadline
        if timeout is not None:
            end = time.monotonic() + timeout if end is None else end
            attempt = _timed(plan, attempt, end, timeout)
            deadline = _no_longer(deadline, timeout, engine)
        return engine.run(
            attempt,
            engine,
            *arguments,
            retries=self.retries,
            deadline=deadline,
            isolation=plan.isolation,
            detached=self.detached,
            process=plan.name,
        )

    async def _in_thread(
        self,
        plan: Plan,
        arguments: Arguments,
        timeout: float | None,
        threads: Executor | None = None,
        end: float | None = None,
    ) -> Any:
        from asyncio import CancelledError, get_running_loop

        guest = _Guest(plan)
        context = copy_context()

        def work() -> Any:
            try:
                return context.run(self._run, plan, guest, arguments, timeout, end)
            except StopIteration as stop:  # no future takes one, so nobody would ever hear of it
                raise RuntimeError(f"process {plan.name!r} raised StopIteration") from stop

        running = get_running_loop().run_in_executor(threads, work)
        try:
            return await running
        except CancelledError:
            guest.abandon()
            raise
        finally:
            if not running.cancelled():
                _carry_back(context)


class _Guest:
    """A plan's attempt in a helper thread, which the thread of the loop can end.

    `abandon` sets `abandoned` and then looks for the transaction; a call stores that and then
    looks at `abandoned`: so one of the two sees the other.
    """

    __slots__ = ("abandoned", "plan", "transaction")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.abandoned = False
        self.transaction: Transaction | None = None

    def __call__(self, tx: Transaction, *rest: Any) -> Any:
        self.transaction = tx
        result = None if self.abandoned else self.plan.attempt(tx, *rest)
        if self.abandoned:
            raise TransactionError(
                f"the task that awaited {self.plan.name!r} was cancelled, or its time was over"
            )
        return result

    def abandon(self) -> None:
        self.abandoned = True
        if self.transaction is not None:
            abandon(self.transaction)


_NOTHING = object()


def _carry_back(context: Context) -> None:
    """Sets here what was set in `context`: a helper thread is to be no other place than this."""
    here = copy_context()
    for variable, value in context.items():
        if variable is not HOME and here.get(variable, _NOTHING) is not value:
            variable.set(value)


def _no_longer(deadline: float | None, timeout: float | None, engine: TheusEngine) -> float | None:
    """The deadline for attempts of a run that has to be over after `timeout` seconds."""
    if timeout is None:
        return deadline
    return min(engine.write_timeout_ms / 1000 if deadline is None else deadline, timeout)


def _end(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _check_time(plan: Plan, timeout: float | None, end: float | None) -> None:
    if end is not None and time.monotonic() > end:
        raise ProcessTimeoutError(plan.name, timeout or 0.0)


def _timed(
    plan: Plan, attempt: Callable[..., Any], end: float, timeout: float
) -> Callable[..., Any]:
    """An attempt that fails if it ends too late."""

    def timed(*args: Any) -> Any:
        result = attempt(*args)
        _check_time(plan, timeout, end)
        return result

    return timed


def _timed_async(plan: Plan, timeout: float) -> Callable[..., Any]:
    """The attempt of a coroutine function, that fails if it ends too late: its body may have
    swallowed the cancellation, or never have let go of the loop.
    """
    end = time.monotonic() + timeout

    async def timed(*args: Any) -> Any:
        result = await plan.attempt(*args)
        _check_time(plan, timeout, end)
        return result

    return timed


async def _in_time(run: Awaitable[R], plan: Plan, seconds: float, end: float | None = None) -> R:
    """Awaits a run, which is cancelled when its time is over."""
    from asyncio import timeout

    limit = timeout(seconds if end is None else end - time.monotonic())
    try:
        async with limit:
            return await run
    except TimeoutError as error:
        if limit.expired() and not isinstance(error, ProcessTimeoutError):
            raise ProcessTimeoutError(plan.name, seconds) from error
        raise


def check_options(
    retries: int | None, deadline: float | None, timeout: object, inline: object, detached: object
) -> None:
    """Raises TypeError or ValueError for what no run can be held to."""
    Patience(retries, 0 if deadline is None else deadline)
    check_seconds("timeout", timeout)
    check_flag("inline", False if inline is None else inline)
    check_flag("detached", detached)
