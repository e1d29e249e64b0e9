"""What may be made of the scores of a window and of summaries: weights that sum to 1 together, apart, or not.

Shapes: scores [..., window_length], of summaries [..., global_length] or None; weights likewise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from porting.ports.t5.taps import MASKED_BELOW

Weigh = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def one_softmax(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Over the window and the summaries together."""
    if side is None:
        return scores.softmax(-1), None
    weights = torch.cat([scores, side], dim=-1).softmax(-1)
    return weights[..., : scores.shape[-1]], weights[..., scores.shape[-1] :]


def separate_softmax(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Window and summaries each sum to 1."""
    return _alone(scores), None if side is None else _alone(side)


def softmax_by_block(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Each block of the window sums to 1, and so do the summaries."""
    each = torch.cat([_alone(part) for part in scores.chunk(3, dim=-1)], dim=-1)
    return each, None if side is None else _alone(side)


def softmax_with_one_added(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """1 / (1 + sum of exp)."""
    zero = scores.new_zeros(*scores.shape[:-1], 1)
    every = torch.cat([scores, zero, *([] if side is None else [side])], dim=-1).softmax(-1)
    width = scores.shape[-1]
    return every[..., :width], None if side is None else every[..., width + 1 :]


def without_summaries(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The window alone."""
    return scores.softmax(-1), None if side is None else torch.zeros_like(side)


def without_window(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Summaries alone."""
    return torch.zeros_like(scores), None if side is None else side.softmax(-1)


def _alone(scores: Tensor) -> Tensor:
    """A softmax. Where all is hidden, what scores were is lost beside the mask, as it is in float32."""
    hidden = (scores <= MASKED_BELOW).all(-1, keepdim=True)
    return torch.where(hidden, scores.float().double(), scores).softmax(-1)
