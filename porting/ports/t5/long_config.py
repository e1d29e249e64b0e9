"""LongT5, in the terms of transformers' `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from porting.errors import ConfigError, Problem
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.base_config import (
    FEED_FORWARD_ACTIVATIONS,
    REQUIRED,
    EncoderDecoderConfig,
    encoder_decoder,
    memory_attention,
    never_scales,
    self_attention,
    size_problems,
    stack_of,
    to_json,
    values_of,
)
from porting.ports.t5.layer_specs import FeedForwardSpec

LOCAL, TRANSIENT_GLOBAL = "local", "transient-global"


@dataclass(frozen=True)
class LongT5Config(EncoderDecoderConfig):
    """A LongT5 (arXiv 2112.07916), in transformers' terms: a T5 whose encoder attends locally.

    Attributes, besides those of EncoderDecoderConfig:
        feed_forward_proj: as in T5Config.
        encoder_attention_type: "local" or "transient-global".
        local_radius: how far a position of the encoder sees to either side.
        global_block_size: tokens of a summary, where the attention is transient-global.
    """

    feed_forward_proj: str = "relu"
    encoder_attention_type: str = LOCAL
    local_radius: int = 127
    global_block_size: int = 16

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [*size_problems(self, REQUIRED)]
        for name, known in (
            ("feed_forward_proj", (*FEED_FORWARD_ACTIVATIONS,)),
            ("encoder_attention_type", (LOCAL, TRANSIENT_GLOBAL)),
        ):
            if getattr(self, name) not in known:
                problems.append(Problem(name, f"one of {', '.join(known)}", repr(getattr(self, name))))
        if not problems:
            problems += self._attention.problems()
        if problems:
            raise ConfigError("This is not the configuration of a LongT5.", problems=problems)

    @property
    def _attention(self) -> LocalAttentionSpec:
        spec = LocalAttentionSpec(
            num_heads=self.num_heads,
            d_kv=self.d_kv,
            local_radius=self.local_radius,
            relative_attention_type="bias_shared",
            relative_attention_num_buckets=self.relative_attention_num_buckets,
            relative_attention_max_distance=self.relative_attention_max_distance,
        )
        if self.encoder_attention_type == LOCAL:
            return spec
        values = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "kind"}
        return TransientGlobalAttentionSpec(**values, global_block_size=self.global_block_size)

    @cached_property
    def architecture(self) -> Architecture:
        """What this spells: both stacks, layer by layer. The decoder is T5's."""
        feed_forward = FeedForwardSpec(
            d_ff=self.d_ff, activations=FEED_FORWARD_ACTIVATIONS[self.feed_forward_proj]
        )
        decoder = (self_attention(self), memory_attention(self), feed_forward)
        return encoder_decoder(
            self,
            stack_of((self._attention, feed_forward), self.num_layers),
            stack_of(decoder, self.num_decoder_layers, decoder=True),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as LongT5."""
        return to_json("longt5", "LongT5ForConditionalGeneration", asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LongT5Config:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that LongT5 has.
        """
        values = values_of(cls, content, REQUIRED, "a LongT5")
        if never_scales(content):
            values["tie_word_embeddings"] = False
        return cls(**values)
