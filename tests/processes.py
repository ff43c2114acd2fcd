"""What the tests of processes share: one engine, and short ways to declare a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from theus import SemanticType, TheusEngine, process


def small_engine() -> TheusEngine:
    return TheusEngine(
        {
            "domain": {
                "a": 1,
                "b": 2,
                "rows": [{"x": 1}, {"x": 2}],
                "tags": {"red"},
                "user": {"name": "bob", "pin": 1234},
            },
            "global": {"limit": 10},
            "shop": {"stock": 3},
        }
    )


def domain(engine: TheusEngine) -> Any:
    """The root `domain` as builtins."""
    return engine.state["domain"].to_dict()


def pure(*inputs: str, outputs: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    return process(inputs=inputs, outputs=outputs, semantic=SemanticType.PURE)


def effect(*outputs: str, inputs: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    return process(inputs=inputs, outputs=outputs)
