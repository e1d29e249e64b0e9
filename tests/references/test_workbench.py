"""A PyTorch original through the whole road: safetensors in, converted, run, compared, gradients too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import porting.port
from porting import compare_outputs, convert_checkpoint
from tests.references.small_port import PLACES, PORT
from tests.references.small_torch import Model


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(porting.port, "_load_ports", lambda: ({"small": PORT}, {}))
    torch.manual_seed(5)
    (tmp_path / "source").mkdir()
    save_file(Model().state_dict(), tmp_path / "source" / "model.safetensors")
    return tmp_path / "source"


def test_a_port_matches_a_pytorch_original(source: Path, tmp_path: Path) -> None:
    conversion = convert_checkpoint(source, tmp_path / "model")
    assert conversion.port == "small"
    comparison = compare_outputs(source, tmp_path / "model", backward=True)
    assert comparison.status == "match", comparison.reasons
    assert [row.name for row in comparison.tensors] == list(PLACES)
    assert comparison.backward is not None
    assert {row.name for row in comparison.backward.tensors} >= {"net.block.dense.weight", "net.out"}
    facts = comparison.provenance["reference"]
    assert facts["implementation"] == "the small original"
    assert list(facts["checkpoint"]["sha256"]) == ["model.safetensors"]

    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["net.block.dense.bias"][0] += 0.5
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    diverged = compare_outputs(source, tmp_path / "model", checkpoint=source)
    assert diverged.status == "diverged"
    assert diverged.first_divergence is not None
    assert diverged.first_divergence.name == "net.block"
    [fault] = diverged.faults
    assert fault.cause is not None
    assert fault.cause.subject == "net.block.dense.bias"
