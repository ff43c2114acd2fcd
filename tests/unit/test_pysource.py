"""The half of the code map that reads source: files, names, complexity, imports."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from theus.examples import pysource
from theus.examples.pysource import (
    Import,
    Module,
    Problem,
    Source,
    find_sources,
    parse_source,
    read_source,
    resolve_imports,
)

not_as_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything"
)


@pytest.fixture(autouse=True)
def quiet_parser() -> Iterator[None]:
    """Callers of the parser silence it; the suite turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parsed(source: str) -> Module:
    module = parse_source("m.py", source.encode())
    assert isinstance(module, Module), module
    return module


def problem(data: bytes) -> Problem:
    found = parse_source("m.py", data)
    assert isinstance(found, Problem), found
    return found


def complexity(body: str) -> int:
    """Of a function with this body, one statement to a line."""
    module = parsed("def f(x):\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    return module.functions[0].complexity


# ---- complexity ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return x", 1),
        ("if x: pass", 2),
        ("if x: pass\nelse: pass", 2),
        ("if x: pass\nelif x: pass\nelse: pass", 3),
        ("return 1 if x else 2", 2),
        ("for i in x: pass\nelse: pass", 2),
        ("while x: pass", 2),
        ("try: pass\nexcept A: pass\nexcept B: pass\nfinally: pass", 3),
        ("with x: assert x", 1),
        ("return a and b and c", 3),
        ("return a and (b or c)", 3),
        ("return [i for i in x]", 2),
        ("return {i: j for i in x for j in i if j if i}", 5),
        ("match x:\n case 1: pass\n case 2: pass", 3),
        ("match x:\n case 1: pass\n case _: pass", 2),
        ("match x:\n case 1: pass\n case _ if x: pass", 3),
        ("return lambda y: 1 if y else 2", 2),
        ("return f'{1 if x else 2}'", 2),
    ],
)
def test_complexity_counts_decisions(body: str, expected: int) -> None:
    assert complexity(body) == expected


def test_async_code_counts_like_the_rest() -> None:
    module = parsed("async def f(x):\n async for i in x:\n  pass\n return [i async for i in x]\n")
    assert module.functions[0].complexity == 3


def test_a_nested_function_counts_for_itself() -> None:
    module = parsed(
        "def outer(x):\n"
        "    if x: pass\n"
        "    def inner(y=1 if 2 else 3):\n"  # a default belongs to the function around it
        "        while y: pass\n"
        "    class Local:\n"
        "        flag = x or 1\n"  # so does the body of a class
        "        def method(self): return 1 if self else 2\n"
    )
    assert [(f.name, f.line, f.complexity) for f in module.functions] == [
        ("outer", 1, 4),
        ("outer.inner", 3, 2),
        ("outer.Local.method", 7, 2),
    ]
    assert module.classes == ("outer.Local",)


def test_decisions_outside_of_functions_count_nowhere() -> None:
    module = parsed("if 1: pass\n@(a or b)\ndef f(): pass\nclass C(a or b): pass\n")
    assert [(f.name, f.complexity) for f in module.functions] == [("f", 1)]


def test_functions_and_classes_stand_in_the_order_of_the_file() -> None:
    module = parsed("class B:\n def g(self): pass\n class A: pass\ndef f(): pass\nclass C: pass\n")
    assert [f.name for f in module.functions] == ["B.g", "f"]
    assert module.classes == ("B", "B.A", "C")


@pytest.mark.parametrize(
    ("data", "lines"), [(b"", 0), (b"x", 1), (b"x\n", 1), (b"x\n\ny", 3), (b"x = '''\n\n'''\n", 3)]
)
def test_lines_are_counted_with_and_without_a_last_newline(data: bytes, lines: int) -> None:
    module = parse_source("m.py", data)
    assert isinstance(module, Module)
    assert module.lines == lines


# ---- files that are no Python --------------------------------------------------------


def test_a_syntax_error_is_a_problem_with_its_line() -> None:
    assert problem(b"x = 1\ndef f(:\n").line == 2


