"""From an architecture to the shortest config that says it, and what counts as the same model."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from porting.errors import ConfigError, Problem
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import (
    AttentionSpec,
    LocalAttentionSpec,
    RelativePositions,
    TransientGlobalAttentionSpec,
)
from porting.ports.t5.base_config import FEED_FORWARD_ACTIVATIONS
from porting.ports.t5.config import Config, T5Config, UMT5Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec
from porting.ports.t5.long_config import LOCAL, TRANSIENT_GLOBAL, LongT5Config
from porting.ports.t5.switch_config import DENSE_ACTIVATIONS, SwitchConfig, sparse_pattern


def spelling(architecture: Architecture, model_type: object = None) -> Config:
    """The shortest config that says the same model: one that transformers computes so, where there is one.

    Where in the checkpoint the layers lie (scopes, names, what Mesh repeats) is left out of the short ones.

    Args:
        architecture: the model.
        model_type: "umt5": take that even of a model with an output of its own, which transformers 5 scales.
    """
    found = _as_t5(architecture, T5Config) or _as_long_t5(architecture) or _as_switch(architecture)
    if found is None and (architecture.tie_word_embeddings or model_type == UMT5Config.model_type):
        found = _as_t5(architecture, UMT5Config)
    return found or architecture


def config_to_json(config: Config) -> dict[str, Any]:
    """The contents of `config.json`: in transformers' terms where it has the architecture."""
    return spelling(config.architecture, getattr(config, "model_type", None)).to_json()


def _as_t5(architecture: Architecture, kind: type[T5Config]) -> T5Config | None:
    """The spelling of an architecture, or None if it is not one of that kind."""
    encoder, decoder = architecture.encoder, architecture.decoder
    if encoder is None or decoder is None or len(decoder.layers) < 3:
        return None
    attention, feed_forward = encoder.layers[0], decoder.layers[2]
    if not isinstance(attention, AttentionSpec) or not isinstance(feed_forward, FeedForwardSpec):
        return None
    for name, activations in FEED_FORWARD_ACTIVATIONS.items():
        if activations == feed_forward.activations:
            candidate = kind(
                **_shared_values(architecture, attention),
                d_ff=feed_forward.d_ff,
                num_layers=encoder.num_blocks * len(encoder.starts),
                num_decoder_layers=decoder.num_blocks * len(decoder.starts),
                feed_forward_proj=name,
            )
            return candidate if same_model(candidate.architecture, architecture) else None
    return None


def _as_long_t5(architecture: Architecture) -> LongT5Config | None:
    """The spelling of an architecture, or None if it is not a LongT5."""
    encoder, decoder = architecture.encoder, architecture.decoder
    if encoder is None or decoder is None or len(decoder.layers) < 3:
        return None
    attention, feed_forward = encoder.layers[0], decoder.layers[2]
    if not isinstance(attention, LocalAttentionSpec) or not isinstance(feed_forward, FeedForwardSpec):
        return None
    kind = LOCAL
    sizes: dict[str, Any] = {}
    if isinstance(attention, TransientGlobalAttentionSpec):
        kind, sizes = TRANSIENT_GLOBAL, {"global_block_size": attention.global_block_size}
    names = {v: k for k, v in FEED_FORWARD_ACTIVATIONS.items()}
    if feed_forward.activations not in names:
        return None
    candidate = LongT5Config(
        **_shared_values(architecture, attention),
        d_ff=feed_forward.d_ff,
        num_layers=encoder.num_blocks * len(encoder.starts),
        num_decoder_layers=decoder.num_blocks * len(decoder.starts),
        feed_forward_proj=names[feed_forward.activations],
        encoder_attention_type=kind,
        local_radius=attention.local_radius,
        **sizes,
    )
    return candidate if same_model(candidate.architecture, architecture) else None


def _as_switch(architecture: Architecture) -> SwitchConfig | None:
    """The spelling of an architecture, or None if transformers' Switch is not what it is."""
    encoder, decoder = architecture.encoder, architecture.decoder
    if encoder is None or decoder is None:
        return None
    specs = (*encoder.layers, *decoder.layers)
    mixture = next((spec for spec in specs if isinstance(spec, MixtureSpec)), None)
    attention = encoder.layers[0]
    if mixture is None or not isinstance(attention, AttentionSpec):
        return None
    names = {v: k for k, v in FEED_FORWARD_ACTIVATIONS.items()}
    counts = [_num_sparse(encoder, 2), _num_sparse(decoder, 3)]
    if names.get(mixture.activations) not in DENSE_ACTIVATIONS or None in counts:
        return None
    candidate = SwitchConfig(
        **_shared_values(architecture, attention),
        d_ff=mixture.d_ff,
        num_layers=encoder.num_blocks * len(encoder.starts),
        num_decoder_layers=decoder.num_blocks * len(decoder.starts),
        num_experts=mixture.num_experts,
        num_sparse_encoder_layers=counts[0] or 0,
        num_sparse_decoder_layers=counts[1] or 0,
        dense_act_fn=names[mixture.activations],
        moe_group_size=mixture.group_size,
        capacity_factor_eval=mixture.capacity_factor,
        min_expert_capacity=mixture.min_expert_capacity,
        router_aux_loss_coef=mixture.loss_coef,
    )
    return candidate if same_model(candidate.architecture, architecture) else None


