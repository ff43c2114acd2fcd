"""What the cyclic collector frees and when, seen in fresh processes; and memory that stays flat."""

from __future__ import annotations

import sys

import pytest

from support import silent

STRICT = ("-X", "dev", "-W", "error")


def test_an_engine_in_a_cycle_is_collected() -> None:
    """Through its state, an open transaction, a draft, a callback, a registered process."""
    silent(
        """
        import gc, weakref
        from theus import Opaque, TheusEngine

        class Owner:
            pass

        def cycle(kind):
            owner = Owner()
            owner.engine = engine = TheusEngine({"domain": {"rows": {}}})
            if kind == "state":
                engine.run(lambda tx: tx.set(("domain", "owner"), Opaque(owner)))
            elif kind == "key":
                engine.run(lambda tx: tx.set(("domain", owner), 1))
            elif kind == "draft":
                owner.tx = engine.transaction().__enter__()
                owner.tx.domain["owner"] = Opaque(owner)
                owner.draft = owner.tx.domain["rows"]
            elif kind == "callback":
                owner.tx = engine.transaction().__enter__()
                owner.tx.on_commit(lambda: owner)
            elif kind == "deferred":
                owner.tx = engine.transaction().__enter__()
                owner.tx.merge(("domain", "x"), Opaque(owner), lambda a, b: owner)
            elif kind == "absence":
                owner.tx = engine.transaction().__enter__()
                assert owner not in owner.tx.domain
            elif kind == "view":
                engine.run(lambda tx: tx.set(("domain", "owner"), Opaque(owner)))
                owner.view = engine.state["domain"]
                owner.iterator = iter(owner.view.items())
            elif kind in ("message", "pending", "sender"):
                owner.tx = tx = engine.transaction().__enter__()
                owner.outbox = tx.outbox
                owner.outbox.add("mail", Opaque(owner))
                if kind != "sender":
                    tx.commit()
                    del owner.tx, owner.outbox, tx
                if kind == "pending":
                    engine.process_outbox()
            elif kind == "signals":
                engine.compare_and_swap(engine.version, signal={"go": Opaque(owner)})
                owner.signals = engine.signals()
            elif kind == "context":
                engine.run_process(lambda ctx: ctx.local.update(
                    owner=owner, ctx=ctx, log=ctx.log, now=ctx.now, random=ctx.random,
                    outbox=ctx.outbox, signal=ctx.signal,
                ) or setattr(owner, "local", ctx.local))
            elif kind == "process":
                def work(ctx):
                    return owner
                engine.register(work)
            return weakref.ref(owner), weakref.ref(engine)

        gc.disable()
        kinds = (
            "state key draft callback deferred absence view process message pending sender "
            "signals context"
        ).split()
        for kind in kinds:
            refs = cycle(kind)
            assert all(ref() is not None for ref in refs), (kind, "is no cycle")
            for _ in range(3):
                gc.collect()
            assert all(ref() is None for ref in refs), (kind, "was not collected")
        """,
        *STRICT,
    )


def test_free_standing_containers_in_a_cycle_are_collected() -> None:
    silent(
        """
        import gc, weakref
        from theus import FrozenDict, FrozenList, FrozenSet, Opaque

        class Node:
            pass

        def cycle(make):
            node = Node()
            node.container = make(node)
            return weakref.ref(node)

        gc.disable()
        for make in (
            lambda node: FrozenDict(a=Opaque(node)),
            lambda node: FrozenDict({node: 1}),
            lambda node: FrozenList([[Opaque(node)]]),
            lambda node: FrozenSet([node]),
            lambda node: FrozenDict(a=1).set("b", Opaque(node)).set("c", 2),
            lambda node: iter(FrozenList([Opaque(node)])),
            lambda node: FrozenDict(a=Opaque(node)).mutate(),
        ):
            ref = cycle(make)
            assert ref() is not None
            gc.collect()
            assert ref() is None
        """,
        *STRICT,
    )


def test_a_live_engine_keeps_what_it_holds_through_any_collection() -> None:
    """Reporting a reference twice would free it under the engine; not at all would leak it."""
    silent(
        """
        import gc, sys
        from theus import Opaque, TheusEngine

        class Value:
            pass

        engine = TheusEngine({"domain": {"rows": {n: Opaque(Value()) for n in range(500)}}})
        states = [engine.state]
        for n in range(50):
            engine.compare_and_swap(n + 1, data={"domain": {"rows": {n: Opaque(Value())}}})
            states.append(engine.state)
            gc.collect(n % 3)
        for state in states:
            rows = state["domain"]["rows"]
            assert len(rows) == 500 and all(type(rows[n].value) is Value for n in rows)
        """,
        *STRICT,
    )


