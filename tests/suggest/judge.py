"""What of a suggestion is right, and how sure it was of what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from porting.mapping import Plan, make_plan
from porting.suggest.suggest import SURE, Suggestion

# Parameter -> its variable (several joined by +), and the ops as text, joined by ", ".
Truth = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Judged:
    """Pairs of (confidence, variable, parameter)."""

    right: list[tuple[float, str, str]]
    wrong: list[tuple[float, str, str]]

    @property
    def sure_and_wrong(self) -> list[tuple[float, str, str]]:
        return [pair for pair in self.wrong if pair[0] >= SURE]


def judge(suggestion: Suggestion, truth: Truth) -> Judged:
    """Each pair that the rules make, by the plan they give for just what they claim."""
    right, wrong = [], []
    for found in suggestion.rules:
        claimed = {name for name in suggestion.sources if found.rule.regex.fullmatch(name)}
        assert claimed == {*found.sources}, "a pattern claims just what it was made from"
        plan: Plan = make_plan(
            [found.rule],
            {name: suggestion.sources[name] for name in found.sources},
            {name: suggestion.targets[name] for name in found.targets},
        )
        for entry in plan.entries:
            said = "+".join(entry.sources), ", ".join(map(str, entry.ops))
            pair = (found.confidence, said[0], entry.target)
            (right if truth.get(entry.target) == said else wrong).append(pair)
    return Judged(right, wrong)
