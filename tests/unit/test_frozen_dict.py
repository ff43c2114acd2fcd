"""FrozenDict: a complete immutable mapping, and its changed copies."""

from __future__ import annotations

import collections
import collections.abc
import copy
import gc
import json
import pickle
import re
import subprocess
import sys
import textwrap
import types
import weakref
from typing import Any

import pytest

from helpers import Collider, Crash, Crasher
from theus import FrozenDict, FrozenError, FrozenList, FrozenSet, Opaque

SAMPLES: list[dict[Any, Any]] = [
    {},
    {"a": 1},
    {"b": 1, "a": 2, "c": 3},
    {i: str(i) for i in range(100)},
    {"deep": {"list": [1, {"x": (1, 2)}], "set": {1, 2}, "empty": {}}},
    {None: None, True: 1, 1.5: "x", (1, "t"): b"bytes", "": ""},
]


# ---- making ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", SAMPLES)
def test_it_is_made_from_whatever_makes_a_dict(data: dict[Any, Any]) -> None:
    made = FrozenDict(data)
    assert made == data
    assert list(made) == list(data)
    assert FrozenDict(list(data.items())) == data
    assert FrozenDict(iter(data.items())) == data
    assert FrozenDict(types.MappingProxyType(data)) == data
    assert FrozenDict(collections.UserDict(data)) == data
    assert FrozenDict(made) is made


def test_keywords_come_last() -> None:
    assert list(FrozenDict({"a": 1, "b": 2}, b=3, c=4).items()) == [("a", 1), ("b", 3), ("c", 4)]
    assert FrozenDict(self=1, source=2) == {"self": 1, "source": 2}
    assert FrozenDict() == {}


