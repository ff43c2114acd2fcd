"""Ten programs as one wrote them for the theus before, and what they do here.

Each prints what it has found, and nothing else is printed. Where the earlier engine lost something,
the comment says what.
"""

from __future__ import annotations

import textwrap

import pytest

PROGRAMS: dict[str, tuple[str, str]] = {}


def program(name: str, text: str, printed: str) -> None:
    PROGRAMS[name] = (textwrap.dedent(text), textwrap.dedent(printed).lstrip("\n"))


program(
    "a dataclass context and an async main",
    """
    import asyncio
    from dataclasses import dataclass, field
    from theus import TheusEngine, process
    from theus.context import BaseDomainContext, BaseGlobalContext, BaseSystemContext

    @dataclass
    class Domain(BaseDomainContext):
        orders: list = field(default_factory=list)
        total: float = 0.0

    @dataclass
    class Global(BaseGlobalContext):
        vat: float = 0.2

    @process(inputs=["domain.orders"], outputs=["domain.orders"])
    async def create_order(ctx, price: float):
        orders = list(ctx.domain.orders)
        orders.append({"id": len(orders) + 1, "price": price})
        return orders

    @process(inputs=["domain.orders", "global.vat"], outputs=["domain.total"])
    def sum_up(ctx):
        vat = getattr(ctx, "global").vat
        return sum(order["price"] for order in ctx.domain.orders) * (1 + vat)

    async def main():
        engine = TheusEngine(BaseSystemContext(global_ctx=Global(), domain=Domain()))
        engine.register(create_order)
        engine.register(sum_up)
        await engine.execute("create_order", price=10)
        await engine.execute(create_order, price=20)
        print(round(await engine.execute("sum_up"), 2))
        print(engine.state.domain.total, len(engine.state.domain.orders), engine.state.version)
        engine.shutdown()

    asyncio.run(main())
    """,
    """
    36.0
    36.0 2 4
    """,
)

program(
    "documents saved in three styles",  # the earlier engine kept two of five
    """
    import asyncio
    from theus import TheusEngine, process
    from theus.structures import StateUpdate

    @process(inputs=["domain.documents"], outputs=["domain.documents"])
    async def save_new_dict(ctx, k, v):
        documents = dict(ctx.domain.documents)
        documents[k] = v
        return documents

    @process(inputs=["domain.documents"], outputs=["domain.documents"])
    async def save_by_proxy(ctx, k, v):
        ctx.domain.documents[k] = v
        return "ok"

    @process(inputs=[], outputs=["domain.documents.*"])
    async def save_by_update(ctx, k, v):
        return StateUpdate(key=f"domain.documents.{k}", val=v)

    async def main():
        engine = TheusEngine({"domain": {"documents": {}}})
        for number, save in enumerate([save_new_dict, save_by_proxy, save_by_update] * 2):
            result = await engine.execute(save, f"k{number}", {"n": number})
        print(sorted(engine.state.domain.documents))
        print(engine.state.data["domain"]["documents"]["k5"]["n"])

    asyncio.run(main())
    """,
    """
    ['k0', 'k1', 'k2', 'k3', 'k4', 'k5']
    5
    """,
)

program(
    "a loop of compare-and-swap with a conflict manager",
    """
    import threading, time
    from theus import ConflictManager, TheusEngine
    from theus.structures import ContextError

    engine = TheusEngine({"domain": {"count": 0}})
    manager = ConflictManager(max_retries=5, base_backoff_ms=2)

    def worker(name):
        for _ in range(25):
            while True:
                state = engine.state
                try:
                    count = state.domain["count"] + 1
                    engine.compare_and_swap(
                        state.version, data={"domain": {"count": count}}, requester=name
                    )
                except ContextError as error:
                    text = str(error)
                    assert "CAS Version Mismatch" in text or "System Busy" in text, text
                    decision = manager.report_conflict(name)
                    assert decision.should_retry
                    time.sleep(decision.wait_ms / 1000)
                else:
                    manager.report_success(name)
                    break

    threads = [threading.Thread(target=worker, args=(f"w{n}",)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(engine.state.domain["count"])
    """,
    """
    100
    """,
)

