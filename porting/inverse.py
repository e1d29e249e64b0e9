"""A plan turned round: from a model's parameters back to the variables that they were made of.

    plan = make_plan(port.rules(config, list(variables)), variables, parameters)
    back = invert_plan(plan)  # entries whose sources are parameters and whose targets are variables

Every op is undone, in reverse order. A variable that was taken apart is joined again, one that was joined
with others is sliced out, and where it became several parameters that are the same, one of them is read and
the others must be its copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from porting.errors import MappingError, Problem
from porting.mapping import Plan, PlanEntry, Shape
from porting.ops import Op, Part, Reshape, Slice, Split, joined_shape, output_shape


@dataclass(frozen=True)
class _Use:
    """One way from a parameter back to a variable, or to a piece of it.

    Attributes:
        parameter, parameter_shape: where it begins.
        ops: from the parameter to the whole variable, or to the piece.
        piece: axis, start and stop of the piece that was taken out; None: the whole variable.
        whole: size of that axis before.
        finish: what is left to do to the pieces, joined.
    """

    parameter: str
    parameter_shape: Shape
    ops: tuple[Op, ...]
    piece: tuple[int, int, int] | None = None
    whole: int = 0
    finish: tuple[Op, ...] = ()


def invert_plan(plan: Plan) -> Plan:
    """The plan that makes the sources of a plan out of its targets, bit for bit.

    Returns:
        Entries in the order of the variables' names; `copies` are parameters that must be the same as
        another. What the plan ignores is lost: no parameter holds it.

    Raises:
        MappingError: a variable cannot be had back: a part of it went nowhere, or an op cannot be undone.
    """
    uses: dict[str, list[_Use]] = defaultdict(list)
    shapes: dict[str, Shape] = {}
    problems: list[Problem] = []
    for entry in plan.entries:
        for number, (name, shape) in enumerate(zip(entry.sources, entry.source_shapes, strict=True)):
            shapes[name] = shape
            try:
                way = _way_back(entry, number)
            except ValueError as error:
                problems.append(Problem(name, f"a way back from {entry.target}", f"{error}"))
            else:
                uses[name].append(way)
    entries: list[PlanEntry] = []
    copies: dict[str, str] = {}
    for name in sorted(uses):
        try:
            chosen = _once_each(uses[name], copies)
            entries.append(_entry(name, shapes[name], chosen))
        except ValueError as error:
            problems.append(Problem(name, "parameters that give all of it", f"{error}"))
    if problems:
        raise MappingError(
            f"{len(problems)} variable{'s' if len(problems) > 1 else ''} cannot be made of the model's "
            "parameters; nothing was written.",
            problems=problems,
        )
    return Plan(tuple(entries), copies=copies)


def _way_back(entry: PlanEntry, number: int) -> _Use:
    """From an entry's parameter to its source of that number. Raises ValueError if there is none."""
    shape = entry.source_shapes[number]
    parts = [output_shape(entry.ops, source) for source in entry.source_shapes]
    back = [*_undone(entry.finish, joined_shape(parts, entry.join_axis))]
    if len(parts) > 1:
        back += _slice(parts, number, entry.join_axis)
    taken = [i for i, op in enumerate(entry.ops) if isinstance(op, Part | Split | Slice)]
    if not taken:
        return _Use(entry.target, entry.target_shape, (*back, *_undone(entry.ops, shape)))
    if len(taken) > 1:
        raise ValueError("it was taken apart twice on the way")
    (at,) = taken
    before, op, after = entry.ops[:at], entry.ops[at], entry.ops[at + 1 :]
    cut = output_shape(before, shape)
    back += _undone(after, op.output_shape(cut))
    if isinstance(op, Part):
        back.append(Reshape(op.output_shape(cut), (*cut[: op.axis], 1, *cut[op.axis + 1 :])))
    axis, start, stop = _interval(op, cut)
    finish = tuple(_undone(before, shape))
    return _Use(entry.target, entry.target_shape, tuple(back), (axis, start, stop), cut[axis], finish)


def _undone(ops: Sequence[Op], shape: Shape) -> Iterator[Op]:
    """The inverses of ops that begin at a shape, the last one first."""
    inverses = []
    for op in ops:
        inverses.append(op.inverse(shape))
        shape = op.output_shape(shape)
    yield from reversed(inverses)


def _interval(op: Op, shape: Shape) -> tuple[int, int, int]:
    """Axis, start and stop of what an op takes out of a tensor of this shape."""
    if isinstance(op, Split):
        width = shape[op.axis] // op.count
        return op.axis, op.number * width, (op.number + 1) * width
    if isinstance(op, Slice):
        return op.axis, op.start, op.stop
    assert isinstance(op, Part)
    return op.axis, op.number, op.number + 1


def _slice(parts: Sequence[Shape], number: int, axis: int) -> Iterator[Op]:
    """What takes one of several joined parts out again."""
    sizes = [part[axis] for part in parts]
    if len(set(sizes)) == 1:
        yield Split(axis, number, len(parts))
    else:
        start = sum(sizes[:number])
        yield Slice(axis, start, start + sizes[number], sum(sizes))


def _once_each(uses: Sequence[_Use], copies: dict[str, str]) -> list[_Use]:
    """The whole variable or each piece of it once; the parameters of further uses are noted as copies."""
    chosen: dict[tuple[int, int, int] | None, _Use] = {}
    for use in uses:
        first = chosen.setdefault(use.piece, use)
        if first is use:
            continue
        if (use.ops, use.finish) != (first.ops, first.finish):
            raise ValueError(f"{first.parameter} and {use.parameter} are both made of it, but not alike")
        copies[use.parameter] = first.parameter
    if None in chosen and len(chosen) > 1:
        names = ", ".join(use.parameter for use in chosen.values())
        raise ValueError(f"{names} are made of it, of some the whole and of some a part")
    return list(chosen.values())


def _entry(name: str, shape: Shape, uses: Sequence[_Use]) -> PlanEntry:
    """What makes a variable of one parameter, or of several that are pieces of it."""
    first = uses[0]
    axis = 0
    if first.piece is not None:
        axis = first.piece[0]
        uses = sorted(uses, key=lambda use: use.piece or ())
        _check_pieces(uses)
    sources = tuple(use.parameter for use in uses)
    found = tuple(use.parameter_shape for use in uses)
    entry = PlanEntry(sources, name, first.ops, found, shape, axis, first.finish)
    if len(sources) == 1:  # nothing is joined
        entry = PlanEntry(sources, name, (*first.ops, *first.finish), found, shape)
    if entry.made_shape() != shape:
        raise ValueError(f"{', '.join(sources)} give shape {entry.made_shape()}, not {shape}")
    return entry


def _check_pieces(uses: Sequence[_Use]) -> None:
    """Raise ValueError unless pieces, in order, are all of a variable, and are made alike."""

    def made(use: _Use) -> tuple[object, ...]:
        return use.piece and use.piece[0], use.whole, use.ops, use.finish

    end, first = 0, uses[0]
    for use in uses:
        axis, start, stop = use.piece or (0, 0, 0)
        if made(use) != made(first):
            raise ValueError(f"{first.parameter} and {use.parameter} are parts of it that were made unlike")
        if start != end:
            raise ValueError(f"no parameter holds {end} to {start} of {use.whole} on axis {axis}")
        end = stop
    if end != first.whole:
        raise ValueError(f"no parameter holds {end} to {first.whole} of {first.whole} on axis {axis}")