def test_wrong_arguments_are_refused_with_the_place() -> None:
    with pytest.raises(TypeError, match="at most 1"):
        FrozenDict({}, {})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not iterable"):
        FrozenDict(1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="element 1 has 3 parts"):
        FrozenDict([(1, 2), (1, 2, 3)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="element 0 .* int"):
        FrozenDict([1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="unhashable"):
        FrozenDict([([], 1)])


def test_fromkeys() -> None:
    assert FrozenDict.fromkeys("ab") == {"a": None, "b": None}
    assert FrozenDict.fromkeys([1, 2], [0]) == {1: [0], 2: [0]}
    assert type(FrozenDict.fromkeys([1], [0])[1]) is FrozenList


def test_equal_keys_keep_the_first_key_and_the_last_value() -> None:
    made = FrozenDict([(1, "a"), (True, "b"), (1.0, "c")])
    assert list(made.items()) == [(1, "c")]
    assert type(next(iter(made))) is int


def test_the_source_can_change_without_us() -> None:
    inner = [1, 2]
    source = {"xs": inner}
    made = FrozenDict(source)
    inner.append(3)
    source["y"] = 1
    assert made == {"xs": [1, 2]}


# ---- reading --------------------------------------------------------------------------


def test_items_are_read_as_from_a_dict() -> None:
    made = FrozenDict(a=1, b=None)
    assert made["a"] == 1
    assert made.get("a") == 1
    assert made.get("x") is None
    assert made.get("x", 7) == 7
    assert made.get("b", 7) is None
    assert "a" in made and "x" not in made
    assert len(made) == 2
    assert bool(made) and not FrozenDict()
    with pytest.raises(KeyError) as caught:
        made["x"]
    assert caught.value.args == ("x",)
    with pytest.raises(KeyError) as caught:
        made[("tuple", "key")]
    assert caught.value.args == (("tuple", "key"),)
    for ask in (made.__getitem__, made.get, made.__contains__):
        with pytest.raises(TypeError, match="unhashable type: 'list'"):
            ask([])  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"get\(\) takes"):
        made.get()  # type: ignore[call-arg]


def test_it_keeps_insertion_order_through_every_change() -> None:
    made = FrozenDict(b=1, a=2).set("c", 3).set("a", 9).delete("b").set("b", 4)
    assert list(made.items()) == [("a", 9), ("c", 3), ("b", 4)]
    assert list(reversed(made)) == ["b", "c", "a"]


def test_nested_values_read_as_frozen_containers() -> None:
    made = FrozenDict(d={"x": 1}, l=[1], s={1}, t=([1], 2))
    assert type(made["d"]) is FrozenDict
    assert type(made["l"]) is FrozenList
    assert type(made["s"]) is FrozenSet
    assert type(made["t"]) is tuple and type(made["t"][0]) is FrozenList


def test_it_is_a_mapping_to_everyone() -> None:
    made = FrozenDict(a=1, b=2)
    assert isinstance(made, collections.abc.Mapping)
    assert not isinstance(made, collections.abc.MutableMapping)
    assert dict(made) == {"a": 1, "b": 2}
    assert dict(**made) == {"a": 1, "b": 2}
    assert {**made, "c": 3} == {"a": 1, "b": 2, "c": 3}
    assert collections.ChainMap({}, made)["a"] == 1  # type: ignore[arg-type]
    assert list(collections.OrderedDict(made)) == ["a", "b"]
    assert "{a}-{b}".format_map(made) == "1-2"
    match made:
        case {"a": 1, **rest}:
            assert rest == {"b": 2}
        case _:
            pytest.fail("a mapping pattern does not match")
    match made:
        case [*_]:
            pytest.fail("a sequence pattern matches")


def test_annotations() -> None:
    assert FrozenDict[str, int].__origin__ is FrozenDict  # type: ignore[attr-defined]


def test_weak_references() -> None:
    made = FrozenDict(a=1)
    ref = weakref.ref(made)
    assert ref() is made
    del made
    assert ref() is None


# ---- attributes -----------------------------------------------------------------------


def test_keys_that_are_names_can_be_read_as_attributes() -> None:
    made = FrozenDict({"users": {"ann": {"age": 3}}, "class": 1})
    assert made.users.ann.age == 3
    assert getattr(made, "class") == 1
    assert hasattr(made, "users") and not hasattr(made, "user")


def test_a_key_never_hides_a_method() -> None:
    made = FrozenDict({"items": 1, "get": 2, "__class__": 3, "set": 4})
    assert list(made.items())[0] == ("items", 1)
    assert made.get("get") == 2
    assert made.__class__ is FrozenDict
    assert made.set("set", 5)["set"] == 5


def test_protocol_names_are_never_keys() -> None:
    made = FrozenDict({"__array_interface__": 1, "__fspath__": 2, "_private": 3})
    assert not hasattr(made, "__array_interface__")
    assert not hasattr(made, "__fspath__")
    assert made._private == 3


def test_a_missing_attribute_says_what_was_asked_and_of_what() -> None:
    made = FrozenDict(users=1)
    with pytest.raises(AttributeError, match="no key and no attribute 'usres'") as caught:
        made.usres  # noqa: B018
    assert caught.value.name == "usres"
    assert caught.value.obj is made


def test_python_suggests_the_nearest_key() -> None:
    script = "from theus import FrozenDict\nFrozenDict(users=1, other=2).usres"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert re.search(r"'usres'\. Did you mean:? '\.?users'", done.stderr), done.stderr


def test_dir_lists_methods_and_keys_that_are_names() -> None:
    listed = dir(FrozenDict({"users": 1, "no name": 2, 3: 4}))
    assert {"users", "items", "set", "__len__"} <= set(listed)
    assert "no name" not in listed
    assert listed == sorted(listed)


# ---- it cannot be written -------------------------------------------------------------


def test_writing_is_refused_and_the_way_out_is_named() -> None:
    made: Any = FrozenDict(a=1)
    with pytest.raises(FrozenError, match=r"FrozenDict is immutable: .*set\(\)"):
        made["a"] = 2
    with pytest.raises(FrozenError, match="in a transaction"):
        del made["a"]
    with pytest.raises(FrozenError):
        made.a = 2
    with pytest.raises(FrozenError):
        made.new = 2
    with pytest.raises(FrozenError):
        del made.a
    with pytest.raises(TypeError):  # what code written for tuples and proxies catches
        made["a"] = 2
    for name in ("pop", "popitem", "clear", "setdefault"):
        assert not hasattr(made, name)
    assert made == {"a": 1}


def test_the_type_itself_is_closed() -> None:
    with pytest.raises(TypeError):
        FrozenDict.extra = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="not an acceptable base"):
        type("Sub", (FrozenDict,), {})


