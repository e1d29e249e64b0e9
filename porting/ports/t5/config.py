"""The spellings that transformers understands: T5, LongT5, UMT5, Switch, in their `config.json`'s terms.

Each is a short way to say an `Architecture` (architecture.py); spelling.py goes the other way. T5 and UMT5
are here, the others in long_config.py and switch_config.py, what they share in base_config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from porting.ports.t5.architecture import MODEL_TYPE, Architecture
from porting.ports.t5.base_config import (
    DenseConfig,
    encoder_decoder,
    memory_attention,
    self_attention,
    stack_of,
)
from porting.ports.t5.long_config import LongT5Config
from porting.ports.t5.switch_config import SwitchConfig


@dataclass(frozen=True)
class T5Config(DenseConfig):
    """A plain T5."""

    what: ClassVar[str] = "a T5"
    model_type: ClassVar[str] = "t5"
    transformers_class: ClassVar[str] = "T5ForConditionalGeneration"

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layer multiplies two inner projections (wi_0, wi_1)."""
        return self.feed_forward_proj.startswith("gated-")

    @cached_property
    def architecture(self) -> Architecture:
        """What this spells: both stacks, layer by layer."""
        own, feed_forward = self_attention(self), self.feed_forward
        return encoder_decoder(
            self,
            stack_of((own, feed_forward), self.num_layers),
            stack_of((own, memory_attention(self), feed_forward), self.num_decoder_layers, decoder=True),
        )


@dataclass(frozen=True)
class UMT5Config(T5Config):
    """A T5 each of whose layers has relative positions of its own (arXiv 2304.09151), in transformers' terms.

    transformers 4 computes what this says. transformers 5 takes every UMT5 to be tied: it keeps an output of
    its own where one is stored, and multiplies the logits by d_model**-0.5 all the same.
    """

    model_type: ClassVar[str] = "umt5"
    transformers_class: ClassVar[str] = "UMT5ForConditionalGeneration"
    relative_attention_type: ClassVar[str] = "bias"


Config = T5Config | LongT5Config | SwitchConfig | Architecture  # a UMT5Config is a T5Config


def config_from_json(content: Mapping[str, Any]) -> Config:
    """From the contents of a `config.json`, by its model_type.

    Raises:
        ConfigError: it is not a configuration of that type.
    """
    model_type = content.get("model_type", "t5")
    if model_type == MODEL_TYPE:
        return Architecture.from_json(content)
    if model_type == "switch_transformers":
        return SwitchConfig.from_json(content)
    if model_type == LongT5Config.model_type:
        return LongT5Config.from_json(content)
    return (UMT5Config if model_type == UMT5Config.model_type else T5Config).from_json(content)
