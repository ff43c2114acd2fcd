"""Arithmetic over arrays of numbers where NumPy cannot load: in interpreters, for instance.

    from theus import kernels

    total = kernels.sum(view)                  # an ArrayView, or any other buffer of numbers
    mine = view.cow()
    kernels.scale(mine, 0.5, mine)             # into memory that can be written

Operands are ArrayViews, array.arrays, memoryviews, ndarrays: any shape, any strides, elements of 8
to 64 bits, float32, float64, complex64, complex128 or bool, all of one call of the same kind. In
the place of the second one may stand a number. Results go to `out`, which is returned: an array of
the shape and kind of the result, or one piece of memory of its size (a bytearray, an array.array),
which is filled row by row. `out` may be an input, but not overlap one otherwise.

Integers wrap around in elementwise results, as in NumPy; sums and dot products of integers are
exact, whatever their size. Floats are summed up pairwise, in double: the error grows with the
logarithm of their number (Higham 1993). NaN is the least and the greatest where there is one.

Kernels let other threads run. All raise TypeError for elements that they cannot do, ValueError for
shapes or kinds that do not fit, OverflowError for a number that does not fit, BufferError for an
`out` that is read-only.
"""

from __future__ import annotations

from typing import Any, Literal

from theus._theus import (
    kernel_dot,
    kernel_elementwise,
    kernel_extreme,
    kernel_gather,
    kernel_sum,
)

__all__ = ["add", "axpy", "compare", "copy", "dot", "fill", "gather", "max", "min", "scale", "sum"]


def fill(out: Any, number: complex) -> Any:
    """Writes the number to every element of `out`."""
    if not isinstance(number, (int, float, complex)):
        raise TypeError(f"fill() writes a number, not a {type(number).__name__}; see copy()")
    return kernel_elementwise("copy", out, number)


def copy(a: Any, out: Any) -> Any:
    """Copies the elements of a."""
    return kernel_elementwise("copy", out, memoryview(a))


def add(a: Any, b: Any, out: Any) -> Any:
    """out = a + b; of bools: whether one of them is true."""
    return kernel_elementwise("add", out, a, b)


def scale(a: Any, b: Any, out: Any) -> Any:
    """out = a * b, element by element; `b` may be a number. Not of bools."""
    return kernel_elementwise("scale", out, a, b)


def axpy(factor: Any, x: Any, y: Any) -> Any:
    """y = y + factor * x, in the place of y. Not of bools."""
    return kernel_elementwise("axpy", y, x, factor)


def compare(a: Any, operation: Literal["<", "<=", "==", "!=", ">=", ">"], b: Any, out: Any) -> Any:
    """out = whether a is less than b, and so on, as bools. Complex numbers have no order."""
    if operation not in ("<", "<=", "==", "!=", ">=", ">"):
        raise ValueError(f"compare() knows < <= == != >= >, not {operation!r}")
    return kernel_elementwise(operation, out, a, b)


def sum(a: Any) -> Any:
    """The sum of all elements: an int, a float or a complex. Of none: 0."""
    return kernel_sum(a)


def dot(a: Any, b: Any) -> Any:
    """The sum of a * b over all elements, none of them conjugated. Not of bools.

    Raises OverflowError beyond 128 bits.
    """
    return kernel_dot(a, b)


def min(a: Any) -> Any:
    """The least element. ValueError if there is none."""
    return kernel_extreme(a, False)


def max(a: Any) -> Any:
    """The greatest element. ValueError if there is none."""
    return kernel_extreme(a, True)


def gather(a: Any, indices: Any, out: Any) -> Any:
    """out[i] = a[indices[i]]: `a` has one axis, `indices` any shape, which is that of `out`.

    Negative indices count from the end. IndexError for one that is not in a; then `out` is written
    in part.
    """
    return kernel_gather(out, a, indices)
