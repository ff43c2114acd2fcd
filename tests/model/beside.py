"""An engine's transaction and a reference session, side by side.

The order of dicts is compared, too, with two exceptions. A deferred addition happens when it is
first needed, at the latest in the commit, so a key that it makes may come after later ones. And
when a transaction is replayed on a newer version, keys that it overwrote and others had removed
meanwhile come in an order of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.reference import ABSENT, OPERATIONS, Path, Reference, Session, at, walk
from support import exact, kind
from theus.errors import ConflictError


def containers(data: Any, path: Path = ()) -> list[Path]:
    """The paths of all containers below (not of the whole)."""
    parts = data.items() if kind(data) == "dict" else enumerate(data)
    found = [(*path, key) for key, value in parts if kind(value)] if kind(data) != "set" else []
    return found + [deep for near in found for deep in containers(walk(data, near[-1:]), near)]


def both(tx: Any, session: Session, path: Path, name: str, *args: Any) -> None:
    """One operation on the transaction and on the session; both must show the same."""
    if name == "increase":
        there = at(session.data, (*path, args[0]))
        if there is not ABSENT and type(there) is not int:
            return  # to be added to, there must be a number, or nothing
    if name == "popitem" and defers(session):
        return  # which key is the last one depends on when the addition is done
    expected = session.do(name, path, *args)
    try:
        if name == "increase":
            got: tuple[str, Any] = ("ok", tx.add((*path, args[0]), args[1]))
        else:
            got = ("ok", OPERATIONS[name](walk(tx, path), *args))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        got = ("raised", type(error).__name__)
    if name == "iter" and defers(session) and expected[0] == "ok":
        got, expected = (got[0], sorted(got[1], key=repr)), ("ok", sorted(expected[1], key=repr))
    assert got == expected, f"{name} at {path}: {got}, but the reference shows {expected}"


def defers(session: Session) -> bool:
    return any(name == "increase" for name, *_ in session.steps)


def judge(engine: Any, model: Reference, session: Session, commit: Callable[[], Any]) -> str:
    """The engine commits. Its answer must be allowed, and the reference follows it."""
    before = engine.version
    any_order = defers(session) or session.start != before
    allowed = model.verdicts(session)
    try:
        commit()
        answer = "unchanged" if engine.version == before else "commit"
    except ConflictError as error:
        answer = "conflict"
        assert error.expected == session.start and error.found <= before
    except TypeError:  # a deferred addition to what is no number by now
        assert defers(session)
        answer = "conflict"
    assert answer in allowed, f"{answer}, but allowed is {sorted(allowed)}"
    if answer == "commit":
        model.commit(session)
    assert engine.version == model.version
    newest, expected = engine.state.to_dict(), model.versions[model.version]
    if answer == "commit" and any_order and newest == expected:
        model.versions[model.version] = expected = newest  # in the engine's order from here on
    assert exact(newest) == exact(expected), f"{newest}, but the reference has {expected}"
    return answer
