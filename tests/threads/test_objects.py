"""Records in eight threads: one class met for the first time, one view, one record written."""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from helpers import run_threads
from theus import FrozenDict, RecordError, TheusEngine

THREADS = 8
ROUNDS = 100


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads change every few bytecodes, on builds where that can be asked for."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@dataclass
class Purse:
    """No more than 100 in all, whoever puts it in."""

    coins: dict[int, int] = field(default_factory=dict)
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = self.a + self.b + self.c + self.d
        if self.total > 100:
            raise ValueError("too much")


def test_writers_of_different_fields_keep_the_word_of_the_class() -> None:
    engine = TheusEngine({"domain": {"it": Purse()}})
    put = [0] * THREADS
    refused = [0] * THREADS

    def work(number: int) -> None:
        name = "abcd"[number % 4]

        def body(tx: Any) -> None:
            it = tx.domain.it
            setattr(it, name, getattr(it, name) + 1)
            it.coins[number] = it.coins.get(number, 0) + 1

        for _ in range(25):
            try:
                engine.run(body)
                put[number] += 1
            except RecordError as error:
                assert error.path == ("domain", "it")
                refused[number] += 1

    run_threads(THREADS, work)
    it = engine.state["domain"]["it"]
    assert it.a + it.b + it.c + it.d == it.total == sum(put) == 100
    assert {number: count for number, count in it.coins.items() if count} == {
        number: count for number, count in enumerate(put) if count
    }
    assert sum(put) + sum(refused) == 25 * THREADS and engine.version == 101


def test_a_class_that_all_threads_meet_at_once() -> None:
    for _ in range(10):
        cls = dataclasses.make_dataclass("Met", [("x", int)], namespace={"double": double})
        made: list[Any] = []

        def work(number: int, cls: Any = cls, made: list[Any] = made) -> None:
            frozen = FrozenDict(a=cls(number), b=[cls(number)])
            assert (
                frozen["a"] == frozen["b"][0] == cls(number) and frozen["a"].double() == number * 2
            )
            made.append(frozen)

        run_threads(THREADS, work)
        assert sorted(each["a"].x for each in made) == list(range(THREADS))
        again = FrozenDict(all=[each["a"] for each in made])
        assert all(isinstance(each, cls) for each in again["all"])
        gc.collect()


def double(self: Any) -> Any:
    return self.x * 2


def test_one_view_is_read_while_the_record_is_written() -> None:
    engine = TheusEngine({"domain": {"it": Purse()}})

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            if number % 4 == 0:
                engine.run(lambda tx: setattr(tx.domain.it, "a", (tx.domain.it.a + 1) % 50))
                continue
            it = engine.state["domain"]["it"]
            assert it.total == it.a and it == it.to_object() and "Purse" in repr(it)
            assert isinstance(it, Purse) and it.to_object().total == it.a

    run_threads(THREADS, work)
    assert engine.state["domain"]["it"].a == (2 * ROUNDS) % 50
