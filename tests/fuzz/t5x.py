"""Fuzz targets of T5X's, Flax's and Orbax's checkpoints."""

from __future__ import annotations

import gzip
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.checkpoint.t5x_checkpoint import open_t5x
from porting.checkpoint.zarr_header import parse_header
from tests.fuzz.bundles import read_everything
from tests.fuzz.harness import Finding, Target, guarded, sandbox

_VALUES = np.arange(12, dtype="<f4")
_HEADER = {
    "chunks": [3, 4],
    "compressor": {"id": "gzip", "level": 1},
    "dimension_separator": ".",
    "dtype": "<f4",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [3, 4],
    "zarr_format": 2,
}
_HEADER_3 = {
    "chunk_grid": {"configuration": {"chunk_shape": [3, 4]}, "name": "regular"},
    "chunk_key_encoding": {"name": "default"},
    "codecs": [
        {"configuration": {"endian": "little"}, "name": "bytes"},
        {"configuration": {"level": 1}, "name": "gzip"},
    ],
    "data_type": "float32",
    "fill_value": 0.0,
    "node_type": "array",
    "shape": [3, 4],
    "zarr_format": 3,
}
# The size of the array in the file that the index is put into.
_INLINE = msgpack.packb(([3, 4], "float32", _VALUES.tobytes()))


def _write_array(directory: Path, header: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".zarray").write_text(json.dumps(header))
    content = _VALUES.tobytes()
    for chunk in ("0", "0.0", "0.1", "1.0"):
        (directory / chunk).write_bytes(gzip.compress(content) if header["compressor"] else content)


@cache
def _folder() -> Path:
    """Three arrays, and one outside."""
    folder = sandbox() / "checkpoint_1"
    _write_array(folder / "target.a", _HEADER)
    _write_array(folder / "target.b", {**_HEADER, "compressor": None})
    _write_array(folder / "target.c", {**_HEADER, "dtype": "<u2", "shape": [3, 8], "chunks": [3, 8]})
    _write_array(sandbox().parent / "target.a", _HEADER)
    return folder


def _read(checkpoint: Checkpoint) -> None:
    read_everything(checkpoint)
    for path in checkpoint.files:
        if not path.resolve().is_relative_to(sandbox()):
            raise Finding(f"{path} lies elsewhere")


def _spec(name: str, dtype: str = "float32", shape: tuple[int, ...] = (3, 4), **more: Any) -> dict[str, Any]:
    return {
        "driver": "zarr",
        "dtype": dtype,
        "kvstore": {"driver": "file", "path": f"{name}/", **more},
        "metadata": {"chunks": list(shape), "compressor": {"id": "gzip"}, "shape": list(shape)},
    }


def index_seeds() -> list[bytes]:
    inline = msgpack.ExtType(1, _INLINE)
    pieces = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 8, "1": 3},
        "chunks": {"0": inline, "1": inline},
    }
    trees: list[Any] = [
        {
            "version": 3,
            "optimizer": {
                "target": {"a": _spec("target.a"), "b": _spec("x/target.b"), "p": pieces},
                "state": {"step": msgpack.ExtType(3, msgpack.packb([[], "int32", bytes(4)])), "n": None},
            },
        },
        {"version": 2, "optimizer": {"target": {"c": _spec("target.c", "uint16", (3, 8))}}},
        {"target": {"a": "PLACEHOLDER://target.a", "b": ["PLACEHOLDER://target.b", 1.5, True, 1 << 63]}},
        {"target": {"a": _spec("../target.a"), "b": {"driver": "cast", "base": _spec("target.b")}}},
    ]
    return [msgpack.packb(tree) for tree in trees]


def run_index(data: bytes) -> None:
    index = _folder() / "checkpoint"
    index.write_bytes(data)
    with guarded():
        _read(open_t5x(index, index.parent))
    with guarded():
        open_checkpoint(index.parent)


