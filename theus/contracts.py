"""The @process decorator: what a function declares about itself.

    @process(inputs=["domain.orders"], outputs=["domain.total"], semantic="pure")
    def total(ctx):
        return sum(order.price for order in ctx.domain.orders)

The decorator reads the declaration, checks it, attaches it as `total.spec` and gives
the same function back: it can still be called, tested and pickled as before. An engine
enforces the contract when it runs the function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar, overload

from theus._types import POOL_KINDS, Isolation, PoolKind, SemanticType
from theus.admin import AdminTransaction
from theus.arguments import check_flag, check_seconds
from theus.errors import ContractViolationError, TheusError, _nearest, _shown
from theus.merging import Merge, merge_rules
from theus.outbox import OutboxMsg
from theus.scope import ROOT_ALIASES, parse_pattern

__all__ = [
    "AdminTransaction",
    "ContractViolationError",
    "OutboxMsg",
    "ProcessContract",
    "SemanticType",
    "process",
]

F = TypeVar("F", bound=Callable[..., Any])

_ISOLATIONS = ("serializable", "snapshot")
_KINDS = ", ".join(map(repr, POOL_KINDS))
_METHODS = (staticmethod, classmethod)
_ROOTS = frozenset(("domain", "global", "heavy", "signal", "meta", *ROOT_ALIASES))
_GENERATES = 0x20 | 0x200  # inspect.CO_GENERATOR, CO_ASYNC_GENERATOR


class ProcessContract(NamedTuple):
    """What one process declares: paths it reads, paths it writes, and how it behaves.

    `errors` are the failures that are part of its work, as names or classes; an engine adds a
    note to an exception that is none of them (`undeclared_error`). `side_effects` is for readers
    and tools; nothing checks it. `timeout` is in seconds, None for no limit.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    semantic: SemanticType = SemanticType.PURE
    errors: tuple[str | type[BaseException], ...] = ()
    side_effects: tuple[str, ...] = ()
    parallel: bool | PoolKind = False
    isolation: Isolation = "serializable"
    merge: tuple[tuple[str, Merge], ...] = ()
    timeout: float | None = None
    inline: bool = False


@overload
def process(function: F, /) -> F: ...


@overload
def process(
    *,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
    semantic: SemanticType | str = SemanticType.EFFECT,
    errors: Iterable[str | type[BaseException]] | None = None,
    side_effects: Iterable[str] | None = None,
    parallel: bool | PoolKind = False,
    isolation: Isolation = "serializable",
    merge: Mapping[str, Merge] | None = None,
    timeout: float | None = None,
    inline: bool = False,
) -> Callable[[F], F]: ...


@overload
def process(
    inputs: Iterable[str],
    outputs: Iterable[str] | None = None,
    semantic: SemanticType | str = SemanticType.EFFECT,
    errors: Iterable[str | type[BaseException]] | None = None,
    side_effects: Iterable[str] | None = None,
    parallel: bool | PoolKind = False,
    isolation: Isolation = "serializable",
    merge: Mapping[str, Merge] | None = None,
    timeout: float | None = None,
    inline: bool = False,
) -> Callable[[F], F]: ...


def process(
    inputs: Any = None,
    outputs: Iterable[str] | None = None,
    semantic: SemanticType | str = SemanticType.EFFECT,
    errors: Iterable[str | type[BaseException]] | None = None,
    side_effects: Iterable[str] | None = None,
    parallel: bool | PoolKind = False,
    isolation: Isolation = "serializable",
    merge: Mapping[str, Merge] | None = None,
    timeout: float | None = None,
    inline: bool = False,
) -> Any:
    """Declares what a function reads and writes, so that an engine can hold it to that.

    `inputs` and `outputs` are written paths (see `theus.paths`); each covers everything
    below it, and may hold wildcards (`theus.scope`). Not declared means nothing: a bare
    `@process` reads and writes no state. `semantic` says what the process may do
    (`SemanticType`), `isolation` under which rule it commits ("serializable" or
    "snapshot"), `merge` how returned values join what stands at an output: {path: rule},
    see `theus.merging`; `timeout` how many seconds a run may take with all its attempts (None:
    no limit), and `inline` that a plain function is short enough to run on the event loop's
    own thread when it is awaited.

    `parallel` has the body run by a worker: True in those that the engine has chosen, "processes",
    "interpreters" or "threads" in such (see `theus.workers`).

    `errors` names the exceptions, by class or by the name of one, that are part of what the
    process does. All exceptions reach the caller as they are; one that is not among them, where
    any are, gets a note that says so. `side_effects` says what it does outside the state.

    For functions, coroutine functions, methods, and below or above @staticmethod and
    @classmethod. A generator function is refused: its body would run after its transaction.

    Raises TypeError or ValueError, naming what is wrong with the declaration, at once.
    Returns the function itself; a callable that takes no attributes is wrapped.
    """
    if callable(inputs) or isinstance(inputs, _METHODS):
        return _attach(inputs, ProcessContract(semantic=SemanticType.EFFECT))

    def decorate(function: F) -> F:
        whose = f" of process {getattr(function, '__name__', function)!r}"
        declared = _paths(f"outputs{whose}", outputs)
        contract = ProcessContract(
            _paths(f"inputs{whose}", inputs),
            declared,
            _semantic(f"semantic{whose}", semantic),
            _errors(f"errors{whose}", errors),
            _texts(f"side_effects{whose}", side_effects),
            _parallel(f"parallel{whose}", parallel),
            _isolation(f"isolation{whose}", isolation),
            merge_rules(f"merge{whose}", merge, declared),
            check_seconds(f"timeout{whose}", timeout),
            check_flag(f"inline{whose}", inline),
        )
        if contract.semantic is SemanticType.GUIDE and contract.outputs:
            raise ValueError(
                f"outputs{whose}: a GUIDE process writes nothing, so {list(contract.outputs)!r} "
                "cannot be its outputs; drop them, or declare it with "
                "semantic=SemanticType.EFFECT"
            )
        return _attach(function, contract)

    return decorate


