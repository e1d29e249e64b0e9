"""The configuration: hparams.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from porting.errors import ConfigError
from porting.mapping import Shape
from porting.port import ResolvedConfig

MODEL_TYPE = "tiny_lm"
CONFIG_FILES = ("hparams.json", "config.json")


@dataclass(frozen=True)
class Config:
    """As hparams.json has it."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    d_head: int
    n_layer: int

    @property
    def vocab_size(self) -> int:
        return self.n_vocab


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    del shapes
    return ResolvedConfig(config_from_json(json.loads(path.read_text())), origin=str(path))


def infer_config(shapes: Mapping[str, Shape]) -> ResolvedConfig:
    del shapes
    raise ConfigError("Shapes do not say how many heads there are: hparams.json is needed.")


def config_to_json(config: Config) -> dict[str, Any]:
    return {"model_type": MODEL_TYPE, **asdict(config)}


def config_from_json(content: Mapping[str, Any]) -> Config:
    known = {key: value for key, value in content.items() if key in Config.__annotations__}
    try:
        return Config(**known)
    except TypeError as error:
        raise ConfigError(f"The config is incomplete: {error}") from error
