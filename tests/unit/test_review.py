"""What hostile programs have found: each test crashed, hung or lied before it was mended."""

import asyncio
import contextlib
import gc
import itertools
import signal
import sys
import threading
import weakref

import pytest

from support import PATIENCE, elsewhere
from theus import (
    ClosedError,
    ConflictError,
    ContextError,
    RingFullError,
    State,
    TheusEngine,
    TransactionError,
    WriteTimeoutError,
)
from theus._theus import Engine


class Roots:
    """A mapping of roots whose keys() runs a function first."""

    def __init__(self, before):
        self.before = before

    def keys(self):
        self.before()
        return ["late"]

    def __getitem__(self, key):
        return {"x": 1}


# ---- an engine before and during __init__ -------------------------------------------------


def test_a_transaction_begun_while_init_reads_its_data_keeps_its_store():
    """__init__ used to free the store that such a transaction then committed to."""
    engine = Engine.__new__(Engine)
    open_ones = []

    def begin():
        tx = engine.transaction()
        tx.__enter__()
        tx["early"] = {"x": 2}
        open_ones.append(tx)

    with pytest.raises(RuntimeError, match="in use"):
        engine.__init__(Roots(begin))
    open_ones[0].commit()
    assert engine.state["early"] == {"x": 2}


def test_a_commit_while_init_reads_its_data_is_not_thrown_away():
    """The second look at the engine, after the data have been read, counts commits too."""
    engine = Engine.__new__(Engine)

    def commit():
        engine.run(lambda tx: tx.update({"early": {"x": 2}}))

    with pytest.raises(RuntimeError, match="in use"):
        engine.__init__(Roots(commit))
    assert engine.state["early"] == {"x": 2}


def test_an_engine_is_initialised_once():
    """Another thread may be reading the store that a second __init__ would free."""
    engine = Engine.__new__(Engine)
    with pytest.raises(TypeError, match="root is named by a str"):
        engine.__init__({1: 2})
    engine.__init__({"a": 1})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in use"):
            engine.__init__({"b": 1})
    inner = Engine.__new__(Engine)
    with pytest.raises(RuntimeError, match="in use"):
        inner.__init__(Roots(lambda: inner.__init__({"c": 1})))
    assert engine.state["a"] == 1


def test_states_and_transactions_from_before_init_share_the_heap_of_later_versions():
    """They held a heap of their own: a version they handed out was freed with the engine."""
    engine = Engine.__new__(Engine)
    before, idle = engine.state, engine.transaction()
    engine.__init__({"a": {"b": ["text " * 3]}})
    later = before.at(1)["a"]
    with idle as tx:
        tx["n"] = {"k": ["more " * 3]}
        frozen = tx["n"].freeze()
    del engine, before, idle, tx
    gc.collect()
    junk = [{"x": [number]} for number in range(500)]
    assert later == {"b": ["text " * 3]} and frozen == {"k": ["more " * 3]}
    assert len(junk) == 500


# ---- results --------------------------------------------------------------------------------


def test_a_resolver_that_empties_the_result_while_it_is_frozen():
    """Keys were counted after freezing had run the resolver, and read beyond their end."""
    engine = TheusEngine({"d": {"x": {"y": 1}}})

    def body(tx):
        result = {"draft": tx.d, **{str(number): number for number in range(100)}}
        tx.merge(("d", "x", "y"), 5, lambda old, new: result.clear() or new)
        return result

    result = engine.run(body)
    assert len(result) == 101 and result["draft"] == {"x": {"y": 5}}


def test_a_result_nested_too_deep_leaves_the_recursion_limit_as_it_was():
    """Each refusal gave one level back too many, until the C stack had no limit at all."""
    engine = TheusEngine({"d": 1})
    nested = ()
    for _ in range(200_000):
        nested = (nested,)

    def depth():
        reached = 0

        def deeper():
            nonlocal reached
            reached += 1
            deeper()

        with pytest.raises(RecursionError):
            deeper()
        return reached

    before = depth()
    for _ in range(5):
        with pytest.raises(RecursionError):
            engine.run(lambda tx: nested)
    assert depth() == before


