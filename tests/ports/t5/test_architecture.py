from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.errors import ConfigError
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, kernel_dims
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec
from tests.ports.t5.family import (
    DENSE,
    EXPERTS,
    FAMILY,
    GROUPED,
    LANGUAGE_MODEL,
    LEARNED,
    MEMORY,
    MIXTURE,
    OWN,
    SINUSOIDS,
    SPANS,
    TALKING,
    TALKING_HEADS,
    UNSHARED,
    two_stacks,
)

NAMED = replace(
    GROUPED,
    encoder=replace(GROUPED.encoder, layer_names=("self_attention", "dense_relu_dense")),
    decoder=replace(GROUPED.decoder, block_scope=False),
)


def read(content: Mapping[str, Any]) -> Architecture:
    return Architecture.from_json(json.loads(json.dumps(content)))


@pytest.mark.parametrize("architecture", [*FAMILY.values(), NAMED], ids=[*FAMILY, "named layers"])
def test_json_round_trip(architecture: Architecture) -> None:
    again = read(architecture.to_json())
    assert again == architecture
    assert again.to_json() == architecture.to_json()


def test_json_says_what_it_is_to_whoever_decodes() -> None:
    content = SPANS.to_json()
    assert content["model_type"] == "mesh_t5"
    assert content["is_encoder_decoder"] is True
    assert LANGUAGE_MODEL.to_json()["is_encoder_decoder"] is False
    ids = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
    assert [content[name] for name in ids] == [0, 1, 0]


def test_names_that_are_not_ours_are_left_to_others() -> None:
    assert read({**GROUPED.to_json(), "transformers_version": "5.1"}) == GROUPED


# --- what is refused ---


def refused(content: Mapping[str, Any]) -> dict[str, str]:
    """What is found wrong, by key."""
    with pytest.raises(ConfigError) as caught:
        read(content)
    assert all(problem.expected for problem in caught.value.problems)
    return {problem.key: problem.found for problem in caught.value.problems}


def changed(architecture: Architecture, path: str, value: object) -> dict[str, Any]:
    """The JSON of an architecture with one value changed: `decoder.layers.1.d_kv`."""
    content: Any = json.loads(json.dumps(architecture.to_json()))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = content
    for part in way:
        place = place[part]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", "50"),
        ("vocab_size", True),
        ("vocab_size", None),
        ("d_model", -3),
        ("d_model", 12.0),
        ("d_model", [12]),
        ("source_vocab_size", "37"),
        ("shared_embedding", 1),
        ("shared_embedding", "yes"),
        ("scale_embedding", None),
        ("first_sentinel_id", 44.0),
        ("first_sentinel_id", None),
        ("loss_on_targets_only", 0),
        ("tie_word_embeddings", "true"),
        ("layer_norm_epsilon", "1e-6"),
        ("layer_norm_epsilon", -1e-6),
        ("dropout_rate", 1.5),
        ("label_smoothing", float("nan")),
        ("loss_denominator", 0),
        ("loss_denominator", float("inf")),
        ("loss_denominator", "all"),
    ],
)
def test_a_value_of_the_model_that_cannot_be_is_shown(key: str, value: object) -> None:
    assert refused(changed(SPANS, key, value)) == {key: repr(value)}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_blocks", 0),
        ("num_blocks", "2"),
        ("num_blocks", 2.0),
        ("autoregressive", 1),
        ("block_scope", "yes"),
        ("positions", "rotary"),
        ("positions", 3),
        ("max_length", 0),
        ("max_length", "512"),
        ("scope", 7),
    ],
)
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_value_of_a_stack_that_cannot_be_is_shown(stack: str, key: str, value: object) -> None:
    assert refused(changed(LEARNED, f"{stack}.{key}", value)) == {f"{stack}.{key}": repr(value)}


