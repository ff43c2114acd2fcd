"""What a declared path covers, with and without wildcards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theus.paths import format_path
from theus.scope import EVERYTHING, ROOT_ALIASES, Scope, is_literal, parse_pattern


def covers(declared: str, *path: Any) -> bool:
    return Scope.of((declared,)).covers(path)


@pytest.mark.parametrize(
    ("declared", "inside", "outside"),
    [
        (
            "domain.users",
            [("domain", "users"), ("domain", "users", "bob", 0)],
            [(), ("domain",), ("domain", "user"), ("domain", "usersx"), ("global", "users")],
        ),
        ("domain", [("domain",), ("domain", 1, "x")], [(), ("global",)]),
        (
            "domain.*.age",
            [("domain", "bob", "age"), ("domain", 7, "age", "x"), ("domain", "*", "age")],
            [("domain",), ("domain", "bob"), ("domain", "bob", "name")],
        ),
        ("domain.*", [("domain", "x"), ("domain", 3), ("domain", None, "y")], [("domain",)]),
        (
            "domain.log_*",
            [("domain", "log_"), ("domain", "log_app", "x")],
            [("domain", "log"), ("domain", "xlog_"), ("domain", 5), ("domain", b"log_")],
        ),
        ("domain.v?", [("domain", "v1")], [("domain", "v"), ("domain", "v12")]),
        (
            "domain.**",
            [("domain", "x"), ("domain", "x", "y")],
            [("domain",), ("global", "x")],
        ),
        (
            "domain.**.total",
            [("domain", "total"), ("domain", "a", "b", "total"), ("domain", "total", "x")],
            [("domain",), ("domain", "a", "b"), ("total",)],
        ),
        (
            "**.a.b",
            [("a", "b"), ("a", "a", "b"), ("x", "a", "b", "c")],
            [("a",), ("a", "x", "b"), ("b",)],
        ),
        ('domain["*"]', [("domain", "*")], [("domain", "x")]),
        (r"domain.\*x", [("domain", "*x")], [("domain", "ax")]),
        ("domain.xs[0]", [("domain", "xs", 0)], [("domain", "xs", 1), ("domain", "xs", "0")]),
        ("global_.x", [("global", "x")], [("global_", "x")]),
        ("domain.global_", [("domain", "global_")], [("domain", "global")]),
    ],
)
def test_covers(declared: str, inside: list[Any], outside: list[Any]) -> None:
    assert [path for path in inside if not covers(declared, *path)] == []
    assert [path for path in outside if covers(declared, *path)] == []


def test_several_declarations_add_up() -> None:
    scope = Scope.of(("domain.a", "domain.b.c", "domain.b.x*"))
    assert scope.covers(("domain", "a", "z"))
    assert scope.covers(("domain", "b", "xy"))
    assert not scope.covers(("domain", "b"))
    assert scope.names == {"domain"}
    domain = scope.step("domain")
    assert domain is not None and domain.names == {"a", "b"}
    assert not domain.whole and not domain.open


def test_open_scopes_let_every_key_be_asked_for() -> None:
    domain = Scope.of(("domain.*.x",)).step("domain")
    assert domain is not None and domain.open and not domain.whole
    assert Scope.of(()).step("domain") is None
    assert EVERYTHING.step("x") is EVERYTHING and EVERYTHING.open and EVERYTHING.names == set()


def test_the_empty_path_declares_nothing() -> None:
    with pytest.raises(ValueError, match="name a root"):
        parse_pattern("")


def test_literal_patterns() -> None:
    assert is_literal(parse_pattern("domain.a[0]['*']"))
    assert not any(is_literal(parse_pattern(text)) for text in ("a.*", "a.b?", "**.a", "a.x*y"))


segments = st.sampled_from(["a", "b", "*", "**", "a*"])
keys = st.sampled_from(["a", "b", "ab", 0])


def matches(pattern: list[str], path: tuple[Any, ...]) -> bool:
    """The definition, as slow and as plain as can be."""
    if not pattern:
        return True
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return matches(pattern[1:], path) or (bool(path) and matches(pattern, path[1:]))
    if not path:
        return False
    key, text = path[0], pattern[0]
    fits = text in ("*", key) or (text == "a*" and isinstance(key, str) and key.startswith("a"))
    return fits and matches(pattern[1:], path[1:])


@given(
    st.lists(st.lists(segments, min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(keys, max_size=5).map(tuple),
)
def test_walking_finds_what_the_definition_says(
    patterns: list[list[str]], path: tuple[Any, ...]
) -> None:
    scope = Scope.of(tuple(".".join(pattern) for pattern in patterns))
    assert scope.covers(path) == any(matches(pattern, path) for pattern in patterns)


@given(st.lists(st.text() | st.integers(), min_size=1, max_size=4).map(tuple))
def test_a_formatted_path_declares_that_place(path: tuple[Any, ...]) -> None:
    text = format_path(path)
    assert is_literal(parse_pattern(text))
    assert Scope.of((text,)).covers((path[0], *path[1:])) or path[0] in ROOT_ALIASES
