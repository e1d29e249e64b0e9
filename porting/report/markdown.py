"""A comparison as Markdown: the verdict, the faults, every tensor, what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from porting.compare import Comparison, TensorComparison
from porting.findings import Fault, Findings
from porting.report.backward import gradient_section
from porting.report.generation import generation_section
from porting.report.search import search_section
from porting.report.text import cause, left_out, number, place, verdict

_HOW_STRICT = """\
How strict each figure is:

- max abs: the largest |port - original| of any element, both running freely. The first verdict holds it
  against the tolerance, which knows nothing of the tensor's size: strict for large numbers, blind for small.
- mean abs: the mean of the same; for information, no verdict rests on it.
- max rel: max abs relative to the largest magnitude in the original's tensor; for information.
- local: the largest difference when the port computes this tensor from the original's inputs. The second
  verdict rests on it.
- passed on: what came in with the tensor's inputs and went through it.
- noise: what rounding alone would explain of max abs, measured.
- x noise: the largest ratio of the local difference to the rounding expected of that element. Right ports
  stay below 17; the second verdict allows {times:g}. A wrong constant in the seventh digit is seen here.

Attention scores of hidden positions (below -1e8 on both sides) count as equal."""


def render_markdown(comparison: Comparison, name: str) -> str:
    """The whole report."""
    return "\n".join(_lines(comparison, name)) + "\n"


def _lines(comparison: Comparison, name: str) -> Iterator[str]:
    yield f"# {name} against the original"
    yield ""
    yield f"**{verdict(comparison)}**"
    yield ""
    first, worst = comparison.first_divergence, comparison.worst
    if first:
        yield from _first_divergence(first)
    if comparison.findings:
        yield from _findings(comparison.findings)
    if worst:
        yield (
            f"Largest difference: {number(worst.max_abs_diff)} in `{worst.name}`. A tolerance of"
            f" {number(worst.max_abs_diff)} would have passed; {comparison.atol:g} was asked for."
        )
        yield ""
    if comparison.generation:
        yield from generation_section(comparison.generation)
    if comparison.search:
        yield from search_section(comparison.search)
    for side, names in (
        ("the original", comparison.unmatched_reference),
        ("the port", comparison.unmatched_port),
    ):
        if names:
            yield f"## Only in {side}"
            yield ""
            yield from (f"- `{unmatched}`" for unmatched in names)
            yield ""
    if comparison.unheard:
        yield "## Not heard in the original"
        yield ""
        yield "The port's tensors in places where this original cannot be listened to. They are not compared."
        yield ""
        yield from (f"- `{unheard}`" for unheard in comparison.unheard)
        yield ""
    if comparison.left_out:
        yield f"Not compared: {left_out({'left_out': [asdict(each) for each in comparison.left_out]})}."
        yield ""
    yield from _tensors(comparison)
    if comparison.backward:
        yield from gradient_section(comparison.backward)
    yield "## What this rests on"
    yield ""
    yield from _facts(comparison.provenance)


def _first_divergence(row: TensorComparison) -> Iterator[str]:
    yield "## First divergence"
    yield ""
    yield f"- tensor: `{row.name}`"
    yield f"- in the original: `{row.reference_name}`"
    if row.index:
        yield f"- largest at {place(row)}: original {row.reference:.9g}, port {row.port:.9g}"
    yield f"- difference: {number(row.max_abs_diff)} absolute, {number(row.max_rel_diff)} relative"
    if row.note:
        yield f"- note: {row.note}"
    yield ""


def _findings(findings: Findings) -> Iterator[str]:
    if findings.faults:
        yield "## What is wrong by itself"
        yield ""
        for i, fault in enumerate(findings.faults, 1):
            yield from _fault(i, fault)
        yield ""
    if findings.remainder:
        left = findings.remainder
        yield (
            "With the original's tensors in the place of what is wrong, what remains is"
            f" {number(left.max_abs_diff)}, {number(left.times_floor)} times the noise floor, in"
            f" `{left.name}`."
        )
        yield ""
    elif findings.noisiest:
        times = findings.figures[findings.noisiest].times_floor
        yield (
            f"No tensor is wrong by itself: fed with the original's inputs, each stays within"
            f" {findings.times:g} times its noise floor (the most: {number(times)}, `{findings.noisiest}`)."
        )
        yield ""
    for note in findings.notes:
        yield f"Note: {note}."
        yield ""


def _fault(i: int, fault: Fault) -> Iterator[str]:
    yield f"{i}. `{fault.name}` (in the original `{fault.reference_name}`)"
    yield f"   - {'cause' if fault.cause else 'no cause verified'}: {cause(fault)}"
    yield (
        f"   - fed with the original's inputs: off by {number(fault.local)},"
        f" {number(fault.times_floor)} times what rounding explains"
    )
    if fault.also:
        yield f"   - for the same reason: {', '.join(f'`{name}`' for name in fault.also)}"


def _tensors(comparison: Comparison) -> Iterator[str]:
    figures = comparison.findings is not None
    yield "## All tensors, in the order of the original"
    yield ""
    yield "| | tensor | original | dims | shape | max abs | mean abs | max rel |" + (
        " local | passed on | noise | x noise |" if figures else ""
    )
    yield "|---" * (12 if figures else 8) + "|"
    for row in comparison.tensors:
        shape = "x".join(map(str, row.shape)) or "scalar"
        status = f"{row.status}, {row.origin}" if row.origin else row.status
        yield (
            f"| {status} | `{row.name}` | `{row.reference_name}` | {' '.join(row.dims)} | {shape} "
            f"| {number(row.max_abs_diff)} | {number(row.mean_abs_diff)} | {number(row.max_rel_diff)} |"
        ) + (_figures(row) if figures else "")
    yield ""
    yield _HOW_STRICT.format(times=comparison.findings.times if comparison.findings else 0)
    yield ""


def _figures(row: TensorComparison) -> str:
    known = row.figures
    if known is None:
        return " | | | |"
    values = (known.local, known.passed_on, known.floor, known.times_floor)
    return "".join(f" {number(value)} |" for value in values)


def _facts(facts: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}: ")
        elif value not in (None, ""):
            yield f"- {prefix}{key}: `{value}`"
