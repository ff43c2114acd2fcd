"""Zones: what the name of a field, an annotation or a rule lets become of it, on every route."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

import pytest

from processes import effect, pure
from support import plain
from theus import DELETE, State, StateUpdate, TheusEngine, json_default, process
from theus.context import AppendOnly, BaseDomainContext, BaseSystemContext, Immutable, Mutable
from theus.errors import ContractViolationError
from theus.zones import (
    APPEND_ONLY,
    IMMUTABLE,
    MUTABLE,
    ZONE_RIGHTS,
    Capability,
    ContextZone,
    clear_physics_overrides,
    register_physics_override,
    resolve_zone,
)

FIELDS: dict[str, Any] = {
    "plain": {"n": 1, "rows": [1]},
    "meta_m": {"n": 1, "rows": [1]},
    "heavy_h": {"n": 1, "rows": [1]},
    "log_l": {"n": 1, "rows": [1]},
    "sig_s": {"n": 1, "rows": [1]},
    "cmd_c": {"n": 1, "rows": [1]},
    "const_k": {"n": 1, "rows": [1]},
    "internal_i": {"n": 1, "rows": [1]},
}


def engine_of(**more: Any) -> TheusEngine:
    return TheusEngine({"domain": copy.deepcopy(FIELDS)}, **more)


def rights_of(name: str) -> Capability:
    return ZONE_RIGHTS[resolve_zone(name)]


# What is done to the field at `d[name]`, and the right that it needs.
ACTS: dict[str, tuple[Capability, Callable[[Any, str], object]]] = {
    "replace": (Capability.UPDATE, lambda d, name: d.__setitem__(name, {"n": 2})),
    "set inside": (Capability.UPDATE, lambda d, name: d[name].__setitem__("n", 2)),
    "replace the list": (Capability.UPDATE, lambda d, name: d[name].__setitem__("rows", [])),
    "set an element": (Capability.UPDATE, lambda d, name: d[name]["rows"].__setitem__(0, 2)),
    "add a key": (Capability.APPEND, lambda d, name: d[name].__setitem__("new", 2)),
    "update with a new key": (Capability.APPEND, lambda d, name: d[name].update(new=2)),
    "append": (Capability.APPEND, lambda d, name: d[name]["rows"].append(2)),
    "extend": (Capability.APPEND, lambda d, name: d[name]["rows"].extend([2, 3])),
    "remove the field": (Capability.DELETE, lambda d, name: d.__delitem__(name)),
    "remove a key": (Capability.DELETE, lambda d, name: d[name].pop("n")),
    "remove an element": (Capability.DELETE, lambda d, name: d[name]["rows"].pop()),
    "clear": (Capability.DELETE, lambda d, name: d[name].clear()),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("act", ACTS)
def test_the_matrix_of_a_process(name: str, act: str) -> None:
    engine = engine_of()
    needed, do = ACTS[act]

    @process(inputs=["domain"], outputs=["domain"])
    def body(ctx: Any) -> None:
        do(ctx.domain, name)
        reached.append(name)

    reached: list[str] = []
    if needed & rights_of(name):
        engine.run_process(body)
        assert reached
        expected = copy.deepcopy(FIELDS)
        do(expected, name)
        assert plain(engine.state["domain"]) == expected
        return
    inside_none = rights_of(name) == 0 and act not in ("replace", "remove the field")
    with pytest.raises((AttributeError, TypeError) if inside_none else ContractViolationError) as e:
        engine.run_process(body)
    assert not reached, "refused at the line that did it"
    assert inside_none or name in str(e.value)
    assert engine.version == 1
    assert plain(engine.state["domain"]) == FIELDS


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("act", ACTS)
def test_the_matrix_of_a_plain_transaction(name: str, act: str) -> None:
    """No process, so nothing is hidden; the commit decides."""
    engine = engine_of()
    needed, do = ACTS[act]
    rights = rights_of(name)
    allowed = bool(needed & rights)
    if not allowed and needed is not Capability.UPDATE and Capability.UPDATE & rights:
        # What stands in a list or dict as a whole may be replaced, and that is what a list
        # that was reshaped amounts to.
        allowed = act in ("append", "extend", "remove an element", "clear")
    try:
        with engine.transaction() as tx:
            do(tx.domain, name)
    except ContractViolationError as error:
        assert not allowed
        assert error.path[:2] == ("domain", name)
        assert plain(engine.state["domain"]) == FIELDS
    else:
        assert allowed
        assert plain(engine.state["domain"]) != FIELDS


ROUTES: dict[str, Callable[[TheusEngine, str, Any], object]] = {
    "tx.update": lambda engine, name, value: engine.run(
        lambda tx: tx.update({"domain": {name: value}})
    ),
    "by path": lambda engine, name, value: engine.run(
        lambda tx: (
            tx.delete(("domain", name)) if value is DELETE else tx.set(("domain", name), value)
        )
    ),
    "compare_and_swap": lambda engine, name, value: engine.compare_and_swap(
        engine.version, {"domain": {name: value}}
    ),
    "whole root": lambda engine, name, value: engine.run(
        lambda tx: tx.set(
            ("domain",),
            {**FIELDS, name: value}
            if value is not DELETE
            else {key: old for key, old in FIELDS.items() if key != name},
        )
    ),
    "returned": lambda engine, name, value: engine.run_process(
        effect(f"domain.{name}")(lambda ctx: value)
    ),
    "returned by a pure one": lambda engine, name, value: engine.run_process(
        pure(outputs=(f"domain.{name}",))(lambda ctx: value)
    ),
    "StateUpdate": lambda engine, name, value: engine.run_process(
        effect(f"domain.{name}")(lambda ctx: StateUpdate(data={f"domain.{name}": value}))
    ),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("const_k", {"n": 2}),
        ("const_k", DELETE),
        ("log_l", {"n": 1}),
        ("log_l", {"n": 1, "rows": []}),
        ("log_l", {"n": 1, "rows": [2, 1]}),
        ("log_l", DELETE),
        ("meta_m", DELETE),
        ("internal_i", {"n": 2}),
        ("internal_new", 1),
        ("const_new", 1),
    ],
)
def test_every_route_is_refused(route: str, name: str, value: Any) -> None:
    if value == {"n": 1} and route in ("tx.update", "compare_and_swap"):
        pytest.skip("merging changes nothing")
    engine = engine_of()
    with pytest.raises(ContractViolationError) as caught:
        ROUTES[route](engine, name, value)
    assert caught.value.path[:2] == ("domain", name)
    assert engine.version == 1


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_l", {"n": 1, "rows": [1, 2], "more": 3}),
        ("log_new", [1]),
        ("meta_m", {"n": 2}),
        ("meta_new", 1),
        ("sig_new", True),
        ("plain", {"n": 9}),
    ],
)
def test_every_route_is_open_for_what_is_allowed(route: str, name: str, value: Any) -> None:
    engine = engine_of()
    ROUTES[route](engine, name, value)
    assert engine.version == 2
    if route not in ("tx.update", "compare_and_swap"):
        assert plain(engine.state["domain"][name]) == value


def test_deeper_keys_are_data() -> None:
    """28.2, row 30, and weakness 20: a user's own key never triggers a rule."""
    engine = TheusEngine({"domain": {"users": {}, "config": {"log_level": 1}}})

    @process(outputs=["domain.users", "domain.config"])
    def add(ctx: Any) -> None:
        for name in ("bob", "const_ance", "internal_bob", "log_an", "meta_x", "sig_rid"):
            ctx.domain.users[name] = {"n": 1}
            ctx.domain.users[name]["n"] = 2
        ctx.domain.config.log_level = 2
        ctx.domain.config.internal_x = 3
        del ctx.domain.users["const_ance"]
        assert ctx.domain.users.internal_bob.n == 2
        assert "internal_bob" in ctx.domain.users

    engine.run_process(add)
    assert engine.state["domain"]["config"] == {"log_level": 2, "internal_x": 3}


