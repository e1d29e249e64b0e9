"""Where the layers of a stack lie among a checkpoint's variables.

Mesh gives each layer a scope: `block_000/layer_001`, or a name of its own (`block_000/self_attention`), or,
without scopes of blocks, `layer_012`. The config may know them; if its scopes are not there, the layers are
found by their kinds and their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.layer_specs import SPECS, LayerSpec

# Order of layers in a block when names do not tell it.
_USUAL_ORDER = ("SelfAttention", "EncDecAttention", "DenseReluDense", "MoE1D")


@dataclass(frozen=True)
class SourceLayer:
    """A layer as the variables show it.

    Attributes:
        scope: below the stack's, `block_000/layer_001`.
        block: number of its block; None without scopes of blocks.
        name: its own name, `layer_001` or one that it was given.
        kind: class of the layer, `SelfAttention`.
    """

    scope: str
    block: int | None
    name: str
    kind: str


def source_layers(names: Sequence[str], stack_scope: str) -> list[SourceLayer] | None:
    """The layers of a stack in order, or None if names and kinds leave the order open.

    Args:
        names: the checkpoint's variables.
        stack_scope: scope of the stack, `encoder`.
    """
    kinds = "|".join(SPECS)
    pattern = re.compile(rf"{re.escape(stack_scope)}/((?:block_([0-9]{{1,9}})/)?([^/]+))/({kinds})/.*")
    found: dict[str, SourceLayer] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            block = None if match[2] is None else int(match[2])
            found.setdefault(match[1], SourceLayer(match[1], block, match[3], match[4]))
    layers = list(found.values())
    orders = [_order(layer) for layer in layers]
    if len(set(orders)) < len(orders):
        return None
    return [layer for _, layer in sorted(zip(orders, layers, strict=True), key=lambda pair: pair[0])]


def _order(layer: SourceLayer) -> tuple[int, int]:
    """Block, and number in the block; layers that were given names come in the usual order of kinds."""
    numbered = re.fullmatch(r"layer_([0-9]{1,9})", layer.name)
    usual = next(i for i, kind in enumerate(_USUAL_ORDER) if layer.kind.endswith(kind))
    return layer.block or 0, int(numbered[1]) if numbered else usual


def layer_patterns(stack: StackSpec, names: Sequence[str]) -> Iterator[tuple[str, str, LayerSpec]]:
    """(pattern of the source's scope below the stack's, module path below the stack, what it is).

    One for each layer of a block where scopes are numbered by blocks, the block's number a group; one for
    each layer of the stack where not.
    """
    layers = source_layers(names, stack.scope) or []
    kinds = [spec.kind for spec in stack.layers]
    first_block = [layer for layer in layers if layer.block == 0]
    if not stack.block_scope or _lies_elsewhere(stack, layers):
        if stack.block_scope and [layer.kind for layer in first_block] == kinds:
            yield from _numbered(stack, [layer.name for layer in first_block])
            return
        found = [layer.scope for layer in layers]
        fits = [layer.kind for layer in layers] == [place.spec.kind for place in stack.places]
        for i, place in enumerate(stack.places):
            yield re.escape(found[i] if fits else place.scope), place.path, place.spec
        return
    yield from _numbered(stack, stack.layer_names or [f"layer_{i:03d}" for i in range(len(kinds))])


def _lies_elsewhere(stack: StackSpec, layers: Sequence[SourceLayer]) -> bool:
    """Whether the variables show layers, and the config's scopes are not among them."""
    scopes = {layer.scope for layer in layers}
    first_block = stack.places[: len(stack.layers)]
    return bool(layers) and not all(place.scope in scopes for place in first_block)


def _numbered(stack: StackSpec, names: Sequence[str]) -> Iterator[tuple[str, str, LayerSpec]]:
    """The layers of a block by their names, the block's number a group."""
    per_block = len(stack.starts)
    for name, place in zip(names, stack.places, strict=False):
        block = "{block}" if per_block == 1 else f"{{block*{per_block}+{place.block}}}"
        scope = re.escape(name or f"layer_{place.number:03d}")
        yield rf"block_(?P<block>\d+)/{scope}", f"block.{block}.layer.{place.index}", place.spec
