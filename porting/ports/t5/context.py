"""What the layers of one stack share during one call: who sees whom, where positions are, what was cached.

Shapes: b batch, l length (queries), m memory_length (keys and values), h heads, d d_model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from porting.ports.t5.cache import AttentionCache

# What a hidden position adds to its score (`visibility_mask_to_attention_bias` in Mesh's attention.py).
MASK_BIAS = -1e9


def same_sequence(ids: Tensor, memory_ids: Tensor) -> Tensor:
    """Whether query and memory position carry the same sequence id: [b, l], [b, m] -> [b, 1, l, m]."""
    return (ids[:, :, None] == memory_ids[:, None, :]).unsqueeze(1)


def visibility_bias(visible: Tensor) -> Tensor:
    """0 where visible, MASK_BIAS where not, float32."""
    return (~visible).float() * MASK_BIAS


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


@dataclass
class StackContext:
    """Handed to every layer of a stack (Mesh: `transformer.Context`).

    Attributes:
        sequence_ids: [b, l], 0 at padding; None when no position is padding.
        visibility: in self-attention.
        relative_position: int64 [l, m], memory position - query position, in self-attention; None where no
            layer asks: both grow with the square of the length.
        memory: the encoder's output [b, m, d]; None where there is none.
        memory_visibility: of the encoder's output.
        memory_relative_position: int64 [b, l, m], the same towards the encoder's positions; None where no
            layer asks.
        token_embeddings: [b, l, d], without positions; routers may ask for them.
        caches: of each layer by number, while decoding step by step.
        position_biases: computed by the layer that holds the table, by that layer's number.
        side_position_biases: the same of LongT5's block summaries, [h, 2g + 1]: by distance in blocks, g back
            to g ahead.
        losses: what layers add to the loss.
    """

    sequence_ids: Tensor | None
    visibility: Visibility
    relative_position: Tensor | None
    token_embeddings: Tensor
    memory: Tensor | None = None
    memory_visibility: Visibility = field(default_factory=Visibility)
    memory_relative_position: Tensor | None = None
    caches: dict[int, AttentionCache] | None = None
    position_biases: dict[int, Tensor] = field(default_factory=dict)
    side_position_biases: dict[int, Tensor] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)

    def cache(self, layer: int) -> AttentionCache | None:
        """The cache of a layer; None when all positions are computed at once."""
        return None if self.caches is None else self.caches.setdefault(layer, AttentionCache())