ATTENTION_VALUES = [
    ("num_heads", 0),
    ("num_heads", "6"),
    ("d_kv", -5),
    ("d_kv", 5.0),
    ("num_memory_heads", 4),
    ("num_memory_heads", 12),
    ("num_memory_heads", -1),
    ("num_memory_heads", None),
    ("shared_kv", 0),
    ("fold_scaling_into_initializer", "no"),
    ("combine_dims", 1),
    ("relative_attention_type", "rotary"),
    ("relative_attention_type", 3),
    ("relative_attention_num_buckets", 0),
    ("relative_attention_num_buckets", 8.0),
    ("relative_attention_max_distance", "16"),
]
LAYER_VALUES: list[tuple[LayerSpec, list[tuple[str, object]]]] = [
    (replace(OWN, relative_attention_type="bias"), ATTENTION_VALUES),
    (
        DENSE,
        [
            ("d_ff", 0),
            ("d_ff", "20"),
            ("use_bias", None),
            ("activations", "relu"),
            ("activations", 3),
        ],
    ),
    (
        EXPERTS,
        [
            ("num_experts", 0),
            ("d_ff", 20.0),
            ("group_size", 0),
            ("min_expert_capacity", 0),
            ("capacity_factor", "2"),
            ("capacity_factor", float("nan")),
            ("loss_coef", float("inf")),
            ("gating", "random"),
            ("gating", 3),
            ("second_policy", "maybe"),
            ("second_threshold", "0.2"),
            ("word_embed_mode", "multiply"),
            ("experts_per_token", 1.0),
            ("use_second_place_loss", 1),
        ],
    ),
    (
        TALKING,
        [
            ("d_k", 0),
            ("d_v", "7"),
            ("relative_attention_type", "contextual"),
            ("relative_attention_num_buckets", 3),
        ],
    ),
]


