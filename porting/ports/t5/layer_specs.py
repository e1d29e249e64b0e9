"""What one layer of a stack is, in the terms of Mesh TensorFlow's classes: kinds, sizes, and no weights.

A stack is a list of these (see architecture.py). `kind` is the class in Mesh's transformer_layers.py or
moe.py, and so the scope of its variables; of LongT5's layers it is the module's name in transformers.
Heads are named dimensions, as in Mesh: no dimension for one head, `heads` for many, `heads` and `query_heads`
where several queries share keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from porting.errors import Problem

Dims = tuple[tuple[str, int], ...]

# Far beyond every model, and small enough that a model of such sizes can be described, if not held: a config
# that asks for more is answered at once, instead of when memory is used up.
MAX_SIZE = 1 << 24
MAX_HEADS = 1 << 12
MAX_LAYERS = 1 << 12
MAX_EXPERTS = 1 << 16
MAX_WINDOW = 1 << 14

# Functions of one tensor that Mesh offers by name, for the feed-forward layer; "linear" is none.
ACTIVATIONS = (
    "linear", "identity", "relu", "gelu", "swish", "sigmoid", "tanh", "elu", "selu", "softplus",
    "squared_relu", "leaky_relu", "square", "exp", "sin", "cos", "abs", "sign", "negative",
)  # fmt: skip
SELF_RELATIVE = (None, "bias", "bias_shared", "contextual")
WINDOW_RELATIVE = (None, "bias", "bias_shared")
MEMORY_RELATIVE = (None, "bias", "bias_shared")
GATINGS = ("switch", "switch_max", "top_2", "top_n", "ntlb", "expert_selection")
SECOND_POLICIES = ("all", "none", "threshold")
WORD_EMBED_MODES = (None, "add", "add_stop_grad", "concat", "concat_stop_grad", "embed_only")
DYNAMIC_PROJECTIONS = ("x2l", "m2l", "x2w", "m2w")


def size(dims: Dims) -> int:
    """How many elements the dimensions hold together."""
    return math.prod(n for _, n in dims)


@dataclass(frozen=True, kw_only=True)
class RelativePositions:
    """How a layer sees relative positions (T5's paper, section 2.1, arXiv 1910.10683).

    Attributes:
        relative_attention_type: None; "bias": a table of the layer's own; "bias_shared": one table for all
            layers of a stack with these heads, held by the first; "contextual": computed from the queries.
        relative_attention_num_buckets, relative_attention_max_distance: see `_relative_position_bucket` in
            Mesh's transformer_layers.py.
    """

    relative_attention_type: str | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128

    def _relative_problems(self, known: tuple[str | None, ...]) -> Iterator[Problem]:
        if self.relative_attention_type not in known:
            names = ", ".join(str(name) for name in known)
            yield Problem("relative_attention_type", f"one of {names}", repr(self.relative_attention_type))
        yield from bucket_problems(self.relative_attention_num_buckets, self.relative_attention_max_distance)


def bucket_problems(buckets: object, max_distance: object) -> Iterator[Problem]:
    """Half of the buckets (a quarter, in both directions) hold one distance each; see Mesh's function."""
    wrong = list(
        positive({"relative_attention_max_distance": max_distance, "relative_attention_num_buckets": buckets})
    )
    yield from wrong
    if wrong or not isinstance(buckets, int) or not isinstance(max_distance, int):
        return
    if 4 <= buckets < 2 * max_distance:
        return
    expected = f"4 to {2 * max_distance - 1} (below twice the largest distance)"
    yield Problem("relative_attention_num_buckets", expected, f"{buckets}")


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", lambda v: type(v) is int),
    "bool": ("true or false", lambda v: type(v) is bool),
    "float": ("a number", lambda v: type(v) in (int, float) and math.isfinite(v)),
    "str": ("a name", lambda v: type(v) is str),
    "tuple[str, ...]": ("a list of names", lambda v: type(v) is tuple and all(type(n) is str for n in v)),
    "Dims": (
        "a list of names with sizes",
        lambda v: type(v) is tuple and all(type(d) is tuple and [*map(type, d)] == [str, int] for d in v),
    ),
}