def test_a_meta_field_may_be_an_input_of_a_process() -> None:
    """Weakness 20: the handbook's own example was refused."""
    engine = TheusEngine({"domain": {"meta_rate": 3, "strategy": {"meta_params": 2}}})
    body = process(inputs=["domain.meta_rate", "domain.strategy.meta_params"])(
        lambda ctx: ctx.domain.meta_rate * ctx.domain.strategy.meta_params
    )
    assert engine.run_process(body) == 6


def test_what_is_appended_stays_when_two_append_at_once() -> None:
    """A commit that was allowed because of what it had seen is a conflict when that has changed."""
    engine = TheusEngine({"domain": {"log_l": [1]}})

    def blind(tx: Any) -> None:
        tx.set("domain.log_l", [1, 2])
        if engine.version == 1:
            engine.run(lambda other: other.append("domain.log_l", 9), detached=True)

    with pytest.raises(ContractViolationError):
        engine.run(blind)  # again, on [1, 9]
    assert plain(engine.state["domain"]["log_l"]) == [1, 9]

    def make(tx: Any) -> None:
        tx.set("domain.log_new", ["mine"])
        if "log_new" not in engine.state["domain"]:
            engine.run(lambda other: other.set("domain.log_new", ["theirs"]), detached=True)

    with pytest.raises(ContractViolationError):
        engine.run(make)
    assert plain(engine.state["domain"]["log_new"]) == ["theirs"]


