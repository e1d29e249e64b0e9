"""Copying and comparing tensors in blocks that fit a processor's cache.

NumPy walks a transposed matrix along one of its two sides, whichever it takes: of large ones, every step on
the other side misses the cache, the more so where the width is a power of two. These do the same work in
tiles.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

STRIP_BYTES = 4 << 20
"""What is in hand at a time of a tensor that is written or compared."""

KEPT_BYTES = 32 << 20
"""The largest array that a thread keeps for its next tensor."""

_TILE_ROWS, _TILE_COLUMNS = 256, 256
# Odd rows in the scratch tile, so that a column of it does not fall on one place of the cache.
_PADDING = 16


_local = threading.local()


def scratch(use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array to write into, which this thread gets again when it next asks for the same use.

    Fresh memory is cleared by the system, page by page, when it is first touched: of arrays of some megabytes
    that takes as long as filling them.

    Args:
        use: what for; never ask for one whose array is still in use.
        shape, dtype: of the array. Of more than `KEPT_BYTES` it is a new one each time, and nobody keeps it.
    """
    held: dict[str, Array] = _local.__dict__
    nbytes = prod(shape) * dtype.itemsize
    if nbytes > KEPT_BYTES:
        return np.empty(shape, dtype)
    if use not in held or len(held[use]) < nbytes:
        held[use] = np.empty(nbytes, np.uint8)
    return held[use][:nbytes].view(dtype).reshape(shape)


def strips(array: Array) -> Iterator[slice]:
    """Ranges of the first axis, each of about `STRIP_BYTES`. A scalar has none."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    # A strip of a transposed matrix is made from pieces of rows as long as the strip is high.
    rows = max(_TILE_ROWS, STRIP_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield slice(start, min(len(array), start + rows))


def copy_into(target: Array, values: Array) -> None:
    """`target[...] = values`, of one shape and dtype.

    Args:
        target: contiguous in row-major order.
        values: with any strides.
    """
    if values.ndim == 2 and not values.flags.c_contiguous and values.T.strides[1] == values.itemsize:
        _transpose_into(target, values.T)
    else:
        np.copyto(target, values)


def _transpose_into(target: Array, matrix: Array) -> None:
    """target[i, j] = matrix[j, i]."""
    rows, columns = target.shape
    padded = scratch("tile", (_TILE_COLUMNS, _TILE_ROWS + _PADDING), target.dtype)
    for top in range(0, rows, _TILE_ROWS):
        bottom = min(rows, top + _TILE_ROWS)
        for left in range(0, columns, _TILE_COLUMNS):
            right = min(columns, left + _TILE_COLUMNS)
            tile = padded[: right - left, : bottom - top]
            np.copyto(tile, matrix[left:right, top:bottom])
            target[top:bottom, left:right] = tile.T


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same bits: NaNs are what they are, and -0.0 is not 0.0.

    Args:
        one: with any strides.
        other: of the same dtype; with any strides.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = np.atleast_1d(one), np.atleast_1d(other)
    return all(
        same_bytes(row_major(one[part], "one strip"), row_major(other[part], "another"))
        for part in strips(one)
    )


def same_bytes(one: Bytes, other: Bytes) -> bool:
    """Whether two arrays of bytes, contiguous and of one length, are equal."""
    whole = len(one) // 8 * 8
    words, others = one[:whole].view(np.uint64), other[:whole].view(np.uint64)
    differ = np.not_equal(words, others, out=scratch("differing", words.shape, np.dtype(bool)))
    return not differ.any() and bool(np.array_equal(one[whole:], other[whole:]))


def row_major(array: Array, use: str) -> Bytes:
    """The bytes of an array in row-major order: its own, or, of other strides, a copy in `scratch(use)`."""
    if not array.flags.c_contiguous:
        copy = scratch(use, array.shape, array.dtype)
        copy_into(copy, array)
        array = copy
    return array.reshape(-1).view(np.uint8)
