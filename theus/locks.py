"""Locks of typed contexts: an object that an engine has copied in is not the state any more.

    context = System(domain=Shop())
    engine = TheusEngine(context)
    context.domain.price = 5        # LockViolationError: nobody would ever see it
    with engine.edit() as ctx: ...  # this is how

The engine locks the contexts that it was made with (`theus.context`), and the instances of such
classes inside them, at any depth, in lists and dicts too. What else is in them cannot be locked:
`context.domain.rows.append(1)` changes a list that nobody looks at any more. `strict_guards=False`
makes a write to a locked one a debug message of the logger "theus".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from theus.errors import LockViolationError

__all__ = ["LockManager", "LockViolationError"]


class LockManager:
    """Says who may write to the contexts that have it: the thread inside `unlock()`.

    May be used by several threads; one at a time is inside.
    """

    def __init__(self, strict_guards: bool = False, *, strict_mode: bool | None = None) -> None:
        self.strict_guards = bool(strict_guards if strict_mode is None else strict_mode)
        self._lock = threading.RLock()
        self._owner: int | None = None

    @property
    def strict_mode(self) -> bool:
        """The old name of `strict_guards`."""
        return self.strict_guards

    def validate_write(self, name: str, obj: object) -> None:
        """Raises LockViolationError for a write to `obj.name` by who may not, if strict."""
        if self._owner == threading.get_ident():
            return
        error = LockViolationError(name, type(obj).__qualname__)
        if self.strict_guards:
            raise error
        import logging  # some milliseconds that nobody else pays

        logging.getLogger("theus").debug("%s", error)

    @contextmanager
    def unlock(self) -> Iterator[None]:
        """Lets this thread write, for the time of a with block; the same thread again, too."""
        with self._lock:
            before, self._owner = self._owner, threading.get_ident()
            try:
                yield
            finally:
                self._owner = before
