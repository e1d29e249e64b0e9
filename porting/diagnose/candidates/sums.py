"""A tensor is missing from a sum or a product, stands in it twice, or another stands in its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_ENOUGH = 16
# How many of the nearest tensors are tried in pairs.
_PAIRED = 16
# How many of those that the port computes the tensor from.
_SOURCES = 4


def another_sum(site: Site) -> Iterator[Hypothesis]:
    """What is left between original and port, looked for among the original's other tensors of this shape."""
    if not site.fits or site.original.numel() < _ENOUGH:
        return
    missing = site.original - site.port
    counted = 1.0 if site.meaningful is None else site.meaningful.double()
    names = list(site.lab.by_name)
    before = set(names[: names.index(site.name)])  # what comes later can be no part of a sum
    others = [(name, tensor) for name, tensor in site.others() if name in before]
    for name, tensor in others:
        size = float((tensor.square() * counted).sum())
        share = float((missing * tensor).sum()) / size if size else 0.0
        if share and math.isfinite(share):
            cause = Cause("sum", f"the port {_share(share, name)}", name)
            yield Hypothesis(cause, site.port + _near(share) * tensor)
    near = others[:_PAIRED]
    for name, tensor in near:
        for other, replaced in near:
            if name != other and _alike(site, missing, tensor - replaced):
                words = f"the port adds {other} where the original adds {name}"
                yield Hypothesis(Cause("sum", words, name), site.port + tensor - replaced)
    for name, tensor in near:
        if bool((tensor != 0).all()):
            words = f"the port leaves out a factor, {name}"
            yield Hypothesis(Cause("sum", words, name), site.port * tensor)
    yield from _combined(site, near)


def _combined(site: Site, near: list[tuple[str, Tensor]]) -> Iterator[Hypothesis]:
    """A tensor that this one is computed from, alone or with another: added, multiplied, subtracted."""
    nearest = site.recorded.sources[-_SOURCES:]
    own = [(name, tensor) for name, tensor in near if name in nearest]
    forms: dict[str, Callable[[], Tensor]] = {}
    for (name, one), (other, two) in itertools.product(own, near):
        if name != other:
            forms |= {
                f"the product of {name} and {other}": lambda one=one, two=two: one * two,  # type: ignore[misc]
                f"the sum of {name} and {other}": lambda one=one, two=two: one + two,  # type: ignore[misc]
                f"{name} less {other}": lambda one=one, two=two: one - two,  # type: ignore[misc]
                f"{other} less {name}": lambda one=one, two=two: two - one,  # type: ignore[misc]
            }
    forms |= {f"{name} alone": lambda one=one: one for name, one in own}  # type: ignore[misc]
    for port, original in site.told_apart(forms):
        cause = Cause("sum", f"the port computes {port}, the original {original}")
        yield Hypothesis(cause, forms[original], forms[port])


def _near(share: float) -> float:
    """A share that is nearly a whole number is one."""
    return round(share) if abs(share - round(share)) < 1e-3 and round(share) else share


def _share(share: float, name: str) -> str:
    whole = _near(share)
    if whole == 1:
        return f"leaves out {name}"
    if whole == -1:
        return f"adds {name} once too often"
    return (
        f"adds {-whole:.6g} times {name} too much"
        if whole < 0
        else f"adds {whole:.6g} times {name} too little"
    )


def _alike(site: Site, one: Tensor, other: Tensor) -> bool:
    """A quick look at a few elements before all are compared."""
    places = (
        torch.arange(one.numel()) if site.meaningful is None else site.meaningful.flatten().nonzero()[:, 0]
    )
    few = places[:: max(1, len(places) // 64)]
    apart = (one.flatten()[few] - other.flatten()[few]).abs()
    return bool((apart <= site.times * site.floor.flatten()[few] * 4 + 1e-12).all()) and bool(
        torch.isfinite(apart).all()
    )
