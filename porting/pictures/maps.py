"""Heat maps: the largest difference over two axes at a time, and over relative-position buckets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from porting.pictures.roles import (
    BATCH,
    FEATURE,
    HEAD,
    POSITION,
    queries_and_memory,
    role,
    with_role,
)

MOST_CELLS = 64  # along one side of a map
_MOST_MAPS = 4


def maps_of(apart: np.ndarray, dims: Sequence[str]) -> list[dict[str, Any]]:
    """Maps of the largest difference, over position x head and position x feature first.

    Args:
        apart: absolute differences, infinite where one side is no number; one axis for each of `dims`.
        dims: names of the axes; they decide which maps are made.

    Returns:
        For each map `rows`, `columns` (names of dimensions), `row_count`, `column_count` (their sizes),
        `row_step`, `column_step` (how many indices one cell stands for), `over` (the dimensions whose largest
        difference a cell shows) and `values`, a list of rows; null is a difference that is no number.
    """
    if not apart.size:
        return []
    return [_map(apart, dims, *axes) for axes in _pairs(apart.shape, dims)[:_MOST_MAPS]]


def _pairs(shape: tuple[int, ...], dims: Sequence[str]) -> list[tuple[int, int]]:
    """Which axes go into rows and columns."""
    positions, heads = with_role(dims, POSITION), with_role(dims, HEAD)
    features, batches = with_role(dims, FEATURE), with_role(dims, BATCH)
    attention = queries_and_memory(dims)
    if attention:
        positions = list(attention)
    pairs = [(positions[0], other) for other in (*heads, *features) if positions]
    if attention:
        pairs.append(attention)
    if positions:
        pairs += [(batch, positions[0]) for batch in batches if shape[batch] > 1]
    if not pairs:  # no positions, or nothing beside them
        largest = sorted(range(len(shape)), key=lambda axis: -shape[axis])[:2]
        pairs = [(min(largest), max(largest))] if len(largest) == 2 else [(0, 0)] if shape else []
    return pairs


def _map(apart: np.ndarray, dims: Sequence[str], row: int, column: int) -> dict[str, Any]:
    others = tuple(axis for axis in range(apart.ndim) if axis not in (row, column))
    table = apart.max(axis=others)
    if row == column:  # the only axis there is, as one row
        table = table[None, :]
    elif row > column:
        table = table.T
    row_step, column_step = (math.ceil(size / MOST_CELLS) for size in table.shape)
    pooled = np.maximum.reduceat(table, np.arange(0, table.shape[0], row_step), axis=0)
    pooled = np.maximum.reduceat(pooled, np.arange(0, table.shape[1], column_step), axis=1)
    return {
        "rows": "" if row == column else dims[row],
        "columns": dims[column],
        "row_count": table.shape[0],
        "column_count": table.shape[1],
        "row_step": row_step,
        "column_step": column_step,
        "over": [dims[axis] for axis in others],
        "values": [[rounded(value) for value in line] for line in pooled],
    }


def bucket_map(apart: np.ndarray, dims: Sequence[str], buckets: np.ndarray) -> dict[str, Any] | None:
    """The largest difference for each head and relative-position bucket, from far behind to far ahead.

    Args:
        apart: as in `maps_of`; two of its axes are positions.
        dims: names of the axes.
        buckets: int [queries, memory], the bucket of each pair of positions.

    Returns:
        `heads` (name of the dimension, or null), `buckets` (for each: its `number`, the least and greatest
        offset, memory position - query position, that falls into it, and how many pairs do) and `values`, a
        row for each head. None where the axes are not those of the buckets.
    """
    attention = queries_and_memory(dims)
    if attention is None or buckets.shape != tuple(apart.shape[axis] for axis in attention):
        return None
    heads = [axis for axis, dim in enumerate(dims) if role(dim) == HEAD][:1]
    kept = (*heads, *attention)
    table = apart.max(axis=tuple(axis for axis in range(apart.ndim) if axis not in kept))
    order = sorted(kept)
    table = table.transpose([order.index(axis) for axis in kept])
    table = table.reshape(-1, buckets.size)
    flat = buckets.ravel()
    offsets = (np.arange(buckets.shape[1])[None, :] - np.arange(buckets.shape[0])[:, None]).ravel()
    found = []
    for number in np.unique(flat):
        inside = flat == number
        values = [rounded(value) for value in table[:, inside].max(axis=1)]
        found.append((float(offsets[inside].mean()), int(number), offsets[inside], values))
    found.sort(key=lambda item: item[0])
    return {
        "heads": dims[heads[0]] if heads else None,
        "buckets": [
            {"number": number, "from": int(inside.min()), "to": int(inside.max()), "pairs": int(inside.size)}
            for _, number, inside, _ in found
        ],
        "values": [[values[head] for *_, values in found] for head in range(len(table))],
    }


def rounded(value: float) -> float | None:
    """Three digits are enough for a colour; None for what is no number."""
    return float(f"{value:.3g}") if math.isfinite(value) else None
