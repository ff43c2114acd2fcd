"""Frozen containers in processes of their own: cycles, leaks, lack of memory, the end."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig

import pytest

from support import silent

STRICT = ("-X", "dev", "-W", "error")


def test_each_reference_is_reported_once() -> None:
    """What the collector sees of an atom is what the heap holds, over many shared versions."""
    silent(
        """
        import gc, sys
        from theus import FrozenDict, FrozenList, FrozenSet, Opaque

        def heap_of(container):
            (heap,) = [o for o in gc.get_referents(container) if type(o).__name__ == "Heap"]
            return heap

        atoms = [Opaque([n]) for n in range(50)]
        before = [sys.getrefcount(atom) for atom in atoms]
        made = FrozenDict({n: atom for n, atom in enumerate(atoms)}, xs=atoms, s=set(atoms))
        versions = [made]
        for n in range(500):
            made = made.set(n % 70, atoms[n * 7 % 50])
            if n % 3 == 0:
                made = made.delete(n % 50) if n % 50 in made else made
            if n % 5 == 0:
                made = made.set("xs", made["xs"].set(n % 50, atoms[n % 50]).append(atoms[0]))
            versions.append(made)
        del versions[100:300:3]
        referents = [id(o) for o in gc.get_referents(heap_of(made))]
        after = [sys.getrefcount(atom) for atom in atoms]
        for atom, old, new in zip(atoms, before, after):
            assert referents.count(id(atom)) == new - old, (old, new)
        del atom
        gc.collect()
        assert [sys.getrefcount(atom) for atom in atoms] == after
        assert all(version["s"] == set(atoms) for version in versions)
        del versions, made
        assert [sys.getrefcount(atom) for atom in atoms] == before
        """,
        *STRICT,
    )


def test_handles_report_the_heap_and_nothing_below() -> None:
    silent(
        """
        import gc
        from theus import FrozenDict

        made = FrozenDict(a=[1, 2], b={"c": {3}})
        steps = iter(made.items())
        next(steps)
        for handle in (made, made["a"], made["b"], made["b"]["c"], made.mutate()):
            kinds = {type(o).__name__ for o in gc.get_referents(handle)}
            assert kinds == {"Heap", "type"}, kinds
        kinds = {type(o).__name__ for o in gc.get_referents(steps)}
        assert kinds <= {"FrozenDict", "type", "tuple"}, kinds
        """,
        *STRICT,
    )


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="collections without a GIL know no ages",
)
def test_a_young_collection_does_not_meet_an_old_heap() -> None:
    """Versions of a large map add their own handles to the youngest generation, nothing else."""
    silent(
        """
        import gc
        from theus import FrozenDict

        gc.collect()
        made = FrozenDict({n: (n, [n]) for n in range(50_000)})
        gc.collect()
        gc.disable()
        versions = [made.set(n, (n, n)) for n in range(100)]
        young = {type(o).__name__ for o in gc.get_objects(generation=0)}
        assert "Heap" not in young
        """,
    )


def test_cycles_through_containers_are_collected() -> None:
    silent(
        """
        import gc, weakref
        from theus import FrozenDict, FrozenList, FrozenSet, Opaque

        class Node:
            pass

        def view_cycle(node):
            node.it = FrozenDict(a=Opaque(node)).items()

        def steps_cycle(node):
            node.it = iter(FrozenDict(a=Opaque(node)).items())
            next(node.it)

        def tuple_cycle(node):
            node.it = FrozenDict(t=([Opaque(node)], 1))

        def mutation_cycle(node):
            node.it = FrozenDict().mutate()
            node.it["me"] = Opaque(node)

        def weak_cycle(node):
            node.it = FrozenList([Opaque(node)])
            node.ref = weakref.ref(node.it, lambda _: None)

        def key_cycle(node):
            node.it = FrozenSet([FrozenDict({node: 1})])

        def old_version_cycle(node):
            node.it = FrozenDict(a=Opaque(node))
            node.new = node.it.set("a", 1)

        def function_cycle(node):
            node.it = FrozenDict(f=lambda: node)

        gc.disable()
        for make in (view_cycle, steps_cycle, tuple_cycle, mutation_cycle, weak_cycle, key_cycle,
                     old_version_cycle, function_cycle):
            node = Node()
            make(node)
            heap = next(o for o in gc.get_objects() if type(o).__name__ == "Heap")
            ref = weakref.ref(node)
            del node, heap
            assert ref() is not None
            gc.collect()
            assert ref() is None, make
        assert not any(type(o).__name__ == "Heap" for o in gc.get_objects())
        """,
        *STRICT,
    )


def test_a_finalizer_in_a_cycle_still_reads_whole_containers() -> None:
    silent(
        """
        import gc
        from theus import FrozenDict, Opaque

        seen = []

        class Node:
            def __del__(self):
                seen.append(self.it.to_dict()["a"].value is self and len(self.it.set("b", 2)))

        node = Node()
        node.it = FrozenDict(a=Opaque(node))
        del node
        gc.collect()
        assert seen == [2], seen
        """,
        *STRICT,
    )


def test_a_container_that_comes_back_from_the_dead() -> None:
    """Resurrected by a finalizer: it works on, as the collector has cleared nothing yet."""
    silent(
        """
        import gc
        from theus import FrozenDict, Opaque

        kept = []

        class Node:
            def __del__(self):
                kept.append(self.it)

        node = Node()
        node.it = FrozenDict(a=Opaque(node), b=[1])
        del node
        gc.collect()
        gc.collect()
        assert kept[0]["b"] == [1] and type(kept[0]["a"].value) is Node
        """,
        *STRICT,
    )


def test_dying_values_may_use_the_containers_they_die_in() -> None:
    silent(
        """
        from theus import FrozenDict, FrozenList, Opaque

        class Dies:
            def __init__(self, act):
                self.act = act
            def __del__(self):
                self.act()

        made = FrozenDict(a=1)
        log = []

        def act():
            global made
            log.append(len(made))
            made = made.set(f"x{len(log)}", Opaque(Dies(act)) if len(log) < 20 else 0)
            FrozenList(list(made.values())).append(made)
            list(made.items())

        made = made.set("d", Opaque(Dies(act)))
        made = made.set("d", 0)
        for _ in range(50):
            for key in list(made):
                if key.startswith("x"):
                    made = made.set(key, 0)
        assert len(log) == 20, log
        del made
        made = None
        """,
        *STRICT,
    )


MEMORY = """
    import gc, resource
    from theus import FrozenDict, FrozenList, FrozenSet, Opaque, UnfreezableError

    def rss():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()

    class Key:
        def __init__(self, fails):
            self.fails = fails
        def __hash__(self):
            return 1
        def __eq__(self, other):
            if self.fails:
                raise LookupError
            return self is other

    def work(count):
        made = FrozenDict({n: [n] for n in range(200)})
        for n in range(count):
            made = made.set(n % 300, {"x": [n, (n, [n])]})
            if n % 7 == 0:
                made = made.delete(n % 300)
            if n % 11 == 0:
                with made.mutate() as draft:
                    draft.update({n % 50: {n}, "k": "v"})
                    draft.pop("k")
                made = draft.finish() | {"u": n}
            if n % 13 == 0:
                list(made.items()); repr(made); hash(made); made.to_dict(); made == made.to_dict()
                iter(made.values()); dir(made)
                hole = []
                hole.append(FrozenList([Opaque(hole), FrozenSet([n])]))
                FrozenDict(FrozenDict(a=[n]), b={n: n}) == made
            try:
                match n % 5:
                    case 0: made.set(1, [object()])
                    case 1: FrozenDict({1: {2: [bytearray()]}})
                    case 2: FrozenDict([(Key(True), 1), (Key(True), 2)])
                    case 3: made.nothing
                    case 4: FrozenSet([1, []])
            except (UnfreezableError, LookupError, AttributeError, TypeError):
                pass

    work(20_000)
    gc.collect()
    before = rss()
    work(100_000)
    gc.collect()
    grown = rss() - before
    assert grown < 4 << 20, f"grew by {grown >> 10} KiB"
    """


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat() -> None:
    silent(MEMORY)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("_testcapi") is None, reason="needs _testcapi")
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="there [1] itself crashes when the array of the new list cannot be had (CPython 3.14)",
)
def test_every_python_allocation_may_fail() -> None:
    """Each step of a program with the n-th allocation failing: MemoryError or success."""
    silent(
        """
        import _testcapi
        from theus import FrozenDict, FrozenList, FrozenSet, Opaque

        base = FrozenDict({n: [n] for n in range(40)}, t=(1, [2]), o=Opaque([1]))
        items = FrozenList([[n] for n in range(40)])
        some = FrozenSet(range(40))
        plain = {"a": [1, {2}], "b": {"c": (1, [2])}}
        copy = base.to_dict()

        def mutate():
            draft = base.mutate()
            draft["a"] = plain
            draft.update(b=[1], c={1})
            draft.popitem(), draft.pop(3), draft.setdefault("q", {1: 2})
            list(draft.items()), draft == {}, repr(draft)
            return draft.finish()

        steps = [
            lambda: FrozenDict(plain), lambda: FrozenDict(**plain),
            lambda: FrozenDict(plain.items()),
            lambda: FrozenDict.fromkeys([1, 2], [3]), lambda: FrozenList([plain, (1, [2])]),
            lambda: FrozenSet([1, 2]), lambda: FrozenSet({1, 2}),
            lambda: base.set("x", plain), lambda: base.set("t", ([3],)), lambda: base.delete(3),
            lambda: base.update(plain, z=1), lambda: base | plain, lambda: plain | base,
            lambda: base[3], lambda: base.get(3), lambda: base.t, lambda: hasattr(base, "nothing"),
            lambda: list(base), lambda: list(base.items()), lambda: list(reversed(base.values())),
            lambda: base.keys() & {1, 2}, lambda: base.keys() <= {1},
            lambda: (1, [1]) in base.items(),
            lambda: base.to_dict(), lambda: base == copy, lambda: base == FrozenDict(copy),
            lambda: hash(base), lambda: repr(base), lambda: dir(base), lambda: base.__reduce__(),
            lambda: items[3], lambda: items[::2], lambda: items[:7], lambda: items + [plain],
            lambda: [plain] + items, lambda: items * 2, lambda: items.append([1]),
            lambda: items.set(3, plain), lambda: items.index([5]), lambda: items < [[0], [1], [3]],
            lambda: items == items.to_list(), lambda: some | {41}, lambda: {41} ^ some,
            lambda: some & {1}, lambda: some.union([1, 99]), lambda: some <= set(range(50)),
            lambda: hash(some), mutate,
        ]
        failures = 0
        for step in steps:
            for n in range(300):
                _testcapi.set_nomemory(n, n + 1)
                try:
                    step()
                except MemoryError:
                    failures += 1
                finally:
                    _testcapi.remove_mem_hooks()
        assert failures > 5 * len(steps), failures
        assert base == copy and len(items) == len(some) == 40
        """,
    )


ENDINGS = {
    "iterators, views and mutations": """
        made = FrozenDict({n: [n] for n in range(100)})
        keep = iter(made), made.items(), made.mutate(), iter(made.values()), iter(made[5])
        for steps in keep[:1]:
            next(steps)
        """,
    "a finalizer that uses containers": """
        class Last:
            def __del__(self):
                made = FrozenDict(a=[1]).set("b", {2})
                assert made.b == {2} and repr(made) and list(made)
        last = Last()
        kept = FrozenDict(last=Opaque(Last()))
        """,
    "a cycle": """
        hole = []
        hole.append(FrozenDict(hole=Opaque(hole)))
        """,
    "containers in the module's own dict": """
        import theus._theus
        theus._theus.kept = FrozenDict(a=[1])
        theus._theus.kept_type = FrozenDict
        """,
}


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_the_interpreter_ends_silently(ending: str) -> None:
    import textwrap

    body = textwrap.dedent(ENDINGS[ending])
    silent("import sys\nfrom theus import FrozenDict, FrozenList, Opaque\n" + body, *STRICT)
