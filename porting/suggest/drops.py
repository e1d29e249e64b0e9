"""Variables that are no weights: optimizer slots, counters, what is not a number. Proposed as Drop."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from porting.mapping import Drop
from porting.suggest.sides import Side

# How optimizers name what they keep beside a variable: Mesh's and T5X's Adafactor, Adam, LAMB, momentum,
# RMSProp, moving averages.
_SLOTS = re.compile(
    r"(?:_slot_(?:v|vr|vc|m)|/adam_[mv]|/Adam(?:_1)?|/Adafactor\w*|/LAMB\w*|_momentum_v|/Momentum|/RMSProp(?:_1)?"
    r"|/ExponentialMovingAverage|/\.OPTIMIZER_SLOT/.*)$"
)
_COUNTERS = re.compile(
    r"(?:.*/)?(?:global_step|step|iter|iterations|save_counter|beta[12]_power|learning_rate)(?:/\.ATTRIBUTES/.*)?"
)


@dataclass(frozen=True)
class SuggestedDrop:
    """A Drop, what it claims, and why."""

    rule: Drop
    names: tuple[str, ...]
    confidence: float
    reasons: tuple[str, ...]


def orphans(side: Side) -> frozenset[str]:
    """Names of slots whose variable is not there: no weights, and nobody knows whose they were."""
    found = ((name, slot) for name in side.shapes if (slot := _SLOTS.search(name)))
    return frozenset(name for name, slot in found if name[: slot.start()] not in side.shapes)


def suggest_drops(side: Side) -> list[SuggestedDrop]:
    """One Drop for each kind of slot, one for counters, one for what cannot be read."""
    slots: dict[str, list[str]] = defaultdict(list)
    counters, others = [], []
    for name, shape in side.shapes.items():
        slot = _SLOTS.search(name)
        if slot and name[: slot.start()] in side.shapes:
            slots[slot[0]].append(name)
        elif name in side.unreadable:
            others.append(name)
        elif not shape and _COUNTERS.fullmatch(name):
            counters.append(name)
    found = []
    if slots:
        endings = "|".join(re.escape(ending) for ending in sorted(slots))
        names = tuple(name for group in slots.values() for name in group)
        reason = f"each has the name of a variable with {' or '.join(sorted(slots))} behind it"
        found.append(SuggestedDrop(Drop(f".*(?:{endings})", "optimizer state"), names, 0.97, (reason,)))
    for name in counters:
        reasons = ("a single number that training counts with",)
        found.append(SuggestedDrop(Drop(re.escape(name), name.split("/")[-1]), (name,), 0.97, reasons))
    for name in others:
        found.append(
            SuggestedDrop(Drop(re.escape(name), "no numbers"), (name,), 0.97, ("its values are no numbers",))
        )
    return found
