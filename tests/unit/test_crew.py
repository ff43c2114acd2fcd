"""Threads that work through a list: all of it, each item once, and stop when asked."""

from __future__ import annotations

import threading
import time

import pytest

from support import PATIENCE
from theus.examples import crew
from theus.examples.crew import work_through


@pytest.mark.parametrize("threads", [1, 4, 9])
def test_every_item_is_done_once_and_reported_here(threads: int) -> None:
    done: list[int] = []
    here: set[int] = set()
    reported: list[int] = []

    def finished(item: int) -> None:
        here.add(threading.get_ident())
        reported.append(item)

    work_through(range(500), done.append, threads=threads, finished=finished)
    assert sorted(done) == sorted(reported) == list(range(500))
    assert here == {threading.get_ident()}


def test_nothing_to_do_is_done() -> None:
    work_through([], lambda item: pytest.fail("there is no item"), threads=3)


def test_items_are_in_hand_at_the_same_time() -> None:
    meet = threading.Barrier(3, timeout=PATIENCE)
    work_through(range(3), lambda item: meet.wait(), threads=3)  # one thread alone would break it


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is left behind: on a busy machine a thread may need longer than a second."""
    monkeypatch.setattr(crew, "GRACE", PATIENCE)


@pytest.mark.usefixtures("patient")
def test_an_error_stops_the_crew_and_arrives_here() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("the fourth item")
        done.append(item)

    with pytest.raises(ValueError, match="the fourth item"):
        work_through(range(1000), work, threads=1)
    assert done == [0, 1, 2]
    assert not any(thread.name.startswith("crew-") for thread in threading.enumerate())


@pytest.mark.usefixtures("patient")
def test_an_interruption_stops_threads_after_the_item_in_hand() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        done.append(item)
        time.sleep(0.001)  # all of them would take many minutes

    def interrupt(item: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_through(range(1_000_000), work, threads=2, finished=interrupt)
    count = len(done)
    assert 0 < count < 1_000_000
    assert not any(thread.name.startswith("crew-") for thread in threading.enumerate())
    assert len(done) == count


def test_an_item_that_never_ends_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "GRACE", 0.01)
    release = threading.Event()

    def work(item: str) -> None:
        if item == "stuck":
            release.wait(PATIENCE)

    def interrupt(item: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_through(["quick", "stuck"], work, threads=2, finished=interrupt)
    stuck = [thread for thread in threading.enumerate() if thread.name.startswith("crew-")]
    release.set()
    for thread in stuck:
        assert thread.daemon
        thread.join(PATIENCE)
