"""The two originals of a T5, told apart by what they call their variables: Mesh TensorFlow, and T5X."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from porting.mapping import Drop, Rule, Shape
from porting.port import ResolvedConfig
from porting.ports.t5 import infer, mesh_config
from porting.ports.t5 import rules as mesh
from porting.ports.t5.config import Config
from porting.ports.t5.t5x import infer as t5x_infer
from porting.ports.t5.t5x import read_config as t5x_config
from porting.ports.t5.t5x import rules as t5x
from porting.ports.t5.t5x.names import is_t5x


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are the variables of a T5 in either naming."""
    return is_t5x(shapes) or mesh.recognises(shapes)


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From a gin file of the original that made the checkpoint, or a `config.json`.

    Raises:
        ConfigError: it cannot be read, or is not of this checkpoint.
    """
    return t5x_config.read_config(path, shapes) if is_t5x(shapes) else mesh_config.read_config(path, shapes)


def infer_config(shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """The architecture that the variables determine.

    Raises:
        ConfigError: something that sizes are read off is missing; lists it all.
    """
    return t5x_infer.infer_config(shapes) if is_t5x(shapes) else infer.infer_config(shapes)


def rules(config: Config, names: Sequence[str]) -> list[Rule | Drop]:
    """The rule table for a configuration and the names that a checkpoint uses."""
    return t5x.rules(config, names) if is_t5x(names) else mesh.rules(config, names)
