"""One end of the wire: frames, packets, what a worker does with them; without a pool."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

import theus.pools.codec
from support import PATIENCE

if not sys.platform.startswith("linux"):
    pytest.skip("ProcessPool is Linux's", allow_module_level=True)

from theus._theus import Line, Promise, decode, encode_frame
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


class Sent:
    """A task as a line sees it, sent or to be sent."""

    def __init__(self, number: int, frame: bytes = b"") -> None:
        self.number = number
        self.frame = frame
        self.future = Promise()


def received(line: Line, *numbers: int) -> list[tuple[int, int, bytes]]:
    """(kind, number, body) of what is there, if tasks of these numbers are on their way; 0 for what
    is no answer."""
    sent, arrived = deque(Sent(number) for number in numbers), deque[Any]()
    while line.collect(line, sent, deque([len(numbers)]), arrived):
        pass
    assert all(sender is line for sender, *_ in arrived)
    return [(kind, task.number if task else 0, body) for _, task, kind, body in arrived]


def served(ends: Ends, *frames: bytes) -> list[tuple[int, int, Any]]:
    """What a worker answers to a packet, and then the end."""
    pool, worker = ends
    assert pool.send(list(frames))
    pool.hang_up()
    worker.serve(Results(worker, "test"))
    numbers = [number for frame in frames for _, number, _ in wire.frames(frame)[0]]
    return [
        (kind, number, decode(body, theus.pools.codec.restore_any))
        for kind, number, body in received(pool, *numbers)
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
    ((kind, number, body),) = received(pool, 3)
    assert (kind in wire.INLINE) == (size > wire.INLINE_RESULT) and number == 3
    assert wire.unpack(body, kind in wire.INLINE) == b"x" * size


def test_frames_that_come_in_pieces_are_put_together(ends: Ends) -> None:
    pool, worker = ends
    long, short = wire.frame(wire.LOG, 0, b"a" * 200_000), wire.frame(wire.READY, 1, b"")
    writer = threading.Thread(target=lambda: (worker.answer(long), worker.answer(short)))
    writer.start()
    found: list[Any] = []
    while len(found) < 2:  # the pipe holds a third of it
        found += received(pool)
    writer.join(PATIENCE)
    assert found == [(wire.LOG, 0, b"a" * 200_000), (wire.READY, 0, b"")]


def test_threads_that_answer_at_once_do_not_mix_their_frames(ends: Ends) -> None:
    from helpers import run_threads

    pool, worker = ends
    found: list[Any] = []

    def work(index: int) -> None:
        if index == 0:
            while len(found) < 60:
                found.extend(received(pool))
        else:
            for n in range(20):
                worker.answer(wire.frame(wire.LOG, 0, bytes([index, n]) * 4_500))

    run_threads(4, work)
    for index in (1, 2, 3):
        numbers = [body[1] for _, _, body in found if body == bytes([index, body[1]]) * 4_500]
        assert numbers == list(range(20))


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
    assert received(line) == []
    late = threading.Timer(0.01, os.write, (writes, wire.frame(wire.READY, 0, b"")))
    late.start()
    assert line.look() and received(line) == [(wire.READY, 0, b"")]
    late.join()
    os.close(writes)
    line.close()


def test_a_signal_handler_that_raises_loses_no_frame() -> None:
    reads, writes = os.pipe2(os.O_NONBLOCK)
    line = Line(reads, os.dup(writes), PATIENCE)

    def interrupt(number: int, at: Any) -> None:
        os.write(writes, wire.frame(wire.LOG, 0, b"5"))
        raise InterruptedError

    go, started = os.pipe()  # the handler may raise in what threading.Event does

    def come_late() -> None:
        os.read(go, 1)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)
        os.write(writes, wire.frame(wire.LOG, 0, b"6"))

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        late = threading.Thread(target=come_late)
        late.start()
        with pytest.raises(InterruptedError):
            os.write(started, b"x")
            line.look()
    finally:
        signal.signal(signal.SIGALRM, before)
    late.join()
    assert sorted(received(line)) == [(wire.LOG, 0, b"5"), (wire.LOG, 0, b"6")]
    for descriptor in (writes, go, started):
        os.close(descriptor)
    line.close()


def test_a_closed_line_says_so(ends: Ends) -> None:
    pool, worker = ends
    pool.close()
    pool.close()
    assert (pool.reads, pool.writes) == (-1, -1)
    with pytest.raises(OSError, match="descriptor"):
        received(pool)
    with pytest.raises(OSError, match="descriptor"):
        pool.send([b""])
    with pytest.raises(BrokenPipeError):
        worker.answer(wire.frame(wire.READY, 1, b""))


def posted(line: Line, tasks: list[Sent], most: int) -> tuple[int, list[int], list[int], list[int]]:
    """What post() has said, and then the numbers in the queue, those that are sent, and in how
    many packets."""
    queue, sent, packets = deque(tasks), deque[Any](), deque[int]()
    said = line.post(queue, most, sent, packets)
    return said, [it.number for it in queue], [it.number for it in sent], list(packets)


def test_tasks_go_from_the_queue_to_the_worker_in_one_packet(ends: Ends) -> None:
    pool, worker = ends
    tasks = [Sent(n, call(n, triple, n)) for n in range(5)]
    assert posted(pool, tasks, 3) == (3, [3, 4], [0, 1, 2], [3])
    assert [it.future._state for it in tasks] == ["RUNNING"] * 3 + ["PENDING"] * 2
    assert b"".join(it.frame for it in tasks[:3]) == os.read(worker.reads, 9000)
    long = [Sent(n, wire.frame(wire.CALL, n, b"x" * 1500)) for n in range(5)]
    assert posted(pool, long, 5) == (2, [2, 3, 4], [0, 1], [2])


def test_a_task_that_was_cancelled_stays_in_the_queue(ends: Ends) -> None:
    pool, worker = ends
    tasks = [Sent(n, call(n, triple, n)) for n in range(3)]
    assert tasks[1].future.call_off() and not tasks[1].future.begin()
    assert posted(pool, tasks, 3) == (1, [1, 2], [0], [1])
    assert posted(pool, tasks[1:], 3) == (-1, [1, 2], [], [])
    assert posted(pool, [], 3) == (-1, [], [], [])
    tasks[2].future.ask()
    assert tasks[2].future.begin()
    assert not tasks[2].future.call_off()
    assert posted(pool, tasks[2:], 3) == (1, [], [2], [1])
    assert [number for _, number, _ in wire.frames(os.read(worker.reads, 9000))[0]] == [0]


def test_where_a_pipe_is_full_tasks_have_begun_and_wait(ends: Ends) -> None:
    pool, worker = ends
    while pool.send([b"x"]):
        pass
    tasks = [Sent(n, call(n, triple, n)) for n in range(2)]
    assert posted(pool, tasks, 2) == (0, [0, 1], [], [])
    assert tasks[0].future._state == "RUNNING"
    os.read(worker.reads, 9000)
    assert posted(pool, tasks, 2) == (2, [], [0, 1], [2])


def test_what_is_no_task_is_refused_and_nothing_is_sent(ends: Ends) -> None:
    pool, worker = ends
    good = Sent(1, call(1, triple, 1))
    odd: Any
    for odd, error in [
        (object(), AttributeError),
        (Sent(2, "x"), TypeError),  # type: ignore[arg-type]
        (Sent(3, b"x" * 5000), ValueError),
    ]:
        with pytest.raises(error):
            posted(pool, [odd], 2)
    odd = Sent(2, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes"):
        posted(pool, [good, odd], 2)
    other: Any = Sent(4, b"x")
    other.future = None
    with pytest.raises(TypeError, match="Promise"):
        posted(pool, [other], 1)
    with pytest.raises(BlockingIOError):
        os.read(worker.reads, 10)


def test_answers_go_to_their_tasks_and_packets_are_counted_down(ends: Ends) -> None:
    pool, worker = ends
    sent, packets = deque(Sent(n) for n in (1, 2, 3)), deque([2, 1])
    arrived = deque[Any]()
    for number in (1, 9, 2):  # 9 was killed, and its pool has let go of it
        worker.answer(wire.frame(wire.VALUE, number, b"v%d" % number))
    worker.answer(wire.frame(wire.LOG, 0, b"said"))
    first, second, third = sent
    assert pool.collect("me", sent, packets, arrived) == 4
    assert list(arrived) == [
        ("me", first, wire.VALUE, b"v1"),
        ("me", second, wire.VALUE, b"v2"),
        ("me", None, wire.LOG, b"said"),
    ]
    assert (list(sent), list(packets), pool.answered) == ([third], [1], 2)
    before = pool.since
    worker.answer(wire.frame(wire.UNFIT, 3, b""))
    assert pool.collect("me", sent, packets, arrived) == 1
    assert (list(sent), list(packets), pool.answered) == ([], [], 3)
    assert time.monotonic() >= pool.since > before > 0.0 and pool.pace != 1.0


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
    assert received(pool) == [(wire.READY, 0, b"")]


def test_a_finalizer_may_receive_while_frames_are_taken() -> None:
    """Where the collector runs at any allocation, it runs in the middle of collect()."""
    reads, writes = os.pipe2(os.O_NONBLOCK)
    line = Line(reads, os.dup(writes), 0.0)
    nested: list[Any] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            more = [wire.frame(wire.LOG, 0, bytes([i]) * 900) for i in range(40)]
            os.write(writes, b"".join(more))
            nested.extend(received(line))

    threshold = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        Cycle()
        wanted = [(wire.READY, 0, bytes([i]) * 20) for i in range(5)]
        arrived = deque[Any]()
        sent, packets = deque[Any](), deque[int]()
        os.write(writes, b"".join(wire.frame(*it) for it in wanted))
        gc.set_threshold(1)
        kept = [[] for _ in range(100)]  # so that the next one is time for the collector
        gc.enable()
        line.collect(line, sent, packets, arrived)
        gc.disable()
        del kept
        gc.enable()
        gc.collect()
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    assert [(kind, 0, body) for _, _, kind, body in arrived] == wanted
    assert [body[0] for _, _, body in nested] == list(range(40))
    assert gc.isenabled()
    os.close(writes)
    line.close()
