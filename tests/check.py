"""python tests/check.py LANE ...: the checks by name.

    quick   lint, and the Python tests that are not slow      before each push
    full    everything below, and all Python tests
    lint    ruff (rules and format), mypy --strict, the stub against the module
    c       the C tests                                       needs cmake
    faults  seeded faults in copies of the core: is each of them found?
    asan    the C tests under AddressSanitizer and UBSan
    tsan    the C tests under ThreadSanitizer
    sim     the commit protocol under a deterministic scheduler, deeper than `c` does: minutes
    storm   kill -9, a hundred thousand times, and a hundred million looks at a table: minutes
    huge    tests of shared memory with pages of 2 MiB, 64 of which are set aside meanwhile: as root
    cov     the C tests, and which lines of the core they reach (at least 90 %)
    asanpy  the quick Python tests over a module built with AddressSanitizer and UBSan
    wheel   sdist and wheel: what is in them, and that they work
    py      all Python tests

Each lane is made of ordinary commands and prints them first, so that you can repeat
one by hand. The Python lanes test the theus that is installed for this Python:
`pip install '.[test]'`, and again after each change.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
COVERED_AT_LEAST = 90.0
ON_ALL_CORES = ("-n", "auto", "--dist", "loadfile")


class Failed(Exception):
    """A check did not hold. The text says which."""


def run(
    *command: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] = MappingProxyType({})
) -> None:
    words = [str(word) for word in command]
    prefix = [f"{name}={shlex.quote(value)}" for name, value in environ.items()]
    if cwd != ROOT:
        prefix.insert(0, f"cd {shlex.quote(str(cwd))};")
    print("$", *prefix, shlex.join(words), flush=True)
    try:
        done = subprocess.run(words, cwd=cwd, env={**os.environ, **environ})
    except FileNotFoundError:
        raise Failed(f"{words[0]} is not installed: pip install {words[0]}") from None
    if done.returncode != 0:
        what = words[words.index("-m") + 1] if "-m" in words else words[0]
        raise Failed(f"{what} ended with status {done.returncode}")


def tool(name: str) -> tuple[str, ...]:
    """A Python tool, as a module of this interpreter."""
    package = name.split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise Failed(f"{package} is not installed for {sys.executable}: pip install {package}")
    return (sys.executable, "-m", name)


# ---- C --------------------------------------------------------------------------------


def c_tests(
    folder: str, *settings: str, wrapper: tuple[str, ...] = (), only: str = "", **environ: str
) -> Path:
    """Configures, builds and runs the C tests (whose names match `only`) in build/<folder>."""
    build = BUILD / folder
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    options = (f"-D{setting}" for setting in ("THEUS_BUILD_TESTS=ON", *settings))
    run("cmake", "-S", ".", "-B", build, *generator, *options, "--log-level=WARNING")
    run("cmake", "--build", build, "--parallel", str(os.cpu_count() or 1))
    ctest = ("ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error")
    run(*wrapper, *ctest, "--tests-regex", only, environ=environ)
    return build


def c() -> None:
    # Warnings are errors here only: instrumented code gets warnings of its own.
    c_tests("c", "CMAKE_BUILD_TYPE=RelWithDebInfo", "THEUS_WERROR=ON")


def asan() -> None:
    c_tests(
        "asan",
        "CMAKE_BUILD_TYPE=RelWithDebInfo",
        "THEUS_SANITIZE=address,undefined",
        ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1",
        UBSAN_OPTIONS="print_stacktrace=1",
    )


def tsan() -> None:
    # Some kernels place memory where older ThreadSanitizers do not expect it.
    setarch = shutil.which("setarch")
    wrapper = (setarch, "-R") if setarch and works(setarch, "-R", "true") else ()
    c_tests(
        "tsan",
        "CMAKE_BUILD_TYPE=RelWithDebInfo",
        "THEUS_SANITIZE=thread",
        wrapper=wrapper,
        TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1",
    )


def sim() -> None:
    build = c_tests("c", "CMAKE_BUILD_TYPE=RelWithDebInfo", "THEUS_WERROR=ON", only="sim_.*")
    for program in sorted(build.glob("sim_*")):
        if program.is_file() and os.access(program, os.X_OK):
            run(program, "deep")


def storm() -> None:
    build = c_tests(
        "c", "CMAKE_BUILD_TYPE=RelWithDebInfo", "THEUS_WERROR=ON", only="test_shm_(storm|slots)"
    )
    run(build / "test_shm_storm", "100000")
    run(build / "test_shm_slots", "100000000")


def huge() -> None:
    pages = Path("/proc/sys/vm/nr_hugepages")
    before = int(pages.read_text())
    try:
        pages.write_text(f"{before + 64}\n")
    except OSError as error:
        raise Failed(f"no pages of 2 MiB can be set aside: {error}") from None
    try:
        c_tests("c", "CMAKE_BUILD_TYPE=RelWithDebInfo", "THEUS_WERROR=ON", only="test_shm_memory")
        run(sys.executable, "-P", "-m", "pytest", "-q", "-rs", "tests/unit/test_memory.py")
    finally:
        pages.write_text(f"{before}\n")


def faults() -> None:
    run(sys.executable, "tests/faults.py")


def works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def cov() -> None:
    shutil.rmtree(BUILD / "cov", ignore_errors=True)  # counts add up over runs
    build = c_tests("cov", "CMAKE_BUILD_TYPE=Debug", "THEUS_COVERAGE=ON")
    lines: dict[str, dict[int, int]] = {}
    for counts in sorted(build.rglob("*.gcda")):
        for file, found in gcov(counts).items():
            of_file = lines.setdefault(file, {})
            for number, count in found.items():
                of_file[number] = max(count, of_file.get(number, 0))
    if not lines:
        raise Failed("gcov found no lines of csrc/core")
    for file, found in sorted(lines.items()):
        missed = spans(sorted(number for number, count in found.items() if count == 0))
        reached = sum(count > 0 for count in found.values())
        share = percent(reached, len(found))
        print(f"{file:28} {reached:5} of {len(found):5} {share:6.1f} %  {missed}")
    reached = sum(count > 0 for found in lines.values() for count in found.values())
    share = percent(reached, sum(map(len, lines.values())))
    print(f"core lines reached by the C tests: {share:.1f} %")
    if share < COVERED_AT_LEAST:
        raise Failed(
            f"{share:.1f} % of the core's lines are reached, fewer than {COVERED_AT_LEAST} %"
        )


def gcov(counts: Path) -> dict[str, dict[int, int]]:
    """Executions per line, for the files of the core that one .gcda tells about."""
    done = subprocess.run(
        ["gcov", "--json-format", "--stdout", str(counts)],
        cwd=counts.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise Failed(f"gcov failed on {counts}: {done.stderr}")
    found: dict[str, dict[int, int]] = {}
    for report in filter(None, done.stdout.splitlines()):
        for file in json.loads(report)["files"]:
            inside = re.search(r"csrc/core/[^/]+$", file["file"])
            if inside:
                of_file = found.setdefault(inside.group(), {})
                for line in file["lines"]:
                    number = line["line_number"]
                    of_file[number] = max(line["count"], of_file.get(number, 0))
    return found


def percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def spans(numbers: list[int]) -> str:
    """[3, 4, 5, 9] as '3-5 9', cut where it gets long."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    texts = ["-".join(map(str, part)) for part in parts]
    return " ".join(texts[:12]) + (" ..." if len(texts) > 12 else "")


