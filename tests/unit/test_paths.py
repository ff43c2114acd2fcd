"""The written form of paths: one grammar, read and written without loss."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theus.paths import as_path, format_path, parse_path, split_path

keys: st.SearchStrategy[Any] = st.recursive(
    st.text()
    | st.integers()
    | st.booleans()
    | st.none()
    | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
paths = st.lists(keys, max_size=5).map(tuple)


# ---- reading ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ()),
        ("domain", ("domain",)),
        ("domain.users", ("domain", "users")),
        ("domain.xs[0]", ("domain", "xs", 0)),
        ("domain.xs[-1]", ("domain", "xs", -1)),
        ('files["notes.txt"].size', ("files", "notes.txt", "size")),
        ("a['b']['c']", ("a", "b", "c")),
        ("[0]", (0,)),
        ("['a b'].c", ("a b", "c")),
        ("a[(1, 'x')]", ("a", (1, "x"))),
        ("a[None][True][1.5][b'raw']", ("a", None, True, 1.5, b"raw")),
        ('a["]["]', ("a", "][")),
        ("a['it\\'s']", ("a", "it's")),
        ("a[ 7 ]", ("a", 7)),
        # A plain segment is always a text key.
        ("domain.0", ("domain", "0")),
        ("domain.None", ("domain", "None")),
        ("domain.user-1.första namn", ("domain", "user-1", "första namn")),
        (" a . b ", (" a ", " b ")),
        # Escapes.
        (r"files.notes\.txt", ("files", "notes.txt")),
        (r"a\[0\].b", ("a[0]", "b")),
        (r"c:\\dir.x", ("c:\\dir", "x")),
        (r"a.\*", ("a", "*")),
        ("a.*", ("a", "*")),
    ],
)
def test_parse(text: str, path: tuple[Any, ...]) -> None:
    parsed = parse_path(text)
    assert parsed == path
    assert list(map(type, parsed)) == list(map(type, path)), "1, True and 1.0 are told apart"


@pytest.mark.parametrize(
    ("text", "character", "hint"),
    [
        (".a", 1, "[" + '""]'),
        ("a.", 3, "name must follow"),
        ("a..b", 3, "name must follow"),
        ("a.[0]", 3, "name must follow"),
        ("a[0]b", 5, 'after "]"'),
        ("a]b", 2, '"]" without "["'),
        ("a[0", 2, "never closed"),
        ("a['b]", 2, "never closed"),
        ("a[b]", 2, "['b']"),
        ("a[]", 2, "literal"),
        ("a[1+]", 2, "literal"),
        ("a[[1]]", 2, "hashable"),
        ("a[{}]", 2, "hashable"),
        ("a[f()]", 2, "literal"),
        (r"a\b", 2, "\\\\"),
        ("a\\", 2, "\\\\"),
    ],
)
def test_what_is_no_path(text: str, character: int, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_path(text)
    message = str(caught.value)
    assert repr(text) in message and hint in message
    assert f"character {character}:" in message


@pytest.mark.parametrize("value", [None, 3, ("a",), ["a"], b"a"])
def test_only_text_is_parsed(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        parse_path(value)
    assert repr(value) in str(caught.value)


def test_deep_literals_are_refused_not_fatal() -> None:
    with pytest.raises(ValueError):
        parse_path("a[" + "(" * 5000 + ")" * 5000 + "]")


def test_as_path() -> None:
    path = ("a", 1)
    assert as_path(path) is path
    assert as_path("a[1]") == path


def test_segments_know_how_they_were_written() -> None:
    assert [segment.plain for segment in split_path(r"a.*.\*['*']")] == [True, True, False, False]


# ---- writing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("domain", "users", 0), "domain.users[0]"),
        (("domain", "a.b", "c"), "domain['a.b'].c"),
        ((0, "x"), "[0].x"),
        (("user-1",), "['user-1']"),
        (("", "*"), "['']['*']"),
        (("a", (1, "b"), None, True), "a[(1, 'b')][None][True]"),
        (("día",), "día"),
    ],
)
def test_format(path: tuple[Any, ...], text: str) -> None:
    assert format_path(path) == text


def test_other_keys_are_shown_by_their_repr() -> None:
    assert format_path(("due", date(2026, 1, 2))) == "due[datetime.date(2026, 1, 2)]"


def test_only_tuples_are_formatted() -> None:
    with pytest.raises(TypeError, match="tuple"):
        format_path("domain.x")  # type: ignore[arg-type]


@given(paths)
def test_what_is_written_is_read_back(path: tuple[Any, ...]) -> None:
    again = parse_path(format_path(path))
    assert again == path
    assert repr(again) == repr(path), "also True and 1, and 0.0 and -0.0"


@given(st.text(alphabet="ab.[]\\'\"0*? (", max_size=12))
def test_any_text_is_a_path_or_a_value_error(text: str) -> None:
    try:
        path = parse_path(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert parse_path(format_path(path)) == path


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_escaping_makes_any_key_a_plain_segment(names: list[str]) -> None:
    def escaped(name: str) -> str:
        return "".join("\\" + char if char in ".[]\\" else char for char in name)

    assert parse_path(".".join(map(escaped, names))) == tuple(names)
