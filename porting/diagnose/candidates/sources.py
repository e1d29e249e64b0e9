"""The tapped module reads another tensor than the original's does: x for memory, what was not normed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause


def another_source(site: Site) -> Iterator[Hypothesis]:
    """The module is called with each of the original's tensors that it could read."""
    module, arguments = site.module, site.recorded.arguments
    # Without parameters of its own a module may pass on what it is given: whatever equals the original's
    # tensor would be taken for its source.
    if module is None or not arguments or next(module.parameters(), None) is None:
        return
    if not site.recorded.parameters:
        return
    given = arguments[0]
    if not given.is_floating_point():
        return
    reads = _name_of(site, given)
    for name in site.lab.by_name:
        tensor = site.lab.original(name)
        if tensor is None or name == site.name:
            continue
        if not site.fits and tensor.ndim == given.ndim and tensor.shape[-1] == given.shape[-1]:
            instead = tensor.to(given)  # another length may be what is wrong
        elif tensor.numel() == given.numel():
            instead = tensor.reshape(given.shape).to(given)
        else:
            continue
        if instead.shape == given.shape and torch.allclose(instead, given, rtol=1e-5, atol=1e-6):
            continue

        def call(instead: Tensor = instead) -> Tensor | None:
            try:
                with torch.no_grad():
                    output = module(instead, *arguments[1:])
            except TypeError:  # it is called with more than tensors, which were not kept
                return None
            value = output[0] if isinstance(output, tuple) else output
            return site.lab.unfolded(site.tap, value)

        words = f"the port reads {reads}, the original {name}"
        yield Hypothesis(Cause("source", words, name), call)


def _name_of(site: Site, given: Tensor) -> str:
    """Which of the original's tensors this is; there may be none."""
    for name in site.lab.by_name:
        tensor = site.lab.original(name)
        if tensor is not None and tensor.numel() == given.numel():
            same = torch.allclose(tensor.reshape(given.shape).to(given), given, rtol=1e-5, atol=1e-6)
            if same:
                return name
    return "another tensor"
