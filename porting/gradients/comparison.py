"""Two traces of gradients -> a comparison: every row in backward order, and the first divergence.

Gradients are as large as they happen to be, so what counts is the difference relative to the largest
magnitude in the original's gradient of the same tensor. Below a floor nothing counts: a gradient that is
zero but for rounding has no digits to compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from porting.compare import DIVERGED, INCOMPLETE, INVALID, MATCH, TensorComparison, compare_traces
from porting.trace import Trace

TOLERANCE = 1e-3
# About ten roundings of float32, relative to the largest gradient of the same kind. Attention to a single
# position needs it: the softmax's gradient is then the difference of two equal numbers.
ROUNDING = 1e-6
TAP, PARAMETER = "tap", "parameter"


@dataclass(frozen=True)
class GradientComparison:
    """The verdict on the gradients.

    Attributes:
        status: as of a `Comparison`.
        tolerance: largest difference that is a match, relative to the largest magnitude in the original's
            gradient of the tensor.
        floors: absolute differences up to which a "tap" or a "parameter" is a match in any case: ROUNDING
            times the largest gradient of the kind (that of the loss itself, 1, is not counted).
        tensors: every pair, from the loss towards the inputs.
        sizes: the largest magnitude in the original's gradient, by name.
        parameters: names of the rows that are parameters.
        unmatched_reference, unmatched_port: names that one side alone has.
        unheard: names whose gradient the original cannot say, as its trace has it.
        reasons: why the comparison cannot be trusted, where it cannot.
    """

    status: str
    tolerance: float
    floors: Mapping[str, float]
    tensors: tuple[TensorComparison, ...]
    sizes: Mapping[str, float]
    parameters: frozenset[str] = frozenset()
    unmatched_reference: tuple[str, ...] = ()
    unmatched_port: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def first_divergence(self) -> TensorComparison | None:
        """The diverging gradient that is the nearest to the loss."""
        return next((row for row in self.tensors if row.status == DIVERGED), None)

    @property
    def worst(self) -> TensorComparison | None:
        """The row with the largest relative difference, of those that their own size decides on."""
        rows = [row for row in self.tensors if not self.within_rounding(row)]
        return max(rows, key=lambda row: row.max_rel_diff, default=None)

    def within_rounding(self, row: TensorComparison) -> bool:
        """Whether a gradient is so small that the floor is what makes it a match."""
        floor = self.floors[self.kind(row)]
        return self.tolerance * self.sizes[row.name] < floor and row.max_abs_diff <= floor

    def kind(self, row: TensorComparison) -> str:
        """Whether a row is a "tap" or a "parameter"."""
        return PARAMETER if row.name in self.parameters else TAP

    def to_json(self) -> dict[str, Any]:
        """The section `backward` of what `compare-outputs --format json` prints."""
        first, worst = self.first_divergence, self.worst
        needed = worst.max_rel_diff if worst else 0.0
        return {
            "status": self.status,
            "tolerance": self.tolerance,
            "tolerance_needed": needed if math.isfinite(needed) else None,
            "floors": dict(self.floors),
            "first_divergence": first.to_json() if first else None,
            "tensors": [self._row(row) for row in self.tensors],
            "unmatched": {"reference": list(self.unmatched_reference), "port": list(self.unmatched_port)},
            "unheard": list(self.unheard),
            "reasons": list(self.reasons),
        }

    def _row(self, row: TensorComparison) -> dict[str, Any]:
        size = self.sizes[row.name]
        return {**row.to_json(), "kind": self.kind(row), "size": size if math.isfinite(size) else None}


def compare_gradients(reference: Trace, port: Trace, tolerance: float = TOLERANCE) -> GradientComparison:
    """Compare every gradient that both traces have, and list those that one has alone.

    A gradient that does not reach a tensor at all counts as zeros, and the row's note says so.

    Args:
        reference: the original's gradients; their order is the order of the rows. See `traces.py` for
            the metadata that are read.
        port: the port's.
        tolerance: see `GradientComparison`.
    """
    parameters = frozenset(reference.metadata.get("parameters", ()))
    sizes = {
        tensor.name: _largest(values, reference.meaningful(tensor)) for tensor, values in reference.items()
    }
    floors = {TAP: 0.0, PARAMETER: 0.0}
    for tensor in reference.tensors:
        if tensor.dims and math.isfinite(sizes[tensor.name]):  # the loss has no dimensions
            kind = PARAMETER if tensor.name in parameters else TAP
            floors[kind] = max(floors[kind], ROUNDING * sizes[tensor.name])
    compared = compare_traces(reference, port, atol=0.0)
    missing = [set(trace.metadata.get("without_gradient", ())) for trace in (reference, port)]

    def judged(row: TensorComparison) -> TensorComparison:
        note = row.note or _unreached(row.name, *missing)
        if row.status == INVALID:
            return row
        if not math.isfinite(sizes[row.name]):
            return replace(row, status=INVALID, note="the original's gradient is infinite")
        floor = floors[PARAMETER if row.name in parameters else TAP]
        within = row.max_abs_diff <= max(tolerance * sizes[row.name], floor)
        return replace(row, status=MATCH if within else DIVERGED, note=note)

    rows = tuple(judged(row) for row in compared.tensors)
    reasons = list(compared.reasons)
    reasons += [
        f"{row.reference_name}: {row.note}"
        for row, before in zip(rows, compared.tensors, strict=True)
        if row.status == INVALID != before.status
    ]
    if reasons:
        status = INVALID
    elif any(row.status == DIVERGED for row in rows):
        status = DIVERGED
    elif compared.unmatched_reference or compared.unmatched_port or not rows:
        status = INCOMPLETE
    else:
        status = MATCH
    return GradientComparison(
        status=status,
        tolerance=tolerance,
        floors=floors,
        tensors=rows,
        sizes=sizes,
        parameters=parameters,
        unmatched_reference=compared.unmatched_reference,
        unmatched_port=compared.unmatched_port,
        unheard=compared.unheard,
        reasons=tuple(reasons),
    )


def _largest(values: np.ndarray, meaningful: np.ndarray | None) -> float:
    """The largest magnitude; infinite if that is there, NaN left to the comparison."""
    if meaningful is not None:
        values = values[np.broadcast_to(meaningful, values.shape)]
    return float(np.fmax.reduce(np.abs(values), axis=None, initial=0.0))


def _unreached(name: str, reference: set[str], port: set[str]) -> str:
    """What there is to say of a tensor that no gradient reaches."""
    sides = [side for side, names in (("original", reference), ("port", port)) if name in names]
    return f"no gradient reaches it in the {' and in the '.join(sides)}" if sides else ""