def contract_of(function: object) -> ProcessContract | None:
    """The contract that a callable carries, or None. A partial call has that of its function."""
    while isinstance(function, functools.partial):
        function = function.func
    contract = getattr(function, "_pop_contract", None)
    return contract if isinstance(contract, ProcessContract) else None


def refuse_generator(function: object, name: str) -> None:
    """Raises TypeError if calling `function` would run none of its body."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)  # a method gives that of its function
    if getattr(code, "co_flags", 0) & _GENERATES:
        raise TypeError(
            f"process {name!r} is a generator function, whose body would run after its "
            "transaction: return a list instead of yielding"
        )


def undeclared_error(
    contract: ProcessContract | None, name: str, error: BaseException
) -> str | None:
    """What to note on an exception that a process has raised and not declared, or None.

    What theus raises itself, and what is no Exception (Ctrl-C, a cancelled task), needs no
    declaration.
    """
    if contract is None or not contract.errors:
        return None
    if not isinstance(error, Exception) or isinstance(error, TheusError):
        return None
    names: list[str] = []
    for declared in contract.errors:
        if isinstance(declared, str):
            names.append(declared)
            for kind in type(error).__mro__:
                if declared in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}"):
                    return None
        else:
            names.append(declared.__name__)
            if isinstance(error, declared):
                return None
    return (
        f"theus: process {name!r} raised {type(error).__name__}, which it does not declare; "
        f"its errors are {', '.join(names)}"
    )


def _attach(function: F, contract: ProcessContract) -> F:
    if isinstance(function, _METHODS):  # what the class will give out is the function inside
        _attach(function.__func__, contract)
        return function
    if not callable(function):
        raise TypeError(f"@process decorates a function, not {_shown(function)}")
    refuse_generator(function, getattr(function, "__name__", repr(function)))
    try:
        _mark(function, contract)
    except (AttributeError, TypeError):  # a builtin, a bound method, a callable with slots
        wrapper = _wrap(function)
        _mark(wrapper, contract)
        return wrapper
    return function


def _wrap(function: F) -> F:
    import inspect  # here: see theus._types

    call: Any
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    wrapper: F = call
    return wrapper


def _mark(function: Any, contract: ProcessContract) -> None:
    function.spec = contract
    function._pop_contract = contract  # the name that older programs look for
    function._theus_plan = None  # of an earlier declaration; see theus.plan


# ---- checking a declaration ---------------------------------------------------------


def _parallel(what: str, given: bool | PoolKind) -> bool | PoolKind:
    if not isinstance(given, (bool, str)):
        raise TypeError(
            f"{what} must be True, False or the kind of its workers ({_KINDS}), not {_shown(given)}"
        )
    if isinstance(given, str) and given not in POOL_KINDS:
        raise ValueError(f"{what} must be True, False or one of {_KINDS}, not {_shown(given)}")
    return given


def _isolation(what: str, given: Isolation) -> Isolation:
    if given not in _ISOLATIONS:
        raise ValueError(f'{what} must be "serializable" or "snapshot", not {_shown(given)}')
    return given


def _errors(what: str, given: Any) -> tuple[str | type[BaseException], ...]:
    if given is None:
        return ()
    if isinstance(given, (str, type)):
        raise TypeError(f"{what} must be a list of exceptions or their names: write [{given!r}]")
    errors = tuple(given) if isinstance(given, Iterable) else (given,)
    for error in errors:
        if not isinstance(error, str) and not (
            isinstance(error, type) and issubclass(error, BaseException)
        ):
            raise TypeError(f"{what} must be exception classes or their names, not {_shown(error)}")
    return errors


def _texts(what: str, given: Iterable[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        raise TypeError(f"{what} must be a list of texts, not one text: write [{given!r}]")
    try:
        texts = tuple(given)
    except TypeError:
        raise TypeError(f"{what} must be a list of texts, not {_shown(given)}") from None
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} must be texts; {text!r} is a {type(text).__name__}")
    return texts


def _paths(what: str, given: Iterable[str] | None) -> tuple[str, ...]:
    paths = _texts(what, given)
    for path in paths:
        try:
            root = parse_pattern(path)[0]
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
        _check_root(what, path, root)
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{what} name {twice!r} twice")
    return paths


def _check_root(what: str, path: str, root: object) -> None:
    """Refuses what can only be a standard root mistyped; engines know all the others."""
    if not isinstance(root, str) or path.startswith("[") or root in _ROOTS:
        return
    near = _nearest(root, _ROOTS)
    if near is not None and not root.startswith(near):  # "domains" is a name, "domian" is none
        raise ValueError(
            f"{what}: {path!r} is below {root!r}, which is no root; did you mean {near!r}? (A root "
            f"that is really named so is written [{root!r}])"
        )


def _semantic(what: str, given: SemanticType | str) -> SemanticType:
    known = [member.value for member in SemanticType]
    if not isinstance(given, str):
        raise TypeError(
            f"{what} must be a SemanticType or one of {', '.join(map(repr, known))}, "
            f"not {_shown(given)}"
        )
    try:
        return SemanticType(given.lower())
    except ValueError:
        near = _nearest(given.lower(), known)
        hint = f"did you mean {near!r}?" if near else f"use one of {', '.join(map(repr, known))}"
        raise ValueError(f"{what} is {given!r}, which is no semantic; {hint}") from None
