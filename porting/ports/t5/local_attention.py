"""LongT5's local attention: a position sees those within a radius, in memory that is linear in length.

Paper: Guo et al., "LongT5: Efficient Text-To-Text Transformer for Long Sequences", arXiv 2112.07916, section
3.1.1. Source: `EncoderLocalSelfAttention` in the original's long_attention.py (flaxformer).

Positions are laid out in blocks that are one longer than the radius, so that whatever is within the radius of
a position lies in its block or beside it: each block of queries meets three blocks of keys. Of these pairs,
those are seen that are within the radius and carry the same sequence id. So real positions see what they see
in the original, packed examples never see each other, and padding sees the padding around it, as in Mesh (the
original lets it take the mean of everything around). What fills up the last block has an id of its own.

Shapes: b batch, l length, q block_length (radius + 1), n blocks (l / q, rounded up), w window_length (3 q),
h heads, k d_kv, d d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from porting.ports.t5.architecture import Place
from porting.ports.t5.attention import BiasedAttention
from porting.ports.t5.attention_specs import LocalAttentionSpec
from porting.ports.t5.context import StackContext, visibility_bias
from porting.ports.t5.layers import Tap

# The sequence id of what is no position at all: before the first, behind the last.
NOWHERE = -1
# So many scores are computed at once where nobody listens: 8 MB in float32, less than what a layer's
# activations take at the lengths where it matters.
_SCORES_AT_ONCE = 1 << 21


def into_blocks(x: Tensor, block_length: int, fill: int = 0) -> Tensor:
    """[b, l, ...] -> [b, n, q, ...]; the last block is filled up."""
    missing = -x.shape[1] % block_length
    padded = F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing], value=fill)
    return padded.view(len(x), -1, block_length, *x.shape[2:])


def between_blocks(blocks: Tensor, fill: int = 0) -> Tensor:
    """[b, n, q, ...] -> [b, n + 2, q, ...]: a block of nothing before the first and behind the last."""
    return F.pad(blocks, [0, 0] * (blocks.ndim - 2) + [1, 1], value=fill)


def three_blocks(blocks: Tensor) -> Tensor:
    """[b, n + 2, q, ...] -> [b, n, w, ...]: for each block the one before it, itself, the one behind it."""
    return torch.cat([blocks[:, :-2], blocks[:, 1:-1], blocks[:, 2:]], dim=2)


def window_position(block_length: int) -> Tensor:
    """Position in the three blocks - position of the query, in the middle one: int64 [q, w]."""
    window = torch.arange(3 * block_length)
    return window[None, :] - window[block_length : 2 * block_length, None]


def within_radius(relative_position: Tensor, local_radius: int) -> Tensor:
    """Whether a position is near enough to be seen."""
    return relative_position.abs() <= local_radius


def window_visible(ids: Tensor, relative_position: Tensor, local_radius: int) -> Tensor:
    """Who sees whom in three blocks, bool [b, n, q, w].

    Args:
        ids: sequence ids [b, n + 2, q], NOWHERE where there is no position.
        relative_position: int64 [q, w].
        local_radius: how far is seen.
    """
    same = ids[:, 1:-1, :, None] == three_blocks(ids)[:, :, None, :]
    return same & within_radius(relative_position, local_radius)


@dataclass(frozen=True)
class Windows:
    """Blocks of queries and what they meet.

    Attributes:
        q: [b, n, q, h*k].
        k, v: [b, n + 2, q, h*k], a block more on either side.
        ids: sequence ids [b, n + 2, q].
        relative_position: int64 [q, w].
        bias: of relative positions, [h, q, w]; None where there is none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    ids: Tensor
    relative_position: Tensor
    bias: Tensor | None

    def part(self, first: int, last: int) -> Self:
        """The blocks from the first up to the last."""
        beside = slice(first, last + 2)
        return replace(
            self,
            q=self.q[:, first:last],
            k=self.k[:, beside],
            v=self.v[:, beside],
            ids=self.ids[:, beside],
        )


