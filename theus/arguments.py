"""Checks of arguments that more than one part makes. `what` says which, and whose, in the error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from theus.errors import _shown

__all__ = ["LONGEST", "check_entries", "check_flag", "check_name", "check_seconds"]

LONGEST = 9e9
"""Seconds that anything here may be given: what fits into the nanoseconds of the clock in C."""


def check_flag(what: str, given: object) -> bool:
    """`given` if it is a bool. "no" and 0 are not taken for one: each would mean what it is not."""
    if not isinstance(given, bool):
        raise TypeError(f"{what} must be True or False, not {_shown(given)}")
    return given


def check_name(what: str, given: object) -> str:
    """`given` if it is a text that is not empty."""
    if not isinstance(given, str):
        raise TypeError(f"{what} must be a text, not {_shown(given)}")
    if not given:
        raise ValueError(f"{what} must be a text of at least one character, not {given!r}")
    return given


def check_seconds(what: str, given: Any, *, zero: bool = False) -> float | None:
    """`given` as a number of seconds that is above 0, or (`zero`) is 0; None for None."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(f"{what} must be a number of seconds, or None, not {_shown(given)}")
    if not (0 < given <= LONGEST or (zero and given == 0)):
        least = "0 or more" if zero else "above 0"
        raise ValueError(
            f"{what} must be a number of seconds {least}, at most {LONGEST:g}, or None for no "
            f"limit, not {_shown(given)}"
        )
    return float(given)


def check_entries(what: str, given: object, each: str) -> Iterable[Any]:
    """`given` if it is a list or the like, and no text; `each` says what its entries are."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"{what} must be a list, each entry {each}, not {_shown(given)}")
    return given
