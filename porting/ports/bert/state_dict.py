"""Model directories as other programs write them: tables that are kept twice, and what is no weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from porting.mapping import Claim, Copy, Drop

from .config import Config


def state_dict_rules(config: Config, content: Mapping[str, Any], names: Sequence[str]) -> list[Claim]:
    """What becomes of tensors that are not called as this port's parameters are; transformers ties them.

    Args:
        config: the model.
        content: of config.json; not needed.
        names: of the directory's tensors; not needed.
    """
    del content, names
    table: list[Claim] = [Drop(r"(?:bert\.)?embeddings\.position_ids", "numbers of positions, no weights")]
    if config.heads:
        table += [
            Copy(r"cls\.predictions\.decoder\.weight", "bert.embeddings.word_embeddings.weight"),
            Copy(r"cls\.predictions\.decoder\.bias", "cls.predictions.bias"),
        ]
    return table
