"""theus.registry and `theus gc`: what is removed from a folder of shared memory, and what never is.

The files are made by hand here; tests/isolated/test_sweep.py has real owners, and kills them.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import run_fresh, run_threads
from support import PATIENCE
from theus.cli import main
from theus.registry import MemoryRegistry, SweepReport, sweep

if not sys.platform.startswith("linux"):
    pytest.skip("shared memory with names is Linux's", allow_module_level=True)

DEAD_PID = 2**31  # larger than any


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, as the real one: ten thousand files are made and removed in no time there."""
    made = Path(tempfile.mkdtemp(prefix="pytest-", dir=os.environ.get("THEUS_SHM_DIR")))
    yield made
    shutil.rmtree(made)


def stem(number: int = 0, pid: int = DEAD_PID, version: int = 1) -> str:
    return f"theus_{version}_{pid}_{number:032x}"


def leave(folder: Path, name: str, control: bytes = b"x", data: bytes = b"y" * 5000) -> Path:
    """What a dead owner leaves; the path of the control file."""
    (folder / f"{name}.control").write_bytes(control)
    (folder / f"{name}.data").write_bytes(data)
    return folder / f"{name}.control"


class Owner:
    """Holds the lock that says: alive. By a description of its own, as another process would."""

    def __init__(self, control: Path) -> None:
        self.fd = os.open(control, os.O_RDWR | os.O_CLOEXEC)
        byte_0 = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, byte_0)

    def die(self) -> None:
        os.close(self.fd)


def reasons(report: SweepReport) -> dict[str, str]:
    assert report.error is None
    return {file.name: file.reason for file in report.files}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ---- whose is it? -------------------------------------------------------------------------------


def test_what_the_dead_left_is_removed(folder: Path) -> None:
    leave(folder, stem(1))
    looked = sweep(str(folder), dry_run=True)
    (file,) = looked.files
    assert (file.name, file.reason, file.removed) == (f"{stem(1)}.control", "dead", False)
    assert (file.pid, file.session, file.made) == (DEAD_PID, "", 0.0)
    assert file.bytes >= 8192  # a page and two, by the memory that they take
    assert looked.garbage == looked.files and looked.removed == ()
    assert len(names(folder)) == 2

    report = sweep(str(folder))
    assert report.removed == report.files and report.files[0].bytes == file.bytes
    assert names(folder) == []
    assert sweep(str(folder)) == SweepReport(str(folder))


def test_only_the_lock_says_who_lives(folder: Path) -> None:
    """Incident-proof against reused and foreign process ids: no id is asked."""
    mine = leave(folder, stem(1, pid=os.getpid()))  # "alive" by its id, and dead
    other = leave(folder, stem(2, pid=DEAD_PID))  # "dead" by its id: of another container
    owner = Owner(other)
    assert reasons(sweep(str(folder))) == {mine.name: "dead", other.name: "alive"}
    assert names(folder) == [f"{stem(2)}.control", f"{stem(2)}.data"]
    owner.die()
    assert reasons(sweep(str(folder))) == {other.name: "dead"}
    assert names(folder) == []


@pytest.mark.parametrize(
    "header",
    [b"", b"\0" * 5000, random.Random(1).randbytes(5000), b"thusshm1" + b"\xff" * 400],
    ids=["empty", "zeros", "noise", "right at first"],
)
def test_a_broken_header_is_judged_as_any(folder: Path, header: bytes) -> None:
    control = leave(folder, stem(1), header)
    owner = Owner(control)
    (file,) = sweep(str(folder)).files
    assert (file.reason, file.removed) == ("alive", False)
    owner.die()
    assert len(sweep(str(folder)).removed) == 1 and names(folder) == []


def test_so_are_other_versions(folder: Path) -> None:
    owner = Owner(leave(folder, stem(1, version=9)))
    leave(folder, stem(2, version=4294967295))
    report = reasons(sweep(str(folder)))
    assert report == {
        f"{stem(1, version=9)}.control": "alive",
        f"{stem(2, version=4294967295)}.control": "dead",
    }
    assert len(names(folder)) == 2
    owner.die()


