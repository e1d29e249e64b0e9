"""How alike two names are: the words they share, each worth the more, the fewer other names have it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from porting.suggest.names import OFFSET, OTHER, WEIGHT, Family

# A word that says something in these names weighs at least so much, even where every name has it.
_LEAST = 0.1
# A word that the other side never uses cannot speak against a pair as loudly as one that it does.
_UNHEARD = 0.35
_ABBREVIATION = 0.7
_AROUND = 0.5
_WRONG_KIND = 0.25
# Order of the words, beside which words there are.
_ORDER = 0.1


class Similarity:
    """Of families of two sides, from 0 (nothing in common) to 1 (the same words).

    Args:
        sources, targets: all families there are: how much a word says depends on who else has it.
    """

    def __init__(self, sources: Sequence[Family], targets: Sequence[Family]) -> None:
        self._weights = [_weights(side) for side in (sources, targets)]

    def of(self, source: Family, target: Family, rank: int) -> float:
        """How alike; `rank` is the number of dimensions of the source, which tells offsets from tables."""
        score = self._words(source, target)
        kinds = {_kind(source, rank), _kind(target, rank)}
        if kinds == {WEIGHT, OFFSET}:
            score *= _WRONG_KIND
        return score

    def _words(self, source: Family, target: Family) -> float:
        ours, theirs = Counter(source.words), Counter(target.words)
        if not ours and not theirs:
            return 1.0
        shared = ours & theirs
        left, right = list((ours - shared).elements()), list((theirs - shared).elements())
        matched = sum(self._weight(0, w) + self._weight(1, w) for w in shared.elements())
        total = matched
        for word in list(left):
            partner = next((other for other in right if _abbreviates(word, other)), None)
            if partner is not None:
                pair = self._weight(0, word, True) + self._weight(1, partner, True)
                matched, total = matched + _ABBREVIATION * pair, total + pair
                left.remove(word)
                right.remove(partner)
        for side, words, other in ((0, left, target), (1, right, source)):
            for word in words:
                weight = self._weight(side, word)
                total += weight
                if word in other.implied:
                    matched += weight
                elif word in other.around:
                    matched += _AROUND * weight
        if not total:
            return 0.0
        score = matched / total
        return score * (1 - _ORDER) + _ORDER * score * _in_order(source.words, target.words)

    def _weight(self, side: int, word: str, heard: bool = False) -> float:
        weight = self._weights[side].get(word, 1.0)
        return weight if heard or word in self._weights[1 - side] else weight * _UNHEARD


def _weights(side: Sequence[Family]) -> dict[str, float]:
    counts = Counter(word for family in side for word in {*family.words})
    largest = math.log(1 + len(side))
    return {word: _LEAST + math.log((1 + len(side)) / count) / largest for word, count in counts.items()}


def _kind(family: Family, rank: int) -> str:
    if family.kind == OFFSET:
        return OFFSET if rank < 2 else OTHER
    return family.kind


def _abbreviates(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    if len(short) < 3 or len(long) - len(short) > 8 or short[0] != long[0]:
        return False
    letters = iter(long)
    return all(letter in letters for letter in short)


def _in_order(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """How much of the shared words stands in the same order: the longest common subsequence."""
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if shared < 2:
        return 1.0
    row = [0] * (len(theirs) + 1)
    for word in ours:
        previous = 0
        for i, other in enumerate(theirs):
            kept = row[i + 1]
            row[i + 1] = previous + 1 if word == other else max(row[i + 1], row[i])
            previous = kept
    return row[-1] / shared
