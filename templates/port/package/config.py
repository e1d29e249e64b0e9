"""The configuration: what the original's config says, as far as it shapes the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from porting.errors import ConfigError
from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.scaffold import UnfinishedError

# As transformers calls the architecture, where it has it: the converted directory is then loaded there.
MODEL_TYPE = "PORT_NAME"
# Looked for beside a checkpoint, the best first. The second is what this port itself writes.
CONFIG_FILES = ("the original's config file", "config.json")


@dataclass(frozen=True)
class Config:
    """Everything that shapes the model. Add a field for each value of the original's config that does."""

    vocab_size: int


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From one of `CONFIG_FILES`.

    Args:
        path: the file.
        shapes: the checkpoint's variables and their shapes, for what the file leaves open.

    Raises:
        ConfigError: it cannot be read, or describes what this port does not have.
    """
    raise UnfinishedError(
        "Read the original's config file and return ResolvedConfig(Config(...), origin=str(path)). Name"
        " the file in CONFIG_FILES above. Refuse, by name, what the port cannot express: never ignore a"
        " value that you do not know."
    )


def infer_config(shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From variables and shapes alone, where no config lies beside a checkpoint."""
    raise UnfinishedError(
        "No file of CONFIG_FILES lies beside the checkpoint: name the original's config file there, and read"
        " it in read_config. Here, for checkpoints without one, read sizes off the shapes and list them"
        " under `inferred`, list under `assumed` what shapes do not say; or raise ConfigError that names the"
        " file that is needed."
    )


def config_to_json(config: Config) -> dict[str, Any]:
    """The contents of config.json, in transformers' terms where it has the architecture."""
    return {"model_type": MODEL_TYPE, **asdict(config)}


def config_from_json(content: Mapping[str, Any]) -> Config:
    """A config.json as `config_to_json` writes it. Raises ConfigError if something is missing."""
    names = [field.name for field in fields(Config)]
    missing = [name for name in names if name not in content]
    if missing:
        raise ConfigError(f"The config.json lacks {', '.join(missing)}.")
    return Config(**{name: content[name] for name in names})
