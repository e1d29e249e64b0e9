"""T5X's checkpoints through the whole converter, there and back: killed, changed, damaged, large."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorstore")
pytest.importorskip("msgpack")

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.convert import check_directory, convert_checkpoint
from porting.errors import CheckpointError
from porting.ports.t5.t5x.variables import variables
from tests.checkpoint.t5x_files import same_bits, write_msgpack, write_version_3
from tests.ports.t5.mesh_variables import SMALL
from tests.ports.t5.t5x.checkpoints import random_arrays, scalable_shapes, t5_shapes

ROOT = Path(__file__).parents[2]
STEP = {"state/step": np.asarray(1234, np.int32)}
FORMS = {"t5x": t5_shapes(), "t5x-scanned": scalable_shapes(scanned=True)}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(form: str, tmp_path: Path) -> Path:
    """A model's directory with an older checkpoint and a newer one, some slots and a step."""
    arrays = random_arrays(FORMS[form])
    slots = {n.replace("target/", "state/param_states/") + "/v": arrays[n] for n in arrays if "norm" in n}
    write_version_3(tmp_path / "model" / "checkpoint_999", {n: a for n, a in arrays.items() if "norm" in n})
    write_version_3(tmp_path / "model" / "checkpoint_1234", {**arrays, **slots, **STEP})
    return tmp_path / "model"


def weights(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: t.read() for name, t in checkpoint.tensors.items() if name.startswith("target/")}


def test_there_and_back_bit_for_bit(source: Path, form: str, tmp_path: Path) -> None:
    there = convert_checkpoint(source, tmp_path / "there")
    assert there.checkpoint == source / "checkpoint_1234"
    assert there.plan.ignored_counts() == {
        "optimizer state": sum("norm" in n for n in FORMS[form]),
        "global step": 1,
    }
    back = convert_checkpoint(tmp_path / "there", tmp_path / "back", to=form)
    assert check_directory(tmp_path / "back").others == ()
    found, expected = open_checkpoint(tmp_path / "back"), open_checkpoint(source)
    assert found.path == tmp_path / "back" / "checkpoint_1234"
    assert weights(found).keys() == weights(expected).keys()
    for name, array in weights(expected).items():
        assert same_bits(weights(found)[name], array), name
    assert found.tensors["state/step"].read() == 1234
    assert len(back.plan.entries) == len(FORMS[form])
    # And there again, from uncompressed arrays.
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "there/model.safetensors"
    ).read_bytes()


def test_the_manifest_names_each_file_and_hashes_what_holds_weights(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "there")
    files = json.loads((tmp_path / "there/porting.json").read_text())["source"]["files"]
    names = [file["name"] for file in files]
    assert len({*names}) == len(names)
    here = source / "checkpoint_1234"
    assert {*names} == {p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()}
    assert all(("sha256" in file) != file["name"].startswith("state.") for file in files)
    read = {file["name"] for file in files if file["tensors_read"]}
    assert read == {name for name in names if name.startswith("target.")}


def test_a_stacked_array_is_read_once_for_all_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import porting.checkpoint.zarr_array as module

    arrays = random_arrays(FORMS["t5x-scanned"])
    write_version_3(tmp_path / "checkpoint_0", arrays)
    read: list[str] = []
    wrapped = module.read_array

    def counted(name: str, *arguments: object) -> np.ndarray:
        read.append(name)
        return wrapped(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_array", counted)
    convert_checkpoint(tmp_path, tmp_path / "out")
    assert sorted(read) == sorted(arrays)


def test_a_chunk_that_is_cut_meanwhile_is_an_error(source: Path, tmp_path: Path) -> None:
    chunk = source / "checkpoint_1234" / "target.token_embedder.embedding" / "0.0"
    with pytest.raises(CheckpointError, match="token_embedder/embedding"):
        convert_checkpoint(source, tmp_path / "out", on_start=lambda _: os.truncate(chunk, 100))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["checkpoint", "target.token_embedder.embedding/.zarray"])
