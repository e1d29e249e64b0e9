"""T5X's checkpoints on disk: converted, loaded by transformers, written back, read by tensorstore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from porting import convert_checkpoint
from porting.checkpoint import open_checkpoint
from porting.errors import ConfigError
from porting.ports.t5.port import PORT
from porting.source import find_config, resolve_config
from tests.conftest import SHARED_DATA
from tests.ports.t5.t5x.checkpoints import recorded

tensorstore = pytest.importorskip("tensorstore", reason="not installed: tensorstore (the extra t5x)")
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
}
MODELS = {
    "1.0": ({}, False),
    "1.1": ({"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}, True),
}


def saved(folder: Path, name: str) -> Path:
    """A model that transformers saved, every parameter random."""
    settings, own_output = MODELS[name]
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES, **settings))
    with torch.no_grad():
        if own_output:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 12))
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def stored(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every weight, read by tensorstore from the zarr arrays as they lie."""
    found = {}
    for folder in checkpoint.glob("target.*"):
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder)}}
        found[folder.name.replace(".", "/")] = tensorstore.open(spec, open=True).result().read().result()
    return found


def same(one: Path, other: Path) -> bool:
    found, expected = (load_file(path / "model.safetensors") for path in (one, other))
    return {*found} == {*expected} and all(np.array_equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("to", ["t5x", "t5x-scanned"])
@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_saved_goes_to_t5x_and_back(name: str, to: str, tmp_path: Path) -> None:
    convert_checkpoint(saved(tmp_path / "saved", name), tmp_path / "t5x", to=to)
    state = load_file(tmp_path / "saved" / "model.safetensors")
    arrays = stored(tmp_path / "t5x" / "checkpoint_0")
    query = state["encoder.block.1.layer.0.SelfAttention.q.weight"].T
    wo = state["decoder.block.1.layer.2.DenseReluDense.wo.weight"].T
    if to == "t5x":
        np.testing.assert_array_equal(arrays["target/encoder/layers_1/attention/query/kernel"], query)
        np.testing.assert_array_equal(arrays["target/decoder/layers_1/mlp/wo/kernel"], wo)
    else:
        kernel = arrays["target/encoder/encoder/attention/query/kernel"]
        assert kernel.shape == (12, 3, 3, 5)
        np.testing.assert_array_equal(kernel[:, 1].reshape(12, 15), query)
        np.testing.assert_array_equal(arrays["target/decoder/decoder/mlp/wo/kernel"][:, 1], wo)
    convert_checkpoint(tmp_path / "t5x", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for parameter, value in again.items():
        shared = parameter.replace("block.1", "block.0").replace("block.2", "block.0")
        known = state[parameter if parameter in state else shared]
        np.testing.assert_array_equal(value, known, err_msg=parameter)


@pytest.mark.parametrize(("name", "to"), [("v1_1", "t5x"), ("scanned", "t5x-scanned")])
def test_t5xs_own_checkpoint_comes_back_bit_for_bit(name: str, to: str, tmp_path: Path) -> None:
    arrays = recorded(f"t5x/{name}").arrays
    source = SHARED_DATA / "t5x" / name / "checkpoint_0"
    convert_checkpoint(source, tmp_path / "model")
    convert_checkpoint(tmp_path / "model", tmp_path / "back", to=to)
    found = stored(tmp_path / "back" / "checkpoint_0")
    assert {*found} == {*arrays}
    for variable, value in arrays.items():
        np.testing.assert_array_equal(found[variable], value, err_msg=variable)
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert same(tmp_path / "model", tmp_path / "again")


def test_a_legacy_file_is_converted(tmp_path: Path) -> None:
    source = SHARED_DATA / "t5x" / "test_t5_tiny.checkpoint_0"
    if not source.is_file():
        pytest.skip("the legacy file test_t5_tiny.checkpoint_0 is not beside this repository")
    conversion = convert_checkpoint(source, tmp_path / "model")
    assert conversion.to_json()["ignored"] == {"optimizer state": 208, "global step": 1}
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (model.config.num_heads, model.config.d_kv, model.config.vocab_size) == (4, 3, 32128)


@pytest.mark.parametrize("name", ["v1_1", "scanned"])
def test_transformers_computes_what_t5x_computed(name: str, tmp_path: Path) -> None:
    recording = recorded(f"t5x/{name}").recording
    asked = tmp_path / "asked.json"
    asked.write_text('{"model_type": "umt5"}' if name == "scanned" else "{}")
    convert_checkpoint(SHARED_DATA / "t5x" / name / "checkpoint_0", tmp_path / "model", config=asked)
    kind = (
        transformers.UMT5ForConditionalGeneration
        if name == "scanned"
        else (transformers.T5ForConditionalGeneration)
    )
    model, info = kind.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs, targets = (torch.from_numpy(recording[key].astype(np.int64)) for key in ("inputs", "targets"))
    with torch.no_grad():
        logits = model.eval()(input_ids=inputs, attention_mask=inputs != 0, labels=targets).logits.numpy()
    if name == "scanned" and int(transformers.__version__.split(".")[0]) >= 5:
        logits = logits * model.config.d_model**0.5  # it takes every UMT5 to be tied, and scales
    real = recording["targets"] != 0
    np.testing.assert_allclose(logits[real], recording["logits"][real], atol=1e-4)


# --- where a config is found ---


def test_a_config_lies_beside_the_checkpoint_or_in_it(tmp_path: Path) -> None:
    convert_checkpoint(saved(tmp_path / "saved", "1.1"), tmp_path / "t5x", to="t5x")
    beside, inside = tmp_path / "t5x" / "config.gin", tmp_path / "t5x" / "checkpoint_0" / "config.gin"
    checkpoint = open_checkpoint(tmp_path / "t5x")
    assert find_config(checkpoint, PORT) == beside
    beside.rename(inside)
    assert find_config(checkpoint, PORT) == inside
    _, resolved = resolve_config(checkpoint, None)
    assert resolved.origin == str(inside)
    assert resolved.assumed == ()
    inside.unlink()
    assert resolve_config(checkpoint, None)[1].origin.startswith("inferred")


def test_a_config_of_another_model_beside_it_is_an_error(tmp_path: Path) -> None:
    convert_checkpoint(saved(tmp_path / "saved", "1.1"), tmp_path / "t5x", to="t5x")
    gin = tmp_path / "t5x" / "config.gin"
    gin.write_text(gin.read_text().replace("mlp_dim = 20", "mlp_dim = 2048"))
    with pytest.raises(ConfigError, match=r"T5Config\.mlp_dim: expected 20"):
        convert_checkpoint(tmp_path / "t5x", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_made_from_t5x_remembers_its_config(tmp_path: Path) -> None:
    convert_checkpoint(saved(tmp_path / "saved", "1.1"), tmp_path / "t5x", to="t5x")
    gin = tmp_path / "t5x" / "config.gin"
    gin.write_text("# as it was\n" + gin.read_text())
    convert_checkpoint(tmp_path / "t5x", tmp_path / "model")
    convert_checkpoint(tmp_path / "model", tmp_path / "back", to="t5x")
    assert (tmp_path / "back" / "config.gin").read_text() == gin.read_text()
    convert_checkpoint(tmp_path / "model", tmp_path / "scanned", to="t5x-scanned")
    assert "scan_layers = True" in (tmp_path / "scanned" / "config.gin").read_text()
    convert_checkpoint(tmp_path / "model", tmp_path / "mesh", to="mesh")
    assert not (tmp_path / "mesh" / "config.gin").exists()
    assert "network.T5Config" not in (tmp_path / "mesh" / "operative_config.gin").read_text()
    manifest = json.loads((tmp_path / "model" / "porting.json").read_text())
    assert manifest["original"]["more"] == {"state/step": 0}
