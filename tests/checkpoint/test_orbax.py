"""Checkpoints that Orbax and Flax themselves wrote (written_by_orbax/make.py): old releases and new ones."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

ts = pytest.importorskip("tensorstore")
pytest.importorskip("msgpack")

from t5x_files import random_array, same_bits, write_array, write_msgpack  # noqa: E402

from porting.checkpoint import open_checkpoint  # noqa: E402
from porting.errors import CheckpointError  # noqa: E402

FOLDER = Path(__file__).parent / "written_by_orbax"
# Names in msgpack: of old releases; the others by their own metadata.
NAMES = ["names_zarr", "names_ocdbt", "inside", "zarr2", "zarr3", "ocdbt2", "ocdbt3", "manager"]
DATABASES = ["names_ocdbt", "ocdbt2", "ocdbt3", "manager"]
NEW = ("jax==0.6.2", "flax==0.10.7", "orbax-checkpoint")


def expected(folder: Path = FOLDER) -> dict[str, np.ndarray]:
    found = dict(np.load(folder / "expected.npz"))
    scale = "target/encoder/encoder_norm/scale"
    return {**found, scale: found[scale].view(ml_dtypes.bfloat16)}


def unpacked(name: str, folder: Path, source: Path = FOLDER) -> Path:
    """The model's directory, which holds `checkpoint_7`."""
    with tarfile.open(source / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def assert_holds(source: Path, folder: Path = FOLDER) -> None:
    checkpoint = open_checkpoint(source)
    assert checkpoint.format == "t5x"
    assert {*checkpoint.tensors} == {*expected(folder)}
    for name, array in expected(folder).items():
        assert same_bits(checkpoint.tensors[name].read(), array), name
    assert all(path.is_file() for path in checkpoint.files)
    checkpoint.require_files()


@pytest.mark.parametrize("name", NAMES)
def test_what_orbax_wrote_is_read(tmp_path: Path, name: str) -> None:
    model = unpacked(name, tmp_path)
    for source in (model, model / "checkpoint_7"):
        assert_holds(source)
        assert open_checkpoint(source).path == model / "checkpoint_7"
    if name == "manager":
        assert open_checkpoint(model / "checkpoint_7" / "state").path == model / "checkpoint_7"


def test_arrays_in_pieces_and_all_in_one_file(tmp_path: Path) -> None:
    """Also under another name, and as the newest of a model's directory."""
    assert_holds(FOLDER / "pieces.msgpack")
    for name in ("checkpoint_9", "flax_model.anything"):
        (tmp_path / name).write_bytes((FOLDER / "pieces.msgpack").read_bytes())
        assert_holds(tmp_path / name)
        assert open_checkpoint(tmp_path / name).path == tmp_path / name
    assert open_checkpoint(tmp_path).path == tmp_path / "checkpoint_9"


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_database_with_a_file_missing_or_cut_is_no_zeros(tmp_path: Path, name: str, damage: str) -> None:
    """Where a file is not needed, values are what they were; there is nothing in between."""
    model = unpacked(name, tmp_path)
    files = [p for p in model.rglob("*") if p.is_file() and (p.parent.name == "d" or p.suffix == ".ocdbt")]
    noticed = 0
    for path in files:
        content = path.read_bytes()
        path.unlink() if damage == "gone" else path.write_bytes(content[: len(content) // 2])
        try:
            assert_holds(model)
        except CheckpointError:
            noticed += 1
        path.write_bytes(content)
    assert noticed >= 2
    assert_holds(model)


@pytest.mark.parametrize(("name", "chunk"), [("zarr2", "0.0"), ("zarr3", "c/0/0"), ("names_zarr", "0.0")])
def test_a_chunk_that_is_missing_is_no_zeros(tmp_path: Path, name: str, chunk: str) -> None:
    model = unpacked(name, tmp_path)
    (model / "checkpoint_7" / "target.encoder.layers_0.mlp.wi.kernel" / chunk).unlink()
    tensors = open_checkpoint(model).tensors
    with pytest.raises(CheckpointError, match="no such file"):
        tensors["target/encoder/layers_0/mlp/wi/kernel"].read()


def test_a_key_that_is_missing_from_a_database_is_no_zeros(tmp_path: Path) -> None:
    model = unpacked("ocdbt2", tmp_path)
    base = {"driver": "file", "path": f"{model / 'checkpoint_7'}/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    store.write("target.zeros/0.0", None).result()
    tensors = open_checkpoint(model).tensors
    with pytest.raises(CheckpointError, match=r"target.zeros/0\.0, found no such key"):
        tensors["target/zeros"].read()


def test_a_part_of_a_shard_that_was_never_written_is_no_zeros(tmp_path: Path) -> None:
    inner = {"chunk_shape": [2, 2], "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}
    metadata = {
        "shape": [4, 4],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4]}},
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
    }
    kvstore = {"driver": "file", "path": f"{tmp_path / 'target.x'}/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}, create=True).result()
    values = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    write_msgpack(tmp_path / "checkpoint", {"target": {"x": "PLACEHOLDER://target.x"}})
    array[:2].write(values[:2]).result()
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(tmp_path).tensors["target/x"].read()
    array.write(values).result()
    assert same_bits(open_checkpoint(tmp_path).tensors["target/x"].read(), values)


def test_text_is_listed_and_not_read(tmp_path: Path) -> None:
    array = random_array(3, 4)
    write_array(tmp_path / "target.x", array)
    tree = {"target": {"x": "PLACEHOLDER://target.x"}, "said": "PLACEHOLDER://said", "more": "text", "z": 2j}
    write_msgpack(tmp_path / "checkpoint", tree)
    (tmp_path / "_strings.json").write_text(json.dumps({"said": "text"}))
    checkpoint = open_checkpoint(tmp_path)
    assert [name for name, tensor in checkpoint.tensors.items() if tensor.readable] == ["target/x"]
    for name in ("said", "more", "z"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            checkpoint.tensors[name].read()


def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    leaf = {
        "key_metadata": [{"key": "..", "key_type": 2}],
        "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
    }
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": {"('..',)": leaf}}))
    with pytest.raises(CheckpointError, match="expected the name of a directory"):
        open_checkpoint(tmp_path)


@pytest.mark.slow
def test_what_orbax_writes_today_is_read(tmp_path: Path) -> None:
    """Written here, by the newest Orbax that can be installed."""
    python = Path(sys.executable)
    if importlib.util.find_spec("orbax") is None or importlib.util.find_spec("flax") is None:
        venv.create(tmp_path / "venv", with_pip=True)
        python = tmp_path / "venv" / "bin" / "python"
        done = subprocess.run([python, "-m", "pip", "install", "-q", *NEW], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("Orbax cannot be installed here")
    made = tmp_path / "made"
    subprocess.run([python, FOLDER / "make.py", made], check=True)
    for name in ("zarr2", "zarr3", "ocdbt2", "ocdbt3", "manager"):
        assert_holds(unpacked(name, tmp_path, made), made)
    assert_holds(made / "pieces.msgpack", made)
