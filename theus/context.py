"""What a process sees: the `ctx` that is its first argument.

    ctx.domain, ctx.global_     the roots of the state; any other root by its name, too
    ctx["domain"]               the same; also roots that are no names
    ctx.input                   what the caller passed, by parameter name
    ctx.local                   a dict of the process's own, gone when it returns
    ctx.state                   the snapshot that the run began with
    ctx.transaction             the transaction (EFFECT only)

An EFFECT process gets drafts, and its writes are checked against its outputs before the
run commits. Reading is checked by root: a root must hold at least one declared path.

A PURE process gets *views*: windows that let declared places through and refuse the
others, however they are asked for. Where everything from a place down is declared, the
view gives the frozen value itself. Each read is logged in the transaction, so a PURE run
is as serializable as any other. A GUIDE process gets the same views with all doors open.

The view classes are made from the declarations, with a property for every declared name,
once for all processes that declare the same: a read then costs what a property costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from theus._theus import MISSING, DraftDict, DraftList, DraftSet, FrozenDict, State, freeze
from theus.errors import PathError
from theus.paths import Path, as_path, format_path
from theus.scope import ROOT_ALIASES, Scope

if TYPE_CHECKING:
    from theus._theus import Transaction
    from theus.plan import Plan

__all__ = ["Context", "EffectContext", "View", "ViewContext", "context_type", "fill_context"]

Core: TypeAlias = "tuple[Transaction, Plan, tuple[Any, ...], dict[str, Any]]"

DRAFTS = frozenset((DraftDict, DraftList, DraftSet))


class _Window:
    """Holds what a context and its views share: (transaction, plan, args, kwargs).

    One slot, filled by `fill_context`, because the classes below refuse every assignment.
    """

    __slots__ = ("_core",)

    _core: Core


fill_context = _Window.__dict__["_core"].__set__


class Context(_Window):
    """The part of a context that is the same for every process."""

    __slots__ = ("_local",)

    _local: dict[str, Any]

    @property
    def input(self) -> Mapping[str, Any]:
        """What the caller passed, by parameter name, positional arguments too."""
        _, plan, args, kwargs = self._core
        return MappingProxyType({**dict(zip(plan.parameters, args, strict=False)), **kwargs})

    @property
    def local(self) -> dict[str, Any]:
        """A dict for this one attempt. It is not state: nothing of it is kept."""
        try:
            kept: dict[str, Any] = _local.__get__(self)
            return kept
        except AttributeError:
            fresh: dict[str, Any] = {}
            _local.__set__(self, fresh)
            return fresh


_local = Context.__dict__["_local"]  # asked directly: an empty slot would go to __getattr__

_OWN_NAMES = frozenset(("add", "append", "input", "local", "state", "transaction"))

# What a transaction has and a context has not.
_OTHER_NAMES = frozenset(
    ("delete", "get", "merge", "on_commit", "operations", "savepoint", "set", "update")
)


def _root(name: str) -> str:
    return ROOT_ALIASES.get(name, name)


# ---- EFFECT, and functions without a contract ---------------------------------------


class EffectContext(Context):
    """Roots as drafts. Assigning a root replaces it: `ctx.domain = {"count": 0}`."""

    __slots__ = ()

    @property
    def domain(self) -> Any:
        tx, plan, _, _ = self._core
        roots = plan.open_roots
        if roots is not None and "domain" not in roots:
            plan.check_root("domain")
        try:
            return tx["domain"]
        except KeyError:
            raise _no_such_root("domain") from None

    @property
    def global_(self) -> Any:
        return self._read("global")

    @property
    def state(self) -> State:
        """The snapshot that the run began with.

        Reading it is not part of the transaction: a commit does not depend on what was
        seen there, as it does on what was read through the roots.
        """
        return self._core[0].state

    @property
    def transaction(self) -> Transaction:
        """The transaction of this attempt. What is written through it is checked as well."""
        return self._core[0]

    def add(self, path: Path | str, amount: Any) -> None:
        """Adds to the number that stands at `path` when the run commits; see `Transaction.add`."""
        self._core[0].add(path, amount)

    def append(self, path: Path | str, value: Any) -> None:
        """Appends to the list that stands at `path` when the run commits."""
        self._core[0].append(path, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._read(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN_NAMES:
            raise AttributeError(
                f"ctx.{name} cannot be assigned; a root of that name is ctx[{name!r}]"
            )
        self._core[0][_root(name)] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __getitem__(self, root: str) -> Any:
        tx, plan, _, _ = self._core
        plan.check_root(root)
        return tx[_root(root)]

    def __setitem__(self, root: str, value: Any) -> None:
        self._core[0][_root(root)] = value

    def __delitem__(self, root: str) -> None:
        del self._core[0][_root(root)]

    def __contains__(self, root: object) -> bool:
        tx, plan, _, _ = self._core
        if isinstance(root, str):
            plan.check_root(root)
            root = _root(root)
        return root in tx

    def __repr__(self) -> str:
        return f"<context of process {self._core[1].name!r}>"

    def _read(self, name: str) -> Any:
        tx, plan, _, _ = self._core
        roots = plan.open_roots
        if roots is not None and name not in roots:
            if name in _OTHER_NAMES:
                raise _no_such_root(name)
            plan.check_root(name)
        try:
            return tx[_root(name)]
        except KeyError:
            raise _no_such_root(name) from None


def _no_such_root(name: str) -> AttributeError:
    if name in _OTHER_NAMES:
        return AttributeError(f"a context has no {name}(): use ctx.transaction.{name}()")
    return AttributeError(
        f"the state has no root {_root(name)!r} yet; give it to TheusEngine(context={{...}}), or "
        f"assign it first: ctx.{name} = {{}}"
    )


# ---- views ----------------------------------------------------------------------------


class _ReadOnly(_Window):
    """Refuses every way to write, and remembers that it had to.

    A refusal that the body swallows still fails the run: see `Plan.refuse_write`.
    """

    __slots__ = ()

    _path: Path
    _scope: Scope

    def _refuse(self, *key: Any) -> NoReturn:
        tx, plan, _, _ = self._core
        plan.refuse_write(tx, (*self._path, *key))

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse(name)

    def __delattr__(self, name: str) -> None:
        self._refuse(name)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse(key)

    def __delitem__(self, key: Any) -> None:
        self._refuse(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._child(name)
        if value is MISSING:
            raise AttributeError(f"there is nothing at {format_path((*self._path, name))}")
        return value

    def __getitem__(self, key: Any) -> Any:
        value = self._child(key)
        if value is MISSING:
            raise PathError((*self._path, key))
        return value

    def __contains__(self, key: object) -> bool:
        return self._child(key) is not MISSING

    def _child(self, key: Any) -> Any:
        """The frozen value or view below `key`, or MISSING. Refuses what is not declared."""
        path = (*self._path, key)
        scope = self._scope.step(key)
        if scope is None:
            self._core[1].refuse_read(path)
        return _look(self._core, path, scope)


def _look(core: Core, path: Path, scope: Scope) -> Any:
    value = core[0].get(path, MISSING)
    if type(value) not in DRAFTS:
        if not scope.whole and value is not MISSING:
            core[1].refuse_read(path)  # something below it is declared, and it has no below
        return value
    if scope.whole and not (len(path) == 1 and type(value) is DraftDict):
        return value.freeze()
    # Something below is not declared; or it is a whole root, which is not frozen at once, so
    # that the run depends on the fields it reads and not on all of them.
    view = View()
    fill_context(view, core)
    _fill_path(view, path)
    _fill_scope(view, scope)
    return view


class View(_ReadOnly):
    """A read-only window on a container of the state of which only a part is declared.

    Reads as a Mapping does (on a list, by index), as far as the inputs of the process
    allow: a key that is not declared raises ContractViolationError, and so do iteration and
    `len` unless all keys are (`domain` or `domain.*`).
    """

    __slots__ = ("_path", "_scope")

    def get(self, key: Any, default: Any = None) -> Any:
        value = self._child(key)
        return default if value is MISSING else value

    # A Mapping without the base class, whose isinstance() and class creation are slow.
    keys = Mapping.keys
    values = Mapping.values
    items = Mapping.items
    __eq__ = Mapping.__eq__

    def __iter__(self) -> Iterator[Any]:
        draft = self._draft()
        if type(draft) is DraftList:  # its elements, in their turn frozen or views
            return map(self._child, range(len(draft)))
        return iter(draft)

    def __len__(self) -> int:
        return len(self._draft())

    def freeze(self) -> FrozenDict[Any, Any]:
        """Everything here as a value of its own, which outlives the run."""
        tx, plan, _, _ = self._core
        if not self._scope.whole:
            plan.refuse_read(self._path)
        frozen: FrozenDict[Any, Any] = tx.get(self._path).freeze()
        return frozen

    def to_dict(self) -> dict[Any, Any]:
        """Everything here as builtins, independent of the state."""
        return self.freeze().to_dict()

    def _draft(self) -> Any:
        """The container itself, for its key set or length."""
        tx, plan, _, _ = self._core
        if not self._scope.open:
            plan.refuse_read(self._path)
        draft = tx.get(self._path, MISSING)
        if draft is MISSING:
            raise PathError(self._path)
        return draft

    def _refused(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse()

    clear = pop = popitem = setdefault = update = __ior__ = _refused

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return freeze, (self.freeze(),)

    def __repr__(self) -> str:
        return f"<view of {format_path(self._path)} for process {self._core[1].name!r}>"


Mapping.register(View)
_fill_path = View.__dict__["_path"].__set__
_fill_scope = View.__dict__["_scope"].__set__


class ViewContext(_ReadOnly, Context):
    """The context of a PURE or GUIDE process: the roots as views."""

    __slots__ = ()

    _path = ()

    @property
    def state(self) -> ViewContext:
        """The snapshot by another name: the same roots, under the same contract."""
        return self

    @property
    def transaction(self) -> NoReturn:
        self._refuse()

    def add(self, path: Path | str, amount: Any) -> NoReturn:
        self._refuse(*as_path(path))

    def append(self, path: Path | str, value: Any) -> NoReturn:
        self._refuse(*as_path(path))

    def _child(self, key: Any) -> Any:
        return super()._child(_root(key) if isinstance(key, str) else key)

    def __repr__(self) -> str:
        return f"<read-only context of process {self._core[1].name!r}>"


# ---- classes made from a declaration ----------------------------------------------------


@lru_cache(maxsize=1024)
def context_type(scope: Scope) -> type[ViewContext]:
    """The class of read-only contexts whose roots are declared by `scope`."""
    members = _members((), scope, ViewContext)
    for alias, name in ROOT_ALIASES.items():
        if name in members:
            members[alias] = members[name]
    return type("ViewContext", (ViewContext,), members)


def _members(path: Path, scope: Scope, base: type) -> dict[str, Any]:
    """The namespace of a class for one place: a property for each declared name that can be
    an attribute and hides no method. All other names go through __getattr__."""
    members: dict[str, Any] = {"__slots__": (), "_scope": scope}
    if path:
        members["_path"] = path
    for name in scope.names:
        child = scope.step(name)
        if isinstance(name, str) and name.isidentifier() and child is not None:
            if not name.startswith("__") and not hasattr(base, name):
                below = (*path, name)
                make = _value_reader if child.whole else _view_reader
                members[name] = property(make(below, child))
    return members


def _value_reader(path: Path, scope: Scope) -> Callable[[_ReadOnly], Any]:
    if len(path) == 1:

        def read(window: _ReadOnly) -> Any:
            value = _look(window._core, path, scope)
            if value is MISSING:
                raise AttributeError  # __getattr__ says it better
            return value

    else:

        def read(window: _ReadOnly) -> Any:
            value = window._core[0].get(path, MISSING)
            if type(value) in DRAFTS:
                return value.freeze()
            if value is MISSING:
                raise AttributeError
            return value

    return read


def _view_reader(path: Path, scope: Scope) -> Callable[[_ReadOnly], View]:
    kind: type[View] | None = None

    def read(window: _ReadOnly) -> View:
        nonlocal kind
        if kind is None:  # not before: the scopes below `**` have no end
            kind = type("View", (View,), _members(path, scope, View))
        view = kind()
        fill_context(view, window._core)
        return view

    return read
