"""References in balance: every public operation, and every way it fails, over and over.

Needs a Python that counts all references (`--with-pydebug`). Each method of each
type is called with all arguments of a pool; most calls fail, and that is the point. The first
rounds fill caches; after that the total stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import theus
from counting import SLACK, WINDOW, drift, fails
from theus import ConflictError, FrozenDict, Opaque, State, TheusEngine, freeze, process
from theus._theus import SharedBlock, SharedZone, abandon, take_loan

if not hasattr(sys, "gettotalrefcount"):
    pytest.skip("this Python does not count references", allow_module_level=True)

# ---- the pool ---------------------------------------------------------------------------


class Boom(Exception):
    pass


class Bad:
    """A key and value that fails whatever is asked of it."""

    def __hash__(self) -> int:
        raise Boom

    def __eq__(self, other: object) -> bool:
        raise Boom

    def __iter__(self) -> Iterator[Any]:
        raise Boom

    def __index__(self) -> int:
        raise Boom


class Sly:
    """Hashes like 'n' and fails where it is compared."""

    def __hash__(self) -> int:
        return hash("n")

    def __eq__(self, other: object) -> bool:
        raise Boom


def boom(*args: Any, **kwargs: Any) -> Any:
    raise Boom


def one(*args: Any) -> Any:
    return 1


AT = ("d", "n")
POOL: tuple[tuple[Any, ...], ...] = (
    (),
    (None,),
    (0,),
    (-1,),
    (99,),
    (slice(0, 2),),
    ("n",),
    ("missing",),
    (AT,),
    (("d", "missing", "deeper"),),
    ("d.n",),
    ("d..",),
    ([1, 2],),
    ([3, object()],),
    ({"n": 2},),
    ({"n": object()},),
    ({"d": {"n": 3}},),
    ({1, 2},),
    (freeze({"n": [1]}),),
    (Bad(),),
    (Sly(),),
    (boom,),
    (one,),
    ("n", 1),
    ("n", "text"),
    ("n", object()),
    (0, 1),
    (slice(0, 1), [7, 8]),
    (AT, 1),
    (AT, object()),
    (AT, [1, {"a": 2}]),
    (Sly(), 1),
    (AT, 1, boom),
    (AT, 1, one),
    (None, None, None),
    (Boom, Boom(), None),
)

PRIVATE = {  # not methods of ours, or not for calling twice
    "__class__",
    "__class_getitem__",
    "__del__",
    "__doc__",
    "__init_subclass__",
    "__new__",
    "__subclasshook__",
}


def methods(example: Any) -> list[str]:
    """What the type itself defines, and does not leave to `object`."""
    of = type(example)
    return [
        name
        for name in dir(of)
        if name not in PRIVATE
        and (name.startswith("__") or not name.startswith("_"))
        and callable(getattr(of, name, None))
        and getattr(of, name) is not getattr(object, name, None)
    ]


def properties(example: Any) -> list[str]:
    return [
        name
        for name in dir(type(example))
        if not name.startswith("_") and not callable(getattr(type(example), name, None))
    ]


def call(fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = fn(*args)
        if hasattr(result, "close") and hasattr(result, "send"):
            result.close()  # a coroutine that nobody awaits
    except Exception as error:
        str(error)


# ---- the objects ---------------------------------------------------------------------------

DATA = {"d": {"n": 1, "rows": [{"id": 1}], "seen": {1, 2}, "deep": {"a": {"b": 1}}}}


def engine() -> TheusEngine:
    return TheusEngine(DATA, ring_capacity=2, history=2)


@contextlib.contextmanager
def of_draft(take: Callable[[Any], Any]) -> Iterator[Any]:
    with engine().transaction() as tx:
        yield take(tx)
        tx.rollback()


@contextlib.contextmanager
def just(value: Any) -> Iterator[Any]:
    yield value


@contextlib.contextmanager
def closed_in_the_end() -> Iterator[TheusEngine]:
    """Pools end later than engines that nobody closes: in the middle of the next count."""
    with contextlib.suppress(Boom), engine() as of:  # it flushes what it was told to call
        yield of


def ended() -> Any:
    with engine().transaction() as tx:
        return tx


ZONE = SharedZone("references", 2**26)
"""With it go the names of its blocks: so it stays for all rounds."""


def lending() -> SharedBlock:
    block = ZONE.alloc("out", 4096, True, True)
    assert isinstance(block, SharedBlock)
    return block


def finished() -> Any:
    mutation = FrozenDict(DATA).mutate()
    mutation.finish()
    return mutation


@dataclasses.dataclass
class Order:
    n: int = 1
    rows: list[Any] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.n != 1:
            raise Boom

    def __add__(self, other: Any) -> Any:
        return self.n + other

    def add(self, row: Any) -> None:
        self.rows.append(row)

    @property
    def double(self) -> int:
        return self.n * 2


KEEP = freeze([Order()])
"""What is known of a class goes with its last record: so it stays for all rounds.

