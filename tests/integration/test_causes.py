"""What is behind a verdict: causes, the second verdict, narrow dtypes, and when nothing is to be trusted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

from demo.task import examples
from porting import Comparison, Trace, compare_outputs, convert_checkpoint, load_model, run_reference
from porting.cli import compare_outputs_command
from porting.ports.t5.layers import T5FeedForward
from tests.integration.conftest import V1_1, MakeCheckpoint

Q = "encoder.block.1.layer.0.SelfAttention.q"
WO = "decoder.block.1.layer.2.DenseReluDense.wo"


@dataclass(frozen=True)
class Ported:
    checkpoint: Path
    model_dir: Path
    trace: Trace

    def model(self, dtype: torch.dtype | None = None) -> nn.Module:
        return load_model(self.model_dir, dtype=dtype)

    def compare(self, model: nn.Module, atol: float = 1e-3) -> Comparison:
        return compare_outputs(self.trace, model, atol=atol, checkpoint=self.checkpoint)


@pytest.fixture(scope="module")
def ported(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Ported:
    checkpoint = make_checkpoint(files=V1_1)
    folder = tmp_path_factory.mktemp("causes")
    convert_checkpoint(checkpoint, folder / "model")
    return Ported(checkpoint, folder / "model", run_reference(checkpoint, save_to=folder / "reference"))


def with_exact_gelu(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, T5FeedForward):
            module.act = nn.GELU()
    return model


def test_a_right_port_is_within_rounding_at_every_tensor(ported: Ported) -> None:
    comparison = ported.compare(ported.model())
    assert (comparison.status, comparison.faults) == ("match", ())
    content = comparison.to_json()
    assert content["noise"]["verdict"] == "within"
    assert 0 < content["noise"]["largest"] < content["noise"]["times"] / 2
    assert content["remaining"] is None
    for row in content["tensors"]:
        assert row["origin"] is None
        assert row["local_max_abs_diff"] <= 32 * row["local_noise_floor"]
        assert row["max_abs_diff"] <= 32 * row["noise_floor"]


def test_another_kind_of_gelu_passes_the_tolerance_and_not_the_second_verdict(ported: Ported) -> None:
    comparison = ported.compare(with_exact_gelu(ported.model()), atol=1.0)
    assert comparison.status == "match"
    (fault,) = comparison.faults
    assert fault.name == "encoder.block.0.layer.1.DenseReluDense.act"
    assert fault.cause is not None and fault.cause.kind == "activation"
    assert fault.local < 1e-3
    assert len(fault.also) == 4  # in every other layer, and one cause
    assert comparison.to_json()["noise"]["verdict"] == "beyond"


def test_two_faults_are_told_from_what_inherits_them(ported: Ported) -> None:
    model = ported.model()
    with torch.no_grad():
        weight = model.get_parameter(f"{Q}.weight")
        weight.copy_(weight.T.reshape(weight.shape))
        model.get_parameter(f"{WO}.weight").mul_(1.5)
    comparison = ported.compare(model)
    assert comparison.status == "diverged"
    assert [fault.name for fault in comparison.faults] == [Q, WO]
    assert [fault.cause.kind for fault in comparison.faults if fault.cause] == ["weight", "weight"]
    assert "transposed" in comparison.faults[0].cause.words
    assert "1.5 times" in comparison.faults[1].cause.words
    origins = {row.name: row.origin for row in comparison.tensors}
    assert origins[Q] == origins[WO] == "own"
    assert origins["encoder"] == origins["logits"] == "inherited"
    assert origins["encoder.block.0.layer.1"] is None
    findings = comparison.findings
    assert findings is not None and findings.remainder is not None
    assert findings.remainder.times_floor < findings.times


def test_a_fault_below_the_tolerance_counts_with_strict(ported: Ported, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in ported.model_dir.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "model.safetensors")
    state[f"{WO}.weight"][3, 5] *= 1.001
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    arguments = [str(ported.checkpoint), str(broken), "--reference-trace", str(ported.trace.path)]
    arguments += ["--report-dir", str(tmp_path / "reports"), "--atol", "1", "--format", "json"]
    plain = CliRunner().invoke(compare_outputs_command, arguments)
    assert plain.exit_code == 0
    (fault,) = json.loads(plain.stdout)["faults"]
    assert fault["name"] == WO
    assert "1 of" in fault["cause"]["text"]
    assert fault["cause"]["subject"] == f"{WO}.weight"
    assert CliRunner().invoke(compare_outputs_command, [*arguments, "--strict"]).exit_code == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrow_conversion_diverges_within_its_rounding(ported: Ported, dtype: str, tmp_path: Path) -> None:
    convert_checkpoint(ported.checkpoint, tmp_path / dtype, dtype=dtype)
    comparison = compare_outputs(ported.trace, tmp_path / dtype, checkpoint=ported.checkpoint)
    assert comparison.status == "diverged"
    assert comparison.faults == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_port_is_held_against_its_own_rounding(ported: Ported, dtype: torch.dtype) -> None:
    assert ported.compare(ported.model(dtype)).faults == ()
    broken = ported.model(dtype)
    with torch.no_grad():
        broken.get_parameter(f"{WO}.weight").neg_()
    assert [fault.name for fault in ported.compare(broken).faults] == [WO]


def test_a_port_that_changes_when_it_is_listened_to_gets_no_verdict(ported: Ported) -> None:
    model = ported.model()
    attention = model.get_submodule("decoder.block.0.layer.0.SelfAttention")
    right = attention.forward
    attention.forward = lambda *args: right(*args) * (1.0 if attention.scores.hooked else 1.1)
    comparison = ported.compare(model)
    assert (comparison.status, comparison.exit_code) == ("invalid", 3)
    assert "when nothing listens" in comparison.reasons[0]


def test_the_module_is_left_as_it_was(ported: Ported) -> None:
    model = with_exact_gelu(ported.model())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    ported.compare(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_trained_model_that_is_sure_of_its_answers_is_within_rounding(tmp_path: Path) -> None:
    """Its loss is near zero and made of large logits: little moves it, and the two sides round it unlike."""
    demo = Path(__file__).parents[2] / "demo" / "checkpoint"
    inputs, targets = examples(4, np.random.default_rng(1), test=True)
    convert_checkpoint(demo, tmp_path / "model")
    comparison = compare_outputs(demo, tmp_path / "model", {"inputs": inputs, "targets": targets})
    assert (comparison.status, comparison.faults) == ("match", ())
