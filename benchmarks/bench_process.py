"""What does run_process add to the bare call of a PURE process with one input and one output?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Any

from harness import Bar, Contender, Row, main

from theus import SemanticType, TheusEngine, process

BARE = "the bare call"


@process(inputs=["domain.price"], outputs=["domain.total"], semantic=SemanticType.PURE)
def total(ctx: Any) -> int:
    """Reads one number, returns another."""
    return ctx.domain.price * 3  # type: ignore[no-any-return]


@process(inputs=["domain.price"], outputs=["domain.seen"])
def count(ctx: Any) -> None:
    """Reads one number, writes another through a draft."""
    ctx.domain["seen"] = ctx.domain.price


def row_pure() -> Row:
    """The total changes from one call to the next, so that each call commits."""
    engine = TheusEngine({"domain": {"price": 14, "total": 0}})
    changing = TheusEngine({"domain": {"price": 14, "total": 0}})
    other = SimpleNamespace(domain=SimpleNamespace(price=14))
    tick = iter(range(1 << 62))

    @process(inputs=["domain.price"], outputs=["domain.total"], semantic=SemanticType.PURE)
    def fresh_total(ctx: Any) -> int:
        return ctx.domain.price + next(tick)  # type: ignore[no-any-return]

    def ours(times: int) -> None:
        run = changing.run_process
        for _ in repeat(None, times):
            run(fresh_total)

    def ours_by_name(times: int) -> None:
        changing.register(fresh_total)
        run = changing.run_process
        for _ in repeat(None, times):
            run("fresh_total")

    def unchanged(times: int) -> None:
        run = engine.run_process
        for _ in repeat(None, times):
            run(total)

    def bare(times: int) -> None:
        for _ in repeat(None, times):
            fresh_total(other)

    contenders: dict[str, Contender] = {
        "theus run_process, a new total": ours,
        "theus run_process by name, a new total": ours_by_name,
        "theus run_process, the same total": unchanged,
        BARE: bare,
    }
    return Row(
        "a PURE process with one input and one output", contenders, (Bar(2_000, beyond=BARE),)
    )


def row_effect() -> Row:
    engine = TheusEngine({"domain": {"price": 14, "seen": 0}})
    other = SimpleNamespace(domain=Domain(price=14))

    def ours(times: int) -> None:
        run = engine.run_process
        for _ in repeat(None, times):
            run(count)

    def bare(times: int) -> None:
        for _ in repeat(None, times):
            count(other)

    return Row(
        "an EFFECT process with one input and one output", {"theus run_process": ours, BARE: bare}
    )


class Domain(dict[str, int]):
    """The least that the bare call of `count` needs in the place of a context."""

    __getattr__ = dict.__getitem__


def rows() -> Iterator[Callable[[], Row]]:
    yield row_pure
    yield row_effect


if __name__ == "__main__":
    main(__doc__, rows())
