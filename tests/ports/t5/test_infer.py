from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from porting.checkpoint import open_checkpoint
from porting.errors import ConfigError
from porting.ports.t5 import PORT
from porting.ports.t5.config import T5Config
from porting.ports.t5.infer import infer_config
from porting.ports.t5.spelling import spelling
from tests.ports.t5.mesh_variables import SMALL, V1_1, mesh_shapes

NAMES = {"SelfAttention": "self_attention", "EncDecAttention": "cross", "DenseReluDense": "dense_relu_dense"}


@pytest.mark.parametrize("config", [SMALL, V1_1])
@pytest.mark.parametrize("old_norms", [True, False])
@pytest.mark.parametrize("scopes", [None, NAMES])
def test_sizes_are_read_off_the_shapes(config: T5Config, old_norms: bool, scopes: dict | None) -> None:
    shapes = mesh_shapes(config, old_norms=old_norms, scopes=scopes, slots=True)
    found = spelling(infer_config(dict(sorted(shapes.items()))).config)
    # No shape tells how far the buckets reach.
    assert found == replace(config, relative_attention_max_distance=128)


def test_what_is_inferred_and_what_is_assumed_is_said() -> None:
    resolved = infer_config(mesh_shapes(SMALL))
    assert resolved.origin == "inferred from the variables and their shapes"
    assert resolved.original_text is None
    inferred, assumed = "\n".join(resolved.inferred), "\n".join(resolved.assumed)
    for words in (
        "d_model 12",
        "3 heads of 5",
        "d_ff 20",
        "encoder of 6 layers in 3 blocks",
        "decoder of 6 layers in 2 blocks",
        "vocabulary 50",
        "8 relative-position buckets",
        "output tied to the embedding",
        "single feed-forward",
    ):
        assert words in inferred
    for words in (
        "activation relu",
        "layer_norm_epsilon 1e-06",
        "max_distance 128",
        "dropout_rate 0.1",
        "--config",
    ):
        assert words in assumed


def test_gates_and_outputs_of_their_own_are_seen() -> None:
    resolved = infer_config(mesh_shapes(V1_1))
    assert "output of its own (decoder/logits)" in resolved.inferred
    assert "encoder: d_ff 20, gated feed-forward projection" in resolved.inferred
    assert "activation gelu (tanh)" in resolved.assumed[0]


def test_one_line_of_json_overrides_an_assumption(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-5}')
    resolved = PORT.read_config(file, mesh_shapes(V1_1))
    inferred = spelling(infer_config(mesh_shapes(V1_1)).config)
    assert spelling(resolved.config) == replace(
        inferred, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-5
    )
    assert resolved.origin == f"{file}, the rest inferred from the variables and their shapes"


def test_slots_are_no_weights() -> None:
    shapes = mesh_shapes(SMALL)
    shapes |= {
        "decoder/logits/kernel_slot_vr": (12,),
        "encoder/block_007/layer_000/SelfAttention/q_slot_v": (1,),
    }
    assert spelling(infer_config(shapes).config) == replace(SMALL, relative_attention_max_distance=128)


def test_the_real_checkpoint_is_inferred(mtf_tiny_t5: Path) -> None:
    checkpoint = open_checkpoint(mtf_tiny_t5)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    assert spelling(infer_config(shapes).config) == T5Config(
        vocab_size=32128,
        d_model=32,
        d_kv=64,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("shared/embedding", "shared/embedding [vocab, d_model]"),
        ("SelfAttention/q", "SelfAttention/q [d_model, heads*d_kv]"),
        ("DenseReluDense/wi", "DenseReluDense/wi/kernel or wi_0/kernel [d_model, d_ff]"),
        ("encoder/block", "encoder/block_000/..."),
        ("decoder/block", "decoder/block_000/..."),
    ],
)
def test_what_sizes_cannot_be_read_off_is_named(gone: str, named: str) -> None:
    left = {name: shape for name, shape in mesh_shapes(SMALL).items() if gone not in name}
    with pytest.raises(ConfigError) as caught:
        infer_config(left)
    missing = [p.key for p in caught.value.problems if p.found == "no such variable"]
    assert missing and all(named in key for key in missing)
    assert "--config" in caught.value.remedy


def test_heads_that_nothing_tells_are_asked_for() -> None:
    left = {name: shape for name, shape in mesh_shapes(SMALL).items() if "relative" not in name}
    with pytest.raises(ConfigError, match="how many heads") as caught:
        infer_config(left)
    assert '{"num_heads": 8}' in str(caught.value)
    answered = infer_config(left, {"num_heads": 3, "positions": "none"}).config
    assert answered.encoder.layers[0].d_kv == 5 and answered.encoder.positions is None
    assumed = infer_config(left, {"num_heads": 3})
    assert assumed.config.decoder.positions == "sinusoid"
    assert any('{"positions": "none"}' in words for words in assumed.assumed)


def test_everything_missing_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        infer_config({"encoder/rms_norm/scale": (12,)})
    wanted = ("encoder/block_000/...", "decoder/block_000/...", "shared/embedding [vocab, d_model]")
    assert tuple(problem.key for problem in caught.value.problems) == wanted


def test_variables_of_another_rank_are_shown() -> None:
    shapes = {**mesh_shapes(SMALL), "shared/embedding": (2, 50, 12)}  # an ensemble
    with pytest.raises(ConfigError, match=r"shared/embedding .*found \(2, 50, 12\)"):
        infer_config(shapes)


def test_heads_that_do_not_divide_the_kernels_are_shown() -> None:
    shapes = mesh_shapes(SMALL)
    shapes["encoder/block_000/layer_000/SelfAttention/relative_attention_bias"] = (4, 8)
    with pytest.raises(ConfigError, match=r"a multiple of 4 heads\], found \(12, 15\)"):
        infer_config(shapes)