def test_half_of_an_arena(folder: Path) -> None:
    """A sweep, or an owner, that was killed between two steps; or somebody's own `rm`."""
    (folder / f"{stem(1)}.control").write_bytes(b"")
    (folder / f"{stem(2)}.data").write_bytes(b"")
    assert reasons(sweep(str(folder), dry_run=True)) == {
        f"{stem(1)}.control": "dead",
        f"{stem(2)}.data": "orphan",
    }
    assert len(sweep(str(folder)).removed) == 2 and names(folder) == []


def test_what_is_not_ours_stays(folder: Path) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    strangers = [
        "theus_session_key",  # of an older theus
        "theus_",
        "theus_1_2_3.control",
        f"{stem(1)}.contro",
        f"{stem(1)}.control.bak",
        f"{stem(1)}",
        f"theus_01_7_{1:032x}.control",
        f"theus_1_07_{1:032x}.control",
        f"theus_1_-7_{1:032x}.control",
        f"theus_1_+7_{1:032x}.control",
        f"theus_1_4294967296_{1:032x}.control",
        f"theus_1_99999999999999999999999_{1:032x}.control",
        f"theus_1_7_{1:031x}.control",
        f"theus_1_7_{1:033x}.control",
        f"theus_1_7_{'A' * 32}.control",
        f"theus_1_7_{'g' * 32}.data",
        "theus_" + "1" * 240,
    ]
    for name in strangers:
        (folder / name).write_text("not ours")
    (folder / f"{stem(2)}.control").symlink_to(victim)
    (folder / f"{stem(3)}.data").symlink_to(victim)
    (folder / f"{stem(4)}.control").mkdir()
    os.mkfifo(folder / f"{stem(5)}.control")
    os.link(victim, folder / f"{stem(6)}.control")  # has another name: none of ours does
    (folder / "other").write_text("not even seen")
    before = names(folder)
    report = sweep(str(folder))
    assert set(reasons(report).values()) == {"foreign"}
    assert len(report.files) == len(strangers) + 5 and report.removed == ()
    assert names(folder) == before and victim.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_other_users_files_stay(folder: Path) -> None:
    control = leave(folder, stem(1))
    os.chown(control, 12345, 12345)
    assert reasons(sweep(str(folder))) == {control.name: "others"}
    assert len(names(folder)) == 2


def test_permission_denied_is_an_answer(folder: Path) -> None:
    """As an ordinary user: root may do everything."""
    folder.chmod(0o777)
    folder.parent.chmod(0o711)
    code = """
import os, sys, time
from theus.registry import sweep
folder = sys.argv[1]
if os.geteuid() == 0:
    os.setuid(65534)
def leave(number):
    for kind in ("control", "data"):
        with open(f"{folder}/theus_1_7_{number:032x}.{kind}", "w") as file:
            file.write("x")
leave(1); leave(2)
os.chmod(f"{folder}/theus_1_7_{1:032x}.control", 0)
print([(file.reason, file.removed) for file in sorted(sweep(folder).files, key=str)])
os.mkdir(f"{folder}/inner")
folder += "/inner"
leave(3)
os.chmod(folder, 0o500)
print([(file.reason, file.removed) for file in sweep(folder).files])
print([(file.reason, file.removed) for file in sweep(folder, dry_run=True).files])
os.chmod(folder, 0)
print(sweep(folder))
os.chmod(folder, 0o700)
"""
    lines = run_fresh(code, str(folder)).splitlines()
    assert lines[0] == "[('closed', False), ('dead', True)]"
    assert lines[1] == "[('closed', False)]"
    assert lines[2] == "[('dead', False)]"
    assert lines[3].startswith(f"{folder}/inner: named shared memory needs a folder")


def test_no_folder_is_no_error(folder: Path) -> None:
    for wrong in (folder / "missing", folder / ("x" * 5000), Path(__file__)):
        report = sweep(str(wrong))
        assert report.files == () and report.error is not None
    assert sweep("nul\0byte").error is not None


# ---- many -------------------------------------------------------------------------------------


def test_sweeps_at_the_same_time_remove_everything_once(folder: Path) -> None:
    for i in range(200):
        leave(folder, stem(i))
    owner = Owner(leave(folder, stem(500)))
    reports = run_threads(4, lambda _: sweep(str(folder)))
    removed = [file.name for report in reports for file in report.removed]
    assert len(removed) == len(set(removed)) == 200
    assert len(names(folder)) == 2
    owner.die()


