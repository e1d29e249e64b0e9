"""The text from which Mesh builds an architecture, for a checkpoint that came without its config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from porting.ports.t5.architecture import UNPADDED_VOCABULARIES, Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, TalkingHeadsSpec
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec
from porting.ports.t5.mesh_layers import check_mesh_has
from porting.ports.t5.rules import is_weight
from porting.ports.t5.scopes import source_layers

_USUAL_DIVISOR = 128


def gin_from_config(config: Config, names: Sequence[str]) -> str:
    """A config from which Mesh builds this model.

    Args:
        config: the model.
        names: the checkpoint's variables, which tell whether norms are called `layer_norm` (old) or
            `rms_norm`, and how layers are called.

    Raises:
        ConfigError: Mesh has no such layers.
    """
    architecture = config.architecture
    check_mesh_has(architecture)
    weights = [name for name in names if is_weight(name)]
    legacy = any(name.endswith("/final_layer_norm/scale") for name in weights)
    lines = [*_model_lines(architecture), *_norm_lines(architecture, legacy=legacy)]
    for name, stack in architecture.stacks.items():
        prefix = f"{name}/" if architecture.is_encoder_decoder else ""
        lines += _stack_lines(prefix, stack, weights)
    return "\n".join(lines) + "\n"


def _model_lines(architecture: Architecture) -> Iterator[str]:
    output = architecture.output_stack
    prefix = f"{output}/" if architecture.is_encoder_decoder else ""
    yield f"Bitransformer.shared_embedding = {architecture.shared_embedding}"
    if architecture.encoder is not None and architecture.is_encoder_decoder:
        yield f"make_bitransformer.encoder_name = {architecture.encoder.scope!r}"
    if architecture.decoder is not None and architecture.is_encoder_decoder:
        yield f"make_bitransformer.decoder_name = {architecture.decoder.scope!r}"
    yield f"VocabEmbedding.scale_variable_like_classifier_weights = {architecture.scale_embedding}"
    yield f"Unitransformer.d_model = {architecture.d_model}"
    yield f"Unitransformer.vocab_divisor = {_vocab_divisor(architecture)}"
    tied = architecture.tie_word_embeddings
    yield f"{prefix}Unitransformer.shared_embedding_and_softmax_weights = {tied}"
    yield f"{prefix}Unitransformer.label_smoothing = {architecture.label_smoothing}"
    yield f"{prefix}Unitransformer.loss_denominator = {architecture.loss_denominator}"
    yield f"{prefix}Unitransformer.loss_on_targets_only = {architecture.loss_on_targets_only}"
    if architecture.first_sentinel_id is not None:
        unpadded = UNPADDED_VOCABULARIES.get(architecture.vocab_size, architecture.vocab_size)
        number = unpadded - architecture.first_sentinel_id
        yield f"relative_position_spans.num_sentinels = {number}"


def _vocab_divisor(architecture: Architecture) -> int:
    """What Mesh pads vocabularies to a multiple of: as usual where that gives these sizes, else nothing."""
    sizes = {architecture.vocab_size, *architecture.embedding_rows.values()}
    return 1 if any(size % _USUAL_DIVISOR for size in sizes) else _USUAL_DIVISOR


def _norm_lines(architecture: Architecture, *, legacy: bool) -> Iterator[str]:
    yield f"sublayer_rms_norm.epsilon = {architecture.layer_norm_epsilon}"
    yield f"LayerStack.dropout_rate = {architecture.dropout_rate if legacy else None}"
    yield f"LayerStack.norm_epsilon = {architecture.layer_norm_epsilon if legacy else None}"
    if legacy:
        return
    yield f"sublayer_dropout.dropout_rate = {architecture.dropout_rate}"
    yield "LayerStack.sublayers_initial = [@transformer.sublayer_dropout]"
    yield (
        "LayerStack.sublayers_per_layer = [@transformer.sublayer_rms_norm, @transformer.sublayer_call_layer,"
        " @transformer.sublayer_dropout, @transformer.sublayer_residual]"
    )
    yield "LayerStack.sublayers_final = [@transformer.sublayer_rms_norm, @transformer.sublayer_dropout]"


def _stack_lines(prefix: str, stack: StackSpec, names: Sequence[str]) -> Iterator[str]:
    learned, sinusoid = stack.positions == "learned", stack.positions == "sinusoid"
    yield f"{prefix}Unitransformer.positional_embedding = {learned}"
    yield f"{prefix}Unitransformer.sinusoid_positional_embedding = {sinusoid}"
    yield f"{prefix}Unitransformer.max_length = {stack.max_length}"
    yield f"{prefix}Unitransformer.input_full_attention = {stack.input_full_attention}"
    yield f"{prefix}make_layer_stack.num_layers = {stack.num_blocks}"
    yield f"{prefix}make_layer_stack.block_scope = {stack.block_scope}"
    layers = zip(_layer_names(stack, names), stack.layers, strict=True)
    yield f"{prefix}make_layer_stack.layers = [{', '.join(_layer(name, spec) for name, spec in layers)}]"


def _layer_names(stack: StackSpec, names: Sequence[str]) -> Sequence[str]:
    """Names of a block's layers as the checkpoint has them; "" for Mesh's numbers."""
    found = source_layers(names, stack.scope) or []
    block = [layer for layer in found if layer.block == 0]
    if [layer.kind for layer in block] == [spec.kind for spec in stack.layers]:
        return [layer.name for layer in block]
    return stack.layer_names or [""] * len(stack.layers)


def _layer(name: str, spec: LayerSpec) -> str:
    module = "moe" if isinstance(spec, MixtureSpec) else "transformer_layers"
    numbered = not name or re.fullmatch(r"layer_\d+", name)
    parts = [f"@{module}.{spec.kind}", f"{_settings(spec)!r}"]
    return f"({', '.join(parts if numbered else [repr(name), *parts])})"


def _settings(spec: LayerSpec) -> dict[str, Any]:
    """What Mesh's constructor of the layer is to be given."""
    if isinstance(spec, AttentionSpec | TalkingHeadsSpec):
        relative = {
            "relative_attention_type": spec.relative_attention_type,
            "relative_attention_num_buckets": spec.relative_attention_num_buckets,
        }
        return {**relative, **(_attention(spec) if isinstance(spec, AttentionSpec) else _talking_heads(spec))}
    assert isinstance(spec, FeedForwardSpec | MixtureSpec)
    activations = list(spec.activations)
    activation = activations[0] if len(activations) == 1 else activations
    inner = {"hidden_size": spec.d_ff, "activation": activation}
    if isinstance(spec, FeedForwardSpec):
        return {**inner, "use_bias": spec.use_bias}
    return {**inner, **_mixture(spec)}


