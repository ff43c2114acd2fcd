"""What PURE and GUIDE processes see: views, which let through what is declared."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from processes import domain, effect, pure, small_engine
from theus import FrozenDict, TheusEngine, json_default, process
from theus.errors import ContractViolationError, FrozenError, TransactionError
from theus.paths import format_path


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


# ---- PURE ---------------------------------------------------------------------------


def test_a_pure_process_reads_what_it_declares(engine: TheusEngine) -> None:
    @pure("domain.a", "domain.rows", "domain.user.name", "shop", outputs=("domain.b",))
    def body(ctx: Any) -> int:
        assert ctx.domain["a"] == ctx.domain.a == ctx["domain"]["a"] == 1
        assert ctx.domain.get("a") == 1 and "a" in ctx.domain
        assert ctx.domain.rows == [{"x": 1}, {"x": 2}] and ctx.domain.rows[1].x == 2
        assert ctx.domain.user.name == "bob" == ctx.domain["user"]["name"]
        assert ctx.shop.stock == 3 and dict(ctx.shop) == {"stock": 3} == ctx.shop
        assert ctx.state.domain.a == 1
        return sum(row.x for row in ctx.domain.rows) + 100

    assert engine.run_process(body) == 103 and domain(engine)["b"] == 103


READS: list[Callable[[Any], Any]] = [
    lambda ctx: ctx.domain.b,
    lambda ctx: ctx.domain["b"],
    lambda ctx: ctx.domain.get("b"),
    lambda ctx: "b" in ctx.domain,
    lambda ctx: list(ctx.domain),
    lambda ctx: len(ctx.domain),
    lambda ctx: ctx.domain.items() and list(ctx.domain.items()),
    lambda ctx: list(ctx.domain.values()),
    lambda ctx: ctx.domain.to_dict(),
    lambda ctx: ctx.domain.freeze(),
    lambda ctx: copy.deepcopy(ctx.domain),
    lambda ctx: pickle.dumps(ctx.domain),
    lambda ctx: json.dumps(ctx.domain, default=json_default),
    lambda ctx: ctx.domain == {},
    lambda ctx: {**ctx.domain},
    lambda ctx: ctx.domain,  # returned: it would have to be frozen
    lambda ctx: ctx.domain.user.pin,
    lambda ctx: ctx.domain.user["pin"],
    lambda ctx: ctx.domain.missing,
    lambda ctx: ctx.shop,
    lambda ctx: ctx["shop"],
    lambda ctx: "shop" in ctx,
    lambda ctx: getattr(ctx, "global"),
    lambda ctx: ctx.state.domain.b,
    lambda ctx: ctx.data,
    lambda ctx: hasattr(ctx.domain, "b"),
]


@pytest.mark.parametrize("read", READS)
def test_an_undeclared_read_is_refused_by_every_route(engine: TheusEngine, read: Any) -> None:
    body = pure("domain.a", "domain.user.name", outputs=("domain.b",))(read)
    with pytest.raises(ContractViolationError, match="Illegal Read") as caught:
        engine.run_process(body)
    assert caught.value.process == "<lambda>"
    assert caught.value.declared == ("domain.a", "domain.user.name")
    assert engine.version == 1


def test_lenient_guards_let_undeclared_reads_pass_and_no_writes() -> None:
    engine = TheusEngine({"domain": {"a": 1, "b": 2}}, strict_guards=False)
    assert not engine.strict_guards and not engine.strict_mode
    assert engine.run_process(pure("domain.a")(lambda ctx: ctx.domain.b)) == 2
    with pytest.raises(ContractViolationError):
        engine.run_process(effect("domain.a")(lambda ctx: setattr(ctx.domain, "b", 0)))
    engine.strict_mode = True
    with pytest.raises(ContractViolationError):
        engine.run_process(pure("domain.a")(lambda ctx: ctx.domain.b))
    assert not TheusEngine(strict_mode=False).strict_guards


WRITES: list[Callable[[Any], Any]] = [
    lambda ctx: setattr(ctx, "domain", {}),
    lambda ctx: setattr(ctx, "anything", 1),
    lambda ctx: ctx.__setitem__("domain", {}),
    lambda ctx: delattr(ctx, "domain"),
    lambda ctx: setattr(ctx.domain, "a", 5),
    lambda ctx: setattr(ctx.domain, "undeclared", 5),
    lambda ctx: ctx.domain.__setitem__("a", 5),
    lambda ctx: ctx.domain.__delitem__("a"),
    lambda ctx: delattr(ctx.domain, "a"),
    lambda ctx: ctx.domain.update(a=5),
    lambda ctx: ctx.domain.clear(),
    lambda ctx: ctx.domain.pop("a"),
    lambda ctx: ctx.domain.popitem(),
    lambda ctx: ctx.domain.setdefault("z", 1),
    lambda ctx: ctx.domain.__ior__({"a": 5}),
    lambda ctx: setattr(ctx.domain.user, "name", "eve"),
    lambda ctx: ctx.add("domain.a", 1),
    lambda ctx: ctx.append(("domain", "rows"), 1),
    lambda ctx: ctx.transaction,
    lambda ctx: setattr(ctx.state.domain, "a", 5),
]


@pytest.mark.parametrize("semantic", ["pure", "guide"])
@pytest.mark.parametrize("write", WRITES)
def test_a_read_only_process_cannot_write(engine: TheusEngine, write: Any, semantic: str) -> None:
    body = process(inputs=["domain.a", "domain.user.name"], semantic=semantic)(write)
    token = "PURE process cannot" if semantic == "pure" else "Illegal Write"
    with pytest.raises(ContractViolationError, match=token) as caught:
        engine.run_process(body)
    assert caught.value.process == "<lambda>"
    assert engine.version == 1


@pytest.mark.parametrize("write", WRITES)
def test_a_swallowed_write_still_fails_the_run(engine: TheusEngine, write: Any) -> None:
    @pure("domain.a", "domain.user.name", outputs=("domain.b",))
    def body(ctx: Any) -> int:
        with pytest.raises(ContractViolationError):
            write(ctx)
        return 5

    with pytest.raises(ContractViolationError, match="PURE process cannot"):
        engine.run_process(body)
    assert engine.version == 1


DEEP_WRITES: list[tuple[str, Callable[[Any], Any]]] = [
    ("domain.rows[0]", lambda ctx: ctx.domain.rows.__setitem__(0, 5)),
    ("domain.rows", lambda ctx: ctx.domain.rows.append(1)),
    ("domain.rows", lambda ctx: ctx.domain.rows.extend([1])),
    ("domain.rows", lambda ctx: ctx.domain.rows.insert(0, 1)),
    ("domain.rows", lambda ctx: ctx.domain.rows.pop()),
    ("domain.rows", lambda ctx: ctx.domain.rows.remove({"x": 1})),
    ("domain.rows", lambda ctx: ctx.domain.rows.sort(key=str)),
    ("domain.rows", lambda ctx: ctx.domain.rows.reverse()),
    ("domain.rows", lambda ctx: ctx.domain.rows.clear()),
    ("domain.rows", lambda ctx: ctx.domain.rows.__iadd__([1])),
    ("domain.rows", lambda ctx: ctx.domain.rows.__imul__(2)),
    ("domain.rows", lambda ctx: ctx.domain.rows.__setitem__(slice(None), [])),
    ("domain.rows[0].x", lambda ctx: setattr(ctx.domain.rows[0], "x", 5)),
    ("domain.rows[0].x", lambda ctx: [row.update(x=5) for row in ctx.domain.rows]),
    ("domain.tags", lambda ctx: ctx.domain.tags.add("blue")),
    ("domain.tags", lambda ctx: ctx.domain.tags.discard("red")),
    ("domain.tags", lambda ctx: ctx.domain.tags.__ior__({"blue"})),
    ("shop.box.k", lambda ctx: ctx.shop.box.__setitem__("k", 5)),
    ("shop.box.k", lambda ctx: ctx.shop["box"].__delitem__("k")),
    ("shop.box", lambda ctx: ctx.shop.box.clear()),
    ("shop.box", lambda ctx: [*ctx.shop.values()][0].popitem()),
    ("shop.box.new", lambda ctx: ctx.shop.get("box").setdefault("new", 1)),
    ("shop.box.k", lambda ctx: ctx.state.shop.box.update(k=2)),
]


@pytest.mark.parametrize("semantic", ["pure", "guide"])
@pytest.mark.parametrize(("place", "write"), DEEP_WRITES)
def test_a_read_only_process_is_refused_each_write_at_its_line(
    place: str, write: Any, semantic: str
) -> None:
    engine = TheusEngine(
        {"domain": {"rows": [{"x": 1}], "tags": {"red"}}, "shop": {"box": {"k": 1}}}
    )
    before = engine.state.to_dict()

    @process(inputs=["domain", "shop"], semantic=semantic)
    def body(ctx: Any) -> None:
        with pytest.raises(ContractViolationError, match="cannot write|may only read") as caught:
            write(ctx)
        where = format_path(caught.value.path)
        assert where.startswith(place) or place.startswith(where)
        assert len(where) >= len("shop.box")

    with pytest.raises(ContractViolationError, match="cannot write|may only read"):
        engine.run_process(body)  # that it was swallowed does not help
    assert engine.state.to_dict() == before and engine.version == 1


def test_what_a_pure_process_computes_with_is_its_own(engine: TheusEngine) -> None:
    @pure("domain", outputs=("domain.a",))
    def body(ctx: Any) -> int:
        rows = ctx.domain.rows
        assert rows + [5] == [*rows, 5] and rows[:1] == [{"x": 1}] and rows * 2 == [*rows, *rows]
        assert ctx.domain.tags | {"blue"} == {"red", "blue"}
        mine = rows.copy()
        mine.append({"x": 3})
        mine[0]["x"] = 10
        return sum(row["x"] for row in mine) - sum(row.x for row in rows)

    assert engine.run_process(body) == 12 and domain(engine)["rows"] == [{"x": 1}, {"x": 2}]


def test_a_pure_process_depends_on_what_it_read_only() -> None:
    engine = TheusEngine({"domain": {"users": {"ann": {"age": 1}, "bob": {"age": 2}}, "out": 0}})
    attempts: list[int] = []

    @pure("domain.users", outputs=("domain.out",))
    def body(ctx: Any, name: str) -> int:
        attempts.append(ctx.version)
        if len(attempts) == 1:
            engine.run(lambda tx: tx.set("domain.users.bob.age", 3), detached=True)
        return int(ctx.domain.users[name]["age"])

    assert engine.run_process(body, "ann") == 1 and len(attempts) == 1
    attempts.clear()
    assert engine.run_process(body, "bob") == 3 and len(attempts) == 1  # nothing has changed since
    engine.run(lambda tx: tx.set("domain.users.bob.age", 2))
    attempts.clear()
    assert engine.run_process(body, "bob") == 3 and len(attempts) == 2


def test_what_is_frozen_in_a_process_is_free_of_it() -> None:
    engine = TheusEngine({"domain": {"rows": [{"x": n} for n in range(8)], "out": 0}})

    @pure("domain.rows", outputs=("domain.out",))
    def body(ctx: Any) -> int:
        rows = ctx.domain.rows.freeze()
        with pytest.raises(FrozenError):
            rows[0] = 1
        with ThreadPoolExecutor(4) as pool:
            return sum(pool.map(lambda row: int(row.x), rows))

    assert engine.run_process(body) == 28 and engine.state.domain.out == 28


def test_a_nested_run_does_not_let_a_pure_process_write(engine: TheusEngine) -> None:
    @pure("domain.a")
    def body(ctx: Any) -> None:
        engine.run(lambda tx: tx.set("domain.a", 5))

    with pytest.raises(ContractViolationError, match="PURE process cannot"):
        engine.run_process(body)
    assert engine.version == 1


def test_views_behave_like_mappings(engine: TheusEngine) -> None:
    @pure("domain")
    def body(ctx: Any) -> Any:
        view = ctx.domain
        assert isinstance(view, Mapping) and len(view) == 5
        assert list(view) == ["a", "b", "rows", "tags", "user"] == list(view.keys())
        assert view.get("nothing", 7) == 7 and "nothing" not in view
        assert dict(view.items())["user"] == {"name": "bob", "pin": 1234}
        assert isinstance(view.user, Mapping) and view == view.to_dict()
        assert pickle.loads(pickle.dumps(view)) == view == copy.deepcopy(view)
        assert json.loads(json.dumps(view.user, default=json_default))["pin"] == 1234
        with pytest.raises(AttributeError, match="nothing"):
            view.nothing  # noqa: B018
        with pytest.raises(KeyError) as caught:
            view["nothing"]
        assert caught.value.args == ("nothing",)
        with pytest.raises(TypeError):
            hash(view)
        assert repr(view).startswith("DraftDict")
        return view

    result = engine.run_process(body)
    assert isinstance(result, FrozenDict) and result == domain(engine)


def test_open_keys_let_a_view_be_walked(engine: TheusEngine) -> None:
    @pure("domain.*")
    def keys(ctx: Any) -> Any:
        return list(ctx.domain), len(ctx.domain), ctx.domain["a"]

    assert engine.run_process(keys) == (["a", "b", "rows", "tags", "user"], 5, 1)

    @pure("domain.*.name", "domain.rows[0]")
    def names(ctx: Any) -> Any:
        assert ctx.domain.rows[0] == {"x": 1}
        with pytest.raises(ContractViolationError):
            ctx.domain.rows[1]
        with pytest.raises(ContractViolationError):
            ctx.domain.user.pin  # noqa: B018
        return ctx.domain.user.name, ctx.domain["user"]["name"]

    assert engine.run_process(names) == ("bob", "bob")


def test_views_of_lists_give_no_drafts_away(engine: TheusEngine) -> None:
    @pure("domain.rows.*.x", "domain.nothing.*")
    def body(ctx: Any) -> list[int]:
        rows = ctx.domain.rows
        assert len(rows) == 2 and rows[-1].x == 2
        for row in rows:
            with pytest.raises(ContractViolationError):
                row.secret  # noqa: B018
        with pytest.raises(ContractViolationError):
            next(iter(rows)).freeze()
        with pytest.raises(AttributeError):
            ctx.domain.nothing  # noqa: B018
        return [row["x"] for row in rows]

    assert engine.run_process(body) == [1, 2]

    @pure("domain.rows.*.x")
    def sneaky(ctx: Any) -> None:
        next(iter(ctx.domain.rows)).x = 5

    with pytest.raises(ContractViolationError, match="PURE process cannot"):
        engine.run_process(sneaky)


def test_a_value_without_parts_is_not_declared_by_a_part(engine: TheusEngine) -> None:
    body = pure("domain.a.part", "shop.stock.x")
    with pytest.raises(ContractViolationError):
        engine.run_process(body(lambda ctx: ctx.domain["a"]))
    with pytest.raises(ContractViolationError):
        engine.run_process(body(lambda ctx: ctx["shop"].get("stock")))
    with pytest.raises(ContractViolationError):
        engine.run_process(body(lambda ctx: ctx.domain.a))


def test_a_part_of_a_set_can_be_declared(engine: TheusEngine) -> None:
    @pure("domain.tags.red")
    def body(ctx: Any) -> bool:
        with pytest.raises(ContractViolationError):
            "blue" in ctx.domain.tags  # noqa: B015
        with pytest.raises(ContractViolationError):
            set(ctx.domain.tags)
        return "red" in ctx.domain.tags

    assert engine.run_process(body) is True


def test_a_view_lives_as_long_as_its_run(engine: TheusEngine) -> None:
    kept: list[Any] = []
    engine.run_process(pure("domain")(lambda ctx: kept.append(ctx.domain)))
    with pytest.raises(TransactionError):
        kept[0].a  # noqa: B018
    with pytest.raises(TransactionError):
        kept[0].a = 5


def test_field_names_that_are_methods_are_reached_as_items() -> None:
    engine = TheusEngine({"domain": {"items": 1, "get": 2, "keys": 3}})

    @pure("domain.items", "domain.get", "domain.keys", outputs=("domain.keys",))
    def body(ctx: Any) -> int:
        return int(ctx.domain["items"] + ctx.domain["get"] + ctx.domain["keys"])

    assert engine.run_process(body) == 6 == engine.state["domain"]["keys"]


@pytest.mark.parametrize("root", ["signal", "meta"])
def test_signals_are_no_input_of_a_pure_process(engine: TheusEngine, root: str) -> None:
    with pytest.raises(ContractViolationError, match="PURE process cannot"):
        engine.register(pure(f"{root}.x")(lambda ctx: None))


# ---- GUIDE --------------------------------------------------------------------------


def test_a_guide_reads_anything_and_its_result_is_not_stored(engine: TheusEngine) -> None:
    @process(semantic="guide")
    def next_step(ctx: Any) -> dict[str, Any]:
        return {"domain.a": ctx.domain.user.pin, "rows": ctx.domain.rows}

    result = engine.run_process(next_step)
    assert result == {"domain.a": 1234, "rows": [{"x": 1}, {"x": 2}]}
    assert engine.version == 1
