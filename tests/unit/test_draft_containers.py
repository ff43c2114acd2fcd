"""Drafts as dict, list and set, one behaviour at a time.

The random program beside builtins is model/test_drafts.py; what is special about drafts is in
test_drafts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers import Crash, Crasher
from theus import TheusEngine

START: dict[str, Any] = {
    "n": 1,
    "user": {"name": "Ann", "tags": ["x"]},
    "xs": [3, 1, 2],
    "rows": [{"id": 1}, {"id": 2}, {"id": 3}],
    "seen": {1, 2},
}


@pytest.fixture
def engine() -> TheusEngine:
    return TheusEngine({"domain": START})


@pytest.fixture
def domain(engine: TheusEngine) -> Iterator[Any]:
    with engine.transaction() as tx:
        yield tx.domain


# ---- dict ----------------------------------------------------------------------------


def test_dict_items_and_attributes_are_the_same(domain: Any) -> None:
    domain["n"] += 1
    domain.n += 1
    domain.user.name = "Bob"
    del domain.xs
    assert domain["n"] == domain.n == 3
    assert domain["user"] == {"name": "Bob", "tags": ["x"]}
    assert "xs" not in domain


def test_an_attribute_never_hides_a_method(domain: Any) -> None:
    domain["items"] = 5
    assert domain["items"] == 5
    assert ("n", 1) in domain.items()
    with pytest.raises(AttributeError, match=r"d\['items'\]"):
        domain.items = 6
    with pytest.raises(AttributeError):
        del domain.items
    with pytest.raises(AttributeError, match="nothing_here"):
        domain.nothing_here += 1
    with pytest.raises(AttributeError):
        del domain.nothing_here


def test_names_with_double_underscores_are_no_keys(engine: TheusEngine) -> None:
    with engine.transaction() as tx:
        assert not hasattr(tx.domain, "__array_interface__")
        with pytest.raises(AttributeError):
            tx.domain.__secret__ = 1
        tx.domain["__secret__"] = 2
        assert not hasattr(tx.domain, "__secret__")
    assert engine.state["domain"]["__secret__"] == 2


@pytest.mark.parametrize("key", ["nothing", ("a", "b"), None, 1.5])
def test_a_missing_key_is_named_as_it_is(domain: Any, key: Any) -> None:
    for act in (
        lambda: domain[key],
        lambda: domain.__delitem__(key),
        lambda: domain.pop(key),
    ):
        with pytest.raises(KeyError) as caught:
            act()
        assert caught.value.args == (key,)
    assert domain.get(key) is None
    assert domain.get(key, 7) == domain.pop(key, 7) == 7


def test_popitem_takes_the_newest_first(domain: Any) -> None:
    domain["last"] = [1]
    name, value = domain.popitem()
    value.append(2)
    assert (name, value) == ("last", [1, 2])
    assert [domain.popitem()[0] for _ in range(len(domain))] == [*reversed(START)]
    with pytest.raises(KeyError):
        domain.popitem()


def test_popitem_takes_the_next_if_equality_takes_the_last(domain: Any) -> None:
    """The last entry is looked up again to be removed; its own __eq__ may be faster."""
    domain[Crasher("a", 1)] = "a"
    domain[Crasher("b", 1)] = "b"
    once = iter([lambda: domain.pop(next(reversed(domain)))])
    with Crasher.armed("eq", act=lambda: next(once, int)()):
        assert domain.popitem()[1] == "a"
    elements = domain.seen
    elements.update([Crasher("c", 1), Crasher("d", 1)])
    again = iter([elements.pop])
    with Crasher.armed("eq", act=lambda: next(again, int)()):
        assert elements.pop().name == "c"
    assert elements == {1, 2}


def test_setdefault_gives_what_is_stored(domain: Any) -> None:
    mine: list[int] = []
    domain.setdefault("new", mine).append(1)
    domain.setdefault("new", [5]).append(2)
    assert domain["new"] == [1, 2]
    assert mine == []
    assert domain.setdefault("none") is None


def test_update_takes_what_dict_takes(domain: Any, engine: TheusEngine) -> None:
    domain.clear()
    domain.update({"a": 1}, b=[2])
    domain.update([("c", 3), "d4"], a=0)
    domain.update(engine.state["domain"]["user"])
    domain.update(domain)
    domain |= {"e": 5}
    domain |= [("f", 6)]
    assert list(domain.items()) == [
        ("a", 0), ("b", [2]), ("c", 3), ("d", "4"), ("name", "Ann"), ("tags", ["x"]),
        ("e", 5), ("f", 6),
    ]  # fmt: skip


def test_update_keeps_what_came_before_a_failure(domain: Any) -> None:
    with pytest.raises(TypeError, match="element 1 "):
        domain.update([("a", 1), 5])
    with pytest.raises(ValueError, match="element 1 has 3 parts"):
        domain.update([("b", 2), (1, 2, 3)])
    assert (domain["a"], domain["b"]) == (1, 2)


def test_update_reads_a_mapping_by_its_keys(domain: Any) -> None:
    class Upper:
        def keys(self) -> list[str]:
            return ["a", "b"]

        def __getitem__(self, key: str) -> str:
            return key.upper()

    domain.update(Upper())
    assert (domain["a"], domain["b"]) == ("A", "B")
    growing: dict[Any, Any] = {}
    growing[Crasher("k", 1)] = 0
    domain[Crasher("other", 1)] = 0
    with (
        Crasher.armed("eq", act=lambda: growing.update({len(growing): 0})),
        pytest.raises(RuntimeError, match="dict mutated during update"),
    ):
        domain.update(growing)


def test_operators_of_dict_give_builtins_with_live_parts(domain: Any) -> None:
    merged = domain | {"n": 2, "more": 1}
    assert type(merged) is dict
    assert merged["n"] == 2 and domain["n"] == 1
    merged["user"]["name"] = "Eve"
    assert domain["user"]["name"] == "Eve"
    assert list({"z": 0} | domain) == ["z", *START]
    with pytest.raises(TypeError):
        domain | [("a", 1)]


def test_views_of_dict_are_live(domain: Any) -> None:
    keys, values, items = domain.keys(), domain.values(), domain.items()
    domain.clear()
    domain.update(a=1, b=[2])
    assert list(keys) == ["a", "b"] == [*reversed([*reversed(keys)])]
    assert list(values) == [1, [2]] and [2] in values
    assert list(items) == [("a", 1), ("b", [2])]
    assert ("b", [2]) in items and ("b", [3]) not in items and "b" not in items
    assert keys & {"a", "z"} == {"a"} and {"a", "z"} - keys == {"z"}
    assert keys | ["c"] == {"a", "b", "c"} and keys ^ {"a"} == {"b"}
    assert keys == {"a", "b"} and keys < {"a", "b", "c"} and keys >= {"a"}
    assert keys == {"a": 0, "b": 0}.keys() and not keys.isdisjoint("a")
    assert len(keys) == len(values) == len(items) == 2
    assert (repr(keys), repr(values)) == (
        "DraftKeys(['a', 'b'])",
        "DraftValues([1, DraftList([2])])",
    )
    assert keys.mapping["a"] == 1
    assert keys != {"a", "z"} and keys != {"a"} and keys != ["a", "b"]
    assert list(reversed(domain)) == ["b", "a"]
    with pytest.raises(TypeError):
        assert keys & 5
    with pytest.raises(TypeError):
        items & items  # as with a dict that holds a list: not hashable


def test_a_dict_must_keep_its_keys_while_it_is_walked(domain: Any) -> None:
    for key in domain:
        domain[key] = 0
    assert set(domain.values()) == {0}
    with pytest.raises(RuntimeError, match="dictionary changed size during iteration"):
        for _ in domain:
            domain["more"] = 1
    with pytest.raises(RuntimeError, match="dictionary keys changed during iteration"):
        for _ in domain.items():
            domain.pop("more")
            domain["again"] = 1


def test_reading_as_a_whole_does_not_disturb_a_walk(domain: Any) -> None:
    domain.clear()
    domain.update((i, [i]) for i in range(100))
    for i in range(90):
        del domain[i]
    seen = []
    for key, value in domain.items():
        value.append(0)
        domain[key] = [key]
        assert domain.to_dict()[key] == [key]
        seen.append(key)
    assert seen == list(range(90, 100))


# ---- list ----------------------------------------------------------------------------


def test_slices_of_lists_are_lists_with_live_parts(domain: Any) -> None:
    domain.rows[1:][0]["id"] = 20
    assert domain.rows[1] == {"id": 20}
    xs = domain.xs
    assert type(xs[:]) is list and xs[::-1] == [2, 1, 3]
    xs[1:1] = (7, 8)
    assert xs == [3, 7, 8, 1, 2]
    xs[::2] = "abc"
    assert xs == ["a", 7, "b", 1, "c"]
    del xs[3::-2]
    assert xs == ["a", "b", "c"]
    xs[1:] = xs
    assert xs == ["a", "a", "b", "c"]
    with pytest.raises(ValueError, match="size 3 to extended slice of size 2"):
        xs[::2] = [1, 2, 3]
    with pytest.raises(TypeError):
        xs[1:] = 5
    with pytest.raises(TypeError, match="not str"):
        xs["1"]


def test_indexes_out_of_range_say_how_long_the_list_is(domain: Any) -> None:
    for act in (
        lambda: domain.xs[3],
        lambda: domain.xs[-4],
        lambda: domain.xs.__setitem__(3, 0),
        lambda: domain.xs.__delitem__(3),
        lambda: domain.xs.pop(3),
    ):
        with pytest.raises(IndexError, match="the list has 3 elements"):
            act()
    with pytest.raises(IndexError, match="pop from empty list"):
        domain.setdefault("empty", []).pop()


def test_a_draft_follows_its_container(domain: Any) -> None:
    rows = domain.rows
    second = rows[1]
    rows.insert(0, {"id": 0})
    rows.sort(key=lambda row: -row["id"])
    del rows[0:1]
    rows.reverse()
    second["id"] = 22
    assert rows == [{"id": 0}, {"id": 1}, {"id": 22}]
    del rows[::2]
    third = rows.pop()
    assert third == {"id": 1} and rows == []
    second["id"] = 23
    third["id"] = 11
    assert (second, third) == ({"id": 23}, {"id": 11})
    rows.append(second)
    second["id"] = 24
    assert rows == [{"id": 23}]


def test_spread_deletion_keeps_the_drafts_of_the_rest(domain: Any) -> None:
    domain.many = [{"i": i} for i in range(10)]
    handles = list(domain.many)
    del domain.many[8:1:-3]
    for handle in handles:
        handle["i"] += 100
    assert [row["i"] for row in domain.many] == [100, 101, 103, 104, 106, 107, 109]


def test_a_removed_value_stays_as_it_was_when_its_place_is_filled(domain: Any) -> None:
    old = domain.user
    domain.user = {"name": "New"}
    old.name = "Old"
    assert (domain.user.name, old.name) == ("New", "Old")


def test_sort_is_stable_and_does_nothing_when_it_fails(domain: Any) -> None:
    xs = domain.xs
    xs[:] = ["bb", "A", "b", "aa", "B"]
    xs.sort(key=str.lower)
    assert xs == ["A", "aa", "b", "B", "bb"]
    xs.sort(key=len, reverse=True)
    assert xs == ["aa", "bb", "A", "b", "B"]
    with pytest.raises(ZeroDivisionError):
        xs.sort(key=lambda x: 1 / (x != "b"))
    xs.append(1)
    with pytest.raises(TypeError):
        xs.sort()
    with pytest.raises(TypeError):
        xs.sort(str.lower)
    assert xs == ["aa", "bb", "A", "b", "B", 1]


def test_sort_notices_what_its_key_function_does(domain: Any) -> None:
    rows = domain.rows
    rows.sort(key=lambda row: (row.pop("id") * -1, len(domain.to_dict())))
    assert rows == [{}, {}, {}]  # the elements changed, the list did not
    for act in (rows.append, lambda row: rows.__setitem__(0, 1), lambda row: rows.pop()):
        with pytest.raises(ValueError, match="modified during sort"):
            rows.sort(key=lambda row: (act(row), 0)[1])
        rows[:] = [{}, {}, {}]


def test_extend_keeps_what_came_before_a_failure(domain: Any) -> None:
    def three_then_fail() -> Iterator[int]:
        yield from (4, 5, 6)
        raise Crash

    with pytest.raises(Crash):
        domain.xs.extend(three_then_fail())
    assert domain.xs == [3, 1, 2, 4, 5, 6]
    domain.xs += domain.xs[:2]
    domain.xs.extend(domain.xs)
    assert len(domain.xs) == 16
    with pytest.raises(TypeError):
        domain.xs += 5


def test_operators_of_list(domain: Any) -> None:
    xs = domain.xs
    assert type(xs + [4]) is list and xs + [4] == [3, 1, 2, 4] and [4] + xs == [4, 3, 1, 2]
    assert xs * 2 == 2 * xs == [3, 1, 2, 3, 1, 2]
    xs *= 2
    assert xs == [3, 1, 2, 3, 1, 2]
    xs *= 0
    assert xs == [] and domain.xs == []
    with pytest.raises(TypeError):
        xs + (1,)
    domain.rows *= 2
    domain.rows[0]["id"] = 9
    assert [row["id"] for row in domain.rows] == [9, 2, 3, 1, 2, 3]  # copies, not aliases


def test_walking_a_list_is_by_index(domain: Any) -> None:
    seen = []
    for x in domain.xs:
        seen.append(x)
        if len(domain.xs) < 6:
            domain.xs.append(x * 10)
    assert seen == [3, 1, 2, 30, 10, 20]
    domain.xs.insert(-1, 7)
    del domain.xs[0], domain.xs[-3]
    assert list(domain.xs) == [1, 2, 30, 7, 20]
    domain.xs.insert(-99, 0)
    backwards = reversed(domain.xs)
    assert next(backwards) == 20
    domain.xs.clear()
    assert list(backwards) == []
    assert list(backwards) == []


def test_searching_a_list(domain: Any) -> None:
    rows = domain.rows
    assert rows.index({"id": 2}) == rows.index(rows[1]) == rows.index({"id": 2}, -2) == 1
    assert {"id": 3} in rows and {"id": 4} not in rows and 3 not in rows
    assert rows.count({"id": 1}) == 1
    with pytest.raises(ValueError, match="is not in list"):
        rows.index({"id": 2}, 2)
    with pytest.raises(ValueError, match="is not in list"):
        rows.remove(5)
    with pytest.raises(TypeError, match="integers as bounds, not str"):
        rows.index(1, "2")
    rows.remove({"id": 1})
    assert [*rows] == [{"id": 2}, {"id": 3}]


def test_methods_count_their_arguments(domain: Any) -> None:
    for act, text in (
        (lambda: domain.get(), r"get\(\) takes at least 1 argument, not 0"),
        (lambda: domain.pop(1, 2, 3), r"pop\(\) takes at most 2 arguments, not 3"),
        (lambda: domain.setdefault(), "setdefault"),
        (lambda: domain.xs.insert(1), r"insert\(\) takes exactly 2 arguments, not 1"),
        (lambda: domain.xs.index(), "index"),
        (lambda: domain.xs.pop(1, 2), "pop"),
    ):
        with pytest.raises(TypeError, match=text):
            act()


def test_a_list_cannot_grow_beyond_all_bounds(domain: Any) -> None:
    with pytest.raises(MemoryError):
        domain.xs *= 2**40
    assert domain.xs == [3, 1, 2]


# ---- set -----------------------------------------------------------------------------


def test_set_methods(domain: Any) -> None:
    seen = domain.seen
    seen.add(3)
    seen.update([4], {5}, seen)
    seen.discard(99)
    seen.remove(1)
    with pytest.raises(KeyError):
        seen.remove(1)
    assert seen == {2, 3, 4, 5} and list(seen) == [2, 3, 4, 5]
    assert seen.pop() == 5
    assert seen.union([7], [8]) == {2, 3, 4, 7, 8} and type(seen.union()) is set
    assert seen.intersection([2, 9]) == {2} and seen.difference([2]) == {3, 4}
    assert seen.symmetric_difference([2, 9]) == {3, 4, 9}
    assert seen.issubset(range(9)) and seen.issuperset([2]) and seen.isdisjoint([9])
    seen.symmetric_difference_update([9, 9, 2])
    assert seen == {3, 4, 9}
    seen.intersection_update([3, 9, 5], {9, 3})
    seen.difference_update([9], ())
    assert seen == {3}
    seen.clear()
    with pytest.raises(KeyError, match="empty"):
        seen.pop()


def test_set_operators_take_sets_only(domain: Any) -> None:
    seen, frozen = domain.seen, domain.seen.freeze()
    assert seen | {3} == {3} | seen == {1, 2, 3} and type(seen | {3}) is set
    assert type(frozenset() | seen) is frozenset
    assert seen & frozen == {1, 2} and seen - {1} == {2} and {1, 5} - seen == {5}
    assert seen ^ {1, 9} == {2, 9} and seen & {1: 0}.keys() == {1}
    assert {1} < seen <= {1, 2} and seen > {1} and seen >= frozen and seen != {1}
    assert seen == {1: 0, 2: 0}.keys() and {1: 0, 2: 0}.keys() == seen
    seen |= {7}
    seen &= {7, 1}
    seen ^= {8}
    seen -= {1}
    assert domain.seen == {7, 8}
    seen -= seen
    assert domain.seen == set()
    for act in (lambda: seen | [1], lambda: seen.__ior__([1]), lambda: seen < [1]):
        result = None
        try:
            result = act()
        except TypeError:
            continue
        assert result is NotImplemented


def test_sets_look_for_sets_as_frozensets(domain: Any) -> None:
    domain.seen.add(frozenset({1}))
    assert {1} in domain.seen
    domain.seen.remove({1})
    assert {1} not in domain.seen
    with pytest.raises(TypeError, match="unhashable"):
        domain.seen.add({1})
    with pytest.raises(TypeError, match="unhashable"):
        assert [] in domain.seen


def test_a_set_must_keep_its_elements_while_it_is_walked(domain: Any) -> None:
    with pytest.raises(RuntimeError, match="set changed size during iteration"):
        for element in domain.seen:
            domain.seen.add(element + 10)
