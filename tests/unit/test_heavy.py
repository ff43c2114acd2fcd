"""engine.heavy in one process: arrays by key, limits, figures, and the end of each of them."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Iterator

import pytest

import theus
from helpers import run_threads
from support import descriptors
from theus import (
    BadTokenError,
    ClosedError,
    HeavyMemoryError,
    StaleArrayError,
    TheusEngine,
)

np = pytest.importorskip("numpy")

from theus.heavy import ManagedAllocator  # noqa: E402
from theus.shm_array import ShmArray  # noqa: E402

MIB = 2**20


@pytest.fixture
def heavy() -> Iterator[ManagedAllocator]:
    allocator = ManagedAllocator(capacity_mb=64, session_id="test")
    yield allocator
    allocator.shutdown()
    report = allocator.report()
    assert report.births - report.deaths == len(report.arrays)


# ---- arrays ---------------------------------------------------------------------------------


def test_an_engine_has_arrays() -> None:
    with TheusEngine({"domain": {}}) as engine:
        array = engine.heavy.alloc("frame", (3, 4), "uint8")
        assert type(array) is ShmArray
        assert array.flags.writeable and not array.any()
        array[1, 2] = 7
        again = engine.heavy.get("frame")
        assert again[1, 2] == 7 and again.ctypes.data == array.ctypes.data
        assert engine.heavy is engine.heavy
        assert "frame" in engine.heavy and list(engine.heavy) == ["frame"]
    assert array[1, 2] == 7  # the engine is closed, the view stays good
    with pytest.raises(ClosedError):
        engine.heavy.alloc("other", 1)
    with pytest.raises(ClosedError):
        _ = TheusEngine().close() or closed_engine().heavy


def closed_engine() -> TheusEngine:
    engine = TheusEngine()
    engine.close()
    return engine


def test_engines_share_nothing() -> None:
    with TheusEngine() as one, TheusEngine() as two:
        one.heavy.alloc("x", 1)[0] = 1
        two.heavy.alloc("x", 1)[0] = 2
        assert one.heavy.get("x")[0] == 1 and two.heavy.get("x")[0] == 2
        assert one.heavy.get("x").shm.name != two.heavy.get("x").shm.name  # type: ignore[union-attr]


def test_names_tell_session_process_and_key(heavy: ManagedAllocator) -> None:
    import os

    array = heavy.alloc("a:b/ü", 1)
    assert array.shm is not None
    assert array.shm.name == f"theus:test:{os.getpid()}:a:b/ü"
    assert array.info()["key"] == "a:b/ü"


DTYPES = [
    "bool", "int8", "uint64", ">i4", "float16", ">f8", "complex128", "S7", "U5", "U", "V3",
    "datetime64[ns]", "timedelta64[s]",
    [("x", "<i2"), ("y", ">f8", (2,))],
    np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 24}),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_kind_of_array(
    heavy: ManagedAllocator, dtype: object, shape: tuple[int, ...], order: str
) -> None:
    like = np.zeros(shape, dtype, order=order)  # type: ignore[call-overload]
    array = heavy.alloc("x", shape, dtype, order=order)  # type: ignore[arg-type]
    assert array.dtype == like.dtype and array.shape == like.shape
    assert array.strides == like.strides or like.size == 0
    assert np.array_equal(array, like)  # the bytes between fields are nobody's
    raw = np.frombuffer(np.random.default_rng(1).bytes(like.nbytes), "u1")
    if like.dtype.kind not in "bU" and like.size:
        like = np.frombuffer(raw.tobytes(), like.dtype).reshape(shape)
    put = heavy.put("y", like)
    assert put.dtype == like.dtype
    for name in like.dtype.names or ():
        assert put[name].tobytes() == like[name].tobytes()  # not the bytes between the fields
    assert like.dtype.names or put.tobytes() == like.tobytes()
    copy = pickle.loads(pickle.dumps(array))
    assert np.array_equal(copy, array) and copy.dtype == array.dtype


def test_put_keeps_the_order_of_memory(heavy: ManagedAllocator) -> None:
    fortran = np.asfortranarray(np.arange(12).reshape(3, 4))
    made = heavy.put("f", fortran)
    assert made.flags.f_contiguous and (made == fortran).all()
    assert (heavy.put("steps", np.arange(20)[::3]) == np.arange(0, 20, 3)).all()
    assert (heavy.put("list", [[1, 2], [3, 4]]) == [[1, 2], [3, 4]]).all()


def test_a_key_is_used_once_at_a_time(heavy: ManagedAllocator) -> None:
    heavy.alloc("x", 3)
    with pytest.raises(FileExistsError, match="'x' already"):
        heavy.alloc("x", 3)
    heavy.free("x")
    with pytest.raises(KeyError):
        heavy.free("x")
    with pytest.raises(KeyError):
        heavy.get("x")
    assert "x" not in heavy
    second = heavy.alloc("x", 5)
    assert second.shm is not None
    second.shm.unlink()  # the same as free
    assert "x" not in heavy and len(heavy) == 0
    heavy.alloc("x", 7)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("x", 3, object), TypeError, "Python objects"),
        (("x", 3, [("a", "i4"), ("b", "O")]), TypeError, "Python objects"),
        (("x", -1), ValueError, "below 0"),
        (("x", (2, -3)), ValueError, "below 0"),
        (("x", 1.5), TypeError, "1.5"),
        (("x", "ab"), TypeError, "'ab'"),
        (("", 1), TypeError, "''"),
        ((3, 1), TypeError, "not 3"),
        (("k" * 192, 1), ValueError, "191 bytes"),
        (("x", 1, "no such type"), TypeError, "no such type"),
    ],
)
def test_bad_arguments_leave_nothing(
    heavy: ManagedAllocator, arguments: tuple[object, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        heavy.alloc(*arguments)  # type: ignore[arg-type]
    assert len(heavy) == 0 and heavy.used_bytes == 0 and heavy.report().births == 0
    with pytest.raises(ValueError, match="order"):
        heavy.alloc("x", 1, order="K")  # type: ignore[arg-type]


# ---- life ------------------------------------------------------------------------------------


def test_memory_goes_with_the_last_view(heavy: ManagedAllocator) -> None:
    array = heavy.alloc("x", MIB, "u1")
    array[:] = 9
    part = array[10:20]
    plain = np.asarray(part).view(np.ndarray)
    heavy.free("x")
    assert heavy.used_bytes == MIB
    del array, part
    assert heavy.used_bytes == MIB and (plain == 9).all()
    del plain
    assert heavy.used_bytes == 0


def test_memory_is_used_again_and_is_zero_again(heavy: ManagedAllocator) -> None:
    addresses = set()
    for i in range(20):
        array = heavy.alloc("x", (2, MIB), "u1")
        assert not array.any()
        array[:] = i + 1
        addresses.add(array.ctypes.data)
        heavy.free("x")
        del array
    assert len(addresses) == 1 and heavy.report().arenas == 1


@pytest.mark.parametrize("how", ["cleanup", "shutdown", "with", "drop"])
def test_views_outlive_every_end(how: str) -> None:
    allocator = ManagedAllocator(64)
    small, large = allocator.alloc("s", 10), allocator.alloc("l", 5 * MIB)
    small[:], large[:] = 1, 2
    if how == "with":
        with allocator:
            pass
    elif how == "drop":
        del allocator
    else:
        getattr(allocator, how)()
        getattr(allocator, how)()
        assert len(allocator) == 0
    gc.collect()
    assert small.sum() == 10 and large[-1] == 2
    assert not small.info()["live"]
    assert type(pickle.loads(pickle.dumps(small))) is np.ndarray


def test_cleanup_gives_everything_back(heavy: ManagedAllocator) -> None:
    heavy.alloc("a", MIB)
    heavy.alloc("b", 10)
    assert heavy.report().backed > 8 * MIB
    heavy.cleanup()
    report = heavy.report()
    assert (report.used, report.backed, report.arenas, report.arrays) == (0, 0, 0, ())
    assert heavy.alloc("a", 3).shape == (3,)


def test_many_small_arrays_need_few_descriptors() -> None:
    before = descriptors()
    with ManagedAllocator(64) as allocator:
        arrays = [allocator.alloc(f"x{i}", 20) for i in range(9000)]
        assert (descriptors() - before).total() <= 6
        assert len(allocator.report().arrays) == 9000
    assert arrays[77].sum() == 0
    del arrays
    assert not descriptors() - before


# ---- limits -----------------------------------------------------------------------------------


def test_the_engine_has_a_limit(heavy: ManagedAllocator) -> None:
    heavy.alloc("half", 32 * MIB, "u1")
    with pytest.raises(HeavyMemoryError) as caught:
        heavy.alloc("too much", 33 * MIB, "u1")
    error = caught.value
    assert isinstance(error, MemoryError)
    assert (error.asked, error.used, error.limit) == (33 * MIB, 32 * MIB, 64 * MIB)
    assert error.holders == (("half", 32 * MIB),) and error.prefix == ""
    assert error.largest_free == 32 * MIB
    assert "'half' 33,554,432" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.holders == error.holders
    assert "too much" not in heavy
    heavy.alloc("fits", 32 * MIB, "u1")


def test_quotas_by_prefix(heavy: ManagedAllocator) -> None:
    heavy.alloc("cam.left", MIB, "u1")
    heavy.quota("cam.", hard=3 * MIB)
    heavy.quota("cam.left", hard=2 * MIB)
    with pytest.raises(HeavyMemoryError, match=r"quota of 'cam\.left'") as caught:
        heavy.alloc("cam.left.more", MIB + 1, "u1")
    assert caught.value.prefix == "cam.left" and caught.value.used == MIB
    with pytest.raises(HeavyMemoryError, match=r"quota of 'cam\.'"):
        heavy.alloc("cam.right", 2 * MIB + 1, "u1")
    heavy.alloc("cam.right", 2 * MIB, "u1")
    heavy.alloc("other", 20 * MIB, "u1")
    used = {quota.prefix: quota.used for quota in heavy.report().quotas}
    assert used == {"": 23 * MIB, "cam.": 3 * MIB, "cam.left": MIB}
    heavy.free("cam.right")
    heavy.quota("cam.")  # no limit any more
    heavy.alloc("cam.right", 10 * MIB, "u1")
    with pytest.raises(ValueError, match="above 0"):
        heavy.quota("x", hard=-1)
    with pytest.raises(ValueError, match="191 bytes"):
        heavy.quota("x" * 192, hard=1)


def test_what_no_machine_has_is_an_exception() -> None:
    with ManagedAllocator(2**39) as allocator:
        for size, prefix in ((2**50, None), (2**58, None), (2**62, ""), (2**70, None)):
            with pytest.raises(HeavyMemoryError) as caught:
                allocator.alloc("x", size, "u1")
            assert caught.value.asked == size and caught.value.prefix == prefix
        assert allocator.used_bytes == 0


@pytest.mark.parametrize("text", ["", "no", "0", "-5", "1.5"])
def test_the_environment_may_set_the_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEUS_HEAP_SIZE", "3")
    assert ManagedAllocator().capacity == 3 * MIB
    monkeypatch.setenv("THEUS_HEAP_SIZE", text)
    with pytest.raises(ValueError, match="THEUS_HEAP_SIZE is a number"):
        ManagedAllocator()
    monkeypatch.delenv("THEUS_HEAP_SIZE")
    assert ManagedAllocator().capacity == theus._theus.system_memory()[0] // 2
    with pytest.raises(ValueError, match="capacity_mb"):
        ManagedAllocator(0)
    with pytest.raises(ValueError, match="session_id"):
        ManagedAllocator(session_id="s" * 64)


def test_the_report_shows_everything(heavy: ManagedAllocator) -> None:
    a = heavy.alloc("a", 1000, "u1")
    heavy.alloc("b", MIB, "u1")
    heavy.free("a")
    report = heavy.report()
    assert report.births - report.deaths == 2 == len(report.arrays)
    assert report.used == sum(array.extent for array in report.arrays) == MIB + 1024
    assert report.asked == MIB + 1000 and report.peak >= report.used
    assert {array.key: array.live for array in report.arrays} == {"a": False, "b": True}
    assert report.by_size == {1024: (1, 1024), MIB: (1, MIB)}
    assert 0 <= report.fragmentation < 1
    assert "2 arrays" in str(report) and "a: 1,000 bytes" in str(report)
    assert "freed" in str(report)
    assert a.sum() == 0


# ---- threads ----------------------------------------------------------------------------------


def test_threads_allocate_and_free(heavy: ManagedAllocator) -> None:
    def body(index: int) -> None:
        for i in range(200):
            array = heavy.alloc(f"{index}.{i}", 1000 * (i % 7), "u2")
            array[:] = index
            token = pickle.dumps(array)
            heavy_copy = pickle.loads(token)
            heavy.free(f"{index}.{i}")
            assert (heavy_copy == index).all()
            with pytest.raises(StaleArrayError):
                pickle.loads(token)

    run_threads(4, body)
    report = heavy.report()
    assert report.births == report.deaths == 800 and report.used == 0


def test_one_of_many_threads_gets_a_key(heavy: ManagedAllocator) -> None:
    won = []
    lock = threading.Lock()

    def body(index: int) -> None:
        for i in range(50):
            try:
                heavy.alloc(f"k{i}", 10)
            except FileExistsError:
                continue
            with lock:
                won.append(i)

    run_threads(4, body)
    assert sorted(won) == list(range(50))


def test_who_drops_a_key_drops_no_other_array(heavy: ManagedAllocator) -> None:
    array = heavy.alloc("x", 3)
    claimers: list[threading.Thread] = []

    class Slow(dict[str, object]):
        """Between a look at a key and what follows, another thread puts an array there."""

        def get(self, key: str, default: object = None) -> object:
            found = super().get(key, default)
            if array.info()["live"] or claimers:
                return found
            claimers.append(threading.Thread(target=heavy.alloc, args=("x", 7)))
            claimers[0].start()
            claimers[0].join(0.05)
            return found

    heavy._keys._entries = Slow(heavy._keys._entries)
    heavy.free("x")
    claimers[0].join()
    assert heavy.get("x").shape == (7,)


def test_an_engine_that_closes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TheusEngine()
    made = []

    class Late(ManagedAllocator):
        def __init__(self, **options: object) -> None:
            engine.close()
            super().__init__(**options)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr("theus.heavy.ManagedAllocator", Late)
    with pytest.raises(ClosedError):
        _ = engine.heavy
    with pytest.raises(ClosedError):
        made[0].alloc("x", 3)


def test_threads_get_one_allocator() -> None:
    with TheusEngine() as engine:
        assert len(set(map(id, run_threads(8, lambda _: engine.heavy)))) == 1


# ---- tokens -----------------------------------------------------------------------------------


def test_however_often_a_slot_was_reused_a_token_stays_stale(heavy: ManagedAllocator) -> None:
    block = heavy._zone.alloc("x", 8, False)
    token = block.token  # type: ignore[union-attr]
    for i in range(20_000):
        del block
        block = heavy._zone.alloc("x", 8, False)  # in the same slot
        if i % 100 == 0:
            with pytest.raises(StaleArrayError, match="gone"):
                theus._theus.borrow_block(token)
    assert block.token[:8] == token[:8] and block.token != token  # type: ignore[union-attr]


def test_damaged_tokens_raise(heavy: ManagedAllocator) -> None:
    array = heavy.alloc("x", 100, "u1")
    token = array.shm._block.token  # type: ignore[union-attr]
    borrow = theus._theus.borrow_block
    for damaged in (b"", token[:-1], token + b"x", b"X" + token[1:]):
        with pytest.raises(BadTokenError, match="no token"):
            borrow(damaged)
    with pytest.raises(BadTokenError):
        borrow(token.decode("latin-1"))  # type: ignore[arg-type]
    # Magic, slot, generation, id. The rest, pid and descriptor, says where an unknown arena is.
    for bit in (*range(12 * 8), *range(20 * 8, 36 * 8)):
        bytes_ = bytearray(token)
        bytes_[bit // 8] ^= 1 << bit % 8
        with pytest.raises((BadTokenError, StaleArrayError)):
            borrow(bytes(bytes_))


@pytest.mark.parametrize(
    "view",
    [
        ((101,), "|u1", 0, None),
        ((100,), "|u1", 1, None),
        ((2,), "<f8", -8, None),
        ((2,), "<f8", 0, (96,)),
        ((2,), "<f8", 0, (-8,)),
        ((2**33, 2), "|u1", 0, (2**31, 1)),
        ((2**62, 2**62), "|u1", 0, None),
        ((-1,), "|u1", 0, None),
        ((1,), "|O", 0, None),
        ((1,), "nonsense", 0, None),
        ((1,), "a,(", 0, None),
        ("ab", "|u1", 0, None),
        ((1,), "|u1", "x", None),
    ],
    ids=str,
)
def test_forged_views_raise(heavy: ManagedAllocator, view: tuple[object, ...]) -> None:
    array = heavy.alloc("x", 100, "u1")
    rebuild, (token, *_) = array.__reduce__()
    assert rebuild(token, (100,), "|u1", 0, None).shape == (100,)
    with pytest.raises(BadTokenError, match="100 bytes"):
        rebuild(token, *view)


# ---- house rules ------------------------------------------------------------------------------


def test_blocks_have_no_door_for_writing(heavy: ManagedAllocator) -> None:
    with pytest.raises(TypeError):
        theus._theus.SharedBlock()
    array = heavy.alloc("x", 3)
    assert not hasattr(array, "__dict__") and not hasattr(array.shm, "__dict__")
