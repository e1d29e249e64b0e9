"""Faults in the code of mixtures of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.corpus.fault import in_code
from benchmarks.corpus.layers import forward

_MOE = "encoder.block.1.layer.1.mlp"
_ONLY = ("switch",)


def _mixture(model: Any) -> Any:
    return model.get_submodule(_MOE)


def _routed(model: Any, change: Any) -> None:
    mixture = _mixture(model)
    right = mixture._through_experts
    mixture._through_experts = lambda tokens, routing: right(tokens, change(routing))


@in_code(_MOE, "routing", variants=_ONLY)
def gate_not_multiplied(model: Any) -> None:
    _routed(model, lambda routing: replace(routing, weights=(routing.weights != 0).float()))


@in_code(_MOE, "routing", variants=_ONLY)
def gate_is_a_sigmoid(model: Any) -> None:
    mixture = _mixture(model)
    right = mixture._through_experts
    kept: list[Tensor] = []
    mixture.router.logits.register_forward_hook(lambda _m, _a, x: kept.__setitem__(slice(None), [x]))

    def through(tokens: Tensor, routing: Any) -> Any:
        gates = kept[0].sigmoid().amax(-1)[:, None].expand(*routing.weights.shape[:2], -1)
        weights = gates.gather(2, routing.tokens) * routing.filled
        return right(tokens, replace(routing, weights=weights))

    mixture._through_experts = through


@in_code(f"{_MOE}.expert_inputs", "routing padding", also=rf"{_MOE}|loss", variants=_ONLY)
def padding_routed_to_experts_too(model: Any) -> None:
    mixture = _mixture(model)
    right = mixture.forward

    def run(x: Tensor, context: Any) -> Any:
        return right(x, replace(context, sequence_ids=torch.ones_like(context.sequence_ids)))

    forward(mixture, run)


@in_code(_MOE, "routing", variants=_ONLY)
def overflowing_tokens_pass_through(model: Any) -> None:
    """As transformers does: a token that no expert takes keeps its value."""
    mixture = _mixture(model)
    right = mixture._through_experts

    def through(tokens: Tensor, routing: Any) -> Tensor:
        taken = torch.zeros(tokens.shape[:2]).scatter_add(
            1, routing.tokens.flatten(1), routing.filled.float().flatten(1)
        )
        out = right(tokens, routing)
        return torch.where(taken[..., None] > 0, out, tokens)

    mixture._through_experts = through


@in_code(f"{_MOE}.router.logits", "rounding", "bfloat16", variants=_ONLY)
def router_in_bfloat16(model: Any) -> None:
    router = _mixture(model).router
    forward(
        router, lambda x: router.logits(F.linear(x.bfloat16(), router.classifier.weight.bfloat16()).float())
    )


@in_code(f"{_MOE}.hidden", "weight order", variants=_ONLY)
def answers_of_experts_in_another_order(model: Any) -> None:
    experts = list(_mixture(model).experts.values())
    inner = [expert.inner for expert in experts]
    for expert, other in zip(experts, reversed(inner), strict=True):
        expert.inner = other


@in_code("loss", "loss sum", variants=_ONLY)
def load_balancing_loss_left_out(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "router"):
            right: Any = module.forward

            def run(x: Tensor, context: Any, right: Any = right) -> Tensor:
                out: Tensor = right(x, replace(context, losses=[]))
                return out

            forward(module, run)


@in_code(f"{_MOE}.router.logits", "source", variants=_ONLY)
def router_reads_token_embeddings_too(model: Any) -> None:
    mixture = _mixture(model)
    mixture._seen = lambda tokens, embeddings: tokens + embeddings
