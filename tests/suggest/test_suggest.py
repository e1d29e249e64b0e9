"""Suggestions on published layouts of originals, and how far their confidence can be believed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from porting.mapping import make_plan
from porting.suggest.sides import Side, parameters
from porting.suggest.suggest import SURE, Suggestion, suggest
from tests.suggest.judge import Truth, judge
from tests.suggest.layouts import Layout, bert, gpt2, with_slots
from tests.suggest.renamed import renamed_model

transformers = pytest.importorskip("transformers")


def bert_model() -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=70,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=32,
    )
    with torch.device("meta"):
        return transformers.BertModel(config)


def truth_of(layout: Layout) -> Truth:
    """What BertModel's parameters are made from: Google's kernels are [in, out]."""
    return {
        target: (name, "transpose" if name.endswith("kernel") else "") for name, (_, target) in layout.items()
    }


def rule_of(suggestion: Suggestion, target: str) -> tuple[float, str]:
    """Confidence and reasons of the rule that fills a parameter."""
    found = next(rule for rule in suggestion.rules if target in rule.targets)
    return found.confidence, "; ".join(found.reasons)


def test_google_bert_into_transformers_is_complete_and_right() -> None:
    layout = bert()
    suggestion = suggest(Side(with_slots(layout)), parameters(bert_model()))
    judged = judge(suggestion, truth_of(layout))
    assert suggestion.complete
    assert (len(judged.right), judged.wrong) == (len(layout), [])
    assert suggestion.plan().ignored_counts() == {"optimizer state": 2 * len(layout), "global_step": 1}


def test_rules_are_over_layers_and_words_not_one_for_each_tensor() -> None:
    suggestion = suggest(Side(with_slots(bert())), parameters(bert_model()))
    patterns = [found.rule.pattern for found in suggestion.rules]
    assert r"bert/encoder/layer_(?P<layer>\d+)/attention/self/(?P<name>query|key|value)/kernel" in patterns
    assert len(patterns) < 20


def test_square_kernels_say_that_the_shape_does_not_decide() -> None:
    suggestion = suggest(Side(with_slots(bert())), parameters(bert_model()))
    confidence, reasons = rule_of(suggestion, "encoder.layer.1.attention.self.query.weight")
    assert confidence < SURE
    assert "square (24x24), so the shape does not say whether it is transposed" in reasons
    assert "as 6 other Linears are" in reasons
    confidence, reasons = rule_of(suggestion, "encoder.layer.1.intermediate.dense.weight")
    assert confidence >= SURE
    assert "square" not in reasons


def test_where_every_kernel_is_square_custom_alone_decides() -> None:
    module = torch.nn.ModuleDict({"pool": torch.nn.Linear(24, 24, bias=False)})
    suggestion = suggest(Side({"bert/pooler/dense/kernel": (24, 24)}), parameters(module))
    confidence, reasons = rule_of(suggestion, "pool.weight")
    assert confidence <= 0.5
    assert "by custom only" in reasons


def test_openai_gpt2_into_transformers() -> None:
    layout = gpt2()
    config = transformers.GPT2Config(
        vocab_size=70, n_positions=32, n_embd=24, n_layer=2, n_head=3, bos_token_id=1, eos_token_id=1
    )
    with torch.device("meta"):
        module = transformers.GPT2Model(config)
    suggestion = suggest(Side({name: shape for name, (shape, _) in layout.items()}), parameters(module))
    truth = {
        target: (name, f"reshape {list(shape)} to {list(shape[1:])}" if len(shape) == 3 else "")
        for name, (shape, target) in layout.items()
    }
    judged = judge(suggestion, truth)
    assert suggestion.complete
    assert (len(judged.right), judged.wrong) == (len(layout), [])


class Torch(torch.nn.Module):
    """A BERT of torch.nn.TransformerEncoder: q, k and v are one parameter, and every name is another."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(70, 24)
        self.positions = torch.nn.Embedding(32, 24)
        self.segments = torch.nn.Embedding(2, 24)
        self.norm = torch.nn.LayerNorm(24)
        layer = torch.nn.TransformerEncoderLayer(24, 3, 40, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.pooler = torch.nn.Linear(24, 24)


def torch_truth() -> Truth:
    truth: Truth = {
        "tokens.weight": ("bert/embeddings/word_embeddings", ""),
        "positions.weight": ("bert/embeddings/position_embeddings", ""),
        "segments.weight": ("bert/embeddings/token_type_embeddings", ""),
        "pooler.weight": ("bert/pooler/dense/kernel", "transpose"),
        "pooler.bias": ("bert/pooler/dense/bias", ""),
    }
    norms = {"norm": "bert/embeddings/LayerNorm"}
    for i in range(3):
        source, target = f"bert/encoder/layer_{i}", f"encoder.layers.{i}"
        norms[f"{target}.norm1"] = f"{source}/attention/output/LayerNorm"
        norms[f"{target}.norm2"] = f"{source}/output/LayerNorm"
        for kind, name, ops in (("kernel", "weight", "transpose"), ("bias", "bias", "")):
            joined = "+".join(f"{source}/attention/self/{part}/{kind}" for part in ("query", "key", "value"))
            truth[f"{target}.self_attn.in_proj_{name}"] = (joined, ops)
            truth[f"{target}.self_attn.out_proj.{name}"] = (f"{source}/attention/output/dense/{kind}", ops)
            truth[f"{target}.linear1.{name}"] = (f"{source}/intermediate/dense/{kind}", ops)
            truth[f"{target}.linear2.{name}"] = (f"{source}/output/dense/{kind}", ops)
    for target, source in norms.items():
        truth |= {f"{target}.weight": (f"{source}/gamma", ""), f"{target}.bias": (f"{source}/beta", "")}
    return truth


def test_q_k_and_v_are_stacked_where_the_module_has_them_in_one() -> None:
    with torch.device("meta"):
        suggestion = suggest(Side(with_slots(bert())), parameters(Torch()))
    judged = judge(suggestion, torch_truth())
    assert suggestion.complete
    assert judged.wrong == []
    confidence, reasons = rule_of(suggestion, "encoder.layers.0.self_attn.in_proj_bias")
    assert confidence <= 0.7
    assert "joined in the order q, k, v is usual, not proved" in reasons


class Apart(torch.nn.Module):
    """GPT-2's attention with q, k and v apart."""

    def __init__(self) -> None:
        super().__init__()
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.h = torch.nn.ModuleList(
            torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({n: torch.nn.Linear(24, 24) for n in names})})
            for _ in range(2)
        )


