"""Checkpoints that `torch.save` wrote: `pytorch_model.bin`, or several that an index joins.

PyTorch unpickles with `weights_only=True` and says where each tensor lies; no code of the file is ever run.
The values are read from the file itself, with their CRC32 checked, when they are asked for.

Source: `torch/serialization.py`. A file is a zip (`torch_zip`), or, before PyTorch 1.6, one pickle with the
values behind it, which PyTorch reads whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import lfs_remedy, named_os_errors
from porting.checkpoint.joined_files import open_joined
from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.checkpoint.safetensors_file import DTYPES
from porting.checkpoint.torch_zip import ZIP_MAGIC, Archive, damaged, read_records
from porting.errors import CheckpointError, Problem

if TYPE_CHECKING:
    import torch

FORMAT = "pytorch"
NAMES = ("pytorch_model.bin.index.json", "pytorch_model.bin")
INDEX_SUFFIX = ".bin.index.json"
SUFFIXES = (".bin", ".pt", ".pth", INDEX_SUFFIX)

# Before this release a file could run code in spite of weights_only (CVE-2025-32434).
_OLDEST_TORCH = (2, 6)
_MAX_RANK = 32
_MAX_LISTED = 100
# PyTorch calls them as NumPy does.
_DTYPES = {dtype.name: dtype for dtype in DTYPES.values()}
_UNREADABLE = np.dtype(object)
_REFUSED = re.compile(r"Unsupported (?:global|class)|Trying to |Can only |unsupported GLOBAL")
_SAVE_SAFELY = (
    "If you trust whoever made it, load it where it was made and save it again without code, as safetensors:"
    " model.save_pretrained(DIR); or ask its publisher for safetensors."
)


def find_pytorch(source: Path) -> Path | None:
    """The file or index that `source` is, or that a directory holds under its usual name; else None."""
    with named_os_errors(source):
        if source.is_file():
            return source if source.name.endswith(SUFFIXES) else None
        return next((source / name for name in NAMES if (source / name).is_file()), None)


def open_pytorch(path: Path) -> Checkpoint:
    """List the tensors of a file of `torch.save`, or of all files that an index joins.

    A zip file's values stay on disk until they are read. The format before PyTorch 1.6 is read whole, here.

    Args:
        path: of the file, or of the index.

    Raises:
        CheckpointError: a file is missing, damaged, wants to run code, or holds other things than tensors; or
            the PyTorch that is installed is too old to read it safely.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return open_joined(path, FORMAT, _tensors_of)
    return Checkpoint(path, FORMAT, _tensors_of(path), (path,), contents=(path,))


def _tensors_of(path: Path) -> dict[str, LazyTensor]:
    with named_os_errors(path), path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise damaged(path, "an empty file")
    if remedy := lfs_remedy(start):
        raise damaged(path, "a stand-in for it", remedy)
    archive = Archive(path, read_records(path)) if start.startswith(ZIP_MAGIC) else None
    state = _load(path, mapped=archive is not None)
    _require_tensors(path, state)
    if archive is not None:
        archive.place(tensor for tensor in state.values() if _numpy_dtype(tensor) != _UNREADABLE)
    found = {}
    for name in sorted(state):
        tensor = state[name]
        dtype = _numpy_dtype(tensor)
        _check_extent(path, name, tensor, dtype)
        if dtype == _UNREADABLE:
            load = partial(_refuse, path, name, _described(tensor))
        elif archive is None:
            load = partial(_from_memory, tensor, dtype)
        else:
            load = partial(archive.read, name, archive.region(tensor, dtype))
        found[name] = LazyTensor(name, tuple(tensor.shape), dtype, (path,), load)
    return found


def _load(path: Path, *, mapped: bool) -> Any:
    """What the pickle holds, its tensors mapped into memory where that is possible."""
    import torch

    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST_TORCH:
        wanted = ".".join(map(str, _OLDEST_TORCH))
        raise CheckpointError(
            f"{path} is not opened with PyTorch {torch.__version__}, in which such a file can run code.",
            remedy=f"Install PyTorch {wanted} or later, or give the model as safetensors.",
        )
    try:
        with named_os_errors(path):
            return torch.load(path, weights_only=True, mmap=mapped, map_location="cpu")
    except CheckpointError:
        raise
    # Whatever a broken pickle makes of its own objects: any kind of error may come out.
    except Exception as error:
        raise _not_loaded(path, error) from error


