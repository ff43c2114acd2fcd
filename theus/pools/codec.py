"""Values as bytes, exactly: the one format for the wire to workers and for what is stored.

    data = dumps({"when": datetime.now(), "total": Decimal("9.95"), "ids": {1, 2}})
    loads(data)

Plain values, the containers of Python and of theus go through C (`_theus.encode`). This module
adds the classes: dates and times, Decimal, Fraction, UUID, paths, range, members of enums, arrays
and scalars of NumPy, tokens of shared arrays, exceptions, StateUpdate, SET, the marks of theus.
What arrives has the type that was sent. A value is a tree: two references to one list arrive as
two lists, and a list that contains itself is refused.

Everything else needs pickle, which both sides have to ask for: data with pickle in them can run
any code where they are read. Without it, reading looks classes up in modules that are loaded, and
calls nothing but constructors of enums and exceptions.
"""

from __future__ import annotations

import enum
import pickle
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from theus import array_view
from theus._theus import DELETE, MISSING, ArrayView, decode, encode
from theus._types import SET, StateUpdate
from theus.errors import CodecError, SendError, StaleArrayError, _shown

__all__ = ["dumps", "loads"]

Data = bytes | bytearray | memoryview

Writer = Callable[[Any], Any]
"""Gives the value that stands for an instance; MISSING if this one needs pickle after all."""

Held = list[Any]
ARRIVING = array_view.array_arriving.__name__.encode()
"""How a pickle refers to what a shared array is restored by."""
"""What must stay alive until the other side has read the data: shared arrays go by token."""


def dumps(value: Any, *, pickle: bool = False) -> bytes:
    """A value as bytes. `pickle` allows what only pickle can write; else that raises SendError.

    Raises RecursionError for what is nested more than 1000 levels deep, or contains itself.
    """
    return encode(value, partial(extend, [], pickle))


def loads(data: Data, *, pickle: bool = False) -> Any:
    """What `dumps` has written. `pickle` says that the data are trusted and may run code.

    Raises CodecError for anything else, whatever the bytes are. StaleArrayError: a shared array
    in them is gone.
    """
    return decode_with(data, pickle, None)


def decode_with(data: Data, pickled: bool, buffers: tuple[Any, ...] | None) -> Any:
    try:
        return decode(data, restore_any if pickled else restore_safe, buffers)
    except (CodecError, StaleArrayError):
        raise
    except Exception as error:
        raise not_restored(error) from error


def not_restored(error: Exception) -> CodecError:
    """Stands for what a constructor has raised: forged parts make them raise whatever they like."""
    return CodecError(f"a part cannot be restored: {type(error).__name__}: {error}")


# ---- classes by name ------------------------------------------------------------------


def name_of(thing: Any) -> tuple[str, str] | None:
    """(module, qualified name) under which an import finds this very object; else None."""
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module)
    for step in name.split("."):
        found = getattr(found, step, None)
    return (module, name) if found is thing else None


def find(name: Any, load: bool) -> Any:
    """What `name_of` has named. Without `load`, only in modules that are there already."""
    module, qualified = name
    if not load and module not in sys.modules:
        raise CodecError(f"{module}.{qualified} is in a module that is not loaded")
    found: Any = import_module(module) if load else sys.modules[module]
    for step in qualified.split("."):
        found = getattr(found, step)
    return found


def named(thing: Any) -> tuple[str, str]:
    name = name_of(thing)
    if name is None:
        raise SendError(
            _shown(thing), "it cannot be found by its name", "define it at the top of a module"
        )
    return name


# ---- what each class becomes -----------------------------------------------------------

DATE, DATETIME, TIME, DELTA, ZONE, ZONE_INFO = range(1, 7)
DECIMAL, FRACTION, UUID, PATH, RANGE, MARK = range(7, 13)
ENUM, GLOBAL, EXCEPTION, PICKLE = range(13, 17)
UPDATE, EXACT = range(17, 19)
ARRAY, SCALAR, DTYPE, SHARED_ARRAY = range(19, 23)
"""The codes. They stay: data that were stored years ago have them."""

