"""@engine.transactional: functions and coroutine functions that run as transactions."""

from __future__ import annotations

from typing import Any

import pytest

from processes import Disturbed, counting_engine, disturb, finish, n
from theus import TheusEngine
from theus.errors import ConflictError


@pytest.fixture
def engine() -> TheusEngine:
    return counting_engine()


def test_transactional_coroutines(engine: TheusEngine) -> None:
    disturbed = Disturbed(engine, 2)

    @engine.transactional
    async def deposit(tx: Any, amount: int, *, twice: bool = False) -> int:
        """Puts something in."""
        tx.domain.m += 2 * amount if twice else amount
        return await disturbed(tx)

    assert finish(deposit(5, twice=True)) == 3
    assert engine.state["domain"]["m"] == 10 and n(engine) == 102
    assert deposit.__doc__ == "Puts something in." and deposit.__name__ == "deposit"


def test_transactional_functions_with_options(engine: TheusEngine) -> None:
    attempts: list[int] = []

    @engine.transactional(retries=1)
    def deposit(tx: Any, amount: int, *, note: str = "") -> str:
        attempts.append(amount)
        tx.domain.n += amount
        disturb(engine)
        return note

    with pytest.raises(ConflictError) as caught:
        deposit(5, note="x")
    assert caught.value.attempts == 2 and attempts == [5, 5]

    @engine.transactional()
    def free(tx: Any, note: str = "none") -> str:
        tx.domain.m = 1
        return note

    assert free() == "none" and free(note="kept") == "kept" == free("kept")

    @engine.transactional(isolation="snapshot", deadline=5)
    async def later(tx: Any) -> str:
        return str(tx.isolation)

    assert finish(later()) == "snapshot"
    with pytest.raises(TypeError, match="5"):
        engine.transactional(5)  # type: ignore[call-overload]


def test_transactional_runs_join(engine: TheusEngine) -> None:
    @engine.transactional
    def inner(tx: Any) -> None:
        tx.domain.n += 1

    @engine.transactional
    def outer(tx: Any) -> None:
        inner()
        inner()
        assert tx.domain.n == 2 and engine.version == 1

    outer()
    assert n(engine) == 2