# ---- changed copies -------------------------------------------------------------------


def test_set_and_delete_give_copies() -> None:
    one = FrozenDict(a=1)
    two = one.set("b", [2])
    three = two.delete("a")
    assert (one, two, three) == ({"a": 1}, {"a": 1, "b": [2]}, {"b": [2]})
    assert one.set("a", one["a"]) is one
    with pytest.raises(KeyError) as caught:
        one.delete("x")
    assert caught.value.args == ("x",)
    with pytest.raises(TypeError, match=r"set\(\) takes"):
        one.set("a")  # type: ignore[call-arg]


def test_set_keeps_the_key_object_that_was_there() -> None:
    made = FrozenDict({1: "a"}).set(True, "b").set(1.0, "c")
    assert made == {1: "c"} and type(next(iter(made))) is int


def test_update_takes_what_dict_update_takes() -> None:
    one = FrozenDict(a=1, b=2)
    assert one.update({"b": 3}, c=4) == {"a": 1, "b": 3, "c": 4}
    assert one.update([("b", 3)]) == {"a": 1, "b": 3}
    assert one.update(FrozenDict(z=[1])) == {"a": 1, "b": 2, "z": [1]}
    assert one.update(c=one) == {"a": 1, "b": 2, "c": {"a": 1, "b": 2}}
    assert one.update() is one
    assert one == {"a": 1, "b": 2}


def test_or_merges_with_any_mapping_on_either_side() -> None:
    one = FrozenDict(a=1, b=2)
    for other in ({"b": 3, "c": 4}, FrozenDict(b=3, c=4), types.MappingProxyType({"b": 3, "c": 4})):
        joined = one | other
        assert type(joined) is FrozenDict
        assert list(joined.items()) == [("a", 1), ("b", 3), ("c", 4)]
    left = {"b": 3, "c": 4} | one
    assert type(left) is FrozenDict
    assert list(left.items()) == [("b", 2), ("c", 4), ("a", 1)]
    both = one
    both |= {"z": 0}
    assert both == {"a": 1, "b": 2, "z": 0} and one == {"a": 1, "b": 2}
    with pytest.raises(TypeError):
        one | [("a", 1)]  # type: ignore[operator]
    with pytest.raises(TypeError):
        1 | one  # type: ignore[operator]


def test_a_container_of_the_same_family_is_shared_not_copied() -> None:
    made = FrozenDict(rows=list(range(10_000)))
    heap = next(o for o in gc.get_referents(made) if type(o).__name__ == "Heap")
    before = heap.bytes
    made.set("again", made["rows"])
    assert heap.bytes - before < 10_000
    elsewhere = FrozenDict(copy=made["rows"])
    assert elsewhere["copy"] == made["rows"]


# ---- equality and hash ----------------------------------------------------------------


@pytest.mark.parametrize("data", SAMPLES)
def test_it_equals_a_dict_both_ways(data: dict[Any, Any]) -> None:
    made = FrozenDict(data)
    assert made == data and data == made
    assert made == FrozenDict(reversed(list(data.items())))
    assert made == collections.OrderedDict(data)
    assert not made != data
    other = {**data, "new": 0}
    assert made != other and other != made
    assert made != FrozenDict(other)
    if data:
        changed = {**data, next(iter(data)): "changed"}
        assert made != changed and changed != made and made != FrozenDict(changed)


def test_it_equals_nothing_else() -> None:
    made = FrozenDict(a=1)
    for other in ([("a", 1)], "a", 1, None, {"a"}, FrozenList(["a"])):
        assert made != other and other != made
    with pytest.raises(TypeError):
        made < made  # type: ignore[operator]  # noqa: B015


