"""LongT5's summaries: which tokens they hold, what is made of these, their keys and values, their bias.

Shapes: b batch, l length, g global_length, h heads, d d_model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.candidates.positions import Counting, countings, nearest_first
from porting.ports.t5.candidates.sequences import sequence_ids, stack_of
from porting.ports.t5.candidates.windows import block_size_of, block_sizes
from porting.ports.t5.transient_global_attention import side_position, summary_blocks

NORM = "global_input_layer_norm"
_EPSILON = 1e-6


@dataclass(frozen=True)
class _Blocks:
    """Which summary each token belongs to.

    Attributes:
        words: how that comes about.
        block: int64 [b, l], -1 where it belongs to none.
        number: of summaries.
    """

    words: str
    block: Tensor
    number: int


def _right_size(site: Site) -> tuple[Tensor, int] | None:
    """Sequence ids and the size of a block; None where nothing tells how many summaries there are."""
    found = (site.sibling(name) for name in (NORM, "summaries", "side_k", "side_v"))
    of_summaries = next((x for x in found if x is not None), None)
    if of_summaries is None:
        return None
    ids = sequence_ids(site, stack_of(site.name))
    return ids, block_size_of(site, block_sizes(ids.shape[1], of_summaries.shape[1]))


def _ways(ids: Tensor, size: int) -> Iterator[_Blocks]:
    """The right one first."""
    block, summary_ids = summary_blocks(ids, size)
    number = summary_ids.shape[1]
    yield _Blocks(f"makes blocks of {size} real tokens", block, number)
    for other in (size + 1, size - 1, 2 * size, size + 2, size - 2, 16):
        if other > 1 and other != size:
            blocks, of = summary_blocks(ids, other)
            yield _Blocks(f"makes blocks of {other}", blocks, of.shape[1])
    padded, _ = summary_blocks(torch.ones_like(ids), size)
    yield _Blocks("lets padding fill up a block", padded, number)
    yield _Blocks("lets padding fill up a block, and sums no padding", padded.where(ids != 0, -1), number)
    index = torch.arange(ids.shape[1]).expand_as(ids)
    orphan = (block >= 0) & (index - _first_of(block, index) >= size)
    yield _Blocks("lets tokens behind the last full block belong to none", block.where(~orphan, -1), number)
    own = torch.where(orphan, block + 1, block)
    words = "lets tokens behind the last full block make a block of their own"
    yield _Blocks(words, own.where(own < number, -1), number)
    by_position = (index // size).where(ids != 0, -1)
    last = block.amax(dim=1, keepdim=True)
    words = "counts blocks by position alone, padding inside too"
    yield _Blocks(words, torch.minimum(by_position, last), number)
    words = "counts blocks by position alone, and lets none be incomplete"
    yield _Blocks(words, by_position.where(by_position < number, -1), number)


def _first_of(block: Tensor, index: Tensor) -> Tensor:
    """Where the block of each token begins, [b, l]."""
    begins = block != F.pad(block, (1, 0), value=-2)[:, :-1]
    return torch.where(begins, index, 0).cummax(1).values


def _mean(x: Tensor, block: Tensor, number: int) -> Tensor:
    count = _sum(torch.ones_like(x[..., :1]), block, number).clamp(min=1)
    return _sum(x, block, number) / count


def _first(x: Tensor, block: Tensor, number: int) -> Tensor:
    index = torch.arange(x.shape[1]).expand_as(block)
    return _sum(x, block.where(index == _first_of(block, index), -1), number)


def _sum(x: Tensor, block: Tensor, number: int) -> Tensor:
    """As `summaries`, in float64."""
    into = block.where(block >= 0, number).unsqueeze(-1).expand_as(x)
    sums = x.new_zeros(len(x), number + 1, x.shape[-1]).scatter_add(1, into, x)
    return sums[:, :number]


_NOT_SUMS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "takes the mean of a block, not its sum": _mean,
    "takes the first token of a block, not the sum of all": _first,
}


def wrong_summaries(site: Site) -> Iterator[Hypothesis]:
    """Other blocks, or something else than their sums, on the way into the norm of summaries."""
    found = _right_size(site) if site.leaf in (NORM, "summaries") else None
    x = _embeddings(site)
    if found is None or x is None or len(site.dims) != 3:
        return
    ids, size = found
    norm = _norm_of(site)
    if norm is None:
        return
    ways = list(_ways(ids, size))
    forms = {blocks.words: norm(_sum(x, blocks.block, blocks.number)) for blocks in ways}
    for words, made_of in _NOT_SUMS.items():
        forms[words] = norm(made_of(x, ways[0].block, ways[0].number))
    yield from _told(site, forms, "blocks")
    yield from _padding_counted(site, x, ids, size, norm)


def _told(site: Site, forms: dict[str, Tensor], kind: str) -> Iterator[Hypothesis]:
    for port, original in site.told_apart(forms):
        if port != original:
            cause = Cause(kind, f"the port {port}; the original {original}")
            yield Hypothesis(cause, forms[original], forms[port])


def _padding_counted(
    site: Site, x: Tensor, ids: Tensor, size: int, norm: Callable[[Tensor], Tensor]
) -> Iterator[Hypothesis]:
    """What the port sums differs from the sums of real tokens, and only where padding is near."""
    given = site.recorded.arguments[0].cpu().double() if site.recorded.arguments else None
    block, summary_ids = summary_blocks(ids, size)
    right = _sum(x, block, summary_ids.shape[1])
    if given is None or given.shape != right.shape:
        return
    other = (given - right).abs().amax(-1) > 1e-4 * right.abs().amax().clamp(min=1e-30)  # [b, g]
    padded = (ids == 0).any(1)
    if not bool(other.any()):
        return
    row, number = other.nonzero()[0].tolist()
    if bool(other[~padded].any()):
        words = f"sums something else than the {size} real tokens of a block"
    else:
        words = "counts padding into summaries"
    text = f"the port {words}, first in batch {row}, block {number}; the original sums real tokens only"
    cause = Cause("blocks", text)
    yield Hypothesis(cause, norm(right), norm(given))


def _embeddings(site: Site) -> Tensor | None:
    """What attention reads, [b, l, d], padding zeroed."""
    layer = site.parent.rpartition(".")[0]
    for name in (f"{layer}.mask_padding", f"{layer}.layer_norm"):
        x = site.lab.original(name)
        if x is not None:
            real = (sequence_ids(site, stack_of(site.name)) != 0)[..., None]
            return torch.where(real, x, 0.0)
    return None


def _norm_of(site: Site) -> Callable[[Tensor], Tensor] | None:
    """From sums to the site's tensor."""
    if site.leaf == "summaries":
        return lambda sums: sums
    module = site.module
    own = {} if module is None else dict(module.named_parameters(recurse=False))
    width = site.original.shape[-1:]
    vectors = [p.detach().cpu().double() for p in (own or site.parameters()).values() if p.shape == width]
    if len(vectors) != 1:
        return None
    epsilon = float(getattr(module, "epsilon", getattr(module, "variance_epsilon", _EPSILON)))

    def norm(sums: Tensor) -> Tensor:
        return sums * torch.rsqrt(sums.square().mean(-1, keepdim=True) + epsilon) * vectors[0]

    return norm


