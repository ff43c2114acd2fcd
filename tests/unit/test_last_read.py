"""A draft that is asked for the same key again answers from memory: never what is true no more."""

from __future__ import annotations

import os
import threading

import pytest

from theus import ContractViolationError, SemanticType, TheusEngine, TransactionError, process


def engine() -> TheusEngine:
    return TheusEngine({"domain": {"x": 1, "y": 2, "at": {"z": 3}}})


def test_a_write_shows_whoever_makes_it() -> None:
    def body(tx):
        mine, other = tx.domain, tx.domain
        assert (mine.x, mine.x) == (1, 1)
        other.x = 10
        assert (mine.x, mine["x"], mine.get("x")) == (10, 10, 10)
        tx.set(("domain", "x"), 20)
        assert mine.x == 20
        tx.update({"domain": {"x": 30}})
        assert mine.x == 30
        tx.add(("domain", "x"), 1)
        assert mine.x == 31
        del other["x"]
        assert "x" not in mine
        with pytest.raises(KeyError):
            mine["x"]

    engine().run(body)


def test_a_rolled_back_write_is_forgotten() -> None:
    engine_ = engine()
    with engine_.transaction() as tx:
        domain = tx.domain
        assert domain.x == 1
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            domain.x = 5
            assert (domain.x, domain.x) == (5, 5)
            raise ZeroDivisionError
        assert (domain.x, domain.x) == (1, 1)


def test_the_read_that_is_repeated_still_conflicts() -> None:
    engine_ = engine()
    tries = 0

    def body(tx):
        nonlocal tries
        tries += 1
        seen = [tx.domain.x for _ in range(3)]
        domain = tx.domain
        seen += [domain.x, domain.x]
        if tries == 1:
            engine_.run(lambda inner: inner.domain.update(x=7), detached=True)
        seen.append(domain.x)
        tx.domain.y = sum(seen)

    engine_.run(body)
    assert tries == 2
    assert engine_.state.domain.y == 42


def test_what_one_draft_has_read_another_one_is_not_shown() -> None:
    """They share the memory of their container, and not what they may read there."""
    engine_ = engine()

    @process(inputs=["domain.y"], semantic=SemanticType.PURE)
    def narrow(ctx, outer):
        domain = ctx.domain
        assert (domain.y, domain.y) == (2, 2)
        assert (outer.x, outer.x) == (1, 1)
        return domain.x

    @process(inputs=["domain.x", "domain.y"], outputs=["domain.y"])
    def wide(ctx):
        domain = ctx.domain
        assert (domain.x, domain.y) == (1, 2)
        with pytest.raises(ContractViolationError):
            engine_.run_process(narrow, domain)
        assert (domain.x, domain.y) == (1, 2)

    engine_.run_process(wide)


def test_nothing_is_answered_after_the_end() -> None:
    kept = []

    def body(tx):
        kept.append(tx.domain)
        assert (kept[0].x, kept[0].x) == (1, 1)

    engine().run(body)
    with pytest.raises(TransactionError, match="ended"):
        kept[0].x  # noqa: B018
    with pytest.raises(TransactionError, match="ended"):
        kept[0]["x"]


def test_another_thread_sees_what_is_written() -> None:
    """It may look while nobody else is inside: what it finds is of now."""
    seen = []
    with engine().transaction() as tx:
        domain = tx.domain
        assert (domain.x, domain.x) == (1, 1)
        for value in (5, 6):
            domain.x = value
            thread = threading.Thread(target=lambda: seen.append((domain.x, domain.x)))
            thread.start()
            thread.join()
    assert seen == [(5, 5), (6, 6)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused() -> None:
    with engine().transaction() as tx:
        domain = tx.domain
        assert (domain.x, domain.x) == (1, 1)
        child = os.fork()
        if child == 0:
            try:
                domain.x  # noqa: B018
            except TransactionError:
                os._exit(7)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
