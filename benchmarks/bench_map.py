"""How fast are get, set, iterate and build of FrozenDict beside dict and other persistent maps?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

from harness import Bar, Contender, Row, main, peer

from theus import FrozenDict

immutables = peer("immutables")
pyrsistent = peer("pyrsistent")

SAMPLE = 1000
"""Keys to go round in: few enough to stay in the cache, so the map is measured and not the RAM."""


def data(size: int) -> dict[str, int]:
    return {f"key-{n}": n for n in range(size)}


def sample(size: int) -> list[str]:
    return [f"key-{n}" for n in random.Random(7).sample(range(size), min(size, SAMPLE))]


def persistent(source: dict[str, int]) -> dict[str, Any]:
    """The same content in every kind of persistent map that is installed."""
    found: dict[str, Any] = {"theus.FrozenDict": FrozenDict(source)}
    if immutables is not None:
        found["immutables.Map"] = immutables.Map(source)
    if pyrsistent is not None and len(source) < 1_000_000:  # it is slow to build
        found["pyrsistent.pmap"] = pyrsistent.pmap(source)
    return found


def maps(source: dict[str, int]) -> dict[str, Any]:
    """Those, and the dict itself."""
    return {**persistent(source), "dict": source}


def row_getitem(size: int) -> Row:
    keys = sample(size)

    def contender(a_map: Any) -> Contender:
        def run(count: int) -> None:
            for _ in repeat(None, count):
                for key in keys:
                    a_map[key]

        return run

    return Row(
        f"map[key], {size:,} keys",
        {name: contender(a_map) for name, a_map in maps(data(size)).items()},
        (Bar(1.3, "dict"),),
        per=len(keys),
    )


def row_get(size: int) -> Row:
    keys = sample(size)

    def contender(a_map: Any) -> Contender:
        def run(count: int) -> None:
            for _ in repeat(None, count):
                for key in keys:
                    a_map.get(key)

        return run

    return Row(
        f"map.get(key), {size:,} keys",
        {name: contender(a_map) for name, a_map in maps(data(size)).items()},
        (Bar(1.3, "dict"),),
        per=len(keys),
    )


def row_set(size: int) -> Row:
    keys = sample(size)

    def contender(a_map: Any) -> Contender:
        def run(count: int) -> None:
            change = a_map.set
            for _ in repeat(None, count):
                for key in keys:
                    change(key, None)

        return run

    return Row(
        f"set of an existing key, {size:,} keys",
        {name: contender(a_map) for name, a_map in persistent(data(size)).items()},
        (Bar(0.6, "immutables.Map"),),
        per=len(keys),
    )


def row_add(size: int) -> Row:
    keys = [f"new-{n}" for n in range(SAMPLE)]

    def contender(a_map: Any) -> Contender:
        def run(count: int) -> None:
            for _ in repeat(None, count):
                grown = a_map
                for key in keys:
                    grown = grown.set(key, None)

        return run

    return Row(
        f"set of a new key, {size:,} keys",
        {name: contender(a_map) for name, a_map in persistent(data(size)).items()},
        (Bar(0.6, "immutables.Map"),),
        per=SAMPLE,
    )


def row_iterate(size: int, what: str) -> Row:
    def contender(a_map: Any) -> Contender:
        def keys(count: int) -> None:
            for _ in repeat(None, count):
                for _key in a_map:
                    pass

        def items(count: int) -> None:
            for _ in repeat(None, count):
                for _key, _value in a_map.items():
                    pass

        return keys if what == "keys" else items

    return Row(
        f"iterate {what}, {size:,} keys",
        {name: contender(a_map) for name, a_map in maps(data(size)).items()},
        (Bar(0.6, "immutables.Map"),),
        per=size,
    )


def row_build(size: int) -> Row:
    source = data(size)

    def contender(build: Callable[[dict[str, int]], object]) -> Contender:
        def run(count: int) -> None:
            for _ in repeat(None, count):
                build(source)

        return run

    builders: dict[str, Callable[[dict[str, int]], object]] = {
        "theus.FrozenDict": FrozenDict,
        "dict": dict,
    }
    if immutables is not None:
        builders["immutables.Map"] = immutables.Map
    if pyrsistent is not None:
        builders["pyrsistent.pmap"] = pyrsistent.pmap
    return Row(
        f"build from a dict, {size:,} keys",
        {name: contender(build) for name, build in builders.items()},
        (Bar(0.6, "immutables.Map"),),
        per=size,
    )


def rows() -> Iterator[Callable[[], Row]]:
    for size in (10, 1_000, 10_000, 100_000):
        yield partial(row_getitem, size)
    for size in (10_000, 100_000):
        yield partial(row_get, size)
    for size in (1_000, 10_000, 100_000, 1_000_000):
        yield partial(row_set, size)
    yield partial(row_add, 100_000)
    for size in (1_000, 100_000, 1_000_000):
        yield partial(row_iterate, size, "keys")
    yield partial(row_iterate, 100_000, "items")
    for size in (1_000, 100_000):
        yield partial(row_build, size)


if __name__ == "__main__":
    main(__doc__, rows())
