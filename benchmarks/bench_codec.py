"""What does it cost to make bytes of values, and values of bytes, as workers get them?"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from harness import Bar, Contender, Row, main

from theus.pools.codec import dumps, loads

VALUES: dict[str, Any] = {
    "the arguments of a call": (("abc", 5, 2.5), {"mode": "fast", "n": 10}),
    "1 000 rows": [
        {"id": n, "name": f"user{n}", "score": n / 2, "tags": ["a"]} for n in range(1000)
    ],
    "10 000 floats": [n / 2 for n in range(10_000)],
}


def codec(write: bool, name: str) -> Row:
    value = VALUES[name]

    def repeat(work: Callable[[Any], Any], of: Any) -> Contender:
        def contender(times: int) -> None:
            for _ in range(times):
                work(of)

        return contender

    theirs = partial(pickle.dumps, protocol=5) if write else pickle.loads
    given = (value, value) if write else (dumps(value), pickle.dumps(value, 5))
    return Row(
        f"{name} {'to' if write else 'from'} bytes",
        {"theus": repeat(dumps if write else loads, given[0]), "pickle": repeat(theirs, given[1])},
        (Bar(1.0, "pickle"),),
    )


def rows() -> Iterator[Callable[[], Row]]:
    for name in VALUES:
        yield partial(codec, True, name)
        yield partial(codec, False, name)


if __name__ == "__main__":
    main(__doc__, rows())
