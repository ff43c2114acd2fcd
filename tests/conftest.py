"""Hypothesis profiles, and a guard against importing the source tree instead of the package."""

from __future__ import annotations

import os
import sys
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `long` runs only when -m asks for it."""
    if "long" not in config.option.markexpr:
        skipped = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=skipped)
