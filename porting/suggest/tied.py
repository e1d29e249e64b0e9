"""Parameters that share a variable: a table that the original keeps once, and the module twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from porting.suggest.content import Contents
from porting.suggest.generalise import SuggestedRule
from porting.suggest.items import Item
from porting.suggest.matching import EXACT
from porting.suggest.names import parse

_TIED = 0.6
_TABLES = frozenset({"embedding", "head", "word"})


def with_tied(
    rules: Sequence[SuggestedRule],
    sources: Sequence[Item],
    targets: Sequence[Item],
    contents: Contents | None,
) -> list[SuggestedRule]:
    """The rules, those of a tied variable with the further parameters that it fills.

    Proposed where the values are the same, and for embedding tables and output projections that are left
    without a variable while a table of just their shape is at hand.
    """
    filled = {name for found in rules for name in found.targets}
    free = [item for item in sources if item.name not in {name for found in rules for name in found.sources}]
    by_name = {item.name: item for item in sources}
    result = list(rules)
    for target in targets:
        if len(target.members) > 1 or target.name in filled or any(i.size == target.size for i in free):
            continue
        for i, found in enumerate(result):
            if len(found.sources) != 1 or found.sources[0] not in by_name:
                continue
            source = by_name[found.sources[0]]
            same = contents.same.get((source.name, target.name)) if contents else None
            if same is None and not (_is_table(source) and _is_table(target)):
                continue
            ways = [same.way] if same else source.ways_to(target)
            if len(ways) != 1 or target.size != source.size:
                continue
            confidence = EXACT if same else _TIED
            why = "same values" if same else f"tied: no other variable has the shape of {target.name}"
            rule = replace(found.rule, also=(*found.rule.also, (target.name, ways[0].ops)))
            result[i] = replace(
                found,
                rule=rule,
                targets=(*found.targets, target.name),
                confidence=min(found.confidence, confidence),
                reasons=(*found.reasons, why),
            )
            break
    return result


def _is_table(item: Item) -> bool:
    return len(item.shape) == 2 and (bool(_TABLES & {*parse(item.name).words}) or item.owner == "Embedding")
