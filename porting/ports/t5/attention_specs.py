"""Attention layers, in the terms of Mesh TensorFlow's classes, and LongT5's in those of its modules.

Heads are named dimensions, as in Mesh: no dimension for one head, `heads` for many, `heads` and `query_heads`
where several queries share keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from porting.errors import Problem
from porting.ports.t5.spec_problems import (
    MAX_HEADS,
    MAX_WINDOW,
    Dims,
    bucket_problems,
    kind_problems,
    positive,
    size,
)

SELF_RELATIVE = (None, "bias", "bias_shared", "contextual")


WINDOW_RELATIVE = (None, "bias", "bias_shared")


MEMORY_RELATIVE = (None, "bias", "bias_shared")


DYNAMIC_PROJECTIONS = ("x2l", "m2l", "x2w", "m2w")


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


def kernel_dims(inputs: Dims, outputs: Dims) -> Dims:
    """Dimensions of a projection's kernel, in Mesh's order: shared, reduced, new. Empty: no projection."""
    reduced = tuple(dim for dim in inputs if dim not in outputs)
    new = tuple(dim for dim in outputs if dim not in inputs)
    shared = tuple(dim for dim in inputs if dim in outputs)
    return shared + reduced + new if reduced or new else ()
