"""The plain layers of T5: norm, padding, feed-forward, and a name for a tensor in between.

Shapes: b batch, l length, d d_model, f d_ff.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porting.ports.t5.context import StackContext
from porting.ports.t5.layer_specs import FeedForwardSpec, MixtureSpec, activation_modules

# By Mesh's names (its ops.py). Its gelu is the tanh approximation, its leaky_relu has slope 0.2.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "squared_relu": lambda x: F.relu(x).square(),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "square": torch.square,
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "sign": torch.sign,
    "negative": torch.neg,
}


class Activation(nn.Module):
    """An activation function by Mesh's name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        """The name, for `print(model)`."""
        return self.name


class Tap(nn.Identity):
    """Gives a tensor inside a module a name that a forward hook can listen to."""

    @property
    def hooked(self) -> bool:
        """Whether anything listens."""
        return bool(self._forward_hooks)


class TokenEmbedding(nn.Embedding):
    """Embeds token ids [b, l] -> [b, l, d], scaled by d_model**0.5 if `scaled`."""

    def __init__(self, rows: int, d_model: int, *, scaled: bool) -> None:
        super().__init__(rows, d_model)
        self.scaled = scaled

    def forward(self, ids: Tensor) -> Tensor:
        """[b, l] -> [b, l, d]"""
        embedded = super().forward(ids)
        return embedded * self.embedding_dim**0.5 if self.scaled else embedded


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
    """wo(act(wi(x))), or a product of such factors: wo(act(wi_0(x)) * wi_1(x))."""

    def __init__(self, d_model: int, spec: FeedForwardSpec | MixtureSpec, dropout_rate: float) -> None:
        super().__init__()
        use_bias = isinstance(spec, FeedForwardSpec) and spec.use_bias
        self.factors = list(zip(spec.projections, activation_modules(spec.activations), strict=True))
        for (name, act), function in zip(self.factors, spec.activations, strict=True):
            self.add_module(name, nn.Linear(d_model, spec.d_ff, bias=use_bias))
            if act:
                self.add_module(act, Activation(function))
        self.hidden = Tap()
        self.dropout = nn.Dropout(dropout_rate)
        self.wo = nn.Linear(spec.d_ff, d_model, bias=use_bias)

    def inner(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., f]: the product of the factors."""
        projected = (getattr(self, name)(x) for name, _ in self.factors)
        factors = [
            getattr(self, act)(p) if act else p for p, (_, act) in zip(projected, self.factors, strict=True)
        ]
        return math.prod(factors[1:], start=factors[0])

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        del context  # positions do not meet here
        return self.wo(self.dropout(self.hidden(self.inner(x))))
