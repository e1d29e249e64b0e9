"""LongT5, in the terms of transformers' `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

from porting.errors import Problem
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.base_config import (
    DenseConfig,
    encoder_decoder,
    memory_attention,
    self_attention,
    stack_of,
)

LOCAL, TRANSIENT_GLOBAL = "local", "transient-global"


@dataclass(frozen=True)
class LongT5Config(DenseConfig):
    """A LongT5 (arXiv 2112.07916), in transformers' terms: a T5 whose encoder attends locally.

    Attributes, besides those of DenseConfig:
        encoder_attention_type: "local" or "transient-global".
        local_radius: how far a position of the encoder sees to either side.
        global_block_size: tokens of a summary, where the attention is transient-global.
    """

    encoder_attention_type: str = LOCAL
    local_radius: int = 127
    global_block_size: int = 16

    what: ClassVar[str] = "a LongT5"
    model_type: ClassVar[str] = "longt5"
    transformers_class: ClassVar[str] = "LongT5ForConditionalGeneration"

    def _own_problems(self, found: Sequence[Problem]) -> Sequence[Problem]:
        known = (LOCAL, TRANSIENT_GLOBAL)
        if self.encoder_attention_type not in known:
            value = repr(self.encoder_attention_type)
            return [Problem("encoder_attention_type", f"one of {', '.join(known)}", value)]
        return [] if found else [*self._attention.problems()]

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
        decoder = (self_attention(self), memory_attention(self), self.feed_forward)
        return encoder_decoder(
            self,
            stack_of((self._attention, self.feed_forward), self.num_layers),
            stack_of(decoder, self.num_decoder_layers, decoder=True),
        )