def _not_loaded(path: Path, error: Exception) -> CheckpointError:
    # PyTorch's own message goes on to propose loading without protection, so only its reason is repeated.
    text = str(error)
    if _REFUSED.search(text):
        named = re.search(r"GLOBAL ([\w.]+)", text)
        what = named[1] if named else "something that is no tensor"
        problem = Problem(str(path), "tensors, and nothing that must be run to be read", what)
        return CheckpointError(
            f"{path} wants to run code when it is opened, which is not done",
            problems=[problem],
            remedy=_SAVE_SAFELY,
        )
    if "TorchScript" in text or "torch.jit" in text:
        found = "a TorchScript program"
        remedy = "save its state_dict() with torch.save, where it was made"
        return damaged(path, found, remedy)
    return damaged(path, f"{type(error).__name__} while PyTorch read it")


def _require_tensors(path: Path, state: Any) -> None:
    """Raise CheckpointError unless `state` is a dictionary of tensors by name."""
    import torch

    if not isinstance(state, Mapping):
        problem = Problem(str(path), "a dictionary of tensors by name", f"a {type(state).__name__}")
        raise CheckpointError(f"{path} is not a state dict", problems=[problem], remedy=_state_dict_remedy())
    others = [
        Problem(_shown(name), "a tensor", f"a {type(value).__name__}")
        for name, value in state.items()
        if not isinstance(value, torch.Tensor)
    ]
    others += [
        Problem(_shown(name), "a name", f"a {type(name).__name__}") for name in state if not _is_name(name)
    ]
    if others:
        raise CheckpointError(
            f"{path} holds {len(others)} thing(s) besides tensors by name",
            problems=others[:_MAX_LISTED],
            remedy=_state_dict_remedy(),
        )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable()


def _shown(name: object) -> str:
    return name if isinstance(name, str) and _is_name(name) else ascii(name)[:80]


def _state_dict_remedy() -> str:
    return "Save the model's state_dict() alone: torch.save(model.state_dict(), FILE)."


def _from_memory(tensor: torch.Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if dtype == ml_dtypes.bfloat16:
        # NumPy has no bfloat16 of its own, so the bits go over as integers.
        values: npt.NDArray[Any] = plain.view(torch.int16).numpy().view(dtype)
    else:
        values = plain.numpy()
    values = values.view()
    values.flags.writeable = False
    return values


def _numpy_dtype(tensor: torch.Tensor) -> np.dtype[Any]:
    import torch

    # Sparse ones, those without values, and those whose bits must be turned over to be values.
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_neg() or tensor.is_conj():
        return _UNREADABLE
    return _DTYPES.get(str(tensor.dtype).removeprefix("torch."), _UNREADABLE)


def _check_extent(path: Path, name: str, tensor: torch.Tensor, dtype: np.dtype[Any]) -> None:
    """Raise CheckpointError unless a tensor's elements are all inside of its storage, and each there once."""
    shape, strides = tuple(tensor.shape), tuple(tensor.stride()) if dtype != _UNREADABLE else ()
    if len(shape) > _MAX_RANK or prod(size or 1 for size in shape) * dtype.itemsize >= 1 << 63:
        raise damaged(path, f"{name} of shape {list(shape)[: _MAX_RANK + 1]}")
    if dtype == _UNREADABLE or not prod(shape):
        return
    held = tensor.untyped_storage().nbytes()
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    end = (tensor.storage_offset() + last + 1) * dtype.itemsize
    # A stride of 0 would let some bytes claim to be any number of them.
    if end > held or prod(shape) * dtype.itemsize > held:
        raise damaged(path, f"{name} of shape {list(shape)} and strides {list(strides)} in {held} bytes")


def _described(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} ({tensor.layout}, {tensor.device.type})"


def _refuse(path: Path, name: str, found: str) -> npt.NDArray[Any]:
    problem = Problem(name, f"a plain tensor of a dtype among {', '.join(_DTYPES)}", found)
    raise CheckpointError(f"{path}: {name} cannot be read", problems=[problem])