def wrong_side_projections(site: Site) -> Iterator[Hypothesis]:
    """Keys and values of summaries: of what, and with which weights."""
    if site.leaf not in ("side_k", "side_v") or not site.fits:
        return
    normed, x, found = site.sibling(NORM), _embeddings(site), _right_size(site)
    own = f"{site.parent}.{site.leaf.removeprefix('side_')}.weight"
    if normed is None or own not in site.lab.parameters:
        return
    read = {"normalised": normed}
    if x is not None and found is not None:
        block, summary_ids = summary_blocks(*found)
        sums = _sum(x, block, summary_ids.shape[1])
        if sums.shape == normed.shape:
            read["not normalised"] = sums
            read["averaged and not normalised"] = _mean(x, block, summary_ids.shape[1])
    weight = site.lab.parameters[own].detach().cpu().double()
    forms = {f"reads summaries that are {words}": value @ weight.T for words, value in read.items()}
    shaped = {words: value.reshape(site.port.shape) for words, value in forms.items()}
    yield from _told(site, shaped, "source")
    yield from _other_weights(site, normed, own)


def _other_weights(site: Site, normed: Tensor, own: str) -> Iterator[Hypothesis]:
    """Whose weights: of the same shape, and those it was computed with first."""
    there = {
        n: p.detach() for n, p in site.lab.parameters.items() if p.shape == site.lab.parameters[own].shape
    }
    nearest = sorted(there, key=lambda name: name not in site.recorded.parameters)

    def with_weights(name: str) -> Tensor:
        return (normed @ there[name].cpu().double().T).reshape(site.port.shape)

    used = next((name for name in nearest if site.is_port(with_weights(name))), None)
    if used is not None and used != own:
        cause = Cause("weight", f"the port takes {used} where the original takes {own}", own)
        yield Hypothesis(cause, with_weights(own), with_weights(used))


