"""What one layer of a stack is, in the terms of Mesh TensorFlow's classes: kinds, sizes, and no weights.

A stack is a list of these (see architecture.py). `kind` is the class in Mesh's transformer_layers.py or
moe.py, and so the scope of its variables; of LongT5's layers it is the module's name in transformers. Those
that attend are in attention_specs.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from porting.errors import Problem
from porting.ports.t5.attention_specs import (
    AttentionSpec,
    LocalAttentionSpec,
    TalkingHeadsSpec,
    TransientGlobalAttentionSpec,
)
from porting.ports.t5.spec_problems import (
    kind_problems,
    positive,
)

# Functions of one tensor that Mesh offers by name, for the feed-forward layer; "linear" is none.
ACTIVATIONS = (
    "linear", "identity", "relu", "gelu", "swish", "sigmoid", "tanh", "elu", "selu", "softplus",
    "squared_relu", "leaky_relu", "square", "exp", "sin", "cos", "abs", "sign", "negative",
)  # fmt: skip


GATINGS = ("switch", "switch_max", "top_2", "top_n", "ntlb", "expert_selection")


SECOND_POLICIES = ("all", "none", "threshold")


WORD_EMBED_MODES = (None, "add", "add_stop_grad", "concat", "concat_stop_grad", "embed_only")


@dataclass(frozen=True, kw_only=True)
class FeedForwardSpec:
    """The feed-forward layer: a product of activated projections, projected back.

    Attributes:
        d_ff: width of the inner projections.
        activations: one for each factor, of ACTIVATIONS: ("relu",), ("gelu", "linear").
        use_bias: whether all projections add a bias.
    """

    d_ff: int
    activations: tuple[str, ...] = ("relu",)
    use_bias: bool = False
    kind: str = "DenseReluDense"

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of the inner projections: wi, or wi_0, wi_1, ..."""
        return projection_names(self.activations)

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind or out of range."""
        if wrong := kind_problems(self):
            yield from wrong
            return
        yield from positive({"d_ff": self.d_ff})
        yield from activation_problems(self.activations)


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """A mixture of experts (`moe.MoE1D`; Switch Transformers, arXiv 2101.03961), as evaluated.

    Attributes:
        num_experts, d_ff, activations: each expert is a feed-forward layer.
        gating: of GATINGS.
        group_size: tokens are routed in groups of at most so many.
        capacity_factor: an expert takes group size * factor / experts tokens of a group, at least
            `min_expert_capacity`; what overflows passes by. Mesh: `capacity_factor_eval`.
        loss_coef: weight of the load-balancing loss, which Mesh adds to the loss at evaluation too.
        second_policy, second_threshold: when tokens go to a second expert (top_2, top_n).
        use_second_place_loss: balance the second expert too (top_2).
        experts_per_token: of top_n and ntlb.
        word_embed_mode: whether the router also sees the tokens' embeddings.
    """

    num_experts: int
    d_ff: int
    activations: tuple[str, ...] = ("relu",)
    gating: str = "switch"
    group_size: int = 1024
    capacity_factor: float = 2.0
    min_expert_capacity: int = 4
    loss_coef: float = 1e-2
    second_policy: str = "all"
    second_threshold: float = 0.2
    use_second_place_loss: bool = False
    experts_per_token: int = 0
    word_embed_mode: str | None = None
    kind: str = "MoE1D"

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of an expert's inner projections: wi, or wi_0, wi_1, ..."""
        return projection_names(self.activations)

    def router_width(self, d_model: int) -> int:
        """Width of what the router reads: hidden states, and the tokens' embeddings beside them or not."""
        return 2 * d_model if str(self.word_embed_mode).startswith("concat") else d_model

    def capacity(self, group_size: int) -> int:
        """How many tokens of a group of this size an expert takes."""
        fair = int(group_size * self.capacity_factor / self.num_experts)
        return max(min(group_size, fair), self.min_expert_capacity)

    def groups(self, tokens: int) -> tuple[int, int]:
        """(number of groups, their size), as `_split_into_groups` in Mesh's moe.py."""
        number = max(1, tokens // self.group_size)
        while tokens % number:
            number += 1
        return number, tokens // number

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind or out of range."""
        if wrong := kind_problems(self):
            yield from wrong
            return
        yield from positive(
            {
                "num_experts": self.num_experts,
                "d_ff": self.d_ff,
                "group_size": self.group_size,
                "min_expert_capacity": self.min_expert_capacity,
            }
        )
        yield from activation_problems(self.activations)
        for name, known in (
            ("gating", GATINGS),
            ("second_policy", SECOND_POLICIES),
            ("word_embed_mode", WORD_EMBED_MODES),
        ):
            if getattr(self, name) not in known:
                yield Problem(name, f"one of {', '.join(map(str, known))}", repr(getattr(self, name)))
        if self.gating in ("top_n", "ntlb") and not 1 <= self.experts_per_token <= self.num_experts:
            expected = f"1 to {self.num_experts}, with {self.gating} gating"
            yield Problem("experts_per_token", expected, repr(self.experts_per_token))


LayerSpec = AttentionSpec | TalkingHeadsSpec | FeedForwardSpec | MixtureSpec | LocalAttentionSpec


# Mesh TensorFlow's layers by their classes there, and LongT5's by their modules in transformers.
SPECS: dict[str, type[LayerSpec]] = {
    "SelfAttention": AttentionSpec,
    "EncDecAttention": AttentionSpec,
    "TalkingHeadsSelfAttention": TalkingHeadsSpec,
    "TalkingHeadsEncDecAttention": TalkingHeadsSpec,
    "DenseReluDense": FeedForwardSpec,
    "MoE1D": MixtureSpec,
}


LONG_SPECS: dict[str, type[LocalAttentionSpec]] = {
    "LocalSelfAttention": LocalAttentionSpec,
    "TransientGlobalSelfAttention": TransientGlobalAttentionSpec,
}


def is_self_attention(spec: LayerSpec) -> bool:
    """Whether a layer attends within its own stack."""
    return spec.kind.endswith("SelfAttention")


def reads_memory(spec: LayerSpec) -> bool:
    """Whether a layer attends to the encoder's output."""
    return spec.kind.endswith("EncDecAttention")


def bias_group(spec: AttentionSpec | TalkingHeadsSpec | LocalAttentionSpec) -> object:
    """Layers of a stack with the same group share one table of relative positions ("bias_shared").

    As the key of `context.cache` in Mesh's transformer_layers.py; LongT5's layers share with their own kind.
    """
    window: tuple[object, ...] = ()
    if isinstance(spec, LocalAttentionSpec):
        window = (spec.kind, spec.local_radius, getattr(spec, "global_block_size", None))
    return reads_memory(spec), spec.softmax_heads, window


def projection_names(activations: tuple[str, ...]) -> tuple[str, ...]:
    """wi for one factor; wi_0, wi_1, ... for a product."""
    return ("wi",) if len(activations) == 1 else tuple(f"wi_{i}" for i in range(len(activations)))


def activation_modules(activations: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the modules behind the projections: act, then act_1, act_2...; "" behind a linear one."""
    names = (f"act_{i}" if i else "act" for i in range(len(activations)))
    return tuple("" if a == "linear" else name for a, name in zip(activations, names, strict=True))


def activation_problems(activations: tuple[str, ...]) -> Iterator[Problem]:
    """A problem for each name that is not an activation of Mesh's."""
    unknown = [name for name in activations if name not in ACTIVATIONS]
    if unknown or not activations:
        yield Problem("activations", f"of {', '.join(ACTIVATIONS)}", f"{list(activations)}")
