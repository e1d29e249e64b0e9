"""Two traces -> a comparison: every row, and the first divergence.

Pure: what is compared are two traces on disk, and nothing is run. Rows are paired by name and stand in the
order in which the original computed them; axes are aligned by dimension name. A tensor that only one side
has is listed as unmatched, never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from porting.difference import Difference, align, difference_of
from porting.errors import EXIT_DIVERGED, EXIT_OK, EXIT_UNTRUSTED, InputError
from porting.findings import Fault, Findings, TapFigures, finite
from porting.trace import Trace, TracedTensor

if TYPE_CHECKING:
    from porting.generation.comparison import GenerationComparison
    from porting.gradients.comparison import GradientComparison
    from porting.search.search import SearchResult

SCHEMA_VERSION = 1
MATCH, DIVERGED, INCOMPLETE, INVALID = "match", "diverged", "incomplete", "invalid"
WHY_LEFT_OUT = "the original's values mean nothing there"
EXIT_CODES = {MATCH: EXIT_OK, DIVERGED: EXIT_DIVERGED, INCOMPLETE: EXIT_UNTRUSTED, INVALID: EXIT_UNTRUSTED}


@dataclass(frozen=True)
class TensorComparison:
    """One tensor of the original beside the port's.

    Attributes:
        name, reference_name: the port's module path, and the original's own name.
        shape, dims: in the original's order of axes.
        max_abs_diff, mean_abs_diff: over all elements that are compared; infinite where one side is not a
            number, or where one side hides a position from attention that the other shows.
        max_rel_diff: max_abs_diff relative to the largest magnitude in the original's tensor.
        index: where the largest difference is; empty for a scalar.
        reference, port: the values there.
        status: "match", "diverged", or "invalid" (the original's values are not numbers).
        note: what else there is to say, such as shapes that differ.
        left_out: how many positions were not compared, because the original's values mean nothing there.
        figures: what the tensor makes itself, what it passes on, and what rounding explains; None where no
            analysis was asked for.
        origin: "own" for a tensor that is wrong by itself, "inherited" for one that differs because its
            inputs do, None for one that is right.
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
    figures: TapFigures | None = None
    origin: str | None = None
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """A row of the `tensors` list, and `first_divergence`. Numbers that JSON cannot say are null."""
        return {
            "name": self.name,
            "reference_name": self.reference_name,
            "shape": list(self.shape),
            "dims": list(self.dims),
            "max_abs_diff": finite(self.max_abs_diff),
            "mean_abs_diff": finite(self.mean_abs_diff),
            "max_rel_diff": finite(self.max_rel_diff),
            "index": list(self.index),
            "reference": finite(self.reference),
            "port": finite(self.port),
            "status": self.status,
            **(self.figures.to_json() if self.figures else {}),
            **({"origin": self.origin} if self.figures else {}),
            **({"note": self.note} if self.note else {}),
            **({"left_out": self.left_out} if self.left_out else {}),
        }

    def __getitem__(self, key: str) -> Any:
        """`row["name"]`: the same as in the JSON."""
        return self.to_json()[key]


@dataclass(frozen=True)
class LeftOut:
    """Positions that were not compared.

    Attributes:
        mask: name of the mask that says so.
        positions, left_out: how many there are, and how many of them it leaves out.
        tensors: how many tensors it is for.
        why: what is special there, in words; of the original's trace.
    """

    mask: str
    positions: int
    left_out: int
    tensors: int
    why: str


@dataclass(frozen=True)
class Comparison:
    """The verdict and everything it rests on.

    Attributes:
        status: "match"; "diverged" (a tensor differs by more than `atol`); "incomplete" (all that was
            compared agrees, and a tensor is there on one side only); "invalid" (the run cannot be trusted).
        atol: the tolerance, absolute.
        tensors: every pair, in the order in which the original computed them.
        unmatched_reference, unmatched_port: names that one side alone has.
        unheard: names of the port that the original computes too and cannot be heard at, as its trace says.
        left_out: positions that were not compared.
        reasons: why the comparison cannot be trusted, where it cannot.
        findings: where differences are made, and why; None where no analysis was asked for.
        provenance: versions, hashes, command, inputs: what the verdict rests on.
        reports: paths of the reports written, by kind.
        generation: what was generated on both sides, where that was asked for.
        search: what a search for further inputs found; None if there was none.
        backward: the gradients, if they were compared; the status is then that of both.
        pictures: one tensor looked at closely, for the page; see `porting.pictures`.
    """

    status: str
    atol: float
    tensors: tuple[TensorComparison, ...]
    unmatched_reference: tuple[str, ...] = ()
    unmatched_port: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    reasons: tuple[str, ...] = ()
    findings: Findings | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, str] = field(default_factory=dict)
    generation: GenerationComparison | None = None
    search: SearchResult | None = None
    backward: GradientComparison | None = None
    pictures: Mapping[str, Any] | None = None

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

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Tensors that are wrong by themselves, in the original's order, each with its cause."""
        return self.findings.faults if self.findings else ()

    def with_findings(self, findings: Findings, reasons: tuple[str, ...] = ()) -> Comparison:
        """The same with what is behind it, and further reasons not to trust it."""
        rows = tuple(_with_figures(row, findings) for row in self.tensors)
        status = INVALID if reasons else self.status
        return replace(
            self, tensors=rows, findings=findings, status=status, reasons=(*self.reasons, *reasons)
        )

    def with_reports(self, reports: Mapping[str, str]) -> Comparison:
        """The same, with the paths of its reports."""
        return replace(self, reports=dict(reports))

    def with_generation(self, generation: GenerationComparison) -> Comparison:
        """The same, diverged if generation is; a comparison that cannot be trusted stays one."""
        diverged = generation.status == DIVERGED and self.status != INVALID
        return replace(self, generation=generation, status=DIVERGED if diverged else self.status)

    def with_search(self, search: SearchResult) -> Comparison:
        """The same, with what a search found: where all agreed, its status is the search's."""
        return replace(self, search=search, status=search.status if self.status == MATCH else self.status)

    def with_backward(self, backward: GradientComparison) -> Comparison:
        """The same with the gradients: a match if they match too."""
        reasons = (*self.reasons, *(f"gradients: {reason}" for reason in backward.reasons))
        status = min(self.status, backward.status, key=(INVALID, DIVERGED, INCOMPLETE, MATCH).index)
        return replace(self, status=status, reasons=reasons, backward=backward)

    def with_pictures(self, pictures: Mapping[str, Any] | None) -> Comparison:
        """The same, with what its pictures show."""
        return replace(self, pictures=pictures)

    def to_json(self) -> dict[str, Any]:
        """As `compare-outputs --format json` prints it."""
        from porting.report.summary import (
            summary_of,
        )  # the words are the report's, which is made of comparisons

        first, worst = self.first_divergence, self.worst
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "summary": summary_of(self),
            "atol": self.atol,
            "tolerance_needed": finite(worst.max_abs_diff) if worst else None,
            "first_divergence": first.to_json() if first else None,
            "tensors": [row.to_json() for row in self.tensors],
            "unmatched": {"reference": list(self.unmatched_reference), "port": list(self.unmatched_port)},
            "unheard": list(self.unheard),
            "left_out": [asdict(each) for each in self.left_out],
            **(self.findings.to_json() if self.findings else {}),
            "reasons": list(self.reasons),
            "generation": self.generation.to_json() if self.generation else None,
            "search": self.search.to_json() if self.search else None,
            "backward": self.backward.to_json() if self.backward else None,
            "pictures": dict(self.pictures) if self.pictures else None,
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
            where = reference.meaningful(tensor)
            rows.append(_compare(tensor, expected, found, port.read(found), atol, where))
            on_row(rows[-1])
    reference_names = set(reference.names())
    unmatched_reference = tuple(name for name in reference.names() if name not in port_tensors)
    silent = unheard_of(reference)
    unheard = tuple(name for name in port.names() if name not in reference_names and name in silent)
    unmatched_port = tuple(
        name for name in port.names() if name not in reference_names and name not in silent
    )
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
        unheard=unheard,
        left_out=_left_out(reference, {row.name for row in rows}),
        reasons=reasons,
        provenance=provenance or {},
    )


