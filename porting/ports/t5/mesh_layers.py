"""Which models Mesh TensorFlow can run at all: those without LongT5's attention."""

from __future__ import annotations

from porting.errors import ConfigError, Problem
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.layer_specs import SPECS


def check_mesh_has(architecture: Architecture) -> None:
    """Raise ConfigError if a layer is none of Mesh TensorFlow's; lists all that are not."""
    problems = [
        Problem(f"{name}.layers.{i}", "attention to all positions, which is all that Mesh runs", spec.kind)
        for name, stack in architecture.stacks.items()
        for i, spec in enumerate(stack.layers)
        if spec.kind not in SPECS
    ]
    if problems:
        raise ConfigError(
            "Mesh TensorFlow cannot run LongT5.",
            problems=problems,
            remedy="LongT5's original is in T5X: compare with what it recorded (--reference-trace), or with"
            " another implementation of it.",
        )
