from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from bundle_writer import HEADER, table
from safetensors.torch import save_file

from porting.checkpoint import open_checkpoint
from porting.errors import CheckpointError

TENSORS = {
    "b.weight": torch.randn(3, 5),
    "a.bias": torch.randn(4).to(torch.bfloat16),
    "steps": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "half": torch.randn(2, 1, 3, dtype=torch.float16),
}


def widened(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def assert_same(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        found = checkpoint.tensors[name]
        assert found.shape == tuple(tensor.shape)
        values = found.read()
        assert values.dtype == found.dtype
        assert not values.flags.writeable
        np.testing.assert_array_equal(values.astype(widened(tensor).dtype), widened(tensor))
    assert checkpoint.tensors["a.bias"].dtype == ml_dtypes.bfloat16
    assert checkpoint.format == "safetensors"


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_a_file_or_the_directory_that_holds_it(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert_same(tmp_path / name)
    assert_same(tmp_path)
    assert open_checkpoint(tmp_path).identifying_files() == (tmp_path / name,)


def shards(folder: Path) -> dict[str, str]:
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(TENSORS)}
    for file in set(places.values()):
        save_file({name: TENSORS[name] for name in TENSORS if places[name] == file}, folder / file)
    write_index(folder, places)
    return places


def write_index(folder: Path, places: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_files_that_an_index_joins(tmp_path: Path) -> None:
    shards(tmp_path)
    assert_same(tmp_path)
    assert len(open_checkpoint(tmp_path).identifying_files()) == 3


def test_an_index_and_files_that_disagree_are_refused_by_name(tmp_path: Path) -> None:
    places = shards(tmp_path)
    del places["steps"]
    write_index(tmp_path, {**places, "more": "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert "steps: expected one entry" in str(error.value)
    assert "more: expected to lie in model-00001" in str(error.value)
    write_index(tmp_path, {**places, "more": "../model.safetensors"})
    with pytest.raises(CheckpointError, match="outside its directory"):
        open_checkpoint(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: .* no such file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["short", "long", "pointer", "empty"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    content = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456789\n"
    file.write_bytes(
        {"short": content[:-1], "long": content + b"x", "pointer": pointer, "empty": b""}[damage]
    )
    with pytest.raises(CheckpointError, match="damaged or incomplete") as error:
        open_checkpoint(file)
    assert ("git lfs pull" in error.value.remedy) == (damage == "pointer")


def test_dtypes_that_nobody_reads_are_listed_and_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2).to(torch.float8_e5m2)}, tmp_path / "a.safetensors")
    tensor = open_checkpoint(tmp_path).tensors["a"]
    assert not tensor.readable
    with pytest.raises(CheckpointError, match="F8_E5M2"):
        tensor.read()


def test_several_files_without_an_index_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({name: torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors"):
        open_checkpoint(tmp_path)
    save_file({"m": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path).tensors) == ["m"]


def test_a_tensorflow_checkpoint_beside_it_comes_first(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "model.ckpt-1.index").write_bytes(table({b"": HEADER}))
    assert open_checkpoint(tmp_path).format == "tensorflow-bundle"
    assert open_checkpoint(tmp_path / "model.safetensors").format == "safetensors"
