"""Another normalisation: epsilon, with the mean taken off, without its weight, or none at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_EPSILONS = (1e-6, 0.0, 1e-12, 1e-8, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


_NARROW_MEAN = "mean in bfloat16"


@dataclass(frozen=True)
class _Form:
    """One way to normalise.

    Attributes:
        words: what it is.
        mean: whether the mean is taken off.
        by: what it is divided by: root mean square, root of the sum of squares, or nothing.
        weight: how the weight is used: multiplied, 1 + weight, or not at all.
        outside: whether epsilon is added to the root, not under it.
    """

    words: str
    mean: bool
    by: str
    weight: str
    outside: bool = False

    def value(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True) if self.mean else x
        squares = centred.square()
        if self.by == "none":
            scale = torch.ones_like(squares[..., :1])
        else:
            total = squares.sum(-1, keepdim=True) if self.by == "sum" else squares.mean(-1, keepdim=True)
            if self.by == _NARROW_MEAN:
                total = centred.bfloat16().square().mean(-1, keepdim=True).double()
            scale = 1 / (total.sqrt() + epsilon) if self.outside else torch.rsqrt(total + epsilon)
        factor = {"times": weight, "plus one": 1 + weight, "none": torch.ones_like(weight)}[self.weight]
        return centred * scale * factor


_FORMS = (
    _Form("divides by the root mean square", mean=False, by="mean", weight="times"),
    _Form("takes off the mean (layer norm)", mean=True, by="mean", weight="times"),
    _Form("does not normalise, and multiplies by its weight", mean=False, by="none", weight="times"),
    _Form("does nothing", mean=False, by="none", weight="none"),
    _Form("leaves out its weight", mean=False, by="mean", weight="none"),
    _Form("multiplies by 1 + weight", mean=False, by="mean", weight="plus one"),
    _Form("divides by the root of the sum of squares", mean=False, by="sum", weight="times"),
    _Form("takes off the mean, and does not divide", mean=True, by="none", weight="times"),
    _Form("adds epsilon to the root, not under it", mean=False, by="mean", weight="times", outside=True),
    _Form("takes off the mean, and leaves out its weight", mean=True, by="mean", weight="none"),
    _Form("takes the mean square in bfloat16", mean=False, by=_NARROW_MEAN, weight="times"),
)


def another_norm(site: Site) -> Iterator[Hypothesis]:
    """Where one tensor goes in, one of its shape comes out, and one vector of weights lies between."""
    weights = [p for p in site.parameters().values() if p.shape == site.port.shape[-1:]]
    if len(site.recorded.arguments) != 1:
        return
    own = next((p for p in _vectors(site) if p.shape == site.port.shape[-1:]), None)
    weight = weights[0] if len(weights) == 1 else own
    x = site.recorded.arguments[0].cpu().double()
    if weight is None or x.shape != site.port.shape:
        return
    weight = weight.detach().cpu().double()
    port = _form_of(x, weight, site.port, site.is_port)
    original = _form_of(x, weight, site.original, site.agrees)
    if port is None or original is None:
        return
    (form, epsilon, value), (right_form, right_epsilon, right_value) = port, original
    if form == right_form:
        cause = Cause("epsilon", f"epsilon is {epsilon:.3g} in the port, {right_epsilon:.3g} in the original")
    else:
        kind = "rounding" if _NARROW_MEAN in (form.by, right_form.by) else "norm"
        cause = Cause(kind, f"the port's norm {form.words}; the original's {right_form.words}")
    yield Hypothesis(cause, right_value, value)


def _vectors(site: Site) -> Iterator[Tensor]:
    """Weights of the module that the tensor may not have been computed with."""
    if site.module is not None:
        yield from (p for p in site.module.parameters(recurse=False) if p.ndim == 1)


def _form_of(
    x: Tensor, weight: Tensor, value: Tensor, accepts: Callable[[Tensor], bool]
) -> tuple[_Form, float, Tensor] | None:
    """The first form whose values are accepted, with the epsilon that fits best."""
    for form in _FORMS:
        best: tuple[float, float, Tensor] | None = None
        for epsilon in (*_EPSILONS, _epsilon(form, x, weight, value)) if form.by != "none" else (0.0,):
            if not (math.isfinite(epsilon) and epsilon >= 0):
                continue
            if best is not None and epsilon not in _EPSILONS:
                continue  # an estimate differs from norm to norm, and one cause would seem several
            found = form.value(x, weight, epsilon)
            error = float((found - value).square().mean())
            if accepts(found) and (best is None or error < best[0]):
                best = error, epsilon, found
        if best is not None:
            return form, best[1], best[2]
    return None


def _epsilon(form: _Form, x: Tensor, weight: Tensor, value: Tensor) -> float:
    """From the rows of smallest variance, where epsilon shows most."""
    unscaled = replace(form, by="none").value(x, weight, 0.0)
    ratio = (unscaled * value).sum(-1) / value.square().sum(-1)  # sqrt(mean square + epsilon)
    centred = x - x.mean(-1, keepdim=True) if form.mean else x
    total = centred.square().mean(-1) if form.by == "mean" else centred.square().sum(-1)
    estimate = (ratio.square() - total).flatten()
    rows = total.flatten() > 0
    if not bool(rows.any()):
        return math.nan
    return float(estimate[rows][total.flatten()[rows].argsort()[: max(1, int(rows.sum()) // 10)]].median())
