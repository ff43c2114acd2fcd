"""Handing values of a state to other libraries."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from theus._theus import (
    DraftDict,
    DraftList,
    DraftSet,
    FrozenDict,
    FrozenList,
    FrozenSet,
    State,
    is_record,
    thaw,
)

if TYPE_CHECKING:
    from theus.encoder import TheusEncoder

__all__ = ["TheusEncoder", "get_pydantic_config", "json_default"]


def __getattr__(name: str) -> Any:
    if name == "TheusEncoder":
        from theus.encoder import TheusEncoder  # it loads json

        return TheusEncoder
    raise AttributeError(f"module 'theus.interop' has no attribute {name!r}", name=name)


def get_pydantic_config() -> dict[str, Any]:
    """Settings for a Pydantic model that is to validate views and drafts of records."""
    return {"from_attributes": True}


def json_default(value: Any) -> Any:
    """A `default=` for `json.dumps`, which then takes frozen containers, drafts and states.

    A set becomes a list, in its own order; a record what `model_dump(mode="json")` gives of a
    Pydantic model, and the fields of a dataclass. Raises TypeError for everything else, as
    `json.dumps` expects of a default.
    """
    # One level at a time: json.dumps comes back for the containers inside.
    if isinstance(value, (FrozenDict, DraftDict)):
        return {key: value[key] for key in value}
    if isinstance(value, State):
        return dict(value.data)
    if isinstance(value, (FrozenList, DraftList, FrozenSet, DraftSet, set, frozenset)):
        return list(value)
    if is_record(value):
        if hasattr(value, "__pydantic_fields_set__"):
            return thaw(value).model_dump(mode="json")
        fields = sys.modules["dataclasses"].fields(value)  # loaded, where there is an instance
        names = [field.name for field in fields if hasattr(value, field.name)]
        return {name: getattr(value, name) for name in names}
    raise TypeError(f"{value!r} of type {type(value).__name__} has no form in JSON")
