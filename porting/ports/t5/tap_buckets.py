"""Which relative-position bucket each pair of positions of a tapped attention tensor falls into."""

from __future__ import annotations

import numpy as np

from porting.ports.t5.attention_specs import LocalAttentionSpec, RelativePositions
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import is_self_attention

_PAIRWISE = ("position_bias", "logits", "scores", "softmax", "weights")


def tap_buckets(config: Config, name: str, queries: int, memory: int) -> np.ndarray | None:
    """Buckets, int64 [queries, memory], of a tap of self-attention that has relative positions; else None.

    Positions towards the encoder are counted between spans, which depend on the ids: there is no one bucket
    for a pair of positions there, nor for a position and a summary of LongT5's.
    """
    architecture = config.architecture
    for stack_name, stack in architecture.stacks.items():
        for place in stack.places:
            spec = place.spec
            path = f"{stack_name}.{place.path}.{architecture.module_name(spec)}."
            tensor = name.removeprefix(path)
            if tensor == name or tensor not in _PAIRWISE:
                continue
            if not is_self_attention(spec) or not isinstance(spec, RelativePositions):
                return None
            if not spec.relative_attention_type:
                return None
            return _buckets(spec, queries, memory, bidirectional=stack.bidirectional)
    return None


def _buckets(spec: RelativePositions, queries: int, memory: int, *, bidirectional: bool) -> np.ndarray:
    import torch

    from porting.ports.t5.relative_positions import buckets

    # Of local attention a block's queries look at three blocks, the second of which is their own.
    before = spec.block_length if isinstance(spec, LocalAttentionSpec) else 0
    offsets = torch.arange(memory)[None, :] - before - torch.arange(queries)[:, None]
    return buckets(spec, offsets, bidirectional=bidirectional).numpy()
