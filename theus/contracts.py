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

from theus._types import Isolation, SemanticType
from theus.errors import ContractViolationError
from theus.merging import Merge, merge_rules
from theus.scope import parse_pattern

__all__ = ["ContractViolationError", "ProcessContract", "SemanticType", "process"]

F = TypeVar("F", bound=Callable[..., Any])

_ISOLATIONS = ("serializable", "snapshot")


class ProcessContract(NamedTuple):
    """What one process declares: paths it reads, paths it writes, and how it behaves.

    `errors` and `side_effects` are for readers and tools; nothing checks them.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    semantic: SemanticType = SemanticType.PURE
    errors: tuple[str, ...] = ()
    side_effects: tuple[str, ...] = ()
    parallel: bool = False
    isolation: Isolation = "serializable"
    merge: tuple[tuple[str, Merge], ...] = ()


@overload
def process(function: F, /) -> F: ...


@overload
def process(
    *,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
    semantic: SemanticType | str = SemanticType.EFFECT,
    errors: Iterable[str] | None = None,
    side_effects: Iterable[str] | None = None,
    parallel: bool = False,
    isolation: Isolation = "serializable",
    merge: Mapping[str, Merge] | None = None,
) -> Callable[[F], F]: ...


@overload
def process(
    inputs: Iterable[str],
    outputs: Iterable[str] | None = None,
    semantic: SemanticType | str = SemanticType.EFFECT,
    errors: Iterable[str] | None = None,
    side_effects: Iterable[str] | None = None,
    parallel: bool = False,
    isolation: Isolation = "serializable",
    merge: Mapping[str, Merge] | None = None,
) -> Callable[[F], F]: ...


def process(
    inputs: Any = None,
    outputs: Iterable[str] | None = None,
    semantic: SemanticType | str = SemanticType.EFFECT,
    errors: Iterable[str] | None = None,
    side_effects: Iterable[str] | None = None,
    parallel: bool = False,
    isolation: Isolation = "serializable",
    merge: Mapping[str, Merge] | None = None,
) -> Any:
    """Declares what a function reads and writes, so that an engine can hold it to that.

    `inputs` and `outputs` are written paths (see `theus.paths`); each covers everything
    below it, and may hold wildcards (`theus.scope`). Not declared means nothing: a bare
    `@process` reads and writes no state. `semantic` says what the process may do
    (`SemanticType`), `isolation` under which rule it commits ("serializable" or
    "snapshot"), `merge` how returned values join what stands at an output: {path: rule},
    see `theus.merging`.

    Raises TypeError or ValueError, naming what is wrong with the declaration, at once.
    Returns the function itself; a callable that takes no attributes is wrapped.
    """
    if callable(inputs):
        return _attach(inputs, _contract("", None, None, SemanticType.EFFECT, None, None, False))

    def decorate(function: F) -> F:
        name = getattr(function, "__name__", repr(function))
        whose = f" of process {name!r}"
        contract = _contract(
            whose, inputs, outputs, semantic, errors, side_effects, parallel, isolation, merge
        )
        return _attach(function, contract)

    return decorate


def contract_of(function: object) -> ProcessContract | None:
    """The contract that a callable carries, or None. A partial call has that of its function."""
    while isinstance(function, functools.partial):
        function = function.func
    contract = getattr(function, "_pop_contract", None)
    return contract if isinstance(contract, ProcessContract) else None


def _attach(function: F, contract: ProcessContract) -> F:
    if not callable(function):
        raise TypeError(f"@process decorates a function, not {function!r}")
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


def _contract(
    whose: str,
    inputs: Iterable[str] | None,
    outputs: Iterable[str] | None,
    semantic: SemanticType | str,
    errors: Iterable[str] | None,
    side_effects: Iterable[str] | None,
    parallel: bool,
    isolation: str = "serializable",
    merge: Mapping[str, Merge] | None = None,
) -> ProcessContract:
    if not isinstance(parallel, bool):
        raise TypeError(f"parallel{whose} must be True or False, not {parallel!r}")
    if isolation not in _ISOLATIONS:
        raise ValueError(
            f'isolation{whose} must be "serializable" or "snapshot", not {isolation!r}'
        )
    declared = _paths(f"outputs{whose}", outputs)
    contract = ProcessContract(
        _paths(f"inputs{whose}", inputs),
        declared,
        _semantic(f"semantic{whose}", semantic),
        _texts(f"errors{whose}", errors),
        _texts(f"side_effects{whose}", side_effects),
        parallel,
        isolation,
        merge_rules(f"merge{whose}", merge, declared),
    )
    if contract.semantic is SemanticType.GUIDE and contract.outputs:
        raise ValueError(
            f"outputs{whose}: a GUIDE process writes nothing, so {list(contract.outputs)!r} "
            "cannot be its outputs; drop them, or declare it with semantic=SemanticType.EFFECT"
        )
    return contract


def _texts(what: str, given: Iterable[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        raise TypeError(f"{what} must be a list of texts, not one text: write [{given!r}]")
    try:
        texts = tuple(given)
    except TypeError:
        raise TypeError(f"{what} must be a list of texts, not {given!r}") from None
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} must be texts; {text!r} is a {type(text).__name__}")
    return texts


def _paths(what: str, given: Iterable[str] | None) -> tuple[str, ...]:
    paths = _texts(what, given)
    for path in paths:
        try:
            parse_pattern(path)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{what} name {twice!r} twice")
    return paths


def _semantic(what: str, given: SemanticType | str) -> SemanticType:
    known = [member.value for member in SemanticType]
    if not isinstance(given, str):
        raise TypeError(
            f"{what} must be a SemanticType or one of {', '.join(map(repr, known))}, not {given!r}"
        )
    try:
        return SemanticType(given.lower())
    except ValueError:
        import difflib  # only for who mistyped

        near = difflib.get_close_matches(given.lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(map(repr, known))}"
        raise ValueError(f"{what} is {given!r}, which is no semantic; {hint}") from None
