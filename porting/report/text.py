"""The words that every report uses: the verdict in a sentence, a number, a place in a tensor."""

from __future__ import annotations

import math

from porting.compare import DIVERGED, INCOMPLETE, MATCH, Comparison, TensorComparison


def verdict(comparison: Comparison) -> str:
    """One sentence."""
    count = len(comparison.tensors)
    if comparison.status == MATCH:
        return f"MATCH: all {count} tensors agree within {comparison.atol:g}."
    if comparison.status == DIVERGED:
        bad = sum(row.status == DIVERGED for row in comparison.tensors)
        return f"DIVERGED: {bad} of {count} tensors differ by more than {comparison.atol:g}."
    if comparison.status == INCOMPLETE:
        missing = len(comparison.unmatched_reference) + len(comparison.unmatched_port)
        return f"INCOMPLETE: {count} tensors agree, {missing} are there on one side only."
    return f"INVALID: the comparison cannot be trusted: {'; '.join(comparison.reasons)}."


def number(value: float) -> str:
    """Short and exact enough to compare by eye."""
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def place(row: TensorComparison) -> str:
    """Where the difference is largest: `[batch 1, length 0, heads 2]`."""
    pairs = zip(row.dims, row.index, strict=False)
    return "[" + ", ".join(f"{name} {i}" for name, i in pairs) + "]"
