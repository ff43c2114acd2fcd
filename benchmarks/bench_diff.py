"""What do equality and the difference of two versions cost, 10 of 100,000 keys apart?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from harness import Bar, Contender, Row, main, peer

from theus import FrozenDict, TheusEngine

immutables = peer("immutables")

SIZE = 100_000
CHANGED = [f"key-{n}" for n in range(0, SIZE, SIZE // 10)]
LIMIT = Bar(20_000)


def data() -> dict[str, int]:
    return {f"key-{n}": n for n in range(SIZE)}


def changed(a_map: Any, value: Callable[[str], int]) -> Any:
    """The map with ten other values, one `set` after the other."""
    for key in CHANGED:
        a_map = a_map.set(key, value(key))
    return a_map


def equality(one: Any, other: Any, expected: bool) -> Contender:
    assert (one == other) is expected

    def run(count: int) -> None:
        for _ in repeat(None, count):
            one == other  # noqa: B015 - the comparison is the work

    return run


def row_equal() -> Row:
    """Equal content that is not the same object: ten keys written, and written back."""
    contenders = {}
    for name, a_map in both().items():
        back = changed(changed(a_map, lambda key: -1), lambda key: int(key[4:]))
        contenders[name] = equality(a_map, back, True)
    return Row("==, ten keys written and written back", contenders, (LIMIT,))


def row_unequal() -> Row:
    """The peers may stop at the first difference they meet; so may we."""
    contenders = {
        name: equality(a_map, changed(a_map, lambda key: -1), False)
        for name, a_map in both().items()
    }
    return Row("==, ten keys apart", contenders, (LIMIT,))


def both() -> dict[str, Any]:
    found: dict[str, Any] = {"theus.FrozenDict": FrozenDict(data())}
    if immutables is not None:
        found["immutables.Map"] = immutables.Map(data())
    return found


def row_diff() -> Row:
    engine = TheusEngine({"domain": data()})
    before = engine.state
    with engine.transaction() as tx:
        for key in CHANGED:
            tx.set(("domain", key), -1)
    after = engine.state
    assert sorted(change.path[-1] for change in after.diff(before, after)) == sorted(CHANGED)

    def ours(count: int) -> None:
        for _ in repeat(None, count):
            after.diff(before, after)

    contenders: dict[str, Contender] = {"theus State.diff": ours}
    if immutables is not None:
        old = immutables.Map(data())
        new = changed(old, lambda key: -1)
        missing = object()

        def theirs(count: int) -> None:
            for _ in repeat(None, count):
                found = [
                    (key, old.get(key, missing), value)
                    for key, value in new.items()
                    if old.get(key, missing) is not value
                ]
                found += [(key, value, missing) for key, value in old.items() if key not in new]

        contenders["immutables.Map, compared key by key"] = theirs
    return Row("difference of two versions, ten keys apart", contenders, (LIMIT,))


def rows() -> Iterator[Callable[[], Row]]:
    yield row_equal
    yield row_unequal
    yield row_diff


if __name__ == "__main__":
    main(__doc__, rows())
