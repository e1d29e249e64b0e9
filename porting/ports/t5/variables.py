"""Names and shapes of the variables that Mesh TensorFlow makes for a model, from its config alone.

Layers lie where the config says (`StackSpec.layer_scope`); norms are called `rms_norm`, as Mesh calls them
since 2020. The gin text that to_gin.py writes for these names makes Mesh build exactly these variables.

Sources: `AttentionParams` in Mesh's attention.py, transformer_layers.py, moe.py, vocab_embeddings.py, and
`Unitransformer` in transformer.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture, Place, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TalkingHeadsSpec, kernel_dims
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, MixtureSpec, is_self_attention
from porting.ports.t5.mesh_layers import check_mesh_has
from porting.ports.t5.spec_problems import Dims

_Variables = Iterator[tuple[str, Shape]]


def variables(config: Config) -> dict[str, Shape]:
    """Variable name -> shape: the weights, not the optimizer's slots.

    Raises:
        ConfigError: Mesh TensorFlow has no such layers.
    """
    architecture = config.architecture
    check_mesh_has(architecture)
    found: dict[str, Shape] = {}
    if architecture.shares_embedding:
        found["shared/embedding"] = (architecture.vocab_size, architecture.d_model)
    for name, stack in architecture.stacks.items():
        if not architecture.shares_embedding:
            found[f"{stack.scope}/embedding"] = (architecture.embedding_rows[name], architecture.d_model)
        if stack.positions == "learned":
            owner = "shared" if architecture.shares_positions else stack.scope
            found[f"{owner}/positional_embedding"] = (stack.max_length, architecture.d_model)
        found |= {f"{stack.scope}/{path}": shape for path, shape in _stack(architecture, stack)}
    if not architecture.tie_word_embeddings:
        output = architecture.stacks[architecture.output_stack].scope
        found[f"{output}/logits/kernel"] = (architecture.d_model, architecture.vocab_size)
    return found


def _stack(architecture: Architecture, stack: StackSpec) -> _Variables:
    for place in stack.places:
        yield f"{place.scope}/rms_norm/scale", (architecture.d_model,)
        for path, shape in _layer(architecture.d_model, stack, place):
            yield f"{place.scope}/{place.spec.kind}/{path}", shape
    yield "rms_norm/scale", (architecture.d_model,)


def _layer(d_model: int, stack: StackSpec, place: Place) -> _Variables:
    spec = place.spec
    holds_table = stack.bias_holders.get(place.number) == place.number
    if holds_table and isinstance(spec, AttentionSpec | TalkingHeadsSpec):
        prefix = "" if is_self_attention(spec) else "enc_dec_"
        buckets = spec.relative_attention_num_buckets
        yield f"{prefix}relative_attention_bias", (*_sizes(spec.softmax_heads), buckets)
    if isinstance(spec, AttentionSpec):
        yield from _attention(d_model, spec)
    elif isinstance(spec, TalkingHeadsSpec):
        yield from _talking_heads(d_model, spec)
    elif isinstance(spec, FeedForwardSpec):
        yield from _feed_forward(d_model, spec)
    elif not isinstance(spec, LocalAttentionSpec):
        yield from _mixture(d_model, spec)


def _attention(d_model: int, spec: AttentionSpec) -> _Variables:
    query, memory = (*_sizes(spec.query_heads), spec.d_kv), (*_sizes(spec.memory_heads), spec.d_kv)
    if spec.combine_dims:
        query, memory = (math.prod(query),), (math.prod(memory),)
    yield "q", (d_model, *query)
    for name in ("kv",) if spec.shared_kv else ("k", "v"):
        yield name, (d_model, *memory)
    yield "o", (*query, d_model)
    if spec.relative_attention_type == "contextual":
        heads, buckets = _sizes(spec.query_heads), spec.relative_attention_num_buckets
        yield "relative_attention_ak/kernel", (*heads, spec.d_kv, buckets)


def _talking_heads(d_model: int, spec: TalkingHeadsSpec) -> _Variables:
    keys, values = _sizes(spec.key_heads), _sizes(spec.value_heads)
    yield "q/kernel", (d_model, *keys, spec.d_k)
    yield "k/kernel", (d_model, *keys, spec.d_k)
    yield "v/kernel", (d_model, *values, spec.d_v)
    yield "y/kernel", (*values, spec.d_v, d_model)
    for name, (inputs, outputs) in spec.head_projections.items():
        kernel = _sizes(kernel_dims(inputs, outputs))
        if kernel:
            yield f"{name}/kernel", kernel
            for i in range(len(spec.dynamic_sources(name))):
                yield f"{name}/{name}_dynamic_{i}/kernel", (d_model, *kernel)


def _feed_forward(d_model: int, spec: FeedForwardSpec | MixtureSpec) -> _Variables:
    biases = isinstance(spec, FeedForwardSpec) and spec.use_bias
    for name in spec.projections:
        yield f"{name}/kernel", (d_model, spec.d_ff)
        if biases:
            yield f"{name}/bias", (spec.d_ff,)
    yield "wo/kernel", (spec.d_ff, d_model)
    if biases:
        yield "wo/bias", (d_model,)


def _mixture(d_model: int, spec: MixtureSpec) -> _Variables:
    yield f"{spec.gating}_gating/kernel", (spec.router_width(d_model), spec.num_experts)
    for name, shape in _feed_forward(d_model, spec):
        yield name, (spec.num_experts, *shape)


def _sizes(dims: Dims) -> Shape:
    return tuple(n for _, n in dims)
