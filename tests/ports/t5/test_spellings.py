"""The short spellings of an architecture, and what transformers makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersForConditionalGeneration as TheirSwitch,
)

from porting.errors import ConfigError
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.base_config import FEED_FORWARD_ACTIVATIONS
from porting.ports.t5.config import Config, T5Config, UMT5Config, config_from_json
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec
from porting.ports.t5.model import T5Model
from porting.ports.t5.port import PORT
from porting.ports.t5.spelling import same_model, spelling
from porting.ports.t5.switch_config import SwitchConfig
from porting.ports.t5.variables import variables
from tests.ports.t5.family import FAMILY
from tests.ports.t5.mesh_variables import SMALL, V1_1

# Unlike depths; in the encoder every third feed-forward layer is sparse, in the decoder every second one.
SWITCH = SwitchConfig(
    vocab_size=50,
    d_model=12,
    d_kv=5,
    d_ff=20,
    num_layers=6,
    num_decoder_layers=4,
    num_heads=3,
    num_experts=7,
    num_sparse_encoder_layers=2,
    num_sparse_decoder_layers=2,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
    moe_group_size=24,
    capacity_factor_eval=1.5,
    router_aux_loss_coef=0.02,
)
MIXTURE = MixtureSpec(
    num_experts=7,
    d_ff=20,
    group_size=24,
    capacity_factor=1.5,
    loss_coef=0.02,
)


def layers_changed(architecture: Architecture, kind: str | None = None, **changes: object) -> Architecture:
    """All layers of a kind (of every kind) changed alike."""

    def changed(stack: StackSpec | None) -> StackSpec:
        assert stack is not None
        return replace(
            stack,
            layers=tuple(
                replace(spec, **changes) if kind in (None, spec.kind) else spec for spec in stack.layers
            ),
        )

    encoder, decoder = changed(architecture.encoder), changed(architecture.decoder)
    return replace(architecture, encoder=encoder, decoder=decoder)


def attention_changed(architecture: Architecture, **changes: object) -> Architecture:
    for kind in ("SelfAttention", "EncDecAttention"):
        architecture = layers_changed(architecture, kind, **changes)
    return architecture


# --- plain T5 ---


@pytest.mark.parametrize("config", [SMALL, V1_1], ids=["t5.1.0", "t5.1.1"])
def test_a_plain_t5_is_spelled_as_one(config: T5Config) -> None:
    assert spelling(config.architecture) == config
    assert isinstance(spelling(config.architecture), T5Config)


def test_how_the_source_keeps_its_heads_changes_no_spelling() -> None:
    apart = attention_changed(SMALL.architecture, combine_dims=False)
    assert apart != SMALL.architecture
    assert spelling(apart) == SMALL


@pytest.mark.parametrize("memory_heads", [0, 1])
def test_one_head_is_a_plain_t5_however_its_memory_heads_are_counted(memory_heads: int) -> None:
    one = replace(SMALL, num_heads=1)
    assert spelling(attention_changed(one.architecture, num_memory_heads=memory_heads)) == one


def test_a_group_for_each_head_is_no_grouping() -> None:
    own = layers_changed(SMALL.architecture, "EncDecAttention", num_memory_heads=SMALL.num_heads)
    assert spelling(own) == SMALL


def test_where_layers_lie_in_the_source_changes_no_spelling() -> None:
    plain = V1_1.architecture
    names = ("self_attention", "dense_relu_dense")
    encoder = replace(plain.encoder, layer_names=names, scope="reader")
    decoder = replace(plain.decoder, block_scope=False, scope="writer")
    assert spelling(replace(plain, encoder=encoder, decoder=decoder)) == V1_1


def test_several_pairs_of_layers_in_one_mesh_block_change_no_spelling() -> None:
    plain = replace(SMALL, num_layers=6).architecture
    encoder = replace(plain.encoder, layers=plain.encoder.layers * 3, num_blocks=2)
    assert spelling(replace(plain, encoder=encoder)) == replace(SMALL, num_layers=6)


def test_settings_that_nothing_reads_change_no_spelling() -> None:
    plain = SMALL.architecture
    memory = layers_changed(
        plain, "EncDecAttention", relative_attention_num_buckets=11, relative_attention_max_distance=77
    )
    unread = replace(
        memory,
        encoder=replace(memory.encoder, max_length=333),
        source_vocab_size=SMALL.vocab_size,
        first_sentinel_id=44,
    )
    assert spelling(unread) == SMALL


def own_tables(config: T5Config) -> Architecture:
    """With a table of relative positions for each layer."""
    return layers_changed(config.architecture, "SelfAttention", relative_attention_type="bias")


def test_a_tied_model_with_a_table_for_each_layer_is_a_umt5() -> None:
    found = spelling(own_tables(SMALL))
    assert type(found) is UMT5Config
    assert asdict(found) == asdict(SMALL)
    assert config_from_json(found.to_json()) == found
    assert found.to_json()["model_type"] == "umt5"


def test_one_with_an_output_of_its_own_is_a_umt5_if_asked_for() -> None:
    found = spelling(own_tables(V1_1), "umt5")
    assert type(found) is UMT5Config
    assert same_model(found.architecture, own_tables(V1_1))
    assert type(spelling(V1_1.architecture, "umt5")) is T5Config


def test_a_config_that_asks_for_a_umt5_has_it_written(tmp_path: Path) -> None:
    architecture = own_tables(V1_1)
    asked = tmp_path / "asked.json"
    asked.write_text('{"model_type": "umt5"}')
    resolved = PORT.read_config(asked, variables(architecture))
    assert PORT.config_to_json(resolved.config)["model_type"] == "umt5"
    assert PORT.config_to_json(architecture)["model_type"] == "mesh_t5"


def stacks_changed(**changes: object) -> Architecture:
    plain = SMALL.architecture
    return replace(
        plain, encoder=replace(plain.encoder, **changes), decoder=replace(plain.decoder, **changes)
    )


OTHERS: dict[str, Architecture] = {
    **{name: architecture for name, architecture in FAMILY.items() if name != "experts"},
    "shared keys and values in the memory": layers_changed(
        SMALL.architecture, "EncDecAttention", shared_kv=True
    ),
    "one memory head": attention_changed(SMALL.architecture, num_memory_heads=1),
    "scaled queries": layers_changed(
        SMALL.architecture, "EncDecAttention", fold_scaling_into_initializer=False
    ),
    "a table for each layer, an output of its own": own_tables(V1_1),
    "another width of heads in the memory": layers_changed(SMALL.architecture, "EncDecAttention", d_kv=7),
    "an activation that transformers lacks": layers_changed(
        SMALL.architecture, "DenseReluDense", activations=("tanh",)
    ),
    "three factors": layers_changed(
        SMALL.architecture, "DenseReluDense", activations=("gelu", "linear", "linear")
    ),
    "biases": layers_changed(SMALL.architecture, "DenseReluDense", use_bias=True),
    "another inner width in the encoder": replace(
        SMALL.architecture,
        encoder=replace(
            SMALL.architecture.encoder, layers=(SMALL.architecture.encoder.layers[0], FeedForwardSpec(d_ff=7))
        ),
    ),
    "embeddings of their own": replace(SMALL.architecture, shared_embedding=False),
    "scaled embeddings": replace(SMALL.architecture, scale_embedding=True),
    "loss on targets only": replace(SMALL.architecture, loss_on_targets_only=True),
    "one scope for both": stacks_changed(scope="decoder", layer_names=()),
    "named layers without blocks": replace(
        SMALL.architecture,
        encoder=replace(SMALL.architecture.encoder, layer_names=("a", "b"), block_scope=False),
    ),
}


@pytest.mark.parametrize("architecture", OTHERS.values(), ids=OTHERS)
def test_what_transformers_has_no_name_for_is_spelled_out(architecture: Architecture) -> None:
    assert spelling(architecture) is architecture
    assert config_from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


sizes = st.integers(1, 70)
buckets = st.integers(4, 40).flatmap(
    lambda count: st.tuples(st.just(count), st.integers(count // 2 + 1, 200))
)
constants = st.fixed_dictionaries(
    {
        "vocab_size": sizes,
        "d_model": sizes,
        "d_kv": sizes,
        "d_ff": sizes,
        "num_heads": sizes,
        "layer_norm_epsilon": st.floats(0, 1),
        "dropout_rate": st.floats(0, 1),
        "tie_word_embeddings": st.booleans(),
        "label_smoothing": st.floats(0, 1),
        "loss_denominator": st.none() | st.floats(0.5, 300),
    }
)


@given(constants, buckets, sizes, sizes, st.sampled_from(sorted(FEED_FORWARD_ACTIVATIONS)))
def test_every_t5_is_spelled_as_it_was(
    values: dict, bucket: tuple[int, int], encoder: int, decoder: int, projection: str
) -> None:
    config = T5Config(
        **values,
        num_layers=encoder,
        num_decoder_layers=decoder,
        relative_attention_num_buckets=bucket[0],
        relative_attention_max_distance=bucket[1],
        feed_forward_proj=projection,
    )
    assert spelling(config.architecture) == config
    assert config_from_json(json.loads(json.dumps(config.to_json()))) == config


# --- Switch Transformers ---


def sparse(stack: StackSpec) -> list[bool]:
    """Which feed-forward layers are mixtures."""
    kinds = [place.spec for place in stack.places if isinstance(place.spec, FeedForwardSpec | MixtureSpec)]
    return [isinstance(spec, MixtureSpec) for spec in kinds]


def switch(encoder: list[bool], decoder: list[bool]) -> Architecture:
    """A Switch Transformer with these layers sparse, each stack one Mesh block."""
    plain = SWITCH.architecture
    own, memory = plain.decoder.layers[:2]
    dense = FeedForwardSpec(d_ff=20)

    def layers(attention: tuple[LayerSpec, ...], kinds: list[bool]) -> tuple[LayerSpec, ...]:
        return tuple(spec for kind in kinds for spec in (*attention, MIXTURE if kind else dense))

    return replace(
        plain,
        encoder=replace(plain.encoder, layers=layers((own,), encoder), num_blocks=1),
        decoder=replace(plain.decoder, layers=layers((own, memory), decoder), num_blocks=1),
    )


EVERY_SECOND = [False, True]


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (2, 2),
        (6, 2),
        (2, 8),
    ],
)
def test_every_second_layer_sparse_is_a_switch(encoder: int, decoder: int) -> None:
    config = spelling(switch(EVERY_SECOND * (encoder // 2), EVERY_SECOND * (decoder // 2)))
    assert config == replace(
        SWITCH,
        num_layers=encoder,
        num_decoder_layers=decoder,
        num_sparse_encoder_layers=encoder // 2,
        num_sparse_decoder_layers=decoder // 2,
    )


@pytest.mark.parametrize(("encoder", "decoder"), [(1, 1), (2, 1), (5, 3), (4, 6)])
def test_every_layer_sparse_is_a_switch(encoder: int, decoder: int) -> None:
    config = spelling(switch([True] * encoder, [True] * decoder))
    assert isinstance(config, SwitchConfig)
    assert (config.num_layers, config.num_decoder_layers) == (encoder, decoder)
    assert sparse(config.architecture.encoder) == [True] * encoder
    assert sparse(config.architecture.decoder) == [True] * decoder


@pytest.mark.parametrize("depth", [3, 4])
def test_every_layer_sparse_counts_every_layer(depth: int) -> None:
    config = spelling(switch([True] * depth, [True] * 2))
    assert isinstance(config, SwitchConfig)
    assert (config.num_sparse_encoder_layers, config.num_sparse_decoder_layers) == (depth, 2)


def test_an_odd_depth_ends_in_a_dense_layer() -> None:
    config = spelling(switch([False, True, False, True, False], [False, True, False]))
    assert isinstance(config, SwitchConfig)
    assert (config.num_layers, config.num_sparse_encoder_layers) == (5, 2)
    assert (config.num_decoder_layers, config.num_sparse_decoder_layers) == (3, 1)


@pytest.mark.parametrize(
    "pattern",
    [
        [True, False],  # transformers begins with a dense layer
        [False, False, True],
        [True, False, False, False],
        [False, True, True, True],
        [False, False],
    ],
)
def test_a_pattern_that_transformers_cannot_count_is_spelled_out(pattern: list[bool]) -> None:
    for architecture in (switch(EVERY_SECOND, pattern), switch(pattern, EVERY_SECOND)):
        assert spelling(architecture) is architecture


CHANGED_MIXTURES: dict[str, dict[str, object]] = {
    "gating": {"gating": "top_2"},
    "gated": {"activations": ("gelu", "linear")},
    "another activation": {"activations": ("tanh",)},
    "other inner width": {"d_ff": 21},
    "router reads embeddings": {"word_embed_mode": "add"},
}


@pytest.mark.parametrize("changes", CHANGED_MIXTURES.values(), ids=CHANGED_MIXTURES)
def test_experts_that_transformers_lacks_are_spelled_out(changes: dict) -> None:
    architecture = layers_changed(SWITCH.architecture, "MoE1D", **changes)
    assert spelling(architecture) is architecture


def test_a_stack_without_mixtures_is_spelled_out() -> None:
    dense = replace(SWITCH.architecture, decoder=SMALL.architecture.decoder)
    assert spelling(dense) is dense


def test_policies_that_a_switch_never_reads_change_no_spelling() -> None:
    unread = layers_changed(SWITCH.architecture, "MoE1D", second_policy="threshold", second_threshold=0.7)
    assert spelling(unread) == SWITCH


def depths(config: SwitchConfig) -> list[tuple[int, int]]:
    return [
        (config.num_layers, config.num_sparse_encoder_layers),
        (config.num_decoder_layers, config.num_sparse_decoder_layers),
    ]


@st.composite
def switches(draw: st.DrawFn) -> SwitchConfig:
    layers = [draw(st.integers(1, 13)), draw(st.integers(1, 13))]
    bucket = draw(buckets)
    return SwitchConfig(
        **draw(constants),
        num_layers=layers[0],
        num_decoder_layers=layers[1],
        num_experts=draw(st.integers(1, 9)),
        num_sparse_encoder_layers=draw(st.integers(1, layers[0])),
        num_sparse_decoder_layers=draw(st.integers(1, layers[1])),
        relative_attention_num_buckets=bucket[0],
        relative_attention_max_distance=bucket[1],
        dense_act_fn=draw(st.sampled_from(["relu", "gelu_new", "silu"])),
        moe_group_size=draw(sizes),
        capacity_factor_eval=draw(st.floats(0.1, 9)),
        min_expert_capacity=draw(sizes),
        router_aux_loss_coef=draw(st.floats(0, 1)),
    )


@given(switches())
def test_every_switch_is_spelled_as_the_same_model(config: SwitchConfig) -> None:
    found = spelling(config.architecture)
    assert isinstance(found, SwitchConfig)
    assert same_model(found.architecture, config.architecture)
    counts = {
        name: getattr(config, name) for name in ("num_sparse_encoder_layers", "num_sparse_decoder_layers")
    }
    assert replace(found, **counts) == config
    assert config_from_json(json.loads(json.dumps(config.to_json()))) == config


@settings(phases=[Phase.generate])
@given(switches())
def test_every_switch_with_sparse_layers_as_many_as_it_says_is_spelled_as_it_was(
    config: SwitchConfig,
) -> None:
    stacks = config.architecture.stacks.values()
    assume([sum(sparse(stack)) for stack in stacks] == [count for _, count in depths(config)])
    assert spelling(config.architecture) == config


@given(st.integers(1, 24), st.integers(1, 24))
def test_sparse_layers_are_those_that_transformers_counts(layers: int, number: int) -> None:
    assume(number <= layers)
    config = replace(SWITCH, num_layers=layers, num_sparse_encoder_layers=number)
    step = transformers.SwitchTransformersConfig(**config.to_json()).encoder_sparse_step
    # as SwitchTransformersStack: `is_sparse = (i % sparse_step == 1 or sparse_step == 1)`
    assert sparse(config.architecture.encoder) == [i % step == 1 or step == 1 for i in range(layers)]


# Layers and sparse ones of the encoder, then of the decoder.
DEPTHS = [(6, 2, 4, 2), (5, 2, 3, 1), (3, 3, 4, 4), (7, 3, 2, 1), (4, 1, 5, 5)]


def switch_of(depth: tuple[int, int, int, int]) -> SwitchConfig:
    names = ("num_layers", "num_sparse_encoder_layers", "num_decoder_layers", "num_sparse_decoder_layers")
    return replace(SWITCH, **dict(zip(names, depth, strict=True)))


def theirs(config: SwitchConfig) -> TheirSwitch:
    with torch.device("meta"):
        return TheirSwitch(transformers.SwitchTransformersConfig(**config.to_json()))


@pytest.mark.parametrize("depth", DEPTHS, ids=str)
def test_transformers_makes_the_same_layers_sparse(depth: tuple[int, int, int, int]) -> None:
    config = switch_of(depth)
    model = theirs(config)
    for name, stack in config.architecture.stacks.items():
        blocks = getattr(model, name).block
        assert [bool(block.layer[-1].is_sparse) for block in blocks] == sparse(stack)


@pytest.mark.parametrize("depth", DEPTHS, ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_keys_are_those_of_transformers(depth: tuple[int, int, int, int], tied: bool) -> None:
    config = replace(switch_of(depth), tie_word_embeddings=tied)
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in T5Model(config).state_dict().items()}
    expected = {name: tuple(tensor.shape) for name, tensor in theirs(config).state_dict().items()}
    tied_names = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    tied_names |= {"lm_head.weight"} if tied else set()
    assert ours == {name: shape for name, shape in expected.items() if name not in tied_names}


def test_transformers_reads_the_same_values() -> None:
    config = replace(SWITCH, dense_act_fn="gelu_new", layer_norm_epsilon=1e-5, dropout_rate=0.3)
    read = transformers.SwitchTransformersConfig(**config.to_json())
    names = (
        "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
        "num_experts", "num_sparse_encoder_layers", "num_sparse_decoder_layers", "dense_act_fn",
        "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon",
        "dropout_rate", "router_aux_loss_coef",
    )  # fmt: skip
    assert {name: getattr(read, name) for name in names} == {name: getattr(config, name) for name in names}
    assert read.expert_capacity == 5  # 24 tokens * 1.5 / 7 experts
    assert (read.pad_token_id, read.eos_token_id, read.decoder_start_token_id) == (0, 1, 0)
    assert read.architectures == ["SwitchTransformersForConditionalGeneration"]


def test_what_transformers_saves_again_is_the_same_switch() -> None:
    content = transformers.SwitchTransformersConfig(**SWITCH.to_json()).to_dict()
    assert config_from_json(json.loads(json.dumps(content))) == SWITCH


def test_every_missing_size_of_a_switch_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_json({"model_type": "switch_transformers", "d_model": 8, "num_layers": 3})
    assert {problem.key for problem in caught.value.problems} == {
        "vocab_size", "d_kv", "d_ff", "num_heads", "num_experts", "num_sparse_encoder_layers",
        "num_sparse_decoder_layers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_experts", 0),
        ("num_experts", "7"),
        ("num_sparse_encoder_layers", 0),
        ("num_sparse_encoder_layers", 7),
        ("num_sparse_decoder_layers", 5),
        ("dense_act_fn", "gelu"),
        ("dense_act_fn", ["relu"]),
        ("d_model", 12.0),
        ("relative_attention_num_buckets", 3),
        ("tie_word_embeddings", "yes"),
        ("dropout_rate", 2),
    ],
)
def test_a_value_that_a_switch_does_not_have_is_shown(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        SwitchConfig.from_json({**SWITCH.to_json(), key: value})
    shown = {problem.key: problem.found for problem in caught.value.problems}
    assert shown == {key: repr(value)}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("moe_group_size", 0),
        ("moe_group_size", "24"),
        ("min_expert_capacity", 0),
        ("capacity_factor_eval", "2"),
        ("router_aux_loss_coef", None),
    ],
)
def test_a_value_that_experts_do_not_have_is_shown(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        SwitchConfig.from_json({**SWITCH.to_json(), key: value})
    assert key in {problem.key for problem in caught.value.problems}


# --- which is the same model ---


@pytest.mark.parametrize("one", [SMALL, V1_1, SWITCH, *FAMILY.values()])
def test_a_model_is_the_same_as_itself_alone(one: Config) -> None:
    for other in (SMALL, V1_1, SWITCH, *FAMILY.values()):
        assert same_model(one.architecture, other.architecture) == (one == other)


def test_buckets_that_are_read_are_part_of_the_model() -> None:
    other = layers_changed(SMALL.architecture, "SelfAttention", relative_attention_num_buckets=9)
    assert not same_model(SMALL.architecture, other)
    assert isinstance(SMALL.architecture.encoder.layers[0], AttentionSpec)
