"""Model directories as other programs write them: tables that are kept twice, and tensors that nobody reads.

transformers names its parameters as this port does, and saves of tied tables one. PyTorch's own files have
all of them, under every name; old files have a table that transformers stopped reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from porting.mapping import Claim, Copy, Drop, Rule
from porting.ports.t5.config import Config
from porting.ports.t5.parameters import parameter_shapes, shared_parameters

LM_HEAD = "lm_head.weight"
# As transformers' T5ForConditionalGeneration ignores it (`_keys_to_ignore_on_load_unexpected`).
UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def state_dict_rules(config: Config, content: Mapping[str, Any], names: Sequence[str]) -> list[Claim]:
    """What becomes of tensors that are not called as this port's parameters are.

    Args:
        config: the model.
        content: of the config.json that says it.
        names: of the directory's tensors.
    """
    architecture = config.architecture
    shared = shared_parameters(config)
    others: dict[str, list[str]] = defaultdict(list)  # parameter -> what else its table is called
    for name, parameter in shared.items():
        others[parameter].append(name)
    embedding = f"{architecture.output_stack}.embed_tokens.weight"
    embedding = "shared.weight" if architecture.shares_embedding else shared.get(embedding, embedding)
    if architecture.shares_embedding:
        others[embedding] += [f"{stack}.embed_tokens.weight" for stack in architecture.stacks]
    if architecture.tie_word_embeddings:
        others[embedding].append(LM_HEAD)
    table: list[Claim] = []
    for parameter, aliases in others.items():
        found = [name for name in (parameter, *aliases) if name in names]
        also = parameter == embedding and _output_is_left_out(config, content, names)
        if found and (also or found[0] != parameter):
            table.append(Rule(re.escape(found[0]), parameter, also=((LM_HEAD, ()),) if also else ()))
        table += [Copy(re.escape(name), found[0]) for name in found[1:]]
    if UNREAD not in parameter_shapes(config):
        table.append(Drop(re.escape(UNREAD), "a table that transformers does not read either"))
    return table


def _output_is_left_out(config: Config, content: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether the output is the embedding, and not scaled: transformers 5 ties every T5, this kind too."""
    says_tied = content.get("tie_word_embeddings") is True
    return not config.tie_word_embeddings and says_tied and LM_HEAD not in names
