"""python tests/faults.py [--all] [FAULT ...]: do the tests find what is put wrong in a copy of the core?

A fault is one replaced piece of one file: what a slip of the pen, or a clever simplification, might
have made of it. Nothing of this is in the product. For each, the copy is built three times; asked are

    c          the C tests of commits, isolation, savepoints, versions, nodes and threads; for a fault
               of shared memory, of the mailbox or of kernels, those of that room
    schedules  the deterministic scheduler (tests/c/sim), likewise
    history    recorded runs of threads and tasks, replayed by theus.testing.check_history

in this order, until one finds it (--all: whoever else does). A fault that none of them finds fails
this program. So does one whose text is no longer in the file: then the fault has to be put anew. First
of all the unchanged copy must pass all three.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faults_pools
import faults_shm

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "csrc" / "core"
TIMEOUT = 60  # seconds; a program that takes longer hangs, and so has found it

C_TESTS = [
    *("test_commit", "test_isolation", "test_mark", "test_node", "test_savepoint", "test_serial"),
    *("test_store", "test_threads", "test_txn", "test_txn_threads", "test_ring", "test_bell"),
    *("test_turn", "test_turn_queue", "test_attach"),
]
SHM_TESTS = [
    *("test_shm_slots", "test_shm_model", "test_shm_zone", "test_shm_memory"),
    *("test_shm_processes", "test_shm_named", "test_shm_fuzz"),
    *("test_shm_loans", "test_shm_takers", "test_shm_fuzz_loans"),
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


FAULTS = [
    Fault(
        "reads are not validated",
        "validate.c",
        "verdict result = reads ? check_reads(run, cell) : HOLDS;",
        "verdict result = reads && !run ? check_reads(run, cell) : HOLDS;",
    ),
    Fault(
        "absences are not validated",
        "validate.c",
        "        result = check_absences(run, cell);",
        "        result = run ? HOLDS : check_absences(run, cell);",
    ),
    Fault(
        "the key set is not validated",
        "validate.c",
        "if (cell->read_shape && base->shape != there->shape) {",
        "if (cell->read_shape && base->shape != there->shape && base->kind == THEUS_LIST) {",
    ),
    Fault(
        "a read of the whole is not validated",
        "validate.c",
        '    if (cell->read_all) {\n        return theus_commit_broken(run, cell, "content", NULL);',
        '    if (cell->read_all && cell->home == NULL) {\n        return theus_commit_broken(run, cell, "content", NULL);',
    ),
    Fault(
        "a written record is not shown to its class",
        "cell.c",
        "    theus_cell_note_mark(cell);\n",
        "",
    ),
    Fault(
        "what the class makes of a record is not what is stored",
        "candidate.c",
        "    theus_container_release(*content);\n    *content = passed;",
        "    theus_container_release(passed);",
    ),
    Fault(
        "an ancestor that was replaced does not matter",
        "validate.c",
        "            && theus_value_container(value)->line == cell->base->line) {",
        "            ) {",
    ),
    Fault(
        "a place that is gone does not matter",
        "validate.c",
        '        return theus_commit_broken(run, cell, "place", NULL);',
        "        return HOLDS;",
    ),
    Fault(
        "a snapshot does not validate its writes",
        "validate.c",
        "        else if (run->txn->isolation == THEUS_SNAPSHOT) {",
        "        else if (run->txn->isolation == THEUS_SNAPSHOT && run->newest == run->txn->pinned) {",
    ),
    Fault(
        "lists are not asked whether items moved",
        "validate.c",
        "    if (cell->base->shape != cell->current->shape) {",
        "    if (cell->base->shape != cell->current->shape && run == NULL) {",
    ),
    Fault(
        "a rebase drops the first of several writes",
        "candidate.c",
        "    for (uint32_t i = 0; i < cell->writes.count && status == THEUS_OK; i++) {\n"
        "        uint32_t pos = cell->writes.items[i];\n        theus_value value = theus_c",
        "    for (uint32_t i = cell->writes.count > 1; i < cell->writes.count && status == THEUS_OK; i++) {\n"
        "        uint32_t pos = cell->writes.items[i];\n        theus_value value = theus_c",
    ),
    Fault(
        "a rebase forgets what was deleted",
        "candidate.c",
        "            status = edit_remove(run, edit, theus_container_key_at(base, pos));",
        "            status = run ? THEUS_OK : edit_remove(run, edit, theus_container_key_at(base, pos));",
    ),
    Fault(
        "a deferred operation is applied once more after a rebase",
        "candidate.c",
        "        status = apply_one(run, edit, cell, it);\n",
        "        status = apply_one(run, edit, cell, it);\n"
        "        if (status == THEUS_OK && run->newest != run->txn->pinned) {\n"
        "            status = apply_one(run, edit, cell, it);\n        }\n",
    ),
    Fault(
        "a version is published over another one",
        "store.c",
        "    if (store->current == expected",
        "    if (store->current->number >= expected->number",
    ),
    Fault(
        "the gate lets everybody pass",
        "turn.c",
        "    bool passes = gate_opens_locked(",
        "    bool passes = true || gate_opens_locked(",
    ),
    Fault(
        "who passed the gate before a ticket was given publishes",
        "store.c",
        "        && atomic_load_explicit(&store->turns.grants, memory_order_relaxed) == grants) {",
        "        && grants + 1 != 0) {",
    ),
    Fault(
        "a pin lets the lock go too early",
        "store.c",
        "    theus_version *version = store->current;\n    theus_version_retain(version);\n"
        "    theus_mutex_unlock(&store->lock);\n",
        "    theus_version *version = store->current;\n    theus_mutex_unlock(&store->lock);\n"
        "    theus_version_retain(version);\n",
    ),
    Fault(
        "a count is raised in two steps",
        "store.c",
        "    atomic_fetch_add_explicit(&version->refs, 1, memory_order_relaxed);",
        "    uint32_t refs = atomic_load(&version->refs);\n    atomic_store(&version->refs, refs + 1);",
    ),
    Fault(
        "the door of a transaction lets two in",
        "txn.c",
        "    if (!atomic_compare_exchange_strong_explicit(&txn->user, &nobody, me, memory_order_acquire,\n"
        "                                                 memory_order_relaxed)\n"
        "        && nobody != me) {",
        "    nobody = atomic_load(&txn->user);\n    if (nobody == 0) {\n"
        "        atomic_store(&txn->user, me);\n    }\n    else if (nobody != me) {",
    ),
    Fault(
        "after a write, reads of its container are not logged",
        "cell_read.c",
        "    return cell->now == cell->base || theus_cell_base_holds(cell, pos, value);",
        "    return cell->now == cell->base || (cell == NULL && theus_cell_base_holds(cell, pos, value));",
    ),
    Fault(
        "a lookup is remembered across writes",
        "cell_read.c",
        "    if (key == cell->last_key && cell->stamp == cell->last_stamp) {",
        "    if (key == cell->last_key) {",
    ),
    Fault(
        "a savepoint that is rolled back takes the reads along",
        "savepoint.c",
        "        cell->stale = saved->stale;\n",
        "        cell->stale = saved->stale;\n        cell->reads.count = 0;\n",
    ),
    Fault(
        "a savepoint that is rolled back keeps the writes",
        "savepoint.c",
        "        cell->now = saved->now;\n        saved->now = undone;\n",
        "",
    ),
    Fault(
        "a node that dies does not pass on what others borrow",
        "node.c",
        "            falls ^= passes;\n",
        "",
    ),
    Fault(
        "a savepoint that is rolled back keeps its messages",
        "savepoint.c",
        "        txn->attached[i] = savepoint->attached[i];\n"
        "        savepoint->attached[i] = undone;\n",
        "        (void)undone;\n",
    ),
    Fault(
        "who has not swapped the version has sent its messages",
        "store.c",
        "    theus_mutex_lock(&store->lock);\n    if (store->current == expected",
        "    theus_mutex_lock(&store->lock);\n"
        "    if (next->record != NULL && next->record->attached[THEUS_MESSAGES] != NULL\n"
        "        && store->current != expected) {\n"
        "        theus_queue_push_locked(&store->queue, next->record);\n    }\n"
        "    if (store->current == expected",
    ),
    Fault(
        "messages that come after an interrupted hand-over are lost",
        "attach.c",
        "    queue->first = *end;\n    *end = NULL;\n",
        "    queue->first = NULL;\n",
    ),
    Fault(
        "a forked child hands over what its parent has sent",
        "attach.c",
        "    if (queue->epoch == epoch) {",
        "    if (queue->epoch == epoch || queue->first != NULL) {",
    ),
    Fault(
        "a reader of the ring is not told of all it lost",
        "ring.c",
        "        *lost += due - *sequence;",
        "        *lost += 1;",
    ),
    Fault(
        "a commit that fails keeps its place in the ring",
        "txn.c",
        "        theus_ring_unreserve(theus_store_ring(txn->store), txn->epoch);",
        "",
    ),
    Fault(
        "places that are reserved are not counted",
        "ring.c",
        "        ring->reserved++;",
        "",
    ),
    Fault(
        "a place that was filled stays reserved",
        "ring.c",
        "        ring->reserved--;\n    }\n    theus_mutex_unlock(&ring->lock);\n    return left;",
        "    }\n    theus_mutex_unlock(&ring->lock);\n    return left;",
    ),
    Fault(
        "a late reader begins where a reserved place overtakes it",
        "ring.c",
        "    position = position < first ? first : position;\n",
        "",
    ),
    Fault(
        "records that are not kept have no number",
        "ring.c",
        "    record->sequence = ring->sequence++;",
        "    record->sequence = ring->written;\n    ring->sequence = ring->written + 1;",
    ),
    Fault(
        "a reader that leaves takes with it what others have to read",
        "ring.c",
        "        least = it->position < least ? it->position : least;",
        "        least = it->position > least ? it->position : least;",
    ),
    Fault(
        "the topics of others are forgotten",
        "candidate.c",
        "*latest = run->newest->signals;",
        "*latest = run->txn->pinned->signals;",
    ),
    Fault(
        "who joins the queue does not say what for",
        "chain.c",
        "               ? chain_take(chain, &guess, body_ns)",
        "               ? chain_take(chain, &chain->footprint, body_ns)",
    ),
    Fault(
        "who begins to wait is not seen by the next commit",
        "bell.c",
        "    atomic_fetch_add_explicit(&bell->waiting, 1, memory_order_relaxed);",
        "    atomic_fetch_add_explicit(&bell->waiting, bell->first->next == NULL, memory_order_relaxed);",
    ),
    *(Fault(*it) for it in (*faults_shm.FAULTS, *faults_pools.FAULTS)),
]


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
TESTING = Flavour("testing", (*COMMON, "-DTHEUS_TESTING"))
SIM = Flavour("sim", (*TESTING.flags, "-include", str(ROOT / "tests" / "c" / "sim" / "switch.h")))
MODULE = Flavour("module", (*COMMON, "-DNDEBUG", "-fPIC", f"-I{sysconfig.get_path('include')}"))


def run(*command: str | Path, check: bool = True) -> int:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.returncode


def compile_to(flavour: Flavour, source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    run(COMPILER, *flavour.flags, "-c", source, "-o", target)
    return target


class Copy:
    """Everything is compiled once, and then again one file with its fault, linked, and asked."""

    def __init__(self, scratch: Path, pool: ThreadPoolExecutor) -> None:
        self.scratch = scratch
        tests = ROOT / "tests" / "c"
        shared = [s for s in tests.glob("*.c") if not s.name.startswith("test_")]
        jobs = {
            "testing": (TESTING, CORE.glob("*.c")),
            "sim": (SIM, CORE.glob("*.c")),
            "module": (MODULE, CORE.glob("*.c")),
            "binding": (MODULE, (ROOT / "csrc" / "binding").glob("*.c")),
            "shared": (TESTING, shared),
            "schedule": (TESTING, [tests / "sim" / "schedule.c"]),
            "c": (TESTING, [tests / f"{name}.c" for name in (*C_TESTS, *SHM_TESTS, *POOL_TESTS)]),
            "schedules": (TESTING, (tests / "sim").glob("sim_*.c")),
        }
        made = {
            room: [
                pool.submit(compile_to, flavour, source, scratch / room / f"{source.stem}.o")
                for source in sources
                if source.stem != "port_windows"
            ]
            for room, (flavour, sources) in jobs.items()
        }
        self.objects = {room: [job.result() for job in rooms] for room, rooms in made.items()}

    def core(self, flavour: Flavour, fault: Fault | None, folder: Path) -> list[Path]:
        """The objects of the core, one of them with the fault."""
        objects = self.objects[flavour.name]
        if fault is None:
            return objects
        bad = compile_to(flavour, folder / fault.unit, folder / f"{flavour.name}.o")
        return [bad if o.stem == Path(fault.unit).stem else o for o in objects]

    def ask(self, fault: Fault | None, everybody: bool) -> dict[str, str]:
        """By each who finds something wrong, or by the first one: what it says."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            folder = Path(name)
            if fault is not None:
                (folder / fault.unit).write_text((CORE / fault.unit).read_text())
                (folder / fault.file).write_text(faulty(fault))
            judges: dict[str, Callable[[], str]] = {
                "c": lambda: self.ask_programs("c", TESTING, fault, folder),
                "schedules": lambda: self.ask_programs("schedules", SIM, fault, folder),
                "history": lambda: self.ask_history(fault, folder),
            }
            if fault is not None and not fault.concerns("test_commit"):
                del judges["history"]
            found: dict[str, str] = {}
            for who, judge in judges.items():
                what = judge() if everybody or not found else ""
                if what:
                    found[who] = what
            return found

    def ask_programs(self, room: str, flavour: Flavour, fault: Fault | None, folder: Path) -> str:
        core = self.core(flavour, fault, folder)
        support = self.objects["shared"] + (self.objects["schedule"] if room == "schedules" else [])
        for program in self.objects[room]:
            if fault is not None and not fault.concerns(program.stem):
                continue
            target = folder / program.stem
            run(COMPILER, program, *support, *core, "-o", target, "-lpthread")
            what = complaint([str(target)], {"MALLOC_PERTURB_": "165"})
            if what:
                return f"{program.stem}: {what}"
        return ""

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
        return complaint([sys.executable, "-P", __file__, "--history"], environ)


def faulty(fault: Fault) -> str:
    """The text of the file with the fault in it."""
    text = (CORE / fault.file).read_text()
    if text.count(fault.old) != 1:
        raise Failed(
            f"fault {fault.name!r}: its text stands {text.count(fault.old)} times in {fault.file}; "
            "put it anew in tests/faults.py"
        )
    return text.replace(fault.old, fault.new)


def complaint(command: list[str], environ: dict[str, str]) -> str:
    """What a program that ought to pass complains of; "" if nothing."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env={**os.environ, **environ},
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[0] if lines else f"status {done.returncode}"


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
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    for fault in chosen:
        faulty(fault)  # all of them can be put
    with (
        tempfile.TemporaryDirectory(prefix="theus-faults.") as scratch,
        ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool,  # those that hang need no processor
    ):
        copy = Copy(Path(scratch), pool)
        found = copy.ask(None, True)
        if found:
            raise Failed(f"without a fault there are complaints: {found}")
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
