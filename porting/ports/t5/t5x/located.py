"""How a T5X checkpoint keeps the layers of a model, for configs that do not say it.

Heads are joined with d_kv in one dimension of a kernel, or not; a table of relative positions is one for a
stack, or one for each layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import Config
from porting.ports.t5.t5x.names import WEIGHTS, is_scanned


def located(config: Config, shapes: Mapping[str, Shape]) -> Architecture:
    """The architecture with its kernels' dimensions as a checkpoint has them.

    Args:
        config: the model.
        shapes: the checkpoint's variables.
    """
    architecture = config.architecture
    joined = {}
    for name in architecture.stacks:
        scanned = is_scanned(shapes, name)
        kernel = re.compile(rf"{WEIGHTS}/{name}/[^/]+/\w*attention/query/kernel")
        joined[name] = {len(s) - scanned for found, s in shapes.items() if kernel.fullmatch(found)} != {3}
    return with_heads_joined(architecture, joined)


def with_heads_joined(architecture: Architecture, joined: Mapping[str, bool]) -> Architecture:
    """The architecture with the heads of attention kernels in one dimension with d_kv, or not, by stack."""
    stacks: dict[str, Any] = {}
    for name, stack in architecture.stacks.items():
        layers = tuple(
            replace(spec, combine_dims=joined[name]) if isinstance(spec, AttentionSpec) else spec
            for spec in stack.layers
        )
        stacks[name] = replace(stack, layers=layers)
    return replace(architecture, **stacks)


def with_own_tables(architecture: Architecture) -> Architecture:
    """The same model with a table of relative positions in each layer of a stack that shares one."""
    stacks: dict[str, Any] = {}
    for name, stack in architecture.stacks.items():
        layers = tuple(
            replace(spec, relative_attention_type="bias")
            if isinstance(spec, AttentionSpec) and spec.relative_attention_type == "bias_shared"
            else spec
            for spec in stack.layers
        )
        stacks[name] = replace(stack, layers=layers)
    return replace(architecture, **stacks)
