from __future__ import annotations

import pytest
import torch

from porting.errors import MappingError
from porting.mapping import Plan, Shape, make_plan
from porting.port import port_for_model_type, port_for_variables
from porting.ports.bert.config import Config
from porting.ports.bert.model import build_model
from porting.ports.bert.rules import recognises, rules
from porting.suggest.sides import Side, parameters
from porting.suggest.suggest import suggest
from tests.ports.bert.variables import variables

HEADS = Config(51, 24, 2, 3, 40, 36, 3)
ENCODER = Config(51, 24, 2, 3, 40, 36, 3, heads=False)


def plan(config: Config, shapes: dict[str, Shape]) -> Plan:
    with torch.device("meta"):
        model = build_model(config)
    targets = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return make_plan(rules(config, list(shapes)), shapes, targets)


def test_every_variable_of_pre_training_has_a_home() -> None:
    found = plan(HEADS, variables())
    assert len(found.entries) == 46
    assert found.ignored_counts() == {"optimizer state": 92, "global step": 1}


def test_the_encoder_alone_has_the_keys_of_transformers_bert_model() -> None:
    found = plan(ENCODER, variables(heads=False, slots=False))
    assert len(found.entries) == 39
    assert all(entry.target.split(".")[0] in ("embeddings", "encoder", "pooler") for entry in found.entries)


def test_square_kernels_are_transposed_and_output_weights_are_not() -> None:
    ops = {entry.sources[0]: [str(op) for op in entry.ops] for entry in plan(HEADS, variables()).entries}
    kernels = [name for name in ops if name.endswith("/kernel")]
    assert len(kernels) == 14
    assert all(ops[name] == ["transpose"] for name in kernels)
    assert ops["cls/seq_relationship/output_weights"] == []
    assert ops["bert/embeddings/word_embeddings"] == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert/pooler/dense/kernel/lamb_m", "optimizer state"),
        ("bert/pooler/dense/kernel/Adam_1", "optimizer state"),
        ("beta1_power", "optimizer state"),
        ("loss_scale", "optimizer state of mixed precision"),
        ("output_weights", "output layer of a fine-tuned task"),
        ("cls/squad/output_bias", "output layer of a fine-tuned task"),
    ],
)
def test_what_does_not_belong_to_the_model_is_dropped_by_name(name: str, reason: str) -> None:
    found = plan(ENCODER, {**variables(heads=False, slots=False), name: (24,)})
    assert found.ignored == {reason: (name,)}


def test_an_unknown_variable_is_an_error() -> None:
    with pytest.raises(MappingError, match=r"bert/encoder/layer_0/adapter/kernel: expected a rule"):
        plan(ENCODER, {**variables(heads=False), "bert/encoder/layer_0/adapter/kernel": (24, 24)})


def test_heads_that_the_model_lacks_are_an_error() -> None:
    with pytest.raises(MappingError, match="cls/predictions/output_bias"):
        plan(ENCODER, variables(slots=False))


@pytest.mark.parametrize("config", [HEADS, ENCODER], ids=["heads", "encoder"])
def test_the_rules_that_are_suggested_make_the_same_plan(config: Config) -> None:
    """In docs/second-port.md it says so, of transformers' model; the keys are the same."""
    shapes = variables(heads=config.heads)
    with torch.device("meta"):
        module = build_model(config)
    suggested = suggest(Side(shapes), parameters(module))
    assert suggested.complete
    ours = {entry.target: (entry.sources, entry.ops) for entry in plan(config, shapes).entries}
    assert {entry.target: (entry.sources, entry.ops) for entry in suggested.plan().entries} == ours


def test_each_port_knows_its_own_checkpoints() -> None:
    t5 = {
        "shared/embedding": (128, 24),
        "encoder/block_000/layer_000/SelfAttention/q": (24, 36),
        "encoder/block_000/layer_000/layer_norm/scale": (24,),
    }
    albert = {
        "bert/embeddings/word_embeddings": (51, 8),
        "bert/encoder/transformer/group_0/inner_group_0/attention_1/self/query/kernel": (24, 24),
    }
    assert port_for_variables(variables()).name == "bert"
    assert port_for_variables(t5).name == "t5"
    assert recognises(variables(heads=False))
    assert not recognises(t5)
    assert not recognises(albert)
    assert port_for_model_type("bert").name == "bert"
    assert port_for_model_type("t5").name == "t5"
