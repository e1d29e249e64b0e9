from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porting.errors import ConfigError
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import T5Config
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.spelling import spelling
from porting.ports.t5.to_gin import gin_from_config
from tests.ports.t5.mesh_variables import SMALL, V1_1, mesh_shapes

SUBLAYERS = """
LayerStack.sublayers_initial = [@transformer.sublayer_dropout]
LayerStack.sublayers_per_layer = [@transformer.sublayer_rms_norm, @transformer.sublayer_call_layer,
    @transformer.sublayer_dropout, @transformer.sublayer_residual]
LayerStack.sublayers_final = [@transformer.sublayer_rms_norm, @transformer.sublayer_dropout]
"""
T5_1_1 = (
    """
import mesh_tensorflow.transformer.transformer_layers
d_model = 12
Bitransformer.shared_embedding = True
Unitransformer.d_model = %d_model
Unitransformer.positional_embedding = False
Unitransformer.shared_embedding_and_softmax_weights = False
decoder/Unitransformer.label_smoothing = 0.1
decoder/Unitransformer.loss_denominator = 233.0
DenseReluDense.activation = ['gelu', 'linear']
DenseReluDense.hidden_size = 20
DenseReluDense.use_bias = False
SelfAttention.num_heads = 3
SelfAttention.key_value_size = 5
SelfAttention.relative_attention_type = 'bias_shared'
SelfAttention.relative_attention_num_buckets = 16
EncDecAttention.relative_attention_type = None
LayerStack.dropout_rate = None
LayerStack.norm_epsilon = None
sublayer_rms_norm.epsilon = 1e-05
sublayer_dropout.dropout_rate = 0.2
encoder/make_layer_stack.num_layers = 3
decoder/make_layer_stack.num_layers = 2
encoder/make_layer_stack.layers = [@transformer_layers.SelfAttention, @transformer_layers.DenseReluDense]
decoder/make_layer_stack.layers = [('self_attention', @transformer_layers.SelfAttention),
    @transformer_layers.EncDecAttention, ('ff', @transformer_layers.DenseReluDense)]
"""
    + SUBLAYERS
)
EXPECTED = T5Config(
    vocab_size=50,
    d_model=12,
    d_kv=5,
    d_ff=20,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    relative_attention_num_buckets=16,
    layer_norm_epsilon=1e-5,
    dropout_rate=0.2,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
    label_smoothing=0.1,
    loss_denominator=233.0,
)
SHAPES = {"shared/embedding": (50, 12), "encoder/block_000/layer_000/SelfAttention/q": (12, 15)}
Read = Callable[[str], T5Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """A T5Config from a gin text."""

    def parse(text: str) -> T5Config:
        path = tmp_path / "operative_config.gin"
        path.write_text(text)
        return spelling(config_from_gin(path, SHAPES)[0])

    return parse


def test_the_real_config_is_read(mtf_tiny_t5: Path) -> None:
    shapes = SHAPES | {"shared/embedding": (32128, 32)}
    config, assumed = config_from_gin(mtf_tiny_t5 / "operative_config.gin", shapes)
    assert not assumed
    assert spelling(config) == T5Config(
        vocab_size=32128,
        d_model=32,
        d_kv=64,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


def test_every_value_is_read(read: Read) -> None:
    assert read(T5_1_1) == EXPECTED


def test_the_old_way_of_norms_and_dropout_is_read(read: Read) -> None:
    old = T5_1_1.replace(SUBLAYERS, "")
    old += "LayerStack.dropout_rate = 0.3\nLayerStack.norm_epsilon = 1e-03\n"
    # Mesh's own code does not pass the stack's epsilon on.
    assert read(old) == replace(EXPECTED, dropout_rate=0.3, layer_norm_epsilon=1e-5)


def test_the_old_way_ignores_lists_of_sublayers_as_mesh_does(read: Read) -> None:
    old = (
        T5_1_1
        + "LayerStack.norm_epsilon = 1e-06\nLayerStack.dropout_rate = 0.1\n"
        + "LayerStack.sublayers_per_layer = [@sublayer_call_layer]\n"
    )
    assert read(old).layer_norm_epsilon == 1e-5


def test_what_the_packages_defaults_say_may_be_left_away(read: Read) -> None:
    text = re.sub(r"(en|de)coder/make_layer_stack.layers = .*?]", "", T5_1_1, flags=re.DOTALL)
    assert "stack.layers" not in text
    assert read(text.replace(SUBLAYERS, "")) == EXPECTED


def test_a_value_bound_for_one_stack_only_is_that_stacks(read: Read) -> None:
    text = T5_1_1.replace("decoder/Unitransformer.label", "encoder/Unitransformer.label")
    assert read(text).label_smoothing == 0.0


@pytest.mark.parametrize(
    ("value", "projection"),
    [
        ("'relu'", "relu"),
        ("'gelu'", "gelu_new"),
        ("'swish'", "silu"),
        ("['relu']", "relu"),
        ("['relu', 'linear']", "gated-relu"),
        ("['gelu', 'linear']", "gated-gelu"),
        ("('swish', 'linear')", "gated-silu"),
    ],
)
def test_activations(read: Read, value: str, projection: str) -> None:
    assert read(f"{T5_1_1}\nDenseReluDense.activation = {value}").feed_forward_proj == projection


@pytest.mark.parametrize(
    ("value", "activations"),
    [
        ("'linear'", ("linear",)),
        ("'tanh'", ("tanh",)),
        ("['linear', 'gelu']", ("linear", "gelu")),
        ("['gelu', 'linear', 'linear']", ("gelu", "linear", "linear")),
        ("[None, 'relu']", ("linear", "relu")),
        ("None", ("linear",)),
    ],
)
def test_activations_that_only_mesh_has(read: Read, value: str, activations: tuple[str, ...]) -> None:
    architecture = read(f"{T5_1_1}\nDenseReluDense.activation = {value}").architecture
    assert architecture.encoder.layers[-1].activations == activations
    assert architecture.to_json()["model_type"] == "mesh_t5"


@pytest.mark.parametrize(
    "value", ["'softmax'", "[[1], 'linear']", "[]", "{'a': 1}", "@some.function", "1.5", "True"]
)
def test_activations_that_nobody_has_are_refused(read: Read, value: str) -> None:
    with pytest.raises(ConfigError, match=r"DenseReluDense\.activation"):
        read(f"{T5_1_1}\nDenseReluDense.activation = {value}")


LAYERS = "encoder/make_layer_stack.layers"
STACKS = "decoder/LayerStack"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("SelfAttention.attention_func = 'hybrid'", "SelfAttention.attention_func"),
        ("SelfAttention.keep_query_heads_dims = True", "SelfAttention.keep_query_heads_dims"),
        ("EncDecAttention.relative_attention_type = 'bias'", "relative_position_spans.num_sentinels"),
        (
            "EncDecAttention.relative_attention_type = 'contextual'\n"
            "relative_position_spans.num_sentinels = 3",
            "relative_attention_type",
        ),
        ("SelfAttention.relative_attention_type = 'other'", "relative_attention_type"),
        ("SelfAttention.num_memory_heads = 2", "num_memory_heads"),
        ("SelfAttention.attention_kwargs = {'extra_logit': 0.0}", "SelfAttention.attention_kwargs"),
        ("SelfAttention.hyperprompt_length_encoder = 4", "SelfAttention.hyperprompt_length_encoder"),
        ("make_layer_stack.layer_stack_cls = @ReversibleLayerStack", "make_layer_stack.layer_stack_cls"),
        ("get_vocab_embedding_cls.cls = @FactorizedVocabEmbedding", "get_vocab_embedding_cls.cls"),
        ("run.model_type = 'bi_student_teacher'", "run.model_type"),
        (f"{LAYERS} = [@LocalSelfAttention, @DenseReluDense]", LAYERS),
        (f"{LAYERS} = [@SelfAttention, @moe.MoE2D]", LAYERS),
        (f"{LAYERS} = [@SelfAttention, @my/DenseReluDense]", LAYERS),
        (f"{LAYERS} = [@SelfAttention, @moe.MoE1D]", "encoder/MoE1D.second_policy_eval"),
        (f"{LAYERS} = [@SelfAttention, @EncDecAttention]", "encoder.layers"),
        ("LayerStack.norm_epsilon = 1e-6", "LayerStack"),
        ("Unitransformer.ensemble = 4", "Unitransformer.ensemble"),
        ("Unitransformer.loss_fn = @my.loss", "Unitransformer.loss_fn"),
        ("Unitransformer.input_full_attention = True", "encoder.input_full_attention"),
        ("unit_scaling_convention.value = True", "unit_scaling_convention.value"),
        (f"{LAYERS} = []", "encoder.layers"),
        (f"{LAYERS} = 3", LAYERS),
        (f"{LAYERS} = ['SelfAttention', 'DenseReluDense']", LAYERS),
        (f"{STACKS}.sublayers_initial = [@sublayer_rms_norm]", "LayerStack.sublayers_initial"),
        (f"{STACKS}.sublayers_final = [@sublayer_dropout]", "LayerStack.sublayers_final"),
        (f"{STACKS}.sublayers_final = []", "LayerStack.sublayers_final"),
        (f"{STACKS}.sublayers_final = 7", "LayerStack.sublayers_final"),
        (f"{STACKS}.sublayers_per_layer = [@my_norm, @sublayer_call_layer]", "sublayers_per_layer"),
        ("encoder/Unitransformer.d_model = 13", "Unitransformer.d_model"),
    ],
)
def test_what_the_port_cannot_express_is_refused_by_name(read: Read, line: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"operative_config\.gin") as caught:
        read(f"{T5_1_1}\n{line}")
    assert any(key in problem.key for problem in caught.value.problems), caught.value