def test_versions_of_one_history_compare_by_what_changed() -> None:
    asked = 0

    class Counted:
        def __init__(self, n: int) -> None:
            self.n = n

        def __eq__(self, other: object) -> bool:
            nonlocal asked
            asked += 1
            return isinstance(other, Counted) and self.n == other.n

        __hash__ = None  # type: ignore[assignment]

    one = FrozenDict({n: Opaque(Counted(n)) for n in range(1000)})
    two = one.set(3, (1, 2)).set(3, one[3]).set(5, 5)
    assert one != two
    assert one == two.set(5, one[5])
    assert asked == 0


def test_nan_is_equal_to_itself_as_in_a_dict() -> None:
    nan = float("nan")
    assert FrozenDict(x=nan) == {"x": nan}
    assert FrozenDict(x=nan) == FrozenDict(x=nan)
    assert FrozenDict(x=nan) != {"x": float("nan")}


def test_hash_goes_with_equality() -> None:
    one = FrozenDict({"a": 1, "b": [1, {2}], "c": {"d": ()}})
    two = FrozenDict({"c": {"d": ()}, "b": [1, {2}], "a": True})
    assert one == two and hash(one) == hash(two)
    assert len({one, two, FrozenDict(a=1)}) == 2
    assert {one: "found"}[two] == "found"
    assert hash(FrozenDict(a=1)) != hash(FrozenDict(a=2)) != hash(FrozenDict(b=2))
    # A set inside may have come as a set or as a frozenset: both are equal.
    assert hash(FrozenDict(s={1, 2})) == hash(FrozenDict(s=frozenset({1, 2})))


def test_a_part_without_hash_makes_it_unhashable() -> None:
    class Unhashable(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match="unhashable"):
        hash(FrozenDict(a=Unhashable("x")))


# ---- out ------------------------------------------------------------------------------


@pytest.mark.parametrize("data", SAMPLES)
def test_to_dict_is_independent_at_any_depth(data: dict[Any, Any]) -> None:
    made = FrozenDict(data)
    thawed = made.to_dict()
    assert type(thawed) is dict and thawed == data and list(thawed) == list(data)
    for key, value in thawed.items():
        assert type(value) is type(data[key])
    thawed["new"] = 1
    if "deep" in thawed:
        thawed["deep"]["list"].append(1)
        thawed["deep"]["set"].add(9)
    assert made == data


def test_tuples_thaw_with_their_parts() -> None:
    assert FrozenDict(t=(1, [2, (3, {4})])).to_dict() == {"t": (1, [2, (3, {4})])}


def test_copies_are_the_thing_itself() -> None:
    made = FrozenDict(a=[1])
    assert made.copy() is made
    assert copy.copy(made) is made
    assert copy.deepcopy(made) is made
    assert copy.deepcopy([made])[0] is made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("data", SAMPLES)
def test_pickle(data: dict[Any, Any], protocol: int) -> None:
    made = FrozenDict(data)
    again = pickle.loads(pickle.dumps(made, protocol))
    assert type(again) is FrozenDict and again == made and list(again) == list(made)


def test_a_pickle_opens_in_a_process_without_an_engine() -> None:
    data = pickle.dumps(FrozenDict(a=[1, {"b": {2}}]))
    script = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()))"
    done = subprocess.run([sys.executable, "-P", "-c", script], input=data, capture_output=True)
    assert done.stdout.decode().strip() == "FrozenDict({'a': [1, {'b': {2}}]})"


def test_json() -> None:
    made = FrozenDict(a=[1, {"b": None}])
    assert json.dumps(made.to_dict()) == '{"a": [1, {"b": null}]}'


# ---- repr -----------------------------------------------------------------------------


@pytest.mark.parametrize("data", SAMPLES[:3] + SAMPLES[4:])
def test_repr_of_a_small_one_is_python(data: dict[Any, Any]) -> None:
    made = FrozenDict(data)
    assert repr(made) == f"FrozenDict({data!r})"
    assert eval(repr(made)) == made


def test_repr_stays_short() -> None:
    row = FrozenDict({j: [0] * 100 for j in range(100)})
    huge = FrozenDict(dict.fromkeys(range(20), row))
    assert "... 8 more" in repr(huge) and "... 95 more" in repr(huge)
    assert len(repr(huge)) < 5000
    assert len(repr(FrozenDict(text="x" * 100_000))) < 300
    deep: Any = 1
    for _ in range(100):
        deep = {"d": deep}
    assert "{...}" in repr(FrozenDict(deep))
    assert str(huge) == repr(huge)