@pytest.mark.slow
def test_ten_thousand_dead(folder: Path) -> None:
    for i in range(10_000):
        leave(folder, stem(i), b"", b"")
    report = sweep(str(folder))
    assert len(report.removed) == 10_000 and names(folder) == []


# ---- under its old name -------------------------------------------------------------------


def test_memory_registry() -> None:
    """Its folder is the process's own, so it is one that is told its folder at its start."""
    code = """
import os, sys, time
from theus.registry import MemoryRegistry
left = os.path.join(os.environ["THEUS_SHM_DIR"], "theus_1_7_" + 32 * "0" + ".control")
open(left, "w").close()
registry = MemoryRegistry("s")                      # looks for zombies, as it always did
assert not os.path.exists(left) and "numpy" not in sys.modules
open(left, "w").close()
print(registry.scan_zombies(), registry.scan_zombies())
registry.cleanup()
"""
    with tempfile.TemporaryDirectory(dir=os.environ.get("THEUS_SHM_DIR")) as folder:
        printed = run_fresh(code, THEUS_SHM_DIR=folder)
    assert printed == f"('theus_1_7_{'0' * 32}.control',) ()\n"


def test_memory_registry_frees_its_session() -> None:
    pytest.importorskip("numpy")
    from theus.heavy import ManagedAllocator

    with ManagedAllocator(8, session_id="one") as one, ManagedAllocator(8) as two:
        view = one.alloc("x", 10)
        two.alloc("x", 10)
        MemoryRegistry("one").cleanup()
        MemoryRegistry("unknown").cleanup()
        assert "x" not in one and "x" in two and view.sum() == 0


LEDGER = """
import os, sys, time
from theus.registry import MemoryRegistry, sweep
folder = os.environ["THEUS_SHM_DIR"]
def make(name):
    with open(f"{folder}/{name}", "wb") as file:
        file.write(bytes(5000))
registry = MemoryRegistry("s")
for name in ("theus_one", "theus_two"):
    registry.log_allocation(name, 5000)
    make(name)
make("theus_other")
assert [file.reason for file in sweep().files].count("alive") == 1
"""


def left_by(folder: Path, end: str) -> list[str]:
    with tempfile.TemporaryFile() as complaints:  # no pipe: a child may outlive the process
        subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", LEDGER + end],
            env={**os.environ, "THEUS_SHM_DIR": str(folder)},
            check=True,
            stderr=complaints,
        )
        complaints.seek(0)
        assert complaints.read() == b""
    return [name for name in names(folder) if ".control" not in name]


def test_logged_segments_do_not_outlive_their_process(folder: Path) -> None:
    """Those made by other means: they have no lock of their own."""
    assert left_by(folder, "registry.cleanup(); os._exit(0)") == ["theus_other"]
    closed = """
os.mkdir(f"{folder}/theus_folder")
second = MemoryRegistry("t")
for name in ("theus_folder", "theus_missing", "theus_three"):
    second.log_allocation(name, 1)
make("theus_three")
"""
    assert left_by(folder, closed) == ["theus_folder", "theus_other"]  # and no ledger, below
    assert len(names(folder)) == 2
    (folder / "theus_folder").rmdir()
    killed = ["theus_one", "theus_other", "theus_two"]
    assert left_by(folder, "os._exit(0)") == killed
    looked = [file for file in sweep(str(folder), dry_run=True).files if file.garbage]
    assert len(looked) == 1 and looked[0].bytes == 20480 and len(names(folder)) == 4
    sweep(str(folder))
    assert names(folder) == ["theus_other"]


def test_a_ledger_is_its_process_own(folder: Path) -> None:
    """A child neither keeps its parent alive nor ends what is its parent's."""
    end = """
child = os.fork()
if child == 0:
    registry.log_allocation("theus_of_child", 1)
    make("theus_of_child")
    registry.cleanup()
    sys.exit(0 if not os.path.exists(f"{folder}/theus_of_child") else 1)
assert os.waitpid(child, 0)[1] == 0 and os.path.exists(f"{folder}/theus_one")
if os.fork() == 0:                              # lives on while the parent's files are swept
    until = time.monotonic() + {PATIENCE}
    while os.path.exists(f"{folder}/theus_one") and time.monotonic() < until:
        time.sleep(0.001)
    os._exit(0)
os._exit(0)
"""
    left_by(folder, end.replace("{PATIENCE}", str(PATIENCE)))
    until = time.monotonic() + PATIENCE
    while (folder / "theus_one").exists() or (folder / "theus_two").exists():
        assert time.monotonic() < until
        sweep(str(folder))
    assert names(folder) == ["theus_other"]


