"""One object, eight threads: views, iterators, drafts, transactions, engines that are shared.

What may be shared gives right answers; what may not refuses, and nothing else. On a build
without a GIL this is where a missing lock shows, as a wrong number or as a crash.
"""

import copy
import gc
import itertools
import sys
import sysconfig
import threading
import weakref

import pytest

from helpers import run_fresh, run_threads
from theus import (
    ClosedError,
    ConflictError,
    FrozenDict,
    State,
    TheusEngine,
    TransactionError,
    freeze,
    thaw,
)

THREADS = 8


@pytest.fixture(autouse=True)
def often():
    """Threads change every few bytecodes, on builds where that can be asked for."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED") or sys.version_info < (3, 14),
    reason="this Python has a GIL",
)
def test_the_module_does_not_ask_for_a_gil():
    """Importing one that does switches it on, for the whole process, with a warning."""
    said = run_fresh("import theus, sys; print(sys._is_gil_enabled())", PYTHON_GIL="")
    assert said.split() == ["False"]


# ---- what may be shared --------------------------------------------------------------------


def test_one_frozen_view():
    builtin = {"n": 1, "rows": [{"id": i, "tags": {i, i + 1}} for i in range(50)]}
    view = freeze(builtin)
    fresh = [freeze({"key": i}) for i in range(200)]  # hashes nobody has asked for

    def read(index):
        for _ in range(20):
            assert view == builtin and view.to_dict() == builtin
            assert [row["id"] for row in view["rows"]] == list(range(50))
            assert repr(view["rows"][3]) and copy.deepcopy(view) is view
            changed = view.set("n", index)
            assert changed["n"] == index and view["n"] == 1
        return [hash(one) for one in fresh]

    assert len({tuple(hashes) for hashes in run_threads(THREADS, read)}) == 1


@pytest.mark.parametrize("what", ["keys", "values", "items", "list", "set"])
def test_one_iterator_gives_each_part_once(what):
    count = 5000
    mapping = freeze({i: (i, i) for i in range(count)})
    iterator = iter(
        freeze(list(range(count)))
        if what == "list"
        else freeze(set(range(count)))
        if what == "set"
        else getattr(mapping, what)()
    )
    parts = sorted(itertools.chain(*run_threads(THREADS, lambda _: list(iterator))))
    wanted = range(count) if what in ("keys", "list", "set") else [(i, i) for i in range(count)]
    assert parts == ([(i, (i, i)) for i in range(count)] if what == "items" else list(wanted))


def test_one_mutation_is_written_like_a_dict():
    mutation = FrozenDict({"shared": 0}).mutate()

    def write(index):
        for i in range(500):
            mutation[(index, i)] = [i]
            if i % 3 == 0:
                del mutation[(index, i)]
            mutation["shared"] = index
            assert mutation.get((index, i), [i]) == [i]
        return len(mutation)

    run_threads(THREADS, write)
    whole = mutation.finish()
    assert len(whole) == 1 + THREADS * sum(1 for i in range(500) if i % 3)
    assert all(whole[index, i] == [i] for index in range(THREADS) for i in range(500) if i % 3)


def test_a_mutation_that_changes_under_its_iterators():
    mutation = FrozenDict(dict.fromkeys(range(100))).mutate()

    def work(index):
        for i in range(200):
            if index % 2:
                mutation[index, i] = i
            else:
                try:
                    assert len(list(mutation)) >= 100
                except RuntimeError as error:
                    assert "during iteration" in str(error)

    run_threads(THREADS, work)


def test_values_that_others_change_while_they_are_frozen():
    """dict, list and set of the user: what is stored is one moment of each part, and whole."""
    source = {"map": {i: i for i in range(50)}, "list": list(range(50)), "set": set(range(50))}
    engine = TheusEngine({"d": {}})
    stop = threading.Event()

    def change():
        for i in itertools.count():
            if stop.is_set():
                return
            source["map"][i % 70] = i
            source["map"].pop((i + 35) % 70, None)
            source["list"].append(i)
            del source["list"][0]
            source["set"].discard(i % 50)
            source["set"].add(i % 50)

    changers = [threading.Thread(target=change) for _ in range(2)]
    for changer in changers:
        changer.start()

    def store(index):
        for _ in range(60):
            try:
                frozen = freeze(source)
                engine.run(lambda tx: tx.set(("d", index), source))
                engine.compare_and_swap(engine.version, {"e": {index: source}})
            except (RuntimeError, ConflictError):  # changed size; or somebody was faster
                continue
            assert frozen["set"] <= set(range(50))
            assert len(set(frozen["set"])) == len(frozen["set"])

    try:
        run_threads(4, store)
    finally:
        stop.set()
        for changer in changers:
            changer.join()


def test_one_state_and_its_log():
    state = State({"d": {"n": 1}})

    def work(index):
        for i in range(200):
            state.log_meta("key", f"{index} {i}")
            assert state.d.n == 1 and state.update({"d": {"n": 2}}).d.n == 2
        return state.get_meta_logs()

    run_threads(THREADS, work)
    assert len(state.get_meta_logs()) == 1000  # its capacity


def test_states_dropped_by_other_threads():
    engine = TheusEngine({"d": {}}, history=2)
    handed = [[] for _ in range(THREADS)]

    def work(index):
        for i in range(300):
            engine.run(lambda tx, i=i: tx.set(("d", index), [object_of(i), "x" * i]))
            handed[(index + 1) % THREADS].append(engine.state)
            mine = handed[index]
            while len(mine) > 5:
                assert mine.pop().d is not None

    def object_of(i):
        return (i, f"made by one thread, dropped by another {i}")

    run_threads(THREADS, work)
    handed.clear()
    gc.collect()
    assert engine.version == 1 + THREADS * 300


# ---- what may not ------------------------------------------------------------------------------


def attempt(outcomes, fn, *args):
    """Calls fn; a refusal is as good as a result, and is counted."""
    try:
        fn(*args)
    except TransactionError:
        outcomes.append("refused")
    else:
        outcomes.append("done")


def test_one_transaction_is_begun_once():
    for _ in range(50):
        engine = TheusEngine({"d": {"n": 0}})
        tx, outcomes = engine.transaction(), []
        run_threads(THREADS, lambda _, tx=tx, box=outcomes: attempt(box, tx.__enter__))
        assert outcomes.count("done") == 1 and tx.active
        tx["d"]["n"] = 1
        run_threads(THREADS, lambda _, tx=tx: attempt([], tx.__exit__, None, None, None))
        assert not tx.active and engine.state.d.n == 1 and engine.version == 2


def test_one_draft_in_one_transaction():
    """Each step is done as a whole, or refused because another thread is inside."""
    engine = TheusEngine({"d": {"list": [], "map": {}}})
    done = [0] * THREADS
    with engine.transaction() as tx:
        xs, mapping = tx.d["list"], tx.d["map"]

        def work(index):
            for i in range(300):
                box = []
                attempt(box, xs.append, (index, i))
                done[index] += box == ["done"]
                attempt([], mapping.__setitem__, (index, i), {"x": i})
                attempt([], mapping.get, (index, i))
                attempt([], repr, tx)
                attempt([], lambda: [None for _ in xs])
                attempt([], tx.on_commit, lambda: None)
                attempt([], lambda: (tx.written, tx.state, tx.active, len(mapping)))

        run_threads(THREADS, work)
        assert len(xs) == sum(done) > 0
    stored = thaw(engine.state.d)
    assert len(stored["list"]) == sum(done)
    assert all(value == {"x": key[1]} for key, value in stored["map"].items())


def test_one_iterator_over_a_draft():
    engine = TheusEngine({"d": {"map": {i: i for i in range(500)}, "list": list(range(500))}})
    with engine.transaction() as tx:
        for shared in (iter(tx.d["map"].items()), iter(tx.d["list"]), iter(tx.d["map"])):
            seen = []

            def work(_, shared=shared, seen=seen):
                while True:
                    try:
                        seen.append(next(shared))
                    except TransactionError:
                        continue
                    except StopIteration:
                        return

            run_threads(THREADS, work)
            assert len(seen) == len(set(seen)) == 500


def test_a_transaction_ends_while_others_use_it():
    engine = TheusEngine({"d": {"n": 0, "list": [1, 2, 3]}})
    for turn in range(60):
        tx = engine.transaction(detached=True)
        tx.__enter__()
        called = []
        tx.on_commit(lambda called=called: called.append(1))
        xs = tx.d["list"]

        def work(index, tx=tx, xs=xs, turn=turn):
            for i in range(20):
                if index == 0 and i == 10:
                    attempt([], tx.commit if turn % 2 else tx.rollback)
                attempt([], xs.append, i)
                attempt([], lambda: tx.d["n"])
                attempt([], tx.on_commit, lambda: None)
            attempt([], tx.rollback)

        run_threads(4, work)
        assert not tx.active and len(called) <= 1
        with pytest.raises(TransactionError):
            xs.append(1)


def test_transactions_dropped_by_other_threads():
    """The last reference goes while the thread that began it asks for its current one."""
    engine = TheusEngine({"d": {"n": 0}})
    handed = [[] for _ in range(THREADS)]
    watched = []

    def work(index):
        for i in range(300):
            tx = engine.transaction(detached=True)
            tx.__enter__()
            if i % 50 == 0:
                watched.append(weakref.ref(tx))
            handed[(index + 1) % THREADS].append(tx)
            del tx
            current = engine.current()
            assert current is None or current.state.d.n == 0
            handed[index].clear()

    run_threads(THREADS, work)
    handed.clear()
    gc.collect()
    assert all(ref() is None for ref in watched) and engine.current() is None


# ---- one engine ----------------------------------------------------------------------------------


def test_an_engine_that_is_closed_while_it_works():
    for _ in range(10):
        engine = TheusEngine({"d": {}})
        counts = [0] * THREADS

        def work(index, engine=engine, counts=counts):
            try:
                for i in range(100):
                    engine.run(lambda tx, i=i: tx.set(("d", index), i))
                    counts[index] += 1
                    if index == 0 and i == 50:
                        engine.close()
            except ClosedError:
                pass

        run_threads(THREADS, work)
        assert engine.version == 1 + sum(counts)


def test_collections_during_commits():
    engine = TheusEngine({"d": {}})

    class Node:
        """A value in a cycle, so that only a collection ends it."""

        def __hash__(self):
            return 1

    def work(index):
        if index == 0:
            for _ in range(10):  # of all that the whole suite has left: slow
                gc.collect()
                gc.get_referrers(engine)
            return
        for i in range(150):
            loop = []
            loop.append(loop)
            engine.run(lambda tx, i=i: tx.set(("d", index), {"i": i, "cycle": (Node, i)}))
            assert engine.state.d[index]["i"] == i

    run_threads(4, work)
    assert engine.version == 1 + 3 * 150


def test_figures_and_settings_while_it_works():
    engine = TheusEngine({"d": {"hot": 0}})

    def work(index):
        for i in range(100):
            engine.run(lambda tx: tx.set("d.hot", tx.d.hot + 1))
            engine.stats()
            engine.records(0)
            engine.write_timeout_ms = 1000 + i
            engine.strict_cas = bool(i % 2)
            engine.history_limit(count=2 + i % 5)
            repr(engine)

    run_threads(THREADS, work)
    assert engine.state.d.hot == 100 * THREADS
    assert engine.stats().commits == 100 * THREADS
