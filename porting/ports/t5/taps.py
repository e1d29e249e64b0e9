"""Where the PyTorch T5 is listened to. Names are module paths; `reference.py` taps the original under them.

The two lists are made apart on purpose: a tap that only one side has is reported, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import (
    AttentionSpec,
    LocalAttentionSpec,
    TalkingHeadsSpec,
    TransientGlobalAttentionSpec,
    kernel_dims,
)
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, activation_modules, is_self_attention
from porting.ports.t5.spec_problems import Dims
from porting.tap import Tap

HIDDEN = "batch length d_model"
# Scores of hidden positions are around -1e9 (MASK_BIAS in context.py): float32 has no digits left there.
MASKED_BELOW = -1e8


def taps(config: Config) -> list[Tap]:
    """Every tapped tensor of a T5 of this configuration, stack by stack."""
    architecture = config.architecture
    stacks = architecture.stacks.items()
    return [
        *(tap for name, stack in stacks for tap in _stack(architecture, name, stack)),
        Tap("logits", "batch length vocab"),
        Tap("loss", ""),
    ]


def _stack(config: Architecture, name: str, stack: StackSpec) -> Iterator[Tap]:
    yield Tap(f"{name}.embed_tokens", HIDDEN)
    if stack.positions:
        yield Tap(f"{name}.embed_positions", HIDDEN)
    for place in stack.places:
        layer, spec = f"{name}.{place.path}", place.spec
        path = f"{layer}.{config.module_name(spec)}"
        yield Tap(f"{layer}.layer_norm", HIDDEN)
        yield Tap(f"{layer}.mask_padding", HIDDEN)
        if isinstance(spec, AttentionSpec):
            yield from _attention(spec, path)
        elif isinstance(spec, TalkingHeadsSpec):
            yield from _talking_heads(spec, path)
        elif isinstance(spec, LocalAttentionSpec):
            yield from _local_attention(spec, path)
        elif isinstance(spec, FeedForwardSpec):
            yield from _feed_forward(spec, path)
        else:
            yield from _mixture(path)
        yield Tap(layer, HIDDEN)
    yield Tap(f"{name}.final_layer_norm", HIDDEN)
    yield Tap(name, HIDDEN)


def _attention(spec: AttentionSpec, path: str) -> Iterator[Tap]:
    width = (("d_kv", spec.d_kv),)
    queries, memory = spec.query_heads, spec.memory_heads
    if spec.fold_scaling_into_initializer:
        yield _tap(f"{path}.q", "batch length {}", queries, width)
    else:
        yield _tap(f"{path}.scaled_q", "batch {} length d_kv", queries)
    for name in ("kv",) if spec.shared_kv else ("k", "v"):
        yield _tap(f"{path}.{name}", "batch memory_length {}", memory, width)
    if spec.relative_attention_type:
        batch = spec.relative_attention_type == "contextual" or not is_self_attention(spec)
        dims = "batch {} length memory_length" if batch else "{} length memory_length"
        yield _tap(f"{path}.position_bias", dims, queries)
    yield _tap(f"{path}.scores", "batch {} length memory_length", queries, hidden_below=MASKED_BELOW)
    yield _tap(f"{path}.weights", "batch {} length memory_length", queries)
    yield _tap(f"{path}.attended", "batch {} length d_kv", queries)
    yield Tap(f"{path}.o", HIDDEN)


def _talking_heads(spec: TalkingHeadsSpec, path: str) -> Iterator[Tap]:
    pairs = "batch {} length memory_length"
    yield _tap(f"{path}.q", "batch length {}", spec.key_heads, (("d_k", spec.d_k),))
    yield _tap(f"{path}.k", "batch memory_length {}", spec.key_heads, (("d_k", spec.d_k),))
    yield _tap(f"{path}.v", "batch memory_length {}", spec.value_heads, (("d_v", spec.d_v),))
    if kernel_dims(*spec.head_projections["logits"]):
        yield _tap(f"{path}.logits", pairs, spec.softmax_heads)
    if spec.relative_attention_type:
        dims = "{} length memory_length" if is_self_attention(spec) else pairs
        yield _tap(f"{path}.position_bias", dims, spec.softmax_heads)
    yield _tap(f"{path}.scores", pairs, spec.softmax_heads, hidden_below=MASKED_BELOW)
    yield _tap(f"{path}.softmax", pairs, spec.softmax_heads)
    if kernel_dims(*spec.head_projections["weights"]):
        yield _tap(f"{path}.weights", pairs, spec.value_heads)
    yield _tap(f"{path}.attended", "batch {} length d_v", spec.value_heads)
    yield Tap(f"{path}.o", HIDDEN)


def _local_attention(spec: LocalAttentionSpec, path: str) -> Iterator[Tap]:
    """Shapes: see local_attention.py and transient_global_attention.py, whose names the dimensions have."""
    heads, width = spec.softmax_heads, (("d_kv", spec.d_kv),)
    window = "batch heads blocks block_length window_length"
    side = "batch heads blocks block_length global_length"
    with_summaries = isinstance(spec, TransientGlobalAttentionSpec)
    if with_summaries:
        yield Tap(f"{path}.summaries", "batch global_length d_model")
        yield Tap(f"{path}.global_input_layer_norm", "batch global_length d_model")
    yield _tap(f"{path}.q", "batch length {}", heads, width)
    for name in ("k", "v"):
        yield _tap(f"{path}.{name}", "batch memory_length {}", heads, width)
    if with_summaries:
        for name in ("side_k", "side_v"):
            yield _tap(f"{path}.{name}", "batch global_length {}", heads, width)
    if spec.relative_attention_type:
        yield Tap(f"{path}.position_bias", "heads block_length window_length")
    yield Tap(f"{path}.scores", window, hidden_below=MASKED_BELOW)
    if with_summaries:
        if spec.relative_attention_type:
            yield Tap(f"{path}.side_position_bias", "heads batch length global_length")
        yield Tap(f"{path}.side_scores", side, hidden_below=MASKED_BELOW)
    yield Tap(f"{path}.weights", window)
    if with_summaries:
        yield Tap(f"{path}.side_weights", side)
    yield _tap(f"{path}.attended", "batch length {}", heads, width)
    yield Tap(f"{path}.o", HIDDEN)


def _feed_forward(spec: FeedForwardSpec, path: str) -> Iterator[Tap]:
    inner = "batch length d_ff"
    for projection, activation in zip(spec.projections, activation_modules(spec.activations), strict=True):
        yield Tap(f"{path}.{projection}", inner)
        if activation:
            yield Tap(f"{path}.{activation}", inner)
    yield Tap(f"{path}.hidden", inner)
    yield Tap(f"{path}.wo", HIDDEN)


def _mixture(path: str) -> Iterator[Tap]:
    places = "experts batch_unsplit expert_capacity"
    yield Tap(f"{path}.router.logits", "batch group expert_unsplit")
    yield Tap(f"{path}.expert_inputs", f"{places} d_model")
    yield Tap(f"{path}.hidden", f"{places} expert_hidden")
    yield Tap(f"{path}.expert_outputs", f"{places} d_model")
    yield Tap(path, HIDDEN)


def _tap(name: str, dims: str, heads: Dims, width: Dims = (), *, hidden_below: float | None = None) -> Tap:
    """A tap whose `{}` is one axis that holds these heads, and a width: `(heads d_kv)`, or `1` for none."""
    axis = (*heads, *width)
    names = " ".join(dim for dim, _ in axis)
    group = f"({names})" if len(axis) > 1 else names or "1"
    return Tap(name, dims.format(group), dict(axis) if len(axis) > 1 else {}, hidden_below=hidden_below)
