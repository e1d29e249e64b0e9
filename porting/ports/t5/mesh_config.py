"""The configuration of a Mesh checkpoint from a file: Mesh's `operative_config.gin`, or a `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from porting.config_file import read_config_text, read_json_config
from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.ports.t5.architecture import MODEL_TYPE
from porting.ports.t5.base_config import REQUIRED
from porting.ports.t5.config import Config, config_from_json
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.infer import infer_config
from porting.ports.t5.proportion import check_proportion
from porting.ports.t5.spelling import config_to_json, spelling


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From an `operative_config.gin` or a `config.json` (by the ending of its name).

    What a config.json leaves open is inferred from the variables, so that one line is enough to override an
    assumption: {"feed_forward_proj": "gated-silu"}.
    """
    resolved = _read_config(path, shapes)
    check_proportion(resolved.config.architecture, shapes)
    return resolved


def _read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    if path.suffix != ".json":
        config, assumed = config_from_gin(path, shapes)
        text = read_config_text(path)
        return ResolvedConfig(config, origin=str(path), assumed=assumed, original_text=text)
    content = read_json_config(path)
    if content.get("model_type") == MODEL_TYPE or all(name in content for name in REQUIRED):
        return ResolvedConfig(config_from_json(content), origin=str(path))
    inferred = infer_config(shapes, content)
    short = spelling(inferred.config, content.get("model_type"))
    answered: Config = config_from_json({**short.to_json(), **content})
    # The answers changed nothing more: where the layers lie stays known.
    if answered == short and config_to_json(inferred.config) == config_to_json(answered):
        answered = inferred.config
    return replace(inferred, config=answered, origin=f"{path}, the rest {inferred.origin}")