def test_a_fused_projection_is_split() -> None:
    layout = {name: shape for name, (shape, _) in gpt2().items() if "attn" in name}
    # [in, out], as a Conv1D of one position is.
    layout = {name: shape[1:] if len(shape) == 3 else shape for name, shape in layout.items()}
    suggestion = suggest(Side(layout), parameters(Apart()))
    assert suggestion.complete
    entries = {entry.target: entry for entry in suggestion.plan().entries}
    entry = entries["h.1.attn.k_proj.weight"]
    assert entry.sources == ("model/h1/attn/c_attn/w",)
    assert [str(op) for op in entry.ops] == ["slice 1 of 3 on axis 1", "transpose"]


class Untied(torch.nn.Module):
    """An output projection that the original ties to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(70, 24)
        self.lm_head = torch.nn.Linear(24, 70, bias=False)


def test_a_table_that_the_original_keeps_once_fills_both_parameters() -> None:
    suggestion = suggest(Side({"model/wte": (70, 24)}), parameters(Untied()))
    assert suggestion.complete
    confidence, reasons = rule_of(suggestion, "lm_head.weight")
    assert confidence < SURE
    assert "tied: no other variable has the shape of lm_head.weight" in reasons


def test_what_a_module_ties_is_said() -> None:
    module = Untied()
    module.lm_head.weight = module.wte.weight
    suggestion = suggest(Side({"model/wte": (70, 24), "model/out/w": (24, 70)}), parameters(module))
    assert suggestion.notes == ("In the module lm_head.weight is the same parameter as wte.weight.",)
    assert [(left.name, left.nearest[0][0]) for left in suggestion.unclaimed] == [
        ("model/out/w", "wte.weight")
    ]


def test_layers_counted_from_one_get_an_offset_or_a_rule_each() -> None:
    sources = {f"layer_{i}/wi/kernel": (4, 6) for i in (1, 2, 3)}
    targets = {f"layers.{i}.wi.weight": (6, 4) for i in (0, 1, 2)}
    suggestion = suggest(Side(sources), Side(targets))
    entries = {entry.target: entry.sources for entry in suggestion.plan().entries}
    assert entries == {f"layers.{i}.wi.weight": (f"layer_{i + 1}/wi/kernel",) for i in (0, 1, 2)}
    up = suggest(
        Side({f"layer_{i}/wi/kernel": (4, 6) for i in (0, 1)}),
        Side({f"l.{i}.wi.weight": (6, 4) for i in (1, 2)}),
    )
    assert up.rules[0].rule.target == "l.{layer+1}.wi.weight"


def test_what_is_alike_on_both_sides_is_ambiguous() -> None:
    """Which of Mesh's wi_0 and wi_1 is the gate, no name says."""
    sources = {f"layer_{i}/ffn/wi_{k}/kernel": (4, 6) for i in range(3) for k in range(2)}
    targets = {f"layers.{i}.mlp.{name}.weight": (6, 4) for i in range(3) for name in ("left", "right")}
    suggestion = suggest(Side(sources), Side(targets))
    assert suggestion.complete
    assert all(rule.confidence <= 0.5 for rule in suggestion.rules)
    assert any("ambiguous with" in reason for rule in suggestion.rules for reason in rule.reasons)


