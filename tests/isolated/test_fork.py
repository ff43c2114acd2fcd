"""After os.fork(): the child's open transactions are dead, its engine is a private copy."""

from __future__ import annotations

import os

import pytest

from support import silent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PREFACE = """
    import os, sys
    from theus import TheusEngine
    from theus.errors import TransactionError

    def in_child(fn):
        '''Runs fn in a forked child; fails if it raises or dies.'''
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                fn()
                status = 0
            finally:
                sys.stderr.flush()
                if status:
                    import traceback
                    traceback.print_exc()
                    sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"the child ended with {status}"

    engine = TheusEngine({"domain": {"n": 1, "rows": {"a": 1}}})
    """


def forked(script: str) -> None:
    silent(PREFACE + script, "-X", "dev")


def test_an_open_transaction_is_refused_in_the_child_and_goes_on_in_the_parent() -> None:
    forked(
        """
    tx = engine.transaction().__enter__()
    rows = tx.domain["rows"]
    tx.domain["n"] = 2

    def child():
        for use in (
            lambda: tx.domain, lambda: tx.set("domain.n", 3), lambda: rows["a"],
            lambda: rows.update(b=1), lambda: len(rows), lambda: tx.commit(),
        ):
            try:
                use()
            except TransactionError as error:
                assert "parent process" in str(error), str(error)
            else:
                raise AssertionError("used after the fork")
        assert engine.state["domain"]["n"] == 1

    in_child(child)
    tx.commit()
    assert engine.state["domain"]["n"] == 2 and engine.version == 2
    """
    )


def test_the_childs_engine_is_a_private_copy() -> None:
    forked(
        """
    engine.run(lambda tx: tx.set("domain.n", 2))
    state = engine.state

    def child():
        assert engine.version == 2 and engine.state["domain"]["n"] == 2
        assert engine.state.at(1)["domain"]["n"] == 1
        for n in range(50):
            engine.run(lambda tx: tx.set(("domain", "rows", n), n))
        assert engine.version == 52 and len(engine.state["domain"]["rows"]) == 51
        assert state["domain"]["rows"] == {"a": 1}
        engine.close()

    in_child(child)
    in_child(child)
    assert engine.version == 2 and engine.state["domain"]["rows"] == {"a": 1}
    engine.run(lambda tx: tx.set("domain.n", 3))
    assert engine.version == 3
    """
    )


def test_a_new_transaction_inside_a_dead_one_of_the_parent() -> None:
    """The child forks inside a block: a transaction of its own must not join the parent's."""
    forked(
        """
    with engine.transaction() as tx:
        tx.domain["n"] = 2

        def child():
            with engine.transaction() as mine:
                assert mine.domain["n"] == 1
                mine.domain["n"] = 50
            assert engine.state["domain"]["n"] == 50 and engine.version == 2
            engine.run(lambda tx: tx.set("domain.n", 51))
            assert engine.version == 3

        in_child(child)
    assert engine.state["domain"]["n"] == 2 and engine.version == 2
    """
    )


def test_forking_while_other_threads_commit() -> None:
    """No lock is left locked in the child: it can commit at once, again and again."""
    forked(
        """
    import threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    stop = threading.Event()

    def bump(tx):
        tx.domain["n"] += 1

    def busy():
        while not stop.is_set():
            engine.run(bump)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child():
        import faulthandler
        faulthandler.dump_traceback_later(50, exit=True)
        before = engine.state["domain"]["n"]
        for _ in range(20):
            engine.run(bump)
        assert engine.state["domain"]["n"] == before + 20
        engine.records()
        engine.stats()

    try:
        for _ in range(10):
            in_child(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    """
    )
