"""A stack of T5's layers: norm and residual around each, a final norm, padding zeroed.

A stack is built from the list of layers in its spec, each kind of layer in a file of its own.

Shapes: b batch, l length (queries), m memory_length (keys and values), d d_model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from porting.ports.t5.architecture import Architecture, Place, StackSpec
from porting.ports.t5.attention import T5Attention
from porting.ports.t5.attention_specs import (
    AttentionSpec,
    LocalAttentionSpec,
    TalkingHeadsSpec,
    TransientGlobalAttentionSpec,
)
from porting.ports.t5.cache import DecoderCache
from porting.ports.t5.context import StackContext, Visibility, same_sequence, visibility_bias
from porting.ports.t5.layer_specs import FeedForwardSpec, MixtureSpec, is_self_attention
from porting.ports.t5.layers import MaskPadding, RMSNorm, T5FeedForward
from porting.ports.t5.local_attention import LocalAttention
from porting.ports.t5.mixture import MixtureOfExperts
from porting.ports.t5.positions import AddPositions, positions_to_sentinels
from porting.ports.t5.talking_heads import TalkingHeadsAttention
from porting.ports.t5.transient_global_attention import TransientGlobalAttention


class T5Layer(nn.Module):
    """Pre-norm and residual around one sublayer: x + dropout(sublayer(mask(norm(x))))."""

    def __init__(self, config: Architecture, stack: StackSpec, place: Place) -> None:
        super().__init__()
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.mask_padding = MaskPadding()
        self.name = config.module_name(place.spec)
        self.add_module(self.name, sublayer(config, stack, place))
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        normed = self.mask_padding(self.layer_norm(x), context.sequence_ids)
        output: Tensor = x + self.dropout(getattr(self, self.name)(normed, context))
        return output


def sublayer(config: Architecture, stack: StackSpec, place: Place) -> nn.Module:
    """The module that a layer's spec describes. All are called with [b, l, d] and the stack's context."""
    spec = place.spec
    if isinstance(spec, FeedForwardSpec):
        return T5FeedForward(config.d_model, spec, config.dropout_rate)
    if isinstance(spec, MixtureSpec):
        return MixtureOfExperts(config.d_model, spec, config.dropout_rate)
    bias_holder = stack.bias_holders.get(place.number)
    if isinstance(spec, TransientGlobalAttentionSpec):
        epsilon = config.layer_norm_epsilon
        return TransientGlobalAttention(config.d_model, place, bias_holder=bias_holder, epsilon=epsilon)
    if isinstance(spec, LocalAttentionSpec):
        return LocalAttention(config.d_model, place, bias_holder=bias_holder)
    kind = T5Attention if isinstance(spec, AttentionSpec) else TalkingHeadsAttention
    return kind(
        config.d_model,
        place,
        bias_holder=bias_holder,
        bidirectional=stack.bidirectional or not is_self_attention(spec),
    )


class T5Block(nn.Module):
    """Self-attention, attention to the encoder in the decoder, feed-forward."""

    def __init__(self, layers: list[T5Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        for layer in self.layer:
            x = layer(x, context)
        return x


class T5Stack(nn.Module):
    """The encoder or the decoder: blocks, a final norm, padding zeroed."""

    def __init__(self, config: Architecture, stack: StackSpec, embedding: nn.Module) -> None:
        super().__init__()
        self.spec = stack
        self.first_sentinel_id = config.first_sentinel_id if config.needs_sentinels else None
        # LongT5's encoder does without, for memory that is linear in length.
        self.sees_all_pairs = any(
            isinstance(spec, AttentionSpec | TalkingHeadsSpec) and is_self_attention(spec)
            for spec in stack.layers
        )
        self.embed_tokens = embedding
        if stack.positions:
            self.embed_positions = AddPositions(stack.positions, stack.max_length, config.d_model)
        blocks: list[list[T5Layer]] = [[] for _ in range(stack.places[-1].block + 1)]
        for place in stack.places:
            blocks[place.block].append(T5Layer(config, stack, place))
        self.block = nn.ModuleList(T5Block(layers) for layers in blocks)
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.mask_padding = MaskPadding()
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        tokens: Tensor,
        sequence_ids: Tensor | None,
        memory: Memory | None = None,
        ids: Tensor | None = None,
        inputs_part: Tensor | None = None,
        cache: DecoderCache | None = None,
        losses: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [b, l, d].

        Args:
            tokens: embedded [b, l, d], or ids [b, l] where the stack has an embedding of its own; with a
                cache, the next ones only.
            sequence_ids: [b, l]; None when no position is padding.
            memory: the encoder's output, for the decoder.
            ids: [b, l], the token ids, for relative positions towards the encoder.
            inputs_part: bool [b, l], positions that see all of the inputs part (prefix language models).
            cache: keys and values of the positions already decoded.
            losses: what the layers add to the loss is appended here.
        """
        offset = cache.length if cache else 0
        x = self.embed_tokens(tokens)
        context = self._context(x, sequence_ids, memory, ids, inputs_part, cache, offset)
        if self.spec.positions:
            x = self.embed_positions(x, offset)
        x = self.dropout(x)
        for block in self.block:
            x = block(x, context)
        if cache:
            cache.length += x.shape[1]
        if losses is not None:
            losses += context.losses
        final: Tensor = self.mask_padding(self.dropout(self.final_layer_norm(x)), sequence_ids)
        return final

    def _context(
        self,
        x: Tensor,
        sequence_ids: Tensor | None,
        memory: Memory | None,
        ids: Tensor | None,
        inputs_part: Tensor | None,
        cache: DecoderCache | None,
        offset: int,
    ) -> StackContext:
        visibility, relative_position = Visibility(), None
        if self.sees_all_pairs:
            visibility, relative_position = self._all_pairs(x, sequence_ids, inputs_part, offset)
        context = StackContext(
            sequence_ids=sequence_ids,
            visibility=visibility,
            relative_position=relative_position,
            token_embeddings=x,
            caches=cache.layers if cache else None,
        )
        if memory is not None:
            own = x.new_ones(x.shape[:2], dtype=torch.long) if sequence_ids is None else sequence_ids
            context.memory = memory.hidden
            context.memory_visibility = Visibility.of_memory(own, memory.sequence_ids)
            if self.first_sentinel_id is not None:
                context.memory_relative_position = positions_to_sentinels(
                    None if cache else ids, own, memory.ids, memory.sequence_ids, self.first_sentinel_id
                )
        return context

    def _all_pairs(
        self, x: Tensor, sequence_ids: Tensor | None, inputs_part: Tensor | None, offset: int
    ) -> tuple[Visibility, Tensor]:
        """Who sees whom in self-attention, and how far apart they are: int64 [l, m]."""
        length = x.shape[1]
        queries = torch.arange(offset, offset + length, device=x.device)
        keys = torch.arange(offset + length, device=x.device)
        biases = []
        if inputs_part is not None:  # the inputs part is read and written before everything else
            priority = queries * ~inputs_part
            biases.append(visibility_bias(priority[:, :, None] >= priority[:, None, :])[:, None])
        elif self.spec.autoregressive and length > 1:
            biases.append(visibility_bias(queries[:, None] >= keys)[None, None])
        if sequence_ids is not None:
            biases.append(visibility_bias(same_sequence(sequence_ids, sequence_ids)))
        visibility = Visibility(sum(biases[1:], biases[0]) if biases else None)
        return visibility, keys[None, :] - queries[:, None]


@dataclass(frozen=True)
class Memory:
    """What the encoder hands to the decoder.

    Attributes:
        hidden: [b, m, d].
        sequence_ids, ids: [b, m].
    """

    hidden: Tensor
    sequence_ids: Tensor
    ids: Tensor

    def repeat(self, times: int) -> Memory:
        """Each row of the batch several times in a row, for beams."""
        tensors = (self.hidden, self.sequence_ids, self.ids)
        return Memory(*(tensor.repeat_interleave(times, dim=0) for tensor in tensors))
