"""What does compare_and_swap of one key cost?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness import Bar, Contender, Row, main, peer
from stores import SwapStore

from theus import TheusEngine

SIZE = 10_000


def data() -> dict[str, int]:
    return {f"key-{n}": n for n in range(SIZE)}


def row() -> Row:
    nested, by_path, stale = (TheusEngine({"domain": data()}) for _ in range(3))

    def as_dict(count: int) -> None:
        swap, version = nested.compare_and_swap, nested.version
        for value in range(count):
            version = swap(version, {"domain": {"key-7": value}})

    def as_path(count: int) -> None:
        swap, version = by_path.compare_and_swap, by_path.version
        for value in range(count):
            version = swap(version, {("domain", "key-7"): value})

    def merged(count: int) -> None:
        """The version is old, but the key has not changed since: a merge, not a conflict."""
        swap = stale.compare_and_swap
        for value in range(count):
            version = stale.version
            swap(version, {("domain", "key-1"): value})
            swap(version, {("domain", "key-7"): value})

    contenders: dict[str, Contender] = {
        "theus compare_and_swap, path": as_path,
        "theus compare_and_swap, nested dict": as_dict,
        "theus, one fresh and one merged": merged,
    }
    immutables = peer("immutables")
    if immutables is not None:
        store = SwapStore(immutables.Map(data()))

        def theirs(count: int) -> None:
            for value in range(count):
                before = store.root
                after = before.set("key-7", value)
                with store.lock:
                    if store.root is before:
                        store.root = after

        contenders["compare and swap over immutables, with a lock"] = theirs
    return Row(
        f"compare_and_swap of one key of {SIZE:,}",
        contenders,
        (Bar(600), Bar(600, of="theus compare_and_swap, nested dict")),
    )


def rows() -> Iterator[Callable[[], Row]]:
    yield row


if __name__ == "__main__":
    main(__doc__, rows())
