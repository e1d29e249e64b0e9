"""Pairs -> rules over layer numbers, as a person would write them.

    encoder/block_000/layer_001/wi/kernel -> encoder.block.0.layer.1.wi.weight
    encoder/block_001/layer_001/wi/kernel -> encoder.block.1.layer.1.wi.weight
    -> Rule(r"encoder/block_(?P<block>\\d+)/layer_001/wi/kernel", "encoder.block.{block}.layer.1.wi.weight")

A pattern must claim just the variables that it was made from; where it would claim another, it names the
numbers one by one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from porting.mapping import Rule
from porting.ops import Op
from porting.suggest.items import ops_of_parts
from porting.suggest.matching import Match
from porting.suggest.names import Name, parse

_TAKEN = ("part", "stack")


@dataclass(frozen=True)
class SuggestedRule:
    """A rule, what it was made from, and why.

    Attributes:
        rule: as `porting.mapping` takes it.
        sources, targets: names that it joins.
        confidence: the least of its pairs.
        reasons: of the pair that is the least sure.
    """

    rule: Rule
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    confidence: float
    reasons: tuple[str, ...]


def generalise(matches: Sequence[Match], every: Iterable[str]) -> list[SuggestedRule]:
    """Rules that claim exactly the sources of the matches.

    Args:
        matches: pairs.
        every: all names of the checkpoint, which no pattern may claim by mistake.
    """
    names = [*every]
    groups: dict[tuple[object, ...], list[Match]] = defaultdict(list)
    for found in matches:
        source, target = parse(found.source.name), parse(found.target.name)
        key = (source.pattern, target.pattern, _ops(found), found.source.spelt, found.target.spelt)
        groups[key].append(found)
    rules: list[SuggestedRule] = []
    for group in groups.values():
        rules += _rules(group, names)
    return rules


def _ops(found: Match) -> tuple[Op, ...]:
    return found.way.ops


def _rules(group: list[Match], every: list[str]) -> list[SuggestedRule]:
    """One rule if the numbers of all go alike; else one for each value of the first that does not."""
    parsed = [(parse(found.source.name), parse(found.target.name)) for found in group]
    places = _places([s for s, _ in parsed], [t for _, t in parsed])
    if places is not None:
        rule = _rule(group, parsed, places)
        wanted = {name for found in group for name in found.source.members}
        if {name for name in every if rule.regex.fullmatch(name)} == wanted:
            worst = min(group, key=lambda found: found.confidence)
            return [
                SuggestedRule(
                    rule,
                    tuple(name for found in group for name in found.source.members),
                    tuple(name for found in group for name in found.target.members),
                    worst.confidence,
                    worst.reasons,
                )
            ]
    width = len(parsed[0][0].numbers)
    varying = [i for i in range(width) if len({s.numbers[i] for s, _ in parsed}) > 1]
    if not varying:
        return [rule for found in group for rule in _rules([found], every)] if len(group) > 1 else []
    split: dict[int, list[Match]] = defaultdict(list)
    position = min(varying, key=lambda i: len({s.numbers[i] for s, _ in parsed}))
    for found, (source, _) in zip(group, parsed, strict=True):
        split[source.numbers[position]].append(found)
    return [rule for part in split.values() for rule in _rules(part, every)]


def _places(sources: list[Name], targets: list[Name]) -> list[tuple[int | None, int]] | None:
    """Where each number of the target comes from: a number of the source and what is added, or fixed."""
    places: list[tuple[int | None, int]] = []
    for i in range(len(targets[0].numbers)):
        values = [target.numbers[i] for target in targets]
        if len({*values}) == 1 and (len(targets) > 1 or not sources[0].numbers):
            places.append((None, values[0]))
            continue
        for j in range(len(sources[0].numbers)):
            offsets = {value - source.numbers[j] for value, source in zip(values, sources, strict=True)}
            # A target's number can be more than the source's, not less: `{i+1}` is all there is.
            if len(offsets) == 1 and min(offsets) >= 0 and len({*values}) > 1:
                places.append((j, offsets.pop()))
                break
        else:
            if len({*values}) > 1:
                return None
            places.append((None, values[0]))
    return places


def _rule(group: list[Match], parsed: list[tuple[Name, Name]], places: list[tuple[int | None, int]]) -> Rule:
    sources = [source for source, _ in parsed]
    first, found = parsed[0][0], group[0]
    groups = _group_names(first, {j for j, _ in places if j is not None})
    digits = []
    for j in range(len(first.numbers)):
        spelt = sorted({source.digits[j] for source in sources}, key=lambda text: (int(text), text))
        if j in groups:
            digits.append(rf"(?P<{groups[j]}>\d+)")
        else:
            digits.append(spelt[0] if len(spelt) == 1 else f"(?:{'|'.join(spelt)})")
    pattern = _filled(re.escape(first.pattern).replace(r"\{\}", "{}"), digits)
    pattern = pattern.replace(r"\-", "-")
    numbers = [
        str(added) if j is None else f"{{{groups[j]}{f'+{added}' if added else ''}}}" for j, added in places
    ]
    target = _filled(parsed[0][1].pattern, numbers)
    if found.source.spelt:
        order = found.source.spelt
        return Rule(_trio(pattern, f"(?P<stack>{'|'.join(order)})"), target, found.way.ops, stack=order)
    if found.target.spelt:
        targets = [_trio(target, word) for word in found.target.spelt]
        parts = ops_of_parts(found.way, len(targets))
        return Rule(pattern, targets[0], parts[0], also=tuple(zip(targets[1:], parts[1:], strict=True)))
    return Rule(pattern, target, found.way.ops)


def _trio(text: str, words: str) -> str:
    """A name with `qkv` in the place of q, k or v: with the words there."""
    return re.sub(r"(?<![A-Za-z0-9])qkv(?![A-Za-z0-9])", lambda _match: words, text, count=1)


def _filled(pattern: str, numbers: Sequence[str]) -> str:
    rest = iter(numbers)
    return re.sub(r"\{\}", lambda _match: next(rest), pattern)


def _group_names(name: Name, used: set[int]) -> dict[int, str]:
    """What each number counts, by the word before it: `block_{}` is `block`."""
    names: dict[int, str] = {}
    before = name.pattern.split("{}")
    for j in sorted(used):
        words = re.findall(r"[A-Za-z]+", before[j])
        word = words[-1].lower() if words else "i"
        word = {"h": "layer", "layers": "layer", "blocks": "block"}.get(word, word)
        if word in names.values() or word in _TAKEN:
            word = f"{word}_{j}"
        names[j] = word
    return names
