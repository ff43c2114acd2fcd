"""FrozenDict.mutate(): a private writable copy with dict's methods."""

from __future__ import annotations

import collections.abc
from typing import Any

import pytest

from helpers import Bomb, Crasher
from theus import FrozenDict, FrozenError, FrozenList, Opaque, UnfreezableError


def test_it_writes_and_ends() -> None:
    one = FrozenDict(a=1, b=2)
    with one.mutate() as draft:
        draft["c"] = [3]
        draft.set("d", 4)
        del draft["a"]
        assert draft == {"b": 2, "c": [3], "d": 4}
        assert type(draft["c"]) is FrozenList
    done = draft.finish()
    assert type(done) is FrozenDict and done == {"b": 2, "c": [3], "d": 4}
    assert one == {"a": 1, "b": 2}
    assert draft.finish() == done
    assert draft["b"] == 2 and len(draft) == 3  # reading goes on


def test_after_its_end_it_is_frozen() -> None:
    draft: Any = FrozenDict(a=1).mutate()
    draft.finish()
    for write in (
        lambda: draft.__setitem__("a", 2),
        lambda: draft.__delitem__("a"),
        lambda: draft.set("a", 2),
        lambda: draft.pop("a"),
        lambda: draft.popitem(),
        lambda: draft.setdefault("x", 2),
        lambda: draft.update(x=1),
        lambda: draft.clear(),
    ):
        with pytest.raises(FrozenError, match=r"finish\(\) has ended it"):
            write()
    assert draft == {"a": 1}
    assert draft.setdefault("a", 5) == 1


def test_an_exception_ends_it_too_and_passes() -> None:
    with pytest.raises(LookupError), FrozenDict(a=1).mutate() as draft:
        draft["b"] = 2
        raise LookupError
    with pytest.raises(FrozenError):
        draft["c"] = 3


def test_dict_methods() -> None:
    draft = FrozenDict(a=1, b=2, c=3).mutate()
    assert isinstance(draft, collections.abc.MutableMapping)
    assert draft.pop("a") == 1 and draft.pop("a", None) is None
    with pytest.raises(KeyError):
        draft.pop("a")
    assert draft.popitem() == ("c", 3)
    assert draft.setdefault("b", 9) == 2 and draft.setdefault("n", [1]) == [1]
    assert draft.setdefault("none") is None
    draft.update({"u": 1}, v=2)
    draft.update([("w", 3)])
    assert draft.get("u") == 1 and draft.get("zz") is None and draft.get("zz", 0) == 0
    assert list(draft) == ["b", "n", "none", "u", "v", "w"]
    assert list(reversed(draft)) == list(draft)[::-1]  # type: ignore[call-overload]
    assert list(draft.keys()) == list(draft)
    assert list(draft.values()) == [2, [1], None, 1, 2, 3]
    assert list(draft.items())[0] == ("b", 2)
    assert "b" in draft and "a" not in draft and len(draft) == 6
    draft.clear()
    assert len(draft) == 0 and draft == {}
    with pytest.raises(KeyError, match="empty"):
        draft.popitem()
    with pytest.raises(KeyError):
        del draft["a"]
    with pytest.raises(KeyError):
        draft["a"]
    draft["again"] = 1
    assert draft.finish() == {"again": 1}


def test_comparing_and_text() -> None:
    draft = FrozenDict(a=1).mutate()
    assert draft == {"a": 1} == draft and draft == FrozenDict(a=1).mutate()
    assert FrozenDict(a=1) == draft and draft != {"a": 2} and draft != 1
    assert repr(draft) == "FrozenDictMutation({'a': 1})"
    with pytest.raises(TypeError, match="unhashable"):
        hash(draft)
    with pytest.raises(TypeError, match="cannot create"):
        type(draft)()


