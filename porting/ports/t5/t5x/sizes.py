"""Sizes that T5X's variables show, to hold a config against: by the names that transformers has for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec
from porting.ports.t5.t5x.names import is_scanned


def sizes_seen(architecture: Architecture, names: Iterable[str]) -> dict[str, list[Any]]:
    """The values of each size: one, or several where layers or stacks differ.

    Args:
        architecture: what was inferred from the variables.
        names: of the variables.
    """
    stacks, listed = architecture.stacks, list(names)
    specs = [spec for stack in stacks.values() for spec in stack.layers]
    attentions = [spec for spec in specs if isinstance(spec, AttentionSpec | LocalAttentionSpec)]
    return {
        "vocab_size": [architecture.vocab_size],
        "d_model": [architecture.d_model],
        "num_layers": [stacks["encoder"].num_blocks],
        "num_decoder_layers": [stacks["decoder"].num_blocks],
        "num_heads": [spec.num_heads for spec in attentions],
        "d_kv": [spec.d_kv for spec in attentions],
        "d_ff": [spec.d_ff for spec in feed_forwards(specs)],
        "tie_word_embeddings": [architecture.tie_word_embeddings],
        "scan_layers": [is_scanned(listed, name) for name in stacks],
        "relative_attention_num_buckets": [
            spec.relative_attention_num_buckets for spec in attentions if spec.relative_attention_type
        ],
    }


def feed_forwards(specs: Sequence[LayerSpec]) -> list[FeedForwardSpec]:
    """The feed-forward layers among some."""
    return [spec for spec in specs if isinstance(spec, FeedForwardSpec)]
