"""Records against classes and processes that mean no good, or do what nobody thinks of."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from support import elsewhere
from theus import DELETE, TheusEngine, process
from theus._theus import record_discard, record_store
from theus.errors import ConflictError, ContractViolationError, UnfreezableError


@dataclass
class Account:
    owner: str = "ann"
    total: int = 1
    notes: list[str] = field(default_factory=list)


def engine_with(**domain: Any) -> TheusEngine:
    return TheusEngine(context={"domain": domain})


@pytest.mark.parametrize("name", ["__new__", "__getattribute__", "__del__", "__wrapped__"])
def test_the_types_of_views_and_drafts_cannot_be_changed(name: str) -> None:
    """With another __new__ object.__new__(type(view)) gave a view of nothing, which crashed."""
    engine = engine_with(a=Account())
    with engine.transaction() as tx:
        kinds = [type(engine.state["domain"]["a"]), type(tx.domain["a"])]
    for kind in kinds:
        with pytest.raises(TypeError, match="immutable"):
            setattr(kind, name, lambda cls: None)
        with pytest.raises(TypeError):
            object.__new__(kind)


def test_a_base_class_with_content_of_its_own_is_refused() -> None:
    """Subclasses of heap types of C were taken, without what the C part holds."""

    @dataclass
    class Dice(random.Random):
        sides: int = 6
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(UnfreezableError, match="Random"):
        engine_with(dice=Dice(4))


@pytest.mark.parametrize("through", ["commit", "store"])
def test_a_validation_that_gives_another_class(through: str) -> None:
    """A model replaced a dataclass entry by entry: its hidden entries stood at wrong places."""
    pydantic = pytest.importorskip("pydantic")
    dataclasses = pytest.importorskip("pydantic.dataclasses")
    swaps = False

    class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        a: list[int] = [1]
        x: int = 0

    @dataclasses.dataclass
    class Changing:
        a: list[int]
        x: int

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return Model(a=[1, 2], x=9) if swaps else object.__new__(cls)

    engine = engine_with(p=Changing(a=[5], x=1))
    swaps = True
    with engine.transaction() as tx:
        tx.domain["p"].x = 5
        if through == "store":
            tx.domain["q"] = tx.domain["p"]
    for name in ("p", "q") if through == "store" else ("p",):
        view = engine.state["domain"][name]
        assert isinstance(view, Model) and view.__pydantic_fields_set__ == {"a", "x"}
        assert view.to_object() == Model(a=[1, 2], x=9)
    with engine.transaction() as tx:
        tx.domain["p"].x = 7
    assert engine.state["domain"]["p"].model_dump() == {"a": [1, 2], "x": 7}


def test_attributes_that_vanish_while_they_are_copied() -> None:
    """The dict of attributes, which frames show, was walked without a hold on its entries."""
    taken: list[dict[str, Any]] = []

    class Attributes(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            taken.append(sys._getframe(1).f_locals["values"])
            return [("x" * len(taken) + str(n), [n]) for n in range(3)] + [("inner", Inner())]

    @dataclass
    class Inner:
        n: int = 1

        @property
        def __dict__(self) -> Any:
            for values in taken:
                values.clear()
            return {"n": 1}

    @dataclass
    class Outer:
        n: int = 3

        @property
        def __dict__(self) -> Any:
            return Attributes()

    with pytest.raises(RuntimeError, match="attributes changed"):
        engine_with(p=Outer())
    assert taken


@pytest.mark.parametrize("how", ["delete", "update", "update_delete"])
def test_what_a_class_raises_shows_no_more_than_the_contract(how: str) -> None:
    """AttributeError.obj was a draft without a guard, when a field was deleted or set by path."""
    seen = []

    @process(inputs=[], outputs=["domain.a.total"])
    def spy(ctx: Any) -> None:
        try:
            if how == "delete":
                ctx.transaction.delete("domain.a.total")
            elif how == "update":
                ctx.transaction.update({"domain": {"a": {"nothing": 1}}})
            else:
                ctx.transaction.update({"domain": {"a": {"total": DELETE}}})
        except AttributeError as error:
            seen.append("error")
            seen.append(error.obj.owner)

    engine = engine_with(a=Account())
    with pytest.raises(ContractViolationError, match=r"domain\.a\.owner"):
        engine.run_process(spy)
    assert seen == ["error"]


def test_hidden_entries_have_no_name() -> None:
    """record_store() and record_discard() took keys of any type, also of hidden entries."""
    with engine_with(a=Account()).transaction() as tx:
        with pytest.raises(TypeError, match="str"):
            record_store(tx.domain["a"], 5, 1, True)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="str"):
            record_discard(tx.domain["a"], object())  # type: ignore[arg-type]


@dataclass
class Closed:
    owner: str = "ann"
    total: int = 1
    notes: list[str] = field(default_factory=list)


@pytest.mark.parametrize("other", [Closed(), {"owner": "ann", "total": 1}])
@pytest.mark.parametrize("first", [Account(), {"owner": "ann", "total": 1}])
def test_to_ask_for_the_class_is_to_depend_on_it(first: Any, other: Any) -> None:
    """Who only looked at the class of a record did not see that another one took its place."""
    engine = engine_with(a=first, open=False)

    def replace() -> None:
        with engine.transaction() as tx:
            tx.domain["a"] = other

    tx = engine.transaction()
    tx.__enter__()
    tx.domain["open"] = str(isinstance(tx.domain["a"], Account))
    elsewhere(replace)
    if isinstance(first, dict) and isinstance(other, dict):
        tx.__exit__(None, None, None)
    else:
        with pytest.raises(ConflictError):
            tx.__exit__(None, None, None)


def test_methods_of_drafts_are_no_keys() -> None:
    """draft.to_object() was a read of a key "to_object": the guard named it in its refusal."""

    @process(inputs=["domain.a.owner"], outputs=["domain.a.total"])
    def spy(ctx: Any) -> None:
        ctx.domain.a.to_object()

    with pytest.raises(ContractViolationError) as caught:
        engine_with(a=Account()).run_process(spy)
    assert caught.value.path == ("domain", "a")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_validation_that_is_interrupted(kind: type[BaseException]) -> None:
    @dataclass
    class Strict:
        x: int = 1

        def __post_init__(self) -> None:
            if self.x > 5:
                raise kind

    engine = engine_with(a=Strict())
    with pytest.raises(kind), engine.transaction() as tx:
        tx.domain["a"].x = 9
    with pytest.raises(kind), engine.transaction() as tx:
        tx.domain["a"].x = 9
        tx.domain["b"] = tx.domain["a"]
    with engine.transaction() as tx:
        tx.domain["a"].x = 2
    assert engine.state["domain"]["a"].x == 2 and "b" not in engine.state["domain"]