def test_reasons_are_given(read: Read) -> None:
    for line, reason in (
        (f"{LAYERS} = [@LocalSelfAttention]", "its attention call lacks the context"),
        ("Unitransformer.ensemble = 4", "several models in one checkpoint"),
        (f"{LAYERS} = [@SelfAttention, @moe.MoE1D]", "no two runs of the original agree"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read(f"{T5_1_1}\n{line}")


def test_positional_embeddings_are_meshs_default(read: Read) -> None:
    text = T5_1_1.replace("Unitransformer.positional_embedding = False", "Unitransformer.max_length = 77")
    stacks = read(text).architecture.stacks
    assert {(stack.positions, stack.max_length) for stack in stacks.values()} == {("learned", 77)}


def test_what_mesh_calls_outside_of_the_stacks_scopes_has_no_scope(read: Read) -> None:
    """Seen in the original: its norms keep the epsilon that is bound without a scope."""
    lines = "\nencoder/sublayer_rms_norm.epsilon = 0.5\ndecoder/sublayer_rms_norm.epsilon = 0.5"
    assert read(T5_1_1 + lines) == EXPECTED


def test_settings_of_one_layer_win_over_its_class_and_that_over_the_one_it_extends(read: Read) -> None:
    lines = """
EncDecAttention.num_heads = 5
decoder/SelfAttention.shared_kv = True
decoder/make_layer_stack.layers = [@SelfAttention, @EncDecAttention,
    (@EncDecAttention, {'num_heads': 7, 'key_value_size': 2}), @DenseReluDense]
"""
    encoder, decoder = read(T5_1_1 + lines).architecture.stacks.values()
    own, memory, other, _ = decoder.layers
    assert (own.num_heads, memory.num_heads, other.num_heads) == (3, 5, 7)
    assert (own.d_kv, memory.d_kv, other.d_kv) == (5, 5, 2)
    assert own.shared_kv and memory.shared_kv and not encoder.layers[0].shared_kv
    assert memory.relative_attention_type is None, "the type alone is not inherited"
    assert memory.relative_attention_num_buckets == 16


@pytest.mark.parametrize(
    ("line", "shapes", "name", "autoregressive", "assumed"),
    [
        ("run.model_type = 'lm'", {}, "decoder", True, 0),
        ("run.model_type = 'delimited_lm'", {}, "decoder", True, 0),
        ("run.model_type = 'aligned'", {}, "encoder", False, 0),
        ("Unitransformer.autoregressive = False", {}, "encoder", False, 0),
        ("Unitransformer.input_full_attention = True", {}, "decoder", True, 0),
        ("", {}, "decoder", True, 1),
    ],
)
def test_single_stacks(
    tmp_path: Path, line: str, shapes: dict, name: str, autoregressive: bool, assumed: int
) -> None:
    path = tmp_path / "operative_config.gin"
    path.write_text("Unitransformer.positional_embedding = False\nSelfAttention.num_heads = 3\n" + line)
    shapes = {"mylm/embedding": (50, 12), "mylm/logits/kernel": (12, 70)}
    architecture, said = config_from_gin(path, shapes)
    assert list(architecture.stacks) == [name]
    stack = architecture.stacks[name]
    assert (stack.scope, stack.autoregressive) == ("mylm", autoregressive)
    assert (architecture.source_vocab_size, architecture.vocab_size) == (50, 70)
    assert len(said) == assumed


@pytest.mark.parametrize(("rows", "first"), [(32128, 32000), (50, -50)])
def test_sentinels_end_the_vocabulary_before_it_was_padded(tmp_path: Path, rows: int, first: int) -> None:
    path = tmp_path / "operative_config.gin"
    lines = "EncDecAttention.relative_attention_type = 'bias'\nrelative_position_spans.num_sentinels = 100\n"
    path.write_text(T5_1_1 + lines)
    config, assumed = config_from_gin(path, {**SHAPES, "shared/embedding": (rows, 12)})
    assert config.first_sentinel_id == first
    assert len(assumed) == 1 and f"id {first}" in assumed[0]


def test_everything_refused_is_listed_at_once(read: Read) -> None:
    lines = "SelfAttention.attention_func = 'x'\nUnitransformer.ensemble = 2\nDenseReluDense.activation = 'x'"
    with pytest.raises(ConfigError) as caught:
        read(f"{T5_1_1}\n{lines}")
    assert {problem.key for problem in caught.value.problems} == {
        "encoder/SelfAttention.attention_func",
        "decoder/SelfAttention.attention_func",
        "decoder/EncDecAttention.attention_func",
        "encoder/Unitransformer.ensemble",
        "decoder/Unitransformer.ensemble",
        "encoder/DenseReluDense.activation",
        "decoder/DenseReluDense.activation",
    }


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "'12'", "None", "[12]", "@x"])
def test_sizes_that_are_none_are_shown(read: Read, value: str) -> None:
    with pytest.raises(ConfigError, match="d_model"):
        read(f"{T5_1_1}\nd_model = {value}")


