"""What a type checker knows about the frozen containers."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, assert_type

from theus import FrozenDict, FrozenList, FrozenSet

ages: FrozenDict[str, int] = FrozenDict({"ann": 31})
as_mapping: Mapping[str, int] = ages
names: Sequence[str] = FrozenList(["ann", "bob"])
tags: Set[str] = FrozenSet(["x"])

assert_type(ages["ann"], int)
assert_type(ages.set("bob", 40), FrozenDict[str, int])
assert_type(ages.to_dict(), dict[str, Any])
assert_type(FrozenList([1, 2])[0], int)
assert_type(FrozenList([1, 2])[1:], FrozenList[int])
assert_type(FrozenSet([1]).union([2]), FrozenSet[int])

with ages.mutate() as draft:
    draft["carl"] = 7
    assert_type(draft.finish(), FrozenDict[str, int])

numbers = FrozenList([1])
numbers[0] = 2  # error: [index]
del numbers[0]  # error: [attr-defined]
ages.set("bob", "old")  # error: [arg-type]
numbers.append("two")  # error: [arg-type]
