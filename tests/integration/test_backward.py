"""Gradients of the port against Mesh TensorFlow's own, and faults that only backward sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from porting import Inputs, Trace, compare_outputs, convert_checkpoint, load_model, run_reference
from porting.cli import compare_outputs_command
from porting.errors import InputError
from porting.gradients.traces import gradients_of
from porting.ports.t5 import attention, layers
from tests.integration.conftest import SMALL, V1_0, V1_1, MakeCheckpoint

SMALLER = (*SMALL, "encoder/make_layer_stack.num_layers = 2")
EXPERTS = (
    "decoder/make_layer_stack.layers = [@transformer_layers.SelfAttention,"
    " @transformer_layers.EncDecAttention, @moe.MoE1D]",
    "MoE1D.moe_gating = 'switch'",
    "MoE1D.num_experts = 4",
    "MoE1D.hidden_size = 40",
    "MoE1D.capacity_factor_eval = 0.5",
)
SHARED = (
    "make_layer_stack.block_scope = False",
    "encoder/make_layer_stack.layers = [('a', @transformer_layers.SelfAttention),"
    " ('b', @transformer_layers.DenseReluDense)]",
    "SelfAttention.shared_kv = True",
)
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "t5.1.0, tied": (V1_0, SMALLER),
    "t5.1.1, untied, experts that overflow": (V1_1, (*SMALLER, *EXPERTS)),
    "shared layers, shared keys and values": (V1_0, (*SMALLER, *SHARED)),
}
# Seen: 4e-6 at the most.
TOLERANCE = 1e-4
Gradients = Mapping[str, Tensor]


def inputs() -> Inputs:
    """Padding at the end, padded targets of full inputs, and positions beyond the last bucket."""
    generator = np.random.default_rng(5)
    ids, targets = generator.integers(2, 100, size=(3, 140)), generator.integers(2, 100, size=(3, 30))
    ids[2, 40:] = 0
    targets[:2, 20:] = 0
    return Inputs.from_arrays({"inputs": ids, "targets": targets})


@dataclass(frozen=True)
class Ported:
    checkpoint: Path
    model_dir: Path
    trace: Trace


@pytest.fixture(scope="module")
def port_of(
    make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Ported]:
    made: dict[str, Ported] = {}

    def port(name: str) -> Ported:
        if name not in made:
            files, overrides = MODELS[name]
            folder = tmp_path_factory.mktemp("backward")
            checkpoint = make_checkpoint(files, overrides, slots=False)
            convert_checkpoint(checkpoint, folder / "model")
            trace = run_reference(checkpoint, inputs(), save_to=folder / "reference", backward=True)
            made[name] = Ported(checkpoint, folder / "model", trace)
        return made[name]

    return port


@pytest.mark.parametrize("name", MODELS)
def test_every_gradient_agrees(port_of: Callable[[str], Ported], name: str) -> None:
    ported = port_of(name)
    model = load_model(ported.model_dir)
    comparison = compare_outputs(ported.trace, model, backward=True, gradient_tolerance=TOLERANCE)
    gradients = comparison.backward
    assert gradients is not None
    assert gradients.status == comparison.status == "match", (gradients.first_divergence, gradients)
    # Everything that was compared forward, and every parameter, once.
    assert {row.name for row in gradients.tensors} == {row.name for row in comparison.tensors} | {
        name for name, _ in model.named_parameters()
    }
    assert gradients.parameters == {name for name, _ in model.named_parameters()}
    assert all(row.note == "" for row in gradients.tensors)
    assert not any(gradients.within_rounding(row) for row in gradients.tensors)


def test_gradients_stand_in_backward_order(port_of: Callable[[str], Ported]) -> None:
    names = gradients_of(port_of("t5.1.0, tied").trace).names()
    assert names[:4] == ["loss", "logits", "decoder", "decoder.final_layer_norm"]
    layer = "decoder.block.1.layer.1"
    inside = [name.removeprefix(f"{layer}.") for name in names if name.startswith(f"{layer}.")]
    within = [name.removeprefix("EncDecAttention.") for name in inside]
    assert within[:5] == ["o", "o.weight", "attended", "weights", "scores"]
    assert sorted(within[5:11]) == ["k", "k.weight", "q", "q.weight", "v", "v.weight"]
    assert within[11:] == ["mask_padding", "layer_norm", "layer_norm.weight"]
    for name in ("q", "k", "v"):
        assert within.index(f"{name}.weight") == within.index(name) + 1
    # Both stacks read the embedding, and the table of positions is read in the first block.
    assert names[-1] == "shared.weight"
    table = names.index("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    assert names[table - 1] == "decoder.block.0.layer.0.SelfAttention.position_bias"


def test_the_forward_trace_is_the_same_without_gradients(port_of: Callable[[str], Ported]) -> None:
    ported = port_of("shared layers, shared keys and values")
    plain = run_reference(ported.checkpoint, inputs())
    assert plain.names() == ported.trace.names()
    for name in plain.names():
        np.testing.assert_array_equal(plain[name], ported.trace[name])
    with pytest.raises(InputError, match="made without gradients"):
        compare_outputs(plain, ported.model_dir, backward=True)


Patch = pytest.MonkeyPatch


def detached_values(model: nn.Module, _patch: Patch) -> None:
    v = model.get_submodule("encoder.block.1.layer.0.SelfAttention.v")
    forward = v.forward
    v.forward = lambda x: forward(x).detach()


def norm_without_its_variance(_model: nn.Module, patch: Patch) -> None:
    """As if the scale were a constant: forward is right."""

    def forward(self: layers.RMSNorm, x: Tensor) -> Tensor:
        variance = x.square().mean(-1, keepdim=True).detach()
        return x * torch.rsqrt(variance + self.epsilon) * self.weight

    patch.setattr(layers.RMSNorm, "forward", forward)


def output_without_its_embedding(model: nn.Module, _patch: Patch) -> None:
    scale = model.config.d_model**-0.5
    model.project = lambda hidden: nn.functional.linear(hidden * scale, model.shared.weight.detach())


def positions_of_the_decoder_not_trained(model: nn.Module, _patch: Patch) -> None:
    table = model.get_submodule("decoder.block.0.layer.0.SelfAttention.relative_attention_bias")
    forward = table.forward
    table.forward = lambda position: forward(position).detach()


class StraightThrough(torch.autograd.Function):
    """relu forward, the identity backward."""

    @staticmethod
    def forward(_context: object, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return gradient


def activation_with_a_wrong_gradient(model: nn.Module, _patch: Patch) -> None:
    model.get_submodule("encoder.block.1.layer.1.DenseReluDense.act").forward = StraightThrough.apply


def fused_attention_with_a_wrong_gradient(_model: nn.Module, patch: Patch) -> None:
    """What is hooked is right here: only a run as in training takes the fused kernel."""
    fused = attention._fused
    patch.setattr(attention, "_fused", lambda q, k, *others: fused(q, k.detach(), *others))


FAULTS: dict[Callable[[nn.Module, Patch], None], tuple[str, str]] = {
    detached_values: ("encoder.block.1.layer.0.SelfAttention.v.weight", "no gradient reaches it in the port"),
    # The first norm backward is the last one: what it reads is the last layer's output.
    norm_without_its_variance: ("decoder.block.1.layer.2", ""),
    output_without_its_embedding: ("shared.weight", ""),
    positions_of_the_decoder_not_trained: (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "no gradient reaches it in the port",
    ),
    activation_with_a_wrong_gradient: ("encoder.block.1.layer.1.DenseReluDense.wi", ""),
    fused_attention_with_a_wrong_gradient: (
        "decoder.block.1.layer.1.EncDecAttention.k.weight",
        "no gradient reaches it in the port",
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_that_only_backward_sees_is_found(
    port_of: Callable[[str], Ported],
    fault: Callable[[nn.Module, Patch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ported = port_of("t5.1.0, tied")
    model = load_model(ported.model_dir)
    fault(model, monkeypatch)
    assert compare_outputs(ported.trace, model, atol=1e-4).status == "match"
    comparison = compare_outputs(ported.trace, model, atol=1e-4, backward=True)
    assert comparison.first_divergence is None
    assert comparison.status == "diverged"
    assert comparison.exit_code == 1
    first = comparison.backward.first_divergence
    assert (first.name, first.note) == FAULTS[fault]


def test_the_command_compares_gradients_with_a_trace(
    port_of: Callable[[str], Ported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ported = port_of("t5.1.0, tied")
    arguments = [str(ported.checkpoint), str(ported.model_dir), "--backward", "--format", "json"]
    arguments += ["--reference-trace", str(ported.trace.path), "--report-dir", str(tmp_path / "reports")]
    arguments += ["--save-traces", str(tmp_path / "traces")]
    result = CliRunner().invoke(compare_outputs_command, arguments)
    assert result.exit_code == 0, result.output
    verdict = json.loads(result.stdout)
    assert verdict["backward"]["status"] == "match"
    assert verdict["backward"]["tolerance"] == 1e-3
    assert verdict["backward"]["unmatched"] == {"reference": [], "port": []}
    assert "## Gradients of the loss" in Path(verdict["reports"]["markdown"]).read_text()
    assert (tmp_path / "traces" / "port" / "gradients" / "trace.json").is_file()

    norm_without_its_variance(nn.Module(), monkeypatch)
    result = CliRunner().invoke(compare_outputs_command, arguments)
    assert result.exit_code == 1
    verdict = json.loads(result.stdout)
    assert verdict["status"] == "diverged"
    assert verdict["first_divergence"] is None
    assert verdict["backward"]["first_divergence"]["name"] == "decoder.block.1.layer.2"