def test_a_gin_file_of_something_else_is_refused(read: Read) -> None:
    with pytest.raises(ConfigError, match="says nothing of a Transformer's layers"):
        read("ResNet.depth = 50")


BASES = {
    "tied": SMALL,
    "untied": replace(SMALL, tie_word_embeddings=False),
    "loss": replace(SMALL, label_smoothing=0.1, loss_denominator=233.0),
    "epsilon": replace(SMALL, layer_norm_epsilon=1e-5, dropout_rate=0.0),
    **{
        projection: replace(V1_1, feed_forward_proj=projection)
        for projection in ("relu", "gelu_new", "silu", "gated-relu", "gated-gelu", "gated-silu")
    },
}


@pytest.mark.parametrize("config", BASES.values(), ids=BASES)
@pytest.mark.parametrize("old_norms", [True, False])
@pytest.mark.parametrize("scopes", [None, {"SelfAttention": "self-attention", "DenseReluDense": "ff"}])
def test_a_config_written_as_gin_is_read_as_the_same(
    read: Read, config: T5Config, old_norms: bool, scopes: dict | None
) -> None:
    # Mesh has no name for the largest distance: it is always 128.
    config = replace(config, relative_attention_max_distance=128)
    text = gin_from_config(config, list(mesh_shapes(config, old_norms=old_norms, scopes=scopes, slots=True)))
    assert read(text) == config
    assert ("LayerStack.norm_epsilon = None" in text) == (not old_norms)
    for kind, scope in (scopes or {}).items():
        assert f"({scope!r}, @transformer_layers.{kind}, " in text


