"""Recorder: runs transactions of an engine and writes down what each of them saw and did.

What a body gets is not the transaction but a stand-in with its path methods; nested dicts come
as maps that work like dicts (`tx.domain.accounts["bob"] -= 5`): see theus.testing.recording.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from theus._theus import Engine, Transaction
from theus.errors import ConflictError, TransactionError, _shown
from theus.testing.history import Attempt, History
from theus.testing.instances import spread
from theus.testing.processes import RecordedOptions
from theus.testing.recording import RecordingTransaction, as_update, bare, who

if TYPE_CHECKING:
    from theus.engine import TheusEngine

R = TypeVar("R")


class Recorder:
    """Records the transactions that are run through it, in any number of threads and tasks.

        recorder = Recorder(engine)
        recorder.run(transfer, "bob", 5)              # as engine.run(transfer, "bob", 5)
        with recorder.transaction() as tx: ...        # as engine.transaction()
        recorder.run_process(pay, "bob", amount=5)    # as engine.run_process(pay, ...)
        recorder.compare_and_swap(7, {...})           # as engine.compare_and_swap(7, ...)
        report = check_history(recorder.take())

    Every attempt is kept, also those that met a conflict or were aborted. What changes the engine
    meanwhile without the recorder makes the history incomplete, and the check will say so. Memory
    grows with each step until `take`. All methods may be called from any thread and any task.
    """

    def __init__(self, engine: TheusEngine) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(f"a Recorder records a TheusEngine, not {_shown(engine)}")
        self._engine = engine
        self._attempts: list[Attempt] = []  # appending and popping are atomic
        self._live: dict[int, RecordingTransaction] = {}  # by id of the engine's transaction
        self._swaps: dict[int, Attempt] = {}  # that are under way, by their own id
        self._first, self._start = self._now()

    def _now(self) -> tuple[int, dict[str, Any]]:
        state = self._engine.state
        return state.version, spread(state.data.to_dict())

    def take(self) -> History:
        """Everything since the recorder was made, or since the last call; the next history
        begins here.

        Raises TransactionError if a recorded transaction is open: the run must stand still.
        """
        live = len(self._live) + len(self._swaps)
        if live:
            raise TransactionError(
                f"{live} recorded transactions are open: take the history when all have ended"
            )
        version, state = self._now()
        history = History(self._start, self._first, self._attempts, state)
        self._attempts = []
        self._first, self._start = version, state
        return history

    def run(self, fn: Callable[..., R], /, *args: Any, **options: Any) -> R:
        """`engine.run(fn, *args, **options)`, recorded; `fn` gets a RecordingTransaction.

        Inside a recorded body it joins that one as a savepoint, as `engine.run` does. Raises
        TransactionError inside a body that is not recorded, unless `detached=True`.
        """
        chain = _Chain(self, options)

        def body(tx: Transaction, *rest: Any) -> R:
            with chain.attempt(tx) as recording:
                result: R = bare(fn(recording, *rest))
                return result

        with chain:
            return self._engine.run(body, *args, **options)

    async def run_async(
        self, fn: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, **options: Any
    ) -> R:
        """`await engine.run_async(fn, *args, **options)`, recorded; else as `run`."""
        chain = _Chain(self, options)

        async def body(tx: Transaction, *rest: Any) -> R:
            with chain.attempt(tx) as recording:
                result: R = bare(await fn(recording, *rest))
                return result

        with chain:
            return await self._engine.run_async(body, *args, **options)

    def compare_and_swap(
        self,
        expected_version: int,
        data: Mapping[Any, Any] | None = None,
        heavy: Mapping[str, Any] | None = None,
        signal: Mapping[str, Any] | None = None,
        requester: str | None = None,
    ) -> int:
        """`engine.compare_and_swap(...)`, recorded: a transaction of its own, also inside a body.

        The check asks whether what it wrote stood there unchanged since the expected version; if
        that is older than this history, only what came of it. Raises TypeError for arrays.
        """
        given, steps = as_update(data, heavy)
        isolation = "strict" if self._engine.strict_cas else "snapshot"
        attempt = Attempt(who(), 0, steps, isolation=isolation)
        self._swaps[id(attempt)] = attempt
        try:
            made = self._engine.compare_and_swap(expected_version, given, None, signal, requester)
            if made > expected_version:
                attempt.version, attempt.outcome = made, "committed"
            else:
                attempt.outcome = "unchanged"
            return made
        except ConflictError:
            attempt.outcome = "aborted"
            raise
        finally:
            if attempt.outcome != "open":  # else an argument was refused, and nothing happened
                self._place(attempt, expected_version)
                self._attempts.append(attempt)
            del self._swaps[id(attempt)]

    def _place(self, swap: Attempt, expected: int) -> None:
        """Where in the history a compare-and-swap began."""
        if expected < self._first:  # what stood there is not known
            expected = self._first if swap.version is None else swap.version - 1
            if swap.outcome == "unchanged":
                swap.steps.clear()
        swap.snapshot = swap.floor = expected

    def options(self, **options: Any) -> RecordedOptions:
        """`engine.options(**options)`, for processes that are to be recorded."""
        return RecordedOptions(self, self._engine.options(**options))

    def run_process(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`engine.run_process(process, ...)`, recorded: the contract stands, and the process gets a
        RecordingContext. Joins a recorded body as a savepoint, as `run` does.

        Raises ProcessError if the state has fields that processes may not read (the zone PRIVATE).
        """
        return self.options().run_process(process, *args, **kwargs)

    async def execute(self, process: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """`await engine.execute(process, ...)`, recorded; else as `run_process`."""
        return await self.options().execute(process, *args, **kwargs)

    def _chain(self, detached: bool) -> _Chain:
        return _Chain(self, {"detached": detached})

    def transaction(self, **options: Any) -> RecordedScope:
        """`engine.transaction(**options)`, recorded: for `with` and `async with`.

        Raises TransactionError inside a body, unless `detached=True`: there, use `tx.savepoint()`.
        """
        if self._engine.current() is not None and not options.get("detached"):
            raise TransactionError("a transaction is open in this task: use its savepoint()")
        return RecordedScope(self, options)


class _Chain:
    """One logical run: its attempts, of which at most the last was committed."""

    def __init__(self, recorder: Recorder, options: Mapping[str, Any]) -> None:
        self.recorder = recorder
        self.floor = recorder._engine.version
        self.last: RecordingTransaction | None = None
        self.outer: RecordingTransaction | None = None
        current = recorder._engine.current()
        if current is not None and not options.get("detached"):
            self.outer = recorder._live.get(id(current))
            if self.outer is None:
                raise TransactionError(
                    "this body is not recorded, so a run that joins it cannot be: begin it through "
                    "the recorder, or pass detached=True"
                )

    @contextmanager
    def attempt(self, tx: Transaction) -> Iterator[RecordingTransaction]:
        if self.outer is not None:
            with self.outer._saved():
                yield self.outer
            return
        if self.last is not None:
            self.last._end(retried=True)
        self.last = RecordingTransaction(self.recorder, tx, self.floor)
        try:
            yield self.last
        finally:
            self.floor = self.recorder._engine.version

    def __enter__(self) -> _Chain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.last is not None:
            self.last._end(failed=kind is not None)


class RecordedScope:
    """What `with recorder.transaction()` and `async with recorder.transaction()` enter, once."""

    def __init__(self, recorder: Recorder, options: Mapping[str, Any]) -> None:
        self._recorder = recorder
        self._floor = recorder._engine.version
        self._tx = recorder._engine.transaction(**options)
        self._recording: RecordingTransaction | None = None

    def _begin(self) -> RecordingTransaction:
        self._recording = RecordingTransaction(self._recorder, self._tx, self._floor)
        return self._recording

    def _end(self, failed: bool) -> None:
        if self._recording is not None:
            self._recording._end(failed=failed)

    def __enter__(self) -> RecordingTransaction:
        self._tx.__enter__()
        return self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = True
        try:
            self._tx.__exit__(kind, error, trace)
            failed = kind is not None
        finally:
            self._end(failed)

    async def __aenter__(self) -> RecordingTransaction:
        await self._tx.__aenter__()
        return self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = True
        try:
            await self._tx.__aexit__(kind, error, trace)
            failed = kind is not None
        finally:
            self._end(failed)
