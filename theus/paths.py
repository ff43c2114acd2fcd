r"""Paths: tuples inside, one written form outside.

A path is the tuple of keys that leads from the state to a place. Any hashable key
may be in it, and keys are never interpreted: `("files", "notes.txt", 0)`.

Written, the same path is `files["notes.txt"][0]`:

    path     :=  [first {next}]            the empty text is the whole state
    first    :=  plain | literal
    next     :=  "." plain | literal
    plain    :=  one or more characters; "\" before ".", "[", "]" or "\" takes that
                 character as it is. Always a text key: `a.0` is ("a", "0")
    literal  :=  "[" Python literal "]"    `[0]`, `["a.b"]`, `[(1, "x")]`, `[None]`,
                 `[True]`, `[1.5]`, `[b"raw"]`

`format_path` writes names plainly and everything else in brackets, as errors do,
and `parse_path` gives the same tuple back. Keys that no literal can write (an enum
member, a date) are shown by their repr(), for reading only.

In a contract a plain segment may hold wildcards, see `theus.scope`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from theus.errors import _shown

__all__ = ["Path", "Segment", "as_path", "format_path", "parse_path", "split_path"]

Path = tuple[Any, ...]

_OPENING = "([{"
_CLOSING = ")]}"


class Segment(NamedTuple):
    """One segment of a written path: its key, and how it was written.

    `plain` is False for a bracketed literal, and for a plain segment in which a
    backslash took the meaning from a wildcard.
    """

    key: Hashable
    plain: bool


def parse_path(text: str) -> Path:
    """The tuple that a written path stands for.

    Raises ValueError, with the place and the fix, for text that is no path; and
    TypeError for anything but text.
    """
    if (
        type(text) is str and text.replace(".", "").replace("_", "").isalnum()
    ):  # by far the usual case
        keys = text.split(".")
        if "" not in keys:
            return tuple(keys)
    return tuple(segment.key for segment in split_path(text))


def as_path(path: Path | str) -> Path:
    """`path` itself if it is a tuple, else the tuple that the text stands for."""
    return path if isinstance(path, tuple) else parse_path(path)


def format_path(path: Path) -> str:
    """The written form of a path. `parse_path` reads it back if its keys are literals."""
    if not isinstance(path, tuple):
        raise TypeError(f"a path is a tuple of keys, not {_shown(path)}")
    text = ""
    for key in path:
        if type(key) is str and key.isidentifier():
            text += f".{key}" if text else key
        else:
            text += f"[{key!r}]"
    return text


# ---- reading ----------------------------------------------------------------------


def split_path(text: str) -> list[Segment]:
    """The segments of a written path, each with the way it was written.

    The contracts' reader; everyone else wants `parse_path`, which raises the same.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"a path is written as text or given as a tuple of keys, not {_shown(text)} "
            f"of type {type(text).__name__}"
        )
    segments: list[Segment] = []
    at = 0
    while at < len(text):
        if text[at] == "[":
            end = _end_of_literal(text, at)
            segments.append(Segment(_literal(text, at, end), False))
            at = end + 1
        else:
            segment, at = _plain(text, at)
            segments.append(segment)
        if at < len(text) and text[at] == ".":
            at += 1
            if at == len(text) or text[at] in ".[":
                raise _wrong(text, at, 'a name must follow "."')
        elif at < len(text) and text[at] != "[":
            raise _wrong(text, at, 'after "]" comes ".", "[" or the end')
    return segments


def _plain(text: str, at: int) -> tuple[Segment, int]:
    """The plain segment that begins at `at`, and where it ends."""
    begin, key, plain = at, "", True
    while at < len(text) and text[at] not in ".[":
        if text[at] == "]":
            raise _wrong(text, at, '"]" without "["; a "]" in a name is written "\\]"')
        if text[at] == "\\":
            if text[at + 1 : at + 2] not in (".", "[", "]", "\\", "*", "?"):
                raise _wrong(text, at, 'a "\\" itself is written "\\\\"')
            at += 1
            plain = plain and text[at] not in "*?"
        key += text[at]
        at += 1
    if at == begin:
        raise _wrong(text, at, 'a name is missing before "."; the empty key is written [""]')
    return Segment(key, plain), at


def _end_of_literal(text: str, at: int) -> int:
    """Where the "[" at `at` is closed. Brackets inside quotes do not count."""
    begin, depth, quote = at, 0, ""
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise _wrong(text, begin, 'this "[" is never closed')


def _literal(text: str, begin: int, end: int) -> Hashable:
    """The key between the "[" at `begin` and the "]" at `end`."""
    from ast import literal_eval  # a few milliseconds that only brackets need

    source = text[begin + 1 : end].strip()
    try:
        key = literal_eval(source)
        hash(key)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        hint = f"; a text key is written [{source!r}]" if source.isidentifier() else ""
        raise _wrong(
            text, begin, f'between "[" and "]" stands a hashable Python literal{hint}'
        ) from None
    assert isinstance(key, Hashable)
    return key


def _wrong(text: str, at: int, what: str) -> ValueError:
    return ValueError(f"bad path {text!r}, character {at + 1}: {what}")
