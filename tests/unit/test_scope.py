"""What a declared path covers, with and without wildcards."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theus import TheusEngine, process
from theus.errors import ContractViolationError
from theus.paths import format_path
from theus.scope import EVERYTHING, ROOT_ALIASES, Scope, is_literal, parse_pattern


def scope_of(*declared: str) -> Scope:
    return Scope(map(parse_pattern, declared))


def covers(declared: str, *path: Any) -> bool:
    return scope_of(declared).reads(path)


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
    scope = scope_of("domain.a", "domain.b.c", "domain.b.x*")
    assert scope.reads(("domain", "a", "z"))
    assert scope.reads(("domain", "b", "xy"))
    assert not scope.reads(("domain", "b"))
    assert scope.names == {"domain"}
    domain = scope.step("domain")
    assert domain is not None and domain.names == {"a", "b"}
    assert not domain.open


def test_rights_add_up() -> None:
    patterns = [parse_pattern(text) for text in ("domain.users", "domain.users.*.age")]
    scope = Scope(patterns[:1], patterns[1:])
    assert scope.reads(("domain", "users", "bob", "age"))
    assert scope.writes(("domain", "users", "bob", "age", 0))
    assert not scope.writes(("domain", "users", "bob", "name"))
    assert not scope.writes(("domain", "users")) and not scope.reads(("domain",))
    assert not Scope((), patterns[1:]).reads(("domain", "users", "bob", "age"))
    assert Scope((EVERYTHING,)).reads(()) and not Scope((EVERYTHING,)).writes(())


def test_equal_scopes_are_one() -> None:
    """So the scopes below "**" are finite, however deep the walk; a root has one of its own."""
    scope = scope_of("**.a.b")
    seen = set()
    for depth in range(100):
        below = scope.step("a" if depth % 3 else "x")
        assert below is not None
        seen.add(id(below))
        scope = below
    assert len(seen) == 3


def test_a_key_that_equals_every_other_poisons_nothing() -> None:
    class Liar(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return True

    scope = scope_of("domain.a.x", "domain.b.y").step("domain")
    assert scope is not None
    scope.step(Liar("a"))
    assert scope.step("a").names == {"x"}  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        scope.step([])


class Turning:
    """Is one key after the other, at each comparison that succeeds."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def __hash__(self) -> int:
        return hash(self.names[0])

    def __eq__(self, other: object) -> bool:
        equal = other == self.names[0]
        if equal and len(self.names) > 1:
            self.names.pop(0)
        return equal


def test_a_key_that_is_another_one_for_the_state() -> None:
    """A key with an == of its own was declared for the guard, and a secret one for the search."""
    found: list[object] = []

    @process(inputs=["domain.open"], outputs=["domain.count"])
    def spy(ctx: Any) -> None:
        for path in (("domain", Turning("open", "secret")), (Turning("domain", "other"), "open")):
            try:
                found.append(ctx.transaction.get(path))
            except ContractViolationError:
                pass
        for name in ("domain", "other"):
            with pytest.raises(ContractViolationError):
                ctx[Turning("domain", name)]

    engine = TheusEngine(
        context={"domain": {"open": 1, "secret": 2, "count": 0}, "other": {"open": 3}}
    )
    engine.run_process(spy)
    assert found == []


def test_keys_that_compare_as_builtins_are_declared_ones() -> None:
    class Name(str, Enum):
        A = "a"

    class Number(IntEnum):
        ONE = 1

    scope = scope_of("domain.a", "domain[1]", "domain[(1, ('x', None))]").step("domain")
    assert scope is not None
    for key in ("a", Name.A, 1, Number.ONE, 1.0, (1, ("x", None))):
        assert scope.step(key) is not None
    for other in ("b", 2, (1, ("x", 2)), Turning("a"), (1, Turning("x"))):
        assert scope.step(other) is None


def test_what_a_scope_is_made_of_is_checked() -> None:
    with pytest.raises(TypeError, match="tuple"):
        Scope(["domain.a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="tuple"):
        scope_of("domain").reads("domain")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Scope(5)  # type: ignore[arg-type]


def test_open_scopes_let_every_key_be_asked_for() -> None:
    domain = scope_of("domain.*.x").step("domain")
    assert domain is not None and domain.open and not domain.reads(())
    assert scope_of().step("domain") is None
    everything = Scope((EVERYTHING,))
    root = everything.step("x")
    assert root is not None
    field = root.step("y")
    assert field is not None and field.step("z") is field and field.open and not field.names
    assert everything.open and everything.reads(()) and everything.names == set()


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
    scope = scope_of(*(".".join(pattern) for pattern in patterns))
    assert scope.reads(path) == any(matches(pattern, path) for pattern in patterns)


@given(st.lists(st.text() | st.integers(), min_size=1, max_size=4).map(tuple))
def test_a_formatted_path_declares_that_place(path: tuple[Any, ...]) -> None:
    text = format_path(path)
    assert is_literal(parse_pattern(text))
    assert scope_of(text).reads(path) or path[0] in ROOT_ALIASES
