"""`with engine.edit() as ctx`: a transaction whose block is given a context."""

from __future__ import annotations

from functools import cache
from types import TracebackType

from theus._theus import Context, Transaction, open_context
from theus.plan import EffectPlan

__all__ = ["Edit"]


class Edit:
    """What `TheusEngine.edit` gives: to be entered once, by one thread or task."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __enter__(self) -> Context:
        return _context_of(self._transaction.__enter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transaction.__exit__(kind, error, trace)

    async def __aenter__(self) -> Context:
        return _context_of(await self._transaction.__aenter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transaction.__aexit__(kind, error, trace)


def _edit(ctx: Context) -> None:
    """What the context of such a block is named by; nobody calls it."""


@cache
def _plan() -> EffectPlan:  # not with the import: making one loads inspect
    return EffectPlan(_edit, "edit", None)


def _context_of(tx: Transaction) -> Context:
    return open_context(tx, _plan(), None, None, (), {})
