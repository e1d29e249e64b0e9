"""Two traces -> a comparison: every row, and the first divergence.

Pure: what is compared are two traces on disk, and nothing is run. Rows are paired by name and stand in the
order in which the original computed them; axes are aligned by dimension name. A tensor that only one side
has is listed as unmatched, never skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from porting.errors import EXIT_DIVERGED, EXIT_OK, EXIT_UNTRUSTED
from porting.trace import Trace, TracedTensor

SCHEMA_VERSION = 1
MATCH, DIVERGED, INCOMPLETE, INVALID = "match", "diverged", "incomplete", "invalid"
EXIT_CODES = {MATCH: EXIT_OK, DIVERGED: EXIT_DIVERGED, INCOMPLETE: EXIT_UNTRUSTED, INVALID: EXIT_UNTRUSTED}


@dataclass(frozen=True)
class TensorComparison:
    """One tensor of the original beside the port's.

    Attributes:
        name, reference_name: the port's module path, and the original's own name.
        shape, dims: in the original's order of axes.
        max_abs_diff, mean_abs_diff: over all elements; infinite where one side is not a number, or where
            one side hides a position from attention that the other shows.
        max_rel_diff: max_abs_diff relative to the largest magnitude in the original's tensor.
        index: where the largest difference is; empty for a scalar.
        reference, port: the values there.
        status: "match", "diverged", or "invalid" (the original's values are not numbers).
        note: what else there is to say, such as shapes that differ.
    """

    name: str
    reference_name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    max_abs_diff: float
    mean_abs_diff: float
    max_rel_diff: float
    index: tuple[int, ...]
    reference: float
    port: float
    status: str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A row of the `tensors` list, and `first_divergence`. Numbers that JSON cannot say are null."""
        return {
            "name": self.name,
            "reference_name": self.reference_name,
            "shape": list(self.shape),
            "dims": list(self.dims),
            "max_abs_diff": _finite(self.max_abs_diff),
            "mean_abs_diff": _finite(self.mean_abs_diff),
            "max_rel_diff": _finite(self.max_rel_diff),
            "index": list(self.index),
            "reference": _finite(self.reference),
            "port": _finite(self.port),
            "status": self.status,
            **({"note": self.note} if self.note else {}),
        }

    def __getitem__(self, key: str) -> Any:
        """`row["name"]`: the same as in the JSON."""
        return self.to_json()[key]


@dataclass(frozen=True)
class Comparison:
    """The verdict and everything it rests on.

    Attributes:
        status: "match"; "diverged" (a tensor differs by more than `atol`); "incomplete" (all that was
            compared agrees, and a tensor is there on one side only); "invalid" (the run cannot be trusted).
        atol: the tolerance, absolute.
        tensors: every pair, in the order in which the original computed them.
        unmatched_reference, unmatched_port: names that one side alone has.
        reasons: why the comparison cannot be trusted, where it cannot.
        provenance: versions, hashes, command, inputs: what the verdict rests on.
        reports: paths of the reports written, by kind.
    """

    status: str
    atol: float
    tensors: tuple[TensorComparison, ...]
    unmatched_reference: tuple[str, ...] = ()
    unmatched_port: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, str] = field(default_factory=dict)

    @property
    def first_divergence(self) -> TensorComparison | None:
        """The first tensor, in the original's order, that is beyond the tolerance."""
        return next((row for row in self.tensors if row.status == DIVERGED), None)

    @property
    def worst(self) -> TensorComparison | None:
        """The row with the largest absolute difference."""
        return max(self.tensors, key=lambda row: row.max_abs_diff, default=None)

    @property
    def exit_code(self) -> int:
        """Of the command: 0 match, 1 diverged, 3 not to be trusted."""
        return EXIT_CODES[self.status]

    def with_reports(self, reports: Mapping[str, str]) -> Comparison:
        """The same, with the paths of its reports."""
        return replace(self, reports=dict(reports))

    def to_json(self) -> dict[str, Any]:
        """As `compare-outputs --format json` prints it."""
        first, worst = self.first_divergence, self.worst
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "atol": self.atol,
            "tolerance_needed": _finite(worst.max_abs_diff) if worst else None,
            "first_divergence": first.to_json() if first else None,
            "tensors": [row.to_json() for row in self.tensors],
            "unmatched": {"reference": list(self.unmatched_reference), "port": list(self.unmatched_port)},
            "reasons": list(self.reasons),
            "reports": dict(self.reports),
            "provenance": dict(self.provenance),
        }


