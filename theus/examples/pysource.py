"""Read Python source without running it: functions, complexity, classes, imports.

This half of the code map knows nothing of theus. It finds the files of a tree,
names them as an import would, parses one at a time and resolves its imports to
modules of the same tree. Whatever is wrong with a file comes back as a
`Problem`; nothing that a file contains raises.

Complexity is McCabe's: one, and one more for each `if`, `elif`, conditional
expression, `for`, `while`, `except`, `case` (a bare `case _:` is the else),
each `for` and `if` of a comprehension, and each `and` and `or`. A nested
function counts for itself, a lambda for the function around it. `assert`, `with`
and `else` add nothing.
"""

from __future__ import annotations

import ast
import os
import re
import stat
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

MAX_BYTES = 16 * 1024 * 1024
"""Larger files are listed as problems: nobody wrote them by hand."""

_LINE_END = re.compile(rb"\n")

SKIPPED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or folder that could not be read or parsed, and why."""

    path: str
    reason: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method, by its name inside the module (`Class.method`)."""

    name: str
    line: int
    complexity: int


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name as written; `level` counts the leading dots."""

    module: str
    name: str | None
    level: int
    eager: bool


@dataclass(frozen=True, slots=True)
class Source:
    """Where a module lies, and the package its relative imports start from."""

    name: str
    path: str
    package: str


@dataclass(frozen=True, slots=True)
class Module:
    """What one file defines and imports."""

    lines: int
    functions: tuple[Function, ...]
    classes: tuple[str, ...]
    imports: frozenset[Import]


@dataclass(frozen=True, slots=True)
class Links:
    """The imports of one module, resolved: modules of the tree, and the rest.

    `eager` ones happen while the module is imported. `lazy` ones wait in a function,
    or for a type checker or a run as a script, so they close no import cycle.
    """

    eager: tuple[str, ...]
    lazy: tuple[str, ...]
    outside: tuple[str, ...]


# ---- finding and naming files ---------------------------------------------------


def find_sources(root: Path, problems: list[Problem]) -> list[Source]:
    """Every `*.py` at or below `root`, in the order of their paths.

    Names count from the import root: the folder above the packages that `root`
    lies in, or `root/src` where a project keeps its packages there. A file that
    cannot be imported by name (an odd file name, or hidden by a package of the
    same name) is known by its path, written with a leading "./".
    """
    if root.is_dir():
        files = list(_walk(root, problems))
    else:
        files = [(root.name,)]
        root = root.parent
    above = _enclosing_packages(root)
    has_src = not above and (root / "src").is_dir() and not (root / "src/__init__.py").exists()

    found: dict[str, Source] = {}
    for parts in sorted(files, key=lambda parts: (parts[-1] != "__init__.py", parts)):
        path = "/".join(parts)
        below = parts[1:] if has_src and parts[0] == "src" else parts
        folder = [*above, *below[:-1]]
        importable = all(map(str.isidentifier, folder))
        package = ".".join(folder) if importable else ""
        stem = below[-1].removesuffix(".py")
        name = package if stem == "__init__" and package else ".".join([*folder, stem])
        if not importable or not stem.isidentifier() or name in found:
            name = "./" + path
        found[name] = Source(name, path, package)
    return sorted(found.values(), key=lambda source: source.path)


def _walk(root: Path, problems: list[Problem]) -> Iterator[tuple[str, ...]]:
    def unreadable(error: OSError) -> None:
        problems.append(Problem(os.path.relpath(error.filename, root), _reason(error)))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder).relative_to(root).parts
        folders[:] = [name for name in folders if _is_wanted(folder, name)]
        for name in folders:
            if name.endswith(".py"):
                problems.append(Problem("/".join((*here, name)), "is a folder, not a file"))
        for name in names:
            if name.endswith(".py"):
                yield (*here, name)


def _is_wanted(folder: str, name: str) -> bool:
    if name in SKIPPED or name.startswith("."):
        return False
    return not os.path.lexists(os.path.join(folder, name, "pyvenv.cfg"))


def _enclosing_packages(root: Path) -> list[str]:
    names: list[str] = []
    while root.name.isidentifier() and (root / "__init__.py").exists():
        names.insert(0, root.name)
        root = root.parent
    return names


# ---- one file ---------------------------------------------------------------------


def read_source(root: Path, path: str) -> bytes | Problem:
    """The bytes of one file. A pipe or device of that name is not waited for."""
    full = root / path
    try:
        with open(full, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return Problem(path, "is not a regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return Problem(path, _reason(error))
    if len(data) > MAX_BYTES:
        return Problem(path, f"is larger than {MAX_BYTES // 2**20} MiB")
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse_source(path: str, data: bytes | memoryview) -> Module | Problem:
    """What the source defines and imports, or why Python cannot parse it.

    A view is parsed where it lies.
    """
    try:
        tree = ast.parse(data, path)
    except SyntaxError as error:
        return Problem(path, error.msg or "invalid syntax", error.lineno or None)
    except ValueError as error:
        return Problem(path, str(error))
    except (RecursionError, MemoryError):
        return Problem(path, "is nested too deeply to parse")
    lines = len(_LINE_END.findall(data)) + (data[-1:] not in (b"\n", b""))
    return _Survey(tree).module(lines)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


class _Scope(NamedTuple):
    function: int  # place in the list of functions; -1 outside of any
    prefix: str  # qualified name so far, with its dot
    eager: bool  # runs while the module is imported


class _Survey:
    """One walk over a syntax tree, with a list for a stack: deep code is only data."""

    def __init__(self, tree: ast.Module) -> None:
        self.functions: list[tuple[str, int]] = []
        self.complexity: list[int] = []
        self.classes: list[tuple[int, str]] = []
        self.imports: set[Import] = set()
        self._todo: list[tuple[ast.AST, _Scope]] = [(tree, _Scope(-1, "", eager=True))]
        while self._todo:
            node, scope = self._todo.pop()
            visit = _VISITS.get(type(node))
            if visit is None:
                self._descend(node, scope)
            else:
                visit(self, node, scope)

    def module(self, lines: int) -> Module:
        """The findings; functions and classes in the order of their lines."""
        functions = (
            Function(*named, count)
            for named, count in zip(self.functions, self.complexity, strict=True)
        )
        return Module(
            lines,
            tuple(sorted(functions, key=lambda function: function.line)),
            tuple(name for _, name in sorted(self.classes)),
            frozenset(self.imports),
        )

    def _descend(self, node: ast.AST, scope: _Scope) -> None:
        todo = self._todo
        for value in node.__dict__.values():
            if isinstance(value, list):
                for child in value:
                    if type(child) not in _LEAVES and isinstance(child, ast.AST):
                        todo.append((child, scope))
            elif type(value) not in _LEAVES and isinstance(value, ast.AST):
                todo.append((value, scope))

    def _push(self, nodes: list[ast.stmt], scope: _Scope) -> None:
        self._todo.extend((node, scope) for node in nodes)

    def _count(self, scope: _Scope, decisions: int) -> None:
        if scope.function >= 0:
            self.complexity[scope.function] += decisions

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: _Scope) -> None:
        name = scope.prefix + node.name
        self.functions.append((name, node.lineno))
        self.complexity.append(1)
        self._push(node.body, _Scope(len(self.functions) - 1, name + ".", eager=False))
        for outside in (*node.decorator_list, node.args, node.returns):
            if outside is not None:
                self._todo.append((outside, scope))

    def _class(self, node: ast.ClassDef, scope: _Scope) -> None:
        name = scope.prefix + node.name
        self.classes.append((node.lineno, name))
        self._push(node.body, scope._replace(prefix=name + "."))
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self._todo.append((outside, scope))

    def _branch(self, node: ast.AST, scope: _Scope) -> None:
        self._count(scope, 1)
        self._descend(node, scope)

    def _if(self, node: ast.If, scope: _Scope) -> None:
        self._count(scope, 1)
        self._todo.append((node.test, scope))
        self._push(node.orelse, scope)
        self._push(node.body, scope._replace(eager=False) if _is_off(node.test) else scope)

    def _case(self, node: ast.match_case, scope: _Scope) -> None:
        pattern = node.pattern
        is_else = isinstance(pattern, ast.MatchAs) and pattern.pattern is None and not node.guard
        self._count(scope, 0 if is_else else 1)
        self._descend(node, scope)

    def _comprehension(self, node: ast.comprehension, scope: _Scope) -> None:
        self._count(scope, 1 + len(node.ifs))
        self._descend(node, scope)

    def _bool_op(self, node: ast.BoolOp, scope: _Scope) -> None:
        self._count(scope, len(node.values) - 1)
        self._descend(node, scope)

    def _import(self, node: ast.Import, scope: _Scope) -> None:
        self.imports.update(Import(alias.name, None, 0, scope.eager) for alias in node.names)

    def _import_from(self, node: ast.ImportFrom, scope: _Scope) -> None:
        self.imports.update(
            Import(node.module or "", alias.name, node.level, scope.eager) for alias in node.names
        )


def _is_off(test: ast.expr) -> bool:
    """Whether a condition is false while the module is imported, by the usual idioms."""
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case ast.Compare(ast.Name(id="__name__"), [ast.Eq()], [ast.Constant("__main__")]):
            return True
    return False


_VISITS: dict[type[ast.AST], Callable[[_Survey, Any, _Scope], None]] = {
    ast.FunctionDef: _Survey._function,
    ast.AsyncFunctionDef: _Survey._function,
    ast.ClassDef: _Survey._class,
    ast.If: _Survey._if,
    ast.IfExp: _Survey._branch,
    ast.For: _Survey._branch,
    ast.AsyncFor: _Survey._branch,
    ast.While: _Survey._branch,
    ast.ExceptHandler: _Survey._branch,
    ast.match_case: _Survey._case,
    ast.comprehension: _Survey._comprehension,
    ast.BoolOp: _Survey._bool_op,
    ast.Import: _Survey._import,
    ast.ImportFrom: _Survey._import_from,
}

# Nodes with no decision and no definition below them: not worth a visit.
_LEAVES = frozenset(
    {ast.Name, ast.Constant, ast.Pass, ast.Break, ast.Continue, ast.Global, ast.Nonlocal}.union(
        *(
            base.__subclasses__()
            for base in (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
        )
    )
)


# ---- imports ------------------------------------------------------------------------


def resolve_imports(source: Source, module: Module, tree: Container[str]) -> Links:
    """Which modules of `tree` the imports name, each once, sorted.

    `import a.b.c` and `from a.b import c` count as the longest of `a.b.c`, `a.b`
    and `a` that is in the tree. What is not in the tree is outside: by its first
    name if absolute, in full if relative. A module does not import itself.
    """
    eager: set[str] = set()
    lazy: set[str] = set()
    outside: set[str] = set()
    for item in module.imports:
        base = _absolute(source.package, item)
        wanted = base if item.name in (None, "*") else f"{base}.{item.name}"
        target = _longest_prefix(wanted, tree)
        if target is None:
            outside.add(base if item.level else base.partition(".")[0])
        elif target != source.name:
            (eager if item.eager else lazy).add(target)
    return Links(tuple(sorted(eager)), tuple(sorted(lazy - eager)), tuple(sorted(outside)))


def _absolute(package: str, item: Import) -> str:
    """The module that an import names; above the top package it keeps its dots."""
    if not item.level:
        return item.module
    parts = package.split(".") if package else []
    if item.level > len(parts):
        return "." * item.level + item.module
    parts = parts[: len(parts) - item.level + 1]
    return ".".join([*parts, item.module] if item.module else parts)


def _longest_prefix(name: str, tree: Container[str]) -> str | None:
    while name:
        if name in tree:
            return name
        name = name.rpartition(".")[0]
    return None
