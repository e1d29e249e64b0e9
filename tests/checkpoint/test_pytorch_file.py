from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from porting.checkpoint import open_checkpoint
from porting.errors import CheckpointError

PLAIN = torch.arange(12, dtype=torch.float32).reshape(3, 4) + 0.5
TENSORS = OrderedDict(
    {
        "plain": PLAIN,
        "tied": PLAIN,
        "transposed": torch.randn(4, 6).t(),
        "window": torch.randn(5, 6)[1:4, 2:5],
        "every second": torch.arange(10)[::2],
        "bias": torch.randn(4).to(torch.bfloat16),
        "half": torch.randn(2, 1, 3, dtype=torch.float16),
        "double": torch.randn(3, dtype=torch.float64),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "steps": torch.tensor(7),
        "empty": torch.empty(0, 5),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
)


def assert_same(
    path: Path, tensors: dict[str, torch.Tensor] | OrderedDict[str, torch.Tensor] = TENSORS
) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "pytorch"
    assert list(checkpoint.tensors) == sorted(tensors)
    for name, tensor in tensors.items():
        found, tensor = checkpoint.tensors[name], tensor.detach()
        values = found.read()
        assert found.shape == values.shape == tuple(tensor.shape)
        assert found.dtype == values.dtype
        assert str(found.dtype) == str(tensor.dtype).removeprefix("torch.")
        assert not values.flags.writeable and values.flags.c_contiguous
        bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert values.tobytes() == bits
        assert found.nbytes == values.nbytes


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("named", [True, False], ids=["file", "directory"])
def test_every_dtype_and_layout_comes_back_bit_for_bit(tmp_path: Path, zipped: bool, named: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert_same(path if named else tmp_path)
    assert open_checkpoint(tmp_path).identifying_files() == (path,)


def test_bfloat16_is_ml_dtypes(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "weights.pt")
    assert open_checkpoint(tmp_path / "weights.pt").tensors["bias"].dtype == ml_dtypes.bfloat16


def test_values_keep_to_themselves_when_the_file_has_no_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(tmp_path)


def test_what_transformers_saved(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 12, "d_kv": 5, "d_ff": 18, "num_layers": 1, "num_heads": 2, "vocab_size": 30}
    state = T5ForConditionalGeneration(T5Config(**sizes)).state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same(tmp_path, state)


def sharded(folder: Path) -> dict[str, str]:
    places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(TENSORS)}
    for file in set(places.values()):
        torch.save({name: TENSORS[name] for name in TENSORS if places[name] == file}, folder / file)
    write_index(folder, places)
    return places


def write_index(folder: Path, places: Any) -> None:
    content = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content))


def test_files_that_an_index_joins(tmp_path: Path) -> None:
    sharded(tmp_path)
    assert_same(tmp_path)
    assert_same(tmp_path / "pytorch_model.bin.index.json")


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/b.bin", "..", "", "a\\b.bin", "a\0", 3, None])
def test_an_index_that_leads_out_of_its_directory_is_refused(tmp_path: Path, name: Any) -> None:
    torch.save(TENSORS, tmp_path / "x.bin")
    folder = tmp_path / "model"
    folder.mkdir()
    places = sharded(folder)
    write_index(folder, {**places, "plain": name})
    with pytest.raises(CheckpointError, match="names of files in its directory"):
        open_checkpoint(folder)


def test_an_index_and_files_that_disagree_are_refused(tmp_path: Path) -> None:
    places = sharded(tmp_path)
    write_index(tmp_path, {**places, "other": places["plain"]})
    with pytest.raises(CheckpointError, match="other: expected to lie in pytorch_model-00001"):
        open_checkpoint(tmp_path)
    (tmp_path / places["plain"]).unlink()
    with pytest.raises(CheckpointError, match="are missing"):
        open_checkpoint(tmp_path)


