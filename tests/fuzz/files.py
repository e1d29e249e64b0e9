"""Fuzz targets of safetensors, files of torch.save, indexes that join files, and traces."""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache
from typing import Any

import numpy as np

from porting.checkpoint.pytorch_file import open_pytorch
from porting.checkpoint.safetensors_file import open_safetensors
from porting.model_dir import load_model, weight_files
from porting.port import installed_ports
from porting.trace import read_trace
from tests.fuzz.bundles import read_everything
from tests.fuzz.harness import Target, guarded, sandbox

_BODY = np.arange(64, dtype=np.uint8).tobytes()


def safetensors_seeds() -> list[bytes]:
    """Headers, for 64 bytes of values."""
    entries = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "c": {"dtype": "F8_E4M3", "shape": [31], "data_offsets": [32, 63]},
        "d": {"dtype": "BOOL", "shape": [], "data_offsets": [63, 64]},
        "e": {"dtype": "F32", "shape": [0, 4611686018427387904], "data_offsets": [64, 64]},
        "f": {"dtype": "U8", "shape": [1, 0], "data_offsets": [64, 64]},
    }
    many = {"a": {"dtype": "U8", "shape": [1] * 70 + [64], "data_offsets": [0, 64]}}
    wide = {"a": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}, "__metadata__": {"format": "pt"}}
    return [json.dumps(content).encode() for content in (entries, many, wide)]


def run_safetensors(data: bytes) -> None:
    """A header under its right length."""
    _run_safetensors(len(data).to_bytes(8, "little") + data + _BODY)


def run_safetensors_file(data: bytes) -> None:
    _run_safetensors(data)


def _run_safetensors(content: bytes) -> None:
    path = sandbox() / "fuzzed.safetensors"
    path.write_bytes(content)
    with guarded():
        read_everything(open_safetensors(path))


def safetensors_file_seeds() -> list[bytes]:
    return [len(header).to_bytes(8, "little") + header + _BODY for header in safetensors_seeds()]


@cache
def _joined_folder() -> Any:
    folder = sandbox() / "joined"
    folder.mkdir()
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "../outside.safetensors",
    ):
        tensor = {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}
        header = json.dumps({name[6:11]: tensor}).encode()
        (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + _BODY)
    return folder


def joined_seeds() -> list[bytes]:
    places = {f"0000{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    outside = {"tside": "../outside.safetensors"}
    return [
        json.dumps({"metadata": {}, "weight_map": m}).encode() for m in (places, outside, {**places, "x": 1})
    ]


def run_joined(data: bytes) -> None:
    path = _joined_folder() / "model.safetensors.index.json"
    path.write_bytes(data)
    with guarded():
        checkpoint = open_safetensors(path)
        read_everything(checkpoint)
        assert all(file.parent == path.parent for file in checkpoint.files)
    with guarded():
        weight_files(path.parent)


@cache
def _saved() -> bytes:
    import torch

    storage = torch.arange(16, dtype=torch.float32)
    state = {"a": storage[:6].view(2, 3), "b": storage[1::2], "c": torch.ones(3, dtype=torch.bfloat16)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def torch_seeds() -> list[bytes]:
    """Pickles of state dicts."""
    with zipfile.ZipFile(io.BytesIO(_saved())) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    return [pickled]


def run_torch(data: bytes) -> None:
    """A pickle in a sound zip file, with the records that a sound pickle names."""
    path = sandbox() / "fuzzed.bin"
    with zipfile.ZipFile(io.BytesIO(_saved())) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith("data.pkl") else source.read(name))
    with guarded():
        read_everything(open_pytorch(path))


def run_torch_zip(data: bytes) -> None:
    path = sandbox() / "fuzzed.bin"
    path.write_bytes(data)
    with guarded():
        read_everything(open_pytorch(path))


def torch_zip_seeds() -> list[bytes]:
    import torch

    old = io.BytesIO()
    torch.save({"a": torch.ones(2, 3)}, old, _use_new_zipfile_serialization=False)
    return [_saved(), old.getvalue()]


def trace_seeds() -> list[bytes]:
    """trace.json, a null byte, and the NumPy file that it names."""
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype=np.int32).reshape(2, 3))
    tensor = {"name": "a", "dims": ["batch", "length"], "file": "x.npy", "hidden_below": 1.5}
    index = {"schema_version": 1, "inputs": {"inputs": "x.npy"}, "tensors": [tensor], "metadata": {}}
    outside = {**index, "inputs": {"inputs": "../../outside.npy"}}
    archive = io.BytesIO()
    np.savez(archive, a=np.arange(2))
    parts = [(index, buffer), (outside, buffer), (index, archive)]
    return [json.dumps(content).encode() + b"\0" + file.getvalue() for content, file in parts]


def run_trace(data: bytes) -> None:
    folder = sandbox() / "trace"
    folder.mkdir(exist_ok=True)
    index, _, values = data.partition(b"\0")
    (folder / "trace.json").write_bytes(index)
    (folder / "x.npy").write_bytes(values)
    with guarded():
        trace = read_trace(folder)
        for tensor, array in trace.items():
            assert array.ndim == len(tensor.dims)
            array.sum()


_TINY = {
    "model_type": "t5", "vocab_size": 12, "d_model": 6, "d_kv": 2, "d_ff": 8, "num_layers": 1, "num_heads": 2,
    "num_decoder_layers": 1, "feed_forward_proj": "relu", "tie_word_embeddings": True,
}  # fmt: skip


def model_seeds() -> list[bytes]:
    """What config.json may hold beside the weights of a tiny T5."""
    deep = {**_TINY, "num_layers": 300, "num_decoder_layers": 10**9}
    return [json.dumps(content).encode() for content in (_TINY, deep, {**_TINY, "vocab_size": 1 << 40})]


@cache
def _weights() -> bytes:
    import torch
    from safetensors.torch import save

    port = installed_ports()["t5"]
    model = port.build(port.config_from_json(_TINY))
    return save({name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()})


def run_model(data: bytes) -> None:
    """A config.json beside the weights of a tiny T5."""
    folder = sandbox() / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(_weights())
    with guarded():
        load_model(folder)


TARGETS = [
    Target("safetensors header", run_safetensors, safetensors_seeds),
    Target("safetensors file", run_safetensors_file, safetensors_file_seeds),
    Target("joined", run_joined, joined_seeds),
    Target("torch pickle", run_torch, torch_seeds),
    Target("torch zip", run_torch_zip, torch_zip_seeds),
    Target("trace", run_trace, trace_seeds),
    Target("model directory", run_model, model_seeds),
]