def test_a_candidate_that_comes_near_is_named() -> None:
    same = "encoder/relative/position/attention/self/q/kernel"
    near = "encoder.relative.position.attention.self.q.adapter.weight"
    targets = {same.replace("/", ".").replace("kernel", "weight"): (6, 4), near: (6, 4)}
    suggestion = suggest(Side({same: (4, 6)}), Side(targets))
    (rule,) = suggestion.rules
    assert rule.confidence <= 0.85
    assert f"nearly as likely: {near}" in rule.reasons


def test_what_is_left_over_has_candidates_and_is_no_plan() -> None:
    layout = with_slots(bert())
    del layout["bert/pooler/dense/bias"]
    layout["bert/extra/thing"] = (5, 7)
    suggestion = suggest(Side(layout), parameters(bert_model()))
    assert not suggestion.complete
    assert [left.name for left in suggestion.unfilled] == ["pooler.dense.bias"]
    # Its optimizer state is no slot of anything any more: not dropped in silence.
    assert {left.name for left in suggestion.unclaimed} >= {
        "bert/extra/thing",
        "bert/pooler/dense/bias/adam_m",
    }
    assert all(left.nearest for left in suggestion.unfilled)


def test_a_model_with_fewer_layers_leaves_variables_over() -> None:
    layout = bert(layers=4)
    suggestion = suggest(Side({name: shape for name, (shape, _) in layout.items()}), parameters(bert_model()))
    assert {left.name for left in suggestion.unclaimed} == {name for name in layout if "layer_3" in name}
    judged = judge(suggestion, truth_of(layout))
    assert judged.sure_and_wrong == []


def test_confidence_can_be_believed() -> None:
    """Of everything proposed with a confidence of at least 0.9, in 120 models, nothing is wrong."""
    right = wrong = sure = 0
    for seed in range(120):
        layout, module, truth = renamed_model(random.Random(seed))
        judged = judge(suggest(Side(with_slots(layout)), module), truth)
        assert judged.sure_and_wrong == [], seed
        right, wrong = right + len(judged.right), wrong + len(judged.wrong)
        sure += sum(confidence >= SURE for confidence, *_ in judged.right)
    assert right / (right + wrong) > 0.85
    assert sure / right > 0.2  # and it is not for want of courage


Square = Callable[..., tuple[Side, torch.nn.Module, Path]]


@pytest.fixture
def square(tmp_path: Path) -> Square:
    """A layer of three square kernels, and weights that somebody made from it."""

    def make(
        dtype: torch.dtype = torch.float32, *, transposed: bool = True
    ) -> tuple[Side, torch.nn.Module, Path]:
        generator = np.random.default_rng(3)
        values = {f"att/{n}/kernel": generator.standard_normal((8, 8), np.float32) for n in ("a", "b", "c")}
        module = torch.nn.ModuleDict({name: torch.nn.Linear(8, 8, bias=False) for name in ("x", "y", "z")})
        # No name says that x is b.
        pairs = {"x.weight": "att/b/kernel", "y.weight": "att/c/kernel", "z.weight": "att/a/kernel"}
        stored = {name: torch.from_numpy(values[source]).to(dtype) for name, source in pairs.items()}
        path = tmp_path / "model.safetensors"
        save_file({n: (t.T if transposed else t).contiguous() for n, t in stored.items()}, path)
        side = Side(
            {n: v.shape for n, v in values.items()}, dict.fromkeys(values, "float32"), read=values.__getitem__
        )
        return side, module, path

    return make


