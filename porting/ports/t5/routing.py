"""Which expert takes which token, as `moe.py` of Mesh TensorFlow decides at evaluation, for every gating.

Shapes: g groups, s tokens of a group, e experts, c places of an expert (its capacity in each group), k
choices of a token. Everything is float32. `real` is 1 at tokens, 0 at padding. Losses are the unweighted
load-balancing losses of the original.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from porting.ports.t5.attention import softmax
from porting.ports.t5.layer_specs import MixtureSpec


@dataclass(frozen=True)
class Routing:
    """What each place of each expert holds.

    Attributes:
        tokens: int64 [g, e, c], the token in that place.
        filled: bool [g, e, c], whether the place holds one at all.
        weights: [g, e, c], what the expert's answer counts for.
        loss: scalar, the load-balancing loss.
    """

    tokens: Tensor
    filled: Tensor
    weights: Tensor
    loss: Tensor


def route(spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """Route tokens by the router's logits [g, s, e]; real [g, s]."""
    return _GATINGS[spec.gating](spec, logits, real, capacity)


def _switch(_spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """Each token to its best expert, first come first served (`_switch_gating`)."""
    gates = softmax(logits)
    gate, expert = _top_1(gates)
    mask = _one_hot(expert, gates)
    loss = _balance(mask.mean(1), gates.mean(1), real)
    mask = mask * real[..., None]
    position = _positions(mask) * mask
    mask = mask * (position < capacity)
    return _dispatch([(expert, position.sum(-1), gate * real * mask.sum(-1))], gates, capacity, loss)


def _switch_max(_spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """Each token to its best expert; an expert keeps the tokens surest of it (`_switch_max_gating`)."""
    gates = softmax(logits)
    gate, expert = _top_1(gates)
    mask = _one_hot(expert, gates)
    loss = _balance(mask.mean(1), gates.mean(1), real)
    chosen = mask * (gate * real * real)[..., None]  # [g, s, e]
    weights, tokens = _top_k(chosen.transpose(1, 2), capacity)
    return Routing(tokens, weights != 0, weights, loss)


def _expert_selection(_spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """Each expert chooses its tokens (`_expert_selection_gating`)."""
    masked = logits + (real == 0).float()[..., None] * -1e9
    gates = softmax(masked.transpose(1, 2))  # [g, e, s]
    weights, tokens = _top_k(gates, capacity)
    taken = torch.zeros_like(real).scatter_add(1, tokens.flatten(1), torch.ones_like(weights).flatten(1))
    weights = weights / taken.clamp(min=1.0).gather(1, tokens.flatten(1)).view_as(weights)
    mean = gates.mean(1) * real  # [g, s]
    loss = (mean * mean * real.sum(1, keepdim=True)).mean() * float(logits.shape[1])
    return Routing(tokens, torch.ones_like(tokens, dtype=torch.bool), weights, loss)


def _top_2(spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """Each token to its two best experts, weights normalised (`_top_2_gating`)."""
    gates = softmax(logits)
    gate_1, expert_1 = _top_1(gates)
    mask_1 = _one_hot(expert_1, gates) * real[..., None]
    gate_1 = gate_1 * real
    rest = gates * (1.0 - mask_1)
    gate_2, expert_2 = _top_1(rest)
    mask_2 = _one_hot(expert_2, gates) * real[..., None]
    total = gate_1 + gate_2 + 1e-9
    gate_1, gate_2 = gate_1 / total, gate_2 / total
    squared = float(spec.num_experts**2)
    loss = (mask_1.mean(1) * (gates * real[..., None]).mean(1)).mean() * squared
    if spec.use_second_place_loss:
        proxy = rest / (rest.sum(-1, keepdim=True) + 1e-9)
        loss = loss + (mask_2.mean(1) * proxy.mean(1)).mean() * squared * 0.5
    choices = [(gate_1, expert_1, mask_1), (gate_2, expert_2, _second_policy(spec, gate_2, mask_2))]
    return _fill_in_turn(choices, gates, capacity, loss)


def _top_n(spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """Each token to its n best experts (`_top_n_gating`)."""
    gates = softmax(logits)
    rest = gates
    choices = []
    for _ in range(spec.experts_per_token):
        gate, expert = _top_1(rest)
        mask = _one_hot(expert, gates) * real[..., None]
        rest = rest * (1.0 - mask)
        choices.append((gate * real, expert, mask))
    loss = (choices[0][2].mean(1) * (gates * real[..., None]).mean(1)).mean() * float(spec.num_experts**2)
    if len(choices) > 1:
        total = sum(gate for gate, _, _ in choices[1:]) + choices[0][0] + 1e-9
        choices = [(gate / total, expert, mask) for gate, expert, mask in choices]
    first, *others = choices
    others = [(gate, expert, _second_policy(spec, gate, mask)) for gate, expert, mask in others]
    return _fill_in_turn([first, *others], gates, capacity, loss)


def _ntlb(spec: MixtureSpec, logits: Tensor, real: Tensor, capacity: int) -> Routing:
    """No token left behind: what overflows tries its next best expert (`_ntlb_gating`)."""
    gates = softmax(logits)
    gate_k, expert_k = _top_k(gates, spec.experts_per_token)  # [g, s, k]
    density = _one_hot(expert_k, gates).mean(1)  # [g, k, e]
    proxy = gates.mean(1)[:, None, None, :] * real[:, :, None, None]  # [g, s, 1, e]
    loss = (proxy * density[:, None]).mean() * float(spec.num_experts**2)
    used = gates.new_zeros(gates.shape[0], 1, gates.shape[2])
    left = torch.ones_like(real)
    choices = []
    for i in range(spec.experts_per_token):
        expert = expert_k[..., i]
        mask = _one_hot(expert, gates) * (real * left)[..., None]
        so_far = used + mask.cumsum(1)
        kept = mask * (so_far <= capacity)
        used = used + kept.sum(1, keepdim=True)
        left = left - kept.sum(-1)
        position = ((so_far - 1) * kept).sum(-1)
        choices.append((expert, position, gate_k[..., i] * real * kept.sum(-1)))
    return _dispatch(choices, gates, capacity, loss)


_GATINGS: dict[str, Callable[[MixtureSpec, Tensor, Tensor, int], Routing]] = {
    "switch": _switch,
    "switch_max": _switch_max,
    "expert_selection": _expert_selection,
    "top_2": _top_2,
    "top_n": _top_n,
    "ntlb": _ntlb,
}


def _top_1(gates: Tensor) -> tuple[Tensor, Tensor]:
    """Largest gate of each token and the first expert that has it: [g, s] each."""
    gate = gates.amax(-1)
    return gate, (gates == gate[..., None]).int().argmax(-1)


def _top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest on the last axis and where they are; of equal ones the first, unlike torch.topk."""
    ordered, index = values.sort(dim=-1, descending=True, stable=True)
    return ordered[..., :k], index[..., :k]


def _one_hot(expert: Tensor, gates: Tensor) -> Tensor:
    return F.one_hot(expert, gates.shape[-1]).to(gates.dtype)


def _positions(mask: Tensor) -> Tensor:
    """How many tokens before each one go to the same expert: [g, s, e] -> [g, s, e]."""
    return mask.cumsum(1) - mask


def _balance(density: Tensor, proxy: Tensor, real: Tensor) -> Tensor:
    """[g, e], [g, e], [g, s] -> the switch gatings' load-balancing loss, padding taken out of the mean."""
    each = (density * proxy).mean(-1) * real.mean(-1)
    return each.mean() * float(density.shape[-1] ** 2)


def _second_policy(spec: MixtureSpec, gate: Tensor, mask: Tensor) -> Tensor:
    """Which tokens go to a further expert: [g, s, e] -> [g, s, e]."""
    if spec.second_policy == "none":
        return torch.zeros_like(mask)
    if spec.second_policy == "threshold":
        return mask * (gate > spec.second_threshold).float()[..., None]
    return mask


def _fill_in_turn(
    choices: list[tuple[Tensor, Tensor, Tensor]], gates: Tensor, capacity: int, loss: Tensor
) -> Routing:
    """First choices fill the experts' places first; (gate, expert, mask [g, s, e]) of each choice."""
    used = gates.new_zeros(gates.shape[0], 1, gates.shape[2])
    placed = []
    for gate, expert, mask in choices:
        position = (_positions(mask) + used) * mask
        kept = mask * (position < capacity)
        used = used + kept.sum(1, keepdim=True)
        placed.append((expert, position.sum(-1), gate * kept.sum(-1)))
    return _dispatch(placed, gates, capacity, loss)


def _dispatch(
    choices: list[tuple[Tensor, Tensor, Tensor]], gates: Tensor, capacity: int, loss: Tensor
) -> Routing:
    """(expert, place, weight) of each token, [g, s] each; a weight of 0 sends the token nowhere."""
    g, s, e = gates.shape
    nowhere = e * capacity  # one place more, for what goes nowhere
    tokens = torch.zeros(g, nowhere + 1, dtype=torch.long, device=gates.device)
    weights = gates.new_zeros(g, nowhere + 1)
    every = torch.arange(s, device=gates.device).expand(g, s)
    for expert, position, weight in choices:
        place = torch.where(weight != 0, expert * capacity + position.long(), nowhere)
        tokens = tokens.scatter(1, place, every)
        weights = weights.scatter(1, place, weight)
    tokens, weights = (t[:, :-1].reshape(g, e, capacity) for t in (tokens, weights))
    return Routing(tokens, weights != 0, weights, loss)