def join(
    encoder: T5Config,
    decoder: T5Config,
    *,
    source_vocab_size: int | None = None,
    shared_embedding: bool = False,
) -> Architecture:
    """The encoder of one T5 before the decoder of another: of other depth, heads, inner size, vocabulary.

    Example: a translation model with a deep encoder, a shallow decoder and two vocabularies:
        join(T5Config(32000, 512, 64, 2048, 12, 12, 8), T5Config(8000, 512, 64, 1024, 2, 2, 4))

    Args:
        encoder: gives the encoder, and the source's vocabulary.
        decoder: gives the decoder and everything else: the target's vocabulary, whether its output is tied.
        source_vocab_size: if another than the encoder's config says.
        shared_embedding: one matrix for both; their vocabularies must be the same.

    Raises:
        ConfigError: the widths of the hidden states differ.
    """
    if encoder.d_model != decoder.d_model:
        raise ConfigError(
            "An encoder and a decoder of different width cannot be joined.",
            problems=[Problem("d_model", f"{decoder.d_model}, as the decoder's", f"{encoder.d_model}")],
        )
    return replace(
        decoder.architecture,
        encoder=encoder.architecture.encoder,
        source_vocab_size=source_vocab_size or encoder.vocab_size,
        shared_embedding=shared_embedding,
    )


def _shared_values(
    architecture: Architecture, attention: AttentionSpec | LocalAttentionSpec
) -> dict[str, Any]:
    return {
        "vocab_size": architecture.vocab_size,
        "d_model": architecture.d_model,
        "d_kv": attention.d_kv,
        "num_heads": attention.num_heads,
        "relative_attention_num_buckets": attention.relative_attention_num_buckets,
        "relative_attention_max_distance": attention.relative_attention_max_distance,
        "layer_norm_epsilon": architecture.layer_norm_epsilon,
        "dropout_rate": architecture.dropout_rate,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "label_smoothing": architecture.label_smoothing,
        "loss_denominator": architecture.loss_denominator,
    }


def _num_sparse(stack: StackSpec, block_length: int) -> int | None:
    """How many sparse layers transformers must be told for the stack's pattern; None if it cannot be."""
    last = [place.spec for place in stack.places if place.index == block_length - 1]
    pattern = [isinstance(spec, MixtureSpec) for spec in last]
    # Several numbers may say the same pattern: how many there are comes first.
    numbers: list[int] = [max(sum(pattern), 1), *range(1, len(pattern) + 1)]
    for number in numbers:
        if pattern == sparse_pattern(len(pattern), number):
            return number
    return None


def same_model(one: Architecture, other: Architecture) -> bool:
    """Whether two architectures compute the same from the same parameters, wherever their sources lie."""
    return _placed(one) == _placed(other)


def _placed(architecture: Architecture) -> dict[str, Any]:
    """All that an architecture says of the model, its stacks layer by layer."""
    stacks = {
        name: (
            replace(stack, layers=(), num_blocks=1, scope="", layer_names=(), block_scope=True, max_length=1),
            [(place.block, place.index, _computed(place.spec)) for place in stack.places],
        )
        for name, stack in architecture.stacks.items()
    }
    scopes = [
        f"{stack.scope}/{place.scope}" for stack in architecture.stacks.values() for place in stack.places
    ]
    return {
        **{f.name: getattr(architecture, f.name) for f in fields(architecture)},
        **stacks,
        "source_vocab_size": architecture.source_vocab_size or architecture.vocab_size,
        "shared_embedding": architecture.shares_embedding,
        "first_sentinel_id": architecture.first_sentinel_id if architecture.needs_sentinels else None,
        "layers share variables": len(set(scopes)) < len(scopes),
    }


def _computed(spec: LayerSpec) -> LayerSpec:
    """A layer without what changes nothing that it computes: the source's layout, and unused settings."""
    if isinstance(spec, AttentionSpec):
        # one group of heads, or a group for each head
        plain = spec.num_heads == 1 or spec.num_memory_heads == spec.num_heads
        spec = replace(spec, combine_dims=True, num_memory_heads=0 if plain else spec.num_memory_heads)
    if isinstance(spec, MixtureSpec):
        second = spec.second_policy if spec.gating in ("top_2", "top_n") else "all"
        threshold = spec.second_threshold if second == "threshold" else 0.0
        spec = replace(spec, second_policy=second, second_threshold=threshold)
    if isinstance(spec, RelativePositions) and spec.relative_attention_type is None:
        spec = replace(spec, relative_attention_num_buckets=32, relative_attention_max_distance=128)
    return spec