def _attention(spec: AttentionSpec) -> dict[str, Any]:
    return {
        "num_heads": spec.num_heads,
        "key_value_size": spec.d_kv,
        "num_memory_heads": spec.num_memory_heads,
        "shared_kv": spec.shared_kv,
        "fold_scaling_into_initializer": spec.fold_scaling_into_initializer,
        "combine_dims": spec.combine_dims,
    }


def _talking_heads(spec: TalkingHeadsSpec) -> dict[str, Any]:
    return {
        "key_heads_dims": list(spec.key_heads),
        "softmax_heads_dims": list(spec.softmax_heads),
        "value_heads_dims": list(spec.value_heads),
        "key_size": spec.d_k,
        "value_size": spec.d_v,
        "dynamic_projections": list(spec.dynamic_projections),
    }


def _mixture(spec: MixtureSpec) -> dict[str, Any]:
    settings = {
        "num_experts": spec.num_experts,
        "moe_gating": spec.gating,
        "group_size": spec.group_size,
        "capacity_factor_eval": spec.capacity_factor,
        "min_expert_capacity": spec.min_expert_capacity,
        "loss_coef": spec.loss_coef,
        "second_policy_eval": spec.second_policy,
        "second_threshold_eval": spec.second_threshold,
        "use_second_place_loss": spec.use_second_place_loss,
        "word_embed_mode": spec.word_embed_mode,
    }
    per_token = {"top_n": "top_n_num_experts_per_token", "ntlb": "ntlb_top_k"}.get(spec.gating)
    return {**settings, per_token: spec.experts_per_token} if per_token else settings
