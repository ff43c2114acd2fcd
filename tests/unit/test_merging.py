"""`merge=`: what processes return adds up instead of conflicting."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from helpers import run_threads
from theus import DELETE, SET, ProcessContract, StateUpdate, TheusEngine, process
from theus.errors import ContractViolationError, MergeError, RecordError


def engine_with(**domain: Any) -> TheusEngine:
    return TheusEngine({"domain": domain})


def domain(engine: TheusEngine) -> Any:
    return engine.state["domain"].to_dict()


def longest(old: str, value: str) -> str:
    return max(old, value, key=len)


def giving(result: Any, merge: Any, *outputs: str, semantic: str = "effect") -> Callable[..., Any]:
    @process(outputs=outputs or tuple(merge), merge=merge, semantic=semantic)
    def give(ctx: Any) -> Any:
        return result

    return give


@pytest.mark.parametrize("semantic", ["effect", "pure"])
@pytest.mark.parametrize(
    ("rule", "before", "value", "after"),
    [
        ("last", 1, 5, 5),
        ("sum", 1, 5, 6),
        ("sum", [1], [2, 3], [1, 2, 3]),
        ("append", [1], 5, [1, 5]),
        ("append", [1], [5], [1, [5]]),
        ("union", {1, 2}, {2, 3}, {1, 2, 3}),
        ("union", {"a": 1, "b": 1}, {"b": 2, "c": 2}, {"a": 1, "b": 2, "c": 2}),
        ("max", 3, 5, 5),
        ("max", 7, 5, 7),
        (longest, "abc", "de", "abc"),
    ],
)
def test_a_contribution_joins_what_stands_there(
    rule: Any, before: Any, value: Any, after: Any, semantic: str
) -> None:
    engine = engine_with(x=before)
    give = giving(value, {"domain.x": rule}, semantic=semantic)
    assert engine.run_process(give) is value, "the caller gets what the function returned"
    assert domain(engine) == {"x": after}


@pytest.mark.parametrize(
    ("rule", "value", "first"),
    [
        ("last", 5, 5),
        ("sum", 5, 5),
        ("append", 5, [5]),
        ("union", {1}, {1}),
        ("max", -5, -5),
        (longest, "x", "x"),
    ],
)
def test_the_first_contribution_is_all_there_is(rule: Any, value: Any, first: Any) -> None:
    engine = engine_with()
    for path in ("domain.x", "domain.deep.er.x"):
        engine.run_process(giving(value, {path: rule}))
    assert domain(engine) == {"x": first, "deep": {"er": {"x": first}}}


def test_contributions_are_read_back_in_the_same_transaction() -> None:
    engine = engine_with(x=1)
    give = giving(5, {"domain.x": "sum"})

    def body(tx: Any) -> int:
        engine.run_process(give)
        engine.run_process(give)
        return int(tx.domain.x)

    assert engine.run(body) == 11 and domain(engine) == {"x": 11} and engine.version == 2


def test_none_delete_and_set_mean_what_they_always_mean() -> None:
    engine = engine_with(x=1, y=1, z=1)
    outputs = ("domain.x", "domain.y", "domain.z")
    give = giving((None, DELETE, SET(None)), dict.fromkeys(outputs, "sum"), *outputs)
    engine.run_process(give)
    assert domain(engine) == {"x": 1, "z": None}


def test_by_name_and_beside_plain_outputs() -> None:
    engine = engine_with(x=1, y=1)
    engine.run_process(giving({"x": 5, "domain.y": 7}, {"domain.x": "sum"}, "domain.x", "domain.y"))
    assert domain(engine) == {"x": 6, "y": 7}
    engine.run_process(giving({"x": 5}, {"domain.x": "sum"}))
    assert domain(engine) == {"x": 11, "y": 7}
    engine.run_process(giving({"x": 5}, {"domain.d": "union"}))
    assert domain(engine)["d"] == {"x": 5}, "no name of an output, so the value itself"


def test_an_update_contributes_too() -> None:
    engine = engine_with(x=1, log=[], users={"bob": {"score": 3}})
    merge = {"domain.x": "sum", "domain.log": "append", "domain.users.bob.score": "max"}
    update = StateUpdate(
        key="domain.x",
        val=5,
        data={"domain.log": "done", ("domain", "users", "bob", "score"): 9, "domain.users.ann": 1},
    )
    engine.run_process(giving(update, merge, "domain"))
    assert domain(engine) == {"x": 6, "log": ["done"], "users": {"bob": {"score": 9}, "ann": 1}}


def test_written_through_ctx_and_returned() -> None:
    """Adding twice by accident cannot happen: a write through ctx stays alone."""
    engine = engine_with(x=1)

    @process(outputs=["domain.x"], merge={"domain.x": "sum"})
    def both(ctx: Any, how: str) -> Any:
        ctx.add("domain.x", 10)
        return {"domain.x": 5} if how == "by name" else 5

    assert engine.run_process(both, "single") == 5 and domain(engine) == {"x": 11}
    with pytest.raises(ContractViolationError, match="contribution") as caught:
        engine.run_process(both, "by name")
    assert caught.value.path == ("domain", "x") and domain(engine) == {"x": 11}


@dataclass
class Order:
    prices: list[int] = field(default_factory=list)
    limit: int = 10

    def __post_init__(self) -> None:
        if sum(self.prices) > self.limit:
            raise ValueError("over the limit")


def test_fields_of_records_add_up_and_their_class_judges_the_sum() -> None:
    engine = engine_with(order=Order())
    merge = {"domain.order.prices": "append", "domain.order.limit": "max"}
    run_threads(2, lambda k: engine.run_process(giving((4 + k, 10 + k), merge)))
    order = engine.state["domain"]["order"].to_object()
    assert sorted(order.prices) == [4, 5] and order.limit == 11
    with pytest.raises(RecordError, match="over the limit"):
        engine.run_process(giving((3, 0), merge))
    assert engine.state["domain"]["order"].to_object() == order


def test_a_log_takes_appended_contributions_alone() -> None:
    """A field of the zone LOG may be read and appended to."""
    engine = engine_with(log_events=["begin"])
    engine.run_process(giving("more", {"domain.log_events": "append"}))
    for rule in ("last", "sum", "union", "max"):
        with pytest.raises(ContractViolationError):
            engine.run_process(giving(["begin", "more"], {"domain.log_events": rule}))
    assert domain(engine) == {"log_events": ["begin", "more"]}


def test_drafts_are_contributed_as_content() -> None:
    engine = engine_with(rows=[1], log=[])

    @process(inputs=["domain.rows"], outputs=["domain.log"], merge={"domain.log": "append"})
    def keep(ctx: Any) -> Any:
        return ctx.domain.rows

    engine.run_process(keep)
    engine.run(lambda tx: tx.domain.rows.append(2))
    assert domain(engine) == {"rows": [1, 2], "log": [[1]]}


def test_a_contribution_that_does_not_fit_fails_the_run() -> None:
    engine = engine_with(x=1)
    for rule, value in (("union", {1}), ("union", 2), ("append", 5), ("sum", "t"), ("max", "t")):
        with pytest.raises(MergeError, match=r"domain\.x holds 1, with which .* SET\(") as caught:
            engine.run_process(giving(value, {"domain.x": rule}))
        assert caught.value.args[0] == caught.value.path == ("domain", "x")
        assert caught.value.rule == rule and caught.value.found == "1"
        assert caught.value.value in (repr(value), f"FrozenSet({value!r})")
        assert isinstance(caught.value, TypeError)
        assert (caught.value.__cause__ is not None) == (rule in ("sum", "max"))
    with pytest.raises(ZeroDivisionError) as failed:
        engine.run_process(giving(0, {"domain.x": lambda old, value: old / value}))
    assert failed.value.__notes__ == ["theus: in a merge at domain.x"]
    assert domain(engine) == {"x": 1} and engine.version == 1


def test_a_function_is_asked_with_the_newest_value() -> None:
    engine = engine_with(x="a")
    asked: list[tuple[Any, Any]] = []

    def join(old: Any, value: Any) -> Any:
        asked.append((old, value))
        if len(asked) == 1:
            run_threads(1, lambda _: engine.run(lambda tx: tx.set("domain.x", "rival")))
        return old + value

    engine.run_process(giving("!", {"domain.x": join}))
    assert domain(engine) == {"x": "rival!"} and asked == [("a", "!"), ("rival", "!")]
    assert engine.stats().conflicts == 0


# ---- at the same time -----------------------------------------------------------------

RULES = {
    "domain.total": "sum",
    "domain.log": "append",
    "domain.seen": "union",
    "domain.best": "max",
    "domain.latest": "last",
}


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
@pytest.mark.parametrize("semantic", ["effect", "pure"])
def test_eight_threads_add_up_without_a_conflict(isolation: str, semantic: str) -> None:
    engine = engine_with(total=0, log=[], seen=set(), best=-1, latest=None)

    @process(outputs=tuple(RULES), merge=RULES, isolation=isolation, semantic=semantic)
    def branch(ctx: Any, number: int) -> Any:
        return 1, number, {number}, number, number

    run_threads(8, lambda k: [engine.run_process(branch, k * 100 + i) for i in range(50)])
    everyone = [k * 100 + i for k in range(8) for i in range(50)]
    end = domain(engine)
    assert end["total"] == 400 and end["best"] == 749
    assert sorted(end["log"]) == everyone and end["seen"] == set(everyone)
    assert end["latest"] == end["log"][-1], "in the order of the commits"
    for k in range(8):
        assert [n for n in end["log"] if n // 100 == k] == everyone[k * 50 : k * 50 + 50]
    stats = engine.stats()
    assert (stats.conflicts, stats.retries, stats.commits) == (0, 0, 400)


def test_coroutines_on_one_snapshot_add_up() -> None:
    engine = engine_with(total=0)

    async def main() -> None:
        gate = asyncio.Barrier(20)

        @process(outputs=["domain.total"], merge={"domain.total": "sum"})
        async def branch(ctx: Any) -> int:
            await gate.wait()
            return 1

        await asyncio.gather(*(engine.execute(branch) for _ in range(20)))

    asyncio.run(main())
    assert domain(engine) == {"total": 20} and engine.stats().conflicts == 0


def test_who_reads_the_place_conflicts_as_ever() -> None:
    engine = engine_with(total=0)
    attempts: list[int] = []

    @process(inputs=["domain.total"], outputs=["domain.total"], merge={"domain.total": "sum"})
    def branch(ctx: Any) -> int:
        attempts.append(ctx.domain.total)
        if len(attempts) == 1:
            run_threads(1, lambda _: engine.run(lambda tx: tx.add("domain.total", 5)))
        return 1

    engine.run_process(branch)
    assert attempts == [0, 5] and domain(engine) == {"total": 6}


# ---- the declaration ------------------------------------------------------------------


def test_the_contract_shows_its_rules_and_travels() -> None:
    give = giving(1, {"domain.x": "sum", "domain.y": longest})
    spec = give.spec  # type: ignore[attr-defined]
    assert spec.merge == (("domain.x", "sum"), ("domain.y", longest))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert ProcessContract().merge == ()


@pytest.mark.parametrize(
    ("merge", "error", "words"),
    [
        ({"domain.x": "summ"}, ValueError, "did you mean 'sum'"),
        ({"domain.x": "multiply"}, ValueError, "'append'"),
        ({"domain.x": 5}, TypeError, "not 5"),
        ({"domain.z": "sum"}, ValueError, "'domain.z' is not among the outputs"),
        ({"domain.*": "sum"}, ValueError, "wildcards"),
        ({"domain..x": "sum"}, ValueError, "domain..x"),
        ({5: "sum"}, TypeError, "5"),
        (["domain.x"], TypeError, r"\['domain.x'\]"),
        ({"signal.x": "last"}, ValueError, "signal"),
    ],
)
def test_bad_rules_are_refused_by_the_decorator(merge: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        giving(1, merge, "domain.x", "signal.x")
    assert "merge of process 'give'" in str(caught.value)


def test_a_rule_that_nobody_could_await_is_refused() -> None:
    async def later(old: Any, value: Any) -> Any:
        return value

    class Later:
        async def __call__(self, old: Any, value: Any) -> Any:
            return value

    for rule in later, Later():
        with pytest.raises(
            TypeError, match=r"merge of process .*'domain\.x' is a coroutine function"
        ):
            giving(1, {"domain.x": rule})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda old: old, r"does not take these: too many positional arguments"),
        (lambda a, b, c: a, r"does not take these: missing a required argument: 'c'"),
        (lambda old, value: (yield old), "is a generator function"),
    ],
)
def test_a_rule_that_could_only_fail_at_the_commit_is_refused(rule: Any, words: str) -> None:
    with pytest.raises(TypeError, match=rf"merge of process .*'domain\.x'.* {words}"):
        giving(1, {"domain.x": rule})


@pytest.mark.parametrize("where", ["joined", "add", "append"])
def test_what_does_not_fit_names_its_place_on_every_way(where: str) -> None:
    engine = engine_with(x={"n": 1})

    def body(tx: Any) -> None:
        if where == "joined":
            engine.run_process(giving([1], {"domain.x.n": "union"}))
            tx.get("domain.x.n")
        else:
            getattr(tx, where)("domain.x.n", "t")

    with pytest.raises(MergeError, match=r"^domain\.x\.n holds 1"):
        engine.run(body)
    assert engine.version == 1
