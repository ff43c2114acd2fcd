"""Records in processes of their own: cycles, leaks, classes that come and go, the end."""

from __future__ import annotations

import pytest

from support import silent

STRICT = ("-X", "dev", "-W", "error")


def test_cycles_through_records_and_their_classes_are_collected() -> None:
    silent(
        """
        import gc, weakref
        from dataclasses import dataclass
        from typing import Any
        from theus import FrozenDict, Opaque, TheusEngine

        class Owner:
            pass

        def cycle(kind):
            @dataclass
            class Local:
                x: Any = 1
                def __post_init__(self):
                    pass

            owner = Owner()
            Local.owner = owner
            owner.engine = engine = TheusEngine({"domain": {"it": Local()}})
            if kind == "field":
                engine.run(lambda tx: setattr(tx.domain.it, "x", Opaque(owner)))
            elif kind == "view":
                owner.view = engine.state["domain"]["it"]
                owner.method = owner.view.__post_init__
            elif kind == "draft":
                owner.tx = engine.transaction().__enter__()
                owner.draft = owner.tx.domain.it
            elif kind == "frozen":
                owner.frozen = FrozenDict(a=Local(Opaque(owner)))
            return weakref.ref(owner), weakref.ref(engine), weakref.ref(Local)

        gc.disable()
        for kind in "class field view draft frozen".split():
            refs = cycle(kind)
            assert all(ref() is not None for ref in refs), (kind, "is no cycle")
            for _ in range(3):
                gc.collect()
            assert all(ref() is None for ref in refs), (kind, "was not collected", refs)
        """,
        *STRICT,
    )


def test_a_class_goes_with_its_last_record_and_is_described_again() -> None:
    silent(
        """
        import gc, weakref
        from dataclasses import make_dataclass
        from theus import FrozenDict

        for _ in range(50):
            cls = make_dataclass("Passing", [("x", int, 1)])
            frozen = FrozenDict(a=cls(), b=[cls(2)])
            kinds = weakref.ref(cls), weakref.ref(type(frozen["a"]))
            assert type(frozen["a"]) is type(frozen["b"][0])
            again = FrozenDict(a=cls())
            assert type(again["a"]) is type(frozen["a"]), "known while one record lives"
            del frozen, again
            assert FrozenDict(a=cls())["a"].x == 1
            del cls
            gc.collect()
            assert [ref() for ref in kinds] == [None, None]
        """,
        *STRICT,
    )


def test_references_stay_as_many_as_they_were() -> None:
    silent(
        """
        import gc, sys
        from dataclasses import dataclass, field
        from theus import RecordError, TheusEngine

        value = "v" * 50

        @dataclass
        class Order:
            x: object = None
            rows: list = field(default_factory=list)
            def __post_init__(self):
                if self.x == "bad":
                    raise ValueError("bad")

        engine = TheusEngine({"domain": {"it": Order()}}, history=1, ring_capacity=2)

        def round_():
            def body(tx):
                it = tx.domain.it
                it.x = value
                it.rows.append(value)
                it.rows.clear()
                assert it.x is value and it == it.to_object() and repr(it)
            engine.run(body)
            view = engine.state.domain.it
            assert view.x is value and view == view.to_object() and hash(type(view))
            try:
                engine.run(lambda tx: setattr(tx.domain.it, "x", "bad"))
            except RecordError:
                pass
            engine.run(lambda tx: setattr(tx.domain.it, "x", None))

        def counts():
            gc.collect()
            return sys.getrefcount(value), sys.getrefcount(Order), len(gc.get_objects())

        for _ in range(20):
            round_()
        before = counts()
        for _ in range(200):
            round_()
        after = counts()
        assert all(a - b < 50 for a, b in zip(after, before)), (before, after)
        """,
        *STRICT,
    )


def test_a_process_ends_silently_with_records_alive() -> None:
    silent(
        """
        import sys
        from dataclasses import dataclass, field
        from theus import FrozenDict, TheusEngine

        @dataclass
        class Order:
            x: int = 1
            more: list = field(default_factory=list)
            def __post_init__(self):
                pass

        engine = TheusEngine({"domain": {"it": Order(1, [Order()])}})
        view, frozen = engine.state.domain.it, FrozenDict(a=Order())
        tx = engine.transaction().__enter__()
        draft = tx.domain.it
        draft.more[0].x = 2
        method = draft.__post_init__
        sys.modules["keep"] = (view, frozen, draft, method)
        """,
        *STRICT,
    )


def test_pydantic_models_alive_at_the_end() -> None:
    pytest.importorskip("pydantic")
    silent(
        """
        from pydantic import BaseModel
        from theus import TheusEngine

        class Order(BaseModel):
            x: int = 1

        engine = TheusEngine({"domain": {"it": Order()}})
        engine.run(lambda tx: setattr(tx.domain.it, "x", "5"))
        view = engine.state.domain.it
        assert view.x == 5 and view.model_dump() == {"x": 5}
        """
    )
