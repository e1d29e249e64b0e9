"""A matrix multiplies another tensor than the original's does, and is no tapped module of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause


def another_projection(site: Site) -> Iterator[Hypothesis]:
    """x W^T of each of the original's tensors; then of one that is added to x, or left out."""
    matrices = {
        name: value.cpu().double()
        for name, value in site.parameters().items()
        if value.ndim == 2 and value.shape[0] == site.port.shape[-1:].numel()
    }
    if not site.fits or site.original.ndim < 2 or len(matrices) != 1:
        return
    ((_, matrix),) = matrices.items()
    fitting = {name: x for name, x in _tensors(site) if x.shape[-1] == matrix.shape[1]}
    shape = site.port.shape
    factors = (1.0, matrix.shape[1] ** -0.5)
    products = {
        name: x @ matrix.T for name, x in fitting.items() if math.prod(x.shape[:-1]) == math.prod(shape[:-1])
    }
    forms = {
        (name, factor): product.reshape(shape) * factor
        for name, product in products.items()
        for factor in factors
    }
    for port, original in site.told_apart(forms):
        words = f"the port reads {port[0]}, the original {original[0]}"
        yield Hypothesis(Cause("source", words, original[0]), forms[original], forms[port])
    for name, product in products.items():
        whole = product.reshape(shape)
        cause = Cause("source", f"the port reads {name} as well, which the original does not", name)
        yield Hypothesis(cause, site.port - whole)
        cause = Cause("source", f"the port leaves out {name} from what it reads", name)
        yield Hypothesis(cause, site.port + whole)


def _tensors(site: Site) -> Iterator[tuple[str, Tensor]]:
    """The original's tensors of the same stack."""
    stack = site.name.partition(".")[0]
    for name in site.lab.by_name:
        if "." not in site.name or name.partition(".")[0] == stack:
            tensor = site.lab.original(name)
            if tensor is not None and tensor.ndim > 1:
                yield name, tensor
