"""Waits that meet a signal, a fork or the end of the process; and what they leave in memory."""

from __future__ import annotations

from support import silent


def test_ctrl_c_ends_each_wait() -> None:
    silent("""
        import os, signal, threading, time
        from theus import TheusEngine

        engine = TheusEngine({"n": 0}, ring_mode="block", ring_capacity=1, ring_timeout_ms=0)
        reader = engine.reader()
        engine.run(lambda tx: tx.set(("n",), 1))
        waits = [
            lambda: engine.wait_for(lambda state: False),
            lambda: next(engine.changes()),
            lambda: engine.run(lambda tx: tx.set(("n",), 2)),
        ]
        read, write = os.pipe()  # a pipe, because an interrupt may break what threading.Event does
        waiting = False

        def interrupt(number, frame):
            global waiting
            if waiting:
                waiting = False
                raise KeyboardInterrupt

        def send():
            # More than one: a signal that comes between the main thread's last step in Python and
            # its system call is seen only when that returns, in CPython's own waits, too.
            os.read(read, 1)
            while waiting:
                time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, interrupt)
        for wait in waits:
            thread = threading.Thread(target=send)
            waiting = True
            thread.start()
            try:
                os.write(write, b"x")
                wait()
                raise SystemExit("went on")
            except KeyboardInterrupt:
                pass
            thread.join()
        assert engine.current() is None and engine.state["n"] == 1
        assert reader.poll().version == 2
        engine.run(lambda tx: tx.set(("n",), 3))
    """)


def test_the_child_of_a_fork_wakes_nobody_of_its_parent() -> None:
    silent("""
        import os, threading, warnings
        from theus import ClosedError, RingFullError, TheusEngine

        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside a thread, on purpose

        engine = TheusEngine({"n": 0}, ring_mode="block", ring_capacity=2, ring_timeout_ms=0)
        reader = engine.reader()
        woken = []
        engine.listen(lambda: woken.append(os.getpid()))
        begun = threading.Event()

        def wait():
            begun.set()
            woken.append(engine.wait_for(lambda state: state["n"] == 7).version)

        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                try:
                    engine.compare_and_swap(1, {"n": 7})
                except RingFullError as error:      # the reader is the parent's
                    assert error.reason == "no reader"
                try:
                    reader.poll()
                except ClosedError as error:
                    assert "parent" in str(error)
                with engine.reader() as own:
                    engine.compare_and_swap(1, {"n": 7})
                    assert own.poll().version == 2
                    assert engine.wait_for(lambda state: state["n"] == 7).version == 2
                del reader
                assert woken == []
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert engine.version == 1 and woken == []
        engine.compare_and_swap(1, {"n": 7})
        thread.join()
        assert woken == [os.getpid(), 2] or woken == [2, os.getpid()]
        assert reader.poll().version == 2
    """)


def test_a_process_ends_with_waiters_left() -> None:
    silent("""
        import asyncio, threading
        from theus import TheusEngine

        engine = TheusEngine({"n": 0}, ring_mode="strict", ring_capacity=2)
        reader, changes = engine.reader(), engine.changes()
        engine.run(lambda tx: tx.set(("n",), 1))
        threading.Thread(target=engine.wait_for, args=(lambda state: False,), daemon=True).start()
        threading.Thread(target=list, args=(engine.changes(),), daemon=True).start()
        engine.listen(changes.poll)
    """)


def test_waiting_leaves_no_memory() -> None:
    silent("""
        import asyncio, gc, os, pathlib, weakref
        from theus import TheusEngine, WaitTimeoutError

        def resident_bytes():
            pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")

        class Engine(TheusEngine):
            pass

        def step(tx):
            tx["n"] += 1

        async def tasks(engine):
            async def follow():
                async for item in engine.changes():
                    if item.value["n"] % 10 == 0:
                        return
            for _ in range(20):
                waiting = [asyncio.create_task(follow()) for _ in range(3)]
                lost = asyncio.create_task(engine.wait_for_async(lambda state: False))
                while not all(task.done() for task in waiting):
                    engine.run(step)
                    await asyncio.sleep(0)
                lost.cancel()

        def work():
            engine = Engine({"n": 0}, ring_capacity=4)
            asyncio.run(tasks(engine))
            with engine.reader() as reader, engine.changes() as changes:
                for _ in range(20):
                    engine.run(step)
                    assert reader.poll() and changes.poll()
                    try:
                        engine.wait_for(lambda state: False, 0)
                    except WaitTimeoutError:
                        pass
            listener = lambda: engine
            engine.listen(listener)             # a cycle through the bell
            engine.reader()
            dropped = engine.reader()
            cycle = [dropped, engine]
            cycle.append(cycle)
            return weakref.ref(engine)

        for _ in range(3):
            gone = work()
            gc.collect()
            assert gone() is None
        before = resident_bytes()
        for _ in range(30):
            gone = work()
            gc.collect()
            assert gone() is None
        assert resident_bytes() - before < 2_000_000, resident_bytes() - before
    """)
