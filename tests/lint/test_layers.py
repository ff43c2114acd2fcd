"""The arrows between the rooms: nothing includes or imports what is above it.

theus (Python) -> csrc/binding (all of Python.h) -> csrc/core -> libc, through port.h
       \\-> errors.py, _types.py, _compat.py (leaves)
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from helpers import ROOT

CORE = ROOT / "csrc" / "core"
BINDING = ROOT / "csrc" / "binding"
PACKAGE = ROOT / "theus"

C_FILES = sorted(path for room in (CORE, BINDING) for path in room.glob("*.[ch]"))
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))

# Headers of the C standard that any file may use. What the operating system offers comes
# through port.h.
C_STANDARD = {
    "assert.h", "errno.h", "inttypes.h", "limits.h", "math.h", "stdalign.h", "stdarg.h",
    "stdatomic.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h",
}  # fmt: skip

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.DOTALL)


def includes(path: Path) -> list[tuple[str, str]]:
    return INCLUDE.findall(without_comments(path.read_text()))


def test_the_rooms_are_not_empty() -> None:
    assert len(C_FILES) > 10
    assert len(PYTHON_FILES) > 5


@pytest.mark.parametrize("path", [p for p in C_FILES if p.parent == CORE], ids=name)
def test_core_includes_only_core_and_the_standard(path: Path) -> None:
    for bracket, header in includes(path):
        if bracket == '"':
            assert (CORE / header).exists(), f"{name(path)} includes {header}, not of the core"
        elif not path.name.startswith("port"):
            assert header in C_STANDARD, f"{name(path)} includes <{header}>; port.h is the way"
        else:
            assert "Python" not in header


@pytest.mark.parametrize("path", [p for p in C_FILES if p.parent == BINDING], ids=name)
def test_binding_includes_python_first_and_no_system(path: Path) -> None:
    found = includes(path)
    if path.name == "pyapi.h":
        assert ("<", "Python.h") == found[0]
        return
    if path.suffix == ".c":
        # Python.h must come before any standard header. Each header of ours begins with it.
        assert found[0][0] == '"', f"{name(path)} must include a header of the binding first"
    for bracket, header in found:
        if bracket == '"':
            assert (BINDING / header).exists() or (CORE / Path(header).name).exists()
        else:
            assert header in C_STANDARD, f"{name(path)} includes <{header}>"


@pytest.mark.parametrize("path", C_FILES, ids=name)
def test_python_versions_are_asked_for_in_one_file(path: Path) -> None:
    if path.name != "pyapi.h":
        assert "PY_VERSION_HEX" not in without_comments(path.read_text())


@pytest.mark.parametrize("path", [p for p in C_FILES if p.parent == BINDING], ids=name)
def test_private_python_is_wrapped_in_one_file(path: Path) -> None:
    """_Py names come and go between versions: each gets one wrapper, in pyapi.h."""
    if path.name != "pyapi.h":
        private = set(re.findall(r"\b_Py[A-Za-z]\w*", without_comments(path.read_text())))
        assert not private, f"{name(path)} uses {private}"


# What returns a borrowed reference, and what replaces it (pyapi.h has those for older Pythons).
BORROWING = {
    "PyDict_GetItem": "PyDict_GetItemRef",
    "PyDict_GetItemWithError": "PyDict_GetItemRef",
    "PyDict_GetItemString": "PyDict_GetItemStringRef",
    "PyDict_SetDefault": "PyDict_SetDefaultRef",
    "PyImport_AddModule": "PyImport_AddModuleRef",
    "PyList_GetItem": "PyList_GetItemRef",
    "PyWeakref_GetObject": "PyWeakref_GetRef",
}

# What a module for several interpreters and threads cannot use at all.
FORBIDDEN = {
    "PyModule_Create": "multi-phase initialisation",
    "PyState_FindModule": "PyType_GetModuleState",
    "PyType_Ready": "heap types, by PyType_FromModuleAndSpec",
    "PyGILState_Ensure": "the thread state that is there; it means the main interpreter",
    "PyGILState_Release": "the thread state that is there; it means the main interpreter",
}


@pytest.mark.parametrize("path", [p for p in C_FILES if p.parent == BINDING], ids=name)
def test_binding_keeps_to_strong_references_and_isolated_modules(path: Path) -> None:
    text = without_comments(path.read_text())
    for call, instead in (FORBIDDEN if path.name == "pyapi.h" else FORBIDDEN | BORROWING).items():
        assert not re.search(rf"\b{call}\s*\(", text), f"{name(path)}: {call}; use {instead}"


# ---- Python ---------------------------------------------------------------------------


def imported(path: Path) -> set[str]:
    """Absolute names of what a module of the package imports, at any depth of nesting."""
    package = ["theus", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("leaf", ["errors.py", "_types.py", "_compat.py"])
def test_leaves_import_nothing_of_ours(leaf: str) -> None:
    path = PACKAGE / leaf
    if path.exists():
        ours = {module for module in imported(path) if module.split(".")[0] == "theus"}
        assert not ours, f"theus/{leaf} imports {ours}"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_the_library_does_not_know_its_programs(path: Path) -> None:
    """The command line and the examples stand on the library, never the other way round."""
    room = path.relative_to(PACKAGE).parts[0]
    if room not in ("cli", "cli.py", "examples", "__main__.py"):
        above = {
            module
            for module in imported(path)
            if module.startswith(("theus.cli", "theus.examples")) or module in ("click", "rich")
        }
        assert not above, f"{name(path)} imports {above}"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_examples_use_the_public_interface(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] == "examples":
        private = {m for m in imported(path) if m.startswith("theus._")}
        assert not private, f"{name(path)} imports {private}"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_only_the_command_line_prints(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("cli", "cli.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name(path)}:{node.lineno} prints"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_python_is_asked_for_its_version_in_one_file(path: Path) -> None:
    if path.name == "_compat.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("version_info", "hexversion"), f"{name(path)}:{node.lineno}"
