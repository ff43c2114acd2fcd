"""ConflictManager: how long who waits, and who is blocked by whom."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import theus.conflict
from helpers import run_threads
from support import PATIENCE
from theus import ConflictManager, RetryDecision, TheusEngine
from theus.errors import ConflictError


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(theus.conflict, "time", clock)
    return clock


def fail(manager: ConflictManager, key: Any, times: int) -> RetryDecision:
    for _ in range(times):
        decision = manager.report_conflict(key)
    return decision


def test_waits_double_and_are_spread() -> None:
    manager = ConflictManager(max_retries=100)
    for n in range(1, 15):
        low, high = (2 * 2 ** min(n - 1, 10) * part for part in (0.8, 1.2))
        decision = manager.report_conflict("a")
        assert decision.should_retry
        assert int(low) <= decision.wait_ms <= high
        assert manager.get_failure_count("a") == n
    waits = [ConflictManager(100, 1000).report_conflict("a").wait_ms for _ in range(200)]
    assert min(waits) < 900 < 1100 < max(waits)
    assert len(set(waits)) > 50


def test_the_fifth_conflict_gives_the_ticket() -> None:
    manager = ConflictManager()
    fail(manager, "a", 4)
    assert not manager.is_blocked()
    assert manager.report_conflict("a") == RetryDecision(True, 1)
    assert manager.is_blocked() and manager.is_blocked("b") and not manager.is_blocked("a")
    assert fail(manager, "b", 20) == RetryDecision(True, 50)
    assert manager.get_failure_count("b") == 0  # being held up is no conflict
    assert manager.report_conflict("a") == RetryDecision(True, 1)
    manager.report_success("b")  # is nobody's business
    assert manager.is_blocked("b")
    manager.report_success("a")
    assert not manager.is_blocked()
    assert manager.get_failure_count("a") == 0


def test_the_lease_ends_a_ticket(clock: Clock) -> None:
    manager = ConflictManager(lease_ms=500)
    fail(manager, "dead", 5)
    clock.now += 0.499
    assert manager.is_blocked("b")
    manager.report_conflict("dead")  # trying again makes it no longer
    clock.now += 0.001
    assert not manager.is_blocked("b")
    fail(manager, "dead", 4)
    assert not manager.is_blocked("b")  # it has to fail as often again
    assert fail(manager, "b", 5) == RetryDecision(True, 1)
    assert manager.is_blocked("dead")


def test_one_at_a_time_among_threads() -> None:
    # So that 1 ms is the wait of the holder alone, and no lease ends on a busy machine.
    manager = ConflictManager(base_backoff_ms=100, lease_ms=60_000)
    holders: list[int] = []

    def work(me: int) -> None:
        for _ in range(300):
            if fail(manager, me, 5).wait_ms == 1 and not manager.is_blocked(me):
                holders.append(me)
                assert manager.is_blocked("somebody else")
                manager.report_success(me)

    run_threads(6, work)
    assert len(holders) > 0
    assert not manager.is_blocked()


def test_the_memory_is_bounded() -> None:
    manager = ConflictManager(max_retries=10**9)
    for key in range(20_000):
        manager.report_conflict(key)
    assert manager.get_failure_count(0) == 0
    assert manager.get_failure_count(19_999) == 1
    assert len(manager._counts) == 10_000


@pytest.mark.parametrize(
    "arguments",
    [{"max_retries": 0}, {"max_retries": 2.5}, {"base_backoff_ms": -1}, {"lease_ms": "1"}],
)
def test_arguments_that_mean_nothing(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ConflictManager(**arguments)


def test_a_loop_by_hand() -> None:
    """The loop of the docstring, from six threads."""
    engine = TheusEngine({"domain": {"n": 0}})
    manager = ConflictManager(base_backoff_ms=0.1)
    pause = threading.Event()

    def work(me: int) -> None:
        for _ in range(30):
            while True:
                version, n = engine.version, engine.state.data["domain"]["n"]
                if manager.is_blocked(me):
                    pause.wait(0.001)
                    continue
                try:
                    engine.compare_and_swap(version, {("domain", "n"): n + 1}, requester=str(me))
                except ConflictError:
                    pause.wait(manager.report_conflict(me).wait_ms / 1000)
                else:
                    manager.report_success(me)
                    break

    run_threads(6, work)
    assert engine.state.data["domain"]["n"] == 180
    assert not manager.is_blocked()


def test_none_is_nobodys_name() -> None:
    with pytest.raises(TypeError, match="None"):
        ConflictManager().report_conflict(None)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, 1e306])
@pytest.mark.parametrize("name", ["base_backoff_ms", "lease_ms"])
def test_times_beyond_reason_are_refused(name: str, value: float) -> None:
    """Infinite times were accepted, and a conflict raised OverflowError."""
    with pytest.raises(ValueError, match=name):
        ConflictManager(**{name: value})  # type: ignore[arg-type]


def test_keys_may_ask_the_manager() -> None:
    """A key whose comparison used the manager waited for itself for ever."""
    manager = ConflictManager(max_retries=1)
    asked = []

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            asked.append(manager.get_failure_count("other"))
            return self is other

    def use() -> None:
        manager.report_conflict(Key())
        manager.report_conflict(Key())

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert asked