MARKS = {"DELETE": DELETE, "MISSING": MISSING, "...": Ellipsis, "NotImplemented": NotImplemented}
MARK_NAMES = {id(mark): name for name, mark in MARKS.items()}
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


def of_time(it: Any) -> Any:
    return it.hour, it.minute, it.second, it.microsecond, it.fold, it.tzinfo


def of_zone(it: Any) -> Any:
    return it.__getinitargs__()


def of_array(it: Any) -> Any:
    """(dtype, shape, order, bytes); what lies scattered is copied together once."""
    import numpy

    if it.dtype.hasobject:
        return MISSING
    order = "F" if it.flags.f_contiguous and not it.flags.c_contiguous else "C"
    # No copy, if the data lie in one piece.
    flat = numpy.ascontiguousarray(it.T if order == "F" else it).reshape(-1)
    content: Any = flat.view(numpy.uint8)
    return it.dtype, it.shape, order, memoryview(content)


def of_dtype(it: Any) -> Any:
    from numpy.lib import format

    if it.hasobject or it.metadata is not None:
        return MISSING
    described = format.dtype_to_descr(it)
    return described if format.descr_to_dtype(described) == it else MISSING


BY_NAME: dict[tuple[str, str], tuple[int, Writer]] = {
    ("datetime", "date"): (DATE, lambda it: (it.year, it.month, it.day)),
    ("datetime", "datetime"): (DATETIME, lambda it: (it.year, it.month, it.day, *of_time(it))),
    ("datetime", "time"): (TIME, of_time),
    ("datetime", "timedelta"): (DELTA, lambda it: (it.days, it.seconds, it.microseconds)),
    ("datetime", "timezone"): (ZONE, of_zone),
    ("zoneinfo", "ZoneInfo"): (ZONE_INFO, lambda it: it.key),
    ("decimal", "Decimal"): (DECIMAL, str),
    ("fractions", "Fraction"): (FRACTION, lambda it: (it.numerator, it.denominator)),
    ("uuid", "UUID"): (UUID, lambda it: it.bytes),
    **{
        (module, name): (PATH, lambda it: (type(it).__name__, str(it)))
        for module in ("pathlib", "pathlib._local")  # where 3.13 keeps them
        for name in PATHS
    },
    ("builtins", "range"): (RANGE, lambda it: (it.start, it.stop, it.step)),
    ("numpy", "ndarray"): (ARRAY, of_array),
    ("theus._types", "StateUpdate"): (UPDATE, lambda it: tuple(it._fields().values())),
    ("theus._types", "SET"): (EXACT, lambda it: it.value),
}

KNOWN: dict[type, tuple[int, Writer] | None] = {}
"""What has been found out about exact types; None: nothing fits but pickle."""


def writer_of(kind: type) -> tuple[int, Writer] | None:
    """How values of a class are written, found out once for each class."""
    named_so = (kind.__module__, kind.__qualname__)
    if named_so in BY_NAME and name_of(kind) == named_so:
        return BY_NAME[named_so]
    if issubclass(kind, enum.Enum):
        return ENUM, of_member
    if issubclass(kind, BaseException):
        return (EXCEPTION, of_exception) if rebuilt_from_args(kind) else None
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void):
        return SCALAR, lambda it: (it.dtype, it.tobytes())
    if numpy is not None and issubclass(kind, numpy.dtype):
        return DTYPE, of_dtype
    return None


def of_member(it: Any) -> Any:
    """By name; but combined flags are no members."""
    kind = type(it)
    return (*named(kind), it.name) if it.name in kind.__members__ else MISSING


def rebuilt_from_args(kind: type) -> bool:
    """Whether pickle would call the class with `args` and restore the attributes, no more."""
    return all(
        getattr(kind, name) is getattr(BaseException, name)
        for name in ("__reduce__", "__reduce_ex__", "__setstate__")
    )


