"""What happens to a tensor between source and target: declared, invertible, and free of data until applied.

Ops are declared by a rule and never inferred from shapes: most published T5 sizes have square attention
kernels, where a wrong transpose passes every shape assert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Op(Protocol):
    """One step from source to target."""

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape after the step. Raises ValueError if `shape` cannot be stepped."""
        ...

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The step itself; a view where that is possible."""
        ...

    def inverse(self, shape: tuple[int, ...]) -> Op:
        """The op that undoes this one on a tensor that had `shape` before it."""
        ...


@dataclass(frozen=True)
class Transpose:
    """Exchange the two axes of a matrix: TensorFlow keeps [in, out], torch.nn.Linear keeps [out, in].

    Example: Transpose().output_shape((512, 384)) == (384, 512)
    """

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(rows, columns) -> (columns, rows)."""
        if len(shape) != 2:
            raise ValueError(f"transpose needs a matrix, not shape {shape}")
        return shape[::-1]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A transposed view of a [rows, columns] array."""
        self.output_shape(array.shape)
        return array.T

    def inverse(self, shape: tuple[int, ...]) -> Transpose:  # noqa: ARG002 - it is its own inverse
        """Transposing again."""
        return self

    def __str__(self) -> str:
        return "transpose"


@dataclass(frozen=True)
class Reshape:
    """Other dimensions, the same elements in the same (row-major) order. Both shapes are stated and asserted.

    Example: Reshape((512, 6, 64), (512, 384)).output_shape((512, 6, 64)) == (512, 384)
    """

    before: tuple[int, ...]
    after: tuple[int, ...]

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """`before` -> `after`."""
        if shape != self.before:
            raise ValueError(f"reshape needs {self.before}, not {shape}")
        return self.after

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The array in its new shape; a view where that is possible."""
        return array.reshape(self.output_shape(array.shape))

    def inverse(self, shape: tuple[int, ...]) -> Reshape:  # noqa: ARG002 - both shapes are stated
        """Back again."""
        return Reshape(self.after, self.before)

    def __str__(self) -> str:
        return f"reshape {list(self.before)} to {list(self.after)}"


@dataclass(frozen=True)
class Part:
    """One of `count` parts along `axis`, which goes away: one expert of [experts, in, out].

    Example: Part(3, 8).output_shape((8, 512, 384)) == (512, 384)
    Example: Part(3, 12, axis=1).output_shape((512, 12, 384)) == (512, 384)
    """

    number: int
    count: int
    axis: int = 0

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(..., count, ...) -> (...)."""
        if self.axis >= len(shape) or shape[self.axis] != self.count:
            where = f"axis {self.axis}" if self.axis else "the first axis"
            raise ValueError(f"taking apart needs {self.count} parts on {where}, not shape {shape}")
        return (*shape[: self.axis], *shape[self.axis + 1 :])

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of the part."""
        self.output_shape(array.shape)
        part: np.ndarray = array[(slice(None),) * self.axis + (self.number,)]
        return part

    def inverse(self, shape: tuple[int, ...]) -> Op:
        """There is none: the other parts are needed too."""
        raise ValueError(f"one part of {shape} does not give the whole")

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}" + (f" on axis {self.axis}" if self.axis else "")


@dataclass(frozen=True)
class Split:
    """One of `count` equal slices along `axis`, which stays: the query of a fused [d_model, 3*d_model].

    Example: Split(1, 0, 3).output_shape((512, 1536)) == (512, 512)
    """

    axis: int
    number: int
    count: int

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(..., count*n, ...) -> (..., n, ...)."""
        if self.axis >= len(shape) or shape[self.axis] % self.count:
            raise ValueError(f"a split needs {self.count} equal parts on axis {self.axis}, not {shape}")
        return (*shape[: self.axis], shape[self.axis] // self.count, *shape[self.axis + 1 :])

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of the slice."""
        self.output_shape(array.shape)
        part: np.ndarray = np.split(array, self.count, axis=self.axis)[self.number]
        return part

    def inverse(self, shape: tuple[int, ...]) -> Op:
        """There is none: the other slices are needed too."""
        raise ValueError(f"one slice of {shape} does not give the whole")

    def __str__(self) -> str:
        return f"slice {self.number} of {self.count} on axis {self.axis}"


@dataclass(frozen=True)
class Slice:
    """What lies from `start` to `stop` along `axis`, of `whole` in all: parts that are not of one size.

    Example: Slice(0, 384, 448, 512).output_shape((512, 384)) == (64, 384)
    """

    axis: int
    start: int
    stop: int
    whole: int

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(..., whole, ...) -> (..., stop - start, ...)."""
        if self.axis >= len(shape) or shape[self.axis] != self.whole:
            raise ValueError(f"a slice needs {self.whole} on axis {self.axis}, not shape {shape}")
        return (*shape[: self.axis], self.stop - self.start, *shape[self.axis + 1 :])

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of the slice."""
        self.output_shape(array.shape)
        part: np.ndarray = array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]
        return part

    def inverse(self, shape: tuple[int, ...]) -> Op:
        """There is none: the other slices are needed too."""
        raise ValueError(f"one slice of {shape} does not give the whole")

    def __str__(self) -> str:
        return f"{self.start} to {self.stop} of {self.whole} on axis {self.axis}"


def output_shape(ops: Sequence[Op], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape after the ops. Raises ValueError if they cannot be applied."""
    for op in ops:
        shape = op.output_shape(shape)
    return shape


def joined_shape(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    """Shape of parts joined along an axis. Raises ValueError if the parts do not fit each other."""
    first = shapes[0]
    if len(shapes) == 1:
        return first
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) > 1 or any(len(shape) <= axis for shape in shapes):
        raise ValueError(f"{', '.join(map(str, shapes))} cannot be joined along axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])
