"""LongT5's attention: radius, blocks and their order, what is seen beyond the ends, bias, scale, softmax.

Each way to go wrong is computed from the original's tensors at the first of the layer's tensors after it that
can be heard: at `o` for recorded runs, at the scores or weights where the original has them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.candidates.softmaxes import (
    separate_softmax,
    softmax_by_block,
    softmax_with_one_added,
    without_summaries,
    without_window,
)
from porting.ports.t5.candidates.windows import (
    IN_ORDER,
    Layer,
    Way,
    Window,
    layer_at,
)
from porting.ports.t5.local_attention import NOWHERE

_STAGES = ("scores", "side_scores", "weights", "side_weights", "attended")
_BLOCKS = ("before", "own", "behind")


@dataclass(frozen=True)
class _Named:
    """A way, in words.

    Attributes:
        kind: of the cause.
        words: what it does.
        right: what the original does instead, where that is as it should be.
    """

    kind: str
    words: str
    right: str
    way: Way


_RIGHT = _Named("", "computes local attention as LongT5 does", "", Way())


def wrong_local_attention(site: Site) -> Iterator[Hypothesis]:
    """One thing at a time done otherwise, on both sides."""
    layer = layer_at(site) if site.leaf in (*_STAGES, "o") else None
    if layer is None:
        return
    make = _maker(site, layer)
    if make is None:
        return
    ways = {named.words: named for named in (_RIGHT, *_ways(layer, site.leaf))}
    values: dict[str, Tensor | None] = {}

    def value(words: str) -> Tensor:
        if words not in values:
            values.clear()  # one at a time: they may be large
            values[words] = make(ways[words].way)
        found = values[words]
        return torch.zeros(0) if found is None else found

    forms: dict[str, Callable[[], Tensor]] = {words: partial(value, words) for words in ways}
    for port, original in site.told_apart(forms):
        found, right = ways[port], ways[original]
        if port == original or not found.kind:
            continue
        text = f"the port {found.words}; the original {found.right if right is _RIGHT else right.words}"
        yield Hypothesis(Cause(found.kind, text), forms[original], forms[port])


def _maker(site: Site, layer: Layer) -> Callable[[Way], Tensor | None] | None:
    """From a way to the site's tensor, in its shape."""
    shape = site.original.shape
    if site.leaf != "o":

        def stage(way: Way) -> Tensor | None:
            made = layer.computed(way, site.leaf)
            return None if made is None or made.numel() != shape.numel() else made.reshape(shape)

        return stage
    weights = [p.cpu().double() for p in site.parameters().values() if p.ndim == 2]
    width = layer.q.shape[2] * layer.d_kv
    if len(weights) != 1 or weights[0].shape[1] != width or site.sibling("attended") is not None:
        return None

    def projected(way: Way) -> Tensor | None:
        attended = layer.computed(way, "attended")
        return None if attended is None else way.merge(attended) @ weights[0].T

    return projected


def _ways(layer: Layer, leaf: str) -> Iterator[_Named]:
    if leaf == "weights" and layer.summaries is not None:
        # Whether summaries have weights of their own besides, another tensor says.
        alone, together = "takes a softmax over the window alone", "takes one over summaries too"
        yield _Named("softmax", alone, together, Way(weigh=separate_softmax))
    yield from _who_is_seen(layer)
    yield from _orders()
    yield from _merges()
    yield from _biases(layer)
    yield from _scales(layer)
    yield from _mixed(layer)


def _who_is_seen(layer: Layer) -> Iterator[_Named]:
    r = layer.radius
    up_to = f"up to {r}"

    def between(back: int, ahead: int) -> Callable[[Window], Tensor]:
        return lambda w: w.same & (w.position >= -back) & (w.position <= ahead)

    def mask(words: str, right: str, visible: Callable[[Window], Tensor]) -> _Named:
        return _Named("mask", words, right, Way(visible=visible))

    for other in (r + 1, r - 1, r + 2, r - 2):
        if other >= 0:
            yield mask(f"sees positions up to {other} away", up_to, between(other, other))
    for back, ahead in ((r, r - 1), (r - 1, r), (r + 1, r), (r, r + 1)):
        words = f"sees positions up to {back} back and {ahead} ahead"
        yield mask(words, f"{up_to} either way", between(back, ahead))
    yield mask("looks back only", f"sees {up_to} either way", between(r, 0))
    yield mask("looks ahead only", f"sees {up_to} either way", between(0, r))
    yield mask("sees all of the three blocks around a position", f"positions {up_to} away", lambda w: w.same)
    for first, last, words in (
        (1, 2, "sees its own block only"),
        (1, 3, "does not see the block before its own"),
        (0, 2, "does not see the block behind its own"),
    ):
        yield mask(words, f"sees positions {up_to} away, in whatever block", _blocks_from(first, last, r + 1))
    zeros = "sees what is not there, before the first position and behind the last, as zeros"
    yield mask(zeros, "sees nothing there", lambda w: _filled(w).same & w.near)
    everyone = "sees padding, and any sequence, within the radius"
    yield mask(everyone, "its own sequence", lambda w: (w.memory_ids != NOWHERE)[:, :, None, :] & w.near)
    yield mask(
        "sees all real positions of any sequence within the radius",
        "its own sequence",
        lambda w: _same_kind(w) & w.near,
    )
    wrapped = "wraps around: the block before the first is the last, and the one behind the last the first"
    yield _Named("mask", wrapped, "sees nothing there", Way(wraps=True))
    if layer.summaries is None:
        return
    hidden = Way(weigh=without_summaries)
    yield _Named("mask", "sees no summaries", "sees those of its sequence", hidden)
    yield _Named("mask", "sees summaries only", "sees what is near too", Way(weigh=without_window))
    every = Way(side_visible=lambda ids, summaries: torch.ones(*ids.shape, summaries.shape[1]) > 0)
    words = "sees all summaries, also those that no block fills"
    yield _Named("mask", words, "those of its sequence", every)
    real = Way(side_visible=lambda ids, s: (ids != 0)[..., None] & (s != NOWHERE)[:, None, :])
    yield _Named("mask", "sees the summaries of any sequence", "those of its own", real)


