"""Hypothesis profiles, and a guard against importing the source tree instead of the package."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from operator import gt
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# ci: the same examples every time, so that a red run is the change's fault.
# deep: new examples and many of them; `pytest --hypothesis-profile=deep`.
_calm = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=_calm
)
settings.register_profile(
    "deep", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_calm
)
settings.load_profile("ci")

# `python -m pytest` and `python -c` put the current folder on sys.path. Here that is the source
# tree, where theus/ lies without its C module and hides the installed package. The tests are about
# the installed one, in this process and in those that they start.
os.environ["PYTHONSAFEPATH"] = "1"
_root = Path(__file__).resolve().parent.parent
if not list((_root / "theus").glob("_theus*.so")):
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _root]


# Shared memory with names lies in a folder of this run: what others leave there, or sweep, is not
# ours to judge. Read when theus is first imported, here and in processes that the tests start.
_shm: str | None = None
if os.access("/dev/shm", os.W_OK):
    _shm = os.environ["THEUS_SHM_DIR"] = tempfile.mkdtemp(prefix="pytest-", dir="/dev/shm")


def pytest_sessionfinish() -> None:
    if _shm is not None:
        shutil.rmtree(_shm, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `long` runs only when -m asks for it."""
    if "long" not in config.option.markexpr:
        skipped = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=skipped)


# ---- shared memory ----------------------------------------------------------------------------

_SHARING = ("test_heavy", "test_shm", "test_leak", "test_storm", "test_sweep", "test_gc")


@pytest.fixture(autouse=True)
def _gives_shared_memory_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of shared memory ends with no more of it than it began with.

    What `theus.testing.leak_check` asks, too; but garbage is collected only when there is more.
    """
    if not request.path.name.startswith(_SHARING) or "numpy" not in sys.modules:
        yield
        return
    before, failed = _files_held(), request.session.testsfailed
    yield
    request.node.funcargs.clear()  # or pytest still held an engine with its state
    if _files_held() > before and request.session.testsfailed == failed:
        gc.collect()
        assert _files_held() <= before, "shared memory was not given back"


def _files_held() -> int:
    """Descriptors and mappings. A look at them takes a millisecond."""
    from theus._theus import forget_arenas
    from theus.testing import leaks

    forget_arenas()
    return sum(map(leaks._is_ours, leaks._targets("/proc/self/fd"))) + leaks._mappings()


@pytest.fixture(autouse=True, scope="module")
def _module_gives_arrays_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every file of tests ends with no more arrays, own and borrowed, than it began with. (Not
    every test: some files have one engine for all of theirs.)"""
    before, failed = _arrays_held(), request.session.testsfailed
    yield
    end = time.monotonic() + 60  # for a pool that is about to let go of what it was sent
    while any(map(gt, held := _arrays_held(), before)) and request.session.testsfailed == failed:
        gc.collect()
        assert time.monotonic() < end, f"arrays were not given back: {before}, now {held}"
        time.sleep(0.001)


def _arrays_held() -> tuple[int, int]:
    """Leases, and bytes of arrays of this process."""
    from theus._theus import count_leases, process_memory

    return count_leases(), process_memory()[2]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """After every test: births - deaths = what there is, by any count, in whatever still lives."""
    yield
    if core := sys.modules.get("theus._theus"):
        _, _, used, _, births, deaths, _, _, blocks, extents = core.process_memory()
        assert (births - deaths, used) == (blocks, extents), (item.nodeid, core.process_blocks())
    arrays = sys.modules.get("theus.shm_array")
    for owner in [] if arrays is None else list(arrays.OWNERS.values()):
        report = owner.report()
        extents = sum(array.extent for array in report.arrays)
        classes = [sum(column) for column in zip(*report.by_size.values(), strict=True)]
        assert report.births - report.deaths == len(report.arrays), (item.nodeid, report)
        assert report.used == extents, (item.nodeid, report)
        assert not report.arrays or classes == [len(report.arrays), extents], (item.nodeid, report)
        for quota in report.quotas:
            counted = [it.extent for it in report.arrays if it.key.startswith(quota.prefix)]
            assert (quota.arrays, quota.used) == (len(counted), sum(counted)), (item.nodeid, report)
