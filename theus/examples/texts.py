"""The text of many source files in one shared array, and the process that parses slices of it.

    heavy
    ├── text       uint8: file after file
    └── offsets    int64: where each begins, and where the last one ends

A *share* is a run of files that lie side by side, and all that a worker is told is where it begins
and how the files are called: the text comes as a token and is read where it lies. What a worker
returns are tuples of numbers and strings, nothing that would have to be pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

from theus import SemanticType, process
from theus.examples.pysource import (
    Function,
    Links,
    Module,
    Problem,
    Source,
    parse_source,
    resolve_imports,
)

LARGEST_SHARE = 512 * 1024
"""Bytes. Small enough that all workers end together, large enough that the way does not count."""

SHARES_EACH = 8

Parsed = tuple[Any, ...]
"""What was found in one file, as it travels: the fields of a `Problem`, or of `Module` and
`Links` without the imports as written."""


@dataclass(frozen=True, slots=True)
class Share:
    """Files that one task parses: those from number `first` on, by name, path and package."""

    first: int
    sources: tuple[Source, ...]

    @property
    def names(self) -> list[tuple[str, str, str]]:
        return [(source.name, source.path, source.package) for source in self.sources]


def shares(sources: Sequence[Source], sizes: Sequence[int], workers: int) -> list[Share]:
    """Deals files out by bytes: several shares for each worker, and none much larger than others.

    A share ends with the file that fills it.
    """
    enough = min(LARGEST_SHARE, sum(sizes) // (workers * SHARES_EACH) + 1)
    dealt: list[Share] = []
    first = held = 0
    for number, size in enumerate(sizes, 1):
        held += size
        if held >= enough or number == len(sizes):
            dealt.append(Share(first, tuple(sources[first:number])))
            first, held = number, 0
    return dealt


@process(inputs=[], outputs=["heavy.text", "heavy.offsets"])
def store_texts(ctx: Any, texts: Sequence[bytes]) -> Any:
    """Lay the files side by side."""
    text = ctx.heavy.alloc("text", sum(map(len, texts)), "uint8")
    offsets = ctx.heavy.alloc("offsets", len(texts) + 1, "int64")
    room, end = memoryview(text), 0
    offsets[0] = 0
    for number, data in enumerate(texts, 1):
        begin, end = end, end + len(data)
        room[begin:end] = data
        offsets[number] = end
    return text, offsets


@process(
    inputs=["domain.tree", "heavy.text", "heavy.offsets"],
    outputs=[],
    semantic=SemanticType.PURE,
    parallel=True,
)
def parse_share(ctx: Any, first: int, names: Sequence[tuple[str, str, str]]) -> list[Parsed]:
    """Parse these files, which lie in the text from number `first` on."""
    tree: Container[str] = frozenset(ctx.domain.tree)
    text = memoryview(ctx.heavy["text"])
    offsets = memoryview(ctx.heavy["offsets"])
    with quiet_parser():
        return [
            _parsed(Source(*name), text[offsets[number] : offsets[number + 1]], tree)
            for number, name in enumerate(names, first)
        ]


def _parsed(source: Source, data: memoryview, tree: Container[str]) -> Parsed:
    module = parse_source(source.path, data)
    if isinstance(module, Problem):
        return astuple(module)
    functions = tuple((each.name, each.line, each.complexity) for each in module.functions)
    links = resolve_imports(source, module, tree)
    return (module.lines, functions, module.classes, links.eager, links.lazy, links.outside)


def unpacked(found: Parsed) -> tuple[Module, Links] | Problem:
    """What a worker has found in one file, as `parse_source` and `resolve_imports` give it."""
    if len(found) == 3:
        return Problem(*found)
    lines, functions, classes, *links = found
    module = Module(lines, tuple(Function(*each) for each in functions), classes, frozenset())
    return module, Links(*links)


@contextmanager
def quiet_parser() -> Iterator[None]:
    """Keep the parser's warnings about other people's code to itself.

    Around whole runs and not around each parse, because the filters belong to
    the process: threads that each set and restored them would trip one another.
    Threads of a pool run within the run that has set them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
