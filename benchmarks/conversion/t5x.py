"""Checkpoints of published sizes as T5X saves them: zarr arrays with gzip, random values, no slots."""

from __future__ import annotations

from math import prod
from pathlib import Path

import msgpack
import numpy as np
import tensorstore as ts

from benchmarks.conversion.bundle import Bundle
from porting.checkpoint.t5x_writer import T5XArray
from porting.ports.t5.presets import preset
from porting.ports.t5.t5x.variables import variables

STEP = 1_000_000
# `_DESIRED_CHUNK_SIZE_BYTES` in t5x/checkpoints.py.
CHUNK_BYTES = 64 << 20


def write_t5x(model: str, directory: Path, *, scanned: bool) -> Bundle:
    """Write a checkpoint of this size into an empty directory, chunk by chunk.

    Args:
        model: name of a published T5.
        directory: of the model; the checkpoint is a directory in it.
        scanned: the layers of a stack in one array.

    Returns:
        Where it is; `data` is its directory, too.
    """
    checkpoint = directory / f"checkpoint_{STEP}"
    shapes = variables(preset(model), scanned=scanned)
    rng = np.random.default_rng(0)
    tree: dict[str, object] = {}
    for name, shape in shapes.items():
        spec = _write(rng, checkpoint, T5XArray(name, shape, np.dtype("<f4")))
        *branches, leaf = name.split("/")
        at = tree
        for branch in branches:
            found = at.setdefault(branch, {})
            assert isinstance(found, dict)
            at = found
        at[leaf] = spec
    (checkpoint / "checkpoint").write_bytes(msgpack.packb({"version": 3, "optimizer": tree}))
    nbytes = 4 * sum(map(prod, shapes.values()))
    return Bundle(checkpoint, checkpoint, nbytes, nbytes)


def _write(rng: np.random.Generator, checkpoint: Path, array: T5XArray) -> dict[str, object]:
    """One array; returns what the index says of it."""
    rows = max(1, CHUNK_BYTES // (4 * prod(array.shape[1:])))
    spec = array.spec()
    spec["metadata"] |= {
        "chunks": [min(rows, array.shape[0]), *array.shape[1:]],
        "compressor": {"id": "gzip", "level": 1},
    }
    where = {"driver": "file", "path": f"{checkpoint / array.directory}/"}
    store = ts.open({**spec, "kvstore": where}, create=True).result()
    for first in range(0, array.shape[0], rows):
        shape = (min(rows, array.shape[0] - first), *array.shape[1:])
        bits = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
        bits &= np.uint32(0x807FFFFF)
        bits |= np.uint32(0x3D000000)
        store[first : first + shape[0]].write(bits.view(np.float32)).result()
    return spec
