"""Rules that differ in one word that both sides spell alike -> one rule: `(?P<name>q|k|v)` and `{name}`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from porting.mapping import Rule
from porting.suggest.generalise import SuggestedRule

_GROUP = "name"
_PLAIN = re.compile(r"[A-Za-z_]\w*")
# Rules are one only where they are about equally sure: else the doubt of one would hide the other's.
_ALIKE = 0.05


def merged(rules: Sequence[SuggestedRule], every: Iterable[str]) -> list[SuggestedRule]:
    """The rules, those that say the same of several words joined, in the order of the first of each.

    Args:
        rules: none of which claims what another does.
        every: all names of the checkpoint; a joined rule claims just what its parts did.
    """
    names = [*every]
    left = list(rules)
    while True:
        groups: dict[tuple[object, ...], list[tuple[str, SuggestedRule]]] = defaultdict(list)
        for found in left:
            for word, pattern, target in _holes(found.rule):
                groups[pattern, target, found.rule.ops].append((word, found))
        for key, parts in sorted(groups.items(), key=lambda item: -len(item[1])):
            joined = _joined(str(key[0]), str(key[1]), parts, names) if len(parts) > 1 else None
            if joined:
                first = parts[0][1]
                gone = [found for _, found in parts if found is not first]
                left = [joined if f is first else f for f in left if not any(f is g for g in gone)]
                break
        else:
            return left


def _holes(rule: Rule) -> Iterator[tuple[str, str, str]]:
    """Each word that stands in both names once, with what the pattern and the target are without it."""
    if rule.also or rule.stack or f"(?P<{_GROUP}>" in rule.pattern:
        return
    ours, theirs = rule.pattern.split("/"), rule.target.split(".")
    for i, word in enumerate(ours):
        if _PLAIN.fullmatch(word) and ours.count(word) == theirs.count(word) == 1:
            target = [f"{{{_GROUP}}}" if part == word else part for part in theirs]
            yield word, "/".join([*ours[:i], "\0", *ours[i + 1 :]]), ".".join(target)


def _joined(
    pattern: str, target: str, parts: list[tuple[str, SuggestedRule]], every: list[str]
) -> SuggestedRule | None:
    confidences = [found.confidence for _, found in parts]
    if max(confidences) - min(confidences) > _ALIKE:
        return None
    words = "|".join(word for word, _ in parts)
    rule = Rule(pattern.replace("\0", f"(?P<{_GROUP}>{words})"), target, parts[0][1].rule.ops)
    sources = tuple(name for _, found in parts for name in found.sources)
    if {name for name in every if rule.regex.fullmatch(name)} != {*sources}:
        return None
    worst = min((found for _, found in parts), key=lambda found: found.confidence)
    targets = tuple(name for _, found in parts for name in found.targets)
    return SuggestedRule(rule, sources, targets, worst.confidence, worst.reasons)