def of_exception(it: BaseException) -> Any:
    name = name_of(type(it))
    return MISSING if name is None else (*name, it.args, dict(it.__dict__))


def extend(held: Held, pickled: bool, it: Any) -> tuple[int, Any]:
    """What `encode` asks for each part that it does not cover: (code, value)."""
    kind = type(it)
    if kind not in KNOWN:
        # A class that was made by hand and is dropped again must not stay for our sake.
        if name_of(kind) is None:
            return extend_other(held, pickled, it)
        KNOWN[kind] = writer_of(kind)
    known = KNOWN[kind]
    if known is not None:
        content = known[1](it)
        if content is not MISSING:
            return known[0], content
    return extend_other(held, pickled, it)


def extend_other(held: Held, pickled: bool, it: Any) -> tuple[int, Any]:
    mark = MARK_NAMES.get(id(it))
    if mark is not None:
        return MARK, mark
    if type(it).__module__ == "theus.shm_array" and type(it).__name__ == "ShmArray":
        rebuild, args, *_ = it.__reduce_ex__(5)
        if rebuild is array_view.array_arriving:
            held.append(it)
            return SHARED_ARRAY, args
        import numpy

        it = it.view(numpy.ndarray)
        return ARRAY, of_array(it)
    if type(it) is ArrayView:
        rebuild, args = array_view.reduced(it)
        if rebuild is array_view.array_arriving:
            held.append(it)
            return SHARED_ARRAY, args
        data, shape, dtype = args
        return ARRAY, (dtype, shape, "C", data)
    if not pickled:
        raise SendError(
            f"{_shown(it)}, a {type(it).__module__}.{type(it).__qualname__},",
            "only pickle could write it",
            "turn it into plain values first",
        )
    if isinstance(it, type) or hasattr(it, "__code__"):
        name = name_of(it)
        if name is not None:
            return GLOBAL, name
    parts = pickled_parts(it)
    if ARRIVING in parts[0]:  # a shared array within it, or a text that says so: no harm in that
        held.append(it)
    return PICKLE, parts


def seen(look: Callable[..., object], held: Held, it: Any) -> tuple[int, Any]:
    """`extend` of a part that is looked at first, and once more if arrays are pickled in it."""
    look(it)
    before = len(held)
    code, value = extend(held, True, it)
    if code == PICKLE and len(held) > before:
        look(it, with_arrays=True)
    return code, value


