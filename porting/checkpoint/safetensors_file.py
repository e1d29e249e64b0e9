"""Checkpoints in safetensors files, as PyTorch originals have them; read without PyTorch.

A checkpoint is one `*.safetensors` file, or several that a `*.safetensors.index.json` lists. The safetensors
library checks every header (offsets in order, without holes, inside the file); values are read piece by
piece. The format has no checksums: a damaged value is not noticed.

Source of the layout: the safetensors library's README (8 bytes of header length, JSON header, raw data).
"""

from __future__ import annotations

import json
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import lfs_remedy, named_os_errors
from porting.checkpoint.joined_files import open_joined
from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.checkpoint.stored import DataFile, StoredBytes, read_stored
from porting.errors import CheckpointError, Problem

FORMAT = "safetensors"
SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
# NumPy 1's limit on axes.
_MAX_RANK = 32
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""The format's names of dtypes."""

_UNREADABLE = np.dtype(object)


def find_safetensors(source: Path) -> Path | None:
    """The safetensors file or index that `source` is, or, of a directory, holds; None if there is none.

    Raises:
        CheckpointError: a directory holds several, and none is `model.safetensors` or its index.
    """
    with named_os_errors(source):
        if source.is_file():
            return source if source.name.endswith((SUFFIX, INDEX_SUFFIX)) else None
        if not source.is_dir():
            return None
        names = sorted(path.name for path in source.iterdir())
        found = [name for name in names if name.endswith(INDEX_SUFFIX)]
        found = found or [name for name in names if name.endswith(SUFFIX)]
    if len(found) > 1 and not {"model" + SUFFIX, "model" + INDEX_SUFFIX} & {*found}:
        raise CheckpointError(
            f"{source} holds {len(found)} safetensors files, and no index that joins them",
            problems=[Problem(str(source), f"one *{SUFFIX}, or *{INDEX_SUFFIX}", ", ".join(found[:10]))],
            remedy=f"Give the one you mean, such as {source / found[0]}.",
        )
    standard = [name for name in found if name.startswith("model.")]
    return source / (standard or found)[0] if found else None


def open_safetensors(path: Path) -> Checkpoint:
    """List the tensors of a safetensors file, or of all files that an index lists.

    Args:
        path: of the file, or of the index.

    Raises:
        CheckpointError: a file is missing or damaged, or does not hold what the index says.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return open_joined(path, FORMAT, _tensors_of)
    return Checkpoint(path, FORMAT, _tensors_of(path), (path,), contents=(path,))


def _tensors_of(path: Path) -> dict[str, LazyTensor]:
    from safetensors import SafetensorError, safe_open

    file = DataFile(path)
    beginning = _bytes(file, 0, 64)
    try:
        with safe_open(path, framework="numpy"):
            pass
        start = 8 + int.from_bytes(beginning[:8], "little")
        header = json.loads(_bytes(file, 8, start - 8))
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, str(error), lfs_remedy(beginning)) from error
    header.pop("__metadata__", None)
    tensors = {}
    for name in sorted(header):
        entry = header[name]
        dtype, shape = DTYPES.get(entry["dtype"], _UNREADABLE), tuple(entry["shape"])
        # NumPy has no such arrays, not even empty ones.
        if len(shape) > _MAX_RANK or prod(size or 1 for size in shape) * dtype.itemsize >= 1 << 63:
            raise _unreadable(path, f"{name} of shape {list(shape[: _MAX_RANK + 1])}")
        first, last = (start + offset for offset in entry["data_offsets"])
        if dtype == _UNREADABLE:
            refuse = partial(_refuse, path, name, entry["dtype"])
            tensors[name] = LazyTensor(name, shape, dtype, (path,), refuse)
            continue
        stored = StoredBytes(lambda: file, first, last - first, name)
        load = partial(read_stored, stored, dtype, shape)
        tensors[name] = LazyTensor(name, shape, dtype, (path,), load, stored)
    return tensors


def _bytes(file: DataFile, offset: int, count: int) -> bytes:
    found = np.empty(count, np.uint8)
    return found[: file.read_into(found, offset)].tobytes()


def _refuse(path: Path, name: str, dtype: str) -> npt.NDArray[Any]:
    problem = Problem(name, f"a dtype among {', '.join(DTYPES)}", dtype)
    raise CheckpointError(f"{path}: {name} cannot be read", problems=[problem])


def _unreadable(path: Path, why: str, remedy: str = "") -> CheckpointError:
    problem = Problem(str(path), "a file that the safetensors library reads", why)
    return CheckpointError(f"{path} is damaged or incomplete", problems=[problem], remedy=remedy)
