"""One step of what else runs functions over a state: the peers of bench_process.py.

Each reads a price and stores a new total, as its documentation shows it, without persistence,
tracking or tracing. `keys` are further entries of the state, which the step does not touch; they
stand where a user of that library would put them: Burr has one flat state, a node of LangGraph and
of pydantic-graph gets whatever the user keeps in a field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypedDict

from harness import Contender, peer

PRICE = 14


def entries(keys: int) -> dict[str, int]:
    return {f"key-{n}": n for n in range(keys)}


def repeated(step: Callable[[], object]) -> Contender:
    def contender(times: int) -> None:
        for _ in repeat(None, times):
            step()

    return contender


def burr(keys: int) -> Contender | None:
    core = peer("burr.core")
    if core is None:
        return None

    @core.action(reads=["price", "total"], writes=["total"])  # type: ignore[untyped-decorator]
    def add(state: Any) -> Any:
        return state.update(total=state["total"] + state["price"])

    builder = core.ApplicationBuilder().with_state(price=PRICE, total=0, **entries(keys))
    application = (
        builder.with_actions(add).with_transitions(("add", "add")).with_entrypoint("add").build()
    )
    return repeated(application.step)


class Channels(TypedDict):
    price: int
    total: int
    more: dict[str, int]


def langgraph(keys: int) -> Contender | None:
    graphs = peer("langgraph.graph")
    if graphs is None:
        return None
    builder = graphs.StateGraph(Channels)
    builder.add_node("add", lambda state: {"total": state["total"] + state["price"]})
    builder.add_edge(graphs.START, "add")
    builder.add_edge("add", graphs.END)
    graph = builder.compile()
    state = {"price": PRICE, "total": 0, "more": entries(keys)}

    def step() -> None:
        nonlocal state
        state = graph.invoke(state)

    return repeated(step)


@dataclass
class Counted:
    price: int = PRICE
    total: int = 0
    more: dict[str, int] = field(default_factory=dict)


def pydantic_graph(keys: int) -> Contender | None:
    library = peer("pydantic_graph")
    if library is None or not hasattr(library, "GraphBuilder"):  # before version 2
        return None
    builder = library.GraphBuilder(state_type=Counted, output_type=int)

    async def add(ctx: Any) -> int:
        ctx.state.total += ctx.state.price
        return int(ctx.state.total)

    step = builder.step(add)
    builder.add(
        builder.edge_from(builder.start_node).to(step), builder.edge_from(step).to(builder.end_node)
    )
    graph, state, runner = builder.build(), Counted(more=entries(keys)), asyncio.Runner()

    async def steps(times: int) -> None:
        for _ in repeat(None, times):
            await graph.run(state=state)

    return lambda times: runner.run(steps(times))


PEERS: dict[str, Callable[[int], Contender | None]] = {
    "Burr, one step": burr,
    "pydantic-graph, a run of one step": pydantic_graph,
    "LangGraph, a run of one node": langgraph,
}


def contenders(keys: int) -> dict[str, Contender]:
    """Those that are installed, over a state with so many further entries."""
    made = {name: make(keys) for name, make in PEERS.items()}
    return {name: contender for name, contender in made.items() if contender is not None}