def test_deferred_operations() -> None:
    engine = TheusEngine({"domain": {"log_l": [1], "meta_n": 1, "const_n": 1, "log_n": 1}})
    engine.run(lambda tx: (tx.append("domain.log_l", 2), tx.add("domain.meta_n", 2)))
    assert plain(engine.state["domain"])["log_l"] == [1, 2]
    assert engine.state["domain"]["meta_n"] == 3
    for act in (
        lambda tx: tx.add("domain.const_n", 1),
        lambda tx: tx.add("domain.log_n", 1),
        lambda tx: tx.merge("domain.log_l", [], lambda old, new: new),
    ):
        with pytest.raises(ContractViolationError):
            engine.run(act)
    assert engine.version == 2


def test_restore_does_not_go_back_behind_an_append() -> None:
    engine = TheusEngine({"domain": {"log_l": [1], "n": 1}})
    engine.run(lambda tx: tx.update({"domain": {"n": 2}}))
    engine.restore(1)
    engine.run(lambda tx: tx.domain.log_l.append(2))
    with pytest.raises(ContractViolationError):
        engine.restore(1)
    assert plain(engine.state["domain"]) == {"log_l": [1, 2], "n": 1}


def test_the_initial_values_of_a_root_that_is_made_later() -> None:
    engine = TheusEngine()
    engine.run(lambda tx: tx.update({"domain": {"const_k": 1, "internal_s": "secret", "a": 1}}))
    with pytest.raises(ContractViolationError):
        engine.run(lambda tx: tx.update({"domain": {"const_k": 2}}))
    with pytest.raises(ContractViolationError):
        engine.run(lambda tx: tx.delete("domain"))
    assert engine.run_process(process(inputs=["domain"])(lambda ctx: list(ctx.domain))) == [
        "const_k",
        "a",
    ]


# ---- private fields -----------------------------------------------------------------------


