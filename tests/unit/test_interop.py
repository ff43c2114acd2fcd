"""Values of a state in JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from theus import FrozenDict, FrozenList, FrozenSet, State, TheusEngine, json_default


def written(value: Any) -> Any:
    return json.loads(json.dumps(value, default=json_default))


def test_frozen_containers_at_any_depth() -> None:
    value = {"list": FrozenList([1, FrozenDict({"a": (1, None)})]), "set": FrozenSet(["x"])}
    assert written(value) == {"list": [1, {"a": [1, None]}], "set": ["x"]}
    assert written(FrozenDict({1: True})) == {"1": True}
    assert written(State({"domain": {"xs": [1]}})) == {"domain": {"xs": [1]}}


def test_sets_keep_their_order() -> None:
    engine = TheusEngine({"domain": {"tags": {"b"}}})
    engine.run(lambda tx: tx.domain.tags.update(["a", "c"]))
    assert written(engine.state["domain"]) == {"tags": ["b", "a", "c"]}


def test_drafts_inside_their_transaction() -> None:
    engine = TheusEngine({"domain": {"d": {"k": 1}, "xs": [1], "s": {2}}})
    with engine.transaction() as tx:
        tx.domain.d["k"] = 5
        assert written(tx.domain) == {"d": {"k": 5}, "xs": [1], "s": [2]}
        assert written([tx.domain.xs, tx.domain.s]) == [[1], [2]]


def test_other_objects_are_left_to_the_caller() -> None:
    with pytest.raises(TypeError, match="object"):
        json_default(object())
