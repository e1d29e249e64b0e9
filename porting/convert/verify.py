"""What was written, taken back through the inverse of every op, against what the source holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from porting.convert.blocks import same_bits
from porting.convert.dtypes import cast
from porting.mapping import PlanEntry, Shape
from porting.ops import Op, Part, Slice, Split, joined_shape, output_shape

Array = npt.NDArray[Any]


def holds_its_sources(entry: PlanEntry, read: Callable[[str], Array], written: Array) -> bool:
    """Whether `written` is what `entry` makes of its sources, bit for bit.

    Args:
        entry: says which ops made it; each is undone here, the last one first.
        read: values of a source by name.
        written: the values as they are on disk. Where they are of another dtype, what is compared with is
            the source in that dtype.
    """
    joined = _undone(written, entry.finish, _joined_shape(entry))
    taken = 0
    for name in entry.sources:
        source, ops = _selected(read(name), entry.ops)
        part, length = joined, output_shape(ops, source.shape)[entry.join_axis] if joined.ndim else 0
        if len(entry.sources) > 1:
            part = joined[(slice(None),) * entry.join_axis + (slice(taken, taken + length),)]
            taken += length
        part = _undone(part, ops, source.shape)
        if not same_bits(part, cast(source, written.dtype, entry.target)):
            return False
    return len(entry.sources) == 1 or taken == joined.shape[entry.join_axis]


def _undone(array: Array, ops: Sequence[Op], before: Shape) -> Array:
    """What `ops` were applied to, which had the shape `before`."""
    shapes = [before]
    for op in ops[:-1]:
        shapes.append(op.output_shape(shapes[-1]))
    for op, shape in zip(reversed(ops), reversed(shapes), strict=False):
        array = op.inverse(shape).apply(array)
    return array


def _joined_shape(entry: PlanEntry) -> Shape:
    """Shape of the joined sources."""
    return joined_shape([output_shape(entry.ops, shape) for shape in entry.source_shapes], entry.join_axis)


def _selected(source: Array, ops: Sequence[Op]) -> tuple[Array, Sequence[Op]]:
    """What of the source goes into the parameter, and the ops that follow: a part of it has no inverse."""
    last = max((i for i, op in enumerate(ops) if isinstance(op, (Part, Split, Slice))), default=-1)
    for op in ops[: last + 1]:
        source = op.apply(source)
    return np.asarray(source), ops[last + 1 :]
