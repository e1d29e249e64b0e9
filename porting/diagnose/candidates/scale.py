"""The tensor is a constant times what it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

# Fewer numbers are on a line too easily.
_ENOUGH = 16


def scaled(site: Site) -> Iterator[Hypothesis]:
    """The factor by least squares, named where it is a power of one of the model's sizes."""
    if not site.fits:
        return
    shown = site.shown
    port, original = site.port[shown], site.original[shown]
    if port.numel() < _ENOUGH or not port.any():
        return
    factor = float((port * original).sum() / port.square().sum())
    if factor == 0 or not math.isfinite(factor):
        return
    # Masks are not scaled; what is not a number stays what it is, for no factor mends it.
    scaled = site.port * factor
    below = site.tap.hidden_below
    mended = scaled if below is None else site.port.where(site.port <= below, scaled)
    words = f"the port's values are {1 / factor:.6g} times the original's{named(site, 1 / factor)}"
    yield Hypothesis(Cause("scale", words), mended)


def named(site: Site, factor: float) -> str:
    """What a factor may be, by the sizes of axes nearby: " (d_model**-0.5)"."""
    if factor <= 0:
        return ""
    sizes = dict(zip(site.dims, site.original.shape, strict=True))
    for tap in site.lab.taps:
        sizes.update({k: v for k, v in tap.sizes.items() if k not in sizes})
    for name in site.recorded.sources:
        tensor, tap = site.lab.original(name), site.lab.by_name[name]
        if tensor is not None:
            sizes.update(zip(tap.dimension_names, tensor.shape, strict=True))
    for name, size in sizes.items():
        for power in (0.5, -0.5, 1.0, -1.0, 0.25, -0.25):
            if (
                size > 1
                and name not in ("batch", "length")
                and math.isclose(factor, size**power, rel_tol=1e-4)
            ):
                return f" ({name}**{power:g}, with {name} {size})"
    return ""
