"""The words that every report uses: the verdict in a sentence, a number, a place in a tensor, a fault."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from porting.compare import DIVERGED, INCOMPLETE, MATCH, Comparison, TensorComparison
from porting.findings import Fault
from porting.fold import fold


def verdict(comparison: Comparison) -> str:
    """One sentence: the first verdict, by the tolerance, and the second, by what rounding explains."""
    count = len(comparison.tensors)
    own = sum(row.origin == "own" for row in comparison.tensors)
    if comparison.search and comparison.search.failing and not _fails_itself(comparison):
        failing, tried = len(comparison.search.failing), comparison.search.tried
        return (
            f"{comparison.status.upper()}: {failing} of {tried} inputs that the search tried fail;"
            f" on the first inputs all {count} tensors agree within {comparison.atol:g}."
        )
    if comparison.status == MATCH:
        agree = f"all {count} tensors agree within {comparison.atol:g}"
        if own:
            return f"MATCH: {agree}, but rounding does not explain {own} of them."
        return f"MATCH: {agree}{', and rounding explains the rest' if comparison.findings else ''}."
    if comparison.status in (DIVERGED, INCOMPLETE) and _only_backward(comparison):
        agree = f"all {count} tensors agree within {comparison.atol:g}"
        how = "do not" if comparison.status == DIVERGED else "are not all there on both sides"
        return f"{comparison.status.upper()}: {agree}, their gradients {how}."
    if comparison.status == DIVERGED:
        bad = sum(row.status == DIVERGED for row in comparison.tensors)
        if not bad and comparison.generation:
            return f"DIVERGED: all {count} tensors agree within {comparison.atol:g}, and generation does not."
        which = f"; {own} {'is' if own == 1 else 'are'} wrong by {'itself' if own == 1 else 'themselves'}"
        end = which if comparison.findings else ""
        return f"DIVERGED: {bad} of {count} tensors differ by more than {comparison.atol:g}{end}."
    if comparison.status == INCOMPLETE:
        missing = len(comparison.unmatched_reference) + len(comparison.unmatched_port)
        return f"INCOMPLETE: {count} tensors agree, {missing} are there on one side only."
    return f"INVALID: the comparison cannot be trusted: {'; '.join(comparison.reasons)}."


def folded_names(names: Sequence[str]) -> list[str]:
    """Names that differ in running numbers as one: `encoder.block.{0..2}.layer.0.SelfAttention.scores`."""
    return [row.cells[0] for row in fold([(name,) for name in names])]


def left_out(content: Mapping[str, Any]) -> str:
    """What was not compared, in a sentence; "" where all was. `content`: the comparison's JSON."""
    by_reason: dict[str, list[str]] = {}
    for each in content.get("left_out") or ():
        said = f"{each['left_out']} of {each['positions']} positions of {each['mask']}"
        by_reason.setdefault(each["why"], []).append(said)
    return "; ".join(f"{', '.join(said)} ({why})" for why, said in by_reason.items())


def cause(fault: Fault) -> str:
    """Why, and whether that was verified."""
    if fault.cause is None:
        return f"unexplained (tried: {', '.join(fault.tried) or 'nothing fits such a tensor'})"
    return f"{fault.cause.words.removeprefix(f'{fault.name}.')} (verified)"


def _fails_itself(comparison: Comparison) -> bool:
    """Whether there is something to say of it without the search."""
    unmatched = comparison.unmatched_reference or comparison.unmatched_port
    differs = any(row.status != MATCH or row.origin for row in comparison.tensors)
    return bool(comparison.reasons or unmatched or differs)


def _only_backward(comparison: Comparison) -> bool:
    """Whether everything forward agrees, so that the status is that of the gradients."""
    unmatched = comparison.unmatched_reference or comparison.unmatched_port
    differs = comparison.backward is not None and comparison.backward.status != MATCH
    return bool(differs and not comparison.first_divergence and not unmatched)


def number(value: float) -> str:
    """Short and exact enough to compare by eye."""
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def place(row: TensorComparison) -> str:
    """Where the difference is largest: `[batch 1, length 0, heads 2]`."""
    pairs = zip(row.dims, row.index, strict=False)
    return "[" + ", ".join(f"{name} {i}" for name, i in pairs) + "]"
