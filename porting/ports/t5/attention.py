"""T5's attention as Mesh TensorFlow computes it: relative positions, visibility, fused or listened to.

Shapes: b batch, l length (queries), m memory_length (keys and values), h heads, k d_kv, d d_model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porting.ports.t5.cache import AttentionCache
from porting.ports.t5.config import T5Config
from porting.ports.t5.layers import Tap

# What a hidden position adds to its score (`visibility_mask_to_attention_bias` in Mesh's attention.py).
MASK_BIAS = -1e9


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


def same_sequence(ids: Tensor, memory_ids: Tensor) -> Tensor:
    """Whether query and memory position carry the same sequence id: [b, l], [b, m] -> [b, 1, l, m]."""
    return (ids[:, :, None] == memory_ids[:, None, :]).unsqueeze(1)


def visibility_bias(visible: Tensor) -> Tensor:
    """0 where visible, MASK_BIAS where not, float32."""
    return (~visible).float() * MASK_BIAS


def softmax(scores: Tensor) -> Tensor:
    """exp(scores - logsumexp(scores)) over the last axis, float32, as Mesh computes it (`mtf.softmax`).

    For a row whose every position is hidden, all scores are MASK_BIAS, and the logarithm of their number is
    lost in float32 beside it: every weight is 1, where torch.softmax gives 1/m.
    """
    # Tensor.logsumexp has the same value and, in such a row, not the original's gradient.
    largest = scores.detach().amax(-1, keepdim=True)
    total = (scores - largest).exp().sum(-1, keepdim=True)
    return (scores - (total.log() + largest)).exp()


@dataclass(frozen=True)
class Visibility:
    """Who sees whom.

    Attributes:
        bias: [b, 1, l, m] float32, 0 where visible, large and negative where not; None where all is visible.
        total_weight: [b, 1, l, 1], what the weights of a query sum to: 1, or m for one that sees nothing;
            None where every query sees something.
        needs_gradient: a query that is no padding sees nothing, and gradients are taken. The fused kernel's
            backward pass is wrong there: it keeps the logsumexp, in which the logarithm of m is lost.
    """

    bias: Tensor | None = None
    total_weight: Tensor | None = None
    needs_gradient: bool = False

    @classmethod
    def of_memory(cls, sequence_ids: Tensor, memory_sequence_ids: Tensor) -> Visibility:
        """From the ids of queries [b, l] and memory [b, m], which may leave a query with nothing to see."""
        visible = same_sequence(sequence_ids, memory_sequence_ids)
        sees = visible.any(-1, keepdim=True)
        blind = ~sees & (sequence_ids != 0)[:, None, :, None]
        return cls(
            visibility_bias(visible),
            total_weight=torch.where(sees, 1.0, float(memory_sequence_ids.shape[1])),
            needs_gradient=torch.is_grad_enabled() and bool(blind.any()),
        )


class T5Attention(nn.Module):
    """Multi-head attention without scaling of the scores: 1/sqrt(d_kv) was folded into q's initializer."""

    def __init__(
        self, config: T5Config, *, bidirectional: bool = False, has_position_bias: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.bidirectional = bidirectional
        self.q = nn.Linear(config.d_model, config.inner_dim, bias=False)
        self.k = nn.Linear(config.d_model, config.inner_dim, bias=False)
        self.v = nn.Linear(config.d_model, config.inner_dim, bias=False)
        self.o = nn.Linear(config.inner_dim, config.d_model, bias=False)
        if has_position_bias:
            self.relative_attention_bias = nn.Embedding(
                config.relative_attention_num_buckets, config.num_heads
            )
        self.position_bias = Tap()
        self.scores = Tap()
        self.weights = Tap()
        self.attended = Tap()

    def compute_position_bias(self, length: int, memory_length: int, offset: int = 0) -> Tensor:
        """What each head adds to a score by relative position, [h, l, m]; queries start at `offset`."""
        device = self.relative_attention_bias.weight.device
        queries = torch.arange(offset, offset + length, device=device)
        memory = torch.arange(memory_length, device=device)
        buckets = relative_position_bucket(
            memory[None, :] - queries[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return self.relative_attention_bias(buckets).permute(2, 0, 1)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        visibility: Visibility,
        position_bias: Tensor | None = None,
        cache: AttentionCache | None = None,
    ) -> Tensor:
        """Attend from x [b, l, d] to memory [b, m, d] (None: to x itself).

        Args:
            x: where queries come from.
            memory: where keys and values come from; None is self-attention.
            visibility: who sees whom.
            position_bias: [h, l, m], None where there is none.
            cache: keys and values of earlier steps; extended (self) or filled once (memory).

        Returns:
            [b, l, d]
        """
        q = self._split_heads(self.q(x))
        if cache is None:
            source = x if memory is None else memory
            k, v = self._split_heads(self.k(source)), self._split_heads(self.v(source))
        elif memory is None:
            k, v = cache.append(self._split_heads(self.k(x)), self._split_heads(self.v(x)))
        else:
            k, v = cache.fill_once(
                lambda: (self._split_heads(self.k(memory)), self._split_heads(self.v(memory)))
            )
        bias = visibility.bias
        if position_bias is not None:
            position_bias = self.position_bias(position_bias)
            bias = position_bias if bias is None else bias + position_bias
        if self.scores.hooked or self.weights.hooked or visibility.needs_gradient:
            attended = self._explicit(q, k, v, bias)
        else:
            attended = _fused(q, k, v, bias, visibility.total_weight)
        attended = self.attended(attended)  # [b, h, l, k]
        return self.o(attended.transpose(1, 2).flatten(2))

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k^T + bias) v, all [b, h, ., k], step by step as in the original."""
        scores = q.float() @ k.float().transpose(-1, -2)  # [b, h, l, m]
        if bias is not None:
            scores = scores + bias
        weights = self.weights(softmax(self.scores(scores)))
        return weights.to(v.dtype) @ v

    def _split_heads(self, x: Tensor) -> Tensor:
        """[b, l, h*k] -> [b, h, l, k]"""
        return x.view(*x.shape[:-1], self.config.num_heads, self.config.d_kv).transpose(1, 2)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, total_weight: Tensor | None) -> Tensor:
    """The same in one kernel, whose weights sum to 1 in every row."""
    # -inf, which float16 would make of the mask, gives NaN where everything is hidden
    mask = None if bias is None else bias.clamp(min=torch.finfo(q.dtype).min).to(q.dtype)
    mean = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return mean if total_weight is None else mean * total_weight.to(mean.dtype)
