"""A plan as text: where every variable goes, with layers folded, and what is left out and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from porting.fold import fold, natural_order
from porting.mapping import Plan, PlanEntry, Shape
from porting.output import file_size

WIDTH = 100
"""Columns that lines keep to, where names allow it."""

_COUNT, _ARROW, _INDENT = 5, "-> ", "    "


def plan_lines(
    plan: Plan, *, bytes_read: int, bytes_written: int, bytes_ignored: Mapping[str, int]
) -> Iterator[str]:
    """What a conversion would do: its plan, what is left out, and how much is read and written.

    Names fold as `porting.fold` says: braces that list the same run together.

    Args:
        plan: where every variable goes.
        bytes_read: of the tensors that will be read.
        bytes_written: of those that will be written.
        bytes_ignored: of those that are left out, by reason.
    """
    yield from _entry_lines(plan.entries)
    if plan.copies:
        yield ""
        yield "Read and checked to be copies:"
        for row in fold(sorted(plan.copies.items(), key=lambda pair: natural_order(pair[0]))):
            yield f"{len(row.members):>{_COUNT}}  {row.cells[0]} of {row.cells[1]}"
    yield ""
    yield "Left out:" if plan.ignored else "Left out: nothing"
    for reason, names in plan.ignored.items():
        size = file_size(bytes_ignored.get(reason, 0))
        yield f"{len(names):>{_COUNT}}  {reason}, {size}"
        yield from (
            f"{'':{_COUNT}}{_INDENT}{row.cells[0]}"
            for row in fold([(name,) for name in sorted(names, key=natural_order)])
        )
    yield ""
    read = len({name for entry in plan.entries for name in entry.sources} | {*plan.copies})
    yield (
        f"To read: {read} variables, {file_size(bytes_read)}. "
        f"To write: {len(plan.entries)} parameters, {file_size(bytes_written)}."
    )


def _entry_lines(entries: Sequence[PlanEntry]) -> Iterator[str]:
    """Two lines for each folded row: a variable, and the parameter that is made from it."""
    # A parameter made of several variables has a row for each, which fold again where they are alike.
    rows = [
        (source, _dims(shape), entry.target, _dims(entry.target_shape), _ops(entry))
        for entry in entries
        for source, shape in zip(entry.sources, entry.source_shapes, strict=True)
    ]
    folded = [(len(row.members), row.cells) for row in fold(rows)]
    longest = max((max(len(c[0]), len(c[2]) + len(_ARROW)) for _, c in folded), default=0)
    shape_width = max((max(len(c[1]), len(c[3])) for _, c in folded), default=0)
    width = min(longest, WIDTH - _COUNT - 4 - shape_width)
    yield f"{'':{_COUNT}}  {'variable':{width}}  shape"
    yield f"{'':{_COUNT}}  {_ARROW + 'parameter':{width}}  {'shape':{shape_width}}  ops"
    for count, (source, source_shape, target, target_shape, ops) in folded:
        yield f"{count:>{_COUNT}}  {source:{width}}  {source_shape}"
        yield f"{'':{_COUNT}}  {_ARROW + target:{width}}  {target_shape:{shape_width}}  {ops}".rstrip()


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _ops(entry: PlanEntry) -> str:
    said = [str(op) for op in entry.ops]
    if len(entry.sources) > 1:
        said.append(f"{len(entry.sources)} joined on axis {entry.join_axis}")
    return ", ".join([*said, *map(str, entry.finish)])
