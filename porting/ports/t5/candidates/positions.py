"""Relative-position buckets (direction, count, distance) and absolute positions (offset, kind)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.positions import sinusoids
from porting.ports.t5.relative_positions import relative_position_bucket

_DISTANCES = (
    128,
    256,
    64,
    512,
    32,
    1024,
    20,
    100,
    200,
    16,
    40,
    48,
    50,
    96,
    120,
    127,
    129,
    160,
    192,
    300,
    2048,
)
_OFFSETS = (0, 1, -1)


@dataclass(frozen=True)
class Counting:
    """How a relative position becomes a bucket."""

    bidirectional: bool
    num_buckets: int
    max_distance: int
    direction: int
    offset: int

    def buckets(self, relative: Tensor) -> Tensor:
        """Of relative positions, int64."""
        return relative_position_bucket(
            relative * self.direction + self.offset,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )


def wrong_buckets(site: Site) -> Iterator[Hypothesis]:
    """A bias depends on the distance alone: both sides' values by distance, looked up in the table."""
    if site.leaf != "position_bias" or not site.fits or len(site.dims) < 3 or "batch" in site.dims:
        return
    shape = site.port.shape
    heads, length, memory = int(torch.tensor(shape[:-2]).prod()), shape[-2], shape[-1]
    # LongT5's windows begin a block before the first query.
    first = length if site.dims[-1] == "window_length" else 0
    relative = torch.arange(1 - length, memory) - first
    place = (torch.arange(memory)[None, :] - torch.arange(length)[:, None]) + length - 1
    sides = {}
    for side, values in (("port", site.port), ("original", site.original)):
        flat = values.reshape(heads, length, memory)
        by_distance = torch.cat([flat[:, 1:, 0].flip(-1), flat[:, 0, :]], dim=1)  # [h, l + m - 1]
        if not torch.equal(by_distance[:, place], flat):
            return
        sides[side] = by_distance
    for table in site.parameters().values():
        if table.ndim != 2 or table.shape[1] != heads:
            continue
        rows = table.cpu().double()
        offsets = (*_OFFSETS, first, -first) if first else _OFFSETS
        fits = {side: list(countings(rows, values, relative, offsets)) for side, values in sides.items()}
        if not fits["port"] and fits["original"]:
            yield from _cut_off(site, sides["port"], sides["original"], relative, place)
        for port, original in nearest_first(fits["port"], fits["original"]):
            names = [f.name for f in fields(port) if getattr(port, f.name) != getattr(original, f.name)]
            words = ", ".join(
                f"{name} is {getattr(port, name)} in the port, {getattr(original, name)} in the original"
                for name in names
            )
            mended, faulty = (rows[c.buckets(relative)].T[:, place].reshape(shape) for c in (original, port))
            yield Hypothesis(Cause("buckets", words), mended, faulty)


def _cut_off(
    site: Site, port: Tensor, original: Tensor, relative: Tensor, place: Tensor
) -> Iterator[Hypothesis]:
    """Distances from some number on have no bias. `port`, `original`: by distance, [heads, distances]."""
    without = (port == 0).all(dim=0) & (original != 0).any(dim=0)
    if not bool(without.any()):
        return
    first = int(relative[without].abs().min())
    cut = original.masked_fill(relative.abs() >= first, 0.0)
    words = f"the port adds no bias from a distance of {first} on"
    shape = site.port.shape
    yield Hypothesis(Cause("buckets", words), original[:, place].reshape(shape), cut[:, place].reshape(shape))


def countings(
    table: Tensor, by_distance: Tensor, relative: Tensor, offsets: Sequence[int] = _OFFSETS
) -> Iterator[Counting]:
    """Ways to count that give these values, [heads, distances], of these distances."""
    rows = table.shape[0]
    counts = [rows, rows // 2, *(n for n in (32, 16, 64, 8) if n < rows)]
    for bidirectional, number, direction, offset, distance in itertools.product(
        (True, False), dict.fromkeys(counts), (1, -1), dict.fromkeys(offsets), _DISTANCES
    ):
        if number < 4 or distance <= number // (4 if bidirectional else 2):
            continue
        counting = Counting(bidirectional, number, distance, direction, offset)
        if torch.equal(table[counting.buckets(relative)].T, by_distance):
            yield counting


def nearest_first(ports: list[Counting], originals: list[Counting]) -> list[tuple[Counting, Counting]]:
    """Pairs that differ, those that differ in least first."""

    def apart(pair: tuple[Counting, Counting]) -> int:
        return sum(getattr(pair[0], f.name) != getattr(pair[1], f.name) for f in fields(pair[0]))

    return sorted(((p, o) for p in ports for o in originals if p != o), key=apart)


def wrong_positions(site: Site) -> Iterator[Hypothesis]:
    """Absolute positions: another offset, left out, or of another kind."""
    if site.leaf != "embed_positions":
        return
    x = site.sibling("embed_tokens")
    if x is None or x.shape != site.port.shape:
        return
    length, d_model = x.shape[1:]
    tables = {name: p.cpu().double() for name, p in site.parameters().items() if p.ndim == 2}
    if site.module is not None:
        tables |= {n: p.detach().cpu().double() for n, p in site.module.named_parameters() if p.ndim == 2}
    forms = {"no positions": x}
    for name, table in {**tables, "sinusoids": sinusoids(length + 2, d_model).double()}.items():
        for offset in (0, 1, 2, -1):
            number = torch.arange(length) + offset
            if table.shape[1] == d_model and int(number.max()) < table.shape[0]:
                start = "from 0 on" if not offset else f"from {offset} on"
                forms[f"positions {start} ({name})"] = x + table[number.clamp(min=0)]
    for port, original in site.told_apart(forms):
        cause = Cause("positions", f"the port adds {port}, the original {original}")
        yield Hypothesis(cause, forms[original], forms[port])