def test_safetensors_come_first(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.save({"old": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    save_file({"new": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path).tensors) == ["new"]
    (tmp_path / "training_args.bin").write_bytes(b"no model")
    (tmp_path / "model.safetensors").unlink()
    assert list(open_checkpoint(tmp_path).tensors) == ["old"]


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_a_pickle_that_runs_a_command_is_refused_unexecuted(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "executed"
    state = {"a": torch.ones(2), "b": Hostile(f"touch {mark}")}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="run code") as caught:
        open_checkpoint(tmp_path)
    assert not mark.exists()
    assert "safetensors" in caught.value.remedy
    assert "posix.system" in str(caught.value)
    # PyTorch's message proposes it.
    assert "weights_only" not in str(caught.value)
    with (tmp_path / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Hostile(f"touch {mark}"), file)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    assert not mark.exists()


def test_what_is_no_tensor_is_listed(tmp_path: Path) -> None:
    torch.save({"step": 3, "model": {"a": torch.ones(2)}, 7: torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="besides tensors") as caught:
        open_checkpoint(tmp_path)
    assert [problem.key for problem in caught.value.problems] == ["step", "model", "7"]
    torch.save([torch.ones(2)], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="found a list"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, dtype=torch.float32).to(torch.float8_e4m3fn),
        torch.empty(3, device="meta"),
    ],
    ids=["sparse", "complex", "float8", "meta"],
)
def test_tensors_that_nobody_reads_are_listed_and_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"odd": tensor, "plain": PLAIN}, tmp_path / "pytorch_model.bin")
    tensors = open_checkpoint(tmp_path).tensors
    assert not tensors["odd"].readable
    with pytest.raises(CheckpointError, match="odd: expected a plain tensor"):
        tensors["odd"].read()
    assert np.array_equal(tensors["plain"].read(), PLAIN.numpy())


@pytest.mark.parametrize("damage", ["empty", "cut", "cut pickle", "text", "lfs", "zip of text", "magic"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    if damage == "zip of text":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "text")
    else:
        content = {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "cut pickle": pickle.dumps({"a": 1}, protocol=2)[:5],
            "text": b"This is a text.\n" * 9,
            "lfs": b"version https://git-lfs.github.com/spec/v1\n",
            "magic": b"PK\x03\x04" + b"\0" * 200,
        }[damage]
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        open_checkpoint(tmp_path)
    assert ("git lfs pull" in str(caught.value)) == (damage == "lfs")
    assert "weights_only" not in str(caught.value)


def test_a_flipped_bit_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    content = bytearray(path.read_bytes())
    content[content.index(PLAIN.numpy().tobytes()) + 5] ^= 4
    path.write_bytes(content)
    tensors = open_checkpoint(tmp_path).tensors
    for name in ("plain", "tied"):
        with pytest.raises(CheckpointError, match=f"{name}: its values .* are damaged"):
            tensors[name].read()
    assert tensors["half"].read().shape == (2, 1, 3)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin") as source, zipfile.ZipFile(tmp_path / "b.bin", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="that is compressed or encrypted"):
        open_checkpoint(tmp_path / "b.bin")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_few_bytes_that_claim_to_be_many_are_refused(tmp_path: Path, zipped: bool) -> None:
    wide = torch.ones(1).expand(1 << 20, 1 << 20)
    torch.save({"wide": wide}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="in 4 bytes"):
        open_checkpoint(tmp_path)


def test_an_old_pytorch_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CheckpointError, match=r"Install PyTorch 2\.6"):
        open_checkpoint(tmp_path)


MEMORY = """
import resource, sys
import torch
from porting.checkpoint import open_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors = open_checkpoint(sys.argv[1]).tensors
values = tensors["small"].read()
assert values.sum() == 1000, values
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_reading_one_tensor_does_not_load_the_file(tmp_path: Path) -> None:
    state = {"large": torch.ones(50_000_000), "small": torch.ones(1000), "more": torch.ones(30_000_000)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 100, "MB more, of a file of 320"


def test_other_formats_are_read_without_pytorch(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    code = (
        "import sys; from porting.checkpoint import open_checkpoint\n"
        f"open_checkpoint({str(tmp_path)!r}).tensors['a'].read()\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
