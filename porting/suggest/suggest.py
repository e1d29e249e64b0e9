"""A checkpoint and a module -> a suggestion: rules with confidences, and what is left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.errors import MappingError
from porting.mapping import Drop, Plan, Rule, Shape, make_plan
from porting.suggest.content import Contents
from porting.suggest.drops import SuggestedDrop, orphans, suggest_drops
from porting.suggest.generalise import SuggestedRule, generalise
from porting.suggest.items import Item, is_fused, items
from porting.suggest.leftovers import Leftover, leftovers
from porting.suggest.matching import match
from porting.suggest.merging import merged
from porting.suggest.sides import Side, build_module, parameters, variables
from porting.suggest.tied import with_tied

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
# From here on a rule is only to be read; below, it is to be checked.
SURE = 0.9


@dataclass(frozen=True)
class Suggestion:
    """Proposed rules, never applied by anything here.

    Attributes:
        rules, drops: each with its confidence and reasons, in the order of the module and the checkpoint.
        unclaimed: variables that no rule claims, each with the nearest parameters.
        unfilled: parameters that no rule fills, each with the nearest variables.
        sources, targets: shapes of both sides.
        notes: what else there is to know, in words.
    """

    rules: tuple[SuggestedRule, ...]
    drops: tuple[SuggestedDrop, ...]
    unclaimed: tuple[Leftover, ...]
    unfilled: tuple[Leftover, ...]
    sources: dict[str, Shape]
    targets: dict[str, Shape]
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> list[Rule | Drop]:
        """The rule table."""
        return [*(found.rule for found in self.drops), *(found.rule for found in self.rules)]

    @property
    def complete(self) -> bool:
        """Whether the table is a plan: every variable claimed, every parameter filled, every shape right."""
        try:
            self.plan()
        except MappingError:
            return False
        return True

    def plan(self) -> Plan:
        """What a conversion by these rules would do. Raises MappingError where they are not complete."""
        return make_plan(self.table, self.sources, self.targets)

    def to_json(self) -> dict[str, Any]:
        """As `suggest-rules --format json` prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": "complete" if self.complete else "incomplete",
            "rules": [
                {
                    "pattern": found.rule.pattern,
                    "target": found.rule.target,
                    "ops": [str(op) for op in found.rule.ops],
                    "also": [
                        {"target": target, "ops": [str(op) for op in ops]} for target, ops in found.rule.also
                    ],
                    "stack": list(found.rule.stack),
                    "confidence": found.confidence,
                    "reasons": list(found.reasons),
                    "sources": list(found.sources),
                    "targets": list(found.targets),
                }
                for found in self.rules
            ],
            "drops": [
                {
                    "pattern": found.rule.pattern,
                    "reason": found.rule.reason,
                    "confidence": found.confidence,
                    "reasons": list(found.reasons),
                    "sources": list(found.names),
                }
                for found in self.drops
            ],
            "unclaimed": [leftover.to_json() for leftover in self.unclaimed],
            "unfilled": [leftover.to_json() for leftover in self.unfilled],
            "notes": list(self.notes),
        }


def suggest_rules(
    source: str | Path | Checkpoint,
    module: str | torch.nn.Module,
    *,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Suggestion:
    """Propose a rule table for a checkpoint and a module. Nothing is converted.

    Example:
        suggestion = suggest_rules("model.ckpt-1000", "my_model.py:build")
        suggestion.rules[0].rule, suggestion.rules[0].confidence, suggestion.rules[0].reasons

    Args:
        source: a checkpoint prefix, the directory that holds it, or an open checkpoint.
        module: a torch.nn.Module, which may be on the meta device; or "package.module:callable",
            "file.py:callable" (called without arguments), or the name of an installed port.
        weights: a safetensors file, or a directory of them, with values for the module that were made from
            the same checkpoint: then tensors are matched by content too.
        config: of a port, as in `convert_checkpoint`.
        on_stage: called as things happen, for progress.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        InputError: the factory or the weights cannot be used.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    on_stage("building the module")
    built = build_module(module, checkpoint, config) if isinstance(module, str) else module
    ours, theirs = variables(checkpoint), parameters(built, weights)
    return suggest(ours, theirs, on_stage)


def suggest(ours: Side, theirs: Side, on_stage: Callable[[str], None] = lambda _stage: None) -> Suggestion:
    """The same for two sides: names and shapes, and values where both have some."""
    drops = suggest_drops(ours)
    dropped = {name for drop in drops for name in drop.names}
    names = [name for name in ours.shapes if name not in dropped]
    wanted = [*theirs.shapes]
    lost = orphans(ours)
    sources = items(ours, [name for name in names if name not in lost], is_fused(wanted))
    targets = items(theirs, wanted, is_fused(names))
    notes = [*theirs.notes]
    contents = None
    if ours.read is not None and theirs.read is not None:
        on_stage("comparing values")
        contents = Contents(sources, targets)
        if not contents.related:
            notes.append(
                "No variable holds the values of any parameter: the weights were not made from this"
                " checkpoint, and their content was not used."
            )
    on_stage("comparing names and shapes")
    matches = match(sources, targets, contents)
    order = {name: i for i, name in enumerate(wanted)}
    matches.sort(key=lambda found: order[found.target.members[0]])
    rules = merged(with_tied(generalise(matches, ours.shapes), sources, targets, contents), ours.shapes)
    claimed = {name for found in rules for name in found.sources}
    filled = {name for found in rules for name in found.targets}
    notes += [
        f"In the module {alias} is the same parameter as {name}." for alias, name in theirs.tied.items()
    ]
    left, right = _singles(ours, names), _singles(theirs, wanted)
    return Suggestion(
        tuple(rules),
        tuple(drops),
        leftovers([item for item in left if item.name not in claimed], right, filled),
        leftovers([item for item in right if item.name not in filled], left, claimed),
        dict(ours.shapes),
        dict(theirs.shapes),
        tuple(notes),
    )


def _singles(side: Side, names: list[str]) -> list[Item]:
    return [replace(item, read=None) for item in items(side, names, fuse=False)]
