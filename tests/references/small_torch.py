"""A small model in PyTorch, run in the reference process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porting.references.original_tap import OriginalTap
from porting.references.pytorch import BuiltModule, load_weights, reference

VOCABULARY, WIDTH, CLASSES = 11, 5, 3


class Block(nn.Module):
    """Called twice; returns what it made, and the half of it."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.dense(x)) + self.dropout(x)
        return y, y / 2


class Model(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.block = Block(dropout)
        self.unused = nn.Linear(1, 1, bias=False)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.block(self.table(ids))
        x, half = self.block(x)
        return self.out((x + half).flatten(0, 1))


def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    logits = module(inputs["inputs"])
    return {"logits": logits, "loss": logits.square().mean()}


def build(request: Mapping[str, Any]) -> BuiltModule:
    config = request["config"]
    model = Model(dropout=0.5)  # off where it is evaluated
    load_weights(model, request["checkpoint"])
    if config.get("noise"):
        model.out.register_forward_hook(lambda _m, _a, output: output + torch.rand(()))
    wrong = config.get("wrong", "")
    taps = [
        OriginalTap("loss", "loss", ""),
        OriginalTap("logits", "logits" + wrong, "(batch length) classes"),
        OriginalTap("second", "block@1", "batch length width"),
        OriginalTap("half", "block@1:1", "batch length width"),
        OriginalTap("first", "block" + wrong, "batch length width"),
        OriginalTap("embedded", "table", "batch length width"),
        OriginalTap("spare", "unused", "batch", optional=not config.get("silent")),
    ]
    return BuiltModule(
        model,
        call,
        taps,
        sizes=lambda arrays: {"batch": len(arrays["inputs"])},
        loss=config.get("loss", "loss"),
    )


run = reference(build, implementation="a small module", packages=["torch"])
