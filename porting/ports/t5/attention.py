"""T5's attention as Mesh TensorFlow computes it: heads in every grouping, fused or listened to.

Shapes: b batch, l length (queries), m memory_length (keys and values), h heads, g heads of keys and values,
k d_kv, d d_model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porting.ports.t5.architecture import Place
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TalkingHeadsSpec
from porting.ports.t5.context import StackContext, Visibility
from porting.ports.t5.layer_specs import is_self_attention
from porting.ports.t5.layers import Tap
from porting.ports.t5.relative_positions import ContextualAttentionBias, RelativeAttentionBias
from porting.ports.t5.spec_problems import size


def softmax(scores: Tensor) -> Tensor:
    """exp(scores - logsumexp(scores)) over the last axis, float32, as Mesh computes it (`mtf.softmax`).

    For a row whose every position is hidden, all scores are MASK_BIAS, and the logarithm of their number is
    lost in float32 beside it: every weight is 1, where torch.softmax gives 1/m.
    """
    # Tensor.logsumexp has the same value and, in such a row, not the original's gradient.
    largest = scores.detach().amax(-1, keepdim=True)
    total = (scores - largest).exp().sum(-1, keepdim=True)
    return (scores - (total.log() + largest)).exp()


class BiasedAttention(nn.Module):
    """What every attention has: its place in the stack, what it attends to, and a bias, held or shared.

    Args:
        place: which layer this is.
        num_heads: heads of the scores.
        bias_holder: number of the layer whose table of relative positions is used; None: there is none.
        bidirectional: whether relative positions tell before from behind.
    """

    relative_attention_bias: RelativeAttentionBias

    def __init__(self, place: Place, num_heads: int, *, bias_holder: int | None, bidirectional: bool) -> None:
        super().__init__()
        assert isinstance(place.spec, AttentionSpec | TalkingHeadsSpec | LocalAttentionSpec)
        self.number, self.bias_holder = place.number, bias_holder
        self.within_stack = is_self_attention(place.spec)
        if bias_holder == place.number:
            self.relative_attention_bias = RelativeAttentionBias(
                place.spec, num_heads, bidirectional=bidirectional
            )
        if place.spec.relative_attention_type:
            self.position_bias = Tap()

    @staticmethod
    def split_heads(x: Tensor, width: int) -> Tensor:
        """[b, l, heads*width] -> [b, heads, l, width]"""
        return x.view(*x.shape[:-1], -1, width).transpose(1, 2)

    def memory(self, x: Tensor, context: StackContext) -> Tensor:
        """What is attended to: x, or the encoder's output. [b, m, d]"""
        memory = x if self.within_stack else context.memory
        assert memory is not None
        return memory

    def keys_and_values(self, x: Tensor, context: StackContext) -> tuple[Tensor, Tensor]:
        """[b, g, m, k] each: of x and the positions before it, or of the encoder's output."""
        memory = self.memory(x, context)
        cache = context.cache(self.number)
        if cache is None:
            return self.project_memory(memory)
        if self.within_stack:
            return cache.append(*self.project_memory(memory))
        return cache.fill_once(lambda: self.project_memory(memory))

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to: [b, m, d] -> [b, g, m, k] each."""
        raise NotImplementedError

    def visibility(self, context: StackContext) -> Visibility:
        """Who sees whom here."""
        return context.visibility if self.within_stack else context.memory_visibility

    def score_bias(self, position_bias: Tensor | None, context: StackContext) -> Tensor | None:
        """What is added to the scores: who sees whom, and the relative position bias; None: nothing."""
        bias = self.visibility(context).bias
        if position_bias is None:
            return bias
        tapped: Tensor = self.position_bias(position_bias)
        return tapped if bias is None else bias + tapped

    def held_bias(self, context: StackContext) -> Tensor | None:
        """From the layer's own table, or what the layer that holds it left; None where there is none.

        [h, l, m] within a stack, [b, h, l, m] towards the encoder.
        """
        if self.bias_holder is None:
            return None
        if self.bias_holder == self.number:
            positions = self.relative_position(context)
            context.position_biases[self.number] = self.relative_attention_bias(positions)
        return context.position_biases[self.bias_holder]

    def relative_position(self, context: StackContext) -> Tensor:
        """How far apart queries and memory are: int64 [l, m], with b towards the encoder."""
        positions = context.relative_position if self.within_stack else context.memory_relative_position
        assert positions is not None
        return positions


class T5Attention(BiasedAttention):
    """Multi-head attention to the stack itself or to the encoder's output.

    Scores are not scaled: 1/sqrt(d_kv) was folded into q's initializer, unless the spec says otherwise.
    """

    def __init__(self, d_model: int, place: Place, *, bias_holder: int | None, bidirectional: bool) -> None:
        spec = place.spec
        assert isinstance(spec, AttentionSpec)
        super().__init__(place, spec.num_heads, bias_holder=bias_holder, bidirectional=bidirectional)
        self.spec = spec
        memory_width = size(spec.memory_heads) * spec.d_kv
        self.q = nn.Linear(d_model, spec.num_heads * spec.d_kv, bias=False)
        if spec.shared_kv:
            self.kv = nn.Linear(d_model, memory_width, bias=False)
        else:
            self.k = nn.Linear(d_model, memory_width, bias=False)
            self.v = nn.Linear(d_model, memory_width, bias=False)
        self.o = nn.Linear(spec.num_heads * spec.d_kv, d_model, bias=False)
        if spec.relative_attention_type == "contextual":
            self.relative_attention_ak = ContextualAttentionBias(
                spec, spec.num_heads, spec.d_kv, bidirectional=bidirectional
            )
        if not spec.fold_scaling_into_initializer:
            self.scaled_q = Tap()
        self.scores = Tap()
        self.weights = Tap()
        self.attended = Tap()

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        q = self.split_heads(self.q(x), self.spec.d_kv)
        if not self.spec.fold_scaling_into_initializer:
            q = self.scaled_q(q * self.spec.d_kv**-0.5)
        k, v = self.keys_and_values(x, context)
        visibility = self.visibility(context)
        bias = self.score_bias(self.compute_position_bias(q, context), context)
        if k.shape[1] != q.shape[1]:  # [b, g, m, k] -> [b, h, m, k]
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        if self.scores.hooked or self.weights.hooked or visibility.needs_gradient:
            attended = self._explicit(q, k, v, bias)
        else:
            attended = _fused(q, k, v, bias, visibility)
        attended = self.attended(attended)  # [b, h, l, k]
        return self.o(attended.transpose(1, 2).flatten(2))

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[b, m, d] -> [b, g, m, k] each"""
        d_kv = self.spec.d_kv
        if self.spec.shared_kv:
            kv = self.split_heads(self.kv(memory), d_kv)
            return kv, kv
        return self.split_heads(self.k(memory), d_kv), self.split_heads(self.v(memory), d_kv)

    def compute_position_bias(self, q: Tensor, context: StackContext) -> Tensor | None:
        """What each head adds to a score by relative position: [h, l, m], with b where it differs."""
        if self.spec.relative_attention_type == "contextual":
            contextual: Tensor = self.relative_attention_ak(q, self.relative_position(context))
            return contextual
        return self.held_bias(context)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """softmax(q k^T + bias) v, all [b, h, ., k], step by step as in the original."""
        scores = q.float() @ k.float().transpose(-1, -2)  # [b, h, l, m]
        if bias is not None:
            scores = scores + bias
        weights = self.weights(softmax(self.scores(scores)))
        return weights.to(v.dtype) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, visibility: Visibility) -> Tensor:
    """The same in one kernel, whose weights sum to 1 in every row."""
    # -inf, which float16 would make of the mask, gives NaN where everything is hidden
    mask = None if bias is None else bias.clamp(min=torch.finfo(q.dtype).min).to(q.dtype)
    mean = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    total_weight = visibility.total_weight
    return mean if total_weight is None else mean * total_weight.to(mean.dtype)