@pytest.mark.parametrize(
    ("spec", "key", "value"),
    [(spec, key, value) for spec, values in LAYER_VALUES for key, value in values],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_value_of_a_layer_that_cannot_be_is_shown_with_its_place(
    spec: LayerSpec, key: str, value: object
) -> None:
    architecture = replace(
        LANGUAGE_MODEL,
        decoder=replace(LANGUAGE_MODEL.decoder, layers=(DENSE, spec, DENSE)),
    )
    found = refused(changed(architecture, f"decoder.layers.1.{key}", value))
    assert found == {f"decoder.layers.1.{spec.kind}.{key}": repr(value)}


@pytest.mark.parametrize("heads", [2, 3, 6, 1, 0])
def test_memory_heads_that_divide_the_heads_are_taken(heads: int) -> None:
    assert read(changed(GROUPED, "decoder.layers.0.num_memory_heads", heads))


@pytest.mark.parametrize(("buckets", "distance"), [(3, 16), (32, 16), (33, 16)])
def test_buckets_that_leave_no_room_for_distances_are_refused(buckets: int, distance: int) -> None:
    own = {"relative_attention_num_buckets": buckets, "relative_attention_max_distance": distance}
    with pytest.raises(ConfigError) as caught:
        replace(LANGUAGE_MODEL, decoder=replace(LANGUAGE_MODEL.decoder, layers=(replace(OWN, **own),)))
    (problem,) = caught.value.problems
    assert problem.key == "decoder.layers.0.SelfAttention.relative_attention_num_buckets"
    assert problem.expected == "4 to 31 (below twice the largest distance)"


@pytest.mark.parametrize("buckets", [4, 31])
def test_buckets_that_just_fit_are_taken(buckets: int) -> None:
    own = replace(OWN, relative_attention_num_buckets=buckets, relative_attention_max_distance=16)
    assert replace(LANGUAGE_MODEL, decoder=replace(LANGUAGE_MODEL.decoder, layers=(own,)))


@pytest.mark.parametrize("activations", [(), ("relu", "glu"), ("RELU",)])
@pytest.mark.parametrize("spec", [DENSE, EXPERTS])
def test_activations_that_mesh_lacks_are_refused(
    spec: FeedForwardSpec | MixtureSpec, activations: tuple[str, ...]
) -> None:
    (problem,) = replace(spec, activations=activations).problems()
    assert (problem.key, problem.found) == ("activations", f"{list(activations)}")


@pytest.mark.parametrize("gating", ["top_n", "ntlb"])
@pytest.mark.parametrize("number", [0, -1, 4])
def test_more_experts_for_a_token_than_there_are_is_refused(gating: str, number: int) -> None:
    (problem,) = replace(EXPERTS, gating=gating, experts_per_token=number).problems()
    assert (problem.key, problem.found) == ("experts_per_token", repr(number))
    assert problem.expected == f"1 to 3, with {gating} gating"


@pytest.mark.parametrize("number", [1, 3])
def test_up_to_all_experts_for_a_token_are_taken(number: int) -> None:
    assert not list(replace(EXPERTS, gating="top_n", experts_per_token=number).problems())
    assert not list(replace(EXPERTS, gating="top_2", experts_per_token=0).problems())


def test_contextual_positions_towards_the_encoder_are_refused() -> None:
    (problem,) = replace(MEMORY, relative_attention_type="contextual").problems()
    assert (problem.key, problem.found) == ("relative_attention_type", "'contextual'")
    assert not list(replace(OWN, relative_attention_type="contextual").problems())


def test_unknown_projections_of_talking_heads_are_refused() -> None:
    (problem,) = replace(TALKING, dynamic_projections=("x2l", "l2x", "m2m")).problems()
    assert (problem.key, problem.found) == ("dynamic_projections", "['l2x', 'm2m']")


def test_heads_of_no_size_are_refused_by_their_name() -> None:
    spec = replace(TALKING, key_heads=(("key_heads", 2), ("shared", 0)), value_heads=(("value_heads", -4),))
    assert {problem.key: problem.found for problem in spec.problems()} == {
        "key_heads.shared": "0",
        "value_heads.value_heads": "-4",
    }


@pytest.mark.parametrize(
    "value",
    [
        3,
        "heads",
        ["heads", 3],
        [["heads", 3, 4]],
        [["heads", "3"]],
        [[3, 3]],
        [3],
    ],
)
def test_heads_that_are_no_names_with_sizes_are_refused_by_their_key(value: object) -> None:
    found = refused(changed(TALKING_HEADS, "decoder.layers.0.softmax_heads", value))
    assert list(found) == ["decoder.layers.0.TalkingHeadsSelfAttention.softmax_heads"]


def test_an_encoder_has_no_memory_to_attend_to() -> None:
    stack = replace(GROUPED.encoder, layers=(OWN, MEMORY, DENSE))
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=stack)
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("encoder.layers", "EncDecAttention")


def test_a_language_model_has_no_memory_to_attend_to() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=None)
    assert [problem.key for problem in caught.value.problems] == ["decoder.layers"]


def test_no_stack_and_no_layer_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=None, decoder=None)
    assert [problem.key for problem in caught.value.problems] == ["encoder, decoder"]
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=replace(GROUPED.encoder, layers=()))
    assert [problem.key for problem in caught.value.problems] == ["encoder.layers"]


def test_sinusoids_need_an_even_width() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(SINUSOIDS, d_model=13)
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("d_model", "13")
    assert replace(LEARNED, d_model=13).d_model == 13


def test_a_prefix_needs_an_autoregressive_stack() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=replace(GROUPED.encoder, input_full_attention=True))
    assert [problem.key for problem in caught.value.problems] == ["encoder.input_full_attention"]


@pytest.mark.parametrize(
    "names",
    [
        ("one",),
        ("one", "two", "three"),
    ],
)
def test_names_for_another_number_of_layers_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=replace(GROUPED.encoder, layer_names=names))
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("encoder.layer_names", f"{len(names)}")


def test_stacks_that_share_an_embedding_have_one_vocabulary() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(UNSHARED, shared_embedding=True)
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("source_vocab_size", "37")


def test_positions_towards_the_encoder_need_to_know_sentinels() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(SPANS, first_sentinel_id=None)
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == ("first_sentinel_id", "None")


