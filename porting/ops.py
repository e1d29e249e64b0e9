"""What happens to a tensor between source and target: declared, invertible, and free of data until applied.

Ops are declared by a rule and never inferred from shapes: most published T5 sizes have square attention
kernels, where a wrong transpose passes every shape assert.
"""

from __future__ import annotations

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
