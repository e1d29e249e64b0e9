"""Checkpoints as T5X writes them: each array by tensorstore, the index by msgpack, in Flax's forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

GZIP = {"id": "gzip", "level": 1}
Tree = Mapping[str, Any]


def packed(array: np.ndarray) -> bytes:
    """The inside of Flax's extension for an array."""
    return msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)


def extension(value: Any) -> Any:
    """What Flax makes of a leaf."""
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(1, packed(value))
    if isinstance(value, np.generic):
        return msgpack.ExtType(3, packed(np.asarray(value)))
    if isinstance(value, complex):
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
    raise TypeError(type(value))


def write_msgpack(path: Path, tree: Any) -> Path:
    path.write_bytes(msgpack.packb(tree, default=extension, strict_types=True))
    return path


def write_array(
    directory: Path,
    array: np.ndarray,
    *,
    chunks: tuple[int, ...] | None = None,
    compressor: Mapping[str, Any] | None = GZIP,
    path: str | None = None,
    driver: str = "file",
    **metadata: Any,
) -> dict[str, Any]:
    """Write it with tensorstore; returns the description that T5X puts into its index."""
    described = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": f"{directory}/"},
        "metadata": {
            "shape": list(array.shape),
            "chunks": list(chunks or array.shape),
            "compressor": compressor,
            **metadata,
        },
    }
    ts.open(described, create=True, delete_existing=True).result().write(array).result()
    return {**described, "kvstore": {"driver": driver, "path": path or f"{directory.name}/"}}


def write_version_3(directory: Path, tensors: Mapping[str, np.ndarray], **options: Any) -> Path:
    """`directory/checkpoint` and a directory for each tensor; names as the reader gives them."""
    directory.mkdir(parents=True, exist_ok=True)
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *branches, leaf = name.split("/")
        at = tree
        for branch in branches:
            at = at.setdefault(branch, {})
        at[leaf] = write_array(directory / name.replace("/", "."), array, **options)
    write_msgpack(directory / "checkpoint", {"version": 3, "optimizer": tree})
    return directory


def random_array(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Any bits of the dtype: NaNs and infinities are values too."""
    dtype = np.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return (raw & 1).view(bool).reshape(shape) if dtype.kind == "b" else raw.view(dtype).reshape(shape)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