def test_a_ledger_is_believed_no_more_than_a_file(folder: Path) -> None:
    victim = folder.parent / "theus_victim"
    victim.write_text("precious")
    (folder / "theus_link").symlink_to(victim)
    (folder / "theus_folder").mkdir()
    (folder / "precious").write_text("precious")
    owner = Owner(leave(folder, stem(5)))
    lines = ["theus_link", "theus_folder", "precious", f"../{victim.name}", str(victim), ""]
    lines += [f"{stem(5)}.control", f"{stem(5)}.data", "theus_missing", "theus_" + "x" * 5000]
    (folder / "theus_cut").write_text("the last line has no end: it may be half a name")
    ledger = "thuslog1\n" + "\n".join(lines) + "\ntheus_cut"
    (folder / f"{stem(6)}.control").write_text(ledger)
    before = names(folder)
    assert [file.name for file in sweep(str(folder)).removed] == [f"{stem(6)}.control"]
    assert set(before) - set(names(folder)) == {f"{stem(6)}.control"}
    assert victim.read_text() == "precious"
    victim.unlink()
    owner.die()


def test_only_names_that_a_sweep_may_touch_are_logged() -> None:
    registry = MemoryRegistry("s")
    for wrong in ("psm_1234", "theus_a/b", "theus_\n", "theus_\0", ""):
        with pytest.raises(ValueError, match="begins with 'theus_'"):
            registry.log_allocation(wrong, 1)
    for wrong, message in (("theus_" + "ü" * 125, "at most 255 bytes"), ("theus_\ud800", "encode")):
        with pytest.raises(ValueError, match=message):
            registry.log_allocation(wrong, 1)
    with pytest.raises(ValueError, match="number of bytes, not -1"):
        registry.log_allocation("theus_x", -1)
    registry.cleanup()


# ---- the command --------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["gc", *args], prog_name="theus")
    return ended.value.code, *capsys.readouterr()


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(folder, stem(1))
    owner = Owner(leave(folder, stem(2)))
    where = ("--folder", str(folder))
    status, out, err = command(capsys, "--dry-run", *where)
    assert (status, err) == (0, "") and len(names(folder)) == 4
    lines = sorted(out.splitlines())
    assert lines[0] == f"{folder}: 1 of 2 without an owner (12,288 bytes), 0 removed"
    assert lines[1] == (f"{stem(1)}.control  12,288 bytes  its owner is dead (process {DEAD_PID})")
    assert lines[2].endswith(f"its owner lives (process {DEAD_PID})")

    status, out, err = command(capsys, "--json", *where)
    document = json.loads(out)
    assert (status, err) == (0, "") and names(folder) == [f"{stem(2)}.control", f"{stem(2)}.data"]
    assert (document["removed"], document["bytes"], document["error"]) == (1, 12288, None)
    assert {file["reason"]: file["removed"] for file in document["files"]} == {
        "dead": True,
        "alive": False,
    }
    owner.die()
    status, out, err = command(capsys, *where)
    assert (status, err) == (0, "") and names(folder) == []
    assert "; removed\n" in out and "1 removed\n" in out


def test_the_command_says_what_it_could_not_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = command(capsys, "--folder", f"{folder}/missing")
    assert (status, out) == (1, "") and f"{folder}/missing: named shared memory needs" in err
    status, out, err = command(capsys, "--json", "--folder", f"{folder}/missing")
    assert status == 1 and json.loads(out)["error"] is not None


def test_the_command_looks_where_the_environment_says(folder: Path) -> None:
    leave(folder, stem(1))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", "-m", "theus", "gc"],
        capture_output=True,
        text=True,
        env={**os.environ, "THEUS_SHM_DIR": str(folder)},
    )
    assert (done.returncode, done.stderr) == (0, "") and "1 removed" in done.stdout
    assert names(folder) == []
