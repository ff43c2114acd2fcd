"""Everything theus raises, on one page.

    TheusError
    ├── ContextError                 refused by a state, a container or a transaction
    │   ├── ConflictError            another commit came first
    │   ├── FrozenError              a write to something immutable      (TypeError)
    │   ├── PathError                a path that leads nowhere           (KeyError)
    │   ├── RecordError              a record that its class does not accept (ValueError)
    │   └── VersionError             a version that the history does not hold
    ├── TransactionError             a transaction used after its end, elsewhere, or wrongly
    ├── WriteTimeoutError            a transaction took too long         (TimeoutError)
    ├── WaitTimeoutError             what was waited for did not come    (TimeoutError)
    ├── RingFullError                a commit whose record cannot be kept
    ├── ClosedError                  an engine used after close()
    ├── UnfreezableError             a value that a state cannot own     (TypeError)
    ├── MergeError                   a contribution that does not fit  (TypeError)
    ├── SchemaViolationError         a commit that does not fit the schema
    ├── ContractViolationError       a process did what it had not declared (PermissionError)
    ├── HeavyMemoryError             no room for a shared array          (MemoryError)
    ├── StaleArrayError              a shared array that is gone         (LookupError)
    ├── BadTokenError                no shared array was ever called that (ValueError)
    ├── UnknownArrayError            no shared array under that key    (KeyError)
    ├── BorrowedArrayError           what only the owner of a shared array may do (PermissionError)
    ├── LoanError                    rows of a shared array are lent already
    ├── BrokenPoolError              no worker can be started
    ├── CodecError                   bytes that are no encoded value      (ValueError)
    ├── InterpreterImportError       a module that loads in one interpreter only (ImportError)
    ├── RemoteError                  an exception of a worker that could not travel
    ├── SendError                    what cannot be sent to a worker      (TypeError)
    ├── TaskStoppedError             a task that its pool had to stop
    ├── WorkerDied                   the process that ran a task is gone
    ├── WorkerTimeoutError           a task took longer than it was given (TimeoutError)
    └── ProcessError                 a process that cannot be run
        ├── ArgumentError            a call that does not fit it         (TypeError)
        ├── ProcessTimeoutError      a run that took too long            (TimeoutError)
        └── UnknownProcessError      no process of that name             (ValueError)

    TaskInterrupted                  what a task that was given up sees  (BaseException)

Names in parentheses are bases too, so an `except` for the builtin catches ours.

Rules that all of them keep: the data are attributes; `args` are the arguments of
the constructor, so that pickling, copying and sending to another interpreter
rebuild the error; `str()` is one sentence that shows the value, the place and what
to do. The texts "CAS Version Mismatch", "Strict CAS Mismatch", "System Busy",
"Schema Violation", "Illegal Read", "Illegal Write" and "PURE process cannot" are
part of the interface: programs look for them.

This module imports nothing of ours. The C module takes its exceptions from here
and calls the constructors with positional arguments, in the order given here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "ArrayChangedError",
    "ArgumentError",
    "BadTokenError",
    "BorrowedArrayError",
    "BrokenPoolError",
    "ClosedError",
    "CodecError",
    "ConflictError",
    "ContextError",
    "ContractViolationError",
    "FrozenError",
    "HeavyMemoryError",
    "LoanError",
    "InterpreterImportError",
    "LockViolationError",
    "MergeError",
    "PathError",
    "ProcessError",
    "ProcessTimeoutError",
    "RecordError",
    "RemoteError",
    "RingFullError",
    "SchemaViolationError",
    "SecurityViolationError",
    "SendError",
    "StaleArrayError",
    "TaskInterrupted",
    "TaskStoppedError",
    "TheusError",
    "TransactionError",
    "UnfreezableError",
    "UnknownArrayError",
    "UnknownProcessError",
    "VersionError",
    "WaitTimeoutError",
    "WorkerDied",
    "WorkerTimeoutError",
    "WriteTimeoutError",
]

Path = tuple[object, ...]


# ---- text -------------------------------------------------------------------------


def _shown(value: object, limit: int = 80) -> str:
    """repr(), short, and for every object: a message must not fail on what it reports."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__qualname__} whose repr() fails>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Shown(str):
    """The text of a value, in an error that does not keep the value itself."""

    __slots__ = ()


