"""What does a dataclass or Pydantic instance in a state cost beside a dict with the same keys?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any

from harness import Bar, Contender, Row, main, peer

from theus import TheusEngine

BAR = 1.5
TIMES = 1000


@dataclass
class Order:
    number: int = 1
    total: float = 2.5
    note: str = "none"
    open: bool = True

    def twice(self) -> float:
        return self.total * 2


def engine() -> TheusEngine:
    content: dict[str, Any] = {"record": Order(), "dict": asdict(Order())}
    pydantic = peer("pydantic")
    if pydantic is not None:
        content["model"] = pydantic.create_model(
            "Model", number=(int, 1), total=(float, 2.5), note=(str, "none"), open=(bool, True)
        )()
    return TheusEngine({"domain": content})


def reading(it: Any) -> Contender:
    many = [it] * TIMES

    def run(count: int) -> None:
        for _ in repeat(None, count):
            for each in many:
                each.total  # noqa: B018

    return run


def reading_items(it: Any) -> Contender:
    many = [it] * TIMES

    def run(count: int) -> None:
        for _ in repeat(None, count):
            for each in many:
                each["total"]

    return run


def read_row() -> Row:
    domain = engine().state["domain"]
    contenders = {
        "record.total": reading(domain["record"]),
        "dict.total": reading(domain["dict"]),
        'dict["total"]': reading_items(domain["dict"]),
        "the instance itself": reading(Order()),
    }
    if "model" in domain:
        contenders["model.total"] = reading(domain["model"])
    return Row(
        "read a field of a view",
        contenders,
        (Bar(BAR, "dict.total"), Bar(BAR, 'dict["total"]')),
        per=TIMES,
    )


def open_row() -> Row:
    domain = engine().state["domain"]

    def opening(key: str) -> Contender:
        def run(count: int) -> None:
            for _ in repeat(None, count):
                domain[key].total  # noqa: B018

        return run

    return Row(
        "get the view and read one field of it",
        {"record": opening("record"), "dict": opening("dict")},
        (Bar(BAR, "dict"),),
    )


def method_row() -> Row:
    it = engine().state["domain"]["record"]
    instance = Order()

    def calling(it: Any) -> Contender:
        def run(count: int) -> None:
            for _ in repeat(None, count):
                it.twice()

        return run

    return Row(
        "call a method that reads a field",
        {"record": calling(it), "the instance itself": calling(instance)},
    )


def writing(key: str, *, attribute: bool) -> Contender:
    """Writes in one open transaction, of which each lot begins a new one."""
    shop = engine()

    def attributes(tx: Any) -> None:
        it = tx.domain[key]
        for value in range(TIMES):
            it.number = value

    def items(tx: Any) -> None:
        it = tx.domain[key]
        for value in range(TIMES):
            it["number"] = value

    def run(count: int) -> None:
        for _ in repeat(None, count):
            shop.run(attributes if attribute else items)

    return run


def write_row() -> Row:
    return Row(
        "write a field of a draft",
        {
            "record.number = x": writing("record", attribute=True),
            "dict.number = x": writing("dict", attribute=True),
            'dict["number"] = x': writing("dict", attribute=False),
        },
        (Bar(BAR, "dict.number = x"), Bar(BAR, 'dict["number"] = x')),
        per=TIMES,
    )


def committing(key: str) -> Contender:
    shop = engine()

    def body(tx: Any, value: int) -> None:
        tx.domain[key].number = value

    def run(count: int) -> None:
        for value in range(count):
            shop.run(body, value)

    return run


def commit_row() -> Row:
    contenders = {"record": committing("record"), "dict": committing("dict")}
    if peer("pydantic") is not None:
        contenders["model, validated"] = committing("model")
    return Row("a transaction that writes one field", contenders, (Bar(BAR, "dict"),))


def rows() -> Iterator[Callable[[], Row]]:
    yield from (read_row, open_row, method_row, write_row, commit_row)


if __name__ == "__main__":
    main(__doc__, rows())