# ---- savepoints and joined runs ---------------------------------------------------------------


def test_a_savepoint_that_a_run_left_open_cannot_end_a_later_one():
    """Its memory was used again, and the stale object ended whatever stood there."""
    engine = TheusEngine({"d": {}})
    stale, refused = [], 0

    def leave_one_open(tx):
        savepoint = tx.savepoint()
        savepoint.__enter__()
        stale.append(savepoint)

    def end_them(tx):
        nonlocal refused
        for savepoint in stale:
            try:
                savepoint.__exit__(None, None, None)
            except TransactionError:
                refused += 1

    with engine.transaction() as tx:
        for _ in range(20):
            engine.run(leave_one_open)
            engine.run(lambda tx: engine.run(end_them))
        tx.d.done = True
    assert refused == 20 and engine.state.d == {"done": True}


@pytest.mark.parametrize("way", ["run", "with"])
def test_a_resolver_may_drop_the_last_reference_to_the_transaction_being_joined(way):
    """Joining settles what is deferred, and held the outer transaction by a borrowed reference."""
    engine = TheusEngine({"d": {"x": 1}})
    kept = {}

    def resolver(old, new):
        kept.clear()
        gc.collect()
        return new

    kept["tx"] = engine.transaction()
    kept["tx"].__enter__()
    kept["tx"].merge(("d", "x"), 5, resolver)
    if way == "run":
        assert engine.run(lambda tx: tx.d.x) == 5
    else:
        with engine.transaction() as tx:
            assert tx.d.x == 5
        del tx
    assert engine.current() is None and engine.state.d.x == 1


def test_a_resolver_that_begins_the_very_transaction_that_is_joining():
    """Of the two beginnings one is refused; before, the first savepoint was forgotten open."""
    engine = TheusEngine({"d": {"x": 1}})
    asked = []

    def resolve(old, new):
        if not asked:
            asked.append(new)
            inner.__enter__()
        return new

    with engine.transaction() as tx:
        inner = engine.transaction()
        tx.merge(("d", "x"), 5, resolve)
        with pytest.raises(TransactionError, match="just being begun"):
            inner.__enter__()
        with inner:
            pass
        tx.commit()
    assert engine.state.d.x == 5


def test_a_transaction_that_goes_is_not_current_any_more():
    """A callback of its weak reference got it as current(), and so a second end of its memory."""
    engine = TheusEngine({"d": {"x": 1}})
    tx = engine.transaction()
    tx.__enter__()
    seen = []
    watch = weakref.ref(tx, lambda _: seen.append(engine.current()))
    del tx
    gc.collect()
    assert seen == [None] and watch() is None


@pytest.mark.parametrize("way", ["run", "with"])
def test_a_commit_refused_because_another_thread_is_inside_is_not_joined_later(way):
    """The transaction stayed current, and swallowed the writes of every later run of the thread."""
    engine = TheusEngine({"d": {"x": 1}, "n": 0})
    inside, go = threading.Event(), threading.Event()

    class Slow:
        def __hash__(self):
            return 7

        def __eq__(self, other):
            inside.set()
            assert go.wait(PATIENCE)
            return self is other

    def body(tx):
        tx.set(("d", Slow()), 1)
        thread = threading.Thread(target=tx.get, args=(("d", Slow()),))
        thread.start()
        assert inside.wait(PATIENCE)
        threads.append(thread)

    threads = []
    with pytest.raises(TransactionError, match="another thread"):
        if way == "run":
            engine.run(body)
        else:
            with engine.transaction() as tx:
                body(tx)
    try:
        assert engine.current() is None
        engine.run(lambda tx: tx.set(("n",), 5))
        assert engine.state.n == 5
    finally:
        go.set()
        threads[0].join()