def unheard_of(trace: Trace) -> frozenset[str]:
    """Names of the port that the original says it can never be heard at (`unheard` in its metadata).

    Raises:
        InputError: it is no list of names.
    """
    names = trace.metadata.get("unheard", [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{trace.path}: `unheard` in the metadata is no list of names: {names!r}")
    return frozenset(names)


def _left_out(reference: Trace, compared: set[str]) -> tuple[LeftOut, ...]:
    """What each mask leaves out of the tensors that were compared."""
    tensors: dict[str, set[str]] = {}
    masks = {}
    for tensor in reference.tensors:
        for where in tensor.where:
            if tensor.name in compared:
                masks[where.name] = reference.mask(where)
                tensors.setdefault(where.name, set()).add(tensor.name)
    why = str(reference.metadata.get("left_out", WHY_LEFT_OUT))
    return tuple(
        LeftOut(name, int(mask.size), int(mask.size - mask.sum()), len(tensors[name]), why)
        for name, mask in masks.items()
        if not mask.all()
    )


def _reasons_for_distrust(reference: Trace, port: Trace, rows: list[TensorComparison]) -> tuple[str, ...]:
    reasons = [f"{row.reference_name}: {row.note}" for row in rows if row.status == INVALID]
    if not reference.metadata.get("deterministic", True):
        reasons.append("the original gave another output when it was run again")
    if not port.metadata.get("deterministic", True):
        why = "something in it is random, or keeps state between calls"
        if port.metadata.get("deterministic_in_eval"):
            why = "dropout left on: in eval mode it repeats itself; call model.eval() first"
        reasons.append(f"the port gave another output when it was run again: {why}")
    return tuple(reasons)


def _compare(
    tensor: TracedTensor,
    expected: np.ndarray,
    found: TracedTensor,
    value: np.ndarray,
    atol: float,
    meaningful: np.ndarray | None,
) -> TensorComparison:
    def counted(of: np.ndarray) -> np.ndarray:
        return of if meaningful is None else of[np.broadcast_to(meaningful, of.shape)]

    def row(status: str, difference: Difference, note: str = "") -> TensorComparison:
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
            left_out=0 if meaningful is None else int(meaningful.size - meaningful.sum()),
        )

    if np.isnan(counted(expected)).any():
        count = int(np.isnan(counted(expected)).sum())
        return row(
            INVALID, Difference(), f"{count} of {counted(expected).size} values of the original are NaN"
        )
    aligned, note = align(tensor.dims, expected.shape, found.dims, value)
    if aligned is None:
        return row(DIVERGED, Difference(), note)
    limits = [below for below in (tensor.hidden_below, found.hidden_below) if below is not None]
    difference = difference_of(expected, aligned, max(limits) if limits else None, meaningful)
    within = difference.largest <= atol
    if not within and np.isnan(counted(aligned)).any():
        of_port = counted(aligned)
        note = f"{int(np.isnan(of_port).sum())} of {of_port.size} values of the port are NaN"
    return row(MATCH if within else DIVERGED, difference, note)


def _with_figures(row: TensorComparison, findings: Findings) -> TensorComparison:
    figures = findings.figures.get(row.name)
    if figures is None:
        return row
    seen = row.status == DIVERGED or row.max_abs_diff > findings.times * figures.floor
    origin = findings.origin(row.name) or ("inherited" if seen else None)
    return replace(row, figures=figures, origin=origin)
