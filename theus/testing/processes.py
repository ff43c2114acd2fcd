"""Recorded runs of processes: the contract stands as in any run, and each step is written down.

A process gets a stand-in for its context. What it reads and writes goes by path through the
transaction, on which its guard lies, so what it has not declared is refused there, in the usual
words; what is returned for its outputs is stored through the recorder, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from theus._theus import Context, Transaction
from theus.errors import ProcessError
from theus.options import Options
from theus.plan import EffectPlan, GuidePlan, Plan, PurePlan
from theus.scope import ROOT_ALIASES
from theus.testing.recording import RecordingMap, RecordingTransaction, bare
from theus.zones import Capability, ContextZone, resolve_zone

if TYPE_CHECKING:
    from theus.engine import TheusEngine
    from theus.testing.recorder import Recorder, _Chain

__all__ = ["RecordedOptions", "RecordingContext"]

_PASSED = frozenset(("input", "local", "log", "now", "random", "outbox", "signal"))


class RecordedOptions:
    """What `Recorder.options` gives: runs processes as the engine's own options do."""

    __slots__ = ("_options", "_recorder")

    def __init__(self, recorder: Recorder, options: Options) -> None:
        self._recorder = recorder
        self._options = options

    def run_process(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`engine.run_process`, recorded."""
        chain = self._recorder._chain(self._options.detached)
        stand_in = _recorded(self._options.engine.plan(process), chain)
        return _Watched.with_chain(self._options, chain).run_process(stand_in, *args, **kwargs)

    async def execute(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`await engine.execute`, recorded. A helper thread whose task was cancelled ends its
        record when its body has ended.
        """
        chain = self._recorder._chain(self._options.detached)
        plan = self._options.engine.plan(process)
        watched = _Watched.with_chain(self._options, chain)
        running = watched.execute(_recorded(plan, chain), *args, **kwargs)
        if not plan.is_coroutine:
            return await running
        with chain:
            return await running


class _Watched(Options):
    """Options that end the record of a run where the run ends: maybe in a helper thread."""

    chain: _Chain

    @classmethod
    def with_chain(cls, options: Options, chain: _Chain) -> _Watched:
        watched = cls(*options)
        watched.chain = chain
        return watched

    def _run(self, *run: Any) -> Any:
        with self.chain:
            return super()._run(*run)


def _recorded(plan: Plan, chain: _Chain) -> Callable[..., Any]:
    """A process that does the same, and whose plan keeps a record of each attempt."""

    def stand_in(ctx: Context, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("only its plan is run")

    stand_in._theus_plan = recorded = _copy(plan, type(plan))  # type: ignore[attr-defined]
    recorded.function = stand_in
    recorded.attempt = _attempt_async(plan, chain) if plan.is_coroutine else _attempt(plan, chain)
    return stand_in


def _copy(plan: Plan, kind: type[Plan]) -> Any:
    copy = object.__new__(kind)
    for slot in Plan.__slots__:
        setattr(copy, slot, getattr(plan, slot))
    return copy


# ---- one attempt ------------------------------------------------------------------------------


def _attempt(plan: Plan, chain: _Chain) -> Callable[..., Any]:
    def attempt(
        tx: Transaction, engine: TheusEngine, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        plan._check_arguments(args, kwargs)  # a wrong call would look like an error of the body
        _refuse_hidden(engine, tx)
        with chain.attempt(tx) as recording:
            watched = _watched(plan, recording)
            watched.function = lambda ctx, *args, **kwargs: bare(
                plan.function(RecordingContext(ctx, recording), *args, **kwargs)
            )
            return watched.attempt_here(tx, engine, args, kwargs)

    return attempt


def _attempt_async(plan: Plan, chain: _Chain) -> Callable[..., Any]:
    async def attempt(
        tx: Transaction, engine: TheusEngine, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        plan._check_arguments(args, kwargs)
        _refuse_hidden(engine, tx)
        with chain.attempt(tx) as recording:
            watched = _watched(plan, recording)

            async def function(ctx: Context, *args: Any, **kwargs: Any) -> Any:
                context = RecordingContext(ctx, recording)
                return bare(await plan.function(context, *args, **kwargs))

            watched.function = function
            return await watched._attempt_async(tx, engine, args, kwargs)

    return attempt


def _watched(plan: Plan, recording: RecordingTransaction) -> Any:
    copy = _copy(plan, _WATCHING[type(plan)])
    copy.recording = recording
    copy._parameters = plan.parameters
    copy.single = None  # so that every returned value comes to settle()
    return copy


class _Watching(Plan):
    """The same plan, storing what is returned through a recording."""

    __slots__ = ("recording",)
    recording: RecordingTransaction

    def settle(self, engine: TheusEngine, tx: Transaction, result: Any) -> Any:
        return super().settle(engine, cast(Transaction, self.recording), result)


class _Effect(_Watching, EffectPlan):
    __slots__ = ()


class _Pure(_Watching, PurePlan):
    __slots__ = ()


class _Guide(_Watching, GuidePlan):
    __slots__ = ()


_WATCHING = {EffectPlan: _Effect, PurePlan: _Pure, GuidePlan: _Guide}


def _refuse_hidden(engine: TheusEngine, tx: Transaction) -> None:
    """A field that processes may not read looks as if nothing were there: no check could tell that
    from a lost value.
    """
    for root, content in tx.state.data.items():
        for field in content if isinstance(content, Mapping) else ():
            if isinstance(field, str) and _is_hidden(engine, root, field):
                raise ProcessError(
                    f"{root}.{field} may not be read by processes, so their runs cannot be "
                    "recorded: what they are shown there is not what stands there"
                )


def _is_hidden(engine: TheusEngine, root: str, field: str) -> bool:
    everything, rules = (engine._rules or {}).get(root, (Capability.READ, {}))
    rights = rules.get(field)
    if rights is None:
        return resolve_zone(field) is ContextZone.PRIVATE or not everything & Capability.READ
    return not rights & Capability.READ


# ---- the context ------------------------------------------------------------------------------


class RecordingContext:
    """The stand-in for its context that a recorded process gets.

    Roots by name or item, `add`, `append`, `transaction`, and the context's own `input`, `local`,
    `log`, `now`, `random`, `outbox` and `signal`. For one thread or task at a time.
    """

    __slots__ = ("_context", "_recording")

    def __init__(self, context: Context, recording: RecordingTransaction) -> None:
        object.__setattr__(self, "_context", context)
        object.__setattr__(self, "_recording", recording)

    @property
    def transaction(self) -> RecordingTransaction:
        self._context.transaction  # noqa: B018  # refused here if the contract has none
        recording: RecordingTransaction = self._recording
        return recording

    def add(self, path: Any, amount: Any) -> None:
        self.transaction.add(path, amount)

    def append(self, path: Any, value: Any) -> None:
        self.transaction.append(path, value)

    def __getitem__(self, root: str) -> Any:
        return self._roots[ROOT_ALIASES.get(root, root)]

    def __setitem__(self, root: str, value: Any) -> None:
        self._roots[ROOT_ALIASES.get(root, root)] = value

    def __delitem__(self, root: str) -> None:
        del self._roots[ROOT_ALIASES.get(root, root)]

    def __contains__(self, root: str) -> bool:
        return ROOT_ALIASES.get(root, root) in self._roots

    @property
    def _roots(self) -> RecordingMap:
        return RecordingMap(self._recording, ())

    def __getattr__(self, name: str) -> Any:
        if name in _PASSED:
            return getattr(self._context, name)
        _refuse(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the state has no root {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(name)
        self[name] = value

    def __delattr__(self, name: str) -> None:
        _refuse(name)
        del self[name]


def _refuse(name: str) -> None:
    if name not in ROOT_ALIASES and hasattr(Context, name):
        raise AttributeError(
            f"ctx.{name} is not recorded: a recorded process reads and writes by its roots, by "
            "ctx.transaction, and by ctx.add and ctx.append"
        )
