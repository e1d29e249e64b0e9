"""Where every tensor will lie, known before one is read: in safetensors files, in a bundle's data files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from porting.checkpoint.safetensors_file import DTYPES
from porting.checkpoint.tf_shards import data_file_name
from porting.errors import InputError
from porting.mapping import Shape
from porting.model_dir import WEIGHTS

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be before it is there."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class FileLayout:
    """One file: what it begins with, and the tensors that follow, one after another.

    Attributes:
        name: of the file.
        head: its first bytes.
        specs: the tensors, in the order in which they lie.
    """

    name: str
    head: bytes
    specs: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.head) + sum(spec.nbytes for spec in self.specs)

    def offsets(self) -> list[int]:
        """The first byte of each tensor."""
        offsets, at = [], len(self.head)
        for spec in self.specs:
            offsets.append(at)
            at += spec.nbytes
        return offsets


def safetensors_layout(specs: Sequence[TensorSpec], max_shard_size: int) -> list[FileLayout]:
    """`model.safetensors`, or `model-00001-of-0000N.safetensors`, ... as transformers names them.

    Format: that of the safetensors library (8 bytes of header length, JSON header, raw data).
    """
    shards = _shards(specs, max_shard_size)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    return [
        FileLayout(name, _safetensors_head(shard), tuple(shard))
        for name, shard in zip(names, shards, strict=True)
    ]


def bundle_layout(specs: Sequence[TensorSpec], prefix: str, max_shard_size: int) -> list[FileLayout]:
    """`PREFIX.data-00000-of-0000N`: the data files of a TensorFlow bundle, which hold nothing but values."""
    shards = _shards(specs, max_shard_size)
    return [
        FileLayout(data_file_name(prefix, i, len(shards)), b"", tuple(shard))
        for i, shard in enumerate(shards)
    ]


def weights_index(layout: Sequence[FileLayout]) -> dict[str, Any]:
    """The content of `model.safetensors.index.json`."""
    return {
        "metadata": {"total_size": sum(spec.nbytes for file in layout for spec in file.specs)},
        "weight_map": {spec.name: file.name for file in layout for spec in file.specs},
    }


def parse_size(size: str | int) -> int:
    """Bytes of "5GB", "300MB", "2GiB" or a number. Raises InputError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", str(size), re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise InputError(f"A size must be such as 5GB, 300MB or 2GiB, not {size!r}.")
    return max(1, int(float(match[1]) * _UNITS[match[2].upper()]))


def _shards(specs: Sequence[TensorSpec], max_shard_size: int) -> list[list[TensorSpec]]:
    """Tensors by file, in order, no file larger than `max_shard_size` bytes unless one tensor is."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def _safetensors_head(specs: Sequence[TensorSpec]) -> bytes:
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
    return len(encoded).to_bytes(8, "little") + encoded