def compare_traces(
    reference: Trace,
    port: Trace,
    atol: float = 1e-3,
    provenance: Mapping[str, Any] | None = None,
    on_row: Callable[[TensorComparison], None] = lambda _row: None,
) -> Comparison:
    """Compare every tensor that both traces have, and list those that one has alone.

    Args:
        reference: the original's trace; its order is the order of the rows.
        port: the port's trace.
        atol: largest absolute difference that counts as a match.
        provenance: taken into the comparison.
        on_row: called with each row, for progress.
    """
    port_tensors = {tensor.name: tensor for tensor in port.tensors}
    rows = []
    for tensor, expected in reference.items():
        if tensor.name in port_tensors:
            found = port_tensors[tensor.name]
            rows.append(_compare(tensor, expected, found, port.read(found), atol))
            on_row(rows[-1])
    reference_names = set(reference.names())
    unmatched_reference = tuple(name for name in reference.names() if name not in port_tensors)
    unmatched_port = tuple(name for name in port.names() if name not in reference_names)
    reasons = _reasons_for_distrust(reference, port, rows)
    if reasons:
        status = INVALID
    elif any(row.status == DIVERGED for row in rows):
        status = DIVERGED
    elif unmatched_reference or unmatched_port or not rows:
        status = INCOMPLETE
    else:
        status = MATCH
    return Comparison(
        status=status,
        atol=atol,
        tensors=tuple(rows),
        unmatched_reference=unmatched_reference,
        unmatched_port=unmatched_port,
        reasons=reasons,
        provenance=provenance or {},
    )


def _reasons_for_distrust(reference: Trace, port: Trace, rows: list[TensorComparison]) -> tuple[str, ...]:
    reasons = [f"{row.reference_name}: {row.note}" for row in rows if row.status == INVALID]
    if not reference.metadata.get("deterministic", True):
        reasons.append("the original gave another output when it was run again")
    if not port.metadata.get("deterministic", True):
        reasons.append(
            "the port gave another output when it was run again: dropout left on? call model.eval() first"
        )
    return tuple(reasons)


def _compare(
    tensor: TracedTensor, expected: np.ndarray, found: TracedTensor, value: np.ndarray, atol: float
) -> TensorComparison:
    def row(status: str, difference: _Difference, note: str = "") -> TensorComparison:
        return TensorComparison(
            name=tensor.name,
            reference_name=tensor.original_name,
            shape=tuple(expected.shape),
            dims=tensor.dims,
            max_abs_diff=difference.largest,
            mean_abs_diff=difference.mean,
            max_rel_diff=difference.relative,
            index=difference.index,
            reference=difference.reference,
            port=difference.port,
            status=status,
            note=note,
        )

    if np.isnan(expected).any():
        count = int(np.isnan(expected).sum())
        return row(INVALID, _Difference(), f"{count} of {expected.size} values of the original are NaN")
    aligned, note = _align(tensor.dims, expected.shape, found.dims, value)
    if aligned is None:
        return row(DIVERGED, _Difference(), note)
    limits = [below for below in (tensor.hidden_below, found.hidden_below) if below is not None]
    difference = _difference(expected, aligned, max(limits) if limits else None)
    within = difference.largest <= atol
    if not within and np.isnan(aligned).any():
        note = f"{int(np.isnan(aligned).sum())} of {aligned.size} values of the port are NaN"
    return row(MATCH if within else DIVERGED, difference, note)


def _align(
    dims: tuple[str, ...], shape: tuple[int, ...], found_dims: tuple[str, ...], value: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """The port's array with its axes in the original's order, by name. Axes of size one may be absent."""
    for axis in reversed(range(len(found_dims))):
        if found_dims[axis] not in dims and value.shape[axis] == 1:
            value = value.squeeze(axis)
            found_dims = found_dims[:axis] + found_dims[axis + 1 :]
    for axis, name in enumerate(dims):
        if name not in found_dims and shape[axis] == 1:
            value = value[..., None]
            found_dims = (*found_dims, name)
    if sorted(dims) != sorted(found_dims):
        return None, f"dimensions {' '.join(dims)} against {' '.join(found_dims)}"
    aligned = value.transpose([found_dims.index(name) for name in dims])
    if aligned.shape != shape:
        return None, f"shape {list(shape)} ({' '.join(dims)}) against {list(aligned.shape)}"
    return aligned, ""


@dataclass(frozen=True)
class _Difference:
    largest: float = math.inf
    mean: float = math.inf
    relative: float = math.inf
    index: tuple[int, ...] = ()
    reference: float = math.nan
    port: float = math.nan


def _difference(expected: np.ndarray, value: np.ndarray, hidden_below: float | None) -> _Difference:
    """Elementwise |expected - value|; two hidden positions are equal, one hidden position is infinitely far.

    Hidden scores lie around -1e9, where neighbouring float32 numbers are 64 apart: their exact values mean
    nothing, and the softmax makes zero of them.
    """
    if expected.size == 0:
        return _Difference(0.0, 0.0, 0.0)
    wide, port = np.asarray(expected, np.float64), np.asarray(value, np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.asarray(np.abs(wide - port))
    distance[wide == port] = 0.0  # two infinities of one sign
    distance[np.isnan(distance)] = np.inf
    visible = np.abs(wide)
    if hidden_below is not None:
        hidden = wide <= hidden_below
        hidden_in_port = port <= hidden_below
        distance[hidden & hidden_in_port] = 0.0
        distance[hidden != hidden_in_port] = np.inf
        visible = visible[~hidden]
    flat = int(distance.argmax())
    index = tuple(int(i) for i in np.unravel_index(flat, distance.shape))
    largest = float(distance[index])
    scale = float(visible.max()) if visible.size else 0.0
    return _Difference(
        largest=largest,
        mean=float(distance.mean()),
        relative=largest / scale if scale > 0 else (0.0 if largest == 0 else math.inf),
        index=index,
        reference=float(wide[index]),
        port=float(port[index]),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
