"""A parameter does not hold what it should: transposed, permuted, another's, scaled, rounded, or wrong.

With the checkpoint at hand the right values are known, and what the port holds is described by them. Without
it, rearrangements of the port's own weights, and its other weights of the same shape, are tried.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis, Value
from porting.diagnose.site import Site
from porting.findings import Cause


def wrong_weights(site: Site) -> Iterator[Hypothesis]:
    """The parameters that the tensor is computed with, one by one, then all that differ at once."""
    different, _ = _against_checkpoint(site)
    for name, right in different.items():
        for dtype in (torch.bfloat16, torch.float16):
            if torch.equal(right.to(dtype).double(), site.lab.parameters[name].detach().double()):
                # One cause for all parameters that were stored so.
                words = f"the port's weights are rounded to {str(dtype).removeprefix('torch.')}"
                yield Hypothesis(Cause("rounding", words), _with(site, {name: right}))
        words = describe(site, site.lab.parameters[name].detach(), right, name)
        yield Hypothesis(Cause("weight", f"{name} {words}", name), _with(site, {name: right}))
    if len(different) > 1:
        names = " and ".join(different)
        cause = Cause("weight", f"{names} are not what the checkpoint holds", names)
        yield Hypothesis(cause, _with(site, different))


def rearranged_weights(site: Site) -> Iterator[Hypothesis]:
    """Weights that nothing is known of, in another order or another's; then right ones, used in another."""
    different, unknown = _against_checkpoint(site)
    for name, value in unknown.items():
        for words, other in (*rearranged(site, value), *_others(site, name, value)):
            yield Hypothesis(Cause("weight", f"{name} {words}", name), _with(site, {name: other}))
    known = {n: v for n, v in site.parameters().items() if n not in unknown and n not in different}
    for name, value in known.items():
        for words, other in rearranged(site, value):
            used = (
                words.replace("is ", "were ", 1)
                if words.startswith("is ")
                else words.replace("has", "had", 1)
            )
            cause = Cause("weight", f"{name} is right, and used as if it {used}", name)
            yield Hypothesis(cause, _with(site, {name: other}))


def _against_checkpoint(site: Site) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the parameters that the tensor is computed with: the right values of those that differ from what the
    checkpoint holds, and the values of those that it does not know."""
    different: dict[str, Tensor] = {}
    unknown: dict[str, Tensor] = {}
    for name, value in site.parameters().items():
        right = site.lab.right_weights(name)
        if right is None or right.shape != value.shape:
            unknown[name] = value
        elif not torch.equal(right.to(value), value):
            different[name] = right
    return different, unknown


def another_parameter(site: Site) -> Iterator[Hypothesis]:
    """A right parameter is used, and another one should be."""
    for name, value in site.parameters().items():
        for other, found in site.lab.parameters.items():
            if other != name and found.shape == value.shape:
                right = site.lab.right_weights(other)
                words = f"{name} is used where {other} belongs"
                yield Hypothesis(
                    Cause("weight", words, other), _with(site, {name: found if right is None else right})
                )


def _with(site: Site, values: dict[str, Tensor]) -> Value:
    return lambda: site.with_parameters(values)


def rearranged(site: Site, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same numbers in another order, each as the right weights that the port would have to hold."""
    if value.ndim != 2:
        return
    rows, columns = value.shape
    yield from (
        (words, other)
        for words, other in (
            ("is transposed", value.T if rows == columns else value.reshape(columns, rows).T),
            ("is reshaped where it should be transposed", value.reshape(columns, rows).T),
            ("is transposed, and should have been reshaped", value.T.reshape(rows, columns)),
        )
        if not torch.equal(other, value)
    )
    for size in sorted({n for tap in site.lab.taps for n in tap.sizes.values()} | set(site.original.shape)):
        for axis, length in enumerate(value.shape):
            if 1 < size < length and length % size == 0:
                order = torch.arange(length).view(size, -1).T.flatten()
                yield f"has its heads interleaved (axis {axis})", value.index_select(axis, order)


def _others(site: Site, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    for other, found in site.lab.parameters.items():
        if other != name and found.shape == value.shape:
            yield f"should hold what {other} holds", found.detach()


def describe(site: Site, value: Tensor, right: Tensor, name: str) -> str:
    """How a parameter differs from what it should hold, in words that follow its name."""
    dtype = value.dtype
    # As far as the port's dtype tells: else nothing that it holds is what the checkpoint holds.
    value, right = value.double(), right.to(value).double()
    if not value.any():
        return "is zero"
    for words, rearrangement in rearranged(site, value):
        if torch.equal(rearrangement, right):
            return words
    for other in site.lab.parameters:
        if other != name:
            held = site.lab.right_weights(other)
            if held is not None and held.shape == value.shape and torch.equal(held.to(dtype).double(), value):
                return f"holds the weights of {other}"
    for axis in range(value.ndim):
        order = _permutation(value, right, axis)
        if order is not None:
            return f"has its {('rows', 'columns')[axis] if value.ndim == 2 else 'elements'} {_pattern(order)}"
    factor = float((value * right).sum() / right.square().sum())
    # Of a product's rounding only: a small change of few elements is no factor.
    if torch.allclose(value, factor * right, rtol=4 * torch.finfo(torch.float32).eps, atol=0.0):
        return f"is {factor:.6g} times what the checkpoint holds"
    count = int((value != right).sum())
    largest = float((value - right).abs().max())
    of = f"{count} of {value.numel()} elements differ"
    return f"is not what the checkpoint holds: {of}, by up to {largest:.3g}"


def _permutation(value: Tensor, right: Tensor, axis: int) -> list[int] | None:
    """Where each slice of `value` along the axis stands in `right`; None unless all are there."""
    slices, wanted = (x.movedim(axis, 0).reshape(x.shape[axis], -1) for x in (value, right))
    places = {row.numpy().tobytes(): i for i, row in enumerate(wanted)}
    found = [places.get(row.numpy().tobytes(), -1) for row in slices]
    return found if -1 not in found and len(set(found)) == len(found) else None


def _pattern(order: list[int]) -> str:
    """The permutation in words: whole groups of a size moved, or interleaved."""
    n = len(order)
    for size in range(2, n):
        if n % size == 0 and order == torch.arange(n).view(size, -1).T.flatten().tolist():
            return f"interleaved ({size} groups of {n // size})"
    for size in range(n // 2, 1, -1):
        starts = order[::size]
        whole = [start + i for start in starts for i in range(size)]
        if n % size == 0 and order == whole:
            return f"permuted in groups of {size}: {[start // size for start in starts]}"
    moved = sum(i != place for i, place in enumerate(order))
    return f"permuted: {moved} of {n} stand elsewhere"
