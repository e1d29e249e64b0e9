"""Relative position biases: what a head adds to a score by how far apart two positions are.

Shapes: b batch, l length (queries), m memory_length (keys and values), h heads, k d_kv, n buckets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from porting.ports.t5.attention_specs import RelativePositions


def relative_position_bucket(
    relative_position: Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """Bucket of each relative position (memory position - query position), int64 in [0, num_buckets).

    Half of the buckets hold one distance each, the others grow logarithmically up to max_distance; all
    farther ones share the last. One-directional attention sees the past only.

    The float32 steps are those of Mesh's `_relative_position_bucket`, which divides by a constant through
    multiplying by its reciprocal: at a bucket's edge another order of rounding gives another bucket.
    """
    n = -relative_position
    offset = torch.zeros_like(n)
    if bidirectional:
        num_buckets //= 2
        offset = (n < 0).long() * num_buckets
        n = n.abs()
    else:
        n = n.clamp(min=0)
    max_exact = num_buckets // 2
    scaled = torch.log(n.clamp(min=1).float() * (1.0 / max_exact))
    scaled = scaled * (1.0 / math.log(max_distance / max_exact)) * float(num_buckets - max_exact)
    large = (max_exact + scaled.long()).clamp(max=num_buckets - 1)
    return offset + torch.where(n < max_exact, n, large)


def buckets(spec: RelativePositions, relative_position: Tensor, *, bidirectional: bool) -> Tensor:
    """Buckets of relative positions as a layer counts them."""
    return relative_position_bucket(
        relative_position,
        bidirectional=bidirectional,
        num_buckets=spec.relative_attention_num_buckets,
        max_distance=spec.relative_attention_max_distance,
    )


class RelativeAttentionBias(nn.Embedding):
    """A table [n, h]: one number for each bucket and head."""

    def __init__(self, spec: RelativePositions, num_heads: int, *, bidirectional: bool) -> None:
        super().__init__(spec.relative_attention_num_buckets, num_heads)
        self.spec, self.bidirectional = spec, bidirectional

    def forward(self, relative_position: Tensor) -> Tensor:
        """[..., l, m] -> [..., h, l, m]"""
        index = buckets(self.spec, relative_position, bidirectional=self.bidirectional)
        return super().forward(index).movedim(-1, -3)


class ContextualAttentionBias(nn.Module):
    """A number for each bucket and head, computed from the query: weight [h, k, n]."""

    def __init__(self, spec: RelativePositions, num_heads: int, d_kv: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.spec, self.bidirectional = spec, bidirectional
        self.weight = nn.Parameter(torch.empty(num_heads, d_kv, spec.relative_attention_num_buckets))
        nn.init.normal_(self.weight, std=d_kv**-0.5)

    def forward(self, q: Tensor, relative_position: Tensor) -> Tensor:
        """[b, h, l, k], [l, m] -> [b, h, l, m]"""
        values = q @ self.weight  # [b, h, l, n]
        index = buckets(self.spec, relative_position, bidirectional=self.bidirectional)
        return values.gather(-1, index.expand(*values.shape[:2], *index.shape))
