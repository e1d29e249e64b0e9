"""How far one tensor is from another: axes aligned by name, then element by element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


def align(
    dims: Sequence[str], shape: tuple[int, ...], found_dims: Sequence[str], value: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """`value` with its axes in the order of `dims`, by name. Axes of size one may be absent on either side.

    Returns:
        The array of the given shape and "", or None and what does not fit, in words.
    """
    found_dims = tuple(found_dims)
    for axis in reversed(range(len(found_dims))):
        if found_dims[axis] not in dims and value.shape[axis] == 1:
            value = value.squeeze(axis)
            found_dims = found_dims[:axis] + found_dims[axis + 1 :]
    for axis, name in enumerate(dims):
        if name not in found_dims and shape[axis] == 1:
            value = value[..., None]
            found_dims = (*found_dims, name)
    if sorted(dims) != sorted(found_dims):
        return None, f"dimensions {' '.join(dims)} against {' '.join(found_dims)}"
    aligned = value.transpose([found_dims.index(name) for name in dims])
    if aligned.shape != shape:
        return None, f"shape {list(shape)} ({' '.join(dims)}) against {list(aligned.shape)}"
    return aligned, ""


@dataclass(frozen=True)
class Difference:
    """Two tensors' largest and mean absolute difference, and where the largest is.

    Attributes:
        largest, mean: of |expected - value|.
        relative: the largest, relative to the largest magnitude expected.
        index: where the largest is; empty for a scalar.
        reference, port: the values there.
    """

    largest: float = math.inf
    mean: float = math.inf
    relative: float = math.inf
    index: tuple[int, ...] = ()
    reference: float = math.nan
    port: float = math.nan


def distance(
    expected: np.ndarray,
    value: np.ndarray,
    hidden_below: float | None = None,
    meaningful: np.ndarray | None = None,
) -> np.ndarray:
    """|expected - value| element by element, in the wider of the two dtypes, at least float32.

    Infinite where one side alone is not a number, or infinite.

    Args:
        expected, value: of one shape.
        hidden_below: values at or below this are attention masks. Two hidden positions are equal, one hidden
            position is infinitely far: hidden scores lie around -1e9, where neighbouring float32 numbers are
            64 apart, so that their exact values mean nothing, and the softmax makes zero of them.
        meaningful: bool, of the same number of axes, 1 where it is for all of them: elsewhere nothing is
            compared, and the distance is 0. None: everywhere.
    """
    dtype = np.result_type(expected, value, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.asarray(np.subtract(expected, value, dtype=dtype))
        np.abs(apart, out=apart)
    if not np.isfinite(apart.max(initial=0.0)):
        apart[np.asarray(expected == value)] = 0.0  # two infinities of one sign
        apart[np.isnan(apart)] = np.inf
    if hidden_below is not None:
        hidden, hidden_in_port = expected <= hidden_below, value <= hidden_below
        apart[hidden & hidden_in_port] = 0.0
        apart[hidden != hidden_in_port] = np.inf
    if meaningful is not None:
        apart[np.broadcast_to(~meaningful, apart.shape)] = 0.0
    return apart


def difference_of(
    expected: np.ndarray,
    value: np.ndarray,
    hidden_below: float | None = None,
    meaningful: np.ndarray | None = None,
) -> Difference:
    """The difference of two tensors of one shape, where they mean anything; see `distance`."""
    if meaningful is not None:
        return _masked(expected, value, hidden_below, np.broadcast_to(meaningful, expected.shape))
    if expected.size == 0:
        return Difference(0.0, 0.0, 0.0)
    apart = distance(np.asarray(expected, np.float64), value, hidden_below)
    magnitudes = np.abs(expected)
    if hidden_below is not None:
        magnitudes = magnitudes[np.asarray(expected) > hidden_below]
    index = tuple(int(i) for i in np.unravel_index(int(apart.argmax()), apart.shape))
    largest = float(apart[index])
    scale = float(magnitudes.max()) if magnitudes.size else 0.0
    return Difference(
        largest=largest,
        mean=float(apart.mean()),
        relative=largest / scale if scale > 0 else (0.0 if largest == 0 else math.inf),
        index=index,
        reference=float(expected[index]),
        port=float(value[index]),
    )


def _masked(
    expected: np.ndarray, value: np.ndarray, hidden_below: float | None, meaningful: np.ndarray
) -> Difference:
    """Of the elements that mean anything, in a row; `index` is that in the whole tensor."""
    places = np.flatnonzero(meaningful)
    found = difference_of(np.asarray(expected)[meaningful], np.asarray(value)[meaningful], hidden_below)
    if not found.index:  # nothing means anything
        return found
    index = np.unravel_index(places[found.index[0]], expected.shape)
    return replace(found, index=tuple(int(i) for i in index))
