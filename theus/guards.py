"""Where older programs import the guard from.

`ContextGuard` is the type of the `ctx` of a process, for `isinstance` and annotations. Nobody can
make one by hand: a guard without a transaction would guard nothing. See `theus.context`.
"""

from __future__ import annotations

from theus._theus import Context as ContextGuard

__all__ = ["ContextGuard"]
