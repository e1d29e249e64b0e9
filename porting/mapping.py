"""A rule table -> a plan. Total in both directions, and made from names and shapes alone.

Every source variable is claimed by exactly one rule, and every target parameter is filled by exactly one
source. Whatever breaks that is collected and reported together, each with the nearest match.

    rules = [
        Rule(r"shared/embedding", "shared.weight"),
        Rule(r"encoder/block_(?P<i>\\d+)/wo/kernel", "encoder.block.{i}.wo.weight", (Transpose(),)),
        Drop(r"global_step", "global step"),
    ]
    plan = make_plan(rules, source_shapes, target_shapes)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from porting.errors import MappingError, Problem
from porting.misfits import PLACEHOLDER, copy_problems, homeless, unclaimed_problems, unfilled_problems
from porting.ops import Op, Part, joined_shape, output_shape

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """Claims the variables whose whole name matches `pattern`, and says where they go and how.

    Attributes:
        pattern: regular expression with named groups, matched against the whole source name.
        target: name of the target parameter; `{group}` is replaced, digits without leading zeros
            (`block_007` -> `block.7`), `{block*2+1}` is computed (`block_007` -> `block.15`).
        ops: applied in order.
        parts: a number above 0 takes the variable apart along `axis`, before the ops, into so many
            parameters: `{part}` in the target.
        also: further targets, each with its own ops: of a table that is kept twice, of a fused projection.
        stack: values of the group `stack` in the pattern: the variables that make one parameter, in the order
            in which they are joined along the first axis, after the ops.
    """

    pattern: str
    target: str
    ops: tuple[Op, ...] = ()
    parts: int = 0
    also: tuple[tuple[str, tuple[Op, ...]], ...] = ()
    stack: tuple[str, ...] = ()
    axis: int = 0

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.pattern)

    def targets_for(self, match: re.Match[str]) -> list[tuple[str, tuple[Op, ...]]]:
        """The targets of one matched source name, each with the ops that make it."""
        groups = match.groupdict()
        if not self.parts:
            every = ((self.target, self.ops), *self.also)
            return [(_filled(target, groups), ops) for target, ops in every]
        return [
            (_filled(self.target, {**groups, "part": str(i)}), (Part(i, self.parts, self.axis), *self.ops))
            for i in range(self.parts)
        ]


def _filled(template: str, groups: Mapping[str, str]) -> str:
    """A name, its `{group}`s replaced."""

    def value(match: re.Match[str]) -> str:
        text = groups[match["name"]]
        # Other digits than ours, or more than any count of layers has, are a name like others.
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            return text
        return str(int(text) * int(match["times"] or 1) + int(match["plus"] or 0))

    return PLACEHOLDER.sub(value, template)


@dataclass(frozen=True)
class Drop:
    """Claims variables that the target has no use for, and says what they are."""

    pattern: str
    reason: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.pattern)


@dataclass(frozen=True)
class Copy:
    """Claims tensors that must hold the very values of another: a table that the source keeps twice.

    Attributes:
        pattern: regular expression with named groups, matched against the whole source name.
        of: name of the tensor that is read; `{group}` is replaced as in the target of a Rule.
    """

    pattern: str
    of: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.pattern)

    def original(self, match: re.Match[str]) -> str:
        """Name of the tensor whose copy the matched one is."""
        return _filled(self.of, match.groupdict())


Claim = Rule | Drop | Copy


@dataclass(frozen=True)
class PlanEntry:
    """One target parameter and what it is made from.

    Attributes:
        sources: several are joined along `join_axis`, each after the ops.
        ops: what is done to each source, in order.
        finish: what is done to the joined sources, in order.
    """

    sources: tuple[str, ...]
    target: str
    ops: tuple[Op, ...]
    source_shapes: tuple[Shape, ...]
    target_shape: Shape
    join_axis: int = 0
    finish: tuple[Op, ...] = ()

    def made_shape(self) -> Shape:
        """The shape that the sources and the ops give. Raises ValueError if they do not fit each other."""
        shapes = [output_shape(self.ops, shape) for shape in self.source_shapes]
        return output_shape(self.finish, joined_shape(shapes, self.join_axis))

    def make(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """The parameter's values, from those of its sources."""
        arrays = []
        for name in self.sources:
            array = read(name)
            for op in self.ops:
                array = op.apply(array)
            arrays.append(array)
        made = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=self.join_axis)
        for op in self.finish:
            made = op.apply(made)
        return made

    def to_json(self) -> dict[str, Any]:
        """The entry as `convert-checkpoint --format json` prints it."""
        content: dict[str, Any] = {
            "sources": list(self.sources),
            "target": self.target,
            "ops": [str(op) for op in self.ops],
            "source_shapes": [list(shape) for shape in self.source_shapes],
            "target_shape": list(self.target_shape),
        }
        if self.join_axis:
            content["join_axis"] = self.join_axis
        if self.finish:
            content["finish"] = [str(op) for op in self.finish]
        return content