def test_layers_that_share_a_table_have_its_buckets() -> None:
    layers = (OWN, DENSE, replace(OWN, relative_attention_num_buckets=12), DENSE)
    with pytest.raises(ConfigError) as caught:
        replace(GROUPED, encoder=replace(GROUPED.encoder, layers=layers, num_blocks=1))
    (problem,) = caught.value.problems
    assert problem.key == "encoder.layer 2: relative_attention_num_buckets"
    assert (problem.expected, problem.found) == ("8, as in the layer whose table it shares", "12")


def test_everything_wrong_is_listed_at_once() -> None:
    content = changed(GROUPED, "encoder.num_blocks", 0)
    content["decoder"]["layers"][1]["d_kv"] = "5"
    content["decoder"]["layers"][2]["activations"] = ["glu"]
    content["dropout_rate"] = 2
    assert refused(content) == {
        "encoder.num_blocks": "0",
        "decoder.layers.1.EncDecAttention.d_kv": "'5'",
        "decoder.layers.2.DenseReluDense.activations": "['glu']",
        "dropout_rate": "2",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("encoder", 3),
        ("encoder", []),
        ("encoder", {}),
        ("encoder.layers", 3),
        ("encoder.layers", None),
        ("encoder.layers", [3]),
        ("encoder.layer_names", 3),
        ("encoder.layers.0.kind", "LocalSelfAttention"),
        ("encoder.layers.0.kind", ["SelfAttention"]),
        ("encoder.layers.0.window", 3),
        ("encoder.window", 3),
    ],
)
def test_json_of_another_layout_is_refused(path: str, value: object) -> None:
    with pytest.raises(ConfigError, match="does not describe a mesh_t5"):
        read(changed(GROUPED, path, value))


@pytest.mark.parametrize("missing", ["vocab_size", "d_model"])
def test_json_that_lacks_a_size_is_refused(missing: str) -> None:
    content = {key: value for key, value in GROUPED.to_json().items() if key != missing}
    with pytest.raises(ConfigError, match=missing):
        read(content)


# --- where layers are ---


def test_blocks_of_a_plain_stack_are_those_of_mesh() -> None:
    stack = GROUPED.decoder
    assert [(place.path, place.scope) for place in stack.places] == [
        ("block.0.layer.0", "block_000/layer_000"),
        ("block.0.layer.1", "block_000/layer_001"),
        ("block.0.layer.2", "block_000/layer_002"),
        ("block.1.layer.0", "block_001/layer_000"),
        ("block.1.layer.1", "block_001/layer_001"),
        ("block.1.layer.2", "block_001/layer_002"),
    ]
    assert [place.number for place in stack.places] == list(range(6))
    assert [place.spec for place in stack.places] == [*stack.layers, *stack.layers]


def test_a_block_begins_at_each_self_attention() -> None:
    layers = (OWN, DENSE, OWN, EXPERTS)
    stack = StackSpec(layers=layers, num_blocks=3, autoregressive=False)
    assert [(place.path, place.scope) for place in stack.places[4:9]] == [
        ("block.2.layer.0", "block_001/layer_000"),
        ("block.2.layer.1", "block_001/layer_001"),
        ("block.3.layer.0", "block_001/layer_002"),
        ("block.3.layer.1", "block_001/layer_003"),
        ("block.4.layer.0", "block_002/layer_000"),
    ]
    assert stack.places[-1].block == 5


def test_layers_before_the_first_self_attention_are_a_block_of_their_own() -> None:
    stack = StackSpec(layers=(DENSE, EXPERTS, OWN, MEMORY, TALKING, DENSE), num_blocks=2, autoregressive=True)
    blocks = [[place.block for place in stack.places], [place.index for place in stack.places]]
    assert blocks == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]]


def test_a_stack_without_self_attention_is_one_block_of_mesh_each() -> None:
    stack = StackSpec(layers=(DENSE, EXPERTS), num_blocks=2, autoregressive=True)
    assert [place.path for place in stack.places] == [
        "block.0.layer.0",
        "block.0.layer.1",
        "block.1.layer.0",
        "block.1.layer.1",
    ]


