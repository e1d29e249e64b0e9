"""T5X's checkpoints: written by tensorstore and msgpack, and real ones with what T5X itself read of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ts = pytest.importorskip("tensorstore")
pytest.importorskip("msgpack")

from t5x_files import (  # noqa: E402
    BFLOAT16,
    random_array,
    same_bits,
    write_array,
    write_msgpack,
    write_version_3,
)

from porting.checkpoint import open_checkpoint  # noqa: E402
from porting.errors import CheckpointError  # noqa: E402

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = [SHARED / "t5x" / "v1_1", SHARED / "t5x" / "scanned", SHARED / "longt5" / "local"]
REAL += [SHARED / "longt5" / "tglobal"]
needs_data = pytest.mark.skipif(not REAL[0].is_dir(), reason="shared/data/t5x is not there")

TENSORS = {
    "target/encoder/layers_0/mlp/wi/kernel": random_array(5, 7),
    "target/encoder/norm/scale": random_array(6, dtype=BFLOAT16),
    "target/stacked": random_array(3, 4, 5, dtype=np.float16),
    "state/param_states/encoder/norm/scale/v": random_array(6, dtype=np.float64),
    "state/step": np.int32(1000)[...],
}


def assert_holds(source: Path, tensors: dict[str, np.ndarray]) -> None:
    found = open_checkpoint(source).tensors
    assert list(found) == sorted(tensors)
    for name, array in tensors.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        values = found[name].read()
        assert same_bits(values, array), name
        assert not values.flags.writeable


@needs_data
@pytest.mark.parametrize("folder", REAL, ids=lambda path: path.name)
def test_real_checkpoints_hold_what_t5x_recorded(folder: Path) -> None:
    recorded = np.load(folder / "recorded.npz")
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.path, checkpoint.format) == (folder / "checkpoint_0", "t5x")
    parameters = {name.removeprefix("param:") for name in recorded.files if name.startswith("param:")}
    assert {f"target/{name}" for name in parameters} == {n for n in checkpoint.tensors if n[:7] == "target/"}
    for name in parameters:
        assert same_bits(checkpoint.tensors[f"target/{name}"].read(), recorded[f"param:{name}"]), name
    assert checkpoint.tensors["state/step"].read().item() == 0


@pytest.mark.parametrize(
    "compressor",
    [None, *({"id": name, "level": 1} for name in ("gzip", "zlib", "zstd", "bz2")), {"id": "blosc"}],
    ids=str,
)
@pytest.mark.parametrize("chunks", [None, 2], ids=["one chunk", "chunks that do not fit"])
def test_every_codec_and_chunk(tmp_path: Path, compressor: Any, chunks: int | None) -> None:
    directory = tmp_path / "checkpoint_1000"
    tree: dict[str, Any] = {}
    for i, array in enumerate(TENSORS.values()):
        size = None if chunks is None else (chunks,) * array.ndim
        tree[f"t{i}"] = write_array(directory / f"t{i}", array, chunks=size, compressor=compressor)
    write_msgpack(directory / "checkpoint", {"version": 3, "optimizer": tree})
    assert_holds(directory, {f"t{i}": array for i, array in enumerate(TENSORS.values())})


def test_by_directory_by_index_and_by_the_directory_of_the_model(tmp_path: Path) -> None:
    older = {name: array[..., ::-1].copy() if array.ndim else array for name, array in TENSORS.items()}
    write_version_3(tmp_path / "checkpoint_999", older)
    directory = write_version_3(tmp_path / "checkpoint_1000", TENSORS)
    (tmp_path / "checkpoint_2000.tmp-1700000000").mkdir()
    for source in (directory, directory / "checkpoint", tmp_path):
        assert_holds(source, TENSORS)
        assert open_checkpoint(source).path == directory


def test_files_are_those_that_a_tensor_needs(tmp_path: Path) -> None:
    directory = write_version_3(tmp_path / "checkpoint_1", TENSORS)
    checkpoint = open_checkpoint(directory)
    kernel = directory / "target.encoder.layers_0.mlp.wi.kernel"
    found = checkpoint.tensors["target/encoder/layers_0/mlp/wi/kernel"].files
    assert found == (kernel / ".zarray", kernel / "0.0")
    everything = {path for path in directory.rglob("*") if path.is_file()}
    assert {*checkpoint.files} == everything
    state = {path for path in everything if path.parent.name.startswith("state.")}
    assert {*checkpoint.identifying_files()} == everything - state
    (kernel / "0.0").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.require_files()


@pytest.mark.parametrize("compressor", [None, {"id": "gzip", "level": 1}], ids=str)
def test_a_chunk_that_is_missing_is_no_zeros(tmp_path: Path, compressor: Any) -> None:
    directory = write_version_3(tmp_path / "checkpoint_1", TENSORS, compressor=compressor)
    (directory / "target.stacked" / "0.0.0").unlink()
    tensor = open_checkpoint(directory).tensors["target/stacked"]
    with pytest.raises(CheckpointError, match=r"0\.0\.0"):
        tensor.read()


def test_state_that_was_deleted_is_listed_and_missing(tmp_path: Path) -> None:
    directory = write_version_3(tmp_path / "checkpoint_1", TENSORS)
    shutil.rmtree(directory / "state.param_states.encoder.norm.scale.v")
    checkpoint = open_checkpoint(directory)
    assert checkpoint.tensors["state/param_states/encoder/norm/scale/v"].shape == (6,)
    assert same_bits(checkpoint.tensors["target/stacked"].read(), TENSORS["target/stacked"])
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.require_files()


@pytest.mark.parametrize(
    ("driver", "path"),
    [
        ("gfile", "/cns/ab-d/home/model/checkpoint_5.tmp-17/target.x/"),
        ("gcs", "models/checkpoint_5/target.x"),
        ("file", "target.x/"),
    ],
)
def test_paths_of_other_storage_lead_beside_the_index(tmp_path: Path, driver: str, path: str) -> None:
    array = random_array(4, 3)
    spec = write_array(tmp_path / "target.x", array, path=path, driver=driver)
    write_msgpack(tmp_path / "checkpoint", {"version": 3, "optimizer": {"target": {"x": spec}}})
    assert_holds(tmp_path, {"target/x": array})
    # As tensorstore described arrays first.
    spec = {**spec, "kvstore": {"driver": "gcs", "bucket": "b"}, "path": path}
    write_msgpack(tmp_path / "checkpoint", {"version": 3, "optimizer": {"target": {"x": spec}}})
    assert_holds(tmp_path, {"target/x": array})


@pytest.mark.parametrize("path", ["..", "a/../..", "/", "", "x\\..\\y", "a\0b", "x" * 300])
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    spec = write_array(tmp_path / "target.x", random_array(4, 3), path="?")
    spec["kvstore"]["path"] = path
    write_msgpack(tmp_path / "checkpoint", {"version": 3, "optimizer": {"target": {"x": spec}}})
    with pytest.raises(CheckpointError, match="target/x: expected the name of a directory"):
        open_checkpoint(tmp_path)


def test_bfloat16_of_version_2_is_stored_as_integers(tmp_path: Path) -> None:
    array = random_array(4, 3, dtype=BFLOAT16)
    spec = write_array(tmp_path / "target.x", array.view(np.uint16))
    for version, expected in ((2, array), (3, array.view(np.uint16))):
        write_msgpack(tmp_path / "checkpoint", {"version": version, "optimizer": {"target": {"x": spec}}})
        assert_holds(tmp_path, {"target/x": expected})


def test_index_and_array_must_agree(tmp_path: Path) -> None:
    spec = write_array(tmp_path / "target.x", random_array(4, 3))
    for wrong in ({"dtype": "float64"}, {"metadata": {"shape": [3, 4]}}):
        tree = {"version": 3, "optimizer": {"target": {"x": {**spec, **wrong}}}}
        write_msgpack(tmp_path / "checkpoint", tree)
        with pytest.raises(CheckpointError, match="as the index says"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_chunks_are_noticed(tmp_path: Path, damage: str) -> None:
    directory = write_version_3(tmp_path / "checkpoint_1", {"target/x": random_array(40, 30)})
    chunk = directory / "target.x" / "0.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="target/x"):
        open_checkpoint(directory).tensors["target/x"].read()


def test_without_tensorstore_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_version_3(tmp_path / "checkpoint_1", TENSORS)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(CheckpointError, match=r"pip install 'porting\[t5x\]'"):
        open_checkpoint(directory).tensors["target/stacked"].read()


def test_listing_imports_neither_tensorstore_nor_msgpack(tmp_path: Path) -> None:
    write_version_3(tmp_path / "checkpoint_1", TENSORS)
    code = (
        "import sys; from porting.checkpoint import open_checkpoint; open_checkpoint(sys.argv[1]);"
        "print({'tensorstore', 'msgpack', 'jax', 'torch', 'tensorflow'} & {*sys.modules})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout == "set()\n"


def test_a_directory_of_tensorflow_is_told_apart_by_content(tmp_path: Path) -> None:
    demo = Path(__file__).parents[2] / "demo" / "checkpoint"
    assert open_checkpoint(demo).format == "tensorflow-bundle"
    # A key of 0x6d bytes, were it msgpack: the first letter of model_checkpoint_path.
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    with pytest.raises(CheckpointError, match="names a checkpoint that is not there"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint_7.tmp-1700000000", "checkpoint_7.orbax-checkpoint-tmp-17000"])
def test_what_was_not_written_to_its_end_is_refused(tmp_path: Path, name: str) -> None:
    write_version_3(tmp_path / name, TENSORS)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match="written to its end"):
            open_checkpoint(source)


@pytest.mark.parametrize("compressor", [None, {"id": "gzip", "level": 1}], ids=str)
def test_chunks_that_lie_column_by_column(tmp_path: Path, compressor: Any) -> None:
    array = random_array(4, 3)
    spec = write_array(tmp_path / "x", array, compressor=compressor, order="F")
    write_msgpack(tmp_path / "checkpoint", {"target": {"x": spec}})
    assert_holds(tmp_path, {"target/x": array})


@pytest.mark.parametrize("chunks", [None, (2, 3)], ids=["one chunk", "two"])
def test_uncompressed_values_of_another_length_are_damaged(tmp_path: Path, chunks: Any) -> None:
    array = random_array(4, 3)
    spec = write_array(tmp_path / "x", array, compressor=None, chunks=chunks)
    write_msgpack(tmp_path / "checkpoint", {"target": {"x": spec}})
    whole = (tmp_path / "x" / "0.0").read_bytes()
    for content in (whole + b"1234", whole[:-4], b""):
        (tmp_path / "x" / "0.0").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged|truncated"):
            open_checkpoint(tmp_path).tensors["target/x"].read()
