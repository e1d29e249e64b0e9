"""The first screen: five lines that a tired person can read."""

from __future__ import annotations

from porting.compare import Comparison
from porting.report.text import number, place, verdict

_SHOWN_NAMES = 6


def summary_lines(comparison: Comparison) -> list[str]:
    """The verdict, the first divergence or the largest difference, what is missing, where reports lie."""
    lines = [verdict(comparison)]
    first, worst = comparison.first_divergence, comparison.worst
    if first:
        lines.append(f"First divergence: {first.name}  (original: {first.reference_name})")
        values = f"original {number(first.reference)}, port {number(first.port)}"
        where = f"  at {place(first)}: {values}; " if first.index else "  "
        lines.append(
            f"{where}difference {number(first.max_abs_diff)}{', ' + first.note if first.note else ''}"
        )
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
