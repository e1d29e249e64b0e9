"""A small window of values around one element, along each axis in turn, both sides beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from porting.findings import finite

_BEFORE = _BEHIND = 3


def window_of(
    expected: np.ndarray,
    value: np.ndarray,
    dims: Sequence[str],
    index: Sequence[int],
    meaningful: np.ndarray | None = None,
) -> dict[str, Any]:
    """What stands at `index` and next to it.

    Args:
        expected, value: the original's tensor and the port's, of one shape.
        dims: names of the axes.
        index: an element.
        meaningful: which elements are compared, bool of the same shape; None: all.

    Returns:
        `index`, `reference` and `port` (the values there), and `along`: for each axis of more than one index
        its `dim`, `start` (the first index shown), and the values of both sides from there on, all other
        indices as in `index`. null is a value that is no number. Where some elements are not compared, a
        strip has `left_out` too, true for these, whose values are null.
    """
    strips = []
    for axis, dim in enumerate(dims):
        if expected.shape[axis] < 2:
            continue
        start = max(0, index[axis] - _BEFORE)
        where = tuple(
            slice(start, index[axis] + _BEHIND + 1) if other == axis else i for other, i in enumerate(index)
        )
        shown = np.ones_like(expected[where], bool) if meaningful is None else meaningful[where]
        strip: dict[str, Any] = {"dim": dim, "start": start}
        for side, array in (("reference", expected), ("port", value)):
            pairs = zip(array[where], shown, strict=True)
            strip[side] = [finite(float(number)) if here else None for number, here in pairs]
        if not shown.all():
            strip["left_out"] = [not here for here in shown.tolist()]
        strips.append(strip)
    return {
        "index": [int(i) for i in index],
        "reference": finite(float(expected[tuple(index)])),
        "port": finite(float(value[tuple(index)])),
        "along": strips,
    }
