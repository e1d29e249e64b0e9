"""The same weights in Mesh's form and in T5X's: one state dict, both ways; and the two originals agree.

Mesh TensorFlow runs the bundle that came of T5X's weights, and says what T5X said: that proves each mapping
by the other's original.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from porting import Inputs, convert_checkpoint
from porting.checkpoint import open_checkpoint
from porting.original import Original
from porting.ports.t5.port import PORT
from porting.references.process import ReferenceProcess
from tests.conftest import SHARED_DATA
from tests.integration.conftest import OLD_NAMES, SMALL, V1_0, V1_1, MakeCheckpoint
from tests.ports.t5.t5x.checkpoints import recorded

OWN_TABLES = "SelfAttention.relative_attention_type = 'bias'"
MADE = {
    "t5.1.0": (V1_0, SMALL, "t5x"),
    "t5.1.0, names of 2019": (V1_0, (*SMALL, *OLD_NAMES), "t5x"),
    "t5.1.1": (V1_1, SMALL, "t5x"),
    "a table for each layer": (V1_1, (*SMALL, OWN_TABLES), "t5x-scanned"),
}
# What T5X's own importer calls Mesh's variables, where a rule of letters says it.
WORDS = {
    "SelfAttention": {"encoder": "attention", "decoder": "self_attention"},
    "EncDecAttention": {"decoder": "encoder_decoder_attention"},
    "DenseReluDense": {"encoder": "mlp", "decoder": "mlp"},
}
LETTERS = {"q": "query/kernel", "k": "key/kernel", "v": "value/kernel", "o": "out/kernel"}
LETTERS |= {f"{name}/kernel": f"{name}/kernel" for name in ("wi", "wi_0", "wi_1", "wo")}


@pytest.fixture(scope="module")
def running() -> Iterator[ReferenceProcess]:
    with ReferenceProcess(PORT.reference) as process:
        yield process


@pytest.mark.parametrize("name", ["t5x/v1_1", "t5x/scanned"])
def test_mesh_computes_from_t5xs_weights_what_t5x_computed(
    name: str, running: ReferenceProcess, tmp_path: Path
) -> None:
    recording = recorded(name).recording
    convert_checkpoint(SHARED_DATA / name / "checkpoint_0", tmp_path / "model")
    convert_checkpoint(tmp_path / "model", tmp_path / "mesh", to="mesh")
    inputs, targets = recording["inputs"], recording["targets"]
    with Original(tmp_path / "mesh", process=running) as original:
        trace = original.run(Inputs.from_arrays({"inputs": inputs, "targets": targets}))
    real = targets != 0
    assert np.ptp(recording["logits"][real]) > 1
    np.testing.assert_allclose(trace["logits"][real], recording["logits"][real], atol=1e-4)


@pytest.mark.parametrize("name", MADE)
def test_mesh_to_t5x_and_back(name: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    files, overrides, to = MADE[name]
    bundle = make_checkpoint(files, overrides)
    convert_checkpoint(bundle, tmp_path / "model")
    convert_checkpoint(tmp_path / "model", tmp_path / "t5x", to=to)
    convert_checkpoint(tmp_path / "t5x", tmp_path / "again")
    assert_same(tmp_path / "model", tmp_path / "again")
    if to == "t5x":
        assert_called_as_t5xs_importer_calls_them(bundle, tmp_path / "t5x")
    # From the second model, which remembers T5X's names, to Mesh's own.
    convert_checkpoint(tmp_path / "again", tmp_path / "mesh", to="mesh")
    convert_checkpoint(tmp_path / "mesh", tmp_path / "third")
    assert_same(tmp_path / "model", tmp_path / "third")


def assert_same(one: Path, other: Path) -> None:
    found, expected = (load_file(path / "model.safetensors") for path in (one, other))
    assert {*found} == {*expected}
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_called_as_t5xs_importer_calls_them(bundle: Path, t5x: Path) -> None:
    """Each weight of Mesh's is the one of T5X's that T5X's importer makes of it, unchanged."""
    mesh, theirs = open_checkpoint(bundle).tensors, open_checkpoint(t5x).tensors
    seen = 0
    for name, tensor in mesh.items():
        called = imported(name)
        if called is None:
            continue
        np.testing.assert_array_equal(tensor.read(), theirs[called].read(), err_msg=name)
        seen += 1
    assert seen == sum(name.startswith("target/") for name in theirs)


def imported(name: str) -> str | None:
    """`t5_importer` of T5X's checkpoint_importer.py, written down anew; None for what is no weight."""
    parts = name.split("/")
    if "_slot_" in name or len(parts) == 1:
        return None
    if name == "shared/embedding":
        return "target/token_embedder/embedding"
    stack = parts[0]
    if name == "decoder/logits/kernel":
        return "target/decoder/logits_dense/kernel"
    if len(parts) == 3 and parts[1] in ("final_layer_norm", "rms_norm"):
        return f"target/{stack}/{stack}_norm/scale"
    block, layer = int(parts[1].removeprefix("block_")), int(parts[2].removeprefix("layer_"))
    if parts[3] in ("layer_norm", "rms_norm"):
        encoder = ("attention", "mlp")
        decoder = ("self_attention", "cross_attention", "mlp")
        kind = (encoder if stack == "encoder" else decoder)[layer]
        return f"target/{stack}/layers_{block}/pre_{kind}_layer_norm/scale"
    if parts[4] == "relative_attention_bias":
        return f"target/{stack}/relpos_bias/rel_embedding"
    word = WORDS[parts[3]][stack]
    return f"target/{stack}/layers_{block}/{word}/{LETTERS['/'.join(parts[4:])]}"
