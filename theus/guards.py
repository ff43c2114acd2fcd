"""Contexts and guards made by hand: for a test of one function, and for older programs.

    ctx = ProcessContext({"domain": {"prices": [2, 3]}})
    assert total(ctx) == 5                    # the function alone, without an engine

    with engine.transaction() as tx:
        guard = ContextGuard(tx, ["domain.stock"], ["domain.stock.left"])
        helper(guard)                         # held to that; and so is the rest of the block

An engine makes the context of each process itself; `isinstance(ctx, ContextGuard)` is true of all.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any

from theus._theus import Context, Engine, Outbox, State, Transaction, open_context
from theus.construction import roots_of
from theus.errors import ContractViolationError, TransactionError, _shown
from theus.paths import Path, format_path
from theus.scope import EVERYTHING, Scope, parse_pattern

__all__ = ["ContextGuard", "OutboxCollector", "ProcessContext"]

OutboxCollector = Outbox
"""The type of `ctx.outbox` and `tx.outbox`, for `isinstance` and annotations."""


class _Maker:
    """What a context made by hand has in the place of the plan of a process."""

    __slots__ = ("inputs", "name", "outputs", "reads_only")

    parameters: tuple[str, ...] = ()

    def __init__(
        self,
        reads_only: bool,
        name: str,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.reads_only = reads_only

    def no_read(self, path: Path) -> ContractViolationError:
        declared = tuple(dict.fromkeys(self.inputs + self.outputs))
        return ContractViolationError.illegal_read(path, self.name, declared)

    def no_write(self, path: Path) -> ContractViolationError:
        if self.reads_only:
            where = format_path(path) if path else "the state"
            return ContractViolationError(
                f"Illegal Write: {where} is shown by a context without a transaction that writes: "
                "give it one, as in ContextGuard(tx, ...)",
                path,
                self.name,
                (),
            )
        return ContractViolationError.illegal_write(path, self.name, self.outputs)


def _reader(target: object) -> Transaction:
    """A transaction on what an engine would begin with, that nobody's runs join. It never ends."""
    from contextvars import Context as Variables  # not with `import theus`: see theus._types

    roots = dict(target.data) if isinstance(target, State) else roots_of(target)
    tx = Engine(roots or None).transaction(isolation="snapshot")
    Variables().run(tx.__enter__)
    return tx


def _check_target(target: object, tx: object) -> None:
    if not isinstance(tx, Transaction):
        raise TypeError(f"the transaction is one that an engine gave, not {_shown(tx)}")
    if target is tx or target is None or (isinstance(target, State) and target == tx.state):
        return
    raise TypeError(
        "a guard with a transaction shows the state of that transaction, so its target is the "
        f"transaction, or its state, or None, not {_shown(target)}"
    )


class ContextGuard(ABC):  # noqa: B024  # abstract in that it has no instances of its own
    """A context that is held to the paths which are given to it.

    target_obj       what it shows: a transaction; or a State, a dict of roots or whatever else an
                     engine can begin with, which is copied, and can only be read
    allowed_inputs   paths that may be read (None: all), as in @process(inputs=...)
    allowed_outputs  paths that may be written (None: all of a transaction)
    transaction      another way to give the transaction
    strict_guards    False: everything may be read
    process_name     who is named in refusals

    A transaction is held to the guard from here on, however it is used, and cannot commit any more
    when it has refused a write. Raises TransactionError for outputs without a transaction: such a
    guard could not keep what it lets be written.
    """

    def __new__(  # type: ignore[misc]  # a Context, which is registered as a subclass
        cls,
        target_obj: object,
        allowed_inputs: Iterable[str] | None = None,
        allowed_outputs: Iterable[str] | None = None,
        path_prefix: str = "",
        transaction: Transaction | None = None,
        strict_guards: bool = True,
        process_name: str = "Unknown",
    ) -> Context:
        if path_prefix:
            raise ValueError(
                f"path_prefix={path_prefix!r}: a guard begins at the state, and paths are whole; "
                "give the root in a dict, {'domain': ...}, and use guard.domain"
            )
        tx = target_obj if isinstance(target_obj, Transaction) else transaction
        inputs = None if allowed_inputs is None else _declared("allowed_inputs", allowed_inputs)
        outputs = None if allowed_outputs is None else _declared("allowed_outputs", allowed_outputs)
        if tx is None and outputs:
            raise TransactionError(
                f"a guard that lets {outputs[0]!r} be written needs a transaction to write into: "
                "ContextGuard(tx, ...), in a `with engine.transaction() as tx` block"
            )
        if tx is not None:
            _check_target(target_obj, tx)
        reads_only = tx is None or tx.read_only
        writes = [parse_pattern(path) for path in outputs or ()]
        reads = [parse_pattern(path) for path in inputs or ()] + writes
        if outputs is None and not reads_only:
            writes = [EVERYTHING]
        if inputs is None or not strict_guards:
            reads = [EVERYTHING]
        maker = _Maker(reads_only, process_name, inputs or (), outputs or ())
        scope = Scope(reads, writes, owner=maker, frozen=reads_only)
        shown = _reader(target_obj) if tx is None else tx
        return open_context(shown, maker, scope, None if reads_only else scope, (), {})


def _declared(what: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TypeError(f"{what} is a list of paths, not one text: write [{given!r}]")
    if not isinstance(given, Iterable):
        raise TypeError(f"{what} is a list of paths, or None for all, not {_shown(given)}")
    return tuple(given)


class ProcessContext(ABC):  # noqa: B024  # as above
    """A context without a contract, as a function without @process is given one.

    state   what it shows: a State, a dict of roots, or whatever else an engine can begin with. It
            is copied, and can only be read. None, or the state of `tx`, with a transaction
    local   what `ctx.local` begins with
    tx      the transaction that it shows, and writes into
    """

    def __new__(  # type: ignore[misc]  # as above
        cls,
        state: object = None,
        local: Mapping[str, Any] | None = None,
        tx: Transaction | None = None,
    ) -> Context:
        if tx is not None:
            _check_target(state, tx)
        if local is not None and not isinstance(local, Mapping):
            raise TypeError(f"local is a dict, or None, not {_shown(local)}")
        reads_only = tx is None or tx.read_only
        maker = _Maker(reads_only, "Unknown")
        scope = Scope((EVERYTHING,), owner=maker, frozen=True) if reads_only else None
        shown = _reader(state) if tx is None else tx
        context = open_context(shown, maker, scope, None, (), {})
        context.local.update(local or {})
        return context


ContextGuard.register(Context)
ProcessContext.register(Context)