def _filled(window: Window) -> Window:
    """With what fills up blocks in the first sequence."""
    ids, memory_ids = (x.where(x != NOWHERE, 1) for x in (window.ids, window.memory_ids))
    return replace(window, ids=ids, memory_ids=memory_ids)


def _same_kind(window: Window) -> Tensor:
    """Real positions see real ones, padding sees padding."""
    kinds = [ids.clamp(max=1) for ids in (window.ids, window.memory_ids)]
    return kinds[0][..., None] == kinds[1][:, :, None, :]


def _blocks_from(first: int, last: int, size: int) -> Callable[[Window], Tensor]:
    def visible(window: Window) -> Tensor:
        column = torch.arange(3 * size)
        return window.same & window.near & (column >= first * size) & (column < last * size)

    return visible


def _in_words(order: tuple[int, ...]) -> str:
    return ", ".join(_BLOCKS[i] for i in order)


def _orders() -> Iterator[_Named]:
    right = f"puts them together as {_in_words(IN_ORDER)}"
    for order in itertools.permutations(IN_ORDER):
        if order == IN_ORDER:
            continue
        said = _in_words(order)
        both = f"puts the blocks of keys and values together as {said}"
        yield _Named("order", both, right, Way(keys=order, values=order))
        told = f"{both}, and looks at their sequence ids so"
        yield _Named("order", told, right, Way(keys=order, values=order, ids_order=order))
        # The same as their bias in another order, for a softmax does not care.
        apart = f"{both}, and their bias as {_in_words(IN_ORDER)}"
        yield _Named(
            "order",
            apart,
            "puts both together in one order",
            Way(keys=order, values=order, ids_order=order, visible=_moved(order)),
        )
        yield _Named("order", f"puts the blocks of keys together as {said}", right, Way(keys=order))
        yield _Named("order", f"puts the blocks of values together as {said}", right, Way(values=order))
    out = "exchanges neighbouring blocks of what the queries take"
    yield _Named("order", out, "leaves each where its queries are", Way(pairs_exchanged=True))


def _merges() -> Iterator[_Named]:
    right = "head after head"
    for words, merge in (
        ("in reverse", lambda x: x.flip(2).flatten(2)),
        ("with d_kv slower than the heads", lambda x: x.transpose(2, 3).flatten(2)),
        (
            "without exchanging heads and length",
            lambda x: x.transpose(1, 2).reshape(*x.shape[:2], -1),
        ),
    ):
        yield _Named("order", f"puts its heads together {words}", right, Way(merge=merge))


def _moved(order: tuple[int, ...]) -> Callable[[Window], Tensor]:
    """The radius is looked at where the blocks really lie."""

    def visible(window: Window) -> Tensor:
        parts = window.position.chunk(3, dim=-1)
        position = torch.cat([parts[i] for i in order], dim=-1)
        return window.same & (position.abs() <= window.radius)

    return visible


def _biases(layer: Layer) -> Iterator[_Named]:
    def share(factor: float, what: str) -> str:
        return f"adds no {what}" if not factor else f"adds {factor:g} times the {what}"

    for factor in (0.0, 2.0, -1.0):
        if layer.bias is not None:
            words = share(factor, "position bias")
            yield _Named("bias", words, "adds it once", Way(bias=factor))
        if layer.summaries is not None and layer.summaries.bias is not None:
            words = share(factor, "bias towards summaries")
            yield _Named("bias", words, "adds it once", Way(side_bias=factor))


def _scales(layer: Layer) -> Iterator[_Named]:
    size = layer.d_kv
    for factor in dict.fromkeys((size**-0.5, size**0.5, 1.0 / size, 0.9, 1 / 0.9)):
        words = f"multiplies queries by {factor:.6g}{_power(factor, size)}"
        yield _Named("scale", words, "takes them as they are", Way(scale=factor))


def _mixed(layer: Layer) -> Iterator[_Named]:
    right = "takes one softmax over all that is seen"
    added = "takes a softmax with 1 added to its denominator"
    yield _Named("softmax", added, right, Way(weigh=softmax_with_one_added))
    each = "takes a softmax over each block of the window, block by block"
    yield _Named("softmax", each, right, Way(weigh=softmax_by_block))
    yield _Named("source", "mixes keys for values", "mixes values", Way(values_are_keys=True))
    if layer.summaries is not None:
        apart = "takes a softmax over the window and another over summaries, so that each sums to 1"
        yield _Named("softmax", apart, right, Way(weigh=separate_softmax))
        keys = "mixes the keys of summaries for their values"
        yield _Named("source", keys, "mixes values", Way(side_values_are_keys=True))


def _power(factor: float, size: int) -> str:
    """` (d_kv**-0.5, with d_kv 8)` where it is one."""
    for power in (-1.0, -0.5, 0.5, 1.0):
        if size > 1 and math.isclose(factor, size**power):
            return f" (d_kv**{power:g}, with d_kv {size})"
    return ""