program(
    "a manual transaction with messages",
    """
    from theus import TheusEngine
    from theus.contracts import OutboxMsg

    engine = TheusEngine({"domain": {"stock": {"apples": 3, "pears": 2}}})
    sent = []
    engine.attach_worker(lambda msg: sent.append((msg.topic, msg.payload["left"])))

    with engine.transaction() as tx:
        tx.update(data={"domain": {"stock": {"apples": 2}}})
        tx.outbox.add(OutboxMsg(topic="sold", payload={"left": 2}))
    try:
        with engine.transaction() as tx:
            tx.update(data={"domain": {"stock": {"apples": 0}}})
            tx.outbox.add(OutboxMsg("sold", {"left": 0}))
            raise ValueError("card refused")
    except ValueError:
        pass
    engine.process_outbox()
    print(sent, engine.state.domain.stock.to_dict())
    """,
    """
    [('sold', 2)] {'apples': 2, 'pears': 2}
    """,
)

program(
    "refusals of a guard",
    """
    import asyncio
    from theus import TheusEngine, process, ContractViolationError
    from theus.engine import SecurityViolationError

    engine = TheusEngine({"domain": {"a": 1, "secret": "s3", "const_x": 1, "internal_k": "key"}})

    @process(inputs=["domain.a"], outputs=["domain.a"])
    def reads(ctx):
        return ctx.domain.secret

    @process(inputs=["domain"], outputs=["domain"])
    def writes(ctx):
        ctx.domain.const_x = 2

    @process(inputs=["domain.a"], outputs=["domain.a"], semantic="pure")
    def impure(ctx):
        ctx.domain.a = 5

    @process(inputs=["domain"], outputs=["domain.a"])
    def private(ctx):
        return ctx.domain.internal_k

    for body in (reads, writes, impure):
        try:
            asyncio.run(engine.execute(body))
        except (PermissionError, ContractViolationError, SecurityViolationError) as error:
            print(type(error).__name__, str(error).startswith(("Illegal", "PURE process cannot")))
    print(asyncio.run(engine.execute(private)), engine.state.domain.a)
    try:
        asyncio.run(engine.execute("no_such_process"))
    except ValueError as error:
        print("no_such_process" in str(error))
    """,
    """
    ContractViolationError True
    ContractViolationError True
    ContractViolationError True
    None 1
    True
    """,
)

program(
    "namespaces and zones",
    """
    from theus import TheusEngine, process
    from theus.context import NamespacePolicy, NamespaceRegistry
    from theus.zones import ContextZone, resolve_zone

    registry = NamespaceRegistry()
    registry.register("shop", NamespacePolicy(allow_delete=False), {"rows": [], "bal": 1})
    engine = TheusEngine({"domain": {"log_events": []}}, namespaces=registry)

    @process(inputs=["shop"], outputs=["shop.rows", "shop.bal", "domain.log_events"])
    def sell(ctx, fails):
        ctx.shop.rows.append("apple")
        ctx.shop.bal = 42
        ctx.domain.log_events.append("sold")
        if fails:
            raise RuntimeError("no money")

    try:
        engine.run_process(sell, True)
    except RuntimeError:
        print(engine.state.shop.to_dict(), engine.version)
    engine.run_process(sell, False)
    print(engine.state.shop.to_dict(), list(engine.state.domain.log_events))
    print(resolve_zone("log_events") is ContextZone.LOG, resolve_zone("x") is ContextZone.DATA)
    """,
    """
    {'rows': [], 'bal': 1} 1
    {'rows': ['apple'], 'bal': 42} ['sold']
    True True
    """,
)

