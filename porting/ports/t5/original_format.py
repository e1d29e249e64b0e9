"""Mesh TensorFlow's checkpoints, as a model is written back into them: `--to mesh`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from porting.errors import ConfigError, Problem
from porting.port import OriginalFormat
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import Config
from porting.ports.t5.located import located
from porting.ports.t5.rules import recognises
from porting.ports.t5.to_gin import gin_from_config
from porting.ports.t5.variables import variables

# Where gin finds what the text names. Mesh's own operative configs begin so, too.
_IMPORTS = "".join(
    f"import mesh_tensorflow.transformer.{module}\n"
    for module in ("moe", "transformer", "transformer_layers", "utils", "vocab_embeddings")
)
# Default of `_relative_position_bucket` in Mesh's transformer_layers.py, which is never called with another.
_MAX_DISTANCE = 128


def files(config: Config, names: Sequence[str]) -> Mapping[str, str]:
    """`operative_config.gin`: what Mesh builds the model from, and what it is told by its training script.

    Args:
        config: the model.
        names: the variables that are written.

    Raises:
        ConfigError: Mesh cannot be told to build this model.
    """
    architecture = config.architecture
    if problems := list(_inexpressible(architecture)):
        raise ConfigError("Mesh TensorFlow cannot build this model.", problems=problems)
    kind = "lm" if architecture.encoder is None else "aligned"
    if architecture.is_encoder_decoder:
        kind = "bitransformer"
    text = f"{_IMPORTS}\n{gin_from_config(config, names)}utils.run.model_type = {kind!r}\n"
    return {"operative_config.gin": text}


def _inexpressible(architecture: Architecture) -> Iterator[Problem]:
    """What the original has no setting for."""
    for name, stack in architecture.stacks.items():
        for i, spec in enumerate(stack.layers):
            if getattr(spec, "relative_attention_type", None) is None:
                continue
            distance = getattr(spec, "relative_attention_max_distance", _MAX_DISTANCE)
            if distance != _MAX_DISTANCE:
                key = f"{name}.layers.{i}.{spec.kind}.relative_attention_max_distance"
                yield Problem(key, f"{_MAX_DISTANCE}, which is fixed in Mesh", f"{distance}")


MESH = OriginalFormat(
    variables=variables,
    files=files,
    # Mesh's training asks for it; 0 is where a fine-tuning begins.
    more={"global_step": np.zeros((), np.int64)},
    located=located,
    owns=recognises,
)
