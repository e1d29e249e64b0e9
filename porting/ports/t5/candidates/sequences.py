"""Which positions belong together, as the original counts them: what masks and padding come from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from porting.diagnose.site import Site


def stack_of(name: str) -> str:
    """encoder or decoder."""
    return name.partition(".")[0]


def sequence_ids(site: Site, stack: str) -> Tensor:
    """int64 [batch, length], 0 at padding, of the encoder's or the decoder's positions."""
    inputs = site.inputs
    two_stacks = {"encoder", "decoder"} <= {stack_of(name) for name in site.lab.by_name}
    of_targets = stack == "decoder"
    given = inputs.get("decoder_sequence_ids") if of_targets and two_stacks else inputs.get("sequence_ids")
    tokens = inputs["targets"] if of_targets else inputs["inputs"]
    return torch.from_numpy(np.minimum(tokens, 1) if given is None else given).long()


def words_of(words: list[str]) -> str:
    """Several reasons in one sentence."""
    return "; ".join(words)
