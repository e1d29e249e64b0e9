"""The difference is the same at every position: a bias vector is missing, or another."""

from __future__ import annotations

from collections.abc import Iterator

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_POSITIONS = ("batch", "length", "memory_length")
_ENOUGH = 8


def constant_vector(site: Site) -> Iterator[Hypothesis]:
    """The mean over all positions is taken for the vector."""
    if not site.fits:
        return
    axes = [i for i, name in enumerate(site.dims) if name in _POSITIONS]
    count = 1
    for axis in axes:
        count *= site.original.shape[axis]
    if not axes or count < _ENOUGH or len(axes) == site.original.ndim:
        return
    missing = (site.original - site.port).mean(dim=axes, keepdim=True)
    words = "the port's values are off by one vector at all positions: a bias is missing, or another"
    yield Hypothesis(Cause("bias", words), site.port + missing)
