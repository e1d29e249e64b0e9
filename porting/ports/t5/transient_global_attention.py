"""LongT5's transient-global attention: local, and beside it to a summary of each block of tokens.

Paper: Guo et al., arXiv 2112.07916, section 3.1.2: a summary is the sum of a block's embeddings, normalised,
made anew in every layer (hence transient); keys and values of summaries have the projections of the others.
Source: `EtcTransientGlobalSelfAttention` in the original's long_attention.py (flaxformer).

One softmax runs over the three blocks of local attention and all summaries, which a query sees where they are
of its own example. These blocks are smaller than those of local attention and have nothing to do with them.

Which tokens a summary holds is the original's decision (`make_etc_fixed_block_ids`), padding inside included:

- Positions are counted from the beginning of each example. A block is `global_block_size` real tokens in a
  row, the first of which stands at a multiple of that size. Nothing else makes a summary.
- Tokens behind the last full block, too few for one of their own, belong to the one before ("orphans").
- A block that padding interrupts makes no summary. Its first tokens, up to the padding, belong to the summary
  before them; those behind the padding do if the last token of the block is there, else to none. transformers
  numbers blocks by position alone, and so differs from the original where there is padding inside.
- Padding belongs to none, and neither does an example of fewer tokens than a block has. What belongs to none
  stands, for relative positions, before the first summary.

Summaries that no block filled are seen by nobody; the original lets padding see them. Numbers of blocks run
through a whole row: in packed examples the first summary of the second example follows the last of the first,
so that distances within an example are those that it has alone.

Shapes: b batch, l length, q block_length, n blocks and w window_length as in local_attention.py,
g global_length (l / global_block_size, rounded down), h heads, k d_kv, d d_model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from porting.ports.t5.architecture import Place
from porting.ports.t5.attention_specs import TransientGlobalAttentionSpec
from porting.ports.t5.context import StackContext, visibility_bias
from porting.ports.t5.layers import RMSNorm, Tap
from porting.ports.t5.local_attention import NOWHERE, LocalAttention, Windows, three_blocks
from porting.ports.t5.relative_positions import RelativeAttentionBias


def positions_in_examples(ids: Tensor) -> Tensor:
    """Where each token stands in its example, int64 [b, l]; 0 at padding.

    The first example of a row begins where the row begins, whatever is padding there; each other one with its
    first token.
    """
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    real = ids != 0
    latest = torch.where(real, index, -1).cummax(1).values
    before = F.pad(latest, (1, 0), value=-1)[:, :-1]  # the last token before this position, -1: there is none
    begins = real & (before >= 0) & (ids.gather(1, before.clamp(min=0)) != ids)
    return (index - torch.where(begins, index, 0).cummax(1).values) * real


def summary_blocks(ids: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Which summary each token belongs to, and whose each summary is.

    Args:
        ids: sequence ids [b, l], 0 at padding.
        block_size: tokens of a block, 2 or more.

    Returns:
        int64 [b, l], -1 where a token belongs to none; and the sequence ids of the summaries, [b, g], NOWHERE
        where no block fills them.
    """
    position, real = positions_in_examples(ids), ids != 0
    # A stretch is what may become a block: it begins at a multiple of the block's size, and at padding.
    begins = position % block_size == 0
    stretch = begins.cumsum(1) - 1
    ends = position % block_size == block_size - 1  # never padding, whose position is 0

    def holds(of_token: Tensor) -> Tensor:
        """Whether a stretch holds such a token, for each of its tokens."""
        count = torch.zeros_like(position).scatter_add(1, stretch, of_token.long())
        return count.gather(1, stretch) > 0

    begins_block = real & begins & holds(ends)
    belongs = real & (holds(ends) | holds(real & begins & (position > 0)))
    block = torch.where(belongs, begins_block.cumsum(1) - 1, -1)

    number = ids.shape[1] // block_size
    summary_ids = ids.new_full((len(ids), number + 1), NOWHERE)  # the last: what begins no block
    summary_ids = summary_ids.scatter(1, block.where(begins_block, number), ids.where(begins_block, NOWHERE))
    # Padding inside of packed examples could hand tokens to the example before: to none instead.
    own = summary_ids.gather(1, block.clamp(min=0)) == ids
    return block.where(own, -1), summary_ids[:, :number]


def summaries(x: Tensor, block: Tensor, number: int) -> Tensor:
    """Sums of the tokens of each block, added in float32: [b, l, d] -> [b, g, d].

    Args:
        x: [b, l, d].
        block: int64 [b, l], -1 where a token belongs to none.
        number: how many blocks.
    """
    into = block.where(block >= 0, number).unsqueeze(-1).expand_as(x)
    sums = x.new_zeros((len(x), number + 1, x.shape[-1]), dtype=torch.float32).scatter_add(1, into, x.float())
    return sums[:, :number].to(x.dtype)


def side_position(block: Tensor, number: int) -> Tensor:
    """Summary - the block that a token belongs to: int64 [b, l] -> [b, l, g], from -g + 1 to g."""
    return torch.arange(number, device=block.device) - block[..., None]


def summaries_visible(ids: Tensor, summary_ids: Tensor) -> Tensor:
    """Which summaries a position sees: those of its example. [b, l], [b, g] -> bool [b, l, g]"""
    return ids[..., None] == summary_ids[:, None, :]


