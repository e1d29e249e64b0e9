"""Computed in a narrower dtype than the original's float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_NARROW = (torch.bfloat16, torch.float16)


def rounded(site: Site) -> Iterator[Hypothesis]:
    """The port's numbers are all numbers of the narrow dtype, and the original's, rounded to it, are they."""
    for dtype in _NARROW if site.fits else ():
        if not torch.equal(site.port.to(dtype).double(), site.port):
            continue
        if torch.equal(site.original.to(dtype).double(), site.original):
            continue  # so are the original's
        unit = torch.finfo(dtype).eps
        # Rounding of the result, and of the terms that it is the sum of, whose size the row's largest bounds.
        allowed = 2 * unit * site.original.abs().amax(-1, keepdim=True)
        if bool(((site.port - site.original).abs() <= allowed).all()):
            name = str(dtype).removeprefix("torch.")
            cause = Cause("rounding", f"the port computes this in {name}, or rounds it to {name}")
            yield Hypothesis(cause, site.original, site.port)
