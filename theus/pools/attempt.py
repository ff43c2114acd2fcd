"""One attempt of a parallel process, as it happens in a worker.

The worker makes an engine of what it was sent, of that version, and runs the process there as any
engine does: with its contract, its guard, its drafts. Nothing is committed. What goes back is what
the function returned, and the *account* of its transaction: each read, each write, each message and
signal, by path. `theus.parallel` repeats it in a transaction of the engine that has asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from theus._theus import Engine, account, run_body, set_run
from theus.outputs import release
from theus.plan import Plan, plan_of
from theus.pools.calls import resolve

__all__ = ["Order", "perform"]

Rules = Mapping[str, tuple[int, Mapping[str, int]]]


class Order(NamedTuple):
    """What a worker has to know of an attempt, apart from its arguments."""

    target: Any
    """What `theus.pools.worker.reference` gave for the function."""
    process: str
    version: int
    run: int
    strict: bool
    """Whether undeclared reads are refused."""
    rules: Rules | None


class _NoAllocator:
    """What `engine.heavy` is in a worker: arrays that are made there would be gone with it."""

    def _refuse(self, key: object = None, *rest: object, **options: object) -> NoReturn:
        raise PermissionError(
            f"ctx.heavy.alloc() and put() are for the process that owns the engine: make an "
            f"ordinary array and return it for the output heavy.{key}, where it is copied once"
        )

    alloc = put = _refuse


class Done(Exception):
    """Ends the worker's transaction: it is never committed."""


NOTHING_STAYS = Done()


class Desk(Engine):
    """The engine that a worker runs one attempt on."""

    heavy = _NoAllocator()


@lru_cache(maxsize=256)
def named_plan(function: Callable[..., Any], process: str) -> Plan:
    return plan_of(function, process)


def plan_for(target: Any, process: str) -> Plan:
    function = resolve(target) if type(target) is tuple else target[0]
    plan = plan_of(function)
    return plan if plan.name == process else named_plan(function, process)


def perform(
    order: tuple[Any, ...], roots: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """(what the function returned, the account). Raises what it raises, as an engine would."""
    target, process, version, run, strict, rules = order
    plan = plan_for(target, process)
    scope, bound = plan.scope if strict else plan.lenient_scope, plan.bound
    if rules is not None:
        scope = None if scope is None else scope.under(rules)
        bound = None if bound is None else bound.under(rules)
    desk = Desk(roots, zones=rules, version=version, ring_capacity=1, history=1)
    tx = desk.transaction(0, plan.isolation, process=process)
    tx.__enter__()
    try:
        set_run(tx, run)
        try:
            result = run_body(tx, plan, scope, bound, args, kwargs, plan.function)
        except BaseException as error:
            plan.failed(error, args, kwargs)
            raise
        return release(result, process), account(tx)
    finally:
        tx.__exit__(Done, NOTHING_STAYS, None)
