"""Nobody else counts while we do."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def others_at_rest() -> Iterator[None]:
    """Nobody else counts meanwhile, and what was there before is not looked through in each of many
    collections."""
    others = threading.enumerate()
    others.remove(threading.main_thread())
    if others:
        pytest.skip(f"threads of other tests still run, {others}: run tests/refcount by itself")
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_kept_of_the_log() -> Iterator[None]:
    """pytest keeps all records of a test."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