def test_a_context_that_died_is_not_mistaken_for_a_new_one_at_its_address():
    """A task was told by the address of its context, which a later task may get again."""
    import contextvars

    engine = TheusEngine({"n": 0})
    left_open = []

    def leave_open():
        tx = engine.transaction()
        tx.__enter__()
        left_open.append(tx)

    for _ in range(20):
        contextvars.Context().run(leave_open)
        assert contextvars.Context().run(engine.current) is None
    assert all(tx.active for tx in left_open)


# ---- operations() -----------------------------------------------------------------------------


class Key:
    """Equal by number; the first comparison runs a function."""

    hook = None

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        return 1

    def __eq__(self, other):
        hook, Key.hook = Key.hook, None
        if hook is not None:
            hook()
        return isinstance(other, Key) and other.number == self.number


def test_operations_while_key_equality_rewrites_what_is_compared():
    """The container was changed in place under the comparison, and the keys of its path freed."""
    engine, name = TheusEngine({"d": {}}), ["a name ", "made here"]
    with engine.transaction() as tx:
        tx.r = {}
        tx.r["".join(name)] = {}  # the only reference is the state's
        inner = tx.r["".join(name)]
        for number in range(6):
            inner[Key(number)] = number

        def rewrite():
            for number in range(100, 140):
                inner[Key(number)] = number
            inner.clear()
            tx.r.clear()
            gc.collect()

        with tx.savepoint():
            for number in range(4):
                del inner[Key(number)]
                inner[Key(number)] = -number
            Key.hook = rewrite
            listed = tx.operations(True)
            assert Key.hook is None, "nothing was compared: this test proves nothing"
        assert ("set", ("r", "a name made here", Key(1))) in listed


def test_operations_while_a_finalizer_removes_what_they_name():
    """Python objects were made between two looks at the cells, and making them may collect."""
    engine = TheusEngine({"d": {}})

    class Finalized:
        def __init__(self, tx):
            self.tx, self.me = tx, self

        def __del__(self):
            self.tx.r.clear()
            self.tx.d.clear()

    thresholds = gc.get_threshold()
    with engine.transaction(write_timeout_ms=60_000) as tx:  # that many collections take their time
        tx.r = {}
        for number in range(5000):  # more than the interpreter has tuples in reserve
            tx.d[f"a long key number {number}"] = number
        gc.collect()
        Finalized(tx)
        gc.set_threshold(1000)  # so in the middle of the list, where objects are made while walking
        try:
            listed = tx.operations()
        finally:
            gc.set_threshold(*thresholds)
        assert len(listed) == 5001
        gc.collect()  # not all Pythons collect on the way: while there is something to finalize


def test_an_append_to_a_key_whose_equality_rewrites_the_dict():
    """The search went on in a container that was freed, and its position in one that had moved."""
    engine = TheusEngine({"d": {}})
    with engine.transaction() as tx:
        tx.d.update({Key(number): [number] for number in range(6)})
        drafts = [tx.d[Key(number)] for number in range(6)]

        def rewrite():
            tx.d.clear()
            tx.d["first"] = []
            tx.d[Key(3)] = ["new"]

        Key.hook = rewrite
        tx.append(("d", Key(3)), "x")
        assert Key.hook is None, "nothing was compared: this test proves nothing"
        assert tx.d.to_dict() == {"first": [], Key(3): ["new", "x"]}
    assert len(drafts) == 6


# ---- arguments --------------------------------------------------------------------------------


def test_signals_in_a_list_that_holds_itself():
    """They were sent one level deeper each time, until the C stack ended."""
    engine = TheusEngine({})
    signals = []
    signals.append(signals)
    with pytest.raises(RecursionError):
        engine.compare_and_swap(0, signal=signals)


