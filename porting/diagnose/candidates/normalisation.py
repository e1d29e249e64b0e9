"""Another normalisation: epsilon, with the mean taken off, without its weight or bias, or none at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

# Where several explain the values alike, the first is named: those that are in use before none at all.
_EPSILONS = (1e-6, 1e-12, 1e-5, 1e-8, 1e-7, 1e-3, 1e-4, 1e-2, 1e-1, 0.0)
_ALIKE = 1.1  # mean square errors that differ less than so many times say nothing
_NARROW_MEAN = "mean in bfloat16"


@dataclass(frozen=True)
class _Weights:
    """What a norm multiplies by, and what it adds, float64 [features]."""

    scale: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class _Form:
    """One way to normalise.

    Attributes:
        words: what it is.
        mean: whether the mean is taken off.
        by: what it is divided by: root mean square, root of the sum of squares, or nothing.
        weight: how the weight is used: multiplied, 1 + weight, or not at all.
        outside: whether epsilon is added to the root, not under it.
        bias: whether the bias is added, where there is one.
    """

    words: str
    mean: bool
    by: str
    weight: str
    outside: bool = False
    bias: bool = True

    def value(self, x: Tensor, weights: _Weights, epsilon: float) -> Tensor:
        weight = weights.scale
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
        scaled = centred * scale * factor
        return scaled + weights.bias if self.bias and weights.bias is not None else scaled


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
    """Where one tensor goes in, one of its shape comes out, and a vector of weights or two lie between."""
    if len(site.recorded.arguments) != 1:
        return
    x = site.recorded.arguments[0].cpu().double()
    weights = _weights(site)
    if weights is None or x.shape != site.port.shape:
        return
    port = _form_of(x, weights, site.port, site.is_port)
    original = _form_of(x, weights, site.original, site.agrees)
    if port is None or original is None:
        return
    (form, epsilon, value), (right_form, right_epsilon, right_value) = port, original
    if form == right_form:
        cause = Cause("epsilon", f"epsilon is {epsilon:.3g} in the port, {right_epsilon:.3g} in the original")
    else:
        kind = "rounding" if _NARROW_MEAN in (form.by, right_form.by) else "norm"
        cause = Cause(kind, f"the port's norm {form.words}; the original's {right_form.words}")
    yield Hypothesis(cause, right_value, value)


def _weights(site: Site) -> _Weights | None:
    """Of those that the tensor was computed with, else of the module, which may not have used them."""
    module = site.module
    own = dict(module.named_parameters(recurse=False)) if module is not None else {}
    for parameters in (site.parameters(), own):
        vectors = {name: p for name, p in parameters.items() if p.shape == site.port.shape[-1:]}
        biases = [p for name, p in vectors.items() if name.rpartition(".")[2] in ("bias", "beta")]
        scales = [p for name, p in vectors.items() if name.rpartition(".")[2] not in ("bias", "beta")]
        if len(scales) == 1 and len(biases) <= 1:
            # A bias that was left out is the module's, still.
            biases = biases or [own[name] for name in ("bias", "beta") if name in own]
            scale, *bias = (p.detach().cpu().double() for p in (*scales, *biases))
            return _Weights(scale, bias[0] if bias else None)
    return None


def _form_of(
    x: Tensor, weights: _Weights, value: Tensor, accepts: Callable[[Tensor], bool]
) -> tuple[_Form, float, Tensor] | None:
    """The first form whose values are accepted, with the epsilon that fits best."""
    without = [replace(form, bias=False, words=f"{form.words}, without its bias") for form in _FORMS]
    for form in _FORMS if weights.bias is None else (*_FORMS, *without):
        best: tuple[float, float, Tensor] | None = None
        for epsilon in (*_EPSILONS, _epsilon(form, x, weights, value)) if form.by != "none" else (0.0,):
            if not (math.isfinite(epsilon) and epsilon >= 0):
                continue
            if best is not None and epsilon not in _EPSILONS:
                continue  # an estimate differs from norm to norm, and one cause would seem several
            found = form.value(x, weights, epsilon)
            error = float((found - value).square().mean())
            if accepts(found) and (best is None or error * _ALIKE < best[0]):
                best = error, epsilon, found
        if best is not None:
            return form, best[1], best[2]
    return None


def _epsilon(form: _Form, x: Tensor, weights: _Weights, value: Tensor) -> float:
    """From the rows of smallest variance, where epsilon shows most."""
    unscaled = replace(form, by="none", bias=False).value(x, weights, 0.0)
    if form.bias and weights.bias is not None:
        value = value - weights.bias
    ratio = (unscaled * value).sum(-1) / value.square().sum(-1)  # sqrt(mean square + epsilon)
    centred = x - x.mean(-1, keepdim=True) if form.mean else x
    total = centred.square().mean(-1) if form.by == "mean" else centred.square().sum(-1)
    estimate = (ratio.square() - total).flatten()
    rows = total.flatten() > 0
    if not bool(rows.any()):
        return math.nan
    return float(estimate[rows][total.flatten()[rows].argsort()[: max(1, int(rows.sum()) // 10)]].median())
