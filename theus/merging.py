"""Returned values that add up: what `merge=` in @process means.

    @process(inputs=["domain.jobs"], outputs=["domain.total", "domain.log"],
             merge={"domain.total": "sum", "domain.log": "append"})
    def count(ctx, job):
        return 1, f"{job} done"

What such a process returns for a place is a *contribution*, not what shall stand there. It is
applied at the commit, to whatever stands there then, so branches that run at the same time
do not conflict over it; unless they have also read it.

    last        the value replaces: that of the later commit stays
    sum         old + value; lists and texts too, as `+` does
    append      the value becomes the last item of a list
    union       old | value, of two sets or two dicts; in a dict the value's entries win
    max         the larger of the two; the old one if they are equal
    a function  function(old, value)

A contribution that does not fit what stands there then fails the run with `MergeError`.

Where nothing stands yet, the first contribution is all there is: the value itself, or a list
of it for append. Contributions are applied one by one, in the order of the commits, so the
same commits in the same order always give the same; for sum of ints, union of sets and max
in any order. A function runs at the commit, perhaps several times: it must depend on nothing
but its arguments, which are immutable.

A savepoint, and so every run inside another one, makes ordinary reads and writes of what was
contributed before it: what is contributed inside a body is safe from conflicts only if no other
run follows there.

As for any returned value, None contributes nothing, `DELETE` removes what stands there and
`SET(value)` replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from theus._theus import MISSING, FrozenDict, FrozenSet
from theus.errors import ContractViolationError, MergeError, PathError, _shown
from theus.paths import Path
from theus.scope import Scope, is_literal, parse_pattern

if TYPE_CHECKING:
    from theus._theus import Transaction

__all__ = ["Merge", "contribute", "merge_rules", "put_with_parents"]

Merge = str | Callable[[Any, Any], Any]
"""One rule: a name from the table above, or function(old, value)."""


def _last(old: Any, value: Any) -> Any:
    return value


def _union(old: Any, value: Any) -> Any:
    # Of others, numbers among them, | means something else.
    if type(old) is type(value) and isinstance(old, (FrozenSet, FrozenDict)):
        joined: Any = old
        return joined | value
    raise MergeError(None, "union", old, value)


def _max(old: Any, value: Any) -> Any:
    try:
        return value if value > old else old
    except TypeError as error:
        raise MergeError(None, "max", old, value) from error


_RESOLVERS: Mapping[str, Callable[[Any, Any], Any]] = {"last": _last, "union": _union, "max": _max}

NAMES = ("last", "sum", "append", "union", "max")


def contribute(tx: Transaction, path: Path, value: Any, rule: Merge) -> None:
    """Defers the contribution `value` at `path`. Makes the dicts that are missing on the way."""
    defer: Callable[[Path, Any], None]
    first = value
    if rule == "sum":
        defer = tx.add
    elif rule == "append":
        defer, first = tx.append, [value]
    else:
        resolver = _RESOLVERS[rule] if isinstance(rule, str) else rule
        defer = partial(_merge, tx, resolver)
    try:
        defer(path, value)
    except PathError:
        put_with_parents(tx, path, first)


def _merge(tx: Transaction, resolver: Callable[[Any, Any], Any], path: Path, value: Any) -> None:
    tx.merge(path, value, resolver)


def put_with_parents(tx: Transaction, path: Path, value: Any) -> None:
    """Stores `value`, making the dicts that are missing on the way to it.

    A list index that is not there stays a PathError.
    """
    for depth in range(1, len(path)):
        try:
            there = tx.get(path[:depth], MISSING)
        except ContractViolationError:  # no container, and what it is may not be read
            break
        if there is MISSING:
            if not all(isinstance(key, str) for key in path[depth - 1 :]):
                break
            for key in reversed(path[depth:]):
                value = {key: value}
            tx.set(path[:depth], value)
            return
    tx.set(path, value)  # raises again, naming the place


# ---- a declaration ------------------------------------------------------------------------


def merge_rules(
    what: str, given: Mapping[str, Merge] | None, outputs: tuple[str, ...]
) -> tuple[tuple[str, Merge], ...]:
    """The declared rules as (path, rule) pairs.

    Raises TypeError or ValueError, beginning with `what`, for a path that is not among the
    outputs or has wildcards, and for a rule that there is not.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise TypeError(f'{what} is a dict such as {{"domain.total": "sum"}}, not {_shown(given)}')
    allowed = Scope((), map(parse_pattern, outputs))
    for text, rule in given.items():
        try:
            pattern = parse_pattern(text)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what}: {error}") from None
        if not is_literal(pattern):
            raise ValueError(f"{what}: {text!r} has wildcards; name each place by its own path")
        if pattern[0] == "signal":
            raise ValueError(f"{what}: {text!r} is a signal: it is sent, and nothing stands there")
        if not allowed.writes(pattern):
            raise ValueError(
                f"{what}: {text!r} is not among the outputs, {', '.join(map(repr, outputs))}"
            )
        _check_rule(what, text, rule)
    return tuple(given.items())


def _check_function(what: str, text: str, rule: Callable[..., Any]) -> None:
    import inspect  # here: see theus._types

    for function in (rule, type(rule).__call__):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{what}: the rule for {text!r} is a coroutine function, {_shown(rule)}, which "
                "nobody could await at the commit; use a plain one"
            )
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{what}: the rule for {text!r} is a generator function, {_shown(rule)}, which "
                "gives no value; use a plain one that returns it"
            )
    try:
        inspect.signature(rule).bind(None, None)
    except ValueError:  # some builtins do not tell
        return
    except TypeError as misfit:
        raise TypeError(
            f"{what}: the rule for {text!r} is called with the old value and the contribution, and "
            f"{_shown(rule)} does not take these: {misfit}"
        ) from None


def _check_rule(what: str, text: str, rule: Merge) -> None:
    if callable(rule):
        _check_function(what, text, rule)
        return
    names = ", ".join(map(repr, NAMES))
    if not isinstance(rule, str):
        raise TypeError(
            f"{what}: the rule for {text!r} is {names} or a function, not {_shown(rule)}"
        )
    if rule not in NAMES:
        import difflib  # only for who mistyped

        near = difflib.get_close_matches(rule, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use {names} or a function"
        raise ValueError(f"{what}: there is no rule {rule!r} for {text!r}; {hint}")
