"""Many threads on one engine. Races start on a barrier and assert counts, never times."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest

from helpers import Crasher
from support import PATIENCE, begin, elsewhere, plain, race
from theus import TheusEngine
from theus.errors import ConflictError, TransactionError

pytestmark = pytest.mark.usefixtures("eager_switching")

THREADS = 8


def crowd(body: Any, count: int = THREADS) -> list[Any]:
    """body(number) in `count` threads at once."""
    return race(*(lambda number=number: body(number) for number in range(count)))  # type: ignore[misc]


# ---- money -------------------------------------------------------------------------


def test_bank_transfers_keep_the_sum() -> None:
    """Transfers never make or lose money, and no auditor ever sees any on its way."""
    engine = TheusEngine({"domain": {"accounts": {f"a{n}": 100 for n in range(10)}, "done": 0}})
    total = 1000
    stop = threading.Event()
    audits = Counter[str]()
    tellers: list[int] = []

    def transfer(tx: Any, source: str, target: str, amount: int) -> bool:
        accounts = tx.domain.accounts
        if accounts[source] < amount:
            return False
        accounts[source] -= amount
        accounts[target] += amount
        tx.add(("domain", "done"), 1)
        return True

    def teller(number: int) -> int:
        rng = random.Random(number)
        done = 0
        transfers = 0
        while transfers < 150 or not audits["all"]:  # an auditor gets its turn, sooner or later
            transfers += 1
            source, target = rng.sample([f"a{n}" for n in range(10)], 2)
            done += engine.run(transfer, source, target, rng.randint(1, 60), deadline=PATIENCE)
        return done

    def auditor(number: int) -> int:
        while not stop.is_set():
            with engine.transaction(read_only=True) as tx:
                assert sum(tx.domain.accounts.values()) == total
            assert sum(engine.state.domain.accounts.values()) == total
            writing = engine.run(lambda tx: sum(tx.domain.accounts.values()), deadline=PATIENCE)
            assert writing == total
            audits["all"] += 1
        return 0

    def worker(number: int) -> int:
        if number >= 6:
            return auditor(number)
        try:
            return teller(number)
        finally:
            tellers.append(number)  # in one step: a count could lose one
            if len(tellers) == 6:
                stop.set()

    done = sum(crowd(worker))
    assert audits["all"] > 0
    accounts = plain(engine.state["domain"]["accounts"])
    assert sum(accounts.values()) == total and min(accounts.values()) >= 0
    assert engine.state["domain"]["done"] == done
    assert engine.stats().commits == engine.version - 1 == done


# ---- disjoint work -----------------------------------------------------------------


def by_run(engine: Any, key: str) -> None:
    def body(tx: Any) -> None:
        tx.domain[key]["n"] += 1

    engine.run(body, retries=0)


def by_block(engine: Any, key: str) -> None:
    with engine.transaction() as tx:
        tx.domain[key]["n"] += 1


def by_snapshot(engine: Any, key: str) -> None:
    with engine.transaction(isolation="snapshot") as tx:
        tx.domain[key]["n"] += 1


def by_swap(engine: Any, key: str) -> None:
    state = engine.state
    change = {"domain": {key: {"n": state["domain"][key]["n"] + 1}}}
    engine.compare_and_swap(state.version, data=change)


@pytest.mark.parametrize("way", [by_run, by_block, by_snapshot, by_swap])
def test_disjoint_updates_never_conflict(way: Any) -> None:
    """Each thread has its own key under one root: no conflict, no retry, no lost update."""
    each = 100
    engine = TheusEngine({"domain": {f"t{n}": {"n": 0} for n in range(THREADS)}})
    engine.history_limit(count=THREADS * each + 10)

    def worker(number: int) -> None:
        for _ in range(each):
            way(engine, f"t{number}")

    crowd(worker)
    stats = engine.stats()
    assert plain(engine.state["domain"]) == {f"t{n}": {"n": each} for n in range(THREADS)}
    assert (stats.conflicts, stats.retries, stats.conflicts_by_path) == (0, 0, {})
    assert stats.commits == stats.version - 1 == THREADS * each


def test_disjoint_updates_from_one_version_rebase() -> None:
    """All begin on the same version, for certain; all but the first commit rebase."""
    engine = TheusEngine({"domain": {f"t{n}": 0 for n in range(THREADS)}})
    everyone_began = threading.Barrier(THREADS)

    def worker(number: int) -> int:
        with engine.transaction() as tx:
            everyone_began.wait(PATIENCE)
            tx.domain[f"t{number}"] += 1
        return int(tx.version)

    versions = crowd(worker)
    stats = engine.stats()
    assert sorted(versions) == list(range(2, THREADS + 2))
    assert (stats.commits, stats.rebases, stats.conflicts) == (THREADS, THREADS - 1, 0)
    assert set(plain(engine.state["domain"]).values()) == {1}


def test_disjoint_inserts_and_deletes_never_conflict() -> None:
    """New keys and removed keys are as disjoint as changed ones."""
    engine = TheusEngine({"domain": {"rows": {}}})

    def worker(number: int) -> None:
        for step in range(60):

            def body(tx: Any, step: int = step) -> None:
                tx.domain.rows[number, step] = step
                if step:
                    del tx.domain.rows[number, step - 1]

            engine.run(body, retries=0)

    crowd(worker)
    assert plain(engine.state["domain"]["rows"]) == {(n, 59): 59 for n in range(THREADS)}
    assert engine.stats().conflicts == 0


# ---- contended work ----------------------------------------------------------------


def test_thundering_herd_on_one_key() -> None:
    """Everybody increments the same counter; everybody gets through; every increment counts."""
    each = 50
    engine = TheusEngine({"domain": {"n": 0}})

    def increment(tx: Any) -> int:
        tx.domain["n"] += 1
        return int(tx.domain["n"])

    def worker(number: int) -> list[int]:
        return [engine.run(increment, deadline=PATIENCE) for _ in range(each)]

    seen = [value for values in crowd(worker) for value in values]
    stats = engine.stats()
    assert engine.state["domain"]["n"] == THREADS * each
    assert sorted(seen) == list(range(1, THREADS * each + 1)), "each value was made once"
    assert stats.commits == THREADS * each == stats.version - 1
    assert stats.retries == stats.conflicts
    if stats.conflicts:
        assert stats.conflicts_by_path == {("domain", "n"): stats.conflicts}


def test_thundering_herd_that_meets_for_certain() -> None:
    """All read the same version before any commits: one wins at once, the others on a retry."""
    engine = TheusEngine({"domain": {"n": 0}})
    everyone_read = threading.Barrier(THREADS)
    attempts = Counter[int]()

    def worker(number: int) -> None:
        def body(tx: Any) -> None:
            value = tx.domain["n"]
            attempts[number] += 1
            if attempts[number] == 1:
                everyone_read.wait(PATIENCE)
            tx.domain["n"] = value + 1

        engine.run(body, deadline=PATIENCE)

    crowd(worker)
    stats = engine.stats()
    assert engine.state["domain"]["n"] == THREADS == stats.commits
    assert stats.retries == sum(attempts.values()) - THREADS >= THREADS - 1


def test_thundering_herd_of_swaps() -> None:
    """Of many swaps of one key from one version exactly one succeeds, and it is told so."""
    engine = TheusEngine({"domain": {"owner": None}})
    for _ in range(20):
        version = engine.version

        def worker(number: int, version: int = version) -> int | None:
            try:
                change = {"domain": {"owner": (version, number)}}
                return int(engine.compare_and_swap(version, data=change))
            except ConflictError as error:
                assert error.path == ("domain", "owner")
                assert (error.expected, error.found) == (version, version + 1)
                return None

        results = crowd(worker)
        (winner,) = [number for number, result in enumerate(results) if result is not None]
        assert results[winner] == engine.version == version + 1
        assert engine.state["domain"]["owner"] == (version, winner)


def test_a_long_list_of_deferred_appends_loses_none() -> None:
    engine = TheusEngine({"domain": {"log": [], "n": 0}})

    def worker(number: int) -> None:
        for step in range(50):

            def body(tx: Any, step: int = step) -> None:
                tx.append(("domain", "log"), (number, step))
                tx.add(("domain", "n"), 1)

            engine.run(body, retries=0)

    crowd(worker)
    log = list(engine.state["domain"]["log"])
    assert len(log) == len(set(log)) == engine.state["domain"]["n"] == THREADS * 50
    for number in range(THREADS):
        assert [step for who, step in log if who == number] == list(range(50))
    assert engine.stats().conflicts == 0


def test_versions_have_no_gaps() -> None:
    """Commits from many threads, by every way in, number 1, 2, 3 ... with one record each."""
    engine = TheusEngine()
    engine.history_limit(THREADS * 40)  # a thread may sleep before its compare_and_swap
    assert engine.version == 0

    def worker(number: int) -> list[int]:
        versions = []
        for step in range(40):
            if step % 3 == 0:
                version = engine.version
                versions.append(engine.compare_and_swap(version, data={f"cas{number}": step}))
            else:
                with engine.transaction() as tx:
                    tx.set((f"root{number}",), step)
                versions.append(tx.version)
        return versions

    made = crowd(worker)
    assert all(versions == sorted(versions) for versions in made)
    assert sorted(sum(made, [])) == list(range(1, THREADS * 40 + 1))
    records, lost = engine.records()
    assert lost == 0
    assert [record.version for record in records] == list(range(1, THREADS * 40 + 1))


def test_a_version_never_changes_under_writers() -> None:
    """Readers that keep a state see the same content in it, whatever is committed meanwhile."""
    engine = TheusEngine({"domain": {"rows": {n: [n] for n in range(50)}}})
    left = [4]

    def worker(number: int) -> None:
        if number < 4:
            for step in range(100):

                def body(tx: Any, step: int = step) -> None:
                    tx.domain.rows[step % 50].append(number)

                engine.run(body, deadline=PATIENCE)
            left[0] -= 1
            return
        while left[0] > 0:
            state = engine.state
            before, version = plain(state["domain"]), state.version
            for _ in range(3):
                assert plain(state["domain"]) == before and state.version == version

    crowd(worker)
    assert sum(len(row) for row in engine.state["domain"]["rows"].values()) == 50 + 400


# ---- one transaction, several threads ----------------------------------------------


@pytest.mark.parametrize("inside", ["a comparison of keys", "a sort"])
def test_two_threads_at_once_in_one_transaction_are_refused(inside: str) -> None:
    """While one thread is inside an operation, every other one is turned away, loudly."""
    engine = TheusEngine({"domain": {"xs": [2, 1], "rows": {Crasher("a"): 1}}})
    entered, leave = threading.Event(), threading.Event()
    tx = begin(engine)

    def linger(value: int = 0) -> int:
        entered.set()
        assert leave.wait(PATIENCE)
        return value

    def first() -> None:
        if inside == "a sort":
            tx.domain["xs"].sort(key=linger)
        else:
            with Crasher.armed("eq", act=linger):
                assert tx.domain["rows"][Crasher("a")] == 1

    def second() -> None:
        assert entered.wait(PATIENCE)
        uses = {
            "set": lambda: tx.set(("domain", "y"), 1),
            "get": lambda: tx.get(("domain", "xs")),
            "draft": lambda: tx.domain["xs"].append(1),
            "commit": tx.commit,
            "rollback": tx.rollback,
        }
        try:
            for name, use in uses.items():
                with pytest.raises(TransactionError, match="thread"):
                    use()
                    pytest.fail(f"{name} was let through")
        finally:
            leave.set()

    race(first, second)
    tx.commit()
    assert plain(engine.state["domain"]["xs"]) == ([1, 2] if inside == "a sort" else [2, 1])
    assert "y" not in engine.state["domain"]


def test_a_transaction_may_be_handed_from_thread_to_thread() -> None:
    """One at a time is fine: that is what asyncio and thread pools do."""
    engine = TheusEngine({"domain": {"n": 0}})
    tx = begin(engine)
    tx.domain["n"] += 1
    elsewhere(lambda: tx.set(("domain", "n"), tx.domain["n"] + 1))
    elsewhere(tx.commit)
    assert engine.state["domain"]["n"] == 2


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_used_after_its_end_is_refused_in_every_thread(end: str) -> None:
    engine = TheusEngine({"domain": {"xs": [1]}})
    tx = begin(engine)
    draft = tx.domain["xs"]
    getattr(tx, end)()
    uses = [
        lambda: tx.domain,
        lambda: tx.set(("domain", "n"), 1),
        lambda: draft.append(1),
        lambda: draft[0],
        lambda: len(draft),
        lambda: tx.commit(),
    ]
    for use in uses:
        for where in (lambda fn: fn(), elsewhere):
            with pytest.raises(TransactionError):
                where(use)
    assert plain(engine.state["domain"]) == {"xs": [1]}


def test_an_exception_in_one_thread_leaves_the_others_alone() -> None:
    """Bodies that raise abort their own transaction and nobody else's."""
    engine = TheusEngine({"domain": {"n": 0}})

    def worker(number: int) -> int:
        failed = 0
        for step in range(50):

            def body(tx: Any, step: int = step) -> None:
                tx.domain["n"] += 1
                if (number + step) % 2:
                    raise KeyboardInterrupt if step % 4 == 1 else LookupError

            try:
                engine.run(body, deadline=PATIENCE)
            except (KeyboardInterrupt, LookupError):
                failed += 1
        return failed

    failed = sum(crowd(worker))
    assert failed == THREADS * 25
    assert engine.state["domain"]["n"] == THREADS * 50 - failed