def _remedy(path: Path) -> str:
    """The state as a whole cannot be declared."""
    return f"add {_where(path)!r} to" if path else "name the roots in question in its"


def _where(path: Path | None, otherwise: str = "the state") -> str:
    """A path as it is written in code: domain.users['a.b'].xs[0]."""
    if not path:
        return otherwise
    text = ""
    for key in path:
        if type(key) is str and key.isidentifier() and len(key) <= 80:
            text += f".{key}" if text else key
        else:
            text += f"[{_shown(key)}]"
    return text


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) if names else "nothing"


def _nearest(given: str, known: Iterable[str]) -> str | None:
    """Of the known names the one that was probably meant, or None."""
    import difflib  # only for who mistyped

    found = difflib.get_close_matches(given, list(known), n=1, cutoff=0.75)
    return found[0] if found else None


# ---- the tree ---------------------------------------------------------------------


class TheusError(Exception):
    """Base of everything that theus raises on purpose.

    `path` is the place that was meant, as a tuple, or None.
    """

    def __init__(self, message: str = "", path: Path | None = None) -> None:
        # Not through super(): for OSError, a base of some of ours, two arguments are an errno.
        super().__init__()
        self.args = (message, path)
        self.message = message
        self.path = path

    def __str__(self) -> str:
        return f"{_where(self.path)}: {self.message}" if self.path else self.message


class ContextError(TheusError):
    """Raised when a state, a container or a transaction refuses what it was asked for."""


# What the loser of a conflict had relied on. "strict" and "busy" are refusals of a
# compare-and-swap that looked at no path.
_CONFLICT_TEXT = {
    "value": "changed",
    "absence": "was not there when it was read, and is now",
    "keys": "got or lost entries",
    "content": "changed somewhere below",
    "place": "was moved, removed or replaced",
}


class ConflictError(ContextError):
    """Raised when another commit came first and touched what this one had relied on.

    `path` is the place (None: the whole state); `expected` the version this
    transaction had seen, `found` the one it met. `winner` is the record of the
    commit that changed the path, or None where the history no longer tells.

    `reason` says what was relied on: "value", "absence", "keys" (the key set or the
    length), "content" (everything below the path), "place" (the container's own
    place). "strict" is a compare-and-swap with strict_cas=True, which takes any
    newer version as a conflict; "forgotten" one whose version has left the history, so
    that nobody knows what has changed since; "busy" one that was refused because
    another transaction has priority. `attempts` counts the tries of a run that gave up.
    """

    def __init__(
        self,
        path: Path | None,
        expected: int,
        found: int,
        winner: object = None,
        reason: str = "value",
        attempts: int = 1,
    ) -> None:
        super().__init__("", path)
        self.args = (path, expected, found, winner, reason, attempts)
        self.expected = expected
        self.found = found
        self.winner: Any = winner  # a CommitRecord or None
        self.reason = reason
        self.attempts = attempts

    def __str__(self) -> str:
        if self.reason == "busy":
            return (
                f"System Busy: another transaction has priority at {_where(self.path)} "
                f"(version {self.found}, expected {self.expected}); try again"
            )
        if self.reason == "strict":
            return (
                f"Strict CAS Mismatch: the state is at version {self.found}, not "
                f"{self.expected}{self._by_whom()}; read it again and retry"
            )
        if self.reason == "forgotten":
            return (
                f"CAS Version Mismatch: version {self.expected} is no longer in the history, so "
                f"what has changed since cannot be told (the state is at version {self.found}); "
                "read the state again, or keep more with engine.history_limit(count=...)"
            )
        what = _CONFLICT_TEXT.get(self.reason, "changed")
        tries = f" ({self.attempts} attempts)" if self.attempts > 1 else ""
        return (
            f"CAS Version Mismatch: {_where(self.path)} {what} after version {self.expected}, "
            f"by version {self.found}{self._by_whom()}; retry on the newest state{tries}"
        )

    def _by_whom(self) -> str:
        if self.winner is None:
            return ""
        version = getattr(self.winner, "version", None)
        process = getattr(self.winner, "process", None)
        if version is None:
            return f" (winner: {_shown(self.winner)})"
        by = f" of process {_shown(process)}" if process is not None else ""
        return f" (winner: commit {version}{by})"


