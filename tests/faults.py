"""python tests/faults.py [--all] [FAULT ...]: do the tests find what is put wrong in a copy?

A fault is one replaced piece of one file of the core: what a slip of the pen, or a clever
simplification, might have made of it. Nothing of this is in the product. Asked are

    c          the C tests of commits, isolation, savepoints, versions, nodes and threads; for a
               fault of shared memory, of the mailbox or of kernels, those of that room
    schedules  the deterministic scheduler (tests/c/sim), likewise
    history    recorded runs of threads and tasks, replayed by theus.testing.check_history

until one finds it (--all: whoever else does): those named after the file first, then the quickest,
and the history, for which everything has to be compiled once more, when nobody else does. A fault
that none of them finds fails this program. So does one whose text is no longer in the file: then it
has to be put anew. Whoever is asked must first pass with the unchanged copy.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faults_core
import faults_pools
import faults_shm

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "csrc" / "core"
# A program that takes longer hangs, and so has found a fault.
UNCHANGED = 600.0  # seconds; it does not hang, but the machine may be busy
LONGER = 5.0  # times what it took with the unchanged copy; seconds:
AT_LEAST, AT_MOST = 10.0, 60.0

C_TESTS = [
    *("test_commit", "test_isolation", "test_mark", "test_node", "test_savepoint", "test_serial"),
    *("test_store", "test_threads", "test_txn", "test_txn_threads", "test_ring", "test_bell"),
    *("test_turn", "test_turn_queue", "test_attach"),
]
SHM_TESTS = [
    *("test_shm_slots", "test_shm_model", "test_shm_zone", "test_shm_memory"),
    *("test_shm_quota", "test_shm_processes", "test_shm_named", "test_shm_fuzz"),
    *("test_shm_loans", "test_shm_takers", "test_shm_fuzz_loans", "test_shm_crowd"),
    "test_shm_storm",  # the longest one last
]
POOL_TESTS = ["test_mailbox", "test_kernels"]


def room_of(name: str) -> str:
    """What a file of the core, or a test, is about. One room knows nothing of another."""
    rooms = {
        "shm": "shm",
        "slots": "shm",
        "loans": "shm",
        "mailbox": "mailbox",
        "kernels": "kernels",
    }
    return next((room for word, room in rooms.items() if word in name), "transactions")


@dataclass(frozen=True)
class Fault:
    """`old` stands once in `file` of the core; with `new` instead, the name tells what is wrong."""

    name: str
    file: str
    old: str
    new: str

    def concerns(self, program: str) -> bool:
        """Might this test find it?"""
        return room_of(self.file) == room_of(program)

    @property
    def unit(self) -> str:
        """The file that is compiled anew for it."""
        return "kernels.c" if self.file == "kernels_loops.h" else self.file


FAULTS = [Fault(*it) for it in (*faults_core.FAULTS, *faults_shm.FAULTS, *faults_pools.FAULTS)]


# ---- building ----------------------------------------------------------------------------------


class Failed(Exception):
    """The tests are wrong, or a fault is."""


@dataclass(frozen=True)
class Flavour:
    """One way to compile the core."""

    name: str
    flags: tuple[str, ...]


COMPILER = os.environ.get("CC", "cc")
COMMON = ("-std=gnu11", "-O1", "-w", f"-I{CORE}", f"-I{ROOT / 'tests' / 'c'}")
QUICKLY = ("-O0",)  # what is compiled more often than it runs for long: the tests, and each fault
TESTING = Flavour("testing", (*COMMON, "-DTHEUS_TESTING"))
TESTS = Flavour("tests", (*TESTING.flags, *QUICKLY))
SIM = Flavour("sim", (*TESTING.flags, "-include", str(ROOT / "tests" / "c" / "sim" / "switch.h")))
MODULE = Flavour("module", (*COMMON, "-DNDEBUG", "-fPIC", f"-I{sysconfig.get_path('include')}"))


def run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stderr}")


def compile_to(flavour: Flavour, source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    run(COMPILER, *flavour.flags, "-c", source, "-o", target)
    return target


@dataclass(frozen=True)
class Program:
    """A test, to be linked with the core and run: it complains, or it passes."""

    kind: str  # "c" or "schedules"
    flavour: Flavour  # of the core that it tests
    test: Path  # its object, and those of what it needs beside the core
    support: tuple[Path, ...]

    @property
    def name(self) -> str:
        return self.test.stem


class Copy:
    """Everything is compiled once, and then again one file with its fault, linked, and asked."""

    def __init__(self, scratch: Path, pool: ThreadPoolExecutor) -> None:
        self.scratch = scratch
        self.pool = pool  # for compilers; nobody waits for another one there
        tests = ROOT / "tests" / "c"
        support = [s for s in tests.glob("*.c") if not s.name.startswith("test_")]
        asked = [tests / f"{name}.c" for name in (*C_TESTS, *SHM_TESTS, *POOL_TESTS)]
        made = self.compile_all(
            {
                "testing": (TESTING, CORE.glob("*.c")),
                "sim": (SIM, CORE.glob("*.c")),
                "support": (TESTS, support),
                "schedule": (TESTS, [tests / "sim" / "schedule.c"]),
                "c": (TESTS, asked),
                "schedules": (TESTS, (tests / "sim").glob("sim_*.c")),
            }
        )
        self.objects = {"testing": made["testing"], "sim": made["sim"]}
        beside = tuple(made["support"])
        scheduled = (*beside, *made["schedule"])
        self.programs = [
            *(Program("c", TESTING, test, beside) for test in made["c"]),
            *(Program("schedules", SIM, test, scheduled) for test in made["schedules"]),
        ]
        self.seconds: dict[str, float] = {}  # that each takes, of the unchanged copy
        self.lock = threading.Lock()  # whoever compiles what the history needs

    def compile_all(self, jobs: dict[str, tuple[Flavour, Iterable[Path]]]) -> dict[str, list[Path]]:
        made = {
            room: [
                self.pool.submit(
                    compile_to, flavour, source, self.scratch / room / f"{source.stem}.o"
                )
                for source in sources
                if source.stem != "port_windows"
            ]
            for room, (flavour, sources) in jobs.items()
        }
        return {room: [job.result() for job in rooms] for room, rooms in made.items()}

    def core(self, flavour: Flavour, fault: Fault | None, folder: Path) -> list[Path]:
        """The objects of the core, one of them with the fault."""
        objects = self.objects[flavour.name]
        if fault is None:
            return objects
        bad = folder / f"{flavour.name}.o"
        if not bad.exists():
            quick = Flavour(flavour.name, (*flavour.flags, *QUICKLY))
            compile_to(quick, folder / fault.unit, bad)
        return [bad if o.stem == Path(fault.unit).stem else o for o in objects]

    def pass_unchanged(self, program: Program) -> None:
        """Measures how long it takes; if others run beside it, as much longer as they make it."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            started = time.monotonic()
            what = self.ask_program(program, None, Path(name), UNCHANGED)
        self.seconds[program.name] = time.monotonic() - started
        if what:
            raise Failed(f"without a fault, {program.name} complains: {what}")

    def ask(self, fault: Fault, everybody: bool) -> dict[str, str]:
        """By each who finds something wrong, or by the first one: what it says."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            folder = Path(name)
            (folder / fault.unit).write_text((CORE / fault.unit).read_text())
            (folder / fault.file).write_text(faulty(fault))
            found: dict[str, str] = {}
            concerned = [it for it in self.programs if fault.concerns(it.name)]
            for program in sorted(concerned, key=lambda it: self.place(it, fault)):
                if not found or (everybody and program.kind not in found):
                    limit = min(AT_MOST, max(AT_LEAST, LONGER * self.seconds[program.name]))
                    what = self.ask_program(program, fault, folder, limit)
                    if what:
                        found[program.kind] = f"{program.name}: {what}"
            if fault.concerns("history") and (everybody or not found):
                self.build_history()
                what = self.ask_history(fault, folder)
                if what:
                    found["history"] = what
            return found

    def place(self, program: Program, fault: Fault) -> tuple[bool, float]:
        """Who is asked first: the lower ones."""
        subject = program.name.partition("_")[2]
        return subject != Path(fault.file).stem, self.seconds[program.name]

    def ask_program(self, program: Program, fault: Fault | None, folder: Path, limit: float) -> str:
        core = self.core(program.flavour, fault, folder)
        target = folder / program.name
        run(COMPILER, program.test, *program.support, *core, "-o", target, "-lpthread")
        return complaint([str(target)], {"MALLOC_PERTURB_": "165"}, limit)

    def build_history(self) -> None:
        """Compiles the module, unless that is done, and asks the unchanged one."""
        with self.lock:
            if "module" not in self.objects:
                made = self.compile_all(
                    {
                        "module": (MODULE, CORE.glob("*.c")),
                        "binding": (MODULE, (ROOT / "csrc" / "binding").glob("*.c")),
                    }
                )
                self.objects |= made
                with tempfile.TemporaryDirectory(dir=self.scratch) as name:
                    what = self.ask_history(None, Path(name))
                if what:
                    raise Failed(f"without a fault, the history complains: {what}")

    def ask_history(self, fault: Fault | None, folder: Path) -> str:
        package = folder / "site" / "theus"
        package.mkdir(parents=True)
        for part in (ROOT / "theus").iterdir():
            (package / part.name).symlink_to(part)
        module = package / f"_theus{sysconfig.get_config_var('EXT_SUFFIX')}"
        core = self.core(MODULE, fault, folder)
        run(COMPILER, "-shared", *self.objects["binding"], *core, "-o", module, "-lpthread")
        paths = (package.parent, ROOT / "tests", ROOT / "tests" / "threads")
        environ = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
        return complaint([sys.executable, "-P", __file__, "--history"], environ, UNCHANGED)


def faulty(fault: Fault) -> str:
    """The text of the file with the fault in it."""
    text = (CORE / fault.file).read_text()
    if text.count(fault.old) != 1:
        raise Failed(
            f"fault {fault.name!r}: its text stands {text.count(fault.old)} times in {fault.file}: "
            "put it anew"
        )
    return text.replace(fault.old, fault.new)


def complaint(command: list[str], environ: dict[str, str], limit: float) -> str:
    """What a program that ought to pass complains of; "" if nothing."""
    with tempfile.TemporaryFile() as told:  # a pipe would be open as long as its children live
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=told,
            env={**os.environ, **environ},
            start_new_session=True,
        )
        try:
            if started.wait(limit) == 0:
                return ""
            what = f"status {started.returncode}"
        except subprocess.TimeoutExpired:
            what = "hangs"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # and the children that it left
        started.wait()
        told.seek(0)
        lines = [it for it in told.read().decode(errors="replace").splitlines() if it.strip()]
        return what if what == "hangs" or not lines else lines[0]


# ---- asking recorded histories -----------------------------------------------------------------


def check_histories() -> None:
    """Runs threads and tasks on the engine that is importable here; raises for what is wrong."""
    from test_history import START, Client, on_tasks, on_threads

    from theus import TheusEngine
    from theus.testing import Recorder, check_history

    for way, clients in ((on_tasks, 50), (on_threads, 8)):
        recorder = Recorder(TheusEngine(START))
        people = [Client(number) for number in range(clients)]
        for _ in range(4):
            way(recorder, people, 1_000 // clients)
            report = check_history(recorder.take(), limit=1)
            if not report.ok:
                sys.exit(str(report.violations[0]))


# ---- command -----------------------------------------------------------------------------------


def told(fault: str, found: dict[str, str]) -> str:
    by = ", ".join(found) if found else "NOBODY"
    first = next(iter(found.values()), "")
    return f"{fault:56} {by:22} {first[:100]}"


def main(words: Iterable[str]) -> int:
    names = [word for word in words if word != "--all"]
    everybody = "--all" in words
    unknown = set(names) - {fault.name for fault in FAULTS}
    if unknown:
        raise Failed(f"there are no such faults: {sorted(unknown)}")
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    for fault in chosen:
        faulty(fault)  # all of them can be put
    processors = os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(prefix="theus-faults.") as scratch,
        ThreadPoolExecutor(processors) as compilers,
        ThreadPoolExecutor(2 * processors) as pool,  # those that hang need no processor
    ):
        copy = Copy(Path(scratch), compilers)
        asked = [it for it in copy.programs if any(fault.concerns(it.name) for fault in chosen)]
        list(pool.map(copy.pass_unchanged, asked))
        answers = list(zip(chosen, pool.map(lambda f: copy.ask(f, everybody), chosen), strict=True))
        for fault, found in answers:
            print(told(fault.name, found))
        missed = [fault.name for fault, found in answers if not found]
    if missed:
        raise Failed(f"{len(missed)} of {len(chosen)} faults are found by nobody: {missed}")
    print(f"all {len(chosen)} faults are found")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--history"]:
        check_histories()
    else:
        try:
            sys.exit(main(sys.argv[1:]))
        except Failed as failure:
            sys.exit(f"FAILED: {failure}")
