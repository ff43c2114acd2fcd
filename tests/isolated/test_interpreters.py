"""The module in interpreters with a GIL of their own: each has its own, and they share nothing."""

from __future__ import annotations

import sys

import pytest

from support import silent

if sys.version_info < (3, 13):
    pytest.skip("interpreters are isolated enough from 3.13 on", allow_module_level=True)

PREFACE = '''
    import sys, textwrap, threading

    try:
        from concurrent import interpreters
    except ImportError:  # 3.13
        import _interpreters

        def create():
            return _interpreters.create("isolated")

        def run(interpreter, code):
            failed = _interpreters.exec(interpreter, code)
            assert failed is None, failed.formatted

        destroy = _interpreters.destroy
    else:
        create, run, destroy = (
            interpreters.create, interpreters.Interpreter.exec, interpreters.Interpreter.close
        )

    def everywhere(code, count=2):
        made = [create() for _ in range(count)]
        failed = []

        def work(interpreter):
            try:
                run(interpreter, f"import sys; sys.path[:] = {sys.path!r}\\n" + code)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(it,)) for it in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for interpreter in made:
            destroy(interpreter)
        if failed:
            raise failed[0]

    USE = textwrap.dedent("""
        import theus._theus
        from theus import TheusEngine, freeze, process

        @process(inputs=["domain.n", "domain.seen"], outputs=["domain.n", "domain.seen"])
        def step(ctx):
            ctx.domain.n += 1
            ctx.domain.seen.append({"n": ctx.domain.n})

        with TheusEngine(context={"domain": {"n": 0, "seen": []}}) as engine:
            for _ in range(100):
                engine.run_process(step)
            assert engine.state.domain["n"] == 100 == len(engine.state.domain["seen"])
            assert theus._theus.decode(theus._theus.encode(freeze({"a": [1]}))) == {"a": [1]}
    """)
'''


def test_an_engine_in_two_interpreters_at_once() -> None:
    silent(
        PREFACE
        + """
    everywhere(USE)
    import theus  # here, after them
    everywhere(USE, 1)
    """
    )


@pytest.mark.slow
def test_interpreters_that_end_while_others_work() -> None:
    """Also with a version, a cycle and an open transaction left behind for the end to clear."""
    silent(
        PREFACE
        + '''
    LEAVE = USE + textwrap.dedent("""
        left = TheusEngine(context={"domain": {"n": 0, "seen": []}})
        kept = [left.state.domain, left]
        kept.append(kept)
        open_one = left.transaction()
        open_one.__enter__()
        open_one.update({"domain": {"n": 1}})
    """)
    threads = [threading.Thread(target=everywhere, args=(LEAVE, 1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    exec(USE)
    for thread in threads:
        thread.join()
    '''
    )
