"""The gradients that an original took, written as a trace; see `gradients/traces.py` for what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.references.original_tap import written_masks
from porting.trace import TraceWriter


@dataclass(frozen=True)
class OriginalGradient:
    """The gradient of the loss for one tensor of the original.

    Attributes:
        name: the port's name of a tapped tensor; of a variable the checkpoint's.
        original_name: the original's name.
        dims: names of the tensor's dimensions.
        values: float32, zeros where the loss does not depend on the tensor.
        is_variable: whether the tensor is a variable.
        reached: whether the loss depends on the tensor through operations that have a gradient.
        where: as in `OriginalTap`.
    """

    name: str
    original_name: str
    dims: tuple[str, ...]
    values: np.ndarray
    is_variable: bool
    reached: bool = True
    where: tuple[tuple[str, str], ...] = ()


def write_gradient_trace(
    path: Path,
    inputs: Inputs,
    gradients: Sequence[OriginalGradient],
    metadata: Mapping[str, Any],
    *,
    deterministic: bool,
    masks: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write gradients as a trace.

    Args:
        path: where to write.
        inputs: what the model was run on.
        gradients: in backward order.
        metadata: written along.
        deterministic: whether taking them again gave the same.
        masks: bool, by the names that gradients' `where` have.
    """
    writer = TraceWriter(path, inputs)
    for gradient in gradients:
        where = written_masks(writer, gradient.where, masks or {})
        writer.add(
            gradient.name,
            gradient.values,
            gradient.dims,
            original_name=gradient.original_name,
            where=where,
        )
    writer.close(
        {
            **metadata,
            "deterministic": deterministic,
            "variables": [gradient.name for gradient in gradients if gradient.is_variable],
            "without_gradient": [gradient.name for gradient in gradients if not gradient.reached],
        }
    )
