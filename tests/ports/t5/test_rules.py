"""The rule table, tested on names and shapes: nothing is computed here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting.checkpoint import open_checkpoint
from porting.errors import MappingError
from porting.mapping import Plan, Shape, make_plan
from porting.ports.t5.config import T5Config
from porting.ports.t5.infer import infer_config
from porting.ports.t5.model import T5Model
from porting.ports.t5.rules import is_weight, recognises, rules
from tests.ports.t5.mesh_variables import SMALL, V1_1, mesh_shapes

NAMES = {
    "SelfAttention": "self_attention",
    "EncDecAttention": "enc_dec_attention",
    "DenseReluDense": "dense_relu_dense",
}


def targets(config: T5Config) -> dict[str, Shape]:
    with torch.device("meta"):
        model = T5Model(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def plan(config: T5Config, shapes: dict[str, Shape]) -> Plan:
    return make_plan(rules(config, list(shapes)), shapes, targets(config))


def pairs(plan: Plan) -> dict[str, str]:
    return {entry.sources[0]: entry.target for entry in plan.entries}


@pytest.mark.parametrize("config", [SMALL, V1_1, replace(SMALL, tie_word_embeddings=False)])
@pytest.mark.parametrize("old_norms", [True, False])
@pytest.mark.parametrize("scopes", [None, NAMES])
def test_every_variable_and_every_parameter_is_claimed_once(
    config: T5Config, old_norms: bool, scopes: dict | None
) -> None:
    shapes = mesh_shapes(config, old_norms=old_norms, scopes=scopes, slots=True)
    found = plan(config, shapes)
    weights = [name for name in shapes if "_slot_" not in name and name != "global_step"]
    assert sorted(pairs(found)) == sorted(weights)
    assert sorted(pairs(found).values()) == sorted(targets(config))
    dropped = [name for names in found.ignored.values() for name in names]
    assert sorted(dropped + weights) == sorted(shapes)
    assert set(found.ignored) == {"optimizer state", "global step"}
    assert found.ignored_counts()["global step"] == 1


ENCODER = "encoder/block_002/layer_000"
DECODER = "decoder/block_001/layer_00"
FF = f"{DECODER}2/DenseReluDense"


@pytest.mark.parametrize(
    ("source", "target", "ops"),
    [
        ("shared/embedding", "shared.weight", []),
        ("decoder/logits/kernel", "lm_head.weight", ["transpose"]),
        (f"{ENCODER}/SelfAttention/q", "encoder.block.2.layer.0.SelfAttention.q.weight", ["transpose"]),
        (f"{ENCODER}/SelfAttention/o", "encoder.block.2.layer.0.SelfAttention.o.weight", ["transpose"]),
        (f"{ENCODER}/rms_norm/scale", "encoder.block.2.layer.0.layer_norm.weight", []),
        (f"{DECODER}1/EncDecAttention/k", "decoder.block.1.layer.1.EncDecAttention.k.weight", ["transpose"]),
        (f"{FF}/wi_0/kernel", "decoder.block.1.layer.2.DenseReluDense.wi_0.weight", ["transpose"]),
        (f"{FF}/wo/kernel", "decoder.block.1.layer.2.DenseReluDense.wo.weight", ["transpose"]),
        (
            "decoder/block_000/layer_000/SelfAttention/relative_attention_bias",
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            ["transpose"],
        ),
        ("decoder/rms_norm/scale", "decoder.final_layer_norm.weight", []),
    ],
)  # fmt: skip
def test_where_variables_go_and_what_is_done_to_them(source: str, target: str, ops: list[str]) -> None:
    entry = next(entry for entry in plan(V1_1, mesh_shapes(V1_1)).entries if entry.sources == (source,))
    assert entry.target == target
    assert [str(op) for op in entry.ops] == ops


def test_old_norms_go_where_new_ones_go() -> None:
    old, new = (set(pairs(plan(SMALL, mesh_shapes(SMALL, old_norms=o))).values()) for o in (True, False))
    assert old == new
    assert pairs(plan(SMALL, mesh_shapes(SMALL, old_norms=True)))["encoder/final_layer_norm/scale"] == (
        "encoder.final_layer_norm.weight"
    )


def test_named_layers_go_where_numbered_ones_go() -> None:
    found = pairs(plan(V1_1, mesh_shapes(V1_1, scopes=NAMES)))
    block = "decoder/block_001"
    assert (
        found[f"{block}/self_attention/SelfAttention/q"] == "decoder.block.1.layer.0.SelfAttention.q.weight"
    )
    assert found[f"{block}/enc_dec_attention/rms_norm/scale"] == "decoder.block.1.layer.1.layer_norm.weight"
    assert found[f"{block}/dense_relu_dense/DenseReluDense/wi_1/kernel"] == (
        "decoder.block.1.layer.2.DenseReluDense.wi_1.weight"
    )


@pytest.mark.parametrize("name", ["self-attention", "a.b", "x+y", "(odd)"])
def test_layer_names_are_no_patterns(name: str) -> None:
    shapes = mesh_shapes(SMALL, scopes={"SelfAttention": name})
    assert len(plan(SMALL, shapes).entries) == len(shapes)
    broken = {source.replace(name, "other"): shape for source, shape in shapes.items()}
    assert len(plan(SMALL, broken).entries) == len(shapes)


@pytest.mark.parametrize(
    "name",
    [
        "shared/embedding_slot_v",
        "encoder/block_000/layer_000/SelfAttention/q_slot_vr",
        "encoder/block_000/layer_000/SelfAttention/q_slot_vc",
        "encoder/block_000/layer_000/SelfAttention/q_slot_m",
        "shared/embedding/adam_m",
        "shared/embedding/adam_v",
        "shared/embedding_momentum_v",
        "global_step",
    ],
)
def test_what_optimizers_leave_is_dropped_with_its_reason(name: str) -> None:
    shapes = {**mesh_shapes(SMALL), name: (3,)}
    reason = "global step" if name == "global_step" else "optimizer state"
    assert plan(SMALL, shapes).ignored == {reason: (name,)}
    assert not is_weight(name)


@pytest.mark.parametrize(
    "name",
    [
        "encoder/block_000/layer_000/SelfAttention/kv",
        "encoder/block_000/layer_000/SelfAttention/q/kernel",
        "encoder/block_000/layer_000/SelfAttention/relative_attention_ak",
        "encoder/block_000/layer_001/DenseReluDense/wi/bias",
        "encoder/layer_000/SelfAttention/q",
        "transformer/block_000/layer_000/SelfAttention/q",
        "encoder/embedding",
        "positional_embedding",
        "shared/embedding_slot",
        "global_step_2",
        "encoder/block_000/layer_001/EncDecAttention/q",
    ],
)
def test_variables_of_other_models_are_never_dropped(name: str) -> None:
    with pytest.raises(MappingError) as caught:
        plan(SMALL, {**mesh_shapes(SMALL), name: (3, 3)})
    assert [problem.key for problem in caught.value.problems] == [name]


def test_a_bias_for_each_layer_is_not_taken_for_a_shared_one() -> None:
    name = "encoder/block_001/layer_000/SelfAttention/relative_attention_bias"
    with pytest.raises(MappingError) as caught:
        plan(SMALL, {**mesh_shapes(SMALL), name: (3, 8)})
    assert [problem.key for problem in caught.value.problems] == [name]


@pytest.mark.parametrize(
    ("config", "shapes", "named"),
    [
        (SMALL, mesh_shapes(V1_1), "decoder/logits/kernel"),
        (V1_1, mesh_shapes(SMALL), "lm_head.weight"),
        (replace(SMALL, num_layers=4), mesh_shapes(SMALL), "encoder.block.3.layer.0.SelfAttention.q.weight"),
        (replace(SMALL, num_layers=2), mesh_shapes(SMALL), "encoder/block_002/layer_000/SelfAttention/q"),
        (replace(SMALL, d_ff=21), mesh_shapes(SMALL), "decoder/block_000/layer_002/DenseReluDense/wo/kernel"),
    ],
    ids=["untied with a tied config", "tied with an untied one", "too deep", "too shallow", "d_ff"],
)
def test_a_config_of_another_checkpoint_is_refused(config: T5Config, shapes: dict, named: str) -> None:
    with pytest.raises(MappingError) as caught:
        plan(config, shapes)
    assert named in {problem.key for problem in caught.value.problems}


SHAPES = mesh_shapes(V1_1)
SOURCES = sorted(SHAPES)
HOME = pairs(plan(V1_1, SHAPES))


@given(st.sets(st.sampled_from(SOURCES), min_size=1, max_size=5))
def test_missing_variables_are_reported_by_the_parameter_they_fill(gone: set[str]) -> None:
    with pytest.raises(MappingError) as caught:
        plan(V1_1, {name: shape for name, shape in SHAPES.items() if name not in gone})
    assert {problem.key for problem in caught.value.problems} == {HOME[name] for name in gone}


def test_the_real_checkpoint_is_planned(mtf_tiny_t5: Path) -> None:
    shapes = {name: tensor.shape for name, tensor in open_checkpoint(mtf_tiny_t5).tensors.items()}
    found = plan(infer_config(shapes).config, shapes)
    assert len(found.entries) == 52
    assert found.ignored_counts() == {"optimizer state": 52, "global step": 1}


def test_encoder_decoders_of_mesh_are_recognised() -> None:
    assert recognises(mesh_shapes(SMALL))
    assert not recognises({"bert/encoder/layer_0/attention/self/query/kernel": (4, 4)})
    assert not recognises({"transformer/block_000/layer_000/SelfAttention/q": (4, 4)})
    assert not recognises({})
