"""How one process is run: its contract, made ready once for every later call.

A plan turns `function(ctx, *args)` into a body that a transaction can run:

    attempt(tx, engine, args, kwargs)
        run_body:
            open a context: the guard of the contract stands, within that of a body around it
            function(context, *args, **kwargs)
            close it: from here on only outputs may be written
        settle: store the returned value, free what is returned

An attempt leaves nothing outside its transaction, so that it can be run again. Plans do
not belong to an engine, do not change after they are made, and may be shared by threads.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

from theus._theus import close_context, run_body, start_body
from theus._types import Isolation, SemanticType, StateUpdate
from theus.contracts import ProcessContract, contract_of, refuse_generator, undeclared_error
from theus.errors import (
    ArgumentError,
    ContractViolationError,
    PathError,
    ProcessError,
    _nearest,
    _shown,
)
from theus.merging import put_with_parents
from theus.outputs import SIGNAL, Outputs, release
from theus.paths import Path, format_path
from theus.scope import EVERYTHING, Scope, literal_roots, parse_pattern

if TYPE_CHECKING:
    from theus._theus import Transaction
    from theus.engine import TheusEngine

__all__ = ["OPTIONS", "Plan", "is_coroutine_function", "plan_of"]

OPTIONS = frozenset(("deadline", "detached", "inline", "retries", "timeout"))
"""What `engine.options` takes."""

_PLAIN = frozenset((int, float, str, bool, bytes, type(None)))
_SENDERS = ((SIGNAL,), ("outbox",))
_STANDARD_ROOTS = frozenset(("domain", "global", "heavy", SIGNAL))
# Older programs declare these among the inputs, to be given them; now every process is.
_NO_ROOTS = frozenset(("input", "local", "log", "meta", "outbox", "state", "transaction", "tx"))


def is_coroutine_function(function: object) -> bool:
    """Whether calling `function` gives a coroutine, as far as that can be known before."""
    from inspect import iscoroutinefunction  # not with `import theus`: see theus._types

    return iscoroutinefunction(function) or iscoroutinefunction(
        type(function).__call__  # an object that is called like a function
    )


def plan_of(process: Callable[..., Any], name: str | None = None) -> Plan:
    """The plan of a callable, made on first use and kept on a decorated function."""
    kept = getattr(process, "_theus_plan", None)
    # functools.wraps copies attributes: a wrapper is not the function the plan was made for.
    if kept is not None and kept.function is process and name in (None, kept.name):
        plan: Plan = kept
        return plan
    if not callable(process):
        raise TypeError(f"a process is a function or the name of one, not {_shown(process)}")
    contract = contract_of(process)
    if contract is not None and name is None:
        if isinstance(process, MethodType):  # a new object at each look-up; its function stays
            return plan_of(process.__func__).for_method(process)
        plan = _kind(contract)(process, _name_of(process), contract)
        process._theus_plan = plan  # type: ignore[attr-defined]
        return plan
    return _kind(contract)(process, name or _name_of(process), contract)


def _kind(contract: ProcessContract | None) -> type[Plan]:
    if contract is None or contract.semantic is SemanticType.EFFECT:
        return EffectPlan
    return PurePlan if contract.semantic is SemanticType.PURE else GuidePlan


def _unusual_roots(contract: ProcessContract) -> tuple[tuple[str, Any], ...]:
    """The roots that not every state has, each as an ("input" or "output", root)."""
    outputs = literal_roots(contract.outputs) - _STANDARD_ROOTS
    inputs = literal_roots(contract.inputs) - _STANDARD_ROOTS - _NO_ROOTS
    return (
        *(("output", root) for root in sorted(outputs, key=str)),
        *(("input", root) for root in sorted(inputs, key=str)),
    )


def _name_of(process: Callable[..., Any]) -> str:
    for candidate in (process, getattr(process, "func", None)):  # a functools.partial
        name = getattr(candidate, "__name__", None)
        if isinstance(name, str):
            return name
    return type(process).__name__


class Plan:
    """One process, ready to run. The subclasses know what its semantic allows."""

    reads_everything = False
    """Whether the body may read what it has not declared."""

    __slots__ = (
        "_parameters",
        "_unusual_roots",
        "attempt",
        "bound",
        "contract",
        "function",
        "inline",
        "is_coroutine",
        "is_simple",
        "is_simple_coroutine",
        "isolation",
        "lenient_scope",
        "name",
        "outputs",
        "parallel",
        "runs_anywhere",
        "scope",
        "single",
        "timeout",
    )

    def __init__(
        self, function: Callable[..., Any], name: str, contract: ProcessContract | None
    ) -> None:
        refuse_generator(function, name)
        self.function = function
        self.name = name
        self.contract = contract
        self.is_coroutine = is_coroutine_function(function)
        self.attempt = self._attempt_async if self.is_coroutine else self.attempt_here
        # What the body may do, strictly and with strict_guards=False.
        self.scope: Scope | None = None
        self.lenient_scope: Scope | None = None
        # What may be committed; and what may be done when the body has returned.
        self.bound: Scope | None = None
        self.isolation: Isolation = "serializable"
        self.timeout: float | None = None
        self.inline = False
        if contract is None:
            self.outputs = Outputs(name, (), Scope((), (EVERYTHING,)))
        else:
            self.isolation = contract.isolation
            self.timeout = contract.timeout
            self.inline = contract.inline
            writes = tuple(map(parse_pattern, contract.outputs))
            reads = tuple(map(parse_pattern, contract.inputs)) + writes
            may_send = contract.semantic is SemanticType.EFFECT
            self.bound = Scope(reads, writes, owner=self, frozen=not may_send)
            self.outputs = Outputs(name, contract.outputs, self.bound, contract.merge)
            self._compile(contract)
        self.single = self.outputs.direct
        self._unusual_roots = () if contract is None else _unusual_roots(contract)
        # Nothing for check_runnable() to find, in whatever engine.
        self.parallel = False if contract is None else contract.parallel
        self.runs_anywhere = not self._unusual_roots and not (self.parallel and self.is_coroutine)
        # What TheusEngine.run_process and execute can start without looking any further.
        simple = self.isolation == "serializable" and self.timeout is None and not self.parallel
        self.is_simple = simple and not self.is_coroutine
        self.is_simple_coroutine = simple and self.is_coroutine
        self._parameters: tuple[str, ...] | None = None

    def for_method(self, method: MethodType) -> Plan:
        """The same plan for a bound method of this plan's function."""
        plan = object.__new__(type(self))
        for slot in Plan.__slots__:
            setattr(plan, slot, getattr(self, slot))
        plan.function = method
        plan.attempt = plan._attempt_async if plan.is_coroutine else plan.attempt_here
        plan._parameters = None
        return plan

    def _compile(self, contract: ProcessContract) -> None:
        """Makes the scopes of the body."""
        raise NotImplementedError

    # ---- running ------------------------------------------------------------------

    def attempt_here(
        self,
        tx: Transaction,
        engine: TheusEngine,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        body: Callable[..., Any] | None = None,
    ) -> Any:
        """`body`: what is called in place of the function, which a worker has run."""
        scope = self.scope if engine.checks_reads else self.lenient_scope
        bound = self.bound
        if engine.has_rules:
            scope, bound = engine.scope_of(scope), engine.scope_of(bound)
        try:
            result = run_body(tx, self, scope, bound, args, kwargs, body or self.function)
        except BaseException as error:
            self.failed(error, args, kwargs)
            raise
        single = self.single
        if single is not None and type(result) in _PLAIN and not tx.written:
            # By far the usual case, without a look at anything else.
            if result is not None:
                try:
                    tx.set(single, result)
                except PathError:
                    put_with_parents(tx, single, result)
            return result
        return self.settle(engine, tx, result)

    async def _attempt_async(
        self,
        tx: Transaction,
        engine: TheusEngine,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        scope = self.scope if engine.checks_reads else self.lenient_scope
        bound = self.bound
        if engine.has_rules:
            scope, bound = engine.scope_of(scope), engine.scope_of(bound)
        context = None
        try:
            context, call = start_body(tx, self, scope, bound, args, kwargs, self.function)
            result = await call
        except BaseException as error:
            if context is not None:
                close_context(context, error)
            self.failed(error, args, kwargs)
            raise
        close_context(context, None)
        return self.settle(engine, tx, result)

    def settle(self, engine: TheusEngine, tx: Transaction, result: Any) -> Any:
        """Stores what the body returned, and gives the caller's result."""
        raise NotImplementedError

    def failed(self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Says more of an exception of the body, or raises a better one."""
        trace = error.__traceback__
        if type(error) is TypeError and trace is not None and trace.tb_next is None:
            self._check_arguments(args, kwargs)  # the call itself has failed
        note = undeclared_error(self.contract, self.name, error)
        if note is not None and note not in getattr(error, "__notes__", ()):
            BaseException.add_note(error, note)  # whatever the class has made of add_note

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises ArgumentError if the function does not take these."""
        import inspect

        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some builtins do not tell
            return
        try:
            signature.bind(None, *args, **kwargs)
        except TypeError as misfit:
            known = tuple(signature.parameters)[1:]
            unknown = next((name for name in kwargs if name not in known), None)
            if unknown is None:
                raise ArgumentError(
                    f"process {self.name!r} is called with its context and then what the caller "
                    f"passed, and does not take that: {misfit}",
                    self.name,
                    None,
                    known,
                ) from None
            listed = ", ".join(map(repr, known)) or "none"
            near = _nearest(unknown, known)
            hint = f"did you mean {near!r}?" if near else f"its parameters are: {listed}"
            if unknown in OPTIONS:
                hint = f"options of a run go to engine.options({unknown}=...)"
            raise ArgumentError(
                f"process {self.name!r} has no parameter {unknown!r}; {hint}",
                self.name,
                unknown,
                known,
            ) from None

    # ---- before running -------------------------------------------------------------

    def check_runnable(self, engine: TheusEngine) -> None:
        """Raises if this engine cannot run the process, whatever its arguments."""
        contract = self.contract
        if contract is None:
            return
        if self.parallel and self.is_coroutine:
            raise ProcessError(
                f"process {self.name!r} is a coroutine function, which a worker has no loop for; "
                f"declare it without parallel={self.parallel!r}, or write it with def",
                self.name,
            )
        for what, root in self._unusual_roots:
            if root not in engine.state.data:
                known = sorted(_STANDARD_ROOTS.union(engine.state.data), key=str)
                near = _nearest(str(root), map(str, known))
                raise ProcessError(
                    f"process {self.name!r} declares an {what} below {root!r}, which is no root of "
                    f"the state; its roots are {', '.join(map(repr, known))}"
                    + (f" (did you mean {near!r}?)" if near else ""),
                    self.name,
                )

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the positional parameters after the context."""
        if self._parameters is None:
            import inspect

            try:
                signature = inspect.signature(self.function)
            except (TypeError, ValueError):  # some builtins do not tell
                self._parameters = ()
            else:
                kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                names = [p.name for p in signature.parameters.values() if p.kind in kinds]
                self._parameters = tuple(names[1:])
        return self._parameters

    # ---- refusing, for the guard -----------------------------------------------------

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.contract.inputs if self.contract is not None else ()

    def no_read(self, path: Path) -> ContractViolationError:
        """What is raised when the body reads at `path`, which is not declared."""
        return ContractViolationError.illegal_read(path, self.name, self.inputs)

    def no_write(self, path: Path) -> ContractViolationError:
        """What is raised when the body writes at `path`, which is not declared."""
        return ContractViolationError.illegal_write(path, self.name, self.outputs.declared)


class EffectPlan(Plan):
    """Drafts of what is declared. Without a contract: of everything."""

    __slots__ = ()

    def _compile(self, contract: ProcessContract) -> None:
        writes = tuple(map(parse_pattern, contract.outputs))
        self.scope = self.bound
        self.lenient_scope = Scope((EVERYTHING,), writes, owner=self)

    def settle(self, engine: TheusEngine, tx: Transaction, result: Any) -> Any:
        outputs = self.outputs
        if type(result) not in _PLAIN:
            result = release(result, self.name)
        elif result is None:
            return None
        if outputs.paths or isinstance(result, StateUpdate):
            written = tx.operations(True, True) if tx.written else []
            outputs.store(engine, tx, result, written)
        return result

    def no_read(self, path: Path) -> ContractViolationError:
        declared = dict.fromkeys(self.inputs + self.outputs.declared)
        return ContractViolationError.illegal_read(path, self.name, tuple(declared))


class _ViewPlan(Plan):
    """Drafts that refuse every write: the body itself writes nothing."""

    __slots__ = ()

    def _check_clean(self, tx: Transaction) -> None:
        if tx.written:
            # By a run around this one, or by one inside the body, which has joined it, too.
            written = tx.operations(True)
            if written:
                raise self.no_write(written[0][1])


class PurePlan(_ViewPlan):
    """Declared inputs only; what it returns is stored."""

    __slots__ = ()

    def _compile(self, contract: ProcessContract) -> None:
        self.scope = Scope(map(parse_pattern, contract.inputs), owner=self, frozen=True)
        self.lenient_scope = Scope((EVERYTHING,), owner=self, frozen=True)
        roots = literal_roots(contract.inputs)
        for root in ("signal", "meta"):
            if root in roots:
                raise ContractViolationError(
                    f"PURE process cannot read {root!r}: process {self.name!r} declares an input "
                    "there; drop it, or declare the process with semantic=SemanticType.EFFECT",
                    (root,),
                    self.name,
                    self.inputs,
                )
        if SIGNAL in literal_roots(contract.outputs):
            raise ContractViolationError.impure(
                "send signals from", None, self.name, contract.outputs
            )

    def settle(self, engine: TheusEngine, tx: Transaction, result: Any) -> Any:
        self._check_clean(tx)
        outputs = self.outputs
        if type(result) not in _PLAIN:
            result = release(result, self.name)
        if isinstance(result, StateUpdate) and result.signal:
            raise ContractViolationError.impure(
                "send signals from", None, self.name, self.outputs.declared
            )
        outputs.store(engine, tx, result, [])
        return result

    def no_write(self, path: Path) -> ContractViolationError:
        act = "send to" if path[:1] in _SENDERS else "write"
        return ContractViolationError.impure(act, path, self.name, self.outputs.declared)


class GuidePlan(_ViewPlan):
    """Reads anything, writes nothing; what it returns is for its caller."""

    __slots__ = ()
    reads_everything = True

    def _compile(self, contract: ProcessContract) -> None:
        self.scope = self.lenient_scope = Scope((EVERYTHING,), owner=self, frozen=True)

    def settle(self, engine: TheusEngine, tx: Transaction, result: Any) -> Any:
        self._check_clean(tx)
        if isinstance(result, StateUpdate):
            raise self.no_write(())
        return release(result, self.name)

    def no_write(self, path: Path) -> ContractViolationError:
        place = format_path(path) if path else "the state"
        act = "sent to" if path[:1] in _SENDERS else "wrote"
        return ContractViolationError(
            f"Illegal Write: process {self.name!r} is a GUIDE, which may only read, and {act} "
            f"{place}; declare it with semantic=SemanticType.EFFECT and the path among its outputs",
            path,
            self.name,
            (),
        )