@pytest.mark.parametrize("signal", [5, "text", [5]])
def test_signals_that_are_no_mapping_are_named(signal):
    """The error spoke of a missing attribute 'items' of somebody's int."""
    with pytest.raises(ContextError, match="signal= must be a dict"):
        TheusEngine({}).compare_and_swap(0, signal=signal)


@pytest.mark.parametrize("items", [[1], [(1, 2, 3)], ["ab"]])
def test_items_that_are_no_pairs_are_a_type_error(items):
    """For signals this was a SystemError."""

    class Odd(dict):
        def items(self):
            return items

    for name in ("data", "signal"):
        with pytest.raises(TypeError, match="must give pairs"):
            TheusEngine({}).compare_and_swap(0, **{name: Odd()})


@pytest.mark.parametrize("size", [0, -1, 2**24 + 1, 2**32 + 1, 2**70])
@pytest.mark.parametrize("name", ["ring_capacity", "history"])
def test_sizes_out_of_range_are_refused_whole(name, size):
    """2**32 + 1 slots were taken for one."""
    with pytest.raises(ValueError, match=rf"{name}= must be .* not {size}"):
        Engine(**{name: size})
    with pytest.raises(TypeError, match=rf"{name}= is an int, not 1.5"):
        Engine(**{name: 1.5})


def test_the_version_of_a_state_is_not_taken_modulo():
    """State(version=-1) had version 2**64 - 1, and a float was no int "for argument 4"."""
    with pytest.raises(ValueError, match="no -1"):
        State(version=-1)
    with pytest.raises(TypeError, match="not 1.5"):
        State(version=1.5)
    assert State(version=7).version == 7


@pytest.mark.parametrize("retries", [2**32, 2**70])
def test_more_retries_than_fit_a_word_are_no_fewer(retries):
    """2**32 retries were none."""
    engine, rivals = TheusEngine({"n": 0}), [1, 2]

    def body(tx):
        seen = tx.n
        if rivals:
            engine.run(lambda rival: rival.set(("n",), seen + rivals.pop()), detached=True)
        tx.n = 100

    engine.run(body, retries=retries)
    assert engine.state.n == 100 and not rivals


def test_bad_retries_and_deadlines_are_named():
    engine = TheusEngine({"n": 0})

    def body(tx):
        tx.n = 100

    with pytest.raises(TypeError, match="retries must be an int, 0 or more, or None, not 1.5"):
        engine.run(body, retries=1.5)
    with pytest.raises(TypeError, match="deadline must be a number of seconds, or None, not 'x'"):
        engine.run(body, deadline="x")


def test_containers_nested_step_by_step_have_a_limit():
    """The commit walks down by recursion: a million levels ran over the C stack."""
    engine = TheusEngine({"d": {}})

    def body(tx):
        here = tx.d
        for _ in range(10_000):
            here["x"] = {}
            here = here["x"]

    with pytest.raises(RecursionError, match="nested more than 2000 deep"):
        engine.run(body)
    assert engine.version == 1


def test_an_interrupt_while_a_conflict_is_noted_is_not_lost():
    """Ctrl-C in a key's __hash__ went with the statistic that it kept from being written."""

    class Key:
        left = -1  # hashes until the user presses Ctrl-C

        def __hash__(self):
            Key.left -= 1
            if Key.left == 0:
                raise KeyboardInterrupt
            return 7

    def interrupts(left):
        """How often Ctrl-C was pressed, and how often it arrived."""
        engine, key = TheusEngine({"d": {}}), Key()
        engine.run(lambda tx: tx.set(("d", key), 0))

        def body(tx):
            tx.d[key] += 1
            engine.run(lambda rival: rival.set(("d", key), 9), detached=True)
            Key.left = left

        arrived = 0
        try:
            with pytest.raises(ConflictError):
                engine.run(body, retries=0)
            for _ in range(100):
                len(str(left))  # an interrupt that came in C arrives with a later line
        except KeyboardInterrupt:
            arrived = 1
        pressed, Key.left = int(Key.left <= 0), -1
        return pressed, arrived

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell ignore it
    try:
        seen = [interrupts(n) for n in range(1, 20)]
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (1, 1) in seen and (0, 0) in seen
    assert set(seen) == {(1, 1), (0, 0)}


