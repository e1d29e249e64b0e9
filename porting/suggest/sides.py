"""The two sides of a suggestion: a checkpoint's variables, and a module's parameters."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from porting.checkpoint import Checkpoint
from porting.errors import InputError, Problem
from porting.mapping import Shape
from porting.model_dir import weight_files
from porting.port import installed_ports
from porting.source import find_config, variable_shapes

if TYPE_CHECKING:
    import torch

Read = Callable[[str], npt.NDArray[Any]]


@dataclass(frozen=True)
class Side:
    """Names, shapes, and values where there are some.

    Attributes:
        shapes: name -> shape.
        dtypes: name -> dtype, as numpy spells it; "" where it is not known.
        owners: of parameters: the class of the module that holds each, such as "Linear".
        read: values by name; None where there are none.
        unreadable: names whose values are no numbers.
        tied: of parameters: further name -> the name under which the parameter is listed.
        notes: what else there is to know, in words.
    """

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    read: Read | None = None
    unreadable: frozenset[str] = frozenset()
    tied: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def variables(checkpoint: Checkpoint) -> Side:
    """The variables of a checkpoint."""
    tensors = checkpoint.tensors
    return Side(
        variable_shapes(checkpoint),
        {name: tensor.dtype.name for name, tensor in tensors.items()},
        read=lambda name: tensors[name].read(),
        unreadable=frozenset(name for name, tensor in tensors.items() if not tensor.readable),
    )


def parameters(module: torch.nn.Module, weights: str | Path | None = None) -> Side:
    """The parameters of a module; one that several modules share is listed once, under its first name.

    Args:
        module: may be on the meta device.
        weights: a safetensors file, or a directory of them, with the values under the parameters' names.

    Raises:
        InputError: the weights are not those of the module; lists all that is missing or has another shape.
    """
    import torch

    owners: dict[str, str] = {}
    for scope, owner in module.named_modules():
        kinds = (torch.nn.Linear, torch.nn.Embedding)
        kind = next((k.__name__ for k in kinds if isinstance(owner, k)), type(owner).__name__)
        for name, _ in owner.named_parameters(prefix=scope, recurse=False):
            owners.setdefault(name, kind)
    found = dict(module.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in found.items()}
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = {
        alias: name for name, parameter in found.items() for alias in names[id(parameter)] if alias != name
    }
    if weights is None:
        return Side(shapes, owners=owners, tied=tied)
    files = _stored(Path(weights))
    # Of a parameter with several names, the file keeps one.
    where = {
        name: next((alias for alias in names[id(parameter)] if alias in files), name)
        for name, parameter in found.items()
    }
    problems = [
        Problem(name, f"a tensor of shape {shape}", "none" if alias not in files else f"{files[alias][1]}")
        for name, shape in shapes.items()
        if (alias := where[name]) not in files or files[alias][1] != shape
    ]
    if problems:
        raise InputError(
            f"{weights} does not hold the parameters of the module.",
            problems=problems,
            remedy="Give the weights of this very module, in its own names, or none.",
        )

    def read(name: str) -> npt.NDArray[Any]:
        from safetensors import safe_open

        with safe_open(files[where[name]][0], "pt") as file:
            tensor = file.get_tensor(where[name])
        array: npt.NDArray[Any] = tensor.to(torch.float32).numpy()
        return array

    notes = tuple(
        f"The weights hold both {alias} and {name}, one parameter in the module: it has lost one of them."
        for alias, name in tied.items()
        if alias in files and name in files
    )
    dtypes = {name: files[where[name]][2] for name in shapes}
    return Side(shapes, dtypes, owners, read, tied=tied, notes=notes)


def _stored(path: Path) -> dict[str, tuple[Path, Shape, str]]:
    """Tensor name -> its file, shape and dtype."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[Path, Shape, str]] = {}
    try:
        for file in weight_files(path) if path.is_dir() else [path]:
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    piece = tensors.get_slice(name)
                    found[name] = (Path(file), tuple(piece.get_shape()), str(piece.get_dtype()))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error
    return found


def build_module(factory: str, checkpoint: Checkpoint, config: str | Path | None = None) -> torch.nn.Module:
    """The module that is meant, on the meta device where it can be built there.

    Args:
        factory: "package.module:callable", "file.py:callable", or the name of an installed port.
        checkpoint: beside which a port's config is looked for.
        config: of a port; by default the one beside the checkpoint, else inferred.

    Raises:
        InputError: there is no such callable, it fails, or returns no module.
    """
    import torch

    ports = installed_ports()
    if factory in ports:
        port = ports[factory]
        shapes = variable_shapes(checkpoint)
        path = Path(config) if config is not None else find_config(checkpoint, port)
        resolved = port.infer_config(shapes) if path is None else port.read_config(path, shapes)
        with torch.device("meta"):
            return port.build(resolved.config)
    if config is not None:
        raise InputError("--config goes with the name of an installed port; a factory knows its own config.")
    build = _callable(factory)
    try:
        with torch.device("meta"):
            module = build()
    except Exception:
        # Some constructors compute with their parameters, which meta tensors cannot.
        try:
            module = build()
        except Exception as error:
            raise InputError(
                f"{factory} failed: {type(error).__name__}: {error}", remedy="It is called with no argument."
            ) from error
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{factory} returned {type(module).__name__}, not a torch.nn.Module.")
    return module


def _callable(factory: str) -> Callable[[], Any]:
    where, colon, name = factory.rpartition(":")
    if not colon or not where or not name:
        known = ", ".join(sorted(installed_ports())) or "none"
        raise InputError(
            f"{factory!r} names no factory.",
            remedy=f"Give package.module:callable, file.py:callable, or an installed port ({known}).",
        )
    try:
        if where.endswith(".py"):
            path = Path(where)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
            spec.loader.exec_module(module)
        else:
            if "" not in sys.path:
                sys.path.insert(0, "")  # as `python -m` does: a module in this folder
            module = importlib.import_module(where)
    except Exception as error:
        raise InputError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise InputError(f"{where} has no callable {name!r}.")
    return found  # type: ignore[no-any-return]


def as_float(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 values; bfloat16 and float16 lose nothing by it."""
    return np.asarray(array, np.float32)
