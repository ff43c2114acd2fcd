"""One attempt of a parallel process, as it happens in a worker.

The worker runs the process as any engine does, with its contract, its guard, its drafts, on a
version of its own: of what it was sent. Nothing is committed. What goes back is what the function
returned, and the *account* of its transaction: each read, each write, each message and signal, by
path. `theus.parallel` repeats it in a transaction of the engine that has asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from theus._theus import Engine, Scope, account, rehearse, run_body
from theus.outputs import release
from theus.plan import Plan, plan_of
from theus.pools.calls import resolve
from theus.pools.parcels import Receipt, Sent

__all__ = ["Rules", "perform"]

Rules = Mapping[str, tuple[int, Mapping[str, int]]]


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

SCOPES = 1024


class Desk(Engine):
    """What a worker runs all attempts on that have these rules about fields: it never has a
    version of its own, only the memory of theirs, and what stays of them for the next one."""

    heavy = _NoAllocator()

    def __init__(self, rules: Rules | None) -> None:
        super().__init__(zones=rules, ring_capacity=1, history=1)
        self.rules = rules
        self._scopes: dict[Scope, Scope] = {}
        self.receipt = Receipt(self.adopt)

    def adopt(self, value: Any) -> Any:
        """The value in the memory of this engine."""
        tx = rehearse(self, {"it": value}, 0, 0, "snapshot", "adopt", False)
        try:
            return tx.state.data["it"]
        finally:
            tx.__exit__(Done, NOTHING_STAYS, None)

    def scope_of(self, scope: Scope | None) -> Scope | None:
        """The scope of a contract under these rules."""
        if scope is None or self.rules is None:
            return scope
        ruled = self._scopes.get(scope)
        if ruled is None:
            if len(self._scopes) >= SCOPES:  # of processes that travel by value, and come no more
                self._scopes.clear()
            ruled = self._scopes[scope] = scope.under(self.rules)
        return ruled


desks: list[Desk] = []
"""Of a worker, which runs one attempt at a time: the one in use last."""


def desk_for(rules: Rules | None) -> Desk:
    if not desks or desks[0].rules != rules:
        desks[:] = [Desk(rules)]
    return desks[0]


def plan_for(target: Any, process: str) -> Plan:
    """`target` is what `theus.pools.calls.reference` gave for the function."""
    return known_plan(target, process) if type(target) is tuple else new_plan(target[0], process)


@lru_cache(maxsize=1024)
def known_plan(name: tuple[str, str], process: str) -> Plan:
    return new_plan(resolve(name), process)


def new_plan(function: Any, process: str) -> Plan:
    plan = plan_of(function)
    return plan if plan.name == process else plan_of(function, process)


def perform(
    target: Any,
    process: str,
    version: int,
    run: int,
    strict: bool,
    hides: bool,
    rules: Rules | None,
    roots: dict[str, Any],
    sent: tuple[Sent, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, Any]:
    """(what the function returned, the account). Raises what it raises, as an engine would.

    `strict`: undeclared reads are refused; `hides`: there may be fields that processes may not
    read. `sent` are parcels, whose content belongs into the roots.
    """
    plan = plan_for(target, process)
    desk = desk_for(rules)
    scope, bound = plan.scope if strict else plan.lenient_scope, plan.bound
    if rules is not None:
        scope, bound = desk.scope_of(scope), desk.scope_of(bound)
    if sent:
        desk.receipt.open(sent, roots)
    tx = rehearse(desk, roots, version, run, plan.isolation, process, hides)
    try:
        try:
            result = run_body(tx, plan, scope, bound, args, kwargs, plan.function)
        except BaseException as error:
            plan.failed(error, args, kwargs)
            raise
        return release(result, process), account(tx)
    finally:
        tx.__exit__(Done, NOTHING_STAYS, None)
