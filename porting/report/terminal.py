"""The first screen: a few lines that a tired person can read, none wider than a terminal need be."""

from __future__ import annotations

from porting.compare import Comparison, TensorComparison
from porting.report.text import number, place, verdict

_SHOWN_NAMES = 6


def summary_lines(comparison: Comparison) -> list[str]:
    """The verdict, the first divergence or the largest difference, what is missing, where reports lie."""
    lines = [verdict(comparison)]
    first, worst = comparison.first_divergence, comparison.worst
    if first:
        lines += _where(first)
    if worst:
        lines.append(f"Largest difference: {number(worst.max_abs_diff)} in {worst.name}")
    for side, names in (
        ("original", comparison.unmatched_reference),
        ("port", comparison.unmatched_port),
    ):
        if names:
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            lines.append(f"Only in the {side}: {', '.join(names[:_SHOWN_NAMES])}{more}")
    if comparison.reports:
        lines.append(f"Report: {comparison.reports.get('markdown', '')}")
    return lines


def _where(row: TensorComparison) -> list[str]:
    """Which tensor, where in it, and by how much."""
    lines = [f"First divergence: {row.name}", f"  in the original: {row.reference_name}"]
    if row.note:
        lines.append(f"  {row.note}")
    if row.index:
        lines.append(f"  largest at {place(row)}")
    if row.index or not row.note:
        values = f"original {number(row.reference)}, port {number(row.port)}"
        lines.append(f"  {values}, difference {number(row.max_abs_diff)}")
    return lines
