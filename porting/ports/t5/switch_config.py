"""Switch Transformers, in the terms of transformers' `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from porting.errors import ConfigError, Problem
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.base_config import (
    FEED_FORWARD_ACTIVATIONS,
    REQUIRED,
    EncoderDecoderConfig,
    encoder_decoder,
    memory_attention,
    self_attention,
    size_problems,
    stack_of,
    to_json,
    values_of,
)
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec
from porting.ports.t5.spec_problems import positive

SWITCH_REQUIRED = (*REQUIRED, "num_experts", "num_sparse_encoder_layers", "num_sparse_decoder_layers")


DENSE_ACTIVATIONS = ("relu", "gelu_new", "silu")


@dataclass(frozen=True)
class SwitchConfig(EncoderDecoderConfig):
    """A Switch Transformer (arXiv 2101.03961), in transformers' terms.

    Attributes, besides those of EncoderDecoderConfig:
        num_experts: experts of a sparse layer.
        num_sparse_encoder_layers, num_sparse_decoder_layers: how many feed-forward layers are sparse: all,
            or evenly spread, in transformers' order.
        dense_act_fn: relu, gelu_new or silu.
        moe_group_size, capacity_factor_eval, min_expert_capacity, router_aux_loss_coef: of Mesh's `MoE1D`;
            transformers has one fixed `expert_capacity` instead.
    """

    num_experts: int = field(kw_only=True)
    num_sparse_encoder_layers: int = field(kw_only=True)
    num_sparse_decoder_layers: int = field(kw_only=True)
    dense_act_fn: str = "relu"
    moe_group_size: int = 1024
    capacity_factor_eval: float = 2.0
    min_expert_capacity: int = 4
    router_aux_loss_coef: float = 1e-2

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [*size_problems(self, SWITCH_REQUIRED)]
        problems += positive(
            {"moe_group_size": self.moe_group_size, "min_expert_capacity": self.min_expert_capacity}
        )
        for name in ("capacity_factor_eval", "router_aux_loss_coef"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                problems.append(Problem(name, "a number", repr(value)))
        if self.dense_act_fn not in DENSE_ACTIVATIONS:
            known = ", ".join(DENSE_ACTIVATIONS)
            problems.append(Problem("dense_act_fn", f"one of {known}", repr(self.dense_act_fn)))
        for sparse, every in (
            ("num_sparse_encoder_layers", "num_layers"),
            ("num_sparse_decoder_layers", "num_decoder_layers"),
        ):
            if not problems and getattr(self, sparse) > getattr(self, every):
                problems.append(
                    Problem(sparse, f"at most {getattr(self, every)}", f"{getattr(self, sparse)}")
                )
        if problems:
            raise ConfigError("This is not the configuration of a Switch Transformer.", problems=problems)

    @cached_property
    def architecture(self) -> Architecture:
        """What this spells: both stacks, layer by layer."""
        activations = FEED_FORWARD_ACTIVATIONS[self.dense_act_fn]
        dense = FeedForwardSpec(d_ff=self.d_ff, activations=activations)
        sparse = MixtureSpec(
            num_experts=self.num_experts,
            d_ff=self.d_ff,
            activations=activations,
            group_size=self.moe_group_size,
            capacity_factor=self.capacity_factor_eval,
            min_expert_capacity=self.min_expert_capacity,
            loss_coef=self.router_aux_loss_coef,
        )

        def stack(*attention: LayerSpec, layers: int, num_sparse: int, decoder: bool) -> StackSpec:
            step = layers // num_sparse
            period = step if layers % step == 0 else layers
            pattern = sparse_pattern(layers, num_sparse)[:period]
            specs = tuple(s for is_sparse in pattern for s in (*attention, sparse if is_sparse else dense))
            return stack_of(specs, layers // period, decoder=decoder)

        own, memory = self_attention(self), memory_attention(self)
        encoder = (self.num_layers, self.num_sparse_encoder_layers)
        decoder = (self.num_decoder_layers, self.num_sparse_decoder_layers)
        return encoder_decoder(
            self,
            stack(own, layers=encoder[0], num_sparse=encoder[1], decoder=False),
            stack(own, memory, layers=decoder[0], num_sparse=decoder[1], decoder=True),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as a Switch Transformer."""
        mixture = next(s for s in self.architecture.stacks["encoder"].layers if isinstance(s, MixtureSpec))
        content = {**asdict(self), "expert_capacity": mixture.capacity(self.moe_group_size)}
        return to_json("switch_transformers", "SwitchTransformersForConditionalGeneration", content)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SwitchConfig:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that a Switch Transformer has.
        """
        return cls(**values_of(cls, content, SWITCH_REQUIRED, "a Switch Transformer"))


def sparse_pattern(layers: int, num_sparse: int) -> list[bool]:
    """Which of so many feed-forward layers are sparse, as transformers spreads them."""
    step = layers // num_sparse
    return [step == 1 or i % step == 1 for i in range(layers)]
