"""T5X's and LongT5's checkpoints, converted and held against what the original computed from them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from porting import compare_outputs, convert_checkpoint, load_model
from porting.checkpoint import open_checkpoint
from porting.errors import ReferenceRunError
from porting.ports.t5.context import Visibility
from porting.ports.t5.t5x.flax_reference import spelled
from porting.references.process import REFERENCE_PYTHON
from porting.source import resolve_config
from tests.recordings import CONFIG, DATA, needs_recordings

ORIGINAL = ("tensorstore", "msgpack")
ATOL = 1e-4
LONG = {
    "local": {"encoder_attention_type": "local", "local_radius": 5},
    "tglobal": {"encoder_attention_type": "transient-global", "local_radius": 5, "global_block_size": 4},
}
T5 = DATA / "t5x" / "v1_1" / "checkpoint_0"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5x") / "model"
    convert_checkpoint(T5, folder)
    return folder


@needs_recordings
@pytest.mark.parametrize(("kind", "tensors"), [("v1_1", 77), ("scanned", 7)])
def test_a_converted_checkpoint_computes_what_t5x_recorded(kind: str, tensors: int, tmp_path: Path) -> None:
    source = DATA / "t5x" / kind / "checkpoint_0"
    convert_checkpoint(source, tmp_path / "model")
    comparison = compare_outputs(source, tmp_path / "model", atol=ATOL, report_dir=tmp_path / "reports")
    assert comparison.status == "match", comparison.first_divergence
    assert not comparison.faults
    assert len(comparison.tensors) == tensors
    facts = json.loads((tmp_path / "reports" / "model.json").read_text())
    assert facts["provenance"]["reference"]["recorded"]["file"] == "recorded.npz"
    assert facts["unheard"]
    page = (tmp_path / "reports" / "model.html").read_text()
    assert "50 of 420 positions of inputs, 8 of 51 positions of targets (padded positions)" in page


@needs_recordings
@pytest.mark.parametrize("kind", LONG)
def test_a_converted_longt5_computes_what_its_original_recorded(kind: str, tmp_path: Path) -> None:
    source = DATA / "longt5" / kind / "checkpoint_0"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LONG[kind]))
    convert_checkpoint(source, tmp_path / "model", config=config)
    comparison = compare_outputs(source, tmp_path / "model", atol=ATOL)
    assert comparison.status == "match", comparison.first_divergence
    assert not comparison.faults


@needs_recordings
def test_a_config_that_is_not_the_checkpoints_is_named_as_the_cause(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-2}))
    comparison = compare_outputs(T5, tmp_path / "model", atol=ATOL)
    assert comparison.status == "diverged"
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.name == "encoder.block.0.layer.0.layer_norm"
    [fault] = comparison.faults
    assert fault.cause is not None
    assert (fault.cause.kind, fault.cause.subject) == ("config", "layer_norm_epsilon")


@needs_recordings
@pytest.mark.parametrize(
    ("parameter", "change", "first"),
    [
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            lambda bias: bias.T.reshape(bias.shape),
            "encoder.block.0.layer.0.SelfAttention.position_bias",
        ),
        (
            "decoder.block.1.layer.0.SelfAttention.q.weight",
            lambda weight: weight * 8**-0.5,
            "decoder.block.1.layer.0.SelfAttention.q",
        ),
    ],
)
def test_a_wrong_weight_is_named_as_the_cause(
    model_dir: Path,
    tmp_path: Path,
    parameter: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    first: str,
) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    weights[parameter] = change(weights[parameter]).contiguous()
    save_file(weights, file, {"format": "pt"})
    comparison = compare_outputs(T5, tmp_path / "model", atol=ATOL)
    assert comparison.status == "diverged"
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.name == first
    [fault] = comparison.faults
    assert fault.name == first
    assert fault.cause is not None
    assert (fault.cause.kind, fault.cause.subject) == ("weight", parameter)


def seen_padding(model: nn.Module) -> None:
    """Attention to the encoder sees padding too."""
    for block in model.decoder.block:  # type: ignore[union-attr]
        block.layer[1].EncDecAttention.visibility = lambda _context: Visibility(None)  # type: ignore[union-attr]


def unscaled(model: nn.Module) -> None:
    """Scores are scaled, which T5 does not do."""
    attention = model.encoder.block[1].layer[0].SelfAttention  # type: ignore[union-attr,index]
    inner = attention.forward

    def forward(x: torch.Tensor, context: object) -> torch.Tensor:
        handle = attention.scores.register_forward_hook(lambda _m, _a, scores: scores * 8**-0.5)
        try:
            return inner(x, context)
        finally:
            handle.remove()

    attention.forward = forward


def tied(model: nn.Module) -> None:
    """The output is scaled as that of a tied model."""
    model.lm_head.register_forward_pre_hook(lambda _m, args: (args[0] * 20**-0.5,))  # type: ignore[union-attr]


@needs_recordings
@pytest.mark.parametrize(
    ("change", "first"),
    [
        (seen_padding, "decoder.block.0.layer.1.EncDecAttention.o"),
        (unscaled, "encoder.block.1.layer.0.SelfAttention.o"),
        (tied, "logits"),
    ],
)
def test_a_fault_in_what_no_recording_has_shows_in_the_next_tensor(
    model_dir: Path, change: Callable[[nn.Module], None], first: str
) -> None:
    model = load_model(model_dir)
    change(model)
    comparison = compare_outputs(T5, model, atol=ATOL, analyse=False)
    assert comparison.status == "diverged"
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.name == first


@needs_recordings
def test_a_recording_of_another_checkpoint_is_refused(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(T5, tmp_path / "checkpoint_0")
    with np.load(T5.parent / "recorded.npz") as held:
        arrays = dict(held)
    arrays["param:encoder/encoder_norm/scale"] = arrays["param:encoder/encoder_norm/scale"] * 2
    np.savez(tmp_path / "recorded.npz", **arrays)
    with pytest.raises(Exception, match="target/encoder/encoder_norm/scale: expected the recorded values"):
        compare_outputs(tmp_path / "checkpoint_0", model_dir)


@needs_recordings
@pytest.mark.skipif(importlib.util.find_spec("jax") is not None, reason="JAX is installed here")
def test_without_a_recording_both_ways_are_said(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REFERENCE_PYTHON, raising=False)
    shutil.copytree(T5, tmp_path / "checkpoint_0")
    with pytest.raises(ReferenceRunError) as error:
        compare_outputs(tmp_path / "checkpoint_0", model_dir)
    for said in ("not installed here", "--reference-trace recorded.npz", "--reference-python"):
        assert said in str(error.value)


@needs_recordings
def test_which_original_a_checkpoint_has_goes_by_its_variables() -> None:
    port, resolved = resolve_config(open_checkpoint(T5), None)
    names = list(open_checkpoint(T5).tensors)
    assert port.original_run(resolved.config, names).target == "porting.ports.t5.t5x.flax_reference:run"
    mesh = port.original_run(
        resolved.config, ["shared/embedding", "encoder/block_000/layer_000/rms_norm/scale"]
    )
    assert mesh.target == port.reference
    assert mesh.generates and not mesh.uses_recording


def test_models_that_flax_t5_is_not_are_refused() -> None:
    assert spelled(CONFIG.to_json()) == CONFIG
    for other in LONG.values():
        with pytest.raises(ReferenceRunError, match="this model is another"):
            spelled({**CONFIG.to_json(), "model_type": "longt5", **other})