@pytest.mark.parametrize(
    "data",
    [
        b"x = '\0'\n",
        b"# -*- coding: uft-8 -*-\n",
        b"x = '\xff'\n",
        b"\xef\xbb\xbf# coding: latin-1\n",
        b"(" * 100_000,
        b"-" * 100_000 + b"1",
        b"a" + b"+a" * 100_000,
        b"a" + b".b" * 100_000,
        b"".join(b" " * depth + b"if 1:\n" for depth in range(150)),
    ],
)
def test_whatever_a_file_holds_is_a_problem_at_most(data: bytes) -> None:
    found = parse_source("m.py", data)
    assert isinstance(found, Module) or found.reason


@pytest.mark.parametrize("data", [b"\0", b"# coding: uft-8\n", b"x = '\xff'\n", b"(" * 100_000])
def test_the_reason_is_a_sentence(data: bytes) -> None:
    found = problem(data)
    assert found.path == "m.py"
    assert len(found.reason) > 5


def test_other_encodings_and_marks_are_read() -> None:
    latin = "# coding: latin-1\nx = 'ä'\n".encode("latin-1")
    assert isinstance(parse_source("m.py", latin), Module)
    assert isinstance(parse_source("m.py", b"\xef\xbb\xbfx = 1\n"), Module)


def test_deep_code_that_parses_is_walked_without_recursion() -> None:
    depth = 90
    source = "".join(" " * n + f"def f{n}():\n" for n in range(depth)) + " " * depth + "pass\n"
    assert len(parsed(source).functions) == depth


# ---- files and their names ----------------------------------------------------------


def write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    return root


def names(root: Path) -> dict[str, str]:
    problems: list[Problem] = []
    found = {source.name: source.path for source in find_sources(root, problems)}
    assert problems == []
    return found


def test_modules_are_named_as_they_are_imported(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "p/__init__.py", "p/m.py", "p/q/__init__.py", "ns/x.py", "README.md")
    assert names(tmp_path) == {
        "a": "a.py",
        "p": "p/__init__.py",
        "p.m": "p/m.py",
        "p.q": "p/q/__init__.py",
        "ns.x": "ns/x.py",
    }


def test_a_package_is_named_with_the_packages_around_it(tmp_path: Path) -> None:
    write(tmp_path, "p/__init__.py", "p/q/__init__.py", "p/q/m.py")
    assert names(tmp_path / "p/q") == {"p.q": "__init__.py", "p.q.m": "m.py"}
    assert names(tmp_path / "p/q/m.py") == {"p.q.m": "m.py"}


def test_a_src_folder_is_where_names_begin(tmp_path: Path) -> None:
    write(tmp_path, "src/p/__init__.py", "src/p/m.py", "tests/test_m.py")
    assert names(tmp_path) == {
        "p": "src/p/__init__.py",
        "p.m": "src/p/m.py",
        "tests.test_m": "tests/test_m.py",
    }


def test_what_cannot_be_imported_is_known_by_its_path(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "a/__init__.py", "b-c.py", "p-q/x.py", "d.e.py", "d/e.py")
    assert names(tmp_path) == {
        "a": "a/__init__.py",
        "./a.py": "a.py",
        "./b-c.py": "b-c.py",
        "./p-q/x.py": "p-q/x.py",
        "./d.e.py": "d.e.py",
        "d.e": "d/e.py",
    }


def test_a_lone_init_file_is_a_module(tmp_path: Path) -> None:
    write(tmp_path, "__init__.py")
    assert list(names(tmp_path / "__init__.py").values()) == ["__init__.py"]


def test_environments_caches_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.py",
        ".git/x.py",
        "__pycache__/x.py",
        "site-packages/x.py",
        "env/pyvenv.cfg",
        "env/x.py",
    )
    assert names(tmp_path) == {"a": "a.py"}


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    write(tmp_path, "b.py", "c/a.py", "a.py")
    assert list(names(tmp_path).values()) == ["a.py", "b.py", "c/a.py"]


def test_a_folder_named_like_a_file_is_a_problem_and_is_entered(tmp_path: Path) -> None:
    write(tmp_path, "x.py/y.py")
    problems: list[Problem] = []
    assert [s.path for s in find_sources(tmp_path, problems)] == ["x.py/y.py"]
    assert [p.path for p in problems] == ["x.py"]


