"""Where older programs import the state's types from."""

from __future__ import annotations

from typing import Any

from theus._theus import FrozenDict, FrozenList, FrozenSet, State
from theus._types import StateUpdate
from theus.errors import ContextError

__all__ = [
    "ContextError",
    "FrozenDict",
    "FrozenList",
    "FrozenSet",
    "FunctionResult",
    "State",
    "StateUpdate",
]


def FunctionResult(val: Any = None, key: str | None = None) -> StateUpdate:
    """An old spelling of `StateUpdate(key, val)`."""
    return StateUpdate(key, val)
