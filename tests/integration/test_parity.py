"""Checkpoints that the original wrote, converted, and compared with the original at every tap."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from porting import Inputs, Trace, compare_outputs, convert_checkpoint, load_model
from porting.testing import ReferenceTraces, assert_port_matches
from tests.integration.conftest import OLD_NAMES, SMALL, V1_0, V1_1, MakeCheckpoint

ATOL = 1e-4
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "t5.1.0": {"files": V1_0},
    "t5.1.1": {"files": V1_1},
    "old names": {"files": V1_0, "overrides": (*SMALL, *OLD_NAMES)},
    "old names 1.1": {"files": V1_1, "overrides": (*SMALL, *OLD_NAMES)},
    "gated silu (UL2)": {
        "files": V1_1,
        "overrides": (*SMALL, "DenseReluDense.activation = ['swish', 'linear']"),
    },
    "gelu": {"files": V1_0, "overrides": (*SMALL, "DenseReluDense.activation = 'gelu'")},
    "other epsilon and buckets": {
        "files": V1_1,
        "overrides": (
            *SMALL,
            "sublayer_rms_norm.epsilon = 1e-3",
            "SelfAttention.relative_attention_num_buckets = 20",
            "decoder/Unitransformer.label_smoothing = 0.1",
        ),
    },
    "named layers": {
        "files": V1_0,
        "overrides": (
            *SMALL,
            "encoder/make_layer_stack.layers = [('self_attention', @transformer_layers.SelfAttention),"
            " ('dense_relu_dense', @transformer_layers.DenseReluDense)]",
        ),
    },
    "bfloat16": {"files": V1_1, "dtype": "bfloat16"},
    "recomputed gradients": {"files": V1_0, "overrides": (*SMALL, "LayerStack.recompute_grads = True")},
}


@dataclass(frozen=True)
class Ported:
    """A checkpoint, what was made of it, and what the original computes from it."""

    checkpoint: Path
    model_dir: Path
    trace: Trace


@pytest.fixture(scope="module", params=list(VARIANTS), ids=lambda name: name.replace(" ", "-"))
def ported(
    request: pytest.FixtureRequest,
    make_checkpoint: MakeCheckpoint,
    reference_trace: ReferenceTraces,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ported:
    checkpoint = make_checkpoint(**VARIANTS[request.param])
    model_dir = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(checkpoint, model_dir)
    return Ported(checkpoint, model_dir, reference_trace(checkpoint, awkward_inputs()))


def awkward_inputs() -> Inputs:
    """Padding at the end and inside, a row that is all padding but one, lengths beyond 128.

    The first row has padded targets and no padded inputs: there the original's padding sees nothing at all.
    """
    generator = np.random.default_rng(5)
    inputs = generator.integers(2, 100, size=(4, 150))
    targets = generator.integers(2, 100, size=(4, 135))
    inputs[1, 60:] = 0
    targets[0, 100:] = 0
    targets[1, 20:] = 0
    inputs[2, 1:] = 0
    targets[2, 1:] = 0
    inputs[3, 40:70] = 0
    targets[3, 30:50] = 0
    return Inputs.from_arrays({"inputs": inputs, "targets": targets})


def test_every_tapped_tensor_agrees_at_padded_positions_too(ported: Ported) -> None:
    comparison = assert_port_matches(ported.trace, ported.model_dir, atol=ATOL)
    assert not comparison.unmatched_reference and not comparison.unmatched_port
    # 3 encoder and 2 decoder blocks: nothing was left out of the comparison either
    gated = any(row.name.endswith("wi_1") for row in comparison.tensors)
    per_feed_forward = 8 if gated else 7
    encoder = 3 * (11 + per_feed_forward) + 3
    decoder = 2 * (11 + 10 + per_feed_forward) + 3
    assert len(comparison.tensors) == encoder + decoder + 2


def test_the_loss_agrees_relatively(ported: Ported) -> None:
    comparison = assert_port_matches(ported.trace, ported.model_dir, atol=ATOL)
    loss = next(row for row in comparison.tensors if row.name == "loss")
    assert loss.max_rel_diff < 1e-5
    assert loss.reference > 1.0


def test_transformers_loads_the_directory_and_agrees_at_real_positions(ported: Ported) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = T5ForConditionalGeneration.from_pretrained(
            ported.model_dir, output_loading_info=True, dtype=torch.float32
        )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = ported.trace.inputs
    inputs, targets = torch.tensor(ids["inputs"]).long(), torch.tensor(ids["targets"]).long()
    rows = slice(0, 3)  # transformers has no word for padding inside the targets
    with torch.no_grad():
        logits = model(
            input_ids=inputs[rows], attention_mask=(inputs[rows] != 0).long(), labels=targets[rows]
        ).logits
    expected = torch.tensor(np.array(ported.trace["logits"]))[rows]
    real = targets[rows] != 0
    assert (logits - expected)[real].abs().max() < ATOL


def test_the_fused_path_agrees_with_the_original(ported: Ported) -> None:
    """In normal use nothing is hooked and attention is fused: the taps saw the explicit path."""
    ids = ported.trace.inputs
    model = load_model(ported.model_dir, dtype=torch.float32)
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids["inputs"]).long(), labels=torch.tensor(ids["targets"]).long()
        )
    assert np.abs(output.logits.numpy() - ported.trace["logits"]).max() < ATOL
    assert output.loss.item() == pytest.approx(float(ported.trace["loss"]), rel=1e-5)


def test_stored_dtypes_are_kept(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(files=V1_1, dtype="bfloat16")
    conversion = convert_checkpoint(checkpoint, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert conversion.config["dtype"] == "bfloat16"
    assert not model.training


def test_packed_examples_never_see_each_other(
    make_checkpoint: MakeCheckpoint, reference_trace: ReferenceTraces, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(files=V1_1)
    convert_checkpoint(checkpoint, tmp_path / "model")
    generator = np.random.default_rng(7)
    packed = {
        "inputs": generator.integers(2, 100, size=(2, 140)),
        "targets": generator.integers(2, 100, size=(2, 130)),
        "sequence_ids": np.repeat([[1, 2, 3, 0]], 2, axis=0).repeat(35, axis=1),
        "decoder_sequence_ids": np.repeat([[1, 2, 3, 0, 0]], 2, axis=0).repeat(26, axis=1),
    }
    packed["inputs"][packed["sequence_ids"] == 0] = 0
    packed["targets"][packed["decoder_sequence_ids"] == 0] = 0
    reference = reference_trace(checkpoint, packed)
    assert_port_matches(reference, tmp_path / "model", atol=ATOL, checkpoint=checkpoint)

    unpacked = {name: packed[name] for name in ("inputs", "targets")}
    other = reference_trace(checkpoint, unpacked)
    assert np.abs(other["logits"] - reference["logits"]).max() > 0.01


def test_the_original_is_rebuilt_when_its_config_is_lost(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """From 2019, old names, no operative_config.gin: the config is inferred, on both sides."""
    source = make_checkpoint(files=V1_0, overrides=(*SMALL[:-1], *OLD_NAMES))
    for file in source.glob("model.ckpt*"):
        (tmp_path / file.name).symlink_to(file)
    conversion = convert_checkpoint(tmp_path, tmp_path / "model")
    assert conversion.resolved.assumed and "inferred" in conversion.resolved.origin
    with_config = convert_checkpoint(source, tmp_path / "other", dry_run=True)
    assert conversion.config == with_config.config
    comparison = compare_outputs(tmp_path, tmp_path / "model", atol=ATOL)
    assert comparison.status == "match", comparison.first_divergence


def test_a_published_operative_config_builds_the_original(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Google's own file, with all that it binds and imports besides the model; only its weights are ours."""
    published = Path(__file__).parents[2].parent / "shared" / "data" / "mtf_tiny_t5" / "operative_config.gin"
    if not published.exists():
        pytest.skip("mtf_tiny_t5 is not beside the repository")
    sizes = ("d_model = 32", "d_ff = 64", "d_kv = 64", "num_heads = 2", "num_layers = 2")
    source = shutil.copytree(
        make_checkpoint(files=V1_1, overrides=sizes, vocab_size=32100), tmp_path / "ours"
    )
    shutil.copyfile(published, source / "operative_config.gin")
    conversion = convert_checkpoint(source, tmp_path / "model")
    assert conversion.config["vocab_size"] == 32128
    comparison = compare_outputs(source, tmp_path / "model", atol=ATOL)
    assert comparison.status == "match", comparison.first_divergence