@not_as_root
def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "shut/b.py")
    (tmp_path / "shut").chmod(0)
    problems: list[Problem] = []
    try:
        assert [s.path for s in find_sources(tmp_path, problems)] == ["a.py"]
        assert problems == [Problem("shut", "permission denied")]
    finally:
        (tmp_path / "shut").chmod(0o700)


def unreadable(root: Path, path: str) -> Problem:
    found = read_source(root, path)
    assert isinstance(found, Problem), found
    assert found.path == path
    return found


def test_links_that_lead_nowhere_are_problems(tmp_path: Path) -> None:
    (tmp_path / "gone.py").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    assert sorted(names(tmp_path)) == ["gone", "loop"]
    assert unreadable(tmp_path, "gone.py").reason == "no such file or directory"
    assert "symbolic links" in unreadable(tmp_path, "loop.py").reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    assert unreadable(tmp_path, "pipe.py").reason == "is not a regular file"


@not_as_root
def test_a_file_without_permission_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "shut.py")
    (tmp_path / "shut.py").chmod(0)
    assert unreadable(tmp_path, "shut.py").reason == "permission denied"


def test_a_huge_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysource, "MAX_BYTES", 2**20)
    (tmp_path / "big.py").write_bytes(b" " * (2**20 + 1))
    assert unreadable(tmp_path, "big.py").reason == "is larger than 1 MiB"


# ---- imports ---------------------------------------------------------------------------

TREE = {"p", "p.a", "p.b", "p.q", "p.q.c", "other"}


def links(source: str, name: str = "p.q.c", package: str = "p.q") -> tuple[set[str], set[str]]:
    """What the source imports eagerly, inside the tree and outside."""
    found = resolve_imports(Source(name, "x.py", package), parsed(source), TREE)
    assert found.lazy == ()
    return set(found.eager), set(found.outside)


@pytest.mark.parametrize(
    ("source", "inside", "outside"),
    [
        ("import other", {"other"}, set()),
        ("import other.attribute as o", {"other"}, set()),
        ("import p.a, os.path", {"p.a"}, {"os"}),
        ("from p import a, name", {"p.a", "p"}, set()),
        ("from p.a import name", {"p.a"}, set()),
        ("from p import *", {"p"}, set()),
        ("from json.decoder import x", set(), {"json"}),
        ("from . import name", {"p.q"}, set()),
        ("from .. import a, b", {"p.a", "p.b"}, set()),
        ("from ..a import name", {"p.a"}, set()),
        ("from .missing import x", {"p.q"}, set()),
        ("from ... import x", set(), {"..."}),
        ("from ...x import y", set(), {"...x"}),
        ("import p.q.c", set(), set()),
    ],
)
def test_imports_resolve_to_the_longest_name_in_the_tree(
    source: str, inside: set[str], outside: set[str]
) -> None:
    assert links(source) == (inside, outside)


def test_a_package_imports_from_itself() -> None:
    assert links("from . import a\nfrom .b import x", "p", "p") == ({"p.a", "p.b"}, set())


def test_a_script_outside_of_packages_has_no_relatives() -> None:
    assert links("from . import a", "./x-y.py", "") == (set(), {"."})


def test_imports_that_do_not_happen_on_import_are_lazy() -> None:
    module = parsed(
        "import typing\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import other\nelse:\n    import p.a\n"
        "if typing.TYPE_CHECKING:\n    import p.b\n"
        "class C:\n    import p.q\n"
        "def f():\n    import p.q.c, p.a\n"
        "if __name__ == '__main__':\n    import p\n"
    )
    found = resolve_imports(Source("x", "x.py", ""), module, TREE)
    assert found.eager == ("p.a", "p.q")
    assert found.lazy == ("other", "p", "p.b", "p.q.c")
    assert found.outside == ("typing",)


def test_an_import_is_kept_once() -> None:
    assert parsed("import a\nimport a\nfrom b import c, c\n").imports == {
        Import("a", None, 0, True),
        Import("b", "c", 0, True),
    }
