"""What the built module may contain: one exported name, no path of the build machine, and no
mutable data outside the places that are listed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import theus._theus
from helpers import ROOT

MODULE = Path(theus._theus.__file__)
SOURCES = sorted(
    path for room in ("core", "binding") for path in (ROOT / "csrc" / room).glob("*.c")
)

NM = shutil.which("nm")
CC = shutil.which("cc") or shutil.which("gcc")

needs_nm = pytest.mark.skipif(NM is None, reason="no nm on this machine")
needs_cc = pytest.mark.skipif(CC is None or NM is None, reason="no C compiler on this machine")


def symbols(path: Path, *options: str) -> list[tuple[str, str]]:
    """(letter, name) for each symbol that is defined in a binary."""
    assert NM is not None
    done = subprocess.run(
        [NM, "--defined-only", *options, str(path)], capture_output=True, text=True, check=True
    )
    return [
        (line.split()[-2], line.split()[-1]) for line in done.stdout.splitlines() if line.strip()
    ]


@needs_nm
def test_one_name_is_exported() -> None:
    exported = {symbol for letter, symbol in symbols(MODULE, "-D") if letter in "TDBRVW"}
    assert exported == {"PyInit__theus"}


def test_no_path_of_the_build_machine() -> None:
    binary = MODULE.read_bytes()
    assert str(ROOT).encode() not in binary
    assert not re.search(rb"(/[\w.-]+)+/csrc/", binary)


# ---- mutable data -----------------------------------------------------------------------

# The C API wants these tables without const. Nobody writes them after the build. (The last one:
# keyword names for PyArg_ParseTupleAndKeywords.)
TABLE = (
    "PyGetSetDef", "PyMemberDef", "PyMethodDef", "PyModuleDef", "PyModuleDef_Slot",
    "PyStructSequence_Desc", "PyStructSequence_Field", "PyType_Slot", "PyType_Spec",
    "VIEW_SPEC", r"static char \*",
)  # fmt: skip

# Process-wide data that are meant to be: (file, name) and why.
MEANT = {
    ("port_posix.c", "process"): "fork epoch, random state: numbers only, nothing to free",
    (
        "shm_process.c",
        "process",
    ): "which arenas are mapped: a fork must find every one; their totals",
    ("shm_files.c", "places"): "the folder of named shared memory: chosen at the first import",
}


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """An object file for each source, compiled without -fPIC: so that tables of constant
    pointers are read-only data, and what is left in .data and .bss is really writable."""
    folder = tmp_path_factory.mktemp("units")
    core, binding = ROOT / "csrc" / "core", ROOT / "csrc" / "binding"

    def compiled(source: Path) -> Path:
        unit = folder / f"{source.parent.name}-{source.stem}.o"
        include = ["-I", str(core)]
        if source.parent == binding:
            include += ["-include", "module_state.h", "-I", str(folder), "-I", str(binding)]
        options = [*common, *include, "-c", str(source), "-o", str(unit)]
        subprocess.run([str(CC), *options], check=True)
        return unit

    common = ["-std=gnu11", "-DNDEBUG", "-fno-pic", "-fno-pie"]
    common += ["-isystem", sysconfig.get_path("include")]
    # Python.h, read once for all files that begin with it: half of the time.
    header = ["-x", "c-header", str(binding / "module_state.h")]
    precompiled = folder / "module_state.h.gch"
    subprocess.run([str(CC), *common, *header, "-o", str(precompiled)], check=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(SOURCES, pool.map(compiled, SOURCES), strict=True))


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_mutable_statics(source: Path, units: dict[Path, Path]) -> None:
    """Two interpreters, or two engines, that share a variable are a bug that no test of
    behaviour finds in time. The statics of functions are seen, too."""
    text = source.read_text()
    for letter, symbol in symbols(units[source]):
        if letter not in "bBdDC":
            continue
        plain = re.sub(r"\.\d+$", "", symbol)  # gcc numbers the statics of functions
        table = re.search(rf"\b({'|'.join(TABLE)})[\s(]*{plain}\b", text)
        if table is None and (source.name, plain) not in MEANT:
            pytest.fail(f"{source.name}: {plain} is a writable variable of the whole process")


def test_what_is_meant_still_exists() -> None:
    for file, symbol in MEANT:
        path = next((source for source in SOURCES if source.name == file), None)
        assert path is not None and re.search(rf"\b{symbol}\b", path.read_text()), (file, symbol)