@pytest.mark.parametrize("semantic", ["effect", "pure", "guide"])
def test_private_fields_are_not_shown(semantic: Any) -> None:
    """28.2, row 29, by every route of a process."""
    engine = TheusEngine({"domain": {"a": 1, "internal_s": "secret", "b": 2}})
    shown = {"a": 1, "b": 2}

    @process(inputs=[] if semantic == "guide" else ["domain"], semantic=semantic)
    def look(ctx: Any) -> None:
        for domain in (ctx.domain, ctx["domain"], ctx.state.domain):
            assert domain.internal_s is None
            assert domain["internal_s"] is None
            assert domain.get("internal_s") is None
            assert "internal_s" not in domain
            assert list(domain) == list(domain.keys()) == ["a", "b"]
            assert list(reversed(domain)) == ["b", "a"]
            assert list(domain.values()) == [1, 2]
            assert dict(domain.items()) == shown == dict(domain) == {**domain}
            assert len(domain) == len(domain.keys()) == 2
            assert domain == shown
            assert copy.copy(domain) == shown == copy.deepcopy(domain)
            assert pickle.loads(pickle.dumps(domain)) == shown
            assert domain.copy() == shown
            assert domain.freeze() == shown
            assert "secret" not in repr(domain)
            match domain:
                case {"internal_s": value}:
                    assert value is None
                case _:
                    pass
            assert "internal_s" not in {**domain}

    engine.run_process(look)
    assert plain(engine.state["domain"])["internal_s"] == "secret"  # who holds the engine


def test_private_fields_stay_where_a_process_removes_everything() -> None:
    engine = TheusEngine({"domain": {"a": 1, "internal_s": "secret"}})

    @process(inputs=["domain"], outputs=["domain"])
    def pop(ctx: Any) -> Any:
        return ctx.domain.popitem()

    assert engine.run_process(pop) == ("a", 1)
    for empty in (
        lambda ctx: ctx.domain.clear(),
        lambda ctx: ctx.__setitem__("domain", {}),
        lambda ctx: ctx.__delitem__("domain"),
        lambda ctx: ctx.transaction.state,
    ):
        with pytest.raises(ContractViolationError):
            engine.run_process(process(inputs=["domain"], outputs=["domain"])(empty))
    assert plain(engine.state["domain"]) == {"internal_s": "secret"}


def test_a_context_that_declares_nothing_private_is_refused_as_ever() -> None:
    engine = TheusEngine({"domain": {"a": 1, "internal_s": "secret"}})
    with pytest.raises(ContractViolationError, match="add 'domain.internal_s' to inputs"):
        engine.run_process(process(inputs=["domain.a"])(lambda ctx: ctx.domain.internal_s))


PEEKS: list[Callable[[Any], Any]] = [
    lambda ctx: ctx.domain.internal_s,
    lambda ctx: ctx.domain["internal_s"],
    lambda ctx: ctx["domain"].get("internal_s"),
    lambda ctx: ctx.transaction.get("domain.internal_s"),
    lambda ctx: ctx.transaction.domain.internal_s,
    lambda ctx: ctx.state.domain.internal_s,
    lambda ctx: ctx.domain.to_dict().get("internal_s"),
    lambda ctx: ctx.domain.freeze().get("internal_s"),
    lambda ctx: dict(ctx.domain).get("internal_s"),
    lambda ctx: copy.deepcopy(ctx.domain).get("internal_s"),
    lambda ctx: pickle.loads(pickle.dumps(ctx.domain)).get("internal_s"),
    lambda ctx: json.loads(json.dumps(ctx.domain, default=json_default)).get("internal_s"),
    lambda ctx: next((v for v in ctx.domain.values() if v == "secret"), None),
    lambda ctx: None if len(ctx.domain) == 1 and [*ctx.domain] == ["a"] else "seen",
    lambda ctx: ctx.shop.hidden,
]


