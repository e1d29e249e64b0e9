"""What rounding alone explains: how far a tensor may be off before something else must be the reason.

Rounding is measured, not assumed: a tensor is computed again in float64, and again from inputs that were
moved by one unit in the last place. The larger of the two changes, element by element, is one draw from the
rounding to be expected; a single draw may be small by chance, so that no element's floor is lower than the
root mean square over its row (the last axis), nor than half a unit in the last place of the value itself.
"""

from __future__ import annotations

import numpy as np

from porting.difference import distance

# How many times its floor a difference may be. The floor is the port's own rounding; in float32 the original,
# which sums in another order, rounds as much again. Right ports stay about half of that: see docs/noise.md.
TIMES = 32.0
NARROW_TIMES = 4.0


# Relative rounding units: the distance from 1 to the next number of the dtype.
UNITS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def times_for(unit: float) -> float:
    """How many floors a difference may be, by the port's rounding unit.

    In bfloat16 and float16 the port's rounding is all there is, beside the original's in float32.
    """
    return TIMES if unit <= UNITS["float32"] else NARROW_TIMES


def floor_of(
    changes: list[np.ndarray],
    value: np.ndarray,
    unit: float,
    hidden_below: float | None = None,
    meaningful: np.ndarray | None = None,
) -> np.ndarray:
    """The rounding to be expected of each element, of the value's shape; float32 unless a value is wider.

    Args:
        changes: |value - value computed otherwise|, one array for each other way.
        value: the tensor as it should be.
        unit: the relative rounding unit of what it is computed in (`torch.finfo(dtype).eps`).
        hidden_below: values at or below this are masks: nothing is expected of them.
        meaningful: as in `distance`: nothing is expected elsewhere.
    """
    dtype = np.result_type(value, np.float32, *changes)
    floor = np.asarray(np.multiply(np.abs(value), unit / 2, dtype=dtype))
    counted = None  # all elements, as a rule
    if hidden_below is not None or meaningful is not None or not np.isfinite(floor.max(initial=0.0)):
        counted = np.isfinite(value)
        if hidden_below is not None:
            counted &= value > hidden_below
        if meaningful is not None:
            counted &= meaningful
    for change in changes:
        plain = np.isfinite(change.max(initial=0.0))
        np.maximum(floor, change if plain else np.where(np.isfinite(change), change, 0.0), out=floor)
    if counted is not None:
        floor[~counted] = 0.0
    if floor.ndim == 0:
        return floor
    width = floor.shape[-1] if counted is None else counted.sum(axis=-1, keepdims=True)
    squares = np.einsum("...i,...i->...", floor, floor)[..., None]
    np.maximum(floor, np.sqrt(squares / np.maximum(width, 1)).astype(dtype), out=floor)
    return floor


def times_the_floor(
    expected: np.ndarray,
    value: np.ndarray,
    floor: np.ndarray,
    hidden_below: float | None = None,
    meaningful: np.ndarray | None = None,
) -> float:
    """The largest ratio of difference to floor; infinite where there is a difference and no floor."""
    apart = distance(expected, value, hidden_below, meaningful)
    if not apart.size:
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.divide(apart, floor, out=np.zeros_like(apart), where=apart != 0)
    return float(ratio.max())
