"""T5X's gin files, those of its own networks and those for flaxformer, held against the variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from porting.errors import ConfigError
from porting.ports.t5.config import T5Config
from porting.ports.t5.long_config import LongT5Config
from porting.ports.t5.naming import read_config
from porting.ports.t5.spelling import spelling
from tests.ports.t5.t5x.checkpoints import scalable_shapes, t5_shapes
from tests.ports.t5.t5x.test_infer import V1_1

NETWORK = """
from __gin__ import dynamic_registration
import seqio
from t5x import models
from t5x.examples.t5 import network

# Macros:
DROPOUT_RATE = 0.15
MIXTURE = %gin.REQUIRED
models.EncoderDecoderModel:
  module = @network.Transformer()
  label_smoothing = 0.25
  z_loss = 0.0001
train/utils.DatasetConfig.seed = None
network.Transformer.config = @network.T5Config()
network.T5Config:
  vocab_size = 64  # padded
  dtype = 'bfloat16'
  emb_dim = 20
  num_heads = 3
  num_encoder_layers = 3
  num_decoder_layers = 2
  head_dim = 8
  mlp_dim = 36
  mlp_activations = ('silu', 'linear')
  dropout_rate = %DROPOUT_RATE
  logits_via_embedding = False
"""
FLAXFORMER = """
from __gin__ import dynamic_registration
from flax import linen
from flaxformer.architectures.t5 import t5_architecture
from flaxformer.components import dense
from flaxformer.components import embedding
from flaxformer.components import layer_norm
from flaxformer.components import relative_position_biases
from flaxformer.components.attention import dense_attention

HEAD_DIM = 8
DROPOUT_RATE = 0.0
ARCHITECTURE = @t5_architecture.EncoderDecoder()
t5_architecture.Encoder:
  num_layers = 3
  layer_factory = @t5_architecture.EncoderLayer
  position_embedder_factory = None
t5_architecture.EncoderLayer:
  attention = @dense_attention.MultiHeadDotProductAttention()
  mlp = @dense.MlpBlock()
t5_architecture.Decoder:
  num_layers = 2
  position_embedder_factory = None
  output_logits_factory = @output_logits/dense.DenseGeneral
dense_attention.MultiHeadDotProductAttention:
  num_heads = 3
  head_dim = %HEAD_DIM
  use_bias = False
  dropout_rate = %DROPOUT_RATE
dense.MlpBlock:
  use_bias = False
  intermediate_dim = 36
  activations = ('gelu', 'linear')
embedding.Embed:
  num_embeddings= 64
  features = 20
relative_position_biases.RelativePositionBiases:
  num_heads = 3
  num_buckets = 32
  max_distance = 100