def test_values_are_frozen_or_refused() -> None:
    draft: Any = FrozenDict().mutate()
    inner = [1]
    draft["xs"] = inner
    inner.append(2)
    assert draft["xs"] == [1]
    with pytest.raises(UnfreezableError) as caught:
        draft["bad"] = [object()]
    assert caught.value.path == ("bad", 0)
    assert "bad" not in draft


def test_iteration_notices_new_keys() -> None:
    draft = FrozenDict({n: n for n in range(100)}).mutate()
    for key in draft:
        draft[key] = -key
    assert list(draft.values()) == [-n for n in range(100)]
    steps = iter(draft)
    next(steps)
    draft["new"] = 1
    with pytest.raises(RuntimeError, match="during iteration"):
        next(steps)
    assert list(steps) == []
    steps = iter(draft)
    next(steps)
    del draft[50]
    with pytest.raises(RuntimeError):
        list(steps)


@pytest.mark.parametrize(("removed", "end"), [(90, "finish"), (90, "clear"), (10, "finish")])
def test_iteration_over_a_mutation_that_ends(removed: int, end: str) -> None:
    """finish() moves the entries together where most of them are gone: then positions are new."""
    draft = FrozenDict({n: n for n in range(100)}).mutate()
    for n in range(removed):
        del draft[n]
    steps = iter(draft)
    assert next(steps) == removed
    getattr(draft, end)()
    if removed > 50:
        with pytest.raises(RuntimeError, match="during iteration"):
            list(steps)
    else:
        assert list(steps) == list(range(removed + 1, 100))


def test_the_original_and_copies_are_apart() -> None:
    one = FrozenDict({n: n for n in range(1000)})
    first, second = one.mutate(), one.mutate()
    first[5] = "first"
    second[5] = "second"
    del second[6]
    a, b = first.finish(), second.finish()
    assert (one[5], a[5], b[5]) == (5, "first", "second")
    assert len(one) == len(a) == 1000 and len(b) == 999
    third = a.mutate()
    third[7] = 0
    assert a[7] == 7 and third.finish()[7] == 0


# ---- hostile --------------------------------------------------------------------------


def test_a_comparison_may_write_to_the_mutation() -> None:
    draft: Any = FrozenDict({Crasher(n): n for n in range(5)}).mutate()
    turns = iter(range(8))

    def meddle() -> None:
        if next(turns, None) is not None:
            draft.popitem()
            draft["x"] = 1
            draft["y"] = 2

    with Crasher.armed("eq", act=meddle) as trap:
        draft[Crasher(0)] = "zero"
        draft.get(Crasher(1))
        draft.pop(Crasher(2), None)
        draft.update({Crasher(3): 1})
    assert trap.sprung
    assert len(draft) == len(list(draft)) == len(draft.finish())


@pytest.mark.parametrize("where", ["hash", "eq"])
def test_a_key_may_finish_the_mutation_while_it_is_looked_up(where: str) -> None:
    for write in (
        lambda d: d.__setitem__(Crasher(0), 1),
        lambda d: d.__delitem__(Crasher(0)),
        lambda d: d.pop(Crasher(0)),
        lambda d: d.update({Crasher(0): 1}),
        lambda d: d.setdefault(Crasher(7), 1),
    ):
        draft = FrozenDict({Crasher(n): n for n in range(3)}).mutate()
        with (
            Crasher.armed(where, act=draft.finish) as trap,
            pytest.raises((FrozenError, RuntimeError)),
        ):
            write(draft)
        if trap.sprung:
            assert draft.finish() == {Crasher(n): n for n in range(3)}


def test_a_dying_value_may_write_to_the_mutation() -> None:
    draft: Any = FrozenDict().mutate()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        if count < 5:
            draft["x"] = Opaque(Bomb(again))

    draft["x"] = Opaque(Bomb(again))
    draft["x"] = 0
    del draft["x"]
    draft["x"] = Opaque(Bomb(again))
    draft.clear()
    assert count >= 2
    assert len(draft) == len(list(draft))
