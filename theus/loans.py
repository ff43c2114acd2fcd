"""Loans: rows of a shared array that another process may write.

    out = engine.heavy.alloc("out", (1000, 512), mode="shared")
    loans = [out.lend(at, at + 250) for at in range(0, 1000, 250)]
    list(pool.map(fill, loans))

    def fill(loan):                      # in a worker
        with loan as rows:               # a writable array of these rows, and of no others
            rows[:] = compute(loan.start, loan.stop)

Rows that are lent do not overlap. A loan is entered once, by whoever comes first; it is over when
he leaves the block, or is dead: a killed worker's rows can be lent again at once. What is over
cannot be written any more: `rows` is read-only then, and views of it that were taken before end
the process with SIGSEGV if they write.

The owner may write all rows at any time, and read them while they are written: these are scratch
results, and no version of anything, until the array is stored. Then a state gets a copy
in sealed memory, which nobody was ever lent; storing is refused with LoanError while rows are lent.

A worker maps the pages of its rows alone for writing, so a stray pointer meets the kernel; but
the file behind the array is not sealed: a process of the same user that opens it by itself can
write to all of it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal

from theus._theus import SharedBlock, SharedLoan, take_loan
from theus.errors import TransactionError
from theus.shm_array import ShmArray, array_of_token, wire_dtype

__all__ = ["Loan", "LoanState"]

LoanState = Literal["offered", "taken", "returned", "broken", "recalled", "over"]


class Loan:
    """The rows from `start` to `stop` of a shared array, lent by `ShmArray.lend`. Picklable.

    As a context manager it gives the rows, writable, in whatever process enters it first. At the
    end of the block they are read-only, and given back: "returned", or "broken" if an exception
    ended the block. Entering raises StaleArrayError if somebody has entered it before, or if it
    is over; BadTokenError if it is forged.

    A token holds nothing: the owner keeps the array, or this loan, until it is entered. For one
    thread at a time; of two that enter it, one is refused.
    """

    __slots__ = ("_block", "_dtype", "_given", "_shape", "_taken", "_token", "start", "stop")

    def __init__(
        self,
        token: bytes,
        start: int,
        stop: int,
        shape: tuple[int, ...],
        dtype: Any,
        given: SharedLoan | None = None,
        block: SharedBlock | None = None,
    ) -> None:
        self.start, self.stop = start, stop
        self._token = token
        self._shape = shape
        self._dtype = dtype
        self._given = given  # by this process
        self._block = block
        self._taken: tuple[SharedBlock, ShmArray] | None = None

    def __enter__(self) -> ShmArray:
        block = take_loan(self._token)
        try:
            rows = array_of_token(block, self._shape, self._dtype)
        except BaseException:
            block.end(False)
            raise
        self._taken = (block, rows)
        return rows

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._taken is None:
            raise TransactionError("this loan was not entered here: use it in a with statement")
        block, rows = self._taken
        self._taken = None
        rows.flags.writeable = False
        block.end(kind is None)

    def _lender(self) -> SharedLoan:
        if self._given is None:
            raise TransactionError("only the loan that lend() returned knows what has become of it")
        return self._given

    @property
    def state(self) -> LoanState:
        """What has become of it: "offered" (nobody has entered it), "taken", "returned", "broken"
        (whoever entered it was killed, or left with an exception), "recalled"; "over" in a
        forked child. Only of what `lend` returned: TransactionError for one that was pickled.
        """
        return self._lender().look()[0]

    @property
    def pid(self) -> int | None:
        """The process that writes these rows now; None if none does. As `state`."""
        return self._lender().look()[1] or None

    def recall(self) -> bool:
        """Takes it back, if nobody has entered it yet; else False. As `state`."""
        return self._lender().recall()

    def __reduce__(self) -> tuple[Any, ...]:
        return Loan, (self._token, self.start, self.stop, self._shape, wire_dtype(self._dtype))

    def __repr__(self) -> str:
        state = "" if self._given is None else f", {self.state}"
        return f"<Loan of rows {self.start}:{self.stop}{state}>"
