"""How long a run keeps trying, and how long it waits in between."""

from __future__ import annotations

import pytest

from theus import retry
from theus.errors import ConflictError
from theus.retry import LONGEST_WAIT, SHORTEST_BODY, Patience


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


def conflict() -> ConflictError:
    return ConflictError(("domain", "n"), 1, 2)


def waits(patience: Patience, clock: Clock, count: int, body: float) -> list[float]:
    """The waits after each of `count` attempts that took `body` seconds."""
    found = []
    for _ in range(count):
        patience.begin()
        clock.now += body
        found.append(patience.wait_after(conflict()))
    return found


@pytest.mark.parametrize("body", [0.0, 0.00005, 0.001, 2.0])
def test_waits_grow_with_the_body_and_the_attempts(clock: Clock, body: float) -> None:
    limits = [min(max(body, SHORTEST_BODY) * 2**number, LONGEST_WAIT) for number in range(1, 13)]
    for _ in range(20):
        found = waits(Patience(None, 60), clock, 12, body)
        assert all(0 <= wait <= limit * 1.000001 for wait, limit in zip(found, limits, strict=True))


def test_waits_are_jittered(clock: Clock) -> None:
    found = [waits(Patience(None, 60), clock, 1, 0.01)[0] for _ in range(400)]
    assert len(set(found)) > 300
    assert 0.008 < sum(found) / 400 < 0.012, "half of body * 2 on the mean"


def test_the_measure_follows_the_body(clock: Clock) -> None:
    """One slow attempt does not make all later waits long."""
    longest = 0.0
    for _ in range(200):
        patience = Patience(None, 600)
        waits(patience, clock, 1, 0.01)
        longest = max(longest, *waits(patience, clock, 30, 0.00002)[-1:])
    assert longest < 0.00002 * 2**10 * 1.1


@pytest.mark.parametrize("retries", [0, 2])
def test_the_number_of_attempts_is_bounded(clock: Clock, retries: int) -> None:
    patience = Patience(retries, 60)
    waits(patience, clock, retries, 0.001)
    patience.begin()
    last = conflict()
    with pytest.raises(ConflictError) as caught:
        patience.wait_after(last)
    assert caught.value is last and last.attempts == retries + 1 == last.args[5]


def test_the_time_is_bounded(clock: Clock) -> None:
    patience = Patience(None, 1.0)
    waits(patience, clock, 1, 0.5)
    patience.begin()
    clock.now += 0.5
    with pytest.raises(ConflictError):
        patience.wait_after(conflict())
    none = Patience(None, 0)
    none.begin()
    with pytest.raises(ConflictError):
        none.wait_after(conflict())


@pytest.mark.parametrize(
    ("retries", "deadline", "word"),
    [(-1, 1, "-1"), ("3", 1, "'3'"), (True, 1, "True"), (None, -0.5, "-0.5"), (None, "x", "'x'")],
)
def test_bad_bounds(retries: int, deadline: float, word: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Patience(retries, deadline)
    if deadline != "x":
        assert word in str(caught.value)
