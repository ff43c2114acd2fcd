"""One end of the wire: frames, packets, what a worker does with them; without a pool."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import theus.pools.codec
from support import PATIENCE

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

from theus._theus import Line, decode, encode_frame
from theus.pools import wire
from theus.pools.calls import NotThere
from theus.pools.worker import Results

Ends = tuple[Line, Line]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The pool's, the worker's."""
    task_end, tasks = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    answers, answer_end = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(answer_end, True)
    pool, worker = Line(answers, tasks, 0.0), Line(task_end, answer_end, 0.0)
    yield pool, worker
    pool.close()
    worker.close()


def call(number: int, fn: Any, *args: Any) -> bytes:
    name = (fn.__module__, fn.__qualname__)
    return encode_frame(wire.CALL, number, (name, args, {}))


def served(ends: Ends, *frames: bytes) -> list[tuple[int, int, Any]]:
    """What a worker answers to a packet, and then the end."""
    pool, worker = ends
    assert pool.send(list(frames))
    pool.hang_up()
    worker.serve(Results(worker, "test"))
    found = []
    while some := pool.receive(False):
        found += some
    return [
        (kind, number, decode(body, theus.pools.codec.restore_any)) for kind, number, body in found
    ]


def triple(n: int) -> int:
    return 3 * n


def fail(n: int) -> int:
    raise LookupError(n)


def not_portable() -> Any:
    return threading.Lock()


def test_tasks_are_answered_in_order(ends: Ends) -> None:
    found = served(ends, call(1, triple, 2), call(2, triple, "ab"), call(3, triple, [0]))
    assert found == [(wire.VALUE, 1, 6), (wire.VALUE, 2, "ababab"), (wire.VALUE, 3, [0, 0, 0])]


def test_what_a_task_raises_is_its_answer_and_the_next_one_runs(ends: Ends) -> None:
    (kind, number, (error, text)), after = served(ends, call(1, fail, 5), call(2, triple, 1))
    assert (kind, number, error.args) == (wire.ERROR, 1, (5,)) and isinstance(error, LookupError)
    assert "in fail" in text and text.count('File "') == 1  # nothing of ours
    assert after == (wire.VALUE, 2, 3)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ((("no_such_module", "f"), (), {}), ModuleNotFoundError),
        ((("os", "no_such_name"), (), {}), NotThere),
        ((("math", "pi"), (), {}), TypeError),
        (("os", "getpid"), TypeError),
        ((("os", "getpid"), [], {}), TypeError),
        ((), TypeError),
    ],
)
def test_a_call_that_is_none_is_answered_with_why(ends: Ends, body: Any, error: type) -> None:
    ((kind, number, content),) = served(ends, encode_frame(wire.CALL, 7, body))
    assert (kind, number, type(content[0])) == (wire.ERROR, 7, error)


def test_a_body_that_cannot_be_read_is_answered_with_why(ends: Ends) -> None:
    cut = encode_frame(wire.CALL, 9, ("os", [1, 2]))[: wire.HEADER.size + 4]
    broken = wire.frame(wire.CALL, 9, cut[wire.HEADER.size :])
    ((kind, number, content),) = served(ends, broken)
    assert (kind, number, type(content[0])) == (wire.ERROR, 9, theus.CodecError)


def test_a_value_that_cannot_travel_is_answered_with_why(ends: Ends) -> None:
    ((kind, number, content),) = served(ends, call(4, not_portable))
    assert (kind, number, type(content[0])) == (wire.ERROR, 4, theus.SendError)


@pytest.mark.parametrize("size", [60_000, 70_000])
def test_long_values_arrive_whole(ends: Ends, size: int) -> None:
    """The second one does not fit the pipe, and lies in shared memory."""
    pool, worker = ends
    results = Results(worker, "test")
    assert pool.send([call(1, triple, "x" * 1), wire.frame(99, 2, b"")])
    results.send(3, *wire.pack(wire.VALUE, 3, b"x" * size, wire.INLINE_RESULT, results.shelf, []))
    found = pool.receive(False)
    kind, number, body = found[0]
    assert (kind in wire.INLINE) == (size > wire.INLINE_RESULT) and number == 3
    assert wire.unpack(body, kind in wire.INLINE) == b"x" * size


def test_frames_that_come_in_pieces_are_put_together(ends: Ends) -> None:
    pool, worker = ends
    long, short = wire.frame(wire.LOG, 0, b"a" * 200_000), wire.frame(wire.READY, 1, b"")
    writer = threading.Thread(target=lambda: (worker.answer(long), worker.answer(short)))
    writer.start()
    found: list[Any] = []
    while len(found) < 2:  # the pipe holds a third of it
        found += pool.receive(False)
    writer.join(PATIENCE)
    assert found == [(wire.LOG, 0, b"a" * 200_000), (wire.READY, 1, b"")]


