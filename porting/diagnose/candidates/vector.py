"""The difference is the same at every position: a bias vector is missing, or another."""

from __future__ import annotations

from collections.abc import Iterator

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_POSITIONS = ("batch", "length", "memory_length")
_ENOUGH = 8
_UNIT = 2.0**-24  # of rounding to float32
_TINY = 1e-30


def constant_vector(site: Site) -> Iterator[Hypothesis]:
    """The weighted mean over all positions is taken for the vector."""
    if not site.fits:
        return
    axes = [i for i, name in enumerate(site.dims) if name in _POSITIONS]
    count = 1
    for axis in axes:
        count *= site.original.shape[axis]
    if not axes or count < _ENOUGH or len(axes) == site.original.ndim:
        return
    # Positions count by how exactly they are known: a bias shows best where little else is.
    exact = 1 / site.floor.maximum(site.port.abs() * _UNIT).clamp(min=_TINY).square()
    if site.meaningful is not None:
        exact = exact * site.meaningful
    missing = ((site.original - site.port) * exact).sum(dim=axes, keepdim=True)
    missing = missing / exact.sum(dim=axes, keepdim=True).clamp(min=_TINY)
    words = "the port's values are off by one vector at all positions: a bias is missing, or another"
    yield Hypothesis(Cause("bias", words), site.port + missing)