"""
LONG = """
longt5_architecture.LongEncoder.num_layers = 3
longt5_architecture.LongEncoderLayer.attention_factory = @long_attention.EncoderLocalSelfAttention
long_attention.EncoderLocalSelfAttention.local_radius = 5
"""


def gin(folder: Path, text: str) -> Path:
    path = folder / "config.gin"
    path.write_text(text)
    return path


def test_the_file_of_t5xs_own_network_is_read(tmp_path: Path) -> None:
    resolved = read_config(gin(tmp_path, NETWORK), t5_shapes())
    config = spelling(resolved.config)
    assert isinstance(config, T5Config)
    assert config.feed_forward_proj == "gated-silu"
    assert (config.dropout_rate, config.label_smoothing, config.num_layers) == (0.15, 0.25, 3)
    assert resolved.assumed == ()
    assert resolved.original_text == NETWORK
    assert resolved.origin == str(tmp_path / "config.gin")


def test_the_file_for_flaxformer_is_read(tmp_path: Path) -> None:
    resolved = read_config(gin(tmp_path, FLAXFORMER), t5_shapes())
    config = spelling(resolved.config)
    assert isinstance(config, T5Config)
    assert (config.feed_forward_proj, config.dropout_rate) == ("gated-gelu", 0.0)
    assert config.relative_attention_max_distance == 100
    assert resolved.assumed == ()


def test_what_a_file_leaves_open_is_assumed_and_said(tmp_path: Path) -> None:
    text = NETWORK.replace("('silu', 'linear')", "%ACTIVATIONS") + "ACTIVATIONS = %gin.REQUIRED\n"
    resolved = read_config(gin(tmp_path, text), t5_shapes())
    assert len(resolved.assumed) == 1
    assert "activation gelu" in resolved.assumed[0]


def test_what_a_complete_file_leaves_out_is_as_t5x_has_it(tmp_path: Path) -> None:
    text = NETWORK.replace("  mlp_activations = ('silu', 'linear')\n", "")
    shapes = t5_shapes(gated=False)
    assert spelling(read_config(gin(tmp_path, text), shapes).config).feed_forward_proj == "relu"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"T5Config\.mlp_activations: expected 2"):
        read_config(gin(tmp_path, text), t5_shapes())


@pytest.mark.parametrize(
    ("said", "instead", "key"),
    [
        ("emb_dim = 20", "emb_dim = 24", "T5Config.emb_dim"),
        ("num_heads = 3", "num_heads = 6", "T5Config.num_heads"),
        ("  head_dim = 8\n", "", "T5Config.head_dim"),
        ("num_encoder_layers = 3", "num_encoder_layers = 12", "T5Config.num_encoder_layers"),
        ("logits_via_embedding = False", "logits_via_embedding = True", "T5Config.logits_via_embedding"),
        ("('silu', 'linear')", "('relu',)", "T5Config.mlp_activations"),
        ("vocab_size = 64", "vocab_size = 32128", "T5Config.vocab_size"),
    ],
)
def test_a_file_of_another_checkpoint_is_refused(tmp_path: Path, said: str, instead: str, key: str) -> None:
    assert said in NETWORK
    path = gin(tmp_path, NETWORK.replace(said, instead))
    with pytest.raises(ConfigError, match="not of this checkpoint") as caught:
        read_config(path, t5_shapes())
    assert key in [problem.key for problem in caught.value.problems]


def test_every_contradiction_is_listed(tmp_path: Path) -> None:
    text = FLAXFORMER.replace("= 36", "= 37").replace("num_embeddings= 64", "num_embeddings= 65")
    path = gin(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, t5_shapes())
    assert [problem.key for problem in caught.value.problems] == [
        "Embed.num_embeddings",
        "MlpBlock.intermediate_dim",
    ]


def test_an_output_that_the_file_knows_nothing_of_is_refused(tmp_path: Path) -> None:
    without = FLAXFORMER.replace("@output_logits/dense.DenseGeneral", "None")
    with pytest.raises(ConfigError, match="output_logits_factory"):
        read_config(gin(tmp_path, without), t5_shapes())
    read_config(gin(tmp_path, without), t5_shapes(tied=True))
    with pytest.raises(ConfigError, match="output_logits_factory"):
        read_config(gin(tmp_path, FLAXFORMER), t5_shapes(tied=True))


def test_scanning_is_held_against_the_variables(tmp_path: Path) -> None:
    scalable = NETWORK + "  scan_layers = True\n"
    assert read_config(gin(tmp_path, scalable), scalable_shapes(scanned=True)).assumed == ()
    with pytest.raises(ConfigError, match="scan_layers"):
        read_config(gin(tmp_path, scalable), scalable_shapes(scanned=False))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("network.T5Config.param_scan_axis = 0", "T5Config.param_scan_axis"),
        ("dense.MlpBlock.use_bias = True", "MlpBlock.use_bias"),
        ("dense_attention.MultiHeadDotProductAttention.rescale_logits = True", "rescale_logits"),
        ("t5_architecture.Encoder.position_embedder_factory = @embedding.PositionEmbed", "position_embedder"),
        ("network.T5Config.mlp_activations = ('maxout', 'linear')", "T5Config.mlp_activations"),
        ("layer_norm.T5LayerNorm.center_scale_at_zero = True", "T5LayerNorm.center_scale_at_zero"),
        ("dense_attention.MultiHeadDotProductAttention.use_rotary_embedding = True", "use_rotary_embedding"),
        (
            "a.RelativePositionBiases.max_distance = 128\nb.RelativePositionBiasesGeneral.max_distance = 64",
            "RelativePositionBiasesGeneral.max_distance",
        ),
    ],
)
def test_what_the_port_does_not_compute_is_refused(tmp_path: Path, line: str, key: str) -> None:
    with pytest.raises(ConfigError, match="cannot express") as caught:
        read_config(gin(tmp_path, f"{NETWORK}{line}\n"), t5_shapes())
    assert key in caught.value.problems[0].key


@pytest.mark.parametrize("text", ["", "trainer.Trainer.num_microbatches = 0\n"])
def test_a_file_that_says_nothing_of_a_t5_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="says nothing of a T5"):
        read_config(gin(tmp_path, text), t5_shapes())


def test_files_that_are_not_there_leave_it_to_the_variables_which_is_said(tmp_path: Path) -> None:
    text = "include 't5x/examples/t5/t5_1_1/base.gin'\nnetwork.T5Config.emb_dim = %WIDTH\n"
    resolved = read_config(gin(tmp_path, text), t5_shapes())
    assert spelling(resolved.config) == V1_1
    said = " ".join(resolved.assumed)
    assert "t5x/examples/t5/t5_1_1/base.gin" in said
    assert "activation gelu" in said


def test_a_file_that_is_there_is_included(tmp_path: Path) -> None:
    (tmp_path / "t5x").mkdir()
    (tmp_path / "t5x" / "base.gin").write_text(NETWORK)
    resolved = read_config(gin(tmp_path, "include 't5x/base.gin'\n"), t5_shapes())
    assert spelling(resolved.config).dropout_rate == 0.15  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["EncoderLocalSelfAttention", "EtcTransientGlobalSelfAttention"])
def test_a_longt5_is_read_as_one(tmp_path: Path, kind: str) -> None:
    shapes = t5_shapes()
    text = FLAXFORMER + LONG.replace("EncoderLocalSelfAttention", kind)
    if kind.startswith("Etc"):
        text += "long_attention.EtcTransientGlobalSelfAttention.tokens_per_block = 4\n"
        shapes["target/encoder/side_relpos_bias/rel_embedding"] = (3, 32)
    resolved = read_config(gin(tmp_path, text), shapes)
    config = spelling(resolved.config)
    assert isinstance(config, LongT5Config)
    assert config.local_radius == 5
    expected = ("transient-global", 4) if kind.startswith("Etc") else ("local", 16)
    assert (config.encoder_attention_type, config.global_block_size) == expected
    assert resolved.assumed == ()


def test_a_longt5_whose_attention_is_unknown_is_refused(tmp_path: Path) -> None:
    text = FLAXFORMER + LONG.replace("@long_attention.EncoderLocalSelfAttention", "@other.Attention")
    with pytest.raises(ConfigError, match=r"LongEncoderLayer\.attention_factory"):
        read_config(gin(tmp_path, text), t5_shapes())
