"""What older programs import: every name of their packages, where it was, with its arguments.

Each row is a module, a name, and a call as an old program would make it. What belongs to a part
that this version does not have is absent, so that `hasattr` and `except ImportError` tell
the truth; when such a part comes, its rows move up.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from importlib import import_module
from typing import Any

import pytest

import theus
from theus import OutboxMsg, State, TheusEngine, process
from theus.errors import (
    BorrowedArrayError,
    ContractViolationError,
    StaleArrayError,
    TheusError,
    TransactionError,
    UnfreezableError,
)

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

needs_numpy = pytest.mark.skipif(numpy is None, reason="NumPy is not installed")

# module, name, call; in it X is what was imported, and there are an engine, an open transaction tx,
# and its state
WORKS = """
theus            TheusEngine          X(context=None, namespaces=None, strict_guards=True, \
                                        strict_cas=False, audit_recipe=None, \
                                        write_timeout_ms=None)
theus            TheusEngine          X({"domain": {}}, None, True, False, None, 500)
theus            TheusEngine          X(strict_mode=False)
theus            process              X(inputs=["domain.a"], outputs=[], semantic="effect", \
                                        errors=None, side_effects=None, parallel=False)(len)
theus            ContractViolationError  X("refused")
theus            SchemaViolationError    X("Schema Violation")
theus            CORE_AVAILABLE       bool(X)
theus            __version__          X.split(".")
theus            BaseSystemContext    X(global_ctx=None, domain=None)
theus            BaseGlobalContext    X()
theus            BaseDomainContext    X()
theus            TheusEncoder         X().encode({})
theus            Transaction          X(engine=engine, write_timeout_ms=5000)
theus            Transaction          X()
theus            OutboxCollector      X
theus            State                X(data=None, heavy=None, signal=None, version=1, \
                                        meta_capacity=1000)
theus.parallel   ParallelContext      X({"a": 1}, heavy=None).input["a"]
theus.parallel   ParallelContext      X.from_state(state, a=1).domain["a"]
theus.parallel   ProcessPool          X
theus.parallel   INTERPRETERS_SUPPORTED  X
theus            ProcessContext       X(state=state, local={}, tx=None)
theus            ProcessContext       X(state, {}, tx)
theus            FrozenDict           X({"a": 1})
theus            OutboxMsg            X(topic="mail", payload={"to": "ann"})
theus            MetaLogEntry         X((1.0, "key", "message"))
theus            ContextGuard         X({"domain": {"a": 1}}, ["domain.a"], [])
theus            SupervisorProxy      X({"domain": {"a": 1}}, ["domain.a"])
theus            SupervisorCore       X()
theus            ConflictManager      X(max_retries=5, base_backoff_ms=2)
theus            RetryDecision        X(should_retry=True, wait_ms=2)
theus            register_physics_override   X("domain.old_names_test", 3)
theus            clear_physics_overrides     X()
theus.engine     TheusEngine          X()
theus.engine     TransactionError     X("no")
theus.engine     SecurityViolationError  X("no")
theus.engine     SupervisorProxy      X(target_obj=tx, allowed_inputs=["domain.a"], \
                                        allowed_outputs=["domain.a"], path_prefix="", \
                                        transaction=tx, strict_guards=True, process_name="p")
theus.engine     RestrictedStateProxy    X
theus.engine     FilteredDomainProxy     X
theus.contracts  process              X(len)
theus.contracts  ProcessContract      X(inputs=[], outputs=[], semantic="pure", errors=[], \
                                        side_effects=[], parallel=False)
theus.contracts  SemanticType         X("pure") == "pure"
theus.contracts  ContractViolationError  X("no")
theus.contracts  OutboxMsg            X("topic", 1)
theus.contracts  AdminTransaction     X(None)
theus.structures State                X({"domain": {}}).update(data={"domain": {"a": 1}}, \
                                        heavy=None, signal=None)
theus.structures State                X().restrict_view()
theus.structures State                X().log_meta("key", "message")
theus.structures State                X().get_meta_logs()
theus.structures FrozenDict           X({}).to_dict()
theus.structures ContextError         X("CAS Version Mismatch")
theus.structures StateUpdate          X(key="domain.a", val=1, data=None, heavy=None, \
                                        signal=None, assert_version=None)