@pytest.mark.parametrize("peek", PEEKS)
def test_nobody_who_is_given_a_context_sees_private_fields(peek: Callable[[Any], Any]) -> None:
    """Nor without a contract, in a block of edit, or in what runs inside."""
    engine = TheusEngine(
        {"domain": {"a": 1, "internal_s": "secret"}, "shop": {"hidden": 5}},
        zones={"shop.hidden": 0},
    )
    assert engine.run_process(peek) is None

    async def later(ctx: Any) -> Any:
        return peek(ctx)

    assert asyncio.run(engine.execute(later)) is None
    assert engine.run_process(lambda ctx: engine.run_process(peek)) is None
    with engine.edit() as ctx:
        assert peek(ctx) is None
        assert engine.run_process(peek) is None
        assert engine.run(lambda tx: tx.domain.internal_s) is None
        ctx.domain.a = 2
    state = engine.state
    assert (state.domain.internal_s, state.domain.a) == ("secret", 2)  # whose engine it is
    assert TheusEngine(state.to_dict()).run(lambda tx: tx.domain.internal_s) == "secret"
    with engine.transaction() as tx:
        assert tx.domain.internal_s == "secret" and len(tx.domain) == 2


def test_private_fields_are_hidden_from_when_they_are_there() -> None:
    engine = TheusEngine({"domain": {"a": 1}})
    assert engine.run_process(lambda ctx: type(ctx.state)) is State
    engine.run(lambda tx: tx.set("more", {"internal_s": 1, "b": 2}))
    for _ in range(2):
        assert engine.run_process(lambda ctx: ctx.more.to_dict()) == {"b": 2}

    def put(ctx: Any) -> None:
        with pytest.raises(ContractViolationError, match="PRIVATE"):
            ctx.more.internal_s = 3
        ctx.more.b = 3

    with pytest.raises(ContractViolationError, match="PRIVATE"):
        engine.run_process(put)
    engine.run_process(lambda ctx: ctx.more.__setitem__("b", 4))
    assert plain(engine.state["more"]) == {"internal_s": 1, "b": 4}


# ---- rules ----------------------------------------------------------------------------------


@dataclass
class Domain(BaseDomainContext):
    rows: Annotated[list[int], AppendOnly] = field(default_factory=list)
    limit: Annotated[int, Immutable] = 5
    log_scratch: Annotated[list[int], Mutable] = field(default_factory=list)
    log_real: list[int] = field(default_factory=list)


def test_annotations_of_a_typed_context() -> None:
    engine = TheusEngine(BaseSystemContext(domain=Domain()))
    other = TheusEngine({"domain": {"rows": [1], "limit": 5}})

    def allowed(tx: Any) -> None:
        tx.domain.rows.append(1)
        tx.domain.log_scratch = [3]
        tx.domain.log_scratch = []
        tx.domain.log_real.append(4)

    engine.run(allowed)
    for act in (
        lambda d: d.rows.clear(),
        lambda d: setattr(d, "limit", 6),
        lambda d: setattr(d, "log_real", []),
    ):
        with pytest.raises(ContractViolationError):
            engine.run(lambda tx, act=act: act(tx.domain))
        with pytest.raises(ContractViolationError):
            engine.run_process(
                process(inputs=["domain"], outputs=["domain"])(lambda ctx, act=act: act(ctx.domain))
            )
    assert engine.state["domain"].rows == [1]
    other.run(lambda tx: tx.update({"domain": {"rows": [], "limit": 6}}))  # weakness 22


@dataclass
class Perhaps:
    limit: Annotated[int, Immutable] | None = 5
    owner: Optional[Annotated[str, Immutable]] = "ann"  # noqa: UP045


@dataclass
class Within:
    rows: list[Annotated[int, Immutable]] = field(default_factory=list)


def test_an_annotation_in_an_optional_is_of_the_field() -> None:
    engine = TheusEngine({"domain": Perhaps()})
    for change in ({"limit": 6}, {"owner": None}):
        with pytest.raises(ContractViolationError) as caught:
            engine.run(lambda tx, change=change: tx.update({"domain": change}))
        assert "admin scope" not in str(caught.value)  # which would not lift it
    with pytest.raises(ValueError, match=r"Within\.rows .*only a field as a whole"):
        TheusEngine({"domain": Within()})


