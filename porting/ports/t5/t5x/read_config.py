"""The configuration of a T5X checkpoint from a file: T5X's `config.gin`, or a `config.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

from porting.config_file import read_json_config
from porting.errors import ConfigError, Problem
from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.ports.t5.architecture import MODEL_TYPE, Architecture
from porting.ports.t5.base_config import REQUIRED
from porting.ports.t5.config import UMT5Config, config_from_json
from porting.ports.t5.infer_layers import Reading
from porting.ports.t5.spelling import spelling
from porting.ports.t5.t5x.from_gin import config_from_gin
from porting.ports.t5.t5x.infer import infer_config
from porting.ports.t5.t5x.infer_layers import StackLayers
from porting.ports.t5.t5x.located import located
from porting.ports.t5.t5x.names import is_scanned, weights
from porting.ports.t5.t5x.sizes import sizes_seen


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From a `config.gin` or a `config.json` (by the ending of its name).

    What a config.json leaves open is inferred from the variables, so that one line is enough to override an
    assumption: {"feed_forward_proj": "gated-silu"}.

    Raises:
        ConfigError: the file cannot be read, or describes another model than the variables show.
    """
    if path.suffix != ".json":
        return config_from_gin(path, shapes)
    content = read_json_config(path)
    if content.get("model_type") == MODEL_TYPE or all(name in content for name in REQUIRED):
        resolved = ResolvedConfig(config_from_json(content), origin=str(path))
    else:
        resolved = _completed(path, content, shapes)
    architecture: Architecture = resolved.config.architecture
    if problems := list(_depths(architecture, shapes)):
        raise ConfigError(
            "The config is not of this checkpoint: it describes a model of another size.",
            problems=problems,
            remedy="Give the config that belongs to it, or none, to have it inferred from the variables.",
        )
    found = located(architecture, shapes)
    if getattr(resolved.config, "model_type", None) == UMT5Config.model_type:
        found = _AsUMT5(**{f.name: getattr(found, f.name) for f in fields(found)})
    return replace(resolved, config=found)


class _AsUMT5(Architecture):
    """An architecture that is written as a UMT5, because a config asked for it."""

    model_type: ClassVar[str] = UMT5Config.model_type


def _completed(path: Path, content: Mapping[str, Any], shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """A file of answers, and the rest from the variables."""
    inferred = infer_config(shapes, content)
    seen = sizes_seen(inferred.config.architecture, shapes)
    problems = [
        Problem(key, f"{' and '.join(map(str, dict.fromkeys(found)))}, as the variables show", f"{value!r}")
        for key, found in seen.items()
        if (value := content.get(key)) is not None and value not in found
    ]
    if problems:
        raise ConfigError(f"{path} contradicts the checkpoint's variables.", problems=problems)
    short = spelling(inferred.config, content.get("model_type"))
    answered = config_from_json({**short.to_json(), **content})
    return replace(inferred, config=answered, origin=f"{path}, the rest {inferred.origin}")


def _depths(architecture: Architecture, shapes: Mapping[str, Shape]) -> Iterator[Problem]:
    """Other depths than there are layers: each parameter would be missed by name, one by one, for minutes."""
    for name, stack in architecture.stacks.items():
        reading = Reading(weights(shapes), {})
        found = StackLayers(reading, name, is_scanned(shapes, name)).number()
        blocks = stack.num_blocks * len(stack.starts)
        if found not in (None, blocks):
            yield Problem(f"{name} blocks", f"{found}, as the variables show", f"{blocks}")
