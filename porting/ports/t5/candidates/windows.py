"""LongT5's attention computed from the original's tensors, with one thing at a time done otherwise.

Originals whose functions cannot be heard (recorded runs) give queries, keys, values, biases, and what the
output projection makes of the rest: from these everything in between is computed again here, in float64 and
block after block, so that memory stays linear in length.

Shapes: b batch, l length, q block_length, n blocks (of one part), w window_length, g global_length, h heads,
k d_kv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from porting.diagnose.site import Site
from porting.ports.t5.candidates.sequences import sequence_ids, stack_of
from porting.ports.t5.candidates.softmaxes import Weigh, one_softmax
from porting.ports.t5.context import visibility_bias
from porting.ports.t5.local_attention import (
    NOWHERE,
    between_blocks,
    into_blocks,
    window_position,
    within_radius,
)
from porting.ports.t5.transient_global_attention import summaries_visible, summary_blocks

# Scores of one head that are held together: with float64, and a few of them at a time, some tens of MB.
_AT_ONCE = 1 << 20

# The blocks of a window by number: the one before, the own, the one behind.
Order = tuple[int, ...]
IN_ORDER: Order = (0, 1, 2)


@dataclass(frozen=True)
class Window:
    """What is known of each pair of a query and a place in its window, as the port would ask.

    Attributes:
        position: of the place - of the query, int64 [q, w].
        ids: sequence ids of the queries, [b, n, q].
        memory_ids: of the places, [b, n, w]; NOWHERE where there is no position.
        radius: the original's.
    """

    position: Tensor
    ids: Tensor
    memory_ids: Tensor
    radius: int

    @property
    def same(self) -> Tensor:
        """Pairs of one sequence, bool [b, n, q, w]."""
        return self.ids[..., None] == self.memory_ids[:, :, None, :]

    @property
    def near(self) -> Tensor:
        """Pairs within the radius, bool [q, w]."""
        return within_radius(self.position, self.radius)


def _seen(window: Window) -> Tensor:
    return window.same & window.near


def _head_after_head(attended: Tensor) -> Tensor:
    return attended.flatten(2)


@dataclass(frozen=True)
class Way:
    """How attention may be computed; as it stands, the original's.

    Attributes:
        keys, values, ids_order: in which order the blocks of the window are put together.
        wraps: whether the block before the first is the last, and the one behind the last the first.
        visible: which places a query sees, bool [b, n, q, w].
        scale: what queries are multiplied by.
        bias: what the bias is multiplied by.
        side_bias: the same of the bias towards summaries.
        side_visible: of the ids of queries [b, l] and of summaries [b, g]: which are seen, bool [b, l, g].
        side_values_are_keys, values_are_keys: whether keys are mixed.
        weigh: from scores to weights.
        pairs_exchanged: whether neighbouring blocks come out exchanged.
        merge: puts the heads together for the output projection, [b, l, h, k] -> [b, l, h*k].
    """

    keys: Order = IN_ORDER
    values: Order = IN_ORDER
    ids_order: Order = IN_ORDER
    wraps: bool = False
    visible: Callable[[Window], Tensor] = _seen
    scale: float = 1.0
    bias: float = 1.0
    side_bias: float = 1.0
    side_visible: Callable[[Tensor, Tensor], Tensor] = summaries_visible
    side_values_are_keys: bool = False
    values_are_keys: bool = False
    weigh: Weigh = one_softmax
    pairs_exchanged: bool = False
    merge: Callable[[Tensor], Tensor] = _head_after_head


@dataclass(frozen=True)
class Stages:
    """Each tensor in between, under the names of the port's taps; of some blocks.

    Attributes:
        scores, weights: [b, h, n, q, w].
        side_scores, side_weights: [b, h, n, q, g]; None without summaries.
        attended: [b, n*q, h, k].
    """

    scores: Tensor
    weights: Tensor
    side_scores: Tensor | None
    side_weights: Tensor | None
    attended: Tensor


@dataclass(frozen=True)
class Summaries:
    """The original's tensors towards summaries.

    Attributes:
        k, v: [b, h, g, k].
        bias: [b, h, l, g]; None where there is none.
        ids: sequence ids, [b, g].
    """

    k: Tensor
    v: Tensor
    bias: Tensor | None
    ids: Tensor


@dataclass(frozen=True)
class Layer:
    """The original's tensors around one local attention, float64.

    Attributes:
        q, k, v: [b, l, h, k].
        bias: [h, q, w]; None where there is none.
        ids: sequence ids, [b, l].
        radius: how far is seen.
        summaries: None where attention is local alone.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    ids: Tensor
    radius: int
    summaries: Summaries | None

    @property
    def d_kv(self) -> int:
        """Width of a head."""
        return self.q.shape[-1]

    def computed(self, way: Way, stage: str) -> Tensor | None:
        """One of the stages for all blocks, without what fills up the last; None where there is none."""
        parts = [getattr(part, stage) for part in self._parts(way)]
        if any(part is None for part in parts):
            return None
        if stage != "attended":
            return torch.cat(parts, dim=2)
        whole = torch.cat(parts, dim=1)
        if way.pairs_exchanged:
            blocks = whole.view(len(whole), -1, self.radius + 1, *whole.shape[2:])
            order = torch.arange(blocks.shape[1])
            even = len(order) // 2 * 2
            order[:even] = order[:even].view(-1, 2).flip(1).flatten()
            whole = blocks[:, order].flatten(1, 2)
        return whole[:, : self.q.shape[1]]

    def _parts(self, way: Way) -> Iterator[Stages]:
        size = self.radius + 1
        q = into_blocks(self.q, size)
        ids = into_blocks(self.ids, size, NOWHERE)
        k, v = (_beside(into_blocks(x, size), way.wraps) for x in (self.k, self.v))
        memory_ids = _beside(ids, way.wraps, NOWHERE)
        width = 3 * size + (0 if self.summaries is None else self.summaries.k.shape[2])
        step = max(1, _AT_ONCE // (len(q) * size * width))
        for first in range(0, q.shape[1], step):
            last = min(first + step, q.shape[1])
            beside = slice(first, last + 2)
            yield self._part(
                way,
                first,
                q[:, first:last],
                k[:, beside],
                v[:, beside],
                ids[:, first:last],
                memory_ids[:, beside],
            )

    def _part(
        self, way: Way, first: int, q: Tensor, k: Tensor, v: Tensor, ids: Tensor, memory_ids: Tensor
    ) -> Stages:
        """Stages of the blocks of q, [b, n, q, h, k]; k and v have one block more on either side."""
        q = q * way.scale
        keys = _window(k, way.keys)  # [b, n, w, h, k]
        values = _window(k if way.values_are_keys else v, way.keys if way.values_are_keys else way.values)
        scores = torch.einsum("bnqhk,bnwhk->bhnqw", q, keys)
        if self.bias is not None:
            scores = scores + way.bias * self.bias[:, None]
        window = Window(
            window_position(self.radius + 1), ids, _window(memory_ids, way.ids_order), self.radius
        )
        scores = scores + visibility_bias(way.visible(window)).double()[:, None]
        side = None if self.summaries is None else self._side_scores(way, first, q, self.summaries)
        weights, side_weights = way.weigh(scores, side)
        attended = torch.einsum("bhnqw,bnwhk->bnqhk", weights, values)
        if self.summaries is not None and side_weights is not None:
            side_values = self.summaries.k if way.side_values_are_keys else self.summaries.v
            attended = attended + torch.einsum("bhnqg,bhgk->bnqhk", side_weights, side_values)
        return Stages(scores, weights, side, side_weights, attended.flatten(1, 2))

    def _side_scores(self, way: Way, first: int, q: Tensor, held: Summaries) -> Tensor:
        """[b, h, n, q, g]"""
        number, size = q.shape[1:3]
        scores = torch.einsum("bnqhk,bhgk->bhnqg", q, held.k)
        own = slice(first * size, (first + number) * size)
        bias = visibility_bias(way.side_visible(self.ids[:, own], held.ids)).double()[:, None]
        if held.bias is not None:
            bias = bias + way.side_bias * held.bias[:, :, own]
        filled = into_blocks(bias.transpose(1, 2), size).movedim(3, 1)  # [b, h or 1, n, q, g]
        return scores + filled


def _beside(blocks: Tensor, wraps: bool, fill: int = 0) -> Tensor:
    if wraps:
        return torch.cat([blocks[:, -1:], blocks, blocks[:, :1]], dim=1)
    return between_blocks(blocks, fill)


def _window(blocks: Tensor, order: Order) -> Tensor:
    """[b, n + 2, q, ...] -> [b, n, w, ...], the blocks of each window in some order."""
    number = blocks.shape[1] - 2
    return torch.cat([blocks[:, i : i + number] for i in order], dim=2)


def layer_at(site: Site) -> Layer | None:
    """The local attention that a site belongs to; None where the original's tensors are not all there."""
    q, k, v, bias = (site.sibling(name) for name in ("q", "k", "v", "position_bias"))
    tap = site.lab.by_name.get(f"{site.parent}.position_bias")
    windowed = tap is not None and "window_length" in tap.dimension_names
    if q is None or k is None or v is None or q.ndim != 4 or q.shape != k.shape:
        return None
    if windowed and bias is not None:
        radius = bias.shape[-2] - 1
    else:
        radius = getattr(getattr(site.lab.modules.get(site.parent), "spec", None), "local_radius", 0)
        bias = None
    if not radius:
        return None
    ids = sequence_ids(site, stack_of(site.name))
    if ids.shape != q.shape[:2]:
        return None
    # Padding is zeroed before it is projected; an original that does not need that may have anything there.
    q, k, v = (torch.where((ids != 0)[..., None, None], x, 0.0) for x in (q, k, v))
    layer = Layer(q, k, v, bias, ids, int(radius), None)
    side_k, side_v = site.sibling("side_k"), site.sibling("side_v")
    if side_k is None or side_v is None:
        return None if f"{site.parent}.side_k" in site.lab.by_name else layer
    side_bias = site.sibling("side_position_bias")  # [h, b, l, g]
    sizes = block_sizes(ids.shape[1], side_k.shape[1])
    _, summary_ids = summary_blocks(ids, block_size_of(site, sizes))
    held = Summaries(
        side_k.transpose(1, 2),
        side_v.transpose(1, 2),
        None if side_bias is None else side_bias.transpose(0, 1),
        summary_ids,
    )
    return replace(layer, summaries=held)


def block_sizes(length: int, number: int) -> list[int]:
    """Sizes of which so many blocks fit into a row of this length, the larger first; all but 1."""
    if not number:
        return [length + 1]
    return [size for size in range(length // number, 1, -1) if length // size == number]


def block_size_of(site: Site, possible: list[int]) -> int:
    """The layer's own size where the original could have it, else the first that it could have."""
    module = site.lab.modules.get(site.parent)
    own = getattr(module, "block_size", getattr(module, "global_block_size", None))
    return own if own in possible else (possible or [2])[0]
