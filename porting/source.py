"""A checkpoint -> what it is: its port, its configuration, and where each of its tensors goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from porting.checkpoint import Checkpoint
from porting.errors import CheckpointError, Problem
from porting.mapping import Plan, Shape, make_plan
from porting.port import Port, ResolvedConfig, port_for_variables

_FLOATS = {np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)}


def resolve_config(checkpoint: Checkpoint, given: str | Path | None) -> tuple[Port, ResolvedConfig]:
    """The port for a checkpoint and its configuration: given, else beside it, else inferred."""
    shapes = variable_shapes(checkpoint)
    port = port_for_variables(shapes)
    path = Path(given) if given is not None else find_config(checkpoint, port)
    if path is None:
        return port, port.infer_config(shapes)
    return port, port.read_config(path, shapes)


def find_config(checkpoint: Checkpoint, port: Port) -> Path | None:
    """The config file that lies beside a checkpoint, if one does."""
    candidates = (checkpoint.path.parent / name for name in port.config_files)
    return next((path for path in candidates if path.is_file()), None)


def variable_shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Variable name -> shape."""
    return {name: tensor.shape for name, tensor in checkpoint.tensors.items()}


def plan_conversion(port: Port, config: Any, checkpoint: Checkpoint) -> Plan:
    """Map a checkpoint's variables to the parameters of the model that the port builds.

    Raises:
        MappingError: something has no home, no source, or another shape; lists everything.
    """
    shapes = variable_shapes(checkpoint)
    plan = make_plan(port.rules(config, list(shapes)), shapes, parameter_shapes(port, config))
    wrong = [
        Problem(name, "a floating-point weight", f"{checkpoint.tensors[name].dtype}")
        for entry in plan.entries
        for name in entry.sources
        if checkpoint.tensors[name].dtype not in _FLOATS
    ]
    if wrong:
        raise CheckpointError("Some weights are not floating-point numbers.", problems=wrong)
    return plan


def parameter_shapes(port: Port, config: Any) -> Mapping[str, Shape]:
    """Names and shapes of the parameters of the model that a port builds, in the module's order."""
    if port.parameter_shapes is not None:
        return port.parameter_shapes(config)
    import torch

    with torch.device("meta"):
        model = port.build(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
