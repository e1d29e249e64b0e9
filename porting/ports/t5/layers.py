"""The plain layers of T5: norm, padding, feed-forward, and a name for a tensor in between.

Shapes: b batch, l length, d d_model, f d_ff.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from porting.ports.t5.config import T5Config

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu_new": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


class Tap(nn.Identity):
    """Gives a tensor inside a module a name that a forward hook can listen to."""

    @property
    def hooked(self) -> bool:
        """Whether anything listens."""
        return bool(self._forward_hooks)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight; no mean is taken off and no bias added."""

    def __init__(self, d_model: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[b, l, d] -> [b, l, d]. The mean square is taken in float32."""
        wide = x.float()
        variance = wide.square().mean(-1, keepdim=True)
        return (wide * torch.rsqrt(variance + self.epsilon)).to(x.dtype) * self.weight


class MaskPadding(nn.Module):
    """Zeroes padded positions (Mesh: `sublayer_mask_padding`)."""

    def forward(self, x: Tensor, sequence_ids: Tensor | None) -> Tensor:
        """[b, l, d], [b, l] -> [b, l, d]. None: no position is padding."""
        if sequence_ids is None:
            return x
        return x * (sequence_ids != 0).unsqueeze(-1).to(x.dtype)


class T5FeedForward(nn.Module):
    """wo(act(wi(x))), or wo(act(wi_0(x)) * wi_1(x)) when gated."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.gated = config.is_gated
        if self.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.act = ACTIVATIONS[config.activation]()
        self.hidden = Tap()
        self.dropout = nn.Dropout(config.dropout_rate)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        hidden = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        return self.wo(self.dropout(self.hidden(hidden)))
