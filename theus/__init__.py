"""Plain Python functions as transactions over one immutable, versioned state.

    from theus import TheusEngine

    engine = TheusEngine({"domain": {"count": 0}})

    def count_up(tx, by):
        tx.domain.count += by

    engine.run(count_up, 5)
    engine.state.domain["count"]        # 5

`theus.engine` has the engine, `theus.contracts` the @process decorator, `theus.errors`
everything that is raised.
"""

try:
    from theus._theus import (
        DELETE,
        MISSING,
        Change,
        CommitRecord,
        FrozenDict,
        FrozenList,
        FrozenSet,
        Opaque,
        State,
        Transaction,
        freeze,
        thaw,
    )
except ModuleNotFoundError as error:
    if error.name != "theus._theus":
        raise
    raise ModuleNotFoundError(
        f"there is no C module of theus for this Python in {__path__[0]}; if that is a clone, it "
        "hides the installed package: run python with -P, or in another folder",
        name=error.name,
    ) from None
from theus._types import SET, EngineStats, SemanticType, StateUpdate
from theus.conflict import ConflictManager, RetryDecision
from theus.contracts import ProcessContract, process
from theus.engine import TheusEngine
from theus.errors import (
    ArgumentError,
    ClosedError,
    ConflictError,
    ContextError,
    ContractViolationError,
    FrozenError,
    PathError,
    ProcessError,
    ProcessTimeoutError,
    RecordError,
    RingFullError,
    SchemaViolationError,
    SecurityViolationError,
    TheusError,
    TransactionError,
    UnfreezableError,
    UnknownProcessError,
    VersionError,
    WaitTimeoutError,
    WriteTimeoutError,
)
from theus.interop import json_default
from theus.outbox import OutboxFailure, OutboxMsg, OutboxReport
from theus.paths import format_path, parse_path

__version__ = "0.1.0"

CORE_AVAILABLE = True
"""There is no theus without its C core: importing would have failed."""

__all__ = [
    "CORE_AVAILABLE",
    "DELETE",
    "MISSING",
    "SET",
    "ArgumentError",
    "Change",
    "ClosedError",
    "CommitRecord",
    "ConflictError",
    "ConflictManager",
    "ContextError",
    "ContractViolationError",
    "EngineStats",
    "FrozenDict",
    "FrozenError",
    "FrozenList",
    "FrozenSet",
    "Opaque",
    "OutboxFailure",
    "OutboxMsg",
    "OutboxReport",
    "PathError",
    "ProcessContract",
    "ProcessError",
    "ProcessTimeoutError",
    "RecordError",
    "RetryDecision",
    "RingFullError",
    "SchemaViolationError",
    "SecurityViolationError",
    "SemanticType",
    "State",
    "StateUpdate",
    "TheusEngine",
    "TheusError",
    "Transaction",
    "TransactionError",
    "UnfreezableError",
    "UnknownProcessError",
    "VersionError",
    "WaitTimeoutError",
    "WriteTimeoutError",
    "__version__",
    "format_path",
    "freeze",
    "json_default",
    "parse_path",
    "process",
    "thaw",
]