class FrozenError(ContextError, TypeError):
    """Raised when something immutable is written to: a frozen container or a state."""


class PathError(ContextError, KeyError):
    """Raised when a path leads nowhere: a key that is not there, or a step into a value
    that has no parts.

    `message` is what is wrong with it, without the path.
    """

    def __init__(self, path: Path | None, message: str = "there is nothing at this path") -> None:
        super().__init__(message, path)
        self.args = (path, message)


class RecordError(ContextError, ValueError):
    """Raised when a class does not accept what a transaction has made of one of its instances.
    That is asked at commit: nothing is published. What the class raised is the `__cause__`.

    `record_class` is the full name of the class, `reason` what it said.
    """

    def __init__(self, path: Path | None, record_class: type | str, reason: str) -> None:
        if isinstance(record_class, type):
            record_class = f"{record_class.__module__}.{record_class.__qualname__}"
        super().__init__("", path)
        self.args = (path, record_class, reason)
        self.record_class = record_class
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{_where(self.path)} is not a valid {self.record_class} any more, so nothing was "
            f"committed: {self.reason}"
        )


class VersionError(ContextError):
    """Raised when a version is named that does not exist yet, or no longer.

    `oldest` and `newest` bound the history that could have answered.
    """

    def __init__(self, version: int, oldest: int, newest: int) -> None:
        super().__init__()
        self.args = (version, oldest, newest)
        self.version = version
        self.oldest = oldest
        self.newest = newest

    def __str__(self) -> str:
        if self.version > self.newest:
            return (
                f"version {self.version} does not exist yet: the newest is {self.newest}; "
                "use a version that the engine has reported"
            )
        return (
            f"version {self.version} is no longer in the history, which holds {self.oldest} "
            f"to {self.newest}; read the state again, or keep more with "
            "engine.history_limit(count=...)"
        )


class TransactionError(TheusError):
    """Raised when a transaction cannot be used like this: after its end, by a second thread
    at the same time, in a forked child, for writing although it is read-only.
    """


class WriteTimeoutError(TheusError, TimeoutError):
    """Raised when a transaction took longer than it may. It was rolled back.

    Times are in milliseconds.
    """

    def __init__(self, limit_ms: float, elapsed_ms: float, doing: str = "the transaction") -> None:
        super().__init__()
        self.args = (limit_ms, elapsed_ms, doing)
        self.limit_ms = limit_ms
        self.elapsed_ms = elapsed_ms
        self.doing = doing

    def __str__(self) -> str:
        return (
            f"{self.doing} took {self.elapsed_ms:.0f} ms and may take {self.limit_ms:.0f} ms, so "
            "it was rolled back; do slow work before it, or raise write_timeout_ms"
        )


class WaitTimeoutError(TheusError, TimeoutError):
    """Raised when what `wait_for` waits for has not come in time. Nothing was changed.

    `timeout` is in seconds, `version` the last one that the predicate was asked about.
    """

    def __init__(self, timeout: float, version: int) -> None:
        super().__init__()
        self.args = (timeout, version)
        self.timeout = timeout
        self.version = version

    def __str__(self) -> str:
        return (
            f"waited {self.timeout:g} s, and the predicate is still false of version "
            f"{self.version}; give a longer timeout=, or look at that version"
        )