@pytest.mark.parametrize("name", [0, None, ["x"], b"x"], ids=repr)
def test_attributes_asked_for_by_what_is_no_text(name):
    """The length of a text was read from whatever it was: a crash."""
    engine = TheusEngine({"d": {"x": 1}})
    with engine.transaction() as tx:
        for target in (engine.state, engine.state.d, tx, tx.d):
            for ask in (
                lambda target=target: type(target).__getattribute__(target, name),
                lambda target=target: type(target).__setattr__(target, name, 1),
                lambda target=target: type(target).__delattr__(target, name),
            ):
                with pytest.raises((TypeError, AttributeError)):
                    ask()


# ---- those who follow an engine ---------------------------------------------------------------


class Hasty:
    """A key; whoever compares it with another one commits something meanwhile."""

    engine = None
    commits = 0

    def __hash__(self):
        return 1

    def __eq__(self, other):
        if Hasty.engine is not None and Hasty.commits < 1000:
            Hasty.commits += 1
            Hasty.engine.run(lambda tx: tx.other.append(1))
        return isinstance(other, Hasty)


def test_a_look_ends_although_each_step_of_it_brings_another_version():
    """With writers faster than it, changes().poll(0) never returned."""
    engine = TheusEngine({"d": {Hasty(): 1}, "other": []})
    changes = engine.changes(("d", Hasty()))
    engine.run(lambda tx: tx.other.append(1))
    Hasty.engine, Hasty.commits = engine, 0
    try:
        assert changes.poll() is None
        assert Hasty.commits < 10
    finally:
        Hasty.engine = None
    assert changes.poll() is None and changes.version == engine.version


def test_a_version_whose_look_failed_is_looked_at_again():
    """When comparing a key of the path raised, changes() passed over the version in silence."""

    class Key:
        fails = False

        def __hash__(self):
            return 1

        def __eq__(self, other):
            if Key.fails:
                raise ZeroDivisionError
            return isinstance(other, Key)

    key = Key()
    engine = TheusEngine({"d": {key: 1}})
    changes = engine.changes(("d", Key()))
    engine.run(lambda tx: tx.d.update({key: 2}))
    Key.fails = True
    with pytest.raises(ZeroDivisionError):
        changes.poll()
    Key.fails = False
    assert (changes.poll().value, changes.missed) == (2, 0)


def test_a_task_that_always_finds_something_new_lets_the_others_run():
    """With writers faster than its predicate, wait_for_async never gave its loop back."""
    engine = TheusEngine({"d": {"n": 0}})
    asked = []

    async def other():
        await asyncio.sleep(0)
        return len(asked)

    async def main():
        others = asyncio.ensure_future(other())

        def always_late(state):
            asked.append(state.version)
            engine.run(lambda tx: tx.d.update(n=tx.d.n + 1))
            return others.done() or len(asked) > 1000

        await engine.wait_for_async(always_late)
        return await others

    assert asyncio.run(main()) < 10


def interrupted_at(n, call):
    """Calls it, and raises KeyboardInterrupt where a function of theus begins, ends or calls
    another one for the n-th time. Was there one?
    """
    left = n

    def count(frame, event, arg):
        nonlocal left
        left -= frame.f_globals.get("__name__", "").startswith("theus.")
        if left == 0:
            left = -1
            raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("way", ["changes", "reader"])
