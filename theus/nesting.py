"""Runs inside runs.

A run that is started by the very task or thread that runs a body joins the body's
transaction as a savepoint; the engine sees to that. A child task or a helper thread is
not inside that transaction: joining would share it between two that run at once, and a
transaction of its own would conflict with the one that waits for it. So such a run is
refused, unless it says `detached=True`.

What tells a child from a stranger is a context variable: asyncio tasks and
asyncio.to_thread inherit it, and it names the bodies that were running where they began.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING

from theus.errors import TransactionError

if TYPE_CHECKING:
    from theus._theus import Engine, Transaction

__all__ = ["body_of", "refuse_child"]


class body_of:
    """Marks a block as the body that runs in `tx`, for the tasks and threads it starts."""

    __slots__ = ("_token", "engine", "outer", "tx")

    _token: Token[body_of | None]

    def __init__(self, engine: Engine, tx: Transaction) -> None:
        self.engine = engine
        self.tx = tx
        self.outer = _innermost.get()

    def __enter__(self) -> None:
        self._token = _innermost.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _innermost.reset(self._token)


_innermost: ContextVar[body_of | None] = ContextVar("theus.body", default=None)


def refuse_child(engine: Engine) -> None:
    """Raises TransactionError in a child of a body whose transaction is still open.

    To be called where the engine has nothing to join: the body itself is not here then.
    """
    body = _innermost.get()
    while body is not None:
        if body.engine is engine and body.tx.active:
            raise TransactionError(
                "this run was started by a child task or thread of a body whose transaction on "
                "the same engine is still open: await it in the body itself, start it after the "
                "body, or give it a transaction of its own with detached=True"
            )
        body = body.outer