@dataclass(frozen=True)
class WindowsAndSummaries(Windows):
    """Blocks of queries and what they meet, summaries too.

    Attributes, besides those of Windows:
        side_k, side_v: of the summaries, [b, h, g, k].
        side_bias: of relative positions, [h, 2g + 1], from -g to g; None where there is none.
        block: int64 [b, l], the summary that each position belongs to.
        positions: sequence ids, [b, l].
        summary_ids: [b, g].
    """

    side_k: Tensor
    side_v: Tensor
    side_bias: Tensor | None
    block: Tensor
    positions: Tensor
    summary_ids: Tensor

    def part(self, first: int, last: int) -> Self:
        """The blocks from the first up to the last, with all summaries."""
        length = self.q.shape[2]
        own = slice(first * length, last * length)
        return replace(super().part(first, last), block=self.block[:, own], positions=self.positions[:, own])


class TransientGlobalAttention(LocalAttention):
    """Self-attention within a radius, and to summaries of all blocks."""

    global_relative_attention_bias: RelativeAttentionBias

    def __init__(self, d_model: int, place: Place, *, bias_holder: int | None, epsilon: float) -> None:
        super().__init__(d_model, place, bias_holder=bias_holder)
        spec = place.spec
        assert isinstance(spec, TransientGlobalAttentionSpec)
        self.block_size = spec.global_block_size
        if bias_holder == place.number:
            self.global_relative_attention_bias = RelativeAttentionBias(
                spec, spec.num_heads, bidirectional=True
            )
        self.global_input_layer_norm = RMSNorm(d_model, epsilon)
        self.summaries = Tap()
        self.side_k, self.side_v = Tap(), Tap()
        if spec.relative_attention_type:
            self.side_position_bias = Tap()
        self.side_scores, self.side_weights = Tap(), Tap()

    def windows(self, x: Tensor, context: StackContext) -> WindowsAndSummaries:
        """All blocks of queries, keys and values, and the summaries."""
        ids = self.sequence_ids(x, context)
        block, summary_ids = summary_blocks(ids, self.block_size)
        number = summary_ids.shape[1]
        normed = self.global_input_layer_norm(self.summaries(summaries(x, block, number)))
        windows = super().windows(x, context)
        return WindowsAndSummaries(
            **{f.name: getattr(windows, f.name) for f in fields(windows)},
            # Not by calling the modules, which would be heard a second time.
            side_k=self.per_head(self.side_k(F.linear(normed, self.k.weight))),
            side_v=self.per_head(self.side_v(F.linear(normed, self.v.weight))),
            side_bias=self.held_side_bias(number, context),
            block=block,
            positions=ids,
            summary_ids=summary_ids,
        )

    def held_side_bias(self, number: int, context: StackContext) -> Tensor | None:
        """As `held_bias`, of summaries: [h, 2g + 1]; None: there is none."""
        if self.bias_holder is None:
            return None
        if self.bias_holder == self.number:
            positions = torch.arange(-number, number + 1, device=context.token_embeddings.device)
            table = self.global_relative_attention_bias(positions[None])  # [h, 1, 2g + 1]
            context.side_position_biases[self.number] = table.squeeze(1)
        return context.side_position_biases[self.bias_holder]

    def attend(self, part: Windows) -> Tensor:
        """What the queries of some blocks take from values and summaries: [b, n, q, h*k]."""
        assert isinstance(part, WindowsAndSummaries)
        v = self.per_head(three_blocks(part.v))
        scores = self.scores(self.window_scores(part))
        side_scores = self.side_scores(self.summary_scores(part))
        weights = torch.softmax(torch.cat([scores, side_scores], dim=-1), dim=-1)
        near = self.weights(weights[..., : scores.shape[-1]]).to(v.dtype)
        far = self.side_weights(weights[..., scores.shape[-1] :]).to(v.dtype)
        attended = near @ v  # [b, h, n, q, k]
        return self.all_heads(attended + (far.flatten(2, 3) @ part.side_v).view_as(attended))

    def summary_scores(self, part: WindowsAndSummaries) -> Tensor:
        """float32 [b, h, n, q, g]"""
        number, length = part.q.shape[1:3]
        q = self.per_head(part.q).flatten(2, 3)  # [b, h, n*q, k]
        scores = q.float() @ part.side_k.float().transpose(-1, -2)
        bias = visibility_bias(summaries_visible(part.positions, part.summary_ids))[:, None]
        if part.side_bias is not None:
            place = side_position(part.block, part.side_k.shape[2]) + part.side_k.shape[2]
            relative = part.side_bias[:, place]  # [h, b, l, g]
            bias = bias + self.side_position_bias(relative).transpose(0, 1)
        filled = F.pad(bias, (0, 0, 0, number * length - bias.shape[2]))  # the last block may be filled up
        return (scores + filled).view(*scores.shape[:2], number, length, scores.shape[-1])

    @property
    def inner_taps(self) -> tuple[Tap, ...]:
        """What is wanted whole where it is listened to."""
        bias = (self.side_position_bias,) if self.spec.relative_attention_type else ()
        return (*super().inner_taps, self.side_scores, self.side_weights, *bias)

    def scores_of_a_query(self, windows: Windows) -> int:
        """Positions and summaries that a query meets."""
        assert isinstance(windows, WindowsAndSummaries)
        return super().scores_of_a_query(windows) + windows.side_k.shape[2]
