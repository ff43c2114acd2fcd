"""Fresh processes that end: silently, whatever is still open, referenced or in a cycle."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from support import PATIENCE, silent

STRICT = ("-X", "dev", "-W", "error")

ENDINGS = {
    "an engine at module level": "engine = TheusEngine({'domain': {'n': 1}})",
    "a closed engine": "engine = TheusEngine({'domain': {'n': 1}}); engine.close()",
    "an open transaction": """
        engine = TheusEngine({'domain': {'n': 1}})
        tx = engine.transaction().__enter__()
        tx.domain['n'] = 2
        """,
    "a draft, a view and an iterator": """
        engine = TheusEngine({'domain': {'rows': {'a': [1, 2]}}})
        tx = engine.transaction().__enter__()
        draft = tx.domain['rows']
        view = engine.state['domain']['rows']['a']
        iterators = iter(draft), iter(view), iter(view)
        next(iterators[1])
        """,
    "a state without its engine": """
        state = TheusEngine({'domain': {'n': 1}}).state
        """,
    "an engine in a cycle with its own state": """
        from theus import Opaque
        engine = TheusEngine({'domain': {}})
        with engine.transaction() as tx:
            tx.domain['me'] = Opaque(engine)
        """,
    "values that use the engine when they die": """
        from theus import Opaque
        class Dying:
            def __del__(self):
                engine.compare_and_swap(engine.version, data={'domain': {'last': 'words'}})
        engine = TheusEngine({'domain': {}})
        with engine.transaction() as tx:
            tx.domain['dying'] = Opaque(Dying())
        engine.history_limit(count=1)
        with engine.transaction() as tx:
            del tx.domain['dying']
        assert engine.state['domain']['last'] == 'words'
        """,
    "daemon threads in the middle of transactions": """
        import threading, time
        engine = TheusEngine({'domain': {'n': 0}})
        def body(tx):
            tx.domain['n'] += 1
        def forever():
            while True:
                engine.run(body)
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.1)
        """,
    "an exception inside a transaction": """
        engine = TheusEngine({'domain': {'n': 0}})
        try:
            with engine.transaction() as tx:
                tx.domain['n'] = 1
                raise SystemExit(0)
        finally:
            assert engine.version == 1
        """,
    "module state cleared by hand": """
        import theus, theus._theus
        engine = TheusEngine({'domain': {'rows': {n: [n] for n in range(100)}}})
        for name in list(sys.modules):
            if name.startswith('theus'):
                del sys.modules[name]
        engine.compare_and_swap(1, data={'domain': {'n': 1}})
        """,
    "free-standing containers": """
        from theus import FrozenDict, FrozenList, FrozenSet
        d = FrozenDict(a=FrozenList([1, {2: 3}]), s=FrozenSet({1, 2}))
        keep = d.set('b', d), iter(d), d.items()
        """,
}


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_the_interpreter_ends_silently(ending: str) -> None:
    body = textwrap.dedent(ENDINGS[ending])
    silent("import sys\nfrom theus import TheusEngine\n" + body, *STRICT)


def test_importing_says_nothing_and_loads_little() -> None:
    """No output, no thread, no file; and none of the heavy modules."""
    silent(
        """
        import sys, threading
        import theus
        heavy = {"numpy", "pydantic", "rich", "click", "asyncio"} & set(sys.modules)
        assert not heavy, heavy
        assert threading.active_count() == 1
        """,
        *STRICT,
    )


def test_importing_twice_in_one_process() -> None:
    """A second module object after the first was thrown away works, and both work on."""
    silent(
        """
        import gc, sys
        import theus
        first = theus.TheusEngine({"domain": {"n": 1}})
        for name in [name for name in sys.modules if name.startswith("theus")]:
            del sys.modules[name]
        import theus as again
        assert again is not theus
        second = again.TheusEngine({"domain": {"n": 1}})
        for engine in (first, second):
            engine.run(lambda tx: tx.set("domain.n", 2))
            assert engine.state["domain"]["n"] == 2
        del first, theus
        gc.collect()
        assert second.state["domain"]["n"] == 2
        """,
        *STRICT,
    )


def test_two_engines_in_one_process_share_nothing() -> None:
    silent(
        """
        import gc, weakref
        from theus import TheusEngine
        from theus.errors import TheusError

        one, two = TheusEngine({"domain": {"n": 1}}), TheusEngine({"domain": {"n": 2}})
        with one.transaction() as tx:
            tx.domain["n"] = 10
            with two.transaction() as inner:       # another engine: joins nothing
                inner.domain["n"] = 20
            assert two.version == 2 and one.version == 1
        assert (one.version, two.version) == (2, 2)
        assert len(one.records()[0]) == len(two.records()[0])
        one.history_limit(count=1)
        two.compare_and_swap(2, data={"domain": {"n": 21}})
        assert two.state.at(1)["domain"]["n"] == 2
        row = one.state["domain"]
        with two.transaction() as tx:              # a view of one stored in two: a copy
            tx.domain["from one"] = row
        one.close()
        gone = weakref.ref(one)
        del one, tx, inner, row
        gc.collect()
        assert gone() is None
        assert two.state["domain"]["from one"] == {"n": 10}
        """,
        *STRICT,
    )


def test_a_broken_program_still_shows_its_own_error_only() -> None:
    """An exception that nobody catches: Python's one traceback, and no word of ours around it."""
    script = """
        from theus import TheusEngine
        engine = TheusEngine({"domain": {"n": 1}})
        with engine.transaction() as tx:
            tx.domain["n"] = 2
            raise LookupError("of the program")
        """
    done = subprocess.run(
        [sys.executable, *STRICT, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=PATIENCE, cwd=os.path.dirname(sys.executable),
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Traceback") and done.stderr.count("Traceback") == 1
    assert done.stderr.rstrip().endswith("LookupError: of the program")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="own-GIL interpreters begin with 3.12")
def test_a_sub_interpreter_that_ends_leaves_the_main_one_alone() -> None:
    script = """
        import sys
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
        else:
            import _xxsubinterpreters as interpreters
        from theus import TheusEngine

        engine = TheusEngine({"domain": {"n": 1}})
        code = '''
        from theus import TheusEngine
        inner = TheusEngine({"domain": {"n": 5}})
        inner.run(lambda tx: tx.set("domain.n", 6))
        assert inner.state["domain"]["n"] == 6
        '''
        for _ in range(3):
            interpreter = interpreters.create()
            failure = interpreters.{run}(interpreter, code.replace("\\n        ", "\\n"))
            assert failure is None, failure
            interpreters.destroy(interpreter)
        engine.run(lambda tx: tx.set("domain.n", 2))
        assert engine.state["domain"]["n"] == 2
        """
    run = "exec" if sys.version_info >= (3, 13) else "run_string"
    silent(script.replace("{run}", run))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="own-GIL interpreters begin with 3.12")