def test_threads_that_answer_at_once_do_not_mix_their_frames(ends: Ends) -> None:
    from helpers import run_threads

    pool, worker = ends
    found: list[Any] = []

    def work(index: int) -> None:
        if index == 0:
            while len(found) < 60:
                found.extend(pool.receive(False))
        else:
            for n in range(20):
                worker.answer(wire.frame(wire.LOG, n, bytes([index]) * 9_000))

    run_threads(4, work)
    for index in (1, 2, 3):
        assert [n for _, n, body in found if body == bytes([index]) * 9_000] == list(range(20))


def test_a_packet_is_sent_whole_or_not_at_all(ends: Ends) -> None:
    pool, worker = ends
    frame = wire.frame(wire.CALL, 1, b"x" * 4000)
    with pytest.raises(ValueError, match="4096 in all"):
        pool.send([frame, frame])
    sent = 0
    while pool.send([frame]):
        sent += 1
    assert sent >= 1 and len(os.read(worker.reads, 9000)) == len(frame)
    assert pool.send([frame]) and not pool.send([frame])


def test_looking_sees_what_comes_meanwhile() -> None:
    reads, writes = os.pipe2(os.O_NONBLOCK)
    line = Line(reads, os.dup(writes), PATIENCE)
    assert line.receive(False) == []
    late = threading.Timer(0.01, os.write, (writes, wire.frame(wire.READY, 5, b"")))
    late.start()
    assert line.receive(True) == [(wire.READY, 5, b"")]
    late.join()
    os.close(writes)
    line.close()


def test_a_signal_handler_that_raises_loses_no_frame() -> None:
    reads, writes = os.pipe2(os.O_NONBLOCK)
    line = Line(reads, os.dup(writes), PATIENCE)

    def interrupt(number: int, at: Any) -> None:
        os.write(writes, wire.frame(wire.READY, 5, b""))
        raise InterruptedError

    go, started = os.pipe()  # the handler may raise in what threading.Event does

    def come_late() -> None:
        os.read(go, 1)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)
        os.write(writes, wire.frame(wire.READY, 6, b""))

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        late = threading.Thread(target=come_late)
        late.start()
        with pytest.raises(InterruptedError):
            os.write(started, b"x")
            line.receive(True)
    finally:
        signal.signal(signal.SIGALRM, before)
    late.join()
    assert sorted(line.receive(False)) == [(wire.READY, 5, b""), (wire.READY, 6, b"")]
    for descriptor in (writes, go, started):
        os.close(descriptor)
    line.close()


def test_a_closed_line_says_so(ends: Ends) -> None:
    pool, worker = ends
    pool.close()
    pool.close()
    assert (pool.reads, pool.writes) == (-1, -1)
    with pytest.raises(OSError, match="descriptor"):
        pool.receive(False)
    with pytest.raises(OSError, match="descriptor"):
        pool.send([b""])
    with pytest.raises(BrokenPipeError):
        worker.answer(wire.frame(wire.READY, 1, b""))


def test_what_is_no_frame_is_refused(ends: Ends) -> None:
    pool, _ = ends
    with pytest.raises(TypeError, match="takes a list"):
        pool.send(b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames of a packet are bytes"):
        pool.send(["x"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="takes bytes"):
        pool.answer("x")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="restore"):
        pool.serve(object())


def test_a_frame_is_an_encoded_value_behind_a_header() -> None:
    data = encode_frame(5, 2**63, {"a": [1, 2.5]})
    ((kind, number, body),), end = wire.frames(data)
    assert (kind, number, decode(body), end) == (5, 2**63, {"a": [1, 2.5]}, len(data))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_what_a_process_says_that_a_task_has_forked_is_not_written(ends: Ends) -> None:
    """Nobody would see to it that its frames and those of the worker do not mix."""
    pool, worker = ends
    child = os.fork()
    if child == 0:
        code = 1
        try:
            worker.answer(wire.frame(wire.LOG, 0, b"of the child"))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    worker.answer(wire.frame(wire.READY, 1, b""))
    assert pool.receive(False) == [(wire.READY, 1, b"")]


def test_a_finalizer_may_receive_while_frames_are_taken() -> None:
    """Where the collector runs at any allocation, it runs in the middle of receive()."""
    reads, writes = os.pipe2(os.O_NONBLOCK)
    line = Line(reads, os.dup(writes), 0.0)
    nested: list[Any] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            more = [wire.frame(wire.READY, 100 + i, b"y" * 900) for i in range(40)]
            os.write(writes, b"".join(more))
            nested.extend(line.receive(False))

    threshold = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        Cycle()
        wanted = [(wire.READY, i, b"x" * 20) for i in range(5)]
        os.write(writes, b"".join(wire.frame(*it) for it in wanted))
        gc.set_threshold(1)
        kept = [[] for _ in range(100)]  # so that the next one is time for the collector
        gc.enable()
        found = line.receive(False)
        gc.disable()
        del kept
        gc.enable()
        gc.collect()
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    assert found == wanted
    assert [number for _, number, _ in nested] == list(range(100, 140))
    assert gc.isenabled()
    os.close(writes)
    line.close()