def test_scopes_follow_names_and_leave_blocks_out() -> None:
    layers = (OWN, DENSE)
    named = StackSpec(layers=layers, num_blocks=2, autoregressive=False, layer_names=("attend", ""))
    assert [place.scope for place in named.places] == [
        "block_000/attend",
        "block_000/layer_001",
        "block_001/attend",
        "block_001/layer_001",
    ]
    assert [place.scope for place in replace(named, layer_names=(), block_scope=False).places] == [
        "layer_000",
        "layer_001",
        "layer_002",
        "layer_003",
    ]
    assert [place.scope for place in replace(named, block_scope=False).places] == [
        "attend",
        "layer_001",
        "attend",
        "layer_003",
    ]


# --- who holds the table of relative positions ---


def holders(*layers: LayerSpec, num_blocks: int = 2) -> dict[int, int]:
    return dict(StackSpec(layers=layers, num_blocks=num_blocks, autoregressive=True).bias_holders)


def test_a_bias_is_each_layers_own() -> None:
    own = replace(OWN, relative_attention_type="bias")
    assert holders(own, DENSE) == {0: 0, 2: 2}


def test_a_shared_bias_is_held_by_the_first_layer() -> None:
    assert holders(OWN, DENSE, num_blocks=3) == {0: 0, 2: 0, 4: 0}


def test_layers_without_relative_positions_hold_none() -> None:
    assert holders(replace(OWN, relative_attention_type=None), MEMORY, DENSE) == {}
    assert holders(replace(OWN, relative_attention_type="contextual"), DENSE) == {}


def test_another_number_of_heads_has_a_shared_table_of_its_own() -> None:
    assert holders(OWN, DENSE, replace(OWN, num_heads=3), DENSE) == {0: 0, 2: 2, 4: 0, 6: 2}


def test_heads_grouped_otherwise_have_a_shared_table_of_their_own() -> None:
    assert holders(OWN, replace(OWN, num_memory_heads=2), DENSE) == {0: 0, 1: 1, 3: 0, 4: 1}
    assert holders(OWN, replace(OWN, num_memory_heads=1), DENSE) == {0: 0, 1: 0, 3: 0, 4: 0}


def test_talking_heads_share_with_heads_of_the_same_dimensions() -> None:
    talking = replace(TALKING, relative_attention_type="bias_shared", softmax_heads=(("heads", 6),))
    assert holders(OWN, talking, num_blocks=1) == {0: 0, 1: 0}
    assert holders(OWN, replace(talking, softmax_heads=(("other", 6),)), num_blocks=1) == {0: 0, 1: 1}


def test_the_table_towards_the_encoder_is_not_the_one_within_the_decoder() -> None:
    memory = replace(OWN, kind="EncDecAttention")
    assert holders(OWN, memory, DENSE) == {0: 0, 1: 1, 3: 0, 4: 1}
    assert holders(OWN, replace(memory, relative_attention_type="bias"), DENSE) == {0: 0, 1: 1, 3: 0, 4: 4}


# --- heads ---


@pytest.mark.parametrize(
    ("num_heads", "num_memory_heads", "query", "memory"),
    [
        (6, 0, (("heads", 6),), (("heads", 6),)),
        (6, 1, (("heads", 6),), ()),
        (6, 2, (("heads", 2), ("query_heads", 3)), (("heads", 2),)),
        (6, 6, (("heads", 6), ("query_heads", 1)), (("heads", 6),)),
        (1, 0, (), ()),
        (1, 1, (), ()),
    ],
)
def test_heads_are_the_dimensions_that_mesh_gives_them(
    num_heads: int, num_memory_heads: int, query: tuple, memory: tuple
) -> None:
    spec = AttentionSpec(kind="SelfAttention", num_heads=num_heads, d_kv=5, num_memory_heads=num_memory_heads)
    assert (spec.query_heads, spec.memory_heads, spec.softmax_heads) == (query, memory, query)


