"""Where a checkpoint has the layers of a model, for configs that do not say it.

What transformers understands of a T5 says nothing of Mesh's scopes, of blocks without scopes, or of heads
that are dimensions of their own. Variables show it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from porting.errors import ConfigError
from porting.mapping import Shape
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import Config
from porting.ports.t5.infer import infer_config
from porting.ports.t5.layer_specs import LayerSpec
from porting.ports.t5.spelling import same_model


def located(config: Config, shapes: Mapping[str, Shape]) -> Config:
    """The config with its layers where a checkpoint has them, which the short spellings do not say.

    Args:
        config: the model.
        shapes: the checkpoint's variables. If they are of another model the config comes back as it is.
    """
    architecture = config.architecture
    try:
        found = infer_config(shapes).config.architecture
    except ConfigError:
        return config
    if [*found.stacks] != [*architecture.stacks]:
        return config
    stacks: dict[str, Any] = {}
    for name, stack in architecture.stacks.items():
        other = found.stacks[name]
        if len(other.places) != len(stack.places):
            return config
        specs = zip((place.spec for place in stack.places), other.layers, strict=False)
        stacks[name] = replace(
            stack,
            layers=tuple(_laid_out(spec, there) for spec, there in specs),
            num_blocks=other.num_blocks,
            scope=other.scope,
            layer_names=other.layer_names,
            block_scope=other.block_scope,
        )
    moved = replace(architecture, **stacks)
    return moved if same_model(moved, architecture) else config


def _laid_out(spec: LayerSpec, other: LayerSpec) -> LayerSpec:
    """A layer whose variables have the dimensions of another's."""
    if isinstance(spec, AttentionSpec) and isinstance(other, AttentionSpec):
        return replace(spec, combine_dims=other.combine_dims)
    return spec