def test_repr_of_a_cycle_ends() -> None:
    hole: list[Any] = []
    made = FrozenDict(hole=Opaque(hole))
    hole.append(made)
    assert repr(made) == "FrozenDict({'hole': Opaque([FrozenDict(...)])})"


# ---- hostile keys ---------------------------------------------------------------------


def test_colliding_keys_stay_apart() -> None:
    keys = [Collider(n) for n in range(200)]
    made = FrozenDict({key: n for n, key in enumerate(keys)})
    assert [made[Collider(n)] for n in range(200)] == list(range(200))
    for n in range(0, 200, 2):
        made = made.delete(Collider(n))
    assert list(made.values()) == list(range(1, 200, 2))
    assert Collider(0) not in made and Collider(1) in made


def test_errors_of_keys_come_through() -> None:
    made = FrozenDict({Crasher(1): 1})
    asks = [
        lambda: made[Crasher(2)],
        lambda: made.get(Crasher(2)),
        lambda: Crasher(2) in made,
        lambda: made.set(Crasher(2), 1),
        lambda: made.delete(Crasher(2)),
        lambda: made.update({Crasher(2): 1}),
        lambda: made | {Crasher(2): 1},
        lambda: made == {Crasher(2): 1},
        lambda: made == FrozenDict([(Crasher(2), 1)]),
    ]
    for where in ("hash", "eq"):
        for ask in asks:
            with Crasher.armed(where), pytest.raises(Crash):
                ask()
    with Crasher.armed("hash"), pytest.raises(Crash):
        FrozenDict([(Crasher(3), 1)])
    with Crasher.armed("hash"), pytest.raises(Crash):
        hash(made)
    assert made == {Crasher(1): 1}


def test_a_key_may_drop_the_container_while_it_is_compared() -> None:
    holder = [FrozenDict({Crasher(1): [1], Crasher(2): 2})]
    with Crasher.armed("eq", act=holder.clear):
        assert holder[0].get(Crasher(2)) == 2
    assert holder == []


def test_a_dict_that_changes_while_it_is_copied() -> None:
    source: dict[Any, Any] = {Crasher(n): n for n in range(10)}

    def shrink() -> None:
        source.pop(Collider(99), None)
        source.pop(next(iter(source)))

    with Crasher.armed("hash", act=shrink), pytest.raises(RuntimeError, match="changed size"):
        FrozenDict(source)

    fresh = iter(range(100, 10_000))

    def exchange() -> None:
        """Same size, other keys: what was seen already may come again."""
        first = next(iter(source))
        value = source.pop(first)
        source[first if next(fresh) % 2 else Crasher(next(fresh))] = value

    source = {Crasher(n): n for n in range(10)}
    with Crasher.armed("hash", act=exchange):
        made = FrozenDict(source)
    assert len(made) == len(list(made)) == len({key.name for key in made})


@pytest.mark.slow
def test_very_deep_values_do_not_overflow() -> None:
    """Containers nest deeper than Python recurses by sharing: each step is a version."""
    script = """
        from theus import FrozenDict, FrozenList, Opaque
        deep = FrozenDict(end=1)
        for _ in range(30_000):
            deep = deep.set("down", deep)
        for act in (hash, repr, FrozenDict.to_dict, lambda d: d == d.set("down", 1),
                    lambda d: FrozenDict(other=d), lambda d: d == FrozenDict(end=1, down=2)):
            try:
                act(deep)
            except RecursionError:
                pass
        del deep
        links = (
            lambda last: FrozenDict([(last, 1)]),
            lambda last: FrozenList([Opaque(last)]),
            lambda last: FrozenDict(f=lambda: last),
            lambda last: FrozenDict(m=Opaque(last)).mutate(),
            lambda last: FrozenDict(t=(FrozenList([]), Opaque(iter([last])))),
        )
        for link in links:
            chain = FrozenDict(end=1)
            for _ in range(30_000):
                chain = link(chain)
            del chain
        """
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
