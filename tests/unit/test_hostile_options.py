"""Flags, times, counts and names that are none: each public entry refuses them by name, at once.

`test_odd_arguments` has the objects that no message can show; here is what looks almost right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from theus import ConflictManager, NamespacePolicy, NamespaceRegistry, TheusEngine, process
from theus.errors import UnknownArrayError
from theus.options import Options
from theus.pools.base import Pool

ENGINE = TheusEngine({"domain": {"n": 1}})
HUGE = 10**400

Call = Callable[[Any], object]


def by_hand(**options: Any) -> Any:
    return Options(ENGINE, **options).run_process(nothing)


@process
def nothing(ctx: Any) -> None:
    """Nothing, so that only the options can be wrong."""


def entered(**options: Any) -> None:
    with ENGINE.transaction(**options):
        pass


class Here(Pool):
    """Runs each call as it is submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def stats(self) -> Any: ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...

    def kill(self) -> None: ...


def mapped(**options: Any) -> list[Any]:
    return list(Here().map(len, ["a"], **options))


FLAGS: dict[str, Call] = {
    "strict_guards": lambda odd: TheusEngine(strict_guards=odd),
    "strict_mode": lambda odd: TheusEngine(strict_mode="no" if odd is None else odd),
    "strict_cas": lambda odd: TheusEngine(strict_cas=odd),
    "strict_guards (set)": lambda odd: setattr(ENGINE, "strict_guards", odd),
    "strict_cas (set)": lambda odd: ENGINE.set_strict_cas(odd),
    "read_only": lambda odd: entered(read_only=odd),
    "detached": lambda odd: entered(detached=odd),
    "detached (run)": lambda odd: ENGINE.run(nothing, detached=odd),
    "detached (Options)": lambda odd: by_hand(detached=odd),
    "inline": lambda odd: by_hand(inline="no" if odd is None else odd),
    "replace": lambda odd: ENGINE.register(nothing, replace=odd),
    "allow_delete": lambda odd: NamespacePolicy(allow_delete=odd).to_caps(),
    "allow_read": lambda odd: TheusEngine(namespaces=[("a", NamespacePolicy(odd), {})]),
    "zero": lambda odd: ENGINE.heavy.alloc("k", 1, zero=odd),
    "sites": lambda odd: ENGINE.heavy.watch(sites=odd),
}

SECONDS: dict[str, Call] = {
    "timeout": lambda odd: by_hand(timeout=odd),
    "deadline": lambda odd: by_hand(deadline=odd),
    "deadline (run)": lambda odd: ENGINE.run(nothing, deadline=odd),
    "timeout (process)": lambda odd: process(timeout=odd)(nothing),
    "timeout (map)": lambda odd: mapped(timeout=odd),
    "decay": lambda odd: ENGINE.heavy.decay(odd),
    "age": lambda odd: ENGINE.history_limit(age=odd),
    "base_backoff_ms": lambda odd: ConflictManager(5, odd),
}

COUNTS: dict[str, Call] = {
    "retries": lambda odd: by_hand(retries=odd),
    "retries (run)": lambda odd: ENGINE.run(nothing, retries=odd),
    "max_retries": ConflictManager,
    "ring_capacity": lambda odd: TheusEngine(ring_capacity=odd),
    "ring_timeout_ms": lambda odd: TheusEngine(ring_timeout_ms=odd),
    "history": lambda odd: TheusEngine(history=odd),
    "write_timeout_ms": lambda odd: TheusEngine(write_timeout_ms=odd),
    "write_timeout_ms (transaction)": lambda odd: entered(write_timeout_ms=odd),
    "write_timeout_ms (edit)": lambda odd: ENGINE.edit(odd),
    "count": lambda odd: ENGINE.history_limit(count=odd),
    "bytes": lambda odd: ENGINE.history_limit(bytes=odd),
    "since": lambda odd: ENGINE.changes(since="1" if odd == -1 else odd),
    "chunksize": lambda odd: mapped(chunksize=odd),
    "soft": lambda odd: ENGINE.heavy.quota("q", soft=odd),
    "hard": lambda odd: ENGINE.heavy.quota("q", hard=odd),
    "shape": lambda odd: ENGINE.heavy.alloc("k", odd),
}

OTHERS: dict[str, Call] = {
    "namespaces": lambda odd: TheusEngine({}, odd),
    "zones": lambda odd: TheusEngine({"a": {}}, zones=odd),
    "zones: a path": lambda odd: TheusEngine({"a": {}}, zones={odd: 1}),
    "name": lambda odd: ENGINE.register(nothing, name=odd),
    "path": lambda odd: NamespaceRegistry().resolve_path(odd),
    "run() calls a function": ENGINE.run,
    "options are those of a TheusEngine": lambda odd: Options(odd).run_process(nothing),
    "dtype": lambda odd: ENGINE.heavy.alloc("k", 1, "no type" if odd == 0 else odd),
}


def cases(calls: dict[str, Call], *odd: Any) -> Iterator[Any]:
    for name, call in calls.items():
        for value in odd:
            shown = "HUGE" if value is HUGE else value
            yield pytest.param(name.partition(" (")[0], call, value, id=f"{name} {shown}")


@pytest.mark.parametrize(
    ("name", "call", "odd"),
    [
        *cases(FLAGS, "yes", 0, None),
        *cases(SECONDS, "soon", True, -1, math.nan, HUGE),
        *cases(COUNTS, "many", True, -1, 1.5),
        *cases(OTHERS, 0, 2.5),
    ],
)
def test_what_is_none_is_refused_by_name(name: str, call: Call, odd: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name.replace("(", r"\(").replace(")", r"\)")):
        call(odd)
    assert ENGINE.strict_guards is True and ENGINE.strict_cas is False


@pytest.mark.parametrize("name", ["count", "bytes"])
def test_a_limit_beyond_all_numbers_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}= must be"):
        ENGINE.history_limit(**{name: HUGE})


def test_a_soft_limit_above_the_hard_one_is_no_limit() -> None:
    with pytest.raises(ValueError, match=r"soft=20 is above hard=10"):
        ENGINE.heavy.quota("a", soft=20, hard=10)
    with pytest.raises(ValueError, match="hard="):
        ENGINE.heavy.quota("a", hard=2**63)
    ENGINE.heavy.quota("a", soft=10, hard=10)


@pytest.mark.parametrize("way", ["get", "free"])
def test_an_unknown_array_is_a_key_error_that_names_the_nearest(way: str) -> None:
    ENGINE.heavy.put("frames", [1.0])
    with pytest.raises(KeyError) as caught:
        getattr(ENGINE.heavy, way)("frame")
    assert type(caught.value) is UnknownArrayError
    assert str(caught.value) == "there is no shared array 'frame'; did you mean 'frames'?"
    assert caught.value.key == "frame" and caught.value.known == ("frames",)
    ENGINE.heavy.free("frames")
    with pytest.raises(UnknownArrayError, match=r"no shared array 'frames'; alloc\(\) or put\(\)"):
        getattr(ENGINE.heavy, way)("frames")


def test_options_that_were_replaced_are_looked_at_too() -> None:
    with pytest.raises(ValueError, match="retries"):
        ENGINE.options(retries=3)._replace(retries=-1).run_process(nothing)
    ENGINE.options(retries=3, deadline=60, timeout=60.0, inline=True, detached=True).run_process(
        nothing
    )