def test_a_cycle_held_by_a_dropped_version_stays_until_its_engine_goes() -> None:
    """The documented price of one collector-visible owner per engine: late, and never lost."""
    silent(
        """
        import gc, weakref
        from theus import Opaque, TheusEngine

        class Node:
            pass

        engine = TheusEngine({"domain": {}})
        engine.history_limit(count=1)
        node = Node()
        with engine.transaction() as tx:
            tx.domain["node"] = Opaque(node)
        node.state = engine.state               # node -> a version -> node
        ref = weakref.ref(node)
        with engine.transaction() as tx:
            del tx.domain["node"]               # the engine itself has let go of that version
        del node, tx
        gc.collect()
        assert ref() is not None, "collected earlier than documented: update the documents"
        engine.run(lambda tx: tx.set(("domain", "n"), 1))
        assert engine.state["domain"] == {"n": 1}
        del engine
        gc.collect()
        gc.collect()
        assert ref() is None
        """,
        *STRICT,
    )


def test_what_a_dropped_version_held_is_freed_at_once_without_a_cycle() -> None:
    """No collector needed: counts do it when the version leaves the history."""
    silent(
        """
        import gc, weakref
        from theus import Opaque, TheusEngine

        class Value:
            pass

        gc.disable()
        engine = TheusEngine({"domain": {}})
        engine.history_limit(count=3)
        value = Value()
        ref = weakref.ref(value)
        engine.compare_and_swap(1, data={"domain": {"value": Opaque(value)}})
        del value
        engine.compare_and_swap(2, data={"domain": {"value": 1}})
        assert ref() is not None and engine.state.at(2)["domain"]["value"].value is ref()
        for n in range(3, 6):
            engine.compare_and_swap(n, data={"domain": {"n": n}})
        assert ref() is None
        """,
        *STRICT,
    )


def test_aborted_transactions_leave_no_object_behind() -> None:
    silent(
        """
        import gc, sys, weakref
        from theus import Opaque, TheusEngine

        class Value:
            pass

        gc.disable()
        engine = TheusEngine({"domain": {"rows": {}}})
        for n in range(100):
            value = Value()
            ref = weakref.ref(value)
            try:
                with engine.transaction() as tx:
                    tx.domain["rows"][n] = {"deep": [Opaque(value)]}
                    with tx.savepoint():
                        tx.domain["rows"][n]["deep"].append(Opaque(value))
                    tx.merge(("domain", "m"), Opaque(value), lambda a, b: b)
                    del value
                    raise LookupError
            except LookupError:
                pass
            assert ref() is None, n
        """,
        *STRICT,
    )


RSS = """
    import gc, resource, sys
    from theus import TheusEngine

    def rss():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()

    def work(count, start):
        for n in range(start, start + count):
            match n % 8:
                case 0:
                    engine.run(insert, n)
                case 1:
                    engine.run(append, n)
                case 2:
                    try:
                        engine.run(fail, n)
                    except LookupError:
                        pass
                case 3:
                    engine.compare_and_swap(engine.version, data={"domain": {"n": n}})
                case 4:
                    with engine.transaction(read_only=True) as tx:
                        tx.domain["rows"].get(n)
                case 5:
                    with engine.transaction() as tx:
                        tx.add(("domain", "m"), 1)
                        with tx.savepoint():
                            tx.domain["text"] = f"text {n}"
                case _:
                    engine.run(bump)

    def insert(tx, n):
        rows = tx.domain["rows"]
        rows[n] = {"id": n, "xs": [n]}
        rows.pop(n - 800, None)

    def append(tx, n):
        xs = tx.domain["xs"]
        xs.append(str(n))
        if len(xs) > 100:
            del xs[:50]

    def fail(tx, n):
        tx.domain["rows"].clear()
        tx.domain["new"] = {"x": [n]}
        raise LookupError

    def bump(tx):
        tx.domain["n"] += 1

    engine = TheusEngine({"domain": {"n": 0, "m": 0, "rows": {}, "xs": []}})
    total = TOTAL
    work(total // 5, 0)
    gc.collect()
    before = rss()
    work(total - total // 5, total // 5)
    gc.collect()
    grown = rss() - before
    assert engine.state["domain"]["m"] == total // 8
    assert grown < 4 << 20, f"grew by {grown / 2**20:.1f} MiB over {total} transactions"
    """


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_fifty_thousand_transactions() -> None:
    silent(RSS.replace("TOTAL", "50_000"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_a_million_transactions() -> None:
    silent(RSS.replace("TOTAL", "1_000_000"), timeout=300)
