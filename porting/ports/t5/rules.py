"""The rule table: Mesh TensorFlow variable names -> state-dict keys, total in both directions.

    shared/embedding                                              shared.weight
    encoder/block_000/layer_000/SelfAttention/q  [d_model, h*k]   encoder.block.0.layer.0.SelfAttention.q...
    .../SelfAttention/relative_attention_bias    [h, buckets]     ....relative_attention_bias.weight
    .../DenseReluDense/wi/kernel                 [d_model, d_ff]  ...DenseReluDense.wi.weight
    .../layer_norm/scale or .../rms_norm/scale                    ....layer_norm.weight
    encoder/final_layer_norm/scale or encoder/rms_norm/scale      encoder.final_layer_norm.weight
    decoder/logits/kernel                        [d_model, vocab] lm_head.weight

Kernels are transposed: Mesh keeps [in, out], torch.nn.Linear [out, in]. Kernels whose heads are dimensions
of their own are flattened first, each dimension asserted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from porting.mapping import Drop, Rule, Shape
from porting.ops import Op, Reshape, Transpose
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, TalkingHeadsSpec, kernel_dims
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec, is_self_attention
from porting.ports.t5.mesh_layers import check_mesh_has
from porting.ports.t5.scopes import layer_patterns
from porting.ports.t5.spec_problems import Dims, size

# Old checkpoints (LayerStack.dropout_rate and norm_epsilon set) and newer ones.
LAYER_NORM = r"(?:layer_norm|rms_norm)"
FINAL_NORM = r"(?:final_layer_norm|rms_norm)"
_TRANSPOSE = (Transpose(),)

DROPS = (
    # As Mesh's optimize.py names them: Adafactor's, Adam's, momentum's.
    Drop(r".*_slot_(?:v|vr|vc|m)|.*/adam_[mv]|.*_momentum_v", "optimizer state"),
    Drop(r"global_step", "global step"),
)


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are the variables of a Mesh Transformer: an embedding, and layers in numbered scopes."""
    layers = r"[^/]+/(?:block_\d+/[^/]+|[^/]+)/(?:\w*Attention|DenseReluDense|MoE1D)/.*"
    return any(re.fullmatch(r"[^/]+/embedding", name) for name in shapes) and any(
        re.fullmatch(layers, name) for name in shapes
    )


def is_weight(name: str) -> bool:
    """Whether a variable is a weight of the model, not optimizer state or a counter."""
    return not any(drop.regex.fullmatch(name) for drop in DROPS)


def rules(config: Config, names: Sequence[str]) -> list[Rule | Drop]:
    """The table for a configuration and the layer names that a checkpoint uses.

    Args:
        config: the model.
        names: the checkpoint's variables; layers that were given names are found in them.

    Raises:
        ConfigError: Mesh has no such layers.
    """
    architecture = config.architecture
    check_mesh_has(architecture)
    table: list[Rule | Drop] = [*DROPS]
    if architecture.shares_embedding:
        table.append(Rule("shared/embedding", "shared.weight"))
    if architecture.shares_positions:
        table.append(Rule("shared/positional_embedding", "encoder.embed_positions.weight"))
    output = re.escape(architecture.stacks[architecture.output_stack].scope)
    table.append(Rule(f"{output}/logits/kernel", "lm_head.weight", _TRANSPOSE))
    for name, stack in architecture.stacks.items():
        table += _stack_rules(architecture, name, stack, names)
    return _once(table)


def _once(table: list[Rule | Drop]) -> list[Rule | Drop]:
    """Without rules whose variables an earlier rule claims: what stacks or blocks share is mapped once."""
    first: dict[str, Rule | Drop] = {}
    for rule in table:
        first.setdefault(rule.pattern, rule)
    return list(first.values())


def _stack_rules(
    config: Architecture, name: str, stack: StackSpec, names: Sequence[str]
) -> Iterator[Rule | Drop]:
    scope = re.escape(stack.scope)
    if not config.shares_embedding:
        yield Rule(f"{scope}/embedding", f"{name}.embed_tokens.weight")
    if stack.positions == "learned" and not config.shares_positions:
        yield Rule(f"{scope}/positional_embedding", f"{name}.embed_positions.weight")
    yield Rule(f"{scope}/{FINAL_NORM}/scale", f"{name}.final_layer_norm.weight")
    for source, target, spec in layer_patterns(stack, names):
        yield Rule(f"{scope}/{source}/{LAYER_NORM}/scale", f"{name}.{target}.layer_norm.weight")
        yield from _layer_rules(
            config.d_model,
            spec,
            f"{scope}/{source}/{spec.kind}",
            f"{name}.{target}.{config.module_name(spec)}",
        )


