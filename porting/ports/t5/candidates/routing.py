"""Mixtures of experts: what an expert's answer counts for, who is routed, and what does not fit.

Shapes: g groups, s tokens of a group, e experts, c places of an expert, d d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.candidates.sequences import sequence_ids, stack_of
from porting.ports.t5.layers import T5FeedForward
from porting.ports.t5.mixture import MixtureOfExperts
from porting.ports.t5.routing import Routing, route

_AS_IT_IS = "routes as the original"
ROUTES_PADDING = "routes padding to experts too"
LOSSES, LOSSES_OF_PADDING = (
    " and the load-balancing losses",
    " and the load-balancing losses, padding counted",
)


@dataclass(frozen=True)
class _Mixture:
    """One mixture of experts, and the original's tensors around it.

    Attributes:
        module: the port's.
        tokens: what it reads, [g, s, d].
        logits: the router's, [g, s, e].
        real: 1 at tokens, 0 at padding, [g, s].
    """

    module: MixtureOfExperts
    tokens: Tensor
    logits: Tensor
    real: Tensor

    def routed(self, real: Tensor) -> Routing:
        """As the original routes the tokens that `real` marks; in float32, like the original."""
        capacity = self.module.spec.capacity(self.logits.shape[1])
        return route(self.module.spec, self.logits.float(), real.float(), capacity)

    def routings(self) -> dict[str, Routing]:
        """Ways to route, by what a port does that takes them."""
        right = self.routed(self.real)
        gates = self.logits.sigmoid().transpose(1, 2).gather(2, right.tokens) * right.filled
        return {
            _AS_IT_IS: right,
            ROUTES_PADDING: self.routed(torch.ones_like(self.real)),
            "does not multiply an expert's answer by its gate": replace(right, weights=right.filled.double()),
            "takes a sigmoid for the gate": replace(right, weights=gates),
        }


def wrong_routing(site: Site) -> Iterator[Hypothesis]:
    """What experts are given, and what becomes of their answers, for each way to route."""
    at_inputs = site.leaf == "expert_inputs"
    found = mixture_at(site, site.parent if at_inputs else site.name)
    if found is None or not site.fits:
        return
    answers = site.lab.original(f"{site.name}.expert_outputs")
    forms: dict[str, Tensor] = {}
    for words, routing in found.routings().items():
        if at_inputs:
            forms[words] = _held(found.tokens, routing).transpose(0, 1).reshape(site.port.shape)
        elif answers is not None:
            mixed, taken = _combined(found.tokens, answers.transpose(0, 1), routing)
            forms[words] = mixed.reshape(site.port.shape)
            passed = torch.where(taken, mixed, found.tokens).reshape(site.port.shape)
            forms[f"{words}, and lets tokens pass that no expert takes"] = passed
    for port, original in site.told_apart(forms):
        words = port.removeprefix(f"{_AS_IT_IS}, and ")
        than = "" if original == _AS_IT_IS else f"; the original {original}"
        yield Hypothesis(Cause("routing", f"the port {words}{than}"), forms[original], forms[port])


def mixture_at(site: Site, path: str) -> _Mixture | None:
    """The mixture of experts at a module path, if there is one."""
    module = site.lab.modules.get(path)
    x = site.lab.original(f"{path.rpartition('.')[0]}.mask_padding")
    logits = site.lab.original(f"{path}.router.logits")
    if not isinstance(module, MixtureOfExperts) or x is None or logits is None:
        return None
    real = (sequence_ids(site, stack_of(path)) != 0).double()
    groups, size = logits.shape[:2]
    return _Mixture(module, x.reshape(groups, size, -1), logits, real.reshape(groups, size))


def balance_losses(site: Site) -> dict[str, Tensor]:
    """What all mixtures add to the loss, float64 scalars, by what the port does; empty without mixtures."""
    paths = [
        name.removesuffix(".router.logits") for name in site.lab.by_name if name.endswith(".router.logits")
    ]
    mixtures = [found for path in paths if (found := mixture_at(site, path)) is not None]
    if not mixtures:
        return {}

    def total(each: list[Routing]) -> Tensor:
        terms = zip(mixtures, each, strict=True)
        return torch.stack([r.loss.double() * m.module.spec.loss_coef for m, r in terms]).sum()

    right = [m.routed(m.real) for m in mixtures]
    losses = {LOSSES: total(right)}
    for i, mixture in enumerate(mixtures):
        padded = [*right[:i], mixture.routed(torch.ones_like(mixture.real)), *right[i + 1 :]]
        losses[f"{LOSSES_OF_PADDING} in {paths[i]}"] = total(padded)
    return losses


def wrong_experts(site: Site) -> Iterator[Hypothesis]:
    """Experts that work on what is another's: whose weights were used is found by content."""
    module = site.lab.modules.get(site.parent)
    given = site.sibling("expert_inputs")
    if site.leaf != "hidden" or not isinstance(module, MixtureOfExperts) or given is None or not site.fits:
        return
    experts = [expert for expert in module.experts.values() if isinstance(expert, T5FeedForward)]
    # By the class's own function: an expert's may be what is wrong.
    with torch.no_grad():
        made = [
            [T5FeedForward.inner(expert, part.to(expert.wo.weight.dtype)).double() for expert in experts]
            for part in given
        ]
    used = [
        min(range(len(experts)), key=lambda i: float((each[i] - own).abs().max()))
        for each, own in zip(made, site.port, strict=True)
    ]
    faulty = torch.stack([each[i] for each, i in zip(made, used, strict=True)])
    mended = torch.stack([each[i] for i, each in enumerate(made)])
    words = f"the port's experts stand in another order: in the places of 0, 1, ... are {used}"
    yield Hypothesis(Cause("order", words), mended.reshape(site.port.shape), faulty.reshape(site.port.shape))


def _held(tokens: Tensor, routing: Routing) -> Tensor:
    """[g, s, d] -> [g, e, c, d], zeros in places that are not filled."""
    index = routing.tokens.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
    held = tokens.gather(1, index).view(*routing.tokens.shape, -1)
    return held * routing.filled[..., None]


def _combined(tokens: Tensor, answers: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """The weighted sum of the answers [g, e, c, d] for each token, and whether any expert took it."""
    index = routing.tokens.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
    weighted = (answers * routing.weights.double()[..., None]).flatten(1, 2)
    taken = torch.zeros(tokens.shape[:2]).scatter_add(
        1, routing.tokens.flatten(1), routing.filled.float().flatten(1)
    )
    return torch.zeros_like(tokens).scatter_add(1, index, weighted), taken[..., None] > 0
