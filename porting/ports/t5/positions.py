"""Where a token stands: absolute positions, the inputs part of a sequence, and spans between two sequences.

Shapes: b batch, l length, m the encoder's length, d d_model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_EOS_ID = 1


class AddPositions(nn.Module):
    """Adds a vector for each absolute position: learned, or sinusoids of different frequencies."""

    def __init__(self, kind: str, max_length: int, d_model: int) -> None:
        super().__init__()
        self.max_length, self.d_model, self.kind = max_length, d_model, kind
        if kind == "learned":
            self.weight = nn.Parameter(torch.randn(max_length, d_model))

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """[b, l, d] -> [b, l, d]; the first position is `offset`.

        Raises:
            ValueError: there are more positions than the table has.
        """
        end = offset + x.shape[1]
        if end > self.max_length:
            raise ValueError(f"{end} positions; this model has {self.max_length} (max_length)")
        table = self.weight if self.kind == "learned" else sinusoids(end, self.d_model).to(x.device)
        return x + table[offset:end].to(x.dtype)


def sinusoids(length: int, d_model: int) -> Tensor:
    """[length, d_model]: sines, then cosines, of wavelengths from 2 pi to 2 pi * 10000.

    Source: `sinusoid_positional_embedding_weights` in Mesh's transformer.py.
    """
    number = d_model // 2
    increment = math.log(1.0e4) / max(float(number) - 1, 1)
    inverse = torch.exp(torch.arange(number).float() * -increment)
    angles = torch.arange(length).float()[:, None] * inverse
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def inputs_region(labels: Tensor) -> Tensor:
    """Which labels belong to the inputs of their example, bool [b, l]; examples are inputs, 1, targets, 1.

    Source: `delimited_lm_inputs_mask` in Mesh's transformer.py.
    """
    ends = (labels == _EOS_ID).long()
    return (ends.cumsum(1) - ends) % 2 == 0


def positions_to_sentinels(
    ids: Tensor | None, sequence_ids: Tensor, memory_ids: Tensor, memory_sequence_ids: Tensor, first: int
) -> Tensor:
    """Relative positions of decoder tokens in the encoder's sequence, int64 [b, l, m].

    A decoder token stands where the sentinel that opens its span stands in the encoder; before any
    sentinel, and while decoding step by step (ids is None), at the beginning.

    Args:
        ids, sequence_ids: of the decoder, [b, l].
        memory_ids, memory_sequence_ids: of the encoder, [b, m].
        first: the first id that is a sentinel.

    Source: `relative_position_spans` in Mesh's transformer_layers.py.
    """
    place = torch.arange(memory_ids.shape[1], device=memory_ids.device)
    if ids is None:
        return -place.expand(*sequence_ids.shape, -1)
    apart = max(ids.shape[1], memory_ids.shape[1])  # keeps segments of different examples apart
    segment = (ids >= first).long().cumsum(1) + sequence_ids * apart
    memory_segment = (memory_ids >= first).long().cumsum(1) + memory_sequence_ids * apart
    begins = (memory_segment[:, None, :] < segment[:, :, None]).sum(-1)  # [b, l]
    return begins[..., None] - place