theus.structures FunctionResult       X(val=1, key="domain.a")
theus.context    BaseSystemContext    X(None, None)
theus.context    BaseDomainContext    X()
theus.context    BaseGlobalContext    X()
theus.context    LockedContextMixin   X().to_dict(exclude_zones=None)
theus.context    TransactionError     X("no")
theus.context    NamespacePolicy      X(allow_read=True, allow_update=True, allow_delete=False, \
                                        allow_append=True)
theus.context    NamespaceRegistry    X().register("shop", policy=None, default_data={})
theus.context    Namespace            X(dict, policy=None)
theus.context    Mutable              X
theus.context    AppendOnly           X
theus.context    Immutable            X
theus.context    PYTHON_PHYSICS_OVERRIDES   dict(X)
theus.guards     ContextGuard         X(tx, None, None)
theus.zones      ContextZone          X["DATA"], X["SIGNAL"], X["META"], X["HEAVY"], X["LOG"]
theus.zones      resolve_zone         X("log_x")
theus.zones      PREFIX_SIGNAL        list(X)
theus.zones      PREFIX_META          X
theus.zones      PREFIX_HEAVY         X
theus.zones      PREFIX_LOG           X
theus.locks      LockManager          X(strict_guards=False).unlock()
theus.locks      LockManager          X(strict_mode=True).validate_write
theus.locks      LockViolationError   X("name", "Type")
theus.interop    TheusEncoder         X()
theus.interop    get_pydantic_config  X()
"""

WORKS_ON_ARRAYS = """
theus.structures ManagedAllocator     X(capacity_mb=16, session_id=None).alloc("k", (2, 2), "int32")
theus.structures ManagedAllocator     X(16, "mine")
theus.structures ShmArray             X(input_array=numpy.zeros(3), shm=None)
theus.context    ShmArray             X(array, array.shm)
theus.context    HeavyZoneAllocator   X().alloc(key="k", shape=(2,), dtype="int32")
theus.context    HeavyZoneWrapper     X({"a": 1})["a"]
theus.context    SafeSharedMemory     X(array.shm.name).name
theus.context    rebuild_shm_array    X(name=array.shm.name, shape=(4,), dtype="int32")
theus.shm        BufferDescriptor     X(name=array.shm.name, size=16, shape=(4,), dtype="int32")
"""

LATER = {
    "audit": "theus.audit theus.config theus.validator theus.AuditSystem theus.AuditRecipe "
    "theus.AuditLevel theus.AuditLogEntry theus.ConfigLoader",
    "signals": "theus.SignalHub theus.SignalReceiver",
    "flux": "theus.workflow theus.WorkflowEngine theus.FSMState theus.orchestrator "
    "theus.interfaces",
    "cli": "theus.schema_gen theus.linter",
    "nobody: an operation log that nothing used": "theus.delta",
}

# An old call, the exception, and what its message says to do.
REFUSED = {
    "X({}, [], ['domain.a'])": (TransactionError, "needs a transaction"),
    "X({'a': 1}, ['a'], [], 'domain')": (ValueError, "paths are whole"),
    "X({}, transaction=tx)": (TypeError, "shows the state of that transaction"),
    "X({}, 'domain.a')": (TypeError, r"write \['domain.a'\]"),
    "X({'domain': object()})": (UnfreezableError, "domain"),
    "X({}, [], [], is_admin=True)": (TypeError, "is_admin"),
}


def rows(table: str) -> list[tuple[str, str, str]]:
    return [tuple(line.split(None, 2)) for line in table.strip().splitlines()]  # type: ignore[misc]


def call(module: str, name: str, expression: str, **names: Any) -> Any:
    space: dict[str, Any] = {}
    exec(f"from {module} import {name} as X", space)  # as a program does
    engine = TheusEngine({"domain": {"a": 1}})
    with engine.transaction() as tx:
        return eval(expression, {**space, **names, "engine": engine, "tx": tx, "state": tx.state})


@pytest.mark.parametrize(
    ("module", "name", "expression"), rows(WORKS), ids=lambda text: text.split("(")[0]
)
def test_a_name_is_where_it_was_and_takes_what_it_took(
    module: str, name: str, expression: str
) -> None:
    call(module, name, expression)
    assert name in dir(import_module(module)) or name in import_module(module).__all__


@needs_numpy
def test_names_of_shared_arrays() -> None:
    with TheusEngine() as engine:
        array = engine.heavy.alloc("a", 4, "int32")
        for module, name, expression in rows(WORKS_ON_ARRAYS):
            call(module, name, expression, numpy=numpy, array=array)


def test_what_is_not_here_yet_is_absent() -> None:
    for part, names in LATER.items():
        for name in names.split():
            above, _, last = name.rpartition(".")
            with pytest.raises(ImportError):
                exec(f"from {above} import {last}", {})
            assert not hasattr(theus, last), part


@pytest.mark.parametrize("expression", REFUSED)
def test_what_a_guard_made_by_hand_cannot_be(expression: str) -> None:
    kind, message = REFUSED[expression]
    with pytest.raises(kind, match=message):
        call("theus.guards", "ContextGuard", expression)


# ---- exceptions: name, what an old `except` may say, one that is raised ----------------


EXCEPTIONS = {
    "ContextError": Exception,
    "WriteTimeoutError": TimeoutError,
    "SchemaViolationError": Exception,
    "ContractViolationError": PermissionError,
    "SecurityViolationError": PermissionError,
    "LockViolationError": Exception,
    "TransactionError": Exception,
}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_have_their_old_bases(name: str) -> None:
    kind = getattr(import_module("theus.errors"), name)
    assert issubclass(kind, EXCEPTIONS[name]) and issubclass(kind, TheusError)


# ---- the engine ------------------------------------------------------------------------

OLD_CALLS = """
engine.register(func=grow)
engine.execute("grow", by=1).close()
engine.execute(grow, 1).close()
engine.transaction(write_timeout_ms=5000)
engine.compare_and_swap(expected_version=1, data=None, heavy=None, signal=None, requester="me")
engine.compare_and_swap(engine.version, {"domain": {"a": 2}})
engine.edit()
engine.attach_worker(print)
engine.process_outbox()
engine.shutdown()
engine.state.version, engine.state.data, engine.state.heavy, engine.state.signals
engine.state.domain, getattr(engine.state, "global")
engine.strict_guards, engine.strict_cas
engine.log("some", 5)
"""


@pytest.mark.parametrize("expression", OLD_CALLS.strip().splitlines())
def test_an_engine_has_its_old_methods(expression: str) -> None:
    engine = TheusEngine({"domain": {"a": 1}, "global": {}})

    @process(inputs=["domain.a"], outputs=["domain.a"])
    async def grow(ctx: Any, by: int) -> int:
        return int(ctx.domain.a) + by

    engine.register(grow)
    eval(expression, {"engine": engine, "grow": grow})


def test_an_engine_that_is_shut_down_is_closed() -> None:
    engine = TheusEngine({"domain": {"a": 1}})
    engine.shutdown()
    engine.shutdown()
    assert engine.closed and engine.state.domain.a == 1


def test_an_engine_logs_and_prints_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = TheusEngine()
    with caplog.at_level(logging.INFO, "theus"):
        engine.log("sold", 5, "%d apples")
        engine.log()
    assert [record.getMessage() for record in caplog.records] == ["sold 5 %d apples", ""]
    assert caplog.records[0].funcName == "test_an_engine_logs_and_prints_nothing"
    assert capsys.readouterr() == ("", "")


def test_the_old_setters_set_what_is_in_force() -> None:
    engine = TheusEngine({"domain": {"a": 0, "b": 0}})
    engine.set_strict_cas(True)
    assert engine.strict_cas is True
    engine.run(lambda tx: tx.set("domain.a", 1))
    with pytest.raises(theus.ContextError, match="Strict CAS Mismatch"):
        engine.compare_and_swap(1, {"domain": {"b": 1}})
    engine.set_strict_guards(False)
    assert engine.strict_guards is False and engine.strict_mode is False
    assert engine.run_process(process(lambda ctx: ctx.domain.a)) == 1


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("commit_state", "restore"),
        ("execute_process_async", "await execute"),
        ("execute_workflow", "workflows"),
        ("scan_and_register", "register"),
        ("set_schema", "schemas"),
        ("set_audit_system", "audits"),
        ("outbox", "process_outbox"),
        ("report_conflict", "ConflictManager"),
        ("report_success", "ConflictManager"),
        ("no_such_thing", "no attribute"),
    ],
)
def test_what_an_engine_has_not_says_what_to_use(name: str, advice: str) -> None:
    engine = TheusEngine()
    assert not hasattr(engine, name) and name not in dir(engine)
    with pytest.raises(AttributeError, match=advice) as caught:
        getattr(engine, name)
    assert caught.value.name == name and caught.value.obj is engine


# ---- the context -----------------------------------------------------------------------


def test_a_context_has_its_old_attributes() -> None:
    engine = TheusEngine({"domain": {"a": 1}, "global": {"g": 2}})

    @process(inputs=["domain.a", "global.g"], outputs=["domain.a"])
    def body(ctx: Any) -> None:
        assert ctx.tx is ctx.transaction and ctx.tx.version == 1
        assert ctx.data["domain"]["a"] == 1 and ctx.data["global"]["g"] == 2
        assert ctx.domain_ctx.a == ctx.global_ctx.g - 1 == 1
        ctx.data["domain"]["a"] = 5
        assert ctx.domain.a == 5
        ctx.local["x"] = 1
        ctx.outbox.add(OutboxMsg("mail", {"n": 1}))
        ctx.tx.outbox.add(OutboxMsg("mail", {"n": 2}))
        ctx.log("a message")
        assert len(ctx.outbox) == 2

    engine.run_process(body)
    got: list[Any] = []
    engine.attach_worker(lambda message: got.append(message.payload["n"]))
    engine.process_outbox()
    assert got == [1, 2] and engine.state.domain.a == 5


@pytest.mark.parametrize("semantic", ["effect", "pure", "guide"])
def test_data_is_held_to_the_contract(semantic: str) -> None:
    """As every other way to the state: reading by item, asking, walking, copying, and writing."""
    engine = TheusEngine({"domain": {"a": 1, "b": 2}, "shop": {"x": 1}})
    refused = [
        lambda data: data["shop"],
        lambda data: data["domain"]["b"],
        lambda data: data.get("shop"),
        lambda data: "shop" in data,
        lambda data: dict(data),
        lambda data: list(data.items()),
        lambda data: data.copy(),
        lambda data: copy.deepcopy(data),
        lambda data: pickle.dumps(data),
        lambda data: data == {},
    ]
    writes = [
        lambda data: data.update(shop={}),
        lambda data: data.pop("shop"),
        lambda data: data.clear(),
        lambda data: data["domain"].update(b=3),
        lambda data: data.__setitem__("new", {}),
    ]
    for act in writes if semantic == "guide" else refused + writes:

        @process(inputs=["domain.a"], semantic=semantic)
        def body(ctx: Any, act: Any = act) -> Any:
            return act(ctx.data)

        with pytest.raises(ContractViolationError):
            engine.run_process(body)
    assert engine.version == 1


def test_data_shows_no_private_field() -> None:
    engine = TheusEngine({"domain": {"a": 1, "internal_s": "secret"}, "n": 5, "rows": [{}]})
    shown = {"domain": {"a": 1}, "n": 5, "rows": [{}]}

    @process(semantic="guide")
    def body(ctx: Any) -> None:
        data = ctx.data
        assert data["domain"]["internal_s"] is None
        for copied in (data.copy(), copy.deepcopy(data), data.freeze(), data.to_dict()):
            assert copied == shown
        assert pickle.loads(pickle.dumps(data)) == shown and data == shown
        assert "secret" not in repr(data) + repr(data.items()) + repr(data.values())

    engine.run_process(body)


def test_roots_come_and_go_through_data() -> None:
    engine = TheusEngine({"domain": {"a": 1}, "shop": {"x": 1}})

    def body(ctx: Any) -> None:
        data = ctx.data
        data["fresh"] = {"rows": []}
        data["fresh"]["rows"].append(1)
        data |= {"more": 5}
        assert data.pop("shop") == {"x": 1} and ctx.fresh.rows == [1]
        assert data.popitem() == ("more", 5)
        with pytest.raises(theus.PathError, match="remove its roots by name"):
            data.clear()

    engine.run_process(body)
    assert engine.state.to_dict() == {"domain": {"a": 1}, "fresh": {"rows": [1]}}


def test_a_root_of_an_old_name_is_reached_by_item() -> None:
    engine = TheusEngine({"data": {"a": 1}, "tx": {"b": 2}})

    @process(inputs=["data", "tx"])
    def body(ctx: Any) -> tuple[int, int]:
        assert "data" in ctx.data
        return ctx["data"].a, ctx["tx"].b

    assert engine.run_process(body) == (1, 2)


# ---- contexts and guards made by hand --------------------------------------------------


def test_a_function_is_called_with_a_context_made_by_hand() -> None:
    @process(inputs=["domain.prices"])
    def total(ctx: Any) -> int:
        ctx.log("summing")
        return sum(ctx.domain.prices) + ctx.local["more"]

    for state in ({"domain": {"prices": [2, 3]}}, State({"domain": {"prices": [2, 3]}})):
        ctx = theus.ProcessContext(state, {"more": 1})
        assert total(ctx) == 6
        assert isinstance(ctx, theus.ProcessContext) and isinstance(ctx, theus.ContextGuard)
        for write in (
            lambda ctx: setattr(ctx.domain, "prices", []),
            lambda ctx: ctx.domain.clear(),
            lambda ctx: ctx.outbox,
            lambda ctx: ctx.tx,
        ):
            with pytest.raises(PermissionError, match="without a transaction"):
                write(ctx)


def test_a_context_made_by_hand_joins_nothing() -> None:
    engine = TheusEngine({"domain": {"a": 1}})

    def body(tx: Any) -> int:
        ctx = theus.ProcessContext({"domain": {"a": 10}})
        assert engine.current() is tx
        tx.domain.a += ctx.domain.a
        return int(ctx.domain.a)

    assert engine.run(body) == 10 and engine.state.domain.a == 11 and engine.current() is None


def test_a_guard_on_a_transaction_holds_all_of_it() -> None:
    engine = TheusEngine({"domain": {"a": 1, "b": 1}})
    with engine.transaction() as tx:
        guard = theus.ContextGuard(tx, ["domain"], ["domain.a"], process_name="mine")
        guard.domain.a = guard.domain.b + 1
        assert guard.tx is tx
    assert engine.state.domain == {"a": 2, "b": 1}
    for write in (
        lambda tx, guard: setattr(guard.domain, "b", 5),
        lambda tx, guard: tx.set("domain.b", 5),
        lambda tx, guard: setattr(theus.ProcessContext(None, None, tx).domain, "b", 5),
        lambda tx, guard: setattr(theus.ContextGuard(tx).domain, "b", 5),
    ):
        with (
            pytest.raises(ContractViolationError, match=r"'mine' wrote domain\.b"),
            engine.transaction() as tx,
        ):
            guard = theus.ContextGuard(tx, ["domain"], ["domain.a"], process_name="mine")
            guard.domain.a = 7
            with pytest.raises(ContractViolationError):
                write(tx, guard)  # swallowed, and nothing is committed all the same
    assert engine.state.domain == {"a": 2, "b": 1}


def refused_and_swallowed(tx: Any) -> None:
    guard = theus.ContextGuard(tx, ["domain"], ["domain.a"], process_name="mine")
    with pytest.raises(ContractViolationError):
        guard.domain.b = 5


@pytest.mark.parametrize("read_only", [False, True])
def test_a_guard_that_only_refused_fails_its_block(read_only: bool) -> None:
    """As it fails a process: although nothing was written, and the exception is swallowed."""
    engine = TheusEngine({"domain": {"a": 1, "b": 1}})
    with (
        pytest.raises(ContractViolationError, match=r"domain\.b"),
        engine.transaction(read_only=read_only) as tx,
    ):
        refused_and_swallowed(tx)
    with pytest.raises(ContractViolationError, match=r"'mine' wrote domain\.b"):
        engine.run(refused_and_swallowed)
    with engine.transaction() as outer:
        outer.set("domain.b", 2)
        with pytest.raises(ContractViolationError), engine.transaction() as inner:
            inner.set("domain.a", 9)  # undone: it is the block of that guard that fails
            refused_and_swallowed(inner)
    assert engine.state.domain == {"a": 1, "b": 2}


@pytest.mark.parametrize("mine", [False, True])
def test_a_refusal_in_a_block_fails_whoever_was_refused(mine: bool) -> None:
    """The guard that the block has made fails the block; the contract of the process all of it."""
    engine = TheusEngine({"domain": {"a": 1, "b": 1}})

    @theus.process(inputs=["domain"], outputs=["domain.a"])
    def body(ctx: Any) -> None:
        ctx.domain.a = 2
        with pytest.raises(ContractViolationError), engine.transaction() as inner:
            refused_and_swallowed(inner)
            if mine:
                ctx.domain.b = 5

    if mine:
        with pytest.raises(ContractViolationError, match=r"'body' wrote domain\.b"):
            engine.run_process(body)
    else:
        engine.run_process(body)
    assert engine.state.domain == {"a": 1 if mine else 2, "b": 1}


def test_a_guard_made_by_hand_opens_no_admin_scope() -> None:
    engine = TheusEngine({"domain": {"internal_s": "secret"}})

    def allowed(ctx: Any) -> None:
        """Somebody whom the engine lets in."""

    engine.allow_admin(allowed)
    with engine.transaction() as tx:
        guard = theus.ContextGuard(tx, process_name="allowed")
        assert guard.domain.internal_s is None
        with (
            pytest.raises(ContractViolationError, match="allow_admin"),
            theus.AdminTransaction(guard, reason="curious"),
        ):
            pass


def test_the_outbox_is_no_ones_to_make() -> None:
    engine = TheusEngine()
    with engine.transaction() as tx:
        assert isinstance(tx.outbox, theus.OutboxCollector)
    with pytest.raises(TypeError):
        theus.OutboxCollector()


def test_a_keyed_store_counts_its_versions() -> None:
    store = theus.SupervisorCore()
    store.write("a", None)
    store.write("b", [1])
    store.write("b", [2])
    assert (store.read("b"), store.get_version("b"), store.get_version("a")) == ([2], 1, 0)
    assert store.contains("a") and store.keys() == ["a", "b"] and store.read("c") is None
    assert store.remove("a") and not store.remove("a") and store.get_version("a") is None


# ---- contexts that are plain objects ---------------------------------------------------


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Dumps:
    def __init__(self, way: str, result: Any) -> None:
        setattr(self, way, lambda: result)


@pytest.mark.parametrize("way", ["to_dict", "model_dump", "dict"])
def test_an_object_may_say_itself_what_its_roots_are(way: str) -> None:
    engine = TheusEngine(Dumps(way, {"domain": {"a": 1}, "global_ctx": {"b": 2}, "extra": 3}))
    assert engine.state.to_dict() == {"domain": {"a": 1}, "global": {"b": 2}, "extra": 3}
    with pytest.raises(TypeError, match=way):
        TheusEngine(Dumps(way, 5))


def test_the_attributes_of_an_object_are_its_roots() -> None:
    rows = [1, {"x": 2}]
    context = Plain(
        domain=Plain(rows=rows, inner=Plain(n=1), log_l=["made"], _hidden=object()),
        global_ctx=Plain(),
        orders=[1],
        _own=object(),
    )
    engine = TheusEngine(context)
    assert engine.state.to_dict() == {
        "domain": {"rows": [1, {"x": 2}], "inner": {"n": 1}, "log_l": ["made"]},
        "global": {}, "orders": [1],
    }  # fmt: skip
    rows.append(3)
    assert len(engine.state.domain.rows) == 2


def test_objects_that_are_no_context_are_refused() -> None:
    loop = Plain(domain=Plain())
    loop.domain.up = loop
    with pytest.raises(ValueError, match="contains itself"):
        TheusEngine(loop)
    for wrong in (5, "text", [1], object(), Plain, len, theus, TheusEngine(), ValueError("x")):
        with pytest.raises(TypeError, match="the initial state is"):
            TheusEngine(wrong)
    with pytest.raises(UnfreezableError, match=r"domain\.rows"):
        TheusEngine(Plain(domain=Plain(rows=[Plain(a=1)])))


# ---- shared arrays by their old names --------------------------------------------------


@needs_numpy
def test_a_descriptor_travels_and_is_opened() -> None:
    from theus.shm import BufferDescriptor, HeavyZoneWrapper, rebuild_shm_array

    with TheusEngine() as engine:
        array = engine.heavy.alloc("frame", (4, 6), "int32")
        array[:] = numpy.arange(24).reshape(4, 6)
        part = array[1:3, ::-2]
        descriptor = pickle.loads(pickle.dumps(BufferDescriptor.of(part)))
        assert len(pickle.dumps(descriptor)) < 1024
        assert descriptor.open().tolist() == part.tolist()
        by_name = BufferDescriptor(array.shm.name, array.nbytes, (24,), "int32")
        assert by_name.open().tolist() == list(range(24))
        assert rebuild_shm_array(array.shm.name, 3, "int32").tolist() == [0, 1, 2]
        with pytest.raises(ValueError, match="takes 400"):
            rebuild_shm_array(array.shm.name, (100,), "int32")

        zone = HeavyZoneWrapper({"part": descriptor, "n": 5}, other=None)
        assert zone["part"] is zone.part is zone.get("part") is dict(zone.items())["part"]
        assert zone.n == 5 and "other" in zone and zone.get("missing", 1) == 1
        zone["part"] = by_name
        assert zone.part.shape == (24,) and len(zone.values()) == 3
        assert pickle.loads(pickle.dumps(zone)).part.tolist() == list(range(24))
        with pytest.raises(AttributeError, match="missing"):
            _ = zone.missing

        engine.heavy.free("frame")
        for gone in (descriptor.open, by_name.open, lambda: BufferDescriptor.of(array)):
            with pytest.raises(StaleArrayError):
                gone()
        with pytest.raises(ValueError, match="ordinary memory"):
            BufferDescriptor.of(numpy.zeros(3))  # type: ignore[arg-type]


@needs_numpy
def test_memory_seen_by_name_is_read_only() -> None:
    from theus.context import HeavyZoneAllocator, SafeSharedMemory, ShmArray

    allocator = HeavyZoneAllocator()
    array = allocator.alloc("k", 4, "uint8")
    memory = SafeSharedMemory(array.shm.name)
    array[:] = 7
    assert memory.name == array.shm.name and memory.size >= 4
    assert bytes(memory.buf[:4]) == b"\7\7\7\7" and memory.buf.readonly
    with pytest.raises(PermissionError) as caught:
        memory.unlink()
    assert isinstance(caught.value, BorrowedArrayError)
    view = memory.buf
    memory.close()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        _ = memory.size
    assert view[0] == 7
    assert isinstance(ShmArray(numpy.zeros(3)), ShmArray) and ShmArray(numpy.zeros(3)).shm is None
    with pytest.raises(ValueError, match="do not lie"):
        ShmArray(numpy.zeros(3), array.shm)
    allocator.cleanup()
    with pytest.raises(StaleArrayError):
        SafeSharedMemory(array.shm.name)


@needs_numpy
def test_an_array_is_read_as_another_shape_and_type() -> None:
    with TheusEngine() as engine:
        array = engine.heavy.alloc("k", (2, 2), "int32")
        array[:] = [[1, 2], [3, 4]]
        assert engine.heavy.get("k", (4,)).tolist() == [1, 2, 3, 4]
        assert engine.heavy.get("k", dtype="int16").shape == (8,)
        assert engine.heavy.get("k", shape=2, dtype="int64").shape == (2,)
        for wrong in ({"shape": 5}, {"shape": 3, "dtype": "int64"}):
            with pytest.raises(ValueError, match="has 16 bytes"):
                engine.heavy.get("k", **wrong)
        with pytest.raises(TypeError, match="Python objects"):
            engine.heavy.get("k", 1, object)


# ---- old programs wait, too ------------------------------------------------------------


def test_execute_takes_a_name_or_a_function_and_refuses_an_unknown_name() -> None:
    engine = TheusEngine({"domain": {"a": 1}})

    @process(inputs=["domain.a"], outputs=["domain.a"])
    def grow(ctx: Any, by: int) -> int:
        return int(ctx.domain.a) + by

    engine.register(grow)
    assert asyncio.run(engine.execute("grow", 1)) == 2
    assert asyncio.run(engine.execute(grow, by=2)) == 4
    with pytest.raises(ValueError, match="grwo"):
        asyncio.run(engine.execute("grwo"))
