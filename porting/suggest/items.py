"""What is assigned: a variable or a parameter, or three of them (q, k, v) that are one on the other side."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from porting.mapping import Shape
from porting.ops import Split
from porting.suggest.names import parse
from porting.suggest.shapes import Way, ways
from porting.suggest.sides import Read, Side, as_float

_QKV = ("q", "k", "v")


@dataclass(frozen=True)
class Item:
    """One row or column of the assignment.

    Attributes:
        name: its own; of a trio the name that one of them has, `qkv` in the place of `query`.
        shape: its own; of a trio that of each.
        members: names in the order in which they are joined; one name if it is single.
        spelt: of a trio: how q, k and v are spelt.
        owner: of a parameter, the class of its module.
    """

    name: str
    shape: Shape
    members: tuple[str, ...]
    spelt: tuple[str, ...] = ()
    owner: str = ""
    dtypes: tuple[str, ...] = ()
    read: Read | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements, of all members."""
        return prod(self.shape) * len(self.members)

    def ways_to(self, target: Item) -> list[Way]:
        """How the shapes could become the target's."""
        ours, theirs = len(self.members), len(target.members)
        if ours == theirs:
            return ways(self.shape, target.shape) if ours == 1 else []
        if theirs == 1:
            if not target.shape or target.shape[0] % ours:
                return []
            part = (target.shape[0] // ours, *target.shape[1:])
            return [replace(way, words=f"{ours} joined, each: {way.words}") for way in ways(self.shape, part)]
        found = []
        for axis in sorted({len(self.shape) - 1, 0}, reverse=True):
            if not self.shape or self.shape[axis] % theirs:
                continue
            split = Split(axis, 0, theirs)
            for way in ways(split.output_shape(self.shape), target.shape):
                words = f"split in {theirs} on axis {axis}, each: {way.words}"
                found.append(replace(way, ops=(split, *way.ops), words=words))
        if len({way.ops[0] for way in found}) > 1:
            doubt = "the shape does not say along which axis it is split"
            found = [replace(way, doubt=way.doubt or doubt) for way in found]
        return found

    def arrays(self) -> Iterator[npt.NDArray[Any]]:
        """Values of each member."""
        assert self.read is not None
        for name in self.members:
            yield self.read(name)

    def made(self, target: Item, way: Way) -> list[npt.NDArray[np.float32]]:
        """What the ops make of the values, in the target's parts."""
        made = []
        for array in self.arrays():
            for part in ops_of_parts(way, len(target.members)) if len(target.members) > 1 else [way.ops]:
                values = array
                for op in part:
                    values = op.apply(values)
                made.append(as_float(values))
        return [np.concatenate(made)] if len(self.members) > 1 else made


def ops_of_parts(way: Way, count: int) -> list[tuple[Any, ...]]:
    """The ops of each part of a split, the first of which `way` has."""
    split = way.ops[0]
    assert isinstance(split, Split)
    return [(Split(split.axis, number, count), *way.ops[1:]) for number in range(count)]


def items(side: Side, names: list[str], fuse: bool) -> list[Item]:
    """Items of a side; with `fuse`, q, k and v of one scope are one item."""

    def single(name: str) -> Item:
        return Item(
            name,
            side.shapes[name],
            (name,),
            owner=side.owners.get(name, ""),
            dtypes=(side.dtypes.get(name, ""),),
            read=side.read,
        )

    if not fuse:
        return [single(name) for name in names]
    trios: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for name in names:
        for match in re.finditer(r"[^/._]+", name):
            word = parse(match[0]).words
            if len(word) == 1 and word[0] in _QKV:
                key = f"{name[: match.start()]}qkv{name[match.end() :]}"
                trios[key][word[0]] = (name, match[0])
    found: list[Item] = []
    used: set[str] = set()
    for key, trio in trios.items():
        if {*trio} == {*_QKV} and len({side.shapes[name] for name, _ in trio.values()}) == 1:
            members = tuple(trio[word][0] for word in _QKV)
            if used & {*members}:
                continue
            used |= {*members}
            spelt = tuple(trio[word][1] for word in _QKV)
            found.append(replace(single(members[0]), name=key, members=members, spelt=spelt))
    return [*found, *(single(name) for name in names if name not in used)]


def is_fused(names: list[str]) -> bool:
    """Whether a side has q, k and v in one, and never apart."""
    words = [parse(name).words for name in names]
    return any("qkv" in w for w in words) and not any({*w} & {*_QKV} for w in words)