def test_a_source_that_is_written_meanwhile_is_noticed(source: Path, tmp_path: Path, file: str) -> None:
    path = source / "checkpoint_1234" / file

    def replace(_nbytes: int) -> None:
        shutil.copy2(path, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert_checkpoint(source, tmp_path / "out", on_start=replace)
    assert not (tmp_path / "out").exists()


def test_a_header_that_says_something_else_meanwhile_is_an_error(source: Path, tmp_path: Path) -> None:
    path = source / "checkpoint_1234" / "target.token_embedder.embedding" / ".zarray"

    def transpose(_nbytes: int) -> None:
        header = json.loads(path.read_text())
        path.write_text(json.dumps({**header, "shape": header["shape"][::-1]}))

    with pytest.raises(CheckpointError):
        convert_checkpoint(source, tmp_path / "out", on_start=transpose)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_listed_before_anything_is_read(source: Path, tmp_path: Path) -> None:
    directory = source / "checkpoint_1234"
    norms = ("encoder.encoder_norm", "decoder.decoder_norm")
    gone = [directory / f"target.{name}.scale" / "0" for name in norms]
    for path in gone:
        path.unlink()
    with pytest.raises(CheckpointError, match="2 data file") as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert {problem.key for problem in caught.value.problems} == {*map(str, gone)}
    # Slots are nobody's business.
    shutil.rmtree(directory / "state.param_states.encoder.encoder_norm.scale.v")
    for path in gone:
        shutil.copy(path.parents[2] / "checkpoint_999" / path.relative_to(directory), path)
    convert_checkpoint(source, tmp_path / "out")


def test_a_checkpoint_of_flax_in_one_file_is_converted(tmp_path: Path) -> None:
    arrays = random_arrays(FORMS["t5x"])
    tree: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        *branches, leaf = name.split("/")
        at = tree
        for branch in branches:
            at = at.setdefault(branch, {})
        at[leaf] = array
    write_version_3(tmp_path / "zarr" / "checkpoint_5", arrays)
    (tmp_path / "flax").mkdir()
    write_msgpack(tmp_path / "flax" / "model.ckpt", {**tree, "state": {"step": np.int32(5)}})
    for source in ("zarr", "flax/model.ckpt"):
        convert_checkpoint(tmp_path / source, tmp_path / "out" / source)
    made = [tmp_path / "out" / source / "model.safetensors" for source in ("zarr", "flax/model.ckpt")]
    assert made[0].read_bytes() == made[1].read_bytes()


@pytest.mark.slow
def test_a_kill_leaves_nothing_or_all_or_what_is_marked(tmp_path: Path) -> None:
    """On the way to T5X's files, at every 61st thing that is done to the disk."""
    write_version_3(tmp_path / "checkpoint_3", random_arrays(FORMS["t5x"]))
    convert_checkpoint(tmp_path, tmp_path / "source")
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "tests.convert.killing", tmp_path / "source", tmp_path / "work"]
    done = subprocess.run([*command, "0", "t5x", "61"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = json.loads(done.stdout)
    assert len(lines) > 3
    for line in lines:
        assert line["found"] in ("nothing", "new"), line
        assert line["strangers"] == [], line
        assert (line["after"], line["left"]) == ("new", ["model"]), line
        assert (line["begun"] == "fresh") == (not line["unfinished"]), line
    assert any(line["begun"] == "continued" and line["kept"] for line in lines)


@pytest.mark.parametrize("scanned", [False, True], ids=["layers", "scanned"])
def test_memory_is_bounded_by_what_is_in_hand(tmp_path: Path, scanned: bool) -> None:
    """Eight times the layers: the peak stays, or, where they are one array, grows by twice that at most."""
    script = (
        "import re, sys, tensorstore; from porting.convert import convert_checkpoint, stream;"
        "stream.IN_HAND_BYTES = 8 << 20;"
        "convert_checkpoint(sys.argv[1], sys.argv[2]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )

    def peak(layers: int) -> int:
        config = replace(SMALL, d_model=256, d_ff=1024, num_layers=layers, num_decoder_layers=1)
        folder = tmp_path / str(layers)
        arrays = random_arrays(variables(config, scanned=scanned))
        write_version_3(folder / "checkpoint_0", arrays)
        command = [sys.executable, "-c", script, folder, folder / "out"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) << 10

    few, many = peak(2), peak(16)
    largest = 16 * 256 * 1024 * 4
    assert (tmp_path / "16/out/model.safetensors").stat().st_size > 2 * largest
    assert many - few < (2 * largest if scanned else 0) + (30 << 20)
