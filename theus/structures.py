"""Where older programs import the state's types from."""

from __future__ import annotations

from theus._theus import FrozenDict, FrozenList, FrozenSet, State
from theus._types import StateUpdate
from theus.errors import ContextError

__all__ = ["ContextError", "FrozenDict", "FrozenList", "FrozenSet", "State", "StateUpdate"]
