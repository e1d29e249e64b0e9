"""A model directory, read and validated: config.json and safetensors, the layout that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.checkpoint.joined_files import is_plain_name
from porting.checkpoint.safetensors_file import DTYPES
from porting.config_file import parse_json, read_config_text
from porting.errors import ConfigError, InputError, Problem
from porting.mapping import Shape
from porting.port import Port, port_for_model_type

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20
MODEL_FILES = (CONFIG, "generation_config.json", WEIGHTS, WEIGHTS_INDEX, "model-*-of-*.safetensors")
"""What belongs to a model, and is replaced with it; other files of a directory are kept."""


def read_config(model_dir: Path) -> tuple[Port, Any]:
    """The port that builds a model directory, and its config.

    Raises:
        InputError: there is no readable config.json.
        ConfigError: no port builds it, or it is not a configuration of that port.
    """
    path = model_dir / CONFIG
    if not model_dir.is_dir():
        raise InputError(
            f"The model directory {model_dir} does not exist.",
            remedy="Make one with: convert-checkpoint SOURCE OUTPUT_DIR",
        )
    try:
        content = parse_json(read_config_text(path))
    except (ConfigError, ValueError) as error:
        raise InputError(
            f"{model_dir} is not a model directory: config.json cannot be read ({error})."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object.")
    port = port_for_model_type(str(content.get("model_type")))
    return port, port.config_from_json(content)


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model directory, by its index where there is one.

    Raises:
        InputError: a file is missing, or an index names one outside the directory.
    """
    index = model_dir / WEIGHTS_INDEX
    if not index.exists():
        files = [model_dir / WEIGHTS]
    else:
        try:
            names = sorted(set(parse_json(read_config_text(index, _MAX_INDEX_BYTES))["weight_map"].values()))
        except (ConfigError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index} cannot be read: {error!r}") from error
        if not all(isinstance(name, str) and is_plain_name(name) for name in names):
            raise InputError(f"{index} names files outside the directory.")
        files = [model_dir / name for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{model_dir} is incomplete.",
            problems=[Problem(file.name, "a safetensors file", "no such file") for file in missing],
            remedy="Convert the checkpoint again.",
        )
    return files


def stored_dtypes(model_dir: Path) -> list[str]:
    """Names of the dtypes that a directory's weights are stored in; reads headers only."""
    from safetensors import safe_open

    names = {stored: dtype.name for stored, dtype in DTYPES.items()}
    found = set()
    for file in weight_files(model_dir):
        with safe_open(file, framework="numpy") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return sorted(names.get(dtype, dtype) for dtype in found)


def load_model(
    model_dir: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> torch.nn.Module:
    """Load a converted model, in eval mode.

    Args:
        model_dir: a directory that `convert-checkpoint` or transformers wrote.
        dtype: of the parameters; by default each as it is stored.
        device: where the parameters go.

    Returns:
        The port's module; for T5 see `porting.ports.t5.model.T5Model`.

    Raises:
        InputError: the directory is incomplete, or its tensors are not exactly the model's parameters.
        ConfigError: its config.json is not one that a port builds.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model_dir = Path(model_dir)
    port, config = read_config(model_dir)
    state: dict[str, torch.Tensor] = {}
    for file in weight_files(model_dir):
        try:
            state |= load_file(file, device=str(device))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is not a safetensors file that can be read: {error}") from error
    with torch.device("meta"):
        model = port.build(config)
    problems = _state_problems(state, {k: tuple(p.shape) for k, p in model.named_parameters()})
    if problems:
        raise InputError(
            f"{model_dir} does not hold the model that its config.json describes.", problems=problems
        )
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    _load_state(model, state)
    return model.eval()


def _load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a model on the meta device its tensors; parameters that modules share stay shared."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shared = [(first, other) for first, *others in names.values() for other in others]
    model.load_state_dict({**state, **{other: state[first] for first, other in shared}}, assign=True)
    for first, other in shared:
        holder, _, leaf = other.rpartition(".")
        setattr(model.get_submodule(holder), leaf, model.get_parameter(first))


def _state_problems(state: Mapping[str, torch.Tensor], wanted: Mapping[str, Shape]) -> list[Problem]:
    problems = [
        Problem(name, f"a tensor {shape}", "none") for name, shape in wanted.items() if name not in state
    ]
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if name not in wanted:
            problems.append(Problem(name, "no such tensor", f"one of shape {shape}"))
        elif shape != wanted[name]:
            problems.append(Problem(name, f"shape {wanted[name]}", f"{shape}"))
        elif not tensor.is_floating_point():
            problems.append(Problem(name, "floating-point numbers", f"{tensor.dtype}"))
    return problems