def kind_problems(spec: Any) -> list[Problem]:
    """A problem for each field of a dataclass whose value is not of the annotated kind."""
    problems = []
    for f in fields(spec):
        value, kind = getattr(spec, f.name), str(f.type)
        if kind.endswith(" | None"):
            kind = kind.removesuffix(" | None")
            if value is None:
                continue
        expected, fits = _KINDS.get(kind, ("", lambda _: True))
        if not fits(value):
            problems.append(Problem(f.name, expected, repr(value)))
    return problems


def positive(values: Mapping[str, object], largest: int = MAX_SIZE) -> Iterator[Problem]:
    """A problem for each value that is not a positive integer, or larger than any model's."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            yield Problem(name, "a positive integer", repr(value))
        elif value > largest:
            yield Problem(name, f"at most {largest}", repr(value))


@dataclass(frozen=True, kw_only=True)
class AttentionSpec(RelativePositions):
    """Multi-head attention: `SelfAttention`, or `EncDecAttention` to the encoder's output.

    Attributes:
        kind: SelfAttention or EncDecAttention.
        num_heads, d_kv: heads of the queries, and the width of one.
        num_memory_heads: heads of keys and values: 0 as many as queries, 1 a single one ("sh"), else a
            divisor of num_heads.
        shared_kv: keys and values are the same ("skv").
        fold_scaling_into_initializer: False: queries are scaled by d_kv**-0.5 when they are computed.
        combine_dims: False: Mesh keeps heads and d_kv as dimensions of the variables.
    """

    kind: str
    num_heads: int
    d_kv: int
    num_memory_heads: int = 0
    shared_kv: bool = False
    fold_scaling_into_initializer: bool = True
    combine_dims: bool = True

    @property
    def query_heads(self) -> Dims:
        """Dimensions of the queries' heads."""
        if self.num_heads == 1:
            return ()
        if self.num_memory_heads in (0, 1):
            return (("heads", self.num_heads),)
        return (("heads", self.num_memory_heads), ("query_heads", self.num_heads // self.num_memory_heads))

    @property
    def memory_heads(self) -> Dims:
        """Dimensions of the heads of keys and values."""
        return () if self.num_memory_heads == 1 else self.query_heads[:1]

    @property
    def softmax_heads(self) -> Dims:
        """Dimensions of the scores' heads, and of the relative position bias."""
        return self.query_heads

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind or out of range."""
        if wrong := kind_problems(self):
            yield from wrong
            return
        yield from positive({"num_heads": self.num_heads, "d_kv": self.d_kv})
        yield from positive({"num_heads * d_kv": max(1, self.num_heads * self.d_kv)})
        memory = self.num_memory_heads
        if memory < 0 or (memory and self.num_heads % memory):
            yield Problem("num_memory_heads", f"0, 1 or a divisor of {self.num_heads} heads", repr(memory))
        yield from self._relative_problems(SELF_RELATIVE if self.kind == "SelfAttention" else MEMORY_RELATIVE)


@dataclass(frozen=True, kw_only=True)
class TalkingHeadsSpec(RelativePositions):
    """Talking-heads attention (arXiv 2003.02436): learned projections across heads, around the softmax.

    Attributes:
        kind: TalkingHeadsSelfAttention or TalkingHeadsEncDecAttention.
        key_heads, softmax_heads, value_heads: named dimensions. Between two of them that are the same
            there is no projection; a dimension that both have is kept apart.
        d_k, d_v: widths of one head's queries and keys, and of its values.
        dynamic_projections: of DYNAMIC_PROJECTIONS: projections of logits (l) or weights (w) that are
            computed from the layer's input (x) or from the memory (m).
    """

    kind: str
    key_heads: Dims
    softmax_heads: Dims
    value_heads: Dims
    d_k: int
    d_v: int
    dynamic_projections: tuple[str, ...] = ()

    @property
    def head_projections(self) -> dict[str, tuple[Dims, Dims]]:
        """Name of each projection across heads -> dimensions before and after it (see kernel_dims)."""
        return {
            "logits": (self.key_heads, self.softmax_heads),
            "weights": (self.softmax_heads, self.value_heads),
        }

    def dynamic_sources(self, name: str) -> str:
        """What the kernel of a projection is computed from, besides its own: "x", "m", both or neither."""
        return "".join(source for source in "xm" if f"{source}2{name[0]}" in self.dynamic_projections)

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind or out of range."""
        if wrong := kind_problems(self):
            yield from wrong
            return
        yield from positive({"d_k": self.d_k, "d_v": self.d_v})
        for name in ("key_heads", "softmax_heads", "value_heads"):
            yield from positive({f"{name}.{dim}": n for dim, n in getattr(self, name)})
            yield from positive({f"{name}, all": max(1, size(getattr(self, name)))}, MAX_HEADS)
        unknown = [name for name in self.dynamic_projections if name not in DYNAMIC_PROJECTIONS]
        if unknown:
            yield Problem("dynamic_projections", f"of {', '.join(DYNAMIC_PROJECTIONS)}", f"{unknown}")
        # Mesh's contextual bias reads d_kv, which this layer does not have: it does not run there.
        yield from self._relative_problems(MEMORY_RELATIVE)


@dataclass(frozen=True, kw_only=True)
class LocalAttentionSpec(RelativePositions):
    """LongT5's local attention (arXiv 2112.07916, section 3.1.1): a position sees those near to it.

    Attributes:
        num_heads, d_kv: as in AttentionSpec.
        local_radius: how far a position sees to either side; blocks are one longer (see local_attention.py).
    """

    num_heads: int
    d_kv: int
    local_radius: int = 127
    kind: str = "LocalSelfAttention"

    @property
    def combine_dims(self) -> bool:
        """Whether kernels have heads and d_kv in one dimension: the original keeps them so."""
        return True

    @property
    def block_length(self) -> int:
        """Positions of a block, so that what is within the radius lies in it or beside it."""
        return self.local_radius + 1

    @property
    def softmax_heads(self) -> Dims:
        """Dimensions of the scores' heads, and of the relative position bias."""
        return (("heads", self.num_heads),)

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind or out of range."""
        if wrong := kind_problems(self):
            yield from wrong
            return
        yield from positive({"num_heads": self.num_heads, "d_kv": self.d_kv})
        yield from positive({"num_heads * d_kv": max(1, self.num_heads * self.d_kv)})
        yield from positive({"local_radius": self.local_radius}, MAX_WINDOW)
        yield from self._relative_problems(WINDOW_RELATIVE)


@dataclass(frozen=True, kw_only=True)
class TransientGlobalAttentionSpec(LocalAttentionSpec):
    """LongT5's transient-global attention (section 3.1.2): local, and to a summary of each block of tokens.

    Attributes, besides those of LocalAttentionSpec:
        global_block_size: tokens of a summary.
    """

    global_block_size: int = 16
    kind: str = "TransientGlobalSelfAttention"

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind or out of range."""
        wrong = list(super().problems())
        yield from wrong
        if not wrong and not 2 <= self.global_block_size <= MAX_WINDOW:
            yield Problem("global_block_size", f"2 to {MAX_WINDOW}", f"{self.global_block_size}")


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


def kernel_dims(inputs: Dims, outputs: Dims) -> Dims:
    """Dimensions of a projection's kernel, in Mesh's order: shared, reduced, new. Empty: no projection."""
    reduced = tuple(dim for dim in inputs if dim not in outputs)
    new = tuple(dim for dim in outputs if dim not in inputs)
    shared = tuple(dim for dim in inputs if dim in outputs)
    return shared + reduced + new if reduced or new else ()


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
