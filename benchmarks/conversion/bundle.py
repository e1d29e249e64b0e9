"""Checkpoints of published sizes, as Mesh TensorFlow saves them with Adafactor, with random values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import google_crc32c
import numpy as np

from porting.checkpoint.tf_bundle_writer import BundleTensor, bundle_index, checkpoint_state
from porting.checkpoint.tf_shards import data_file_name
from porting.ports.t5.presets import preset
from porting.ports.t5.to_gin import gin_from_config
from porting.ports.t5.variables import variables

Shape = tuple[int, ...]
PREFIX = "model.ckpt-1000000"
PIECE_VALUES = 1 << 20
# Adafactor factors the second moment of a matrix with both sides so long (`AdafactorOptimizer`,
# min_dim_size_to_factor in mesh_tensorflow/optimize.py).
FACTORED_FROM = 128


@dataclass(frozen=True)
class Bundle:
    """A checkpoint on disk.

    Attributes:
        prefix: its path without `.index`.
        data: its only data file.
        weight_bytes: of the weights alone.
        data_bytes: with the slots.
    """

    prefix: Path
    data: Path
    weight_bytes: int
    data_bytes: int


def weight_shapes(model: str) -> dict[str, Shape]:
    """Names and shapes of the weights of a published T5."""
    return variables(preset(model))


def slots(name: str, shape: Shape, *, momentum: bool) -> Iterator[tuple[str, Shape]]:
    """Adafactor's variables beside a weight, as Mesh names and shapes them."""
    if len(shape) == 2 and min(shape) >= FACTORED_FROM:
        yield f"{name}_slot_vc", (max(shape),)
        yield f"{name}_slot_vr", (min(shape),)
    else:
        yield f"{name}_slot_v", shape
    if momentum:
        yield f"{name}_slot_m", shape


def bundle_bytes(model: str, *, momentum: bool) -> tuple[int, int]:
    """Bytes of the weights, and of everything."""
    weights = weight_shapes(model)
    return _nbytes(weights), _nbytes(_all_shapes(weights, momentum=momentum)) + 8


def write_bundle(model: str, directory: Path, *, momentum: bool) -> Bundle:
    """Write a checkpoint of this size into an empty directory, piece by piece, and its gin config.

    Weights and slots lie in the order of their names, as Saver writes them.
    """
    weights = weight_shapes(model)
    shapes = _all_shapes(weights, momentum=momentum)
    rng = np.random.default_rng(0)
    data = directory / data_file_name(PREFIX, 0, 1)
    tensors = []
    with data.open("wb") as file:
        for name in sorted([*shapes, "global_step"], key=str.encode):
            offset = file.tell()
            if name == "global_step":
                raw = np.int64(1_000_000).tobytes()
                file.write(raw)
                tensors.append(
                    BundleTensor(name, np.dtype("<i8"), (), 0, offset, 8, google_crc32c.value(raw))
                )
                continue
            crc = 0
            for piece in _random_values(rng, prod(shapes[name])):
                crc = google_crc32c.extend(crc, piece)
                file.write(piece.data)
            nbytes = file.tell() - offset
            tensors.append(BundleTensor(name, np.dtype("<f4"), shapes[name], 0, offset, nbytes, crc))
        nbytes = file.tell()
    (directory / f"{PREFIX}.index").write_bytes(bundle_index(tensors, 1))
    (directory / "checkpoint").write_text(checkpoint_state(PREFIX))
    (directory / "operative_config.gin").write_text(gin_from_config(preset(model), [*weights]))
    return Bundle(directory / PREFIX, data, _nbytes(weights), nbytes)


def write_random(path: Path, nbytes: int) -> None:
    """A file of so many bytes, a multiple of 4."""
    rng = np.random.default_rng(1)
    with path.open("wb") as file:
        for piece in _random_values(rng, nbytes // 4):
            file.write(piece.data)


def _all_shapes(weights: Mapping[str, Shape], *, momentum: bool) -> dict[str, Shape]:
    found = dict(weights)
    for name, shape in weights.items():
        found |= slots(name, shape, momentum=momentum)
    return found


def _nbytes(shapes: Mapping[str, Shape]) -> int:
    return 4 * sum(prod(shape) for shape in shapes.values())


def _random_values(rng: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Pieces of float32 between 2**-5 and 2**-4 of either sign: random bits but for the exponent."""
    while count:
        size = min(count, PIECE_VALUES)
        bits = rng.integers(0, 1 << 32, size, dtype=np.uint32)
        bits &= np.uint32(0x807FFFFF)
        bits |= np.uint32(0x3D000000)
        yield bits.view(np.float32)
        count -= size
