"""Admin scopes: for the time of a with block, a process is bound by its contract and not by zones.

    @process(inputs=["domain.internal_keys"], outputs=["domain.log_events"])
    def purge(ctx):
        with AdminTransaction(ctx, reason="retention: 30 days"):
            ctx.domain.log_events.clear()

    engine.allow_admin(purge)
    engine.run_process(purge)
    engine.admin_log()[-1]      # AdminRecord(time=..., process='purge', reason='retention: ...

In it PRIVATE fields can be read, and all fields but CONSTANT be changed, as far as the contract
declares them. When the block ends, the drafts that were read in it are of no use any more.

Who may is said by who holds the engine, of the function itself: `engine.allow_admin`, for the runs
that begin after it. The right is that of the call: it belongs to the context which the engine
passes to that function, while the function runs and no process runs inside it. A context that is
made by hand, or for the plan of another process, has none. Every scope is recorded when it opens,
whatever becomes of its run.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from theus._theus import close_admin, open_admin

if TYPE_CHECKING:
    from theus._theus import Context

__all__ = ["AdminRecord", "AdminTransaction"]


class AdminRecord(NamedTuple):
    """One admin scope: `time` in seconds since 1970, the version that its run had read, and the one
    that its run has committed; None if it came to nothing, or has not ended yet."""

    time: float
    process: str
    reason: str
    version: int
    committed: int | None


class AdminTransaction:
    """An admin scope on the context of the process that runs; see the module.

    Entering raises ContractViolationError unless the engine allows it, TransactionError inside
    another one. `reason` is a text for the record.
    """

    __slots__ = ("_ctx", "_reason")

    def __init__(self, ctx: Any, reason: str = "") -> None:
        self._ctx: Context = ctx
        self._reason = reason

    def __enter__(self) -> Context:
        open_admin(self._ctx, self._reason)
        return self._ctx

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close_admin(self._ctx)