def wrong_side_buckets(site: Site) -> Iterator[Hypothesis]:
    """A bias by the distance in blocks, which may be counted otherwise, or from another block."""
    found = _right_size(site) if site.leaf == "side_position_bias" else None
    if found is None or not site.fits or site.port.ndim != 4:
        return
    counted = torch.ones(site.port.shape, dtype=torch.bool) if site.meaningful is None else site.meaningful
    counted = counted.all(dim=0)  # [b, l, g]
    if not bool(counted.any()):
        return
    sides: dict[str, list[_Counted]] = {"port": [], "original": []}
    for blocks in _ways(*found):
        relative = side_position(blocks.block, blocks.number)
        if relative.shape != site.port.shape[1:]:
            continue
        for side, values in (("port", site.port), ("original", site.original)):
            distances = torch.unique(relative[counted])
            by_distance = _by_distance(values[:, counted], relative[counted], distances)
            if by_distance is not None:
                sides[side].append(_Counted(blocks, relative, distances, by_distance))
    for port, original in itertools.product(sides["port"], sides["original"]):
        for table in site.parameters().values():
            yield from _counted_otherwise(site, table.cpu().double(), port, original)


@dataclass(frozen=True)
class _Counted:
    """A bias that depends on the distance in blocks alone.

    Attributes:
        blocks: how these are made.
        relative: int64 [b, l, g].
        distances: those that count, in order.
        values: of these distances, [h, distances].
    """

    blocks: _Blocks
    relative: Tensor
    distances: Tensor
    values: Tensor


def _counted_otherwise(site: Site, table: Tensor, port: _Counted, original: _Counted) -> Iterator[Hypothesis]:
    if table.ndim != 2 or table.shape[1] != site.port.shape[0]:
        return
    fits = [list(countings(table, side.values, side.distances)) for side in (port, original)]
    pairs = nearest_first(*fits)
    said = ""
    if original.blocks.words != port.blocks.words:
        pairs = [(counting, counting) for counting in fits[0] if counting in fits[1]] or pairs
        said = (
            f"for the bias towards summaries the port {port.blocks.words}; the original"
            f" {original.blocks.words}"
        )
    for found, wanted in pairs:
        words = [
            f"{f.name} is {getattr(found, f.name)} in the port, {getattr(wanted, f.name)} in the original"
            for f in fields(Counting)
            if getattr(found, f.name) != getattr(wanted, f.name)
        ]
        mended, faulty = (
            table[counting.buckets(side.relative)].movedim(-1, 0)
            for counting, side in ((wanted, original), (found, port))
        )
        kind = "buckets" if found != wanted else "blocks"
        yield Hypothesis(Cause(kind, "; ".join([*words, said] if said else words)), mended, faulty)


def _by_distance(values: Tensor, relative: Tensor, distances: Tensor) -> Tensor | None:
    """[h, distances]: the value of each distance; None where it is not the same everywhere.

    Args:
        values: [h, pairs].
        relative: of these pairs.
        distances: all of them, in order.
    """
    place = torch.searchsorted(distances, relative)
    found = values.new_zeros(len(values), len(distances)).index_copy(1, place, values)
    return found if torch.equal(found[:, place], values) else None
