"""What does a contract cost at each access, beside dicts of the same shape?

One count is one access inside the body of a process: a run makes a batch of them, so that what
is measured is the guard and not the beginning and the end of the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from harness import Bar, Contender, Row, main

from theus import TheusEngine, process

DICT = "a dict"
BATCH = 2000

Access = Callable[[Any, int], None]


def engine() -> TheusEngine:
    domain = {f"field{n}": n for n in range(200)}
    return TheusEngine({"domain": {**domain, "x": 1, "y": 2, "a": {"b": {"c": 1}}, "seen": 0}})


def under(access: Access, semantic: str, inputs: list[str], outputs: list[str]) -> Contender:
    """Batches of an access, each in a run of a process with this contract."""

    @process(inputs=inputs, outputs=outputs, semantic=semantic)
    def body(ctx: Any, times: int) -> None:
        access(ctx, times)

    run = engine().run_process
    run(body, 1)  # compiles the contract

    def contender(times: int) -> None:
        while times > 0:
            run(body, min(times, BATCH))
            times -= BATCH

    return contender


def plainly(access: Access, given: Any) -> Contender:
    """The same batches without an engine."""

    def contender(times: int) -> None:
        while times > 0:
            access(given, min(times, BATCH))
            times -= BATCH

    return contender


def by_attribute(ctx: Any, times: int) -> None:
    for _ in repeat(None, times):
        ctx.domain.x  # noqa: B018


def by_item(ctx: Any, times: int) -> None:
    for _ in repeat(None, times):
        ctx.domain["x"]


def by_turns(ctx: Any, times: int) -> None:
    domain = ctx.domain
    for _ in repeat(None, times):
        domain["x"]
        domain["y"]


def deep(ctx: Any, times: int) -> None:
    for _ in repeat(None, times):
        ctx.domain.a.b.c  # noqa: B018


def write(ctx: Any, times: int) -> None:
    domain = ctx.domain
    for n in range(times):
        domain["seen"] = n


def read_dict(plain: Any, times: int) -> None:
    for _ in repeat(None, times):
        plain["x"]


def read_dict_by_turns(plain: Any, times: int) -> None:
    for _ in repeat(None, times):
        plain["x"]
        plain["y"]


def read_nested(plain: Any, times: int) -> None:
    for _ in repeat(None, times):
        plain["domain"]["x"]


def write_dict(plain: Any, times: int) -> None:
    for n in range(times):
        plain["seen"] = n


NESTED = "a dict in a dict"
PLAIN = {"x": 1, "y": 2, "seen": 0, "domain": {"x": 1}}
INPUTS = ["domain.x", "domain.y", "domain.a.b.c"]


def row_scalar() -> Row:
    contenders: dict[str, Contender] = {
        "ctx.domain.x, PURE": under(by_attribute, "pure", INPUTS, []),
        "ctx.domain.x, EFFECT": under(by_attribute, "effect", INPUTS, []),
        'ctx.domain["x"], PURE': under(by_item, "pure", INPUTS, []),
        'ctx.domain["x"], EFFECT': under(by_item, "effect", INPUTS, []),
        DICT: plainly(read_dict, PLAIN),
        NESTED: plainly(read_nested, PLAIN),
    }
    bars = tuple(Bar(3, DICT, of=name) for name in list(contenders)[:4])
    return Row("a guarded scalar read", contenders, bars)


def row_by_turns() -> Row:
    """A draft remembers what it read last: here that is never what is read next."""
    contenders: dict[str, Contender] = {
        'domain["x"], domain["y"], PURE': under(by_turns, "pure", INPUTS, []),
        'domain["x"], domain["y"], EFFECT': under(by_turns, "effect", INPUTS, []),
        DICT: plainly(read_dict_by_turns, PLAIN),
    }
    bars = tuple(Bar(3, DICT, of=name) for name in list(contenders)[:2])
    return Row("guarded scalar reads of two fields by turns", contenders, bars, per=2)


def row_deep() -> Row:
    contenders: dict[str, Contender] = {
        "ctx.domain.a.b.c, PURE": under(deep, "pure", INPUTS, []),
        "ctx.domain.a.b.c, EFFECT": under(deep, "effect", INPUTS, []),
        DICT: plainly(read_dict, PLAIN),
    }
    return Row(
        "three levels deep",
        contenders,
        tuple(Bar(8, DICT, of=name) for name in list(contenders)[:2]),
    )


def row_write() -> Row:
    contenders: dict[str, Contender] = {
        "draft, declared by its field": under(write, "effect", [], ["domain.seen"]),
        "draft, declared as a whole": under(write, "effect", [], ["domain"]),
        DICT: plainly(write_dict, {"seen": 0}),
    }
    return Row(
        "a draft write of an existing key",
        contenders,
        tuple(Bar(6, DICT, of=name) for name in list(contenders)[:2]),
    )


def row_paths() -> Row:
    many = [f"domain.field{n}" for n in range(197)]
    two = "a contract of 2 paths"
    contenders: dict[str, Contender] = {
        "a contract of 200 paths": under(by_turns, "pure", [*INPUTS, *many], []),
        two: under(by_turns, "pure", ["domain.x", "domain.y"], []),
    }
    return Row("the number of declared paths", contenders, (Bar(1.2, two),), per=2)


def rows() -> Iterator[Callable[[], Row]]:
    yield row_scalar
    yield row_by_turns
    yield row_deep
    yield row_write
    yield row_paths


if __name__ == "__main__":
    main(__doc__, rows())