# Why a commit got no place in the ring, and what to do.
_RING_TEXT = {
    "full": "has no room: read faster, give it a larger ring_capacity, or use ring_mode='block'",
    "timeout": "had no room for {timeout_ms} ms: read faster, or give a larger ring_capacity or "
    "ring_timeout_ms",
    "no reader": "has no reader: attach one first, with engine.reader()",
    "event loop": "has no room, and to wait would block the event loop of this thread: use "
    "what is awaited (async with, engine.run_async, engine.execute), which waits without it",
}


class RingFullError(TheusError):
    """Raised when a commit's record cannot be kept, in the ring modes "block" and "strict".

    The transaction was rolled back. `mode`, `capacity` (records) and `timeout_ms` are the
    ring's; `reason` is "full" (strict), "timeout" (block), "no reader", or "event loop": a
    synchronous commit that would have to wait on the thread of a running loop.
    """

    def __init__(self, mode: str, capacity: int, reason: str, timeout_ms: int = 0) -> None:
        super().__init__()
        self.args = (mode, capacity, reason, timeout_ms)
        self.mode = mode
        self.capacity = capacity
        self.reason = reason
        self.timeout_ms = timeout_ms

    def __str__(self) -> str:
        why = _RING_TEXT.get(self.reason, self.reason).format(timeout_ms=self.timeout_ms)
        return (
            f"nothing was committed: the ring of {self.capacity} commit records "
            f"(mode {self.mode!r}) {why}"
        )


class ClosedError(TheusError):
    """Raised when an engine is used after close(). `what` names the closed thing."""

    def __init__(self, what: str = "the engine") -> None:
        super().__init__()
        self.args = (what,)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is closed; make a new one"


class UnfreezableError(TheusError, TypeError):
    """Raised when a value is stored that a state cannot own, because it could change later.

    `path` is where it was to go (None: not known), `value_type` the full name of its
    type. The value itself is not kept.
    """

    def __init__(
        self,
        path: Path | None,
        value_type: type | str,
        advice: str = "store plain data, or wrap it in theus.Opaque to vouch for it yourself",
    ) -> None:
        if isinstance(value_type, type):
            value_type = f"{value_type.__module__}.{value_type.__qualname__}"
        super().__init__("", path)
        self.args = (path, value_type, advice)
        self.value_type = value_type
        self.advice = advice

    def __str__(self) -> str:
        return (
            f"a state cannot own {_where(self.path, 'this value')}, a {self.value_type}, because "
            f"it can change from outside: {self.advice}"
        )


_MERGES = {
    "sum": "adds as + does: numbers, two texts, two lists",
    "append": "appends to a list",
    "union": "joins two sets or two dicts",
    "max": "compares the two by >",
}


class MergeError(TheusError, TypeError):
    """Raised when a contribution (`merge=` of a process, `tx.add`, `tx.append`) does not fit what
    stands at its place when it is applied.

    `rule` is the name of the rule; `found` and `value` are short texts of what stands there and of
    the contribution.
    """

    def __init__(self, path: Path | None, rule: str, found: object, value: object) -> None:
        found = found if isinstance(found, _Shown) else _Shown(_shown(found))
        value = value if isinstance(value, _Shown) else _Shown(_shown(value))
        super().__init__("", path)
        self.args = (path, rule, found, value)
        self.rule = rule
        self.found = found
        self.value = value

    def at(self, path: Path) -> MergeError:
        """The same at a place that was not known when it was raised."""
        return MergeError(path, self.rule, self.found, self.value).with_traceback(
            self.__traceback__
        )

    def __str__(self) -> str:
        return (
            f"{_where(self.path, 'a place')} holds {self.found}, with which {self.value} cannot be "
            f"merged by {self.rule!r}: that {_MERGES[self.rule]}; contribute what fits, or set() a "
            "value in the place of the old one (a process returns SET(value))"
        )