class LocalAttention(BiasedAttention):
    """Self-attention within a radius. Scores are not scaled, as T5's are not."""

    def __init__(self, d_model: int, place: Place, *, bias_holder: int | None) -> None:
        spec = place.spec
        assert isinstance(spec, LocalAttentionSpec)
        super().__init__(place, spec.num_heads, bias_holder=bias_holder, bidirectional=True)
        self.spec = spec
        width = spec.num_heads * spec.d_kv
        self.q = nn.Linear(d_model, width, bias=False)
        self.k = nn.Linear(d_model, width, bias=False)
        self.v = nn.Linear(d_model, width, bias=False)
        self.o = nn.Linear(width, d_model, bias=False)
        self.scores = Tap()
        self.weights = Tap()
        self.attended = Tap()

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        windows = self.windows(x, context)
        attended = torch.cat([*self._in_parts(windows)], dim=1)  # [b, n, q, h*k]
        output: Tensor = self.o(self.attended(attended.flatten(1, 2)[:, : x.shape[1]]))
        return output

    def relative_position(self, context: StackContext) -> Tensor:
        """Of the three blocks: int64 [q, w]."""
        return window_position(self.spec.block_length).to(context.token_embeddings.device)

    def sequence_ids(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l]; ones where no position is padding."""
        ids = context.sequence_ids
        return x.new_ones(x.shape[:2], dtype=torch.long) if ids is None else ids

    def windows(self, x: Tensor, context: StackContext) -> Windows:
        """All blocks of queries, keys and values."""
        size = self.spec.block_length
        ids = into_blocks(self.sequence_ids(x, context), size, NOWHERE)
        bias = self.held_bias(context)
        return Windows(
            q=into_blocks(self.q(x), size),
            k=between_blocks(into_blocks(self.k(x), size)),
            v=between_blocks(into_blocks(self.v(x), size)),
            ids=between_blocks(ids, NOWHERE),
            relative_position=self.relative_position(context),
            bias=None if bias is None else self.position_bias(bias),
        )

    def attend(self, part: Windows) -> Tensor:
        """What the queries of some blocks take from the values: [b, n, q, h*k]."""
        v = self.per_head(three_blocks(part.v))
        weights = self.weights(torch.softmax(self.scores(self.window_scores(part)), dim=-1))
        return self.all_heads(weights.to(v.dtype) @ v)

    def window_scores(self, part: Windows) -> Tensor:
        """float32 [b, h, n, q, w]"""
        q, k = self.per_head(part.q), self.per_head(three_blocks(part.k))
        scores = q.float() @ k.float().transpose(-1, -2)
        if part.bias is not None:
            scores = scores + part.bias[:, None]
        visible = window_visible(part.ids, part.relative_position, self.spec.local_radius)
        return scores + visibility_bias(visible)[:, None]

    def per_head(self, x: Tensor) -> Tensor:
        """[b, ..., h*k] -> [b, h, ..., k]"""
        return x.reshape(*x.shape[:-1], self.spec.num_heads, self.spec.d_kv).movedim(-2, 1)

    def all_heads(self, x: Tensor) -> Tensor:
        """[b, h, ..., k] -> [b, ..., h*k]"""
        return x.movedim(1, -2).flatten(-2)

    @property
    def inner_taps(self) -> tuple[Tap, ...]:
        """What is wanted whole where it is listened to."""
        return self.scores, self.weights

    def scores_of_a_query(self, windows: Windows) -> int:
        """Positions that a query meets."""
        del windows
        return 3 * self.spec.block_length

    def _in_parts(self, windows: Windows) -> Iterator[Tensor]:
        """Some blocks after the other, so that the scores of all are never held together."""
        batch, number, length = windows.q.shape[:3]
        each = batch * self.spec.num_heads * length * self.scores_of_a_query(windows)
        heard = any(tap.hooked for tap in self.inner_taps)
        step = number if heard else max(1, _SCORES_AT_ONCE // each)
        for first in range(0, number, step):
            part = windows.part(first, first + step)
            if torch.is_grad_enabled() and step < number:  # their scores are computed again going back
                yield checkpoint(self.attend, part, use_reentrant=False)
            else:
                yield self.attend(part)
