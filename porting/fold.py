"""Rows of names that differ in running numbers, or in a word, become one row: layers fold.

    >>> rows = [(f"block_{i:03d}/{k}/kernel", f"block.{i}.{k}.weight") for i in range(12) for k in "qkv"]
    >>> [row.cells for row in fold(rows)]
    [('block_{000..011}/{q,k,v}/kernel', 'block.{0..11}.{q,k,v}.weight')]

How a folded row reads: braces stand for each of what they list, in that order; `0..11` lists a whole range,
`1..23..2` one in steps. Braces of a row that list the same, as numbers or words, run together (block_007 goes
to block.7); others run independently, and all combinations are there. Where that would be wrong, braces that
run together begin with one letter: `{i:0..3}`, `{i:8..11}`. Braces that a name has of itself are doubled.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from string import ascii_lowercase

_NUMBER = re.compile(r"([0-9]{1,18})")
_DELIMITER = re.compile(r"([/._])")
_WORD = re.compile(r"[A-Za-z]+")
_INSIDE = re.compile(r"\{([^{}]*)\}")
_HOLE = "\0"
_LABELS = ascii_lowercase[ascii_lowercase.index("i") :] + ascii_lowercase[: ascii_lowercase.index("i")]
# A range is shown as one from three numbers on: {0,1} is shorter than {0..1}.
_SHORTEST_RANGE, _SHORTEST_STEPS = 3, 4
# Words that vary: of `{q,k,v}_slot_{vr,vc}` a reader keeps track, of more hardly.
_MOST_WORDS = 2

Numbers = tuple[str, ...]


@dataclass(frozen=True)
class FoldedRow:
    """Rows that became one.

    Attributes:
        cells: their text, with braces for what varies.
        members: which rows they are, as places in the list that was folded.
    """

    cells: tuple[str, ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class _Axis:
    """What runs together: for each of its values the spelling in each hole, in the order of `holes`."""

    holes: tuple[int, ...]
    values: tuple[Numbers, ...]


def fold(rows: Sequence[tuple[str, ...]]) -> list[FoldedRow]:
    """Fold rows whose cells are equal but for numbers, then those that are equal but for one or two words.

    Args:
        rows: all of one length; none is there twice. Values are listed in the order in which they come.

    Returns:
        Each row in exactly one folded row; in the order of the first of each.
    """
    alike: dict[tuple[tuple[str, ...], ...], list[tuple[Numbers, int]]] = defaultdict(list)
    for at, row in enumerate(rows):
        parts = [_NUMBER.split(cell) for cell in row]
        numbers = tuple(number for part in parts for number in part[1::2])
        alike[tuple(tuple(part[::2]) for part in parts)].append((numbers, at))
    folded = [
        FoldedRow(_render(literals, axes), tuple(sorted(members)))
        for literals, group in alike.items()
        for axes, members in _products(dict(group))
    ]
    for _ in range(_MOST_WORDS):
        folded = _fold_words(sorted(folded, key=lambda row: row.members))
    return folded


def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """A key that sorts layer_2 before layer_10."""
    parts = [*_NUMBER.split(name), "0"]
    return tuple((text, int(number)) for text, number in zip(parts[::2], parts[1::2], strict=True))


# --- Numbers ---------------------------------------------------------------------------------------------


def _products(rows: Mapping[Numbers, int]) -> list[tuple[tuple[_Axis, ...], list[int]]]:
    """Part rows into full products of axes."""
    axes = _linked(list(rows))
    if prod(len(axis.values) for axis in axes) == len(rows):
        return [(axes, list(rows.values()))]
    # Not all combinations are there, so that on some axis the values do not all have the same ones.
    # Of two that part alike the later one, so that blocks, which names say first, stay together.
    partings = [parting for axis in reversed(axes) if len(parting := _parting(rows, axis)) > 1]
    return [product for part in min(partings, key=len) for product in _products(part)]


def _linked(rows: Sequence[Numbers]) -> tuple[_Axis, ...]:
    """Axes of holes, each with values that determine each other; holes with one value are an axis too."""
    axes: list[list[int]] = []
    for hole in range(len(rows[0])):
        for axis in axes:
            pairs = {(row[axis[0]], row[hole]) for row in rows}
            if len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
                axis.append(hole)
                break
        else:
            axes.append([hole])
    return tuple(
        _Axis(tuple(axis), tuple(dict.fromkeys(tuple(row[hole] for hole in axis) for row in rows)))
        for axis in axes
    )


def _parting(rows: Mapping[Numbers, int], axis: _Axis) -> list[dict[Numbers, int]]:
    """Rows parted by which combinations of the other holes their value on `axis` has."""
    by_value: dict[Numbers, dict[Numbers, int]] = defaultdict(dict)
    for row, at in rows.items():
        by_value[tuple(row[hole] for hole in axis.holes)][row] = at
    by_rest: dict[frozenset[Numbers], dict[Numbers, int]] = defaultdict(dict)
    for part in by_value.values():
        rest = frozenset(
            tuple(number for hole, number in enumerate(row) if hole not in axis.holes) for row in part
        )
        by_rest[rest].update(part)
    return list(by_rest.values())


def _render(literals: Sequence[Sequence[str]], axes: Sequence[_Axis]) -> tuple[str, ...]:
    columns: dict[int, tuple[str, ...]] = {}
    owner: dict[int, int] = {}
    for number, axis in enumerate(axes):
        for place, hole in enumerate(axis.holes):
            columns[hole] = tuple(value[place] for value in axis.values)
            owner[hole] = number
    varying = [hole for hole, column in columns.items() if len(column) > 1]
    cell_of = [number for number, cell in enumerate(literals) for _ in cell[1:]]
    labelled = _needs_labels(
        [(owner[hole], cell_of[hole], tuple(map(int, columns[hole]))) for hole in varying]
    )
    labels = {number: _LABELS[i] for i, number in enumerate(dict.fromkeys(owner[h] for h in sorted(varying)))}
    holes = iter(sorted(columns))
    cells = []
    for cell in literals:
        text = _escaped(cell[0])
        for literal in cell[1:]:
            hole = next(holes)
            column = columns[hole]
            listed = ",".join(_runs(column))
            label = f"{labels[owner[hole]]}:" if labelled and len(column) > 1 else ""
            text += (column[0] if len(column) == 1 else f"{{{label}{listed}}}") + _escaped(literal)
        cells.append(text)
    return tuple(cells)


def _needs_labels(holes: Iterable[tuple[int, int, tuple[int, ...]]]) -> bool:
    """Whether the braces do not tell by what they list which of them run together.

    Two in one cell that do are labelled as well: they look as if all combinations were there.
    """
    holes = list(holes)
    if len({(axis, cell) for axis, cell, _ in holes}) < len(holes):
        return True
    lists = {(axis, values) for axis, _, values in holes}
    return not len(lists) == len({axis for axis, _ in lists}) == len({values for _, values in lists})


def _runs(column: Sequence[str]) -> list[str]:
    """`0..3` for a whole range, with its leading zeros, `1..7..2` for one in steps; else each number."""
    out: list[str] = []
    start = 0
    while start < len(column):
        end, step = _run(column, start)
        if end - start < (_SHORTEST_RANGE if step == 1 else _SHORTEST_STEPS):
            end = start + 1
            out.append(column[start])
        else:
            out.append(f"{column[start]}..{column[end - 1]}" + (f"..{step}" if step > 1 else ""))
        start = end
    return out


def _run(column: Sequence[str], start: int) -> tuple[int, int]:
    """Where the numbers end that are as far apart as the first two, with as many zeros; how far that is."""
    first, width = int(column[start]), len(column[start])
    step = int(column[start + 1]) - first if start + 1 < len(column) else 0
    end = start + 1
    while step > 0 and end < len(column) and column[end] == f"{first + step * (end - start):0{width}d}":
        end += 1
    return end, step


def _escaped(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")


# --- Words -----------------------------------------------------------------------------------------------


def _fold_words(rows: Sequence[FoldedRow]) -> list[FoldedRow]:
    """Merge rows that differ in one word, the largest groups first; each row once."""
    groups: dict[tuple[str, ...], dict[str, FoldedRow]] = defaultdict(dict)
    for row in rows:
        segments = [_DELIMITER.split(cell) for cell in row.cells]
        # The first segment says to which part of a model a variable belongs, and that is what is looked for.
        for word in dict.fromkeys(filter(_WORD.fullmatch, segments[0][1:])):
            for chosen in (slice(None), slice(1), slice(-1, None)):
                shape = tuple("".join(_with_hole(cell, word, chosen)) for cell in segments)
                groups[shape][word] = row
    merged: list[FoldedRow] = []
    taken: set[FoldedRow] = set()
    for cells, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        left = {word: row for word, row in group.items() if row not in taken}
        brace = f"{{{','.join(left)}}}"
        # Braces that list the same would seem to run together with these.
        seen = [{*inside.split(",")} for cell in cells for inside in _INSIDE.findall(cell)]
        if len(left) < 2 or {*left} in seen:
            continue
        taken.update(left.values())
        members = sorted(at for row in left.values() for at in row.members)
        merged.append(FoldedRow(tuple(cell.replace(_HOLE, brace) for cell in cells), tuple(members)))
    merged += [row for row in rows if row not in taken]
    return sorted(merged, key=lambda row: row.members)


def _with_hole(segments: Sequence[str], word: str, chosen: slice) -> list[str]:
    """A cell with a hole for the word, where it stands: everywhere, or first, or last (`v_slot_v`)."""
    places = [at for at, segment in enumerate(segments) if segment == word][chosen]
    return [_HOLE if at in places else segment for at, segment in enumerate(segments)]