class SchemaViolationError(TheusError):
    """Raised when what would be committed does not fit the schema.

    `path` is where, `value` a short text of what was found there.
    """

    def __init__(self, message: str, path: Path | None = None, value: object = None) -> None:
        value = value if isinstance(value, str) else _shown(value)
        super().__init__(message, path)
        self.args = (message, path, value)
        self.value = value

    def __str__(self) -> str:
        return f"Schema Violation at {_where(self.path)}: {self.message} (found {self.value})"


class ContractViolationError(TheusError, PermissionError):
    """Raised when a process reads or writes what it had not declared.

    `path` is what it touched, `process` its name, `declared` what its contract lists.
    The three named constructors make the usual refusals.
    """

    def __init__(
        self,
        message: str,
        path: Path | None = None,
        process: str | None = None,
        declared: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, path)
        self.args = (message, path, process, declared)
        self.process = process
        self.declared = declared

    @classmethod
    def illegal_read(
        cls, path: Path, process: str, declared: tuple[str, ...]
    ) -> ContractViolationError:
        text = (
            f"Illegal Read: process {process!r} read {_where(path)}, but its inputs are "
            f"{_listed(declared)}; {_remedy(path)} inputs"
        )
        return cls(text, path, process, declared)

    @classmethod
    def illegal_write(
        cls, path: Path, process: str, declared: tuple[str, ...]
    ) -> ContractViolationError:
        text = (
            f"Illegal Write: process {process!r} wrote {_where(path)}, but its outputs are "
            f"{_listed(declared)}; {_remedy(path)} outputs"
        )
        return cls(text, path, process, declared)

    @classmethod
    def impure(
        cls, act: str, path: Path | None, process: str, declared: tuple[str, ...] = ()
    ) -> ContractViolationError:
        """`act` completes "PURE process cannot ...", such as "write" or "send signals to"."""
        text = (
            f"PURE process cannot {act} {_where(path)}: process {process!r} must return its "
            "results, or be declared with semantic=SemanticType.EFFECT"
        )
        return cls(text, path, process, declared)

    def __str__(self) -> str:
        return self.message  # the path stands in it already


# The second name of the same refusal; programs catch either.
SecurityViolationError = ContractViolationError


class LockViolationError(TheusError):
    """Raised when a typed context is written that an engine has copied in.

    `name` is the attribute, `context` the name of the class.
    """

    def __init__(self, name: str, context: str = "the context") -> None:
        super().__init__()
        self.args = (name, context)
        self.name = name
        self.context = context

    def __str__(self) -> str:
        return (
            f"{self.context}.{self.name} was written outside a transaction: the engine has copied "
            "this object in, so nobody would see it; write in a process, or in "
            "`with engine.transaction() as tx`"
        )


class ProcessError(TheusError):
    """Raised when a process cannot be registered or run.

    `process` is its name. What it returns is held to its contract: a result that fits no
    output raises ContractViolationError.
    """

    def __init__(self, message: str, process: str | None = None) -> None:
        super().__init__(message)
        self.args = (message, process)
        self.process = process


class ArgumentError(ProcessError, TypeError):
    """Raised when a process is called with arguments that its function does not take.

    `argument` is the one that nobody asked for (None: one is missing, or there are too many),
    `parameters` what the function has after the context.
    """

    def __init__(
        self,
        message: str,
        process: str,
        argument: str | None = None,
        parameters: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, process)
        self.args = (message, process, argument, parameters)
        self.argument = argument
        self.parameters = parameters


