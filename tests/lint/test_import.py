"""Importing theus is quiet, light and without effects."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from helpers import ROOT, run_fresh

HEAVY = (
    "numpy", "pydantic", "rich", "click", "asyncio", "multiprocessing", "yaml",
    "dataclasses", "inspect",
    *(("ast",) if sys.version_info < (3, 14) else ()),  # later typing.NamedTuple loads it
)  # fmt: skip


def test_import_loads_nothing_heavy_and_prints_nothing() -> None:
    code = f"""
import sys
before = set(sys.modules)
import theus
loaded = {{name.split('.')[0] for name in set(sys.modules) - before}}
print(sorted(loaded & set({HEAVY!r})))
"""
    assert run_fresh(code) == "[]\n"


def test_import_starts_no_thread_and_opens_no_file() -> None:
    code = """
import os, threading
def files():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{fd}"))
before = files()
import theus
assert threading.active_count() == 1, threading.enumerate()
assert files() == before, (before, files())
"""
    assert run_fresh(code) == ""


def test_the_public_names_exist() -> None:
    code = """
import theus
missing = [name for name in theus.__all__ if not hasattr(theus, name)]
assert not missing, missing
assert len(set(theus.__all__)) == len(theus.__all__)
"""
    run_fresh(code)


def test_the_installed_version_is_the_written_one() -> None:
    code = """
import importlib.metadata, theus
assert importlib.metadata.version("theus") == theus.__version__
"""
    run_fresh(code)


def test_a_source_tree_says_how_to_get_past_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "theus", tmp_path / "theus", ignore=shutil.ignore_patterns("*.so"))
    code = """
import sys
sys.path.insert(0, sys.argv[1])
try:
    import theus
except ModuleNotFoundError as error:
    print(error.name, "run python with -P" in str(error), sys.argv[1] in str(error))
"""
    assert run_fresh(code, str(tmp_path)) == "theus._theus True True\n"


def test_types_are_named_as_they_are_imported() -> None:
    code = """
import theus
print([t for t in map(vars(theus).get, theus.__all__)
       if isinstance(t, type) and t.__module__ == "theus._theus"])
"""
    assert run_fresh(code) == "[]\n"