VALUES = ["None", "True", "0", "-1", "1e400", "''", "'x'", "[]", "()", "{}", "[[]]"]
VALUES += ["{'a': [1]}", "@a.b", "%d_model", "%x"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_any_value_anywhere_is_read_or_refused_and_nothing_else(read: Read, data: st.DataObject) -> None:
    lines = re.sub(r",\n\s+", ", ", T5_1_1).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from([i for i, line in enumerate(lines) if " = " in line]))
        lines[at] = lines[at].split(" = ")[0] + " = " + data.draw(st.sampled_from(VALUES))
    with suppress(ConfigError):
        assert read("\n".join(lines)).architecture


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.data())
def test_mutated_real_text_is_read_or_refused_and_nothing_else(
    mtf_tiny_t5: Path, tmp_path: Path, data: st.DataObject
) -> None:
    text = (mtf_tiny_t5 / "operative_config.gin").read_text()
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text)))
        new = data.draw(st.one_of(st.text(max_size=4), st.sampled_from(list("[]{}()'\"\\%@/.=,:#\n \x00"))))
        text = text[:at] + new + text[at + data.draw(st.integers(0, 8)) :]
    path = tmp_path / "mutated.gin"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with suppress(ConfigError):
        assert isinstance(config_from_gin(path, SHAPES)[0], Architecture)