Models of Pydantic are left out: its C code is no debug build, and what it takes and gives back
is not counted."""


def placed(tx: Any, instance: Any) -> Any:
    tx.set(("d", "record"), instance)
    return tx.get(("d", "record"))


OBJECTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "FrozenDict": lambda: just(freeze({"n": 1, "m": {"x": [1]}})),
    "FrozenList": lambda: just(freeze([3, 1, {"x": 2}])),
    "FrozenSet": lambda: just(freeze({1, 2, "n"})),
    "FrozenKeys": lambda: just(freeze(DATA["d"]).keys()),
    "FrozenValues": lambda: just(freeze(DATA["d"]).values()),
    "FrozenItems": lambda: just(freeze(DATA["d"]).items()),
    "Iterator": lambda: just(iter(freeze(DATA["d"]).items())),
    "Mutation": lambda: just(FrozenDict(DATA["d"]).mutate()),
    "finished Mutation": lambda: just(finished()),
    "Opaque": lambda: just(Opaque([1])),
    "State": lambda: just(engine().state),
    "State by hand": lambda: just(State(DATA)),
    "DraftDict": lambda: of_draft(lambda tx: tx.d),
    "DraftList": lambda: of_draft(lambda tx: tx.d.rows),
    "DraftSet": lambda: of_draft(lambda tx: tx.d.seen),
    "Record": lambda: just(freeze([Order()])[0]),
    "DraftRecord": lambda: of_draft(lambda tx: placed(tx, Order())),
    "DraftKeys": lambda: of_draft(lambda tx: tx.d.keys()),
    "DraftItems": lambda: of_draft(lambda tx: tx.d.items()),
    "DraftValues": lambda: of_draft(lambda tx: tx.d.values()),
    "DraftIterator": lambda: of_draft(lambda tx: iter(tx.d.items())),
    "open Transaction": lambda: of_draft(lambda tx: tx),
    "savepoint": lambda: of_draft(lambda tx: tx.savepoint()),
    "idle Transaction": lambda: just(engine().transaction()),
    "ended Transaction": lambda: just(ended()),
    "Engine": closed_in_the_end,
    "SharedBlock": lambda: just(lending()),
    "SharedLoan": lambda: just(lending().lend(0, 1000)),
}


def call_with_all(factory: Callable[[], Any], name: str) -> None:
    with contextlib.suppress(theus.TheusError), factory() as target:
        for args in POOL:
            call(getattr(target, name), args)


@pytest.mark.parametrize("kind", OBJECTS)
def test_methods_with_all_arguments(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Interpreters that start and end while we count have references of their own.
    monkeypatch.setenv("THEUS_USE_PROCESSES", "1")
    factory = OBJECTS[kind]
    with factory() as example:
        names = methods(example)

    def work() -> None:
        for name in names:
            call_with_all(factory, name)

    if abs(drift(work)) >= SLACK:  # which of them?
        found = {name: drift(lambda name=name: call_with_all(factory, name)) for name in names}
        assert not {name: gained for name, gained in found.items() if abs(gained) >= SLACK}


@pytest.mark.parametrize("kind", OBJECTS)
def test_properties_and_copies(kind: str) -> None:
    def work() -> None:
        with OBJECTS[kind]() as target:
            for name in properties(target):
                call(getattr, (target, name))
                call(setattr, (target, name, 1))
                call(delattr, (target, name))
            for fn in (copy.copy, copy.deepcopy, repr, theus.thaw, theus.freeze, hash, list, len):
                call(fn, (target,))
            call(lambda: pickle.loads(pickle.dumps(target)), ())
            call(lambda: target == freeze(DATA) or target != DATA, ())

    assert abs(drift(work)) < SLACK


# ---- whole stories ---------------------------------------------------------------------


def conflict(of: TheusEngine) -> None:
    tx = of.transaction(detached=True)
    tx.__enter__()
    tx["d"]["n"] = [tx["d"]["n"]]
    contextvars.Context().run(of.run, lambda other: other.set(AT, ("by another", of.version)))
    fails(ConflictError, tx.commit)


def retried(of: TheusEngine) -> None:
    tries = []

    def body(tx: Any) -> None:
        tries.append(tx.d.n)
        if len(tries) < 3:
            contextvars.Context().run(of.run, lambda other: other.set(AT, of.version))
        tx.set(AT, str(tx.get(AT)))

    of.run(body)


def savepoints(of: TheusEngine) -> None:
    with of.transaction() as tx:
        with contextlib.suppress(Boom), tx.savepoint():
            tx.d.rows.append({"id": [2]})
            raise Boom
        tx.add(AT, 1)
        of.run(lambda inner: inner.d.rows.append(3))
        fails(Boom, of.run, boom)
        tx.on_commit(one)


def resolver(of: TheusEngine) -> None:
    with of.transaction() as tx:
        tx.merge(AT, 1, boom)
        fails(Boom, lambda: tx.d.n)
        tx.rollback()


def records(of: TheusEngine) -> None:
    of.run(lambda tx: tx.set(("d", "record"), Order()))
    of.run(lambda tx: tx.d.record.add(Order()))
    of.run(lambda tx: setattr(tx.d.record.rows[0], "rows", [{"a": 1}]))
    fails(theus.RecordError, of.run, lambda tx: setattr(tx.d.record, "n", 5))
    fails(theus.RecordError, of.run, lambda tx: tx.add(("d", "record", "n"), 5))
    fails(AttributeError, of.run, lambda tx: setattr(tx.d.record, "missing", 5))
    assert of.state["d"]["record"].to_object().double == 2


def signals(of: TheusEngine) -> None:
    of.compare_and_swap(of.version, {"d": {"n": 2}}, signal={"topic": [1]})
    fails(theus.VersionError, of.compare_and_swap, 10**9, {"d": 1})
    fails(TypeError, of.compare_and_swap, "text")
    fails(theus.UnfreezableError, of.compare_and_swap, of.version, {"d": {"n": object()}})


@process(outputs=["d.n", "signal.*"], merge={"d.n": "last"})
def sending(ctx: Any) -> Any:
    ctx.outbox.add("mail", {"to": ["ann"]})
    ctx.outbox.add(theus.OutboxMsg("mail", (1, 2)))
    ctx.signal.send("sent", [len(ctx.outbox)])
    fails(theus.UnfreezableError, ctx.outbox.add, "mail", object())
    fails(TypeError, ctx.outbox.add, 5)
    ctx.log.debug("sent at %s", ctx.now)
    return ctx.random.random()


def messages(of: TheusEngine) -> None:
    receiver = of.signals()
    for _ in range(3):
        of.run_process(sending)
    with of.transaction() as tx:
        with contextlib.suppress(Boom), tx.savepoint():
            tx.outbox.add("mail", [1])
            raise Boom
        tx.rollback()
    assert len(of.process_outbox(boom).failed) == 1
    assert of.process_outbox(lambda message: message.payload).delivered == 6
    assert receiver.poll() is not None
    assert of.records()[0][-1].notes
    of.run_process(sending)  # and nobody takes them


def callbacks(of: TheusEngine) -> None:
    with pytest.raises(Boom), of.transaction() as tx:
        tx.on_commit(boom)
        tx.on_commit(one)
        tx.d.n = "text"


def lent_ranges(of: TheusEngine) -> None:
    block = lending()
    first, second = block.lend(0, 1000), block.lend(1000, 1000)
    assert block.lend(500, 600) == (0, 1000, 0) and len(block.loans()) == 2
    fails(ValueError, block.lend, 4000, 1000)
    fails(TypeError, block.lend, 1)
    taken = take_loan(first.token)
    fails(theus.StaleArrayError, take_loan, first.token)
    fails(theus.BadTokenError, take_loan, first.token[:-4] + b"\xff\xff\xff\xff")
    fails(theus.BadTokenError, take_loan, b"no token")
    taken.end(True)
    assert first.look() == ("returned", 0) and second.recall() and block.recall() == 0
    held = take_loan(block.lend(0, 1000).token)
    fails(BufferError, block.publish)
    del held
    block.publish()
    fails(ValueError, block.lend, 0, 1)


@process(inputs=["d.n"], outputs=["d.n"])
def doubling(ctx: Any) -> Any:
    return [ctx.d.n]


@process(inputs=["d.n"], outputs=["d.n"])
def straying(ctx: Any) -> Any:
    ctx.d.rows.append(1)


@process(inputs=["d"], outputs=["d.n"])
def nesting(ctx: Any, engine: TheusEngine, body: Any) -> None:
    ctx.d.n = 1
    engine.run_process(body)


@process(inputs=["d"], semantic="pure")
def frozen(ctx: Any) -> None:
    with contextlib.suppress(theus.FrozenError):
        ctx.d.rows[0] = 5


def bounded(of: TheusEngine) -> None:
    """Guards within guards, refusals of both, and a transaction that is ended from outside."""
    of.run_process(nesting, of, doubling)
    fails(theus.ContractViolationError, of.run_process, nesting, of, straying)
    fails(theus.ContractViolationError, of.run_process, frozen)
    fails(theus.ArgumentError, of.run_process, nesting, of, bdoy=1)
    fails(theus.TransactionError, of.run_process, lambda ctx: abandon(ctx.transaction))
    of.options(retries=1, timeout=60.0).run_process(doubling)
    with of.edit() as ctx:
        ctx.d.n = 1
    fails(Boom, abandoned_edit, of)


def abandoned_edit(of: TheusEngine) -> None:
    with of.edit() as ctx:
        ctx.d.n = 5
        raise Boom


def processes(of: TheusEngine) -> None:
    of.run_process(doubling)
    fails(theus.ContractViolationError, of.run_process, straying)
    fails(theus.UnknownProcessError, of.run_process, "nobody")


def coroutines(of: TheusEngine) -> None:
    async def body(tx: Any, fail: bool) -> Any:
        tx.d.n = "text"
        await asyncio.sleep(0)
        if fail:
            raise Boom
        return tx.d.rows

    async def main() -> None:
        await of.run_async(body, False)
        with contextlib.suppress(Boom):
            await of.run_async(body, True)
        cancelled = asyncio.ensure_future(of.run_async(body, False))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        async with of.transaction() as tx:
            tx.d.n = 1

    asyncio.run(main())


def closing(of: TheusEngine) -> None:
    old = of.state
    of.close()
    fails(theus.ClosedError, of.run, boom)
    assert old.d.n == 1


STORIES = [
    conflict,
    retried,
    savepoints,
    resolver,
    signals,
    messages,
    records,
    callbacks,
    lent_ranges,
    processes,
    bounded,
    coroutines,
    closing,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story.__name__))
def test_a_story(story: Callable[[TheusEngine], None]) -> None:
    assert abs(drift(lambda: story(engine()))) < SLACK


def test_this_would_notice() -> None:
    """A list that grows: the measurement itself sees one reference per round."""
    kept: list[Any] = []
    assert drift(lambda: kept.append(object())) >= WINDOW
