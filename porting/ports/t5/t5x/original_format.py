"""T5X's checkpoints, as a model is written back into them: `--to t5x`, and `--to t5x-scanned`.

Unscanned, T5X's examples/t5 builds the model; where each layer has a table of relative positions of its own,
and wherever layers are scanned, examples/scalable_t5 does, which keeps heads as a dimension of their own. A
LongT5 is built by flaxformer's longt5_architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from porting.errors import ConfigError, Problem
from porting.mapping import Shape
from porting.port import OriginalFormat
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import Config
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.t5x.located import located, with_heads_joined, with_own_tables
from porting.ports.t5.t5x.names import STEP, is_scanned, is_t5x
from porting.ports.t5.t5x.to_flaxformer_gin import flaxformer_gin
from porting.ports.t5.t5x.to_gin import gin_from_config
from porting.ports.t5.t5x.unlike import is_long, unlike_t5x
from porting.ports.t5.t5x.variables import variables

CONFIG = "config.gin"


def _variables(config: Config, *, scanned: bool) -> dict[str, Shape]:
    _check(config.architecture, scanned=scanned)
    return variables(config, scanned=scanned)


def files(config: Config, names: Sequence[str]) -> Mapping[str, str]:
    """`config.gin`: what T5X builds the model from.

    Args:
        config: the model.
        names: the variables that are written.

    Raises:
        ConfigError: T5X cannot be told to build this model.
    """
    architecture = config.architecture
    _check(architecture, scanned=is_scanned(names, "encoder"))
    long = is_long(architecture)
    return {CONFIG: flaxformer_gin(architecture) if long else gin_from_config(config, names)}


def _check(architecture: Architecture, *, scanned: bool) -> None:
    problems = list(unlike_t5x(architecture))
    if scanned and is_long(architecture):
        problems.append(Problem("encoder.layers", "a T5's, where layers are scanned", "a LongT5's"))
    if problems:
        raise ConfigError("T5X cannot build this model.", problems=problems)


def _laid_out(config: Config, *, scanned: bool) -> Architecture:
    """As the network that T5X would build the model with keeps it."""
    architecture = config.architecture
    if scanned and not is_long(architecture):
        architecture = with_own_tables(architecture)
    own = {
        name: any(getattr(spec, "relative_attention_type", None) == "bias" for spec in stack.layers)
        for name, stack in architecture.stacks.items()
    }
    return with_heads_joined(architecture, {name: not any(own.values()) for name in own})


def _spread(config: Config, written: Config) -> Mapping[str, str]:
    """Tables of relative positions that layers have in a scanned checkpoint, and share in the model."""
    kept = parameter_shapes(config)
    return {
        name: _first_block(name) for name in parameter_shapes(written) if name not in kept and "bias" in name
    }


def _first_block(name: str) -> str:
    """The same parameter in the first block, which holds the table of all."""
    stack, block, _, rest = name.split(".", 3)
    return f"{stack}.{block}.0.{rest}"


def _owns(names: Mapping[str, Shape], *, scanned: bool) -> bool:
    return is_t5x(names) and any(is_scanned(names, stack) for stack in ("encoder", "decoder")) == scanned


def _format(*, scanned: bool) -> OriginalFormat:
    return OriginalFormat(
        variables=partial(_variables, scanned=scanned),
        files=files,
        # T5X restores it with the rest; 0 is where a fine-tuning begins.
        more={STEP: np.zeros((), np.int32)},
        located=located,
        layout="t5x",
        owns=partial(_owns, scanned=scanned),
        laid_out=partial(_laid_out, scanned=scanned),
        spread=_spread,
        config_file=CONFIG,
    )


T5X = _format(scanned=False)
T5X_SCANNED = _format(scanned=True)
