"""A comparison as Markdown: the verdict, the first divergence, every tensor, what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from porting.compare import Comparison
from porting.report.text import number, place, verdict


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
        yield "## First divergence"
        yield ""
        yield f"- tensor: `{first.name}`"
        yield f"- in the original: `{first.reference_name}`"
        if first.index:
            yield f"- largest at {place(first)}: original {first.reference:.9g}, port {first.port:.9g}"
        yield f"- difference: {number(first.max_abs_diff)} absolute, {number(first.max_rel_diff)} relative"
        if first.note:
            yield f"- note: {first.note}"
        yield ""
    if worst:
        yield (
            f"Largest difference: {number(worst.max_abs_diff)} in `{worst.name}`. A tolerance of"
            f" {number(worst.max_abs_diff)} would have passed; {comparison.atol:g} was asked for."
        )
        yield ""
    for side, names in (
        ("the original", comparison.unmatched_reference),
        ("the port", comparison.unmatched_port),
    ):
        if names:
            yield f"## Only in {side}"
            yield ""
            yield from (f"- `{unmatched}`" for unmatched in names)
            yield ""
    yield "## All tensors, in the order of the original"
    yield ""
    yield "| | tensor | original | dims | shape | max abs | mean abs | max rel |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in comparison.tensors:
        shape = "x".join(map(str, row.shape)) or "scalar"
        yield (
            f"| {row.status} | `{row.name}` | `{row.reference_name}` | {' '.join(row.dims)} | {shape} "
            f"| {number(row.max_abs_diff)} | {number(row.mean_abs_diff)} | {number(row.max_rel_diff)} |"
        )
    yield ""
    yield (
        "max rel: the largest difference relative to the largest magnitude in the original's tensor."
        " Attention scores of hidden positions (below -1e8 on both sides) count as equal."
    )
    yield ""
    yield "## What this rests on"
    yield ""
    yield from _facts(comparison.provenance)


def _facts(facts: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}: ")
        elif value not in (None, ""):
            yield f"- {prefix}{key}: `{value}`"
