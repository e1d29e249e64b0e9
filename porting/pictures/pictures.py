"""The key `pictures` of a comparison's JSON: one tensor looked at closely."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from porting.difference import align, distance
from porting.pictures.maps import bucket_map, maps_of
from porting.pictures.roles import queries_and_memory
from porting.pictures.window import window_of

if TYPE_CHECKING:
    from porting.compare import Comparison
    from porting.trace import Trace

# A tap's name, how many positions look, how many are looked at -> int [queries, memory], or None.
BucketsOf = Callable[[str, int, int], "np.ndarray | None"]
FIRST_DIVERGENCE, LARGEST_DIFFERENCE = "first divergence", "largest difference"


def pictures_of(
    comparison: Comparison,
    reference: Trace,
    port: Trace,
    buckets_of: BucketsOf = lambda _name, _queries, _memory: None,
) -> dict[str, Any] | None:
    """The first tensor that diverges, or the one with the largest difference where none does.

    Args:
        comparison: of the two traces.
        reference, port: where the values are.
        buckets_of: relative-position buckets, where attention has them.

    Returns:
        None if nothing was compared, or if the two tensors cannot be laid over each other. Else

        - `tensor`, `why` ("first divergence" or "largest difference"), `dims`, `shape`;
        - `elements`, `beyond`: how many are compared, and how many of them differ by more than the
          tolerance;
        - `largest`, `first`: a window (see `window_of`) around the largest difference, and around the first
          element beyond the tolerance, counted as NumPy does; `first` is null if there is none, or if it is
          the same element;
        - `maps`: see `maps_of`; `buckets`: see `bucket_map`, or null.
    """
    row = comparison.first_divergence or comparison.worst
    theirs = next((tensor for tensor in reference.tensors if row and tensor.name == row.name), None)
    ours = next((tensor for tensor in port.tensors if row and tensor.name == row.name), None)
    if row is None or theirs is None or ours is None or not row.shape:
        return None
    expected = reference.read(theirs)
    value, _ = align(theirs.dims, expected.shape, ours.dims, port.read(ours))
    if value is None or not expected.size:
        return None
    limits = [below for below in (theirs.hidden_below, ours.hidden_below) if below is not None]
    meaningful = reference.meaningful(theirs)
    apart = distance(np.asarray(expected, np.float64), value, max(limits) if limits else None, meaningful)
    counted = None if meaningful is None else np.broadcast_to(meaningful, apart.shape)
    beyond = apart > comparison.atol
    if counted is not None and not counted.any():
        return None
    counting = apart if counted is None else np.where(counted, apart, -1.0)
    largest = np.unravel_index(int(counting.argmax()), apart.shape)
    first = np.unravel_index(int(beyond.argmax()), apart.shape) if beyond.any() else None
    return {
        "tensor": row.name,
        "why": FIRST_DIVERGENCE if comparison.first_divergence else LARGEST_DIFFERENCE,
        "dims": list(theirs.dims),
        "shape": list(expected.shape),
        "elements": int(apart.size if counted is None else counted.sum()),
        "beyond": int(beyond.sum()),
        "largest": window_of(expected, value, theirs.dims, [int(i) for i in largest], counted),
        "first": None
        if first is None or first == largest
        else window_of(expected, value, theirs.dims, [int(i) for i in first], counted),
        "maps": maps_of(apart, theirs.dims),
        "buckets": _buckets(row.name, apart, theirs.dims, buckets_of),
    }


def _buckets(
    name: str, apart: np.ndarray, dims: tuple[str, ...], buckets_of: BucketsOf
) -> dict[str, Any] | None:
    attention = queries_and_memory(dims)
    if attention is None:
        return None
    found = buckets_of(name, *(apart.shape[axis] for axis in attention))
    return None if found is None else bucket_map(apart, dims, found)