def pickled_parts(it: Any) -> tuple[Any, ...]:
    """The pickle, and what it has left out: buffers, which may go out of band."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = pickle.dumps(it, 5, buffer_callback=buffers.append)
        return (stream, *(buffer.raw() for buffer in buffers))
    except RecursionError:
        raise
    except Exception as error:  # __reduce__ and __getstate__ of anybody
        raise SendError(
            _shown(it),
            f"pickle refuses it ({type(error).__name__}: {error})",
            "send plain values, or what it was made from",
        ) from error


# ---- and back ---------------------------------------------------------------------------


def date_of(name: str, args: Any) -> Any:
    import datetime

    return getattr(datetime, name)(*args)


def time_of(name: str, args: Any) -> Any:
    import datetime

    *numbers, fold, zone = args
    return getattr(datetime, name)(*numbers, zone, fold=fold)


def zone_info_of(key: Any) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(key)


def decimal_of(text: Any) -> Any:
    from decimal import Decimal

    return Decimal(text)


def fraction_of(parts: Any) -> Any:
    from fractions import Fraction

    if [type(part) for part in parts] != [int, int]:  # of a text it would compute powers
        raise CodecError("a fraction is not described by two numbers")
    return Fraction(*parts)


def uuid_of(content: Any) -> Any:
    from uuid import UUID

    return UUID(bytes=content)


def path_of(parts: Any) -> Any:
    import pathlib

    name, text = parts
    if name not in PATHS:
        raise CodecError(f"{name!r} is no class of paths")
    return getattr(pathlib, name)(text)


def array_of(parts: Any) -> Any:
    dtype, shape, order, data = parts
    numpy = array_view.numpy_here()
    if numpy is None:
        return array_view.array_of_data(data, shape, dtype, order)
    if isinstance(dtype, str):  # from where there is no NumPy
        dtype = numpy.dtype(dtype)
    if not isinstance(dtype, numpy.dtype) or dtype.hasobject:
        raise CodecError("the elements of an array are not described")
    if 0 in shape:
        return numpy.empty(shape, dtype, order)
    return numpy.ndarray(shape, dtype, data, 0, None, order)


def scalar_of(parts: Any) -> Any:
    dtype, content = parts
    numpy = array_view.numpy_here()
    if numpy is None:
        return array_view.array_of_data(content, (), dtype)[()]
    if not isinstance(dtype, numpy.dtype) or dtype.hasobject or dtype.names is not None:
        raise CodecError("a scalar of NumPy is not described")
    return numpy.ndarray((), dtype, content)[()]


def dtype_of(described: Any) -> Any:
    if array_view.numpy_here() is None:
        if not isinstance(described, str):
            raise CodecError("a structured dtype needs NumPy, which cannot load here")
        return described
    from numpy.lib import format

    return format.descr_to_dtype(described)


def shared_array_of(args: Any) -> Any:
    return array_view.array_arriving(*args)


def enum_of(parts: Any, load: bool) -> Any:
    module, qualified, name = parts
    kind = find((module, qualified), load)
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        raise CodecError(f"{module}.{qualified} is no enum")
    return kind[name]


def exception_of(parts: Any, load: bool) -> Any:
    module, qualified, args, attributes = parts
    kind = find((module, qualified), load)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise CodecError(f"{module}.{qualified} is no exception")
    if type(args) is not tuple or type(attributes) is not dict:
        raise CodecError("an exception is not described")
    error = kind(*args)
    error.__dict__.update(attributes)
    return error


def unpickled(parts: Any) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])


Reader = Callable[[Any], Any]

CONTENT: dict[int, type] = {
    ZONE_INFO: str,
    DECIMAL: str,
    UUID: bytes,
    MARK: str,
    EXACT: object,
    DTYPE: object,
}
"""What stands for an instance; a tuple where nothing is said. It is checked before anything is done
with it: a forged range of some bytes would be a tuple of all of the memory."""

SAFE: dict[int, Reader] = {
    DATE: partial(date_of, "date"),
    DATETIME: partial(time_of, "datetime"),
    TIME: partial(time_of, "time"),
    DELTA: partial(date_of, "timedelta"),
    ZONE: partial(date_of, "timezone"),
    ZONE_INFO: zone_info_of,
    DECIMAL: decimal_of,
    FRACTION: fraction_of,
    UUID: uuid_of,
    PATH: path_of,
    RANGE: lambda parts: range(*parts),
    MARK: MARKS.__getitem__,
    UPDATE: lambda fields: StateUpdate(*fields),
    EXACT: SET,
    ARRAY: array_of,
    SCALAR: scalar_of,
    DTYPE: dtype_of,
    SHARED_ARRAY: shared_array_of,
    ENUM: partial(enum_of, load=False),
    EXCEPTION: partial(exception_of, load=False),
}

ANY = SAFE | {
    ENUM: partial(enum_of, load=True),
    EXCEPTION: partial(exception_of, load=True),
    GLOBAL: partial(find, load=True),
    PICKLE: unpickled,
}


def restore_safe(code: int, content: Any) -> Any:
    if code in (PICKLE, GLOBAL):
        raise CodecError("there is pickle in the data, and it was not asked for")
    return restored(SAFE, code, content)


def restore_any(code: int, content: Any) -> Any:
    return restored(ANY, code, content)


def restored(readers: dict[int, Reader], code: int, content: Any) -> Any:
    reader = readers.get(code)
    if reader is None:
        raise CodecError(f"no class has the code {code}")
    if not isinstance(content, CONTENT.get(code, tuple)):
        raise CodecError(
            f"the content of a part with the code {code} is a {type(content).__name__}"
        )
    return reader(content)
