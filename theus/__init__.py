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

from typing import TYPE_CHECKING, Any

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
from theus.admin import AdminTransaction
from theus.conflict import ConflictManager, RetryDecision
from theus.contracts import ProcessContract, process
from theus.engine import TheusEngine
from theus.errors import (
    ArgumentError,
    ArrayChangedError,
    BadTokenError,
    BorrowedArrayError,
    BrokenPoolError,
    ClosedError,
    CodecError,
    ConflictError,
    ContextError,
    ContractViolationError,
    FrozenError,
    HeavyMemoryError,
    InterpreterImportError,
    LoanError,
    LockViolationError,
    MergeError,
    PathError,
    ProcessError,
    ProcessTimeoutError,
    RecordError,
    RemoteError,
    RingFullError,
    SchemaViolationError,
    SecurityViolationError,
    SendError,
    StaleArrayError,
    TaskInterrupted,
    TaskStoppedError,
    TheusError,
    TransactionError,
    UnfreezableError,
    UnknownArrayError,
    UnknownProcessError,
    VersionError,
    WaitTimeoutError,
    WorkerDied,
    WorkerTimeoutError,
    WriteTimeoutError,
)
from theus.interop import json_default
from theus.outbox import OutboxFailure, OutboxMsg, OutboxReport
from theus.paths import format_path, parse_path

__version__ = "0.1.0"

CORE_AVAILABLE = True
"""There is no theus without its C core: importing would have failed."""

# Made when somebody asks for them: the modules behind them load dataclasses or json.
_LATER = {
    "ArrayView": "theus.array_view",
    "BaseDomainContext": "theus.context",
    "BaseGlobalContext": "theus.context",
    "BaseSystemContext": "theus.context",
    "ContextGuard": "theus.guards",
    "InterpreterPool": "theus.pools.interpreter",
    "MetaLogEntry": "theus.structures",
    "NamespacePolicy": "theus.namespaces",
    "NamespaceRegistry": "theus.namespaces",
    "OutboxCollector": "theus.guards",
    "ProcessContext": "theus.guards",
    "ProcessPool": "theus.pools.process",
    "SupervisorCore": "theus.structures",
    "SupervisorProxy": "theus.engine",
    "TheusEncoder": "theus.interop",
    "ThreadPool": "theus.pools.thread",
    "clear_physics_overrides": "theus.zones",
    "register_physics_override": "theus.zones",
}

if TYPE_CHECKING:
    from theus.array_view import ArrayView
    from theus.context import BaseDomainContext, BaseGlobalContext, BaseSystemContext
    from theus.engine import SupervisorProxy
    from theus.guards import ContextGuard, OutboxCollector, ProcessContext
    from theus.interop import TheusEncoder
    from theus.namespaces import NamespacePolicy, NamespaceRegistry
    from theus.pools import InterpreterPool, ProcessPool, ThreadPool
    from theus.structures import MetaLogEntry, SupervisorCore
    from theus.zones import clear_physics_overrides, register_physics_override


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'theus' has no attribute {name!r}", name=name)
    from importlib import import_module

    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


__all__ = [
    "ArrayChangedError",
    "CORE_AVAILABLE",
    "DELETE",
    "MISSING",
    "SET",
    "AdminTransaction",
    "ArgumentError",
    "ArrayView",
    "BadTokenError",
    "BaseDomainContext",
    "BaseGlobalContext",
    "BaseSystemContext",
    "BorrowedArrayError",
    "BrokenPoolError",
    "Change",
    "ClosedError",
    "CodecError",
    "CommitRecord",
    "ConflictError",
    "ConflictManager",
    "ContextError",
    "ContextGuard",
    "ContractViolationError",
    "EngineStats",
    "FrozenDict",
    "FrozenError",
    "FrozenList",
    "FrozenSet",
    "HeavyMemoryError",
    "LoanError",
    "InterpreterImportError",
    "InterpreterPool",
    "LockViolationError",
    "MergeError",
    "MetaLogEntry",
    "NamespacePolicy",
    "NamespaceRegistry",
    "Opaque",
    "OutboxCollector",
    "OutboxFailure",
    "OutboxMsg",
    "OutboxReport",
    "PathError",
    "ProcessContext",
    "ProcessContract",
    "ProcessError",
    "ProcessPool",
    "ProcessTimeoutError",
    "RecordError",
    "RemoteError",
    "RetryDecision",
    "RingFullError",
    "SchemaViolationError",
    "SecurityViolationError",
    "SemanticType",
    "SendError",
    "StaleArrayError",
    "TaskStoppedError",
    "State",
    "StateUpdate",
    "SupervisorCore",
    "SupervisorProxy",
    "TaskInterrupted",
    "TheusEncoder",
    "TheusEngine",
    "TheusError",
    "ThreadPool",
    "Transaction",
    "TransactionError",
    "UnfreezableError",
    "UnknownArrayError",
    "UnknownProcessError",
    "VersionError",
    "WaitTimeoutError",
    "WorkerDied",
    "WorkerTimeoutError",
    "WriteTimeoutError",
    "__version__",
    "clear_physics_overrides",
    "format_path",
    "freeze",
    "json_default",
    "parse_path",
    "process",
    "register_physics_override",
    "thaw",
]