program(
    "an admin cleans up",  # any process could let itself in
    """
    from theus import TheusEngine, process
    from theus.contracts import AdminTransaction

    engine = TheusEngine({"domain": {"log_events": ["old"], "internal_key": "k"}})

    @process(inputs=["domain"], outputs=["domain.log_events"])
    def purge(ctx):
        with AdminTransaction(ctx, reason="retention"):
            ctx.domain.log_events.clear()
            return_value = ctx.domain.internal_key
        return None

    try:
        engine.run_process(purge)
    except PermissionError as error:
        print("allow_admin" in str(error))
    engine.allow_admin(purge)
    engine.run_process(purge)
    print(list(engine.state.domain.log_events), engine.admin_log()[-1].reason)
    """,
    """
    True
    [] retention
    """,
)

program(
    "one edit and one strict engine",  # edit() kept what a failed block had written
    """
    from theus import TheusEngine
    from theus.structures import ContextError

    engine = TheusEngine({"domain": {"a": 0}}, strict_mode=True, strict_cas=True)
    try:
        with engine.edit() as ctx:
            ctx.domain.a = 5
            raise KeyError("changed my mind")
    except KeyError:
        print(engine.state.domain.a)
    with engine.edit() as ctx:
        ctx.domain.a = 6
    try:
        engine.compare_and_swap(1, data={"domain": {"b": 1}})
    except ContextError as error:
        print("Strict CAS Mismatch" in str(error))
    print(engine.state.domain.to_dict(), engine.strict_guards)
    """,
    """
    0
    True
    {'a': 6} True
    """,
)

program(
    "a plain object as context, and JSON of the state",
    """
    import json
    from theus import TheusEngine, TheusEncoder, process

    class Domain:
        def __init__(self):
            self.counter = 0
            self.tags = {"new"}
            self._cache = object()

    class System:
        def __init__(self):
            self.domain = Domain()
            self.global_ctx = {"limit": 3}

    engine = TheusEngine(System())

    @process(inputs=["domain.counter", "global.limit"], outputs=["domain.counter"])
    def count(ctx):
        if ctx.domain.counter < ctx.global_ctx["limit"]:
            ctx.domain.counter += 1
        ctx.log(f"counter is {ctx.domain.counter}")

    for _ in range(5):
        engine.run_process(count)
    print(json.dumps(engine.state.domain, cls=TheusEncoder))
    """,
    """
    {"counter": 3, "tags": ["new"]}
    """,
)

program(
    "an array in shared memory",  # a slice arrived as the first bytes of the whole
    """
    import pickle
    import numpy as np
    from theus import TheusEngine
    from theus.context import HeavyZoneAllocator, SafeSharedMemory, rebuild_shm_array

    engine = TheusEngine({"domain": {}})
    arr = engine.heavy.alloc("weights", shape=(8,), dtype=np.float32)
    arr[:] = np.arange(8)
    print(pickle.loads(pickle.dumps(arr[5:8])).tolist())
    print(float(pickle.loads(pickle.dumps(arr.sum()))))
    print(rebuild_shm_array(arr.shm.name, (8,), np.float32)[3])
    try:
        SafeSharedMemory(arr.shm.name).unlink()
    except PermissionError:
        print("only its owner frees it")
    with engine.transaction() as tx:
        tx.update(heavy={"weights": arr})
    print(engine.state.heavy["weights"].sum())
    engine.heavy.cleanup()
    print(arr[1])
    own = HeavyZoneAllocator()
    print(own.alloc("k", (2, 2), "int64").tolist())
    own.cleanup()
    engine.shutdown()
    """,
    """
    [5.0, 6.0, 7.0]
    28.0
    3.0
    only its owner frees it
    28.0
    1.0
    [[0, 0], [0, 0]]
    """,
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_old_program_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, printed = PROGRAMS[name]
    if "numpy" in text:
        pytest.importorskip("numpy")
    exec(compile(text, name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr() == (printed, "")


def test_there_are_ten() -> None:
    assert len(PROGRAMS) == 10
