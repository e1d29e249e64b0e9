"""A comparison of gradients as the terminal and Markdown show it."""

from __future__ import annotations

from collections.abc import Iterator

from porting.compare import DIVERGED, INCOMPLETE, MATCH
from porting.gradients.comparison import GradientComparison
from porting.report.text import number, place

_SHOWN_NAMES = 6


def gradient_verdict(gradients: GradientComparison) -> str:
    """One sentence."""
    count = len(gradients.tensors)
    if gradients.status == MATCH:
        return f"all {count} agree, each within {gradients.tolerance:g} of its largest value"
    if gradients.status == DIVERGED:
        bad = sum(row.status == DIVERGED for row in gradients.tensors)
        return f"{bad} of {count} differ by more than {gradients.tolerance:g} of their largest value"
    if gradients.status == INCOMPLETE:
        missing = len(gradients.unmatched_reference) + len(gradients.unmatched_port)
        return f"{count} agree, {missing} are there on one side only"
    return f"they cannot be trusted: {'; '.join(gradients.reasons)}"


def gradient_lines(gradients: GradientComparison) -> list[str]:
    """For the terminal."""
    first, worst = gradients.first_divergence, gradients.worst
    lines = [f"Gradients: {gradient_verdict(gradients)}"]
    if worst:
        lines.append(f"Largest difference of a gradient: {number(worst.max_rel_diff)} of it, in {worst.name}")
    if first:
        note = first.note or f"by {number(first.max_rel_diff)} of it"
        lines.append(f"First diverging gradient, from the loss: {first.name} ({note})")
    for side, names in (("original", gradients.unmatched_reference), ("port", gradients.unmatched_port)):
        if names:
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            lines.append(f"Gradients only in the {side}: {', '.join(names[:_SHOWN_NAMES])}{more}")
    return lines


def gradient_section(gradients: GradientComparison) -> Iterator[str]:
    """For the Markdown report."""
    yield "## Gradients of the loss"
    yield ""
    verdict = gradient_verdict(gradients)
    yield f"**{verdict[0].upper()}{verdict[1:]}.**"
    yield ""
    first = gradients.first_divergence
    if first:
        yield f"- first divergence, from the loss towards the inputs: `{first.name}`"
        yield f"- in the original: `{first.reference_name}`"
        if first.index:
            yield f"- largest at {place(first)}: original {first.reference:.9g}, port {first.port:.9g}"
        yield f"- difference: {number(first.max_abs_diff)} absolute, {number(first.max_rel_diff)} relative"
        if first.note:
            yield f"- note: {first.note}"
        yield ""
    for side, names in (
        ("the original", gradients.unmatched_reference),
        ("the port", gradients.unmatched_port),
    ):
        if names:
            yield f"Only in {side}: {', '.join(f'`{name}`' for name in names)}"
            yield ""
    floors = ", ".join(f"{number(floor)} of a {kind}" for kind, floor in gradients.floors.items())
    yield (
        "In backward order; a parameter stands where all its uses have been counted. size is the largest"
        " magnitude in the original's gradient of the tensor, max rel the largest difference relative to it:"
        f" the tolerance of {gradients.tolerance:g} is for that. Absolute differences that rounding can make"
        f" count as equal: up to {floors}."
    )
    yield ""
    yield "| | gradient of | | original | shape | size | max abs | max rel | note |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in gradients.tensors:
        shape = "x".join(map(str, row.shape)) or "scalar"
        yield (
            f"| {row.status} | `{row.name}` | {gradients.kind(row)} | `{row.reference_name}` | {shape} "
            f"| {number(gradients.sizes[row.name])} | {number(row.max_abs_diff)} "
            f"| {number(row.max_rel_diff)} | {row.note} |"
        )
    yield ""
