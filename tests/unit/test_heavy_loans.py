"""Rows of a shared array, lent to others who may write them: who, which, and until when."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

np = pytest.importorskip("numpy")

import pool_tasks  # noqa: E402
from borrower import Borrower  # noqa: E402
from helpers import run_threads  # noqa: E402
from support import silent  # noqa: E402
from theus import (  # noqa: E402
    BadTokenError,
    BorrowedArrayError,
    LoanError,
    StaleArrayError,
    TheusEngine,
    TransactionError,
    WorkerDied,
)
from theus.heavy import ManagedAllocator  # noqa: E402
from theus.loans import Loan  # noqa: E402
from theus.pools import ProcessPool  # noqa: E402
from theus.testing import leak_check  # noqa: E402


@pytest.fixture(params=["anonymous", "named"])
def heavy(request: pytest.FixtureRequest) -> Iterator[ManagedAllocator]:
    with ManagedAllocator(64, backend=request.param) as allocator:
        yield allocator


@pytest.fixture(scope="module")
def worker() -> Iterator[Borrower]:
    """One process for the tests that do not end it."""
    other = Borrower()
    yield other
    assert other.end() == 0


@pytest.fixture
def victim() -> Iterator[Borrower]:
    other = Borrower()
    yield other
    if other.process.poll() is None:
        other.kill()


FILL = "[(rows.fill({0}), rows.shape, rows.flags.writeable) for rows in [it.__enter__()]][0][1:]"
LEAVE = "it.__exit__(None, None, None)"


def fill(worker: Borrower, loan: Loan, value: float) -> None:
    """Enters the loan in the worker, writes all of it, and leaves it."""
    shape, writeable = worker.ask(f"({FILL.format(value)}, {LEAVE})[0]", loan)
    assert shape[0] == loan.stop - loan.start and writeable


def hold(worker: Borrower, loan: Loan) -> int:
    """Enters the loan in the worker, who stays in it."""
    pid: int = worker.ask("(keep(it), keep(it.__enter__()), os.getpid())[2]", loan)
    return pid


# ---- lending -------------------------------------------------------------------------


def test_two_processes_write_their_halves(heavy: ManagedAllocator, worker: Borrower) -> None:
    out = heavy.alloc("out", (6, 1000), mode="shared")
    first, second = out.lend(0, 3), out.lend(3, 6)
    assert (first.state, first.pid) == ("offered", None)
    assert len(pickle.dumps(first)) < 200
    with second as rows:  # this process is a worker as any
        assert rows.shape == (3, 1000) and second.pid == os.getpid()
        fill(worker, first, 1)
        rows[:] = 2
        assert second.state == "taken" and first.state == "returned"
    assert second.state == "returned" and not rows.flags.writeable
    assert out[:3].min() == out[:3].max() == 1 and out[3:].min() == out[3:].max() == 2


def test_what_is_lent_does_not_overlap(heavy: ManagedAllocator, worker: Borrower) -> None:
    out = heavy.alloc("out", (10, 4), "i4", mode="shared")
    loan = out.lend(2, 6)
    with pytest.raises(LoanError, match=r"'out' cannot lend rows 0:3: rows 2:6 are lent and") as e:
        out.lend(0, 3)
    assert (e.value.key, e.value.rows, e.value.lent) == ("out", (0, 3), ((2, 6, None),))
    pid = hold(worker, loan)
    with pytest.raises(LoanError, match=f"lent to process {pid}") as e:
        out[4:].lend(0, 1)  # row 4
    assert e.value.lent == ((-2, 2, pid),)
    assert [out.lend(0, 2).stop, out.lend(6, 10).stop] == [2, 10]
    assert not loan.recall() and out.recall() == 2
    worker.ask("(kept.pop(), kept.pop().__exit__(None, None, None))[1]")
    assert loan.state == "returned"
    assert out.lend(0, 10).recall()


def test_a_loan_is_entered_once(heavy: ManagedAllocator, worker: Borrower) -> None:
    out = heavy.alloc("out", 8, mode="shared")
    loan = out.lend(0, 8)
    with loan:
        with pytest.raises(StaleArrayError, match="somebody has taken it"):
            worker.ask("it.__enter__()", loan)
        with pytest.raises(StaleArrayError, match="over"), loan:
            pass
    with pytest.raises(StaleArrayError):
        worker.ask("it.__enter__()", loan)
    with pytest.raises(TransactionError, match="with statement"):
        loan.__exit__(None, None, None)
    copy = pickle.loads(pickle.dumps(loan))
    assert (copy.start, copy.stop) == (0, 8) and repr(copy) == "<Loan of rows 0:8>"
    assert repr(loan) == "<Loan of rows 0:8, returned>"
    for ask in (lambda: copy.state, lambda: copy.pid, copy.recall):
        with pytest.raises(TransactionError, match="lend"):
            ask()


def test_recalled_and_stale_loans_are_refused(heavy: ManagedAllocator, worker: Borrower) -> None:
    out = heavy.alloc("out", 8, mode="shared")
    loan = out.lend(0, 4)
    assert loan.recall() and loan.state == "recalled" and not loan.recall()
    with pytest.raises(StaleArrayError):
        worker.ask("it.__enter__()", loan)
    again = out.lend(0, 4)
    heavy.free("out")
    with pytest.raises(StaleArrayError, match="gone"):
        worker.ask("it.__enter__()", again)
    with pytest.raises(ValueError, match="freed"):
        out.lend(4, 8)


def test_a_loan_that_is_left_by_an_exception_is_broken(heavy: ManagedAllocator) -> None:
    out = heavy.alloc("out", 8, mode="shared")
    loan = out.lend(0, 4)
    with pytest.raises(ZeroDivisionError), loan as rows:
        rows[0] = 1 // 0
    assert loan.state == "broken" and not rows.flags.writeable
    with out.lend(0, 4) as rows:
        rows[:] = 1
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        rows.flags.writeable = True


def test_a_killed_worker_loses_its_rows(heavy: ManagedAllocator, victim: Borrower) -> None:
    out = heavy.alloc("out", 8, mode="shared")
    loan = out.lend(0, 8)
    assert hold(victim, loan) == loan.pid == victim.process.pid
    victim.kill()
    again = out.lend(4, 8)  # nobody has asked for the state of the first one yet
    assert (loan.state, loan.pid, again.state) == ("broken", None, "offered")


# ---- what a worker can do ------------------------------------------------------------


DOORS = (
    "pickle.loads(pickle.dumps(rows))[0]",  # the same rows, as everybody may see them
    "it[1][0]",
    "it[1][5]",
)


def test_a_worker_writes_its_own_rows_only(victim: Borrower) -> None:
    with ManagedAllocator(64) as heavy:
        out = heavy.alloc("out", (6, 4096), "u1", mode="shared")
        for door in DOORS:
            source = f"[{door}.__setitem__(slice(None), 1) for rows in [it[0].__enter__()]]"
            with pytest.raises(ValueError, match="read-only"):
                victim.ask(source, (out.lend(0, 1), out))
            victim.ask("gc.collect() and None")
        address = f"{DOORS[-1]}.__array_interface__['data'][0]"
        source = f"[ctypes.memset({address}, 1, 1) for rows in [it[0].__enter__()]]"
        with pytest.raises(EOFError):
            victim.ask(source, (out.lend(2, 3), out))
        assert victim.end() == -signal.SIGSEGV
        assert out.max() == 0


def test_views_of_a_loan_that_is_over_cannot_write(victim: Borrower) -> None:
    with ManagedAllocator(64) as heavy:
        out = heavy.alloc("out", 8, mode="shared")
        loan = out.lend(0, 8)
        victim.ask("(keep(it), keep(it.__enter__()[2:]))[0] and None", loan)
        victim.ask("kept[0].__exit__(None, None, None)")
        assert loan.state == "returned" and victim.ask("float(kept[1][0])") == 0
        with pytest.raises(EOFError):
            victim.ask("kept[1].__setitem__(0, 5.0)")  # NumPy believes that it may
        assert victim.end() == -signal.SIGSEGV and out.max() == 0


def test_rows_know_where_they_lie(heavy: ManagedAllocator, worker: Borrower) -> None:
    out = heavy.alloc("out", (4, 8), mode="shared")
    with out.lend(1, 3) as rows:
        rows[:] = np.arange(16).reshape(2, 8)
        info = rows.info()
        assert (info["offset"], info["block_bytes"], info["mode"]) == (64, 4 * 64, "shared")
        assert worker.ask("it.tolist()", rows[1]) == list(range(8, 16))
        private = rows.cow()
        private[:] = -1
        assert out[1, 3] == 3
        with pytest.raises(LoanError):
            rows.lend(0, 1)
    assert rows.tolist() == out[1:3].tolist()


def test_only_the_owner_lends(heavy: ManagedAllocator, worker: Borrower) -> None:
    out = heavy.alloc("out", 8, mode="shared")
    with pytest.raises(BorrowedArrayError, match="its owner alone"):
        worker.ask("it.lend(0, 4)", out)
    assert worker.ask("it.recall()", out) == 0
    assert not worker.ask("it.flags.writeable", out)


# ---- arguments -----------------------------------------------------------------------


def test_rows_that_cannot_be_lent(heavy: ManagedAllocator) -> None:
    out = heavy.alloc("out", (4, 6), mode="shared")
    for start, stop in ((2, 2), (3, 2), (-1, 2), (0, 5)):
        with pytest.raises(ValueError, match=rf"no rows {start} to {stop} in an array of shape"):
            out.lend(start, stop)
    for bound in (1.0, "1", None, True):
        with pytest.raises(TypeError, match="numbered by ints"):
            out.lend(0, bound)  # type: ignore[arg-type]
    for view in (out[:, 1:], out[::2], out[::-1], out.T):
        with pytest.raises(ValueError, match="side by side"):
            view.lend(0, 2)
    for plain in (heavy.alloc("plain", 4), heavy.alloc("0-d", (), mode="shared"), out + 1):
        with pytest.raises((ValueError, AttributeError)):
            plain.lend(0, 1)
    with pytest.raises(ValueError, match="mode"):
        heavy.get("plain").recall()
    with pytest.raises(ValueError, match="no rows"):
        heavy.alloc("empty", (4, 0), mode="shared").lend(0, 1)
    with pytest.raises(ValueError, match="mode is 'sealed' or 'shared', not 'rw'"):
        heavy.alloc("x", 1, mode="rw")  # type: ignore[arg-type]
    assert "x" not in heavy and out.recall() == 0


def test_as_many_loans_as_there_can_be(heavy: ManagedAllocator) -> None:
    out = heavy.alloc("out", 600, "u1", mode="shared")
    loans = [out.lend(row, row + 1) for row in range(512)]
    with pytest.raises(LoanError, match="as many ranges of shared arrays are lent as can be") as e:
        out.lend(599, 600)
    assert e.value.lent == ()
    assert heavy.report().arrays[0].lent == 512
    del loans  # nobody can tell who still has a token
    assert out.recall() == 512 and out.lend(0, 600).recall()


def test_forged_loans(heavy: ManagedAllocator) -> None:
    out = heavy.alloc("out", (4, 4), mode="shared")
    loan = out.lend(0, 2)
    make, (token, *rest) = loan.__reduce__()
    for forged in (b"", b"x", token[:-1], token + b"x", b"xxxx" + token[4:], token[:-1] + b"\xff"):
        with pytest.raises(BadTokenError), make(forged, *rest):
            pass
    for shape, dtype in (((3, 4), "f8"), ((-1,), "f8"), ((2, 4), "O"), ((2, 4), "nonsense")):
        with pytest.raises(BadTokenError), make(token, 0, 2, shape, dtype):
            pass
        assert loan.state == "broken"
        loan = out.lend(0, 2)
        token = loan.__reduce__()[1][0]
    with loan:
        pass


# ---- versions ------------------------------------------------------------------------


@pytest.fixture(params=["anonymous", "named"])
def engine(request: pytest.FixtureRequest) -> Iterator[TheusEngine]:
    with TheusEngine({"heavy": {}}, shm_backend=request.param) as it:
        yield it


def test_a_state_holds_a_copy(engine: TheusEngine, worker: Borrower) -> None:
    def work(tx: Any) -> Any:
        out = engine.heavy.alloc("out", (4, 10), mode="shared")
        loans = [out.lend(0, 2), out.lend(2, 4)]
        for number, loan in enumerate(loans):
            fill(worker, loan, number)
        tx.update(heavy={"out": out})
        return out, loans

    out, loans = engine.run(work)
    stored = engine.state.heavy["out"]
    assert stored.tolist() == [[0] * 10] * 2 + [[1] * 10] * 2
    assert stored.info()["mode"] == "sealed" and stored.info()["address"] != out.info()["address"]
    assert not stored.flags.writeable and not out.flags.writeable
    assert "mode='shared'" in repr(out) and "shared" not in repr(stored)
    with pytest.raises(ValueError, match="published"):
        out.lend(0, 1)
    assert engine.heavy.get("out").info()["mode"] == "sealed"
    assert engine.heavy.leaks() == () and loans[0].state == "returned"
    del out, loans, stored
    gc.collect()
    (array,) = engine.heavy.report().arrays
    assert (array.shared, array.published, array.lent) == (False, True, 0)


def test_what_is_lent_is_not_stored(engine: TheusEngine, worker: Borrower) -> None:
    out = engine.heavy.alloc("out", (4, 10), mode="shared")
    loan, offered = out.lend(0, 2), out.lend(2, 3)
    pid = hold(worker, loan)
    with pytest.raises(LoanError, match="cannot be stored yet") as e:
        engine.run(lambda tx: tx.update(heavy={"out": out}))
    assert e.value.rows is None and set(e.value.lent) == {(0, 2, pid), (2, 3, None)}
    assert out.flags.writeable and engine.heavy.report().arrays[0].lent == 2
    assert "shared, 2 ranges lent" in str(engine.heavy.report())
    worker.ask("(kept.pop(), kept.pop().__exit__(None, None, None))[1]")
    assert offered.recall()
    engine.run(lambda tx: tx.update(heavy={"out": out}))
    assert engine.state.heavy["out"].shape == (4, 10)


def test_a_failed_attempt_leaves_nothing(engine: TheusEngine) -> None:
    def fails(tx: Any) -> None:
        out = engine.heavy.alloc("out", (4, 10), mode="shared")
        with out.lend(0, 4) as rows:
            rows[:] = 1
        tx.update(heavy={"out": out})
        raise ZeroDivisionError

    with leak_check(engine.heavy):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                engine.run(fails)
        assert "out" not in engine.state.heavy and "out" not in engine.heavy


def test_an_array_from_outside_is_copied_in_each_attempt(engine: TheusEngine) -> None:
    out = engine.heavy.alloc("out", (3, 4), "i4", order="F", mode="shared")
    out[:] = np.arange(12).reshape(3, 4)
    attempts = []

    def work(tx: Any) -> None:
        attempts.append(engine.state.version)
        tx.update(heavy={"out": out, "row": out[1], "step": out[::2, ::-1]})
        if len(attempts) == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.run(work)
    engine.run(work)
    stored = engine.state.heavy
    assert stored["out"].tolist() == out.tolist() and stored["out"].flags.f_contiguous
    assert stored["row"].tolist() == [4, 5, 6, 7]
    assert stored["step"].tolist() == out[::2, ::-1].tolist()
    assert engine.heavy.alloc("out", 1).shape == (1,)  # the key is free for the next version


def test_a_process_of_the_engine_allocates_one(engine: TheusEngine) -> None:
    from theus import process

    @process(inputs=[], outputs=["heavy.out"])
    def make(ctx: Any) -> Any:
        out = ctx.heavy.alloc("out", (2, 2), mode="shared")
        with out.lend(0, 1) as rows:
            rows[:] = 5
        return out

    engine.run_process(make)
    assert engine.state.heavy["out"].tolist() == [[5, 5], [0, 0]]


def test_the_copy_has_the_site_of_who_stored_it(engine: TheusEngine) -> None:
    engine.heavy.watch(sites=True, checksums=True)
    out = engine.heavy.alloc("out", 4, mode="shared")
    engine.run(lambda tx: tx.update(heavy={"out": out}))
    sites = {(array.shared, array.site.split(":")[0]) for array in engine.heavy.report().arrays}
    assert sites == {(True, __file__), (False, __file__)}
    engine.heavy.verify()


def test_quotas_count_the_copy(engine: TheusEngine) -> None:
    engine.heavy.quota("out", hard=3 * 2**16)
    out = engine.heavy.alloc("out", 2 * 2**16, "u1", mode="shared")
    with pytest.raises(MemoryError, match="quota of 'out'"):
        engine.run(lambda tx: tx.update(heavy={"out": out}))
    assert len(engine.heavy.report().arrays) == 1
    assert out.flags.writeable and not out.info()["published"]  # it is as it was
    with out.lend(0, 10) as rows:
        rows[:] = 1
    engine.heavy.quota("out")
    engine.run(lambda tx: tx.update(heavy={"out": out}))
    assert engine.state.heavy["out"].sum() == 10 and not out.flags.writeable


# ---- life ----------------------------------------------------------------------------


def test_memory_comes_back(heavy: ManagedAllocator, worker: Borrower) -> None:
    worker.ask("gc.collect() and None")
    with leak_check(heavy):
        out = heavy.alloc("out", (4, 5000), mode="shared")
        loan, unused = out.lend(0, 2), out.lend(2, 4)
        fill(worker, loan, 3)
        heavy.free("out")
        del out, loan, unused


def test_a_loan_keeps_the_array_in_its_owner(heavy: ManagedAllocator, worker: Borrower) -> None:
    loan = heavy.alloc("out", 8, mode="shared").lend(0, 8)
    with ManagedAllocator(64) as other:
        kept = other.alloc("x", 8, mode="shared").lend(0, 8)
    with pytest.raises(StaleArrayError):  # its allocator was shut down
        worker.ask("it.__enter__()", kept)
    fill(worker, loan, 1)


def test_threads_lend_and_enter(heavy: ManagedAllocator) -> None:
    out = heavy.alloc("out", (64, 16), "i8", mode="shared")
    won = [0] * 64
    lock = threading.Lock()

    def run(number: int) -> None:
        for row in range(64):
            try:
                loan = out.lend(row, row + 1)
            except LoanError:
                continue
            with loan as rows:
                before = rows[0, 0]
                rows += 1
                assert rows[0, 0] == before + 1  # nobody else writes this row
            with lock:
                won[row] += 1

    run_threads(4, run)
    assert out[:, 0].tolist() == won and min(won) >= 1


@pytest.mark.slow
def test_workers_of_a_pool_fill_their_rows(engine: TheusEngine) -> None:
    out = engine.heavy.alloc("out", (4, 1000), mode="shared")
    loans = [out.lend(row, row + 1) for row in range(4)]
    with ProcessPool(1) as pool:
        pids = list(pool.map(pool_tasks.fill_rows, loans, range(4)))
        assert os.getpid() not in pids and out[:, 999].tolist() == [0, 1, 2, 3]
        assert [loan.state for loan in loans] == ["returned"] * 4
        broken = out.lend(0, 4)
        with pytest.raises(WorkerDied):
            pool.submit(pool_tasks.die_within, broken).result()
        assert broken.state == "broken" and out.lend(1, 3).recall()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_the_worker_only_reads() -> None:
    silent(
        """
        import faulthandler, os, signal, warnings
        import numpy as np
        from theus.heavy import ManagedAllocator

        def child_of(body):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pid = os.fork()
            if pid == 0:
                faulthandler.disable()
                try:
                    body()
                    os._exit(0)
                finally:
                    os._exit(1)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        with ManagedAllocator(64) as heavy:
            out = heavy.alloc("out", 1000, mode="shared")
            loan = out.lend(0, 1000)
            with loan as rows:
                rows[:] = 1
                def look():
                    assert rows.sum() == 1000 and loan.state == "over"
                    loan.__exit__(None, None, None)
                assert child_of(look) == 0
                assert child_of(lambda: rows.fill(2)) == -signal.SIGSEGV
                assert loan.state == "taken"
                rows[0] = 7
            assert loan.state == "returned" and out[0] == 7 and out[1] == 1
        """
    )
