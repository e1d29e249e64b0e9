"""What the spellings of encoder-decoders have in common: sizes, and how a `config.json` says them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from porting.errors import ConfigError, Problem
from porting.ports.t5.architecture import Architecture, StackSpec, decoding_json, loss_problems
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec
from porting.ports.t5.spec_problems import MAX_LAYERS, bucket_problems, positive

# feed_forward_proj of config.json -> Mesh's activations, one for each factor. transformers reads
# "gated-gelu" as its gelu_new, the tanh approximation, which is what Mesh's gelu is.
FEED_FORWARD_ACTIVATIONS = {
    "relu": ("relu",),
    "gelu_new": ("gelu",),
    "silu": ("swish",),
    "gated-relu": ("relu", "linear"),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("swish", "linear"),
}


REQUIRED = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Sizes and constants of a T5, sparse or not. Names and defaults are those of transformers' T5Config.

    Attributes:
        vocab_size: rows of the embedding, padding to a multiple of 128 included.
        d_model: width of the hidden states.
        d_kv: width of one head's queries, keys and values.
        d_ff: width of the feed-forward layer's inner activations.
        num_layers, num_decoder_layers: blocks in the encoder and in the decoder.
        num_heads: attention heads.
        relative_attention_num_buckets, relative_attention_max_distance: see T5's paper, section 2.1
            (arXiv 1910.10683), and `_relative_position_bucket` in Mesh's transformer_layers.py.
        layer_norm_epsilon: epsilon of the RMS norm (Mesh: `sublayer_rms_norm.epsilon`).
        dropout_rate: used in training only.
        tie_word_embeddings: logits from the embedding matrix, hidden states scaled by d_model**-0.5.
        label_smoothing, loss_denominator: of Mesh's loss (`Unitransformer`); a denominator of None is the
            number of target positions, padding included.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    tie_word_embeddings: bool = True
    label_smoothing: float = 0.0
    loss_denominator: float | None = None

    # As in AttentionSpec.
    relative_attention_type: ClassVar[str] = "bias_shared"


@dataclass(frozen=True)
class DenseConfig(EncoderDecoderConfig):
    """A model without experts, whose feed-forward layers are all alike.

    Attributes, besides those of EncoderDecoderConfig:
        feed_forward_proj: a key of FEED_FORWARD_ACTIVATIONS; "gated-": two inner projections, multiplied.
    """

    feed_forward_proj: str = "relu"

    what: ClassVar[str]
    model_type: ClassVar[str]
    transformers_class: ClassVar[str]

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [*size_problems(self, REQUIRED)]
        if str(self.feed_forward_proj) not in FEED_FORWARD_ACTIVATIONS:
            known = ", ".join(FEED_FORWARD_ACTIVATIONS)
            problems.append(Problem("feed_forward_proj", f"one of {known}", repr(self.feed_forward_proj)))
        problems += self._own_problems(problems)
        if problems:
            raise ConfigError(f"This is not the configuration of {self.what}.", problems=problems)

    def _own_problems(self, found: Sequence[Problem]) -> Sequence[Problem]:
        """What is wrong with the fields that only one kind of model has, beside what was found already."""
        del found
        return ()

    @property
    def feed_forward(self) -> FeedForwardSpec:
        """Every feed-forward layer."""
        return FeedForwardSpec(d_ff=self.d_ff, activations=FEED_FORWARD_ACTIVATIONS[self.feed_forward_proj])

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as `transformers_class`."""
        return to_json(self.model_type, self.transformers_class, asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that such a model has.
        """
        values = values_of(cls, content, REQUIRED, cls.what)
        if never_scales(content):
            values["tie_word_embeddings"] = False
        return cls(**values)


def size_problems(config: EncoderDecoderConfig, required: tuple[str, ...]) -> Iterator[Problem]:
    """What is out of range among sizes, depths and the numbers of the loss."""
    sizes = {name: getattr(config, name) for name in (*required, "num_decoder_layers")}
    depths = {name: sizes.pop(name) for name in list(sizes) if name.endswith("_layers")}
    yield from positive(sizes)
    yield from positive(depths, MAX_LAYERS)
    yield from loss_problems(config)
    yield from bucket_problems(config.relative_attention_num_buckets, config.relative_attention_max_distance)


def never_scales(content: Mapping[str, Any]) -> bool:
    """Whether a config.json that says its embeddings are tied means that the output is one of its own.

    transformers 5 writes `true` for every T5 and keeps what was meant in a flag; its mT5 has no flag, and
    never scales.
    """
    version = str(content.get("transformers_version")).partition(".")[0]
    never_scales = content.get("model_type") == "mt5" and version.isdigit() and int(version) >= 5
    return content.get("scale_decoder_outputs") is False or never_scales


def to_json(model_type: str, architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of `config.json` that transformers reads as this architecture."""
    return {
        "model_type": model_type,
        "architectures": [architecture],
        **decoding_json(is_encoder_decoder=True),
        **values,
    }


def values_of(
    cls: type[EncoderDecoderConfig], content: Mapping[str, Any], required: tuple[str, ...], what: str
) -> dict[str, Any]:
    """The fields of a spelling in a `config.json`. Raises ConfigError where a required one is missing."""
    known = {f.name for f in fields(cls)}
    values = {key: value for key, value in content.items() if key in known}
    for name in ("feed_forward_proj", "dense_act_fn"):
        if content.get(name) is None:
            values.pop(name, None)
    if values.get("num_decoder_layers") is None and "num_layers" in values:
        values["num_decoder_layers"] = values["num_layers"]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(
            f"The config.json lacks what {what} needs.",
            problems=[Problem(name, "a positive integer", "nothing") for name in missing],
        )
    return values


def self_attention(config: EncoderDecoderConfig) -> AttentionSpec:
    """Attention within a stack."""
    return AttentionSpec(
        kind="SelfAttention",
        num_heads=config.num_heads,
        d_kv=config.d_kv,
        relative_attention_type=config.relative_attention_type,
        relative_attention_num_buckets=config.relative_attention_num_buckets,
        relative_attention_max_distance=config.relative_attention_max_distance,
    )


def memory_attention(config: EncoderDecoderConfig) -> AttentionSpec:
    """Attention to the encoder's output, which sees no relative positions."""
    return replace(self_attention(config), kind="EncDecAttention", relative_attention_type=None)


def stack_of(layers: tuple[LayerSpec, ...], num_blocks: int, *, decoder: bool = False) -> StackSpec:
    """A stack in the scope that Mesh gives it."""
    scope = "decoder" if decoder else "encoder"
    return StackSpec(layers=layers, num_blocks=num_blocks, autoregressive=decoder, scope=scope)


def encoder_decoder(config: EncoderDecoderConfig, encoder: StackSpec, decoder: StackSpec) -> Architecture:
    """The architecture of two stacks with the sizes that a spelling says."""
    return Architecture(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        encoder=encoder,
        decoder=decoder,
        tie_word_embeddings=config.tie_word_embeddings,
        layer_norm_epsilon=config.layer_norm_epsilon,
        dropout_rate=config.dropout_rate,
        label_smoothing=config.label_smoothing,
        loss_denominator=config.loss_denominator,
    )