def array_seeds() -> list[bytes]:
    """What an extension holds."""
    return [
        _INLINE,
        msgpack.packb(([2, 1 << 40], "bfloat16", b"1234")),
        msgpack.packb(([0, 1 << 62], "int8", b"")),
        b"\x93\x91\x04\xc4\x07float32\xc4\x10" + bytes(16),
    ]


def run_array(data: bytes) -> None:
    path = sandbox() / "fuzzed.msgpack"
    path.write_bytes(
        msgpack.packb({"target": {"x": msgpack.ExtType(1, data), "y": msgpack.ExtType(3, data)}})
    )
    with guarded():
        _read(open_t5x(path, path))


def header_seeds() -> list[bytes]:
    changes: list[dict[str, Any]] = [
        {},
        {"order": "F", "chunks": [2, 3]},
        {"compressor": None},
        {"compressor": {"id": "bz2", "level": 9}, "shape": [1 << 40, 4], "chunks": [1 << 20, 4]},
        {"shape": [], "chunks": [], "dtype": "|b1", "compressor": {"id": "blosc"}},
        {"dtype": "bfloat16", "shape": [3, 0], "fill_value": "NaN", "compressor": {"id": "zstd"}},
        {"dimension_separator": "/", "filters": [{"id": "delta"}], "dtype": [["a", "<f4"]]},
    ]
    return [json.dumps({**_HEADER, **change}).encode() for change in changes]


def run_header(data: bytes) -> None:
    """`.zarray` above the chunks of a sound array."""
    _run_header(data, ".zarray")


def header_3_seeds() -> list[bytes]:
    shard = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [3, 4], "codecs": _HEADER_3["codecs"]},
    }
    changes: list[dict[str, Any]] = [
        {},
        {"codecs": [shard]},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
        {"shape": [1 << 50, 4], "codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}]},
    ]
    return [json.dumps({**_HEADER_3, **change}).encode() for change in changes]


def run_header_3(data: bytes) -> None:
    """`zarr.json` above the chunks of a sound array."""
    _run_header(data, "zarr.json")


def _run_header(data: bytes, name: str) -> None:
    folder = sandbox() / "headers"
    shutil.rmtree(folder, ignore_errors=True)
    _write_array(folder / "target.a", _HEADER)
    (folder / "target.a" / "c" / "0").mkdir(parents=True)
    (folder / "target.a" / "c" / "0" / "0").write_bytes(gzip.compress(_VALUES.tobytes()))
    (folder / "target.a" / ".zarray").unlink()
    (folder / "target.a" / name).write_bytes(data)
    (folder / "checkpoint").write_bytes(msgpack.packb({"target": {"a": "PLACEHOLDER://target.a"}}))
    with guarded():
        parse_header(data, name)
    with guarded():
        _read(open_t5x(folder / "checkpoint", folder))


def metadata_seeds() -> list[bytes]:
    def leaf(*keys: Any, kind: str = "jax.Array") -> dict[str, Any]:
        path = [{"key": key, "key_type": 2} for key in keys]
        return {"key_metadata": path, "value_metadata": {"value_type": kind, "skip_deserialize": False}}

    tree = {"1": leaf("target", "a"), "2": leaf("target", "b"), "3": leaf("x", kind="None")}
    tree |= {"4": leaf("s", 1, kind="string")}
    outside = {"1": leaf("..", "target.a"), "2": leaf("../../target", "a")}
    return [json.dumps({"tree_metadata": found, "use_zarr3": False}).encode() for found in (tree, outside)]


def run_metadata(data: bytes) -> None:
    folder = sandbox() / "orbax"
    if not folder.exists():
        shutil.copytree(_folder(), folder)
        (folder / "checkpoint").unlink(missing_ok=True)
    (folder / "_METADATA").write_bytes(data)
    with guarded():
        _read(open_checkpoint(folder))


TARGETS = [
    Target("t5x index", run_index, index_seeds),
    Target("flax array", run_array, array_seeds),
    Target("zarr header", run_header, header_seeds),
    Target("zarr 3 header", run_header_3, header_3_seeds),
    Target("orbax metadata", run_metadata, metadata_seeds),
]
