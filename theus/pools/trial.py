"""Whether a module loads in a worker interpreter: found out once, by trying, and remembered.

    verdict = known("shop.orders")              None: nobody has tried
    try_name("shop.orders", "total")            tries; known() has an answer from then on

Nothing but an import tells. Extensions say by their slots whether they may be in several
interpreters, and Python asks them when they are loaded; to which ones an import comes in another
interpreter cannot be read off the modules that are loaded here.

A *trial* starts a process in which a worker's interpreter finds the name, as it would for a task,
and ends. It is a process because an import may hang, end the program or start what does not end;
because an extension that claims more than it keeps crashes, when it is loaded or when its
interpreter ends; and because a process with living interpreters cannot fork. That costs the start
of a Python, and that the module is imported once more than there are workers. It prints nothing.

Modules that a good trial has loaded on its way are known to load, too. Those of Python and of theus
are not tried: what they cannot do Python refuses in good order. A module is known by name and file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from importlib import import_module
from typing import Any, NamedTuple

from theus._theus import InterpreterWorker, Mailbox
from theus.errors import CodecError, InterpreterImportError, _shown
from theus.pools import wire
from theus.pools.codec import dumps, find, loads
from theus.pools.interpreter import setup_for
from theus.pools.residence import worker_path
from theus.pools.resident import explained, load_main, refusal

__all__ = ["Verdict", "known", "try_name"]

LIMIT = 20.0
"""Seconds that a trial may take. Most take a fifth of one; workers that import for longer than this
would be no good ones."""
UNDERWAY = "THEUS_TRIAL"
"""In the environment of a trial: a script that runs processes as soon as it is imported must not
have trials within trials."""
CHILD = """
import signal
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if hasattr(signal, "alarm"):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm({seconds})
import json, sys
sys.path[:] = json.loads(sys.stdin.buffer.readline())
from theus.pools.trial import perform
perform()
"""
"""What a trial runs. The system ends it on Ctrl-C, as Python would wait for what is imported, and
after some seconds, as whoever would do that may be gone."""


class Verdict(NamedTuple):
    """What is known of a module.

    loads    it does
    refused  Python says that it, or what it imports, is for one interpreter in a process. Neither
             of the two: the trial has found nothing, as it failed otherwise
    why      what was in the way
    """

    loads: bool
    refused: bool
    why: str


LOADS = Verdict(True, False, "")
OWN = sys.stdlib_module_names | {"theus"}

verdicts: dict[str, tuple[str | None, Verdict]] = {}
"""By module: its file, and what was found. Single operations on it need no lock."""


class Turn:
    """Threads try one after the other: so none tries what another one is trying."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()


turn = Turn()


def file_of(module: str) -> str | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file if isinstance(file, str) else None


def known(module: str) -> Verdict | None:
    """What is known; None: nothing. Costs no more than a look."""
    if module.partition(".")[0] in OWN:
        return LOADS
    found = verdicts.get(module)
    return found[1] if found is not None and found[0] == file_of(module) else None


def try_name(module: str, name: str | None) -> Verdict:
    """The verdict on a module and, if there is one, a qualified name that it should have there.

    If nothing is known, this waits for a trial: a fifth of a second, or what the import takes; 20
    seconds at most.
    """
    global turn
    if turn.pid != os.getpid():  # forked: whoever holds the lock is not here
        turn = Turn()
    with turn.lock:
        verdict = known(module)
        if verdict is None:
            verdict, loaded = trial(module, name)
            for other, file in loaded:
                verdicts.setdefault(other, (file, LOADS))
            verdicts[module] = file_of(module), verdict
    return verdict


def trial(module: str, name: str | None) -> tuple[Verdict, list[tuple[str, str | None]]]:
    """The verdict, and (module, file) of all that was loaded."""
    import subprocess
    from multiprocessing.spawn import get_executable

    executable: Any = get_executable()
    if os.environ.get(UNDERWAY) or not executable:
        return failed("no Python can be started here to try it"), []
    order = order_for(module, name)
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    try:
        done = subprocess.run(
            [executable, *flags, "-P", "-c", CHILD.format(seconds=int(LIMIT) + 2)],
            input=order,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
            env={**os.environ, UNDERWAY: "1"},
        )
    except subprocess.TimeoutExpired:
        return failed(f"its import has not come to an end in {LIMIT:g} s"), []
    except (OSError, RuntimeError) as error:  # RuntimeError: in an interpreter that may not fork
        return failed(f"no Python can be started here to try it: {error}"), []
    if done.returncode != 0 or not done.stdout:
        return failed(f"its import ends the process, with the status {done.returncode}"), []
    try:
        good, refused, why, loaded = loads(done.stdout)
    except (CodecError, TypeError, ValueError):  # a sitecustomize prints, for one
        return failed("the answer of its trial cannot be read"), []
    return Verdict(good, refused, why), loaded


def order_for(module: str, name: str | None) -> bytes:
    """What the process of a trial reads."""
    import json

    order = dumps((worker_path(), setup_for(None, ()), (module, name)), pickle=True)
    return json.dumps(sys.path).encode("ascii") + b"\n" + order


def failed(why: str) -> Verdict:
    return Verdict(False, False, why)


# ---- in the process of a trial ----------------------------------------------------------------


def perform() -> None:
    """All that this process does. What imports print goes nowhere."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    path, setup, name = loads(sys.stdin.buffer.read(), pickle=True)
    tasks, answers = Mailbox(0.0), Mailbox(0.0)
    tasks.post(wire.CALL, 1, dumps(((__name__, "arrive"), name, {})))
    tasks.drain()
    # A thread, as workers are; and its interpreter has ended before anything is said.
    thread = threading.Thread(target=InterpreterWorker(tasks, answers).run, args=(path, setup))
    thread.start()
    thread.join()
    letters: list[tuple[int, int, Any, Any]] = []
    answers.take(letters, 0)
    told: Any = (False, False, "no interpreter can be started", [])
    for kind, number, body, _ in letters:
        if number == 1 and kind == wire.VALUE:
            told = loads(body)
    os.write(out, dumps(told))
    os._exit(0)


def arrive(module: str, name: str | None) -> tuple[bool, bool, str, list[tuple[str, str | None]]]:
    """In the interpreter: the verdict, and what else is loaded now."""
    told: BaseException | None = None
    try:
        load_main(import_module(module))
        if name is not None:
            # What has been found may do something. That it is not there says nothing of the others.
            with contextlib.suppress(AttributeError):
                find((module, name), True)
    except BaseException as error:  # whatever somebody's module raises
        told = explained(error)
    if not isinstance(told, InterpreterImportError):
        told = refusal(0) or told
    if isinstance(told, InterpreterImportError):
        return False, True, f"{told.module} is for one interpreter in a process", []
    if told is not None:
        return False, False, _shown(told, 200), []
    own = (*OWN, "__main__", "__mp_main__")
    names = [it for it in list(sys.modules) if it.partition(".")[0] not in own]
    return True, False, "", [(it, file_of(it)) for it in names]
