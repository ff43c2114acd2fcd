"""What an engine chooses for parallel processes where interpreters work beside each other, and how
it finds out what can be there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import parallel_tasks as tasks
from helpers import run_threads
from support import PATIENCE, silent
from theus import CodecError, InterpreterImportError, SendError, TheusEngine
from theus._compat import HAS_INTERPRETERS
from theus._types import PoolChoice
from theus.pools import trial
from theus.pools.fit import place_of

if not HAS_INTERPRETERS or not getattr(sys, "_is_gil_enabled", lambda: True)():
    pytest.skip("another kind of pool suits this Python", allow_module_level=True)

slow = pytest.mark.slow

Write = Callable[[str, str], Any]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that a busy machine makes too long would be remembered, and fail test after test."""
    monkeypatch.setattr(trial, "LIMIT", PATIENCE)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for variable in ("THEUS_USE_PROCESSES", "THEUS_FORCE_INTERPRETERS"):
        monkeypatch.delenv(variable, raising=False)
    written: list[str] = []

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)

    yield make
    for name in written:
        sys.modules.pop(name, None)
        trial.verdicts.pop(name, None)


def chosen(engine: TheusEngine) -> dict[str, tuple[str, str]]:
    return {it.function.rpartition(".")[2]: (it.kind, it.why) for it in engine.stats().choices}


# ---- trials -------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize(
    ("text", "loads", "refused", "why"),
    [
        ("import other_good\nprint('aloud')\ndef f(): ...", True, False, ""),
        ("import numpy", False, True, "numpy"),
        ("try: import numpy\nexcept ImportError: raise KeyError(3)", False, True, "numpy"),
        ("try: import numpy\nexcept ImportError: numpy = None\ndef f(): ...", False, True, "numpy"),
        ("raise SystemExit(0)", False, False, "SystemExit"),
        ("import other_good\ndef g(): ...", True, False, ""),
        ("import other_good\nother_good.x", False, False, "no attribute 'x'"),
        ("import os\nos.abort()", False, False, "status -6"),
        ("import os\nos._exit(0)", False, False, "status 0"),
        ("import time\ntime.sleep(4000)", False, False, "not come to an end"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(4000,)).start()",
         False, False, "not come to an end"),
    ],
)  # fmt: skip
def test_trials(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    loads: bool,
    refused: bool,
    why: str,
) -> None:
    """Whatever an import does, this process only waits, and hears of it."""
    if "numpy" in text:
        pytest.importorskip("numpy")
    if "4000" in text:
        monkeypatch.setattr(trial, "LIMIT", 1.0)
    write("other_good", "")
    import_module("other_good")
    write("tried", text)
    assert trial.known("tried") is None
    found = trial.try_name("tried", "f")
    assert (found.loads, found.refused) == (loads, refused) and why in found.why
    assert trial.known("tried") is found is trial.try_name("tried", "f")
    assert (trial.known("other_good") == trial.LOADS) == loads  # it has loaded with it


