"""Hostile results: the state keeps content, never a view, a draft or a guard; and what the
caller gets is not dead."""

from __future__ import annotations

import collections
import dataclasses
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from theus import FrozenDict, FrozenList, Opaque, StateUpdate, TheusEngine, process
from theus._theus import Context, DraftDict, DraftList, DraftSet, Transaction
from theus.errors import ContractViolationError, UnfreezableError

LIVE = (DraftDict, DraftList, DraftSet, Context, Transaction)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Box:
    inside: Any = None


@dataclasses.dataclass(frozen=True)
class FrozenBox:
    inside: Any = None


class OwnList(list):  # type: ignore[type-arg]
    pass


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine(
        {"domain": {"c": {"k": 1}, "rows": [1, [2]], "tags": {1}, "box": Box([1]), "out": None}}
    )


def returning(take: Callable[[Any], Any], semantic: str) -> Callable[[Any], Any]:
    return process(inputs=["domain"], outputs=["domain.out"], semantic=semantic)(take)


BOTH = pytest.mark.parametrize("semantic", ["effect", "pure"])

STORED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "dict": (lambda ctx: ctx.domain.c, {"k": 1}),
    "list": (lambda ctx: ctx.domain.rows, [1, [2]]),
    "set": (lambda ctx: ctx.domain.tags, {1}),
    "record": (lambda ctx: ctx.domain.box, Box([1])),
    "slice": (lambda ctx: ctx.domain.rows[:], [1, [2]]),
    "deep": (lambda ctx: [{"a": (ctx.domain.rows,)}], [{"a": ([1, [2]],)}]),
    "named tuple": (lambda ctx: Pair(ctx.domain.rows, 1), Pair([1, [2]], 1)),
    "dataclass": (lambda ctx: Box(ctx.domain.rows), Box([1, [2]])),
    "frozen dataclass": (lambda ctx: FrozenBox(ctx.domain.rows), FrozenBox([1, [2]])),
    "ordered dict": (lambda ctx: collections.OrderedDict(a=ctx.domain.rows), {"a": [1, [2]]}),
    "default dict": (lambda ctx: collections.defaultdict(list, a=ctx.domain.c), {"a": {"k": 1}}),
    "proxy": (lambda ctx: types.MappingProxyType({"a": ctx.domain.c}), {"a": {"k": 1}}),
    "input": (lambda ctx: ctx.input, {}),
    "local": (lambda ctx: ctx.local, {}),
}


@BOTH
@pytest.mark.parametrize("name", STORED)
def test_content_is_stored(engine: TheusEngine, name: str, semantic: str) -> None:
    take, content = STORED[name]
    engine.run_process(returning(take, semantic))
    stored = engine.state["domain"]["out"]
    assert stored == content
    assert not holds_live(stored)
    engine.run(
        lambda tx: (tx.domain.rows.append(9), tx.domain.c.update(z=9), tx.domain.tags.add(9))
    )
    assert engine.state["domain"]["out"] == content, "content, not a view of another place"


def disturb(tx: Any) -> None:
    tx.domain.rows.append(9)
    tx.domain.c["z"] = 9
    tx.domain.tags.add(9)
    tx.domain.box.inside.append(9)


def holds_live(value: Any) -> bool:
    if isinstance(value, LIVE):
        return True
    if isinstance(value, collections.abc.Mapping):
        return any(map(holds_live, value.values()))
    if isinstance(value, (collections.abc.Sequence, collections.abc.Set)):
        return not isinstance(value, (str, bytes)) and any(map(holds_live, value))
    return False


REFUSED: dict[str, Callable[[Any], Any]] = {
    "context": lambda ctx: ctx,
    "snapshot": lambda ctx: ctx.state,
    "keys": lambda ctx: ctx.domain.c.keys(),
    "values": lambda ctx: ctx.domain.c.values(),
    "items": lambda ctx: ctx.domain.c.items(),
    "iterator": lambda ctx: iter(ctx.domain.rows),
    "reversed": lambda ctx: reversed(ctx.domain.rows),
    "generator": lambda ctx: (row for row in ctx.domain.rows),
    "map": lambda ctx: map(str, ctx.domain.rows),
    "bound method": lambda ctx: ctx.domain.rows.index,
    "weak reference": lambda ctx: weakref.ref(ctx.domain),
    "list of one's own": lambda ctx: OwnList([ctx.domain.rows]),
    "deque": lambda ctx: collections.deque([ctx.domain.rows]),
    "namespace": lambda ctx: types.SimpleNamespace(a=ctx.domain.rows),
    "exception": lambda ctx: ValueError(ctx.domain.rows),
    "deep inside": lambda ctx: [{"a": (ctx.domain.c.items(),)}],
}


@BOTH
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_content_of_its_own_is_refused(
    engine: TheusEngine, name: str, semantic: str
) -> None:
    with pytest.raises(UnfreezableError) as caught:
        engine.run_process(returning(REFUSED[name], semantic))
    assert caught.value.path is not None and caught.value.path[:2] == ("domain", "out")
    assert engine.version == 1


def test_the_transaction_is_refused(engine: TheusEngine) -> None:
    with pytest.raises(UnfreezableError):
        engine.run_process(returning(lambda ctx: [ctx.transaction], "effect"))
    assert engine.version == 1


