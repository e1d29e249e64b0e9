"""The right numbers in the wrong places: an axis permuted, two axes exchanged, positions shifted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_LONGEST = 4096


def another_order(site: Site) -> Iterator[Hypothesis]:
    """Axes exchanged, regrouped, shifted; then each axis in whatever order fits."""
    port, dims = site.port, site.dims
    for a, b in itertools.combinations(range(port.ndim), 2):
        if port.shape[a] == port.shape[b]:
            cause = Cause("order", f"the axes {dims[a]} and {dims[b]} are exchanged")
            yield Hypothesis(cause, port.transpose(a, b))
    for axis in range(port.ndim - 1):
        one, two = port.shape[axis : axis + 2]
        if one > 1 and two > 1:
            regrouped = port.reshape(*port.shape[:axis], two, one, *port.shape[axis + 2 :])
            cause = Cause("order", f"{dims[axis]} and {dims[axis + 1]} are interleaved")
            yield Hypothesis(cause, regrouped.transpose(axis, axis + 1))
    for axis, name in enumerate(dims):
        if not site.fits:
            continue
        yield from _shifted(site, axis, name)
        order = _order(site, axis)
        if order is not None:
            moved = [i for i, place in enumerate(order) if i != place]
            words = f"{len(moved)} of {len(order)} {name} are in another order: the original's {_few(order)}"
            yield Hypothesis(Cause("order", words), port.index_select(axis, torch.tensor(order)))


def _few(order: list[int]) -> str:
    shown = ", ".join(map(str, order[:8]))
    return f"are the port's {shown}" + (", ..." if len(order) > 8 else "")


def _shifted(site: Site, axis: int, name: str) -> Iterator[Hypothesis]:
    length = site.port.shape[axis]
    for step in (1, -1):
        if length > 2:
            mended = site.port.roll(step, axis)
            edge = torch.tensor([0 if step == 1 else length - 1])
            mended = mended.index_copy(axis, edge, site.original.index_select(axis, edge))
            words = (
                f"everything stands {abs(step)} too far to the {'left' if step > 0 else 'right'} along {name}"
            )
            yield Hypothesis(Cause("order", words), mended)


def _order(site: Site, axis: int) -> list[int] | None:
    """For each of the original's slices along the axis, which of the port's it is; None if it is none."""
    length = site.port.shape[axis]
    if not 1 < length <= _LONGEST:
        return None
    ports, originals = (x.movedim(axis, 0).reshape(length, -1) for x in (site.port, site.original))
    weights = torch.randn(ports.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (torch.nan_to_num(x, posinf=0.0, neginf=0.0) @ weights for x in (ports, originals))
    order = _nearest(one, other)
    return order if sorted(order) == list(range(length)) and order != list(range(length)) else None


def _nearest(ports: Tensor, originals: Tensor) -> list[int]:
    found: list[int] = (originals[:, None] - ports[None]).abs().argmin(dim=1).tolist()
    return found
