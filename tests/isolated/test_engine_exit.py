"""How programs end that have run parallel processes and have not closed their engine: silently,
quickly, and with nothing left of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from support import PATIENCE, until
from theus._compat import HAS_INTERPRETERS

KINDS = ["threads"]
if sys.platform.startswith("linux"):
    KINDS += ["processes"] + ["interpreters"] * HAS_INTERPRETERS

PREFACE = """
import os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
import parallel_tasks as tasks
from theus import TheusEngine
kind = {kind!r}
engine = TheusEngine({{"domain": {{"n": 1}}}}, pool=kind, pool_size=2)
print(engine.run_process(tasks.where)[0], flush=True)
"""
BUSY = """
for _ in range(3):
    waits = threading.Thread(target=engine.run_process, args=(tasks.rests, 600), daemon=True)
    waits.start()
while kind != "threads":  # there each of them is its own worker
    # Who submits only now is told that the pool is closed, and a daemon thread would print it.
    stats = engine.get_pool(kind).stats()
    if stats.running + stats.queued == 3:
        break
    time.sleep(0.001)
"""
ENDS = {
    "at its end": ("", 0, ""),
    "with daemon threads that wait for a run": (BUSY, 0, ""),
    "by an exception": (BUSY + "raise SystemExit(3)", 3, ""),
    "with an error": (BUSY + "1 / 0", 1, "ZeroDivisionError"),
    "with an error in the block of the engine": ("with engine: 1 / 0", 1, "ZeroDivision"),
    "by os._exit": (BUSY + "os._exit(4)", 4, ""),
    "by SIGTERM": (BUSY + "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(600)", -15, ""),
}
OFTEN = ("with daemon threads that wait for a run",)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ways",
    [pytest.param(OFTEN, marks=pytest.mark.slow), pytest.param(ENDS, marks=pytest.mark.long)],
    ids=["often", "all"],
)
def test_programs_end(ways: tuple[str, ...], kind: str) -> None:
    """All at once: each of them waits for its Python most of the time."""
    preface = PREFACE.format(tests=str(ROOT / "tests"), kind=kind)
    begun = {
        way: subprocess.Popen(
            [sys.executable, "-P", "-W", "error", "-c", preface + ENDS[way][0]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(sys.executable).parent,
        )
        for way in ways
    }
    for way, process in begun.items():
        _, code, says = ENDS[way]
        with process:
            # Less than the ten minutes that the runs take: nobody has waited for them.
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, (way, process.returncode, err)
        assert says in err if says else err == "", (way, err)
        assert err.count("Traceback") <= 1, (way, err)
        worker = int(out)
        assert (worker != process.pid) == (kind == "processes")
        until(lambda worker=worker: is_gone(worker))