class ProcessTimeoutError(ProcessError, TimeoutError):
    """Raised when a run took longer than the `timeout=` of its process or its options allow.

    It was rolled back. `timeout` is in seconds. A plain function cannot be stopped: it is
    refused what it asks of its context from then on.
    """

    def __init__(self, process: str, timeout: float) -> None:
        super().__init__("", process)
        self.args = (process, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"process {self.process!r} took longer than its timeout of {self.timeout:g} s, so it "
            "was rolled back; give it a longer timeout=, in @process or engine.options()"
        )


class UnknownProcessError(ProcessError, ValueError):
    """Raised when a process is asked for by a name that was never registered.

    `known` are the names that were.
    """

    def __init__(self, process: str, known: tuple[str, ...] = ()) -> None:
        message = f"no process is named {process!r}; registered: {_listed(known)}"
        near = _nearest(process, known)
        if near is not None:
            message += f" (did you mean {near!r}?)"
        super().__init__(message, process)
        self.args = (process, known)
        self.known = known


# ---- shared arrays ------------------------------------------------------------------


class HeavyMemoryError(TheusError, MemoryError):
    """Raised when a shared array would go beyond a limit: when it is allocated, or when it is
    there and is to be mapped, which takes addresses alone (where it is borrowed, stored in a state,
    or copied by `cow()`). Then nothing has happened. `scope` says whose limit it is:

    - "quota": that of an engine, or of the arrays whose keys begin with `prefix` ("": all of them);
    - "process": the quota of all engines of this process together;
    - "address space": what the process may map (RLIMIT_AS);
    - "system": what the system, its cgroup, or the folder of named memory has left.

    `asked`, `used`, `limit` and `largest_free` are bytes: what the array needs, or was to be mapped
    (an array is mapped with its neighbours, 64 MiB as a rule); what is in use of that limit; the
    limit itself (of the system: what it has left); the largest free range that is mapped already
    (0 where nothing was allocated). `holders` are the largest arrays that count for it, as (key,
    bytes). `prefix` is None unless it was a quota. `memory` is the kind of memory that the system
    has no room in (a name of `MemoryClass`); None: ordinary memory.
    """

    def __init__(
        self,
        asked: int,
        used: int = 0,
        limit: int = 0,
        largest_free: int = 0,
        holders: tuple[tuple[str, int], ...] = (),
        prefix: str | None = None,
        memory: str | None = None,
        scope: str | None = None,
    ) -> None:
        scope = scope or ("system" if prefix is None else "quota")
        if scope == "process":
            why = f"the quota of this process is {limit:,} bytes, {used:,} of them in use"
            way = "free arrays, or raise it with engine.heavy.process_quota(...)"
        elif scope == "address space":
            why = (
                f"this process may map {limit:,} bytes (RLIMIT_AS), {used:,} of them in use, and a "
                "new array leaves 16 MiB to the rest of the program"
            )
            way = "free arrays, or raise the limit (ulimit -v)"
        elif memory is not None:
            why = f"of memory of the kind {memory} {limit:,} bytes are to be had"
            more = "set more pages aside (vm.nr_hugepages), " if memory == "HUGE" else ""
            way = (
                f"{more}free arrays, or accept another kind, too: memory=MemoryClass.{memory} | ..."
            )
        elif prefix is None:
            why = f"the system has {limit:,} bytes left"
            way = "free arrays, or give the process more memory"
        else:
            whose = f"the quota of {prefix!r}" if prefix else "the engine's limit"
            why = f"{whose} is {limit:,} bytes, {used:,} of them in use"
            way = "free arrays, or raise it with engine.heavy.quota(...)"
        largest = ", ".join(f"{_shown(key)} {size:,}" for key, size in holders)
        super().__init__(
            f"no room for {asked:,} bytes of shared memory: {why}"
            + (f" (largest arrays: {largest})" if largest else "")
            + f"; {way}"
        )
        self.args = (asked, used, limit, largest_free, holders, prefix, memory, scope)
        self.asked = asked
        self.used = used
        self.limit = limit
        self.largest_free = largest_free
        self.holders = holders
        self.prefix = prefix
        self.memory = memory
        self.scope = scope


