"""Every error keeps its data through pickling and copying, and is caught by its old bases."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from theus import errors

PATH = ("domain", "users", "a.b", 0)

# One or more of each class, made from positional arguments as the C module does.
SAMPLES = [
    errors.TheusError("it broke"),
    errors.ContextError("data must be a mapping, not 3", ("domain",)),
    errors.ConflictError(PATH, 5, 7),
    errors.ConflictError(PATH, 5, 7, "transfer", "absence", 4),
    errors.ConflictError(None, 5, 7, None, "strict"),
    errors.ConflictError(None, 5, 7, None, "forgotten"),
    errors.ConflictError(("domain",), 5, 7, None, "busy"),
    errors.FrozenError("a FrozenDict cannot be changed; use set()", PATH),
    errors.PathError(PATH),
    errors.PathError(PATH, "an int has no parts"),
    errors.RecordError(PATH, "shop.Order", "total must not be negative"),
    errors.RecordError(PATH, int, "a class as it is"),
    errors.VersionError(9, 1, 3),
    errors.VersionError(1, 2, 3),
    errors.TransactionError("this transaction has ended; begin a new one", PATH),
    errors.WriteTimeoutError(5000, 5012.7),
    errors.WaitTimeoutError(2.5, 7),
    errors.RingFullError("strict", 1024, "full"),
    errors.RingFullError("block", 16, "timeout", 250),
    errors.RingFullError("block", 16, "no reader", 250),
    errors.RingFullError("block", 16, "event loop", 250),
    errors.ClosedError(),
    errors.ClosedError("the transaction"),
    errors.UnfreezableError(PATH, "numpy.ndarray"),
    errors.UnfreezableError(None, bytearray, "store bytes(value)"),
    errors.SchemaViolationError("must be positive", PATH, -3),
    errors.MergeError(PATH, "union", 5, {1}),
    errors.UnknownArrayError("frame", ("frames", "x")),
    errors.MergeError(None, "sum", [1], object()),
    errors.ContractViolationError("a refusal", PATH, "transfer", ("domain.x",)),
    errors.ContractViolationError.illegal_read(PATH, "transfer", ("domain.x", "domain.y")),
    errors.ContractViolationError.illegal_write(PATH, "transfer", ()),
    errors.ContractViolationError.impure("write", PATH, "transfer"),
    errors.LockViolationError("price", "Shop"),
    errors.HeavyMemoryError(100, 950, 1000, 64, (("frames", 900),), "cam."),
    errors.HeavyMemoryError(100, 950, 1000, prefix=""),
    errors.HeavyMemoryError(2**60, limit=2**30),
    errors.StaleArrayError("the shared array is gone"),
    errors.ArrayChangedError(("frame", "mask")),
    errors.BadTokenError("this is no token of a shared array"),
    errors.BorrowedArrayError("the shared array belongs to another process"),
    errors.LoanError("out", (0, 4), ((2, 6, 4711), (6, 8, None))),
    errors.LoanError("out", None, ((2, 6, 4711),)),
    errors.LoanError("out", (0, 4)),
    errors.ProcessError("2 outputs, but 3 values were returned", "transfer"),
    errors.UnknownProcessError("trasnfer", ("deposit", "transfer")),
    errors.ArgumentError("no parameter 'x'", "pay", "x", ("amount",)),
    errors.ProcessTimeoutError("pay", 1.5),
    errors.BrokenPoolError("OSError: no room"),
    errors.RemoteError("jobs.Odd", "Odd()", "Traceback ...", "TypeError: no"),
    errors.CodecError("a size goes beyond the end of the data", 17),
    errors.SendError("a lambda", "it has no name", "define it with def"),
    errors.WorkerDied("jobs.crunch", 4711, 9),
    errors.WorkerDied("jobs.crunch", 4711, None, 3, 2),
    errors.WorkerTimeoutError("jobs.crunch", 4711, 2.5),
    errors.WorkerTimeoutError("jobs.crunch", None, 2.5),
    errors.TaskInterrupted(),
    errors.TaskStoppedError("jobs.crunch", "the process forks"),
    errors.InterpreterImportError("numpy"),
]

by_class = pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)


def data(error: errors.TheusError) -> dict[str, object]:
    return {"args": error.args, "str": str(error), **vars(error)}


def test_every_class_has_a_sample_and_is_exported() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    assert {type(sample) for sample in SAMPLES} == classes
    assert {getattr(errors, name) for name in errors.__all__} == classes


@by_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_everything(error: errors.TheusError, protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is type(error)
    assert data(twin) == data(error)


@by_class
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_copying_keeps_everything(error: errors.TheusError, copier) -> None:
    assert data(copier(error)) == data(error)


@by_class
def test_args_alone_rebuild_it(error: errors.TheusError) -> None:
    assert data(type(error)(*error.args)) == data(error)


@by_class
def test_what_was_added_later_travels_too(error: errors.TheusError) -> None:
    error = copy.copy(error)
    error.add_note("while moving money")
    error.attempts = 9
    twin = pickle.loads(pickle.dumps(error))
    assert twin.__notes__ == ["while moving money"]
    assert twin.attempts == 9


@by_class
def test_the_text_is_one_plain_line(error: errors.TheusError) -> None:
    text = str(error)
    assert text and text == text.strip() and "\n" not in text
    assert not text.startswith(("'", '"', "(", "[Errno"))  # as KeyError and OSError would


@by_class
def test_the_docstring_says_when(error: errors.TheusError) -> None:
    kind = type(error)
    if kind is not errors.TheusError:
        assert kind.__doc__ is not None and kind.__doc__.startswith("Raised when")


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.ConflictError, errors.ContextError),
        (errors.FrozenError, errors.ContextError),
        (errors.FrozenError, TypeError),
        (errors.PathError, errors.ContextError),
        (errors.PathError, KeyError),
        (errors.VersionError, errors.ContextError),
        (errors.WriteTimeoutError, TimeoutError),
        (errors.WaitTimeoutError, TimeoutError),
        (errors.UnfreezableError, TypeError),
        (errors.MergeError, TypeError),
        (errors.UnknownArrayError, KeyError),
        (errors.ContractViolationError, PermissionError),
        (errors.ContractViolationError, errors.SecurityViolationError),
        (errors.UnknownProcessError, errors.ProcessError),
        (errors.ArgumentError, TypeError),
        (errors.ProcessTimeoutError, TimeoutError),
        (errors.UnknownProcessError, ValueError),
    ],
)
def test_old_bases_catch_it(kind: type[BaseException], base: type[BaseException]) -> None:
    error = next(sample for sample in SAMPLES if type(sample) is kind)
    with pytest.raises(base):
        raise error


def test_a_conflict_says_where_and_who() -> None:
    class Record:
        version = 7
        process = "deposit"

    error = errors.ConflictError(("domain", "users", "a b"), 5, 9, Record(), "value")
    assert (error.path, error.expected, error.found) == (("domain", "users", "a b"), 5, 9)
    text = str(error)
    for part in ("CAS Version Mismatch", "domain.users['a b']", "5", "9", "commit 7", "'deposit'"):
        assert part in text


@pytest.mark.parametrize("reason", ["value", "absence", "keys", "content", "place"])
def test_each_reason_has_its_own_words(reason: str) -> None:
    text = str(errors.ConflictError(("domain",), 1, 2, None, reason))
    others = {"value", "absence", "keys", "content", "place"} - {reason}
    assert text.startswith("CAS Version Mismatch: domain ")
    assert text not in {str(errors.ConflictError(("domain",), 1, 2, None, r)) for r in others}


def test_tokens_that_programs_look_for() -> None:
    assert "Strict CAS Mismatch" in str(errors.ConflictError(None, 1, 2, None, "strict"))
    assert "System Busy" in str(errors.ConflictError(None, 1, 2, None, "busy"))
    assert "Schema Violation" in str(errors.SchemaViolationError("no", ("domain",), 1))
    refuse = errors.ContractViolationError
    assert "Illegal Read" in str(refuse.illegal_read(PATH, "p", ()))
    assert "Illegal Write" in str(refuse.illegal_write(PATH, "p", ()))
    assert "PURE process cannot write" in str(refuse.impure("write", PATH, "p"))


def test_a_refusal_names_what_to_add() -> None:
    error = errors.ContractViolationError.illegal_write(
        ("domain", "total"), "count", ("domain.seen",)
    )
    assert "'count'" in str(error)
    assert "'domain.seen'" in str(error)
    assert "add 'domain.total' to outputs" in str(error)
    assert (error.path, error.process, error.declared) == (
        ("domain", "total"),
        "count",
        ("domain.seen",),
    )


def test_an_os_error_by_base_has_no_errno() -> None:
    assert errors.WriteTimeoutError(5000, 6000).errno is None
    assert errors.ContractViolationError("no", PATH).errno is None


def test_the_refused_value_is_not_kept() -> None:
    class Big:
        pass

    error = errors.UnfreezableError(("domain",), Big)
    assert error.value_type.endswith("Big")
    assert Big not in vars(error).values()


def test_a_key_with_a_failing_repr_can_be_reported() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "Mute" in str(errors.PathError(("domain", Mute())))


def test_long_keys_are_cut() -> None:
    assert len(str(errors.PathError(("domain", "x" * 1000)))) < 200