@dataclass(frozen=True)
class Plan:
    """Everything a conversion will do, before any tensor is read.

    Attributes:
        entries: one for each parameter, in the model's order.
        ignored: why source tensors are left out -> their names.
        copies: source tensors that must hold, bit for bit, the values of another -> that one's name. Who
            reads the values has to check it.
    """

    entries: tuple[PlanEntry, ...]
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    def ignored_counts(self) -> dict[str, int]:
        """How many variables each reason drops."""
        return {reason: len(names) for reason, names in self.ignored.items()}


def make_plan(
    rules: Sequence[Claim],
    source_shapes: Mapping[str, Shape],
    target_shapes: Mapping[str, Shape],
) -> Plan:
    """Map every source variable to every target parameter, or say all that stands in the way.

    Args:
        rules: the rule table; at most one may match a name.
        source_shapes: variable name -> shape.
        target_shapes: parameter name -> shape, in the order in which the plan lists them.

    Raises:
        MappingError: lists every variable without a rule or with several, every parameter without a
            source or with several, every variable that maps to a parameter the model does not have, and
            every shape that does not fit.
    """
    claims: dict[str, list[tuple[str, tuple[Op, ...]]]] = defaultdict(list)
    stacks: dict[str, dict[str, str]] = defaultdict(dict)  # target -> value of the group -> variable
    orders: dict[str, tuple[str, ...]] = {}
    ignored: dict[str, list[str]] = defaultdict(list)
    copies: dict[str, str] = {}
    problems: list[Problem] = []
    unclaimed: list[str] = []

    for name in source_shapes:
        matches = [(rule, m) for rule in rules if (m := rule.regex.fullmatch(name))]
        if not matches:
            unclaimed.append(name)
        elif len(matches) > 1:
            patterns = ", ".join(rule.pattern for rule, _ in matches)
            problems.append(Problem(name, "one rule that claims it", f"{len(matches)}: {patterns}"))
        else:
            rule, match = matches[0]
            if isinstance(rule, Drop):
                ignored[rule.reason].append(name)
            elif isinstance(rule, Copy):
                copies[name] = rule.original(match)
            else:
                for target, ops in rule.targets_for(match):
                    claims[target].append((name, ops))
                    if rule.stack:
                        stacks[target][match["stack"]] = name
                        orders[target] = rule.stack

    problems += copy_problems(copies, ignored, source_shapes)
    unfilled = [target for target in target_shapes if target not in claims]
    problems += unclaimed_problems(unclaimed, source_shapes, rules)
    entries: dict[str, PlanEntry] = {}
    for target, claimants in claims.items():
        names = [name for name, _ in claimants]
        if target not in target_shapes:
            problems += [homeless(name, target, unfilled) for name in names]
        elif target in orders and {*stacks[target]} != {*orders[target]}:
            problems.append(Problem(target, f"one each of {', '.join(orders[target])}", ", ".join(names)))
        elif len(claimants) > len(orders.get(target, ("one",))):
            problems.append(Problem(target, "one source variable", f"{len(names)}: {', '.join(names)}"))
        else:
            ops = claimants[0][1]
            sources = (
                tuple(stacks[target][part] for part in orders[target]) if target in orders else (*names,)
            )
            found = tuple(source_shapes[name] for name in sources)
            entry = PlanEntry(sources, target, ops, found, target_shapes[target])
            problem = _shape_problem(entry)
            if problem:
                problems.append(problem)
            entries[target] = entry
    problems += unfilled_problems(
        unfilled, source_shapes, [rule for rule in rules if isinstance(rule, Rule)], unclaimed
    )

    if problems:
        raise MappingError(
            f"{len(problems)} thing{'s do' if len(problems) > 1 else ' does'} not fit between the checkpoint "
            "and the model; nothing was converted.",
            problems=problems,
            remedy="Check that the config belongs to this checkpoint (--config FILE), or leave the config"
            " away to have it inferred from the variables.",
        )
    return Plan(
        entries=tuple(entries[target] for target in target_shapes),
        ignored={reason: tuple(names) for reason, names in ignored.items()},
        copies=copies,
    )


def _shape_problem(entry: PlanEntry) -> Problem | None:
    for name, shape in zip(entry.sources, entry.source_shapes, strict=True):
        try:
            output_shape(entry.ops, shape)
        except ValueError as error:
            return Problem(name, f"a shape that fits {entry.target}", f"{error}")
    try:
        shape = entry.made_shape()
    except ValueError as error:
        return Problem(entry.target, "parts that can be joined", f"{error}")
    if shape == entry.target_shape:
        return None
    ops = " then ".join(str(op) for op in entry.ops) or "copied as it is"
    return Problem(
        entry.sources[0],
        f"shape {entry.target_shape} of {entry.target}",
        f"{shape} ({ops}, from {entry.source_shapes[0]} in the checkpoint)",
    )
