"""Which variable is which parameter, and how sure that is.

Every pair whose shapes allow it gets a score from names, numbers and, where there are values, content; the
assignment of the largest total is taken. What a confidence rests on: the score itself, its lead over the
next best candidate of either side, and what the shapes leave open.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from porting.mapping import Shape
from porting.suggest.align import alignments
from porting.suggest.assignment import assign
from porting.suggest.content import Contents, Same
from porting.suggest.items import Item
from porting.suggest.names import Family, families
from porting.suggest.shapes import Way
from porting.suggest.similarity import Similarity

# Below this, names say nothing: only a shape that no other has proposes such a pair.
LEAST_SCORE = 0.25
# Leads over the next best that are small, and none at all.
_LEAD, _TIE = 0.08, 0.02
# Confidence is at most so much where ...
_NO_VALUES = 0.95  # ... no values were compared
_NAMES_FOREIGN = 0.6  # ... only the shape speaks for a pair
_SQUARE_VOTED = 0.75  # ... the shapes leave it open, and others like it agree
_SQUARE = 0.5  # ... and nothing else says either
_ORDER_OF_QKV = 0.7  # ... q, k, v are assumed in this order
_CLOSE_RIVAL = 0.85  # ... another is nearly as likely
_OTHER_VALUES = 0.3  # ... the values are others, and other tensors' are the same
_LINEAR = "Linear"
EXACT, CLOSE = 0.99, 0.97


@dataclass(frozen=True)
class Match:
    """A pair.

    Attributes:
        source, target: items.
        way: the ops.
        confidence: 0 to 1.
        names: how alike the names are, 0 to 1.
        reasons: what it rests on, and what speaks against it, in words.
    """

    source: Item
    target: Item
    way: Way
    confidence: float
    names: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Link:
    names: float
    numbers: float

    @property
    def score(self) -> float:
        return self.names * self.numbers


def match(sources: Sequence[Item], targets: Sequence[Item], contents: Contents | None = None) -> list[Match]:
    """The likeliest pairs, each item in at most one.

    Args:
        sources, targets: without what is dropped.
        contents: which of them hold the same values, where both have some.
    """
    links = _links(sources, targets)
    ways = {
        (s, t): found
        for s, source in enumerate(sources)
        for t, target in enumerate(targets)
        if source.size == target.size and (found := source.ways_to(target))
    }
    proven: dict[tuple[int, int], Same] = {}
    if contents is not None:
        index = {(sources[s].name, targets[t].name): (s, t) for s, t in ways}
        proven = {index[pair]: same for pair, same in contents.same.items() if pair in index}
    scores = np.zeros((len(sources), len(targets)))
    for s, t in ways:
        link = links.get((s, t))
        scores[s, t] = 0.02 + (link.score if link else 0.0)
        if (s, t) in proven:
            scores[s, t] += 10
        elif contents is not None and contents.related and _both_tell(contents, sources[s], targets[t]):
            scores[s, t] *= 0.1
    pairs = assign(scores)
    by_source, by_target = defaultdict(list), defaultdict(list)
    for s, t in ways:
        by_source[s].append((s, t))
        by_target[t].append((s, t))
    votes = _votes(sources, targets, pairs, ways, proven)
    matches = []
    taken = {("s", s): (s, t) for s, t in pairs} | {("t", t): (s, t) for s, t in pairs}
    for s, t in pairs:
        link = links.get((s, t), _Link(0.0, 0.0))
        alone = len(by_source[s]) == len(by_target[t]) == 1
        if link.score < LEAST_SCORE and not alone and (s, t) not in proven:
            continue
        lead, rival_name = link.score, ""
        for pair in (*by_source[s], *by_target[t]):
            if pair == (s, t) or pair not in links:
                continue
            # A rival that fits better elsewhere is a weaker one.
            elsewhere = taken.get(("t", pair[1]) if pair[0] == s else ("s", pair[0]))
            better = links[elsewhere].score if elsewhere in links else 0.0
            rival = links[pair].score
            if link.score - rival + max(0.0, better - rival) < lead:
                lead = link.score - rival + max(0.0, better - rival)
                rival_name = targets[pair[1]].name if pair[0] == s else sources[pair[0]].name
        way, doubt, limit = _way(ways[s, t], votes, targets[t].owner)
        confidence, reasons = _judged(link, way, lead, rival_name, alone)
        confidence = min(confidence, _NO_VALUES)
        if doubt:
            confidence, reasons = min(confidence, limit), [*reasons, doubt]
        if len(sources[s].members) != len(targets[t].members):
            confidence = min(confidence, _ORDER_OF_QKV)
            reasons.append("that they are joined in the order q, k, v is usual, not proved")
        if (s, t) in proven:
            way, confidence, reasons = _proven(s, t, proven, reasons[:1], link)
        elif contents is not None and contents.related and _both_tell(contents, sources[s], targets[t]):
            confidence = min(confidence, _OTHER_VALUES)
            reasons.append("its values are not the parameter's, where those of other tensors are")
        matches.append(Match(sources[s], targets[t], way, round(confidence, 2), link.names, tuple(reasons)))
    return matches


def _links(sources: Sequence[Item], targets: Sequence[Item]) -> dict[tuple[int, int], _Link]:
    """The best of what names and numbers say for each pair that they say anything for."""
    ours, theirs = _families(sources), _families(targets)
    rows = {item.name: i for i, item in enumerate(sources)}
    columns = {item.name: i for i, item in enumerate(targets)}
    similarity = Similarity(ours, theirs)
    links: dict[tuple[int, int], _Link] = {}
    for source in ours:
        sizes = {sources[rows[name]].size for name in source.members.values()}
        rank = len(_first_shape(source, sources, rows))
        for target in theirs:
            if not sizes & {targets[columns[name]].size for name in target.members.values()}:
                continue
            names = similarity.of(source, target, rank)
            for alignment in alignments(source, target) if names > 0 else ():
                link = _Link(names, max(alignment.quality, 0.0))
                for numbers, others in alignment.pairs:
                    pair = rows[source.members[numbers]], columns[target.members[others]]
                    if pair not in links or link.score > links[pair].score:
                        links[pair] = link
    return links


def _families(items: Sequence[Item]) -> list[Family]:
    return families({item.name: item.owner for item in items})


def _first_shape(family: Family, items: Sequence[Item], rows: Mapping[str, int]) -> Shape:
    return items[rows[next(iter(family.members.values()))]].shape


def _both_tell(contents: Contents, source: Item, target: Item) -> bool:
    return contents.tells(source) and contents.tells(target)


def _votes(
    sources: Sequence[Item],
    targets: Sequence[Item],
    pairs: Sequence[tuple[int, int]],
    ways: Mapping[tuple[int, int], list[Way]],
    proven: Mapping[tuple[int, int], Same],
) -> dict[str, Counter[bool]]:
    """How often parameters of each kind of module are transposed, where the shapes, or the values, say so."""
    votes: dict[str, Counter[bool]] = defaultdict(Counter)
    for s, t in pairs:
        if len(targets[t].shape) < 2 or len(sources[s].shape) < 2:
            continue
        if (s, t) in proven:
            votes[targets[t].owner][proven[s, t].way.transposes] += 1
        elif len(ways[s, t]) == 1:
            votes[targets[t].owner][ways[s, t][0].transposes] += 1
    return votes


def _way(found: list[Way], votes: Mapping[str, Counter[bool]], owner: str) -> tuple[Way, str, float]:
    """The likeliest way, why it is in doubt ("" if it is not), and how sure it can be at most."""
    if len(found) == 1 and not found[0].doubt:
        return found[0], "", 1.0
    owner = _LINEAR if owner == "MultiheadAttention" else owner  # its in_proj_weight is three of them
    votes_here = votes.get(owner, Counter())
    # TensorFlow's kernels are [in, out], nn.Linear's weights [out, in]; tables are alike.
    transposed = votes_here[True] > votes_here[False] if votes_here else owner == _LINEAR
    way = next((way for way in found if way.transposes == transposed), found[0])
    agreed = votes_here[transposed]
    what = "transposed" if transposed else "as it is"
    if agreed and not votes_here[not transposed]:
        return way, f"{way.doubt}; {what} as {agreed} other {owner or 'parameter'}s are", _SQUARE_VOTED
    return way, f"{way.doubt}; {what} by custom only", _SQUARE


def _judged(link: _Link, way: Way, lead: float, rival: str, alone: bool) -> tuple[float, list[str]]:
    reasons = [f"names {link.names:.2f}", way.words]
    if link.numbers < 0.9:
        reasons.insert(1, f"numbers {link.numbers:.2f}")
    if alone:
        reasons.append("no other has this size")
        if link.score < LEAST_SCORE:
            return _NAMES_FOREIGN * 0.8, reasons
        return 1 - 0.5 * (1 - link.score) if link.score > 0.5 else max(link.score, _NAMES_FOREIGN), reasons
    # Of what could be better, how much the next best lacks more.
    lead = lead if lead > _TIE else 0.0
    confidence = link.score * (0.5 + 0.5 * lead / max(lead + 1 - link.score, 1e-9))
    if rival and lead < _LEAD:
        reasons.append(f"nearly as likely: {rival}" if lead > _TIE else f"ambiguous with {rival}")
        confidence = min(confidence, _CLOSE_RIVAL)
    return confidence, reasons


def _proven(
    s: int, t: int, proven: Mapping[tuple[int, int], Same], reasons: list[str], link: _Link
) -> tuple[Way, float, list[str]]:
    same = proven[s, t]
    twins = [pair for pair in proven if pair != (s, t) and (pair[0] == s or pair[1] == t)]
    words = "same values, bit for bit" if same.exact else "same values, as far as the narrower dtype goes"
    confidence = EXACT if same.exact else CLOSE
    if twins:
        words += f"; {len(twins)} other pair{'s' if len(twins) > 1 else ''} with the same values"
        confidence = min(confidence, max(0.6, link.score * 0.89))
    way = replace(same.way, doubt="")
    return way, confidence, [words, way.words, *reasons]
