"""Import cycles: the strongly connected parts of a graph, without recursion."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping

Graph = Mapping[str, Collection[str]]


def import_cycles(graph: Graph) -> list[tuple[str, ...]]:
    """Groups of two or more nodes that all reach one another; the largest first."""
    groups = (tuple(sorted(group)) for group in _components(graph) if len(group) > 1)
    return sorted(groups, key=lambda group: (-len(group), group))


def shortest_loop(graph: Graph, start: str) -> tuple[str, ...]:
    """The nodes of a shortest way from `start` back to it; empty where none leads back."""
    came_from: dict[str, str] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for successor in sorted(graph.get(node, ())):
            if successor == start:
                loop = [node]
                while node != start:
                    node = came_from[node]
                    loop.append(node)
                return tuple(reversed(loop))
            if successor not in came_from:
                came_from[successor] = node
                queue.append(successor)
    return ()


def _components(graph: Graph) -> Iterator[list[str]]:
    """Strongly connected components, by Tarjan's one depth-first walk.

    Nodes are numbered as they are entered and pile up on `path`. `low` is the
    smallest number on the path that a node, or anything entered below it, points
    back to. A node that is its own `low` when it is left has nothing that leads
    further back: it and what lies above it on the path are one component. Open
    nodes stand in `opened` with what is left of their successors, so a deep
    graph costs memory and never the C stack.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    opened: list[tuple[str, Iterator[str]]] = []

    def enter(node: str) -> None:
        order[node] = low[node] = len(order)
        path.append(node)
        on_path.add(node)
        opened.append((node, iter(graph.get(node, ()))))

    for root in graph:
        if root not in order:
            enter(root)
        while opened:
            node, successors = opened[-1]
            for successor in successors:
                if successor not in order:
                    enter(successor)
                    break
                if successor in on_path:
                    low[node] = min(low[node], order[successor])
            else:
                opened.pop()
                if opened:
                    parent = opened[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == order[node]:
                    component: list[str] = []
                    while node in on_path:
                        component.append(path.pop())
                        on_path.remove(component[-1])
                    yield component