class StaleArrayError(TheusError, LookupError):
    """Raised when a token names a shared array that is gone: freed, or its owner has ended.

    `path` is where a state has it, if that is known; else None.
    """

    def __init__(self, text: str = "", path: tuple[Any, ...] | None = None) -> None:
        super().__init__(text)
        self.args = (text,) if path is None else (text, path)
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownArrayError(TheusError, KeyError):
    """Raised when no shared array of an allocator has the key.

    `key` is what was asked for, `known` the keys that there are.
    """

    def __init__(self, key: str, known: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.args = (key, known)
        self.key = key
        self.known = known

    def __str__(self) -> str:
        near = _nearest(self.key, self.known)
        hint = f"did you mean {near!r}?" if near else "alloc() or put() makes one"
        return f"there is no shared array {_shown(self.key)}; {hint}"


class BadTokenError(TheusError, ValueError):
    """Raised when something is no token of a shared array: damaged, forged, of another version."""


class BorrowedArrayError(TheusError, PermissionError):
    """Raised when a process would free a shared array that is another one's, or lend rows of it."""


class LoanError(TheusError, RuntimeError):
    """Raised when rows of a shared array are lent that would have to be free.

    `key` is that of the array; `rows` are (start, stop) of those that were to be lent, or None if
    the array was to be stored; `lent` are the loans in the way, (start, stop, pid), with None for
    a pid if nobody has entered the loan yet; () if only the number of loans is.
    """

    def __init__(
        self,
        key: str,
        rows: tuple[int, int] | None,
        lent: tuple[tuple[int, int, int | None], ...] = (),
    ) -> None:
        loans = ", ".join(
            f"rows {start}:{stop} are lent "
            + ("and not entered yet" if pid is None else f"to process {pid}")
            for start, stop, pid in lent
        )
        if rows is None:
            what, way = "cannot be stored yet", "wait until the workers have finished"
        else:
            what, way = f"cannot lend rows {rows[0]}:{rows[1]}", "wait until that is over"
        super().__init__(
            f"the shared array {_shown(key)} {what}: "
            f"{loans or 'as many ranges of shared arrays are lent as can be'}; {way}, or recall() "
            "what nobody has entered"
        )
        self.args = (key, rows, lent)
        self.key = key
        self.rows = rows
        self.lent = lent


# ---- pools --------------------------------------------------------------------------


class CodecError(TheusError, ValueError):
    """Raised when bytes are no encoded value: damaged, cut off, or of another version.

    `offset` is where in them it was found out, in bytes, or None.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.args = (message, offset)
        self.offset = offset

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.message}{where}; the data are damaged, or not of theus.pools.codec"


class SendError(TheusError, TypeError):
    """Raised when a function, an argument or a result cannot travel to a worker, or back.

    `what` is its short text, `why` what stands in the way, `advice` the way out.
    """

    def __init__(self, what: str, why: str, advice: str) -> None:
        super().__init__(f"{what} cannot be sent to a worker: {why}; {advice}")
        self.args = (what, why, advice)
        self.what = what
        self.why = why
        self.advice = advice


class WorkerDied(TheusError):
    """Raised when the worker process that ran a task has ended before it.

    `pid` is the worker's, `signal` the number of the signal that killed it, or None; then
    `exitcode` is the status that it left with, if that is known. `task` is the name of the
    function, `attempts` how many workers have died with this task.
    """

    def __init__(
        self,
        task: str,
        pid: int,
        signal: int | None = None,
        exitcode: int | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__()
        self.args = (task, pid, signal, exitcode, attempts)
        self.task = task
        self.pid = pid
        self.signal = signal
        self.exitcode = exitcode
        self.attempts = attempts

    def __str__(self) -> str:
        if self.signal is not None:
            how = f"was killed by signal {self.signal}{_signal_name(self.signal)}"
        elif self.exitcode is not None:
            how = f"left with status {self.exitcode}"
        else:
            how = "is gone"
        text = f"worker {self.pid} {how} while it ran {self.task}; another has taken its place"
        if self.attempts > 1:
            text += f", but the task is given up: {self.attempts} workers have died with it"
        return text


class WorkerTimeoutError(TheusError, TimeoutError):
    """Raised when a task took longer than its pool's `timeout=`, or a parallel process longer than
    its own; its worker was replaced.

    `task` is the name of the function, `timeout` is in seconds. `pid` was that of the worker, which
    was killed; None where workers live in this process, and can only be interrupted.
    """

    def __init__(self, task: str, pid: int | None, timeout: float) -> None:
        super().__init__()
        self.args = (task, pid, timeout)
        self.task = task
        self.pid = pid
        self.timeout = timeout

    def __str__(self) -> str:
        if self.pid is None:
            end = "it was interrupted, and another worker has taken its place"
        else:
            end = f"worker {self.pid} was killed and replaced"
        return (
            f"{self.task} took longer than its timeout of {self.timeout:g} s, so {end}; "
            "give the process, or the pool, a longer timeout="
        )


class TaskInterrupted(BaseException):
    """Raised when a pool gives a task up, in the task: it is too slow, or the pool was killed.

    Whoever waits for the task gets another error; this one only ends it, and is no Exception, so
    that a handler which goes on after errors does not go on here.
    """

    def __str__(self) -> str:
        return (
            "this task was given up: it took longer than its pool's timeout, or the pool was killed"
        )


class TaskStoppedError(TheusError):
    """Raised when a pool had to stop a task, or its worker could not answer.

    `task` is the name of the function, `why` what it had to give way to.
    """

    def __init__(self, task: str, why: str) -> None:
        super().__init__(f"{task} was stopped: {why}; submit it again, or use a ProcessPool")
        self.args = (task, why)
        self.task = task
        self.why = why


class InterpreterImportError(TheusError, ImportError):  # type: ignore[misc]  # path: two meanings
    """Raised when a task in a worker interpreter needs a module that loads in one interpreter only.

    `module` is its name. Its cause shows where it was imported.
    """

    def __init__(self, module: str) -> None:
        super().__init__(
            f"the module {module} cannot be loaded in a worker interpreter, because it is made for "
            'one interpreter in a process; use parallel="processes", or a ProcessPool'
        )
        self.args = (module,)
        self.module = module


class RemoteError(TheusError):
    """Raised when a worker's exception cannot travel: in its place, with what is known of it.

    `type_name` is its class, `text` its short text, `traceback` that of the worker, `why` what
    stood in the way.
    """

    def __init__(self, type_name: str, text: str, traceback: str, why: str) -> None:
        super().__init__()
        self.args = (type_name, text, traceback, why)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback
        self.why = why

    def __str__(self) -> str:
        return (
            f"a worker raised {_shown(self.text)}, a {self.type_name} that cannot be sent to its "
            f"caller: {_shown(self.why)}; raise one that is rebuilt from its args"
        )


class BrokenPoolError(TheusError):
    """Raised when a pool cannot start workers: an initializer failed, or the system has no room.

    What stands in the way is the text, and the cause where there is one.
    """

    def __str__(self) -> str:
        return f"the pool cannot start workers ({self.message}); repair that and make a new pool"


def _signal_name(number: int) -> str:
    import signal  # only for who reads the message

    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


class ArrayChangedError(TheusError, RuntimeError):
    """Raised when a published array was written to, through a view that was taken before.

    `keys` are those that the arrays were allocated under.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__(
            f"published arrays were written to: {', '.join(map(_shown, keys))}; a view that was "
            "taken before an array was stored can still write to it: drop such views, or store a "
            "copy with engine.heavy.put"
        )
        self.args = (keys,)
        self.keys = keys
