"""The PyTorch model. Its state-dict keys are the rules' targets, its module paths the names of taps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from porting.scaffold import UnfinishedError

from .config import Config


@dataclass
class Output:
    """What the model returns. `logits`: [batch, length, vocab]; `loss`: [], None without labels."""

    logits: Tensor
    loss: Tensor | None = None


class Model(nn.Module):
    """Built on the current default device, which is `meta` while only shapes are wanted."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        raise UnfinishedError(
            "Make the modules, and with them every parameter that the rules name. Give each tensor that"
            " is to be compared a module of its own (nn.Identity() for what no module computes): taps"
            " listen to modules."
        )

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        """Run the model.

        Args:
            input_ids: int64 [batch, length].
            labels: int64 [batch, length]; the loss is computed where they are given.
        """
        raise UnfinishedError(
            "Compute what the original computes: the embeddings first, and leave an UnfinishedError"
            " behind them; what was computed until then is compared. Then the first layer, and so on."
        )

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 32, num_beams: int = 1) -> Tensor:
        """Ids that the model says, as decoding.py reads them."""
        raise UnfinishedError("Decode greedily; remove this method where the architecture does not generate.")