# ---- Python ---------------------------------------------------------------------------


def lint() -> None:
    # From elsewhere: in the source tree `theus` would be the folder without its C module.
    with tempfile.TemporaryDirectory() as elsewhere:
        config = ("--mypy-config-file", ROOT / "pyproject.toml")
        allowed = ("--allowlist", ROOT / "tests" / "typing" / "stubtest-allowlist.txt")
        in_turn(
            lambda: run(*tool("ruff"), "check", "."),
            lambda: run(*tool("ruff"), "format", "--check", "."),
            lambda: run(*tool("mypy"), "--strict", "theus"),
            lambda: run(
                *tool("mypy.stubtest"), "theus._theus", *config, *allowed, cwd=Path(elsewhere)
            ),
            lambda: run(*tool("pytest"), "-q", "tests/typing"),
        )


def in_turn(*checks: Callable[[], None]) -> None:
    """Runs them all, then fails if one of them did."""
    failures = []
    for check in checks:
        try:
            check()
        except Failed as failure:
            failures.append(str(failure))
    if failures:
        raise Failed("; ".join(failures))


def pytest(*options: str) -> None:
    # -P: the tests are about the installed theus, not about the folder of that name here.
    run(sys.executable, "-P", "-m", "pytest", *options)


def asanpy() -> None:
    build = BUILD / "asanpy"
    settings = ("THEUS_BUILD_MODULE=ON", "CMAKE_BUILD_TYPE=Debug", "CMAKE_C_FLAGS_DEBUG=-O1 -g")
    python = f"Python_EXECUTABLE={sys.executable}"
    options = (f"-D{x}" for x in (*settings, "THEUS_SANITIZE=address,undefined", python))
    run("cmake", "-S", ".", "-B", build, *options, "--log-level=WARNING")
    run("cmake", "--build", build, "--parallel", str(os.cpu_count() or 1))
    (module,) = build.glob("_theus*.so")
    package = build / "site" / "theus"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "theus", package)
    shutil.copy(module, package)
    compiler = os.environ.get("CC", "cc")
    library = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    # The interpreter itself was built without; its own leaks at the end are not our subject.
    environ = {
        "LD_PRELOAD": library.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(package.parent),
    }
    rooms = ("tests/unit", "tests/model", "tests/threads")
    command = (sys.executable, "-P", "-m", "pytest", "-q", "-m", "not slow", *rooms)
    run(*command, environ=environ)


