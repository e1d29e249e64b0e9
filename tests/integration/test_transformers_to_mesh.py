"""What transformers saved, written back for the original: Mesh computes the same from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from porting import Inputs, convert_checkpoint
from porting.original import Original
from porting.ports.t5.port import PORT
from porting.references.process import ReferenceProcess

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "d_model": 24,
    "d_kv": 12,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
}
UNTIED = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}
# Two experts of twice their share: none overflows, which transformers handles otherwise.
EXPERTS = {"num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 2}
T5, MT5 = transformers.T5ForConditionalGeneration, transformers.MT5ForConditionalGeneration
MODELS: dict[
    str, tuple[Any, dict[str, Any], bool]
] = {  # class, settings, whether it has an output of its own
    "tied": (T5, {}, False),
    "untied": (T5, UNTIED, True),
    "untied, saved as tied": (T5, UNTIED, False),
    "mT5": (MT5, {}, True),
    "mT5, saved as tied": (MT5, {}, False),
    "switch": (transformers.SwitchTransformersForConditionalGeneration, EXPERTS, False),
}


@pytest.fixture(scope="module")
def running() -> Iterator[ReferenceProcess]:
    with ReferenceProcess(PORT.reference) as process:
        yield process


def random_model(kind: Any, settings: dict[str, Any], *, own_output: bool) -> Any:
    """Of transformers, in eval mode, norm scales random too."""
    torch.manual_seed(0)
    model = kind(kind.config_class(**SIZES, **settings)).eval()
    with torch.no_grad():
        if own_output:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(128, 24))
        for name, parameter in model.named_parameters():
            scale = 1.0 if "norm" in name else 0.3
            parameter.copy_(torch.randn(parameter.shape) * scale)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_mesh_computes_what_transformers_computes(
    name: str, running: ReferenceProcess, tmp_path: Path
) -> None:
    kind, settings, own_output = MODELS[name]
    model = random_model(kind, settings, own_output=own_output)
    model.config.decoder_start_token_id = 0
    model.save_pretrained(tmp_path / "saved")
    convert_checkpoint(tmp_path / "saved", tmp_path / "mesh", to="mesh")

    generator = np.random.default_rng(0)
    ids, targets = generator.integers(2, 128, size=(2, 25)), generator.integers(2, 128, size=(2, 20))
    with Original(tmp_path / "mesh", process=running) as original:
        trace = original.run(Inputs.from_arrays({"inputs": ids, "targets": targets}))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids), labels=torch.tensor(targets)).logits.numpy()
    assert np.ptp(logits) > 1
    np.testing.assert_allclose(trace["logits"], logits, atol=1e-4 * np.abs(logits).max())


def test_tensorflow_restores_it(tmp_path: Path) -> None:
    """Every variable, by TensorFlow's own reader."""
    tensorflow = pytest.importorskip("tensorflow")
    model = random_model(T5, UNTIED, own_output=True)
    model.save_pretrained(tmp_path / "saved")
    plan = convert_checkpoint(tmp_path / "saved", tmp_path / "mesh", to="mesh").plan
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "mesh"))
    shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    assert shapes == {entry.target: entry.target_shape for entry in plan.entries}
    found = reader.get_tensor("decoder/logits/kernel")
    np.testing.assert_array_equal(found, model.lm_head.weight.detach().numpy().T)
    assert reader.get_tensor("global_step") == 0
