"""The loss: what it is divided by, which positions count, smoothing, a z-loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.candidates.routing import LOSSES, LOSSES_OF_PADDING, ROUTES_PADDING, balance_losses

_Z_LOSS = 1e-4


def wrong_loss(site: Site) -> Iterator[Hypothesis]:
    """Cross entropy of the original's logits, averaged in each way that is common."""
    logits = site.lab.original("logits")
    if site.name != "loss" or logits is None:
        return
    targets = torch.from_numpy(site.inputs["targets"]).long().flatten()
    flat = logits.flatten(0, 1)
    real = (targets > 0).double()
    z = _Z_LOSS * flat.logsumexp(-1).square()
    each = {
        "": F.cross_entropy(flat, targets, reduction="none"),
        " with a z-loss of 1e-4": F.cross_entropy(flat, targets, reduction="none") + z,
    }
    for smoothing in (0.1, 0.05, 0.2):
        each[f" with label smoothing {smoothing}"] = F.cross_entropy(
            flat, targets, reduction="none", label_smoothing=smoothing
        )
    forms = {}
    summed_up = (each[""] * real).sum()
    for extra, values in each.items():
        summed, everything = (values * real).sum(), values.sum()
        forms[f"the sum over real targets, divided by all positions{extra}"] = summed / targets.numel()
        forms[f"the mean over real targets{extra}"] = summed / real.sum().clamp(min=1)
        forms[f"the mean over all positions, padding included{extra}"] = everything / targets.numel()
        forms[f"the sum over real targets{extra}"] = summed
        forms[f"the sum over real targets, divided by the batch size{extra}"] = summed / logits.shape[0]
    if targets.numel() > logits.shape[0]:
        early = F.cross_entropy(logits[:, :-1].flatten(0, 1), _later(site).flatten(), reduction="none")
        shifted = (early * (_later(site).flatten() > 0)).sum()
        words = "the sum over real targets, each judged by the logits one position before it"
        for count, name in (
            (targets.numel(), "divided by all positions"),
            (float(summed_up / site.original), "divided as in the original"),
            (early.numel(), "divided by all these positions"),
            (float((_later(site) > 0).sum().clamp(min=1)), "divided by their number"),
        ):
            forms[f"{words}, {name}"] = shifted / count
    denominators = [round(float(summed_up / value)) for value in (site.original, site.port) if value]
    denominators += [int(getattr(getattr(site.lab.model, "config", None), "loss_denominator", None) or 0)]
    for whole in denominators:
        if whole > 0:
            forms.setdefault(f"the sum over real targets, divided by {whole}", summed_up / whole)
    for words, losses in balance_losses(site).items():
        forms |= {
            f"{name}{words}": value + losses for name, value in list(forms.items()) if " and the " not in name
        }
    for port, original in site.told_apart(forms):
        before, counted, _ = port.partition(LOSSES_OF_PADDING)
        if counted and before + LOSSES == original:
            cause = Cause("routing", f"the port {ROUTES_PADDING}")
        else:
            cause = Cause("loss", f"the port's loss is {port}; the original's {original}")
        yield Hypothesis(cause, forms[original], forms[port])


def _later(site: Site) -> torch.Tensor:
    return torch.from_numpy(site.inputs["targets"]).long()[:, 1:]