def _layer_rules(d_model: int, spec: LayerSpec, source: str, target: str) -> Iterator[Rule]:
    if isinstance(spec, AttentionSpec):
        yield from _attention_rules(d_model, spec, source, target)
    elif isinstance(spec, TalkingHeadsSpec):
        yield from _talking_heads_rules(d_model, spec, source, target)
    elif isinstance(spec, FeedForwardSpec):
        yield Rule(rf"{source}/(?P<name>wi|wi_\d+|wo)/kernel", f"{target}.{{name}}.weight", _TRANSPOSE)
        yield Rule(rf"{source}/(?P<name>wi|wi_\d+|wo)/bias", f"{target}.{{name}}.bias")
    elif isinstance(spec, MixtureSpec):
        yield from _mixture_rules(spec, source, target)


def _attention_rules(d_model: int, spec: AttentionSpec, source: str, target: str) -> Iterator[Rule]:
    width = (("d_kv", spec.d_kv),)
    query, memory = (*spec.query_heads, *width), (*spec.memory_heads, *width)
    if spec.combine_dims:
        yield Rule(rf"{source}/(?P<name>q|k|v|kv|o)", f"{target}.{{name}}.weight", _TRANSPOSE)
    else:
        yield Rule(f"{source}/q", f"{target}.q.weight", _flat_output(d_model, query))
        yield Rule(f"{source}/(?P<name>k|v|kv)", f"{target}.{{name}}.weight", _flat_output(d_model, memory))
        yield Rule(f"{source}/o", f"{target}.o.weight", _flat_input(query, d_model))
    buckets = spec.relative_attention_num_buckets
    yield _bias_rule(spec, spec.query_heads, source, target)
    if is_self_attention(spec):
        after = (spec.num_heads, spec.d_kv, buckets)
        before = (*(n for _, n in query), buckets)
        yield Rule(
            f"{source}/relative_attention_ak/kernel",
            f"{target}.relative_attention_ak.weight",
            () if before == after else (Reshape(before, after),),
        )


def _bias_rule(spec: AttentionSpec | TalkingHeadsSpec, heads: Dims, source: str, target: str) -> Rule:
    prefix = "" if is_self_attention(spec) else "enc_dec_"
    buckets = spec.relative_attention_num_buckets
    before = (*(n for _, n in heads), buckets)
    flat: tuple[Op, ...] = () if len(heads) == 1 else (Reshape(before, (size(heads), buckets)),)
    return Rule(
        f"{source}/{prefix}relative_attention_bias",
        f"{target}.relative_attention_bias.weight",
        (*flat, Transpose()),
    )


def _talking_heads_rules(d_model: int, spec: TalkingHeadsSpec, source: str, target: str) -> Iterator[Rule]:
    keys = (*spec.key_heads, ("d_k", spec.d_k))
    values = (*spec.value_heads, ("d_v", spec.d_v))
    yield Rule(f"{source}/(?P<name>q|k)/kernel", f"{target}.{{name}}.weight", _flat_output(d_model, keys))
    yield Rule(f"{source}/v/kernel", f"{target}.v.weight", _flat_output(d_model, values))
    yield Rule(f"{source}/y/kernel", f"{target}.o.weight", _flat_input(values, d_model))
    yield _bias_rule(spec, spec.softmax_heads, source, target)
    for name, (inputs, outputs) in spec.head_projections.items():
        yield Rule(f"{source}/{name}/kernel", f"{target}.{name}.weight")
        yield Rule(
            rf"{source}/{name}/{name}_dynamic_(?P<i>\d+)/kernel",
            f"{target}.{name}.dynamic.{{i}}.weight",
            _flat_output(d_model, kernel_dims(inputs, outputs)),
        )


def _mixture_rules(spec: MixtureSpec, source: str, target: str) -> Iterator[Rule]:
    yield Rule(f"{source}/{spec.gating}_gating/kernel", f"{target}.router.classifier.weight", _TRANSPOSE)
    yield Rule(
        rf"{source}/(?P<name>wi|wi_\d+|wo)/kernel",
        f"{target}.experts.expert_{{part}}.{{name}}.weight",
        _TRANSPOSE,
        parts=spec.num_experts,
    )


def _flat_output(d_model: int, dims: Dims) -> tuple[Op, ...]:
    """[d_model, heads, d_kv] -> [heads*d_kv, d_model]."""
    before = (d_model, *(n for _, n in dims))
    return (Reshape(before, (d_model, size(dims))), Transpose())


def _flat_input(dims: Dims, d_model: int) -> tuple[Op, ...]:
    """[heads, d_kv, d_model] -> [d_model, heads*d_kv]."""
    before = (*(n for _, n in dims), d_model)
    return (Reshape(before, (size(dims), d_model)), Transpose())
