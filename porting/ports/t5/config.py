"""The spellings that transformers understands: T5, LongT5, UMT5, Switch, in their `config.json`'s terms.

Each is a short way to say an `Architecture` (architecture.py); spelling.py goes the other way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from porting.errors import ConfigError, Problem
from porting.ports.t5.architecture import (
    MODEL_TYPE,
    Architecture,
    StackSpec,
    decoding_json,
    loss_problems,
)
from porting.ports.t5.layer_specs import (
    MAX_LAYERS,
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    LocalAttentionSpec,
    MixtureSpec,
    TransientGlobalAttentionSpec,
    bucket_problems,
    positive,
)

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
class T5Config(EncoderDecoderConfig):
    """A plain T5.

    Attributes, besides those of EncoderDecoderConfig:
        feed_forward_proj: a key of FEED_FORWARD_ACTIVATIONS; "gated-": two inner projections, multiplied.
    """

    feed_forward_proj: str = "relu"

    model_type: ClassVar[str] = "t5"
    transformers_class: ClassVar[str] = "T5ForConditionalGeneration"

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [*_size_problems(self, REQUIRED)]
        if str(self.feed_forward_proj) not in FEED_FORWARD_ACTIVATIONS:
            known = ", ".join(FEED_FORWARD_ACTIVATIONS)
            problems.append(Problem("feed_forward_proj", f"one of {known}", repr(self.feed_forward_proj)))
        if problems:
            raise ConfigError("This is not the configuration of a T5.", problems=problems)

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layer multiplies two inner projections (wi_0, wi_1)."""
        return self.feed_forward_proj.startswith("gated-")

    @cached_property
    def architecture(self) -> Architecture:
        """What this spells: both stacks, layer by layer."""
        feed_forward = FeedForwardSpec(
            d_ff=self.d_ff, activations=FEED_FORWARD_ACTIVATIONS[self.feed_forward_proj]
        )
        own = _self_attention(self)
        return _encoder_decoder(
            self,
            _stack((own, feed_forward), self.num_layers),
            _stack((own, _memory_attention(self), feed_forward), self.num_decoder_layers, decoder=True),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as `transformers_class`."""
        return _to_json(self.model_type, self.transformers_class, asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that T5 has.
        """
        values = _values(cls, content, REQUIRED, "a T5")
        if _never_scales(content):
            values["tie_word_embeddings"] = False
        return cls(**values)


LOCAL, TRANSIENT_GLOBAL = "local", "transient-global"


@dataclass(frozen=True)
class LongT5Config(EncoderDecoderConfig):
    """A LongT5 (arXiv 2112.07916), in transformers' terms: a T5 whose encoder attends locally.

    Attributes, besides those of EncoderDecoderConfig:
        feed_forward_proj: as in T5Config.
        encoder_attention_type: "local" or "transient-global".
        local_radius: how far a position of the encoder sees to either side.
        global_block_size: tokens of a summary, where the attention is transient-global.
    """

    feed_forward_proj: str = "relu"
    encoder_attention_type: str = LOCAL
    local_radius: int = 127
    global_block_size: int = 16

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [*_size_problems(self, REQUIRED)]
        for name, known in (
            ("feed_forward_proj", (*FEED_FORWARD_ACTIVATIONS,)),
            ("encoder_attention_type", (LOCAL, TRANSIENT_GLOBAL)),
        ):
            if getattr(self, name) not in known:
                problems.append(Problem(name, f"one of {', '.join(known)}", repr(getattr(self, name))))
        if not problems:
            problems += self._attention.problems()
        if problems:
            raise ConfigError("This is not the configuration of a LongT5.", problems=problems)

    @property
    def _attention(self) -> LocalAttentionSpec:
        spec = LocalAttentionSpec(
            num_heads=self.num_heads,
            d_kv=self.d_kv,
            local_radius=self.local_radius,
            relative_attention_type="bias_shared",
            relative_attention_num_buckets=self.relative_attention_num_buckets,
            relative_attention_max_distance=self.relative_attention_max_distance,
        )
        if self.encoder_attention_type == LOCAL:
            return spec
        values = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "kind"}
        return TransientGlobalAttentionSpec(**values, global_block_size=self.global_block_size)

    @cached_property
    def architecture(self) -> Architecture:
        """What this spells: both stacks, layer by layer. The decoder is T5's."""
        feed_forward = FeedForwardSpec(
            d_ff=self.d_ff, activations=FEED_FORWARD_ACTIVATIONS[self.feed_forward_proj]
        )
        decoder = (_self_attention(self), _memory_attention(self), feed_forward)
        return _encoder_decoder(
            self,
            _stack((self._attention, feed_forward), self.num_layers),
            _stack(decoder, self.num_decoder_layers, decoder=True),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as LongT5."""
        return _to_json("longt5", "LongT5ForConditionalGeneration", asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LongT5Config:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that LongT5 has.
        """
        values = _values(cls, content, REQUIRED, "a LongT5")
        if _never_scales(content):
            values["tie_word_embeddings"] = False
        return cls(**values)


@dataclass(frozen=True)
class UMT5Config(T5Config):
    """A T5 each of whose layers has relative positions of its own (arXiv 2304.09151), in transformers' terms.

    transformers 4 computes what this says. transformers 5 takes every UMT5 to be tied: it keeps an output of
    its own where one is stored, and multiplies the logits by d_model**-0.5 all the same.
    """

    model_type: ClassVar[str] = "umt5"
    transformers_class: ClassVar[str] = "UMT5ForConditionalGeneration"
    relative_attention_type: ClassVar[str] = "bias"


@dataclass(frozen=True)
class SwitchConfig(EncoderDecoderConfig):
    """A Switch Transformer (arXiv 2101.03961), in transformers' terms.

    Attributes, besides those of EncoderDecoderConfig:
        num_experts: experts of a sparse layer.
        num_sparse_encoder_layers, num_sparse_decoder_layers: how many feed-forward layers are sparse: all,
            or evenly spread, in transformers' order.
        dense_act_fn: relu, gelu_new or silu.
        moe_group_size, capacity_factor_eval, min_expert_capacity, router_aux_loss_coef: of Mesh's `MoE1D`;
            transformers has one fixed `expert_capacity` instead.
    """

    num_experts: int = field(kw_only=True)
    num_sparse_encoder_layers: int = field(kw_only=True)
    num_sparse_decoder_layers: int = field(kw_only=True)
    dense_act_fn: str = "relu"
    moe_group_size: int = 1024
    capacity_factor_eval: float = 2.0
    min_expert_capacity: int = 4
    router_aux_loss_coef: float = 1e-2

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [*_size_problems(self, SWITCH_REQUIRED)]
        problems += positive(
            {"moe_group_size": self.moe_group_size, "min_expert_capacity": self.min_expert_capacity}
        )
        for name in ("capacity_factor_eval", "router_aux_loss_coef"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                problems.append(Problem(name, "a number", repr(value)))
        if self.dense_act_fn not in DENSE_ACTIVATIONS:
            known = ", ".join(DENSE_ACTIVATIONS)
            problems.append(Problem("dense_act_fn", f"one of {known}", repr(self.dense_act_fn)))
        for sparse, every in (
            ("num_sparse_encoder_layers", "num_layers"),
            ("num_sparse_decoder_layers", "num_decoder_layers"),
        ):
            if not problems and getattr(self, sparse) > getattr(self, every):
                problems.append(
                    Problem(sparse, f"at most {getattr(self, every)}", f"{getattr(self, sparse)}")
                )
        if problems:
            raise ConfigError("This is not the configuration of a Switch Transformer.", problems=problems)

    @cached_property
    def architecture(self) -> Architecture:
        """What this spells: both stacks, layer by layer."""
        activations = FEED_FORWARD_ACTIVATIONS[self.dense_act_fn]
        dense = FeedForwardSpec(d_ff=self.d_ff, activations=activations)
        sparse = MixtureSpec(
            num_experts=self.num_experts,
            d_ff=self.d_ff,
            activations=activations,
            group_size=self.moe_group_size,
            capacity_factor=self.capacity_factor_eval,
            min_expert_capacity=self.min_expert_capacity,
            loss_coef=self.router_aux_loss_coef,
        )

        def stack(*attention: LayerSpec, layers: int, num_sparse: int, decoder: bool) -> StackSpec:
            step = layers // num_sparse
            period = step if layers % step == 0 else layers
            pattern = sparse_pattern(layers, num_sparse)[:period]
            specs = tuple(s for is_sparse in pattern for s in (*attention, sparse if is_sparse else dense))
            return _stack(specs, layers // period, decoder=decoder)

        own, memory = _self_attention(self), _memory_attention(self)
        encoder = (self.num_layers, self.num_sparse_encoder_layers)
        decoder = (self.num_decoder_layers, self.num_sparse_decoder_layers)
        return _encoder_decoder(
            self,
            stack(own, layers=encoder[0], num_sparse=encoder[1], decoder=False),
            stack(own, memory, layers=decoder[0], num_sparse=decoder[1], decoder=True),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as a Switch Transformer."""
        mixture = next(s for s in self.architecture.stacks["encoder"].layers if isinstance(s, MixtureSpec))
        content = {**asdict(self), "expert_capacity": mixture.capacity(self.moe_group_size)}
        return _to_json("switch_transformers", "SwitchTransformersForConditionalGeneration", content)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SwitchConfig:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that a Switch Transformer has.
        """
        return cls(**_values(cls, content, SWITCH_REQUIRED, "a Switch Transformer"))


Config = T5Config | LongT5Config | SwitchConfig | Architecture  # a UMT5Config is a T5Config


def config_from_json(content: Mapping[str, Any]) -> Config:
    """From the contents of a `config.json`, by its model_type.

    Raises:
        ConfigError: it is not a configuration of that type.
    """
    model_type = content.get("model_type", "t5")
    if model_type == MODEL_TYPE:
        return Architecture.from_json(content)
    if model_type == "switch_transformers":
        return SwitchConfig.from_json(content)
    if model_type == "longt5":
        return LongT5Config.from_json(content)
    return (UMT5Config if model_type == UMT5Config.model_type else T5Config).from_json(content)


REQUIRED = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
SWITCH_REQUIRED = (*REQUIRED, "num_experts", "num_sparse_encoder_layers", "num_sparse_decoder_layers")
DENSE_ACTIVATIONS = ("relu", "gelu_new", "silu")


def sparse_pattern(layers: int, num_sparse: int) -> list[bool]:
    """Which of so many feed-forward layers are sparse, as transformers spreads them."""
    step = layers // num_sparse
    return [step == 1 or i % step == 1 for i in range(layers)]


def _size_problems(config: EncoderDecoderConfig, required: tuple[str, ...]) -> Iterator[Problem]:
    sizes = {name: getattr(config, name) for name in (*required, "num_decoder_layers")}
    depths = {name: sizes.pop(name) for name in list(sizes) if name.endswith("_layers")}
    yield from positive(sizes)
    yield from positive(depths, MAX_LAYERS)
    yield from loss_problems(config)
    yield from bucket_problems(config.relative_attention_num_buckets, config.relative_attention_max_distance)


def _never_scales(content: Mapping[str, Any]) -> bool:
    """Whether a config.json that says its embeddings are tied means that the output is one of its own.

    transformers 5 writes `true` for every T5 and keeps what was meant in a flag; its mT5 has no flag, and
    never scales.
    """
    version = str(content.get("transformers_version")).partition(".")[0]
    never_scales = content.get("model_type") == "mt5" and version.isdigit() and int(version) >= 5
    return content.get("scale_decoder_outputs") is False or never_scales


def _to_json(model_type: str, architecture: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        **decoding_json(is_encoder_decoder=True),
        **values,
    }


def _values(
    cls: type[EncoderDecoderConfig], content: Mapping[str, Any], required: tuple[str, ...], what: str
) -> dict[str, Any]:
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


def _self_attention(config: EncoderDecoderConfig) -> AttentionSpec:
    return AttentionSpec(
        kind="SelfAttention",
        num_heads=config.num_heads,
        d_kv=config.d_kv,
        relative_attention_type=config.relative_attention_type,
        relative_attention_num_buckets=config.relative_attention_num_buckets,
        relative_attention_max_distance=config.relative_attention_max_distance,
    )


def _memory_attention(config: EncoderDecoderConfig) -> AttentionSpec:
    return replace(_self_attention(config), kind="EncDecAttention", relative_attention_type=None)


def _stack(layers: tuple[LayerSpec, ...], num_blocks: int, *, decoder: bool = False) -> StackSpec:
    scope = "decoder" if decoder else "encoder"
    return StackSpec(layers=layers, num_blocks=num_blocks, autoregressive=decoder, scope=scope)


def _encoder_decoder(config: EncoderDecoderConfig, encoder: StackSpec, decoder: StackSpec) -> Architecture:
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
