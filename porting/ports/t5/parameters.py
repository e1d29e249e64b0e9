"""Names and shapes of the model's parameters, read off its specs: `model.named_parameters()` without PyTorch.

Importing PyTorch takes longer than converting a small T5 does. The order is that of the modules in model.py,
stack.py and the files of the layers; tests hold both against each other.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture, Place, StackSpec
from porting.ports.t5.attention_specs import (
    AttentionSpec,
    LocalAttentionSpec,
    TalkingHeadsSpec,
    TransientGlobalAttentionSpec,
    kernel_dims,
)
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, MixtureSpec
from porting.ports.t5.spec_problems import size

_Parameters = Iterator[tuple[str, Shape]]
# Of what modules share: their scope in the original, the parameter's name in them, its shape.
_Key = tuple[str, str, Shape]


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Parameter name -> shape, in the module's order. Of parameters that modules share, the first name."""
    first: dict[_Key, str] = {}
    found = _every_name(config.architecture)
    return {name: shape for name, key, shape in found if first.setdefault(key, name) == name}


def shared_parameters(config: Config) -> dict[str, str]:
    """Further names of parameters that modules share -> the first name."""
    first: dict[_Key, str] = {}
    names = {name: first.setdefault(key, name) for name, key, _ in _every_name(config.architecture)}
    return {name: original for name, original in names.items() if name != original}


def _every_name(architecture: Architecture) -> Iterator[tuple[str, _Key, Shape]]:
    """(name, what tells whether it is shared, shape) of every parameter of every module."""
    d_model = architecture.d_model

    def below(path: str, scope: str, parameters: _Parameters) -> Iterator[tuple[str, _Key, Shape]]:
        for name, shape in parameters:
            yield f"{path}.{name}", (scope, name, shape), shape

    if architecture.shares_embedding:
        yield from below("shared", "shared/embedding", _weight(architecture.vocab_size, d_model))
    for name, stack in architecture.stacks.items():
        scope = stack.scope
        if not architecture.shares_embedding:
            rows = architecture.embedding_rows[name]
            yield from below(f"{name}.embed_tokens", f"{scope}/embedding", _weight(rows, d_model))
        if stack.positions == "learned":
            owner = "shared" if architecture.shares_positions else scope
            table = _weight(stack.max_length, d_model)
            yield from below(f"{name}.embed_positions", f"{owner}/positions", table)
        for place in stack.places:
            path, source = f"{name}.{place.path}", f"{scope}/{place.scope}"
            yield from below(f"{path}.layer_norm", f"{source}/norm", _weight(d_model))
            module, kind = architecture.module_name(place.spec), place.spec.kind
            yield from below(f"{path}.{module}", f"{source}/{kind}", _layer(architecture, stack, place))
        yield from below(f"{name}.final_layer_norm", f"{scope}/norm", _weight(d_model))
    if not architecture.tie_word_embeddings:
        yield from below("lm_head", "lm_head", _weight(architecture.vocab_size, d_model))


def _weight(*shape: int) -> _Parameters:
    yield "weight", shape


def _layer(architecture: Architecture, stack: StackSpec, place: Place) -> _Parameters:
    """Parameters below the module of a layer."""
    d_model, spec = architecture.d_model, place.spec
    holds_table = stack.bias_holders.get(place.number) == place.number
    if holds_table and isinstance(spec, AttentionSpec | TalkingHeadsSpec | LocalAttentionSpec):
        buckets = spec.relative_attention_num_buckets
        yield "relative_attention_bias.weight", (buckets, size(spec.softmax_heads))
    if isinstance(spec, AttentionSpec):
        yield from _attention(d_model, spec)
    elif isinstance(spec, TalkingHeadsSpec):
        yield from _talking_heads(d_model, spec)
    elif isinstance(spec, LocalAttentionSpec):
        yield from _local_attention(d_model, spec, holds_table=holds_table)
    elif isinstance(spec, FeedForwardSpec):
        yield from _feed_forward(d_model, spec)
    else:
        yield from _mixture(d_model, spec)


def _attention(d_model: int, spec: AttentionSpec) -> _Parameters:
    width, memory_width = spec.num_heads * spec.d_kv, size(spec.memory_heads) * spec.d_kv
    yield "q.weight", (width, d_model)
    for name in ("kv",) if spec.shared_kv else ("k", "v"):
        yield f"{name}.weight", (memory_width, d_model)
    yield "o.weight", (d_model, width)
    if spec.relative_attention_type == "contextual":
        shape = (spec.num_heads, spec.d_kv, spec.relative_attention_num_buckets)
        yield "relative_attention_ak.weight", shape


def _local_attention(d_model: int, spec: LocalAttentionSpec, *, holds_table: bool) -> _Parameters:
    width = spec.num_heads * spec.d_kv
    for name in ("q", "k", "v"):
        yield f"{name}.weight", (width, d_model)
    yield "o.weight", (d_model, width)
    if isinstance(spec, TransientGlobalAttentionSpec):
        if holds_table:
            shape = (spec.relative_attention_num_buckets, spec.num_heads)
            yield "global_relative_attention_bias.weight", shape
        yield "global_input_layer_norm.weight", (d_model,)


def _talking_heads(d_model: int, spec: TalkingHeadsSpec) -> _Parameters:
    keys, values = size(spec.key_heads) * spec.d_k, size(spec.value_heads) * spec.d_v
    yield "q.weight", (keys, d_model)
    yield "k.weight", (keys, d_model)
    yield "v.weight", (values, d_model)
    yield "o.weight", (d_model, values)
    for name, (inputs, outputs) in spec.head_projections.items():
        kernel = kernel_dims(inputs, outputs)
        if kernel:
            yield f"{name}.weight", tuple(n for _, n in kernel)
            for i in range(len(spec.dynamic_sources(name))):
                yield f"{name}.dynamic.{i}.weight", (size(kernel), d_model)


def _feed_forward(d_model: int, spec: FeedForwardSpec | MixtureSpec) -> _Parameters:
    biases = isinstance(spec, FeedForwardSpec) and spec.use_bias
    for name in spec.projections:
        yield f"{name}.weight", (spec.d_ff, d_model)
        if biases:
            yield f"{name}.bias", (spec.d_ff,)
    yield "wo.weight", (d_model, spec.d_ff)
    if biases:
        yield "wo.bias", (d_model,)


def _mixture(d_model: int, spec: MixtureSpec) -> _Parameters:
    yield "router.classifier.weight", (spec.num_experts, spec.router_width(d_model))
    for i in range(spec.num_experts):
        for name, shape in _feed_forward(d_model, spec):
            yield f"experts.expert_{i}.{name}", shape
