"""Talking-heads attention (arXiv 2003.02436), as Mesh's `TalkingHeadsSelfAttention` computes it.

Shapes: b batch, l length (queries), m memory_length (keys and values), d d_model. Heads are flat between the
projections; inside one they are taken apart into the spec's named dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from porting.ports.t5.architecture import Place
from porting.ports.t5.attention import BiasedAttention, softmax
from porting.ports.t5.attention_specs import TalkingHeadsSpec, kernel_dims
from porting.ports.t5.context import StackContext
from porting.ports.t5.layers import Tap
from porting.ports.t5.spec_problems import Dims, size


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
        for name, (inputs, outputs) in spec.head_projections.items():
            if not kernel_dims(inputs, outputs):
                continue
            self.add_module(name, HeadsProjection(d_model, inputs, outputs, spec.dynamic_sources(name)))
        self.scores = Tap()
        self.softmax = Tap()
        self.attended = Tap()

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]"""
        memory = self.memory(x, context)
        q = self.split_heads(self.q(x), self.spec.d_k)
        k, v = self.keys_and_values(x, context)
        scores = self._project("logits", q @ k.transpose(-1, -2), x, memory)
        if (bias := self.score_bias(self.held_bias(context), context)) is not None:
            scores = scores + bias
        weights = self.softmax(softmax(self.scores(scores.float()))).to(v.dtype)
        attended = self.attended(self._project("weights", weights, x, memory) @ v)
        output: Tensor = self.o(attended.transpose(1, 2).flatten(2))
        return output

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[b, m, d] -> [b, heads, m, d_k], [b, heads, m, d_v]"""
        k, v = self.k(memory), self.v(memory)
        return self.split_heads(k, self.spec.d_k), self.split_heads(v, self.spec.d_v)

    def _project(self, name: str, per_head: Tensor, x: Tensor, memory: Tensor) -> Tensor:
        if not hasattr(self, name):
            return per_head
        projected: Tensor = getattr(self, name)(per_head, x, memory)
        return projected
