"""Write, read and validate a model directory: config.json and safetensors, the layout transformers loads.

Writing streams: a tensor is on disk before the next one is made. The directory is written beside its final
place and renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from porting.errors import InputError, OutputError, Problem
from porting.mapping import Shape
from porting.port import Port, port_for_model_type

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# What belongs to a model, and is replaced with it; other files of a directory are kept.
_MODEL_FILES = (CONFIG, "generation_config.json", WEIGHTS, WEIGHTS_INDEX, "model-*-of-*.safetensors")
_DTYPE_NAMES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be before it is there."""

    name: str
    shape: Shape
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def shard_specs(specs: Sequence[TensorSpec], max_shard_size: int) -> dict[str, list[TensorSpec]]:
    """Tensors by file, in order, no file larger than `max_shard_size` bytes unless one tensor is."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": s for i, s in enumerate(shards, start=1)}


def write_shard(path: Path, specs: Sequence[TensorSpec], arrays: Iterator[np.ndarray]) -> None:
    """Write one safetensors file, one array at a time in the order of `specs`.

    Format: that of the safetensors library (8 bytes of header length, JSON header, raw data).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for spec in specs:
            _write_array(file, spec, next(arrays))
        if next(arrays, None) is not None:  # lets a generator finish, too
            raise AssertionError(f"more arrays than the {len(specs)} tensors of {path.name}")
        file.flush()
        os.fsync(file.fileno())


def _write_array(file: IO[bytes], spec: TensorSpec, array: np.ndarray) -> None:
    if array.shape != spec.shape or array.dtype != spec.dtype:
        raise AssertionError(f"{spec.name}: {array.dtype}{array.shape} is not {spec.dtype}{spec.shape}")
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def write_index(directory: Path, shards: Mapping[str, Sequence[TensorSpec]]) -> None:
    """`model.safetensors.index.json`, where there is more than one file."""
    if len(shards) == 1:
        return
    index = {
        "metadata": {"total_size": sum(spec.nbytes for specs in shards.values() for spec in specs)},
        "weight_map": {spec.name: file for file, specs in shards.items() for spec in specs},
    }
    write_json(directory / WEIGHTS_INDEX, index)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with a newline at the end."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_free(output: Path, *, force: bool) -> None:
    """Raise OutputError unless `output` can become a model directory."""
    if output.is_dir():
        if any(output.iterdir()) and not force:
            raise OutputError(
                f"The output directory {output} is not empty.",
                remedy="Choose another, or replace the model in it with --force (other files are kept).",
            )
    elif output.exists():
        raise OutputError(f"The output {output} is a file; a directory is needed.")
    parent = next(p for p in output.resolve().parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"The output {output} cannot be written: no permission in {parent}.")


@contextmanager
def new_directory(output: Path, *, force: bool) -> Iterator[Path]:
    """A directory to fill that becomes `output` when the block ends, and vanishes if it fails.

    Raises:
        OutputError: the output is not empty (without `force`), or cannot be written.
    """
    check_free(output, force=force)
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    partial: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
        partial.chmod(0o777 & ~_umask())
        yield partial
        _move_into_place(partial, output)
    except OSError as error:
        _remove(partial, made)
        raise OutputError(f"The output {output} cannot be written: {error}") from error
    except BaseException:
        _remove(partial, made)
        raise


def _move_into_place(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
    output.rename(old / "was")
    partial.rename(output)
    for kept in (old / "was").iterdir():
        if not any(kept.match(pattern) for pattern in _MODEL_FILES):
            kept.rename(output / kept.name)
    shutil.rmtree(old)


def _remove(partial: Path | None, made: Sequence[Path]) -> None:
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    for folder in made:  # innermost first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index} cannot be read: {error!r}") from error
        if any(Path(str(name)).name != name for name in names):
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

    names = {stored: dtype.name for dtype, stored in _DTYPE_NAMES.items()}
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