@pytest.mark.parametrize("transposed", [True, False])
def test_values_decide_what_names_and_shapes_do_not(square: Square, transposed: bool) -> None:
    side, module, path = square(transposed=transposed)
    without = suggest(side, parameters(module))
    assert all(rule.confidence <= 0.5 for rule in without.rules)
    suggestion = suggest(side, parameters(module, path))
    entries = {entry.target: entry for entry in suggestion.plan().entries}
    assert entries["x.weight"].sources == ("att/b/kernel",)
    assert [str(op) for op in entries["x.weight"].ops] == (["transpose"] if transposed else [])
    confidence, reasons = rule_of(suggestion, "x.weight")
    assert confidence >= 0.97
    assert reasons.startswith("same values, bit for bit")


def test_rounded_values_are_the_same_as_far_as_their_type_goes(square: Square) -> None:
    side, module, path = square(torch.bfloat16)
    suggestion = suggest(side, parameters(module, path))
    confidence, reasons = rule_of(suggestion, "y.weight")
    assert "same values, as far as the narrower dtype goes" in reasons
    assert confidence >= SURE


def test_other_values_speak_against_a_pair(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    values = {f"att/{n}/kernel": generator.standard_normal((8, 6), np.float32) for n in ("q", "k", "v")}
    module = torch.nn.ModuleDict({name: torch.nn.Linear(8, 6, bias=False) for name in ("q", "k", "v")})
    stored = {f"{n}.weight": torch.from_numpy(values[f"att/{n}/kernel"].T.copy()) for n in module}
    save_file({**stored, "k.weight": stored["k.weight"] + 1}, tmp_path / "w.safetensors")
    side = Side({n: v.shape for n, v in values.items()}, read=values.__getitem__)
    assert rule_of(suggest(side, parameters(module)), "k.weight")[0] >= SURE
    suggestion = suggest(side, parameters(module, tmp_path / "w.safetensors"))
    confidence, reasons = rule_of(suggestion, "k.weight")
    assert confidence <= 0.3
    assert "its values are not the parameter's" in reasons
    assert rule_of(suggestion, "q.weight")[0] >= 0.97


def test_weights_of_another_model_are_not_used(square: Square) -> None:
    side, module, path = square()
    values = {name: side.read(name) + 1 for name in side.shapes}
    changed = Side(side.shapes, side.dtypes, read=values.__getitem__)
    suggestion = suggest(changed, parameters(module, path))
    assert "the weights were not made from this checkpoint" in suggestion.notes[0]
    assert [r.confidence for r in suggestion.rules] == [
        r.confidence for r in suggest(changed, parameters(module)).rules
    ]


def test_zeros_are_the_same_everywhere_and_prove_nothing(tmp_path: Path) -> None:
    values = {
        "a/bias": np.zeros(6, np.float32),
        "b/bias": np.zeros(6, np.float32),
        "n/w": np.arange(6, dtype=np.float32),
    }
    side = Side({n: v.shape for n, v in values.items()}, read=values.__getitem__)
    targets = {"b.bias": torch.zeros(6), "a.bias": torch.zeros(6), "n.weight": torch.arange(6.0)}
    module = torch.nn.ModuleDict({n: torch.nn.Module() for n in "ban"})
    for name, tensor in targets.items():
        scope, leaf = name.split(".")
        module[scope].register_parameter(leaf, torch.nn.Parameter(tensor))
    save_file(targets, tmp_path / "w.safetensors")
    suggestion = suggest(side, parameters(module, tmp_path / "w.safetensors"))
    entries = {entry.target: entry.sources[0] for entry in suggestion.plan().entries}
    assert entries == {"a.bias": "a/bias", "b.bias": "b/bias", "n.weight": "n/w"}
    assert "same values" not in rule_of(suggestion, "a.bias")[1]
    assert "same values" in rule_of(suggestion, "n.weight")[1]


def test_the_table_is_a_plan_without_the_suggestion() -> None:
    layout = bert()
    suggestion = suggest(Side(with_slots(layout)), parameters(bert_model()))
    assert make_plan(suggestion.table, with_slots(layout), suggestion.targets) == suggestion.plan()
