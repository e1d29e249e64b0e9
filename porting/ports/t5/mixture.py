"""Mixture of experts (`moe.MoE1D` of Mesh TensorFlow; Switch Transformers, arXiv 2101.03961).

Module names are those of transformers' Switch Transformers: `router.classifier`, `experts.expert_0.wi`.

Shapes: b batch, l length, d d_model, g groups, s tokens of a group, e experts, c places of an expert, f d_ff.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from porting.ports.t5.context import StackContext
from porting.ports.t5.layer_specs import MixtureSpec
from porting.ports.t5.layers import T5FeedForward, Tap
from porting.ports.t5.routing import Routing, route


class Router(nn.Module):
    """Scores experts for each token, in float32 whatever the weights are stored in."""

    def __init__(self, width: int, num_experts: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, num_experts, bias=False)
        self.logits = Tap()

    def forward(self, x: Tensor) -> Tensor:
        """[g, s, width] -> [g, s, e]"""
        logits: Tensor = self.logits(F.linear(x.float(), self.classifier.weight.float()))
        return logits


class MixtureOfExperts(nn.Module):
    """Feed-forward layers, of which each token passes through one, a few, or none."""

    def __init__(self, d_model: int, spec: MixtureSpec, dropout_rate: float) -> None:
        super().__init__()
        self.spec = spec
        self.router = Router(spec.router_width(d_model), spec.num_experts)
        self.experts = nn.ModuleDict(
            {f"expert_{i}": T5FeedForward(d_model, spec, dropout_rate) for i in range(spec.num_experts)}
        )
        self.expert_inputs = Tap()
        self.hidden = Tap()
        self.expert_outputs = Tap()

    def forward(self, x: Tensor, context: StackContext) -> Tensor:
        """[b, l, d] -> [b, l, d]; adds the weighted load-balancing loss to the context's.

        Tokens are routed in groups that run through the whole batch, as in the original: what one token
        gets depends on which others are there, once an expert overflows.
        """
        d = x.shape[-1]
        number, size = self.spec.groups(x[..., 0].numel())
        ids = context.sequence_ids
        real = x.new_ones(x.shape[:2]) if ids is None else ids != 0
        tokens = x.reshape(number, size, d)
        logits = self.router(self._seen(tokens, context.token_embeddings.reshape(number, size, d)))
        routing = route(self.spec, logits, real.reshape(number, size).float(), self.spec.capacity(size))
        context.losses.append(routing.loss * self.spec.loss_coef)
        return self._through_experts(tokens, routing).reshape(x.shape)

    def _seen(self, tokens: Tensor, embeddings: Tensor) -> Tensor:
        """What the router reads (`_add_token_emb_to_gate_inputs`)."""
        mode = self.spec.word_embed_mode
        if mode is None:
            return tokens
        if mode.endswith("stop_grad"):
            embeddings = embeddings.detach()
        if mode == "embed_only":
            return embeddings
        return torch.cat([tokens, embeddings], -1) if mode.startswith("concat") else tokens + embeddings

    def _through_experts(self, tokens: Tensor, routing: Routing) -> Tensor:
        """[g, s, d] -> [g, s, d]: each token to its places, and the weighted sum of what comes back."""
        g, s, d = tokens.shape
        index = routing.tokens.flatten(1)[..., None].expand(-1, -1, d)  # [g, e*c, d]
        held = tokens.gather(1, index).view(g, *routing.tokens.shape[1:], d)
        held = held * routing.filled[..., None].to(held.dtype)
        expert_inputs = self.expert_inputs(held.transpose(0, 1))  # [e, g, c, d]
        experts = cast(list[T5FeedForward], list(self.experts.values()))
        hidden = [expert.inner(part) for expert, part in zip(experts, expert_inputs, strict=True)]
        hidden = self.hidden(torch.stack(hidden))  # [e, g, c, f]
        outputs = [expert.wo(expert.dropout(part)) for expert, part in zip(experts, hidden, strict=True)]
        answers = self.expert_outputs(torch.stack(outputs)).transpose(0, 1)  # [g, e, c, d]
        weighted = answers * routing.weights[..., None].to(answers.dtype)
        return tokens.new_zeros(g, s, d).scatter_add(1, index, weighted.flatten(1, 2))