def test_an_error_of_a_sub_interpreter_arrives_with_its_data() -> None:
    """A conflict that happens there is pickled there and is a ConflictError here."""
    script = """
        import os, pickle, sys
        if sys.version_info >= (3, 13):
            import _interpreters as interpreters
        else:
            import _xxsubinterpreters as interpreters
        from theus import ConflictError

        reader, writer = os.pipe()
        code = '''
        import os, pickle
        from theus import ConflictError, TheusEngine
        engine = TheusEngine({"domain": {"n": 5}})
        try:
            with engine.transaction() as tx:
                tx.domain["n"] += 1
                engine.run(lambda other: other.set("domain.n", 0), detached=True)
        except ConflictError as error:
            os.write(WRITER, pickle.dumps(error))
        '''.replace("WRITER", str(writer))
        interpreter = interpreters.create()
        failure = interpreters.{run}(interpreter, code)
        assert failure is None, failure
        interpreters.destroy(interpreter)
        os.close(writer)
        error = pickle.loads(os.read(reader, 65536))
        assert type(error) is ConflictError, error
        assert error.path == ("domain", "n") and error.expected == 1 and error.found == 2
        assert error.winner.version == 2
        """
    run = "exec" if sys.version_info >= (3, 13) else "run_string"
    silent(script.replace("{run}", run))