@slow
@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="signals end it")
@pytest.mark.parametrize("sent", ["SIGINT", None])
def test_a_trial_ends_when_nobody_waits_for_it(
    write: Write, tmp_path: Path, sent: str | None
) -> None:
    """By Ctrl-C, and by itself some time after whoever has started it is gone."""
    if sent and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("Ctrl-C is ignored here")
    begun = tmp_path / "begun"
    write("tried", f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(4000)")
    seconds = 600 if sent else 1
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", trial.CHILD.format(seconds=seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(trial.order_for("tried", "f"))
        if sent:
            end = time.monotonic() + PATIENCE
            while not begun.exists() and time.monotonic() < end:
                time.sleep(0.01)
            child.send_signal(getattr(signal, sent))
        assert child.wait(PATIENCE) == -getattr(signal, sent or "SIGALRM")
    finally:
        child.kill()
        child.wait()


@slow
def test_a_trial_is_silent_and_leaves_nothing(write: Write) -> None:
    write("loud", "import sys\nprint(1)\nprint(2, file=sys.stderr)\n")
    silent(
        f"""
        import os, sys, threading
        sys.path.insert(0, {sys.path[0]!r})
        from theus.pools.trial import try_name
        before = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
        assert try_name("loud", None).loads
        assert threading.active_count() == 1
        assert before == (os.listdir("/proc/self/fd") if before else [])
        assert "loud" not in sys.modules
        """
    )


def test_what_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a trial")

    monkeypatch.setattr(trial, "trial", refuse)
    for name in ("json", "os.path", "collections.abc", "theus.examples.texts", "builtins"):
        assert trial.try_name(name, None) == trial.LOADS


@slow
def test_no_trial_within_a_trial(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEUS_TRIAL", "1")
    write("tried", "")
    assert "no Python can be started here" in trial.try_name("tried", None).why


@slow
def test_an_answer_that_cannot_be_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done before a trial begins may print."""
    write("sitecustomize", "import os\nos.write(1, b'hello')")
    paths = (str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    write("tried", "")
    found = trial.try_name("tried", None)
    assert found == (False, False, "the answer of its trial cannot be read")


@slow
def test_threads_wait_for_one_trial(write: Write, tmp_path: Path) -> None:
    write("tried", f"open({str(tmp_path / 'log')!r}, 'a').write('x')")
    found = run_threads(4, lambda number: trial.try_name("tried", None), timeout=PATIENCE)
    assert all(it.loads for it in found) and (tmp_path / "log").read_text() == "x"


# ---- choices ------------------------------------------------------------------------------------


@slow
def test_it_takes_interpreters_where_they_do(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    with TheusEngine({"domain": {"n": 1}}, pool_size=1) as engine:
        assert engine.stats().choices == ()
        with caplog.at_level(logging.INFO, "theus.pools"):
            assert engine.run_process(tasks.where) == (os.getpid(), 1)
            assert asyncio.run(engine.execute(tasks.where)) == (os.getpid(), 1)
            assert list(engine.map_parallel(tasks.double, [1, 2])) == [2, 4]
        assert caplog.text.count("where runs in interpreters") == 1
        assert "1 workers: interpreters" in caplog.text
        assert [pool.kind for pool in engine.stats().pools] == ["interpreters"]
        why = "its module loads there"
        assert engine.stats().choices == (
            PoolChoice("parallel_tasks.where", "interpreters", why),
            PoolChoice("parallel_tasks.double", "interpreters", why),
        )
        # This one takes any function.
        assert engine.get_pool().stats().kind == "processes"


@slow
def test_numpy_has_a_run_begin_anew_in_a_process() -> None:
    np = pytest.importorskip("numpy")
    with TheusEngine({"domain": {"n": 1}}, pool_size=1) as engine:
        assert engine.run_process(tasks.imports_late) == 2
        assert asyncio.run(engine.execute(tasks.count_up, np.int64(3))) == 5
        assert engine.state.domain.n == 5 and engine.version == 3
        assert engine.run_process(tasks.imports_late) == 6
        kind, why = chosen(engine)["imports_late"]
        assert kind == "processes" and "imports numpy" in why
        kind, why = chosen(engine)["count_up"]
        assert kind == "processes" and "argument 1, a numpy.int64," in why


OPTIONAL = """
try:
    import numpy
except ImportError:
    numpy = None
"""
USERS = """
def itself(number):
    try:
        import numpy
    except ImportError:
        return False
    return True

def by_module(number):
    import optional_numpy
    return optional_numpy.numpy is not None

def in_vain(number):
    import optional_numpy
    return optional_numpy.numpy.int64(number) > 0
"""


@slow
@pytest.mark.parametrize("name", ["itself", "by_module", "in_vain"])
def test_imports_that_may_fail_do_not_fail_there(write: Write, name: str) -> None:
    """Each is an answer that a process would not give, also from the second call on, when the
    module is there already; and whoever asks for interpreters gets it."""
    pytest.importorskip("numpy")
    write("optional_numpy", OPTIONAL)
    write("users", USERS)
    user = getattr(import_module("users"), name)
    with TheusEngine(pool_size=1) as engine:
        assert list(engine.map_parallel(user, range(1, 9), chunk=1)) == [True] * 8
        kind, why = chosen(engine)[name]
        assert kind == "processes" and "imports numpy" in why
    if name != "in_vain":
        with TheusEngine(pool="interpreters", pool_size=1) as engine:
            assert list(engine.map_parallel(user, [1, 2], chunk=1)) == [False, False]


@slow
def test_a_module_that_got_no_numpy_is_remembered(write: Write) -> None:
    """One function has asked for interpreters and had it imported there; another one finds it."""
    pytest.importorskip("numpy")
    write("optional_numpy", OPTIONAL)
    write("users", USERS)
    import users  # type: ignore[import-not-found]

    with TheusEngine(pool_size=1) as engine:
        pool = engine.get_pool("interpreters")
        assert pool.submit(users.by_module, 1).result(PATIENCE) is False
        assert pool.submit(tasks.double, 1).result(PATIENCE) == 2
        assert list(engine.map_parallel(users.by_module, [1])) == [True]


FORBIDDEN = """
import os, threading
def daemon(number):
    threading.Thread(target=int, daemon=True).start()
    return number

def forks(number):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return number

def wrapped(number):
    try:
        return daemon(number)
    except RuntimeError as error:
        raise KeyError(number) from error

def other(number):
    raise RuntimeError("is not supported")
"""


@slow
def test_what_interpreters_forbid_is_done_in_processes(write: Write) -> None:
    write("forbidden", FORBIDDEN)
    import forbidden  # type: ignore[import-not-found]

    with TheusEngine(pool_size=1) as engine:
        for function in (forbidden.daemon, forbidden.forks, forbidden.wrapped):
            assert list(engine.map_parallel(function, [1, 2], chunk=1)) == [1, 2]
            kind, why = chosen(engine)[function.__name__]
            assert kind == "processes" and "interpreters do not allow" in why
        with pytest.raises(RuntimeError, match="is not supported"):
            list(engine.map_parallel(forbidden.other, [1]))
        assert chosen(engine)["other"][0] == "interpreters"
    with (
        TheusEngine(pool="interpreters", pool_size=1) as engine,
        pytest.raises(RuntimeError, match="daemon threads are disabled"),
    ):
        list(engine.map_parallel(forbidden.daemon, [1]))


@slow
def test_what_is_missing_there_is_a_matter_for_processes(write: Write) -> None:
    """One function, or one that is sent an instance of such a class; not all of the module."""
    write("late", LATE)
    import late  # type: ignore[import-not-found]

    with TheusEngine({"domain": {"n": 3}}, pool_size=1) as engine:
        assert list(engine.map_parallel(late.hidden, [1, 2], chunk=1)) == [-1, -2]
        assert engine.run_process(late.hidden_process) == 3
        assert list(engine.map_parallel(late.number_of, [late.Hidden(4)])) == [4]
        for name in ("hidden", "hidden_process", "number_of"):
            kind, why = chosen(engine)[name]
            assert kind == "processes" and "not all of it is there" in why
        assert list(engine.map_parallel(late.itself, [1])) == [1]
        assert chosen(engine)["itself"][0] == "interpreters"
        with pytest.raises(AttributeError, match=r"no late\.hidden in this worker"):
            engine.get_pool("interpreters").submit(late.hidden, 1).result(PATIENCE)
    with (
        TheusEngine(pool="interpreters", pool_size=1) as engine,
        pytest.raises(CodecError, match="no attribute 'hidden'"),
    ):
        list(engine.map_parallel(late.hidden, [1]))


@slow
def test_arrays_are_a_matter_for_processes() -> None:
    np = pytest.importorskip("numpy")
    with TheusEngine({"domain": {}, "heavy": {}}, pool_size=1) as engine:
        with engine.edit() as ctx:
            ctx.heavy["a"] = engine.heavy.put("a", np.ones((2, 3)))
        assert engine.run_process(tasks.sums).tolist() == [2.0, 2.0, 2.0]
        kind, why = chosen(engine)["sums"]
        assert kind == "processes" and "heavy.a, a theus.shm_array.ShmArray," in why


@slow
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("awaited", [True, False])
def test_maps_go_on_in_processes(ordered: bool, awaited: bool) -> None:
    np = pytest.importorskip("numpy")

    def results(engine: TheusEngine, fn: Any, items: Any) -> Any:
        found = engine.map_parallel(fn, items, chunk=1, ordered=ordered)

        async def take() -> list[Any]:
            return [it async for it in found]

        return sorted(asyncio.run(take()) if awaited else found)

    with TheusEngine(pool_size=2) as engine:
        items = [1, 2, 3, np.int64(4), 5]
        assert results(engine, tasks.double, items) == [2, 4, 6, 8, 10]
        assert results(engine, tasks.doubles_with_numpy, range(30)) == list(range(0, 60, 2))
        assert {kind for kind, _ in chosen(engine).values()} == {"processes"}
        assert "numpy.int64" in chosen(engine)["double"][1]


LATE = """
import _interpreters
from theus import process

def itself(number): return number
def number_of(it): return it.number

if _interpreters.get_current() == _interpreters.get_main():
    def hidden(number): return -number

    @process(inputs=["domain.n"], parallel=True)
    def hidden_process(ctx): return ctx.domain.n

    class Hidden:
        def __init__(self, number): self.number = number
"""


MODEL = """
import pydantic
class Model(pydantic.BaseModel):
    n: int
"""


@slow
def test_records_need_their_class_there(write: Write) -> None:
    """Found before anything runs, with path and type."""
    pytest.importorskip("pydantic")
    write("models", MODEL)
    import models  # type: ignore[import-not-found]

    state = {"domain": {"model": models.Model(n=3)}}
    with TheusEngine(state, pool_size=1) as engine:
        assert engine.run_process(tasks.reads_a_model) == 3
        kind, why = chosen(engine)["reads_a_model"]
        assert kind == "processes" and "domain.model, a models.Model," in why
        assert "pydantic" in why
    with (
        TheusEngine(state, pool="interpreters", pool_size=1) as engine,
        pytest.raises(SendError, match=r"domain\.model, a models\.Model, cannot be sent.*pydantic"),
    ):
        engine.run_process(tasks.reads_a_model)


@slow
def test_interpreters_that_were_asked_for_stay() -> None:
    pytest.importorskip("numpy")
    with TheusEngine({"domain": {"n": 1}}, pool="interpreters", pool_size=1) as engine:
        with pytest.raises(InterpreterImportError):
            engine.run_process(tasks.imports_late)
        with pytest.raises(InterpreterImportError):
            list(engine.map_parallel(tasks.doubles_with_numpy, [1]))
        assert engine.stats().choices == ()


@slow
def test_functions_of_a_script(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        from dataclasses import dataclass
        from functools import partial
        from operator import add
        from theus import TheusEngine, process
        @dataclass
        class Row:
            n: int
        @process(inputs=["domain.row"], parallel=True)
        def double(ctx, by): return ctx.domain.row.n * by.n
        if __name__ == "__main__":
            with TheusEngine({"domain": {"row": Row(4)}}, pool_size=1) as engine:
                print(engine.run_process(double, Row(2)), *engine.stats().choices[0][:2])
                print(*engine.map_parallel(partial(add, 1), [1]))
        """)
    )
    done = subprocess.run(
        [sys.executable, "-P", str(script)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("8 __main__.double interpreters\n2\n", "")


def test_places_in_messages() -> None:
    roots = {"domain": {"users": [1, {"ann": tasks.Point(1, 2)}]}}
    assert place_of(tasks.Point, roots, ((), {})) == "domain.users[1].ann"
    assert place_of(tasks.Point, {}, ((1, tasks.Point(1, 2)), {})) == "argument 2"
    assert place_of(tasks.Point, {}, ((), {"at": [tasks.Point(1, 2)]})) == "argument 'at' at [0]"
    assert place_of(tasks.Point, roots | {"domain": 1}, ((), {})) == "a part of the call"
