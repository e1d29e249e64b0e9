"""What the networks of T5X have no setting for, so that a model that needs it is refused, not written wrong.

T5X's own networks fix numbers that flaxformer's, with which LongT5 is built, take from their config.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.errors import Problem
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec
from porting.ports.t5.t5x.names import SUBLAYERS
from porting.ports.t5.t5x.to_gin import FLAX_ACTIVATIONS

_EPSILON = 1e-6  # of LayerNorm in T5X's layers.py
_BUCKETS = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}  # in network.py
_PLAIN = {"shared_kv": False, "fold_scaling_into_initializer": True}
_SIZES = ("num_heads", "d_kv", "d_ff", "activations")


def is_long(architecture: Architecture) -> bool:
    """Whether an encoder attends as LongT5's does."""
    encoder = architecture.encoder
    return encoder is not None and any(isinstance(spec, LocalAttentionSpec) for spec in encoder.layers)


def unlike_t5x(architecture: Architecture) -> Iterator[Problem]:
    """A problem for each thing that T5X's networks, or flaxformer's for a LongT5, cannot be told."""
    if not architecture.is_encoder_decoder:
        found = ", ".join(architecture.stacks)
        yield Problem("encoder, decoder", "both, as T5X's T5 has them", found)
        return
    if not architecture.shares_embedding:
        yield Problem("shared_embedding", "one embedding for both stacks", "one for each")
    if architecture.scale_embedding:
        yield Problem("scale_embedding", "false: T5X scales hidden states, not embeddings", "true")
    long = is_long(architecture)
    if architecture.layer_norm_epsilon != _EPSILON and not long:
        expected = f"{_EPSILON}, which is fixed in T5X"
        yield Problem("layer_norm_epsilon", expected, f"{architecture.layer_norm_epsilon}")
    for name, stack in architecture.stacks.items():
        if stack.positions:
            yield Problem(f"{name}.positions", "none but relative ones", f"{stack.positions}")
        kinds = [spec.kind for spec in stack.layers]
        attention = ["SelfAttention"] if name == "encoder" else ["SelfAttention", "EncDecAttention"]
        if name == "encoder" and kinds and isinstance(stack.layers[0], LocalAttentionSpec):
            attention = kinds[:1]
        block = [*attention, "DenseReluDense"]
        if len(kinds) % len(block) or kinds != block * (len(kinds) // len(block)):
            modules = ", ".join(sub.module for sub in SUBLAYERS[name])
            yield Problem(f"{name}.layers", f"blocks of {modules}", ", ".join(kinds))
        for i, spec in enumerate(stack.layers):
            for problem in _layer(spec, long=long):
                yield Problem(f"{name}.layers.{i}.{spec.kind}.{problem.key}", problem.expected, problem.found)
    yield from _differing(architecture)


def _layer(spec: LayerSpec, *, long: bool) -> Iterator[Problem]:
    if isinstance(spec, FeedForwardSpec):
        if spec.use_bias:
            yield Problem("use_bias", "false", "true")
        for name in spec.activations:
            if name not in FLAX_ACTIVATIONS:
                yield Problem("activations", f"of {', '.join(FLAX_ACTIVATIONS)}", name)
    if isinstance(spec, LocalAttentionSpec) and spec.relative_attention_type != "bias_shared":
        yield Problem("relative_attention_type", "bias_shared", f"{spec.relative_attention_type}")
    if not isinstance(spec, AttentionSpec):
        return
    for name, wanted in _PLAIN.items():
        if getattr(spec, name) != wanted:
            yield Problem(name, f"{wanted}", f"{getattr(spec, name)}")
    if spec.num_memory_heads not in (0, spec.num_heads):
        yield Problem(
            "num_memory_heads", f"{spec.num_heads}, as the queries have", f"{spec.num_memory_heads}"
        )
    relative = spec.relative_attention_type
    own = ("bias_shared",) if long else ("bias", "bias_shared")
    kinds = own if spec.kind == "SelfAttention" else (None,)
    if relative not in kinds:
        yield Problem("relative_attention_type", " or ".join(map(str, kinds)), f"{relative}")
    for name, fixed in _BUCKETS.items() if relative and not long else ():
        if getattr(spec, name) != fixed:
            yield Problem(name, f"{fixed}, which is fixed in T5X", f"{getattr(spec, name)}")


def _differing(architecture: Architecture) -> Iterator[Problem]:
    """Sizes of which T5X has one for all layers."""
    specs = [spec for stack in architecture.stacks.values() for spec in stack.layers]
    for name in _SIZES:
        found = dict.fromkeys(getattr(spec, name) for spec in specs if hasattr(spec, name))
        if len(found) > 1:
            yield Problem(name, "the same in all layers", " and ".join(str(value) for value in found))
    tables = {
        spec.relative_attention_type
        for spec in specs
        if isinstance(spec, AttentionSpec | LocalAttentionSpec) and spec.relative_attention_type
    }
    if len(tables) > 1:
        yield Problem("relative_attention_type", "the same in both stacks", " and ".join(sorted(tables)))
