"""A checkpoint -> what it is: its port, its configuration, and where each of its tensors goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from porting.checkpoint import Checkpoint
from porting.checkpoint.tf_bundle import FORMAT as BUNDLE
from porting.config_file import read_json_config
from porting.errors import CheckpointError, ConfigError, Problem
from porting.mapping import Claim, Plan, Rule, Shape, make_plan
from porting.port import Port, ResolvedConfig, port_for_model_type, port_for_variables

_FLOATS = {np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)}
ORIGINAL = "original"
STATE_DICT = "state dict"


@dataclass(frozen=True)
class Source:
    """What a checkpoint is, and how its tensors become a model's parameters.

    Attributes:
        port: the architecture's.
        resolved: its configuration and what that rests on.
        rules: what becomes of each of its tensors.
        kind: ORIGINAL: a checkpoint of the original; STATE_DICT: tensors that are called as the port's
            parameters are, as PyTorch and transformers save them.
    """

    port: Port
    resolved: ResolvedConfig
    rules: tuple[Claim, ...]
    kind: str


def resolve_source(checkpoint: Checkpoint, given: str | Path | None = None) -> Source:
    """What a checkpoint is: of the original where a port knows it, else a model directory of such a model.

    Args:
        checkpoint: its names and shapes are looked at, not its values.
        given: a config file; by default the one beside the checkpoint, else inferred. A model directory needs
            a config.json whose model_type a port builds.

    Raises:
        ConfigError: no port knows it, or its configuration cannot be read or expressed.
    """
    shapes = variable_shapes(checkpoint)
    try:
        port = port_for_variables(shapes)
    except ConfigError:
        source = None if checkpoint.format == BUNDLE else _state_dict(checkpoint, given)
        if source is None:
            raise
        return source
    _, resolved = resolve_config(checkpoint, given)
    return Source(port, resolved, tuple(port.rules(resolved.config, list(shapes))), ORIGINAL)


def _state_dict(checkpoint: Checkpoint, given: str | Path | None) -> Source | None:
    """A model directory; None where there is no config.json."""
    path = Path(given) if given is not None else checkpoint.path.parent / "config.json"
    if given is None and not path.is_file():
        return None
    content = read_json_config(path)
    port = port_for_model_type(str(content.get("model_type")))
    config = port.config_from_json(content)
    names = list(checkpoint.tensors)
    special = port.state_dict_rules(config, content, names)
    claimed = [re.escape(name) for name in names if any(rule.regex.fullmatch(name) for rule in special)]
    others = rf"(?!(?:{'|'.join(claimed)})\Z)" if claimed else ""
    rules = (*special, Rule(f"{others}(?P<parameter>.+)", "{parameter}"))
    return Source(port, ResolvedConfig(config, origin=str(path)), rules, STATE_DICT)


def resolve_config(
    checkpoint: Checkpoint, given: str | Path | None, otherwise: ResolvedConfig | None = None
) -> tuple[Port, ResolvedConfig]:
    """The port for a checkpoint, and its configuration: given, beside it, `otherwise`, or inferred."""
    shapes = variable_shapes(checkpoint)
    port = port_for_variables(shapes)
    path = Path(given) if given is not None else find_config(checkpoint, port)
    if path is None:
        return port, otherwise or port.infer_config(shapes)
    return port, port.read_config(path, shapes)


def find_config(checkpoint: Checkpoint, port: Port) -> Path | None:
    """The config file that lies in a checkpoint that is a directory, or beside a checkpoint, if one does."""
    folders = (checkpoint.path, checkpoint.path.parent)
    candidates = (folder / name for folder in folders for name in port.config_files)
    return next((path for path in candidates if path.is_file()), None)


def variable_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Variable name -> shape."""
    return {name: tensor.shape for name, tensor in checkpoint.tensors.items()}


def plan_original(port: Port, config: Any, checkpoint: Checkpoint) -> Plan:
    """Map the variables of an original's checkpoint to the parameters of the model that the port builds.

    Raises:
        MappingError: something has no home, no source, or another shape; lists everything.
        CheckpointError: what would be weights are no floating-point numbers.
    """
    return _plan(port, config, port.rules(config, list(checkpoint.tensors)), checkpoint)


def plan_conversion(source: Source, checkpoint: Checkpoint) -> Plan:
    """Map a checkpoint's tensors to the parameters of the model that the port builds.

    Raises:
        MappingError: something has no home, no source, or another shape; lists everything.
        CheckpointError: what would be weights are no floating-point numbers.
    """
    return _plan(source.port, source.resolved.config, source.rules, checkpoint)


def _plan(port: Port, config: Any, rules: Sequence[Claim], checkpoint: Checkpoint) -> Plan:
    plan = make_plan(rules, variable_shapes(checkpoint), parameter_shapes(port, config))
    tensors = checkpoint.tensors
    read = {name for entry in plan.entries for name in entry.sources} | {*plan.copies}
    problems = [
        Problem(name, "a floating-point weight", f"{tensors[name].dtype}")
        for name in tensors
        if name in read and tensors[name].dtype not in _FLOATS
    ]
    if problems:
        raise CheckpointError("Some weights are not floating-point numbers.", problems=problems)
    together = [entry.sources for entry in plan.entries] + [(of, copy) for copy, of in plan.copies.items()]
    problems = [
        Problem(name, f"{tensors[names[0]].dtype}, as {names[0]}", f"{tensors[name].dtype}")
        for names in together
        for name in names[1:]
        if tensors[name].dtype != tensors[names[0]].dtype
    ]
    if problems:
        raise CheckpointError("Some weights that belong together are of different types.", problems=problems)
    return plan


def parameter_shapes(port: Port, config: Any) -> Mapping[str, Shape]:
    """Names and shapes of the parameters of the model that a port builds, in the module's order."""
    if port.parameter_shapes is not None:
        return port.parameter_shapes(config)
    import torch

    with torch.device("meta"):
        model = port.build(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
