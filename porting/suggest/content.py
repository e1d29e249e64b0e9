"""Which tensors hold the same values: sketches first, so that few are read twice, then every value.

A sketch does not change when a tensor is transposed or reshaped: size, smallest, largest, and the sums of
values and squares. Tensors whose sketches agree are compared whole, op by op.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from porting.suggest.items import Item
from porting.suggest.shapes import Way
from porting.suggest.sides import as_float

# Sums depend on the order in which they are made, and narrow dtypes round each value.
_SUMS = 1e-5
_ROUNDING = {"bfloat16": 2.0**-8, "BF16": 2.0**-8, "float16": 2.0**-11, "F16": 2.0**-11}


@dataclass(frozen=True)
class Sketch:
    """What is left of a tensor: figures [smallest, largest, sum, sum of magnitudes, sum of squares]."""

    size: int
    figures: npt.NDArray[np.float64]

    @property
    def tells(self) -> bool:
        """Whether the values tell anything: zeros or ones are the same in many tensors."""
        return self.size > 1 and bool(self.figures[0] != self.figures[1])


@dataclass(frozen=True)
class Same:
    """Two tensors with the same values.

    Attributes:
        way: the ops that make one of the other.
        exact: bit for bit; else as far as the narrower dtype goes.
    """

    way: Way
    exact: bool


def sketch(item: Item) -> Sketch:
    """Read an item's values once, one tensor at a time."""
    smallest, largest, size = np.inf, -np.inf, 0
    sums = np.zeros(3)
    for array in item.arrays():
        values = as_float(array).astype(np.float64).ravel()
        if values.size:
            smallest, largest = min(smallest, values.min()), max(largest, values.max())
            sums += (values.sum(), np.abs(values).sum(), (values**2).sum())
        size += values.size
    return Sketch(size, np.array([smallest, largest, *sums]))


class Contents:
    """Which of the variables hold what which of the parameters hold.

    Args:
        sources, targets: items with values; those of a size that the other side does not have are not read.
    """

    def __init__(self, sources: list[Item], targets: list[Item]) -> None:
        sizes = {item.size for item in sources} & {item.size for item in targets}
        self._sketches = {id(item): sketch(item) for item in (*sources, *targets) if item.size in sizes}
        by_size: dict[int, list[Item]] = defaultdict(list)
        for target in targets:
            by_size[target.size].append(target)
        self.same: dict[tuple[str, str], Same] = {}
        for source in sources:
            for target in by_size[source.size]:
                found = self._same(source, target)
                if found:
                    self.same[source.name, target.name] = found

    def tells(self, item: Item) -> bool:
        """Whether an item's values are telling."""
        found = self._sketches.get(id(item))
        return found is not None and found.tells

    @property
    def related(self) -> bool:
        """Whether the two sides have anything telling in common: else they are of different models."""
        return bool(self.same)

    def _same(self, source: Item, target: Item) -> Same | None:
        ours, theirs = self._sketches[id(source)], self._sketches[id(target)]
        if not (ours.tells and theirs.tells):
            return None
        rounding = abs(_rounding(source) - _rounding(target))
        scale = np.array([*np.abs(ours.figures[:2]), *[ours.figures[3]] * 2, ours.figures[4]])
        tolerance = np.array([rounding, rounding, *[_SUMS + 2 * rounding] * 3]) * scale
        if not (np.abs(ours.figures - theirs.figures) <= tolerance).all():
            return None
        expected = None
        for way in source.ways_to(target):
            made = source.made(target, way)
            if expected is None:
                expected = [as_float(array) for array in target.arrays()]
            if len(made) != len(expected) or any(
                m.shape != e.shape for m, e in zip(made, expected, strict=True)
            ):
                continue
            if all(np.array_equal(m, e) for m, e in zip(made, expected, strict=True)):
                return Same(way, exact=True)
            if rounding and all(
                np.allclose(m, e, rtol=rounding, atol=rounding * 1e-6)
                for m, e in zip(made, expected, strict=True)
            ):
                return Same(way, exact=False)
        return None


def _rounding(item: Item) -> float:
    return max((_ROUNDING.get(dtype, 0.0) for dtype in item.dtypes), default=0.0)