@pytest.mark.parametrize("form", ["poll", "next", "anext"])
def test_an_interrupt_anywhere_leaves_the_iterator_usable(way, form):
    """Where it came just after the lock was taken, the iterator was "in use" for ever."""
    engine = TheusEngine({"d": {"n": 0}})
    follower = getattr(engine, way)()

    def step():
        with contextlib.suppress(StopIteration):
            follower.__anext__().send(None)

    call = {"poll": follower.poll, "next": follower.__next__, "anext": step}[form]

    places = 0
    for n in itertools.count(1):
        engine.run(lambda tx: tx.d.update(n=tx.d.n + 1))
        if not interrupted_at(n, call):
            break
        places += 1
        engine.run(lambda tx: tx.d.update(n=tx.d.n + 1))
        assert follower.poll() is not None
    assert places > 5


# ---- a place in the ring -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["block", "strict"])
def test_a_write_that_changes_nothing_needs_no_place(mode):
    """Where the ring was full it was refused, although it makes no version."""
    engine = TheusEngine({"d": {"n": 1}}, ring_mode=mode, ring_capacity=1, ring_timeout_ms=1)
    with engine.reader():
        engine.run(lambda tx: tx.d.update(n=2))
        engine.run(lambda tx: tx.d.update(n=engine.state.d.n))
        engine.compare_and_swap(engine.version, {"d": {"n": engine.state.d.n}})
        asyncio.run(engine.run_async(store_the_same))
        assert engine.version == 2
        with pytest.raises(RingFullError):
            engine.run(lambda tx: tx.d.update(n=3))


async def store_the_same(tx):
    tx.d.n = tx.state.d.n


def test_a_task_waits_for_a_place_no_longer_than_its_transaction_may_take():
    """run_async waited for it past its write timeout, without ring_timeout_ms for ever."""
    engine = TheusEngine(
        {"d": {"n": 1}},
        ring_mode="block",
        ring_capacity=1,
        ring_timeout_ms=0,
        write_timeout_ms=30,
    )

    async def add(tx):
        tx.d.n += 1

    with engine.reader():
        engine.run(lambda tx: tx.d.update(n=2))
        with pytest.raises(WriteTimeoutError) as caught:
            asyncio.run(asyncio.wait_for(engine.run_async(add), PATIENCE))
    assert caught.value.limit_ms == 30 <= caught.value.elapsed_ms
    assert engine.state.d.n == 2


def test_a_nested_run_takes_no_place_in_advance():
    """It took one for the body that it joined, which kept it from everybody until its own end."""
    engine = TheusEngine({"d": {"n": 0}}, ring_mode="block", ring_capacity=1, ring_timeout_ms=1)

    async def add(tx):
        tx.d.n += 1

    async def body(tx):
        await engine.run_async(add)
        elsewhere(engine.run, lambda tx: tx.update({"e": 1}))
        assert engine.state["e"] == 1
        assert reader.poll().version == 2

    with engine.reader() as reader:
        asyncio.run(engine.run_async(body))
        assert reader.poll().version == 3


# ---- versions and times --------------------------------------------------------------------------


def test_a_bool_is_no_version():
    """True was version 1, while bools were refused as times and limits."""
    engine = TheusEngine({"d": {"n": 1}})
    asks = [engine.restore, engine.reader, engine.records, engine.state.at, engine.diff]
    for ask in (*asks, engine.compare_and_swap, lambda since: engine.changes(since=since)):
        with pytest.raises(TypeError, match="True"):
            ask(True)


def test_restore_of_a_closed_engine_says_that_it_is_closed():
    """It complained of the version, which close() had dropped with the history."""
    engine = TheusEngine({"d": {"n": 1}})
    engine.run(lambda tx: tx.d.update(n=2))
    state = engine.state
    engine.close()
    for version in (1, 2, state):
        with pytest.raises(ClosedError):
            engine.restore(version)


def test_a_time_beyond_all_floats_is_no_limit():
    """It was an OverflowError, where 1e300 seconds were fine."""
    engine = TheusEngine({"d": {"n": 1}})
    assert engine.wait_for(lambda state: True, timeout=10**400).version == 1
