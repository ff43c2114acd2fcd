"""What goes through the pipes between a pool and one of its workers.

    pool ──tasks──▶ worker     packets: a write of at most 4096 bytes is read as one, or not at all
    pool ◀─results─ worker     a stream of frames

A frame is a header (size of the body, kind, number of the task) and a body. A packet holds one
frame or several small ones.

Packets are the point. What the worker has not read stands whole in the pipe, so the pool can take
it back: by reading. So a task is either still in the pipe, and nothing of it was done, or the
worker has begun it, or the worker holds it behind another one of the same packet. As a worker
writes each result before it goes on, the first task without a result is the one that it was
killed with. Neither side keeps a lock that the other could wait for.

Bodies that do not fit a packet, results beyond `INLINE_RESULT`, and single buffers of `LARGE`
bytes lie in blocks of shared memory; then the frame holds their tokens. The sender owns the block
and gives it up when the receiver says that it is through: for a task by its result, for a result
by a RELEASED frame. The receiver sees it through a private mapping: it may write, and only its own
pages change.
"""

from __future__ import annotations

from functools import partial
from pickle import PickleBuffer
from struct import Struct
from typing import Any

from theus._theus import SharedBlock, SharedZone, borrow_block, decode, encode, encode_frame
from theus.memory import refused
from theus.pools.codec import Data, Held, decode_with, extend

__all__ = ["Frame", "Shelf", "frames", "pack", "unpack"]

HEADER = Struct("<IBQ")
PACKET = 4096
"""PIPE_BUF of Linux: writes up to here are atomic."""
INLINE_RESULT = 64 * 1024
LARGE = 64 * 1024
"""Measured: from here on a copy into warm shared memory is cheaper than one through a pipe."""
LOOK = 100e-6
"""Seconds for which a side looks for a frame before it sleeps, if there is a core for that: several
times what the other one needs to take a result, commit it, and submit the next task. Measured: with
half of that, every third run of a process came too late on a virtual machine at rest."""

# Of tasks.
CALL, CALL_IN_BLOCKS, RELEASED = 1, 2, 3
# Of results, which csrc/binding/line.h knows by the first and the last of them.
VALUE, VALUE_IN_BLOCKS, ERROR, ERROR_IN_BLOCKS, UNFIT = 4, 5, 6, 7, 8
# Of the worker itself. STILLBORN: its initializer has raised.
LOG, READY, STILLBORN = 9, 10, 11
# A CALL that can be made elsewhere, if an interpreter does not suit it.
TENTATIVE = 12

IN_BLOCKS = {CALL: CALL_IN_BLOCKS, VALUE: VALUE_IN_BLOCKS, ERROR: ERROR_IN_BLOCKS}
INLINE = {there: here for here, there in IN_BLOCKS.items()}

Frame = tuple[int, int, memoryview]
"""Kind, number of the task, body."""


def frame(kind: int, number: int, body: bytes) -> bytes:
    return HEADER.pack(len(body), kind, number) + body


def frames(data: bytes | bytearray) -> tuple[list[Frame], int]:
    """The whole frames at the start of `data`, and where they end."""
    view = memoryview(data)
    found: list[Frame] = []
    at, last, header = 0, len(data), HEADER.size
    while last - at >= header:
        size, kind, number = HEADER.unpack_from(data, at)
        end = at + header + size
        if end > last:
            break
        found.append((kind, number, view[at + header : end]))
        at = end
    return found, at


class Shelf:
    """The shared memory that one side of a wire sends large bodies in; made when it is needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.zone: SharedZone | None = None

    def store(self, content: Any) -> SharedBlock:
        """A block with a copy of some bytes."""
        zone = self.zone
        if zone is None:
            zone = self.zone = SharedZone(self.name, 0)
        source = PickleBuffer(content).raw()  # bytes of any format, which cast() is not for
        block = zone.alloc("wire", max(1, source.nbytes), False)
        if not isinstance(block, SharedBlock):
            raise refused(zone, source.nbytes, block)
        target: Any = block
        memoryview(target)[: source.nbytes] = source
        return block


def pack(
    kind: int, number: int, value: Any, limit: int, shelf: Shelf, held: Held
) -> tuple[bytes, tuple[SharedBlock, ...]]:
    """A frame for `value` of at most `limit` bytes, and the blocks that it speaks of.

    `held` is what the sender keeps alive until the receiver is through, beside these blocks.
    """
    buffers: list[Any] = []
    data = encode_frame(kind, number, value, partial(extend, held, True), buffers, LARGE)
    if not buffers and len(data) <= limit:
        return data, ()
    return enclosed(kind, number, data, buffers, limit, shelf)


def enclosed(
    kind: int, number: int, data: bytes, buffers: list[Any], limit: int, shelf: Shelf
) -> tuple[bytes, tuple[SharedBlock, ...]]:
    """The frame that stands for one that is too long or has buffers, and the blocks with its
    content."""
    body = memoryview(data)[HEADER.size :]
    blocks = [shelf.store(part) for part in (body, *buffers)]
    sizes = map(size_of, (body, *buffers))
    tokens = encode([(block.token, size) for block, size in zip(blocks, sizes, strict=True)])
    if len(tokens) + HEADER.size > limit:  # many buffers: their tokens go to a block, too
        blocks.append(shelf.store(tokens))
        tokens = encode((blocks[-1].token, len(tokens)))
    return frame(IN_BLOCKS[kind], number, tokens), tuple(blocks)


def size_of(part: Any) -> int:
    return memoryview(part).nbytes


def unpack(body: Data, in_blocks: bool) -> Any:
    """The value of a frame. What lies in blocks is a private mapping, kept by what uses it."""
    if not in_blocks:
        return decode_with(body, True, None)
    tokens = decode(body)
    if type(tokens) is tuple:
        tokens = decode(content_of(*tokens))
    body, *buffers = [content_of(token, size) for token, size in tokens]
    return decode_with(body, True, tuple(buffers))


def content_of(token: bytes, size: int) -> memoryview:
    block: Any = borrow_block(token).private()
    return memoryview(block)[:size]
