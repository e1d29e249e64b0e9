from __future__ import annotations

import pytest

from porting.suggest.align import alignments
from porting.suggest.names import OFFSET, OTHER, WEIGHT, families, parse
from porting.suggest.similarity import Similarity


@pytest.mark.parametrize(
    ("text", "words", "numbers", "kind"),
    [
        ("bert/encoder/layer_0/attention/self/query/kernel", "bert encoder attention self q", (0,), WEIGHT),
        ("encoder.layers.11.self_attn.q_proj.weight", "encoder self attention q", (11,), WEIGHT),
        ("encoder/block_007/layer_001/DenseReluDense/wi_0/kernel", "encoder ffn input", (7, 1, 0), WEIGHT),
        ("decoder/block_000/layer_001/EncDecAttention/q", "decoder cross attention q", (0, 1), OTHER),
        ("model/h3/attn/c_attn/b", "attention qkv", (3,), OFFSET),
        ("model/h3/ln_1/g", "norm", (3, 1), WEIGHT),
        ("bert/embeddings/LayerNorm/gamma", "bert embedding norm", (), WEIGHT),
        ("decoder.final_layer_norm.weight", "decoder final norm", (), WEIGHT),
        ("features.conv1d.bias", "features convolution 1 d", (), OFFSET),
        ("encoder/block_000/layer_000/rms_norm/scale", "encoder norm", (0, 0), WEIGHT),
        ("lm_head.weight", "head", (), WEIGHT),
    ],
)
def test_names_are_taken_apart(text: str, words: str, numbers: tuple[int, ...], kind: str) -> None:
    name = parse(text)
    assert (" ".join(name.words), name.numbers, name.kind) == (words, numbers, kind)


def test_digits_are_kept_as_they_are_spelt() -> None:
    assert parse("block_007/w").digits == ("007",)
    assert parse("block_007/w").pattern == "block_{}/w"


def test_names_that_differ_in_numbers_are_one_family() -> None:
    found = families(dict.fromkeys(("a/layer_0/q", "a/layer_1/q", "a/layer_0/k"), ""))
    assert [(f.pattern, [*f.members]) for f in found] == [
        ("a/layer_{}/q", [(0,), (1,)]),
        ("a/layer_{}/k", [(0,)]),
    ]


def scores(sources: list[str], targets: list[str], rank: int = 2) -> list[list[float]]:
    ours, theirs = (families(dict.fromkeys(side, "")) for side in (sources, targets))
    similarity = Similarity(ours, theirs)
    return [[similarity.of(a, b, rank) for b in theirs] for a in ours]


def test_synonyms_are_the_same_and_what_every_name_has_says_nothing() -> None:
    table = scores(
        [
            "bert/attention/self/query/kernel",
            "bert/attention/self/key/kernel",
            "bert/attention/output/kernel",
        ],
        ["x.self_attn.q.weight", "x.self_attn.k.weight", "x.attn.out.weight"],
    )
    assert all(table[i][i] == max(table[i]) and table[i][i] > 0.9 for i in range(3))


def test_a_bias_is_no_weight() -> None:
    table = scores(["a/norm/gamma"], ["a.norm.weight", "a.norm.bias"], rank=1)
    assert table[0][0] > 0.9 > 0.5 > table[0][1]


def test_a_bias_of_two_dimensions_is_a_table() -> None:
    table = scores(["a/relative_attention_bias"], ["a.relative_attention_bias.weight"], rank=2)
    assert table[0][0] > 0.9


def test_the_norm_of_a_layer_is_told_by_what_lies_beside_it() -> None:
    table = scores(
        [
            "b_0/layer_000/SelfAttention/q",
            "b_0/layer_000/norm/scale",
            "b_0/layer_001/mlp/wi",
            "b_0/layer_001/norm/w",
        ],
        ["b.0.attention_norm.weight", "b.0.mlp_norm.weight"],
    )
    assert table[1][0] > 0.3


@pytest.mark.parametrize(
    ("sources", "targets", "pairs"),
    [
        (["l_000/w", "l_001/w"], ["l.0.w", "l.1.w"], {((0,), (0,)), ((1,), (1,))}),
        # Counted from one in the original.
        (
            ["l_1/w", "l_2/w", "l_3/w"],
            ["l.0.w", "l.1.w", "l.2.w"],
            {((1,), (0,)), ((2,), (1,)), ((3,), (2,))},
        ),
        # Two numbers there, one here: the other is fixed.
        (["b_0/l_1/w", "b_1/l_1/w"], ["b.0.w", "b.1.w"], {((0, 1), (0,)), ((1, 1), (1,))}),
    ],
)
def test_numbers_are_aligned(sources: list[str], targets: list[str], pairs: set[object]) -> None:
    (ours,), (theirs,) = (families(dict.fromkeys(side, "")) for side in (sources, targets))
    best = max(alignments(ours, theirs), key=lambda a: a.quality)
    assert {*best.pairs} == pairs
    assert best.quality > 0.9


def test_layers_are_not_exchanged() -> None:
    ours, theirs = (families(dict.fromkeys([f"l{i}/w" for i in range(n)], "")) for n in (4, 5))
    crossed = [a for a in alignments(ours[0], theirs[0]) if ((0,), (3,)) in a.pairs]
    assert crossed
    assert max(a.quality for a in crossed) < 0.3