def test_annotations_that_nobody_would_obey_are_refused() -> None:
    @dataclass
    class Inner:
        x: Annotated[int, Immutable] = 1

    @dataclass
    class Outer:
        inner: Inner = field(default_factory=Inner)

    Outer.__annotations__["inner"] = Inner
    with pytest.raises(ValueError, match=r"Inner\.x .*below a field"):
        TheusEngine({"domain": Outer()})


def test_rules_of_an_engine() -> None:
    engine = TheusEngine(
        {"domain": {"rows": [1], "log_x": [1]}, "shop": {"a": 1}},
        zones={"domain.rows": APPEND_ONLY, ("domain", "log_x"): MUTABLE, "shop": IMMUTABLE},
    )
    engine.run(lambda tx: (tx.domain.rows.append(2), tx.domain.log_x.clear()))
    for act in (
        lambda tx: tx.domain.rows.pop(),
        lambda tx: tx.update({"shop": {"a": 2}}),
        lambda tx: tx.update({"shop": {"b": 2}}),
        lambda tx: tx.delete("shop"),
        lambda tx: tx.set("shop", {"a": 1, "b": 2}),
        lambda tx: tx.set("shop", 5),
    ):
        with pytest.raises(ContractViolationError):
            engine.run(act)
    assert engine.version == 2


@pytest.mark.parametrize(
    ("path", "rights"),
    [("domain.a.b", 1), ("", 1), (("domain", 1), 1), ("domain.a", 16), ("domain.a", "READ")],
)
def test_bad_rules_name_what_is_wrong(path: Any, rights: Any) -> None:
    with pytest.raises(ValueError, match=r"zones|empty|text"):
        TheusEngine(zones={path: rights})


def test_registered_rules_are_of_the_engines_made_later() -> None:
    """Weakness 22: the earlier one's table was emptied by the next engine."""
    before = TheusEngine({"domain": {"rows": [1]}})
    register_physics_override("domain.rows", 1)
    try:
        engine = TheusEngine({"domain": {"rows": [1]}})
        another = TheusEngine({"domain": {"rows": [1]}})
    finally:
        clear_physics_overrides()
    before.run(lambda tx: tx.domain.rows.append(2))
    for fixed in (engine, another):
        with pytest.raises(ContractViolationError):
            fixed.run(lambda tx: tx.domain.rows.append(2))
    TheusEngine({"domain": {"rows": [1]}}).run(lambda tx: tx.domain.rows.append(2))


def test_names_say_zones() -> None:
    assert [resolve_zone(name).name for name in ("x", "sig_a", "cmd_a", "meta_a", "heavy_a")] == [
        "DATA",
        "SIGNAL",
        "SIGNAL",
        "META",
        "HEAVY",
    ]
    assert resolve_zone("log_a") is ContextZone.LOG
    assert resolve_zone("catalog_log_") is ContextZone.DATA
    assert [int(one) for one in Capability] == [1, 2, 4, 8, 16]


def test_a_refusal_tells_what_and_where_and_survives_pickling() -> None:
    engine = TheusEngine({"domain": {"const_k": 1}})

    @process(outputs=["domain.const_k"])
    def change(ctx: Any) -> None:
        ctx.domain.const_k = 2

    with pytest.raises(
        ContractViolationError, match="Illegal Write.*'change'.*domain.const_k.*CON"
    ) as e:
        engine.run_process(change)
    assert isinstance(e.value, PermissionError)
    assert (e.value.path, e.value.process) == (("domain", "const_k"), "change")
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)


def test_a_refusal_that_the_body_swallows_fails_the_run_all_the_same() -> None:
    engine = TheusEngine({"domain": {"log_l": [1], "a": 1}})

    @process(outputs=["domain"])
    def sly(ctx: Any) -> None:
        ctx.domain.a = 2
        try:
            ctx.domain.log_l.clear()
        except PermissionError:
            pass

    with pytest.raises(ContractViolationError, match="log_l"):
        engine.run_process(sly)
    assert engine.version == 1