def quick() -> None:
    lint()
    pytest("-q", *ON_ALL_CORES, "-m", "not slow")


def py() -> None:
    pytest(*ON_ALL_CORES)


# ---- what is shipped --------------------------------------------------------------------


def wheel() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # Makes the sdist, unpacks it, and makes the wheel from that.
        run(*tool("build"), "--outdir", folder, ".")
        (sdist,) = folder.glob("*.tar.gz")
        (built,) = folder.glob("*.whl")
        check_sdist(sdist)
        check_wheel(built)
        with zipfile.ZipFile(built) as archive:
            archive.extractall(folder / "unpacked")
        test = "import theus; theus.TheusEngine({'domain': {'n': 1}})"
        run(
            sys.executable,
            "-P",
            "-c",
            test,
            cwd=folder,
            environ={"PYTHONPATH": str(folder / "unpacked")},
        )


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        strange = [n for n in names if not re.fullmatch(r"theus/.*(\.py|\.pyi|py\.typed|\.so)", n)]
        modules = [name for name in names if name.endswith(".so")]
        if strange or len(modules) != 1:
            raise Failed(f"{path.name} holds {strange or modules}")
        expected = {
            str(file.relative_to(ROOT))
            for file in (ROOT / "theus").rglob("*")
            if file.suffix in (".py", ".pyi", ".typed") and "cache" not in str(file)
        }
        if set(names) - set(modules) != expected:
            raise Failed(
                f"{path.name} and theus/ differ in {expected ^ (set(names) - set(modules))}"
            )
        if str(ROOT).encode() in archive.read(modules[0]):
            raise Failed(f"{modules[0]} knows where it was built")
    print(f"{path.name}: {len(names)} files, as expected")


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()} - {"PKG-INFO"}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        print(f"{path.name}: {len(packed)} files (no git here to compare with)")
        return
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    tracked = {name for name in tracked if not name.startswith((".ci/", ".gitignore"))}
    if packed != tracked:
        raise Failed(f"{path.name} and the tracked files differ in {sorted(packed ^ tracked)}")
    print(f"{path.name}: {len(packed)} files, as tracked")


# ---- command ----------------------------------------------------------------------------


def full() -> None:
    in_turn(lint, c, faults, asan, tsan, cov, asanpy, wheel, py)


LANES: dict[str, Callable[[], None]] = {
    lane.__name__: lane
    for lane in (
        *(quick, full, lint, c, sim, storm, huge, faults, asan, tsan, cov, asanpy, wheel, py),
    )
}


def main(names: list[str]) -> int:
    if not names or any(name not in LANES for name in names):
        print(__doc__)
        return 2
    try:
        for name in names:
            LANES[name]()
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
