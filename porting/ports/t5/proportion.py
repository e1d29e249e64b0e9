"""Whether a config can be of a checkpoint at all, before a model is built from it.

A config for ten times the layers that are there would be refused when variables are mapped, but only after a
model of that size was described and each of its parameters missed by name: minutes, for a file of a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from porting.errors import ConfigError, Problem
from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.layer_specs import MixtureSpec
from porting.ports.t5.rules import is_weight


def check_proportion(architecture: Architecture, shapes: Mapping[str, Shape]) -> None:
    """Raise ConfigError if a model has many more layers than variables, or more experts than any of those.

    Args:
        architecture: of the config.
        shapes: the checkpoint's variables. Two stacks may share theirs, so there may be two layers for each.
    """
    weights = [shape for name, shape in shapes.items() if is_weight(name)]
    problems = list(_problems(architecture, weights))
    if problems:
        raise ConfigError(
            "The config is not of this checkpoint: it describes a far larger model.",
            problems=problems,
            remedy="Give the config that belongs to it, or none, to have it inferred from the variables.",
        )


def _problems(architecture: Architecture, weights: list[Shape]) -> Iterator[Problem]:
    layers = sum(stack.num_blocks * len(stack.layers) for stack in architecture.stacks.values())
    if layers > 2 * len(weights):
        yield Problem("layers", f"some for {len(weights)} variables", f"{layers}")
    largest = max((shape[0] for shape in weights if shape), default=0)
    for name, stack in architecture.stacks.items():
        for i, spec in enumerate(stack.layers):
            if isinstance(spec, MixtureSpec) and spec.num_experts > largest:
                expected = f"at most {largest}, as the largest variable has"
                yield Problem(f"{name}.layers.{i}.num_experts", expected, f"{spec.num_experts}")
