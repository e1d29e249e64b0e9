"""The first screen: five lines that a tired person can read. All else is in the report."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from porting.compare import Comparison, TensorComparison
from porting.report.backward import gradient_lines
from porting.report.generation import generation_lines
from porting.report.search import search_lines
from porting.report.text import cause, folded_names, left_out, number, place, verdict

_SHOWN_NAMES = 6
_SHOWN_FAULTS = 2
# Behind a comma, semicolon or colon, and before a parenthesis; never inside of brackets.
_CLAUSES = re.compile(r"(?<=[,;:]) (?![^(]*\))(?![^\[]*\])| (?=\()")


def summary_lines(comparison: Comparison) -> list[str]:
    """The verdict, the first divergence, its cause or the largest difference, what is missing, the report."""
    lines = [verdict(comparison)]
    first, worst = comparison.first_divergence, comparison.worst
    if first:
        lines += _where(first)
    lines += _causes(comparison)
    if worst and not first:
        times = worst.max_abs_diff / worst.figures.floor if worst.figures and worst.figures.floor else None
        noise = "" if times is None else f", {number(times)} times its noise floor"
        lines.append(f"Largest difference: {number(worst.max_abs_diff)} in {worst.name}{noise}")
    for side, names in (
        ("original", comparison.unmatched_reference),
        ("port", comparison.unmatched_port),
    ):
        if names:
            lines.append(f"Only in the {side}: {_few(names)}")
    if comparison.unheard:
        lines.append(f"Not heard in the original: {_few(folded_names(comparison.unheard))}")
    if comparison.left_out:
        lines.append(f"Not compared: {left_out({'left_out': [asdict(e) for e in comparison.left_out]})}")
    if comparison.generation:
        lines += generation_lines(comparison.generation)
    if comparison.search:
        lines += search_lines(comparison.search)
    if comparison.backward:
        lines += gradient_lines(comparison.backward)
    if comparison.reports:
        lines.append(f"Report: {comparison.reports.get('html', '')}")
    return lines


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{', '.join(names[:_SHOWN_NAMES])}{more}"


def screen_lines(comparison: Comparison, width: int | None = None) -> list[str]:
    """The same, broken between words to fit the terminal; names and paths are never broken.

    Args:
        comparison: what there is to say.
        width: columns; by default the terminal's, 80 where there is none.
    """
    width = width or shutil.get_terminal_size().columns
    return [part for line in summary_lines(comparison) for part in _broken(line, width)]


def _broken(line: str, width: int) -> list[str]:
    """One line, where it is too long at the end of a clause if that will do."""
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    parts: list[str] = []
    for clause in _CLAUSES.split(line):
        if parts and len(parts[-1]) + 1 + len(clause) <= width:
            parts[-1] += f" {clause}"
        else:
            parts.append(indent + clause if parts else clause)
    options = {"break_long_words": False, "break_on_hyphens": False, "drop_whitespace": True}
    return [
        piece
        for part in parts
        for piece in textwrap.wrap(part, width, subsequent_indent=indent, **options)  # type: ignore[arg-type]
    ]


def _where(row: TensorComparison) -> list[str]:
    """Which tensor, where in it, and by how much."""
    lines = [f"First divergence: {row.name} (original: {row.reference_name})"]
    values = f"original {number(row.reference)}, port {number(row.port)}"
    at = f"at {place(row)}: " if row.index else ""
    if row.note:
        lines.append(f"  {row.note}")
    if row.index or not row.note:
        lines.append(f"  {at}{values}, difference {number(row.max_abs_diff)}")
    return lines


def _causes(comparison: Comparison) -> list[str]:
    """The faults, the first few by name."""
    faults = comparison.faults
    if (
        len(faults) == 1
        and comparison.first_divergence
        and faults[0].name == comparison.first_divergence.name
    ):
        return [f"Cause: {cause(faults[0])}"]
    lines = [
        f"Fault {i} of {len(faults)}: {fault.name}: {cause(fault)}"
        for i, fault in enumerate(faults[:_SHOWN_FAULTS], 1)
    ]
    if comparison.findings and not faults and comparison.first_divergence:
        unit = comparison.findings.unit
        lines = [f"No tensor is wrong by itself: rounding (unit {unit:.2g}) explains every difference."]
    return lines
