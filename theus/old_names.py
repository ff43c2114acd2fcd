"""What engines of older programs had: names that still work, and where the others went."""

from __future__ import annotations

from typing import NoReturn

from theus.engine_parts import EngineParts

__all__ = ["OldNames"]


class Absent:
    """A name that engines of older programs had, and where it went.

    A descriptor for each, and not one __getattr__ for all: with that, CPython looks up every
    attribute of an engine the slow way.
    """

    def __init__(self, where: str) -> None:
        self._where = where

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, engine: object, owner: type) -> NoReturn:
        raise AttributeError(
            f"a TheusEngine has no attribute {self._name!r}: {self._where}",
            name=self._name,
            obj=engine,
        )


class OldNames(EngineParts):
    """The part of `theus.TheusEngine` that new programs do not need."""

    strict_guards: bool

    @property
    def strict_mode(self) -> bool:
        """The old name of `strict_guards`."""
        return self.strict_guards

    @strict_mode.setter
    def strict_mode(self, value: bool) -> None:
        self.strict_guards = value

    def set_strict_guards(self, value: bool) -> None:
        """The same as assigning `strict_guards`."""
        self.strict_guards = value

    def set_strict_cas(self, value: bool) -> None:
        """The same as assigning `strict_cas`."""
        self.strict_cas = value

    def shutdown(self) -> None:
        """The same as `close`."""
        self.close()

    def __dir__(self) -> list[str]:
        # A name that only says where it went is not offered at a prompt.
        old = vars(OldNames)
        return [name for name in super().__dir__() if not isinstance(old.get(name), Absent)]

    commit_state = Absent("no state is put in place of another unchecked; use restore()")
    execute_process_async = Absent("await execute(func), or run_async(func)")
    execute_workflow = Absent("workflows are not part of this version yet")
    outbox = Absent(
        "a transaction has one, tx.outbox; process_outbox() hands over what was committed"
    )
    report_conflict = Absent(
        "the engine counts conflicts itself; for a loop of your own there is theus.ConflictManager"
    )
    report_success = Absent("as report_conflict: theus.ConflictManager")
    scan_and_register = Absent("discovery is not part of this version yet; use register()")
    set_audit_system = Absent("audits are not part of this version yet")
    set_schema = Absent(
        "schemas are not part of this version yet; a dataclass or Pydantic instance in the state "
        "is validated as it is"
    )
