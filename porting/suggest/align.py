"""Numbers of one family beside those of another: which counts what, and from where.

encoder/block_{}/layer_{}/rms_norm/scale   (0, 0) (0, 1) (1, 0) (1, 1)
encoder.{}.norm1.weight                    (0,) (1,)
-> the first number is the layer; the second must be 0 (or 1: that is another alignment)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from porting.suggest.names import Family

Numbers = tuple[int, ...]
# So many values of a number may each mean something else (layer 0: attention, layer 1: feed-forward).
_MEANINGS = 8
_MOVED, _FIXED, _LARGER = 0.01, 0.03, 0.3


@dataclass(frozen=True)
class Alignment:
    """Members of two families that belong together by their numbers.

    Attributes:
        pairs: numbers of the source -> numbers of the target.
        positions: for each number of the target, which of the source it is (None: it is fixed).
        offsets: what is added to it, or the fixed number.
        quality: 1 where every member has its counterpart and no number moves; less otherwise.
    """

    pairs: tuple[tuple[Numbers, Numbers], ...]
    positions: tuple[int | None, ...]
    offsets: tuple[int, ...]
    quality: float


def alignments(source: Family, target: Family) -> Iterator[Alignment]:
    """Every way in which the members could belong together, numbers used once, in groups of fixed ones."""
    ours, theirs = [*source.members], [*target.members]
    a, b = len(ours[0]), len(theirs[0])
    if a > 3 or b > 3:
        a = b = -1  # more numbers than layers have: only the same ones are believed
    if a == b == -1 or (ours == theirs and a == b):
        same = tuple((numbers, numbers) for numbers in ours if numbers in target.members)
        width = len(theirs[0])
        if same:
            yield Alignment(same, tuple(range(width)), (0,) * width, _coverage(len(same), source, target))
        return
    for used in range(min(a, b), -1, -1):
        for mine in permutations(range(a), used):
            for yours in permutations(range(b), used):
                if list(yours) == sorted(yours):
                    yield from _aligned(source, target, mine, yours)


def _aligned(source: Family, target: Family, mine: Numbers, yours: Numbers) -> Iterator[Alignment]:
    ours, theirs = _grouped([*source.members], mine), _grouped([*target.members], yours)
    if len(ours) > _MEANINGS or len(theirs) > _MEANINGS:
        return
    width = len(next(iter(target.members)))
    moved = sum(position != place for position, place in zip(mine, yours, strict=True))
    for members in ours.values():
        for fixed, counterparts in theirs.items():
            offsets = _offsets(members, counterparts)
            pairs = tuple(
                (full, counterparts[key])
                for numbers, full in members.items()
                if (key := tuple(n + o for n, o in zip(numbers, offsets, strict=True))) in counterparts
            )
            if not pairs:
                continue
            rest = iter(fixed)
            where = dict(zip(yours, zip(mine, offsets, strict=True), strict=True))
            places = [where.get(i) or (None, next(rest)) for i in range(width)]
            cost = _MOVED * (moved + sum(map(bool, offsets))) + _FIXED * bool(len(ours) - 1 + len(theirs) - 1)
            covered = (
                _coverage(len(pairs), source, target) * len(pairs) / max(len(members), len(counterparts))
            )
            positions, added = zip(*places, strict=True) if places else ((), ())
            yield Alignment(pairs, positions, added, covered - cost)


def _grouped(members: list[Numbers], used: Numbers) -> dict[Numbers, dict[Numbers, Numbers]]:
    """The numbers not used -> the used ones -> all of them."""
    grouped: dict[Numbers, dict[Numbers, Numbers]] = defaultdict(dict)
    for numbers in members:
        rest = tuple(n for i, n in enumerate(numbers) if i not in used)
        grouped[rest][tuple(numbers[i] for i in used)] = numbers
    return grouped


def _offsets(ours: dict[Numbers, Numbers], theirs: dict[Numbers, Numbers]) -> Numbers:
    """What to add: nothing, unless counting from another number pairs more of them."""
    width = len(next(iter(ours)))
    first = tuple(min(n[i] for n in theirs) - min(n[i] for n in ours) for i in range(width))
    zero = (0,) * width
    hits = {
        offsets: sum(tuple(a + b for a, b in zip(n, offsets, strict=True)) in theirs for n in ours)
        for offsets in (zero, first)
    }
    return first if hits[first] > hits[zero] else zero


def _coverage(paired: int, source: Family, target: Family) -> float:
    """1 where all members of both are paired; somewhat less where one family is larger than the other."""
    fewer, more = sorted((len(source.members), len(target.members)))
    return paired / fewer * (1 - _LARGER + _LARGER * paired / more)
