"""Import cycles against a definition that needs no algorithm: who reaches whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from theus.examples.cycles import import_cycles, shortest_loop

nodes = st.sampled_from("abcdefgh")
graphs = st.dictionaries(nodes, st.lists(nodes, max_size=5), max_size=8)


def reachable(graph: dict[str, list[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = list(graph.get(start, ()))
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += graph.get(node, ())
    return found


@given(graphs)
def test_a_cycle_is_a_group_that_reaches_itself(graph: dict[str, list[str]]) -> None:
    reach = {node: reachable(graph, node) for node in "abcdefgh"}
    expected = {
        tuple(sorted(other for other in reach if other in reach[node] and node in reach[other]))
        for node in reach
        if node in reach[node]
    }
    found = import_cycles(graph)
    assert set(found) == {group for group in expected if len(group) > 1}
    assert found == sorted(found, key=lambda group: (-len(group), group))


@given(graphs, nodes)
def test_a_shortest_loop_is_a_loop(graph: dict[str, list[str]], start: str) -> None:
    loop = shortest_loop(graph, start)
    assert bool(loop) == (start in reachable(graph, start))
    for node, successor in zip(loop, loop[1:] + loop[:1], strict=True):
        assert successor in graph[node]
    assert len(set(loop)) == len(loop)


def test_no_shorter_loop_is_missed() -> None:
    graph = {"a": ["b", "d"], "b": ["c"], "c": ["a"], "d": ["a"]}
    assert shortest_loop(graph, "a") == ("a", "d")
    assert shortest_loop(graph, "b") == ("b", "c", "a")


def test_depth_is_only_memory() -> None:
    names = [f"m{n}" for n in range(10_000)]
    ring = {name: [names[(n + 1) % len(names)]] for n, name in enumerate(names)}
    assert [len(group) for group in import_cycles(ring)] == [10_000]
    ring[names[-1]] = []
    assert import_cycles(ring) == []
