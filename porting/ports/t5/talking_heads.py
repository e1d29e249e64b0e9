"""Talking-heads attention (arXiv 2003.02436), as Mesh's `TalkingHeadsSelfAttention` computes it.

Shapes: b batch, l length (queries), m memory_length (keys and values), d d_model. Heads are flat between the
projections; inside one they are taken apart into the spec's named dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from porting.ports.t5.architecture import Place
from porting.ports.t5.attention import BiasedAttention, softmax
from porting.ports.t5.context import StackContext
from porting.ports.t5.layer_specs import Dims, TalkingHeadsSpec, kernel_dims, size
from porting.ports.t5.layers import Tap


class HeadsProjection(nn.Module):
    """A linear map across heads, at each pair of positions; its kernel may depend on the positions.

    Parameters: `weight` of the kernel's dimensions; `dynamic.0`, `dynamic.1`: [kernel, d] each.
    """

    def __init__(self, d_model: int, inputs: Dims, outputs: Dims, sources: str) -> None:
        super().__init__()
        self.inputs, self.outputs, self.sources = inputs, outputs, sources
        self.kernel = kernel_dims(inputs, outputs)
        self.weight = nn.Parameter(torch.empty([n for _, n in self.kernel]))
        nn.init.normal_(self.weight, std=size(inputs) ** -0.5)
        self.dynamic = nn.ModuleList(nn.Linear(d_model, size(self.kernel), bias=False) for _ in sources)

    def forward(self, per_head: Tensor, x: Tensor, memory: Tensor) -> Tensor:
        """[b, heads, l, m] -> [b, heads, l, m], heads flat; x [b, l, d], memory [b, m, d]."""
        b, _, length, m = per_head.shape
        letters = {dim: chr(ord("n") + i) for i, dim in enumerate(dict.fromkeys(self.kernel))}

        def spelled(dims: Dims) -> str:
            return "".join(letters[dim] for dim in dims)

        taken_apart = per_head.reshape(b, *(n for _, n in self.inputs), length, m)
        result = f"b{spelled(self.outputs)}lm"
        each = []
        kernels = [("", self.weight)] if not self.sources else []
        for i, (source, projection) in enumerate(zip(self.sources, self.dynamic, strict=True)):
            values = x if source == "x" else memory
            kernel = projection(values).unflatten(-1, [n for _, n in self.kernel])
            kernels.append(("bl" if source == "x" else "bm", kernel if i else kernel + self.weight))
        for positions, kernel in kernels:
            terms = f"b{spelled(self.inputs)}lm,{positions}{spelled(self.kernel)}->{result}"
            each.append(torch.einsum(terms, taken_apart, kernel))
        return sum(each[1:], each[0]).reshape(b, size(self.outputs), length, m)


class TalkingHeadsAttention(BiasedAttention):
    """Attention whose heads are mixed before the softmax and after it."""

    def __init__(self, d_model: int, place: Place, *, bias_holder: int | None, bidirectional: bool) -> None:
        spec = place.spec
        assert isinstance(spec, TalkingHeadsSpec)
        heads = size(spec.softmax_heads)
        super().__init__(place, heads, bias_holder=bias_holder, bidirectional=bidirectional)
        self.spec = spec
        self.q = nn.Linear(d_model, size(spec.key_heads) * spec.d_k, bias=False)
        self.k = nn.Linear(d_model, size(spec.key_heads) * spec.d_k, bias=False)
        self.v = nn.Linear(d_model, size(spec.value_heads) * spec.d_v, bias=False)
        self.o = nn.Linear(size(spec.value_heads) * spec.d_v, d_model, bias=False)
        for name, inputs, outputs in self.projections(spec):
            sources = "".join(source for source in "xm" if f"{source}2{name[0]}" in spec.dynamic_projections)
            self.add_module(name, HeadsProjection(d_model, inputs, outputs, sources))
        if spec.relative_attention_type:
            self.position_bias = Tap()
        self.scores = Tap()
        self.softmax = Tap()
        self.attended = Tap()

    @staticmethod
    def projections(spec: TalkingHeadsSpec) -> list[tuple[str, Dims, Dims]]:
        """(name, from, to) of the projections that there are."""
        both = [
            ("logits", spec.key_heads, spec.softmax_heads),
            ("weights", spec.softmax_heads, spec.value_heads),
        ]
        return [(name, *dims) for name, *dims in both if kernel_dims(*dims)]  # type: ignore[misc]

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        within = self.within_stack
        memory = x if within else context.memory
        assert memory is not None
        cache = context.cache(self.number)
        q = _split(self.q(x), self.spec.d_k)

        def compute() -> tuple[Tensor, Tensor]:
            return _split(self.k(memory), self.spec.d_k), _split(self.v(memory), self.spec.d_v)

        if cache is None:
            k, v = compute()
        else:
            k, v = cache.append(*compute()) if within else cache.fill_once(compute)
        scores = self._project("logits", q @ k.transpose(-1, -2), x, memory)
        visibility = context.visibility if within else context.memory_visibility
        bias = visibility.bias
        if (position_bias := self.held_bias(context)) is not None:
            position_bias = self.position_bias(position_bias)
            bias = position_bias if bias is None else bias + position_bias
        if bias is not None:
            scores = scores + bias
        weights = self.softmax(softmax(self.scores(scores.float()))).to(v.dtype)
        attended = self.attended(self._project("weights", weights, x, memory) @ v)
        output: Tensor = self.o(attended.transpose(1, 2).flatten(2))
        return output

    def _project(self, name: str, per_head: Tensor, x: Tensor, memory: Tensor) -> Tensor:
        if not hasattr(self, name):
            return per_head
        projected: Tensor = getattr(self, name)(per_head, x, memory)
        return projected


def _split(x: Tensor, width: int) -> Tensor:
    """[b, l, heads*width] -> [b, heads, l, width]"""
    return x.view(*x.shape[:-1], -1, width).transpose(1, 2)