@pytest.mark.parametrize(
    "take",
    [
        lambda ctx: ctx,
        lambda ctx: ctx.transaction,
        lambda ctx: ctx.domain.rows,
        lambda ctx: ctx.domain.c.items(),
        lambda ctx: iter(ctx.domain.rows),
    ],
)
def test_nobody_can_vouch_for_what_ends_with_a_transaction(
    engine: TheusEngine, take: Callable[[Any], Any]
) -> None:
    """An Opaque around a draft was stored, draft and all."""
    with pytest.raises(TypeError, match="ends with its transaction"):
        engine.run_process(returning(lambda ctx: Opaque(take(ctx)), "effect"))
    assert engine.version == 1


# ---- what the caller gets -------------------------------------------------------------


@pytest.mark.parametrize("outputs", [(), ("domain.out",)])
def test_named_tuples_are_gone_through(engine: TheusEngine, outputs: tuple[str, ...]) -> None:
    @process(inputs=["domain"], outputs=outputs)
    def body(ctx: Any) -> Any:
        return Pair(ctx.domain.rows, [Pair(ctx.domain.c, 5)])

    result = engine.run_process(body)
    assert type(result) is Pair and type(result.first) is FrozenList and result.first == [1, [2]]
    assert type(result.second[0]) is Pair and type(result.second[0].first) is FrozenDict
    again = engine.run(lambda tx: Pair(tx.domain.rows, 1))
    assert again == Pair([1, [2]], 1) and type(again) is Pair


def test_a_named_tuple_without_drafts_is_returned_as_it_is(engine: TheusEngine) -> None:
    pair = Pair(1, [2])
    assert engine.run_process(lambda ctx: pair) is pair
    assert engine.run(lambda tx: pair) is pair


@pytest.mark.parametrize("view", ["keys", "values", "items"])
def test_views_of_drafts_stay_readable(engine: TheusEngine, view: str) -> None:
    """They were dead: whoever looked at one was told that the transaction has ended."""
    for result in (
        engine.run_process(lambda ctx: getattr(ctx.domain.c, view)()),
        engine.run_process(lambda ctx: [getattr(ctx.domain.c, view)()])[0],
        engine.run(lambda tx: getattr(tx.domain.c, view)()),
    ):
        assert list(result) == list(getattr({"k": 1}, view)())


def test_views_are_as_of_the_end_of_the_body(engine: TheusEngine) -> None:
    @process(outputs=["domain.c"])
    def body(ctx: Any) -> Any:
        keys = ctx.domain.c.keys()
        ctx.domain.c["z"] = 2
        return keys

    assert list(engine.run_process(body)) == ["k", "z"]


# ---- nothing is dropped in silence ---------------------------------------------------------


class Told(StateUpdate):
    """A subclass, as programs make them."""


def test_an_update_without_a_key_goes_to_the_only_output(engine: TheusEngine) -> None:
    @process(outputs=["domain.out"])
    def one(ctx: Any) -> StateUpdate:
        return StateUpdate(val=5)

    engine.run_process(one)
    assert engine.state["domain"]["out"] == 5


@pytest.mark.parametrize("outputs", [[], ["domain.out", "domain.rows"], ["domain.*"]])
def test_an_update_without_a_key_and_without_a_place_is_refused(
    engine: TheusEngine, outputs: list[str]
) -> None:
    @process(outputs=outputs)
    def several(ctx: Any) -> StateUpdate:
        return StateUpdate(val=5)

    with pytest.raises(ContractViolationError, match=r"no key.*StateUpdate\(key, val\)"):
        engine.run_process(several)
    assert engine.version == 1


@pytest.mark.parametrize("semantic", ["effect", "guide"])
def test_a_subclass_of_the_update_is_held_to_the_outputs(
    engine: TheusEngine, semantic: str
) -> None:
    @process(inputs=["domain"], semantic=semantic)
    def undeclared(ctx: Any) -> StateUpdate:
        return Told("domain.out", 5)

    with pytest.raises(ContractViolationError):
        engine.run_process(undeclared)
    assert engine.version == 1


def test_a_subclass_of_the_update_may_hold_drafts(engine: TheusEngine) -> None:
    @process(inputs=["domain.rows"], outputs=["domain.out"])
    def copied(ctx: Any) -> StateUpdate:
        return Told("domain.out", ctx.domain.rows)

    engine.run_process(copied)
    assert engine.state["domain"]["out"] == engine.state["domain"]["rows"]


@pytest.mark.parametrize("part", ["data", "heavy", "signal"])
def test_the_parts_of_an_update_are_dicts(part: str) -> None:
    with pytest.raises(TypeError, match=rf"{part}= of a StateUpdate is a dict, not \[1\]"):
        StateUpdate(**{part: [1]})


@pytest.mark.parametrize("outputs", [["domain", "domain.out"], ["domain.out", "domain"]])
@pytest.mark.parametrize("by_name", [True, False])
def test_an_output_within_another_is_stored_after_it(
    engine: TheusEngine, outputs: list[str], by_name: bool
) -> None:
    values = {"domain": {"out": 1, "rows": []}, "domain.out": 2}

    @process(outputs=outputs)
    def both(ctx: Any) -> Any:
        return values if by_name else tuple(values[name] for name in outputs)

    engine.run_process(both)
    assert engine.state["domain"] == {"out": 2, "rows": []}
