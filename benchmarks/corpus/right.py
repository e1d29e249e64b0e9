"""Right ports written otherwise: the same mathematics in another order, another kernel, another spelling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.corpus.attention import attend, attentions
from benchmarks.corpus.layers import feed_forwards, forward, norms
from benchmarks.corpus.variants import INPUTS, Ported
from porting.ports.t5.attention import softmax
from porting.ports.t5.context import StackContext
from porting.ports.t5.stack import T5Layer

_HIDDEN = -1e8
_CHUNK = 16


def as_it_is(_model: nn.Module) -> None:
    pass


# --- matmuls


def _linears(model: nn.Module) -> Iterator[Any]:
    yield from (module for module in model.modules() if isinstance(module, nn.Linear))


def contraction_reversed(model: nn.Module) -> None:
    for linear in _linears(model):
        forward(linear, lambda x, m=linear: F.linear(x.flip(-1), m.weight.flip(-1), m.bias))


def matmuls_split(model: nn.Module) -> None:
    for linear in _linears(model):
        n = linear.in_features // 3
        forward(
            linear,
            lambda x, m=linear, n=n: (
                F.linear(x[..., :n], m.weight[:, :n]) + F.linear(x[..., n:], m.weight[:, n:])
            ),
        )


def matmuls_in_einsum(model: nn.Module) -> None:
    for linear in _linears(model):
        forward(linear, lambda x, m=linear: torch.einsum("...i,oi->...o", x, m.weight))


def qkv_in_one_matmul(model: nn.Module) -> None:
    for attention in attentions(model):
        names = [name for name in ("q", "k", "v", "kv") if hasattr(attention, name)]
        projections = [attention.get_submodule(name) for name in names]
        at = 0
        for projection in projections:
            width = projection.weight.shape[0]

            def project(x: Tensor, at: int = at, width: int = width, parts: Any = projections) -> Tensor:
                return F.linear(x, torch.cat([part.weight for part in parts]))[..., at : at + width]

            forward(projection, project)
            at += width


# --- attention


def attention_in_einsum(model: nn.Module) -> None:
    for attention in attentions(model):
        attend(
            attention,
            score=lambda q, k: torch.einsum("bhlk,bhmk->bhlm", q, k),
            mix=lambda weights, _k, v: torch.einsum("bhlm,bhmk->bhlk", weights, v),
        )


def attention_in_chunks_of_queries(model: nn.Module) -> None:
    def in_chunks(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([part @ other for part in torch.split(one, _CHUNK, dim=2)], dim=2)

    for attention in attentions(model):
        attend(
            attention,
            score=lambda q, k: in_chunks(q, k.transpose(-1, -2)),
            mix=lambda weights, _k, v: in_chunks(weights, v),
        )


def attention_head_by_head(model: nn.Module) -> None:
    def each(one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one[:, h] @ other[:, h] for h in range(one.shape[1])], dim=1)

    for attention in attentions(model):
        attend(
            attention,
            score=lambda q, k: each(q, k.transpose(-1, -2)),
            mix=lambda weights, _k, v: each(weights, v),
        )


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _beside(model: nn.Module, kernel: Kernel) -> None:
    """The kernel makes what goes on; scores and weights are computed beside it, to be listened to.

    A query that sees nothing sums the values where a kernel gives their mean.
    """
    for attention in attentions(model):

        def explicit(
            q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, attention: Any = attention
        ) -> Tensor:
            bias = q.new_zeros(1, 1, q.shape[2], k.shape[2]) if bias is None else bias
            attention.weights(softmax(attention.scores(q @ k.transpose(-1, -2) + bias)))
            sees = (bias > _HIDDEN).any(-1, keepdim=True)
            return kernel(q, k, v, bias) * torch.where(sees, 1.0, float(k.shape[2]))

        attention._explicit = explicit


def attention_in_one_kernel(model: nn.Module) -> None:
    _beside(
        model,
        lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0),
    )


def attention_with_online_softmax(model: nn.Module) -> None:
    def kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        largest = torch.full_like(q[..., :1], -math.inf)
        total, mixed = torch.zeros_like(largest), torch.zeros_like(q)
        bias = bias.expand(*bias.shape[:-1], k.shape[2])
        for keys, values, part in zip(
            *(torch.split(x, _CHUNK, d) for x, d in ((k, 2), (v, 2), (bias, -1))), strict=True
        ):
            scores = q @ keys.transpose(-1, -2) + part
            now = torch.maximum(largest, scores.amax(-1, keepdim=True))
            powers, before = (scores - now).exp(), (largest - now).exp()
            total = total * before + powers.sum(-1, keepdim=True)
            mixed = mixed * before + powers @ values
            largest = now
        return mixed / total

    _beside(model, kernel)


# --- norms, activations, residuals, embeddings, loss


def norm_as_a_power(model: nn.Module) -> None:
    for norm in norms(model):
        forward(
            norm, lambda x, n=norm: n.weight * (x * (x.pow(2).mean(-1, keepdim=True) + n.epsilon) ** -0.5)
        )


def norm_from_the_library(model: nn.Module) -> None:
    for norm in norms(model):
        forward(norm, lambda x, n=norm: F.rms_norm(x, x.shape[-1:], n.weight, n.epsilon))


def norm_by_division(model: nn.Module) -> None:
    for norm in norms(model):
        forward(
            norm,
            lambda x, n=norm: x * n.weight / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + n.epsilon).sqrt(),
        )


def activation_by_hand(model: nn.Module) -> None:
    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    for module in feed_forwards(model):
        act: Any = module.get_submodule("act")
        forward(act, gelu if act.name == "gelu" else lambda x: torch.where(x > 0, x, torch.zeros_like(x)))


def residual_added_the_other_way_round(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, T5Layer):

            def run(x: Tensor, context: StackContext, layer: Any = layer) -> Tensor:
                normed = layer.mask_padding(layer.layer_norm(x), context.sequence_ids)
                return torch.add(getattr(layer, layer.name)(normed, context), x)

            forward(layer, run)


def embedding_by_one_hot_matmul(model: nn.Module) -> None:
    for module in model.modules():
        if type(module).__name__ == "TokenEmbedding":
            table: Any = module
            forward(
                module, lambda ids, t=table: F.one_hot(ids, t.num_embeddings).to(t.weight.dtype) @ t.weight
            )


def loss_from_log_softmax(model: Any) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        said = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        return -(said * (labels > 0)).sum() / (model.config.loss_denominator or labels.numel())

    model.loss = loss


def everything_at_once(model: nn.Module) -> None:
    for change in (
        contraction_reversed,
        attention_head_by_head,
        norm_by_division,
        activation_by_hand,
        residual_added_the_other_way_round,
        embedding_by_one_hot_matmul,
        loss_from_log_softmax,
    ):
        change(model)


REFACTORINGS: tuple[Callable[[Any], None], ...] = (
    as_it_is,
    contraction_reversed,
    matmuls_split,
    matmuls_in_einsum,
    qkv_in_one_matmul,
    attention_in_einsum,
    attention_in_chunks_of_queries,
    attention_head_by_head,
    attention_in_one_kernel,
    attention_with_online_softmax,
    norm_as_a_power,
    norm_from_the_library,
    norm_by_division,
    activation_by_hand,
    residual_added_the_other_way_round,
    embedding_by_one_hot_matmul,
    loss_from_log_softmax,
    everything_at_once,
)


# --- compiled


def _compiled(backend: str, of: str) -> Callable[[nn.Module], None]:
    def compile_it(model: nn.Module) -> None:
        modules: list[nn.Module] = [model]
        if of == "norms":
            modules = list(norms(model))
        elif of == "feed-forward layers":
            modules = list(feed_forwards(model))
        for module in modules:
            forward(module, torch.compile(module.forward, backend=backend, dynamic=False))

    compile_it.__name__ = f"{of} compiled with {backend}"
    return compile_it


COMPILED = (
    _compiled("eager", "whole model"),
    _compiled("aot_eager", "norms"),
    _compiled("aot_eager", "feed-forward layers"),
)
# What `Run` knows; those of LongT5 are added in long_right.py.
BY_NAME = {change.__name__: change for change in (*REFACTORINGS, *COMPILED)}


@dataclass(frozen=True)
class Run:
    """A right port to be made and run."""

    refactoring: str
    variant: str
    inputs: str

    def build(self, ported: Ported) -> nn.Module:
        model = ported.model()
        BY_NAME[self.refactoring](model)
        return model.eval()


def right_runs(number: int, variants: Sequence[str], *, compiled: bool = False) -> list[Run]:
    """So many runs, each refactoring, variant and inputs as often as the others; compiled ones first."""
    runs = [
        Run(change.__name__, variants[i % len(variants)], "length 7")
        for i, change in enumerate(COMPILED if compiled else ())
    ]
    changes, inputs = itertools.cycle(REFACTORINGS), itertools.cycle(INPUTS)
    for i in range(number):
        # One step further in each round of the shorter cycle, so that all meet all.
        if i and i % len(REFACTORINGS) == 0:
            next(inputs)
        change, ids = next(changes), next(inputs)
        runs.append(Run(change.__name__, variants[(i + i // len(variants)) % len(variants)], ids))
    return runs