def test_a_kernel_has_what_both_share_then_what_goes_then_what_comes() -> None:
    group, few, many = ("group", 2), ("few", 3), ("many", 5)
    assert kernel_dims((few, group), (group, many)) == (group, few, many)
    assert kernel_dims((few,), ()) == (few,)
    assert kernel_dims((group, few), (few, group)) == ()


# --- experts ---


@pytest.mark.parametrize(
    ("group_size", "factor", "experts", "least", "capacity"),
    [
        (1024, 2.0, 8, 4, 256),
        (100, 1.25, 7, 4, 17),  # 17.86
        (30, 1.0, 16, 4, 4),  # 1.9, and at least 4
        (30, 1.0, 16, 2, 2),
        (10, 4.0, 3, 4, 10),  # 13.3, and at most all
        (3, 2.0, 8, 4, 4),
    ],
)
def test_an_expert_takes_its_fair_share_times_the_factor(
    group_size: int, factor: float, experts: int, least: int, capacity: int
) -> None:
    spec = MixtureSpec(num_experts=experts, d_ff=20, capacity_factor=factor, min_expert_capacity=least)
    assert spec.capacity(group_size) == capacity


@pytest.mark.parametrize(
    ("tokens", "most", "number", "size"),
    [
        (1024, 1024, 1, 1024),
        (7, 1024, 1, 7),
        (96, 32, 3, 32),
        (100, 32, 4, 25),  # 3 groups would not be equal
        (70, 32, 2, 35),  # more than asked for, as in the original
        (97, 32, 97, 1),
    ],
)
def test_tokens_are_split_into_equal_groups(tokens: int, most: int, number: int, size: int) -> None:
    assert replace(EXPERTS, group_size=most).groups(tokens) == (number, size)


@given(st.integers(1, 4000), st.integers(1, 1200))
def test_groups_hold_every_token(tokens: int, most: int) -> None:
    number, size = replace(EXPERTS, group_size=most).groups(tokens)
    assert number * size == tokens
    assert number >= tokens // most


def test_names_of_projections_follow_the_number_of_factors() -> None:
    assert EXPERTS.projections == DENSE.projections == ("wi",)
    assert replace(EXPERTS, activations=("gelu", "linear")).projections == ("wi_0", "wi_1")


# --- the model ---


def test_feed_forward_layers_are_named_as_transformers_names_them() -> None:
    assert GROUPED.module_name(DENSE) == "DenseReluDense"
    assert MIXTURE.module_name(EXPERTS) == MIXTURE.module_name(DENSE) == "mlp"
    assert MIXTURE.module_name(TALKING) == "TalkingHeadsSelfAttention"


def test_each_stack_embeds_its_own_vocabulary() -> None:
    assert UNSHARED.embedding_rows == {"encoder": 37, "decoder": 50}
    assert GROUPED.embedding_rows == {"encoder": 50, "decoder": 50}
    assert replace(LANGUAGE_MODEL, source_vocab_size=37).embedding_rows == {"decoder": 37}


@pytest.mark.parametrize("size", [0, -37])
def test_a_source_vocabulary_of_no_size_is_refused(size: int) -> None:
    assert refused(changed(UNSHARED, "source_vocab_size", size)) == {"source_vocab_size": repr(size)}


def test_positions_are_shared_where_both_stacks_learn_as_many() -> None:
    assert LEARNED.shares_positions
    assert not SINUSOIDS.shares_positions
    assert not replace(LEARNED, encoder=replace(LEARNED.encoder, max_length=41)).shares_positions
    assert not replace(LEARNED, shared_embedding=False).shares_positions
    assert not replace(LEARNED, encoder=replace(LEARNED.encoder, positions=None)).shares_positions


def test_positions_tell_before_from_behind_where_both_are_seen() -> None:
    stack = two_stacks().decoder
    assert not stack.bidirectional
    assert replace(stack, autoregressive=False).bidirectional
    assert replace(stack, input_full_attention=True).bidirectional
