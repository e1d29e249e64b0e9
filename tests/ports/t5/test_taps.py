from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from porting.capture import capture
from porting.inputs import Inputs
from porting.ports.t5.config import T5Config
from porting.ports.t5.layers import Tap as TapModule
from porting.ports.t5.port import run
from porting.ports.t5.taps import taps
from tests.ports.t5.conftest import MakeModel
from tests.ports.t5.mesh_variables import SMALL, V1_1

INPUTS = Inputs.from_arrays({"inputs": [[5, 6, 7, 1], [8, 1, 0, 0]], "targets": [[9, 4, 1], [3, 1, 0]]})
SIZES = {"batch": {2}, "heads": {3}, "d_kv": {5}, "d_model": {12}, "d_ff": {20}, "vocab": {50}}
SIZES |= {"length": {4, 3}, "memory_length": {4, 3}}


@pytest.mark.parametrize("config", [SMALL, V1_1])
def test_every_tap_is_heard_and_labelled(config: T5Config, make_model: MakeModel, tmp_path: Path) -> None:
    wanted = taps(config)
    names = [tap.name for tap in wanted]
    assert len(names) == len(set(names))
    trace = capture(make_model(config), INPUTS, wanted, run, tmp_path)
    assert sorted(trace.names()) == sorted(names)
    for tensor, values in trace.items():
        for dim, size in zip(tensor.dims, values.shape, strict=True):
            assert size in SIZES[dim], (tensor.name, dim)
        assert (tensor.hidden_below is not None) == tensor.name.endswith(".scores")


@pytest.mark.parametrize("config", [SMALL, V1_1])
def test_every_place_made_for_listening_is_listened_to(config: T5Config, make_model: MakeModel) -> None:
    """But for the later blocks' position biases, which are the first block's."""
    model = make_model(config)
    listened = {tap.name for tap in taps(config)}
    places = {name for name, module in model.named_modules() if isinstance(module, TapModule)}
    silent = {name for name in places if "EncDecAttention.position_bias" in name}
    assert places - listened == silent


def test_hidden_scores_are_marked_by_their_size(make_model: MakeModel, tmp_path: Path) -> None:
    trace = capture(make_model(SMALL), INPUTS, taps(SMALL), run, tmp_path)
    scores = trace["decoder.block.0.layer.0.SelfAttention.scores"]
    tensor = next(t for t in trace.tensors if t.name.endswith("decoder.block.0.layer.0.SelfAttention.scores"))
    hidden = np.array(scores) <= tensor.hidden_below
    assert hidden[0, 0].tolist() == [[False, True, True], [False, False, True], [False] * 3]
    assert np.abs(np.array(scores)[~hidden]).max() < 1e4


def test_packed_inputs_reach_the_model(make_model: MakeModel) -> None:
    packed = Inputs.from_arrays(
        {
            **INPUTS.arrays(),
            "sequence_ids": [[1, 1, 2, 2], [1, 1, 0, 0]],
            "decoder_sequence_ids": [[1, 2, 2], [1, 1, 0]],
        }
    )
    model = make_model(SMALL)
    with torch.no_grad():
        plain, separate = run(model, INPUTS), run(model, packed)
    assert set(plain) == {"logits", "loss"}
    assert not torch.allclose(plain["logits"][0], separate["logits"][0])
    assert torch.allclose(plain["logits"][1], separate["logits"][1])
