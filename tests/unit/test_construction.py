"""Making an engine, ending it, and asking it for figures."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest

from processes import effect, small_engine
from theus import TheusEngine


@pytest.fixture
def engine() -> TheusEngine:
    return small_engine()


# ---- construction -------------------------------------------------------------------


def test_every_key_of_a_context_is_kept() -> None:
    engine = TheusEngine(
        {"domain": {"log_x": 1, "meta_y": 2}, "global_ctx": {"g": 1}, "orders": [1], "n": 5}
    )
    assert engine.state.to_dict() == {
        "domain": {"log_x": 1, "meta_y": 2}, "global": {"g": 1}, "orders": [1], "n": 5,
    }  # fmt: skip
    assert engine.version == 1 and TheusEngine().version == 0 == TheusEngine({}).version


def test_a_context_is_copied() -> None:
    data = {"domain": {"rows": [1]}}
    engine = TheusEngine(data)
    data["domain"]["rows"].append(2)
    data["domain"]["x"] = []
    assert engine.state["domain"] == {"rows": [1]}


@pytest.mark.parametrize("way", ["to_dict", "model_dump"])
def test_contexts_that_can_be_dumped(way: str) -> None:
    context = type("Context", (), {way: lambda self: {"domain": {"x": 1}}})()
    assert TheusEngine(context).state["domain"] == {"x": 1}


def test_contexts_that_cannot_be_taken() -> None:
    with pytest.raises(TypeError, match=r"a dict of roots.* not a object: <object"):
        TheusEngine(object())
    with pytest.raises(TypeError, match="5"):
        TheusEngine({5: {}})
    with pytest.raises(ValueError, match="'global'"):
        TheusEngine({"global": {"a": 1}, "global_": {"a": 2}})
    with pytest.raises(TypeError, match="to_dict"):
        TheusEngine(type("Context", (), {"to_dict": lambda self: [1]})())


def test_a_state_begins_another_engine_and_an_engine_is_not_copied(engine: TheusEngine) -> None:
    again = pickle.loads(pickle.dumps(engine.state))
    assert TheusEngine(again).state == engine.state
    for way in pickle.dumps, copy.copy, copy.deepcopy:
        with pytest.raises(TypeError, match=r"TheusEngine\(state\)"):
            way(engine)


def test_namespaces_become_roots() -> None:
    engine = TheusEngine(
        {"domain": {}},
        namespaces=[{"name": "shop", "data": {"stock": 1}}, ("bank",), ("mail", None, [1])],
    )
    assert engine.state.to_dict() == {
        "domain": {}, "shop": {"stock": 1}, "bank": {}, "mail": [1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("namespace", "error", "word"),
    [
        ({"name": "domain"}, ValueError, "'domain'"),
        ({"data": {}}, ValueError, "no name"),
        ({"name": "x", "dta": {}}, ValueError, "'dta'"),
        ("shop", TypeError, "'shop'"),
        ((), TypeError, "()"),
        (("shop", object()), NotImplementedError, "'shop' has a policy"),
    ],
)
def test_bad_namespaces(namespace: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error) as caught:
        TheusEngine({"domain": {}}, namespaces=[namespace])
    assert word in str(caught.value)


def test_what_comes_later_is_refused_not_ignored() -> None:
    with pytest.raises(NotImplementedError, match="audit_recipe"):
        TheusEngine(audit_recipe="recipe.yaml")


def test_write_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THEUS_WRITE_TIMEOUT_MS", raising=False)
    assert TheusEngine().write_timeout_ms == 300_000
    assert TheusEngine().transaction().write_timeout_ms == 5000
    monkeypatch.setenv("THEUS_WRITE_TIMEOUT_MS", "1234")
    assert TheusEngine().write_timeout_ms == 1234
    assert TheusEngine(write_timeout_ms=7).write_timeout_ms == 7
    for text in ("", "soon", "-5", "0", "1.5"):
        monkeypatch.setenv("THEUS_WRITE_TIMEOUT_MS", text)
        with pytest.raises(ValueError, match="THEUS_WRITE_TIMEOUT_MS") as caught:
            TheusEngine()
        assert text in str(caught.value)
    for value in (0, -1, 1.5, True, "5"):
        with pytest.raises(ValueError, match="write_timeout_ms"):
            TheusEngine(write_timeout_ms=value)  # type: ignore[arg-type]


def test_an_engine_is_closed_by_its_block() -> None:
    with TheusEngine({"domain": {}}) as engine:
        assert "domain" in repr(engine)
    assert engine.closed and "closed" in repr(engine)

    async def main() -> TheusEngine:
        async with TheusEngine() as engine:
            return engine

    assert asyncio.run(main()).closed


def test_figures_and_history(engine: TheusEngine) -> None:
    engine.run_process(effect("domain.a")(lambda ctx: 5))
    engine.run_process(effect("domain.b")(lambda ctx: 6))
    changes = {change.path: (change.old, change.new) for change in engine.diff(1, 3)}
    assert changes == {("domain", "a"): (1, 5), ("domain", "b"): (2, 6)}
    assert [change.path for change in engine.diff(2)] == [("domain", "b")]
    origin = engine.provenance("domain.a")
    assert origin is not None and origin.version == 2
    stats = engine.stats()
    assert (stats.version, stats.commits, stats.conflicts) == (3, 2, 0)
    assert stats.history_versions == 3 and stats.ring_lost == 0 and stats.ring_capacity >= 1024
    with pytest.raises(AttributeError):
        stats.commits = 0  # type: ignore[misc]
