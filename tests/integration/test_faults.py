"""A deliberate fault is reported at the first tensor that it touches, with exit code 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

from porting import Inputs, compare_outputs, convert_checkpoint, load_model, run_reference
from porting.cli import compare_outputs_command
from porting.ports.t5.context import StackContext, Visibility
from porting.ports.t5.layers import RMSNorm, T5FeedForward
from tests.integration.conftest import V1_0, V1_1, MakeCheckpoint

DECODER = "decoder.block.0.layer.0.SelfAttention"


@dataclass(frozen=True)
class Ported:
    checkpoint: Path
    model_dir: Path
    traces: Path


@pytest.fixture(scope="module", params=["t5.1.0", "t5.1.1"])
def ported(
    request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> Ported:
    checkpoint = make_checkpoint(files=V1_0 if request.param == "t5.1.0" else V1_1)
    folder = tmp_path_factory.mktemp("faults")
    convert_checkpoint(checkpoint, folder / "model")
    run_reference(checkpoint, save_to=folder / "reference")
    return Ported(checkpoint, folder / "model", folder / "reference")


State = dict[str, torch.Tensor]


def transpose_q(state: State) -> None:
    """As a reshape in place of a transpose would leave it: the shape is right, the values are not."""
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    state[name] = state[name].T.reshape(state[name].shape).contiguous()


def swap_norm_scales(state: State) -> None:
    one, other = "encoder.block.1.layer.0.layer_norm.weight", "encoder.block.1.layer.1.layer_norm.weight"
    state[one], state[other] = state[other].clone(), state[one].clone()


def drop_decoder_bias(state: State) -> None:
    state[f"{DECODER}.relative_attention_bias.weight"].zero_()


def change_one_element(state: State) -> None:
    state["decoder.block.1.layer.1.EncDecAttention.v.weight"][5, 7] += 0.25


WEIGHT_FAULTS: dict[Callable[[State], None], str] = {
    transpose_q: "encoder.block.1.layer.0.SelfAttention.q",
    swap_norm_scales: "encoder.block.1.layer.0.layer_norm",
    drop_decoder_bias: f"{DECODER}.position_bias",
    change_one_element: "decoder.block.1.layer.1.EncDecAttention.v",
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_weight_is_named_by_the_command(
    ported: Ported, fault: Callable[[State], None], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ported.model_dir, broken)
    state = load_file(broken / "model.safetensors")
    fault(state)
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})

    arguments = [str(ported.checkpoint), str(broken), "--reference-trace", str(ported.traces)]
    arguments += ["--report-dir", str(tmp_path / "reports"), "--format", "json"]
    result = CliRunner().invoke(compare_outputs_command, arguments)
    assert result.exit_code == 1
    verdict = json.loads(result.stdout)
    assert verdict["status"] == "diverged"
    assert verdict["first_divergence"]["name"] == WEIGHT_FAULTS[fault]
    assert verdict["first_divergence"]["max_abs_diff"] > verdict["atol"]
    assert json.loads(Path(verdict["reports"]["json"]).read_text())["status"] == "diverged"


def wrong_epsilon(model: nn.Module) -> None:
    for module in model.decoder.modules():
        if isinstance(module, RMSNorm):
            module.epsilon = 1e-2


def exact_gelu(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, T5FeedForward):
            module.act = nn.GELU()


def mask_off_by_one(model: nn.Module) -> None:
    """The decoder sees one position into the future."""
    original = model.decoder._context

    def context(x: torch.Tensor, *args: object) -> StackContext:
        right = original(x, *args)
        shifted = right.visibility.bias.clone()
        queries = torch.arange(shifted.shape[-1] - 1)
        shifted[..., queries, queries + 1] = 0.0
        right.visibility = Visibility(shifted)
        return right

    model.decoder._context = context


def unscaled_output(model: nn.Module) -> None:
    model.project = lambda hidden: nn.functional.linear(hidden, model.shared.weight)


CODE_FAULTS: dict[Callable[[nn.Module], None], tuple[str, str]] = {
    wrong_epsilon: ("decoder.block.0.layer.0.layer_norm", "both"),
    mask_off_by_one: (f"{DECODER}.scores", "both"),
    exact_gelu: ("encoder.block.0.layer.1.DenseReluDense.act", "t5.1.1"),
    unscaled_output: ("logits", "t5.1.0"),
}


@pytest.mark.parametrize("fault", CODE_FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_line_of_the_port_is_named_without_saving_it(
    ported: Ported, fault: Callable[[nn.Module], None], request: pytest.FixtureRequest
) -> None:
    where, variant = CODE_FAULTS[fault]
    if variant not in ("both", request.node.callspec.params["ported"]):
        pytest.skip(f"only {variant} has such a line")
    model = load_model(ported.model_dir)
    fault(model)
    # The two kinds of gelu differ by less than 5e-4: 1e-3 would not see it.
    comparison = compare_outputs(ported.traces, model, atol=1e-4)
    assert comparison.status == "diverged"
    assert comparison.exit_code == 1
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.name == where


def test_the_right_port_passes_where_the_faulty_ones_do_not(ported: Ported) -> None:
    comparison = compare_outputs(ported.traces, load_model(ported.model_dir), atol=1e-4)
    assert comparison.status == "match"


def test_dropout_left_on_is_not_a_verdict(ported: Ported) -> None:
    model = load_model(ported.model_dir).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    comparison = compare_outputs(ported.traces, model)
    assert comparison.status == "invalid"
    assert comparison.exit_code == 3
    assert "model.eval()" in comparison.reasons[0]


def test_a_module_without_a_tap_makes_the_comparison_incomplete(ported: Ported) -> None:
    model = load_model(ported.model_dir)
    layer = model.get_submodule("encoder.block.0.layer.1.DenseReluDense")
    del layer._modules["hidden"]
    layer.__dict__["hidden"] = lambda x: x
    comparison = compare_outputs(ported.traces, model)
    assert comparison.status == "incomplete"
    assert comparison.exit_code == 3
    assert comparison.unmatched_reference == ("encoder.block.0.layer.1.DenseReluDense.hidden",)


def test_nan_in_the_original_is_not_a_verdict(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(files=V1_1, nan=["encoder/block_001/layer_001/DenseReluDense/wo/kernel"])
    convert_checkpoint(checkpoint, tmp_path / "model")
    result = CliRunner().invoke(
        compare_outputs_command,
        [str(checkpoint), str(tmp_path / "model"), "--report-dir", str(tmp_path / "reports")],
    )
    assert result.exit_code == 3
    assert "encoder/block_001/layer_001/DenseReluDense/wo" in result.stdout
    assert "NaN" in result.stdout


def test_traces_can_be_saved_and_compared_again(ported: Ported, tmp_path: Path) -> None:
    model, kept = str(ported.model_dir), tmp_path / "traces"
    inputs = tmp_path / "batch.json"
    inputs.write_text(json.dumps({"inputs": [[5, 6, 7, 1]], "targets": [[8, 9, 1, 0]]}))
    common = [str(ported.checkpoint), model, "--report-dir", str(tmp_path / "reports"), "--format", "json"]
    first = CliRunner().invoke(
        compare_outputs_command, [*common, "--inputs", str(inputs), "--save-traces", str(kept)]
    )
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(
        compare_outputs_command, [*common, "--reference-trace", str(kept / "reference")]
    )
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["tensors"] == json.loads(first.stdout)["tensors"]
    assert json.loads(again.stdout)["provenance"]["inputs"]["ids"]["inputs"] == [[5, 6, 7, 1]]


def test_inputs_other_than_the_traces_are_refused(ported: Ported) -> None:
    other = Inputs.from_arrays({"inputs": np.array([[5, 1]]), "targets": np.array([[6, 1]])})
    with pytest.raises(Exception, match="not those that the reference trace was made with"):
        compare_outputs(ported.traces, ported.model_dir, other)
